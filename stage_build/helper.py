"""Processes that hold TensorFlow, asked over sockets.

The worker itself never imports TensorFlow: a nursery does, once, and every helper is forked from
it, so that one exports and others check what the first one wrote. TensorFlow keeps the memory it
once had: a helper that grew large is ended after its work.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from schemas.errors import StageCrashed, revive
from schemas.events import as_conversion_error, peak_bytes
from schemas.processes import how_it_ended, oom_kills

LARGE = 1024**3
# A process that has only imported TensorFlow has no thread of its, and may be forked: on Linux. The
# libraries of macOS are not made for it.
FORKS = sys.platform.startswith("linux")
# Keras imports it where it is installed, for wrappers that nobody needs here: half a second.
UNUSED = "sklearn"

Handler = Callable[..., dict[str, Any] | Iterator[dict[str, Any]]]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from stage_build import helper; getattr(helper, sys.argv[2])(int(sys.argv[3]), *sys.argv[4:])"
)


def _started(function: str, end: socket.socket, *arguments: str) -> subprocess.Popen[bytes]:
    """A Python process that runs a function of this module on its end of a socket pair."""
    root = str(Path(__file__).resolve().parent.parent)
    path = json.dumps([*(p for p in sys.path if p), root])
    return subprocess.Popen(
        [sys.executable, "-c", _START, path, function, str(end.fileno()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        pass_fds=(end.fileno(),),
    )


class Nursery:
    """Starts the processes of helpers, and knows how they ended.

    Args:
        modules: what they will need, which is imported at once and once for all. Of none, every
            process imports its own.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._begin()

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _started("nurse", theirs, *self._modules)
        self._oom_kills = oom_kills()

    def start(self, module: str) -> tuple[socket.socket, int]:
        """A process that serves `module`: a socket to it, and its number.

        Raises:
            StageCrashed: the nursery died.
        """
        if self._process.poll() is not None:  # since the last time, which was told
            self.close()
            self._begin()
        ours, theirs = socket.socketpair()
        with theirs:
            return ours, self._asked({"serve": module}, [theirs.fileno()])

    def ended(self, pid: int) -> int:
        """Waits for the end of a process: its exit code, or the negative number of a signal."""
        return self._asked({"wait": pid})

    def _asked(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            return int(json.loads(self._control.recv(64)))
        except (OSError, ValueError):  # it is gone
            how, advice = how_it_ended(self._process.wait(), self._oom_kills)
            raise StageCrashed(f"the process that imports TensorFlow {how}", hint=advice) from None

    def close(self) -> None:
        """Ends it, and with it what still waits for requests."""
        self._control.close()
        self._process.kill()
        self._process.wait()


def nurse(descriptor: int, *modules: str) -> None:
    """The nursery's side: starts and waits for processes as it is told, until nobody is left."""
    control = socket.socket(fileno=descriptor)
    with _without(UNUSED):
        for module in modules:
            with suppress(ImportError):  # a missing package is told by who needs it
                importlib.import_module(module)
    gc.freeze()  # what is not looked through is not copied
    spawned: dict[int, subprocess.Popen[bytes]] = {}
    while True:
        text, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
        if not text:
            return
        request = json.loads(text)
        if request.get("wait") in spawned:
            answer = spawned.pop(request["wait"]).wait()
        elif "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            with socket.socket(fileno=descriptors[0]) as end:
                if modules:
                    answer = _fork(control, end, request["serve"])
                else:
                    process = _started("serve", end, request["serve"])
                    answer = process.pid
                    spawned[answer] = process
        control.send(json.dumps(answer).encode())


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Imports find no such package meanwhile, unless it has been imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _fork(control: socket.socket, end: socket.socket, module: str) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            control.close()
            with suppress(OSError):  # its name among the system's processes
                Path("/proc/self/comm").write_text(module.rpartition(".")[2])
            serve(end.detach(), module)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


class Helper:
    """The asking side.

    Args:
        nursery: starts the process, with the first request.
        module: the name of a module with ``handle(**request) -> answer``, all of JSON values; of
            several answers, an iterator.
    """

    def __init__(self, nursery: Nursery, module: str) -> None:
        self._nursery = nursery
        self._module = module
        self._peak_bytes = 0
        self._serial = 0
        self._first = 0
        self._pid = 0

    def ask(self, **request: Any) -> int:
        """Hands in a request; `answer` waits for what comes of it.

        Returns:
            The request's number.

        Raises:
            StageCrashed: the process died.
        """
        if self._pid and self._gone():
            self.close()
        if not self._pid:
            self._socket, self._pid = self._nursery.start(self._module)
            self._lines = self._socket.makefile("r", encoding="utf-8")
            self._first = self._serial + 1
            self._oom_kills = oom_kills()
        self._serial += 1
        try:
            self._socket.sendall(json.dumps([self._serial, request]).encode() + b"\n")
        except OSError:
            raise self._crashed() from None
        return self._serial

    def answer(self, wanted: int) -> dict[str, Any]:
        """The next answer to a request, and ``peak_bytes``, the process's peak memory.

        Those to earlier ones, whose asker failed before they came, are passed over.

        Raises:
            ConversionError: the request failed, or the process died.
        """
        if wanted < self._first:
            raise StageCrashed(f"the process of {self._module} died before it answered")
        serial = None
        while serial != wanted:
            try:
                line = self._lines.readline()
            except OSError:
                line = ""
            if not line:
                raise self._crashed()
            serial, answer = json.loads(line)
        if "error" in answer:
            raise revive(answer["error"])
        self._peak_bytes = answer["peak_bytes"]
        return dict(answer)

    def _gone(self) -> bool:
        """Whether the process has ended since."""
        with suppress(BlockingIOError):
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def rest(self) -> None:
        """Says that nothing more is asked for now: a process that grew large is ended."""
        if self._peak_bytes > LARGE:
            self.close()

    def _crashed(self) -> StageCrashed:
        how, advice = how_it_ended(self._left(), self._oom_kills)
        return StageCrashed(f"the process of {self._module} {how}", hint=advice)

    def close(self) -> None:
        """Ends the process; it has nothing to lose. The next request starts another."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with suppress(StageCrashed):
                self._left()

    def _left(self) -> int:
        """Forgets the process, and returns how it ended."""
        pid, self._pid, self._peak_bytes = self._pid, 0, 0
        self._lines.close()
        self._socket.close()
        return self._nursery.ended(pid)


def serve(descriptor: int, module: str) -> None:
    """The answering side: a request a line, an answer a line."""
    with socket.socket(fileno=descriptor) as end, end.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            serial, request = json.loads(line)
            for answer in _answers(module, request):
                end.sendall(json.dumps([serial, answer]).encode() + b"\n")


def _answers(module: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        handle: Handler = importlib.import_module(module).handle
        made = handle(**request)
        for answer in [made] if isinstance(made, dict) else made:
            yield {**answer, "peak_bytes": peak_bytes()}
    except Exception as error:  # the asker raises it again
        yield {"error": as_conversion_error(error).document()}
    finally:
        gc.collect()
