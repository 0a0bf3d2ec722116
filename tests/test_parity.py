"""Meaning, lowering and runtime of a layer mirror each other, family by family."""

from __future__ import annotations

import ast

import pytest

from schemas.layers import registry as meanings
from stage_build import caffe_layers
from stage_build.lowering import registry as lowerings
from tests.paths import ROOT


def computes(cls: type[meanings.Meaning]) -> bool:
    """Whether the layer may be in a converted net: a loss is where it is kept; what is always
    refused has no forward pass."""
    return cls.role in ("compute", "loss") and cls.forward is not meanings.Meaning.forward


COMPUTED = {key: cls for key, cls in meanings.registered().items() if computes(cls)}
LOWERED = lowerings.registered()


def family(registered) -> str:
    """The module that a meaning or a lowering stands in."""
    return registered.__module__.rpartition(".")[2]


FAMILIES = sorted({family(function) for function in LOWERED.values()})


def methods(name: str) -> dict[str, set[str]]:
    """Public method -> its parameters, of the calls of a runtime module."""
    tree = ast.parse((ROOT / "stage_build" / "runtime" / f"{name}.py").read_text("utf-8"))
    (calls,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == caffe_layers.calls_name(name)
    )
    return {
        node.name: {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
        for node in calls.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def calls(name: str) -> list[ast.Call]:
    """Every `Call(...)` in a lowering module."""
    tree = ast.parse((ROOT / "stage_build" / "lowering" / f"{name}.py").read_text("utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Call"
    ]


@pytest.mark.parametrize("key", sorted(COMPUTED), ids="-".join)
def test_a_layer_that_computes_is_lowered_in_its_family(key):
    assert key in LOWERED, "it has a meaning and no lowering"
    assert family(LOWERED[key]) == family(COMPUTED[key])


@pytest.mark.parametrize("key", sorted(LOWERED), ids="-".join)
def test_a_lowered_layer_has_a_meaning(key):
    assert key in COMPUTED, "it has a lowering and no meaning that computes"


@pytest.mark.parametrize("name", FAMILIES)
def test_lowerings_call_what_the_runtime_has(name):
    known = methods(name)
    for call in calls(name):
        assert isinstance(call.args[0], ast.Constant), f"line {call.lineno}: no literal name"
        method = call.args[0].value
        assert method in known, f"line {call.lineno}: the runtime has no {method!r}"
        written = call.args[1] if len(call.args) > 1 else None
        if isinstance(written, ast.Dict):
            named = {key.value for key in written.keys if isinstance(key, ast.Constant)}
            assert {key for key in named if isinstance(key, str)} <= known[method]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_runtime_has_what_lowerings_call(name):
    called = {call.args[0].value for call in calls(name) if isinstance(call.args[0], ast.Constant)}
    assert set(methods(name)) <= called


def test_every_runtime_family_is_lowered():
    modules = {path.stem for path in (ROOT / "stage_build" / "runtime").glob("*.py")}
    assert modules - {"__init__", "base", "images"} == set(FAMILIES)
