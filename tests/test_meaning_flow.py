"""FlowWarp and Correlation, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values

IMAGE = values((1, 1, 2, 3), 0, 1, 2, 10, 11, 12)


def warp(param, x, y):
    flow = np.array([[x, y]], np.float32)
    (top,) = run("FlowWarp", param, [IMAGE, flow], dialect="flownet2")
    return top[0, 0]


@pytest.mark.parametrize(
    "param, beside", [({}, 0), (dict(fill_value="NOT_A_NUMBER"), np.nan)], ids=["zero", "nan"]
)
def test_flow_warp(param, beside):
    """flow_warp_layer.cpp. Row 0: (0.5, 0.5) is (0 + 1 + 10 + 11) / 4; (2.5, 0) has no pixel to its
    right, and takes its own; (3, 0) is outside. Row 1: (0, 0.75) is 0.25 * 0 + 0.75 * 10;
    (1, 1.5) has no pixel below; (-0.1, 1) is outside."""
    top = warp(param, [[0.5, 1.5, 1], [0, 0, -2.1]], [[0.5, 0, 0], [-0.25, 0.5, 0]])
    close(top, [[5.5, 2, beside], [7.5, 11, beside]])


def test_flow_warp_of_a_nan_is_outside():
    top = warp({}, [[np.nan, 0, 0], [0, 0, 0]], np.zeros((2, 3)))
    close(top, [[0, 1, 2], [10, 11, 12]])
    assert not np.isnan(top).any()


def test_flow_warp_moves_each_channel_and_sample_alike():
    image = values((2, 3, 4, 5))
    flow = np.zeros((2, 2, 4, 5), np.float32)
    flow[0, 0], flow[1, 1] = 1, 2
    (top,) = run("FlowWarp", {}, [image, flow], dialect="flownet2")
    close(top[0, :, :, :4], image[0, :, :, 1:])
    close(top[1, :, :2], image[1, :, 2:])
    assert not top[0, :, :, 4].any() and not top[1, :, 2:].any()


@pytest.mark.parametrize("flow", [(2, 3, 4, 5), (2, 2, 4, 4), (1, 2, 4, 5)])
def test_flow_warp_refuses(flow):
    with pytest.raises(MalformedModel, match=r"the flow should have shape \[2, 2, 4, 5\]"):
        infer("FlowWarp", {}, [(2, 3, 4, 5), flow], dialect="flownet2")


def correlation(param, first, second):
    (top,) = run("Correlation", param, [first, second], dialect="flownet2")
    return top


def spot(shape, place, value):
    x = np.zeros(shape, np.float32)
    x[place] = value
    return x


def test_correlation():
    """correlation_layer.cpp: 2 at (1, 1) meets 3 at (0, 2), displaced by (-1, +1): channel
    (-1 + 1) * 3 + (1 + 1) = 2, place (1, 1); the mean over 2 channels of 2 * 3 is 3."""
    shape = (1, 2, 3, 4)
    top = correlation(
        dict(kernel_size=1, max_displacement=1, pad=1),
        spot(shape, (0, 1, 1, 1), 2),
        spot(shape, (0, 1, 0, 2), 3),
    )
    assert top.shape == (1, 9, 3, 4)
    close(top, spot(top.shape, (0, 2, 1, 1), 3))


def test_correlation_strides_and_window():
    """stride_2 2 of max_displacement 3 leaves -2, 0, 2: radius 1. Padded by 4 the maps are 11 x 13;
    11 - 2 * (3 + 1) = 3 and 5 windows fit, of which stride_1 2 takes 2 x 3. 2 at (1, 2), in the
    padded map at (5, 6), meets 3 at (3, 0), displaced by (2, -2): channel (1 + 1) * 3 + 0 = 6. A
    window of 3 starts at 3 + 2 i, and holds (5, 6) for i = 0 and 1 in y, 1 in x: 6 / 9 each."""
    shape = (1, 1, 3, 5)
    param = dict(kernel_size=3, max_displacement=3, pad=4, stride_1=2, stride_2=2)
    top = correlation(param, spot(shape, (0, 0, 1, 2), 2), spot(shape, (0, 0, 3 - 1, 0), 3))
    assert top.shape == (1, 9, 2, 3)
    # (2, 0) is (6, 4): displaced by (1, -2), which no channel has.
    close(top, np.zeros_like(top))
    shape = (1, 1, 4, 5)
    top = correlation(param, spot(shape, (0, 0, 1, 2), 2), spot(shape, (0, 0, 3, 0), 3))
    assert top.shape == (1, 9, 2, 3)
    expected = np.zeros_like(top)
    expected[0, 6, :, 1] = 6 / 9
    close(top, expected)


def test_correlation_by_differences():
    """|1 - 3| over 1 channel, and |1 - 0|, |0 - 3| against the padding."""
    first, second = values((1, 1, 1, 2), 1, 1), values((1, 1, 1, 2), 3, 3)
    param = dict(
        kernel_size=1,
        max_displacement=1,
        pad=1,
        correlation_type="SUBTRACT",
        do_abs=True,
        single_direction=1,
    )
    top = correlation(param, first, second)[0, :, 0]
    close(top[3:6], [[1, 2], [2, 2], [2, 1]])
    close(top[[0, 1, 2, 6, 7, 8]], np.ones((6, 2)))


@pytest.mark.parametrize(
    "param, error, message",
    [
        (dict(max_displacement=1), MalformedModel, "kernel_size and max_displacement"),
        (dict(kernel_size=1), MalformedModel, "kernel_size and max_displacement"),
        (dict(kernel_size=2, max_displacement=1), MalformedModel, "should be odd, found 2"),
        (dict(kernel_size=1, max_displacement=4), MalformedModel, "do not fit in 8 x 11"),
        (dict(kernel_size=1, max_displacement=1, stride_1=0), MalformedModel, "at least 1"),
        (dict(kernel_size=1, max_displacement=1, stride_2=0), MalformedModel, "at least 1"),
        (dict(kernel_size=-1, max_displacement=1), MalformedModel, "at least 1"),
        (dict(kernel_size=1, max_displacement=-1), MalformedModel, "at least 0"),
        (dict(kernel_size=1, max_displacement=1, pad=-1), MalformedModel, "at least 0"),
        (
            dict(kernel_size=1, max_displacement=1, correlation_type="OTHER"),
            UnsupportedModel,
            "correlation_type is OTHER",
        ),
    ],
)
def test_correlation_refuses(param, error, message):
    with pytest.raises(error, match=message):
        infer("Correlation", param, [(2, 3, 8, 11)] * 2, dialect="flownet2")


def test_correlation_of_different_shapes_is_refused():
    with pytest.raises(MalformedModel, match="shape of the first"):
        infer(
            "Correlation",
            dict(kernel_size=1, max_displacement=1),
            [(2, 3, 8, 11), (2, 3, 8, 10)],
            dialect="flownet2",
        )
