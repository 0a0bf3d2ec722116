"""The artefacts of a result folder, loaded and run: blobs by key, in Caffe's order."""

from __future__ import annotations

import importlib.util
import json
import sys
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stage_build.layout import Door, to_blob, to_tensor


def import_package(folder: Path) -> ModuleType:
    """The result folder as a package under a name of its own, wherever it lies."""
    name = f"_converted_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A result is left as it was built: no __pycache__ beside it.
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = bytecode
    return module


def forget_package(module: ModuleType) -> None:
    """Drops an imported package and its modules, so that its weights can be freed."""
    for name in [n for n in sys.modules if n.split(".")[0] == module.__name__]:
        del sys.modules[name]
    keras.backend.clear_session()


@contextmanager
def imported(folder: Path) -> Iterator[ModuleType]:
    """The result folder as a package, forgotten at the end."""
    package = import_package(folder)
    try:
        yield package
    finally:
        forget_package(package)


@contextmanager
def opened_class(folder: Path) -> Iterator[KerasRunner]:
    """The class, forgotten at the end."""
    with imported(folder) as package:
        network = package.load()
        yield KerasRunner(network.model, network.names)


@contextmanager
def opened_keras(folder: Path) -> Iterator[KerasRunner]:
    """model.keras, forgotten at the end."""
    with imported(folder):
        yield load_keras(folder)


class KerasRunner:
    """A Keras model whose blobs can be asked for by key."""

    def __init__(self, model: keras.Model, names: Mapping[str, Any]) -> None:
        self.model = model
        self._names = names
        self._door = Door.of(names)

    def tensor(self, key: str) -> Any:
        """The Keras tensor of a blob."""
        layer, index = self._names["blobs"][key]
        output = self.model.get_layer(layer).output
        return output[index] if isinstance(output, (list, tuple)) else output

    def __call__(
        self, inputs: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the model eagerly: inputs by key -> values of `keys`."""
        return self.between(list(inputs), inputs, keys)

    def between(
        self, given: Sequence[str], values: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the part of the model from the blobs `given` to the blobs `keys`."""
        # What is given is left out: Keras loses the way where a tensor within is both ends.
        made = [key for key in keys if key not in given]
        found = {key: values[key] for key in keys if key in given}
        if made:
            part = keras.Model([*map(self.tensor, given)], [*map(self.tensor, made)])
            results = part([self._feed(key, values[key]) for key in given], training=False)
            if len(made) == 1 and not isinstance(results, (list, tuple)):
                results = [results]
            found |= {
                key: self._door.taken(value) if key in self._names["inputs"] else to_blob(value)
                for key, value in zip(made, map(np.asarray, results), strict=True)
            }
        return found

    def _feed(self, key: str, value: np.ndarray) -> tf.Tensor:
        is_input = key in self._names["inputs"]
        return tf.convert_to_tensor(self._door.feed(value) if is_input else to_tensor(value))

    def served(
        self, inputs: Mapping[str, np.ndarray], keys: Collection[str]
    ) -> dict[str, np.ndarray]:
        """The outputs among `keys`, computed as a SavedModel would: traced, by the whole model."""
        fed = {self._names["inputs"][key]: self._feed(key, value) for key, value in inputs.items()}
        given = next(iter(fed.values())) if len(fed) == 1 else fed
        results = tf.function(self.model)(given, training=False)
        outputs = self._names["outputs"]
        return {
            key: self._door.given(results[outputs[key]].numpy()) for key in keys if key in outputs
        }


def load_names(folder: Path) -> dict[str, Any]:
    """names.json of a result."""
    return dict(json.loads((folder / "names.json").read_text("utf-8")))


@contextmanager
def _without_random_numbers() -> Iterator[None]:
    """Lets weights start as zeros: all are about to be loaded, and random ones cost time."""
    scaling = keras.initializers.VarianceScaling
    plain = scaling.__call__
    scaling.__call__ = lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype)
    try:
        yield
    finally:
        scaling.__call__ = plain


def load_keras(folder: Path) -> KerasRunner:
    """model.keras of an `imported` folder: Keras finds its layers in caffe_layers."""
    with _without_random_numbers():
        model = keras.models.load_model(folder / "model.keras", compile=False)
    return KerasRunner(model, load_names(folder))


class SavedRunner:
    """The serving signature of a SavedModel, by blob key; `signature` gives another."""

    def __init__(self, folder: Path) -> None:
        self._names = load_names(folder)
        self._loaded = tf.saved_model.load(str(folder / "saved_model"))
        self._serve = self.signature("serving_default")

    def signature(self, name: str) -> Any:
        """One of its signatures, by name."""
        return self._loaded.signatures[name]

    def __call__(
        self, inputs: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> dict[str, np.ndarray]:
        names, door = self._names, Door.of(self._names)
        fed = {names["inputs"][key]: tf.constant(door.feed(v)) for key, v in inputs.items()}
        results = self._serve(**fed)
        return {key: door.given(results[names["outputs"][key]].numpy()) for key in keys}
