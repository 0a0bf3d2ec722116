"""Every message that the project's errors and warnings can have, as its source says them.

A message is a template: what is filled in at run time is ``…``. Found are the first arguments of
the error classes, of what is appended to notes, and of every function that hands its own argument
on to one of those (``damage(at, message)``).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

ROOMS = ("driver", "schemas", "stage_extract", "stage_build")
ERRORS = "schemas/errors.py"
HOLE = "…"

# Messages that are put together out of the sight of `collected`: module, expression -> templates,
# the fixed words of which must be in the module named beside them.
ELSEWHERE = {
    ("stage_extract/selection.py", "'; '.join(reasons)"): {
        "unknown field: …": "stage_extract/selection.py"
    },
    ("stage_extract/selection.py", "ambiguous[layer.name]"): {
        "layer type … means something else in …, and nothing tells which is meant (choose with "
        "--dialect …)": "stage_extract/dialects.py"
    },
}

# Expressions that hold a message of somebody else's, or one that is collected where it was made.
OTHERS = {
    ("orchestrate.py", "error.format_message().rstrip('.')"),  # typer
    ("driver/catalogue.py", "error.message"),
    ("driver/doctor.py", "error.strerror or str(error)"),  # the system
    ("driver/doctor.py", "lines[-1]"),  # the interpreter that is asked
    ("schemas/layers/registry.py", "str(error)"),  # Python, over a meaning's arithmetic
    ("stage_extract/network.py", "'; '.join(reasons)"),
    ("stage_extract/network.py", "undecided"),
    ("stage_extract/reading.py", "note"),
    ("stage_build/lowering/registry.py", "'; '.join(problems)"),
    ("stage_build/sizes.py", "'; '.join(map(str, named))"),
    ("stage_build/validation/worker.py", "error"),
    ("stage_build/worker.py", "error"),
    ("stage_extract/worker.py", "error"),
}


@dataclass(frozen=True)
class _Call:
    """A call, the module it is in, and the innermost function around it."""

    module: str
    node: ast.Call
    function: ast.FunctionDef | None

    @property
    def name(self) -> str:
        """What is called; ``notes`` for an append to notes."""
        callee = self.node.func
        if isinstance(callee, ast.Attribute):
            to_notes = callee.attr == "append" and ast.unparse(callee.value).endswith("notes")
            return "notes" if to_notes else callee.attr
        return callee.id if isinstance(callee, ast.Name) else ""

    def argument(self, place: int) -> ast.expr | None:
        named = (each.value for each in self.node.keywords if each.arg == "message")
        return self.node.args[place] if place < len(self.node.args) else next(named, None)


def sources(root: Path = ROOT) -> dict[str, ast.Module]:
    """Module's path from the root -> its tree; but what is copied beside generated code."""
    paths = [root / "orchestrate.py", *(p for room in ROOMS for p in (root / room).rglob("*.py"))]
    return {
        str(path.relative_to(root)): ast.parse(path.read_text("utf-8"))
        for path in sorted(paths)
        if "runtime" not in path.relative_to(root).parts
    }


def _errors(tree: ast.Module) -> list[str]:
    """The classes of errors, each after the one it derives from."""
    found = ["ConversionError"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & {*found}:
            found.append(node.name)
    return found


def _calls(module: str, node: ast.AST, around: ast.FunctionDef | None = None) -> Iterator[_Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield _Call(module, child, around)
        yield from _calls(module, child, child if isinstance(child, ast.FunctionDef) else around)


def _parameters(function: ast.FunctionDef) -> list[str]:
    """The names of a function's arguments, as its callers count them."""
    names = [each.arg for each in function.args.args]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _assigned(name: str, scope: ast.AST) -> list[ast.expr]:
    return [
        node.value
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]


class _Collector:
    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self.trees = trees
        self.found: dict[str, set[str]] = defaultdict(set)
        self.unread: set[tuple[str, str]] = set()
        self._makers = dict.fromkeys((*_errors(trees[ERRORS]), "notes"), 0)

    def run(self) -> None:
        calls = [call for module, tree in self.trees.items() for call in _calls(module, tree)]
        done: set[_Call] = set()
        while waiting := [c for c in calls if c.name in self._makers and c not in done]:
            for call in waiting:
                message = call.argument(self._makers[call.name])
                if message is not None:
                    self._take(call, message)
            done.update(waiting)

    def _take(self, call: _Call, message: ast.expr) -> None:
        templates = self._templates(message, call)
        if templates is None:
            self.unread.add((call.module, ast.unparse(message)))
        for template in templates or ():
            # A template without a word is a frame for other messages.
            if re.search(r"[A-Za-z]{2}", template):
                self.found[re.sub(f"{HOLE}+", HOLE, template)].add(call.module)

    def _templates(self, node: ast.expr, call: _Call) -> list[str] | None:
        """What `node` may hold; None if that cannot be told."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            return [
                "".join(
                    str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else HOLE
                    for part in node.values
                )
            ]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._templates(node.left, call), self._templates(node.right, call)
            return [a + b for a in left or [HOLE] for b in right or [HOLE]]
        if isinstance(node, ast.IfExp):
            branches = [self._templates(branch, call) for branch in (node.body, node.orelse)]
            return [text for branch in branches for text in branch or [HOLE]]
        if isinstance(node, ast.Name):
            return self._named(node, call)
        if isinstance(node, ast.Call):
            return self._called(node, call)
        return None

    def _named(self, node: ast.Name, call: _Call) -> list[str] | None:
        """A variable's; an argument makes the function around it one that takes messages."""
        function = call.function
        values = _assigned(node.id, function) if function else []
        if function is not None and node.id in _parameters(function):
            self._makers.setdefault(function.name, _parameters(function).index(node.id))
        elif not values:
            values = _assigned(node.id, self.trees[call.module])
            function = None
        extended = [_without(node.id, value) for value in values]
        known = [self._templates(value, call) for value in extended]
        texts = [text for texts in known for text in texts or ()]
        return texts or ([] if function and node.id in _parameters(function) else None)

    def _called(self, node: ast.Call, call: _Call) -> list[str] | None:
        """Those of ``"...".format()``, or what a function of the module returns."""
        callee = node.func
        if isinstance(callee, ast.Attribute) and isinstance(callee.value, ast.Constant):
            filled = callee.attr == "format"
            return [re.sub(r"\{[^}]*\}", HOLE, str(callee.value.value))] if filled else None
        functions = [
            each
            for each in ast.walk(self.trees[call.module])
            if isinstance(each, ast.FunctionDef) and each.name == getattr(callee, "id", "")
        ]
        returned = [
            self._templates(each.value, _Call(call.module, node, function))
            for function in functions
            for each in ast.walk(function)
            if isinstance(each, ast.Return) and each.value is not None
        ]
        return [text for texts in returned for text in texts or ()] or None


def _without(name: str, node: ast.expr) -> ast.expr:
    """`node` with the variable `name`, which it extends, as a hole."""

    class Hole(ast.NodeTransformer):
        def visit_Name(self, each: ast.Name) -> ast.expr:
            return ast.Constant(HOLE) if each.id == name else each

    return Hole().visit(ast.parse(ast.unparse(node), mode="eval").body)


def collected() -> dict[str, set[str]]:
    """Template -> the modules that have it.

    Raises:
        AssertionError: a message is made in a way that this module does not follow.
    """
    collector = _Collector(sources())
    collector.run()
    unknown = collector.unread - OTHERS - set(ELSEWHERE)
    stale = (OTHERS | set(ELSEWHERE)) - collector.unread
    assert not unknown, f"say in tests/messages.py what these can be: {sorted(unknown)}"
    assert not stale, f"drop these from tests/messages.py: {sorted(stale)}"
    for templates in ELSEWHERE.values():
        for template, module in templates.items():
            collector.found[template].add(module)
    return dict(collector.found)
