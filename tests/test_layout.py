"""Where Caffe's axes are in a tensor, for values, shapes, axes and weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stage_build import layout

SHAPES = [(), (2,), (2, 3), (2, 3, 5), (2, 3, 5, 7), (2, 3, 5, 7, 11)]


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_blob_comes_back_from_its_tensor(shape):
    blob = numbered(*shape)
    tensor = layout.to_tensor(blob)
    assert tensor.shape == layout.tensor_shape(shape)
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(layout.to_blob(tensor), blob, strict=True)
    assert layout.to_blob(tensor).flags.c_contiguous


def test_four_axes_are_turned_and_no_others():
    assert [layout.tensor_shape(shape) for shape in SHAPES] == [
        *SHAPES[:4],
        (2, 5, 7, 3),
        SHAPES[5],
    ]
    assert layout.to_tensor(numbered(2, 3, 5, 7))[1, 4, 6, 2] == numbered(2, 3, 5, 7)[1, 2, 4, 6]


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_an_axis_is_found_where_the_tensor_has_it(shape):
    tensor = layout.tensor_shape(shape)
    for axis, size in enumerate(shape):
        place = layout.tensor_axis(axis, len(shape))
        assert tensor[place] == size
        assert (place == -1) == (place % len(shape) == len(shape) - 1 and len(shape) > 1)


def correlation(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlation of NHWC with (kh, kw, in, out), without padding."""
    (kh, kw), (_, height, width, _) = kernel.shape[:2], x.shape
    windows = [
        [
            np.einsum("nhwi,hwio->no", x[:, i : i + kh, j : j + kw], kernel)
            for j in range(width - kw + 1)
        ]
        for i in range(height - kh + 1)
    ]
    return np.stack([np.stack(row, 1) for row in windows], 1)


def test_a_convolution_s_kernel():
    """out[n, o, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[o, c, a, b]."""
    x, weight = numbered(2, 3, 5, 7), numbered(11, 3, 2, 4)
    expected = np.zeros((2, 11, 4, 4))
    for i, j in np.ndindex(4, 4):
        expected[:, :, i, j] = np.einsum("ncab,ocab->no", x[:, :, i : i + 2, j : j + 4], weight)
    kernel = layout.convolution_kernel(weight)
    np.testing.assert_allclose(layout.to_blob(correlation(layout.to_tensor(x), kernel)), expected)


def test_a_depthwise_kernel_keeps_each_channel_s_filters_together():
    weight = numbered(6, 1, 2, 5)
    kernel = layout.depthwise_kernel(weight, 3)
    assert kernel.shape == (2, 5, 3, 2)
    for channel, filter_ in np.ndindex(3, 2):
        np.testing.assert_array_equal(
            kernel[:, :, channel, filter_], weight[channel * 2 + filter_, 0]
        )


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_a_transpose_of_tensors_is_that_of_their_blobs(rank):
    blob = numbered(*(2, 3, 5, 7, 4)[:rank])
    for axes in itertools.permutations(range(rank)):
        tensor = layout.to_tensor(blob).transpose(layout.tensor_permutation(axes))
        np.testing.assert_array_equal(layout.to_blob(tensor), blob.transpose(axes))


def test_a_deconvolution_s_kernel():
    weight = numbered(3, 11, 2, 5)
    kernel = layout.deconvolution_kernel(weight)
    assert kernel.shape == (2, 5, 11, 3)
    assert kernel[1, 4, 10, 2] == weight[2, 10, 1, 4]


def test_a_grouped_deconvolution_s_kernel_is_a_grouped_convolution_s():
    weight = numbered(6, 5, 2, 3)  # 2 groups: 3 inputs and 5 outputs each
    kernel = layout.grouped_deconvolution_kernel(weight, 2)
    assert kernel.shape == (2, 3, 3, 10)
    for group, i, o in np.ndindex(2, 3, 5):
        np.testing.assert_array_equal(kernel[:, :, i, group * 5 + o], weight[group * 3 + i, o])


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (3, 5, 7), (2, 3, 5, 7)], ids=str)
def test_an_inner_product_s_kernel_fits_the_flattened_tensor(shape):
    # Whole numbers in double precision: exact in any order of summation.
    x = numbered(2, *shape).astype(np.float64)
    weight = numbered(11, int(np.prod(shape))).astype(np.float64)
    expected = x.reshape(2, -1) @ weight.T
    flat = layout.to_tensor(x).reshape(2, -1)
    np.testing.assert_array_equal(flat @ layout.inner_product_kernel(weight, shape), expected)
