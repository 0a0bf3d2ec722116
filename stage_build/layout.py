"""Caffe's NCHW meaning <-> TensorFlow's NHWC tensors: the only module that knows the mapping.

A 4-axis blob is NHWC in TensorFlow; a blob of any other rank keeps Caffe's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_BLOCK = 64
_TO_TENSOR = (0, 2, 3, 1)
_TO_BLOB = (0, 3, 1, 2)


def to_tensor(blob: np.ndarray) -> np.ndarray:
    """A blob's values as the tensor holds them."""
    return np.ascontiguousarray(blob.transpose(_TO_TENSOR)) if blob.ndim == 4 else blob


def to_blob(tensor: np.ndarray) -> np.ndarray:
    """A tensor's values as Caffe holds them."""
    return np.ascontiguousarray(tensor.transpose(_TO_BLOB)) if tensor.ndim == 4 else tensor


@dataclass(frozen=True)
class Door:
    """How a model's inputs and outputs stand to Caffe's blobs; only those of four axes differ.

    Attributes:
        layout: ``nhwc`` or ``nchw``, of inputs.
        swapped: inputs of three channels have them in reverse.
        transposed: height and width have changed places, in inputs and outputs.
    """

    layout: str = "nhwc"
    swapped: bool = False
    transposed: bool = False

    @classmethod
    def of(cls, names: Mapping[str, Any]) -> Door:
        """The door of a result, from its names.json."""
        return cls(**names.get("door", {}))

    def feed(self, blob: np.ndarray) -> np.ndarray:
        """An input of Caffe's as the model takes it."""
        if blob.ndim != 4:
            return blob
        turned = self._turned(self._swapped(blob))
        return np.ascontiguousarray(turned) if self.layout == "nchw" else to_tensor(turned)

    def taken(self, tensor: np.ndarray) -> np.ndarray:
        """An input of the model as Caffe has it: the reverse of `feed`."""
        if tensor.ndim != 4:
            return tensor
        blob = tensor if self.layout == "nchw" else to_blob(tensor)
        return np.ascontiguousarray(self._swapped(self._turned(blob)))

    def given(self, tensor: np.ndarray) -> np.ndarray:
        """An output of the model as Caffe has it."""
        blob = to_blob(tensor)
        return np.ascontiguousarray(self._turned(blob)) if blob.ndim == 4 else blob

    def input_order(self, per_axis: Sequence[T]) -> tuple[T, ...]:
        """One value for each of an input blob's axes, in the order of the model's axes."""
        values = self._turned_order(per_axis)
        return values if self.layout == "nchw" else tensor_order(values)

    def output_order(self, per_axis: Sequence[T]) -> tuple[T, ...]:
        """The same of an output."""
        return tensor_order(self._turned_order(per_axis))

    def _turned_order(self, per_axis: Sequence[T]) -> tuple[T, ...]:
        turned = self.transposed and len(per_axis) == 4
        return tuple(per_axis[axis] for axis in (0, 1, 3, 2)) if turned else tuple(per_axis)

    def _swapped(self, blob: np.ndarray) -> np.ndarray:
        return blob[:, ::-1] if self.swapped and blob.shape[1] == 3 else blob

    def _turned(self, blob: np.ndarray) -> np.ndarray:
        return blob.swapaxes(2, 3) if self.transposed else blob


def tensor_order(per_axis: Sequence[T]) -> tuple[T, ...]:
    """One value for each of a blob's axes, in the order of the tensor's axes."""
    return tuple(per_axis[axis] for axis in _TO_TENSOR) if len(per_axis) == 4 else tuple(per_axis)


def tensor_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A blob's shape as the tensor has it."""
    return tensor_order(shape)


def tensor_axis(axis: int, rank: int) -> int:
    """Caffe's (non-negative) axis of a blob of `rank` axes, as an axis of the tensor.

    The last axis is given as -1, as Keras users write the channel axis.
    """
    place = _TO_TENSOR.index(axis) if rank == 4 else axis
    return -1 if place == rank - 1 and place else place


def tensor_permutation(axes: Sequence[int]) -> tuple[int, ...]:
    """The axes of a transpose of a blob, as axes of the tensors.

    Args:
        axes: for each axis of the result, which axis of the blob it is.
    """
    rank = len(axes)
    return tuple(tensor_axis(axis, rank) % rank for axis in tensor_order(axes))


def _first_axis_last(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """A copy with the axes in the order `axes`, of which 0 is the last.

    Made in blocks of the first axis: in one go, every value of a large array would miss the cache.
    """
    result = np.empty([array.shape[axis] for axis in axes], array.dtype)
    for start in range(0, len(array), _BLOCK):
        result[..., start : start + _BLOCK] = array[start : start + _BLOCK].transpose(axes)
    return result


def convolution_kernel(weight: np.ndarray) -> np.ndarray:
    """(out, in/group, *kernel) -> Keras's (*kernel, in/group, out)."""
    return _first_axis_last(weight, (*range(2, weight.ndim), 1, 0))


def depthwise_kernel(weight: np.ndarray, channels: int) -> np.ndarray:
    """(channels * multiplier, 1, kh, kw) -> Keras's (kh, kw, channels, multiplier)."""
    count, _, height, width = weight.shape
    return weight.reshape(channels, count // channels, height, width).transpose(2, 3, 0, 1)


def deconvolution_kernel(weight: np.ndarray) -> np.ndarray:
    """(in, out, kh, kw) -> Keras's (kh, kw, out, in)."""
    return weight.transpose(2, 3, 1, 0)


def grouped_deconvolution_kernel(weight: np.ndarray, group: int) -> np.ndarray:
    """(in, out/group, *kernel) -> the kernel (*kernel, in/group, out) of a grouped convolution."""
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(group, inputs // group, outputs, *kernel)
    grouped = grouped.transpose(*range(3, grouped.ndim), 1, 0, 2)
    return grouped.reshape(*kernel, inputs // group, group * outputs)


def local_kernel(weight: np.ndarray, channels: int, out: Sequence[int]) -> np.ndarray:
    """(outputs, 1, channels * taps, places) -> (*out, taps * channels, outputs)."""
    outputs, places = len(weight), weight.shape[-1]
    taps = weight.reshape(outputs, channels, -1, places).transpose(3, 2, 1, 0)
    return taps.reshape(*out, -1, outputs)


def inner_product_kernel(weight: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """(out, K) -> (K, out), with K reordered from C, H, W to H, W, C where the bottom is NHWC.

    Args:
        shape: the axes that are flattened into K, in Caffe's order.
    """
    if len(shape) == 3:
        return convolution_kernel(weight.reshape(-1, *shape)).reshape(-1, len(weight))
    return _first_axis_last(weight, (1, 0))
