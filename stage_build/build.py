"""One build: net.h5 in, a verified result folder out."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.events import Events
from schemas.interchange import read, weight_bytes
from stage_build import codegen, publish
from stage_build.helper import Helper
from stage_build.lowering.registry import lower
from stage_build.report import failure, make_report, write_report
from stage_build.resources import peak_bytes

# Above this, exporting and checking at once would hold the weights too many times over.
TOGETHER = 256 * 1024**2


@dataclass(frozen=True)
class Job:
    """What to build.

    Attributes:
        adopt: move net.h5 into the result instead of copying it.
        logs: a folder whose files become the result's logs.
        extract_report: stage 1's `result` event, for the report.
    """

    net_file: Path
    out: Path
    formats: tuple[str, ...]
    tolerance: float
    reference: Path | None = None
    force: bool = False
    adopt: bool = False
    logs: Path | None = None
    extract_report: dict[str, Any] | None = None


@dataclass(frozen=True)
class Helpers:
    """The two processes that hold TensorFlow."""

    exporter: Helper
    checker: Helper

    @classmethod
    def start(cls) -> Helpers:
        """Starts both."""
        return cls(Helper("stage_build.export"), Helper("stage_build.check"))

    def close(self) -> None:
        """Ends both."""
        self.exporter.close()
        self.checker.close()


def build(job: Job, helpers: Helpers, events: Events) -> dict[str, Any]:
    """Builds and verifies; returns the fields of the `result` event.

    Raises:
        VerificationFailed: the numbers differ; the result is in OUT.failed, with its report.
        ConversionError: see schemas.errors; nothing is left behind.
    """
    started = time.monotonic()
    publish.check_target(job.out, job.force)
    events.progress("open", 0, 1)
    content = read(job.net_file)
    lowered = lower(content.net, content.weights)
    events.progress("opened", 1, 1)
    weights = weight_bytes(content)
    publish.require_space(job.out.parent, len(job.formats) * weights + 64 * 1024**2)
    failed = job.out.with_name(f"{job.out.name}.failed")
    with publish.staged(job.out, failed) as folder:
        codegen.write_package(folder, content, lowered)
        codegen.write_weights(
            folder / "weights.npz",
            lowered,
            lambda done, total: events.progress("weights", done, total),
        )
        seconds = {"generate": time.monotonic() - started}
        results, peaks = _export_and_check(
            job, folder, helpers, events, seconds, weights <= TOGETHER
        )
        report = make_report(content, results, job.tolerance)
        report["seconds"] = {**seconds, "build": time.monotonic() - started}
        report["peak_bytes"] = {"build": peak_bytes(), **peaks}
        if job.extract_report:
            report["seconds"]["extract"] = job.extract_report.get("seconds")
            report["peak_bytes"]["extract"] = job.extract_report.get("peak_bytes")
        _place(folder, job)
        write_report(folder, report)
        if report["status"] != "ok":
            raise failure(content, report)
    return {
        "out": str(job.out),
        "status": report["status"],
        "worst": report["worst"],
        "compared": {name: len(part["blobs"]) for name, part in report["artefacts"].items()},
        "skipped": report["skipped"],
        "notes": report["notes"],
        "seconds": time.monotonic() - started,
        "peak_bytes": report["peak_bytes"],
    }


def _export_and_check(
    job: Job,
    folder: Path,
    helpers: Helpers,
    events: Events,
    seconds: dict[str, float],
    together: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Has one process export, and the other check the class and what was exported.

    Returns:
        Artefact -> what its check showed, and the peak memory of both processes.
    """
    exports = tuple(name for name in job.formats if name != "class")
    peaks: dict[str, int] = {}

    def ask(artefact: str) -> None:
        user = str(job.reference) if artefact == "class" and job.reference else None
        helpers.checker.ask(
            folder=str(folder),
            net_file=str(job.net_file),
            artefact=artefact,
            tolerance=job.tolerance,
            reference=user,
        )

    if together:
        ask("class")
    if exports:
        events.progress("export", 0, 1)
        helpers.exporter.ask(folder=str(folder), formats=list(exports))
        exported = helpers.exporter.answer()
        seconds.update(exported["seconds"])
        peaks["export"] = exported["peak_bytes"]
    results = {}
    for place, artefact in enumerate(("class", *exports)):
        events.progress(f"verify {artefact}", place, len(exports) + 1)
        if artefact != "class" or not together:
            ask(artefact)
        results[artefact] = helpers.checker.answer()
        seconds[f"verify {artefact}"] = results[artefact]["seconds"]
        peaks["check"] = max(peaks.get("check", 0), results[artefact]["peak_bytes"])
    return results, peaks


def _place(folder: Path, job: Job) -> None:
    """Puts net.h5 and the logs into the result."""
    if job.adopt:
        job.net_file.replace(folder / "net.h5")
    else:
        shutil.copyfile(job.net_file, folder / "net.h5")
    if job.logs is not None and job.logs.is_dir():
        shutil.copytree(job.logs, folder / "logs")


def verify(
    out: Path, tolerance: float, reference: Path | None, helpers: Helpers, events: Events
) -> dict[str, Any]:
    """Proves a converted model again, from the folder alone.

    Raises:
        VerificationFailed: the numbers differ.
    """
    started = time.monotonic()
    events.progress("open", 0, 1)
    content = read(out / "net.h5")
    events.progress("opened", 1, 1)
    files = {"class": "weights.npz", "keras": "model.keras", "saved_model": "saved_model"}
    results: dict[str, dict[str, Any]] = {}
    for artefact in (name for name, file in files.items() if (out / file).exists()):
        events.progress(f"verify {artefact}", len(results), len(files))
        helpers.checker.ask(
            folder=str(out),
            net_file=str(out / "net.h5"),
            artefact=artefact,
            tolerance=tolerance,
            reference=str(reference) if reference and artefact == "class" else None,
        )
        results[artefact] = helpers.checker.answer()
    report = make_report(content, results, tolerance)
    if report["status"] != "ok":
        raise failure(content, report)
    return {
        "out": str(out),
        "status": report["status"],
        "worst": report["worst"],
        "compared": {name: len(part["blobs"]) for name, part in report["artefacts"].items()},
        "skipped": report["skipped"],
        "seconds": time.monotonic() - started,
        "peak_bytes": {"build": peak_bytes()},
    }
