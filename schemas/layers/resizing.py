"""Images at another size: each row, then each column, is a weighted sum of some of the bottom's.

Which ones, and with what weights, depends on sizes alone.
"""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes
from schemas.layers.registry import MAX_COUNT, Meaning, layer

Pair = Tuple[int, int]


class Taps(NamedTuple):
    """What one axis of the top is made of.

    Attributes:
        pixels: (taps, out) places on the bottom's axis.
        weights: (taps, out) float32; 0 where a tap lies beside the image.
    """

    pixels: np.ndarray
    weights: np.ndarray


def half_away(x: np.ndarray) -> np.ndarray:
    """C's round(): to the nearest whole number, a half away from zero; float32."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole).astype(np.float32)


def around(place: np.ndarray, size: int, reach: float) -> Tuple[np.ndarray, np.ndarray]:
    """The pixels within `reach` of each place, and how far they are: (taps, out), float32.

    What lies beside the image is infinitely far.
    """
    radius = math.ceil(reach)
    pixels = np.floor(place) + np.arange(-radius, radius + 2, dtype=np.float32)[:, None]
    beside = (pixels < 0) | (pixels >= size)
    away = np.where(beside, np.float32(np.inf), np.abs(place - pixels))
    return np.clip(pixels, 0, size - 1).astype(np.int64), away


def between(place: np.ndarray, size: int) -> Taps:
    """Linear interpolation at these places; the last pixel has no partner."""
    pixels, away = around(place, size, 0)
    return Taps(pixels, np.maximum(1 - away, 0))


def aligned(size: int, out: int) -> Taps:
    """Linear interpolation with the corner pixels on one another."""
    step = np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
    place = step * np.arange(out, dtype=np.float32)
    return between(np.minimum(place, np.float32(size - 1)), size)


def resized(images: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Images (N, C, H, W), their columns and then their rows sampled."""
    for taps, axis in ((columns, 3), (rows, 2)):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        images = sum(
            images.take(pixels, axis) * weights.reshape(shape) for pixels, weights in zip(*taps)
        )
    return np.ascontiguousarray(images)


class Resizing(Meaning):
    """What all resizing layers share; a second bottom, where there is one, gives the size alone."""

    bottom_count = (1, 2)

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        """(height, width) of the top."""
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        for bottom in bottoms:
            need_axes(bottom, 4)
        return [tuple(bottoms[0][:2]) + self.size(bottoms)]


@layer("Interp", message="interp_param", dialect="pspnet")
class Interp(Resizing):
    """Linear interpolation with aligned corners, after a crop (PSPNet's and DeepLab's
    interp_layer.cpp and util/interp.cpp).

    Negative `pad_beg` and `pad_end` crop both axes. Which fields are written decides the size:
    `shrink_factor` alone or `zoom_factor` alone wins over `height` and `width`, these over both
    factors, and these over Synopsys' `full_zoom_factor` (in * factor). Some forks take the size
    from a second bottom.
    """

    height: Optional[int] = None
    width: Optional[int] = None
    zoom_factor: Optional[int] = None
    shrink_factor: Optional[int] = None
    full_zoom_factor: Optional[int] = None
    pad_beg: int = 0
    pad_end: int = 0

    def check(self) -> None:
        if self.pad_beg > 0 or self.pad_end > 0:
            raise MalformedModel(
                f"pad_beg and pad_end should be at most 0 (a crop), found {self.pad_beg} and "
                f"{self.pad_end}"
            )
        for name in ("zoom_factor", "shrink_factor", "full_zoom_factor"):
            factor = getattr(self, name)
            if factor is not None and factor < 1:
                raise MalformedModel(f"{name} should be at least 1, found {factor}")

    def cropped(self, bottom: Shape) -> Pair:
        """(height, width) of what is left of the bottom.

        Raises:
            MalformedModel: nothing is.
        """
        height, width = (side + self.pad_beg + self.pad_end for side in bottom[2:])
        if min(height, width) < 1:
            raise MalformedModel(
                f"pad_beg {self.pad_beg} and pad_end {self.pad_end} leave nothing of "
                f"{list(bottom[2:])} pixels"
            )
        return height, width

    def fixed(self) -> Optional[Pair]:
        """(height, width) of the top where those of the one bottom do not matter."""
        one_factor = (self.shrink_factor is None) != (self.zoom_factor is None)
        if one_factor or self.height is None or self.width is None:
            return None
        return self.height, self.width

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        sides = self.cropped(bottoms[0])
        shrink, zoom = self.shrink_factor, self.zoom_factor
        if len(bottoms) == 2:
            if {shrink, zoom, self.full_zoom_factor, self.height, self.width} != {None}:
                raise MalformedModel("a size and a second bottom, which is one, are both given")
            return bottoms[1][2], bottoms[1][3]
        fixed = self.fixed()
        if fixed is not None:
            return fixed
        if shrink is None and zoom is None:
            return self._enlarged(sides)
        height, width = ((side - 1) // (shrink or 1) * (zoom or 1) + 1 for side in sides)
        return height, width

    def _enlarged(self, sides: Pair) -> Pair:
        if self.full_zoom_factor is None:
            raise MalformedModel("a factor, or both height and width, should be given")
        return sides[0] * self.full_zoom_factor, sides[1] * self.full_zoom_factor

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        shapes = [bottom.shape for bottom in bottoms]
        height, width = self.cropped(shapes[0])
        out_h, out_w = self.size(shapes)
        start = -self.pad_beg
        images = bottoms[0][:, :, start : start + height, start : start + width]
        return [resized(images, aligned(height, out_h), aligned(width, out_w))]


@layer(
    "Resample",
    message="resample_param",
    harmless={"factor": "no code of the fork reads it"},
    dialect="flownet2",
)
class Resample(Resizing):
    """Sums of the pixels under a kernel, normalised at the border (FlowNet2's resample_layer.cu;
    Synopsys' resample_layer.cpp is its port to the CPU).

    With f = in / out of either axis, pixel i of x is taken at ``i * fx + fy / 2 - 0.5`` and of y
    at ``i * fy + fx / 2 - 0.5``: the halves are swapped there. Where `antialias` is on and either
    f is over 1, the kernel is stretched by each axis's f.
    """

    height: int = 0
    width: int = 0
    type: str = "LINEAR"
    antialias: bool = True

    choices = {"type": ("NEAREST", "LINEAR", "CUBIC")}

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        if len(bottoms) == 2:
            return bottoms[1][2], bottoms[1][3]
        if self.height < 1 or self.width < 1:
            raise MalformedModel("height and width should be given, or a second bottom")
        return self.height, self.width

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        (top,) = super().shapes(bottoms, tops)
        if self.type == "NEAREST" and min(top[2:]) > 0:
            steps = _steps(bottoms[0][2:], top[2:])
            for side, out, step, other in zip(bottoms[0][2:], top[2:], steps, steps[::-1]):
                ends = half_away(_places(np.array([0, out - 1]), step, other))
                if ends[0] < 0 or ends[1] >= side:
                    raise UnsupportedModel(
                        "NEAREST with factors that differ reads beside the image in the fork's code"
                    )
        return [top]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        size, out = bottoms[0].shape[2:], self.size([bottom.shape for bottom in bottoms])
        steps = _steps(size, out)
        stretched = self.antialias and max(steps) > 1
        taps = [
            self._taps(_places(np.arange(top), step, other), side, float(step) if stretched else 1)
            for side, top, step, other in zip(size, out, steps, steps[::-1])
        ]
        return [resized(bottoms[0], *taps)]

    def _taps(self, place: np.ndarray, size: int, stretch: float) -> Taps:
        if self.type == "NEAREST":
            return Taps(half_away(place).astype(np.int64)[None], np.ones((1, len(place)), "f4"))
        # The fork's window holds all of the kernel, so that nothing need be said of it.
        pixels, away = around(place, size, (2 if self.type == "CUBIC" else 1) * float(stretch))
        away = away / np.float32(stretch)
        shares = _cubic(away) if self.type == "CUBIC" else np.maximum(1 - away, 0)
        total = shares.sum(axis=0)
        return Taps(pixels, np.divide(shares, total, out=np.zeros_like(shares), where=total != 0))


def _steps(size: Sequence[int], out: Sequence[int]) -> List[np.float32]:
    """Pixels of the bottom to one of the top, for each axis."""
    return [np.float32(side) / np.float32(top) for side, top in zip(size, out)]


def _places(index: np.ndarray, step: np.float32, other: np.float32) -> np.ndarray:
    """Where these pixels of the top are taken; `other` is the other axis's step."""
    return index.astype(np.float32) * step + other / np.float32(2) - np.float32(0.5)


def _cubic(away: np.ndarray) -> np.ndarray:
    """The cubic kernel of a = -0.5 at these distances."""
    away = np.minimum(away, np.float32(2))
    near = away * away * (1.5 * away - 2.5) + 1
    far = away * (away * (2.5 - 0.5 * away) - 4) + 2
    return np.where(away <= 1, near, far).astype(np.float32)


@layer("Downsample", message="downsample_param", dialect="flownet2")
class Downsample(Resizing):
    """Means under a triangle as wide as the step, corners aligned (FlowNet2's downsample_layer.cu).

    A NaN is left out of its mean; where the NaNs' weight is over half that of the rest, the mean
    is NaN. At its own size the bottom is kept.
    """

    top_height: int = 0
    top_width: int = 0

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        size = (self.top_height, self.top_width) if len(bottoms) == 1 else bottoms[1][2:]
        if min(size) < 1:
            raise MalformedModel("top_height and top_width should be given, or a second bottom")
        if tuple(size) != tuple(bottoms[0][2:]) and min(*size, *bottoms[0][2:]) == 1:
            raise UnsupportedModel("an image one pixel high or wide makes the fork divide by zero")
        return size[0], size[1]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        images = bottoms[0]
        size = self.size([bottom.shape for bottom in bottoms])
        if size == images.shape[2:]:
            return [images.copy()]
        taps = [_triangles(side, out) for side, out in zip(images.shape[2:], size)]
        known = ~np.isnan(images)
        weight = resized(known.astype(np.float32), *taps)
        unknown = resized((~known).astype(np.float32), *taps)
        with np.errstate(divide="ignore", invalid="ignore"):
            means = resized(np.where(known, images, np.float32(0)), *taps) / weight
            return [np.where(unknown / weight > 0.5, np.float32(np.nan), means)]


def _triangles(size: int, out: int) -> Taps:
    step = np.float32(size - 1) / np.float32(out - 1)
    place = np.arange(out, dtype=np.float32) / np.float32(out - 1) * np.float32(size - 1)
    pixels, away = around(place, size, float(step))
    return Taps(pixels, np.maximum(1 - away / step, 0))


@layer("Accum", message="accum_param", dialect="flownet2")
class Accum(Meaning):
    """All bottoms, interpolated linearly with aligned corners to one size, one after the other on
    the channel axis (FlowNet2's accum_layer.cpp).

    The size is that of the largest height and width; or `top_height` and `top_width`, or the
    largest rounded up to multiples of `size_divisible_by`, where both are larger than it; or, with
    `have_reference`, that of the last bottom, of which nothing else is read.
    """

    top_height: int = 0
    top_width: int = 0
    size_divisible_by: Optional[int] = None
    have_reference: bool = False

    bottom_count = (1, None)

    def check(self) -> None:
        if self.size_divisible_by is not None and self.size_divisible_by < 1:
            raise MalformedModel("size_divisible_by should be at least 1")

    def joined(self, bottoms: Sequence[Shape]) -> Sequence[Shape]:
        """The bottoms that make up the top."""
        return bottoms[:-1] if self.have_reference else bottoms

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        """(height, width) of the top."""
        if self.have_reference:
            return bottoms[-1][2], bottoms[-1][3]
        height, width = (max(bottom[axis] for bottom in bottoms) for axis in (2, 3))
        wanted = (self.top_height, self.top_width)
        if self.size_divisible_by is not None:
            part = self.size_divisible_by
            wanted = (-(-height // part) * part, -(-width // part) * part)
        return wanted if wanted[0] > height and wanted[1] > width else (height, width)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        for bottom in bottoms:
            need_axes(bottom, 4)
        joined = self.joined(bottoms)
        if not joined:
            raise MalformedModel("have_reference needs a bottom beside the reference")
        if len({bottom[0] for bottom in joined}) > 1:
            raise MalformedModel("the bottoms should be of one batch size")
        size = self.size(bottoms)
        if min(size) == 1:
            raise UnsupportedModel("a top one pixel high or wide makes the fork divide by zero")
        return [(joined[0][0], sum(bottom[1] for bottom in joined)) + size]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        height, width = self.size([bottom.shape for bottom in bottoms])
        joined = bottoms[:-1] if self.have_reference else bottoms
        parts = [
            resized(images, aligned(images.shape[2], height), aligned(images.shape[3], width))
            for images in joined
        ]
        return [np.concatenate(parts, axis=1)]


@layer("Resize", message="resize_param", dialect="happynear")
class Resize(Resizing):
    """Linear interpolation at ``i * in / out``, so that the first pixels are on one another
    (happynear's resize_layer.cpp and util_img.cpp).

    Beyond the last row or column the weights are left without a partner: values fade there.
    """

    height: Optional[int] = None
    width: Optional[int] = None
    is_pyramid_test: bool = False
    out_height_scale: Optional[float] = None
    out_width_scale: Optional[float] = None

    bottom_count = (1, 1)

    def size(self, bottoms: Sequence[Shape]) -> Pair:
        if self.is_pyramid_test:
            if self.out_height_scale is None or self.out_width_scale is None:
                raise MalformedModel("out_height_scale and out_width_scale should be given")
            scales = (self.out_height_scale, self.out_width_scale)
            with np.errstate(over="ignore"):
                sides = np.array(scales, np.float32) * np.array(bottoms[0][2:], np.float32)
            if not (sides <= MAX_COUNT).all():
                raise MalformedModel(f"the scales {scales} leave no size")
            return int(sides[0]), int(sides[1])
        if self.height is None or self.width is None:
            raise MalformedModel("height and width should be given")
        return self.height, self.width

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        size = self.size([bottoms[0].shape])
        taps = []
        for side, out in zip(bottoms[0].shape[2:], size):
            place = np.arange(out, dtype=np.float32) * (np.float32(side) / np.float32(out))
            taps.append(between(place, side))
        return [resized(bottoms[0], *taps)]
