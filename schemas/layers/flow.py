"""Optical flow: moving an image along one, and comparing the neighbourhoods of two images."""

from __future__ import annotations

from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import count, need_axes, same_shapes
from schemas.layers.registry import Meaning, layer


@layer("FlowWarp", message="flow_warp_param", dialect="flownet2")
class FlowWarp(Meaning):
    """The image's values where the flow's vectors (x, then y, in pixels) point to, interpolated
    linearly; `fill_value` where they point outside (FlowNet2's flow_warp_layer.cpp)."""

    fill_value: str = "ZERO"

    choices = {"fill_value": ("ZERO", "NOT_A_NUMBER")}
    bottom_count = (2, 2)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        image, flow = bottoms
        need_axes(image, 4)
        wanted = (image[0], 2) + tuple(image[2:])
        if tuple(flow) != wanted:
            raise MalformedModel(f"the flow should have shape {list(wanted)}, found {list(flow)}")
        return [tuple(image)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        image, flow = bottoms
        batch, _, height, width = image.shape
        x = np.arange(width, dtype=np.float32) + flow[:, 0]
        y = np.arange(height, dtype=np.float32)[:, None] + flow[:, 1]
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        x, y = (np.where(inside, place, np.float32(0)) for place in (x, y))
        along, down = (x - np.floor(x))[:, None], (y - np.floor(y))[:, None]
        left, top = x.astype(np.int64), y.astype(np.int64)
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        sample = np.arange(batch)[:, None, None]

        def pixels(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return np.moveaxis(image[sample, :, rows, columns], 3, 1)

        warped = (1 - along) * (1 - down) * pixels(top, left)
        warped += along * (1 - down) * pixels(top, right)
        warped += (1 - along) * down * pixels(bottom, left)
        warped += along * down * pixels(bottom, right)
        fill = np.float32(0 if self.fill_value == "ZERO" else np.nan)
        return [np.ascontiguousarray(np.where(inside[:, None], warped, fill))]


@layer(
    "Correlation",
    message="correlation_param",
    harmless={
        "do_abs": "no code of the fork goes by it",
        "single_direction": "Correlation1D alone goes by it",
    },
    dialect="flownet2",
)
class Correlation(Meaning):
    """How alike the neighbourhood of each place of one image is to those around it in another
    (FlowNet2's correlation_layer.cu; Synopsys' correlation_layer.cpp is its port to the CPU).

    Both are padded with zeros by `pad`. A channel of the top is a displacement, a multiple of
    `stride_2` of at most `max_displacement` in x and y, row by row; its value is the mean over a
    window of `kernel_size` and all channels of the products (SUBTRACT: of the absolute
    differences). `stride_1` leaves out places.
    """

    kernel_size: Optional[int] = None
    max_displacement: Optional[int] = None
    pad: int = 0
    stride_1: int = 1
    stride_2: int = 1
    correlation_type: str = "MULTIPLY"

    choices = {"correlation_type": ("MULTIPLY", "SUBTRACT")}
    bottom_count = (2, 2)

    def check(self) -> None:
        if self.kernel_size is None or self.max_displacement is None:
            raise MalformedModel("kernel_size and max_displacement should be given")
        if self.kernel_size % 2 == 0:
            raise MalformedModel(f"kernel_size should be odd, found {self.kernel_size}")
        if min(self.stride_1, self.stride_2, self.kernel_size) < 1:
            raise MalformedModel("kernel_size, stride_1 and stride_2 should be at least 1")
        if min(self.max_displacement, self.pad) < 0:
            raise MalformedModel("max_displacement and pad should be at least 0")

    def radius(self) -> int:
        """How many displacements there are on each side of none."""
        return (self.max_displacement or 0) // self.stride_2

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        same_shapes(bottoms)
        batch, _, height, width = bottoms[0]
        sides = [self._windows(side) for side in (height, width)]
        if min(sides) < 1:
            raise MalformedModel(
                f"kernel_size and max_displacement do not fit in {height} x {width} pixels"
            )
        return [(batch, (2 * self.radius() + 1) ** 2, sides[0], sides[1])]

    def _windows(self, side: int) -> int:
        room = side + 2 * self.pad - 2 * (self.max_displacement or 0) - (self.kernel_size or 1) + 1
        return -(-room // self.stride_1)

    def displacements(self) -> Iterator[Tuple[int, int]]:
        """(down, along) of each channel."""
        steps = [step * self.stride_2 for step in range(-self.radius(), self.radius() + 1)]
        return ((down, along) for down in steps for along in steps)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        border, kernel = self.max_displacement or 0, self.kernel_size or 1
        pads = [(0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)]
        first, second = (np.pad(bottom, pads) for bottom in bottoms)
        height, width = (side - 2 * border for side in first.shape[2:])
        first = first[:, :, border : border + height, border : border + width]
        (shape,) = self.shapes([bottom.shape for bottom in bottoms], 1)
        out = np.zeros(shape, np.float32)
        for channel, (down, along) in enumerate(self.displacements()):
            y, x = border + down, border + along
            moved = second[:, :, y : y + height, x : x + width]
            if self.correlation_type == "MULTIPLY":
                alike = (first * moved).sum(axis=1)
            else:
                alike = np.abs(first - moved).sum(axis=1)
            for row in range(kernel):
                for column in range(kernel):
                    taken = alike[:, row :: self.stride_1, column :: self.stride_1]
                    out[:, channel] += taken[:, : shape[2], : shape[3]]
        return [out / np.float32(kernel * kernel * first.shape[1])]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        terms = (self.kernel_size or 1) ** 2 * bottoms[0][1]
        return count(tops[0]) * terms if self.correlation_type == "MULTIPLY" else 0


@layer("Correlation1D", dialect="flownet2")
class Correlation1D(Meaning):
    """Correlation along x alone (FlowNet2's correlation_layer1d.cu)."""

    def check(self) -> None:
        raise UnsupportedModel("it has code for GPUs alone: there are no numbers to hold it to")
