"""Starts one worker, reads its events, and ends it.

A worker is one of `PACKAGES` under an interpreter of its own, in a session of its own (so that
whatever it starts ends with it), with a pipe for its events and a log for its noise.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from driver.environment import environment
from driver.interrupts import shielded
from schemas.errors import (
    ConversionError,
    EnvironmentProblem,
    MalformedModel,
    StageCrashed,
    UsageError,
)
from schemas.events import MAX_LINE, WHERE, parse
from schemas.processes import how_it_ended, oom_kills, signal_name

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages of both stages."""

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
PACKAGES = {
    "extract": "stage_extract",
    "build": "stage_build",
    "validate": "stage_build.validation",
}

GRACE = 1.0
"""Seconds between asking a worker to end (SIGTERM) and ending it (SIGKILL)."""

LAST_BREATH = 10.0
"""Seconds a worker that has closed its pipe may take to exit."""

SILENCE = 120.0
"""Seconds without a sign of life after which a worker counts as stuck.

It says every second that it is alive, but not while a library holds Python's lock: a layer of
Caffe's forward pass may take a minute and more. Where the system tells, the processor time that it
uses is a sign of life too.
"""

BUSY = 0.05
"""The share of one processor from which on a silent worker computes."""

EVENTS_AT_ONCE = 1000
TAIL_LINES = 12
TRACEBACK_LINES = 40
TAIL_BYTES = 16 * 1024

FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE")
"""What a library dies of over a damaged file."""


class StageFailed(Exception):
    """A job failed: the error for the user, and what is known around it.

    Attributes:
        error: what went wrong.
        stage: of `PACKAGES`.
        traceback: the worker's own, or empty.
        worst: the worst blob of a failed verification, as the worker reported it.
        said: the last lines the worker printed, where they are the only clue.
        kept: the folder in which logs and report were left, or None.
    """

    def __init__(self, error: ConversionError, stage: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.stage = stage
        self.traceback = ""
        self.worst: Any = None
        self.said: list[str] = []
        self.kept: Path | None = None


def interpreter(python: str | None) -> str:
    """The command for the interpreter the user named; ours where none was named.

    Raises:
        EnvironmentProblem: there is no such program.
    """
    if not python:
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise EnvironmentProblem(
            "no such Python interpreter", python, "check --extract-python and --build-python"
        )
    return found


def path_argument(path: Path | str) -> str:
    """`path` so that no command line takes it for an option."""
    text = str(path)
    return os.path.join(os.curdir, text) if text.startswith("-") else text


class Worker:
    """One running worker; as a context manager, it is ended with the block.

    Its temporary files go with it: TensorFlow leaves some where a process is ended.

    Whoever starts one does so `shielded`, until he can end it.

    Args:
        stage: of `PACKAGES`.
        argv: its command line, without the options about events.
        log: the file that takes its stdout and stderr; appended to.
        room: the folder in which its temporary files are.
        python: the interpreter's command.
        jobs: whether its stdin is a pipe, for `send`.
        verbose: passed on to it.
        threads, gpu: see `driver.environment.environment`.

    Attributes:
        task: what it does, as it says.
        silent: the seconds for which nothing was heard of it while somebody listened.

    Raises:
        EnvironmentProblem: it cannot be started.
    """

    def __init__(
        self,
        stage: str,
        argv: Sequence[str],
        log: Path,
        *,
        room: Path,
        python: str,
        jobs: bool = False,
        verbose: bool = False,
        threads: int | None = None,
        gpu: bool | None = None,
    ) -> None:
        self.stage = stage
        self.log = log
        self.task = ""
        self.silent = 0.0
        self._task_began = time.monotonic()
        self._used = 0.0
        self._oom_kills = oom_kills()
        self.ended = False
        self._buffer = bytearray()
        self._scanned = 0
        self.events, write_end = os.pipe()
        command = [python, str(BOOTSTRAP), str(ROOT), PACKAGES[stage], *argv]
        command += ["--events", str(write_end), *(["--verbose"] if verbose else [])]
        env = environment(stage, python, threads, gpu)
        self.process = self._start(command, write_end, jobs, room, env)
        os.set_blocking(self.events, False)
        self.job_start = self._log_size()

    def _start(
        self, command: list[str], write_end: int, jobs: bool, room: Path, env: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        self._temporary = ""
        try:
            self._temporary = tempfile.mkdtemp(prefix="tmp-", dir=room.absolute())
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if jobs else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**env, "TMPDIR": self._temporary},
                    pass_fds=(write_end,),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self.events)
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise EnvironmentProblem(
                f"the {self.stage} worker cannot be started: {error.strerror or error}",
                command[0],
                "check --extract-python and --build-python",
            ) from error
        finally:
            os.close(write_end)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        end([self])

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, argv: Sequence[str]) -> None:
        """Gives a serving worker its next job. A worker that has died is found by `read`."""
        self._at("")
        self.silent = 0.0
        self.job_start = self._log_size()
        line = json.dumps({"argv": list(argv)}) + "\n"
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line.encode())
            stdin.flush()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.events < 0

    def close(self) -> None:
        """Closes the driver's ends of the pipes, and removes the worker's temporary files."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.ended = True
        if not self.closed:
            os.close(self.events)
            self.events = -1
            shutil.rmtree(self._temporary, ignore_errors=True)

    def read(self) -> list[dict[str, Any]]:
        """The events that have arrived; sets `ended` when no more can come.

        Raises:
            StageFailed: a line is no event.
        """
        dead = self.process.poll() is not None
        events: list[dict[str, Any]] = []
        while not self.ended and len(events) < EVENTS_AT_ONCE:
            try:
                chunk = os.read(self.events, 1 << 16)
            except BlockingIOError:
                # Something the worker started may hold the pipe open after the worker's death.
                self.ended = dead
                break
            self.ended = not chunk
            self.silent = 0.0
            self._buffer += chunk
            events += self._parsed_lines()
        return events

    def _parsed_lines(self) -> list[dict[str, Any]]:
        events = []
        while (stop := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = self._buffer[:stop].decode("utf-8", "replace")
            del self._buffer[: stop + 1]
            self._scanned = 0
            events.append(self._parsed(line))
        self._scanned = len(self._buffer)
        if self._scanned > MAX_LINE:
            raise self._incomprehensible(f"an event of more than {MAX_LINE} bytes")
        return events

    def _parsed(self, line: str) -> dict[str, Any]:
        try:
            event = parse(line)
        except (MalformedModel, RecursionError) as error:
            raise self._incomprehensible(str(error)) from error
        if event["event"] == "progress":
            self._at(str(event.get("task", "")))
        return event

    def _at(self, task: str) -> None:
        if task != self.task:
            self.task, self._task_began = task, time.monotonic()

    def is_stuck(self, seconds: float) -> bool:
        """Whether it has given no sign of life for too long, after `seconds` more without an event.

        Waiting for Python's lock takes a little time of a processor, too: that is none.
        """
        if not self.silent:
            self._used = _processor_seconds(self.pid)
        self.silent += seconds
        if self.silent <= SILENCE:
            return False
        if _processor_seconds(self.pid) - self._used < BUSY * self.silent:
            return True
        self.silent = 0.0
        return False

    def _incomprehensible(self, reason: str) -> StageFailed:
        broken = f"the {self.stage} worker broke the protocol: {reason}"
        return self.failed(StageCrashed(broken, hint="are driver and worker of the same version?"))

    def death(self, opening: Path | None = None) -> StageFailed:
        """Why the worker ended without reporting how its job went.

        Args:
            opening: the HDF5 file from outside that the job opens, if it does: libhdf5's death on
                it is the file's fault.
        """
        try:
            code = self.process.wait(LAST_BREATH)
        except subprocess.TimeoutExpired:
            end([self])
            stopped = f"the {self.stage} worker stopped speaking, and did not exit"
            return self.failed(StageCrashed(stopped))
        name = signal_name(-code) if code < 0 else ""
        if opening and self.task == "open" and name in FAULTS:
            damaged = MalformedModel(
                f"damaged or hostile HDF5: reading it ended in {name}",
                str(opening),
                "make or download the file again",
            )
            return StageFailed(damaged, self.stage)
        if not self.task and code in (UsageError.exit_code, EnvironmentProblem.exit_code):
            # It never came so far as to speak: a wrong command line, an interpreter too old.
            kind = UsageError if code == UsageError.exit_code else EnvironmentProblem
            tail = self.log_tail()
            said = tail[-1] if tail else f"the {self.stage} worker ended with exit code {code}"
            failure = StageFailed(kind(said.partition("error: ")[2] or said), self.stage)
            failure.traceback = "\n".join(tail)
            return failure
        how, advice = how_it_ended(code, self._oom_kills)
        how += " and without a result" if code >= 0 else ""
        during = f" during {self.task!r}" if self.task else ""
        return self.failed(StageCrashed(f"the {self.stage} worker {how}{during}", hint=advice))

    def stuck(self, message: str, hint: str) -> StageFailed:
        """Ends the worker, which comes to no end by itself, and says where it was.

        Args:
            message: what is wrong with it.
            hint: what to do about it.
        """
        task = self._last_task()
        self._print_where()
        end([self])
        return self.failed(StageCrashed(message + task, hint=hint), TRACEBACK_LINES)

    def _last_task(self) -> str:
        lasted = time.monotonic() - self._task_began
        return f"; its last task was {self.task!r}, for {lasted:.0f} s" if self.task else ""

    def _print_where(self) -> None:
        """Has it print a traceback into its log."""
        before = self._log_size()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGCONT)
            os.kill(self.pid, WHERE)
        deadline = time.monotonic() + GRACE
        while self._log_size() == before and self.process.poll() is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        time.sleep(0.1)  # it is written piece by piece

    def failed(self, error: ConversionError, lines: int = TAIL_LINES) -> StageFailed:
        """The failure of this worker by `error`, with the last `lines` that the worker printed."""
        failure = StageFailed(error, self.stage)
        failure.said = self.log_tail(lines)
        return failure

    def copy_log(self, folder: Path) -> None:
        """Copies what the worker printed during its job into `folder`, if its log is elsewhere."""
        target = folder / self.log.name
        if target == self.log:
            return
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self.job_start)
            with target.open("wb") as copy:
                shutil.copyfileobj(log, copy)

    def _log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last `lines` that the worker printed during its job."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self.job_start, self._log_size() - TAIL_BYTES))
                text = log.read(TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _processor_seconds(pid: int) -> float:
    """The processor time that a process has used; 0 where the system tells none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def ready(workers: Iterable[Worker], timeout: float) -> Iterator[Worker]:
    """The workers that have something to `read`, waiting for at most `timeout` seconds."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.events, selectors.EVENT_READ, worker)
        found = [key.data for key, _ in selector.select(timeout)]
    for worker in workers:
        if worker in found or worker.process.poll() is not None:
            yield worker


def end(workers: Sequence[Worker]) -> None:
    """Ends workers and everything they started: SIGTERM, and SIGKILL a second later.

    Also the end of a worker that has reported its result: nothing of it is lost, and TensorFlow
    takes seconds to exit by itself. One that is ended already is passed over: its number may be
    another's.
    """
    workers = [worker for worker in workers if not worker.closed]
    with shielded():
        for worker in workers:
            _signal_group(worker, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            _signal_group(worker, signal.SIGKILL)
            worker.process.wait()
            worker.close()


def _signal_group(worker: Worker, number: signal.Signals) -> None:
    # macOS answers PermissionError where a group holds only dead processes.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, number)
