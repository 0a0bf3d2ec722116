"""ReLU's relatives in Caffe's forks; each test's file is that of the fork's src/caffe/layers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.meanings import close, infer, row, run, values

SHAPE = (2, 3, 5, 7)


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, [0, 0, 5, 6]),
        # -2 * 0.5, -20 * 0.5
        (dict(negative_slope=0.5), [-1, -10, 5, 6]),
        # -2 * -0.5 = 1; -20 * -0.5 = 10, of which 6 is left: the sum is capped
        (dict(negative_slope=-0.5), [1, 6, 5, 6]),
    ],
    ids=["default", "slope", "negative-slope"],
)
def test_relu6(param, expected):
    """relu6_layer.cpp of chuanqi305/ssd and eric612/MobileNet-YOLO."""
    (top,) = run("ReLU6", param, [row(-2, -20, 5, 7)], dialect="chuanqi305")
    close(top, row(*expected))


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, [0, 0, 5, 6]),
        (dict(maximal_value=2), [0, 0, 2, 2]),
        # unlike ReLU6's, the negative part is not capped
        (dict(negative_slope=-0.5, maximal_value=2), [1, 10, 2, 2]),
    ],
    ids=["default", "maximal_value", "negative-slope"],
)
def test_relux(param, expected):
    """soeaver/py-RFCN-priv's relux_layer.cpp."""
    (top,) = run("ReLUX", param, [row(-2, -20, 5, 7)], dialect="soeaver")
    close(top, row(*expected))


def test_negrelu():
    """flownet2's neg_relu_layer.cpp: min(x, 0) + slope * max(x, 0)."""
    (top,) = run("NegReLU", {}, [row(-2, 5)], dialect="flownet2")
    close(top, row(-2, 0))
    (top,) = run("NegReLU", dict(negative_slope=0.5), [row(-2, 5)], dialect="flownet2")
    close(top, row(-2, 2.5))


@pytest.mark.parametrize("type_", ["SeLu", "SeLU", "SELU"])
def test_selu(type_):
    """selu_layer.cpp of soeaver/py-RFCN-priv: lambda * x, lambda * alpha * (e^x - 1)."""
    (top,) = run(type_, {}, [row(2, -1)], dialect="soeaver")
    close(top, row(2 * 1.050700987, 1.050700987 * 1.67326324 * (np.exp(-1) - 1)))
    (top,) = run(type_, {"lambda": 2.0, "alpha": 0.5}, [row(3, -1)], dialect="soeaver")
    close(top, row(6, np.exp(-1) - 1))


def test_hard_sigmoid():
    """Synopsys's hard_sigmoid_layer.cpp: 0.2 * 2 + 0.5; with 0.5 and 0.25: 0.5 * 1 + 0.25."""
    (top,) = run("HardSigmoid", {}, [row(-3, 2, 3)], dialect="synopsys")
    close(top, row(0, 0.9, 1))
    param = dict(alpha=0.5, beta=0.25)
    (top,) = run("HardSigmoid", param, [row(-3, 1, 3)], dialect="synopsys")
    close(top, row(0, 0.75, 1))


def test_hard_swish():
    """Synopsys's hard_swish_layer.cpp: 1 * 4 / 6, -1 * 2 / 6, 5 * 6 / 6."""
    (top,) = run("HardSwish", {}, [row(-4, -1, 1, 5)], dialect="synopsys")
    close(top, row(0, -1 / 3, 2 / 3, 5))


def test_mish():
    """Synopsys's mish_layer.cpp: tanh(log(1 + e^x)) is ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1)."""
    square = (1 + np.e) ** 2
    (top,) = run("Mish", {}, [row(0, 1, 50, -50)], dialect="synopsys")
    close(top, row(0, (square - 1) / (square + 1), 50, 0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_crelu(axis):
    """Cambricon/caffe's crelu_layer.cpp: max(x, 0) + slope * min(x, 0) of x, then of -x."""
    x = values((2, 3, 1, 5)) - np.float32(12)
    param = dict(concat_axis=axis, negative_slope=0.5)
    (top,) = run("CReLU", param, [x], dialect="cambricon")
    first, second = np.split(top, 2, axis)
    close(first, np.where(x > 0, x, 0.5 * x))
    close(second, np.where(x < 0, -x, -0.5 * x))


def test_crelu_by_default_doubles_the_channels():
    (top,) = run("CReLU", {}, [values((1, 2, 1, 1), -3, 4)], dialect="cambricon")
    close(top.reshape(-1), [0, 4, 3, 0])


@pytest.mark.parametrize(
    "axis, batch, expected", [(1, 0, 0), (0, 0, None), (1, 1, None), (2, 1, 1)]
)
def test_the_batch_axis_of_crelu(axis, batch, expected):
    made, _, tops = infer("CReLU", dict(concat_axis=axis), [SHAPE], dialect="cambricon")
    assert made.batch_axes([SHAPE], [batch], tops) == [expected]
