"""Scale and Bias, with weights of their own or a second bottom; ChannelScale, Mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering


def _aligned(shape: Sequence[int], axis: int, rank: int) -> tuple[int, ...]:
    """The shape, from `axis` on, of a bottom with `rank` axes, in Caffe's order and all axes."""
    return (1,) * axis + tuple(shape) + (1,) * (rank - axis - len(shape))


def _tensor(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A parameter as it lines up with the last axes of the tensor."""
    tensor = layout.to_tensor(array.reshape(_aligned(array.shape, axis, rank)))
    return tensor.reshape(_short(tensor.shape))


def _short(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without the ones it starts with."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _shape(site: Site, blob: Sequence[int], axis: int) -> tuple[int, ...]:
    rank = len(site.bottoms[0].shape)
    return _short(layout.tensor_shape(_aligned(blob, axis, rank)))


def _axis(site: Site) -> int:
    """Where the operand starts among the first bottom's axes."""
    shapes = [blob.shape for blob in site.bottoms]
    return int(site.meaning.start(len(shapes[0]), len(site.meaning.operand(shapes))))


@lowering("Scale", any_size=True)
def scale(site: Site) -> Call:
    made, rank, axis = site.meaning, len(site.bottoms[0].shape), _axis(site)
    shapes = made.weight_shapes([blob.shape for blob in site.bottoms])

    def weights() -> list[np.ndarray]:
        return [_tensor(site.arrays[i], axis, rank) for i in range(len(shapes))]

    if len(site.bottoms) == 2:
        bias_shape = _shape(site, shapes[0], axis) if shapes else None
        return Call("scale_by", {"axis": axis, "bias_shape": bias_shape}, weights)
    return Call("scale", {"shape": _shape(site, shapes[0], axis), "bias": made.bias_term}, weights)


@lowering("Bias", any_size=True)
def bias(site: Site) -> Call:
    made, rank, axis = site.meaning, len(site.bottoms[0].shape), _axis(site)
    if len(site.bottoms) == 2:
        return Call("bias_by", {"axis": axis})
    shape = made.weight_shapes([site.bottoms[0].shape])[0]
    return Call(
        "bias", {"shape": _shape(site, shape, axis)}, lambda: [_tensor(site.arrays[0], axis, rank)]
    )


@lowering("ChannelScale", dialect="happynear")
def channel_scale(site: Site) -> Call:
    made = site.meaning
    if not made.do_forward:
        return Call("unscaled", alias=True)
    if not made.global_scale:
        return Call("scale_places")
    both = len(site.tops) == 2
    return Call("scale_all", {"both": both}, lambda: [made.factor(site.arrays[0])])


@lowering("Mean", dialect="flownet2", any_size=True)
def mean(site: Site) -> Call:
    made = site.meaning
    return Call(
        "shift_channels",
        {
            0: made.value,
            "shift_scale": made.signed_scale,
            "input_scale": made.input_scale,
            "output_scale": made.output_scale,
        },
    )
