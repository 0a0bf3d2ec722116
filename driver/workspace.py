"""Where a run works and what it may write to: targets, the work folder, logs of a failure."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from driver.interrupts import shielded
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

    A run that ends in a crash leaves OUT.failed/ with logs and report. A failed verification has
    left it already; other failures say all in their message.

    Args:
        out: the run's target. The folder lies beside it, so that results move, not copy; missing
            parents are made, and go again if the run leaves nothing in them.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.{os.getpid()}.work")
        self.logs = self.folder / "logs"
        self._made: list[Path] = []

    def __enter__(self) -> Workspace:
        try:
            with shielded():
                self._make_parents(self.out.parent)
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                self.logs.mkdir(parents=True)
        except OSError as error:
            self._remove()
            raise cannot_use(error.filename or self.folder, error) from error
        except KeyboardInterrupt:
            self._remove()
            raise
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        with shielded():
            if isinstance(problem, StageFailed):
                self._keep_evidence(problem)
            self._remove()

    def _make_parents(self, parent: Path) -> None:
        if not parent.exists():
            self._make_parents(parent.parent)
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in reversed(self._made):
            with contextlib.suppress(OSError):
                parent.rmdir()

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

        If it was ended in the middle of the exchange, the old target gets its name back.
        """
        partial, old = (
            self.out.with_name(f".{self.out.name}.{pid}.{kind}") for kind in ("partial", "old")
        )
        if os.path.lexists(old) and not os.path.lexists(self.out):
            old.rename(self.out)
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)

    def _keep_evidence(self, failure: StageFailed) -> None:
        failed = self.out.with_name(self.out.name + ".failed")
        if isinstance(failure.error, VerificationFailed) and failed.is_dir():
            failure.kept = failed
        if not isinstance(failure.error, StageCrashed):
            return
        logs = failed / "logs"
        with contextlib.suppress(OSError):
            if logs.is_dir() and (failed / "report.json").is_file():
                shutil.rmtree(failed)
            shutil.copytree(self.logs, logs, dirs_exist_ok=True)
            if failure.log is not None and failure.log.parent != self.logs:
                _copy_from(failure.log, failure.log_start, logs / failure.log.name)
            text = json.dumps(finite(failed_document(failure)), indent=2) + "\n"
            (failed / "report.json").write_text(text, encoding="utf-8")
            failure.kept = failed


def _copy_from(source: Path, start: int, target: Path) -> None:
    with source.open("rb") as log, target.open("wb") as copy:
        log.seek(start)
        shutil.copyfileobj(log, copy)


class ScratchSpace(Workspace):
    """A work folder for a run that writes nothing: it lies among the temporary files."""

    def __init__(self, name: str) -> None:
        try:
            base = Path(tempfile.mkdtemp(prefix="orchestrate-"))
        except OSError as error:
            raise cannot_use(error.filename or "the folder for temporary files", error) from error
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
    _check_new(out, force)
    if out.is_dir():
        raise UsageError("a file is to be written, this is a folder", str(out), "choose another -o")
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise UsageError("the output would replace an input", str(out), "choose another -o")


def check_target_folder(out: Path, force: bool, inputs: tuple[Path | None, ...]) -> None:
    """Raises UsageError unless the converted model `out` may be written.

    With --force, a converted model is replaced, and nothing else; and not if it holds one of
    `inputs`.
    """
    _check_new(out, force)
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not (out / "names.json").is_file():
        raise UsageError(
            "this is not a converted model, and --force replaces nothing else",
            str(out),
            "choose another -o, or remove it yourself",
        )
    for path in inputs:
        if path is not None and out.resolve() in path.resolve().parents:
            raise UsageError(
                f"the output would replace the input {path}", str(out), "choose another -o"
            )


def _check_new(out: Path, force: bool) -> None:
    if out.name in ("", os.pardir):
        raise UsageError("the output needs a name of its own", str(out), "choose another -o")
    if os.path.lexists(out) and not force:
        raise UsageError("this exists already", str(out), "--force replaces it")
