"""Permute, Transpose, Reverse, Flip, the channel shuffles and Reorg."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import infer, run, values

same = np.testing.assert_array_equal


@pytest.mark.parametrize(
    "type_, param, dialect",
    [
        ("Permute", dict(order=(2, 0)), "ssd"),
        ("Transpose", dict(dim=(2, 0, 1)), "makefile-frcnn"),
    ],
    ids=["Permute", "Transpose"],
)
def test_a_transpose(type_, param, dialect):
    """x of shape (2, 3, 2) holds 0..11; top[i, j, k] = x[j, k, i]: the order is 2, 0, 1, where
    Permute appends the axis that it was not told (SSD's permute_layer.cpp; makefile/frcnn's
    transpose_layer.cpp)."""
    (top,) = run(type_, param, [values((2, 3, 2))], dialect=dialect)
    same(top, [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]])


def test_permute_without_an_order_changes_nothing():
    (top,) = run("Permute", {}, [values((2, 3))], dialect="ssd")
    same(top, values((2, 3)))


@pytest.mark.parametrize(
    "type_, param, dialect",
    [
        ("Permute", dict(order=(0, 0)), "ssd"),
        ("Permute", dict(order=(0, 3)), "ssd"),
        ("Transpose", dict(dim=(1, 0)), "makefile-frcnn"),
        ("Transpose", dict(dim=(2, 1, -3)), "makefile-frcnn"),
        ("Transpose", {}, "makefile-frcnn"),
    ],
)
def test_an_order_that_is_none(type_, param, dialect):
    with pytest.raises(MalformedModel, match="3 axes should be named once"):
        infer(type_, param, [(2, 3, 5)], dialect=dialect)


@pytest.mark.parametrize(
    "order, batch, expected",
    [((0, 2, 3, 1), 0, 0), ((2, 0), 0, 1), ((1,), 1, 0), ((3,), None, None)],
)
def test_the_batch_moves_with_its_axis(order, batch, expected):
    made, _, tops = infer("Permute", dict(order=order), [(2, 3, 5, 7)], dialect="ssd")
    assert made.batch_axes([(2, 3, 5, 7)], [batch], tops) == [expected]


def test_permute_shares_memory_where_nothing_moves():
    """SSD's permute_layer.cpp: need_permute_."""
    for order, shares in (((), True), ((0, 1), True), ((0, 2, 1), False), ((1,), False)):
        made, _, _ = infer("Permute", dict(order=order), [(2, 3, 5)], dialect="ssd")
        assert made.shares_memory(1, 1) is shares


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, [[3, 4, 5], [0, 1, 2]]),
        (dict(axis=(1,)), [[2, 1, 0], [5, 4, 3]]),
        (dict(axis=(-1,)), [[2, 1, 0], [5, 4, 3]]),
        # Synopsys' has several axes; one named twice is mirrored once.
        (dict(axis=(1, 0, -1)), [[5, 4, 3], [2, 1, 0]]),
    ],
    ids=["default", "axis", "negative", "several"],
)
def test_reverse(param, expected):
    """reverse_layer.cpp of makefile/frcnn, which has one axis, and of synopsys-caffe."""
    (top,) = run("Reverse", param, [values((2, 3))], dialect="makefile-frcnn")
    same(top, expected)


def test_reverse_needs_the_axis():
    with pytest.raises(MalformedModel, match="axis 2 is out of range"):
        infer("Reverse", dict(axis=(2,)), [(2, 3)], dialect="makefile-frcnn")


def test_a_reversed_batch_is_none():
    made, _, tops = infer("Reverse", {}, [(2, 3)], dialect="makefile-frcnn")
    assert made.batch_axes([(2, 3)], [0], tops) == [None]
    made, _, tops = infer("Reverse", dict(axis=(1,)), [(2, 3)], dialect="makefile-frcnn")
    assert made.batch_axes([(2, 3)], [0], tops) == [0]


@pytest.mark.parametrize(
    "param, expected",
    [
        ({}, [[1, 0], [3, 2], [5, 4]]),
        (dict(flip_height=True), [[5, 4], [3, 2], [1, 0]]),
        (dict(flip_width=False, flip_height=True), [[4, 5], [2, 3], [0, 1]]),
        (dict(flip_width=False), [[0, 1], [2, 3], [4, 5]]),
    ],
    ids=["default", "both", "height", "neither"],
)
def test_flip(param, expected):
    """happynear's flip_layer.cpp: rows 01, 23, 45."""
    (top,) = run("Flip", param, [values((1, 1, 3, 2))], dialect="happynear")
    same(top, [[expected]])


def test_flip_needs_images():
    with pytest.raises(MalformedModel, match="4 axes"):
        infer("Flip", {}, [(2, 3, 5)], dialect="happynear")


@pytest.mark.parametrize(
    "group, order",
    [
        (None, [0, 1, 2, 3, 4, 5]),
        # Groups 012 and 345, in turn.
        (2, [0, 3, 1, 4, 2, 5]),
        # Groups 01, 23 and 45.
        (3, [0, 2, 4, 1, 3, 5]),
    ],
    ids=["default", "2", "3"],
)
@pytest.mark.parametrize("type_", ["ShuffleChannel", "ChannelShuffle"])
def test_shuffled_channels(type_, group, order):
    """farmingyard/ShuffleNet's shuffle_channel_layer.cpp."""
    x = values((2, 6, 4, 5))
    param = {} if group is None else dict(group=group)
    (top,) = run(type_, param, [x], dialect="shufflenet")
    same(top, x[:, order])


def test_shuffled_channels_need_groups():
    with pytest.raises(MalformedModel, match="4 equal groups"):
        infer("ShuffleChannel", dict(group=4), [(2, 6, 5, 7)], dialect="shufflenet")
    with pytest.raises(MalformedModel, match="should be positive, found 0"):
        infer("ShuffleChannel", dict(group=0), [(2, 6, 5, 7)], dialect="shufflenet")
    with pytest.raises(UnsupportedModel, match="4 axes expected"):
        infer("ShuffleChannel", dict(group=2), [(2, 6)], dialect="shufflenet")


def test_pixels_under_the_shape_of_channels():
    """HolmesShuan's channel_shuffle_layer.cpp, pattern 0: channels 0 1 2 | 3 4 5 of one row are
    written pixel by pixel, 0 3 1 4 2 5, and read as channels again."""
    param = dict(shuffle_pattern=0, group=3, shuffle_channel_num=2)
    (top,) = run("ChannelShuffle", param, [values((1, 2, 1, 3))], dialect="holmesshuan")
    same(top, [[[[0, 3, 1]], [[4, 2, 5]]]])


@pytest.mark.parametrize("param", [{}, dict(shuffle_pattern=1, group=3)], ids=["default", "1"])
def test_pattern_1_is_refused(param):
    with pytest.raises(UnsupportedModel, match="part of the top is never written"):
        infer("ChannelShuffle", param, [(2, 9, 5, 7)], dialect="holmesshuan")


def test_pattern_2_is_none():
    with pytest.raises(MalformedModel, match="0 or 1, found 2"):
        infer("ChannelShuffle", dict(shuffle_pattern=2), [(2, 9, 5, 7)], dialect="holmesshuan")


def test_reorg():
    """reorg_layer.cpp of MobileNet-YOLO: 4 channels of 2 x 2, whose 16 values are read as 1 channel
    of 4 x 4. Its pixels (2 i + a, 2 j + b) are 8 i + 2 j + 4 a + b, for each a, b the four of
    i, j; the sixteen in the order a, b, i, j are the 16 channels of one pixel."""
    (top,) = run("Reorg", dict(stride=2), [values((1, 4, 2, 2))], dialect="yolo")
    same(top.reshape(-1), [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15])


def test_reorg_reverse():
    """Channel (2 a + b) * 1 + 0 of one pixel goes to row a, column b; so for each pixel."""
    (top,) = run("Reorg", dict(stride=2, reverse=True), [values((1, 4, 1, 2))], dialect="yolo")
    same(top, [[[[0, 2, 1, 3], [4, 6, 5, 7]]]])


def test_neither_reorg_undoes_the_other():
    x = values((1, 8, 4, 6))
    (there,) = run("Reorg", dict(stride=2), [x], dialect="yolo")
    (back,) = run("Reorg", dict(stride=2, reverse=True), [there], dialect="yolo")
    assert back.shape == x.shape
    assert not np.array_equal(back, x)


@pytest.mark.parametrize(
    "param, shape",
    [
        (dict(stride=2), (2, 4, 5, 6)),
        (dict(stride=2), (2, 4, 6, 5)),
        (dict(stride=2), (2, 6, 4, 6)),
        (dict(stride=2, reverse=True), (2, 6, 5, 7)),
    ],
)
def test_reorg_needs_multiples_of_its_stride(param, shape):
    with pytest.raises(MalformedModel, match="stride 2 should divide"):
        infer("Reorg", param, [shape], dialect="yolo")


def test_reorg_needs_a_stride():
    with pytest.raises(MalformedModel, match="stride should be positive, found 0"):
        infer("Reorg", {}, [(2, 4, 6, 8)], dialect="yolo")
