"""Workers that stay: what they import is imported once, job follows job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from driver.display import Display
from driver.interrupts import shielded
from driver.job import result_of
from driver.worker import Worker, end, interpreter
from driver.workspace import Workspace

LARGE = 1 << 30
"""Bytes at which a worker is not kept for the next job."""


class Standing:
    """Serves the jobs of one stage; a worker that died is replaced by a fresh one for the next job.

    Args:
        stage: of `driver.worker.PACKAGES`; one that serves.
        work: holds the workers' logs and their temporary files.
        verbose: passed on to the worker.
    """

    def __init__(self, stage: str, work: Workspace, verbose: bool = False) -> None:
        self._stage = stage
        self._log = work.logs / f"{stage}.log"
        self._room = work.folder
        self._verbose = verbose
        self._worker: Worker | None = None
        self._python = ""

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Ends the worker, if there is one."""
        if self._worker is not None:
            end([self._worker])

    def warm(self, python: str | None, show: Display) -> Worker:
        """The worker, started if need be under the interpreter that the user named, if one was."""
        command = interpreter(python)
        if self._worker is not None and not self._worker.ended and command != self._python:
            self.dismiss()
        if self._worker is None or self._worker.ended:
            show.progress(self._stage, "starting")
            with shielded():
                self._worker = Worker(
                    self._stage,
                    ["--serve"],
                    self._log,
                    room=self._room,
                    python=command,
                    jobs=True,
                    verbose=self._verbose,
                )
            self._python = command
        return self._worker

    def run(
        self,
        argv: Sequence[str],
        work: Workspace,
        show: Display,
        *,
        python: str | None,
        **options: Any,
    ) -> dict[str, Any]:
        """The result of one job; `options` are those of `driver.job.result_of`, and so are errors."""
        worker = self.warm(python, show)
        worker.send(argv)
        try:
            result = result_of(worker, show, **options)
        finally:
            if worker.ended:
                work.sweep(worker.pid)
        if _peak(result) > LARGE:
            self.dismiss()
        return result


class Crew:
    """A worker a stage, for one conversion after the other.

    Args:
        work: holds the workers' logs and their temporary files.
        build_python: the interpreter of the build worker, if one was named.
        verbose: passed on to the workers.
    """

    def __init__(self, work: Workspace, build_python: str | None, verbose: bool = False) -> None:
        self.build_python = build_python
        self.extractor = Standing("extract", work, verbose)
        self.builder = Standing("build", work, verbose)
        self._stack = ExitStack()

    def __enter__(self) -> Crew:
        self._stack.enter_context(self.extractor)
        self._stack.enter_context(self.builder)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def _peak(result: dict[str, Any]) -> int:
    """The largest size the worker itself has had, as far as it says."""
    peak = result.get("peak_bytes")
    own = peak.get("build") if isinstance(peak, dict) else peak
    return own if isinstance(own, int) else 0
