"""caffe_layers.py of a result: the runtime modules that a net needs, joined into one file."""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Sequence

from stage_build.lowering.registry import runtime_file


def calls_name(family: str) -> str:
    """The class in a runtime module that holds the family's calls: ``InnerProductCalls``."""
    return "".join(word.capitalize() for word in family.split("_")) + "Calls"


def runtime_source(families: Sequence[str]) -> str:
    """caffe_layers.py: the runtime's base, the named families and the families those build on."""
    modules = _with_needed(["base", *families])
    imports, bodies = set(), []
    for module in modules:
        source = module_source(module)
        tree = ast.parse(source)
        lines = source.splitlines()
        body_start = 0
        for node in tree.body:
            docstring = node is tree.body[0] and isinstance(node, ast.Expr)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                if not _runtime_import(node):
                    imports.add(ast.unparse(node))
            elif not docstring:
                break
            body_start = node.end_lineno or 0
        bodies.append("\n".join(lines[body_start:]).strip("\n"))
    bases = ", ".join(["BaseNetwork", *(calls_name(m) for m in modules if _has_calls(m))])
    network = f'class Network({bases}):\n    """A Keras model made of the calls above."""'
    packages = {i for i in imports if i.split()[1] in ("keras", "numpy", "tensorflow")}
    head = '"""What the class beside this file is made of: Keras layers with Caffe\'s meaning."""'
    # `import` goes before `from`, as ruff and isort have it.
    imports_first = functools.partial(sorted, key=lambda line: (line.startswith("from"), line))
    blocks = [head, *("\n".join(imports_first(p)) for p in (imports - packages, packages))]
    return "\n\n".join([*blocks, "\n\n\n".join([*bodies, network])]) + "\n"


def module_source(module: str) -> str:
    """The text of a runtime module."""
    plugin = runtime_file(module)
    if plugin is not None:
        return plugin.read_text("utf-8")
    data = pkgutil.get_data("stage_build.runtime", f"{module}.py")
    if data is None:
        raise FileNotFoundError(f"stage_build/runtime/{module}.py")
    return data.decode()


def _has_calls(module: str) -> bool:
    return f"class {calls_name(module)}(" in module_source(module)


def _with_needed(modules: Sequence[str]) -> list[str]:
    """The modules in an order in which each comes after those it imports."""
    ordered: list[str] = []

    def visit(module: str) -> None:
        if module in ordered:
            return
        for node in ast.parse(module_source(module)).body:
            needed = _runtime_import(node)
            if needed:
                visit(needed)
        ordered.append(module)

    for module in modules:
        visit(module)
    return ordered


def _runtime_import(node: ast.AST) -> str:
    """The runtime module that an import statement names, else nothing."""
    start = "stage_build.runtime."
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    return module[len(start) :] if module.startswith(start) else ""
