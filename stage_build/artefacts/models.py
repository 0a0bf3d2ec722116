"""The artefacts of a result folder, loaded and run: blobs by key, in Caffe's order."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stage_build import weights_npz
from stage_build.layout import Door, to_blob, to_tensor

# Bytes of one weight from which on it is mapped.
MAPPED = 1024**2


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


def class_of(package: ModuleType) -> type:
    """The class that an imported result is."""
    (found,) = {value for value in vars(package).values() if isinstance(value, type)}
    return found


def load(package: ModuleType) -> Any:
    """The class of a result that was just made, loaded; its large weights stay in the file.

    They are mapped, copy-on-write: processes that load them take their memory once, and what was
    just written need not be read. Their checksums in the zip file are not looked at.
    """
    plain: Any = class_of(package)

    class Mapped(plain):
        def stored_array(self, name: str) -> np.ndarray:
            info = self._stored.getinfo(name)
            if info.file_size < MAPPED:
                return np.asarray(super().stored_array(name))
            return weights_npz.mapped(self._stored, info)

    Mapped.__name__ = plain.__name__  # which names the Keras model
    return Mapped()


@contextmanager
def opened_class(folder: Path, mapped: bool = False) -> Iterator[KerasRunner]:
    """The class, forgotten at the end.

    Args:
        mapped: see `load`; else as its users load it.
    """
    with imported(folder) as package:
        network = load(package) if mapped else package.load()
        yield KerasRunner(network.model, network.names)


@contextmanager
def opened_keras(folder: Path) -> Iterator[KerasRunner]:
    """model.keras, forgotten at the end."""
    with imported(folder):
        yield load_keras(folder)


@dataclass(frozen=True)
class _Blobs(Mapping[str, np.ndarray]):
    """Values by key, of which those of tensors are brought into Caffe's order when asked for: all
    blobs of a large net at once would take its memory twice over."""

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, Any]
    taken: Callable[[str, np.ndarray], np.ndarray]

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self.arrays:
            return self.arrays[key]
        return self.taken(key, np.asarray(self.tensors[key]))

    def __iter__(self) -> Iterator[str]:
        yield from self.arrays
        yield from self.tensors

    def __len__(self) -> int:
        return len(self.arrays) + len(self.tensors)


class KerasRunner:
    """A Keras model whose blobs can be asked for by key."""

    def __init__(self, model: keras.Model, names: Mapping[str, Any]) -> None:
        self.model = model
        self._names = names
        self._door = Door.of(names)
        # Keras looks through all layers for the name of one.
        self._layers = {layer.name: layer for layer in model.layers}

    def tensor(self, key: str) -> Any:
        """The Keras tensor of a blob."""
        layer, index = self._names["blobs"][key]
        output = self._layers[layer].output
        return output[index] if isinstance(output, (list, tuple)) else output

    def __call__(
        self, inputs: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """Runs the model eagerly: inputs by key -> values of `keys`."""
        return self.between(list(inputs), inputs, keys)

    def between(
        self, given: Sequence[str], values: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """Runs the part of the model from the blobs `given` to the blobs `keys`."""
        # What is given is left out: Keras loses the way where a tensor within is both ends.
        made = [key for key in keys if key not in given]
        found = {key: values[key] for key in keys if key in given}
        tensors = {}
        if made:
            # A third of the time that a keras.Model takes, which is made for every layer in turn.
            part = keras.Function([*map(self.tensor, given)], [*map(self.tensor, made)])
            results = part([self._feed(key, values[key]) for key in given])
            tensors = dict(zip(made, results, strict=True))
        return _Blobs(found, tensors, self._taken)

    def _taken(self, key: str, value: np.ndarray) -> np.ndarray:
        return self._door.taken(value) if key in self._names["inputs"] else to_blob(value)

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

    def traced(
        self, inputs: Mapping[str, np.ndarray], keys: Collection[str]
    ) -> dict[str, np.ndarray]:
        """`served` by the very operations that run eagerly, but each blob goes when it was read."""
        before = tf.config.optimizer.get_experimental_options()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        try:
            return self.served(inputs, keys)
        finally:
            tf.config.optimizer.set_experimental_options(
                {"disable_meta_optimizer": False, **before}
            )


def load_names(folder: Path) -> dict[str, Any]:
    """names.json of a result."""
    return dict(json.loads((folder / "names.json").read_text("utf-8")))


@contextmanager
def _without_random_numbers() -> Iterator[None]:
    """Lets weights start as zeros: all are about to be loaded, and random ones cost time.

    As zeros of NumPy's they take no memory before they are replaced.
    """

    def zeros(self: Any, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        room = np.zeros(4 * math.prod(shape) + 63, np.uint8)
        start = -room.ctypes.data % 64  # where TensorFlow takes them without a copy
        values = room[start : room.size - 63 + start].view(np.float32).reshape(shape)
        return tf.experimental.dlpack.from_dlpack(values.__dlpack__())

    scaling = keras.initializers.VarianceScaling
    plain = scaling.__call__
    scaling.__call__ = zeros
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
