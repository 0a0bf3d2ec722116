"""OpenCV's DNN module as a second reader of Interp, Resample, FlowWarp and Correlation.

It takes of Interp's parameters `height`, `width` and `zoom_factor` alone (`shrink_factor` and the
pads change nothing there), of Resample's types NEAREST alone gives FlowNet2's numbers, and its
Accum does not align corners as FlowNet2's does: those are held to the forks' own numbers only.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests import nets
from tests.meanings import run

cv2 = pytest.importorskip("cv2")

RNG = np.random.default_rng(4)
FIRST, SECOND = RNG.standard_normal((2, 2, 3, 8, 11)).astype(np.float32)


def agree(type_, message, param, dialect, *bottoms):
    names = [f"x{i}" for i in range(len(bottoms))]
    given = " ".join(f"{name}: {value}" for name, value in param.items())
    layer = nets.layer(type_, " ".join(names), "out", f"{message} {{ {given} }}")
    shapes = {name: bottom.shape for name, bottom in zip(names, bottoms, strict=True)}
    text = nets.inputs(**shapes) + "\n" + layer
    network = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    for name, bottom in zip(names, bottoms, strict=True):
        network.setInput(bottom, name)
    (top,) = run(type_, param, bottoms, dialect=dialect)
    np.testing.assert_allclose(network.forward(), top, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "param",
    [dict(height=5, width=20), dict(height=3, width=4), dict(zoom_factor=3)],
    ids=["up-and-down", "down", "zoom"],
)
def test_interp(param):
    agree("Interp", "interp_param", param, "pspnet", FIRST)


def test_resample_nearest():
    param = dict(height=16, width=22, type="NEAREST")
    agree("Resample", "resample_param", param, "flownet2", FIRST)


def test_flow_warp():
    flow = (3 * RNG.standard_normal((2, 2, 8, 11))).astype(np.float32)
    agree("FlowWarp", "flow_warp_param", {}, "flownet2", FIRST, flow)


@pytest.mark.parametrize(
    "param",
    [
        dict(kernel_size=1, max_displacement=2, pad=2),
        dict(kernel_size=3, max_displacement=4, pad=5, stride_1=2, stride_2=2),
        dict(kernel_size=5, max_displacement=3, pad=4, stride_1=3),
    ],
    ids=["plain", "strides", "window"],
)
def test_correlation(param):
    agree("Correlation", "correlation_param", param, "flownet2", FIRST, SECOND)
