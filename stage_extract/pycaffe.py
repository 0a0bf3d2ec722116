"""The only `import caffe`: weights and activations from a Caffe that is installed here.

The net's structure and parameters come from the prototxt through our own reader either way, so that
both readers give the same net; Caffe upgrades and matches the weights, and computes.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any, Dict, Mapping, Optional

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Net
from schemas.interchange import Reference
from schemas.layers import registry
from stage_extract import reference
from stage_extract.network import Built, Options

OFF = ("", "0", "false", "no", "off")


def wanted() -> bool:
    """Whether USE_PYCAFFE asks for PyCaffe: empty, 0, false, no and off mean no."""
    return os.environ.get("USE_PYCAFFE", "").strip().lower() not in OFF


def load() -> ModuleType:
    """The caffe module, set to the CPU.

    Raises:
        ImportError: there is none, or it cannot be loaded.
    """
    caffe = importlib.import_module("caffe")
    caffe.set_mode_cpu()
    return caffe


class Session:
    """A net loaded by Caffe.

    Caffe aborts the process on a net it refuses; whoever started us sees the log and the signal.
    """

    def __init__(
        self, caffe: Any, prototxt: str, weights: Optional[str], options: Options, built: Built
    ) -> None:
        phase = getattr(caffe, options.phase)
        more: Dict[str, Any] = {}
        if options.level:
            more["level"] = options.level
        if options.stages:
            more["stages"] = list(options.stages)
        files = [str(prototxt)] if weights is None else [str(prototxt), str(weights)]
        self._caffe = caffe.Net(*files, phase, **more)
        self._built = built

    def weights(self) -> Dict[str, np.ndarray]:
        """Parameter key -> array, as Caffe loaded it.

        Raises:
            MalformedModel: Caffe's layer has other blobs than ours.
        """
        arrays = {}
        for layer, shapes in self._built.weight_shapes.items():
            blobs = self._caffe.params.get(layer, [])
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

    def record(self, seed: int) -> Reference:
        """Caffe's own forward pass on seeded inputs, every value of every blob."""
        net = self._built.net
        for scale in reference.SCALES:
            inputs = reference.seeded_inputs(net, seed, scale)
            blobs = self._forward(net, inputs)
            if not reference.non_finite(blobs):
                break
        return Reference("caffe", seed, inputs, blobs)

    def _forward(self, net: Net, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        for key, value in inputs.items():
            self._caffe.blobs[net.blobs[key].name].reshape(*value.shape)
        self._caffe.reshape()
        for key, value in inputs.items():
            self._caffe.blobs[net.blobs[key].name].data[...] = value
        places = {name: i for i, name in enumerate(self._caffe._layer_names)}
        values: Dict[str, np.ndarray] = dict(inputs)
        done = -1
        for layer in net.layers:
            if layer.name in places:
                # From after the last layer of ours, so that the splits Caffe put between run too.
                self._run_splits(done + 1, places[layer.name])
                done = places[layer.name]
                self._caffe._forward(done, done)
                for key in layer.tops:
                    values[key] = np.array(self._caffe.blobs[net.blobs[key].name].data, np.float32)
            else:  # a view of shared memory that only our graph spells out
                tops = registry.meaning(layer).forward(
                    [values[key] for key in layer.bottoms], [], len(layer.tops)
                )
                values.update(zip(layer.tops, tops))
        return values

    def _run_splits(self, start: int, end: int) -> None:
        for i in range(start, end):
            if self._caffe.layers[i].type == "Split":
                self._caffe._forward(i, i)
