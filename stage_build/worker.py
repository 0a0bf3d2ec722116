"""The command line of stage 2: one job from the arguments, or many from stdin."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from schemas import streams
from schemas.errors import UsageError
from schemas.events import Events, jobs
from stage_build import publish
from stage_build.build import Helpers, Job, build, verify
from stage_build.delivery import (
    DEFAULT,
    FLOAT32,
    FORMATS,
    LAYOUTS,
    PRECISIONS,
    QUANTIZATIONS,
    Delivery,
    chosen_formats,
)
from stage_build.lowering.registry import plugged_in
from stage_build.verify import NET_TOLERANCE

SWITCHES = {
    "allow-large": "make model.tflite and model.pb whatever the size of the weights",
    "swap-rgb": "the model takes RGB where Caffe's takes BGR",
    "transpose-hw": "images are height by width where Caffe's are width by height",
    "dynamic-size": "images may have any height and width",
    "bake-preprocess": "the SavedModel has a signature that takes encoded images",
    "bake-normalization": "model.keras and model.tflite take pixels",
}


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting: a served job's wrong arguments must not end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job, or serves jobs until the end of stdin; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        options = _parser().parse_args(arguments)
    except UsageError as error:
        return Events().error(error)
    events = Events(options.events, options.verbose)
    events.started("build")
    if options.events is not None:
        return _work(options, events)
    with _without_driver():
        return _work(options, events)


@contextmanager
def _without_driver() -> Iterator[None]:
    """What helpers that are ended leave behind goes with this process; a driver sees to it else."""
    streams.end_tidily()
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="stage_build-") as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("TMPDIR")
            os.environ.update(before)


def _work(options: argparse.Namespace, events: Events) -> int:
    helpers = Helpers.start()
    try:
        if not options.serve:
            return _run(options, helpers, events)
        for line in jobs():
            try:
                job = _parser().parse_args(line)
            except UsageError as error:
                events.error(error)
                continue
            _run(job, helpers, events)
        return 0
    except KeyboardInterrupt as error:
        return events.error(error)
    finally:
        helpers.close()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stage_build", description="Builds and verifies a TensorFlow model from net.h5."
    )
    parser.add_argument(
        "source",
        nargs="?",
        help="net.h5, - for stdin, or with --verify a converted model's folder",
    )
    parser.add_argument("-o", "--out", help="the folder to write")
    parser.add_argument("--formats", default=",".join(DEFAULT), help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--quantize", choices=QUANTIZATIONS, help="of model.tflite")
    parser.add_argument("--calibration", metavar="DIR", help="images for --quantize int8")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=FLOAT32, help="that the SavedModel computes in"
    )
    parser.add_argument("--input-layout", choices=LAYOUTS, default="nhwc", help="of images")
    for switch, meaning in SWITCHES.items():
        parser.add_argument(f"--{switch}", action="store_true", help=meaning)
    parser.add_argument("--tolerance", type=float, default=NET_TOLERANCE, help="relative, per blob")
    parser.add_argument("--reference", help="activations recorded elsewhere (npz)")
    parser.add_argument("--force", action="store_true", help="replace an earlier result")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="DIR", help="layers of the user's own"
    )
    parser.add_argument("--adopt", action="store_true", help="move net.h5 into the result")
    parser.add_argument("--logs", help="a folder of logs to keep with the result")
    parser.add_argument("--build-log", help="this process's own log, to keep the job's part of")
    parser.add_argument("--extract-report", help="stage 1's result, a JSON file")
    parser.add_argument("--record", help="what net.h5 is made of, a file to keep with the logs")
    parser.add_argument("--verify", action="store_true", help="prove a converted model again")
    parser.add_argument(
        "--serve", action="store_true", help="take jobs from stdin, a JSON line each"
    )
    parser.add_argument(
        "--events", type=int, metavar="FD", help="write JSON events to this descriptor"
    )
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _run(options: argparse.Namespace, helpers: Helpers, events: Events) -> int:
    try:
        events.result(**_result(options, helpers, events))
    except BaseException as error:  # every failure becomes one event and one exit code
        return events.error(error)
    return 0


def _result(options: argparse.Namespace, helpers: Helpers, events: Events) -> dict[str, Any]:
    if options.source is None:
        raise UsageError("a net.h5 is needed", hint="see --help")
    if not 0 <= options.tolerance < 1:
        raise UsageError(f"--tolerance should be between 0 and 1, found {options.tolerance}")
    reference = Path(options.reference) if options.reference else None
    log = Path(options.build_log) if options.build_log else None
    if options.verify:
        return verify(
            Path(options.source),
            options.tolerance,
            reference,
            options.calibration,
            tuple(options.plugin),
            helpers,
            events,
        )
    if options.out is None:
        raise UsageError("-o OUT is needed", hint="see --help")
    job = Job(
        net_file=Path(options.source),
        out=Path(os.path.abspath(options.out)),
        delivery=_delivery(options),
        tolerance=options.tolerance,
        reference=reference,
        force=options.force,
        adopt=options.adopt,
        plugins=tuple(options.plugin),
        logs=Path(options.logs) if options.logs else None,
        log=log,
        log_start=log.stat().st_size if log else 0,
        extract_report=json.loads(Path(options.extract_report).read_text("utf-8"))
        if options.extract_report
        else None,
        record=Path(options.record) if options.record else None,
    )
    with plugged_in(options.plugin):
        if options.source != streams.PIPE:
            return build(job, helpers, events)
        with _received(job) as piped:
            return build(piped, helpers, events)


@contextmanager
def _received(job: Job) -> Iterator[Job]:
    """The job with net.h5 from stdin, which lies beside its target meanwhile."""
    publish.check_target(job.out, job.force)
    with tempfile.TemporaryDirectory(prefix=f".{job.out.name}.", dir=job.out.parent) as folder:
        net_file = Path(folder) / "net.h5"
        streams.receive(net_file)
        yield replace(job, net_file=net_file, adopt=True)


def _delivery(options: argparse.Namespace) -> Delivery:
    switches = [name.replace("-", "_") for name in SWITCHES]
    return Delivery(
        formats=chosen_formats(options.formats),
        quantize=options.quantize,
        calibration=options.calibration,
        precision=options.precision,
        input_layout=options.input_layout,
        **{name: getattr(options, name) for name in switches},
    )
