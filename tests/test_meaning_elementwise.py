"""The forks' Eltwise operations, and SENet's Axpy."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, row, run, values


def test_minimum():
    """Synopsys's eltwise_layer.cpp."""
    (top,) = run("Eltwise", dict(operation="MIN"), [row(1, 9), row(4, -5), row(7, 8)])
    close(top, row(1, -5))


def test_quotient():
    """Synopsys's eltwise_layer.cpp: 3 / 2, -1 / 4, 1 / 0, 0 / 0."""
    bottoms = [row(3, -1, 1, 0), row(2, 4, 0, 0)]
    (top,) = run("Eltwise", dict(operation="DIV"), bottoms)
    close(top, row(1.5, -0.25, np.inf, np.nan))


@pytest.mark.parametrize(
    "param, bottoms, error, message",
    [
        (dict(operation="DIV"), 3, MalformedModel, "DIV takes two bottoms, found 3"),
        (dict(operation="DIV", coeff=[1, 2]), 2, MalformedModel, "DIV takes no coeff"),
        (dict(operation="MIN", coeff=[1, 2]), 2, MalformedModel, "MIN takes no coeff"),
        (dict(operation="SORT"), 2, UnsupportedModel, "SORT is not supported: happynear's"),
        (dict(operation="STOCHASTIC_SUM"), 2, UnsupportedModel, "at random"),
        (dict(axis=1), 2, UnsupportedModel, "eltwise_param.axis is set"),
    ],
)
def test_refused_operations(param, bottoms, error, message):
    with pytest.raises(error, match=message):
        infer("Eltwise", param, [(2, 3)] * bottoms)


@pytest.mark.parametrize("scale", [(2, 3), (2, 3, 1, 1)], ids=["2-axes", "4-axes"])
@pytest.mark.parametrize("rest", [(), (2,), (2, 1)], ids=["vectors", "sequences", "images"])
def test_axpy(scale, rest):
    """SENet's axpy_layer.cpp: scale[n, c] * x[n, c, ...] + y; factors 0 .. 5."""
    x, y = values((2, 3, *rest)), np.float32(100) + values((2, 3, *rest))
    (top,) = run("Axpy", {}, [values(scale), x, y], dialect="senet")
    for n, c in np.ndindex(2, 3):
        close(top[n, c], (3 * n + c) * x[n, c] + y[n, c])


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(2, 3), (2, 4, 5), (2, 4, 5)], "one factor for each sample and channel"),
        ([(2, 3, 5), (2, 3, 5), (2, 3, 5)], "one factor"),
        ([(2,), (2, 3), (2, 3)], "one factor"),
        ([(2, 3), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6)], "2 to 4 axes"),
        ([(2, 3), (2, 3, 5), (2, 3, 6)], "bottom 1 has"),
    ],
)
def test_refused_shapes_of_axpy(shapes, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Axpy", {}, shapes, dialect="senet")


@pytest.mark.parametrize(
    "batches, expected", [([0, 0, 0], 0), ([0, 0, None], None), ([0, 1, 0], None)]
)
def test_the_batch_axis_of_axpy(batches, expected):
    shapes = [(2, 3), (2, 3, 5), (2, 3, 5)]
    made, _, tops = infer("Axpy", {}, shapes, dialect="senet")
    assert made.batch_axes(shapes, batches, tops) == [expected]
