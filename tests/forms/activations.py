"""Activations beside those of test_runtime_layers."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form

X = np.array([-3, -1.5, -1, -0.5, -0.125, 0, 0.25, 0.5, 1, 2, 3, 7], np.float32).reshape(2, 3, 1, 2)
HUGE = np.array([-1e4, -90, -20, -1e-6, 0, 1e-6, 1, 20, 90, 1e4], np.float32).reshape(2, 5)
NAN = np.where(X == 1, np.float32(np.nan), X)

FORMS = [
    form("default", "Swish"),
    form("beta", "Swish", "swish_param { beta: 0.3 }", x=X),
    form("negative-beta", "Swish", "swish_param { beta: -2 }"),
    form("far", "Swish", x=HUGE),
    form("beta-far", "Swish", "swish_param { beta: 1.5 }", x=HUGE),
    form("rank-5", "Swish", shape=SHAPES[5]),
    form("default", "Clip", "clip_param { min: -0.5 max: 1 }", x=X),
    form("min-over-max", "Clip", "clip_param { min: 2 max: -1 }", x=X),
    form("rank-1", "Clip", "clip_param { min: 0 max: 0.25 }", SHAPES[1]),
    form("default", "Threshold", x=X),
    form("of-its-own-value", "Threshold", "threshold_param { threshold: 0.25 }", x=X),
    form("rank-3", "Threshold", "threshold_param { threshold: -1 }", SHAPES[3]),
    form("relu6", "ReLU", "relu_param { relu6: true }", x=X),
    form("relu6-off", "ReLU", "relu_param { relu6: false }", x=NAN),
    form("maximum", "ReLU", "relu_param { negative_slope: 0.3 maximum: 1.5 }", x=X),
    form("minimum", "ReLU", "relu_param { negative_slope: 2 minimum: -3 }", x=X),
    form("all-limits", "ReLU", "relu_param { relu6: true maximum: 6.5 minimum: 0.75 }", x=NAN),
]

SAVED = [
    Form(
        "activations",
        (
            nets.layer("Swish", "data", "swish", "swish_param { beta: 0.3 }"),
            nets.layer("Clip", "swish", "clip", "clip_param { min: -0.3 max: 0.7 }"),
            nets.layer("Threshold", "data", "threshold", "threshold_param { threshold: 0.2 }"),
            nets.layer(
                "Dropout",
                "swish",
                "unscaled",
                "dropout_param { dropout_ratio: 0.4 scale_train: false }",
            ),
            nets.layer(
                "ReLU",
                "clip",
                "limited",
                "relu_param { negative_slope: 0.5 maximum: 0.6 minimum: -0.1 }",
            ),
        ),
        dict(data=SHAPES[4]),
    )
]

FLAT = ["Threshold"]
