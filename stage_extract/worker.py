"""The command line of stage 1, and the order of its steps."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import stat
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas import plugins
from schemas.errors import EnvironmentProblem, UnsupportedModel, UsageError, cannot_use, listed
from schemas.events import Events, peak_bytes
from schemas.graph import Net, Shape
from schemas.interchange import Interchange, Reference, Source, weight_bytes, write
from stage_extract import network, prototxt, pycaffe, reference, upgrade, weights
from stage_extract.inspection import inspect
from stage_extract.stored import SLICE_BYTES, MappedFile, StoredBlob


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
        if out.exists() and os.path.samefile(path, str(out)):
            raise UsageError("-o would overwrite this input", path, "name another file")
    if out.is_dir():
        raise UsageError("-o takes a file, this is a directory", str(out), "check the path")
    notes = _Notes(events)
    with ThreadPoolExecutor(1) as background:
        events.progress("open", 0, 1)
        digests = [
            (role, path, background.submit(sha256, path))
            for role, path in (("prototxt", options.net), ("weights", options.weights))
            if path is not None
        ]
        reading = read(options, notes, events)
        events.progress("write", 0, 1)
        content = Interchange(
            reading.built.net,
            {key: _Watched(key, array, notes) for key, array in reading.arrays.items()},
            (_source(role, path, digest) for role, path, digest in digests),
            reading.reference,
            reading.built.preprocessing,
            notes,
        )
        write(out, content)
    net, recorded = reading.built.net, reading.reference
    return {
        "out": str(out),
        "net": net.name,
        "layers": len(net.layers),
        "blobs": len(net.blobs),
        "weights_bytes": weight_bytes(content),
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


@dataclass(frozen=True)
class Reading:
    """What a reader got: the net, its weights by parameter key, and the reference."""

    built: network.Built
    arrays: Mapping[str, Any]
    reference: Optional[Reference]


def read(options: argparse.Namespace, notes: List[str], events: Events) -> Reading:
    """The net, its weights and its reference, from whichever reader applies.

    Args:
        notes: takes what the user should be told.

    Raises:
        ConversionError: see schemas.errors.
    """
    message = upgrade.upgrade(prototxt.read(options.net))
    state = network.with_state(
        message,
        network.Options(
            phase=options.phase,
            level=options.level,
            stages=tuple(options.stage),
            input_shapes=dict(_input_shape(text) for text in options.input_shape),
            outputs=tuple(name for name in options.outputs.split(",") if name),
            dialects=tuple(options.dialect),
            keep_losses=options.keep_losses,
        ),
    )
    built = network.build(message, state, lambda: _stored_shapes(options.weights))
    for note in built.notes:
        notes.append(note)
    caffe = _caffe(options.reader, notes)
    arrays: Mapping[str, Any] = {}
    try:
        # With PyCaffe too: Caffe aborts on a misfit, and leaves what is missing as it was.
        arrays = _match(options.weights, built, notes)
    except UnsupportedModel:
        if caffe is None:
            raise
    session = None
    if caffe is not None:
        events.progress("caffe", 0, 1)
        session = pycaffe.Session(caffe, options.net, options.weights, state, built)
        arrays = session.weights()
    events.progress("opened", 1, 1)
    used = {key for layer in built.net.layers for key in layer.weights}
    arrays = {key: array for key, array in arrays.items() if key in used}
    recorded = None
    if not options.no_reference:
        if session is not None and state.phase == "TEST":
            recorded = reference.record(built.net, session.forward, "caffe", options.seed)
        else:
            run = _numpy_forward(built.net, arrays, events)
            recorded = reference.record(built.net, run, "numpy", options.seed)
        for key in reference.non_finite(recorded.blobs)[:1]:
            notes.append(f"blob {key!r} has infinities or NaNs in the reference")
        empty = reference.without_rows(recorded.blobs)
        if empty:
            notes.append(
                f"nothing is compared of {listed([*map(repr, empty)])}: no rows came out in the "
                "reference; pass --reference, activations of your own that have some"
            )
    return Reading(built, arrays, recorded)


def _numpy_forward(net: Net, arrays: Mapping[str, Any], events: Events) -> reference.Run:
    loaded = {
        key: _aligned(blob) if isinstance(blob, StoredBlob) else blob
        for key, blob in arrays.items()
    }

    def run(inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        return reference.forward(
            net, loaded, inputs, lambda done, total: events.progress("reference", done, total)
        )

    return run


def _aligned(blob: StoredBlob) -> np.ndarray:
    """The blob's values, aligned: then they are multiplied faster, and alike in every file."""
    array = blob.array()
    if array.flags.aligned:
        return array
    copy = np.empty(blob.size, blob.dtype)
    filled = 0
    for piece in blob.slices():  # gives the file's pages back
        copy[filled : filled + piece.size] = piece
        filled += piece.size
    return copy.reshape(blob.shape)


def _caffe(reader: str, notes: List[str]) -> Any:
    """The caffe module where PyCaffe is to read, else None."""
    if reader == "protobuf" or (reader == "auto" and not pycaffe.wanted()):
        return None
    try:
        return pycaffe.load()
    except ImportError as error:
        if reader == "pycaffe":
            raise EnvironmentProblem(
                f"import caffe failed: {error}",
                "--reader pycaffe",
                "set PYTHONPATH to Caffe's python folder",
            ) from error
        notes.append(
            f"USE_PYCAFFE is set but import caffe failed ({error}): the protobuf reader is used"
        )
        return None


def _stored_shapes(path: Optional[str]) -> Dict[str, List[Shape]]:
    """Layer name -> shapes of its stored blobs."""
    if path is None:
        return {}
    with weights.open_weights(path) as model:
        return {layer.name: [blob.shape for blob in layer.blobs] for layer in model.layers}


def _match(path: Optional[str], built: network.Built, notes: List[str]) -> Dict[str, Any]:
    """Parameter key -> stored blob, by Caffe's matching."""
    if path is None:
        if built.weight_shapes:
            raise UsageError(
                f"{len(built.weight_shapes)} layers have weights, and no weights were given",
                hint="pass the .caffemodel after the prototxt",
            )
        return {}
    model = weights.open_weights(path)
    wanted: Dict[str, List[Shape]] = {la.name: [] for la in built.net.layers if not la.weights}
    wanted.update(built.weight_shapes)
    match = weights.match(model.layers, wanted, str(path))
    known = {layer.name for layer in built.net.layers}
    unused = [name for name in match.unused if name not in known]
    if unused:
        names = listed([*map(repr, unused)])
        notes.append(f"{len(unused)} layers of the weights are not in the net: {names}")
    return {
        f"{layer}/{i}": blob for layer, blobs in match.blobs.items() for i, blob in enumerate(blobs)
    }


def _input_shape(text: str) -> Tuple[str, Shape]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise UsageError(f"--input-shape takes NAME=N,C,H,W, found {text!r}")
    return name, shape


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
