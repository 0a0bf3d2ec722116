"""Reduction: one number from many."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form


def reduction(operation, rank, axis, more=""):
    return form(
        f"{operation}-rank-{rank}-axis-{axis}{'-coeff' * bool(more)}",
        "Reduction",
        f"reduction_param {{ operation: {operation} axis: {axis} {more} }}",
        SHAPES[rank],
    )


FORMS = [
    *(reduction("SUM", rank, axis) for rank in SHAPES for axis in range(rank)),
    *(
        reduction(operation, 4, axis, "coeff: -0.3")
        for operation in ("SUM", "ASUM", "SUMSQ", "MEAN")
        for axis in (0, 1, -1)
    ),
    form("default", "Reduction"),
]

SAVED = [
    Form(
        "reduction",
        (
            nets.layer("Reduction", "data", "sum", "reduction_param { axis: 1 coeff: 2 }"),
            nets.layer(
                "Reduction", "data", "square", "reduction_param { operation: SUMSQ axis: 3 }"
            ),
        ),
        {"data": (2, 3, 5, 7)},
    ),
]
