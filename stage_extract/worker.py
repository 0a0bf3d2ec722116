"""The command line of stage 1: one job from the arguments, or many from stdin.

What takes long to import is imported when it is needed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, NoReturn, Optional, Sequence, Type

from schemas import streams
from schemas.errors import UsageError
from schemas.events import Events, jobs
from stage_extract.sources import Sources, files, require_file


class _ServingParser(argparse.ArgumentParser):
    """Raises instead of exiting: a served job's wrong arguments must not end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="see --help")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs one extraction (or inspection), or serves them until the end of stdin.

    Returns:
        The exit code.
    """
    parser = _parser(argparse.ArgumentParser)
    options = parser.parse_args(argv)
    try:
        events = Events(options.events, options.verbose)
    except OSError as error:
        parser.error(f"--events {options.events}: {error.strerror}")
    events.started("extract")
    if not options.serve:
        return _run(options, events)
    for job in jobs():
        try:
            options = _parser(_ServingParser).parse_args(job)
        except UsageError as error:
            events.error(error)
            continue
        _run(options, events)
    return 0


def _run(options: argparse.Namespace, events: Events) -> int:
    try:
        if options.inspect:
            if options.net is not None:
                raise UsageError("--inspect takes one file and no other")
            require_file(options.inspect)
            from stage_extract.inspection import inspect

            events.result(**inspect(Path(options.inspect), events))
        else:
            if options.net is None or options.out is None:
                raise UsageError("a prototxt and -o net.h5 are needed", hint="see --help")
            made = _to_stdout if options.out == streams.PIPE else _extract
            events.result(**made(options, events))
    except BrokenPipeError:  # who read our stdout has gone
        return 1
    except BaseException as error:  # every failure becomes one event and one exit code
        return events.error(error)
    return 0


def _parser(kind: Type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = kind(
        prog="stage_extract",
        description="Reads a Caffe model and writes the interchange file net.h5.",
    )
    parser.add_argument("net", nargs="?", help="the prototxt")
    parser.add_argument("weights", nargs="?", help=".caffemodel or .caffemodel.h5")
    parser.add_argument("-o", "--out", help="the file to write; - is stdout")
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
    parser.add_argument("--seed", type=_seed, help="of the random input")
    parser.add_argument("--inspect", metavar="FILE", help="describe a file instead")
    parser.add_argument(
        "--serve", action="store_true", help="take jobs from stdin, a JSON line each"
    )
    parser.add_argument(
        "--events", type=int, metavar="FD", help="write JSON events to this descriptor"
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _extract(options: argparse.Namespace, events: Events) -> Dict[str, Any]:
    started = time.monotonic()
    out = Path(options.out)
    for path in filter(None, (options.net, options.weights)):
        require_file(path)
    if out.is_dir():
        raise UsageError("-o takes a file, this is a directory", str(out), "check the path")
    with Sources(out) as sources:
        for role, path in files(options).items():
            sources.add(role, path)
        # While the first bytes are hashed: NumPy, libhdf5 and every layer.
        from stage_extract import extraction

        return extraction.extract(options, events, sources, started)


def _to_stdout(options: argparse.Namespace, events: Events) -> Dict[str, Any]:
    """An extraction to stdout: nothing of it appears before it is complete."""
    stdout = streams.claimed_stdout()
    streams.end_tidily()
    with tempfile.TemporaryDirectory(prefix="stage_extract-") as folder:
        options.out = str(Path(folder) / "net.h5")
        result = _extract(options, events)
        streams.send(Path(options.out), stdout)
    return dict(result, out=streams.PIPE)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number from 0 expected, found {text!r}")
    return int(text)
