"""The net as TensorFlow Lite has it: model.tflite, and what it is when quantised."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schemas.errors import MalformedModel, UsageError
from stage_build.artefacts import baking
from stage_build.artefacts.models import load_names
from stage_build.artefacts.served import Served
from stage_build.delivery import Delivery
from stage_build.layout import Door
from stage_build.verify import Compared, Outcome

FILE = "model.tflite"
SIGNATURE = "serving_default"

# Relative to an output's greatest magnitude: what weights of so many bits are held to.
TOLERANCES = {"float16": 1e-2, "dynamic": 1e-2}
# How often int8 must find the class's own first class on the calibration images.
AGREEMENT = 0.95
MAX_IMAGES = 200
SUFFIXES = (".jpg", ".jpeg", ".png")


def write(folder: Path, served: Served, delivery: Delivery, *_: Any) -> None:
    """model.tflite: operators of TensorFlow Lite alone, one signature, float32 in and out.

    ``float16`` and ``dynamic`` keep weights in fewer bits; ``int8`` computes with them too, by the
    ranges that the calibration images show, wherever an operator has such a form.

    Raises:
        UsageError: see `Images` and `image_input`.
        MalformedModel: none of the images can be read.
    """
    baked, function = delivery.bake_normalization, served.function
    if baked:
        function = baking.normalized_function(served.network, function)
    with tempfile.TemporaryDirectory(dir=folder) as saved:
        tf.saved_model.save(served.module, saved, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.canonicalizing_inf_as_min_max_float = False
        if delivery.quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if delivery.quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if delivery.calibration is not None:
            name = baking.PIXELS if baked else image_input(served.network.inputs)
            images = Images(served.network, Path(delivery.calibration), baked)
            converter.representative_dataset = lambda: ({name: fed} for fed, _ in images)
        with _without_warning():
            (folder / FILE).write_bytes(converter.convert())


@contextmanager
def _without_warning() -> Iterator[None]:
    """Keeps the interpreter, which calibration uses too, from telling of its successor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        yield


class Images:
    """A folder's images, one sample each: as the model takes it, and as the class takes it.

    At most `MAX_IMAGES` are read, spread evenly over the folder and the folders in it; those that
    cannot be read are told.

    Args:
        network: a class, with the preprocessing of stage_build/runtime/images.py.
        baked: the model takes pixels, see `baking.normalized_function`.

    Attributes:
        unreadable: the files that could not be read, once the images have been gone through.

    Raises:
        UsageError: the class cannot prepare images, or the folder has none.
    """

    def __init__(self, network: Any, folder: Path, baked: bool = False) -> None:
        if not hasattr(network, "prepared"):
            raise UsageError(
                "--calibration: how this net's images are prepared is not known",
                str(folder),
                "pass --preprocess",
            )
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(
                f"--calibration: there is no image ({', '.join(SUFFIXES)})", str(folder)
            )
        self._network = network
        self._baked = baked
        self._files = found[:: math.ceil(len(found) / MAX_IMAGES)]
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        network, self.unreadable = self._network, []
        for file in self._files:
            try:
                fitted = network.fitted(network.decoded(file.read_bytes()))
            except (OSError, ValueError, tf.errors.InvalidArgumentError):
                self.unreadable.append(file)
                continue
            pixels = tf.cast(fitted, tf.float32)[None]
            taken = baking.taken(network, pixels).numpy()
            yield pixels.numpy() if self._baked else taken, taken
        if len(self.unreadable) == len(self._files):
            raise MalformedModel(
                f"--calibration: none of {len(self._files)} images can be read",
                str(self._files[0].parent),
            )


def image_input(inputs: Mapping[str, Sequence[int | None]]) -> str:
    """The name of a net's one input, an image.

    Args:
        inputs: name -> shape.

    Raises:
        UsageError: there are several, or it is no image.
    """
    name, shape = next(iter(inputs.items()))
    if len(inputs) > 1 or len(shape) != 4:
        raise UsageError(
            "--quantize int8 is for nets with one input, an image",
            f"inputs {', '.join(map(repr, inputs))}",
            "choose float16 or dynamic",
        )
    return name


class LiteRunner:
    """model.tflite of a result, by blob key."""

    def __init__(self, folder: Path) -> None:
        self._names = load_names(folder)
        with _without_warning():
            self._interpreter = tf.lite.Interpreter(str(folder / FILE))
        self.run = self._interpreter.get_signature_runner(SIGNATURE)

    def named(self, given: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the signature: what its one input takes -> values by output name."""
        (name,) = self.run.get_input_details()
        return self.run(**{name: given})

    def __call__(
        self, inputs: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the signature, for as many samples as are given: inputs by key -> outputs `keys`."""
        names, door = self._names, Door.of(self._names)
        results = self.run(**{names["inputs"][key]: door.feed(v) for key, v in inputs.items()})
        return {key: door.given(results[names["outputs"][key]]) for key in keys}


def agreement(network: Any, runner: LiteRunner, images: Images) -> Outcome:
    """How often a quantised model finds the same first class as the class it was made of.

    Of each output, the errors are over all images; it passes where the place of an image's
    greatest value is the class's own for at least `AGREEMENT` of them.
    """
    tallies = {output: _Tally() for output in network.names["outputs"].values()}
    for fed, taken in images:
        want, got = network(taken), runner.named(fed)
        for output, tally in tallies.items():
            tally.add(got[output], np.asarray(want[output]))
    unreadable = f", {len(images.unreadable)} unreadable" if images.unreadable else ""
    return Outcome(
        tuple(
            tallies[output].compared(key, unreadable)
            for key, output in network.names["outputs"].items()
        )
    )


@dataclass
class _Tally:
    """What one output showed so far."""

    images: int = 0
    same: int = 0
    worst: float = 0.0
    total: float = 0.0
    magnitude: float = 0.0
    shape: tuple[int, ...] = ()

    def add(self, got: np.ndarray, want: np.ndarray) -> None:
        difference = np.abs(got.astype(np.float64) - want)
        self.images += 1
        self.same += int(np.argmax(got) == np.argmax(want))
        self.worst = max(self.worst, float(difference.max()))
        self.total += float(difference.mean())
        self.magnitude = max(self.magnitude, float(np.abs(want).max()))
        self.shape = (self.images, *want.shape[1:])

    def compared(self, key: str, unreadable: str) -> Compared:
        return Compared(
            key,
            self.shape,
            self.worst,
            self.total / self.images,
            self.magnitude,
            self.same >= AGREEMENT * self.images,
            f"int8: top-1 as the class's on {self.same} of {self.images} calibration images"
            f"{unreadable}; at least {AGREEMENT:.0%} are asked for",
        )
