"""docs/layers.md says what the registries hold."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from schemas.layers import registry
from tests.paths import ROOT

spec = importlib.util.spec_from_file_location("layers_doc", ROOT / "tools" / "layers_doc.py")
layers_doc = importlib.util.module_from_spec(spec)
sys.modules["layers_doc"] = layers_doc
spec.loader.exec_module(layers_doc)


def test_the_page_is_up_to_date():
    text = (ROOT / "docs" / "layers.md").read_text("utf-8")
    assert text == layers_doc.page(), "run `make docs`"


@pytest.mark.parametrize("key", sorted(registry.registered()), ids="-".join)
def test_every_meaning_says_what_it_is(key):
    described = layers_doc._described(registry.registered()[key])
    assert len(described) > 10
    assert not described.startswith(f"{registry.registered()[key].__name__}("), "no docstring"
