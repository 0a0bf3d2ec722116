"""Which fork's meaning a layer has, where its type has several: told by what is written and stored.

BVLC's own meaning counts as one of them, under the name ``bvlc``. Each layer is decided alone:
people's files mix the layers of several forks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

from schemas.errors import UsageError, listed
from schemas.graph import Layer, Shape
from schemas.layers import registry

BVLC = "bvlc"

# What is said of the types that one dialect alone has.
OWN = "no other dialect has the type"

# Layer name -> the shapes of its parameter blobs in the weight file; opens that file when called.
Stored = Callable[[], Mapping[str, Sequence[Shape]]]


class Settled(NamedTuple):
    """The layers with their dialects; `ambiguous` says of a layer's name what must be chosen."""

    layers: List[Layer]
    ambiguous: Dict[str, str]


def settle(
    layers: Iterable[Layer], asked: Sequence[str], stored: Stored, notes: List[str]
) -> Settled:
    """Gives each layer the dialect of the one meaning that fits it.

    A meaning is ruled out by a field that it does not read, by a number of bottoms or tops that it
    does not have, and by stored blobs that are not its own. Where several are left, the one that
    was asked for is taken, else BVLC's, unless a fork's is `contested`; among forks alone, one
    whose own layers stand in the net, else one that is not `contested`.

    Args:
        asked: dialects that the user chose, for every type that has them.
        notes: takes which layers are a fork's, and what told them.

    Raises:
        UsageError: a dialect was asked for that there is not.
    """
    _check_asked(asked)
    settled: List[Layer] = []
    ambiguous: Dict[str, str] = {}
    own: Dict[str, Set[str]] = {}  # dialect -> types that it alone has
    told: Dict[Tuple[str, str, str], List[str]] = {}
    layers = list(layers)
    company = {name for layer in layers for name in _only_dialect(layer.type)}
    for layer in layers:
        if layer.type == "Python":
            dialect = _python(layer)
            notes.append(f"Python layer {layer.name!r}: read as {dialect} is meant to be")
            settled.append(replace(layer, dialect=dialect))
            continue
        dialects, why = _fitting(layer, asked, stored, company)
        if len(dialects) > 1:
            names = sorted(name or BVLC for name in dialects)
            ambiguous[layer.name] = (
                f"layer type {layer.type!r} means something else in {', '.join(names)}, and "
                f"nothing tells which is meant (choose with --dialect {' or '.join(names)})"
            )
        dialect = dialects[0] if dialects else ""
        if dialect and not why:
            own.setdefault(dialect, set()).add(layer.type)
        elif dialect:
            told.setdefault((dialect, layer.type, why), []).append(layer.name)
        settled.append(replace(layer, dialect=dialect))
    for dialect, types in own.items():
        notes.append(f"dialect {dialect}: {', '.join(sorted(types))} ({OWN})")
    for (dialect, type_, why), names in told.items():
        notes.append(f"dialect {dialect}: {type_} {listed([*map(repr, names)], 3)} ({why})")
    return Settled(settled, ambiguous)


def _check_asked(asked: Sequence[str]) -> None:
    known = {BVLC, *(dialect for _, dialect in registry.registered() if dialect)}
    for name in asked:
        if name not in known:
            raise UsageError(
                f"--dialect: no dialect {name!r} is known",
                hint="known: " + ", ".join(sorted(name for name in known if "." not in name)),
            )


def _python(layer: Layer) -> str:
    """A Python layer's meaning goes by its ``module.layer``."""
    parameter = layer.fields.get("python_param")
    named = parameter if isinstance(parameter, Mapping) else {}
    return "{}.{}".format(named.get("module", ""), named.get("layer", ""))


def _only_dialect(type_: str) -> List[str]:
    """The dialect of a type that has one meaning."""
    known = list(registry.dialects(type_))
    return known if len(known) == 1 and known != [""] else []


def _fitting(
    layer: Layer, asked: Sequence[str], stored: Stored, company: Set[str]
) -> Tuple[List[str], str]:
    """The dialects that the layer may be of, and what told them; nothing had to, of one alone."""
    known = registry.dialects(layer.type)
    if len(known) < 2:
        return list(known), ""
    chosen = [name for name in asked if ("" if name == BVLC else name) in known]
    if chosen:
        return ["" if name == BVLC else name for name in chosen], "asked for"
    against = {name: registry.objections(layer, cls) for name, cls in known.items()}
    left = _least(against)
    if len(left) > 1:
        shapes = [tuple(shape) for shape in stored().get(layer.name, ())]
        for name in left:
            if not known[name].fits_blobs(shapes):
                against[name].append(
                    f"{len(shapes)} stored blobs of these shapes" if shapes else "no stored blobs"
                )
        left = _least({name: against[name] for name in left})
    if "" in left:
        left = [""] + [name for name in left if known[name].contested]
    elif len(left) > 1:
        plain = [name for name in left if not known[name].contested]
        left = [name for name in left if name in company] or plain or left
    ruled_out = (
        f"not {name or BVLC}: {listed(reasons, 3) or 'no layer of its own in the net'}"
        for name, reasons in sorted(against.items())
        if name not in left
    )
    return left, "; ".join(ruled_out)


def _least(against: Mapping[str, Sequence[str]]) -> List[str]:
    fewest = min(map(len, against.values()))
    return [name for name, reasons in against.items() if len(reasons) == fewest]
