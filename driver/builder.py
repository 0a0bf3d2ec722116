"""A build worker that stays: TensorFlow is imported once, job follows job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driver.display import Display
from driver.interrupts import shielded
from driver.job import result_of
from driver.worker import Worker, end
from driver.workspace import Workspace


class Builder:
    """Serves build jobs; a worker that died is replaced by a fresh one for the next job.

    Args:
        python: the interpreter's command.
        log: the file that takes the workers' stdout and stderr.
        verbose: passed on to the worker.
    """

    def __init__(self, python: str, log: Path, verbose: bool = False) -> None:
        self._python = python
        self._log = log
        self._verbose = verbose
        self._worker: Worker | None = None

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._worker is not None:
            end([self._worker])

    def warm(self, show: Display) -> Worker:
        """The worker, started if need be; it imports TensorFlow while others work."""
        if self._worker is None or self._worker.ended:
            show.progress("build", "starting TensorFlow")
            with shielded():
                self._worker = Worker(
                    "build",
                    ["--serve"],
                    self._log,
                    python=self._python,
                    jobs=True,
                    verbose=self._verbose,
                )
        return self._worker

    def build(
        self, argv: Sequence[str], work: Workspace, show: Display, timeout: float | None
    ) -> dict[str, Any]:
        """The result of one job; see `driver.job.result_of` for what is raised."""
        worker = self.warm(show)
        worker.send(argv)
        try:
            return result_of(worker, show, timeout=timeout)
        finally:
            if worker.ended:
                work.sweep(worker.pid)
