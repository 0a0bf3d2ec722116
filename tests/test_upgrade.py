"""Upgrades of old nets, by Caffe's own rules, worked by hand."""

from __future__ import annotations

import pytest

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel
from stage_extract import descriptors, prototxt
from stage_extract import upgrade as rules
from stage_extract.upgrade import upgrade
from tests.paths import GOLDENS, SHARED, needs_shared

FILES = sorted(SHARED.rglob("*.prototxt"))


def upgraded(text):
    """The upgraded net of a prototxt; the tree that was read must stay as it was."""
    net = prototxt.parse(text, "net.prototxt")
    before = net.document()
    found = upgrade(net)
    assert net.document() == before
    return found


def layers(text):
    return [layer.document() for layer in upgraded(text).fields["layer"]]


def refused(text, kind=MalformedModel):
    with pytest.raises(ConversionError) as caught:
        upgraded(text)
    assert type(caught.value) is kind
    return caught.value


def v0(type_, fields="", connections="bottom: 'x' top: 'y'"):
    """One V0 layer as a V1 message: through the first step alone."""
    text = f"input: 'x' layers {{ layer {{ name: 'a' type: '{type_}' {fields} }} {connections} }}"
    return layers(text)[0]


BY_TYPE = {
    "accuracy": ("", "Accuracy", {}),
    "bnll": ("", "BNLL", {}),
    "concat": ("concat_dim: 2", "Concat", {"concat_param": {"concat_dim": 2}}),
    "conv": (
        "num_output: 4 biasterm: false pad: 1 kernelsize: 3 stride: 2 group: 2"
        " weight_filler { std: 1 } bias_filler { value: 2 }",
        "Convolution",
        {
            "convolution_param": {
                "num_output": 4,
                "bias_term": False,
                "pad": [1],
                "kernel_size": [3],
                "stride": [2],
                "group": 2,
                "weight_filler": {"std": 1.0},
                "bias_filler": {"value": 2.0},
            }
        },
    ),
    "data": (
        "source: 's' batchsize: 3 rand_skip: 4 scale: 0.5 meanfile: 'm' cropsize: 6 mirror: true",
        "Data",
        {
            "data_param": {"source": "s", "batch_size": 3, "rand_skip": 4},
            "transform_param": {"scale": 0.5, "mean_file": "m", "crop_size": 6, "mirror": True},
        },
    ),
    "dropout": ("dropout_ratio: 0.25", "Dropout", {"dropout_param": {"dropout_ratio": 0.25}}),
    "euclidean_loss": ("", "EuclideanLoss", {}),
    "flatten": ("", "Flatten", {}),
    "hdf5_data": (
        "source: 's' batchsize: 3",
        "HDF5Data",
        {"hdf5_data_param": {"source": "s", "batch_size": 3}},
    ),
    "hdf5_output": (
        "hdf5_output_param { file_name: 'f' }",
        "HDF5Output",
        {"hdf5_output_param": {"file_name": "f"}},
    ),
    "im2col": ("", "Im2col", {}),
    "images": (
        "source: 's' batchsize: 3 rand_skip: 4 shuffle_images: true new_height: 5 new_width: 6",
        "ImageData",
        {
            "image_data_param": {
                "source": "s",
                "batch_size": 3,
                "rand_skip": 4,
                "shuffle": True,
                "new_height": 5,
                "new_width": 6,
            }
        },
    ),
    "infogain_loss": ("source: 's'", "InfogainLoss", {"infogain_loss_param": {"source": "s"}}),
    "innerproduct": (
        "num_output: 4 biasterm: false weight_filler { std: 1 } bias_filler { value: 2 }",
        "InnerProduct",
        {
            "inner_product_param": {
                "num_output": 4,
                "bias_term": False,
                "weight_filler": {"std": 1.0},
                "bias_filler": {"value": 2.0},
            }
        },
    ),
    "lrn": (
        "local_size: 3 alpha: 0.1 beta: 0.2 k: 2",
        "LRN",
        {"lrn_param": {"local_size": 3, "alpha": 0.1, "beta": 0.2, "k": 2.0}},
    ),
    "multinomial_logistic_loss": ("", "MultinomialLogisticLoss", {}),
    "pool": (
        "pool: AVE pad: 1 kernelsize: 3 stride: 2",
        "Pooling",
        {"pooling_param": {"pool": "AVE", "pad": 1, "kernel_size": 3, "stride": 2}},
    ),
    "relu": ("", "ReLU", {}),
    "sigmoid": ("", "Sigmoid", {}),
    "softmax": ("", "Softmax", {}),
    "softmax_loss": ("", "SoftmaxWithLoss", {}),
    "split": ("", "Split", {}),
    "tanh": ("", "TanH", {}),
    "window_data": (
        "source: 's' batchsize: 3 det_fg_threshold: 0.5 det_bg_threshold: 0.25"
        " det_fg_fraction: 0.125 det_context_pad: 4 det_crop_mode: 'square'",
        "WindowData",
        {
            "window_data_param": {
                "source": "s",
                "batch_size": 3,
                "fg_threshold": 0.5,
                "bg_threshold": 0.25,
                "fg_fraction": 0.125,
                "context_pad": 4,
                "crop_mode": "square",
            }
        },
    ),
}


def test_every_v0_type_is_tested():
    assert set(BY_TYPE) == set(rules.V0_TYPES)


@pytest.mark.parametrize("type_", BY_TYPE)
def test_v0_layers_of_each_type(type_):
    fields, name, parameters = BY_TYPE[type_]
    expected = {"name": "a", "type": name, "bottom": ["x"], "top": ["y"], **parameters}
    assert v0(type_, fields) == expected


def test_v0_weights_and_rates():
    found = v0(
        "conv", "blobs { num: 1 data: 2 } blobs_lr: 1 blobs_lr: 2 weight_decay: 0 new_num: 9"
    )
    assert found == {
        "name": "a",
        "type": "Convolution",
        "bottom": ["x"],
        "top": ["y"],
        "blobs": [{"num": 1, "data": [2.0]}],
        "param": [{"lr_mult": 1.0, "decay_mult": 0.0}, {"lr_mult": 2.0}],
    }


def test_v0_transforms_go_with_any_type():
    assert v0("pool", "scale: 2")["transform_param"] == {"scale": 2.0}


def test_a_v0_net_keeps_only_what_caffe_keeps():
    net = upgraded(
        "name: 'n' input: 'x' input_shape { dim: 1 } state { phase: TRAIN }"
        " layers { layer { name: 'a' type: 'relu' } bottom: 'x' top: 'y' }"
    )
    assert set(net.fields) == {"name", "input", "layer"}


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ("type: 'pool' num_output: 3", "'num_output' means nothing to a layer of type 'pool'"),
        ("type: 'relu' hdf5_output_param { }", "'hdf5_output_param' means nothing"),
        ("type: 'convolution'", "'convolution' is no layer type"),
        ("", "'' is no layer type"),
    ],
    ids=["parameter", "message", "type", "no type"],
)
def test_what_a_v0_layer_cannot_be(fields, fragment):
    error = refused(f"input: 'x'\nlayers {{\n layer {{ name: 'a'\n {fields} }} bottom: 'x' }}")
    assert fragment in str(error)
    assert error.where in ("net.prototxt:3", "net.prototxt:4")


def padded(consumer, padding="layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'p'"):
    return f"input: 'x'\nlayers {{ {padding} }}\nlayers {{ {consumer} }}"


@pytest.mark.parametrize(
    ("type_", "message", "pad"),
    [("conv", "convolution_param", [2]), ("pool", "pooling_param", 2)],
)
@pytest.mark.parametrize("own", ["", "pad: 1"], ids=["unset", "set"])
def test_v0_padding_is_folded_into_its_reader(type_, message, pad, own):
    found = layers(padded(f"layer {{ name: 'a' type: '{type_}' {own} }} bottom: 'p' top: 'y'"))
    names = {"name": "a", "bottom": ["x"], "top": ["y"]}
    assert [{key: layer[key] for key in names} for layer in found] == [names]
    assert found[0][message] == {"pad": pad}


def test_v0_padding_without_a_pad_pads_nothing():
    text = padded(
        "layer { name: 'a' type: 'pool' pad: 1 } bottom: 'p' top: 'y'",
        "layer { name: 'p' type: 'padding' } bottom: 'x' top: 'p'",
    )
    assert layers(text)[0]["pooling_param"] == {"pad": 0}


def test_v0_padding_ends_where_its_blob_is_rewritten():
    text = padded("layer { name: 'a' type: 'pool' } bottom: 'p' top: 'p'")
    text += " layers { layer { name: 'b' type: 'relu' } bottom: 'p' top: 'q' }"
    assert [layer["bottom"] for layer in layers(text)] == [["x"], ["p"]]


@pytest.mark.parametrize(
    "consumer",
    [
        "layer { name: 'a' type: 'relu' } bottom: 'p' top: 'y'",
        "layer { name: 'a' type: 'conv' } bottom: 'p' bottom: 'x' top: 'y'",
        "layer { name: 'a' type: 'padding' pad: 1 } bottom: 'p' top: 'y'",
    ],
    ids=["relu", "two bottoms", "padding"],
)
def test_what_v0_padding_cannot_feed(consumer):
    error = refused(padded(consumer))
    assert "padding" in str(error)
    assert error.where == "net.prototxt:3"


def test_v0_bottoms_must_exist():
    error = refused("layers { layer { name: 'a' type: 'relu' } bottom: 'x' top: 'y' }")
    assert "no layer makes bottom 'x'" in str(error)


def test_every_v1_type_of_bvlc_has_a_name():
    types = descriptors.message("V1LayerParameter").fields_by_name["type"].enum_type.values
    bvlc = {value.name for value in types if value.number < descriptors.FORKS}
    assert bvlc <= set(rules.V1_TYPES) <= {value.name for value in types}
    assert len(bvlc) == 40


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SOFTMAX_LOSS", "SoftmaxWithLoss"),
        ("CONVOLUTION", "Convolution"),
        ("HDF5_DATA", "HDF5Data"),
        ("IM2COL", "Im2col"),
        ("ABSVAL", "AbsVal"),
        ("39", "Deconvolution"),
        ("NONE", ""),
        ("RELU6", "ReLU6"),
        ("ROIPOOLING", "ROIPooling"),
    ],
)
def test_v1_types(old, new):
    assert layers(f"layers {{ type: {old} }}") == [{"type": new}]


def test_v1_layers_keep_their_messages():
    text = """
name: "net"
state { phase: TRAIN }
force_backward: true
layers {
  name: "a" type: RELU bottom: "x" top: "y" loss_weight: 2
  include { phase: TEST } relu_param { negative_slope: 0.5 } prelu_param { channel_shared: true }
  blobs { num: 1 }
}
"""
    net = upgraded(text)
    assert set(net.fields) == {"name", "state", "layer"}
    assert net.fields["state"].document() == {"phase": "TRAIN"}
    (layer,) = net.fields["layer"]
    assert (layer.type, layer.line, layer.source) == ("LayerParameter", 5, "net.prototxt")
    assert (layer.lines["relu_param"], layer.lines["blobs"]) == (7, 8)
    assert layer.document() == {
        "name": "a",
        "type": "ReLU",
        "bottom": ["x"],
        "top": ["y"],
        "loss_weight": [2.0],
        "include": [{"phase": "TEST"}],
        "relu_param": {"negative_slope": 0.5},
        "prelu_param": {"channel_shared": True},
        "blobs": [{"num": 1}],
    }


def test_v1_parameter_lists_become_one():
    found = layers(
        "layers { param: 'w' blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 weight_decay: 4 weight_decay: 0"
        " blob_share_mode: PERMISSIVE }"
    )
    assert found[0]["param"] == [
        {"name": "w", "share_mode": "PERMISSIVE", "lr_mult": 1.0, "decay_mult": 4.0},
        {"lr_mult": 2.0, "decay_mult": 0.0},
        {"lr_mult": 3.0},
    ]


def test_types_of_forks_without_a_current_name():
    error = refused("layers {\n name: 'a'\n type: CONVOLUTION3D }", UnsupportedModel)
    assert "CONVOLUTION3D" in str(error)
    assert error.where == "net.prototxt:3"


def test_unknown_fields_stay_with_their_layer():
    net = upgraded(
        "layers { type: RELU } mine: 1\nlayers { type: POOLING pooling_param { his: 1 } }"
    )
    assert [each.path for each in net.unknown] == ["mine", "layers[1].pooling_param.his"]
    assert [len(layer.unknown) for layer in net.fields["layer"]] == [0, 1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("layer { name: 'a' }\nlayers { name: 'b' }", "net.prototxt:2"),
        ("input: 'x'\nlayers { layer { type: 'relu' } }\nlayers { type: RELU }", "net.prototxt:3"),
    ],
    ids=["V1 and V2", "V0 and V1"],
)
def test_mixed_formats(text, place):
    error = refused(text)
    assert error.where == place
    assert error.hint == "write all layers in one format"


def test_mixed_formats_name_both_lines():
    error = refused("layer { name: 'a' }\n\nlayers { name: 'b' }")
    assert "'layers' (the old format, line 3)" in str(error)
    assert "'layer' (the new one, line 1)" in str(error)


@pytest.mark.parametrize(
    ("type_", "parameter"),
    [
        ("DATA", "data_param"),
        ("IMAGE_DATA", "image_data_param"),
        ("WINDOW_DATA", "window_data_param"),
    ],
)
def test_transforms_of_v1_data_layers_move(type_, parameter):
    old = "scale: 2 mean_file: 'm' crop_size: 3 mirror: true source: 's'"
    found = layers(
        f"layers {{ type: {type_} {parameter} {{ {old} }} transform_param {{ scale: 5 }} }}"
        " layers { type: DATA name: 'other' } layers { type: RELU }"
    )
    moved = {"scale": 2.0, "mean_file": "m", "crop_size": 3, "mirror": True}
    assert found[0]["transform_param"] == moved
    assert found[0][parameter] == {"source": "s"}
    assert found[1:] == [{"type": "Data", "name": "other", "transform_param": {}}, {"type": "ReLU"}]


def test_transforms_elsewhere_stay():
    assert layers("layers { type: DATA data_param { source: 's' } }") == [
        {"type": "Data", "data_param": {"source": "s"}}
    ]
    current = layers("layer { type: 'Data' data_param { scale: 2 } }")
    assert current == [{"type": "Data", "data_param": {"scale": 2.0}}]


def test_input_dim_becomes_an_input_layer():
    net = upgraded(
        "layer { name: 'a' }\ninput: 'x'\ninput: 'y'\n"
        "input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n"
        "input_dim: 5 input_dim: 6 input_dim: 7 input_dim: 8"
    )
    assert set(net.fields) == {"layer"}
    first, second = net.fields["layer"]
    assert first.document() == {
        "name": "input",
        "type": "Input",
        "top": ["x", "y"],
        "input_param": {"shape": [{"dim": [1, 2, 3, 4]}, {"dim": [5, 6, 7, 8]}]},
    }
    assert (first.type, first.line) == ("LayerParameter", 2)
    assert first.fields["input_param"].fields["shape"][0].type == "BlobShape"
    assert second.document() == {"name": "a"}


def test_input_shape_wins_over_input_dim():
    found = layers("input: 'x' input_shape { dim: 2 dim: 3 } input_dim: 1 layers { type: RELU }")
    assert found[0]["input_param"] == {"shape": [{"dim": [2, 3]}]}
    assert found[1] == {"type": "ReLU"}


@pytest.mark.parametrize(
    ("shapes", "place"),
    [
        ("input_shape { dim: 1 }", "net.prototxt:2"),
        ("input_dim: [1, 2, 3, 4, 5, 6, 7]", "net.prototxt:2"),
        ("input_dim: [1, 2, 3]", "net.prototxt:2"),
    ],
    ids=["one shape", "seven sizes", "three sizes"],
)
def test_too_few_input_shapes(shapes, place):
    error = refused(f"input: ['x', 'y']\n{shapes}")
    assert "2 inputs" in str(error)
    assert error.where == place


def test_inputs_without_shapes_keep_their_names():
    net = upgraded("input: 'x' layer { name: 'a' }")
    assert net.fields["input"] == ["x"]
    assert [layer.document() for layer in net.fields["layer"]] == [{"name": "a"}]


def test_shapes_without_inputs_are_dropped():
    assert set(upgraded("input_dim: 1 layer { }").fields) == {"layer"}


@pytest.mark.parametrize(
    ("layer", "fixed"),
    [
        ("type: 'BatchNorm' param { lr_mult: 1 } param { name: 'v' } param { }", True),
        ("type: 'BatchNorm' param { lr_mult: 1 } param { name: 'v' }", False),
        ("type: 'Scale' param { lr_mult: 1 } param { name: 'v' } param { }", False),
    ],
    ids=["three", "two", "other type"],
)
def test_batch_norm_rates(layer, fixed):
    (found,) = layers(f"layer {{ {layer} }}")
    rates = {"lr_mult": 0.0, "decay_mult": 0.0} if fixed else {}
    expected = [{"lr_mult": 1.0}, {"name": "v"}, {}][: len(found["param"])]
    assert found["param"] == [{**param, **rates} for param in expected]


@pytest.mark.skipif(not FILES, reason=f"no prototxts at {SHARED}")
def test_every_prototxt_comes_out_current():
    for path in FILES:
        read = prototxt.read(path)
        net = upgrade(read)
        assert set(net.fields) <= {"name", "state", "layer"}, path
        fields = descriptors.message("LayerParameter").fields_by_name
        for layer in net.fields["layer"]:
            assert layer.type == "LayerParameter"
            assert layer.line > 0
            assert set(layer.fields) <= set(fields), path
        if "layer" in read.fields and "input" not in read.fields:
            assert net.document() == read.document(), path


@needs_shared
def test_the_same_net_in_both_formats():
    formats = GOLDENS / "formats"
    old, new = (
        upgrade(prototxt.read(formats / name)).fields["layer"]
        for name in ("net_v1.prototxt", "net.prototxt")
    )
    assert old[0].fields.pop("name") == "input"
    assert new[0].fields.pop("name") == "data"
    assert [without_rates(layer) for layer in old] == [without_rates(layer) for layer in new]


def without_rates(layer):
    return {name: value for name, value in layer.document().items() if name != "param"}
