"""`validate`: how often a converted model is right, and `validate merge`: shards made one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driver.cluster.runs import score_all
from driver.cluster.session import Cluster
from driver.display import Display, table
from driver.job import run_job
from driver.options import Options, one_of
from driver.outcome import Outcome, ok_document
from driver.worker import path_argument
from driver.workspace import ScratchSpace, Workspace, check_input, check_target_file
from schemas.errors import Interrupted, UsageError, listed

THROUGH = ("class", "saved_model", "bytes", "tflite")
MAX_SHARDS = 10_000
SHOWN = 10
"""Rows of a table."""


@dataclass(frozen=True)
class Request:
    """What `validate` is told; what is not given is left to the worker.

    Attributes:
        out: the converted model.
        images, labels: a folder, and the list of what its images show; without a list, the folder
            has a folder per class.
        results: the file to write; see `results_file`.
        others: further options of the worker by name.
    """

    out: Path
    images: Path
    labels: Path | None
    results: Path | None
    through: str | None
    shard: str | None
    force: bool
    others: Mapping[str, object]

    def results_file(self) -> Path:
        """The file of results: beside OUT where none is named, with what sets the run apart."""
        one_of("--through", self.through, THROUGH)
        if self.results is not None:
            return self.results
        place = Path(os.path.abspath(self.out))
        parts = [place.name, *_apart(self.through, self.shard), "validation.json"]
        return place.with_name(".".join(parts))

    def argv(self) -> list[str]:
        """The worker's command line."""
        given = {
            "images": self.images,
            "labels": self.labels,
            "results": self.results_file(),
            "through": self.through,
            "shard": self.shard,
            **self.others,
        }
        argv = [path_argument(self.out)]
        argv += [
            f"--{name.replace('_', '-')}={value}"
            for name, value in given.items()
            if value is not None
        ]
        return [*argv, "--force"] if self.force else argv


def _apart(through: str | None, shard: str | None) -> list[str]:
    parts = [through] if through and through != "class" else []
    return [*parts, shard.replace("/", "of")] if shard and shard != "1/1" else parts


def validate(
    request: Request,
    options: Options,
    show: Display,
    shards: int | None = None,
    cluster: Cluster | None = None,
) -> Outcome:
    """Scores a model on labelled images; an interrupted run here is taken up by the next.

    Args:
        cluster: scores it in `shards`, where it is given; None: as many as it does at once.
    """
    began = time.monotonic()
    _check(request)
    results = request.results_file()
    if cluster is not None:
        return _on_cluster(request, options, show, shards, cluster)
    if shards is not None:
        raise UsageError("--shards is for --scheduler, which is not given", hint="or --shard I/N")
    try:
        with ScratchSpace("validate") as work:
            found = run_job(
                "validate",
                request.argv(),
                work,
                show,
                python=options.build_python,
                gpu=options.gpu,
                timeout=options.timeout,
            )
    except KeyboardInterrupt:
        if _partial(results).exists():
            raise Interrupted(
                f"interrupted; what is done is in {_partial(results)}",
                hint="the same command goes on from there",
            ) from None
        raise
    return _outcome(str(request.out), found, time.monotonic() - began)


def _on_cluster(
    request: Request, options: Options, show: Display, shards: int | None, cluster: Cluster
) -> Outcome:
    began = time.monotonic()
    results = request.results_file()
    if request.shard is not None:
        raise UsageError("--shard is for one machine; a cluster is given --shards N")
    if shards is not None and not 1 <= shards <= MAX_SHARDS:
        raise UsageError(f"--shards must be between 1 and {MAX_SHARDS}, not {shards}")
    check_target_file(results, options.force or request.force, ())
    with Workspace(results) as work:
        parts = score_all(request, options, shards, work.folder, cluster, show)
        merging = replace(options, force=options.force or request.force)
        found = _merged(parts, results, merging, show)
    return _outcome(str(request.out), found, time.monotonic() - began)


def merge(parts: Sequence[Path], out: Path, options: Options, show: Display) -> Outcome:
    """Makes one file of results of those of all shards."""
    began = time.monotonic()
    found = _merged(parts, out, options, show)
    return _outcome(f"{len(parts)} shards", found, time.monotonic() - began)


def _merged(parts: Sequence[Path], out: Path, options: Options, show: Display) -> dict[str, Any]:
    """What the worker says of the file that it has made."""
    for path in parts:
        check_input(path)
        if out.exists() and out.samefile(path):
            raise UsageError("the output would replace an input", str(out), "choose another -o")
    argv = [*map(path_argument, parts), "--merge", f"--results={out}"]
    with ScratchSpace("validate") as work:
        return run_job(
            "validate",
            [*argv, "--force"] if options.force else argv,
            work,
            show,
            python=options.build_python,
            timeout=options.timeout,
        )


def _check(request: Request) -> None:
    if not (request.out / "names.json").is_file():
        raise UsageError(
            "a converted model was expected, a folder that holds names.json",
            str(request.out),
            "check the path; results of shards are merged by `orchestrate validate merge`",
        )
    if not request.images.is_dir():
        raise UsageError("a folder of images was expected", str(request.images), "check the path")
    check_input(request.labels)
    results = request.results_file()
    if results.is_dir():
        raise UsageError("a file is to be written, this is a folder", str(results))


def _partial(results: Path) -> Path:
    return results.with_name(results.name + ".partial")


def _outcome(subject: str, found: dict[str, Any], seconds: float) -> Outcome:
    summary = found["summary"]
    scores = ", ".join(f"{part:.1%} top-{k}" for k, part in summary["accuracy"].items())
    facts: list[tuple[str, object]] = [("results", found["results"])]
    lost = summary["unreadable"]
    if lost:
        named = listed([f"{one['name']} ({one['reason']})" for one in lost], 3)
        facts.append(("unreadable", f"{len(lost)} images: {named}"))
    rates = [f"{run['images_per_second']:.0f} images/s" for run in found["runs"]]
    facts.append(("speed", listed(rates)))
    return Outcome(
        ok_document(
            found["results"],
            seconds=seconds,
            accuracy=summary["accuracy"],
            images=summary["images"],
            summary=summary,
            runs=found["runs"],
        ),
        title=f"{subject}: {scores}, of {summary['images']} images",
        facts=facts,
        tables=_tables(summary),
    )


def _tables(summary: Mapping[str, Any]) -> list[Any]:
    tables = []
    confusions = summary["confusions"][:SHOWN]
    if confusions:
        rows = [[one["label"], one["predicted"], one["images"]] for one in confusions]
        tables.append(table("Most frequent confusions", ("label", "taken for", "images"), rows))
    worst = summary["worst_classes"][:SHOWN]
    if worst:
        rows = [[one["label"], f"{one['accuracy']:.0%}", one["images"]] for one in worst]
        tables.append(table("Worst classes", ("label", "top-1", "images"), rows))
    return tables
