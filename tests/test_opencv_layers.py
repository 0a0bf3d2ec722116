"""OpenCV's DNN module as an independent reader of the same prototxt and weights.

Every fork's type that OpenCV 4's Caffe importer reads (PriorBox and DetectionOutput are in
test_opencv_detection.py), and those of BVLC's that are worth a second opinion. One small net each.
What OpenCV reads in a way of its own stands in DIFFERENT, and is held to what is said of it.

Of BVLC's not here, for OpenCV cannot read them, though it knows the names: LSTM (wants h0 and c0
among the blobs) and Tile (wants ONNX's repeats); of forks' parameters: Eltwise's DIV and MIN and
Pooling's round_mode (not in its schema), Normalize with one scale for each channel across_spatial,
Interp with shrink_factor alone, Deconvolution with dilation (ignored, but the size differs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from schemas.layers import registry
from stage_extract import descriptors, reference
from tests import prototxts

cv2 = pytest.importorskip("cv2")

# Forks' types that OpenCV knows by name and that have no row here.
ELSEWHERE = {
    "PriorBox": "in test_opencv_detection.py",
    "DetectionOutput": "in test_opencv_detection.py",
    "Resize": "OpenCV's wants TensorFlow's parameters",
    "DataAugmentation": "a Scale in OpenCV; refused here",
}

SHAPE = (2, 6, 5, 7)


def normal(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = normal(*SHAPE)
Y, Z = normal(*SHAPE, seed=4), normal(*SHAPE, seed=5)
WIDE = np.linspace(-6, 6, 420, dtype=np.float32).reshape(SHAPE)
PER_CHANNEL = tuple(normal(6, seed=seed) for seed in range(5))


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        theirs: the parameters as OpenCV spells them, where it has names of its own.
        type_there: OpenCV's name of the type, where it has one of its own.
        as_if: what OpenCV makes of the parameters, where it errs: ours that give its numbers.
        dialect: the one to be asked for.
        exact: whether the values are moved and no more.
    """

    type: str
    parameters: str
    bottoms: Mapping[str, np.ndarray]
    weights: Sequence[np.ndarray] = ()
    tops: int = 1
    theirs: str | None = None
    type_there: str | None = None
    as_if: str | None = None
    dialect: str = ""
    exact: bool = False

    @property
    def id(self) -> str:
        shown = self.parameters if self.as_if is None else f"{self.parameters} as {self.as_if}"
        return f"{self.type} {re.sub(r'[^A-Za-z0-9_.]+', ' ', shown)}".strip()


def row(
    type_: str,
    parameters: str = "",
    x: np.ndarray = X,
    like: np.ndarray | None = None,
    **more: object,
) -> Row:
    """A row of one bottom, or of two."""
    return Row(type_, parameters, {"x": x} if like is None else {"x": x, "like": like}, **more)


def text(row: Row, type_: str, parameters: str) -> str:
    shapes = {name: value.shape for name, value in row.bottoms.items()}
    tops = [f"top{place}" for place in range(row.tops)]
    layer = prototxts.layer(type_, list(row.bottoms), tops, parameters, name="layer")
    return prototxts.inputs(**shapes) + "\n" + layer


def ours(row: Row, parameters: str) -> list[np.ndarray]:
    options = {"dialects": (row.dialect,)} if row.dialect else {}
    built = prototxts.build(text(row, row.type, parameters), **options)
    weights = {f"layer/{place}": blob for place, blob in enumerate(row.weights)}
    keys = {blob.name: key for key, blob in built.net.blobs.items()}
    given = {keys[name]: value for name, value in row.bottoms.items()}
    values = reference.forward(built.net, weights, given)
    return [values[keys[f"top{place}"]] for place in range(row.tops)]


def opencv(row: Row) -> list[np.ndarray]:
    model = descriptors.message_class("NetParameter")()
    stored = model.layer.add(name="layer")
    for weight in row.weights:
        blob = stored.blobs.add(data=weight.reshape(-1).tolist())
        blob.shape.dim.extend(weight.shape or (1,))
    parameters = row.parameters if row.theirs is None else row.theirs
    parts = [text(row, row.type_there or row.type, parameters).encode(), model.SerializeToString()]
    network = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8) for part in parts))
    for name, value in row.bottoms.items():
        network.setInput(value, name)
    (tops,) = network.forwardAndRetrieve(network.getLayerNames()[-1:])
    return list(tops[: row.tops])


def agree(theirs: Sequence[np.ndarray], expected: Sequence[np.ndarray], exact: bool) -> bool:
    """Within 1e-5 of the greatest value, or equal."""
    limits = [0 if exact else 1e-5 * np.abs(top).max() + 1e-6 for top in expected]
    return [top.shape for top in theirs] == [top.shape for top in expected] and all(
        np.abs(a - b).max() <= limit for a, b, limit in zip(theirs, expected, limits, strict=True)
    )


def interp(parameters: str, **more: object) -> Row:
    if "as_if" in more:
        more["as_if"] = f"interp_param {{ {more['as_if']} }}"
    return row("Interp", f"interp_param {{ {parameters} }}", normal(2, 3, 5, 7), **more)


def correlation(parameters: str, **more: object) -> Row:
    if "as_if" in more:
        more["as_if"] = f"correlation_param {{ {more['as_if']} }}"
    images = normal(2, 4, 8, 9), normal(2, 4, 8, 9, seed=4)
    return row("Correlation", f"correlation_param {{ {parameters} }}", *images, **more)


def accumulated(parameters: str, *shapes: tuple[int, ...], **more: object) -> Row:
    """Of one image: of more, OpenCV takes the second for further channels."""
    bottoms = {f"x{place}": normal(1, *shape, seed=place) for place, shape in enumerate(shapes)}
    return Row("Accum", f"accum_param {{ {parameters} }}", bottoms, **more)


def resampled(parameters: str) -> Row:
    return row("Resample", f"resample_param {{ {parameters} }}", normal(2, 3, 5, 7))


# image, x1, y1, x2, y2: whole, small, a pixel, reversed, half outside, beside.
BOXES = np.array(
    [
        [0, 0, 0, 43, 31],
        [1, 7.5, 3, 21, 18],
        [1, 8, 8, 8, 8],
        [0, 30, 20, 10, 5],
        [1, -20, 10, 30, 60],
        [0, 90, 90, 120, 99],
    ],
    np.float32,
)
MAPS = normal(2, 12, 8, 11)

FORKS = [
    row("ReLU6", x=4 * X),
    row("Mish", x=4 * X),
    row("HardSwish", x=4 * X),
    row("HardSigmoid", x=4 * X),
    row("HardSigmoid", "hard_sigmoid_param { alpha: 0.3 beta: 0.4 }", 4 * X),
    row("Swish", x=4 * X),
    row("Sqrt", x=np.abs(X)),
    row("Sin", x=WIDE),
    row("Cos", x=WIDE),
    row("Cosine", type_there="Cos", x=WIDE),
    row("Arccos", type_there="Acos", x=WIDE / 6),
    row("Atan", x=WIDE),
    row("Ceil", x=WIDE, exact=True),
    row("Floor", x=WIDE, exact=True),
    row("Round", x=np.arange(-210, 210, dtype=np.float32).reshape(SHAPE) / 2, exact=True),
    # From 89 on OpenCV gives x, where Synopsys's exp overflows.
    row("Softplus", x=WIDE),
    row("Softsign", x=WIDE),
    row("Permute", "permute_param { order: [0, 2, 3, 1] }", exact=True),
    row("Permute", "permute_param { order: [2, 1, 3, 0] }", exact=True),
    row("ShuffleChannel", exact=True),
    row("ShuffleChannel", "shuffle_channel_param { group: 3 }", exact=True),
    row(
        "ChannelShuffle",
        "shuffle_channel_param { group: 2 }",
        type_there="ShuffleChannel",
        dialect="shufflenet",
        exact=True,
    ),
    row("Reorg", "reorg_param { stride: 2 }", normal(2, 8, 4, 6), exact=True),
    # Its name of the stride is another; that of caffe-yolov2 it does not read, and takes 2.
    row(
        "Reorg",
        "reorg_param { stride: 3 }",
        normal(2, 18, 6, 9),
        theirs="reorg_param { reorg_stride: 3 }",
        exact=True,
    ),
    row("Normalize", "norm_param { eps: 0.5 }", weights=[np.float32(3)]),
    row("Normalize", "norm_param { across_spatial: false }", weights=[np.float32(3)]),
    row(
        "Normalize",
        "norm_param { across_spatial: false channel_shared: false eps: 0.1 }",
        weights=PER_CHANNEL[:1],
    ),
    interp("height: 9 width: 4"),
    interp("height: 1 width: 1"),
    interp("height: 5 width: 7"),
    interp("zoom_factor: 3"),
    interp("height: 9 width: 4 zoom_factor: 2"),
    row("FlowWarp", "", X, 2 * normal(2, 2, 5, 7)),
    correlation("pad: 3 kernel_size: 1 max_displacement: 3"),
    correlation("pad: 4 kernel_size: 3 max_displacement: 4 stride_1: 2 stride_2: 2"),
    accumulated("", (3, 4, 6), (2, 7, 9)),
    accumulated("top_height: 9 top_width: 11", (3, 4, 6), (2, 7, 9)),
    accumulated("have_reference: true", (3, 4, 6), (2, 5, 7), (1, 8, 9)),
    # Not LINEAR, which OpenCV takes at i * in / out and not about the pixels' middles.
    resampled("type: NEAREST height: 10 width: 14"),
    resampled("type: NEAREST height: 5 width: 7 antialias: false"),
    row(
        "ConvolutionDepthwise",
        "convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 }",
        weights=[normal(6, 1, 3, 3), normal(6)],
    ),
    row(
        "ConvolutionDepthwise",
        "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 "
        "pad_h: 1 pad_w: 0 dilation: 2 bias_term: false }",
        weights=[normal(6, 1, 3, 2)],
    ),
    row(
        "ROIPooling",
        "roi_pooling_param { pooled_h: 3 pooled_w: 5 spatial_scale: 0.25 }",
        MAPS,
        BOXES,
    ),
    row(
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.25 }",
        MAPS,
        BOXES,
    ),
    row(
        "BatchNorm",
        "batch_norm_param { eps: 0.01 scale_bias: true }",
        weights=[PER_CHANNEL[0], np.abs(PER_CHANNEL[1]), np.float32([2]), *PER_CHANNEL[3:]],
        dialect="nvidia",
    ),
    row("Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }"),
    row("ReLU", "relu_param { negative_slope: 0.1 }"),
    row("Pooling", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }"),
    row("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 ceil_mode: false }"),
    row("MVN", "mvn_param { eps: 0.5 add_eps_before_sqrt: true }"),
]
BVLC = [
    row("MVN"),
    row("MVN", "mvn_param { normalize_variance: false }"),
    row("MVN", "mvn_param { across_channels: true }"),
    row("Crop", "crop_param { axis: 1 offset: [2, 1, 0] }", X, normal(7, 3, 2, 4), exact=True),
    row("Crop", "crop_param { offset: 1 }", X, normal(7, 3, 2, 4), exact=True),
    row("LRN", "lrn_param { local_size: 3 alpha: 3 beta: 0.6 }"),
    row("LRN", "lrn_param { local_size: 3 alpha: 3 beta: 0.6 norm_region: WITHIN_CHANNEL }"),
    row("ELU", "elu_param { alpha: 0.5 }"),
    row("BNLL"),
    row("Power", "power_param { power: 2 scale: 3 shift: 0.5 }"),
    row("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.1 }"),
    row("Log", x=np.abs(X)),
    row("Softmax", "softmax_param { axis: 2 }"),
    row("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }"),
    row("Pooling", "pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 "
        "pad_h: 1 pad_w: 0 }"),
    row("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    row(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2 }",
        normal(2, 6, 9, 11),
        weights=[normal(4, 3, 3, 3), normal(4)],
    ),
    row(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 }",
        normal(2, 6, 9),
        weights=[normal(4, 6, 3), normal(4)],
    ),
    row(
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 4 stride_h: 2 stride_w: 3 "
        "pad_h: 1 pad_w: 2 group: 2 }",
        weights=[normal(6, 2, 3, 4), normal(4)],
    ),
    row(
        "InnerProduct",
        "inner_product_param { num_output: 4 axis: 2 }",
        normal(2, 3, 5, 7),
        weights=[normal(4, 35), normal(4)],
    ),
    row(
        "BatchNorm",
        "batch_norm_param { eps: 0.01 }",
        weights=[PER_CHANNEL[0], np.abs(PER_CHANNEL[1]), np.float32([2])],
    ),
    row("Scale", "scale_param { bias_term: true }", weights=PER_CHANNEL[:2]),
    row("Scale", "scale_param { axis: 0 }", X, normal(2, 6)),
    row("PReLU", weights=PER_CHANNEL[:1]),
    Row("Eltwise", "eltwise_param { coeff: [2, -1, 0.5] }", {"x": X, "y": Y, "z": Z}),
    Row("Eltwise", "eltwise_param { operation: PROD }", {"x": X, "y": Y, "z": Z}),
    Row("Eltwise", "eltwise_param { operation: MAX }", {"x": X, "y": Y, "z": Z}, exact=True),
    row("Concat", "concat_param { axis: 2 }", X, normal(2, 6, 3, 7), exact=True),
    row("Slice", "slice_param { slice_point: [1, 4] }", tops=3, exact=True),
    row("Flatten", "flatten_param { axis: 2 }", exact=True),
    row("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }", exact=True),
]  # fmt: skip

# What OpenCV makes of the parameters is not what Caffe and the forks do.
DIFFERENT = [
    # It ignores `k`.
    row("LRN", "lrn_param { alpha: 3 k: 2 }", as_if="lrn_param { alpha: 3 }"),
    # It always adds `eps` under the root, as Synopsys does where it is told to.
    row(
        "MVN",
        "mvn_param { eps: 0.5 }",
        as_if="mvn_param { eps: 0.5 add_eps_before_sqrt: true }",
    ),
    # It ignores `base`, `scale` and `shift`.
    row("Log", "log_param { base: 2 scale: 0.5 shift: 9 }", np.abs(X), as_if=""),
    # It ignores MobileNet-YOLO's slope below 0.
    row("ReLU6", "relu6_param { negative_slope: 0.1 }", as_if=""),
    # It ignores `beta`.
    row("Swish", "swish_param { beta: 1.5 }", as_if=""),
    # It ignores crops, and the smaller of two factors.
    interp("height: 9 width: 13 pad_beg: -1 pad_end: -2", as_if="height: 9 width: 13"),
    interp("shrink_factor: 2 zoom_factor: 3", as_if="zoom_factor: 3"),
    # It ignores `reverse`.
    row(
        "Reorg",
        "reorg_param { stride: 2 reverse: true }",
        normal(2, 8, 4, 6),
        as_if="reorg_param { stride: 2 }",
    ),
    # It knows products alone.
    correlation(
        "pad: 2 kernel_size: 3 max_displacement: 2 correlation_type: SUBTRACT",
        as_if="pad: 2 kernel_size: 3 max_displacement: 2",
    ),
    # It rounds the size down to a multiple, and then takes the largest bottom's.
    accumulated("size_divisible_by: 4", (3, 4, 6), (2, 7, 9), as_if="accum_param { }"),
]


@pytest.mark.parametrize("row", FORKS + BVLC, ids=lambda row: row.id)
def test_opencv_agrees(row):
    theirs, expected = opencv(row), ours(row, row.parameters)
    assert agree(theirs, expected, row.exact)


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row.id)
def test_opencv_reads_it_in_its_own_way(row):
    theirs = opencv(row)
    assert not agree(theirs, ours(row, row.parameters), row.exact)
    assert agree(theirs, ours(row, row.as_if), row.exact)


def test_opencv_scales_the_other_bottom_of_axpy():
    """SENet's axpy_layer.cpp: bottom 0 scales bottom 1; in OpenCV it scales bottom 2.

    Of one image alone: of more, OpenCV finds no axes that the scale fits.
    """
    scale = normal(1, 6, 1, 1)
    caffes = Row("Axpy", "", {"scale": scale, "x": X[:1], "y": Y[:1]})
    swapped = Row("Axpy", "", {"scale": scale, "y": Y[:1], "x": X[:1]})
    assert agree(opencv(swapped), ours(caffes, ""), exact=False)
    assert not agree(opencv(caffes), ours(caffes, ""), exact=False)


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "pre_nms_topn: 30 post_nms_topn: 9",
        "nms_thresh: 0.3 feat_stride: 8",
        "base_size: 10",
    ],
)
def test_opencv_agrees_on_proposals(parameters):
    """OpenCV adds rows of 0 up to `post_nms_topn`. It does not know `min_size`: no box is small."""
    rng = np.random.default_rng(3)
    bottoms = {
        "scores": (rng.permutation(336) / 336).reshape(1, 12, 4, 7).astype(np.float32),
        "deltas": rng.uniform(-0.6, 0.6, (1, 24, 4, 7)).astype(np.float32),
        "info": np.array([[64, 112, 1, 1]], np.float32),
    }
    anchors = "ratio: [0.5, 2] scale: [1, 2, 3] min_size: 1"
    layer = Row("Proposal", f"proposal_param {{ {anchors} {parameters} }}", bottoms, tops=2)
    theirs, (boxes, scores) = opencv(layer), ours(layer, layer.parameters)
    count = len(boxes)
    assert count >= 9
    assert agree([theirs[0][:count], theirs[1][:count, 0]], [boxes, scores], exact=False)
    assert not theirs[0][count:].any()


def test_opencv_agrees_on_the_scores_of_a_region():
    """OpenCV's is Darknet's, which has its map in N, H, W, C order and the anchors as a blob.

    Of a box it has the same score, and each class times that score; the rest are places.
    """
    maps, shares = normal(2, 16, 5, 7), "classes: 3 softmax: 1"
    layer = row("Region", f"region_param {{ {shares} boxes_of_each_grid: 2 }}", maps)
    (expected,) = ours(layer, layer.parameters)
    expected = expected.reshape(-1, 8)
    (found,) = opencv(
        row(
            "Region",
            f"region_param {{ {shares} anchors: 2 thresh: 0 nms_threshold: 0 }}",
            np.ascontiguousarray(maps.transpose(0, 2, 3, 1)),
            weights=[np.ones(4, np.float32)],
        )
    )
    found = found.reshape(-1, 8)
    products = expected[:, 4:5] * expected[:, 5:]
    assert agree([found[:, 4], found[:, 5:]], [expected[:, 4], products], exact=False)


def known(type_: str) -> bool:
    """Whether OpenCV has a layer of this name."""
    try:
        opencv(row(type_))
    except cv2.error as error:
        return "Can't create layer" not in str(error)
    return True


def test_no_type_of_a_fork_that_opencv_knows_is_left_out():
    types = {type_ for type_, dialect in registry.registered() if dialect}
    tried = {row.type for row in FORKS + BVLC} | {"Axpy", "Proposal", "Region"}
    assert {type_ for type_ in types - tried if known(type_)} == set(ELSEWHERE)
