"""Convolution with weights of its own for each place, by hand-worked numbers."""

from __future__ import annotations

import pytest

from schemas.errors import MalformedModel
from tests.meanings import close, infer, run, values


def test_each_place_has_its_weights():
    """local_layer.cpp of caffe-windows: weights (outputs, 1, C * k * k, places). 2 channels, k 1:
    2 places; output 0 is 1 * c0 + 10 * c1 at place 0, 100 * c0 + 1000 * c1 at place 1."""
    x = values((1, 2, 1, 2), 1, 2, 3, 4)
    weight = values((2, 1, 2, 2), 1, 100, 10, 1000, 0, 0, 1, 2)
    param = dict(num_output=2, kernel_size=1)
    (top,) = run(
        "Local", param, [x], [weight, values((1, 1, 2, 2), 5, 6, 7, 8)], dialect="happynear"
    )
    close(top, values((1, 2, 1, 2), 31 + 5, 4200 + 6, 3 + 7, 8 + 8))


def test_the_window():
    """k 2, stride 2, pad 1 on one row 1 2 3 4: 3 columns of windows 0 1 | 2 3 | 4 0 in one row of
    padding above. Weights tap by tap, then place by place: the lower two taps alone are not 0."""
    taps = [0] * 6 + [1, 2, 3] + [10, 20, 30]
    param = dict(num_output=1, kernel_size=2, stride=2, pad=1, bias_term=False)
    x, weight = values((1, 1, 1, 4), 1, 2, 3, 4), values((1, 1, 4, 3), *taps)
    (top,) = run("Local", param, [x], [weight], dialect="happynear")
    close(top, values((1, 1, 1, 3), 10, 2 * 2 + 3 * 20, 4 * 3))


@pytest.mark.parametrize(
    "param, shape, message",
    [
        (dict(kernel_size=2), (1, 2, 3, 4), "num_output"),
        (dict(num_output=2), (1, 2, 3, 4), "kernel_size"),
        (dict(num_output=2, kernel_size=2), (1, 2, 3), "4 axes"),
        (dict(num_output=2, kernel_size=6), (1, 2, 3, 4), "would have shape"),
    ],
)
def test_refused(param, shape, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Local", param, [shape], dialect="happynear")
