"""Wrote tests/data/interchange_v1.h5, which every later version must read. Not to be run again."""

from pathlib import Path

import numpy as np

from schemas.graph import Blob, Layer, Net
from schemas.interchange import Interchange, Reference, Source, write


def content() -> Interchange:
    """A small net with an in-place layer, weights, a reference and preprocessing."""
    net = Net(
        name="tiny é",
        layers=(
            Layer(
                "conv/1",
                "Convolution",
                ("data",),
                ("c@conv/1",),
                {"convolution_param": {"num_output": 2, "kernel_size": [1]}},
                ("conv/1/0", "conv/1/1"),
                line=3,
            ),
            Layer(
                "relu",
                "ReLU",
                ("c@conv/1",),
                ("c",),
                {"relu_param": {"negative_slope": 0.5}},
                line=9,
            ),
        ),
        blobs={
            "data": Blob("data", "data", (4, 3, 5, 6), 0),
            "c@conv/1": Blob("c@conv/1", "c", (4, 2, 5, 6), 0),
            "c": Blob("c", "c", (4, 2, 5, 6), 0),
        },
        names={"data": "data", "c": "c"},
        inputs=("data",),
        outputs=("c",),
    )
    x = np.arange(90, dtype=np.float32).reshape(1, 3, 5, 6) - 40
    weight = np.array([[1, 0, -1], [0.5, 2, 0]], np.float32).reshape(2, 3, 1, 1)
    bias = np.array([1, -2], np.float32)
    c = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x) + bias.reshape(1, 2, 1, 1)
    c = c.astype(np.float32)
    after = np.where(c > 0, c, c * np.float32(0.5))
    return Interchange(
        net=net,
        weights={"conv/1/0": weight, "conv/1/1": bias},
        sources=(Source("prototxt", "tiny.prototxt", 321, "ab" * 32),),
        reference=Reference("numpy", 7, {"data": x}, {"data": x, "c@conv/1": c, "c": after}),
        preprocessing={"data": {"scale": 0.25, "mean_value": [104.0, 117.0, 123.0]}},
        notes=("a note",),
    )


if __name__ == "__main__":
    write(Path(__file__).parent / "data" / "interchange_v1.h5", content())
