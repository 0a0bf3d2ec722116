"""What is known and refused is in tests/known_gaps.py, all of it, and no golden needs it."""

from __future__ import annotations

import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry
from tests import goldens
from tests.known_gaps import GAPS


def refused_bare(type_, dialect):
    """Whether a layer of nothing but its type is refused as unsupported."""
    try:
        registry.meaning(Layer("bare", type_, ("a",), ("b",), {}, dialect=dialect))
    except UnsupportedModel:
        return True
    except MalformedModel:
        pass
    return False


@pytest.mark.parametrize("key", sorted(registry.registered()), ids="-".join)
def test_what_is_refused_is_explained(key):
    assert refused_bare(*key) == (key in GAPS)


def test_every_gap_is_known():
    assert set(GAPS) <= set(registry.registered())
    assert all(".c" in source for source in GAPS.values())


def test_no_golden_is_a_gap():
    types = {
        layer.fields["type"]
        for case in goldens.cases(*goldens.SETS)
        for layer in case.message().fields["layer"]
    }
    for type_ in types:
        assert any((type_, dialect) not in GAPS for dialect in registry.dialects(type_)), type_
