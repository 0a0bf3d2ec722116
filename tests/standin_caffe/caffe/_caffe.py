"""The half of PyCaffe that is C++: Blob, Layer and Net (_caffe.cpp, blob.cpp, net.cpp)."""

from __future__ import annotations

import os
from functools import lru_cache

import h5py
import numpy as np

from schemas.errors import ConversionError
from schemas.graph import Layer as Described
from schemas.layers import registry

from . import golden, own_layers, upgrade_proto
from .insert_splits import filtered, with_splits
from .log import check, fatal, log

DATABASES = ("Data", "HDF5Data", "ImageData", "WindowData")
SHARED_IN_FORWARD = ("Split", "Flatten")
RESHAPED_IN_FORWARD = ("DetectionOutput",)
STRUCTURE = ("name", "type", "bottom", "top", "include", "exclude", "blobs")

# Of a type that several forks have and BVLC has not, this build has one of theirs.
FORK = "ssd"


class ArgumentError(TypeError):
    """What Boost.Python raises where no constructor takes the arguments."""


def set_mode_cpu():
    log("I", "common.cpp:152", "mode: CPU")


@lru_cache(maxsize=None)
def _types():
    """Layer type -> the dialect of the one meaning that it has in this build.

    What plug-ins register is none of Caffe's.
    """
    dialects = {}
    for (type_, dialect), meaning in registry.registered().items():
        if type_ != "Python" and meaning.__module__.startswith("schemas."):
            dialects.setdefault(type_, []).append(dialect)
    return {
        type_: next(name for name in ("", FORK, *known) if name in known)
        for type_, known in dialects.items()
    }


def layer_type_list():
    """LayerRegistry::LayerTypeList."""
    return sorted({*own_layers.TYPES, *_types()})


def _meaning(layer):
    """What a LayerParameter computes (LayerRegistry::CreateLayer)."""
    own = own_layers.find(layer)
    if own is not None:
        return own
    if layer.type not in _types():
        known = ", ".join(layer_type_list())
        fatal("layer_factory.hpp:81", f"Unknown layer type: {layer.type} (known types: {known})")
    fields = {name: value for name, value in _document(layer).items() if name not in STRUCTURE}
    bottoms, tops, dialect = tuple(layer.bottom), tuple(layer.top), _types()[layer.type]
    try:
        return registry.meaning(
            Described(layer.name, layer.type, bottoms, tops, fields, dialect=dialect)
        )
    except ConversionError as error:
        check(False, str(error), "layer_factory.hpp:85")


def _document(message):
    """The fields of a message as plain values."""
    return {
        field.name: [_plain(field, item) for item in value]
        if hasattr(value, "extend")
        else _plain(field, value)
        for field, value in message.ListFields()
    }


def _plain(field, value):
    if field.message_type is not None:
        return _document(value)
    return field.enum_type.values_by_number[value].name if field.enum_type else value


class Blob:
    """A shape over memory, which other blobs may have, too."""

    def __init__(self, *shape):
        self._memory = np.zeros(0, np.float32)
        self._capacity = 0
        self.reshape(*shape)

    @property
    def shape(self):
        return list(self._shape)

    @property
    def count(self):
        return int(np.prod(self._shape))

    @property
    def data(self):
        return self._memory[: self.count].reshape(self._shape)

    def reshape(self, *shape):
        self._shape = tuple(int(size) for size in shape)
        if self.count > self._capacity:
            self._capacity = self.count
            self._memory = np.zeros(self._capacity, np.float32)

    def _share_data(self, other):
        check(self.count == other.count, f"count_ == other.count() ({self.count})", "blob.cpp:161")
        self._memory = other._memory


class Layer:
    """A layer that was set up, with its bottoms and tops.

    `known` gives of a top's place the values it has in the golden that is in use, or None.
    """

    def __init__(self, described, bottoms, tops, known):
        self.type = described.type
        self.blobs = []
        self._meaning = _meaning(described)
        self._bottoms = bottoms
        self._tops = tops
        self._known = known
        self._shares = self._meaning.shares_memory(len(bottoms), len(tops))
        self._computes = self._meaning.role in ("compute", "loss")

    def _set_up(self, stored):
        """Makes parameters and tops; `stored` are the shapes that the weights say, if they do."""
        shapes = stored
        if shapes is None:
            shapes = self._meaning.weight_shapes([bottom._shape for bottom in self._bottoms])
        golden.told["parameters: " + ("computed" if stored is None else "weights")] += len(shapes)
        self.blobs = [Blob(*shape) for shape in shapes]
        if self._meaning.role in ("input", "data"):
            for top, shape in zip(self._tops, self._meaning.known(len(self._tops))):
                top.reshape(*shape)
        self._reshape(count=True)

    def _reshape(self, count=False):
        if not self._computes:
            return
        computed = None
        for i, top in enumerate(self._tops):
            if top in self._bottoms:
                continue
            known = self._known(i)
            if known is None and computed is None:
                bottoms = [bottom._shape for bottom in self._bottoms]
                computed = self._meaning.shapes(bottoms, len(self._tops))
            top.reshape(*(computed[i] if known is None else known.shape))
            golden.told["tops: " + ("computed" if known is None else "golden")] += count
        if self.type not in SHARED_IN_FORWARD:
            self._share()

    def _share(self):
        if self._shares:
            for top in self._tops:
                top._share_data(self._bottoms[0])

    def _forward(self):
        self._reshape()
        self._share()
        if self._shares or not self._computes:
            return
        bottoms = [bottom.data for bottom in self._bottoms]
        weights = [blob.data for blob in self.blobs]
        with np.errstate(all="ignore"):
            tops = self._meaning.forward(bottoms, weights, len(self._tops))
        for top, values in zip(self._tops, tops):
            if self.type in RESHAPED_IN_FORWARD:
                top.reshape(*values.shape)
            check(top._shape == values.shape, f"{top._shape} vs. {values.shape} in {self.type}")
            top.data[...] = values


class Net:
    """``Net(file, phase, level=0, stages=None, weights=None)`` or ``Net(file, weights, phase)``."""

    def __init__(self, *arguments, **named):
        if len(arguments) == 3 and isinstance(arguments[1], str) and not named:
            path, weights, phase = arguments
            log("W", "_caffe.cpp:139", "DEPRECATION WARNING - deprecated use of Python interface")
            self._init(path, phase, weights=weights)
        elif len(arguments) > 1 and isinstance(arguments[1], str):
            raise ArgumentError("Python argument types did not match C++ signature")
        else:
            self._init(*arguments, **named)

    def _init(self, network_file, phase, level=0, stages=None, weights=None):
        for path in filter(None, (network_file, weights)):
            if not os.path.isfile(path):
                raise RuntimeError("Could not open file " + path)
        net = upgrade_proto.read_text(network_file)
        net.state.phase, net.state.level = phase, level
        net.state.stage.extend(stages or [])
        log("I", "net.cpp:51", f"Initializing net from parameters: {net.name}")
        stored = None if weights is None else dict(_stored(weights))
        self._golden = golden.used()
        self._plays = False
        self.layers, self._layer_names = [], []
        self._blobs, self._blob_names, self._by_name = [], [], {}
        self._inputs, self._ids, self._owners = [], [], {}
        available = set()
        for layer in with_splits(list(filtered(net))):
            self._append(layer, stored or {})
            available.difference_update(layer.bottom)
            available.update(layer.top)
        self._outputs = [self._by_name[name] for name in sorted(available)]
        log("I", "net.cpp:255", "Network initialization done.")
        if stored is not None:
            self._copy_trained_layers(stored)

    def _append(self, layer, stored):
        log("I", "net.cpp:84", f"Creating Layer {layer.name}")
        check(layer.type not in DATABASES, "mdb_status == 0 (2 vs. 0) No such file or directory")
        bottoms = [self._by_name[name] for name in layer.bottom]
        tops = [self._append_top(layer, i, name) for i, name in enumerate(layer.top)]
        place = len(self.layers)
        made = Layer(
            layer,
            [self._blobs[i] for i in bottoms],
            [self._blobs[i] for i in tops],
            lambda top: self._known(place, top),
        )
        if made._meaning.role == "loss" and not tops:  # AutoTopBlobs
            tops.append(self._new_blob("(automatic)"))
            made._tops.append(self._blobs[-1])
        self.layers.append(made)
        self._layer_names.append(layer.name)
        self._ids.append((bottoms, tops))
        # Without a golden Caffe's own checks of what is stored are of interest.
        shapes = stored.get(layer.name) if self._golden.inputs else None
        made._set_up(None if shapes is None else [blob.shape for blob in shapes])
        if layer.type == "Input":
            self._inputs += tops
        self._share_params(layer, made)

    def _append_top(self, layer, index, name):
        if name in layer.bottom[index : index + 1]:
            return self._by_name[name]
        check(name not in self._by_name, f"Top blob '{name}' produced by multiple sources.")
        self._by_name[name] = self._new_blob(name)
        return self._by_name[name]

    def _new_blob(self, name):
        self._blobs.append(Blob(0))
        self._blob_names.append(name)
        return len(self._blobs) - 1

    def _share_params(self, layer, made):
        """Net::AppendParam."""
        check(len(layer.param) <= len(made.blobs), f"Too many params specified for {layer.name}")
        for spec, blob in zip(layer.param, made.blobs):
            owner = self._owners.setdefault(spec.name, blob)
            if spec.name and owner is not blob:
                check(owner.shape == blob.shape, f"Cannot share param '{spec.name}'")
                blob._share_data(owner)

    def _known(self, layer, top):
        """What the golden has of a layer's top, while the inputs have the golden's shapes."""
        fed = self._golden.inputs
        given = {self._blob_names[i]: self._blobs[i]._shape for i in self._inputs}
        if not fed or given != {name: values.shape for name, values in fed.items()}:
            return None
        return self._golden.blob(self._blob_names[self._ids[layer][1][top]])

    def _play(self, layer):
        """Puts the golden's values into what a layer has written and no later one writes over."""
        for i, top in enumerate(self.layers[layer]._tops):
            known = self._known(layer, i)
            if known is not None and not any(
                blob in later._bottoms and blob._memory is top._memory
                for later in self.layers[layer + 1 :]
                for blob in later._tops
            ):
                top.reshape(*known.shape)
                top.data[...] = known

    def _top_ids(self, layer):
        return list(self._ids[layer][1])

    def _bottom_ids(self, layer):
        return list(self._ids[layer][0])

    def reshape(self):
        for layer in self.layers:
            layer._reshape()

    def _forward(self, start, end):
        if all(layer.type == "Input" for layer in self.layers[:start]):
            fed = {name: self._blobs[self._by_name[name]].data for name in self._golden.inputs}
            self._plays = bool(fed) and all(
                np.array_equal(fed[name], values) for name, values in self._golden.inputs.items()
            )
        for i in range(start, end + 1):
            self.layers[i]._forward()
            if self._plays:
                self._play(i)
        return 0.0

    def _copy_trained_layers(self, stored):
        """Net::CopyTrainedLayersFrom: by name, the rest stays as it is."""
        for name, blobs in stored.items():
            if name not in self._layer_names:
                log("I", "net.cpp:752", f"Ignoring source layer {name}")
                continue
            target = self.layers[self._layer_names.index(name)].blobs
            check(len(target) == len(blobs), f"Incompatible number of blobs for layer {name}")
            for i, (blob, values) in enumerate(zip(target, blobs)):
                own, found = blob._shape, values.shape
                legacy = len(found) == 4 and (1,) * (4 - len(own)) + own == found
                check(
                    own == found or legacy,
                    f"Cannot copy param {i} weights from layer '{name}'; shape mismatch.",
                    "net.cpp:764",
                )
                blob.data[...] = values.reshape(own)


def _stored(path):
    """The parameters of each layer of a weight file, by name."""
    with open(path, "rb") as file:
        is_hdf5 = file.read(4) == b"\x89HDF"
    if not is_hdf5:
        for layer in upgrade_proto.read_binary(path).layer:
            yield layer.name, [_from_proto(blob) for blob in layer.blobs]
        return
    with h5py.File(path, "r") as file:
        for name, group in file["data"].items():
            yield name, [np.array(group[str(i)], np.float32) for i in range(len(group))]


def _from_proto(blob):
    """Blob::FromProto: the four old sizes go before a shape, doubles before floats."""
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(blob.shape.dim)
    values = np.array(blob.double_data if len(blob.double_data) else blob.data, np.float32)
    check(values.size == int(np.prod(shape)), "count_ == proto.data_size()", "blob.cpp:495")
    return values.reshape(shape)
