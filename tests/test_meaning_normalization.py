"""MVN, the forks' Normalize, L2Normalization and ChannelNorm."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.layers import registry
from tests.meanings import close, infer, run, values

# Two channels of 1 x 2 pixels: (1, 3) and (5, 13).
PAIR = values((1, 2, 1, 2), 1, 3, 5, 13)


@pytest.mark.parametrize(
    "param, expected",
    [
        # Means 2 and 9, deviations 1 and 4: (x - mean) / deviation.
        ({}, [-1, 1, -1, 1]),
        (dict(normalize_variance=False), [-1, 1, -4, 4]),
        # Divisors 1 + 1 and 4 + 1.
        (dict(eps=1), [-0.5, 0.5, -0.8, 0.8]),
        # Divisors sqrt(1 + 9) and sqrt(16 + 9).
        (dict(eps=9, add_eps_before_sqrt=True), [-1 / 10**0.5, 1 / 10**0.5, -0.8, 0.8]),
        # Mean 22 / 4 = 5.5; squares of -4.5, -2.5, -0.5, 7.5 sum up to 83: deviation sqrt(20.75).
        (dict(across_channels=True), np.array([-4.5, -2.5, -0.5, 7.5]) / 20.75**0.5),
        (dict(across_channels=True, normalize_variance=False), [-4.5, -2.5, -0.5, 7.5]),
    ],
    ids=["default", "mean", "eps", "eps-under-root", "across", "across-mean"],
)
def test_mvn(param, expected):
    """mvn_layer.cpp; add_eps_before_sqrt is synopsys-caffe's."""
    (top,) = run("MVN", param, [PAIR])
    close(top.reshape(-1), expected)


def test_mvn_of_one_value_is_0_and_the_top_has_4_axes():
    """mvn_layer.cpp reshapes to num, channels, height, width; 0 / (0 + 1e-9) = 0."""
    (top,) = run("MVN", {}, [values((2, 3), 1, 2, 3, 4, 5, 6)])
    assert top.shape == (2, 3, 1, 1)
    assert not top.any()
    # Across the channels: mean 2, variance 2/3.
    (top,) = run("MVN", dict(across_channels=True), [values((1, 3), 1, 2, 3)])
    close(top.reshape(-1), np.array([-1, 0, 1]) / (2 / 3) ** 0.5)


def test_mvn_of_5_axes_is_refused():
    with pytest.raises(MalformedModel, match="at most 4 axes"):
        infer("MVN", {}, [(1, 2, 3, 4, 5)])


@pytest.mark.parametrize(
    "param, batch, expected",
    [({}, 0, 0), ({}, 1, 1), (dict(across_channels=True), 1, None), ({}, 2, None)],
)
def test_mvn_keeps_the_batch_where_samples_stay_apart(param, batch, expected):
    shape = (2, 3, 4, 5)
    made, _, tops = infer("MVN", param, [shape])
    assert made.batch_axes([shape], [batch], tops) == [expected]


# Two channels of 1 x 2 pixels: (3, 0) and (4, 2); pixels of length 5 and 2, a sample of sqrt(29).
LENGTHS = values((1, 2, 1, 2), 3, 0, 4, 2)


@pytest.mark.parametrize(
    "param, scale, expected",
    [
        ({}, 2, np.array([6, 0, 8, 4]) / 29**0.5),
        (dict(across_spatial=False), 10, [6, 0, 8, 10]),
        (dict(across_spatial=False, channel_shared=False), [10, 5], [6, 0, 4, 5]),
        # sqrt(29 + 7) = 6
        (dict(channel_shared=False, eps=7), [12, 6], [6, 0, 4, 2]),
        # sqrt(25 + 11) = 6, sqrt(4 + 11)
        (dict(across_spatial=False, eps=11), 6, [3, 0, 4, 12 / 15**0.5]),
        # sqrt(29) + 7, but only across_spatial: synopsys-caffe does not look at it elsewhere
        (dict(add_eps_before_sqrt=False, eps=7), 1, np.array([3, 0, 4, 2]) / (29**0.5 + 7)),
        (
            dict(add_eps_before_sqrt=False, across_spatial=False, eps=11),
            6,
            [3, 0, 4, 12 / 15**0.5],
        ),
    ],
)
def test_normalize_of_ssd(param, scale, expected):
    """normalize_layer.cpp of SSD and of synopsys-caffe: x / length * scale."""
    shape = () if isinstance(scale, int) else (2,)
    blob = values(shape, *np.ravel(scale))
    (top,) = run("Normalize", param, [LENGTHS], [blob], dialect="ssd")
    close(top.reshape(-1), expected)


def test_normalize_of_ssd_keeps_the_rank():
    (top,) = run(
        "Normalize", dict(across_spatial=False), [values((1, 2), 3, 4)], [values((), 1)], 1, "ssd"
    )
    close(top, [[0.6, 0.8]])
    for shape in ((3,), (1, 2, 3, 4, 5)):
        with pytest.raises(MalformedModel, match="2 to 4 axes"):
            infer("Normalize", {}, [shape], dialect="ssd")


@pytest.mark.parametrize(
    "param, length",
    [
        # sqrt(9 + 16 + 1e-6), sqrt(4 + 1e-6)
        ({}, [(25 + 1e-6) ** 0.5, (4 + 1e-6) ** 0.5]),
        # 3 + 4 + 1e-6, 2 + 1e-6
        (dict(normalize_type="L1"), [7 + 1e-6, 2 + 1e-6]),
    ],
    ids=["L2", "L1"],
)
def test_normalize_of_happynear(param, length):
    """happynear's normalize_layer.cpp."""
    top, second = run("Normalize", param, [LENGTHS], tops=2, dialect="happynear")
    close(second.reshape(-1), length)
    assert second.shape == (1, 1, 1, 2)
    close(top.reshape(-1), np.array([3, 0, 4, 2]) / (length * 2))
    (alone,) = run("Normalize", param, [LENGTHS], dialect="happynear")
    np.testing.assert_array_equal(alone, top)


def test_normalize_of_happynear_makes_4_axes():
    (top,) = run("Normalize", {}, [values((1, 2), 3, 4)], dialect="happynear")
    assert top.shape == (1, 2, 1, 1)
    close(top.reshape(-1), np.array([3, 4]) / (25 + 1e-6) ** 0.5)


def test_what_is_stored_tells_the_two_apart():
    ssd, happynear = (registry.find("Normalize", name) for name in ("ssd", "happynear"))
    for shapes in ([()], [(8,)], [(1,)]):
        assert ssd.fits_blobs(shapes) and not happynear.fits_blobs(shapes)
    assert happynear.fits_blobs([]) and not ssd.fits_blobs([])


def test_l2_normalization():
    """The sample-wise layer divides by sqrt(9 + 0 + 16 + 4), spongezhang's by 5 and 2."""
    (top,) = run("L2Normalization", {}, [LENGTHS], dialect="gy20073")
    close(top.reshape(-1), np.array([3, 0, 4, 2]) / 29**0.5)
    (top,) = run("L2Normalization", {}, [LENGTHS], dialect="spongezhang")
    close(top.reshape(-1), [0.6, 0, 0.8, 1])
    with np.errstate(all="ignore"):
        (top,) = run("L2Normalization", {}, [values((2, 2), 3, 4, 0, 0)])
    close(top, [[0.6, 0.8], [np.nan, np.nan]])


def test_l2_normalization_of_many_pixels_must_be_chosen():
    assert infer("L2Normalization", {}, [(2, 5, 1, 1)])[2] == [(2, 5, 1, 1)]
    assert infer("L2Normalization", {}, [(2, 5)])[2] == [(2, 5)]
    with pytest.raises(UnsupportedModel, match="--dialect gy20073"):
        infer("L2Normalization", {}, [(2, 5, 1, 3)])


def test_channel_norm():
    """channel_norm_layer.cpp: 3, 4 -> 5; 0, 2 -> 2; no eps, so that 0, 0 -> 0."""
    bottom = values((1, 2, 1, 3), 3, 0, 0, 4, 2, 0)
    (top,) = run("ChannelNorm", {}, [bottom], dialect="flownet2")
    assert top.shape == (1, 1, 1, 3)
    close(top.reshape(-1), [5, 2, 0])
