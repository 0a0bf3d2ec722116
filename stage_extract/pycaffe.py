"""The only `import caffe`: weights and activations from a Caffe that is installed here.

The net's structure and parameters come from the prototxt through our own reader either way, so that
both readers give the same net; Caffe upgrades and matches the weights, and computes. What its own
caffe_pb2 knows beyond ours is read by it, where a meaning reads it at all (a plug-in's).
"""

from __future__ import annotations

import importlib
import os
import re
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Dict, Iterator, List, Mapping, Optional

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel, listed
from schemas.layers import registry
from stage_extract.network import Built, Options
from stage_extract.prototxt import Message

OFF = ("", "0", "false", "no", "off")


def wanted() -> bool:
    """Whether USE_PYCAFFE asks for PyCaffe: empty, 0, false, no and off mean no."""
    return os.environ.get("USE_PYCAFFE", "").strip().lower() not in OFF


def load() -> ModuleType:
    """The caffe module, set to the CPU.

    Raises:
        ImportError: there is none, or it cannot be loaded.
    """
    try:
        caffe = importlib.import_module("caffe")
        caffe.set_mode_cpu()
    except ImportError:
        raise
    except Exception as error:  # a caffe_pb2 too old for this protobuf, a folder named caffe, ...
        raise ImportError(f"{type(error).__name__}: {error}", name="caffe") from error
    return caffe


def schema(notes: List[str]) -> Optional[Any]:
    """The Descriptor of NetParameter in the caffe_pb2 of the Caffe that was loaded.

    Args:
        notes: takes why there is none, if there is none.
    """
    try:
        return importlib.import_module("caffe.proto.caffe_pb2").NetParameter.DESCRIPTOR
    except Exception as error:  # as above; some builds lack it
        notes.append(
            f"import caffe.proto.caffe_pb2 failed ({type(error).__name__}: {error}): "
            "what only this Caffe knows is not read"
        )
        return None


@contextmanager
def advice(caffe: Any, build: Any, net: Message) -> Iterator[None]:
    """Adds to an UnsupportedModel what of it the Caffe in use does know, and what to do.

    Args:
        caffe, build: what `load` and `schema` gave; None where PyCaffe does not read.
        net: what the prototxt holds, for the layer types and unknown fields in it.
    """
    try:
        yield
    except UnsupportedModel as error:
        # Older builds do not have it.
        types: List[str] = getattr(caffe, "layer_type_list", list)()
        layers = {layer.fields.get("type", "") for layer in net.fields.get("layer", [])}
        names = [
            repr(type_)
            for type_ in sorted(layers.intersection(types))
            if repr(type_) in error.message and not registry.dialects(type_)
        ]
        fields = {field.name: None for field in net.unknown if _knows(build, field.path)}
        names += [name for name in fields if name in error.message]
        if names:
            advised = (
                f"only the Caffe in use knows {listed(names)}: write a plug-in that says what it "
                "computes, see docs/adding-a-layer.md"
            )
            error.hint = "; ".join(filter(None, (advised, error.hint)))
        raise


def _knows(build: Any, path: str) -> bool:
    """Whether a path of fields, ``layer[3].mix_param.scale``, is in the build's NetParameter."""
    for name in re.sub(r"\[\d+\]", "", path).split("."):
        field = build.fields_by_name.get(name) if build is not None else None
        if field is None:
            return False
        build = field.message_type
    return True


class Session:
    """A net loaded by Caffe.

    Caffe aborts the process on a net it refuses; whoever started us sees the log and the signal.
    """

    def __init__(
        self, caffe: Any, prototxt: str, weights: Optional[str], options: Options, built: Built
    ) -> None:
        files = [str(prototxt)] if weights is None else [str(prototxt), str(weights)]
        phase = getattr(caffe, options.phase)
        if options.level or options.stages:
            # Only the newer of PyCaffe's two constructors takes these.
            self._caffe = caffe.Net(
                files[0], phase, options.level, list(options.stages), *files[1:]
            )
        else:
            self._caffe = caffe.Net(*files, phase)
        self._built = built
        self._places = self._find_layers()

    def _find_layers(self) -> Dict[str, int]:
        """Our layer's name -> its place among Caffe's layers, which keep the file's order."""
        names = list(self._caffe._layer_names)
        types = [layer.type for layer in self._caffe.layers]
        places: Dict[str, int] = {}
        after = 0
        for layer in self._built.net.layers:
            # A repeated name has a number here, a missing one is the type.
            meant = {layer.name, layer.name.rpartition("#")[0]}
            for i in range(after, len(names)):
                if names[i] in meant and types[i] == layer.type:
                    places[layer.name] = i
                    after = i + 1
                    break
        return places

    def weights(self) -> Dict[str, np.ndarray]:
        """Parameter key -> array, as Caffe loaded it.

        Raises:
            MalformedModel: Caffe's layer has other blobs than ours.
        """
        arrays = {}
        for layer, shapes in self._built.weight_shapes.items():
            blobs = self._caffe.layers[self._places[layer]].blobs
            found = [tuple(blob.data.shape) for blob in blobs]
            if found != [tuple(shape) for shape in shapes]:
                raise MalformedModel(
                    f"shapes {[list(s) for s in shapes]} expected, "
                    f"Caffe has {[list(s) for s in found]}",
                    f"layer {layer!r}",
                    "try --reader protobuf",
                )
            for i, blob in enumerate(blobs):
                arrays[f"{layer}/{i}"] = np.array(blob.data, np.float32)
        return arrays

    def set_weights(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets parameters that Caffe's own fillers would leave random; by parameter key."""
        for key, value in values.items():
            layer, _, index = key.rpartition("/")
            self._caffe.layers[self._places[layer]].blobs[int(index)].data[...] = value

    def forward(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Caffe's own forward pass: every value of every blob, by key.

        Args:
            inputs: input key -> values.
        """
        net = self._built.net
        for key, value in inputs.items():
            # Each layer reshapes its tops as it runs, and one that is dropped may not like to.
            self._caffe.blobs[net.blobs[key].name].reshape(*value.shape)
            self._caffe.blobs[net.blobs[key].name].data[...] = value
        values: Dict[str, np.ndarray] = dict(inputs)
        done = -1
        for layer in net.layers:
            if layer.name in self._places:
                # From after the last layer of ours, so that the splits Caffe put between run too.
                place = self._places[layer.name]
                self._run_splits(done + 1, place)
                done = place
                self._caffe._forward(done, done)
                for i, key in enumerate(layer.tops):
                    top = self._top(place, i, net.blobs[key].name)
                    values[key] = np.array(top.data, np.float32)
            else:  # a view of shared memory that only our graph spells out
                tops = registry.meaning(layer).forward(
                    [values[key] for key in layer.bottoms], [], len(layer.tops)
                )
                values.update(zip(layer.tops, tops))
        return values

    def _top(self, layer: int, index: int, name: str) -> Any:
        """A top of Caffe's layer; what a loss does not name has a number alone there."""
        if name in self._caffe.blobs:
            return self._caffe.blobs[name]
        return self._caffe._blobs[self._caffe._top_ids(layer)[index]]

    def _run_splits(self, start: int, end: int) -> None:
        for i in range(start, end):
            if self._caffe.layers[i].type == "Split":
                self._caffe._forward(i, i)
