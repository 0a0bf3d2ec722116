"""Small nets of every layer, a module a family: tried, saved and trained by test_runtime_layers.

A family's module has some of

    FORMS: a net of one layer each, the generated class of which is held to the layer's meaning.
    SAVED: nets that between them hold each Keras layer of the family's runtime; those are saved,
        loaded again and differentiated.
    FLAT: names of the Keras layers whose gradient is nothing by nature.
    MOVED: name of a Keras layer -> how many of its first inputs a gradient reaches; of the others,
        which hold row numbers or are asked for their size, 0 and 1 are good values.

Batch, channels, height and width all differ, so that no two axes can be confused.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.interchange import Interchange
from tests import nets

SHAPES = {
    1: (6,),
    2: (2, 15),
    3: (2, 3, 5),
    4: (2, 3, 5, 7),
    5: (2, 3, 5, 7, 4),
}


@dataclass(frozen=True)
class Form:
    """A net to be tried.

    Attributes:
        layers: the prototxt's layers after the inputs.
        inputs: input name -> shape.
        values: input name -> values, in place of normal random ones.
        weights: parameter key (``layer/0``) -> values, in place of normal random ones.
        options: further fields of `network.Options`.
    """

    id: str
    layers: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def content(self) -> Interchange:
        """What stage 1 hands on, with NumPy's forward pass."""
        with np.errstate(all="ignore"):
            return nets.net(
                nets.inputs(**self.inputs),
                *self.layers,
                given=self.values,
                weights=self.weights,
                **self.options,
            )


def form(id_, type_, parameters="", shape=SHAPES[4], bottoms="data", tops="out", like=None, x=None):
    """One layer; `like` is the shape of a second input, `x` are the values of the first."""
    shape = shape if x is None else x.shape
    inputs = {"data": shape} if like is None else {"data": shape, "like": like}
    text = nets.layer(type_, bottoms if like is None else "data like", tops, parameters)
    return Form(f"{type_}-{id_}", (text,), inputs, {} if x is None else {"data": x})


def families(name: str) -> list[Any]:
    """Everything that the families' modules list under `name`."""
    modules = [
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    ]
    return [item for module in modules for item in getattr(module, name, ())]
