"""Reshape's pixelshuffler, and views of rows whose number the data tell; the other views stand in
test_runtime_layers."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form, form

KEPT = Form(
    "views-of-kept-rows",
    (
        nets.layer("Filter", "data keep", "kept"),
        nets.layer("Flatten", "kept", "flat"),
        nets.layer("Reshape", "flat", "images", "reshape_param { shape { dim: [0, 5, -1, 3] } }"),
        nets.layer("Flatten", "images", "rows", "flatten_param { axis: 2 }"),
    ),
    {"data": (4, 3, 5, 7), "keep": (4,)},
    {"keep": np.array([1, 0, 0, 1], np.float32)},
)

FORMS = [
    KEPT,
    form("pixels-2", "Reshape", "reshape_param { pixelshuffler: 2 }", (2, 12, 5, 7)),
    form("pixels-3", "Reshape", "reshape_param { pixelshuffler: 3 axis: 2 }", (2, 9, 4, 5)),
    form("pixels-1", "Reshape", "reshape_param { pixelshuffler: 1 shape { dim: 0 dim: -1 } }"),
]

SAVED = [
    Form(
        "views",
        (nets.layer("Reshape", "data", "out", "reshape_param { pixelshuffler: 2 }"),),
        {"data": (2, 12, 5, 7)},
    ),
]
