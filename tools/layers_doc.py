"""Writes docs/layers.md from the registries: every layer type, what is exact and what is refused.

python tools/layers_doc.py [OUT]
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from schemas.layers import registry  # noqa: E402

OUT = ROOT / "docs" / "layers.md"
BVLC = "BVLC"
WIDTH = 100

HEAD = """# Layers

Made by `make docs` from `schemas/layers`; a test holds this page to it. Where a type has several
dialects, a layer's own is told by what is written and stored (fields, numbers of bottoms and tops,
parameter blobs), is named in the report, and can be forced with `--dialect`; `bvlc` names BVLC's.

What is read here is computed exactly, to rounding in float32, and proven at each conversion. What
is listed as refused ends a conversion with exit code 4; so does a parameter that is in no list.
"""

ROLES = {
    "compute": "",
    "input": "becomes an input",
    "data": "becomes an input",
    "loss": "dropped with its labels, unless `--keep-losses`",
    "sink": "dropped: nothing reads on",
}


def page() -> str:
    """The page as Markdown."""
    families: dict[str, dict[Any, list[tuple[str, str]]]] = defaultdict(dict)
    for (type_, dialect), cls in registry.registered().items():
        families[_titled(cls)].setdefault(cls, []).append((type_, dialect))
    known = registry.registered()
    count = len({type_ for type_, _ in known})
    dialects = sorted({dialect for _, dialect in known if dialect and "." not in dialect})
    lines = [
        HEAD,
        f"{count} types in {len(families)} families. Dialects: {', '.join(dialects)}.\n",
    ]
    for type_ in sorted({type_ for type_, _ in known}, key=lambda name: (name.casefold(), name)):
        places = ", ".join(
            f"[{_titled(cls)}](#{_titled(cls).replace(' ', '-')}) ({dialect or BVLC})"
            for dialect, cls in sorted(registry.dialects(type_).items())
        )
        lines.append(f"* `{type_}`: {places}")
    lines.append("")
    for family, classes in sorted(families.items()):
        lines.append(f"## {family}\n")
        for cls, names in sorted(classes.items(), key=lambda item: min(item[1])):
            lines += _entry(cls, sorted(names))
    return "\n".join(lines)


def _titled(cls: type[registry.Meaning]) -> str:
    """The heading of a meaning's family."""
    return cls.__module__.rpartition(".")[2].replace("_", " ")


def _entry(cls: type[registry.Meaning], names: list[tuple[str, str]]) -> list[str]:
    titles = ", ".join(f"`{type_}` ({dialect or BVLC})" for type_, dialect in names)
    lines = [f"### {titles}\n", *_filled(_described(cls), ""), ""]
    role = ROLES[cls.role]
    if cls.head:
        role += f"; a net that ends in it keeps its {cls.head}"
    if role:
        lines += [f"* Role: {role}."]
    read = ", ".join(_parameter(cls, name) for name in registry.parameters(cls))
    if read:
        messages = ", ".join(f"`{name}`" for name in cls.messages)
        lines += _filled(f"* Reads {messages}: {read}.", "  ")
    if cls.harmless:
        ignored = "; ".join(f"{name} ({reason})" for name, reason in sorted(cls.harmless.items()))
        lines += _filled(f"* Changes nothing: {ignored}.", "  ")
    for reason in refusals(cls):
        lines += _filled(f"* Refused: {reason}.", "  ")
    return [*lines, ""] if lines[-1] else lines


def _described(cls: type[registry.Meaning]) -> str:
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split())


def _parameter(cls: type[registry.Meaning], name: str) -> str:
    choices = cls.choices.get(name)
    return f"{name} ({', '.join(choices)})" if choices else name


def refusals(cls: type) -> list[str]:
    """What the meaning's own code refuses as unsupported, as its messages say it."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("schemas.layers") or base is registry.Meaning:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UnsupportedModel":
                text = _text(node.args[0]) if node.args else ""
                if text:
                    found[text] = None
    return list(found)


def _text(node: ast.expr) -> str:
    """A message's text; three dots stand for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "..."


def _filled(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(page(), "utf-8")
