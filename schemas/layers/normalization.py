"""Normalization of each sample alone: LRN, MVN, the forks' Normalize and their kin."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import need_axes, taps
from schemas.layers.pooling import Windows
from schemas.layers.registry import ENGINE, FILLER, Filler, Meaning, layer


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


def as_images(shape: Shape) -> Shape:
    """A shape of up to 4 axes as num(), channels(), height(), width() have it (blob.hpp).

    Raises:
        MalformedModel: it has more axes.
    """
    if len(shape) > 4:
        raise MalformedModel(f"the bottom should have at most 4 axes, found shape {list(shape)}")
    return tuple(shape) + (1,) * (4 - len(shape))


def total(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The sums over the axes, which stay as ones: float32, summed in float64."""
    return values.sum(axis=tuple(axes), dtype=np.float64, keepdims=True).astype(np.float32)


def average(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The means over the axes, which stay as ones: float32, summed in float64."""
    return values.mean(axis=tuple(axes), dtype=np.float64, keepdims=True).astype(np.float32)


@layer("MVN", message="mvn_param")
class MVN(Meaning):
    """(x - mean) / (sqrt(variance) + eps) over the pixels of each channel or, across_channels, of
    each sample; the top always has 4 axes (mvn_layer.cpp).

    ``normalize_variance: false`` leaves the division out. With ``add_eps_before_sqrt: true``
    (synopsys-caffe), the divisor is sqrt(variance + eps).
    """

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9
    add_eps_before_sqrt: bool = False

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [as_images(bottoms[0])]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 1 if self.across_channels else 2

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        axes = (1, 2, 3) if self.across_channels else (2, 3)
        images = bottoms[0].reshape(as_images(bottoms[0].shape))
        top = images - average(images, axes)
        if self.normalize_variance:
            variance, eps = average(np.square(top), axes), np.float32(self.eps)
            with np.errstate(all="ignore"):
                top /= (
                    np.sqrt(variance + eps) if self.add_eps_before_sqrt else np.sqrt(variance) + eps
                )
        return [top]


@layer("Normalize", message="norm_param", harmless={"scale_filler": FILLER}, dialect="ssd")
class Normalize(Meaning):
    """x / sqrt(sum of x^2 + eps) * scale, the sum being over the channels of each pixel or,
    across_spatial, over each sample; one scale for all channels (channel_shared) or one for each
    (SSD's normalize_layer.cpp).

    ``add_eps_before_sqrt: false`` (synopsys-caffe) makes the divisor sqrt(sum) + eps, there too
    only with across_spatial.
    """

    across_spatial: bool = True
    channel_shared: bool = True
    eps: float = 1e-10
    add_eps_before_sqrt: bool = True

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return len(shapes) == 1

    @property
    def eps_after_root(self) -> bool:
        """Whether eps is added to the root, not under it."""
        return self.across_spatial and not self.add_eps_before_sqrt

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise MalformedModel(
                f"the bottom should have 2 to 4 axes, found shape {list(bottoms[0])}"
            )
        return [() if self.channel_shared else (bottoms[0][1],)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("scale_filler", 1.0)]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x, eps = bottoms[0], np.float32(self.eps)
        squares = total(np.square(x), range(1, x.ndim) if self.across_spatial else (1,))
        with np.errstate(all="ignore"):
            top = x / (np.sqrt(squares) + eps if self.eps_after_root else np.sqrt(squares + eps))
        return [top * weights[0].reshape((-1,) + (1,) * (x.ndim - 2))]


@layer(
    "Normalize",
    message="normalize_param",
    harmless={
        "fix_gradient": "steers the backward pass",
        "bp_norm": "steers the backward pass",
    },
    dialect="happynear",
)
class NormalizeChannels(Meaning):
    """x by its length over the channels of each pixel, sqrt(sum of x^2 + 1e-6) or, for L1,
    sum of |x| + 1e-6; the second top is that length (happynear's normalize_layer.cpp).

    The tops always have 4 axes.
    """

    normalize_type: str = "L2"

    choices = {"normalize_type": ("L1", "L2")}
    top_count = (1, 2)
    eps = 1e-6

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return not shapes

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        images = as_images(bottoms[0])
        return [images, (images[0], 1) + images[2:]][:tops]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x, eps = bottoms[0].reshape(as_images(bottoms[0].shape)), np.float32(self.eps)
        if self.normalize_type == "L1":
            length = total(np.abs(x), (1,)) + eps
        else:
            length = np.sqrt(total(np.square(x), (1,)) + eps)
        return [x / length, length][:tops]


@layer("L2Normalization")
class L2Normalization(Meaning):
    """x / sqrt(sum of x^2 over the sample), for samples of one pixel, where all forks agree.

    Elsewhere some sum over the whole sample and others over the channels of each pixel, which
    nothing in the prototxt tells. A sample of zeros becomes NaN.
    """

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if any(size != 1 for size in as_images(bottoms[0])[2:]):
            raise UnsupportedModel(
                "L2Normalization of more than one pixel sums over the whole sample in some forks "
                "and over the channels of each pixel in others",
                hint="choose with --dialect gy20073 (sample) or spongezhang (pixel)",
            )
        return [tuple(bottoms[0])]

    def axes(self, rank: int) -> Tuple[int, ...]:
        """The axes of the bottom that the sum runs over."""
        return tuple(range(1, rank))

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        squares = total(np.square(bottoms[0]), self.axes(bottoms[0].ndim))
        with np.errstate(all="ignore"):
            return [bottoms[0] / np.sqrt(squares)]


@layer("L2Normalization", dialect="gy20073")
class L2NormalizationOfSamples(L2Normalization):
    """x / sqrt(sum of x^2 over the sample) (the sample-wise layer of compact_bilinear_pooling)."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [tuple(bottoms[0])]


@layer("L2Normalization", dialect="spongezhang")
class L2NormalizationOfPixels(L2Normalization):
    """x / sqrt(sum of x^2 over the channels of each pixel); the top always has 4 axes
    (spongezhang's l2_normalization_layer.cpp)."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [as_images(bottoms[0])]

    def axes(self, rank: int) -> Tuple[int, ...]:
        return (1,)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return super().forward([bottoms[0].reshape(as_images(bottoms[0].shape))], weights, tops)


@layer("ChannelNorm", dialect="flownet2")
class ChannelNorm(Meaning):
    """sqrt(sum of x^2 over the channels), as one channel (FlowNet2's channel_norm_layer.cpp)."""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        batch, _, height, width = as_images(bottoms[0])
        return [(batch, 1, height, width)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [np.sqrt(total(np.square(bottoms[0].reshape(as_images(bottoms[0].shape))), (1,)))]
