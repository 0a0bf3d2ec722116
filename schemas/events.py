"""The JSON lines that a worker writes for the driver, on a pipe of their own.

    {"event": "started",  "stage": "extract", "pid": 4711}
    {"event": "alive",    "bytes": 104857600, "seconds": 1.5}
    {"event": "progress", "task": "weights", "done": 3, "total": 16, "note": "..."}
    {"event": "warning",  "message": "..."}
    {"event": "error",    "kind": "MalformedModel", "message": "...", "where": "...", "hint": "...",
                          "exit_code": 3, "traceback": "..."}
    {"event": "result",   ...}

Exactly one `error` or `result` ends a job. `alive` comes every second from a thread of its own,
with the process's resident bytes and the seconds of processor time that it has used: a driver that
hears nothing knows that the worker is stuck, and a worker that nobody hears ends. The pipe is a
file descriptor passed by number, so that what Caffe's and TensorFlow's libraries print on stdout
and stderr cannot be mistaken for an event.
Standard library only.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, Dict, Iterator, List, Optional

from schemas.errors import (
    ConversionError,
    EnvironmentProblem,
    Interrupted,
    MalformedModel,
    StageCrashed,
    cannot_use,
    refused,
)

MAX_LINE = 16 * 1024 * 1024

BEAT = 1.0
"""Seconds between two signs of life."""

WHERE: int = getattr(signal, "SIGUSR1", 0)  # Windows has none, and imports this module too
"""Has a worker print its main thread's traceback into its log, even while it is in C, and end."""


class Events:
    """Writes a worker's events.

    Args:
        fd: an open file descriptor, owned from now on, for as long as the process lives; with None
            there is no driver, and warnings and errors are printed to stderr for a person.
        verbose: print the traceback too.

    Raises:
        OSError: the descriptor is not open.
    """

    def __init__(self, fd: Optional[int] = None, verbose: bool = False) -> None:
        self._fd = fd
        self._verbose = verbose
        self._lock = threading.Lock()
        if fd is not None:
            os.fstat(fd)
            faulthandler.register(WHERE, file=2, all_threads=False, chain=True)
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [WHERE])  # it is for the main thread
        while True:
            time.sleep(BEAT)
            self._write("alive", bytes=_resident_bytes(), seconds=time.process_time())

    def _write(self, event: str, **fields: Any) -> None:
        if self._fd is None:
            return
        line = (json.dumps(dict(fields, event=event)) + "\n").encode("ascii")
        try:
            with self._lock:  # a line is written whole
                while line:
                    line = line[os.write(self._fd, line) :]
        except OSError:
            # The driver is gone: there is nobody left to work for.
            _end_with_ours()

    def started(self, stage: str) -> None:
        """Says that the worker of this stage is up, and which process it is."""
        self._write("started", stage=stage, pid=os.getpid())

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        """Says that `done` of `total` steps of a task are over, and in a few words how it goes."""
        noted = {"note": note} if note else {}
        self._write("progress", task=task, done=done, total=total, **noted)

    def warning(self, message: str) -> None:
        """Says what the user should know, one line; the job goes on."""
        self._write("warning", message=message)
        if self._fd is None:
            print("warning: " + plain(message), file=sys.stderr)

    def result(self, **fields: Any) -> None:
        """Ends a job that went well; the fields are JSON values."""
        self._write("result", **fields)

    def error(self, error: BaseException) -> int:
        """Ends a job that failed, and returns the exit code that `error` stands for."""
        known = as_conversion_error(error)
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._write("error", exit_code=known.exit_code, traceback=trace, **known.document())
        if self._fd is None:
            lines = trace.splitlines() if self._verbose else [f"error: {known}"]
            print("\n".join(map(plain, lines)), file=sys.stderr)
        return known.exit_code


def jobs() -> Iterator[List[str]]:
    """The command lines that a worker that stays is given on stdin, until the driver closes it.

    {"argv": ["net.h5", "-o", "out"]}
    """
    for line in sys.stdin:
        yield json.loads(line)["argv"]


def plain(text: object) -> str:
    """`text` on one line, what a terminal would obey escaped; a model's names may hold anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def _end_with_ours() -> None:
    """Ends this process and, if it leads a group, as a driver's workers do, all that it began."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(Interrupted.exit_code)


def _resident_bytes() -> int:
    """The resident size of this process; the largest so far where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def as_conversion_error(error: BaseException) -> ConversionError:
    """`error` itself if it is one of ours, else the one that describes it best."""
    if isinstance(error, ConversionError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    refusal = refused(error)
    if refusal is not None:
        return cannot_use(refusal.filename or "a file", refusal)
    # TensorFlow's own is known by its name: not every process has TensorFlow.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return EnvironmentProblem("out of memory", hint="use a machine with more memory")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return EnvironmentProblem("no thread can be started", hint="raise `ulimit -u`")
    if isinstance(error, ImportError):
        return EnvironmentProblem(
            f"package {error.name!r} cannot be imported: {error}", hint="run `orchestrate doctor`"
        )
    return StageCrashed(
        f"{type(error).__name__}: {error}", hint="this is a fault of ours; --verbose shows where"
    )


def parse(line: str) -> Dict[str, Any]:
    """One event from one line.

    Raises:
        MalformedModel: the line is longer than 16 MiB, is not JSON, or is not an event.
    """
    if len(line) > MAX_LINE:
        raise MalformedModel(f"a worker's event is longer than {MAX_LINE} bytes")
    try:
        event = json.loads(line)
    except ValueError as error:
        raise MalformedModel(f"a worker's event is not JSON: {error}") from error
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise MalformedModel(f"a worker's line is not an event: {line[:80]!r}")
    return event
