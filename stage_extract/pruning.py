"""What a net is left without: losses, scores and sinks, with all that only they need.

Also the cut at the blobs that the user wants, and, where a net ends in a loss, the predictions that
the loss is made of.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from schemas.errors import ConversionError, UsageError
from schemas.graph import Layer
from schemas.layers import registry
from schemas.layers.registry import Meaning


def role(layer: Layer) -> str:
    """What the layer is there for (see Meaning); ``compute`` where the type is unknown."""
    found = registry.find(layer.type, layer.dialect)
    return found.role if found else "compute"


def is_source(layer: Layer) -> bool:
    """Whether the layer's tops are inputs of the converted net."""
    return role(layer) in ("input", "data")


def cut(layers: List[Layer], outputs: Sequence[str]) -> List[Layer]:
    """The layers that the blobs `outputs` are computed from."""
    known = {top for layer in layers for top in layer.tops}
    for name in outputs:
        if name not in known:
            raise UsageError(
                f"--outputs: the net has no blob {name!r}",
                hint=suggestion(name, known, "`inspect` lists the blobs"),
            )
    return _ancestors(layers, set(outputs))


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
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


def _unread(layers: Iterable[Layer]) -> Set[str]:
    """Caffe's outputs: the blobs whose last value nobody reads."""
    unread: Set[str] = set()
    for layer in layers:
        unread.difference_update(layer.bottoms)
        unread.update(layer.tops)
    return unread


def named_losses(layers: Sequence[Layer], notes: List[str]) -> List[Layer]:
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


class _Split(NamedTuple):
    """Losses and scores with all that is computed from them, and the rest of a net."""

    dropped: List[Layer]
    kept: List[Layer]


def _split(layers: Iterable[Layer]) -> _Split:
    split = _Split([], [])
    gone: Set[str] = set()
    for layer in layers:
        if role(layer) == "loss" or not gone.isdisjoint(layer.bottoms):
            split.dropped.append(layer)
            gone.update(layer.tops)
        else:
            split.kept.append(layer)
            gone.difference_update(layer.tops)
    return split


def with_heads(layers: Sequence[Layer], notes: List[str]) -> List[Layer]:
    """Puts behind a loss the layer that makes its predictions (`Meaning.head`), if the net has no
    other use for what it makes them of, or if the loss gives them out.

    The predictions are the loss's second top, else ``prob``, or, where there are several such
    losses, ``<loss>_prob``.
    """
    losses = {layer.name: layer for layer in layers if role(layer) == "loss"}
    found = {name: _head(loss) for name, loss in losses.items()}
    heads = {name: head for name, head in found.items() if head is not None}
    given = {name: head for name, head in heads.items() if head.tops}
    ends = _unread(_split(_after(layers, given)).kept)
    for name, head in heads.items():
        if not head.tops and head.bottoms[0] in ends:
            ends.difference_update(head.bottoms)
            given[name] = head
    several = sum(not head.tops for head in given.values()) > 1
    taken = {name for layer in layers for name in (layer.name, *layer.tops)}
    for loss, head in given.items():
        name = f"{loss}_prob" if several else "prob"
        while name in taken:
            name += "'"
        taken.add(name)
        given[loss] = replace(head, name=name, tops=head.tops or (name,))
        notes.append(f"{losses[loss]}: its {head.type} stays, and makes {given[loss].tops[0]!r}")
    return _after(layers, given)


def _after(layers: Iterable[Layer], heads: Mapping[str, Layer]) -> List[Layer]:
    """The layers, each with its head behind it."""
    placed: List[Layer] = []
    for layer in layers:
        placed.append(layer)
        if layer.name in heads:
            placed.append(heads[layer.name])
    return placed


def _head(loss: Layer) -> Optional[Layer]:
    """The layer within a loss that makes its predictions, named by its second top."""
    meaning = registry.find(loss.type, loss.dialect)
    type_ = meaning.head if meaning else ""
    head = registry.find(type_)
    if head is None or not loss.bottoms:
        return None
    fields = {name: loss.fields[name] for name in head.messages if name in loss.fields}
    return Layer(loss.name, type_, loss.bottoms[:1], loss.tops[1:2], fields, line=loss.line)


def drop_losses(layers: List[Layer], outputs: Sequence[str], notes: List[str]) -> List[Layer]:
    """Drops losses and scores, what is computed from them, and the branches of their labels."""
    dropped, kept = _split(layers)
    if not dropped:
        return layers
    notes.append(
        "dropped (training and scoring only): " + ", ".join(str(layer) for layer in dropped)
    )
    made = {top for layer in kept for top in layer.tops}
    for name in outputs:
        if name not in made:
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


def drop_sinks(layers: List[Layer], outputs: Sequence[str], notes: List[str]) -> List[Layer]:
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
