"""The command line of stage 1, and the order of its steps."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np

from schemas import plugins
from schemas.errors import UsageError, cannot_use
from schemas.events import Events, peak_bytes
from schemas.interchange import Interchange, Source, weight_bytes, write
from stage_extract import mean, preprocessing, reading, reference
from stage_extract.inspection import inspect
from stage_extract.stored import SLICE_BYTES, MappedFile


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one extraction (or inspection) and returns its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        events = Events(options.events, options.verbose)
    except OSError as error:
        parser.error(f"--events {options.events}: {error.strerror}")
    events.started("extract")
    try:
        if options.inspect:
            if options.net is not None:
                raise UsageError("--inspect takes one file and no other")
            _require_file(options.inspect)
            events.result(**inspect(Path(options.inspect), events))
        else:
            if options.net is None or options.out is None:
                raise UsageError("a prototxt and -o net.h5 are needed", hint="see --help")
            with plugins.meanings(options.plugin):
                events.result(**extract(options, events))
    except BaseException as error:  # every failure becomes one event and one exit code
        return events.error(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stage_extract",
        description="Reads a Caffe model and writes the interchange file net.h5.",
    )
    parser.add_argument("net", nargs="?", help="the prototxt")
    parser.add_argument("weights", nargs="?", help=".caffemodel or .caffemodel.h5")
    parser.add_argument("-o", "--out", help="the file to write")
    parser.add_argument(
        "--no-reference", action="store_true", help="skip the recorded forward pass"
    )
    parser.add_argument("--phase", choices=("TEST", "TRAIN"), default="TEST")
    parser.add_argument("--stage", action="append", default=[], help="a stage of the NetState")
    parser.add_argument("--level", type=int, default=0, help="the level of the NetState")
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME=N,C,H,W",
        help="an input's shape",
    )
    parser.add_argument(
        "--outputs", default="", metavar="BLOB,...", help="cut the net at these blobs"
    )
    parser.add_argument(
        "--dialect",
        action="append",
        default=[],
        metavar="NAME",
        help="the fork whose meaning a layer has, where nothing else tells it",
    )
    parser.add_argument(
        "--keep-losses", action="store_true", help="keep losses and scores; labels become inputs"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="DIR", help="layers of the user's own"
    )
    parser.add_argument(
        "--ignore-unknown", action="store_true", help="pass over fields that no schema knows"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="fill what the weights lack, as Caffe starts"
    )
    parser.add_argument(
        "--mean",
        action="append",
        default=[],
        metavar="[NAME=]FILE|VALUES",
        help="an input's mean: .binaryproto, .npy, or a value a channel",
    )
    parser.add_argument(
        "--preprocess",
        action="append",
        default=[],
        metavar="[NAME=]PRESET|FILE",
        help="how images become an input: a preset's name, or a .toml",
    )
    parser.add_argument("--labels", metavar="FILE", help="the names of the classes, one a line")
    parser.add_argument("--reader", choices=("auto", "protobuf", "pycaffe"), default="auto")
    parser.add_argument("--seed", type=_seed, default=reference.SEED, help="of the random input")
    parser.add_argument("--inspect", metavar="FILE", help="describe a file instead")
    parser.add_argument(
        "--events", type=int, metavar="FD", help="write JSON events to this descriptor"
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def extract(options: argparse.Namespace, events: Events) -> Dict[str, Any]:
    """One extraction; returns the fields of its `result` event.

    Raises:
        ConversionError: see schemas.errors; no file is left behind.
    """
    started = time.monotonic()
    out = Path(options.out)
    for path in filter(None, (options.net, options.weights)):
        _require_file(path)
        _spare(path, out)
    if out.is_dir():
        raise UsageError("-o takes a file, this is a directory", str(out), "check the path")
    notes = _Notes(events)
    told = preprocessing.read(options)
    with ThreadPoolExecutor(1) as background:
        events.progress("open", 0, 1)
        digests = [
            (role, path, background.submit(sha256, path))
            for role, path in reading.files(options).items()
        ]
        found = reading.read(options, notes, events)
        made = preprocessing.resolve(
            told, options.mean, found.built.net, found.built.preprocessing, notes
        )
        own_means = [("mean", mean.path_of(text, made.means)) for text in options.mean]
        for role, path in (*told.files, *own_means):
            if path is not None:
                _spare(path, out)
                digests.append((role, path, background.submit(sha256, path)))
        events.progress("write", 0, 1)
        content = Interchange(
            found.built.net,
            {key: _Watched(key, array, notes) for key, array in found.arrays.items()},
            (_source(role, path, digest) for role, path, digest in digests),
            found.reference,
            found.built.preprocessing,
            notes,
            found.filled,
            made.means,
            made.images,
            made.labels,
        )
        write(out, content)
    net, recorded = found.built.net, found.reference
    return {
        "out": str(out),
        "net": net.name,
        "layers": len(net.layers),
        "blobs": len(net.blobs),
        "weights_bytes": weight_bytes(content),
        "filled": len(found.filled),
        "reference": recorded.recorder if recorded else None,
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


class _Watched:
    """A parameter that is looked through for NaNs and infinities while it is written."""

    def __init__(self, key: str, array: Any, notes: List[str]) -> None:
        self.shape = array.shape
        self.dtype = array.dtype
        self._key = key
        self._array = array
        self._notes = notes

    def slices(self, limit: int) -> Iterator[np.ndarray]:
        array, finite = self._array, 0
        for piece in array.slices(limit) if hasattr(array, "slices") else [np.ravel(array)]:
            finite += int(np.count_nonzero(np.isfinite(piece)))
            yield piece
        size = math.prod(self.shape)
        if finite < size:
            layer, _, blob = self._key.rpartition("/")
            self._notes.append(
                f"layer {layer!r}, blob {blob}: {size - finite} of {size} weights "
                "are NaN or infinite"
            )


def _require_file(path: str) -> None:
    """Refuses what cannot be read twice, or never ends: a pipe, a device.

    Raises:
        UsageError, EnvironmentProblem: there is no such file, or it is no regular one.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise cannot_use(path, error) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError("not a regular file", path, "check the path")


def _spare(path: str, out: Path) -> None:
    """Refuses to write over a file that is read.

    Raises:
        UsageError: `out` is that file.
    """
    if out.exists() and os.path.samefile(path, str(out)):
        raise UsageError("-o would overwrite this input", path, "name another file")


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number from 0 expected, found {text!r}")
    return int(text)


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        MalformedModel: it is empty.
        UsageError, EnvironmentProblem: it cannot be read.
    """
    digest = hashlib.sha256()
    file = MappedFile(path)
    view = memoryview(file.bytes)
    for start in range(0, file.size, SLICE_BYTES):
        end = min(start + SLICE_BYTES, file.size)
        digest.update(view[start:end])
        file.forget(start, end)
    return digest.hexdigest()


def _source(role: str, path: str, digest: Future) -> Source:
    try:
        return Source(role, Path(path).name, os.stat(path).st_size, digest.result())
    except OSError as error:
        raise cannot_use(path, error) from error
