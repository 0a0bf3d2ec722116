"""Layers that pick rows by number."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form

RNG = np.random.default_rng(3)


def numbers(below, *shape):
    return RNG.integers(below, size=shape).astype(np.float32)


def embed(id_, values, parameters=""):
    text = nets.layer(
        "Embed", "data", "out", f"embed_param {{ input_dim: 11 num_output: 5 {parameters} }}"
    )
    return Form(f"Embed-{id_}", (text,), {"data": values.shape}, {"data": values})


def picked(type_, id_, shape, second, values):
    text = nets.layer(type_, "data rows")
    values = np.array(values, np.float32).reshape(second)
    return Form(f"{type_}-{id_}", (text,), {"data": shape, "rows": second}, {"rows": values})


def kept(id_, shape, values, selector=(4,)):
    return picked("Filter", id_, shape, selector, values)


SEVERAL = Form(
    "Filter-several",
    (nets.layer("Filter", "data labels rows", "a b", name="filter"),),
    {"data": (4, 3, 5, 7), "labels": (4,), "rows": (4,)},
    {"rows": np.array([0, -1, 0.5, 0], np.float32)},
)

FORMS = [
    embed("rank-1", numbers(11, 6)),
    embed("rank-2", numbers(11, 2, 7)),
    embed("rank-3", numbers(11, 2, 7, 3)),
    embed("rank-4", numbers(11, 2, 7, 3, 4)),
    embed("no-bias", numbers(11, 2, 7), "bias_term: false"),
    embed("cut-off", numbers(11, 2, 7) + np.float32(0.75)),
    picked("BatchReindex", "again-and-more", (4, 3, 5, 7), (6,), [3, 0, 0, 2, 1, 3]),
    picked("BatchReindex", "fewer", (4, 3), (2,), [1.5, 2]),
    picked("BatchReindex", "rank-1", (4,), (3,), [2, 2, 0]),
    kept("some", (4, 3, 5, 7), [1, 0, -2, 0]),
    kept("all", (4, 3), [1, 1, 1, 1]),
    kept("rank-5", (4, 3, 5, 7, 2), [0, 0, 1, 1]),
    kept("selector-rank-4", (4, 3), [0, 1, 0, 1], (4, 1, 1, 1)),
    SEVERAL,
]

SAVED = [
    Form(
        "gathering",
        (
            nets.layer("Embed", "ids", "words", "embed_param { input_dim: 11 num_output: 6 }"),
            nets.layer("BatchReindex", "words order", "again"),
            nets.layer("Filter", "again keep", "kept"),
        ),
        {"ids": (4, 3), "order": (5,), "keep": (5,)},
        {
            "ids": numbers(11, 4, 3),
            "order": np.array([3, 1, 0, 2, 2], np.float32),
            "keep": np.array([1, 0, 0, 1, 1], np.float32),
        },
    ),
]

MOVED = [("Embed", 0), ("BatchReindex", 1), ("Filter", 1)]
