"""Convolution with weights of its own for each place."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form


def local(id_, parameters):
    return form(id_, "Local", f"local_param {{ num_output: 4 {parameters} }}", SHAPES[4])


FORMS = [
    local("plain", "kernel_size: 3"),
    local("all", "kernel_size: 2 stride: 3 pad: 1 bias_term: false"),
    local("window-over-image", "kernel_size: 6 stride: 5"),
]

SAVED = [
    Form(
        "local",
        (nets.layer("Local", "data", "local", "local_param { num_output: 4 kernel_size: 3 }"),),
        dict(data=SHAPES[4]),
    )
]
