"""Images made larger, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, row, run, values

# ---- SegNet's Upsample ---------------------------------------------------------------------------

PAIR = [values((1, 2, 1, 2), 1, 2, 3, 4), values((1, 2, 1, 2), 0, 5, 3, 6)]


def test_positions_of_each_plane():
    """upsample_layer.cpp of caffe-segnet: 1 x 2 becomes 2 x 4; value i of a plane goes to place
    mask[i] of it."""
    (top,) = run("Upsample", {}, PAIR, dialect="segnet")
    first = [1, 0, 0, 0, 0, 2, 0, 0]
    close(top, values((1, 2, 2, 4), *first, 0, 0, 0, 3, 0, 0, 4, 0))


@pytest.mark.parametrize(
    "param, size",
    [
        (dict(scale=3), (3, 6)),
        (dict(scale_h=4, scale_w=5), (4, 10)),
        (dict(scale=2, pad_out_h=True), (1, 4)),
        (dict(pad_out_w=True), (2, 3)),
        (dict(upsample_h=2, upsample_w=7), (2, 7)),
        (dict(upsample_h=2, upsample_w=7, scale=9, pad_out_h=True), (2, 7)),
        (dict(upsample_h=2), (2, 4)),
    ],
)
def test_sizes(param, size):
    _, _, (top,) = infer("Upsample", param, [(1, 2, 1, 2)] * 2, dialect="segnet")
    assert top == (1, 2, *size)


def test_places_count_in_rows_of_the_top():
    """Place 3 of a top 3 wide is the first of row 1."""
    param = dict(upsample_h=2, upsample_w=3)
    (top,) = run("Upsample", param, [row(7), row(3)], dialect="segnet")
    close(top, values((1, 1, 2, 3), 0, 0, 0, 7, 0, 0))


def test_the_last_value_for_a_place_is_kept():
    (top,) = run("Upsample", {}, [row(1, 2, 3), row(1, 4, 1)], dialect="segnet")
    close(top, values((1, 1, 2, 6), 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0))


def test_a_place_outside_is_an_error():
    """As in Caffe, where it is fatal, or writes before the plane."""
    for place in (-1, 4):
        with pytest.raises(MalformedModel, match="positions from 0 to 3 expected"):
            run("Upsample", {}, [row(1), row(place)], dialect="segnet")


@pytest.mark.parametrize(
    "param, message",
    [
        (dict(upsample_h=1, upsample_w=5), "should be over 1"),
        (dict(scale=1), "over 1"),
        (dict(scale=3, pad_out_w=True), "2 with pad_out_w"),
        (dict(scale=2, scale_h=2, scale_w=2), "scale should be given once"),
        (dict(scale_h=2), "scale should be given once"),
    ],
)
def test_refused_sizes(param, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Upsample", param, [(1, 2, 3, 4)] * 2, dialect="segnet")


def test_positions_have_the_shape_of_the_values():
    with pytest.raises(MalformedModel, match="bottom 0's shape"):
        infer("Upsample", {}, [(1, 2, 3, 4), (1, 2, 4, 3)], dialect="segnet")


# ---- MobileNet-YOLO's Upsample -------------------------------------------------------------------


def test_repeated_pixels():
    """upsample_layer.cpp of MobileNet-YOLO; the default is 1."""
    x = values((1, 1, 1, 2), 1, 2)
    close(run("Upsample", {}, [x], dialect="yolo")[0], x)
    (top,) = run("Upsample", dict(scale=2), [x], dialect="yolo")
    close(top, values((1, 1, 2, 4), 1, 1, 2, 2, 1, 1, 2, 2))
    with pytest.raises(MalformedModel, match="scale should be positive"):
        infer("Upsample", dict(scale=0), [x.shape], dialect="yolo")


# ---- ParseNet's UnPooling ------------------------------------------------------------------------

# Along the width alone; the height stays 1.
LINE = dict(out_kernel_h=1, out_stride_h=1, out_pad_h=0)


def unpool(method, kernel, stride, pad, *pixels):
    window = dict(LINE, out_kernel_w=kernel, out_stride_w=stride, out_pad_w=pad)
    (top,) = run("UnPooling", dict(window, unpool=method), [row(*pixels)], dialect="parsenet")
    return top


def test_fixed():
    """unpooling_layer.cpp of weiliu89/caffe fcn. Windows (0, 3), (2, 5): the middle ones are 1, 3.
    With stride 1 and pad 1, kernel 2: (-1, 1), (0, 2), (1, 3) have middles -1 / 2 = 0, 0 and 1, in
    2 places: the second pixel replaces the first."""
    close(unpool("FIXED", 3, 2, 0, 6, 12), row(0, 6, 0, 12, 0))
    close(unpool("FIXED", 2, 1, 1, 6, 12, 18), row(12, 18))


def test_divided():
    """Windows (0, 3), (2, 5): 6 / 3 and 12 / 3, halved in place 2, which both reach. With pad 1 the
    windows are (-1, 2), (1, 4) of 3 places: a third each, place 1 halved."""
    close(unpool("DIV", 3, 2, 0, 6, 12), row(2, 2, 1 + 2, 4, 4))
    close(unpool("DIV", 3, 2, 1, 6, 12), row(2, 1 + 2, 4))


def test_repeated():
    """The same windows; with stride 3 and kernel 2, place 2 is reached by none."""
    close(unpool("REP", 3, 2, 0, 6, 12), row(6, 6, 3 + 6, 12, 12))
    close(unpool("REP", 2, 3, 0, 6, 12), row(6, 6, 0, 12, 12))


def test_both_axes():
    """Repeated 2 x 2 without overlap."""
    param = dict(unpool="REP", out_kernel_size=2, out_stride=2)
    (top,) = run("UnPooling", param, [values((1, 1, 1, 2), 1, 2)], dialect="parsenet")
    close(top, values((1, 1, 2, 4), 1, 1, 2, 2, 1, 1, 2, 2))


def test_one_padding_for_both_axes():
    """(1 - 1) * 2 - 2 + 3 = 1 row and (2 - 1) * 2 - 2 + 3 = 3 columns; the windows (-1, 2) and
    (1, 4) of columns share the middle one: (6 + 12) / 2."""
    param = dict(unpool="REP", out_kernel_size=3, out_stride=2, out_pad=1)
    (top,) = run("UnPooling", param, [row(6, 12)], dialect="parsenet")
    close(top, row(6, 9, 12))


@pytest.mark.parametrize("method", ["FIXED", "DIV", "REP"])
def test_place_by_place(method):
    """As the fork's loops have it, on N 2, C 3, H 4, W 5: every parameter by axis, with overlap
    and padding. (4 - 1) * 2 - 2 + 3 = 7, (5 - 1) * 3 - 4 + 5 = 13."""
    x = np.random.default_rng(5).standard_normal((2, 3, 4, 5)).astype(np.float32)
    param = dict(
        unpool=method, out_kernel_h=3, out_kernel_w=5, out_stride_h=2, out_stride_w=3,
        out_pad_h=1, out_pad_w=2,
    )  # fmt: skip
    expected, reached = np.zeros((2, 3, 7, 13)), np.zeros((7, 13))
    windows = {
        (h, w): (slice(max(2 * h - 1, 0), 2 * h + 2), slice(max(3 * w - 2, 0), 3 * w + 3))
        for h in range(4)
        for w in range(5)
    }
    for window in windows.values():
        reached[window] += 1
    for (h, w), window in windows.items():
        pixel = x[:, :, h, w, None, None]
        if method == "FIXED":
            expected[:, :, 2 * h - 1 + 1, 3 * w - 2 + 2] = x[:, :, h, w]
        else:
            rows, columns = (
                min(2 * h + 2, 7 + 1) - (2 * h - 1),
                min(3 * w + 3, 13 + 2) - (3 * w - 2),
            )
            share = pixel / (rows * columns) if method == "DIV" else pixel
            expected[(..., *window)] += share / reached[window]
    (top,) = run("UnPooling", param, [x], dialect="parsenet")
    np.testing.assert_allclose(top, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "size, wanted, top",
    [
        # kernel and stride ceil(7 / 3) = 3, pad (6 + 3 - 7) / 2 = 1
        (3, 7, 7),
        # kernel and stride 2, pad (4 + 2 - 5) / 2 = 0 rounded down: one place too many
        (3, 5, 6),
        # one pixel: kernel 4 is the whole, stride 1
        (1, 4, 4),
    ],
)
def test_a_second_bottom_gives_the_window(size, wanted, top):
    shapes = [(1, 2, size, 1), (1, 1, wanted, 1)]
    _, _, (found,) = infer("UnPooling", dict(out_kernel_size=9), shapes, dialect="parsenet")
    assert found == (1, 2, top, 1)


@pytest.mark.parametrize(
    "param, shapes, error, message",
    [
        ({}, [(1, 1, 2, 2)], MalformedModel, "is missing"),
        (dict(out_kernel_h=2), [(1, 1, 2, 2)], MalformedModel, "out_kernel should be given once"),
        (dict(out_kernel_size=0), [(1, 1, 2, 2)], MalformedModel, "should be positive"),
        (dict(out_kernel_size=2, out_pad=2), [(1, 1, 2, 2)], MalformedModel, "smaller than"),
        (dict(out_kernel_size=2), [(1, 2, 2)], MalformedModel, "4 axes"),
        (dict(out_kernel_size=2, unpool="GROUP"), [(1, 1, 2, 2)], UnsupportedModel, "GROUP"),
    ],
)
def test_refused(param, shapes, error, message):
    with pytest.raises(error, match=message):
        infer("UnPooling", param, shapes, dialect="parsenet")
