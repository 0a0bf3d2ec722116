"""The forks' Eltwise operations, and SENet's Axpy."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form


def eltwise(id_, operation, shape=SHAPES[4], **options):
    return form(id_, "Eltwise", f"eltwise_param {{ operation: {operation} }}", shape, **options)


def axpy(id_, scale, shape):
    return Form(
        f"Axpy-{id_}",
        (nets.layer("Axpy", "scale x y", "out"),),
        dict(scale=scale, x=shape, y=shape),
    )


FORMS = [
    *(eltwise(f"one-{each}", each) for each in ("SUM", "SUM coeff: 0.5", "PROD", "MAX", "MIN")),
    eltwise("min", "MIN", like=SHAPES[4]),
    eltwise("min-rank-3", "MIN", SHAPES[3], like=SHAPES[3]),
    eltwise("quotient", "DIV", like=SHAPES[4]),
    eltwise("quotient-of-zeros", "DIV", bottoms="data data", x=np.zeros((2, 3), np.float32)),
    axpy("rank-2", (2, 3), (2, 3)),
    axpy("rank-3", (2, 3), (2, 3, 5)),
    axpy("rank-4", (2, 3), (2, 3, 5, 7)),
    axpy("rank-4-of-4", (2, 3, 1, 1), (2, 3, 5, 7)),
    axpy("rank-3-of-4", (2, 3, 1, 1), (2, 3, 5)),
    axpy("rank-4-of-3", (2, 3, 1), (2, 3, 5, 7)),
]

SAVED = [
    Form(
        "elementwise",
        (
            nets.layer("Axpy", "scale x y", "axpy"),
            nets.layer("Eltwise", "axpy y", "quotient", "eltwise_param { operation: DIV }"),
        ),
        dict(scale=(2, 3), x=SHAPES[4], y=SHAPES[4]),
    )
]
