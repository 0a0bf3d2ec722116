"""From an upgraded NetParameter to a `Net`, as Caffe's net.cpp makes one.

Include and exclude rules, data layers to inputs, losses dropped, single assignment, shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Set, Tuple

from schemas.errors import MalformedModel, UnsupportedModel, UsageError
from schemas.graph import Blob, Layer, Net, Shape
from schemas.layers import registry
from stage_extract.prototxt import Message

# Fields of LayerParameter that the graph states in another way.
_STRUCTURE = ("name", "type", "bottom", "top", "blobs", "include", "exclude")


@dataclass(frozen=True)
class Options:
    """What the command line says about the net.

    Attributes:
        phase, level, stages: the NetState that include/exclude rules are judged by.
        input_shapes: blob name -> shape, in place of what the prototxt says.
        outputs: blob names to cut the net at; empty keeps Caffe's own outputs.
    """

    phase: str = "TEST"
    level: int = 0
    stages: Tuple[str, ...] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A net and what goes with it.

    Attributes:
        weight_shapes: layer name -> shapes of its own parameter blobs; a shared one is its owner's.
        preprocessing: input key -> transform_param.
        notes: what the user should be told.
    """

    net: Net
    weight_shapes: Mapping[str, List[Shape]]
    preprocessing: Mapping[str, Any]
    notes: Tuple[str, ...]


def build(message: Message, options: Options) -> Built:
    """The net that Caffe would run for this NetParameter.

    Raises:
        UnsupportedModel: all layers and fields that cannot be converted, at once.
        MalformedModel: Caffe itself would refuse the net.
        UsageError: the options name blobs that are not there.
    """
    notes: List[str] = []
    layers = _unique_names(
        [_layer(m) for m in message.fields.get("layer", []) if _included(m, message, options)],
        notes,
    )
    if not layers:
        raise MalformedModel("the net has no layers", hint="check --phase, --stage and --level")
    _refuse_unsupported(layers, message)
    layers = _drop_losses(layers, notes)
    layers = _drop_sinks(layers, notes)
    if options.outputs:
        layers = _cut(layers, options.outputs)
    return _Builder(options, notes).build(str(message.fields.get("name", "")), layers)


def _layer(message: Message) -> Layer:
    fields = message.fields
    for name in ("name", "type"):
        if not fields.get(name):
            raise MalformedModel(f"a layer has no {name}", f"line {message.line}")
    return Layer(
        name=fields["name"],
        type=fields["type"],
        bottoms=tuple(fields.get("bottom", ())),
        tops=tuple(fields.get("top", ())),
        fields={k: v for k, v in message.document().items() if k not in _STRUCTURE},
        line=message.line,
    )


def _included(layer: Message, net: Message, options: Options) -> bool:
    """Net::StateMeetsRule over a layer's include and exclude rules (net.cpp)."""
    include, exclude = layer.fields.get("include", []), layer.fields.get("exclude", [])
    if include and exclude:
        raise MalformedModel("a layer has both include and exclude rules", f"line {layer.line}")
    state = net.fields.get("state")
    stages = set(options.stages) | set(state.fields.get("stage", []) if state else [])
    level = options.level or (state.fields.get("level", 0) if state else 0)

    def met(rule: Message) -> bool:
        fields = rule.fields
        return (
            fields.get("phase", options.phase) == options.phase
            and level >= fields.get("min_level", level)
            and level <= fields.get("max_level", level)
            and stages.issuperset(fields.get("stage", []))
            and stages.isdisjoint(fields.get("not_stage", []))
        )

    if include:
        return any(met(rule) for rule in include)
    return not any(met(rule) for rule in exclude)


def _unique_names(layers: Iterable[Layer], notes: List[str]) -> List[Layer]:
    taken: Set[str] = set()
    unique = []
    for layer in layers:
        name, count = layer.name, 1
        while name in taken:
            count += 1
            name = f"{layer.name}#{count}"
        if name != layer.name:
            notes.append(f"{layer}: the name is taken, called {name!r} here")
        taken.add(name)
        unique.append(replace(layer, name=name))
    return unique


def _refuse_unsupported(layers: Sequence[Layer], message: Message) -> None:
    """Raises one UnsupportedModel that lists everything that cannot be converted."""
    problems = [f"{u.path}, line {u.line}: unknown field" for u in message.unknown]
    for layer in layers:
        try:
            registry.meaning(layer)
        except UnsupportedModel as error:
            problems.append(f"{error.where}: {error.message}")
    if problems:
        more = "" if len(problems) == 1 else f"{len(problems)} things are not supported: "
        raise UnsupportedModel(more + "; ".join(problems))


def _role(layer: Layer) -> str:
    found = registry.find(layer.type, layer.dialect)
    return found.role if found else "compute"


def _drop_losses(layers: List[Layer], notes: List[str]) -> List[Layer]:
    """Drops losses and scores, and the branches that only bring them their labels."""
    losses = [layer for layer in layers if _role(layer) == "loss"]
    if not losses:
        return layers
    notes.append(
        "dropped (training and scoring only): " + ", ".join(str(layer) for layer in losses)
    )
    kept = [layer for layer in layers if layer not in losses]
    labels: Set[str] = set()
    for layer in losses:
        first = registry.meaning(layer).labels
        labels.update(layer.bottoms[first:])
    return _drop_branches(kept, labels)


def _drop_sinks(layers: List[Layer], notes: List[str]) -> List[Layer]:
    sinks = [layer for layer in layers if _role(layer) == "sink"]
    if not sinks:
        return layers
    notes.append("dropped (nothing reads on): " + ", ".join(str(layer) for layer in sinks))
    dead = {bottom for layer in sinks for bottom in layer.bottoms}
    return _drop_branches([layer for layer in layers if layer not in sinks], dead)


def _drop_branches(layers: List[Layer], dead: Set[str]) -> List[Layer]:
    """Removes, from the last layer up, what only made blobs that nobody needs any more."""
    kept: List[Layer] = []
    needed: Set[str] = set()
    for layer in reversed(layers):
        tops = tuple(top for top in layer.tops if top in needed or top not in dead)
        if _role(layer) in ("input", "data"):
            if tops:
                kept.append(_without_tops(layer, tops))
        elif tops:
            kept.append(layer)
            needed.update(layer.bottoms)
        else:
            dead.update(layer.bottoms)
    return kept[::-1]


def _without_tops(layer: Layer, tops: Tuple[str, ...]) -> Layer:
    """An input layer left with some of its tops, and the shapes that go with them."""
    if tops == layer.tops:
        return layer
    shapes = layer.fields.get("input_param", {}).get("shape", [])
    if len(shapes) != len(layer.tops):
        return replace(layer, tops=tops)
    chosen = [shape for shape, top in zip(shapes, layer.tops) if top in tops]
    return replace(layer, tops=tops, fields=dict(layer.fields, input_param={"shape": chosen}))


def _cut(layers: List[Layer], outputs: Sequence[str]) -> List[Layer]:
    """The layers that the blobs `outputs` are computed from."""
    known = {top for layer in layers for top in layer.tops}
    for name in outputs:
        if name not in known:
            raise UsageError(f"--outputs: the net has no blob {name!r}")
    needed = set(outputs)
    kept = []
    for layer in reversed(layers):
        if needed.intersection(layer.tops):
            kept.append(layer)
            needed.update(layer.bottoms)
    return kept[::-1]


class _Builder:
    """Runs through the layers once: keys for every value, shapes, batch axes, parameter owners."""

    def __init__(self, options: Options, notes: List[str]) -> None:
        self._options = options
        self._notes = notes
        self._layers: List[Layer] = []
        self._blobs: Dict[str, Blob] = {}
        self._inputs: List[str] = []
        self._names: Dict[str, str] = {}  # blob name -> key of its current value
        self._memory: Dict[str, str] = {}  # key -> the key that its memory was allocated for
        self._read: Set[str] = set()
        self._owners: Dict[str, Tuple[str, Shape]] = {}
        self._weight_shapes: Dict[str, List[Shape]] = {}
        self._preprocessing: Dict[str, Any] = {}

    def build(self, name: str, layers: Sequence[Layer]) -> Built:
        self._unused_shapes = set(self._options.input_shapes)
        sources = [layer for layer in layers if _role(layer) in ("input", "data")]
        for i, layer in enumerate(layers):
            if layer in sources:
                self._add_inputs(layer)
            else:
                self._add(layer, layers[i + 1 :])
        if self._unused_shapes:
            raise UsageError(f"--input-shape: the net has no input {min(self._unused_shapes)!r}")
        if not self._inputs:
            raise MalformedModel("the net has no input", hint="add an Input layer or input_dim")
        self._settle_batch()
        return self._finish(name)

    def _define(self, name: str, layer: Layer, blob: Blob) -> str:
        key = f"{name}@{layer.name}"
        while key in self._blobs:
            key += "'"
        self._blobs[key] = replace(blob, key=key, name=name)
        self._memory[key] = key
        return key

    def _add_inputs(self, layer: Layer) -> None:
        given = [self._options.input_shapes.get(top) for top in layer.tops]
        if all(given):
            shapes = [tuple(shape) for shape in given if shape]
        else:
            _, _, declared = registry.infer(layer, [])
            shapes = [tuple(new or old) for new, old in zip(given, declared)]
        for top, shape in zip(layer.tops, shapes):
            if top in self._names:
                raise MalformedModel(
                    f"input {top!r} is already the top of another layer", str(layer)
                )
            key = self._define(top, layer, Blob("", "", shape, 0 if shape else None))
            self._names[top] = key
            self._inputs.append(key)
            self._unused_shapes.discard(top)
            if layer.fields.get("transform_param") and top == layer.tops[0]:
                self._preprocessing[key] = layer.fields["transform_param"]

    def _add(self, layer: Layer, later: Sequence[Layer]) -> None:
        for bottom in layer.bottoms:
            if bottom not in self._names:
                raise MalformedModel(
                    f"bottom {bottom!r} is the top of no earlier layer",
                    str(layer),
                    "check the spelling",
                )
        bottoms = tuple(self._names[bottom] for bottom in layer.bottoms)
        made, weights, tops = registry.infer(layer, [self._blobs[key].shape for key in bottoms])
        batches = made.batch_axes(
            [self._blobs[key].shape for key in bottoms],
            [self._blobs[key].batch for key in bottoms],
            tops,
        )
        self._read.update(bottoms)
        in_place = {
            top
            for i, top in enumerate(layer.tops)
            if i < len(layer.bottoms) and layer.bottoms[i] == top
        }
        keys = []
        for i, (top, shape, batch) in enumerate(zip(layer.tops, tops, batches)):
            key = self._define(top, layer, Blob("", "", shape, batch, i in made.index_tops))
            keys.append(key)
            if made.shares_memory(len(bottoms), len(tops)):
                self._memory[key] = self._memory[bottoms[0]]
            if top in self._names and top not in in_place:
                self._notes.append(f"{layer}: top {top!r} replaces an earlier blob of that name")
        self._layers.append(
            replace(
                layer, bottoms=bottoms, tops=tuple(keys), weights=self._own_weights(layer, weights)
            )
        )
        for top, key in zip(layer.tops, keys):
            if top in in_place:
                self._rewrite_aliases(layer, top, key, later)
            self._names[top] = key

    def _rewrite_aliases(self, layer: Layer, top: str, key: str, later: Sequence[Layer]) -> None:
        """An in-place layer on memory that other names share changes them too (Blob::ShareData)."""
        memory = self._memory[self._names[top]]
        self._memory[key] = memory
        for name, old in list(self._names.items()):
            if name == top or self._memory[old] != memory:
                continue
            blob = self._blobs[old]
            read_later = any(name in reader.bottoms for reader in later)
            if read_later and blob.shape != self._blobs[key].shape:
                dims = ([0] if blob.batch == 0 else [blob.shape[0]]) + list(blob.shape[1:])
                view = Layer(
                    name=f"{name}@{layer.name}",
                    type="Reshape",
                    bottoms=(key,),
                    tops=(),
                    fields={"reshape_param": {"shape": {"dim": dims}}},
                    line=layer.line,
                )
                seen = self._define(name, layer, blob)
                self._memory[seen] = memory
                self._layers.append(replace(view, tops=(seen,)))
                self._read.update((key, seen))
                self._names[name] = seen
            else:
                self._names[name] = key

    def _own_weights(self, layer: Layer, shapes: Sequence[Shape]) -> Tuple[str, ...]:
        """Keys of the layer's parameters; a named one belongs to the first layer that names it."""
        specs = layer.fields.get("param", [])
        keys = []
        own = []
        for i, shape in enumerate(shapes):
            shared = specs[i].get("name", "") if i < len(specs) else ""
            key = f"{layer.name}/{i}"
            if shared and shared in self._owners:
                owner, owner_shape = self._owners[shared]
                if owner_shape != tuple(shape):
                    raise UnsupportedModel(
                        f"shared parameter {shared!r} has shape {list(shape)} here "
                        f"and {list(owner_shape)} in {owner!r}",
                        str(layer),
                    )
                key = owner
            else:
                own.append(tuple(shape))
                if shared:
                    self._owners[shared] = (key, tuple(shape))
            keys.append(key)
        if own and len(own) != len(shapes):
            raise UnsupportedModel(
                "some but not all parameters are shared with another layer", str(layer)
            )
        if own:
            self._weight_shapes[layer.name] = own
        return tuple(keys)

    def _settle_batch(self) -> None:
        """Forgets every batch axis where inputs of different first sizes share no batch."""
        sizes = {self._blobs[key].shape[:1] for key in self._inputs}
        if len(sizes) > 1:
            self._blobs = {key: replace(blob, batch=None) for key, blob in self._blobs.items()}

    def _finish(self, name: str) -> Built:
        """Gives last values their plain names and finds the outputs: what nobody reads, by name."""
        rename: Dict[str, str] = {}
        for blob_name, key in self._names.items():
            if self._blobs[key].name == blob_name:
                rename[key] = blob_name
        for key in self._blobs:
            if key not in rename and key in rename.values():
                rename[key] = key + "'"

        def new(keys: Iterable[str]) -> Tuple[str, ...]:
            return tuple(rename.get(key, key) for key in keys)

        if self._options.outputs:
            outputs = {self._names[output] for output in self._options.outputs}
        else:
            outputs = {key for key in self._names.values() if key not in self._read}
        net = Net(
            name=name,
            layers=tuple(
                replace(la, bottoms=new(la.bottoms), tops=new(la.tops)) for la in self._layers
            ),
            blobs={
                key: replace(self._blobs[old], key=key)
                for old, key in zip(self._blobs, new(self._blobs))
            },
            names={blob_name: new([key])[0] for blob_name, key in self._names.items()},
            inputs=new(self._inputs),
            outputs=tuple(sorted(new(outputs))),
        )
        if not net.dynamic_batch:
            self._notes.append(_why_fixed(net))
        preprocessing = {new([key])[0]: value for key, value in self._preprocessing.items()}
        return Built(net, self._weight_shapes, preprocessing, tuple(self._notes))


def _why_fixed(net: Net) -> str:
    for layer in net.layers:
        if any(net.blobs[key].batch is None for key in layer.tops) and all(
            net.blobs[key].batch == 0 for key in layer.bottoms
        ):
            return f"the batch size is fixed as in the prototxt: {layer} mixes or renumbers samples"
    return "the batch size is fixed as in the prototxt: the inputs have different first axes"
