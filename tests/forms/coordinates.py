"""Layers that tell each place where it is."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form

FORMS = [
    form("default", "Slope"),
    form("one-pixel", "Slope", shape=(2, 3, 1, 1)),
]

SAVED = [Form("coordinates", (nets.layer("Slope", "data", "slope"),), dict(data=SHAPES[4]))]
