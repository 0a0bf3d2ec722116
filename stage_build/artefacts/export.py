"""The class's model in every other form, each beside the class."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from stage_build.artefacts import baking, frozen, lite, models
from stage_build.artefacts.served import Served, serve
from stage_build.delivery import FORMATS, SERVED, Delivery, in_order


def handle(folder: str, formats: Sequence[str], **options: Any) -> dict[str, Any]:
    """Writes the chosen formats beside the class; asked by another process.

    Args:
        options: of `Delivery`.

    Returns:
        ``seconds``: how long loading and each format took.
    """
    out, seconds = Path(folder), _Seconds()
    delivery = Delivery(in_order([*formats, "class"]), **options)
    plain = [name for name in delivery.formats if name in PLAIN]
    served = [name for name in delivery.formats if FORMATS[name].served]
    own = served and (out / SERVED).is_dir()
    if plain or not own:
        with models.imported(out) as package:
            network = seconds.of("load class", package.load)
            for name in plain:
                seconds.of(f"export {name}", PLAIN[name], out, network, delivery)
            if not own:
                _export(out, served, delivery, network, seconds)
    if own:
        with models.imported(out / SERVED) as package:
            network = seconds.of("load served class", package.load)
            _export(out, served, delivery, network, seconds)
    return {"seconds": seconds}


class _Seconds(dict[str, float]):
    def of(self, name: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """What the action returns; how long it took is kept under the name."""
        started = time.monotonic()
        result = action(*arguments)
        self[name] = time.monotonic() - started
        return result


def _export(
    out: Path, formats: list[str], delivery: Delivery, network: Any, seconds: _Seconds
) -> None:
    if formats:
        served = seconds.of("trace", serve, network)
        for name in formats:
            seconds.of(f"export {name}", WRITERS[name], out, served, delivery)


def save_keras(folder: Path, network: Any, delivery: Delivery) -> None:
    """model.keras."""
    model = baking.normalized_model(network) if delivery.bake_normalization else network.model
    model.save(folder / "model.keras")


def save_served(folder: Path, served: Served, delivery: Delivery) -> None:
    """saved_model: signatures with named inputs and outputs, every variable once.

    Keras's own export writes the variables twice.
    """
    signatures = {"serving_default": served.function}
    if delivery.bake_preprocess:
        signatures[baking.SIGNATURE] = baking.image_signature(served.network, served.function)
    tf.saved_model.save(served.module, str(folder / "saved_model"), signatures=signatures)


# Format -> what writes it: of the class as it is, and of the net as it is served.
PLAIN = {"keras": save_keras}
WRITERS = {"saved_model": save_served, "tflite": lite.write, "pb": frozen.write}
