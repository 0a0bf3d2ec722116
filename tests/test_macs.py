"""Multiply-accumulates: counted by a pass over ones, and worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.layers import registry
from tests import meanings

CONVOLUTION = {"num_output": 6, "bias_term": False}

# Of ones alone and without padding, a sum of n products is n: the sum of the tops is their number.
COUNTED = [
    ("Convolution", {**CONVOLUTION, "kernel_size": [3]}, [(2, 4, 7, 9)], ""),
    ("Convolution", {**CONVOLUTION, "kernel_size": [2], "group": 2}, [(3, 4, 5, 6)], ""),
    (
        "Convolution",
        {**CONVOLUTION, "kernel_h": 3, "kernel_w": 1, "stride": [2], "dilation": [2]},
        [(2, 4, 9, 7)],
        "",
    ),
    ("Convolution", {**CONVOLUTION, "kernel_size": [2, 3, 1]}, [(1, 3, 4, 5, 6)], ""),
    ("Convolution", {**CONVOLUTION, "kernel_size": [3]}, [(2, 4, 7, 9)] * 2, ""),
    ("Deconvolution", {**CONVOLUTION, "kernel_size": [3], "stride": [2]}, [(2, 4, 5, 3)], ""),
    ("Deconvolution", {**CONVOLUTION, "kernel_size": [4], "group": 2}, [(2, 4, 5, 3)], ""),
    ("ConvolutionDepthwise", {**CONVOLUTION, "kernel_size": [3]}, [(2, 4, 7, 9)], "depthwise"),
    (
        "Convolution3D",
        {**CONVOLUTION, "kernel_size": 2, "kernel_depth": 3},
        [(2, 3, 5, 6, 7)],
        "c3d",
    ),
    ("InnerProduct", {"num_output": 5, "bias_term": False}, [(2, 3, 4, 6)], ""),
    ("InnerProduct", {"num_output": 5, "bias_term": False, "axis": 2}, [(2, 3, 4, 6)], ""),
    ("Local", {**CONVOLUTION, "kernel_size": 3, "stride": 2}, [(2, 4, 7, 9)], "happynear"),
]


@pytest.mark.parametrize(
    ("type_", "param", "shapes", "dialect"),
    COUNTED,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(COUNTED)],
)
def test_it_is_the_number_of_products(type_, param, shapes, dialect):
    ones = [np.ones(shape, np.float32) for shape in shapes]
    made, weights, tops = meanings.infer(type_, param, shapes, len(shapes), dialect)
    found = made.forward(ones, [np.ones(shape, np.float32) for shape in weights], len(tops))
    assert made.macs(shapes, tops) == sum(int(top.sum()) for top in found)


@pytest.mark.parametrize(
    ("type_", "param", "shapes", "tops", "dialect", "macs"),
    [
        # taps in the padding count: 5 * 7 places, 6 outputs, 4 channels of 3 x 3
        ("Convolution", {"num_output": 6, "kernel_size": [3], "pad": [1]}, [(1, 4, 5, 7)], 1, "",
         5 * 7 * 6 * 4 * 9),
        # each of 2 rows to each of 5 centres over 12 values
        ("InnerDistance", {"num_output": 5}, [(2, 3, 4)], 1, "happynear", 2 * 5 * 12),
        ("InnerDistance", {"num_output": 5, "distance_type": "L1"}, [(2, 3, 4)], 1, "happynear", 0),
        # 4 gates of 5 units: from 6 values and from 5 states, at each of 3 steps of 2 sequences
        ("LSTM", {"num_output": 5}, [(3, 2, 6), (3, 2)], 1, "", 3 * 2 * 4 * 5 * (6 + 5)),
        # and from 7 static values, once for each sequence
        ("LSTM", {"num_output": 5}, [(3, 2, 6), (3, 2), (2, 7)], 1, "",
         3 * 2 * 4 * 5 * (6 + 5) + 2 * 4 * 5 * 7),
        ("RNN", {"num_output": 5}, [(3, 2, 6), (3, 2)], 1, "", 3 * 2 * 5 * (6 + 5 + 5)),
        ("Lstm", {"num_output": 5}, [(3, 6)], 1, "junhyukoh", 3 * 4 * 5 * (6 + 5)),
        # 9 displacements at 3 * 4 places, a window of one place over 2 channels
        ("Correlation", {"kernel_size": 1, "max_displacement": 1, "pad": 1},
         [(1, 2, 3, 4)] * 2, 1, "flownet2", 9 * 3 * 4 * 2),
        ("Correlation",
         {"kernel_size": 1, "max_displacement": 1, "pad": 1, "correlation_type": "SUBTRACT"},
         [(1, 2, 3, 4)] * 2, 1, "flownet2", 0),
        ("ReLU", {}, [(2, 3, 4, 5)], 1, "", 0),
        ("Pooling", {"kernel_size": 2, "stride": 2}, [(2, 3, 4, 6)], 1, "", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_worked_out_by_hand(type_, param, shapes, tops, dialect, macs):
    made, _, found = meanings.infer(type_, param, shapes, tops, dialect)
    assert made.macs(shapes, found) == macs


# They scale, shift or pick by their weights, a value at a time.
BY_VALUE = {
    "BN",
    "BatchNorm",
    "Bias",
    "ChannelScale",
    "Embed",
    "MKLBatchNorm",
    "Normalize",
    "PReLU",
    "Parameter",
    "Scale",
}


def test_every_other_layer_with_weights_says_how_many():
    silent = {
        type_
        for (type_, _), cls in registry.registered().items()
        if cls.weight_shapes is not registry.Meaning.weight_shapes
        and cls.macs is registry.Meaning.macs
    }
    assert silent == BY_VALUE
