"""The class's model in every other form, each beside the class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from stage_build.artefacts import baking, frozen, lite, models, precision
from stage_build.artefacts.served import Served, padded_depthwise, serve
from stage_build.delivery import FLOAT32, FORMATS, SERVED, Delivery, in_order


def handle(folder: str, formats: Sequence[str], **options: Any) -> Iterator[dict[str, Any]]:
    """Writes the chosen formats beside the class; asked by another process.

    Args:
        options: of `Delivery`.

    Yields:
        For each as it is there, ``format``, and ``seconds``: how long it took, and what was loaded
        for it. What is served comes first: model.keras takes the most memory, here and to check.
    """
    out, seconds = Path(folder), _Seconds()
    delivery = Delivery(in_order([*formats, "class"]), **options)
    plain = [name for name in delivery.formats if name in PLAIN]
    lowered = ["saved_model"] if delivery.precision != FLOAT32 else []
    served = [name for name in delivery.formats if FORMATS[name].served and name not in lowered]
    own = (out / SERVED).is_dir()
    if lowered:
        with models.imported(out / SERVED if own else out) as package:
            network = seconds.of(f"load {delivery.precision} class", precision.load, package)
            yield from _export(out, lowered, delivery, network, seconds)
    if served and own:
        with models.imported(out / SERVED) as package:
            network = seconds.of("load served class", models.load, package)
            yield from _export(out, served, delivery, network, seconds)
    if plain or (served and not own):
        with models.imported(out) as package:
            network = seconds.of("load class", models.load, package)
            if not own:
                yield from _export(out, served, delivery, network, seconds)
            for name in plain:
                seconds.of(f"export {name}", PLAIN[name], out, network, delivery)
                yield {"format": name, "seconds": dict(seconds)}


class _Seconds(dict[str, float]):
    def of(self, name: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """What the action returns; how long it took is kept under the name."""
        started = time.monotonic()
        result = action(*arguments)
        self[name] = time.monotonic() - started
        return result


def _export(
    out: Path, formats: list[str], delivery: Delivery, network: Any, seconds: _Seconds
) -> Iterator[dict[str, Any]]:
    padded = padded_depthwise(network.model)
    traced: dict[bool, Served] = {}
    for name in formats:
        # Not for the others, whose readers are made for depthwise convolutions.
        grouped = bool(padded) and name == "saved_model"
        if grouped not in traced:
            traced[grouped] = seconds.of("trace", serve, network, padded if grouped else ())
        seconds.of(f"export {name}", WRITERS[name], out, traced[grouped], delivery)
        yield {"format": name, "seconds": dict(seconds)}


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
