"""Swish, Clip, Threshold, and what forks add to ReLU, ELU and Dropout."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, row, run

NAN = float("nan")


@pytest.mark.parametrize(
    "param, expected",
    [
        # x * sigmoid(x): sigmoid(2) = 1 / (1 + e^-2)
        ({}, [0, 2 / (1 + np.exp(-2)), -2 / (1 + np.exp(2))]),
        (dict(beta=0.5), [0, 2 / (1 + np.exp(-1)), -2 / (1 + np.exp(1))]),
    ],
    ids=["default", "beta"],
)
def test_swish(param, expected):
    """swish_layer.cpp."""
    (top,) = run("Swish", param, [row(0, 2, -2)])
    close(top, row(*expected))


def test_clip():
    """clip_layer.cpp: max(min, min(x, max)), so that with min 2 over max 1 everything is 2."""
    (top,) = run("Clip", dict(min=-1, max=2.5), [row(-3, -1, 0, 2.5, 7)])
    close(top, row(-1, -1, 0, 2.5, 2.5))
    (top,) = run("Clip", dict(min=2, max=1), [row(-3, 1.5, 7)])
    close(top, row(2, 2, 2))


@pytest.mark.parametrize("param", [{}, dict(min=0), dict(max=6)], ids=["none", "min", "max"])
def test_clip_needs_both_bounds(param):
    with pytest.raises(MalformedModel, match="both min and max"):
        infer("Clip", param, [(2, 3)])


def test_threshold():
    """threshold_layer.cpp: 1 where x > threshold; the threshold itself gives 0."""
    (top,) = run("Threshold", {}, [row(-1, 0, 0.5)])
    close(top, row(0, 0, 1))
    (top,) = run("Threshold", dict(threshold=0.5), [row(-1, 0.5, 2)])
    close(top, row(0, 0, 1))


@pytest.mark.parametrize(
    "param, x, expected",
    [
        (dict(relu6=True), [-2, 5, 7], [0, 5, 6]),
        (dict(relu6=False), [-2, 5, 7], [0, 5, 7]),
        (dict(maximum=1.5), [-2, 1, 7], [0, 1, 1.5]),
        # 0 and what is below it are no limit above
        (dict(maximum=-1), [-2, 1, 7], [0, 1, 7]),
        (dict(relu6=True, maximum=9), [7], [6]),
        (dict(relu6=True, maximum=4), [7], [4]),
        # -2 * 0.5 = -1 and -8 * 0.5 = -4, at least -3
        (dict(negative_slope=0.5, minimum=-3), [-2, -8, 7], [-1, -3, 7]),
        (dict(minimum=0.25), [-2, 0.5], [0.25, 0.5]),
        # the lower limit comes last
        (dict(maximum=1, minimum=2), [-2, 7], [2, 2]),
        (dict(relu6=False), [NAN], [0]),
        ({}, [NAN], [NAN]),
    ],
    ids=str,
)
def test_relu_of_synopsys(param, x, expected):
    """Synopsys's relu_layer.cpp: ReLU, NaN to 0, then min(6), min(maximum) and max(minimum)."""
    (top,) = run("ReLU", param, [row(*x)])
    close(top, row(*expected))


def test_a_scalar_stays_an_array():
    for type_, param in (("ReLU", dict(relu6=True)), ("Clip", dict(min=0, max=1)), ("Swish", {})):
        run(type_, param, [np.array(3, np.float32)])


def test_lambda_of_elu_is_refused_unless_1():
    infer("ELU", {"lambda": 1.0, "alpha": 2.0}, [(2, 3)])
    with pytest.raises(UnsupportedModel, match="NVIDIA's releases disagree"):
        infer("ELU", {"lambda": 1.05}, [(2, 3)])


def test_dropout_in_the_test_phase():
    """dropout_layer.cpp: happynear's sqrt_scale changes nothing; MSRA's: 8 * (1 - 3 / 4)."""
    for param, expected in ((dict(sqrt_scale=True), 8), (dict(scale_train=False), 2)):
        (top,) = run("Dropout", dict(param, dropout_ratio=0.75), [row(8)])
        close(top, row(expected))
    with pytest.raises(UnsupportedModel, match="random"):
        infer("Dropout", dict(sample_weights_test=True), [(2, 3)])


@pytest.mark.parametrize("ratio", [-0.1, 1.5, NAN], ids=str)
def test_a_dropout_ratio_is_a_probability(ratio):
    """dropout_layer.cpp: DCHECK(threshold_ > 0. && < 1.); nothing and everything are let pass."""
    for allowed in (0.0, 1.0):
        infer("Dropout", dict(dropout_ratio=allowed), [(2, 3)])
    with pytest.raises(MalformedModel, match="dropout_ratio should be 0 to 1, found"):
        infer("Dropout", dict(dropout_ratio=ratio), [(2, 3)])
