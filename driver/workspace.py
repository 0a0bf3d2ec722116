"""Where a run works and what it may write to: targets, the work folder, logs of a failure."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from driver.interrupts import shielded
from driver.lock import NAME as LOCK
from driver.lock import Lock, unique_name
from driver.outcome import failed_document, finite
from driver.worker import StageFailed
from schemas.errors import (
    EnvironmentProblem,
    StageCrashed,
    UsageError,
    VerificationFailed,
    cannot_use,
    listed,
)

MODEL_FILES = (".prototxt", ".caffemodel", ".h5")

SLACK = 64 << 20
"""Bytes that shall stay free beyond what the weights need."""


class Workspace:
    """The hidden folder in which a run does its work; gone when the run is over.

    It is held by this run alone (`driver.lock`), and what dead runs left is swept at its start. A
    run that ends in a crash leaves OUT.failed/ with logs and report; so does one that the
    environment ends, if its worker has printed anything. A failed verification has
    left it already; other failures say all in their message. A success removes it.

    Args:
        out: the run's target. The folder, ``.OUT.work``, lies beside it, so that results move, not
            copy; missing parents are made, and go again if the run leaves nothing in them.

    Attributes:
        folder: the run's own, in ``.OUT.work``: no other run, dead or alive, has had its name.
        logs: a folder in it.

    Raises:
        EnvironmentProblem: another run works on this target, or the system refuses.
        UsageError: ``.OUT.work`` is not of a run.
    """

    def __init__(self, out: Path) -> None:
        self.out = out if out.name not in ("", os.pardir) else Path(os.path.abspath(out))
        self._hidden = self.out.with_name(f".{self.out.name}.work")
        self.folder = self._hidden / unique_name()
        self.logs = self.folder / "logs"
        self._lock = Lock(self._hidden, self.out)
        self._made: list[Path] = []

    def __enter__(self) -> Workspace:
        try:
            with shielded():
                self._begin()
        except OSError as error:
            self._remove()
            raise cannot_use(error.filename or self._hidden, error) from error
        except BaseException:
            self._remove()
            raise
        return self

    def _begin(self) -> None:
        try:
            self._take()
        except FileNotFoundError:  # a run that ended in between took parents with it
            self._take()
        self.logs.mkdir(parents=True)
        if self._lock.exclusive:
            self._sweep_dead_runs()

    def _take(self) -> None:
        self._make_parents(self.out.parent)
        self._lock.take()

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        with shielded():
            try:
                if isinstance(problem, StageFailed):
                    self._keep_evidence(problem)
                if problem is None and is_failure(self._failed):
                    self._discard(self._failed)
            finally:
                self._remove()
        if isinstance(problem, OSError) and not isinstance(problem, BrokenPipeError):
            raise cannot_use(problem.filename or self.out.parent, problem) from problem

    def _make_parents(self, parent: Path) -> None:
        if not parent.exists():
            self._make_parents(parent.parent)
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        for parent in reversed(self._made):
            with contextlib.suppress(OSError):
                parent.rmdir()

    @property
    def _failed(self) -> Path:
        return self.out.with_name(self.out.name + ".failed")

    def need_space(self, size: int) -> None:
        """Checks that `size` bytes and some slack are free beside the target.

        Raises:
            EnvironmentProblem: they are not.
        """
        free = shutil.disk_usage(self.out.parent).free
        if free < size + SLACK:
            raise EnvironmentProblem(
                f"about {bytes_text(size + SLACK)} are needed, {bytes_text(free)} are free",
                str(self.out.parent),
                "free some space or choose another -o",
            )

    def sweep(self, pid: int) -> None:
        """Removes what the ended build worker `pid` left half-written beside the target.

        If it was ended between the two renames of an exchange, the old target gets its name back.
        """
        self._sweep([f".{self.out.name}.{pid}.{kind}" for kind in ("partial", "old")])

    def _sweep_dead_runs(self) -> None:
        """Removes what runs that were killed left, here and beside the target."""
        for path in self._hidden.iterdir():
            if path.name not in (self.folder.name, LOCK):
                self._discard(path)
        left = re.compile(rf"\.{re.escape(self.out.name)}\.\d+\.(partial|old)")
        self._sweep(filter(left.fullmatch, os.listdir(self.out.parent)))

    def _sweep(self, names: Iterable[str]) -> None:
        for name in names:
            left = self.out.with_name(name)
            if name.endswith(".old") and os.path.lexists(left) and not os.path.lexists(self.out):
                left.rename(self.out)
            self._discard(left)

    def _discard(self, path: Path) -> None:
        """Moves `path` into the run's folder, and removes it there.

        A worker that outlived its driver may be about to give it its name: it is never seen half.
        What cannot be moved stays: it is in nobody's way.
        """
        away = self.folder / unique_name()
        with contextlib.suppress(OSError):
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def _keep_evidence(self, failure: StageFailed) -> None:
        """Leaves OUT.failed, whole or not at all; what no failed run has left stays as it is."""
        failed = self._failed
        if isinstance(failure.error, VerificationFailed) and failed.is_dir():
            failure.kept = failed
        if not failure.said and not isinstance(failure.error, StageCrashed):
            return
        kept = self.folder / "failed"
        with contextlib.suppress(OSError):
            shutil.copytree(self.logs, kept / "logs")
            text = json.dumps(finite(failed_document(failure)), indent=2) + "\n"
            (kept / "report.json").write_text(text, encoding="utf-8")
            if is_failure(failed):
                self._discard(failed)
            kept.rename(failed)
            failure.kept = failed


def is_failure(folder: Path) -> bool:
    """Whether a failed run has left this."""
    return not folder.is_symlink() and (folder / "report.json").is_file()


class ScratchSpace(Workspace):
    """A work folder for a run that writes nothing: it lies among the temporary files."""

    def __init__(self, name: str) -> None:
        try:
            base = Path(tempfile.mkdtemp(prefix="orchestrate-"))
        except OSError as error:
            raise EnvironmentProblem(
                f"no folder for temporary files can be written: {error.strerror or error}",
                error.filename or "",
                "set TMPDIR to one that can",
            ) from error
        super().__init__(base / name)
        self._made.append(base)


def bytes_text(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def check_input(path: Path | None) -> None:
    """Raises UsageError unless `path` is a file, or None."""
    if path is None or path.is_file():
        return
    if path.is_dir():
        hint = _files_of(path) or "check the path"
        raise UsageError("a file was expected, this is a folder", str(path), hint)
    found = "this is none" if path.exists() else "there is none"
    raise UsageError(f"a file was expected, {found}", str(path), "check the path")


def _files_of(folder: Path) -> str:
    """A hint with the files of a folder that may be meant."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in MODEL_FILES)
    except OSError:
        return ""
    return "pass a file of it: " + listed(names) if names else ""


def check_target_file(out: Path, force: bool, inputs: tuple[Path | None, ...]) -> None:
    """Raises UsageError unless the file `out` may be written."""
    _check_name(out)
    if out.is_dir():
        raise UsageError("a file is to be written, this is a folder", str(out), "choose another -o")
    _check_new(out, force)
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise UsageError("the output would replace an input", str(out), "choose another -o")


def check_target_folder(out: Path, force: bool, inputs: tuple[Path | None, ...]) -> None:
    """Raises UsageError unless the converted model `out` may be written.

    With --force, a converted model is replaced, and nothing else; and not if it holds one of
    `inputs`.
    """
    _check_name(out)
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not (out / "names.json").is_file():
        raise UsageError(
            "this is not a converted model, and --force replaces nothing else",
            str(out),
            "choose another -o, or remove it yourself",
        )
    _check_new(out, force)
    for path in inputs:
        if path is not None and out.resolve() in path.resolve().parents:
            raise UsageError(
                f"the output would replace the input {path}", str(out), "choose another -o"
            )


def _check_name(out: Path) -> None:
    if out.name in ("", os.pardir):
        raise UsageError("the output needs a name of its own", str(out), "choose another -o")


def _check_new(out: Path, force: bool) -> None:
    if os.path.lexists(out) and not force:
        raise UsageError("this exists already", str(out), "--force replaces it")
