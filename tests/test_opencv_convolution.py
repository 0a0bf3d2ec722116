"""OpenCV's DNN module as a second reader of convolutions over one and three axes.

It takes one kernel_size for two axes, so that three are written for three. It has no
deconvolution but over two, and none of the forks' layers without a golden that convolve,
pool or unpool (Convolution3D, Pooling3D, UnPooling).
"""

from __future__ import annotations

import numpy as np
import pytest

from tests import caffe_bytes, prototxts
from tests.meanings import run

cv2 = pytest.importorskip("cv2")

SIZES = {1: (13,), 3: (5, 8, 7)}


@pytest.mark.parametrize(
    "axes, window",
    [
        (1, dict(kernel_size=[3], stride=[2], pad=[1], group=2)),
        (1, dict(kernel_size=[2], pad=[3], dilation=[4])),
        (3, dict(kernel_size=[2, 3, 1], stride=[1, 2, 3], pad=[1, 0, 2])),
        (3, dict(kernel_size=[2] * 3, group=2, stride=[2] * 3)),
        (3, dict(kernel_size=[2, 1, 3], dilation=[2] * 3, pad=[1] * 3)),
    ],
    ids=str,
)
def test_opencv_agrees(axes, window):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 6, *SIZES[axes]), np.float32)
    weight = rng.standard_normal(
        (4, 6 // window.get("group", 1), *window["kernel_size"]), np.float32
    )
    blobs = [weight, rng.standard_normal(4, np.float32)]
    (top,) = run("Convolution", dict(window, num_output=4), [x], blobs)
    fields = " ".join(f"{name}: {value}" for name, value in window.items())
    text = "\n".join(
        (
            prototxts.inputs(x=x.shape),
            prototxts.layer(
                "Convolution", "x", "y", f"convolution_param {{ num_output: 4 {fields} }}"
            ),
        )
    )
    model = caffe_bytes.layer("y", *map(caffe_bytes.blob, blobs))
    network = cv2.dnn.readNetFromCaffe(
        np.frombuffer(text.encode(), np.uint8), np.frombuffer(model, np.uint8)
    )
    network.setInput(x, "x")
    np.testing.assert_allclose(network.forward(), top, rtol=1e-5, atol=1e-5)
