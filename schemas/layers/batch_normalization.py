"""BatchNorm, as BVLC and the forks have it: by stored statistics, or by those of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.normalization import average
from schemas.layers.registry import BIAS, ENGINE, FILLER, Filler, Meaning, layer

TRAINING = "steers the running averages, which no TEST pass reads"


def by_factor(
    mean: np.ndarray, variance: np.ndarray, factor: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """The stored mean and variance (C,), divided by the factor they were saved with.

    As in Caffe, a factor of 0 makes both 0, and the division is a multiplication by the float32
    reciprocal.
    """
    value = factor.reshape(-1)[0]
    scale = np.float32(0) if value == 0 else np.float32(1) / value
    return mean.reshape(-1) * scale, variance.reshape(-1) * scale


@dataclass(frozen=True, eq=False)
class PerChannel(Meaning):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift for each channel, axis 1.

    Subclasses say how the four are stored.
    """

    eps: float = 1e-5

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        return self.eps

    @property
    def stored(self) -> bool:
        """Whether mean and variance are stored ones, and not those of the batch."""
        return True

    @property
    def affines(self) -> int:
        """0 without scale and shift, 1 with a scale, 2 with both."""
        return 0

    @property
    def rectified(self) -> bool:
        """Whether max(., 0) comes last."""
        return False

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """The stored mean and variance (C,), float32."""
        raise NotImplementedError

    def batch_statistics(self, x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The mean and variance of each channel of the bottom, the other axes being ones."""
        mean = average(x, others(x.ndim))
        return mean, average(np.square(x - mean), others(x.ndim))

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        """The scale and the shift, (C,), as many as there are."""
        return []

    def channels(self, bottom: Shape) -> int:
        """How many channels the bottom has.

        Raises:
            MalformedModel: it has no axis of channels.
        """
        if len(bottom) < 2:
            raise MalformedModel(
                f"the bottom should have a channel axis, found shape {list(bottom)}"
            )
        return bottom[1]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        self.channels(bottoms[0])
        return [tuple(bottoms[0])]

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [batches[0] if self.stored and batches[0] != 1 else None] * len(tops)

    def per_channel(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        if not self.stored or self.rectified:
            return None
        mean, variance = (part.astype(np.float64) for part in self.statistics(weights))
        affine = [part.reshape(-1).astype(np.float64) for part in self.affine(weights)]
        scale, shift = (affine + [np.ones(1), np.zeros(1)][len(affine) :])[:2]
        factor = scale / np.sqrt(variance + self.epsilon)
        return factor, shift - mean * factor

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        x = bottoms[0]
        found = self.statistics(weights) if self.stored else self.batch_statistics(x)
        channel = (-1,) + (1,) * (x.ndim - 2)
        mean, variance = (part.reshape(channel) for part in found)
        top = x - mean
        top /= np.sqrt(variance + np.float32(self.epsilon))
        top = scaled(top, [part.reshape(channel) for part in self.affine(weights)])
        return [np.maximum(top, 0) if self.rectified else top]


def others(rank: int) -> Tuple[int, ...]:
    """All axes but that of the channels."""
    return (0,) + tuple(range(2, rank))


def scaled(x: np.ndarray, affine: Sequence[np.ndarray]) -> np.ndarray:
    """x * scale + shift, in place, as far as they are given."""
    for step, values in zip((np.multiply, np.add), affine):
        step(x, values, out=x)
    return x


@dataclass(frozen=True, eq=False)
class Switched(PerChannel):
    """Statistics that are stored, as in the TEST phase by default, or the batch's own."""

    use_global_stats: Optional[bool] = None

    @property
    def stored(self) -> bool:
        return self.use_global_stats is not False


@layer(
    "BatchNorm",
    message="batch_norm_param",
    harmless={
        "moving_average_fraction": TRAINING,
        "update_global_stats": TRAINING,
        "engine": ENGINE,
    },
)
class BatchNorm(Switched):
    """(x - mean) / sqrt(variance + eps) per channel, the statistics being the stored ones or, with
    ``use_global_stats: false``, the batch's own (batch_norm_layer.cpp).

    Fields of forks: happynear's ``disable_mean`` and ``disable_variance`` leave the subtraction
    and the division out; synopsys-caffe's ``add_eps_before_sqrt: false`` makes the divisor
    sqrt(variance) + eps, and its ``icnet`` saves memory.
    """

    disable_mean: bool = False
    disable_variance: bool = False
    add_eps_before_sqrt: bool = True
    icnet: bool = False

    running = (0, 1, 2)

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return not shapes or len(shapes) == 3

    def check(self) -> None:
        if not self.stored and (self.icnet or not self.add_eps_before_sqrt):
            raise UnsupportedModel(
                "use_global_stats: false in synopsys-caffe, which has no variance then in TEST"
            )

    @property
    def epsilon(self) -> float:
        return self.eps if self.add_eps_before_sqrt and not self.disable_variance else 0.0

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels: Shape = (self.channels(bottoms[0]),)
        return [channels, channels, (1,)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler()] * blobs

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        mean, variance = by_factor(*weights)
        if self.disable_variance:
            variance = np.ones_like(variance)
        elif not self.add_eps_before_sqrt:
            variance = np.square(np.sqrt(variance) + np.float32(self.eps))
        return np.zeros_like(mean) if self.disable_mean else mean, variance

    def batch_statistics(self, x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        mean, variance = super().batch_statistics(x)
        if self.disable_mean:
            mean, variance = np.zeros_like(mean), average(np.square(x), others(x.ndim))
        return mean, np.ones_like(variance) if self.disable_variance else variance


@layer(
    "BatchNorm",
    message="batch_norm_param",
    harmless={
        "use_global_stats": "a TEST pass reads the stored statistics whatever it says",
        "moving_average_fraction": TRAINING,
        "engine": ENGINE,
    },
    dialect="nvidia",
)
class NvidiaBatchNorm(PerChannel):
    """NVIDIA's caffe-0.16 and 0.17 (batch_norm_layer.cpp): always the stored statistics, and an
    eps of at least 1e-5.

    Blobs: mean, variance, factor and, with ``scale_bias`` or a filler, scale and bias. The factor
    counts only where there is no scale (net.cpp). Three blobs are read as BVLC's unless the user
    says otherwise, and five without any of those fields as Intel's.
    """

    scale_bias: bool = False
    scale_filler: Optional[Mapping[str, Any]] = None
    bias_filler: Optional[Mapping[str, Any]] = None

    running = (0, 1, 2)
    contested = True

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        # Where the last has one value, NVIDIA's own reader takes them for those of 0.15.
        return len(shapes) == 5 and math.prod(shapes[4]) > 1

    @property
    def scales(self) -> bool:
        """Whether there are a scale and a bias."""
        return self.scale_bias or not (self.scale_filler is None and self.bias_filler is None)

    @property
    def affines(self) -> int:
        return 2 if self.scales else 0

    @property
    def epsilon(self) -> float:
        return max(self.eps, 1e-5)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels: Shape = (self.channels(bottoms[0]),)
        return [channels, channels, (1,)] + [channels] * self.affines

    def fillers(self, blobs: int) -> List[Filler]:
        # caffe-0.16 starts the factor as 0, which makes no difference: mean and variance are 0.
        stored = [Filler(), Filler(), Filler(value=1.0)]
        return [*stored, Filler("scale_filler", 1.0), BIAS][:blobs]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        mean, variance = weights[:2]
        return (mean, variance) if self.scales else by_factor(*weights)

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        return list(weights[3:5])


@layer(
    "BatchNorm",
    message="batch_norm_param",
    harmless={
        "scale_filler": FILLER,
        "bias_filler": FILLER,
        "moving_average_fraction": TRAINING,
        "engine": ENGINE,
    },
    dialect="nvidia15",
)
class Nvidia15BatchNorm(Switched):
    """NVIDIA's caffe-0.15, as DIGITS has it (batch_norm_layer.cpp).

    Blobs: scale, bias, mean, variance, and one value that is not used.
    """

    running = (2, 3, 4)

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return len(shapes) == 5 and math.prod(shapes[4]) == 1

    @property
    def affines(self) -> int:
        return 2

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels: Shape = (self.channels(bottoms[0]),)
        return [channels] * 4 + [(1,)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("scale_filler"), BIAS, Filler(), Filler(), Filler()]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        return weights[2], weights[3]

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        return [weights[0], weights[1]]


@layer(
    "BatchNorm",
    "MKLBatchNorm",
    message="batch_norm_param",
    harmless={
        "filler": FILLER,
        "bias_filler": FILLER,
        "moving_average_fraction": TRAINING,
        "engine": ENGINE,
    },
    dialect="intel",
)
class IntelBatchNorm(Switched):
    """Intel's fork with its own engines (mkldnn_batch_norm_layer.cpp, mkl_batch_norm_layer.cpp).

    Blobs: mean, variance, factor; with `use_weight_bias`, scale and, with `bias_term`, bias.
    """

    use_weight_bias: bool = True
    bias_term: bool = True
    relu: bool = False
    stats_batch_size: int = 0

    running = (0, 1, 2)

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        return 3 <= len(shapes) <= 5 and math.prod(shapes[2]) == 1

    def check(self) -> None:
        if self.stats_batch_size and not self.stored:
            raise UnsupportedModel(
                "stats_batch_size normalizes a batch in parts, which is not supported"
            )

    @property
    def affines(self) -> int:
        return 1 + self.bias_term if self.use_weight_bias else 0

    @property
    def rectified(self) -> bool:
        return self.relu

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        channels: Shape = (self.channels(bottoms[0]),)
        return [channels, channels, (1,)] + [channels] * self.affines

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler(), Filler(), Filler(), Filler("filler", 1.0), BIAS][:blobs]

    def statistics(self, weights: Sequence[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        return by_factor(*weights[:3])

    def affine(self, weights: Sequence[np.ndarray]) -> List[np.ndarray]:
        return list(weights[3:])
