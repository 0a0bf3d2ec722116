"""Functions of one value at a time, and Softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.axes import Elementwise, canonical
from schemas.layers.registry import ENGINE, FILLER, Filler, layer


class Activation(Elementwise):
    """A function without weights."""

    def value(self, x: np.ndarray) -> np.ndarray:
        """The function of each value, float32 to float32."""
        raise NotImplementedError

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        # Values outside of a function's domain become NaN or infinite, as in Caffe.
        with np.errstate(all="ignore"):
            return [np.asarray(self.value(bottoms[0]), np.float32)]


@layer("ReLU", message="relu_param", harmless={"engine": ENGINE})
class ReLU(Activation):
    """max(x, 0) + negative_slope * min(x, 0) (relu_layer.cpp).

    Synopsys's goes on: at most 6 with `relu6`, at most `maximum` where that is above 0, then at
    least `minimum` where that is not 0; a NaN becomes 0.
    """

    negative_slope: float = 0.0
    relu6: Optional[bool] = None
    maximum: Optional[float] = None
    minimum: Optional[float] = None

    @property
    def limits(self) -> Optional[Tuple[Optional[float], Optional[float]]]:
        """Synopsys's (least, greatest) value, each None for no limit; None in BVLC Caffe."""
        if self.relu6 is self.maximum is self.minimum is None:
            return None
        above = [6.0] if self.relu6 else []
        if self.maximum is not None and self.maximum > 0:
            above.append(self.maximum)
        return self.minimum or None, min(above, default=None)

    def value(self, x: np.ndarray) -> np.ndarray:
        top = np.maximum(x, 0)
        if self.negative_slope != 0:
            top += np.float32(self.negative_slope) * np.minimum(x, 0)
        if self.limits is None:
            return top
        top = np.where(np.isnan(top), np.float32(0), top)
        least, greatest = self.limits
        if greatest is not None:
            top = np.minimum(top, np.float32(greatest))
        return top if least is None else np.maximum(top, np.float32(least))


@layer("PReLU", message="prelu_param", harmless={"filler": FILLER})
class PReLU(Elementwise):
    """max(x, 0) + slope * min(x, 0), one slope a channel or, channel_shared, one for all
    (prelu_layer.cpp)."""

    channel_shared: bool = False

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise MalformedModel(f"the bottom should have 2 to 4 axes, found {len(bottoms[0])}")
        return [() if self.channel_shared else (bottoms[0][1],)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [Filler("filler", 0.25)]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        slope = weights[0].reshape((-1,) + (1,) * (bottoms[0].ndim - 2))
        return [np.maximum(bottoms[0], 0) + slope * np.minimum(bottoms[0], 0)]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return len(bottoms[0]) if self.channel_shared else 1


@layer("ELU", message="elu_param")
class ELU(Activation):
    """x where positive, else alpha * (exp(x) - 1) (elu_layer.cpp)."""

    alpha: float = 1.0
    lambda_: float = 1.0

    def check(self) -> None:
        if self.lambda_ != 1:
            raise UnsupportedModel(
                f"lambda is {self.lambda_}: NVIDIA's releases disagree on whether it is read, and "
                "on whether it scales the negative side"
            )

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.float32(self.alpha) * np.expm1(np.minimum(x, 0))


@layer("Sigmoid", message="sigmoid_param", harmless={"engine": ENGINE})
class Sigmoid(Activation):
    """1 / (1 + exp(-x)), computed as tanh(x / 2) / 2 + 1/2 (sigmoid_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        half = np.float32(0.5)
        return half * np.tanh(half * x) + half


@layer("Swish", message="swish_param")
class Swish(Activation):
    """x * sigmoid(beta * x) (swish_layer.cpp)."""

    beta: float = 1.0

    def value(self, x: np.ndarray) -> np.ndarray:
        half = np.float32(0.5)
        return x * (half * np.tanh(half * (np.float32(self.beta) * x)) + half)


@layer("TanH", message="tanh_param", harmless={"engine": ENGINE})
class TanH(Activation):
    """tanh(x) (tanh_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)


@layer("AbsVal")
class AbsVal(Activation):
    """|x| (absval_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)


@layer("Clip", message="clip_param")
class Clip(Activation):
    """max(min, min(x, max)): where min is above max, it is min (clip_layer.cpp)."""

    min: Optional[float] = None
    max: Optional[float] = None

    def check(self) -> None:
        if self.min is None or self.max is None:
            raise MalformedModel("both min and max should be given")

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(np.minimum(x, np.float32(self.max)), np.float32(self.min))


@layer("Threshold", message="threshold_param")
class Threshold(Activation):
    """1 where x is above the threshold, else 0 (threshold_layer.cpp)."""

    threshold: float = 0.0

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.greater(x, np.float32(self.threshold)).astype(np.float32)


@layer("BNLL")
class BNLL(Activation):
    """log(1 + exp(x)) (bnll_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@layer("Power", message="power_param")
class Power(Activation):
    """(shift + scale * x)^power; where scale or power is 0, x is not read (power_layer.cpp)."""

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @property
    def constant(self) -> Optional[float]:
        """The value of every output where x is not read, else None."""
        if self.power * self.scale != 0:
            return None
        with np.errstate(all="ignore"):
            return float(np.power(np.float32(self.shift), np.float32(self.power)))

    def value(self, x: np.ndarray) -> np.ndarray:
        if self.constant is not None:
            return np.full_like(x, self.constant)
        base = np.float32(self.scale) * x
        if self.shift != 0:  # else Caffe adds nothing, and -0 stays -0
            base += np.float32(self.shift)
        return base if self.power == 1 else np.power(base, np.float32(self.power))


@dataclass(frozen=True, eq=False)
class Based(Activation):
    """A function with a base, -1 meaning e."""

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def check(self) -> None:
        if self.base != -1 and not 0 < self.base < math.inf:
            raise MalformedModel(f"base should be positive, or -1 for e, found {self.base}")

    @property
    def log_base(self) -> float:
        """The natural logarithm of the base."""
        return 1.0 if self.base == -1 else math.log(self.base)


@layer("Exp", message="exp_param")
class Exp(Based):
    """base^(shift + scale * x) (exp_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        outer = np.exp(np.float32(self.log_base * self.shift))
        return outer * np.exp(np.float32(self.log_base * self.scale) * x)


@layer("Log", message="log_param")
class Log(Based):
    """log_base(shift + scale * x) (log_layer.cpp)."""

    def check(self) -> None:
        super().check()
        if self.base == 1:
            raise MalformedModel("base 1 has no logarithm")

    def value(self, x: np.ndarray) -> np.ndarray:
        logarithm = np.log(np.float32(self.scale) * x + np.float32(self.shift))
        return logarithm * np.float32(1 / self.log_base)


@layer(
    "Dropout",
    message="dropout_param",
    harmless={
        "engine": ENGINE,
        "random_seed": "draws are made in training only",
        "sqrt_scale": "scales what training keeps; in the TEST phase happynear copies",
    },
)
class Dropout(Activation):
    """x in the TEST phase, or x * (1 - dropout_ratio) with the forks' ``scale_train: false``
    (dropout_layer.cpp)."""

    dropout_ratio: float = 0.5
    scale_train: bool = True
    sample_weights_test: bool = False

    def check(self) -> None:
        if not 0 <= self.dropout_ratio <= 1:
            raise MalformedModel(f"dropout_ratio should be 0 to 1, found {self.dropout_ratio:g}")
        if self.sample_weights_test:
            raise UnsupportedModel("sample_weights_test: true makes every TEST pass random")

    def value(self, x: np.ndarray) -> np.ndarray:
        return x if self.scale_train else x * np.float32(1 - self.dropout_ratio)


@layer("Softmax", message="softmax_param", harmless={"engine": ENGINE})
class Softmax(Activation):
    """exp(x) by its sum along `axis`, the maximum being subtracted first (softmax_layer.cpp)."""

    axis: int = 1

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        canonical(self.axis, len(bottoms[0]))
        return super().shapes(bottoms, tops)

    def value(self, x: np.ndarray) -> np.ndarray:
        top = np.exp(x - x.max(axis=self.axis, keepdims=True))
        top /= top.sum(axis=self.axis, keepdims=True)
        return top

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return canonical(self.axis, len(bottoms[0]))
