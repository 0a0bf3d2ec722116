"""A double of PyCaffe for machines without Caffe: its interface, its graph and its memory.

What a layer computes is taken from `schemas.layers`. All else follows Caffe's own files and shares
no code with the readers under test: protobuf reads, nets are filtered (net.cpp) and split
(insert_splits.cpp), blobs really share memory (blob.cpp), in-place layers write over their bottom,
the log goes to stderr, and a net that Caffe refuses ends the process.

Not here: V0 nets, databases, fillers (weights start as zeros), backward passes.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import h5py
import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from schemas.errors import ConversionError
from schemas.graph import Layer as Described
from schemas.layers import registry
from stage_extract.descriptors import is_repeated, message_class
from stage_extract.upgrade import V1_TYPES

TRAIN, TEST = 0, 1
PHASES = ("TRAIN", "TEST")
DATABASES = ("Data", "HDF5Data", "ImageData", "WindowData")
SHARED_IN_FORWARD = ("Split", "Flatten")
STRUCTURE = ("name", "type", "bottom", "top", "include", "exclude")


class ArgumentError(TypeError):
    """What Boost.Python raises where no constructor takes the arguments."""


def set_mode_cpu():
    _log("I", "common.cpp:152", "mode: CPU")


def _log(level, place, message):
    os.write(2, f"{level}1122 10:00:00.000000     1 {place}] {message}\n".encode())


def _check(holds, message):
    """glog's CHECK."""
    if not holds:
        _log("F", "net.cpp:100", f"Check failed: {message}")
        os.abort()


# Messages


def _document(message):
    """The fields of a message as plain values, those of parameter blobs left out."""
    return {
        field.name: [_plain(field, item) for item in value]
        if is_repeated(field)
        else _plain(field, value)
        for field, value in message.ListFields()
        if field.name != "blobs"
    }


def _plain(field, value):
    if field.message_type is not None:
        return _document(value)
    return field.enum_type.values_by_number[value].name if field.enum_type else value


def _read_text(path):
    message = message_class("NetParameter")()
    with open(path, encoding="utf-8") as file:
        try:
            text_format.Parse(file.read(), message)
        except text_format.ParseError as error:
            _check(False, f"Failed to parse NetParameter file: {path} ({error})")
    return _upgraded(_document(message))


def _upgraded(net):
    """UpgradeNetAsNeeded (upgrade_proto.cpp), but for V0."""
    for old in net.pop("layers", []):
        _check("layer" not in old, "V0 nets are not known here")
        specs = [{"name": name} for name in old.pop("param", [])]
        for training in ("blobs_lr", "weight_decay", "blob_share_mode"):
            old.pop(training, None)
        current = dict(old, type=V1_TYPES[old["type"]], **({"param": specs} if specs else {}))
        net.setdefault("layer", []).append(current)
    names = net.pop("input", [])
    shapes, sizes = net.pop("input_shape", []), net.pop("input_dim", [])
    if names and (shapes or sizes):
        shapes = shapes or [{"dim": sizes[i : i + 4]} for i in range(0, len(sizes), 4)]
        first = {"name": "input", "type": "Input", "top": names, "input_param": {"shape": shapes}}
        net["layer"] = [first, *net["layer"]]
    return net


def _meets(rule, state):
    """Net::StateMeetsRule."""
    return (
        rule.get("phase", state["phase"]) == state["phase"]
        and rule.get("min_level", state["level"]) <= state["level"]
        and rule.get("max_level", state["level"]) >= state["level"]
        and all(stage in state["stage"] for stage in rule.get("stage", []))
        and not any(stage in state["stage"] for stage in rule.get("not_stage", []))
    )


def _filtered(layers, state):
    """Net::FilterNet."""
    for layer in layers:
        include, exclude = layer.get("include", []), layer.get("exclude", [])
        _check(not (include and exclude), "Specify either include rules or exclude rules; not both")
        met = [_meets(rule, state) for rule in include or exclude]
        if any(met) if include else not any(met):
            yield layer


def _with_splits(layers):
    """InsertSplits: a Split after each top that is read more than once."""
    made = {}  # blob name -> (layer index, top index) that wrote it last
    sources = {}  # (layer index, bottom index) -> the top that it reads
    readers = {}  # (layer index, top index) -> how many read it
    for i, layer in enumerate(layers):
        for j, name in enumerate(layer.get("bottom", [])):
            _check(name in made, f"Unknown bottom blob '{name}' (layer '{layer.get('name')}')")
            sources[i, j] = made[name]
            readers[made[name]] = readers.get(made[name], 0) + 1
        made.update((name, (i, j)) for j, name in enumerate(layer.get("top", [])))
    used = {}
    for i, layer in enumerate(layers):
        bottoms = list(layer.get("bottom", []))
        for j, name in enumerate(bottoms):
            source = sources[i, j]
            if readers[source] > 1:
                split = f"{name}_{layers[source[0]].get('name', '')}_{source[1]}_split"
                bottoms[j] = f"{split}_{used.setdefault(source, 0)}"
                used[source] += 1
        yield dict(layer, bottom=bottoms)
        for j, name in enumerate(layer.get("top", [])):
            count = readers.get((i, j), 0)
            if count > 1:
                split = f"{name}_{layer.get('name', '')}_{j}_split"
                tops = [f"{split}_{k}" for k in range(count)]
                yield {"name": split, "type": "Split", "bottom": [name], "top": tops}


# Objects of PyCaffe


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
        _check(self.count == other.count, f"count_ == other.count() ({self.count})")
        self._memory = other._memory


class Layer:
    """A layer that was set up, with its bottoms and tops."""

    def __init__(self, described, meaning, bottoms, tops):
        self.type = described["type"]
        self.blobs = []
        self._described = described
        self._meaning = meaning
        self._bottoms = bottoms
        self._tops = tops
        self._shares = meaning.shares_memory(len(bottoms), len(tops))
        self._computes = meaning.role in ("compute", "loss")

    def _set_up(self):
        shapes = [bottom._shape for bottom in self._bottoms]
        self.blobs = [Blob(*shape) for shape in self._meaning.weight_shapes(shapes)]
        if self._meaning.role in ("input", "data"):
            for top, shape in enumerate(self._meaning.known(len(self._tops))):
                self._tops[top].reshape(*shape)
        self._reshape()

    def _reshape(self):
        if not self._computes:
            return
        shapes = [bottom._shape for bottom in self._bottoms]
        for top, shape in enumerate(self._meaning.shapes(shapes, len(self._tops))):
            if self._tops[top] not in self._bottoms:
                self._tops[top].reshape(*shape)
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
        with np.errstate(all="ignore"):
            tops = self._meaning.forward(
                bottoms, [blob.data for blob in self.blobs], len(self._tops)
            )
        for top, values in enumerate(tops):
            self._tops[top].data[...] = values


class Net:
    """``Net(file, phase, level=0, stages=None, weights=None)`` or ``Net(file, weights, phase)``."""

    def __init__(self, *arguments, **named):
        if len(arguments) == 3 and isinstance(arguments[1], str) and not named:
            path, weights, phase = arguments
            self._init(path, phase, weights=weights)
        elif len(arguments) > 1 and isinstance(arguments[1], str):
            raise ArgumentError("Python argument types did not match C++ signature")
        else:
            self._init(*arguments, **named)

    def _init(self, network_file, phase, level=0, stages=None, weights=None):
        for path in filter(None, (network_file, weights)):
            if not os.path.isfile(path):
                raise RuntimeError("Could not open file " + path)
        net = _read_text(network_file)
        state = {
            "phase": PHASES[phase],
            "level": level,
            "stage": [*net.get("state", {}).get("stage", []), *(stages or [])],
        }
        _log("I", "net.cpp:51", f"Initializing net from parameters: {state}")
        self.layers = []
        self.blobs = OrderedDict()
        self._blobs, self._numbers = [], []
        self._layer_names = []
        self.top_names, self.bottom_names = OrderedDict(), OrderedDict()
        self._available = set()
        self._owners = {}
        for layer in list(_with_splits(list(_filtered(net.get("layer", []), state)))):
            self._append(layer)
        _log("I", "net.cpp:255", "Network initialization done.")
        if weights is not None:
            self._copy_trained_layers(weights)

    def _append(self, layer):
        name = layer.get("name", "")
        _log("I", "net.cpp:84", f"Creating Layer {name}")
        fields = {key: value for key, value in layer.items() if key not in STRUCTURE}
        bottoms, tops = tuple(layer.get("bottom", ())), tuple(layer.get("top", ()))
        try:
            meaning = registry.meaning(
                Described(name, layer.get("type", ""), bottoms, tops, fields)
            )
        except ConversionError as error:
            _check(False, str(error))
        _check(
            layer["type"] not in DATABASES, "mdb_status == 0 (2 vs. 0) No such file or directory"
        )
        for i, top in enumerate(tops):
            if bottoms[i : i + 1] != (top,):
                _check(top not in self.blobs, f"Top blob '{top}' produced by multiple sources.")
                self.blobs[top] = Blob(0)
        outputs = [self.blobs[top] for top in tops]
        if meaning.role == "loss" and not tops:  # AutoTopBlobs
            self.blobs["(automatic)"] = Blob(0)
            outputs = [self.blobs["(automatic)"]]
        self._numbers.append(range(len(self._blobs), len(self._blobs) + len(outputs)))
        self._blobs += outputs
        made = Layer(layer, meaning, [self.blobs[b] for b in bottoms], outputs)
        made._set_up()
        self.layers.append(made)
        self._layer_names.append(name)
        self.top_names[name], self.bottom_names[name] = list(tops), list(bottoms)
        self._available.difference_update(bottoms)
        self._available.update(tops)
        specs = fields.get("param", [])
        _check(len(specs) <= len(made.blobs), f"Too many params specified for layer {name}")
        for i, spec in enumerate(specs):
            owner = self._owners.setdefault(spec.get("name"), made.blobs[i])
            if spec.get("name") and owner is not made.blobs[i]:
                _check(owner.shape == made.blobs[i].shape, f"Cannot share param '{spec['name']}'")
                made.blobs[i]._share_data(owner)

    def _top_ids(self, layer):
        return list(self._numbers[layer])

    @property
    def params(self):
        return OrderedDict(
            (name, self.layers[i].blobs)
            for i, name in enumerate(self._layer_names)
            if self.layers[i].blobs
        )

    @property
    def inputs(self):
        return [
            top
            for i, name in enumerate(self._layer_names)
            if self.layers[i].type == "Input"
            for top in self.top_names[name]
        ]

    @property
    def outputs(self):
        return sorted(self._available)

    def reshape(self):
        for layer in self.layers:
            layer._reshape()

    def _forward(self, start, end):
        for layer in self.layers[start : end + 1]:
            layer._forward()
        return 0.0

    def forward(self, blobs=None, start=None, end=None, **inputs):
        """The outputs (or the blob `end`) after a pass, by name."""
        first = 0 if start is None else self._layer_names.index(start)
        last = len(self.layers) - 1 if end is None else self._layer_names.index(end)
        for name, values in inputs.items():
            self.blobs[name].data[...] = values
        self._forward(first, last)
        wanted = (self.outputs if end is None else self.top_names[end]) + list(blobs or [])
        return {name: self.blobs[name].data for name in wanted}

    def _copy_trained_layers(self, path):
        """Net::CopyTrainedLayersFrom: by name, the rest stays as it is."""
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(b"\x89HDF"):
            stored = _hdf5_layers(path)
        else:
            stored = _binary_layers(content, path)
        for name, blobs in stored:
            if name not in self._layer_names:
                _log("I", "net.cpp:752", f"Ignoring source layer {name}")
                continue
            target = self.layers[self._layer_names.index(name)].blobs
            _check(len(target) == len(blobs), f"Incompatible number of blobs for layer {name}")
            for i, (shape, values) in enumerate(blobs):
                same = tuple(target[i].shape) == shape or (
                    len(shape) == 4
                    and (1,) * (4 - len(target[i].shape)) + target[i]._shape == shape
                )
                _check(same, f"Cannot copy param {i} weights from layer '{name}'; shape mismatch.")
                target[i].data[...] = np.reshape(values, target[i]._shape)


def _binary_layers(content, path):
    message = message_class("NetParameter")()
    try:
        message.ParseFromString(content)
    except DecodeError:
        _check(False, f"Failed to parse NetParameter file: {path}")
    for layer in [*message.layers, *message.layer]:
        yield layer.name, [_blob(blob) for blob in layer.blobs]


def _blob(blob):
    """Blob::FromProto: the four old sizes go before a shape, doubles before floats."""
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(blob.shape.dim)
    return shape, np.array(blob.double_data if len(blob.double_data) else blob.data, np.float32)


def _hdf5_layers(path):
    with h5py.File(path, "r") as file:
        for name, group in file["data"].items():
            blobs = [group[str(i)] for i in range(len(group))]
            yield name, [(blob.shape, np.array(blob, np.float32)) for blob in blobs]
