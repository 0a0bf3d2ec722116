"""One extraction: the order of its steps."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Dict, List

from schemas import plugins
from schemas.events import Events, peak_bytes
from schemas.interchange import Interchange, Source, weight_bytes, write
from stage_extract import mean, preprocessing, reading, reference
from stage_extract.sources import Sources

MAX_NOTES = 1000
MAX_NOTE = 1000  # characters


def extract(
    options: argparse.Namespace, events: Events, sources: Sources, started: float
) -> Dict[str, Any]:
    """One extraction; returns the fields of its `result` event.

    Args:
        sources: holds the files that the net is read from; takes those of the preprocessing.
        started: when the job began, by time.monotonic().

    Raises:
        ConversionError: see schemas.errors; no file is left behind.
    """
    if options.seed is None:
        options.seed = reference.SEED
    with plugins.meanings(options.plugin):
        return _extract(options, events, sources, started)


def _extract(
    options: argparse.Namespace, events: Events, sources: Sources, started: float
) -> Dict[str, Any]:
    out = Path(options.out)
    notes = _Notes(events)
    told = preprocessing.read(options)
    events.progress("open", 0, 1)
    found = reading.read(options, notes, events)
    made = preprocessing.resolve(
        told, options.mean, found.built.net, found.built.preprocessing, notes
    )
    own_means = [("mean", mean.path_of(text, made.means)) for text in options.mean]
    for role, path in (*told.files, *own_means):
        if path is not None:
            sources.add(role, path)
    events.progress("write", 0, 1)
    content = Interchange(
        found.built.net,
        found.arrays,
        (Source(*source) for source in sources.hashed()),
        found.reference,
        found.built.preprocessing,
        notes,
        found.filled,
        made.means,
        made.images,
        made.labels,
    )

    def non_finite(key: str, count: int, size: int) -> None:
        layer, _, blob = key.rpartition("/")
        notes.append(f"layer {layer!r}, blob {blob}: {count} of {size} weights are NaN or infinite")

    write(out, content, non_finite)
    net, recorded = found.built.net, found.reference
    return {
        "out": str(out),
        "net": net.name,
        "layers": len(net.layers),
        "blobs": len(net.blobs),
        "weights_bytes": weight_bytes(content),
        "filled": len(found.filled),
        "reference": recorded.recorder if recorded else None,
        "notes": notes.bounded(),
        "files": sources.unchanged(),
        "seconds": time.monotonic() - started,
        "peak_bytes": peak_bytes(),
    }


class _Notes(List[str]):
    """What the user is told, at once, and in the file."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def append(self, note: str) -> None:
        super().append(note)
        self._events.warning(note)

    def bounded(self) -> List[str]:
        """As much of them as one event holds."""
        return [note[:MAX_NOTE] for note in self[:MAX_NOTES]]
