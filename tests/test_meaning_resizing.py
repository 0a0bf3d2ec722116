"""Interp, Resample, Downsample, Accum and Resize, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.layers.resizing import half_away
from tests.meanings import close, infer, row, run, values

NAN = np.nan


def test_half_away_rounds_as_c_does():
    """round(): 0.49999997 + 0.5 is 1 in float32, and is not added."""
    given = np.array([-2.5, -0.5, -0.4, 0.49999997, 0.5, 1.5, 2.5, 8388609], np.float32)
    np.testing.assert_array_equal(half_away(given), [-3, -1, 0, 0, 1, 2, 3, 8388609])


# ---- Interp --------------------------------------------------------------------------------------


def interp(param, *bottoms):
    (top,) = run("Interp", param, bottoms, dialect="pspnet")
    return top


@pytest.mark.parametrize(
    "param, size",
    [
        # (8 - 1) / 3 + 1 and (11 - 1) / 3 + 1, rounded down before the 1
        (dict(shrink_factor=3), (3, 4)),
        # 8 + 7 * 1 and 11 + 10 * 1
        (dict(zoom_factor=2), (15, 21)),
        (dict(zoom_factor=1), (8, 11)),
        # 3 + 2 * 1 and 4 + 3 * 1
        (dict(shrink_factor=3, zoom_factor=2), (5, 7)),
        (dict(height=5, width=4), (5, 4)),
        (dict(height=5, width=4, zoom_factor=2), (15, 21)),
        (dict(height=5, width=4, shrink_factor=3), (3, 4)),
        (dict(height=5, width=4, shrink_factor=3, zoom_factor=2), (5, 4)),
        (dict(height=5, width=4, full_zoom_factor=2), (5, 4)),
        (dict(full_zoom_factor=3), (24, 33)),
        (dict(height=5, full_zoom_factor=3), (24, 33)),
        # of what the crop leaves: 8 - 3 and 11 - 3
        (dict(zoom_factor=2, pad_beg=-1, pad_end=-2), (9, 15)),
    ],
)
def test_interp_sizes(param, size):
    """interp_layer.cpp, Reshape."""
    _, _, (top,) = infer("Interp", param, [(2, 3, 8, 11)], dialect="pspnet")
    assert top == (2, 3, *size)


def test_interp_values():
    """interp.cpp: the step is (3 - 1) / (5 - 1) = 0.5."""
    close(interp(dict(height=1, width=5), row(0, 10, 20)), row(0, 5, 10, 15, 20))
    # Rows as well: (0 + 6) / 2 between them.
    top = interp(dict(height=3, width=3), values((1, 1, 2, 2), 0, 2, 6, 8))
    close(top[0, 0], [[0, 1, 2], [3, 4, 5], [6, 7, 8]])


def test_interp_of_one_pixel_repeats_it():
    close(interp(dict(height=1, width=3), row(7)), row(7, 7, 7))
    close(interp(dict(height=1, width=1), row(7, 8, 9)), row(7))


def test_interp_by_a_full_zoom_factor():
    """Synopsys' interp_layer.cpp: 2 * 2 rows and columns, a third of a pixel apart."""
    top = interp(dict(full_zoom_factor=2), values((1, 1, 2, 2), 0, 3, 9, 12))
    close(top[0, 0], [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [9, 10, 11, 12]])


@pytest.mark.parametrize(
    "pads, expected",
    [
        (dict(pad_beg=-1), [[5, 5.5, 6, 6.5, 7], [9, 9.5, 10, 10.5, 11]]),
        (dict(pad_end=-1), [[0, 0.5, 1, 1.5, 2], [4, 4.5, 5, 5.5, 6]]),
    ],
    ids=["beginning", "end"],
)
def test_interp_crops_first(pads, expected):
    """Of 3 x 4 pixels 2 x 3 are left, from (1, 1) or from (0, 0)."""
    top = interp(dict(height=2, width=5, **pads), values((1, 1, 3, 4)))
    close(top[0, 0], expected)


def test_interp_to_the_size_of_a_second_bottom():
    close(interp({}, row(0, 10, 20), np.zeros((1, 4, 1, 5), np.float32)), row(0, 5, 10, 15, 20))


@pytest.mark.parametrize(
    "param, bottoms, message",
    [
        ({}, 1, "a factor, or both height and width"),
        (dict(height=3), 1, "a factor, or both height and width"),
        (dict(zoom_factor=0), 1, "zoom_factor should be at least 1, found 0"),
        (dict(shrink_factor=-2), 1, "shrink_factor should be at least 1"),
        (dict(zoom_factor=2, pad_beg=1), 1, "pad_beg and pad_end should be at most 0"),
        (dict(zoom_factor=2, pad_end=-8), 1, "leave nothing of"),
        (dict(height=0, width=3), 1, "a top would have shape"),
        (dict(height=3, width=3), 2, "a size and a second bottom"),
        (dict(zoom_factor=2), 2, "a size and a second bottom"),
    ],
)
def test_interp_refuses(param, bottoms, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Interp", param, [(2, 3, 8, 11)] * bottoms, dialect="pspnet")


# ---- Resample ------------------------------------------------------------------------------------


def resample(param, *bottoms):
    (top,) = run("Resample", param, bottoms, dialect="flownet2")
    return top


@pytest.mark.parametrize(
    "param, expected",
    [
        # fx = 0.5, fy = 1: places x * 0.5 + fy / 2 - 0.5 = 0, 0.5, 1, 1.5; beyond 1 is nothing
        (dict(height=1, width=4), [0, 4, 8, 8]),
        # places 0 and 1 of 4, the kernel is not stretched
        (dict(height=1, width=2, type="LINEAR"), [0, 8]),
    ],
    ids=["up", "same"],
)
def test_resample_linear(param, expected):
    """resample_layer.cpp, InterpolationKernel: the halves of fx and fy are swapped."""
    close(resample(param, row(0, 8)), row(*expected))


def test_resample_stretches_its_kernel():
    """fx = 2: places 0 and 2, weights 1 - |d| / 2: (0 + 0.5 * 3) / 1.5 = 1 and
    (0.5 * 3 + 6 + 0.5 * 12) / 2 = 6.75; without antialias the pixels themselves."""
    x = row(0, 3, 6, 12)
    close(resample(dict(height=1, width=2), x), row(1, 6.75))
    close(resample(dict(height=1, width=2, antialias=False), x), row(0, 6))


def test_resample_stretches_both_axes_where_one_shrinks():
    """fy = 2 / 4 narrows its kernel: of the places y * 0.5 + 2 / 2 - 0.5 = 0.5, 1, 1.5, 2 only 1 is
    nearer than 0.5 to a row, row 1; the rest is 0. fx = 2: places x * 2 + 0.5 / 2 - 0.5 = -0.25 and
    1.75, weights 1 - |d| / 2: (0.875 * 10 + 0.375 * 13) / 1.25 = 10.9 and
    (0.125 * 10 + 0.625 * 13 + 0.875 * 16 + 0.375 * 22) / 2 = 15.8125."""
    x = values((1, 1, 2, 4), 0, 3, 6, 12, 10, 13, 16, 22)
    top = resample(dict(height=4, width=2), x)[0, 0]
    close(top, [[0, 0], [10.9, 15.8125], [0, 0], [0, 0]])


def test_resample_cubic():
    """The kernel of a = -0.5 is 0.5625 at 0.5 and -0.0625 at 1.5. Place 1.5 has all four taps:
    0.5625 * (16 + 32) - 0.0625 * (0 + 16) = 26; place 0.5 has three: (9 - 2) / 1.0625."""
    top = resample(dict(height=1, width=8, type="CUBIC"), row(0, 16, 32, 16))
    close(top[0, 0, 0, [0, 1, 2, 3]], [0, 7 / 1.0625, 16, 26])


def test_resample_nearest():
    """fx = fy = 0.5: places -0.25, 0.25, 0.75, 1.25."""
    x = values((1, 1, 2, 2), 1, 2, 3, 4)
    close(
        resample(dict(height=4, width=4, type="NEAREST"), x)[0, 0, [0, 3]],
        [[1, 1, 2, 2], [3, 3, 4, 4]],
    )


def test_resample_to_the_size_of_a_second_bottom():
    like = np.zeros((1, 5, 1, 4), np.float32)
    close(resample(dict(height=9, width=9, factor=3), row(0, 8), like), row(0, 4, 8, 8))


@pytest.mark.parametrize(
    "param, error, message",
    [
        (dict(type="AREA", height=3, width=3), UnsupportedModel, "type is AREA"),
        (dict(height=3), MalformedModel, "height and width should be given"),
        # fx = 0.5, fy = 1: place 1.5 is rounded to 2
        (dict(type="NEAREST", height=4, width=10), UnsupportedModel, "reads beside the image"),
    ],
)
def test_resample_refuses(param, error, message):
    with pytest.raises(error, match=message):
        infer("Resample", param, [(2, 3, 4, 5)], dialect="flownet2")


def test_resample_makes_nothing_before_the_sizes_are_checked():
    with pytest.raises(MalformedModel, match="a top would have shape"):
        infer(
            "Resample",
            dict(height=2**31, width=2**31),
            [(1, 1, 4, 5)],
            dialect="flownet2",
        )


# ---- Downsample ----------------------------------------------------------------------------------


def downsample(param, *bottoms):
    (top,) = run("Downsample", param, bottoms, dialect="flownet2")
    return top


X = np.array([0, 3, 6, 9, 12], np.float32)
TWO_ROWS = np.stack([X, 10 * X])[None, None]


def test_downsample():
    """downsample_layer.cu: the step is (5 - 1) / (3 - 1) = 2, the weights are 1 - |d| / 2:
    (0 + 1.5) / 1.5, (1.5 + 6 + 4.5) / 2 and (4.5 + 12) / 1.5. Rows stay apart: their step is 1."""
    top = downsample(dict(top_height=2, top_width=3), TWO_ROWS)
    close(top[0, 0], [[1, 6, 11], [10, 60, 110]])
    close(downsample({}, TWO_ROWS, np.zeros((1, 1, 2, 3), np.float32)), top)


def test_downsample_leaves_nans_out():
    """[0, NaN, 6, ...]: NaN weighs 0.5 / 1, which is not over half; then (6 + 4.5) / 1.5.
    [NaN, 3, NaN, ...]: 1 / 0.5 is, then 1 / 1 is."""
    x = TWO_ROWS.copy()
    x[0, 0, 0, 1] = x[0, 0, 1, 0] = x[0, 0, 1, 2] = NAN
    top = downsample(dict(top_height=2, top_width=3), x)
    close(top[0, 0], [[0, 7, 11], [NAN, NAN, 110]])


def test_downsample_keeps_its_own_size():
    close(downsample(dict(top_height=2, top_width=5), TWO_ROWS), TWO_ROWS)
    close(downsample(dict(top_height=1, top_width=3), row(1, NAN, 3)), row(1, NAN, 3))


@pytest.mark.parametrize(
    "param, shape, error, message",
    [
        (dict(top_height=3), (2, 3, 8, 11), MalformedModel, "top_height and top_width"),
        (dict(top_height=1, top_width=4), (2, 3, 8, 11), UnsupportedModel, "divide by zero"),
        (dict(top_height=4, top_width=4), (2, 3, 1, 11), UnsupportedModel, "divide by zero"),
    ],
)
def test_downsample_refuses(param, shape, error, message):
    with pytest.raises(error, match=message):
        infer("Downsample", param, [shape], dialect="flownet2")


# ---- Accum ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "param, size",
    [
        ({}, (8, 11)),
        (dict(top_height=9, top_width=12), (9, 12)),
        # One side is not larger: the other does not count either.
        (dict(top_height=9, top_width=11), (8, 11)),
        (dict(size_divisible_by=5), (10, 15)),
        (dict(size_divisible_by=4), (8, 11)),
        (dict(size_divisible_by=5, top_height=90, top_width=90), (10, 15)),
        (dict(have_reference=True, top_height=90, top_width=90), (3, 4)),
    ],
)
def test_accum_sizes(param, size):
    """accum_layer.cpp, Reshape: the largest height is that of bottom 0, the width that of 1."""
    shapes = [(2, 3, 8, 5), (2, 2, 4, 11), (2, 1, 3, 4)]
    channels = 5 if param.get("have_reference") else 6
    _, _, (top,) = infer("Accum", param, shapes, dialect="flownet2")
    assert top == (2, channels, *size)


def test_accum_values():
    """accum_layer.cpp, Forward_cpu: corners aligned, the reference's values are not read."""
    first = values((1, 1, 2, 2), 0, 2, 6, 8)
    second = values((1, 2, 2, 3))
    reference = np.full((1, 4, 3, 3), NAN, np.float32)
    (top,) = run("Accum", dict(have_reference=True), [first, second, reference], dialect="flownet2")
    close(top[0, 0], [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    close(top[0, 1], [[0, 1, 2], [1.5, 2.5, 3.5], [3, 4, 5]])
    close(top[0, 2], top[0, 1] + 6)


@pytest.mark.parametrize(
    "param",
    [dict(top_height=3, top_width=5), dict(size_divisible_by=3)],
    ids=["given", "divisible"],
)
def test_accum_to_a_larger_size(param):
    """accum_layer.cpp, Forward_cpu: 2 x 2 pixels half a row apart, and a quarter of a column, or
    half a column where both sides are rounded up to 3."""
    bottom = values((1, 1, 2, 2), 0, 4, 8, 12)
    (top,) = run("Accum", param, [bottom], dialect="flownet2")
    columns = [0, 1, 2, 3, 4] if "top_width" in param else [0, 2, 4]
    close(top[0, 0], [[start + column for column in columns] for start in (0, 4, 8)])


@pytest.mark.parametrize(
    "param, shapes, error, message",
    [
        (dict(have_reference=True), [(1, 1, 2, 2)], MalformedModel, "beside the reference"),
        ({}, [(1, 1, 2, 2), (2, 1, 2, 2)], MalformedModel, "one batch size"),
        ({}, [(1, 1, 1, 2)], UnsupportedModel, "divide by zero"),
        (dict(size_divisible_by=0), [(1, 1, 2, 2)], MalformedModel, "at least 1"),
    ],
)
def test_accum_refuses(param, shapes, error, message):
    with pytest.raises(error, match=message):
        infer("Accum", param, shapes, dialect="flownet2")


# ---- Resize --------------------------------------------------------------------------------------


def test_resize():
    """util_img.cpp: places i * 3 / 6; the last is half of pixel 2 and half of nothing."""
    (top,) = run("Resize", dict(height=1, width=6), [row(0, 10, 20)], dialect="happynear")
    close(top, row(0, 5, 10, 15, 20, 10))
    # Rows fade as well: 0, 1/2 of row 0.
    (top,) = run("Resize", dict(height=2, width=3), [row(0, 10, 20)], dialect="happynear")
    close(top[0, 0], [[0, 10, 20], [0, 5, 10]])


def test_resize_by_scales():
    """resize_layer.cpp: int(1.6 * 1) = 1 and int(0.7 * 3) = 2, at places 0 and 1.5."""
    param = dict(is_pyramid_test=True, out_height_scale=1.6, out_width_scale=0.7, height=9, width=9)
    (top,) = run("Resize", param, [row(0, 10, 20)], dialect="happynear")
    close(top, row(0, 15))


@pytest.mark.parametrize(
    "param, message",
    [
        (dict(height=3), "height and width should be given"),
        (dict(is_pyramid_test=True, height=3, width=3), "out_height_scale and out_width_scale"),
        (dict(is_pyramid_test=True, out_height_scale=0.01, out_width_scale=1), "shape"),
        (dict(is_pyramid_test=True, out_height_scale=3e38, out_width_scale=1), "leave no size"),
        (dict(is_pyramid_test=True, out_height_scale=NAN, out_width_scale=1), "leave no size"),
    ],
)
def test_resize_refuses(param, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Resize", param, [(2, 3, 8, 11)], dialect="happynear")
