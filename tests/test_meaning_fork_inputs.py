"""The forks' data and training layers, and writers: inputs with shapes, or dropped, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry
from schemas.layers.training import Refused, Training
from stage_extract import network, prototxt, upgrade
from tests.prototxts import inputs, layer

IP = "inner_product_param { num_output: 3 }"


def build(*text, **options):
    message = upgrade.upgrade(prototxt.parse("\n".join(text), "net.prototxt"))
    return network.build(message, network.Options(**options))


def source(type_, parameters, tops="data label", **options):
    """The shapes of a data layer's tops in a net that computes something of the first."""
    built = build(
        layer(type_, "", tops, parameters, name="source"),
        layer("InnerProduct", "data", "ip", IP),
        **options,
    )
    assert built.net.inputs == tuple(tops.split())
    return [built.net.blobs[key].shape for key in built.net.inputs]


# ---- Data layers ---------------------------------------------------------------------------------

RESIZE = "resize_param { height: 5 width: 7 resize_mode: %s interp_mode: LINEAR }"


@pytest.mark.parametrize(
    "type_, parameters, tops, shapes",
    [
        # InferBlobShape of SSD's data_transformer.cpp: cropped to, else resized to.
        (
            "AnnotatedData",
            f"data_param {{ batch_size: 4 }} transform_param {{ {RESIZE % 'WARP'} "
            "mean_value: 104 mean_value: 117 mean_value: 123 emit_constraint { } } "
            "annotated_data_param { anno_type: BBOX label_map_file: 'map' }",
            "data",
            [(4, 3, 5, 7)],
        ),
        (
            "AnnotatedData",
            f"data_param {{ batch_size: 4 }} transform_param {{ "
            f"{RESIZE % 'FIT_LARGE_SIZE_AND_PAD'} force_gray: true crop_h: 2 crop_w: 3 }}",
            "data",
            [(4, 1, 2, 3)],
        ),
        (
            "VideoData",
            f"data_param {{ batch_size: 4 }} transform_param {{ {RESIZE % 'WARP'} "
            "force_color: true } video_data_param { video_type: VIDEO video_file: 'v' }",
            "data",
            [(4, 3, 5, 7)],
        ),
        (
            "BoxData",
            "data_param { batch_size: 4 side: 13 } transform_param { crop_size: 9 "
            "force_color: true }",
            "data",
            [(4, 3, 9, 9)],
        ),
        (
            "DenseImageData",
            "dense_image_data_param { batch_size: 4 new_height: 5 new_width: 7 source: 's' }",
            "data label",
            [(4, 3, 5, 7), (4, 1, 5, 7)],
        ),
        # ENet crops in its own message.
        (
            "DenseImageData",
            "dense_image_data_param { batch_size: 4 is_color: false crop_height: 2 crop_width: 3 "
            "new_height: 5 new_width: 7 label_divide_factor: 2 mirror: true }",
            "data label",
            [(4, 1, 2, 3), (4, 1, 2, 3)],
        ),
        (
            "ImageSegData",
            "image_data_param { batch_size: 4 label_type: PIXEL ignore_label: 255 } "
            "transform_param { crop_size: 9 mirror: true mean_value: 104 scale_factors: 0.5 }",
            "data label sizes",
            [(4, 3, 9, 9), (4, 1, 9, 9), (4, 1, 1, 2)],
        ),
        (
            "ImageSegData",
            "image_data_param { is_color: false } "
            "transform_param { crop_height: 5 crop_width: 7 }",
            "data label",
            [(1, 1, 5, 7), (1, 1, 5, 7)],
        ),
    ],
    ids=[
        "ssd", "ssd-crop", "ssd-video", "yolo-v1", "segnet", "enet", "deeplab", "deeplab-grey",
    ],
)  # fmt: skip
def test_the_prototxt_tells_the_shape(type_, parameters, tops, shapes):
    assert source(type_, parameters, tops) == shapes


# ---- Each parameter that tells a shape -----------------------------------------------------------

SIZES = [
    (RESIZE % "WARP", (5, 7)),
    ("crop_size: 9", (9, 9)),
    ("crop_h: 2 crop_w: 3", (2, 3)),
    ("crop_height: 2 crop_width: 3", (2, 3)),
]
COLOURS = [
    ("force_color: true", 3),
    ("force_gray: true", 1),
    ("mean_value: 1 mean_value: 2 mean_value: 3 mean_value: 4", 4),
]


@pytest.mark.parametrize("type_", ["AnnotatedData", "VideoData", "BoxData"])
@pytest.mark.parametrize("size, sides", SIZES, ids=lambda value: str(value)[:11])
@pytest.mark.parametrize("colour, channels", COLOURS, ids=lambda value: str(value)[:11])
def test_images_of_a_database(type_, size, sides, colour, channels):
    parameters = f"data_param {{ batch_size: 4 }} transform_param {{ {size} {colour} }}"
    assert source(type_, parameters, "data") == [(4, channels, *sides)]


@pytest.mark.parametrize(
    "type_, message",
    [("DenseImageData", "dense_image_data_param"), ("ImageSegData", "image_data_param")],
)
@pytest.mark.parametrize("size, sides", SIZES[1:], ids=lambda value: str(value)[:11])
def test_images_of_a_list(type_, message, size, sides):
    """A crop goes before the size that images are brought to."""
    listed = f"{message} {{ batch_size: 4 new_height: 5 new_width: 7 is_color: false }}"
    shapes = source(type_, f"{listed} transform_param {{ {size} }}")
    assert shapes == [(4, 1, *sides), (4, 1, *sides)]
    assert source(type_, listed) == [(4, 1, 5, 7), (4, 1, 5, 7)]


UNTOLD = [
    ("AnnotatedData", "data_param { batch_size: 4 } transform_param { force_color: true }"),
    (
        "AnnotatedData",
        f"data_param {{ batch_size: 4 }} transform_param {{ force_color: true "
        f"{RESIZE % 'FIT_SMALL_SIZE'} }}",
    ),
    (
        "AnnotatedData",
        f"data_param {{ batch_size: 4 }} transform_param {{ {RESIZE % 'WARP'} }}",
    ),
    ("VideoData", "video_data_param { batch_size: 4 new_length: 16 crop_size: 112 }"),
    ("ImageSegData", "image_data_param { batch_size: 4 }"),
    ("SegData", "seg_data_param { source: 's' }"),
    # Messages that no schema here knows.
    ("BboxData", "bbox_data_param { batch_size: 4 source: 's' }"),
    ("CPMData", "cpm_transform_param { stride: 8 crop_size_x: 368 }"),
    ("MultiLabelImageData", ""),
    ("MatRead", "mat_read_param { prefix: 'p' }"),
    ("CustomData", "data_param { batch_size: 1 } custom: 3"),
    ("ImgReader", "reader_param { file: 'f' num: 2 }"),
]


@pytest.mark.parametrize("type_, parameters", UNTOLD, ids=lambda value: value[:30] or "none")
def test_a_shape_that_is_not_told_is_asked_for(type_, parameters):
    with pytest.raises(MalformedModel, match="does not tell the shape of 'data'") as caught:
        source(type_, parameters, "data")
    assert "--input-shape data=N,C,H,W" in str(caught.value)
    given = {"data": (2, 3, 5, 7)}
    assert source(type_, parameters, "data", input_shapes=given) == [(2, 3, 5, 7)]


@pytest.mark.parametrize(
    "type_, parameters",
    [
        ("AnnotatedData", "transform_param { crop_h: 3 }"),
        ("ImageSegData", "transform_param { crop_width: 3 }"),
        ("DenseImageData", "dense_image_data_param { new_height: 3 }"),
    ],
)
def test_heights_go_with_widths(type_, parameters):
    with pytest.raises(MalformedModel, match="should be set together"):
        source(type_, parameters, "data")


# ---- Training ------------------------------------------------------------------------------------

TRAINING = sorted(key for key, cls in registry.registered().items() if issubclass(cls, Training))


def test_training_layers_are_known():
    assert {type_ for type_, _ in TRAINING} >= {
        *("MultiBoxLoss", "DetectionEvaluate", "BoxAnnotatorOHEM", "SoftmaxWithLossOHEM"),
        *("SmoothL1LossOHEM", "SegAccuracy", "CenterLoss", "RegionLoss", "Yolov3", "YoloSeg"),
        *("CtcLoss", "EvalDetection", "LabelsequenceAccuracy", "TripletLoss", "FocalLoss"),
        *("L1Loss", "LargeMarginInnerProduct", "MarginInnerProduct", "ParseEvaluate"),
    }


@pytest.mark.parametrize("key", TRAINING, ids="-".join)
def test_a_training_layer_goes_with_its_labels(key):
    """With a parameter that nobody here knows; kept, it is refused with its reason."""
    cls = registry.registered()[key]
    count = max(cls.bottom_count[0], 2)
    predictions = [f"ip{i}" for i in range(count)][: cls.labels]
    labels = [f"label{i}" for i in range(count - len(predictions))]
    text = [
        inputs(data=(2, 4), **dict.fromkeys(labels, (2,))),
        *(layer("InnerProduct", "data", name, IP) for name in predictions),
        layer(key[0], [*predictions, *labels], "loss", "of_a_fork { weight: 3 }", name="loss"),
        layer("Power", "loss", "scaled"),
    ]
    built = build(*text)
    assert built.net.inputs == ("data",)
    assert built.net.outputs == tuple(sorted(predictions))
    assert [layer_.name for layer_ in built.net.layers] == predictions
    with pytest.raises(UnsupportedModel, match="unknown field: of_a_fork of layer 'loss'"):
        build(*text, keep_losses=True)
    text[-2] = layer(key[0], [*predictions, *labels], "loss", name="loss")
    with pytest.raises(UnsupportedModel) as caught:
        build(*text, keep_losses=True)
    assert f"cannot be kept with --keep-losses: {cls.reason}" in str(caught.value)
    assert cls.reason


REFUSED = sorted(key for key, cls in registry.registered().items() if issubclass(cls, Refused))


@pytest.mark.parametrize("key", REFUSED, ids="-".join)
def test_augmentation_is_refused(key):
    with pytest.raises(UnsupportedModel, match=r"replace it by|leave it out") as caught:
        build(
            inputs(data=(2, 3, 5, 7)),
            layer(key[0], "data", "more", "augmentation_param { crop_width: 3 }", name="augment"),
            layer("InnerProduct", "more", "ip", IP),
        )
    assert "'augment' (line 2)" in str(caught.value)


def test_a_net_for_detection():
    """SSD's training net: the boxes, the mined examples and the evaluation go, the priors' source
    stays."""
    built = build(
        layer("AnnotatedData", "", "data label", "data_param { batch_size: 2 } transform_param { "
              "crop_size: 9 force_color: true } annotated_data_param { anno_type: BBOX }",
              name="data"),
        layer("InnerProduct", "data", "loc", IP),
        layer("InnerProduct", "data", "conf", IP),
        layer("Softmax", "data", "prior"),
        layer("MultiBoxLoss", "loc conf prior label", "loss", "include { phase: TRAIN } "
              "multibox_loss_param { num_classes: 3 }"),
        layer("DetectionEvaluate", "conf label", "found", "include { phase: TEST }"),
        phase="TRAIN",
    )  # fmt: skip
    assert built.net.inputs == ("data",)
    assert set(built.net.outputs) >= {"loc", "conf"}


# ---- Writers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "writer",
    [
        layer("HDF5Output", "ip label", [], "hdf5_output_param { file_name: 'f' }", name="file"),
        layer("MatWrite", "ip label", [], "mat_write_param { prefix: 'p' }", name="file"),
        layer("FLOWriter", "ip", [], "writer_param { folder: 'f' }", name="file"),
    ],
    ids=["HDF5Output", "MatWrite", "FLOWriter"],
)
def test_what_is_written_to_a_file_becomes_an_output(writer):
    text = [inputs(data=(2, 4), label=(2,)), layer("InnerProduct", "data", "ip", IP), writer]
    built = build(*(text if "label" in writer else [inputs(data=(2, 4)), *text[1:]]))
    assert built.net.inputs == ("data",)
    assert built.net.outputs == ("ip",)
    notes = [note for note in built.notes if note.startswith("dropped")]
    assert len(notes) == 1
    assert notes[0].startswith("dropped (it writes a file): layer 'file' (")


def test_a_writer_is_not_run():
    made = registry.meaning(Layer("l", "HDF5Output", ("a", "b"), ()))
    assert made.shapes([(2,), (2,)], 0) == []
    with pytest.raises(UnsupportedModel, match="dropped, not computed"):
        made.forward([np.zeros(2, np.float32)] * 2, [], 0)
