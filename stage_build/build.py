"""One build: net.h5 in, a verified result folder out."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas import memory
from schemas.errors import UsageError
from schemas.events import Events, peak_bytes
from schemas.graph import Net
from schemas.interchange import Interchange, forget, read, weight_bytes
from stage_build import codegen, images, passes, publish, sizes, weights_npz
from stage_build.delivery import FORMATS, SERVED, Delivery
from stage_build.helper import FORKS, Helper, Nursery
from stage_build.lowering.registry import Lowered, lower, require_held
from stage_build.page import write_page
from stage_build.report import failure, make_report, write_report


@dataclass(frozen=True)
class Job:
    """What to build.

    Attributes:
        net_file: the interchange file.
        out: the folder that the result becomes.
        delivery: what is made, and how it is to be used.
        tolerance: relative, per blob; see `verify.compare`.
        reference: a user's own activations (npz), compared too.
        force: replace an earlier result.
        adopt: move net.h5 into the result instead of copying it.
        logs: a folder whose files become the result's logs.
        log, log_start: this process's own log, if it is elsewhere, and where in it the job began.
        plugins: folders of layers of the user's own; loaded already, and by whoever checks.
        extract_report: stage 1's `result` event, for the report.
        record: a file that tells what the result is made of; kept with the logs.
    """

    net_file: Path
    out: Path
    delivery: Delivery
    tolerance: float
    reference: Path | None = None
    force: bool = False
    adopt: bool = False
    logs: Path | None = None
    log: Path | None = None
    log_start: int = 0
    plugins: tuple[str, ...] = ()
    extract_report: dict[str, Any] | None = None
    record: Path | None = None


@dataclass(frozen=True)
class Helpers:
    """The processes that hold TensorFlow.

    Attributes:
        exporter: makes what is made of the class.
        checker: checks the class, and what is made of it.
    """

    nursery: Nursery
    exporter: Helper
    checker: Helper

    @classmethod
    def start(cls) -> Helpers:
        """Has TensorFlow imported; they themselves are started when they are needed."""
        exporter, checker = "stage_build.artefacts.export", "stage_build.artefacts.check"
        nursery = Nursery((exporter, checker) if FORKS else ())
        return cls(nursery, Helper(nursery, exporter), Helper(nursery, checker))

    def close(self) -> None:
        """Ends them all."""
        self.rest()
        self.nursery.close()

    def rest(self) -> None:
        """Ends what they are at."""
        self.exporter.close()
        self.checker.close()


def build(job: Job, helpers: Helpers, events: Events) -> dict[str, Any]:
    """Builds and verifies; returns the fields of the `result` event.

    Raises:
        VerificationFailed: the numbers differ; the result is in OUT.failed, with its report.
        ConversionError: see schemas.errors; nothing is left behind.
    """
    started = time.monotonic()
    failed = job.out.with_name(f"{job.out.name}.failed")
    publish.check_target(job.out, job.force)
    publish.check_failed(failed)
    events.progress("open", 0, 1)
    content = read(job.net_file, mapped=job.adopt)
    weights = weight_bytes(content)
    _require_possible(content, job.delivery)
    delivered = content
    if job.delivery.swap_rgb:
        delivered = _with(content, *passes.reversed_channels(content.net, content.weights))
    lowered = lower(delivered.net, delivered.weights)
    require_held(lowered, job.delivery.formats)
    _require_memory(content.net)
    events.progress("opened", 1, 1)
    publish.require_space(job.out.parent, len(job.delivery.formats) * weights + 64 * 1024**2)
    with publish.staged(job.out, failed) as folder:
        _write(folder, delivered, lowered, job.delivery, events)
        _write_served(folder, delivered, job.delivery, events)
        forget(content)
        seconds = {"generate": time.monotonic() - started}
        results, peaks = _export_and_check(job, folder, helpers, events, seconds)
        report = make_report(content, results, job.tolerance)
        report["delivery"] = job.delivery.document()
        for name, part in report["artefacts"].items():
            part["bytes"] = publish.size(folder / FORMATS[name].file)
        shutil.rmtree(folder / SERVED, ignore_errors=True)
        report["seconds"] = {**seconds, "build": time.monotonic() - started}
        report["peak_bytes"] = {"build": peak_bytes(), **peaks}
        if job.extract_report:
            report["seconds"]["extract"] = job.extract_report.get("seconds")
            report["peak_bytes"]["extract"] = job.extract_report.get("peak_bytes")
        write_report(folder, report)
        write_page(folder, content, report, codegen.statements(content.net, lowered))
        result = {
            **_shown(job.out, report, started),
            "notes": report["notes"],
            "peak_bytes": report["peak_bytes"],
        }
        _place(folder, job)  # last: what is read of net.h5 is read where it lies
        if job.record is not None:
            _keep_record(folder, job.record, result)
        if report["status"] != "ok":
            raise failure(content, report)
    return {**result, "seconds": time.monotonic() - started}


def _require_possible(content: Interchange, delivery: Delivery) -> None:
    """Refuses what cannot be delivered of this net, before any work.

    Raises:
        UsageError, UnsupportedModel: see `Delivery.require_size`, `images.require` and
            `sizes.require_any_size`.
    """
    delivery.require_size(weight_bytes(content))
    images.require(content, delivery)
    if delivery.dynamic_size:
        sizes.require_any_size(content.net, content.weights)


def _with(content: Interchange, net: Net, weights: Any) -> Interchange:
    return replace(content, net=net, weights=weights)


def _write(
    folder: Path,
    content: Interchange,
    lowered: Sequence[Lowered],
    delivery: Delivery,
    events: Events,
) -> None:
    """Writes the class and its weights."""
    codegen.write_package(folder, content, lowered, delivery)
    weights_npz.write(
        folder / "weights.npz",
        lowered,
        lambda done, total: events.progress("weights", done, total),
    )


def _write_served(folder: Path, content: Interchange, delivery: Delivery, events: Events) -> None:
    """Writes the class of the net as it is served, where it is wanted and is another."""
    if not any(FORMATS[name].served for name in delivery.formats):
        return
    net, weights = passes.folded(content.net, content.weights)
    if len(net.layers) < len(content.net.layers):
        (folder / SERVED).mkdir()
        served = _with(content, net, weights)
        _write(folder / SERVED, served, lower(net, weights), delivery, events)


def _require_memory(net: Net) -> None:
    """Refuses a net whose blobs no check could hold: a small file may speak of very large ones."""
    count = sum(math.prod(net.sample_shape(key)) for key in net.blobs)
    memory.require(4 * count, "the net's blobs", "extract it with a smaller --input-shape")


def _shown(out: Path, report: dict[str, Any], started: float) -> dict[str, Any]:
    """What every `result` event says of a verified model; `started` is of the monotonic clock."""
    return {
        "out": str(out),
        "status": report["status"],
        "worst": report["worst"],
        "compared": {name: len(part["blobs"]) for name, part in report["artefacts"].items()},
        "formats": {
            name: {key: part.get(key) for key in ("error", "bytes", "quantized")}
            for name, part in report["artefacts"].items()
        },
        "skipped": report["skipped"],
        "filled": len(report["filled"]),
        "seconds": time.monotonic() - started,
    }


def _export_and_check(
    job: Job,
    folder: Path,
    helpers: Helpers,
    events: Events,
    seconds: dict[str, float],
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Has one process export, and another check the class and what is exported meanwhile.

    Returns:
        Artefact -> what its check showed, and the peak memory of the processes.
    """
    exports = [name for name in job.delivery.formats if name != "class"]
    checks = _Checks(
        helpers,
        folder,
        job.net_file,
        job.tolerance,
        job.reference,
        job.delivery.calibration,
        job.plugins,
        adopted=job.adopt,
    )
    peaks: dict[str, int] = {}

    def check(artefact: str, place: int) -> None:
        events.progress(f"verify {artefact}", place, len(exports) + 1)
        result = checks.check(artefact)
        seconds[f"verify {artefact}"] = result["seconds"]
        peaks["check"] = max(peaks.get("check", 0), result["peak_bytes"])

    try:
        if exports:
            request = helpers.exporter.ask(folder=str(folder), **job.delivery.document())
        check("class", 0)  # its roundings apply to the others
        for place in range(len(exports)):
            events.progress("export", place, len(exports))
            exported = helpers.exporter.answer(request)
            seconds.update(exported["seconds"])
            peaks["export"] = exported["peak_bytes"]
            if place + 1 == len(exports):
                helpers.exporter.rest()
            check(exported["format"], place + 1)
            helpers.checker.rest()  # before the next, which may be model.keras
    except BaseException:
        helpers.rest()  # they would write into a folder that is gone
        raise
    helpers.checker.rest()
    return {name: checks.results[name] for name in job.delivery.formats}, peaks


@dataclass(frozen=True)
class _Checks:
    """The checks of one result folder; the class comes first, its roundings apply to the others."""

    helpers: Helpers
    folder: Path
    net_file: Path
    tolerance: float
    reference: Path | None
    calibration: str | None
    plugins: tuple[str, ...] = ()
    adopted: bool = False
    again: bool = False
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(self, artefact: str) -> dict[str, Any]:
        is_class = artefact == "class"
        request = self.helpers.checker.ask(
            folder=str(self.folder),
            net_file=str(self.net_file),
            artefact=artefact,
            tolerance=self.tolerance,
            reference=str(self.reference) if self.reference else None,
            rounding=None if is_class else self.results.get("class", {}).get("rounding"),
            calibration=self.calibration,
            plugins=self.plugins,
            mapped=self.adopted,
            again=self.again,
        )
        self.results[artefact] = self.helpers.checker.answer(request)
        return self.results[artefact]


def _place(folder: Path, job: Job) -> None:
    """Puts net.h5 and the logs into the result."""
    if job.adopt:
        job.net_file.replace(folder / "net.h5")
    else:
        shutil.copyfile(job.net_file, folder / "net.h5")
    if job.logs is not None and job.logs.is_dir():
        shutil.copytree(job.logs, folder / "logs")
    if job.log is not None and not (folder / "logs" / job.log.name).exists():
        (folder / "logs").mkdir(exist_ok=True)
        with job.log.open("rb") as log, (folder / "logs" / job.log.name).open("wb") as copy:
            log.seek(job.log_start)
            shutil.copyfileobj(log, copy)


def _keep_record(folder: Path, record: Path, result: dict[str, Any]) -> None:
    """Keeps the record, and beside it what came of the build: its result, its files and sizes.

    The record tells net.h5 by its `driver.digests.identity`, which moving it here has changed.
    """
    logs = folder / "logs"
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and logs not in path.parents
    }
    logs.mkdir(exist_ok=True)
    told = json.loads(record.read_text("utf-8"))
    if told.get("extract"):
        status = (folder / "net.h5").stat()
        times = [status.st_mtime_ns, status.st_ctime_ns]
        told["extract"]["net.h5"] = [status.st_ino, status.st_size, *times]
    (logs / record.name).write_text(json.dumps(told), encoding="utf-8")
    built = {"version": 1, "result": result, "files": sizes}
    (logs / "built.json").write_text(json.dumps(built), encoding="utf-8")


def verify(
    out: Path,
    tolerance: float,
    reference: Path | None,
    calibration: str | None,
    plugins: tuple[str, ...],
    helpers: Helpers,
    events: Events,
) -> dict[str, Any]:
    """Proves a converted model again, from the folder alone; returns the fields of `result`.

    Raises:
        VerificationFailed: the numbers differ.
        UsageError: the folder holds no model, or nothing to verify it against.
        ConversionError: see schemas.errors.
    """
    started = time.monotonic()
    events.progress("open", 0, 1)
    content = read(out / "net.h5")
    events.progress("opened", 1, 1)
    there = [name for name, format_ in FORMATS.items() if (out / format_.file).exists()]
    if not there:
        expected = ", ".join(format_.file for format_ in FORMATS.values())
        raise UsageError(f"none of {expected} is there", str(out), "pass a converted model")
    checks = _Checks(
        helpers, out, out / "net.h5", tolerance, reference, calibration, plugins, again=True
    )
    for place, artefact in enumerate(there):
        events.progress(f"verify {artefact}", place, len(there))
        checks.check(artefact)
    report = make_report(content, checks.results, tolerance)
    if report["status"] != "ok":
        raise failure(content, report)
    notes: list[str] = []
    for artefact in sorted(set(there) - report["artefacts"].keys()):
        notes.append(
            f"{FORMATS[artefact].file} is not verified: it is held to the images that it was "
            "calibrated on, which --calibration names"
        )
    for note in notes:
        events.warning(note)
    return {**_shown(out, report, started), "peak_bytes": {"build": peak_bytes()}}
