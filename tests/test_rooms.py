"""Who may import whom (docs/architecture.md): read from the sources, and tried in processes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage_build import caffe_layers
from tests import nets
from tests.paths import ROOT

STDLIB = frozenset(sys.stdlib_module_names)
DRIVERS = frozenset({"rich", "tomli", "typer"})
TENSORFLOW = frozenset({"keras", "tensorflow"})
LANGUAGE = frozenset({"schemas.errors", "schemas.events", "schemas.processes", "schemas.streams"})
OURS = ("driver", "orchestrate", "schemas", "stage_build", "stage_extract")

# Module or room -> what it may import beside the standard library; the longest match counts.
# A package of others stands for all of it, a module of ours for itself, one with a dot at its end
# for what is below it.
ALLOWED = {
    "schemas": frozenset(),
    "schemas.errors": frozenset(),
    "schemas.events": frozenset({"schemas.errors"}),
    "schemas.graph": frozenset({"numpy", "schemas.errors"}),
    "schemas.graph_json": frozenset({"schemas.errors", "schemas.graph"}),
    "schemas.layers": frozenset(
        {"numpy", "schemas.errors", "schemas.graph", "schemas.layers", "schemas.layers."}
    ),
    "schemas.forward": frozenset(
        {"numpy", "schemas.errors", "schemas.graph", "schemas.layers", "schemas.layers.registry"}
    ),
    "schemas.plugins": frozenset({"schemas.errors", "schemas.layers", "schemas.layers.registry"}),
    "schemas.interchange": frozenset(
        {
            "h5py",
            "numpy",
            "schemas.errors",
            "schemas.graph",
            "schemas.graph_json",
            "schemas.plain_hdf5",
            "schemas.preprocessing",
        }
    ),
    "schemas.preprocessing": frozenset({"schemas.graph", "schemas.graph_json"}),
    "schemas.recipe": frozenset(
        {"schemas.errors", "schemas.preprocessing", "schemas.presets", "tomli"}
    ),
    "schemas.memory": frozenset({"schemas.errors"}),
    "schemas.streams": frozenset({"schemas.errors"}),
    "schemas.plain_hdf5": frozenset({"h5py", "numpy", "schemas.errors"}),
    "stage_extract": frozenset({"google.protobuf", "numpy", "schemas.", "stage_extract."}),
    "stage_extract.hdf5_weights": frozenset({"h5py", "numpy", "schemas.", "stage_extract."}),
    "stage_extract.pycaffe": frozenset({"caffe", "numpy", "schemas.", "stage_extract."}),
    "stage_build": frozenset({"numpy", "schemas.", "stage_build."}),
    "stage_build.lowering": frozenset(
        {"numpy", "schemas.", "stage_build.", "stage_build.lowering"}
    ),
    "stage_build.artefacts": frozenset({"numpy", "schemas.", "stage_build.", *TENSORFLOW}),
    "stage_build.page": frozenset({"igraph", "jinja2", "numpy", "schemas.", "stage_build."}),
    "stage_build.runtime": frozenset({"numpy", "stage_build.runtime.", *TENSORFLOW}),
    "stage_build.validation.classifier": frozenset(
        {"numpy", "schemas.", "stage_build.", *TENSORFLOW}
    ),
    "stage_build.validation.scoring": frozenset({"numpy", "stage_build.", *TENSORFLOW}),
    "driver": frozenset({"driver.", *LANGUAGE, *DRIVERS}),
    "driver.cluster.exchange": frozenset({"fsspec", *LANGUAGE}),
    "driver.cluster.session": frozenset({"distributed", "driver.", *LANGUAGE}),
    "driver.cluster.tasks": frozenset({"distributed", "driver.", *LANGUAGE}),
    "orchestrate": frozenset({"driver.", *LANGUAGE, *DRIVERS}),
}

EMPTY = ("driver", "driver/cluster", "schemas", "stage_build", "stage_extract")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(
    [ROOT / "orchestrate.py"]
    + [path for room in OURS if room != "orchestrate" for path in (ROOT / room).rglob("*.py")]
)
MODULES = [module_name(path) for path in FILES]


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands; modules of ours to the last part."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__", "find_spec"):
                yield node.lineno, str(node.args[0].value)


def rule(module: str) -> frozenset[str]:
    while module not in ALLOWED:
        module = module.rpartition(".")[0]
    return ALLOWED[module]


def top(module: str) -> str:
    return module.partition(".")[0]


def may_import(module: str, imported: str) -> bool:
    if imported.startswith("."):
        return False
    if top(imported) in STDLIB:
        return True
    return any(
        imported.startswith(name)
        if name.endswith(".")
        else imported == name or (top(name) not in OURS and imported.startswith(name + "."))
        for name in rule(module)
    )


# Read from the sources


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_imports_what_it_may(path):
    module = module_name(path)
    forbidden = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for line, imported in imports(path.read_text("utf-8"))
        if not may_import(module, imported)
    ]
    assert forbidden == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import h5py", ["h5py"]),
        ("def f():\n    import tensorflow as tf", ["tensorflow"]),
        ("from schemas import errors, graph", ["schemas.errors", "schemas.graph"]),
        ("from schemas.errors import UsageError", ["schemas.errors"]),
        ("from . import models", ["."]),
        ("import importlib\nimportlib.import_module('caffe')", ["importlib", "caffe"]),
        ("if TYPE_CHECKING:\n    from google import protobuf", ["google"]),
    ],
    ids=["plain", "in-function", "modules", "name", "relative", "by-name", "for-types"],
)
def test_every_form_of_import_is_seen(source, found):
    assert [module for _, module in imports(source)] == found


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("schemas.errors", "json", True),
        ("schemas.errors", "numpy", False),
        ("schemas.layers.pooling", "schemas.layers.axes", True),
        ("schemas.layers.pooling", "schemas.interchange", False),
        ("stage_extract.prototxt", "google.protobuf.descriptor_pb2", True),
        ("stage_extract.prototxt", "h5py", False),
        ("stage_extract.hdf5_weights", "h5py.h5d", True),
        ("stage_extract.network", "caffe", False),
        ("stage_build.build", "stage_extract.network", False),
        ("stage_build.build", "tensorflow", False),
        ("driver.batch", "schemas.graph", False),
        ("driver.batch", "schemas.errors", True),
        ("orchestrate", "yaml", False),
    ],
)
def test_the_table_means_what_it_says(module, imported, allowed):
    assert may_import(module, imported) is allowed


@pytest.mark.parametrize("room", EMPTY)
def test_the_init_of_a_room_is_empty(room):
    assert (ROOT / room / "__init__.py").read_bytes() == b""


def test_the_runtime_stands_alone():
    families = [
        path.stem
        for path in (ROOT / "stage_build" / "runtime").glob("*.py")
        if path.stem not in ("__init__", "base")
    ]
    source = caffe_layers.runtime_source(sorted(families))
    found = {top(module) for _, module in imports(source)}
    assert found - STDLIB == {"keras", "numpy", "tensorflow"}


def test_a_converted_net_stands_alone(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3, 9, 8)),
        nets.layer("LRN", "data", "norm"),
        nets.layer("InnerProduct", "norm", "ip", "inner_product_param { num_output: 4 }"),
    )
    folder = nets.package(content, tmp_path / "net")
    sources = sorted(folder.glob("*.py"))
    assert {path.stem for path in sources} == {"__init__", "__main__", "model", "caffe_layers"}
    for path in sources:
        found = {module for _, module in imports(path.read_text("ascii"))}
        foreign = {module for module in found if top(module) not in STDLIB}
        assert foreign <= {".", ".model", ".caffe_layers", "keras", "numpy", "tensorflow"}


# Tried in processes

TRY = """
import importlib, json, sys

root, modules, forbidden, allowed = json.loads(sys.argv[1])
sys.path.insert(0, root)
asked = []


def among(name, names):
    return any(name == n or name.startswith(n + ".") for n in names)


class Hook:
    @staticmethod
    def find_spec(name, path=None, target=None):
        known = name.split(".")[0] in sys.stdlib_module_names
        refused = not known and name not in allowed if allowed else among(name, forbidden)
        if refused:
            asked.append(name)
            raise ImportError(name + " is forbidden here", name=name)


present = [n for n in sys.modules if among(n, forbidden)]
sys.meta_path.insert(0, Hook)
for module in modules:
    importlib.import_module(module)
print(json.dumps(asked + present))
"""


def forbidden_imports(modules, forbidden=(), allowed=()):
    """What a new process that imports `modules` asks for although it is forbidden.

    Args:
        allowed: where given, all that is not of the standard library and not here is forbidden.
    """
    setting = json.dumps([str(ROOT), list(modules), list(forbidden), list(allowed)])
    ran = subprocess.run(
        [sys.executable, "-I", "-c", TRY, setting], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


STAGES = ("stage_build", "stage_extract")
FRAMEWORKS = ("caffe", "keras", "tensorflow", "torch")


def rooms_modules(*rooms: str) -> list[str]:
    return [m for m in MODULES if any(m == room or m.startswith(room + ".") for room in rooms)]


BUILD_WITHOUT_TENSORFLOW = [
    module
    for module in rooms_modules("stage_build")
    if not module.startswith(("stage_build.artefacts.", "stage_build.runtime."))
    and module not in ("stage_build.validation.classifier", "stage_build.validation.scoring")
]


@pytest.mark.parametrize("module", sorted(LANGUAGE))
def test_the_common_language_needs_python_alone(module):
    assert forbidden_imports([module], allowed=("schemas", *LANGUAGE)) == []


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            ["schemas.graph", "schemas.graph_json", *rooms_modules("schemas.layers")],
            ("driver", "google", "h5py", "schemas.interchange", *FRAMEWORKS, *STAGES),
        ),
        (["schemas.interchange"], ("driver", "google", "schemas.layers", *FRAMEWORKS, *STAGES)),
        (
            rooms_modules("stage_extract"),
            ("driver", "orchestrate", "rich", "stage_build", "typer", *FRAMEWORKS),
        ),
        (
            BUILD_WITHOUT_TENSORFLOW,
            ("driver", "google", "orchestrate", "rich", "stage_extract", "typer", *FRAMEWORKS),
        ),
        (
            rooms_modules("driver", "orchestrate"),
            ("google", "h5py", "numpy", "schemas.graph", "schemas.layers", *FRAMEWORKS, *STAGES),
        ),
    ],
    ids=["layers", "interchange", "stage_extract", "stage_build", "driver"],
)
def test_runs_without(modules, forbidden):
    assert len(modules) > 0
    assert forbidden_imports(modules, forbidden) == []


def test_the_hook_refuses():
    with pytest.raises(AssertionError, match="numpy is forbidden here"):
        forbidden_imports(["schemas.layers.axes"], forbidden=["numpy"])
