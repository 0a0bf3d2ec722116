"""Batches and validations on a Dask cluster: the driver's side.

A model is two tasks, `extract` and `build`, a shard of a validation one, `score`: see `tasks`. The
driver alone gives results their place.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver import interrupts, record
from driver.catalogue import Entry
from driver.cluster.exchange import Exchange
from driver.cluster.session import CAFFE, TENSORFLOW, Cluster, Session
from driver.cluster.tasks import build, extract, score
from driver.display import Display
from driver.options import Options
from driver.outcome import failed_document, ok_document
from driver.pipeline import check_conversion
from driver.workspace import Workspace, check_target_folder, is_failure
from schemas.errors import ConversionError, EnvironmentProblem, revive

if TYPE_CHECKING:
    from driver.validation import Request


def convert_all(
    entries: Sequence[Entry], out: Path, folder: Path, cluster: Cluster, show: Any
) -> Iterator[dict[str, Any]]:
    """Converts models into `out`/NAME, and yields each one's document as it ends.

    Args:
        folder: of this run, gone with it; where there is no storage, all machines see it.
        show: has `warning`.

    Raises:
        EnvironmentProblem: there is no cluster, or none that can do this.
    """
    pending = deque(entries)
    running: dict[str, _Model] = {}
    try:
        with Session(cluster, folder, show) as session:
            while pending or running:
                if pending and len(running) < session.room:
                    entry = pending.popleft()
                    try:
                        running[entry.name] = _begun(entry, out / entry.name, folder, session)
                    except Exception as problem:
                        yield _unsent(entry.name, problem)
                    continue
                model, done = session.ended()
                if model.extracted is None and "stage" in done:
                    model.extracted = done
                    session.submit(model, build, done, model.sent, resource=TENSORFLOW)
                    continue
                del running[model.name]
                yield model.document(done, session.exchange)
    except (EnvironmentProblem, KeyboardInterrupt) as problem:
        if not running:
            raise
        waiting = [] if isinstance(problem, KeyboardInterrupt) else [e.name for e in pending]
        for name in [*running, *waiting]:
            yield _unsent(name, problem)


def _unsent(name: str, problem: BaseException) -> dict[str, Any]:
    return {"name": name, **failed_document(problem), "warnings": []}


def _begun(entry: Entry, out: Path, folder: Path, session: Session) -> _Model:
    """Starts a model's first stage; its second where an earlier run's net.h5 is still right."""
    options = replace(entry.options, force=True)
    check_conversion(entry.prototxt, entry.weights, out, options)
    asked = record.Asked.of(entry.prototxt, entry.weights, options)
    sent = {
        "name": entry.name,
        "out": str(out),
        "prototxt": session.send(entry.prototxt),
        "weights": None if entry.weights is None else session.send(entry.weights),
        "options": session.send_options(options),
    }
    model = _Model(entry.name, out, asked, sent)
    net = folder / f"{uuid.uuid4().hex}.h5"
    reused = None if options.no_cache else record.reuse(out, asked, net)
    if reused is None:
        session.submit(model, extract, sent, resource=CAFFE)
        return model
    model.reused = reused
    model.extracted = {
        "stage": {**reused.result, "reused": True},
        "net": session.exchange.put(net),
        "warnings": record.warnings_of(reused.result),
    }
    net.unlink()
    session.submit(model, build, model.extracted, sent, resource=TENSORFLOW)
    return model


@dataclass
class _Model:
    """A model that is being converted.

    Attributes:
        sent: what its tasks are told.
        extracted: what the first of them returned.
        reused: what stood in for it, if an earlier run's net.h5 did.
    """

    name: str
    out: Path
    asked: record.Asked
    sent: dict[str, Any]
    extracted: dict[str, Any] | None = None
    reused: record.Extraction | None = None

    def document(self, done: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
        """Gives what the last task returned its place, and sums the model up."""
        said = [*(self.extracted["warnings"] if self.extracted else []), *done["warnings"]]
        try:
            sum_up = self._failed if "failed" in done else self._made
            document = sum_up(done, exchange)
        except Exception as problem:
            document = failed_document(problem)
        return {"name": self.name, **document, "warnings": said}

    def _failed(self, done: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
        document: dict[str, Any] = done["failed"]
        failed = self.out.with_name(self.out.name + ".failed")
        document.pop("kept", None)
        if done.get("kept") and (is_failure(failed) or not os.path.lexists(failed)):
            # Whatever happens to that: the document says what went wrong with the model.
            with contextlib.suppress(_Kept, ConversionError), Workspace(self.out) as work:
                fresh = exchange.get_folder(done["kept"], work.folder / "failed", work.folder)
                if failed.exists():
                    os.replace(failed, work.folder / "old")
                os.replace(fresh, failed)
                document["kept"] = str(failed)
                raise _Kept
        return document

    def _made(self, done: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
        assert self.extracted is not None
        extracted, built = self.extracted["stage"], done["stage"]
        with Workspace(self.out) as work:
            fresh = exchange.get_folder(done["out"], work.folder / "made", work.folder)
            record.write(fresh / "logs" / record.MADE_OF, self._extraction(fresh), self.asked)
            check_target_folder(self.out, True, ())  # something may have appeared meanwhile
            try:
                _place(fresh, self.out)
            finally:
                work.sweep(os.getpid())
        stages = {"extract": extracted, "build": built}
        seconds = sum(stage.get("seconds") or 0.0 for stage in stages.values())
        return ok_document(str(self.out), worst=built.get("worst"), seconds=seconds, stages=stages)

    def _extraction(self, fresh: Path) -> record.Extraction:
        """What the net.h5 in the folder `fresh` is made of."""
        assert self.extracted is not None
        if self.reused is not None:
            return record.of_copy(self.reused, fresh / "net.h5")
        return record.made(self.asked, self.extracted["stage"], fresh / "net.h5")


class _Kept(Exception):
    """Ends a `Workspace` as a failure does: what is left of that stays."""


def _place(fresh: Path, out: Path) -> None:
    """Gives `fresh` the name `out`; what had it is left for `Workspace.sweep`."""
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    with interrupts.shielded():
        if os.path.lexists(out):
            os.replace(out, out.with_name(f".{out.name}.{os.getpid()}.old"))
        os.replace(fresh, out)


def score_all(
    request: Request,
    options: Options,
    shards: int | None,
    folder: Path,
    cluster: Cluster,
    show: Display,
) -> list[Path]:
    """The files of results of the shards of a validation, which it makes in `folder`.

    Args:
        shards: how many; None: as many as the cluster does at once.

    Raises:
        ConversionError: as a shard's worker said, or there is no cluster that can do this.
    """
    with Session(cluster, folder, show) as session:
        count = shards or max(1, session.slots(TENSORFLOW))
        sent = {
            "given": {
                name: session.sent(name, getattr(request, name))
                for name in ("out", "images", "labels", "through")
            },
            "others": {name: session.sent(name, value) for name, value in request.others.items()},
            "python": options.build_python,
            "gpu": options.gpu,
            "timeout": options.timeout,
        }
        parts = [f"{number}/{count}" for number in range(1, count + 1)]
        for part in parts:
            session.submit(part, score, sent, part, resource=TENSORFLOW)
        found: dict[str, Path] = {}
        while len(found) < count:
            show.progress("validate", f"{len(found)} of {count} shards", len(found), count)
            part, done = session.ended()
            if "failed" in done:
                raise revive(done["failed"]["details"])
            target = folder / f"{part.replace('/', 'of')}.json"
            found[part] = session.exchange.get(done["results"], target)
        return [found[part] for part in parts]
