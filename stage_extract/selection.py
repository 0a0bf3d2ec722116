"""Which layers of a NetParameter are the net: rules, the cut, losses and sinks (net.cpp)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel, UsageError
from schemas.graph import Layer, Shape
from schemas.layers import registry
from schemas.layers.inputs import Source
from schemas.layers.registry import Meaning
from stage_extract.alignment import decides
from stage_extract.dialects import Stored, settle
from stage_extract.prototxt import Message, Unknown

# Fields of LayerParameter that the graph states in another way.
_STRUCTURE = ("name", "type", "bottom", "top", "blobs", "include", "exclude")


@dataclass(frozen=True)
class Options:
    """What the command line says about the net.

    Attributes:
        phase, level, stages: the NetState that include/exclude rules are judged by.
        input_shapes: blob name -> shape, in place of what the prototxt says.
        outputs: blob names to cut the net at; empty keeps Caffe's own outputs.
        dialects: the forks whose meaning a layer is to have where its type has several.
        keep_losses: losses and scores stay, computed from labels that are inputs.
    """

    phase: str = "TEST"
    level: int = 0
    stages: Tuple[str, ...] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Tuple[str, ...] = ()
    dialects: Tuple[str, ...] = ()
    keep_losses: bool = False


class Selection(NamedTuple):
    """The layers of the net in file order, with unique names and Caffe's blob names.

    Attributes:
        layers: what is left; the sources keep only the tops that are needed.
        input_shapes: top of a source -> its shape, None where nobody tells it.
        undecided: layer name -> what the user must choose, unless the shapes show that it is one.
    """

    layers: List[Layer]
    input_shapes: Dict[str, Optional[Shape]]
    undecided: Mapping[str, str]


def select(net: Message, options: Options, stored: Stored, notes: List[str]) -> Selection:
    """The layers that the converted net is made of.

    Args:
        net: an upgraded NetParameter.
        stored: asked for the shapes of the stored blobs, where they tell a layer's dialect.
        notes: takes what the user should be told.

    Raises:
        UnsupportedModel: all layers and fields that cannot be converted, at once; or nothing that
            is computed is left of the net.
        MalformedModel: Caffe itself would refuse the net.
        UsageError: the options name blobs that are not there.
    """
    options = with_state(net, options)
    messages: List[Message] = []
    others: List[Message] = []
    for message in net.fields.get("layer", []):
        (messages if _included(message, options) else others).append(message)
    if not messages:
        raise MalformedModel("the net has no layers", hint="check --phase, --stage and --level")
    inputs = _shapeless_inputs(net)
    layers = _unique_names(inputs + [_layer(message) for message in messages], notes)
    # By the text alone: the weights are not opened for a net that is refused anyway.
    layers = _constants(settle(layers, options.dialects, dict, []).layers)
    if options.keep_losses:
        layers = _named_losses(layers, notes)
    whole = {layer.name: layer for layer in layers}
    written = dict(zip((layer.name for layer in layers[len(inputs) :]), messages))
    if options.outputs:
        layers = _cut(layers, options.outputs)
        others += [written[name] for name in written.keys() - {layer.name for layer in layers}]
    # What a layer that is not computed has of its own says nothing about the net.
    aside = others + [
        written[layer.name]
        for layer in layers
        if layer.name in written and not _is_computed(layer, options)
    ]
    beside = {unknown.path for message in aside for unknown in message.unknown}
    unknown = [each for each in net.unknown if each.path not in beside]
    if any(registry.find(layer.type, layer.dialect) is None for layer in layers):
        _refuse_unsupported(layers, unknown, {})
    layers, ambiguous = settle(layers, options.dialects, stored, notes)
    layers = _constants(layers)
    undecided = {la.name: ambiguous.pop(la.name, "") for la in layers if decides(la)}
    _refuse_unsupported(layers, unknown, ambiguous)
    if not options.keep_losses:
        layers = _drop_losses(layers, options.outputs, notes)
    layers = _drop_sinks(layers, options.outputs, notes)
    if all(is_source(layer) for layer in layers):
        raise UnsupportedModel(
            "nothing is left of the net without its losses and scores, which are not converted",
            hint="" if options.keep_losses else "--keep-losses keeps them",
        )
    _check_bottoms(layers, [_layer(message) for message in others], options.phase)
    return Selection(layers, _input_shapes(layers, whole, options.input_shapes), undecided)


def with_state(net: Message, options: Options) -> Options:
    """The options with what the prototxt's own NetState adds: its stages, and its level if none
    is given."""
    state = net.fields["state"].fields if "state" in net.fields else {}
    stages = [stage for stage in state.get("stage", []) if stage not in options.stages]
    return replace(
        options,
        stages=options.stages + tuple(stages),
        level=options.level or state.get("level", 0),
    )


def role(layer: Layer) -> str:
    """What the layer is there for (see Meaning); ``compute`` where the type is unknown."""
    found = registry.find(layer.type, layer.dialect)
    return found.role if found else "compute"


def _is_computed(layer: Layer, options: Options) -> bool:
    return role(layer) == "compute" or (role(layer) == "loss" and options.keep_losses)


def is_source(layer: Layer) -> bool:
    """Whether the layer's tops are inputs of the converted net."""
    return role(layer) in ("input", "data")


def _layer(message: Message) -> Layer:
    fields = message.fields
    if not fields.get("type"):
        name = f"layer {fields['name']!r}" if fields.get("name") else "a layer"
        raise MalformedModel(f"{name} has no type", f"line {message.line}")
    return Layer(
        name=fields.get("name") or fields["type"],
        type=fields["type"],
        bottoms=tuple(fields.get("bottom", ())),
        tops=tuple(fields.get("top", ())),
        fields={k: v for k, v in message.document().items() if k not in _STRUCTURE},
        line=message.line,
    )


def _included(layer: Message, options: Options) -> bool:
    """Net::StateMeetsRule over a layer's include and exclude rules (net.cpp)."""
    include, exclude = layer.fields.get("include", []), layer.fields.get("exclude", [])
    if include and exclude:
        raise MalformedModel(
            f"layer {layer.fields.get('name', '')!r} has both include and exclude rules",
            f"line {layer.line}",
            "keep one kind",
        )

    def met(rule: Message) -> bool:
        fields = rule.fields
        return (
            fields.get("phase", options.phase) == options.phase
            and options.level >= fields.get("min_level", options.level)
            and options.level <= fields.get("max_level", options.level)
            and set(options.stages).issuperset(fields.get("stage", []))
            and set(options.stages).isdisjoint(fields.get("not_stage", []))
        )

    if include:
        return any(met(rule) for rule in include)
    return not any(met(rule) for rule in exclude)


def _unique_names(layers: Iterable[Layer], notes: List[str]) -> List[Layer]:
    counts: Dict[str, int] = {}
    unique = []
    for layer in layers:
        name = layer.name
        while name in counts:
            counts[layer.name] += 1
            name = f"{layer.name}#{counts[layer.name]}"
        if name != layer.name:
            notes.append(f"{layer}: the name is taken, called {name!r} here")
        counts[name] = 1
        unique.append(replace(layer, name=name))
    return unique


def _constants(layers: List[Layer]) -> List[Layer]:
    """DummyData of constant fillers beside another source is a constant, not an input."""

    def constant(layer: Layer) -> bool:
        fillers = layer.fields.get("dummy_data_param", {}).get("data_filler", [])
        return layer.type == "DummyData" and all(
            filler.get("type", "constant") == "constant" for filler in fillers
        )

    if not any(is_source(layer) and not constant(layer) for layer in layers):
        return layers
    return [replace(layer, dialect="constant") if constant(layer) else layer for layer in layers]


def _shapeless_inputs(net: Message) -> List[Layer]:
    """The inputs that the upgrade left as they were, because the prototxt has no shape for them."""
    names = net.fields.get("input", [])
    if not names:
        return []
    return [Layer("input", "Input", (), tuple(names), line=net.lines["input"])]


def _cut(layers: List[Layer], outputs: Sequence[str]) -> List[Layer]:
    """The layers that the blobs `outputs` are computed from."""
    known = {top for layer in layers for top in layer.tops}
    for name in outputs:
        if name not in known:
            raise UsageError(
                f"--outputs: the net has no blob {name!r}",
                hint=_suggestion(name, known, "`inspect` lists the blobs"),
            )
    return _ancestors(layers, set(outputs))


def _suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name[:200], [text[:200] for text in known], 1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _ancestors(layers: List[Layer], outputs: Set[str]) -> List[Layer]:
    """What the last values of `outputs` depend on; of a source, only the tops that are needed.

    A layer that works in place on memory which a needed blob shares counts as one that writes it.
    """
    memory = _memory(layers)
    kept: List[Layer] = []
    needed: Set[str] = set()
    held: Set[str] = set()

    def need(names: Iterable[str]) -> None:
        needed.update(names)
        held.update(memory.get(name, name) for name in names)

    need(outputs)
    for layer in reversed(layers):
        tops = tuple(
            top
            for i, top in enumerate(layer.tops)
            if top in needed
            or (layer.bottoms[i : i + 1] == (top,) and memory.get(top, top) in held)
        )
        if tops:
            kept.append(replace(layer, tops=tops) if is_source(layer) else layer)
            need(layer.bottoms)
    return kept[::-1]


def _memory(layers: Iterable[Layer]) -> Dict[str, str]:
    """Blob name -> the blob whose memory it is a view of, for those that are one."""
    memory: Dict[str, str] = {}
    for layer in layers:
        if layer.bottoms and _shares_memory(layer):
            root = memory.get(layer.bottoms[0], layer.bottoms[0])
            memory.update((top, root) for top in layer.tops)
    return memory


def _shares_memory(layer: Layer) -> bool:
    try:
        return registry.meaning(layer).shares_memory(len(layer.bottoms), len(layer.tops))
    except ConversionError:  # told later, if the layer is still there then
        return False


def _refuse_unsupported(
    layers: Sequence[Layer], unknown: Sequence[Unknown], ambiguous: Mapping[str, str]
) -> None:
    """Raises one UnsupportedModel that lists everything that cannot be converted, by reason."""
    places: Dict[str, List[str]] = {}
    for written in unknown:
        places.setdefault("unknown field", []).append(f"{written.path} (line {written.line})")
    for layer in layers:
        place = f"{layer.name!r} (line {layer.line})"
        try:
            if layer.name in ambiguous:
                raise UnsupportedModel(ambiguous[layer.name])
            registry.meaning(layer)
        except UnsupportedModel as error:
            places.setdefault(error.message, []).append(place)
    if places:
        reasons = (f"{reason}: {', '.join(where)}" for reason, where in places.items())
        raise UnsupportedModel(
            "; ".join(reasons), hint="--outputs cuts the net before what you do not need"
        )


def _unread(layers: Iterable[Layer]) -> Set[str]:
    """Caffe's outputs: the blobs whose last value nobody reads."""
    unread: Set[str] = set()
    for layer in layers:
        unread.difference_update(layer.bottoms)
        unread.update(layer.tops)
    return unread


def _named_losses(layers: Sequence[Layer], notes: List[str]) -> List[Layer]:
    """Gives a loss that names no top one of its own name; Caffe gives it one that is no output."""
    taken = {top for layer in layers for top in layer.tops}
    named: List[Layer] = []
    for layer in layers:
        tops = layer.tops
        if role(layer) == "loss" and not tops:
            top = layer.name
            while top in taken:
                top += "'"
            taken.add(top)
            tops = (top,)
            notes.append(f"{layer}: it names no top, called {top!r} here")
        named.append(replace(layer, tops=tops))
    return named


def _drop_losses(layers: List[Layer], outputs: Sequence[str], notes: List[str]) -> List[Layer]:
    """Drops losses and scores, what is computed from them, and the branches of their labels."""
    dropped: List[Layer] = []
    kept: List[Layer] = []
    tops: Set[str] = set()
    for layer in layers:
        gone = role(layer) == "loss" or not tops.isdisjoint(layer.bottoms)
        (dropped if gone else kept).append(layer)
        tops.update(layer.tops if gone else ())
    if not dropped:
        return layers
    notes.append(
        "dropped (training and scoring only): " + ", ".join(str(layer) for layer in dropped)
    )
    for name in outputs:
        if name in tops:
            raise UsageError(
                f"--outputs: blob {name!r} comes from a loss or score, which is not converted",
                hint="--keep-losses keeps it",
            )
    labels = _labels([layer for layer in dropped if role(layer) == "loss"], kept)
    return _ancestors(kept, _unread(kept) - labels | set(outputs))


def _labels(losses: Iterable[Layer], layers: Iterable[Layer]) -> Set[str]:
    """The bottoms of `losses` that are no predictions.

    What comes from a layer with weights is a prediction, at whichever place it stands. A loss
    without such a bottom goes by their order.
    """
    learned: Set[str] = set()
    for layer in layers:
        has_weights = type(registry.meaning(layer)).weight_shapes is not Meaning.weight_shapes
        if has_weights or not learned.isdisjoint(layer.bottoms):
            learned.update(layer.tops)
    labels: Set[str] = set()
    for loss in losses:
        given = tuple(bottom for bottom in loss.bottoms if bottom not in learned)
        if given == loss.bottoms:
            given = given[registry.meaning(loss).labels :]
        labels.update(given)
    return labels


def _drop_sinks(layers: List[Layer], outputs: Sequence[str], notes: List[str]) -> List[Layer]:
    """Drops what has no tops, with the branches that are only silenced or only label what is
    written to a file."""
    sinks = [layer for layer in layers if role(layer) == "sink"]
    if not sinks:
        return layers
    kept = [layer for layer in layers if role(layer) != "sink"]
    writers = [layer for layer in sinks if registry.meaning(layer).labels]
    silent = [layer for layer in sinks if layer not in writers]
    for why, dropped in (("nothing reads on", silent), ("it writes a file", writers)):
        if dropped:
            notes.append(f"dropped ({why}): " + ", ".join(str(layer) for layer in dropped))
    gone = {bottom for layer in silent for bottom in layer.bottoms} | _labels(writers, kept)
    return _ancestors(kept, _unread(kept) - gone | set(outputs))


def _check_bottoms(layers: Iterable[Layer], others: Sequence[Layer], phase: str) -> None:
    """Raises MalformedModel for a bottom that no layer of the net makes."""
    known: Set[str] = set()
    for layer in layers:
        for bottom in layer.bottoms:
            if bottom in known:
                continue
            makers = [other for other in others if bottom in other.tops]
            raise MalformedModel(
                f"bottom {bottom!r} is the top of no earlier layer",
                str(layer),
                f"{makers[0]} makes it, but not in phase {phase} with these stages and this level"
                if makers
                else _suggestion(bottom, known, "check the spelling"),
            )
        known.update(layer.tops)


def _input_shapes(
    layers: Iterable[Layer], whole: Mapping[str, Layer], given: Mapping[str, Shape]
) -> Dict[str, Optional[Shape]]:
    """The shapes of the sources' tops: the given ones, else the prototxt's."""
    shapes: Dict[str, Optional[Shape]] = {}
    for layer in layers:
        if is_source(layer) and not set(layer.tops).issubset(given):
            full = whole[layer.name]
            source = registry.meaning(full)
            assert isinstance(source, Source)
            with registry.located(full):
                shapes.update(zip(full.tops, source.known(len(full.tops))))
    shapes.update(given)
    return shapes
