"""The net as it is served: a traced function of named images, and the variables it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

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


def serve(network: Any) -> Served:
    """The class's model as a traced function.

    Where all weights are at most `LARGE` bytes, convolution kernels become constants, which
    oneDNN then reorders once and not at every call.
    """
    model = network.model
    kernels = _kernels(model) if _bytes(model.variables) <= LARGE else []
    constants = [(kernel, kernel.numpy()) for kernel in kernels]
    held = {id(kernel) for kernel in kernels}
    module = tf.Module()
    module.variables_read = [v.value for v in model.variables if id(v) not in held]

    def function(**inputs: Any) -> Any:
        given = next(iter(inputs.values())) if len(inputs) == 1 else inputs
        with keras.StatelessScope([(kernel, tf.constant(value)) for kernel, value in constants]):
            return model(given, training=False)

    # Not kept on the module: saving would trace it once more, with a second copy of the constants.
    with _inlined():
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


def specs(inputs: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    """What a function of the inputs takes, by name."""
    return {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in inputs.items()}


def _kernels(model: keras.Model) -> list[Any]:
    found = [getattr(layer, "kernel", None) for layer in model.layers]
    return [k for k in found if isinstance(k, keras.Variable) and len(k.shape) == 4]


def _bytes(variables: list[Any]) -> int:
    return sum(4 * variable.value.shape.num_elements() for variable in variables)
