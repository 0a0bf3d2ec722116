"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import EnvironmentProblem, UsageError, VerificationFailed, cannot_use


def check_target(out: Path, force: bool) -> None:
    """Refuses a target that exists, unless it is one of our results and may be replaced.

    Raises:
        UsageError: it exists and `force` is not set, or is not a result of ours.
        EnvironmentProblem: its parent folder cannot be written.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise UsageError("the target exists", str(out), "choose another, or pass --force")
        if out.is_symlink() or not out.is_dir() or not (out / "names.json").is_file():
            raise UsageError(
                "not a converted model, so it is not replaced", str(out), "choose another target"
            )
    if not out.parent.is_dir():
        raise UsageError("the folder does not exist", str(out.parent), "make it first")
    if not os.access(out.parent, os.W_OK):
        raise EnvironmentProblem(
            "the folder cannot be written", str(out.parent), "check its permissions"
        )


def check_failed(failed: Path) -> None:
    """Refuses to let a failed verification replace what no failed run has left.

    Raises:
        UsageError: something else is there.
    """
    if failed.is_symlink() or (failed.exists() and not (failed / "report.json").is_file()):
        raise UsageError(
            "no failed run has left this, and a failed one would replace it",
            str(failed),
            "move it away, or choose another target",
        )


@contextmanager
def staged(out: Path, failed: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` when the block ends well.

    On a VerificationFailed it becomes `failed`, for the user to look into, if there is a report; on
    anything else it is removed. It is named after this process, ``.OUT.<pid>.partial``, so that
    whoever started us can remove it.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        _flush(partial)
        _replace(partial, out)
    except VerificationFailed:
        if (partial / "report.json").is_file():
            _replace(partial, failed)
        raise
    except OSError as error:
        raise cannot_use(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Has everything on the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(out)


def size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def require_space(folder: Path, needed: int) -> None:
    """Raises an EnvironmentProblem where `needed` bytes are not free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EnvironmentProblem(
            f"{needed:,} bytes are needed, {free:,} are free", str(folder), "free some space"
        )
