"""From an upgraded NetParameter to a `Net`, as Caffe's net.cpp makes one.

Include and exclude rules, data layers to inputs, losses dropped, single assignment, shapes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from schemas.errors import MalformedModel, UnsupportedModel, UsageError
from schemas.graph import Blob, Layer, Net, Shape
from schemas.layers import registry
from stage_extract.alignment import agrees, aligned
from stage_extract.dialects import Stored
from stage_extract.prototxt import Message
from stage_extract.pruning import is_source
from stage_extract.selection import Options, Selection, select, with_state

__all__ = ("Built", "Options", "build", "with_state")


@dataclass(frozen=True)
class Built:
    """A net and what goes with it.

    Attributes:
        weight_shapes: layer name -> shapes of its parameter blobs, for each layer that owns any (a
            shared one belongs to the first layer that names it).
        preprocessing: input key -> transform_param, with its layer's new_height and new_width.
        notes: what the user should be told.
    """

    net: Net
    weight_shapes: Mapping[str, List[Shape]]
    preprocessing: Mapping[str, Any]
    notes: Tuple[str, ...]


def build(message: Message, options: Options, stored: Stored = dict) -> Built:
    """The net that Caffe would run for this NetParameter.

    Args:
        stored: see `settle`.

    Raises:
        UnsupportedModel: all layers and fields that cannot be converted, at once.
        MalformedModel: Caffe itself would refuse the net.
        UsageError: the options name blobs that are not there.
    """
    with _located(message.source):
        notes: List[str] = []
        selected = select(message, options, stored, notes)
        inputs = {top for layer in selected.layers if is_source(layer) for top in layer.tops}
        for name in options.input_shapes:
            if name not in inputs:
                raise UsageError(
                    f"--input-shape: the net has no input {name!r}",
                    hint=f"its inputs: {', '.join(map(repr, sorted(inputs))) or 'none'}",
                )
        if not inputs:
            raise MalformedModel("the net has no input", hint="add an Input layer or input_dim")
        name = str(message.fields.get("name", ""))
        return _Builder(selected, options.outputs, notes).build(name)


@contextmanager
def _located(source: str) -> Iterator[None]:
    """Adds the file to errors that name only a layer or a line in it."""
    try:
        yield
    except (MalformedModel, UnsupportedModel) as error:
        error.where = ", ".join(filter(None, (source, error.where)))
        raise


class _Value(NamedTuple):
    """What a blob holds: the value `key`, unless its memory was rewritten since.

    Attributes:
        shape: the blob's own shape; other blobs on the same memory may have another.
        memory: the key that the memory was allocated for.
        rewrites: how often the memory had been written in place.
    """

    key: str
    shape: Shape
    memory: str
    rewrites: int


class _Builder:
    """Runs through the layers once: keys for every value, shapes, batch axes, parameter owners."""

    def __init__(self, selected: Selection, outputs: Sequence[str], notes: List[str]) -> None:
        self._selected = selected
        self._outputs = outputs
        self._notes = notes
        self._layer_names = {layer.name for layer in selected.layers}
        self._layers: List[Layer] = []
        self._blobs: Dict[str, Blob] = {}
        self._inputs: List[str] = []
        self._values: Dict[str, _Value] = {}  # blob name -> what was last written to it by name
        self._rewrites: Dict[str, List[str]] = {}  # memory -> keys written in place, in order
        self._writers: Dict[str, str] = {}  # key -> name of the layer that wrote it
        self._unread: Set[str] = set()  # blob names, as Caffe's available_blobs
        self._owners: Dict[str, Tuple[str, Shape]] = {}
        self._weight_shapes: Dict[str, List[Shape]] = {}
        self._preprocessing: Dict[str, Any] = {}

    def build(self, name: str) -> Built:
        refused: Dict[str, List[str]] = {}
        beyond: Set[str] = set()  # blob names that come after a refused layer
        for layer in self._selected.layers:
            if is_source(layer):
                self._add_inputs(layer)
            elif not beyond.isdisjoint(layer.bottoms):
                beyond.update(layer.tops)
            else:
                try:
                    self._add(layer)
                except UnsupportedModel as error:
                    refused.setdefault(error.message, []).append(error.where)
                    beyond.update(layer.tops)
        if refused:
            reasons = (f"{', '.join(where)}: {reason}" for reason, where in refused.items())
            raise UnsupportedModel("; ".join(reasons))
        outputs = {self._read(output) for output in sorted(self._outputs or self._unread)}
        self._settle_batch()
        return self._finish(name, outputs)

    def _define(self, name: str, writer: str, blob: Blob) -> str:
        key = f"{name}@{writer}"
        while key in self._blobs:
            key += "'"
        self._blobs[key] = replace(blob, key=key, name=name)
        self._writers[key] = writer
        return key

    def _bind(self, name: str, key: str, memory: str) -> None:
        """Makes `key` the value of the blob `name`, until its memory is written in place."""
        rewrites = self._rewrites.setdefault(memory, [])
        self._values[name] = _Value(key, self._blobs[key].shape, memory, len(rewrites))

    def _current(self, name: str) -> str:
        """The key of the blob's value, in whichever shape it was last written."""
        value = self._values[name]
        rewrites = self._rewrites[value.memory]
        return rewrites[-1] if len(rewrites) > value.rewrites else value.key

    def _read(self, name: str) -> str:
        """The key of the blob's value in its own shape.

        Where its memory was written in place under a name with another shape, a Reshape goes
        between.
        """
        key, value = self._current(name), self._values[name]
        written = self._blobs[key]
        if written.shape == value.shape:
            return key
        own = self._blobs[value.key]
        same_batch = own.batch == written.batch == 0 and own.shape[:1] == written.shape[:1]
        dims = [0, *own.shape[1:]] if same_batch else list(own.shape)
        writer = self._writers[key]
        view = self._define(name, writer, replace(own, batch=0 if same_batch else None))
        layer_name = f"{name}@{writer}"
        while layer_name in self._layer_names:
            layer_name += "'"
        self._layer_names.add(layer_name)
        fields = {"reshape_param": {"shape": {"dim": dims}}}
        self._layers.append(Layer(layer_name, "Reshape", (key,), (view,), fields))
        self._bind(name, view, value.memory)
        return view

    def _add_inputs(self, layer: Layer) -> None:
        shapes = []
        for top in layer.tops:
            shape = self._selected.input_shapes.get(top)
            if shape is None:
                raise MalformedModel(
                    f"the prototxt does not tell the shape of {top!r}",
                    str(layer),
                    f"give it with --input-shape {top}=N,C,H,W",
                )
            if top in self._values:
                raise MalformedModel(
                    f"input {top!r} is already the top of another layer", str(layer)
                )
            shapes.append(tuple(shape))
            key = self._define(top, layer.name, Blob("", "", shape, 0 if shape else None))
            self._bind(top, key, key)
            self._unread.add(top)
            self._inputs.append(key)
        fields = {"input_param": {"shape": [{"dim": list(shape)} for shape in shapes]}}
        registry.infer(replace(layer, type="Input", dialect="", fields=fields), [])
        transform = _transform(layer)
        if transform:
            self._preprocessing[self._current(layer.tops[0])] = transform

    def _add(self, layer: Layer) -> None:
        if len(set(layer.tops)) < len(layer.tops):
            raise MalformedModel("a top is listed twice", str(layer), "give each its own name")
        bottoms = tuple(self._read(bottom) for bottom in layer.bottoms)
        undecided = self._selected.undecided.get(layer.name)
        if undecided and not agrees(bottoms, self._layers, self._blobs):
            raise UnsupportedModel(undecided, str(layer))
        layer = aligned(layer, bottoms, self._layers, self._blobs, self._notes)
        shapes = [self._blobs[key].shape for key in bottoms]
        made, weights, tops = registry.infer(layer, shapes)
        batches = made.batch_axes(*self._batched(bottoms), tops)
        with registry.located(layer):
            varying = made.varying(shapes, [self._blobs[key].varying for key in bottoms], tops)
        shares_memory = made.shares_memory(len(bottoms), len(tops))
        self._unread.difference_update(layer.bottoms)
        self._unread.update(layer.tops)
        keys = []
        for i, (top, shape, batch, varies) in enumerate(zip(layer.tops, tops, batches, varying)):
            rows = batch if varies is None else None
            blob = Blob("", "", shape, rows, i in made.index_tops, varies)
            key = self._define(top, layer.name, blob)
            keys.append(key)
            if layer.bottoms[i : i + 1] == (top,):
                # Seen under every name that shares the memory (Blob::ShareData).
                memory = self._values[top].memory
                self._rewrites[memory].append(key)
                self._bind(top, key, memory)
                continue
            if top in self._values:
                self._notes.append(f"{layer}: top {top!r} replaces an earlier blob of that name")
            self._bind(top, key, self._values[layer.bottoms[0]].memory if shares_memory else key)
        self._layers.append(
            replace(
                layer, bottoms=bottoms, tops=tuple(keys), weights=self._own_weights(layer, weights)
            )
        )

    def _batched(self, bottoms: Sequence[str]) -> Tuple[List[Shape], List[Optional[int]]]:
        """The shapes and batch axes that those of a layer's tops follow from: its bottoms', or,
        where it has none, those of the net's first input."""
        if bottoms:
            blobs = [self._blobs[key] for key in bottoms]
            return [blob.shape for blob in blobs], [blob.batch for blob in blobs]
        sources = (layer for layer in self._selected.layers if is_source(layer))
        shape = self._selected.input_shapes.get(next(sources).tops[0]) or ()
        return [shape], [0 if shape else None]

    def _own_weights(self, layer: Layer, shapes: Sequence[Shape]) -> Tuple[str, ...]:
        """Keys of the layer's parameters; a named one belongs to the first layer that names it."""
        specs = layer.fields.get("param", [])
        keys = []
        for i, shape in enumerate(map(tuple, shapes)):
            spec = specs[i] if i < len(specs) else {}
            key = f"{layer.name}/{i}"
            if spec.get("name"):
                key, owned = self._owners.setdefault(spec["name"], (key, shape))
                if owned != shape:
                    permissive = spec.get("share_mode") == "PERMISSIVE"
                    raise (UnsupportedModel if permissive else MalformedModel)(
                        f"shared parameter {spec['name']!r} has shape {list(shape)} here "
                        f"and {list(owned)} in {key!r}",
                        str(layer),
                    )
            keys.append(key)
        if any(key == f"{layer.name}/{i}" for i, key in enumerate(keys)):
            self._weight_shapes[layer.name] = [tuple(shape) for shape in shapes]
        return tuple(keys)

    def _settle_batch(self) -> None:
        """Forgets every batch axis where inputs whose batches differ in size share none."""
        self._settle_time_major()
        inputs = [self._blobs[key] for key in self._inputs]
        sizes = {None if blob.batch is None else blob.shape[blob.batch] for blob in inputs}
        if len(sizes) > 1:
            self._blobs = {
                key: replace(blob, batch=None, sequence=False) for key, blob in self._blobs.items()
            }

    def _settle_time_major(self) -> None:
        """Where recurrent layers are, works the batch axes out again, from their inputs' order."""
        order = self._time_major()
        for key in order.keys() & set(self._inputs):
            self._blobs[key] = replace(self._blobs[key], batch=1, sequence=order[key])
        for layer in self._layers if order else ():
            bottoms = [self._blobs[key] for key in layer.bottoms or self._inputs[:1]]
            tops = [self._blobs[key] for key in layer.tops]
            axes = _batch_axes(layer, bottoms, [blob.batch for blob in bottoms], tops)
            lengths = {blob.shape[:1] for blob in bottoms if blob.sequence}
            for blob, axis in zip(tops, axes):
                # Out of the time-major order, sizes would depend on the length.
                mixed = blob.varying is not None or (lengths and axis != 1)
                self._blobs[blob.key] = replace(
                    blob,
                    batch=None if mixed else axis,
                    sequence=not mixed and blob.shape[:1] in lengths,
                )

    def _time_major(self) -> Dict[str, bool]:
        """What recurrent layers read, at any distance, with time on axis 0 and the batch on axis 1:
        key -> whether any length will do."""
        order: Dict[str, bool] = {}
        for layer in reversed(self._layers):
            read = registry.meaning(layer).time_major(len(layer.bottoms))
            found = {layer.bottoms[i]: free for i, free in read.items()}
            wanted = [i for i, key in enumerate(layer.tops) if key in order]
            if not found and wanted:
                bottoms = [self._blobs[key] for key in layer.bottoms]
                tried = [1 if len(blob.shape) > 1 else None for blob in bottoms]
                axes = _batch_axes(layer, bottoms, tried, [self._blobs[key] for key in layer.tops])
                if all(axes[i] == 1 for i in wanted):
                    free = all(order[layer.tops[i]] for i in wanted)
                    found = dict.fromkeys(layer.bottoms, free)
            for key, free in found.items():
                order[key] = free and order.get(key, True)
        return order

    def _finish(self, name: str, outputs: Set[str]) -> Built:
        """Gives last values their plain names."""
        names = {blob_name: self._current(blob_name) for blob_name in self._values}
        rename = {
            key: blob_name for blob_name, key in names.items() if self._blobs[key].name == blob_name
        }
        taken = set(self._blobs).union(rename.values())
        for key in sorted(set(self._blobs).difference(rename).intersection(rename.values())):
            free = key + "'"
            while free in taken:
                free += "'"
            taken.add(free)
            rename[key] = free

        def new(keys: Iterable[str]) -> Tuple[str, ...]:
            return tuple(rename.get(key, key) for key in keys)

        net = Net(
            name=name,
            layers=tuple(
                replace(la, bottoms=new(la.bottoms), tops=new(la.tops)) for la in self._layers
            ),
            blobs={
                key: replace(self._blobs[old], key=key)
                for old, key in zip(self._blobs, new(self._blobs))
            },
            names={blob_name: rename.get(key, key) for blob_name, key in names.items()},
            inputs=new(self._inputs),
            outputs=tuple(sorted(new(outputs))),
        )
        if not net.dynamic_batch:
            self._notes.append(_why_fixed(net))
        preprocessing = {rename.get(key, key): v for key, v in self._preprocessing.items()}
        return Built(net, self._weight_shapes, preprocessing, tuple(self._notes))


def _transform(layer: Layer) -> Dict[str, Any]:
    """The layer's transform_param, and the size that its own message has images resized to."""
    found = dict(layer.fields.get("transform_param", {}))
    for own in layer.fields.values():
        if isinstance(own, dict):
            found.update({name: own[name] for name in ("new_height", "new_width") if name in own})
    return found


def _batch_axes(
    layer: Layer, bottoms: Sequence[Blob], axes: Sequence[Optional[int]], tops: Sequence[Blob]
) -> List[Optional[int]]:
    return registry.meaning(layer).batch_axes(
        [blob.shape for blob in bottoms], axes, [blob.shape for blob in tops]
    )


def _why_fixed(net: Net) -> str:
    fixed = "the batch size is fixed as in the prototxt: "
    for layer in net.layers:
        if all(net.blobs[key].batch is not None for key in layer.bottoms) and any(
            net.blobs[key].batch is None for key in layer.tops
        ):
            return f"{fixed}{layer} mixes or renumbers samples"
    return f"{fixed}the inputs have different first axes"
