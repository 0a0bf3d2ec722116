"""Functions of one number without a place in BVLC Caffe."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form
from tests.forms.activations import HUGE, X

UNIT = np.linspace(-1.25, 1.25, 12, dtype=np.float32).reshape(2, 3, 1, 2)
HALVES = np.array([-2.5, -1.5, -0.5, -0.25, 0, 0.5, 1.5, 2.5, 3.5, 1e9], np.float32).reshape(2, 5)

FORMS = [
    *(
        form("signs", type_, x=X)
        for type_ in ("Sqrt", "Square", "Sin", "Cos", "Cosine", "Atan", "Softplus", "Softsign")
    ),
    *(form("halves", type_, x=HALVES) for type_ in ("Ceil", "Floor", "Round")),
    *(form("far", type_, x=HUGE) for type_ in ("Square", "Atan", "Softplus", "Softsign")),
    form("unit", "Arccos", x=UNIT),
    form("unit", "HardTanh", x=UNIT),
    form("other-spelling", "HardTanH", shape=SHAPES[3]),
    form("parameters", "ScaledTanH", "scaled_tanh_param { alpha: 1.7 beta: 0.6 }", x=X),
]

SAVED = [
    Form(
        "unary",
        (
            nets.layer("Sin", "data", "sin"),
            nets.layer("Softplus", "sin", "softplus"),
            nets.layer("ScaledTanH", "softplus", "tanh", "scaled_tanh_param { alpha: 2 beta: 3 }"),
            nets.layer("Round", "data", "round"),
        ),
        dict(data=SHAPES[4]),
    )
]

FLAT = ["Rounded"]
