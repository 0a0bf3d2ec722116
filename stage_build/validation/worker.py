"""The command line of validation: scores a converted model, or makes the results of shards one."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from schemas.errors import UsageError
from schemas.events import Events, peak_bytes
from stage_build.validation import examples as lists
from stage_build.validation import preset
from stage_build.validation.examples import Classes
from stage_build.validation.results import Record, ResultsFile, Setting, load, write
from stage_build.validation.summary import Tally, merged, summary

THROUGH = ("class", "saved_model", "bytes", "tflite")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        options = _parser().parse_args(argv)
    except UsageError as error:
        return Events().error(error)
    events = Events(options.events, options.verbose)
    events.started("validate")
    try:
        job = _merge if options.merge else _validate
        events.result(**job(options, events))
    except BaseException as error:  # every failure becomes one event and one exit code
        return events.error(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stage_build.validation",
        description="Scores a converted model on labelled images, or merges results of shards.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="OUT", help="a converted model")
    parser.add_argument("--results", type=Path, required=True, help="the file to write (JSON)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of images")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="`name label` a line")
    parser.add_argument("--through", choices=THROUGH, default="class", help="what is run")
    parser.add_argument("--preset", metavar="NAME|FILE.toml", help="in place of the model's own")
    parser.add_argument("--crop", metavar="N|H,W", help="in place of the model's own")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--top", type=int, default=5, metavar="K")
    parser.add_argument("--limit", type=int, metavar="N", help="so many images, evenly spread")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="one of N parts")
    parser.add_argument("--force", action="store_true", help="replace earlier results")
    parser.add_argument("--merge", action="store_true", help="OUT... are results of all shards")
    parser.add_argument("--events", type=int, metavar="FD", help="write JSON events to this")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser


def _merge(options: argparse.Namespace, events: Events) -> dict[str, Any]:
    if options.results.exists() and not options.force:
        raise UsageError("this exists already", str(options.results), "--force replaces it")
    parts = []
    for place, path in enumerate(options.sources):
        events.progress("read", place, len(options.sources))
        parts.append((path, load(path)))
    results = merged(parts)
    figures = summary(results)
    write(options.results, results, figures)
    return {"results": str(options.results), "summary": figures, "runs": list(results.runs)}


def _validate(options: argparse.Namespace, events: Events) -> dict[str, Any]:
    _check(options)
    out, shard = options.sources[0], lists.shard_of(options.shard)
    own = preset.given(options.preset) if options.preset else None
    crop = preset.crop_of(options.crop) if options.crop else None
    events.progress("list images", 0, 1)
    names = lists.files_below(options.images)
    labels = lists.read_list(options.labels) if options.labels else None
    events.progress("load model", 0, 1)
    from stage_build.validation import classifier, scoring  # TensorFlow, seconds

    with classifier.opened(out, options.through, own, crop) as model:
        classes = Classes(model.labels, model.classes)
        found = (
            lists.from_folders(names, classes)
            if labels is None
            else lists.from_list(names, labels, classes)
        )
        for note in found.notes:
            events.warning(note)
        chosen = lists.spread(found.examples, options.limit)
        mine = lists.sharded(chosen, shard)
        if not mine:
            raise UsageError(f"shard {options.shard} has none of the {len(chosen)} images")
        setting = Setting(
            model=model.digest,
            through=options.through,
            preprocessing=model.preprocessing,
            images=lists.digest(chosen),
            count=len(chosen),
            top=min(options.top, model.classes),
            labels=model.labels,
        )
        with ResultsFile(options.results, setting, shard, mine, options.force) as file:
            known = len(file.records)
            run = _Run(events, Tally(setting.top, file.records.values()), known, len(mine))
            todo = [example for example in mine if example.name not in file.records]
            batches = scoring.scored(model, options.images, todo, options.batch_size, setting.top)
            for records in batches:
                file.add(records)
                run.add(records)
            if todo:
                about = {"batch_size": options.batch_size, "versions": _versions()}
                file.runs.append({**run.document(), **about})
            figures = summary(file.results())
            file.finish(figures)
    return {
        "results": str(options.results),
        "summary": figures,
        "runs": file.runs,
        "preprocessing": model.preprocessing,
        "peak_bytes": peak_bytes(),
    }


def _check(options: argparse.Namespace) -> None:
    if len(options.sources) > 1:
        raise UsageError("one converted model was expected", hint="see --help")
    if options.images is None:
        raise UsageError("--images DIR is needed", hint="see --help")
    for name in ("batch_size", "top", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


class _Run:
    """What this process has scored, told as it goes on.

    Args:
        tally: of what earlier runs left.
        known: how many images they did.
        total: how many there are.
    """

    def __init__(self, events: Events, tally: Tally, known: int, total: int) -> None:
        self._events = events
        self._tally = tally
        self._known = known
        self._total = total
        self._done = 0
        self._began = time.monotonic()
        self._tell()

    def add(self, records: Collection[Record]) -> None:
        self._tally.add(records)
        self._done += len(records)
        self._tell()

    def _tell(self) -> None:
        rate = f"{self._rate():.0f} images/s" if self._done else ""
        note = ", ".join(filter(None, [self._tally.text(), rate]))
        self._events.progress("score", self._known + self._done, self._total, note)

    def _rate(self) -> float:
        return self._done / max(time.monotonic() - self._began, 1e-9)

    def document(self) -> dict[str, Any]:
        """JSON values: ``images`` are those of this run, seconds are without loading the model."""
        return {
            "images": self._done,
            "seconds": time.monotonic() - self._began,
            "images_per_second": self._rate(),
        }


def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed
