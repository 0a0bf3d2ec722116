"""Functions of one number without a place in BVLC Caffe: roots, angles, rounding."""

from __future__ import annotations

from typing import Optional

import numpy as np

from schemas.errors import MalformedModel
from schemas.layers.activations import Activation
from schemas.layers.registry import layer


@layer("Sqrt", dialect="cambricon")
class Sqrt(Activation):
    """The square root; that of a negative number is NaN (Cambricon/caffe's sqrt_layer.cpp; some
    private forks keep the number's sign instead)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)


@layer("Square", dialect="other")
class Square(Activation):
    """x * x. No fork that people use is known to have it; what private ones compute differs once
    there are parameters (x^power) or a second bottom (the square of the difference)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return x * x


@layer("Sin", dialect="synopsys")
class Sin(Activation):
    """sin(x) (Synopsys's sin_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.sin(x)


@layer("Cos", "Cosine", dialect="happynear")
class Cos(Activation):
    """cos(x) (happynear's cosine_layer.cpp; gnina's cos_layer.cpp, type Cos, is the same)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.cos(x)


@layer("Atan", dialect="synopsys")
class Atan(Activation):
    """atan(x) (Synopsys's atan_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.arctan(x)


@layer("Arccos", dialect="happynear")
class Arccos(Activation):
    """acos(x); NaN outside of -1 to 1 (happynear's arccos_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.arccos(x)


@layer("Ceil", dialect="synopsys")
class Ceil(Activation):
    """The next whole number up (Synopsys's ceil_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.ceil(x)


@layer("Floor", dialect="synopsys")
class Floor(Activation):
    """The next whole number down (Synopsys's floor_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x)


@layer("Round", dialect="synopsys")
class Round(Activation):
    """The nearest whole number, of two as near the even one (rint, Synopsys's round_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x)


@layer("Softplus", dialect="synopsys")
class Softplus(Activation):
    """log(exp(x) + 1); infinite from x = 89 on, where exp overflows in float32, unlike BNLL
    (Synopsys's softplus_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.log(np.exp(x) + np.float32(1))


@layer("Softsign", dialect="synopsys")
class Softsign(Activation):
    """x / (1 + |x|) (Synopsys's softsign_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return x / (1 + np.abs(x))


@layer("HardTanh", "HardTanH", dialect="synopsys")
class HardTanh(Activation):
    """x, kept within -1 and 1 (Synopsys's hard_tanh_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x, -1, 1)


@layer("ScaledTanH", message="scaled_tanh_param", dialect="synopsys")
class ScaledTanH(Activation):
    """alpha * tanh(beta * x) (Synopsys's scaled_tanh_layer.cpp)."""

    alpha: Optional[float] = None
    beta: Optional[float] = None

    def check(self) -> None:
        if self.alpha is None or self.beta is None:
            raise MalformedModel("both alpha and beta should be given")

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.float32(self.alpha) * np.tanh(np.float32(self.beta) * x)
