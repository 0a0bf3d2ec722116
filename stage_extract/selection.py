"""Which layers of a NetParameter are the net: rules, the cut, losses and sinks (net.cpp)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from schemas.errors import MalformedModel, UnsupportedModel, listed
from schemas.graph import Layer, Shape
from schemas.layers import registry
from schemas.layers.inputs import Source
from stage_extract.alignment import decides
from stage_extract.dialects import Stored, settle
from stage_extract.prototxt import Message, Unknown
from stage_extract.pruning import (
    cut,
    drop_losses,
    drop_sinks,
    is_source,
    named_losses,
    role,
    suggestion,
    with_heads,
)

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
        ignore_unknown: fields that no schema knows are passed over, and told of.
    """

    phase: str = "TEST"
    level: int = 0
    stages: Tuple[str, ...] = ()
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Tuple[str, ...] = ()
    dialects: Tuple[str, ...] = ()
    keep_losses: bool = False
    ignore_unknown: bool = False


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
    whole = {layer.name: layer for layer in layers}
    written = dict(zip((layer.name for layer in layers[len(inputs) :]), messages))
    layers = named_losses(layers, notes) if options.keep_losses else with_heads(layers, notes)
    if options.outputs:
        layers = cut(layers, options.outputs)
        others += [written[name] for name in written.keys() - {layer.name for layer in layers}]
    # What a layer that is not computed has of its own says nothing about the net.
    aside = others + [
        written[layer.name]
        for layer in layers
        if layer.name in written and not _is_computed(layer, options)
    ]
    beside = {unknown.path for message in aside for unknown in message.unknown}
    unknown = [each for each in net.unknown if each.path not in beside]
    names = {each.path: name for name, of in written.items() for each in of.unknown}
    places = [_place(each, names) for each in unknown]
    if options.ignore_unknown and places:
        notes.append("ignored, though it may change the result: " + listed(places, len(places)))
        places = []
    if any(registry.find(layer.type, layer.dialect) is None for layer in layers):
        _refuse_unsupported(layers, places, {})
    layers, ambiguous = settle(layers, options.dialects, stored, notes)
    layers = _constants(layers)
    undecided = {la.name: ambiguous.pop(la.name, "") for la in layers if decides(la)}
    _refuse_unsupported(layers, places, ambiguous)
    if not options.keep_losses:
        layers = drop_losses(layers, options.outputs, notes)
    layers = drop_sinks(layers, options.outputs, notes)
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


def _is_computed(layer: Layer, options: Options) -> bool:
    return role(layer) == "compute" or (role(layer) == "loss" and options.keep_losses)


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


def _place(field: Unknown, names: Mapping[str, str]) -> str:
    """Where an unknown field is; `names` says of a path which layer it is in."""
    name, path = names.get(field.path), field.path
    within = f"{path.partition('.')[2]} of layer {name!r}" if name else path
    return within + _line(field.line)


def _line(number: int) -> str:
    return f" (line {number})" if number else ""


def _refuse_unsupported(
    layers: Sequence[Layer], unknown: Sequence[str], ambiguous: Mapping[str, str]
) -> None:
    """Raises one UnsupportedModel that lists everything that cannot be converted, by reason."""
    places: Dict[str, List[str]] = {"unknown field": list(unknown)} if unknown else {}
    for layer in layers:
        place = f"{layer.name!r}{_line(layer.line)}"
        try:
            if layer.name in ambiguous:
                raise UnsupportedModel(ambiguous[layer.name])
            registry.meaning(layer)
        except UnsupportedModel as error:
            places.setdefault(error.message, []).append(place)
    if places:
        reasons = (f"{reason}: {', '.join(where)}" for reason, where in places.items())
        cut_off = "--outputs cuts the net before what you do not need"
        ignore = "; --ignore-unknown passes over unknown fields" if unknown else ""
        raise UnsupportedModel("; ".join(reasons), hint=cut_off + ignore)


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
                else suggestion(bottom, known, "check the spelling"),
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
