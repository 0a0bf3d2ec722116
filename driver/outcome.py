"""How a command ended: the one JSON document, and what a person is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from driver.worker import StageFailed
from schemas.errors import ConversionError, Interrupted
from schemas.events import as_conversion_error


@dataclass
class Outcome:
    """A command that went through.

    Attributes:
        document: for --json.
        title, facts: the summary.
        tables: rich renderables to print above the summary.
        is_product: the tables are what the command was called for, so --quiet shows them too.
    """

    document: dict[str, Any]
    title: str = ""
    facts: list[tuple[str, object]] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)
    is_product: bool = False

    @property
    def exit_code(self) -> int:
        code: int = self.document["exit_code"]
        return code


def ok_document(out: str | None, worst: Any = None, **extras: Any) -> dict[str, Any]:
    """The document of a success."""
    return {"status": "ok", "exit_code": 0, "error": None, "out": out, "worst": worst, **extras}


def error_of(problem: BaseException) -> ConversionError:
    """The error for the user behind any exception."""
    if isinstance(problem, StageFailed):
        return problem.error
    if isinstance(problem, KeyboardInterrupt):
        return Interrupted("interrupted")
    return as_conversion_error(problem)


def one_line(problem: BaseException) -> str:
    """What follows `error: `, with the stage where one failed."""
    error = error_of(problem)
    stage = f"{problem.stage}: " if isinstance(problem, StageFailed) else ""
    return " ".join((stage + str(error)).splitlines())


def failed_document(problem: BaseException) -> dict[str, Any]:
    """The document of a failure."""
    error = error_of(problem)
    document: dict[str, Any] = {
        "status": "failed",
        "exit_code": error.exit_code,
        "error": one_line(problem),
        "out": None,
        "worst": None,
        "details": {
            "kind": type(error).__name__,
            "message": error.message,
            "where": error.where,
            "hint": error.hint,
            **({"table": error.table} if error.table else {}),
        },
    }
    if isinstance(problem, StageFailed):
        document["worst"] = problem.worst
        document["details"]["stage"] = problem.stage
        if problem.said:
            document["log"] = problem.said
        if problem.kept:
            document["kept"] = str(problem.kept)
    return document


def finite(value: Any) -> Any:
    """`value` with null for the numbers that JSON has not: infinities and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
