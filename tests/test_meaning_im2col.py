"""Im2col."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel
from tests.meanings import infer, run, values

same = np.testing.assert_array_equal


def test_im2col():
    """im2col_layer.cpp: two channels 0 1 2 and 3 4 5; a window of 2 columns has two places. For
    each channel and column of the window, what lies there."""
    (top,) = run("Im2col", dict(kernel_h=1, kernel_w=2), [values((1, 2, 1, 3))])
    same(top[0, :, 0], [[0, 1], [1, 2], [3, 4], [4, 5]])


def test_im2col_with_every_parameter():
    """One channel, rows 0 1 2 3 | 4 5 6 7; what is a convolution's changes nothing. Rows: stride 2
    over 2 + 2 * 1 - 2 = 2 places, so windows at rows -1 and 1 (the second past the image).
    Columns: (4 + 0 - (2 * (2 - 1) + 1)) / 1 + 1 = 2 places, taps 2 apart."""
    param = dict(
        kernel_size=(2, 2), stride=(2, 1), pad=(1, 0), dilation=(1, 2), num_output=7, group=3,
        bias_term=False, force_nd_im2col=True, axis=-3,
    )  # fmt: skip
    (top,) = run("Im2col", param, [values((1, 1, 2, 4))])
    same(
        top[0],
        [
            [[0, 0], [4, 5]],  # row tap 0, column tap 0: rows -1 and 1, columns 0 and 1
            [[0, 0], [6, 7]],  # row tap 0, column tap 1: columns 2 and 3
            [[0, 1], [0, 0]],  # row tap 1: rows 0 and 2
            [[2, 3], [0, 0]],
        ],
    )


def test_im2col_by_axis():
    """Rows 0 1 2 3 | 4 5 6 7. Rows: (2 + 2 - 1) / 2 + 1 = 2 windows, at -1 (padding) and 1.
    Columns: (4 + 2 - 2) / 3 + 1 = 2 windows, from -1 and 2. With a dilation of 2 alone, the taps
    are columns 0 and 2, or 1 and 3."""
    x = values((1, 1, 2, 4))
    param = dict(kernel_h=1, kernel_w=2, stride_h=2, stride_w=3, pad_h=1, pad_w=1)
    (top,) = run("Im2col", param, [x])
    same(top[0], [[[0, 0], [0, 6]], [[0, 0], [4, 7]]])
    param = dict(kernel_h=1, kernel_w=2, dilation_h=3, dilation_w=2)
    (top,) = run("Im2col", param, [x])
    same(top[0], [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])


def test_im2col_over_one_and_three_axes():
    """4 values and a window of 3 with padding 1: windows from -1, 0, 1, 2."""
    (top,) = run("Im2col", dict(kernel_size=(3,), pad=(1,)), [values((1, 1, 4), 1, 2, 3, 4)])
    same(top[0], [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]])
    _, _, tops = infer("Im2col", dict(kernel_size=(2, 3, 1)), [(2, 3, 5, 7, 4)])
    assert tops == [(2, 18, 4, 5, 4)]


def test_im2col_after_another_axis():
    """axis 2: the rows are the channels, the columns the one axis of the window."""
    (top,) = run("Im2col", dict(kernel_size=(2,), axis=2), [values((1, 1, 2, 3))])
    same(top[0, 0], [[0, 1], [1, 2], [3, 4], [4, 5]])


@pytest.mark.parametrize(
    "param, message",
    [
        ({}, "kernel_size is missing"),
        (dict(kernel_size=(3,), axis=3), "no axis after axis 3"),
        (dict(kernel_size=(9,)), "top would have shape"),
        (dict(kernel_size=(3,), stride=(0,)), "stride should be at least 1"),
        (dict(kernel_size=(3,), kernel_h=3, kernel_w=3), "given both"),
    ],
    ids=["kernel", "axis", "size", "stride", "twice"],
)
def test_im2col_refuses(param, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Im2col", param, [(2, 3, 5, 7)])


@pytest.mark.parametrize("axis, expected", [(1, 0), (0, None)])
def test_samples_stay_apart_before_the_axis(axis, expected):
    shapes = [(2, 3, 5, 7)]
    made, _, tops = infer("Im2col", dict(kernel_size=(1,), axis=axis), shapes)
    assert made.batch_axes(shapes, [0], tops) == [expected]
