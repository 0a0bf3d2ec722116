"""What the page says: of each layer and each blob, from the net and from report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from schemas.graph import Shape
from schemas.interchange import Interchange, array_shape
from schemas.layers.registry import meaning

# Characters of one parameter's value that the page gives.
MAX_VALUE = 400

# How a blob's error stands to the tolerance, and the largest ratio of the two for which it holds.
WITHIN = {"e0": 1e-3, "e1": 1e-2, "e2": 1e-1, "e3": 1.0}
STATES = {
    "e0": "at most 1/1000 of the tolerance",
    "e1": "at most 1/100",
    "e2": "at most 1/10",
    "e3": "within the tolerance",
    "grown": "above it, accepted",
    "failed": "differs",
    "none": "not compared",
}


@dataclass(frozen=True)
class Comparison:
    """One blob of one artefact against one reference.

    Attributes:
        where: the artefact, and what is special about the comparison.
        error: relative; None where there is no number.
        state: of `STATES`.
        reason: report.json's words on it, often empty.
    """

    where: str
    error: float | None
    state: str
    reason: str


@dataclass(frozen=True)
class LayerFacts:
    """One layer, or one input of the net.

    Attributes:
        bottoms, tops: blob keys.
        parameters: the fields that the prototxt writes, as text.
        weights: (key, shape, untrained) of each parameter blob.
        parameter_count: numbers in its weights.
        macs: of one forward pass at `Facts.batch`.
        statement: what was generated for it.
        state: the worst of its tops'.
        error: the largest of its tops'; None where there is no number.
    """

    name: str
    type: str
    line: int
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, Shape, bool], ...] = ()
    parameter_count: int = 0
    macs: int = 0
    statement: str = ""
    state: str = "none"
    error: float | None = None

    @property
    def untrained(self) -> bool:
        """Whether any of its weights come from a filler."""
        return any(untrained for _, _, untrained in self.weights)


T = TypeVar("T", Comparison, LayerFacts)


@dataclass(frozen=True)
class Facts:
    """The net as the page tells of it.

    Attributes:
        layers: inputs first, then the net's order.
        shapes: blob key -> shape, at `batch`.
        comparisons: blob key -> all that were made of it, the class's own first.
        batch: what the shapes and multiply-accumulates are of.
        parameter_count: numbers in all weights; shared ones count once.
    """

    layers: tuple[LayerFacts, ...]
    shapes: Mapping[str, Shape]
    comparisons: Mapping[str, Sequence[Comparison]]
    batch: str
    parameter_count: int

    @property
    def macs(self) -> int:
        """Of the whole net."""
        return sum(layer.macs for layer in self.layers)


def gather(content: Interchange, report: Mapping[str, Any], statements: Mapping[str, str]) -> Facts:
    """All facts of the net.

    Args:
        report: the document of report.json.
        statements: layer name -> the source text that was generated for it.
    """
    net = content.net
    shapes = {key: net.sample_shape(key) for key in net.blobs}
    comparisons = _comparisons(report)
    filled = frozenset(content.filled)
    inputs = [LayerFacts(net.blobs[key].name, "Input", 0, (), (key,)) for key in net.inputs]
    layers = [
        LayerFacts(
            name=layer.name,
            type=f"{layer.type} ({layer.dialect})" if layer.dialect else layer.type,
            line=layer.line,
            bottoms=layer.bottoms,
            tops=layer.tops,
            parameters=tuple(_parameters(layer.fields)),
            weights=tuple(
                (key, array_shape(content.weights, key), key in filled) for key in layer.weights
            ),
            parameter_count=_numbers(content, layer.weights),
            macs=meaning(layer).macs(
                [shapes[key] for key in layer.bottoms], [shapes[key] for key in layer.tops]
            ),
            statement=statements.get(layer.name, ""),
        )
        for layer in net.layers
    ]
    return Facts(
        layers=tuple(_judged(layer, comparisons) for layer in (*inputs, *layers)),
        shapes=shapes,
        comparisons=comparisons,
        batch="one sample" if net.dynamic_batch else "the prototxt's batch size",
        parameter_count=_numbers(content, {key for layer in net.layers for key in layer.weights}),
    )


def _numbers(content: Interchange, keys: Iterable[str]) -> int:
    return sum(math.prod(array_shape(content.weights, key)) for key in keys)


def _parameters(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every field, those of parameter messages without the message's name."""
    for name, value in fields.items():
        if name.endswith("_param") and isinstance(value, Mapping):
            yield from ((key, _text(inner)) for key, inner in value.items())
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, (list, Mapping)) for item in value):
        text = ", ".join(map(str, value[:MAX_VALUE]))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shortened(text, MAX_VALUE)


def shortened(text: str, limit: int) -> str:
    """`text` with its middle left out where it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end - 1]}\u2026{text[-end:]}"


# Errors


def relative(blob: Mapping[str, Any]) -> float | None:
    """A blob's error over its magnitude, as `verify.Compared.relative`; None without a number."""
    error, magnitude = blob["max_error"], blob["magnitude"]
    if error is None:
        return None
    found = float(error / magnitude) if magnitude else float(error)
    return found if math.isfinite(found) else None


def state(blob: Mapping[str, Any], tolerance: float) -> str:
    """Of `STATES`, for a blob of report.json."""
    error = relative(blob)
    if not blob["passed"] or error is None:
        return "failed"
    within = (name for name, most in WITHIN.items() if error <= most * tolerance)
    return next(within, "grown")


def _comparisons(report: Mapping[str, Any]) -> dict[str, list[Comparison]]:
    """Blob key -> the comparisons that report.json has of it."""
    found: dict[str, list[Comparison]] = {}
    for where, part in _parts(report):
        tolerance = part.get("tolerance") or report["tolerance"]
        for blob in part["blobs"]:
            made = Comparison(where, relative(blob), state(blob, tolerance), blob.get("reason", ""))
            found.setdefault(blob["name"], []).append(made)
    return found


def _parts(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from report["artefacts"].items()
    for key, where in (("batch", "class at batch 3"), ("user_reference", "--reference")):
        if report.get(key):
            yield where, report[key]


def shown(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The one that stands for a blob: the first that failed, or else the class's own."""
    failed = (made for made in comparisons if made.state == "failed")
    return next(failed, comparisons[0] if comparisons else None)


def worst(judged: Iterable[T]) -> T | None:
    """Of comparisons or layers, the one that differs most; None where none was compared."""
    order = list(STATES)
    made = [one for one in judged if one.state != "none"]
    return max(made, key=lambda one: (order.index(one.state), one.error or 0.0), default=None)


def _judged(layer: LayerFacts, comparisons: Mapping[str, Sequence[Comparison]]) -> LayerFacts:
    found = worst(one for key in layer.tops if (one := shown(comparisons.get(key, ()))))
    return replace(layer, state=found.state, error=found.error) if found else layer
