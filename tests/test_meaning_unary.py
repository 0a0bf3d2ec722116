"""Functions of one number without a place in BVLC Caffe."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry
from tests.meanings import close, infer, row, run

NAN, INFINITE = float("nan"), float("inf")
ROOT_3 = 3**0.5


@pytest.mark.parametrize(
    "type_, dialect, x, expected",
    [
        ("Sqrt", "cambricon", [0, 2.25, 9, -1], [0, 1.5, 3, NAN]),
        ("Square", "other", [-1.5, 0, 3], [2.25, 0, 9]),
        ("Sin", "synopsys", [0, np.pi / 6, np.pi / 2], [0, 0.5, 1]),
        ("Cos", "happynear", [0, np.pi / 3, np.pi], [1, 0.5, -1]),
        ("Cosine", "happynear", [0, np.pi / 3, np.pi], [1, 0.5, -1]),
        ("Atan", "synopsys", [0, 1, -ROOT_3], [0, np.pi / 4, -np.pi / 3]),
        ("Arccos", "happynear", [1, 0.5, -1, 1.5], [0, np.pi / 3, np.pi, NAN]),
        ("Ceil", "synopsys", [-1.5, 0, 0.1, 2], [-1, 0, 1, 2]),
        ("Floor", "synopsys", [-1.5, 0, 0.9, 2], [-2, 0, 0, 2]),
        # rint: halves go to the even number
        ("Round", "synopsys", [-2.5, -0.5, 0.5, 1.5, 2.6], [-2, 0, 0, 2, 3]),
        # log(3 + 1), log(1 + 1); e^89 is over float32's 3.4e38, e^88 is not
        ("Softplus", "synopsys", [np.log(3), 0, 88, 89], [np.log(4), np.log(2), 88, INFINITE]),
        ("Softsign", "synopsys", [-3, 0, 1], [-0.75, 0, 0.5]),
        ("HardTanh", "synopsys", [-3, -0.5, 2], [-1, -0.5, 1]),
        ("HardTanH", "synopsys", [-3, -0.5, 2], [-1, -0.5, 1]),
    ],
)
def test_a_function(type_, dialect, x, expected):
    """Each layer's docstring names its source."""
    (top,) = run(type_, {}, [row(*x)], dialect=dialect)
    close(top, row(*expected))


def test_scaled_tanh():
    """Synopsys's scaled_tanh_layer.cpp: alpha * tanh(beta * x); tanh(log 2) = (4 - 1) / (4 + 1)."""
    param = dict(alpha=5, beta=2)
    (top,) = run("ScaledTanH", param, [row(0, np.log(2) / 2)], dialect="synopsys")
    close(top, row(0, 3))
    for param in ({}, dict(alpha=1), dict(beta=1)):
        with pytest.raises(MalformedModel, match="both alpha and beta"):
            infer("ScaledTanH", param, [(2, 3)], dialect="synopsys")


def test_a_second_bottom_is_refused():
    """dfcv24/caffe's Square takes two bottoms and squares their difference."""
    with pytest.raises(MalformedModel, match="1 bottoms expected, found 2"):
        infer("Square", {}, [(2, 3), (2, 3)], dialect="other")


def test_the_samples_stay_apart():
    made, _, tops = infer("Sin", {}, [(2, 3, 5)], dialect="synopsys")
    assert made.batch_axes([(2, 3, 5)], [1], tops) == [1]


def test_a_type_that_is_read_without_a_message_takes_no_fields():
    layer = Layer("l", "Sin", ("x",), ("y",), {"debug": True}, dialect="synopsys")
    with pytest.raises(UnsupportedModel, match="'debug' is set"):
        registry.meaning(layer)
