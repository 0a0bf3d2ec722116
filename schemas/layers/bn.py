"""BN, which is a type of many forks: four blobs with statistics, or two without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.batch_normalization import TRAINING, PerChannel, scaled
from schemas.layers.normalization import as_images, average
from schemas.layers.registry import BIAS, ENGINE, FILLER, Filler, Meaning, layer


def _are(shapes: Sequence[Shape], number: int, *forms: Shape) -> bool:
    """Whether there are so many blobs, all of one of the forms; -1 is any size."""
    return len(shapes) == number and any(
        all(
            len(shape) == len(form) and all(b in (-1, a) for a, b in zip(shape, form))
            for shape in shapes
        )
        for form in forms
    )


@dataclass(frozen=True, eq=False)
class BN(PerChannel):
    """A BN of four blobs: slope, bias, mean and one more."""

    frozen: bool = False

    running = (2, 3)

    @property
    def affines(self) -> int:
        return 2

    def blob_shape(self, channels: int) -> Shape:
        """The shape of each blob."""
        raise NotImplementedError

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        _, channels, _, _ = as_images(bottoms[0])
        return [self.blob_shape(channels)] * 4

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("slope_filler"), BIAS, Filler(), Filler(value=float(self.frozen))]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        return weights[2].reshape(-1), weights[3].reshape(-1)

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        return [weights[0].reshape(-1), weights[1].reshape(-1)]


_BN_HARMLESS = {
    "slope_filler": FILLER,
    "bias_filler": FILLER,
    "momentum": TRAINING,
    "engine": ENGINE,
}


@layer("BN", message="bn_param", harmless=_BN_HARMLESS, dialect="pspnet")
class PspnetBN(BN):
    """(x - mean) / sqrt(variance + eps) * slope + bias, from four blobs 1xCx1x1 in this order:
    slope, bias, mean, variance (PSPNet's bn_layer.cpp).

    `frozen` says no more than what the variance starts as without weights: the TEST phase reads the
    stored statistics either way.
    """

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return _are(shapes, 4, (1, -1, 1, 1))

    def blob_shape(self, channels: int) -> Shape:
        return (1, channels, 1, 1)


@layer("BN", message="bn_param", harmless=_BN_HARMLESS, dialect="tsn")
class TsnBN(BN):
    """PSPNet's formula from four blobs 1xC (yjxiong's bn_layer.cpp)."""

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return _are(shapes, 4, (1, -1), (1, 1, 1, -1))

    def blob_shape(self, channels: int) -> Shape:
        return (1, channels)


@layer("BN", message="bn_param", harmless=_BN_HARMLESS, dialect="happynear")
class HappynearBN(TsnBN):
    """(x - mean) * inverse * slope + bias from four blobs 1xC: slope, bias, mean, and the inverse
    of the standard deviation (bn_layer.cpp of happynear and of L-Softmax).

    Nothing in the layer tells it from yjxiong's, which is taken unless the net has other layers
    of happynear's or the user says so.
    """

    contested = True

    def fillers(self, blobs: int) -> List[Filler]:
        return [*super().fillers(blobs)[:3], Filler(value=1.0)]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """The mean, and the variance that with eps makes the inverse's size."""
        with np.errstate(all="ignore"):
            variance = np.square(1 / weights[3].astype(np.float64)) - self.eps
        return weights[2].reshape(-1), variance.astype(np.float32).reshape(-1)

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        """The slope with the inverse's sign, and the bias."""
        slope, bias, _, inverse = (part.reshape(-1) for part in weights)
        return [np.where(inverse < 0, -slope, slope), bias]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        channel = (-1,) + (1,) * (bottoms[0].ndim - 2)
        slope, bias, mean, inverse = (part.reshape(channel) for part in weights)
        return [scaled((bottoms[0] - mean) * inverse, [slope, bias])]


@dataclass(frozen=True, eq=False)
class ImageBN(Meaning):
    """A BN of two blobs, scale and shift, that normalizes by the statistics of the batch."""

    @property
    def batch_statistics(self) -> bool:
        """Whether it normalizes at all, and does not only scale and shift."""
        return True

    def over(self) -> Tuple[int, ...]:
        """The axes of the images that the statistics run over."""
        return (0, 2, 3)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        shape = as_images(bottoms[0])
        return [tuple(1 if axis in self.over() else n for axis, n in enumerate(shape))] * 2

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("scale_filler"), Filler("shift_filler")]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0

    def normalized(
        self, bottom: np.ndarray, weights: Sequence[np.ndarray], eps: float
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images, normalized, scaled and shifted; their mean; their variance."""
        images = bottom.reshape(as_images(bottom.shape))
        mean = average(images, self.over())
        top = images - mean
        variance = average(np.square(top), self.over())
        top /= np.sqrt(variance + np.float32(eps))
        return scaled(top, weights), mean, variance


@layer(
    "BN",
    message="bn_param",
    harmless={"scale_filler": FILLER, "shift_filler": FILLER, "engine": ENGINE},
    dialect="segnet",
)
class SegnetBN(ImageBN):
    """SegNet's and ENet's BN (bn_layer.cpp), with two blobs 1xCx1x1: scale, shift.

    INFERENCE is x * scale + shift. LEARN, the default, is (x - mean) / sqrt(variance + 1e-9) *
    scale + shift with the statistics of the batch, in the TEST phase too; its second and third top
    are mean and variance, 1xCx1x1. The first top always has 4 axes.
    """

    bn_mode: str = "LEARN"

    choices = {"bn_mode": ("LEARN", "INFERENCE")}
    top_count = (1, 3)
    epsilon = 1e-9

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return _are(shapes, 2, (1, -1, 1, 1))

    @property
    def batch_statistics(self) -> bool:
        return self.bn_mode == "LEARN"

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        if tops > 1 and not self.batch_statistics:
            raise MalformedModel(f"bn_mode: INFERENCE has one top, found {tops}")
        images = as_images(bottoms[0])
        return [images, (1, images[1], 1, 1), (1, images[1], 1, 1)][:tops]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [None if self.batch_statistics or batches[0] == 1 else batches[0]] * len(tops)

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        if not self.batch_statistics:
            images = bottoms[0].reshape(as_images(bottoms[0].shape))
            return [images * weights[0] + weights[1]]
        return list(self.normalized(bottoms[0], weights, self.epsilon))[:tops]


@layer(
    "BN",
    message="bn_param",
    harmless={"scale_filler": FILLER, "shift_filler": FILLER, "decay": TRAINING},
    dialect="parsenet",
)
class ParsenetBN(ImageBN):
    """(x - mean) / sqrt(variance + var_eps) * scale + shift with the statistics of the batch, for
    each channel or, with ``across_spatial: false``, for each value (ParseNet's bn_layer.cpp).

    The top always has 4 axes. The running averages that ``moving_average: true`` asks for are not
    among the two blobs, scale and shift.
    """

    var_eps: float = 1e-10
    moving_average: bool = False
    across_spatial: bool = True

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        """Whether they cannot be SegNet's, which are taken for meant where no field tells."""
        return len(shapes) == 2 and not SegnetBN.fits_blobs(shapes)

    def check(self) -> None:
        if self.moving_average:
            raise UnsupportedModel(
                "moving_average: true asks for statistics that ParseNet does not store"
            )

    @property
    def epsilon(self) -> float:
        return self.var_eps

    def over(self) -> Tuple[int, ...]:
        return (0, 2, 3) if self.across_spatial else (0,)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        return [as_images(bottoms[0])]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        return [self.normalized(bottoms[0], weights, self.var_eps)[0]]
