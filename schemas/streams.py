"""net.h5 through a pipe: from this process's stdin, or to its stdout.

Standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from schemas.errors import EnvironmentProblem, MalformedModel, UsageError, cannot_use

PIPE = "-"
"""The file name that stands for stdin or stdout."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# A file of the superblock's version 0, as ours are, has its length there.
LENGTH = slice(40, 48)

SLICE_BYTES = 1 << 20
KEEP_FREE = 64 << 20
"""Bytes that shall stay free on the disk that takes what comes."""


def receive(path: Path) -> None:
    """Writes what comes on stdin, until its end, to `path`.

    Raises:
        UsageError: stdin is closed, or a terminal.
        MalformedModel: what comes is not HDF5, or ends too early.
        EnvironmentProblem: it cannot be written, or the disk would be full.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "net.h5 is to come on stdin, which is a terminal or closed",
            hint="orchestrate extract ... -o - | orchestrate build - -o OUT",
        )
    head, size = b"", 0
    try:
        with open(str(path), "wb") as file:
            while True:
                data = sys.stdin.buffer.read(SLICE_BYTES)
                head = head or data[: LENGTH.stop]
                size += len(data)
                if not head.startswith(SIGNATURE):
                    found = "something else came" if head else "nothing came"
                    raise _refused(f"net.h5 was expected, {found}")
                if not data:
                    break
                _require_space(path, len(data))
                file.write(data)
    except OSError as error:
        raise cannot_use(path, error) from error
    length = max(LENGTH.stop, int.from_bytes(head[LENGTH], "little"))
    if head[len(SIGNATURE) :][:1] in (b"", b"\0") and size < length:
        raise _refused(f"net.h5 was cut off: {size:,} of {length:,} bytes came")


def _refused(message: str) -> MalformedModel:
    return MalformedModel(message, "stdin", "did the extraction at the pipe's other end fail?")


def _require_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(str(path.parent)).free
    if free < size + KEEP_FREE:
        raise EnvironmentProblem(
            f"what comes on stdin fills the disk, {free:,} bytes are free",
            str(path.parent),
            "free some space",
        )


def claimed_stdout() -> int:
    """Takes stdout for ourselves: what anybody prints goes to stderr from now on.

    Libraries must not be loaded yet: they might keep the old one.

    Returns:
        The descriptor for `send`.

    Raises:
        UsageError: stdout is a terminal, or closed.
    """
    try:
        if sys.stdout is None or os.isatty(1):
            raise no_stdout()
        own = os.dup(1)
        os.dup2(2, 1)
    except OSError as error:
        raise cannot_use("stdout", error) from error
    return own


def no_stdout() -> UsageError:
    """That net.h5 cannot go to stdout."""
    return UsageError(
        "-o - writes HDF5 to stdout, which is a terminal or closed", hint="redirect it"
    )


def send(path: Path, descriptor: int) -> None:
    """Writes a file to a descriptor, and closes that.

    Raises:
        BrokenPipeError: who reads has gone.
        EnvironmentProblem: it cannot be written.
    """
    try:
        with open(str(path), "rb") as file, open(descriptor, "wb") as out:
            shutil.copyfileobj(file, out, SLICE_BYTES)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_use("stdout", error) from error


def end_tidily() -> None:
    """Has SIGTERM and SIGHUP do what Ctrl-C does: temporary files go with the process."""
    if threading.current_thread() is not threading.main_thread():
        return  # nobody else may
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
