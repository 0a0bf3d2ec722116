"""Tile; the other layers of this family stand in test_runtime_layers."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form


def tile(rank, axis, tiles):
    return form(
        f"rank-{rank}-axis-{axis}-{tiles}",
        "Tile",
        f"tile_param {{ axis: {axis} tiles: {tiles} }}",
        SHAPES[rank],
    )


FORMS = [
    *(tile(rank, axis, 3) for rank in SHAPES for axis in range(rank)),
    tile(4, -2, 2),
    tile(4, 1, 1),
    form("default", "Tile", "tile_param { tiles: 4 }"),
]

SAVED = [
    Form(
        "shaping",
        (nets.layer("Tile", "data", "out", "tile_param { axis: 2 tiles: 3 }"),),
        {"data": (2, 3, 5, 7)},
    ),
]
