"""A folder that appears whole or not at all, and an earlier one that is there until then.

Tests of what a sudden end leaves behind wait where it matters: the environment variable
`CAFFE_ORCHESTRATE_TEST_PAUSES` names a folder, and where a pipe (mkfifo) named ``before`` or
``after`` lies in it, the exchange is waited with, or what follows it, until somebody has opened the
pipe for writing and closed it again. Nothing else reads the variable, and without such pipes it
does nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from schemas.errors import EnvironmentProblem, UsageError, VerificationFailed, cannot_use, refused

PAUSES = "CAFFE_ORCHESTRATE_TEST_PAUSES"

AT_FDCWD = -100  # Linux; <fcntl.h>
RENAME_EXCHANGE = 2  # Linux; <stdio.h>
RENAME_SWAP = 2  # macOS; <sys/stdio.h>
# A file system or kernel without an exchange, or a container that forbids what it does not know.
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


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

    Raises:
        UsageError, EnvironmentProblem: the system refused; `out` is as it was.
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
    except Exception as error:
        problem = refused(error)
        if problem is None:
            raise
        raise cannot_use(out, problem) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Has everything on the disk before the folder gets its name."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        with suppress(OSError):  # not every file system does this for a folder
            _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(partial: Path, out: Path) -> None:
    """Gives the folder its name, in place of one that may be there."""
    _pause("before")
    if not out.exists():
        partial.rename(out)
    elif not _exchanged(partial, out):
        _rename_twice(partial, out)
    _pause("after")
    with suppress(OSError):
        _sync(out.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Has two names change places at once, so that neither is ever absent.

    Returns:
        False where the system cannot do that.

    Raises:
        OSError: it could, and refused.
    """
    function, names = _exchange_function(os.fsencode(one), os.fsencode(other))
    if function is None:
        return False
    if function(*names) == 0:
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _exchange_function(one: bytes, other: bytes) -> tuple[Any, tuple[Any, ...]]:
    """The system's function for that, or None, and its arguments."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        return getattr(libc, "renamex_np", None), (one, other, ctypes.c_uint(RENAME_SWAP))
    return getattr(libc, "renameat2", None), (
        *(AT_FDCWD, one),
        *(AT_FDCWD, other),
        ctypes.c_uint(RENAME_EXCHANGE),
    )


def _rename_twice(partial: Path, out: Path) -> None:
    """The same where nothing does it at once: for a moment there is no `out`."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _pause(moment: str) -> None:
    """Waits, in a test that has laid a pipe for this moment."""
    folder = os.environ.get(PAUSES)
    if folder and Path(folder, moment).is_fifo():
        Path(folder, moment).read_bytes()


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
