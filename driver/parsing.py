"""Commands of typer whose values are converted without pydantic.

From 0.28 on typer converts each value with pydantic, whose import takes longer than all that the
driver itself does. Our values are texts, paths and numbers. What cannot be converted is given to
typer after all, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from typer.core import TyperCommand, TyperGroup

KINDS = (Path, str, int, float)


class _Quick:
    """A command that takes values of `KINDS`, and lists of them, quickly; others are typer's."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            typers = getattr(param, "get_runtime_param", None)  # older ones have no pydantic either
            kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
            if typers is not None and not isinstance(typers, partial):
                param.get_runtime_param = partial(_Conversion, kind, typers)
        return params


class Command(_Quick, TyperCommand):
    """One command."""


class Group(_Quick, TyperGroup):
    """All of them; `--help` is an option of its own, too."""


class _Conversion:
    """Converts a parameter's values.

    Args:
        kind: the parameter's type, without `None`.
        typers: makes typer's own conversion.
    """

    def __init__(self, kind: Any, typers: Callable[[], Any]) -> None:
        self._kind = kind
        self._typers = typers

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        (kind,) = get_args(self._kind) if many else (self._kind,)
        try:
            if kind in KINDS:
                return [kind(item) for item in value] if many else kind(value)
        except ValueError:
            pass
        return self._typers().coerce(value, param=param, ctx=ctx)
