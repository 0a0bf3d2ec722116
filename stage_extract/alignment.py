"""The Crop of the old FCN branch ("future"), whose offsets follow from the layers before it.

Such a Crop has no parameters. Caffe walks back from both of its bottoms to the blob that they have
in common, and takes from the windows on the way where a pixel of one lies in the other
(crop_layer.cpp and coord_map() of that branch, which HED and its descendants use). Here those
offsets are written down as the layer's own.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import List, Mapping, NamedTuple, Sequence, Tuple

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Blob, Layer, Shape
from schemas.layers import registry
from schemas.layers.convolution import BaseConvolution, Deconvolution
from schemas.layers.pooling import Pooling
from schemas.layers.shaping import AlignedCrop, Cropped


class Along(NamedTuple):
    """Where pixel x of a layer's bottom lies in its top, along one axis: scale * x + shift."""

    scale: Fraction
    shift: Fraction

    def after(self, first: Along) -> Along:
        """This map of what `first` makes."""
        return Along(self.scale * first.scale, self.scale * first.shift + self.shift)

    def inverse(self) -> Along:
        return Along(1 / self.scale, -self.shift / self.scale)


MAX_WAY = 1000  # blobs that are walked back over; each such Crop walks

_SAME = (Along(Fraction(1), Fraction(0)),) * 2

# Rows and columns.
Coordinates = Tuple[Along, Along]


def aligned(
    layer: Layer,
    bottoms: Sequence[str],
    before: Sequence[Layer],
    blobs: Mapping[str, Blob],
    notes: List[str],
) -> Layer:
    """The layer, where it is a Crop of the old FCN branch with its offsets.

    Args:
        bottoms: the keys of its bottoms.
        before: the layers before it, with keys for bottoms and tops.
        blobs: the blobs by key.
        notes: takes which offsets were found.

    Raises:
        MalformedModel: the bottoms cannot be aligned.
        UnsupportedModel: a layer on the way resizes by a rule that the branch does not know.
    """
    if registry.find(layer.type, layer.dialect) is not AlignedCrop:
        return layer
    with registry.located(layer):
        offsets = _offsets(bottoms, before, blobs)
    notes.append(f"{layer}: its bottoms are aligned at row {offsets[0]}, column {offsets[1]}")
    return replace(layer, fields={**layer.fields, "crop_param": {"aligned": offsets}})


def decides(layer: Layer) -> bool:
    """Whether the layer is one that may be such a Crop."""
    return AlignedCrop in registry.dialects(layer.type).values()


def agrees(bottoms: Sequence[str], before: Sequence[Layer], blobs: Mapping[str, Blob]) -> bool:
    """Whether such a Crop would do what BVLC's does, which starts at 0, or would be refused.

    Args: as of `aligned`.
    """
    try:
        return not any(_offsets(bottoms, before, blobs))
    except (MalformedModel, UnsupportedModel):
        return True


def _offsets(
    bottoms: Sequence[str], before: Sequence[Layer], blobs: Mapping[str, Blob]
) -> List[int]:
    """The first row and column of bottom 0 that bottom 1 covers."""
    if len(bottoms) != 2:
        raise MalformedModel(f"2 bottoms expected, found {len(bottoms)}")
    writers = {key: layer for layer in before for key in layer.tops}
    cropped, like = (_way(key, writers) for key in bottoms)
    common = next((key for key in like if key in cropped), None)
    if common is None:
        raise MalformedModel("no layer before it leads to both of its bottoms")
    reached, wanted = (
        _composed(way[: way.index(common)], writers, blobs) for way in (cropped, like)
    )
    offsets = []
    for scale, shift in (b.after(a.inverse()) for a, b in zip(reached, wanted)):
        if scale != 1 or shift > 0 or shift.denominator != 1:
            raise MalformedModel(
                f"pixel x of bottom 0 lies at {scale} x + {shift} in bottom 1; "
                "x - n with a whole n of 0 or more expected"
            )
        offsets.append(-int(shift))
    return offsets


def _way(key: str, writers: Mapping[str, Layer]) -> List[str]:
    """The blobs from `key` back along each layer's first bottom."""
    way = [key]
    while way[-1] in writers and writers[way[-1]].bottoms and len(way) < MAX_WAY:
        way.append(writers[way[-1]].bottoms[0])
    return way


def _composed(
    way: Sequence[str], writers: Mapping[str, Layer], blobs: Mapping[str, Blob]
) -> Coordinates:
    """Where the pixels of the last layer's bottom lie in the first blob of the way."""
    rows, columns = _SAME
    for key in way:
        layer = writers[key]
        down, right = _map(layer, blobs[layer.bottoms[0]].shape, blobs[key].shape)
        rows, columns = rows.after(down), columns.after(right)
    return rows, columns


def _map(layer: Layer, bottom: Shape, top: Shape) -> Coordinates:
    """coord_map() of the layer's type."""
    made = registry.meaning(layer)
    if isinstance(made, (BaseConvolution, Pooling)) and len(bottom) == 4:
        if isinstance(made, Pooling):
            window = made.geometry(*bottom[2:])
            sizes = window.kernel, window.stride, window.pad
        else:
            geometry = made.geometry()
            sizes = geometry.kernel, geometry.stride, geometry.pad
        rows, columns = (
            Along(Fraction(stride), Fraction(kernel - 1, 2) - pad)
            for kernel, stride, pad in zip(*sizes)
        )
        if isinstance(made, Deconvolution):
            return rows, columns
        return rows.inverse(), columns.inverse()
    if isinstance(made, Cropped) and len(bottom) == 4:
        rows, columns = (Along(Fraction(1), Fraction(-o)) for o in made.offsets(4)[2:])
        return rows, columns
    if bottom[2:] != top[2:]:
        raise UnsupportedModel(
            f"{layer} lies between the bottoms, and how it moves pixels is not known"
        )
    return _SAME
