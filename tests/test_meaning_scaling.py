"""The forks' layers that scale and shift: ChannelScale, Mean."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values

IMAGE = (2, 3, 4, 5)


def channel_scale(param, bottoms, blobs=(), tops=1):
    return run("ChannelScale", param, bottoms, blobs, tops, "happynear")


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 4, 5), (2, 20), (2, 4, 5, 1)], ids=str)
def test_channel_scale(shape):
    """happynear's channel_scale_layer.cpp: x[n, c, s] * scale[n, s], whatever the scale's shape."""
    x, scale = values(IMAGE), np.float32(1) + values(shape)
    (top,) = channel_scale({}, [x, scale])
    for n, h, w in np.ndindex(2, 4, 5):
        close(top[n, :, h, w], x[n, :, h, w] * (1 + 20 * n + 5 * h + w))


@pytest.mark.parametrize(
    "param, stored, factor",
    [
        ({}, 0.75, 0.75),
        ({}, -2, 0),
        ({}, 4000, 1000),
        (dict(max_global_scale=0.5), 0.75, 0.5),
        (dict(min_global_scale=-3), -2, -2),
        # the lower bound comes last
        (dict(min_global_scale=3, max_global_scale=2), 1, 3),
    ],
    ids=["within", "negative", "over", "max", "min", "both"],
)
def test_global_channel_scale(param, stored, factor):
    """max(min(blob, max), min) scales everything, and is the second top; bottom 1 is not read."""
    x = values((2, 3))
    bottoms = [x, values((2,), np.nan, np.nan)]
    top, second = channel_scale(
        dict(param, global_scale=True, init_global_scale=9), bottoms, [values((1,), stored)], 2
    )
    close(top, x * factor)
    close(second, [factor])


def test_channel_scale_without_forward_copies():
    x = values((2, 3))
    param = dict(do_forward=False, do_backward_feature=False, do_backward_scale=False)
    (top,) = channel_scale(param, [x, values((2,))])
    np.testing.assert_array_equal(top, x)


@pytest.mark.parametrize(
    "param, shapes, tops, error, message",
    [
        ({}, [IMAGE, (2, 3, 4, 5)], 1, MalformedModel, "one factor for each place"),
        ({}, [IMAGE, (1, 1, 4, 10)], 1, MalformedModel, "one factor for each place"),
        ({}, [(2, 3, 4, 5, 6), (2, 120)], 1, MalformedModel, "2 to 4 axes"),
        ({}, [(2, 3), (2, 1)], 2, UnsupportedModel, "never written"),
        (dict(global_scale=True, do_forward=False), [(2, 3), (2,)], 2, UnsupportedModel, "never"),
    ],
)
def test_refused_channel_scales(param, shapes, tops, error, message):
    with pytest.raises(error, match=message):
        infer("ChannelScale", param, shapes, tops, "happynear")


def test_the_global_scale_has_no_batch():
    """Not even where one sample gives the first top the same first axis, 1."""
    shapes = [(1, 3), (1,)]
    made, _, tops = infer("ChannelScale", dict(global_scale=True), shapes, 2, "happynear")
    assert made.batch_axes(shapes, [0, 0], tops) == [0, None]


def mean(param, bottoms):
    return run("Mean", param, bottoms, tops=len(bottoms), dialect="flownet2")


def test_mean():
    """flownet2's mean_layer.cpp, 6 channels of 10, 2 values: 3 * (0.5 * 10 +/- 4 * value)."""
    x = np.full((1, 6, 2, 1), 10, np.float32)
    param = dict(value=[1, 2], mean_scale=4, input_scale=0.5, output_scale=3)
    for operation, expected in (("ADD", (27, 39)), ("SUBTRACT", (3, -9))):
        (top,) = mean(dict(param, operation=operation), [x])
        close(top[:, ::2], np.full((1, 3, 2, 1), expected[0]))
        close(top[:, 1::2], np.full((1, 3, 2, 1), expected[1]))


def test_mean_of_several_bottoms():
    a, b = values((2, 3, 1, 2)), values((2, 6, 2, 1))
    tops = mean(dict(operation="SUBTRACT", value=[1, 2, 3]), [a, b])
    close(tops[0], a - values((3, 1, 1), 1, 2, 3))
    close(tops[1], b - values((6, 1, 1), 1, 2, 3, 1, 2, 3))


@pytest.mark.parametrize(
    "param, shapes, tops, error, message",
    [
        (dict(value=[1]), [IMAGE], 1, MalformedModel, "operation should be given"),
        (dict(operation="ADD"), [IMAGE], 1, MalformedModel, "value should be given"),
        (dict(operation="ADD", value=[1, 2]), [IMAGE], 1, MalformedModel, "2 values do not divide"),
        (dict(operation="ADD", value=[1]), [IMAGE] * 2, 1, MalformedModel, "one top per bottom"),
        (dict(operation="ADD", value=[1]), [(2, 3)], 1, UnsupportedModel, "4 axes"),
        (dict(operation="ADD", file="m"), [IMAGE], 1, UnsupportedModel, "'m', that is no part"),
    ],
)
def test_refused_means(param, shapes, tops, error, message):
    with pytest.raises(error, match=message):
        infer("Mean", param, shapes, tops, "flownet2")


def test_the_batch_axes_of_mean():
    shapes = [(2, 3, 5, 4), (2, 3, 6, 7)]
    made, _, tops = infer("Mean", dict(operation="ADD", value=[1]), shapes, 2, "flownet2")
    assert made.batch_axes(shapes, [0, 0], tops) == [0, 0]
    assert made.batch_axes(shapes, [1, 1], tops) == [None, None]
