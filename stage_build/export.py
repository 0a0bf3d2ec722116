"""The class's Keras model as .keras and SavedModel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from stage_build import models


def handle(folder: str, formats: list[str]) -> dict[str, Any]:
    """Writes the chosen formats beside the class; asked by another process.

    Returns:
        ``seconds``: how long loading and each format took.
    """
    seconds = {}
    started = time.monotonic()
    writers = {"keras": save_keras, "saved_model": save_served}
    with models.imported(Path(folder)) as package:
        network = package.load()
        seconds["load class"] = time.monotonic() - started
        for name in formats:
            started = time.monotonic()
            writers[name](Path(folder), network)
            seconds[f"export {name}"] = time.monotonic() - started
    return {"seconds": seconds}


def save_keras(folder: Path, network: Any) -> None:
    """model.keras."""
    network.model.save(folder / "model.keras")


def save_served(folder: Path, network: Any) -> None:
    """saved_model: one signature, named inputs and outputs, every variable once.

    Keras's own export writes the variables twice.
    """
    model = network.model
    specs = {
        name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in network.inputs.items()
    }

    def serve(**inputs: Any) -> Any:
        return model(next(iter(inputs.values())) if len(inputs) == 1 else inputs, training=False)

    served = tf.Module()
    served.weights = [variable.value for variable in model.variables]
    served.serve = tf.function(serve)
    signature = served.serve.get_concrete_function(**specs)
    tf.saved_model.save(
        served, str(folder / "saved_model"), signatures={"serving_default": signature}
    )
