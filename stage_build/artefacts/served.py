"""The net as it is served: a traced function of named images, and the variables it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from stage_build.delivery import LARGE


@dataclass(frozen=True)
class Served:
    """A class made ready for export.

    Attributes:
        network: the class, loaded.
        module: owns the variables that `function` reads, each once.
        function: traced; float32 tensors by input name in, tensors by output name out.
    """

    network: Any
    module: tf.Module
    function: Any


def serve(network: Any, padded: Sequence[tuple[Any, Any]] = ()) -> Served:
    """The class's model as a traced function.

    The convolutions `padded`, see `padded_depthwise`, become ones in groups.

    Where all weights are at most `LARGE` bytes they become constants, but for matrices: oneDNN
    reorders a kernel that is constant once and not at every call, and biases need no reading. A
    matrix is no faster so, and loading and the first call copy constants many times.
    """
    model = network.model
    small = _bytes(model.weights) <= LARGE
    constant = [weight for weight in model.weights if small and len(weight.shape) != 2]
    constants = [(weight, weight.numpy()) for weight in constant]
    held = {id(weight) for weight in constant}
    module = tf.Module()
    module.variables_read = [v.value for v in model.variables if id(v) not in held]

    def function(**inputs: Any) -> Any:
        given = next(iter(inputs.values())) if len(inputs) == 1 else inputs
        with keras.StatelessScope([(weight, tf.constant(value)) for weight, value in constants]):
            return model(given, training=False)

    # Not kept on the module: saving would trace it once more, with a second copy of the constants.
    with _inlined(), _in_groups(padded):
        traced = tf.function(function).get_concrete_function(**specs(network.inputs))
    return Served(network, module, traced)


@contextmanager
def _inlined() -> Iterator[None]:
    """Traces functions into what calls them.

    Keras hands grouped convolutions to XLA, for the sake of their gradients: a function of its own,
    two to three times slower on a CPU, which readers of TensorFlow 1 and machines without XLA lack.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def padded_depthwise(model: keras.Model) -> list[tuple[Any, Any]]:
    """The depthwise convolutions of images that a layer of its own pads: (that layer, the one).

    None without oneDNN: TensorFlow's own kernels do not fuse convolutions in groups.
    """
    if not _pywrap_util_port.IsMklEnabled():
        return []
    kinds = keras.layers.ZeroPadding2D, keras.layers.DepthwiseConv2D
    pads, dense = ([a for a in model.layers if isinstance(a, kind)] for kind in kinds)
    by_call = {pad.name: pad for pad in pads}
    pairs = [(by_call.get(f"{layer.name.partition('__')[0]}__pad"), layer) for layer in dense]
    return [(pad, layer) for pad, layer in pairs if pad is not None]


@contextmanager
def _in_groups(pairs: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Makes these depthwise convolutions such in groups, which pad their images themselves.

    TensorFlow's depthwise kernel knows no padding but "SAME", and a Pad before it takes as long as
    it does.
    """
    for pad, layer in pairs:
        pad.call, layer.call = tf.identity, partial(_grouped, layer, pad.padding)
    try:
        yield
    finally:
        for layer in chain.from_iterable(pairs):
            del layer.call


def _grouped(layer: keras.layers.DepthwiseConv2D, padding: Any, x: tf.Tensor) -> tf.Tensor:
    """What a depthwise layer makes of images, padded by ((top, bottom), (left, right))."""
    kernel = tf.convert_to_tensor(layer.kernel)
    *window, channels, multiplier = kernel.shape
    kernel = tf.reshape(kernel, (*window, 1, channels * multiplier))
    padding = [(0, 0), *padding, (0, 0)]
    x = tf.nn.conv2d(x, kernel, layer.strides, padding, dilations=layer.dilation_rate)
    return tf.nn.bias_add(x, layer.bias) if layer.use_bias else x


def specs(inputs: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    """What a function of the inputs takes, by name."""
    return {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in inputs.items()}


def _bytes(weights: list[Any]) -> int:
    return sum(w.value.dtype.size * w.value.shape.num_elements() for w in weights)
