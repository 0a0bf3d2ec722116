"""The command line of stage 1, and the order of its steps."""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import EnvironmentProblem, UsageError, cannot_use
from schemas.events import Events
from schemas.graph import Shape
from schemas.interchange import Interchange, Reference, Source, write
from stage_extract import network, prototxt, pycaffe, reference, upgrade, weights
from stage_extract.inspection import inspect


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one extraction (or inspection) and returns its exit code."""
    options = _parser().parse_args(argv)
    events = Events(options.events, options.verbose)
    events.started("extract")
    try:
        if options.inspect:
            if options.net is not None:
                raise UsageError("--inspect takes one file and no other")
            events.result(**inspect(Path(options.inspect), events))
        else:
            if options.net is None or options.out is None:
                raise UsageError("a prototxt and -o net.h5 are needed", hint="see --help")
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
    parser.add_argument("--reader", choices=("auto", "protobuf", "pycaffe"), default="auto")
    parser.add_argument("--seed", type=int, default=reference.SEED, help="of the random input")
    parser.add_argument("--inspect", metavar="FILE", help="describe a file instead")
    parser.add_argument(
        "--events", type=int, metavar="FD", help="write JSON events to this descriptor"
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def extract(options: argparse.Namespace, events: Events) -> Dict[str, Any]:
    """One extraction; returns the fields of its `result` event."""
    started = time.monotonic()
    out = Path(options.out)
    with ThreadPoolExecutor(1) as background:
        events.progress("open", 0, 1)
        digests = [
            (role, path, background.submit(sha256, path))
            for role, path in (("prototxt", options.net), ("weights", options.weights))
            if path is not None
        ]
        reading = read(options, events)
        for note in reading.notes:
            events.warning(note)
        events.progress("write", 0, 1)
        content = Interchange(
            reading.built.net,
            reading.arrays,
            tuple(_source(role, path, digest) for role, path, digest in digests),
            reading.reference,
            reading.built.preprocessing,
            reading.notes,
        )
        write(out, content)
    net, recorded = reading.built.net, reading.reference
    return {
        "out": str(out),
        "net": net.name,
        "layers": len(net.layers),
        "blobs": len(net.blobs),
        "weights_bytes": sum(4 * int(np.prod(array.shape)) for array in reading.arrays.values()),
        "reference": recorded.recorder if recorded else None,
        "seconds": time.monotonic() - started,
        "peak_bytes": peak_bytes(),
    }


@dataclass(frozen=True)
class Reading:
    """What a reader got: the net, its weights by parameter key, the reference, and what to tell."""

    built: network.Built
    arrays: Mapping[str, Any]
    reference: Optional[Reference]
    notes: Tuple[str, ...]


def read(options: argparse.Namespace, events: Events) -> Reading:
    """The net, its weights and its reference, from whichever reader applies."""
    state = network.Options(
        phase=options.phase,
        level=options.level,
        stages=tuple(options.stage),
        input_shapes=dict(_input_shape(text) for text in options.input_shape),
        outputs=tuple(name for name in options.outputs.split(",") if name),
    )
    built = network.build(upgrade.upgrade(prototxt.read(options.net)), state)
    notes = list(built.notes)
    events.progress("opened", 1, 1)
    caffe = _caffe(options.reader, notes)
    recorded = None
    if caffe is not None:
        events.progress("caffe", 0, 1)
        session = pycaffe.Session(caffe, options.net, options.weights, state, built)
        arrays: Mapping[str, Any] = session.weights()
        if not options.no_reference:
            recorded = session.record(options.seed)
    else:
        arrays = _match(options.weights, built, notes)
        if not options.no_reference:
            loaded = {key: blob.array() for key, blob in arrays.items()}
            recorded = reference.record(
                built.net,
                loaded,
                options.seed,
                lambda done, total: events.progress("reference", done, total),
            )
    if recorded is not None:
        notes += [
            f"blob {key!r} has infinities or NaNs in the reference"
            for key in reference.non_finite(recorded.blobs)[:1]
        ]
    return Reading(built, arrays, recorded, tuple(notes))


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
    match = weights.match(model.layers, built.weight_shapes, str(path))
    known = {layer.name for layer in built.net.layers}
    unused = [name for name in match.unused if name not in known]
    if unused:
        notes.append(f"{len(unused)} layers of the weights are not in the net: {_listed(unused)}")
    return {
        f"{layer}/{i}": blob for layer, blobs in match.blobs.items() for i, blob in enumerate(blobs)
    }


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = ", ..." if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _input_shape(text: str) -> Tuple[str, Shape]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise UsageError(f"--input-shape takes NAME=N,C,H,W, found {text!r}")
    return name, shape


def sha256(path: str) -> str:
    """The file's digest, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for piece in iter(lambda: file.read(4 * 1024 * 1024), b""):
            digest.update(piece)
    return digest.hexdigest()


def _source(role: str, path: str, digest: Future) -> Source:
    try:
        return Source(role, Path(path).name, os.stat(path).st_size, digest.result())
    except OSError as error:
        raise cannot_use(path, error) from error


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
