"""Real Caffe's cases: reading them, and holding a forward pass to their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.graph import Net
from schemas.interchange import Interchange
from schemas.layers import registry
from stage_build.verify import Outcome, compare, ordered, users_reference
from stage_extract import network, prototxt, upgrade, weights
from tests.known_gaps import EXACT_TYPES, WAITING
from tests.paths import GOLDENS

LAYER_TOLERANCE = 1e-5
NET_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One golden folder: ``net.prototxt``, ``blobs.npz``, and ``net.caffemodel`` for weights."""

    folder: Path

    @property
    def id(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def tolerance(self) -> float:
        return LAYER_TOLERANCE if self.folder.parent.name == "layers" else NET_TOLERANCE

    def layers(self) -> list[dict]:
        """The layers of the prototxt, as plain fields."""
        message = upgrade.upgrade(prototxt.read(self.folder / "net.prototxt"))
        return [layer.document() for layer in message.fields["layer"]]

    def waits_for(self) -> str:
        """What the case waits for, or nothing: see known_gaps."""
        if self.id in WAITING:
            return WAITING[self.id]
        return ", ".join(sorted({x["type"] for x in self.layers() if x["type"] in WAITING}))

    def dropped(self) -> set[str]:
        """The blobs that losses, scores and sinks read and write."""
        return {
            blob
            for layer in self.layers()
            if registry.registered()[layer["type"], ""].role in ("loss", "sink")
            for blob in [*layer.get("bottom", []), *layer.get("top", [])]
        }

    def content(self) -> Interchange:
        built = network.build(
            upgrade.upgrade(prototxt.read(self.folder / "net.prototxt")), network.Options()
        )
        arrays: dict[str, np.ndarray] = {}
        file = self.folder / "net.caffemodel"
        if file.is_file():
            with weights.open_weights(file) as model:
                match = weights.match(model.layers, built.weight_shapes, str(file))
                arrays = {
                    f"{layer}/{i}": blob.array()
                    for layer, blobs in match.blobs.items()
                    for i, blob in enumerate(blobs)
                }
        return Interchange(built.net, arrays)

    def reference(
        self, net: Net
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
        with np.load(self.folder / "blobs.npz", allow_pickle=False) as arrays:
            return users_reference(
                net, {name: arrays[name] for name in arrays.files if ":" in name}
            )

    def compared(
        self, net: Net, got: dict[str, np.ndarray], want: dict[str, np.ndarray]
    ) -> Outcome:
        """Every golden blob against a pass in Caffe's order.

        A net of one layer that only moves values is held to them exactly.
        """
        exact = len(net.layers) == 1 and net.layers[0].type in EXACT_TYPES
        return Outcome(
            tuple(
                compare(key, got[key], want[key], self.tolerance, exact or net.blobs[key].index)
                for key in ordered(net, want)
            )
        )


def cases(*sets: str) -> list[Case]:
    """The cases of these golden sets, in order; none where the goldens are missing."""
    return [
        Case(folder)
        for name in sets
        for folder in sorted((GOLDENS / name).glob("*"))
        if (folder / "net.prototxt").is_file()
    ]
