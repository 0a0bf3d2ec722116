"""A second process that holds TensorFlow, asked over a pipe.

The worker itself never imports TensorFlow: one helper exports, another checks what the first one
wrote. TensorFlow keeps the memory it once had, so a helper that grew large is ended after its work.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.errors import StageCrashed, revive
from schemas.events import as_conversion_error, peak_bytes

LARGE = 1024**3

Handler = Callable[..., dict[str, Any]]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from stage_build.helper import serve; serve(sys.argv[1], int(sys.argv[2]))"
)


class Helper:
    """The asking side. The process starts at once, so that its TensorFlow loads meanwhile.

    Args:
        module: the name of a module with ``handle(**request) -> answer``, all of JSON values.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._peak_bytes = 0
        self._serial = 0
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        read_end, write_end = os.pipe()
        root = str(Path(__file__).resolve().parent.parent)
        path = json.dumps([*(p for p in sys.path if p), root])
        process = subprocess.Popen(
            [sys.executable, "-c", _START, self._module, str(write_end), path],
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
            stdout=sys.stderr.fileno(),
            text=True,
        )
        os.close(write_end)
        self._answers = os.fdopen(read_end, encoding="utf-8")
        return process

    def ask(self, **request: Any) -> None:
        """Hands in a request; `answer` waits for what comes of it.

        Raises:
            StageCrashed: the process died.
        """
        if self._process.poll() is not None:
            self.close()
            self._process = self._start()
        assert self._process.stdin is not None
        self._serial += 1
        try:
            self._process.stdin.write(json.dumps([self._serial, request]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._crashed() from None

    def answer(self) -> dict[str, Any]:
        """The answer to the latest request, and ``peak_bytes``, the process's peak memory.

        The answer to an earlier one, whose asker failed before it came, is passed over.

        Raises:
            ConversionError: the request failed, or the process died.
        """
        serial = None
        while serial != self._serial:
            line = self._answers.readline()
            if not line:
                raise self._crashed()
            serial, answer = json.loads(line)
        if "error" in answer:
            raise revive(answer["error"])
        self._peak_bytes = answer["peak_bytes"]
        return dict(answer)

    def rest(self) -> None:
        """Says that nothing more is asked for now: a process that grew large is ended."""
        if self._peak_bytes > LARGE:
            self.close()

    def _crashed(self) -> StageCrashed:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return StageCrashed(
            f"the process of {self._module} {how}", hint="out of memory? the log has its last words"
        )

    def close(self) -> None:
        """Ends the process; it has nothing to lose."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        if self._process.stdin:
            # What could not be sent to a process that is gone is tried once more here.
            with suppress(BrokenPipeError):
                self._process.stdin.close()


def serve(module: str, descriptor: int) -> None:
    """The answering side: a request a line on stdin, an answer a line on `descriptor`."""
    answers = os.fdopen(descriptor, "w", encoding="utf-8")
    # Loads TensorFlow before the first request; a missing package is told when one comes.
    with suppress(ImportError):
        importlib.import_module(module)
    for line in sys.stdin:
        serial, request = json.loads(line)
        try:
            handle: Handler = importlib.import_module(module).handle
            answer = {**handle(**request), "peak_bytes": peak_bytes()}
        except Exception as error:  # the asker raises it again
            answer = {"error": as_conversion_error(error).document()}
        gc.collect()
        answers.write(json.dumps([serial, answer]) + "\n")
        answers.flush()
