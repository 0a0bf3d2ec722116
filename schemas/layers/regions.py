"""Regions of interest: a grid of values of fixed size out of each box of an image.

A box is a row of bottom 1: the image it lies in, x1, y1, x2, y2, in pixels of the net's input; the
ends belong to it. An image that is not there, at which the forks stop, is taken as the nearest.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes
from schemas.layers.pooling import LOWEST
from schemas.layers.registry import Meaning, layer
from schemas.layers.resizing import half_away

Pair = Tuple[int, int]


class Bins(NamedTuple):
    """One axis of every region's grid: bin i of region r is ``low[r, i]:high[r, i]``."""

    low: np.ndarray
    high: np.ndarray


class Samples(NamedTuple):
    """One axis of every region's grid: cell i of region r is the sum of ``weights[r, i]`` times
    ``pixels[r, i]``, the taps being the last axis."""

    pixels: np.ndarray
    weights: np.ndarray


class Regions(Meaning):
    """What all the layers share; subclasses say what a grid's cell is."""

    spatial_scale: float

    bottom_count = (2, 2)

    def grid(self) -> Pair:
        """(height, width) of a region's grid."""
        raise NotImplementedError

    def channels(self, channels: int) -> int:
        """How many channels the top has."""
        return channels

    def cells(self, images: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The top.

        Args:
            images: bottom 0.
            image: the place of each region's image.
            boxes: (regions, 4): x1, y1, x2, y2.
        """
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        image, rois = bottoms
        need_axes(image, 4)
        if not rois or count(rois[1:]) != 5:
            raise MalformedModel(f"a region should have 5 values, found shape {list(rois)}")
        return [(rois[0], self.channels(image[1])) + self.grid()]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        if axes[0] is not None or axes[1] not in (None, 0):
            raise UnsupportedModel("the number of images, or of values, depends on the data")
        return [axes[1]]

    def examples(self, bottoms: Sequence[Shape]) -> Dict[int, np.ndarray]:
        """Boxes of a tenth to all of an image, their middles spread evenly over it, image by image;
        some reach over its border."""
        images, rois = bottoms
        row = np.arange(rois[0])
        # Multiples of irrational numbers: no two boxes are alike, and none are bunched together.
        part = (row[:, None] + 1) * np.sqrt([2, 3, 5, 7]) % 1
        pixels = 1 / self.spatial_scale if self.spatial_scale > 0 else 1.0
        size = np.array([images[3], images[2]]) * pixels
        middle, half = part[:, :2] * size, (0.05 + 0.45 * part[:, 2:]) * size
        boxes = np.column_stack([row % images[0], middle - half, middle + half])
        return {1: boxes.astype(np.float32).reshape(rois)}

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        images, rois = bottoms[0], bottoms[1].reshape(len(bottoms[1]), 5)
        image = np.clip(rois[:, 0], 0, len(images) - 1).astype(np.int64)
        top = self.cells(images, image, rois[:, 1:])
        return [np.ascontiguousarray(top, dtype=np.float32)]


def _axis_bins(start: np.ndarray, size: np.ndarray, bins: int, limit: int) -> Bins:
    """`size` from `start` in equal bins, rounded outwards and clipped to the image."""
    index = np.arange(bins, dtype=np.float32)
    step = (size / np.float32(bins))[:, None]
    whole = start.dtype.kind == "i"
    start = start.astype(np.float32)[:, None]
    low, high = (
        np.floor(index * step) + start if whole else np.floor(index * step + start),
        np.ceil((index + 1) * step) + start if whole else np.ceil((index + 1) * step + start),
    )
    return Bins(*(np.clip(end, 0, limit).astype(np.int64) for end in (low, high)))


def _grid_cells(rows: Bins, columns: Bins) -> Iterator[Tuple[int, int, int, slice, slice]]:
    """(region, row, column, pixel rows, pixel columns) of every bin that is not empty."""
    for region, (tops, bottoms) in enumerate(zip(*rows)):
        for row, (top, bottom) in enumerate(zip(tops, bottoms)):
            for column, (left, right) in enumerate(zip(columns.low[region], columns.high[region])):
                if top < bottom and left < right:
                    yield region, row, column, slice(top, bottom), slice(left, right)


@layer("ROIPooling", message="roi_pooling_param", dialect="faster-rcnn")
class ROIPooling(Regions):
    """The maximum of each bin of a region, 0 where it has no pixels (caffe-fast-rcnn's
    roi_pooling_layer.cpp).

    The corners are scaled by `spatial_scale` and rounded; bins overlap where they do not divide.
    """

    pooled_h: int = 0
    pooled_w: int = 0
    spatial_scale: float = 1.0

    def check(self) -> None:
        if self.pooled_h < 1 or self.pooled_w < 1:
            raise MalformedModel("pooled_h and pooled_w should be positive")

    def grid(self) -> Pair:
        return self.pooled_h, self.pooled_w

    def cells(self, images: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        corners = half_away(boxes * np.float32(self.spatial_scale)).astype(np.int64)
        x1, y1, x2, y2 = corners.T
        height, width = (np.maximum(end, 1).astype("f4") for end in (y2 - y1 + 1, x2 - x1 + 1))
        rows = _axis_bins(y1, height, self.pooled_h, images.shape[2])
        columns = _axis_bins(x1, width, self.pooled_w, images.shape[3])
        top = np.zeros((len(boxes), images.shape[1]) + self.grid(), np.float32)
        for region, row, column, high, wide in _grid_cells(rows, columns):
            pixels = images[image[region], :, high, wide]
            # As in Caffe, a NaN is never greater.
            greatest = np.fmax.reduce(pixels, axis=(1, 2), initial=LOWEST)
            top[region, :, row, column] = greatest
        return top


class PositionSensitive(Regions):
    """Cell (i, j) of output d has a channel of its own, (d * group_size + i) * group_size + j."""

    output_dim: int
    group_size: int

    def check(self) -> None:
        if self.output_dim < 1 or self.group_size < 1:
            raise MalformedModel("output_dim and group_size should be positive")

    def grid(self) -> Pair:
        return self.group_size, self.group_size

    def channels(self, channels: int) -> int:
        if channels != self.output_dim * self.group_size**2:
            raise MalformedModel(
                f"output_dim * group_size * group_size should be the number of channels, {channels}"
            )
        return self.output_dim

    def sides(self, corners: np.ndarray) -> List[Tuple[np.ndarray, np.ndarray]]:
        """(start, size) of each region's height and width, at least 0.1.

        Args:
            corners: (regions, 4) in pixels of the images; here the far ends do not belong to it.
        """
        x1, y1, x2, y2 = corners.T
        return [
            (low, np.maximum(high - low, np.float32(0.1))) for low, high in ((y1, y2), (x1, x2))
        ]

    def by_cell(self, images: np.ndarray) -> np.ndarray:
        """Bottom 0 as (N, output_dim, group_size, group_size, H, W)."""
        return images.reshape(len(images), -1, self.group_size, self.group_size, *images.shape[2:])


@layer("PSROIPooling", message="psroi_pooling_param", dialect="r-fcn")
class PSROIPooling(PositionSensitive):
    """The mean of each bin of a region, of the bin's own channels; 0 where it has no pixels
    (R-FCN's psroi_pooling_layer.cu; py-RFCN-priv's psroi_pooling_layer.cpp is its port to the CPU).

    The corners are rounded, and only then scaled by `spatial_scale`.
    """

    spatial_scale: float = 0.0
    output_dim: int = 0
    group_size: int = 0

    def cells(self, images: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        corners = half_away(boxes)
        corners[:, 2:] += 1
        sides = self.sides(corners * np.float32(self.spatial_scale))
        rows, columns = (
            _axis_bins(start, size, self.group_size, limit)
            for (start, size), limit in zip(sides, images.shape[2:])
        )
        maps = self.by_cell(images)
        top = np.zeros((len(boxes), self.output_dim) + self.grid(), np.float32)
        for region, row, column, high, wide in _grid_cells(rows, columns):
            pixels = maps[image[region], :, row, column, high, wide]
            top[region, :, row, column] = pixels.mean(axis=(1, 2))
        return top


@layer("PSROIAlign", message="psroi_align_param", dialect="makefile-frcnn")
class PSROIAlign(PositionSensitive):
    """The mean of `sample_num` by `sample_num` interpolated samples of each bin of a region, of the
    bin's own channels (makefile/frcnn's psroi_align_layer.cpp).

    Nothing is rounded. Bins are clipped to the image; a sample at or past the clipped end counts
    as 0 in the mean.
    """

    spatial_scale: float = 0.0
    output_dim: int = 0
    group_size: int = 0
    sample_num: int = 2

    def check(self) -> None:
        super().check()
        if self.sample_num < 1:
            raise MalformedModel("sample_num should be positive")

    def cells(self, images: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        corners = boxes.copy()
        corners[:, 2:] += 1
        sides = self.sides(corners * np.float32(self.spatial_scale))
        rows, columns = (
            self._samples(start, size, limit)
            for (start, size), limit in zip(sides, images.shape[2:])
        )
        maps = self.by_cell(images)
        cell = np.arange(self.group_size)
        top = np.empty((len(boxes), self.output_dim) + self.grid(), np.float32)
        for region, place in enumerate(image):
            # Cell by cell: (i, j, row taps, column taps, outputs).
            high = rows.pixels[region][:, None, :, None]
            wide = columns.pixels[region][None, :, None, :]
            pixels = maps[place][
                :, cell[:, None, None, None], cell[None, :, None, None], high, wide
            ]
            weights = (rows.weights[region], columns.weights[region])
            top[region] = np.einsum("dijst,is,jt->dij", pixels, *weights, optimize=True)
        return top

    def _samples(self, start: np.ndarray, size: np.ndarray, limit: int) -> Samples:
        index = np.arange(self.group_size, dtype=np.float32)
        step = (size / np.float32(self.group_size))[:, None]
        low, high = (
            np.clip(end * step + start[:, None], 0, np.float32(limit - 1))
            for end in (index, index + 1)
        )
        between = (step / np.float32(self.sample_num + 1))[:, :, None]
        place = low[:, :, None] + np.arange(1, self.sample_num + 1, dtype=np.float32) * between
        counted = (place < high[:, :, None]) / np.float32(self.sample_num)
        place = np.minimum(place, np.float32(limit - 1))
        first = place.astype(np.int64)
        part = place - first
        pixels = np.stack([first, np.minimum(first + 1, limit - 1)], -1)
        weights = np.stack([(1 - part) * counted, part * counted], -1)
        shape = step.shape[:1] + (self.group_size, 2 * self.sample_num)
        return Samples(pixels.reshape(shape), weights.reshape(shape).astype(np.float32))


@layer(
    "ROIAlign",
    message="roi_pooling_param",
    harmless={"is_multi_interpolate": "the fork's code for the CPU does not read it"},
    dialect="makefile-frcnn",
)
class ROIAlign(Regions):
    """An interpolated sample at the middle of each bin of a region (makefile/frcnn's
    roi_align_layer.cpp).

    `bi_type` 1 is cubic with a = -1, anything else linear. `pad_ratio` widens the region by that
    part of its size on each side. The far ends are clipped to the size of the net's input, after
    they were scaled to the map, as there; a linear sample on the last row or column is 0, as there.
    """

    pooled_h: int = 0
    pooled_w: int = 0
    spatial_scale: float = 1.0
    pad_ratio: float = 0.0
    bi_type: int = 1

    def check(self) -> None:
        if self.pooled_h < 1 or self.pooled_w < 1:
            raise MalformedModel("pooled_h and pooled_w should be positive")
        if np.float32(self.spatial_scale) == 0:
            raise UnsupportedModel("spatial_scale 0 makes the fork divide by zero")

    def grid(self) -> Pair:
        return self.pooled_h, self.pooled_w

    def cells(self, images: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = boxes.T
        rows = self._samples(y1, y2, self.pooled_h, images.shape[2])
        columns = self._samples(x1, x2, self.pooled_w, images.shape[3])
        top = np.empty((len(boxes), images.shape[1]) + self.grid(), np.float32)
        for region, place in enumerate(image):
            band = images[place][:, rows.pixels[region]]
            band = np.einsum("citw,it->ciw", band, rows.weights[region])
            pixels = band[:, :, columns.pixels[region]]
            top[region] = np.einsum("cijt,jt->cij", pixels, columns.weights[region])
        return top

    def _samples(self, low: np.ndarray, high: np.ndarray, bins: int, limit: int) -> Samples:
        scale = np.float32(self.spatial_scale)
        pad = (high - low + 1) * np.float32(self.pad_ratio)
        input_size = half_away(np.float32(limit) / scale)
        low = np.maximum((low - pad) * scale, 0)
        high = np.minimum((high + pad) * scale, input_size - 1)
        step = np.maximum(high - low + 1, 1) / np.float32(bins)
        middle = np.arange(bins, dtype=np.float32) + np.float32(0.5)
        place = np.clip(middle * step[:, None] + low[:, None], 0, np.float32(limit - 1))
        first = place.astype(np.int64)
        part = place - first
        if self.bi_type == 1:
            pixels = first[..., None] + np.arange(-1, 3)
            away = np.abs(part[..., None] - np.arange(-1, 3, dtype=np.float32))
            return Samples(np.clip(pixels, 0, limit - 1), _cubic(away))
        last = np.minimum(first + 1, limit - 1)
        weights = np.stack([last - place, part], -1).astype(np.float32)
        return Samples(np.stack([first, last], -1), weights)


def _cubic(away: np.ndarray) -> np.ndarray:
    """The cubic kernel of a = -1 at these distances, at most 2."""
    near = 1 - 2 * away**2 + away**3
    far = 4 - 8 * away + 5 * away**2 - away**3
    return np.where(away < 1, near, np.where(away < 2, far, 0)).astype(np.float32)


@layer("ROIAlign", message="roi_align_param", dialect="synopsys")
class SynopsysROIAlign(Meaning):
    """Synopsys' own layer of this name (its roi_align_layer.cpp), told by its parameter message."""

    pooled_h: int = 0
    pooled_w: int = 0
    spatial_scale: float = 1.0

    def check(self) -> None:
        raise UnsupportedModel(
            "synopsys-caffe's code leaves out every region but those whose place in the list is "
            "their image's"
        )


@layer("DeformablePSROIPooling", dialect="makefile-frcnn")
class DeformablePSROIPooling(Meaning):
    """Position-sensitive pooling with learned offsets (deformable_psroi_pooling_layer.cu)."""

    def check(self) -> None:
        raise UnsupportedModel("it has code for GPUs alone: there are no numbers to hold it to")


@layer("ROIMaskPooling", dialect="makefile-frcnn")
class ROIMaskPooling(Meaning):
    """ROIPooling around a masked middle (makefile/frcnn's roi_mask_pooling_layer.cpp)."""

    def check(self) -> None:
        raise UnsupportedModel("its code for the CPU leaves the mask out, that for GPUs does not")


@layer("ROIWarping", dialect="soeaver")
class ROIWarping(Meaning):
    """Interpolated maxima of regions (MNC's roi_warping_layer.cu, also in py-RFCN-priv)."""

    def check(self) -> None:
        raise UnsupportedModel("it has code for GPUs alone: there are no numbers to hold it to")
