"""docs/adding-a-layer.md shows code that is in the tree; its plug-in is run by test_plugins."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "adding-a-layer.md").read_text("utf-8")
IN_TREE, PLUGIN = PAGE.split("# Plug-ins\n")
BLOCKS = re.findall(r"```python\n(.*?)```", IN_TREE, re.DOTALL)
PLACES = (
    "schemas/layers/activations.py",
    "stage_build/lowering/activations.py",
    "stage_build/runtime/activations.py",
    "tests/forms/activations.py",
    "tests/test_meaning_activations.py",
)


SOURCES = {place: (ROOT / place).read_text("utf-8") for place in PLACES}


def shows(block, source):
    """Whether each line of the block is in the source, however deep."""
    return all(line.strip() in source for line in block.splitlines())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0].strip()[:40])
def test_what_is_shown_is_in_the_tree(block):
    assert any(shows(block, source) for source in SOURCES.values())


def test_every_place_is_shown():
    assert len(BLOCKS) >= len(PLACES)
    for place, source in SOURCES.items():
        assert any(shows(block, source) for block in BLOCKS), place


def test_what_a_meaning_can_say_is_there():
    registry = (ROOT / "schemas" / "layers" / "registry.py").read_text("utf-8")
    said = re.findall(r"`(\w+)(?:\(.*?\))?`", re.search(r"\| to say.*?\n\n", PAGE, re.DOTALL)[0])
    for name in said:
        assert re.search(rf"    def {name}\(|    {name}: ", registry), name
