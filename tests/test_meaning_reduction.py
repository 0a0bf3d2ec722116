"""Reduction."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values

X = values((2, 2, 1, 2), 1, -2, 3, 4, 0, -5, -6, 7)


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, 2),  # 1 - 2 + 3 + 4 + 0 - 5 - 6 + 7
        (dict(axis=1), [6, -4]),
        (dict(axis=-1), [[[-1], [7]], [[-5], [1]]]),
        (dict(operation="ASUM", axis=1), [10, 18]),
        (dict(operation="SUMSQ", axis=1), [30, 110]),  # 1 + 4 + 9 + 16; 0 + 25 + 36 + 49
        (dict(operation="MEAN", axis=2), [[-0.5, 3.5], [-2.5, 0.5]]),
        (dict(operation="MEAN"), 0.25),
        (dict(axis=1, coeff=-0.5), [-3, 2]),
        (dict(operation="MEAN", axis=1, coeff=2), [3, -2]),  # 2 * 6 / 4 and 2 * -4 / 4
    ],
    ids=str,
)
def test_reduction(param, expected):
    """reduction_layer.cpp: over `axis` and all that follow, then times coeff."""
    (top,) = run("Reduction", param, [X])
    close(top, np.array(expected, np.float32))


def test_reduction_to_a_single_value_has_no_axes():
    _, _, tops = infer("Reduction", {}, [(2, 3, 5, 7)])
    assert tops == [()]


def test_reduction_refuses():
    with pytest.raises(MalformedModel, match="axis 4 is out of range"):
        infer("Reduction", dict(axis=4), [(2, 3, 5, 7)])
    with pytest.raises(UnsupportedModel, match="operation is TOPK; supported: SUM, ASUM"):
        infer("Reduction", dict(operation="TOPK"), [(2, 3, 5, 7)])


@pytest.mark.parametrize("axis, expected", [(0, None), (1, 0), (-1, 0)])
def test_samples_stay_apart_behind_the_axis(axis, expected):
    made, _, tops = infer("Reduction", dict(axis=axis), [(2, 3, 5)])
    assert made.batch_axes([(2, 3, 5)], [0], tops) == [expected]
