"""The layers that this build alone has, by what its caffe_pb2 says of them."""

from __future__ import annotations

import numpy as np

TYPES = ("Mix",)  # that no other Caffe has


class OwnLayer:
    """A layer of one bottom and one top of the same shape, without weights."""

    role = "compute"

    def __init__(self, described):
        self._described = described

    def weight_shapes(self, bottoms):
        return []

    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def shares_memory(self, bottoms, tops):
        return False


class Mix(OwnLayer):
    """(scale x + the sum of the offsets) ** power, negated where the mode says so."""

    def forward(self, bottoms, weights, tops):
        parameters = self._described.mix_param
        value = np.float32(parameters.scale) * bottoms[0] + np.float32(sum(parameters.offset))
        value = value**parameters.curve.power
        return [-value if parameters.mode == parameters.NEGATED else value]


class CappedReLU(OwnLayer):
    """ReLU, and no more than the ceiling."""

    def forward(self, bottoms, weights, tops):
        return [np.clip(bottoms[0], 0, np.float32(self._described.relu_param.ceiling))]


def find(described):
    """The own layer that a LayerParameter asks for, or None."""
    if described.type == "Mix":
        return Mix(described)
    if described.type == "ReLU" and described.relu_param.HasField("ceiling"):
        return CappedReLU(described)
    return None
