"""Real Caffe's cases: reading them, and what was compared, told at the end of a test run.

Runs on Python 3.8 too, where the NumPy forward is tried alone.
"""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.graph import Net
from schemas.layers import registry
from stage_extract import network, prototxt, upgrade, weights
from tests.paths import GOLDENS

LAYER_TOLERANCE = 1e-5
NET_TOLERANCE = 1e-4

# What was tried ("NumPy forward") -> (family, blobs compared) of each case that passed.
passed: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
# ... -> how many cases of each family were tried.
tried: dict[str, dict[str, int]] = collections.defaultdict(collections.Counter)


@dataclass(frozen=True)
class Case:
    """One golden folder: ``net.prototxt``, ``blobs.npz``, and ``net.caffemodel`` for weights.

    ``case.json`` holds the options that the text cannot tell: ``dialect``, ``keep_losses``.
    """

    folder: Path

    @property
    def id(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def options(self) -> dict[str, Any]:
        file = self.folder / "case.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    @property
    def tolerance(self) -> float:
        """That of one layer where the case has one."""
        return LAYER_TOLERANCE if self.family != NETS else NET_TOLERANCE

    @property
    def family(self) -> str:
        """The family of the one layer that is tried, or `NETS`."""
        return _family(self.folder)

    def message(self) -> prototxt.Message:
        return upgrade.upgrade(prototxt.read(self.folder / "net.prototxt"))

    def dropped(self) -> set[str]:
        """The blobs that losses, scores and sinks read and write."""
        return {
            blob
            for layer in self.message().fields["layer"]
            if roles(layer.fields["type"]) & {"loss", "sink"}
            for blob in layer.fields.get("bottom", []) + layer.fields.get("top", [])
        }

    def build(self) -> tuple[Net, dict[str, np.ndarray]]:
        """The net and its weights by key."""
        chosen = self.options
        file = self.folder / "net.caffemodel"
        model = weights.open_weights(file) if file.is_file() else None
        options = network.Options(
            dialects=tuple(filter(None, [chosen.get("dialect")])),
            keep_losses=chosen.get("keep_losses", False),
        )
        stored = {la.name: [b.shape for b in la.blobs] for la in model.layers} if model else {}
        built = network.build(self.message(), options, lambda: stored)
        arrays = {}
        if model:
            match = weights.match(model.layers, built.weight_shapes, str(file))
            arrays = {
                f"{layer}/{i}": np.array(blob.array())
                for layer, blobs in match.blobs.items()
                for i, blob in blobs.items()
            }
        return built.net, arrays

    def arrays(self) -> dict[str, np.ndarray]:
        """``input:`` and ``blob:`` arrays of blobs.npz."""
        with np.load(self.folder / "blobs.npz", allow_pickle=False) as file:
            return {name.replace("%2F", "/"): file[name] for name in file.files if ":" in name}

    def exact(self, net: Net) -> bool:
        """Whether the values must be equal: a net of one layer that only moves them."""
        return len(net.layers) == 1 and registry.meaning(net.layers[0]).copies


NETS = "nets of several layers"


def _family(folder: Path) -> str:
    if folder.parent.name == "random":
        return NETS
    layers = upgrade.upgrade(prototxt.read(folder / "net.prototxt")).fields["layer"]
    types = [layer.fields["type"] for layer in layers]
    computing = [type_ for type_ in types if not roles(type_) & {"input", "data", "sink"}]
    modules = {cls.__module__ for type_ in computing for cls in registry.dialects(type_).values()}
    single = len(modules) == 1 or len(computing) == 1
    return min(modules).rpartition(".")[2] if single and modules else NETS


def roles(type_: str) -> set[str]:
    """What a layer of this type may be there for, over its dialects."""
    return {cls.role for cls in registry.dialects(type_).values()}


def cases(*sets: str) -> list[Case]:
    """The cases of these golden sets, in order; none where the goldens are missing."""
    return [
        Case(folder)
        for name in sets
        for folder in sorted((GOLDENS / name).glob("*"))
        if (folder / "net.prototxt").is_file()
    ]


SETS = ("layers", "random", "ssd", "forks")


def tally() -> dict:
    """What this process has tried, as plain values: for the process that sums up."""
    return {"passed": dict(passed), "tried": {kind: dict(of) for kind, of in tried.items()}}


def add(other: dict) -> None:
    """Takes the `tally` of another process."""
    for kind, cases_ in other["passed"].items():
        passed[kind] += cases_
    for kind, families in other["tried"].items():
        tried[kind].update(families)


def summary() -> list[str]:
    """A line for each thing tried: cases passed of total, by family."""
    lines = []
    for kind, families in sorted(tried.items()):
        good = collections.Counter(family for family, _ in passed[kind])
        blobs = sum(count for family, count in passed[kind] if family == "losses")
        parts = ", ".join(f"{name} {good[name]}/{families[name]}" for name in sorted(families))
        total = f"{sum(good.values())} of {sum(families.values())}"
        lines.append(f"goldens, {kind}: {total} cases passed: {parts}")
        if families.get("losses"):
            lines[-1] += f"; losses and scores: {blobs} blobs compared"
    return lines
