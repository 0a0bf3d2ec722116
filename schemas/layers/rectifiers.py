"""ReLU's relatives in Caffe's forks."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from schemas.graph import Shape
from schemas.layers.activations import Activation
from schemas.layers.axes import canonical
from schemas.layers.registry import ENGINE, layer


def rectified(x: np.ndarray, slope: float) -> np.ndarray:
    """max(x, 0) + slope * min(x, 0)."""
    return np.maximum(x, 0) + np.float32(slope) * np.minimum(x, 0)


@layer("ReLU6", message="relu6_param", harmless={"engine": ENGINE}, dialect="chuanqi305")
class ReLU6(Activation):
    """min(max(x, 0) + negative_slope * min(x, 0), 6) (MobileNet-YOLO's relu6_layer.cpp;
    chuanqi305/ssd's has no slope)."""

    negative_slope: float = 0.0

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.minimum(rectified(x, self.negative_slope), 6)


@layer("ReLUX", message="relux_param", dialect="soeaver")
class ReLUX(Activation):
    """min(max(x, 0), maximal_value) + negative_slope * min(x, 0) (py-RFCN-priv's
    relux_layer.cpp)."""

    negative_slope: float = 0.0
    maximal_value: float = 6.0

    def value(self, x: np.ndarray) -> np.ndarray:
        rising = np.minimum(np.maximum(x, 0), np.float32(self.maximal_value))
        return rising + np.float32(self.negative_slope) * np.minimum(x, 0)


@layer("NegReLU", message="relu_param", harmless={"engine": ENGINE}, dialect="flownet2")
class NegReLU(Activation):
    """min(x, 0) + negative_slope * max(x, 0) (flownet2's neg_relu_layer.cpp)."""

    negative_slope: float = 0.0

    def value(self, x: np.ndarray) -> np.ndarray:
        return -rectified(-x, self.negative_slope)


@layer("CReLU", message="crelu_param", dialect="cambricon")
class CReLU(Activation):
    """ReLU of x and of -x, one after the other along `concat_axis` (Cambricon/caffe's
    crelu_layer.cpp)."""

    negative_slope: float = 0.0
    concat_axis: int = 1

    def axis(self, rank: int) -> int:
        """`concat_axis`, counted from the front."""
        return canonical(self.concat_axis, rank, "concat_axis")

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        shape, axis = tuple(bottoms[0]), self.axis(len(bottoms[0]))
        return [shape[:axis] + (2 * shape[axis],) + shape[axis + 1 :]]

    def value(self, x: np.ndarray) -> np.ndarray:
        return rectified(np.concatenate([x, -x], self.axis(x.ndim)), self.negative_slope)

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return self.axis(len(bottoms[0]))


@layer("SeLu", "SeLU", "SELU", message="selu_param", dialect="soeaver")
class SELU(Activation):
    """lambda * x where x > 0, else lambda * alpha * (exp(x) - 1) (py-RFCN-priv's selu_layer.cpp;
    Synopsys's, type SeLU, is the same)."""

    lambda_: float = 1.050700987
    alpha: float = 1.67326324

    def value(self, x: np.ndarray) -> np.ndarray:
        falling = np.float32(self.lambda_ * self.alpha) * np.expm1(np.minimum(x, 0))
        return np.float32(self.lambda_) * np.maximum(x, 0) + falling


@layer("HardSigmoid", message="hard_sigmoid_param", dialect="synopsys")
class HardSigmoid(Activation):
    """alpha * x + beta, kept within 0 and 1 (Synopsys's hard_sigmoid_layer.cpp; MobileNet-YOLO's
    has no parameters and these defaults)."""

    alpha: float = 0.2
    beta: float = 0.5

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.clip(np.float32(self.alpha) * x + np.float32(self.beta), 0, 1)


@layer("HardSwish", dialect="synopsys")
class HardSwish(Activation):
    """x * min(max(x + 3, 0), 6) / 6 (Synopsys's hard_swish_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return x * np.clip(x + np.float32(3), 0, 6) / np.float32(6)


@layer("Mish", dialect="synopsys")
class Mish(Activation):
    """x * tanh(log(1 + exp(x))) (Synopsys's mish_layer.cpp)."""

    def value(self, x: np.ndarray) -> np.ndarray:
        return x * np.tanh(np.logaddexp(x, np.float32(0)))
