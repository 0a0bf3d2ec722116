"""Python source from values: literals, statements and docstrings within WIDTH columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH = 100


def docstring(text: str, indent: str = "") -> list[str]:
    line = f'{indent}"""{text}"""'
    if len(line) <= WIDTH:
        return [line]
    return [f'{indent}"""', *filled(text.split(" "), indent), f'{indent}"""']


def filled(words: Sequence[str], indent: str) -> list[str]:
    """Words as lines of at most WIDTH columns."""
    lines, line = [], indent
    for word in words:
        if line.strip() and len(line) + len(word) + 1 > WIDTH:
            lines.append(line.rstrip())
            line = indent
        line += ("" if line == indent else " ") + word
    return [*lines, line.rstrip()]


@dataclass(frozen=True)
class Code:
    """Text to be printed as it is: an identifier of ours, never a name of the model's."""

    text: str


def literal(value: Any) -> str:
    """`value` as Python source; floats in the fewest digits that give the same float32.

    Raises:
        TypeError: the value is of a type that no call takes.
    """
    if isinstance(value, Code):
        return value.text
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            short = float(str(np.float32(value)))
            exact = short if np.float32(short) == np.float32(value) else value
        return repr(exact) if np.isfinite(exact) else f'float("{exact}")'
    if isinstance(value, str):
        # A double quote makes sure that Python puts it in single ones, and escapes those.
        single = ascii('"' + value)[2:-1]
        return '"' + single.replace('"', '\\"').replace("\\'", "'") + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + (",)" if len(value) == 1 else ")")
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    raise TypeError(f"no literal for {type(value).__name__}")


def wrapped(start: str, mapping: dict[str, Any]) -> list[str]:
    """``start{...}``, an entry a line where one line is too short."""
    line = start + literal(mapping)
    if len(line) <= WIDTH:
        return [line]
    indent = _indent(start)
    lines = [f"{start}{{"]
    for key, value in mapping.items():
        lines += parenthesised(f"{indent}    {literal(key)}: ", literal(value), ",")
    return [*lines, f"{indent}}}"]


def wrapped_tuple(start: str, values: Sequence[Any]) -> list[str]:
    """``start(...)``, filled lines of values where one line is too short."""
    line = start + literal(tuple(values))
    if len(line) <= WIDTH:
        return [line]
    indent = _indent(start)
    inner = filled([f"{literal(value)}," for value in values], indent + "    ")
    return [f"{start}(", *inner, f"{indent})"]


def wrapped_call(start: str, arguments: Sequence[str], end: str) -> list[str]:
    """``start(arguments)``, an argument a line where they do not fit into two."""
    line = start + ", ".join(arguments) + end
    if len(line) <= WIDTH:
        return [line]
    indent = _indent(start)
    inner = indent + "    " + ", ".join(arguments)
    if len(inner) <= WIDTH:
        return [start, inner, indent + end]
    lines = [start]
    for argument in arguments:
        lines += broken(f"{indent}    {argument},")
    return [*lines, indent + end]


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip()))


def parenthesised(start: str, value: str, end: str = "") -> list[str]:
    """``start value``, the value in brackets of its own where one line is too short."""
    line = start + value + end
    if len(line) <= WIDTH or value.startswith("("):
        return broken(line)
    return [f"{start}(", f"{_indent(start)}    {value}", f"{_indent(start)}){end}"]


def broken(line: str) -> list[str]:
    """A line that ends in ``[...],`` or ``(...),``, what is in the brackets on lines of its own; a
    line each for what has brackets itself."""
    if len(line) <= WIDTH:
        return [line]
    indent, opening = _indent(line), min(i for i in map(line.find, "[(") if i >= 0)
    inner, items = f"{indent}    ", [f"{item}," for item in _items(line[opening + 1 : -2])]
    if items[0].startswith(("[", "(")):
        lines = [part for item in items for part in broken(inner + item)]
    else:
        lines = filled(items, inner)
    return [line[: opening + 1], *lines, indent + line[-2:]]


def _items(text: str) -> list[str]:
    """What stands between the commas that are in no brackets of their own."""
    items, depth = [""], 0
    for part in text.split(","):
        items[-1] += part if not depth else f",{part}"
        depth += sum(map(part.count, "[(")) - sum(map(part.count, "])"))
        if not depth:
            items.append("")
    return [item.strip() for item in items if item.strip()]
