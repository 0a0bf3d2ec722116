"""Pooling's positions, the pyramid, volumes and the forks' fields, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, row, run, values

LOWEST = np.finfo(np.float32).min


# ---- Positions -----------------------------------------------------------------------------------


def test_positions_count_in_the_plane_of_the_bottom():
    """pooling_layer.cpp: h * W + w in each plane; windows 2 x 2 with stride 1 over
    1 5 2 | 4 3 9 and, turned round, 9 3 4 | 2 5 1."""
    x = values((1, 2, 2, 3), 1, 5, 2, 4, 3, 9, 9, 3, 4, 2, 5, 1)
    tops = run("Pooling", dict(kernel_size=2), [x], tops=2)
    close(tops[0], values((1, 2, 1, 2), 5, 9, 9, 5))
    close(tops[1], values((1, 2, 1, 2), 1, 5, 0, 4))


def test_of_equal_pixels_the_first_is_named():
    """`>` keeps the first: of 3 3, 3 3, 3 1."""
    (_, mask) = run("Pooling", dict(kernel_h=1, kernel_w=2), [row(3, 3, 3, 1)], tops=2)
    close(mask, row(0, 1, 2))


def test_padding_has_no_position():
    """Windows (-1, 0), (1, 2) of -5 -7 -6: padding is no pixel."""
    param = dict(kernel_h=1, kernel_w=2, stride_h=1, stride_w=2, pad_h=0, pad_w=1)
    (top, mask) = run("Pooling", param, [row(-5, -7, -6)], tops=2)
    close(top, row(-5, -6))
    close(mask, row(0, 2))


def test_a_window_of_nothing_has_no_position():
    """It starts as -1 and the lowest number. Without padding, the last window may start past the
    image: 4 pixels, kernel 1, stride 3 round up to places 0, 3; of 5 pixels, 0, 3 and 6."""
    param = dict(kernel_h=1, kernel_w=1, stride_h=1, stride_w=3)
    (top, mask) = run("Pooling", param, [row(7, 0, 0, 8, 0)], tops=2)
    np.testing.assert_array_equal(top, row(7, 8, LOWEST))
    close(mask, row(0, 3, -1))


def test_positions_are_positions_and_only_of_maxima():
    made, _, _ = infer("Pooling", dict(kernel_size=2), [(1, 1, 4, 4)], tops=2)
    assert made.index_tops == (1,)
    with pytest.raises(MalformedModel, match="only MAX"):
        infer("Pooling", dict(kernel_size=2, pool="AVE"), [(1, 1, 4, 4)], tops=2)


# ---- The forks' fields ---------------------------------------------------------------------------

WIDE = dict(kernel_h=1, kernel_w=3, stride_h=1, stride_w=2)


@pytest.mark.parametrize("pool", ["AVE_EXC_PAD", "AVE_TF"])
def test_averages_without_padding(pool):
    """Synopsys' pooling_layer.cpp: windows (-1, 2), (1, 4), (3, 5) of 6 12 18 24 30."""
    param = dict(WIDE, pool=pool, pad_h=0, pad_w=1)
    (top,) = run("Pooling", param, [row(6, 12, 18, 24, 30)])
    close(top, row(9, 18, 27))


def test_intel_averages_without_padding():
    """mkldnn_pooling_layer.cpp; with the padding they are 18 / 3, 54 / 3, 54 / 3."""
    param = dict(WIDE, pool="AVE", pad_h=0, pad_w=1)
    bottom = [row(6, 12, 18, 24, 30)]
    close(run("Pooling", dict(param, avg_include_pad=False), bottom)[0], row(9, 18, 27))
    close(run("Pooling", dict(param, avg_include_pad=True), bottom)[0], row(6, 18, 18))


@pytest.mark.parametrize(
    "param, expected",
    [
        # 2 before, 1 after: (-2, 1) (0, 3) (2, 5) (4, 7) of 6 places; the last starts inside and
        # counts up to the padding's end, 6
        (dict(pool="AVE", pad_l=2, pad_r=1), [2, 12, 24, 15]),
        (dict(pool="AVE_EXC_PAD", pad_l=2, pad_r=1), [6, 12, 24, 30]),
        (dict(pool="MAX", pad_l=2, pad_r=1), [6, 18, 30, 30]),
        # floor((5 + 3 - 3) / 2) + 1 = 3 windows
        (dict(pool="MAX", pad_l=2, pad_r=1, ceil_mode=False), [6, 18, 30]),
        # none before, 2 after: (0, 3) (2, 5) (4, 7)
        (dict(pool="AVE", pad_r=2), [12, 24, 10]),
        # SAME: ceil(5 / 2) = 3 windows, 3 - 5 % 2 = 2 zeros, one on each side
        (dict(pool="AVE", pad_type=1), [6, 18, 18]),
        (dict(pool="MAX", pad_type=0), [18, 30]),
    ],
)
def test_synopsys_padding(param, expected):
    """pooling_layer.cpp there, on 6 12 18 24 30 with kernel 3 and stride 2."""
    (top,) = run("Pooling", {**WIDE, **param}, [row(6, 12, 18, 24, 30)])
    close(top, row(*expected))


def test_synopsys_padding_of_rows():
    """1 row before, 2 after: rows (-1, 1) and (1, 3) of 2 and 4, of which the latter counts
    up to 2 + 2."""
    param = dict(pool="AVE", kernel_h=2, kernel_w=1, stride_h=2, stride_w=1, pad_t=1, pad_b=2)
    (top,) = run("Pooling", param, [values((1, 1, 2, 1), 2, 4)])
    close(top, values((1, 1, 2, 1), 1, 2))


def test_floor_by_its_other_names():
    """5 pixels, kernel 2, stride 2: 2 windows, or 3 rounded up."""
    param = dict(kernel_h=1, kernel_w=2, stride_h=1, stride_w=2)
    for field in (dict(ceil_mode=False), dict(torch_pooling=True), dict(round_mode="FLOOR")):
        close(run("Pooling", {**param, **field}, [row(1, 2, 3, 4, 5)])[0], row(2, 4))
    for field in (dict(ceil_mode=True), dict(torch_pooling=False), {}):
        close(run("Pooling", {**param, **field}, [row(1, 2, 3, 4, 5)])[0], row(2, 4, 5))


# ---- The pyramid ---------------------------------------------------------------------------------


def test_a_pyramid():
    """spp_layer.cpp: 3 x 4 pixels 1 ... 12 per channel, the second 12 higher. Level 0 is the whole;
    level 1 has kernels 2 and 2, pads (4 - 3 + 1) / 2 = 1 and 0: rows (-1, 0), (1, 2), columns
    (0, 1), (2, 3)."""
    x = values((1, 2, 3, 4), *range(1, 25))
    (top,) = run("SPP", dict(pyramid_height=2), [x])
    first = [12, 2, 4, 10, 12]
    # Level after level, and in each the channels: 12 24 | 2 4 10 12 14 16 22 24.
    close(top, values((1, 10), 12, 24, *first[1:], *(v + 12 for v in first[1:])))


def test_a_pyramid_of_averages():
    """Level 1 counts the padding: (1 + 2) / 4, (3 + 4) / 4, (5 + 6 + 9 + 10) / 4, ..."""
    (top,) = run("SPP", dict(pyramid_height=2, pool="AVE"), [values((1, 1, 3, 4), *range(1, 13))])
    close(top, values((1, 5), 6.5, 0.75, 1.75, 7.5, 9.5))


def test_a_pyramid_of_one_level_is_a_pooling():
    (top,) = run("SPP", dict(pyramid_height=1), [values((2, 1, 1, 3), 1, 3, 2, 5, 4, 6)])
    close(top, values((2, 1, 1, 1), 3, 6))


# ---- Volumes -------------------------------------------------------------------------------------


def test_maxima_of_volumes():
    """C3D's pool3d_layer.cpp: x[l, h, w] = 6 l + 2 h + w of shape (3, 3, 2). Lengths (0, 1) and
    (2, 3), as heights; one pair of columns: 6 + 2 + 1, 6 + 4 + 1, 12 + 2 + 1, 12 + 4 + 1."""
    param = dict(kernel_size=2, kernel_depth=2, stride=2, temporal_stride=2)
    (top,) = run("Pooling3D", param, [values((1, 1, 3, 3, 2))], dialect="c3d")
    close(top, values((1, 1, 2, 2, 1), 9, 11, 15, 17))


def test_averages_of_volumes():
    """Length 1 of 3, stride 2: lengths 0 and 2. 2 x 2 with stride 2, pad 1 on one row 4 8 of each:
    rows (-1, 0), columns (-1, 0), (1, 2): 4 / 4 and 8 / 4; the next row starts in the padding, at
    1, and is not dropped: 1 + 2 - 2 = 1 over 2 rounds up. Its window reaches the padding's end, 2:
    0 / 2."""
    x = values((1, 1, 3, 1, 2), 4, 8, 0, 0, 12, 16)
    param = dict(pool="AVE", kernel_size=2, kernel_depth=1, stride=2, temporal_stride=2, pad=1)
    (top,) = run("Pooling3D", param, [x], dialect="c3d")
    close(top, values((1, 1, 2, 2, 2), 1, 2, 0, 0, 3, 4, 0, 0))


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_volumes_place_by_place(pool):
    """On N 2, C 3, L 5, H 8, W 7, where windows overhang on every axis: what does is not counted.

    ceil((5 - 2) / 2) + 1 = 3, ceil((8 - 3) / 2) + 1 = 4, (7 - 3) / 2 + 1 = 3.
    """
    x = np.random.default_rng(4).standard_normal((2, 3, 5, 8, 7)).astype(np.float32)
    param = dict(pool=pool, kernel_size=3, kernel_depth=2, stride=2, temporal_stride=2)
    expected = np.empty((2, 3, 3, 4, 3), np.float32)
    for n, c, d, h, w in np.ndindex(expected.shape):
        window = x[n, c, 2 * d : 2 * d + 2, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
        expected[n, c, d, h, w] = window.max() if pool == "MAX" else window.mean()
    (top,) = run("Pooling3D", param, [x], dialect="c3d")
    np.testing.assert_allclose(top, expected, rtol=1e-5, atol=1e-6)


# ---- Refused -------------------------------------------------------------------------------------

POOL = {"kernel_size": 3}
SHAPE = (1, 3, 9, 8)


@pytest.mark.parametrize(
    "param, error, message",
    [
        ({**POOL, "pool": "STOCHASTIC"}, UnsupportedModel, "random in training"),
        ({**POOL, "pool": "RCM"}, UnsupportedModel, "RCM; supported: MAX, AVE"),
        ({**POOL, "bin_size": 2}, UnsupportedModel, "bin_size"),
        ({**POOL, "kernel_size_3d": [2, 2, 2]}, UnsupportedModel, "kernel_size_3d"),
        ({**POOL, "dilation": [2]}, UnsupportedModel, "dilation"),
        ({**POOL, "pad_type": 3}, MalformedModel, "pad_type should be 0 or 1"),
        ({**POOL, "pad_type": 1, "pad": 0}, MalformedModel, "pad is given twice"),
        ({**POOL, "pad_type": 1, "pad_l": 1}, MalformedModel, "both given"),
        ({**POOL, "pad_t": 1, "pad": 1}, MalformedModel, "pad is given twice"),
        ({"global_pooling": True, "pad_l": 1}, UnsupportedModel, "global_pooling with padding"),
    ],
)
def test_refused(param, error, message):
    with pytest.raises(error, match=message):
        infer("Pooling", param, [SHAPE])


@pytest.mark.parametrize(
    "type_, dialect, param, shape, error, message",
    [
        ("SPP", "", {}, SHAPE, MalformedModel, "pyramid_height should be positive"),
        ("SPP", "", dict(pyramid_height=1), SHAPE[1:], MalformedModel, "4 axes"),
        ("SPP", "", dict(pyramid_height=4), (1, 1, 9, 5), MalformedModel, "smaller than kernel"),
        ("SPP", "", dict(pyramid_height=2**31), SHAPE, MalformedModel, "smaller than kernel"),
        ("SPP", "", dict(pyramid_height=1, pool="STOCHASTIC"), SHAPE, UnsupportedModel, "random"),
        ("Pooling3D", "c3d", dict(kernel_size=2), SHAPE, MalformedModel, "kernel_depth"),
        ("Pooling3D", "c3d", dict(kernel_size=2, kernel_depth=2), SHAPE, MalformedModel, "5 axes"),
        (
            "Pooling3D",
            "c3d",
            dict(kernel_size=2, kernel_depth=2, pad=1),
            SHAPE,
            MalformedModel,
            "average pooling alone",
        ),
        (
            "Pooling3D",
            "c3d",
            dict(kernel_size=2, kernel_depth=2, pool="STOCHASTIC"),
            SHAPE,
            UnsupportedModel,
            "no CPU code",
        ),
        (
            "Pooling3D",
            "c3d",
            dict(kernel_size=2, kernel_depth=2, ceil_mode=True),
            SHAPE,
            UnsupportedModel,
            "ceil_mode",
        ),
    ],
)
def test_refused_of_the_others(type_, dialect, param, shape, error, message):
    with pytest.raises(error, match=message):
        infer(type_, param, [shape], dialect=dialect)
