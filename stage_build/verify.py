"""Holds a model to a reference: every blob, by the rule of `passes`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from schemas.errors import MalformedModel, VerificationFailed, listed
from schemas.graph import Net

LAYER_TOLERANCE = 1e-5
# Past this, a difference is not put down to rounding, whatever each layer alone shows.
ROUNDING_LIMIT = 1e-2
# Another order of summation may round this many times worse than the one that was looked into.
ROUNDING_MARGIN = 3
NET_TOLERANCE = 1e-4
ABSOLUTE = 1e-6


@dataclass(frozen=True)
class Compared:
    """One blob against its reference.

    Attributes:
        name: the blob's key, or the name it was compared under.
        max_error, mean_error: of |got - want|; infinite where shapes or non-finite values differ.
        magnitude: max |want| over the finite values.
        passed: see `compare`.
        reason: why it failed without a number, or was not compared everywhere; else empty.
    """

    name: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    magnitude: float
    passed: bool
    reason: str = ""

    @property
    def relative(self) -> float:
        """max_error over magnitude; the absolute error for a blob of zeros."""
        return self.max_error / self.magnitude if self.magnitude else self.max_error

    def document(self) -> dict[str, Any]:
        """JSON values; an infinite error is null."""
        values = asdict(self)
        for key in ("max_error", "mean_error"):
            values[key] = values[key] if np.isfinite(values[key]) else None
        return {**values, "shape": list(self.shape)}


def compare(
    name: str,
    got: np.ndarray,
    want: np.ndarray,
    tolerance: float,
    index: bool = False,
    undefined: bool = False,
) -> Compared:
    """Compares a blob in Caffe's order.

    It passes when max |got - want| <= tolerance * max |want| + 1e-6. Positions and counts (`index`)
    must be equal; infinities and NaNs must stand in the same places. A blob that was computed from
    such (`undefined`) is compared where the reference is finite: what comes of a NaN has no rule.
    """
    shape = tuple(want.shape)
    failed = Compared(name, shape, np.inf, np.inf, 0.0, False)
    if got.shape != want.shape:
        return replace(failed, reason=f"shape {list(got.shape)}, expected {list(want.shape)}")
    if want.size == 0:
        return replace(failed, max_error=0.0, mean_error=0.0, passed=True)
    finite, reason, same = np.isfinite(want), "", True
    if undefined:
        reason = f"computed from infinities or NaNs: {finite.sum()} of {want.size} places compared"
    if not finite.all():
        same = undefined or np.array_equal(got[~finite], want[~finite], equal_nan=True)
        got, want = got[finite], want[finite]
    if not (same and np.isfinite(got).all()):
        return replace(failed, reason="infinities or NaNs in other places")
    difference = np.abs(np.subtract(got, want, dtype=np.float64))
    magnitude = max(float(want.max(initial=0.0)), -float(want.min(initial=0.0)))
    worst = float(difference.max(initial=0.0))
    limit = 0.0 if index else tolerance * magnitude + ABSOLUTE
    mean = float(difference.mean()) if difference.size else 0.0
    return Compared(name, shape, worst, mean, magnitude, worst <= limit, reason)


def undefined_blobs(
    net: Net, want: Mapping[str, np.ndarray], blobs: Mapping[str, np.ndarray]
) -> set[str]:
    """Keys of the values that are computed, at any distance, from an infinity or a NaN in `blobs`.

    None where `want`, the part of `blobs` that is to be compared, is finite throughout.
    """
    if all(np.isfinite(value).all() for value in want.values()):
        return set()
    bad = {key for key, value in blobs.items() if not np.isfinite(value).all()}
    found: set[str] = set()
    for layer in net.layers:
        if not (bad | found).isdisjoint(layer.bottoms):
            found.update(layer.tops)
    return found


def picked(net: Net) -> set[str]:
    """Keys of the values that comparisons of numbers decide, and of all that is computed from them.

    Places and lists (a greatest value's index, the boxes that are kept) may turn out otherwise
    where two numbers are equal but for rounding.
    """
    found = {key for key, blob in net.blobs.items() if blob.index or blob.varying is not None}
    for layer in net.layers:
        if not found.isdisjoint(layer.bottoms):
            found.update(layer.tops)
    return found


def unreached(net: Net) -> set[str]:
    """Keys of the values that no output is computed from, which a Keras model therefore lacks."""
    needed = {*net.inputs, *net.outputs}
    for layer in reversed(net.layers):
        if not needed.isdisjoint(layer.tops):
            needed.update(layer.bottoms)
    return set(net.blobs) - needed


@dataclass(frozen=True)
class Outcome:
    """What one model showed against one reference; `compared` is in the net's order."""

    compared: tuple[Compared, ...]

    @property
    def passed(self) -> bool:
        """Whether all passed; comparing nothing is a failure."""
        return bool(self.compared) and all(blob.passed for blob in self.compared)

    @property
    def worst(self) -> Compared:
        """A failed blob before a passed one, then the largest relative error."""
        return max(self.compared, key=lambda blob: (not blob.passed, blob.relative))

    @property
    def first_failure(self) -> Compared | None:
        """The first blob, in the net's order, that did not pass."""
        return next((blob for blob in self.compared if not blob.passed), None)

    def rounded(self, alone: float, picks: Collection[str] = ()) -> Outcome:
        """The same with every failure accepted as rounding.

        Args:
            alone: the largest relative error of a layer that was fed the reference's own bottoms.
            picks: see `picked`.
        """

        def accepted(blob: Compared) -> Compared:
            said = "picked among near ties" if blob.name in picks else "rounding that grew"
            reason = f"{said}: alone, each layer is within {alone:.1e}"
            return blob if blob.passed else replace(blob, passed=True, reason=reason)

        return Outcome(tuple(map(accepted, self.compared)))

    def may_be_rounding(self, picks: Collection[str] = ()) -> bool:
        """Whether every failure is a small difference in numbers, or in what was picked by them."""
        failed = [blob for blob in self.compared if not blob.passed and blob.name not in picks]
        return all(not blob.reason and blob.relative <= ROUNDING_LIMIT for blob in failed)

    def document(self) -> dict[str, Any]:
        """JSON values: verdict, worst blob, first failure, every blob."""
        first = self.first_failure
        return {
            "passed": self.passed,
            "worst": self.worst.document(),
            "first_failure": first.document() if first else None,
            "blobs": [blob.document() for blob in self.compared],
        }


Run = Callable[[Mapping[str, np.ndarray], Sequence[str]], Mapping[str, np.ndarray]]


def allowances(net: Net, rounding: Mapping[str, float] | None) -> dict[str, float]:
    """Key -> the relative error that is put down to rounding.

    It is what rounding was seen to grow to (`rounding`), in the blob itself or in any that it is
    computed from, times the margin for another order of summation or another input.
    """
    seen = dict(rounding or {})
    for layer in net.layers if seen else ():
        before = max((seen.get(key, 0.0) for key in layer.bottoms), default=0.0)
        seen.update({key: max(before, seen.get(key, 0.0)) for key in layer.tops})
    return {key: ROUNDING_MARGIN * error for key, error in seen.items()}


class Judge:
    """Compares blobs of one net: by `compare`, with the limits that `check` is given."""

    def __init__(
        self,
        net: Net,
        tolerance: float,
        undefined: Collection[str] = (),
        rounding: Mapping[str, float] | None = None,
    ) -> None:
        self._net = net
        self._tolerance = tolerance
        self._undefined = undefined
        self._allowed = allowances(net, rounding)

    def __call__(self, key: str, got: np.ndarray, want: np.ndarray) -> Compared:
        """One blob, both values in Caffe's order."""
        limit = max(self._tolerance, self._allowed.get(key, 0.0))
        index = self._net.blobs[key].index
        return compare(key, got, want, limit, index, key in self._undefined)


def check(
    net: Net,
    run: Run,
    inputs: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    tolerance: float,
    undefined: Collection[str] = (),
    rounding: Mapping[str, float] | None = None,
) -> Outcome:
    """Runs a model on the reference's inputs and compares every blob in `want`.

    A blob without rows, in both, shows nothing and is left out of the outcome.

    Args:
        run: (inputs by key, keys wanted) -> values by key, in Caffe's order.
        inputs: by key, in Caffe's order.
        want: by key, in Caffe's order.
        undefined: see `undefined_blobs`.
        rounding: key -> the relative error that rounding is known to grow to there.

    Raises:
        VerificationFailed: `want` is empty, or nothing in it has rows.
    """
    if not want:
        raise VerificationFailed("the reference has no blob that the model has: nothing is proven")
    got = run(inputs, list(want))
    judge = Judge(net, tolerance, undefined, rounding)
    compared = [judge(key, got[key], want[key]) for key in ordered(net, want)]
    shown = tuple(blob for blob in compared if not blob.passed or 0 not in blob.shape)
    if not shown:
        raise VerificationFailed(
            f"the reference has no rows in {listed([*map(repr, want)])}: nothing is proven",
            hint="extract with --no-reference, and build with --reference, activations of your own",
        )
    return Outcome(shown)


def without_rows(want: Mapping[str, np.ndarray], outcome: Outcome) -> dict[str, str]:
    """The blobs of `want` that `check` left out of its outcome, with the reason."""
    shown = {blob.name for blob in outcome.compared}
    return {key: "it has no rows in the reference" for key in want if key not in shown}


def ordered(net: Net, keys: Iterable[str]) -> list[str]:
    """Keys in the order in which the net writes them."""
    place = {key: i for i, key in enumerate(net.blobs)}
    return sorted(keys, key=place.__getitem__)


def _split_of(net: Net, name: str) -> str | None:
    """The key of the value in Caffe's ``<blob>_<layer>_<top>_split_<k>`` (insert_splits.cpp)."""
    if re.search(r"_\d+_split_\d+$", name) is None:
        return None
    written = [(key, layer.name) for layer in net.layers for key in layer.tops]
    for key, layer in [*written, *((key, "") for key in net.inputs)]:
        if name.startswith(f"{net.blobs[key].name}_{layer}"):
            return key
    return None


def users_reference(
    net: Net, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """A ``--reference`` file's arrays by blob key.

    Args:
        arrays: ``input:<blob>`` and ``blob:<blob>`` (a slash is written %2F), NCHW.

    Returns:
        Inputs, blobs, and the blobs that cannot be compared with the reason.

    Raises:
        MalformedModel: an input of the net is missing or has the wrong shape, or inputs have
            different numbers of samples.
    """

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {
            key[len(prefix) :].replace("%2F", "/"): np.asarray(value, np.float32)
            for key, value in arrays.items()
            if key.startswith(prefix)
        }

    given, inputs = named("input:"), {}
    for key in net.inputs:
        name = net.blobs[key].name
        if name not in given:
            raise MalformedModel(f"the reference has no input {name!r}", "--reference")
        expected, found, free = net.blobs[key].shape, given[name].shape, net.free_axes(key)
        if len(found) != len(expected) or any(
            a != b
            for axis, (a, b) in enumerate(zip(found, expected, strict=True))
            if axis not in free
        ):
            raise MalformedModel(
                f"input {name!r} has shape {list(found)}, the net takes {list(expected)}",
                "--reference",
            )
        inputs[key] = given[name]
    if not net.one_batch({key: value.shape for key, value in inputs.items()}):
        shapes = ", ".join(f"{key!r} {list(value.shape)}" for key, value in inputs.items())
        raise MalformedModel(
            f"the inputs have no samples, or not all as many: {shapes}", "--reference"
        )
    blobs: dict[str, np.ndarray] = {}
    skipped = {}
    for name, value in named("blob:").items():
        key_of = name if name in net.blobs else net.names.get(name)
        copied = None if key_of else _split_of(net, name)
        if copied:
            skipped[name] = f"Caffe's own copy of {copied!r}, which is compared"
        elif key_of is None:
            skipped[name] = "not in the converted net (dropped with a loss, a label or a sink)"
        elif name in (key_of, net.blobs[key_of].name):
            blobs[key_of] = value
        else:
            blobs.setdefault(key_of, _view(value, net.blobs[key_of].shape))
    return inputs, blobs, skipped


def _view(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A blob that shares another's memory, in that one's shape where a sample is as large."""
    if value.shape[1:] == tuple(shape[1:]) or value[:1].size != math.prod(shape[1:]):
        return value
    return value.reshape(value.shape[:1] + tuple(shape[1:]))
