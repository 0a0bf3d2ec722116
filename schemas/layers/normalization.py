"""LRN and BatchNorm."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes, taps
from schemas.layers.pooling import Windows
from schemas.layers.registry import ENGINE, Meaning, layer


@layer("LRN", message="lrn_param", harmless={"engine": ENGINE})
class LRN(Meaning):
    """x * (k + alpha/n * sum of x^2 over n channels)^-beta, or, within a channel,
    x * (1 + alpha * average of x^2 over n by n pixels)^-beta, which k is no part of
    (lrn_layer.cpp)."""

    local_size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    norm_region: str = "ACROSS_CHANNELS"
    k: float = 1.0

    choices = {"norm_region": ("ACROSS_CHANNELS", "WITHIN_CHANNEL")}

    def check(self) -> None:
        if self.local_size % 2 != 1:
            raise MalformedModel(f"local_size should be odd, found {self.local_size}")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        need_axes(bottoms[0], 4)
        return [tuple(bottoms[0])]

    def windows(self, height: int, width: int) -> Windows:
        """The windows whose averages WITHIN_CHANNEL takes."""
        size, pad = (height, width), (self.local_size - 1) // 2
        return Windows(size, (self.local_size,) * 2, stride=(1, 1), pad=(pad, pad), out=size)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        squares = np.square(bottoms[0])
        if self.norm_region == "WITHIN_CHANNEL":
            scale = self.windows(*squares.shape[2:]).averages(squares)
            scale *= np.float32(self.alpha)
            scale += np.float32(1)
        else:
            squares *= np.float32(self.alpha / self.local_size)
            scale = np.full_like(squares, self.k)
            channels, pad = squares.shape[1], (self.local_size - 1) // 2
            for _, out, window in taps(channels, channels, self.local_size, pad=pad):
                scale[:, out] += squares[:, window]
        return [bottoms[0] * np.power(scale, np.float32(-self.beta), out=scale)]


@layer(
    "BatchNorm",
    message="batch_norm_param",
    harmless={
        "moving_average_fraction": "steers the running averages, which no TEST pass reads",
        "update_global_stats": "steers the running averages, which no TEST pass reads",
        "engine": ENGINE,
    },
)
class BatchNorm(Meaning):
    """(x - mean) / sqrt(variance + eps) per channel, the statistics being the stored ones or, with
    ``use_global_stats: false``, the batch's own (batch_norm_layer.cpp)."""

    use_global_stats: Optional[bool] = None
    eps: float = 1e-5

    @property
    def stored(self) -> bool:
        """Whether the stored statistics are used, as in the TEST phase by default."""
        return self.use_global_stats is not False

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        if len(bottoms[0]) < 2:
            raise MalformedModel(
                f"the bottom should have a channel axis, found shape {list(bottoms[0])}"
            )
        return [(bottoms[0][1],), (bottoms[0][1],), (1,)]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """The stored mean and variance (C,), divided by the factor they were saved with.

        As in Caffe, a factor of 0 makes both 0, and the division is a multiplication by the
        float32 reciprocal.
        """
        factor = weights[2].reshape(-1)[0]
        scale = np.float32(0) if factor == 0 else np.float32(1) / factor
        return weights[0].reshape(-1) * scale, weights[1].reshape(-1) * scale

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x = bottoms[0]
        channel = (-1,) + (1,) * (x.ndim - 2)
        if self.stored:
            mean, variance = self.statistics(weights)
            top = x - mean.reshape(channel)
        else:
            others = (0,) + tuple(range(2, x.ndim))
            top = x - x.mean(axis=others, dtype=np.float64).astype(np.float32).reshape(channel)
            variance = np.square(top).mean(axis=others, dtype=np.float64).astype(np.float32)
        top /= np.sqrt(variance + np.float32(self.eps)).reshape(channel)
        return [top]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [batches[0] if self.stored and batches[0] != 1 else None]
