"""The net within a caffemodel: read by BVLC's numbers, equal to the prototxt that it came from."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from google.protobuf import text_format

from schemas import interchange
from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph_json import net_document
from stage_extract import embedded, network, prototxt, reference, upgrade, worker
from stage_extract.descriptors import message_class
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, SHARED, needs_shared
from tests.prototxts import inputs, layer

TEXT = [
    'name: "small"',
    inputs(data=(2, 3, 5, 7)),
    layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    layer("ReLU", "conv", "conv", "relu_param { negative_slope: 0.1 }", name="relu"),
    layer("InnerProduct", "conv", "ip", "inner_product_param { num_output: 6 }"),
    layer("Softmax", "ip", "prob"),
]


def serialized(text):
    """A prototxt in binary form, by protobuf itself."""
    return text_format.Parse(text, message_class("NetParameter")()).SerializeToString()


@pytest.fixture
def stored(tmp_path):
    """Writes bytes to a file and reads the net in it."""

    def call(data):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(data)
        return embedded.read(path)

    return call


def documents(message):
    """The net that a NetParameter makes, or the kind of its refusal; without lines."""
    try:
        document = net_document(network.build(message, network.Options()).net)
    except (MalformedModel, UnsupportedModel) as error:
        return type(error)
    for item in document["layer"]:
        item["line"] = 0
        if item["type"] == "BatchNorm":  # Caffe saves the learning rates that it forces
            item["fields"].pop("param", None)
    return document


def from_text(text):
    return documents(upgrade.upgrade(prototxt.parse(text, "net.prototxt")))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(TEXT),
        "input: 'data' input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7 " + layer("TanH"),
        "input: 'data' input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7 layers { name: 'c' "
        "type: CONVOLUTION bottom: 'data' top: 'c' blobs_lr: 1 blobs_lr: 2 weight_decay: 1 "
        "convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: 'gaussian' "
        "std: 0.01 } } } layers { name: 'p' type: POOLING bottom: 'c' top: 'p' "
        "pooling_param { pool: AVE kernel_size: 2 stride: 2 } }",
        "input: 'data' input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7 "
        "layers { layer { name: 'pad' type: 'padding' pad: 1 } bottom: 'data' top: 'pad' } "
        "layers { layer { name: 'c' type: 'conv' num_output: 4 kernelsize: 3 } "
        "bottom: 'pad' top: 'c' }",
        inputs(data=(2, 3, 5, 7))
        + layer("Eltwise", "data data", "e", "eltwise_param { coeff: -1 coeff: 1e-3 }")
        + layer("Reshape", "e", "r", "reshape_param { shape { dim: 0 dim: -1 } axis: -3 }"),
    ],
    ids=["current", "input_dim", "V1", "V0", "negative numbers"],
)
def test_the_net_is_that_of_the_prototxt(text, stored):
    expected = from_text(text)
    assert isinstance(expected, dict)
    assert documents(stored(serialized(text))) == expected


@needs_shared
@pytest.mark.parametrize("kind", ["layers", "random"])
def test_what_caffe_saved_is_the_net_of_the_prototxt(kind):
    """Of every golden whose weights real Caffe wrote; Caffe's own Split layers are out again."""
    compared = 0
    for path in sorted((GOLDENS / kind).glob("*/net.caffemodel")):
        expected = documents(upgrade.upgrade(prototxt.read(path.with_name("net.prototxt"))))
        assert documents(embedded.read(path)) == expected, path.parent.name
        compared += isinstance(expected, dict)
    assert compared > {"layers": 70, "random": 150}[kind]


@needs_shared
@pytest.mark.parametrize("kind", ["layers", "random"])
def test_protobuf_is_a_witness(kind, stored):
    """Its own text format and serializer, for the goldens without weights too."""
    compared = 0
    for path in sorted((GOLDENS / kind).glob("*/net.prototxt")):
        text = path.read_text()
        if "include" in text:  # Caffe applies them before it saves a net
            continue
        expected = from_text(text)
        assert documents(stored(serialized(text))) == expected, path.parent.name
        compared += isinstance(expected, dict)
    assert compared > {"layers": 200, "random": 170}[kind]


def arguments(tmp_path, *more):
    return [str(each) for each in (*more, "-o", tmp_path / "net.h5")]


# Of the net as it was saved: its input, and its outputs' names there and in the prototxt.
TRAINED = {
    "lenet-mnist": ("data", {"prob": "prob"}),
    "mtcnn-det1": ("data12face", {"prob": "prob1"}),
    "mtcnn-det2": ("data24", {"prob": "prob1"}),
    "mtcnn-det3": ("data48", {"prob": "prob1"}),
    "triplet-3d": ("data", {"feat": "feat"}),
    "squeezenet-imagenet": ("data", {"pool_final": "pool_final"}),
    "wechat-qr-sr": ("data", {"fc": "fc"}),
}


@needs_shared
@pytest.mark.parametrize("name", TRAINED)
def test_a_model_from_its_weights_alone(name, tmp_path, capfd):
    """As it was saved, some from training with data and losses; held to real Caffe's numbers."""
    folder = SHARED / "models" / name
    input_, renamed = TRAINED[name]
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        golden = {key: file[key] for key in file.files}
    (fed,) = (value for key, value in golden.items() if key.startswith("input:"))
    shape = f"{input_}={','.join(map(str, fed.shape))}"
    weights = str(folder / "weights.caffemodel")
    assert worker.main(arguments(tmp_path, weights, "--input-shape", shape)) == 0
    assert "warning: the net is read from the weights" in capfd.readouterr().err
    content = interchange.read(tmp_path / "net.h5")
    assert content.net.inputs == (input_,)
    assert [source.role for source in content.sources] == ["weights"]
    loaded = {key: content.weights[key] for key in content.weights}
    found = reference.forward(content.net, loaded, {input_: fed})
    names = {"blob:" + name.replace("/", "%2F"): name for name in found}
    names.update(("blob:" + theirs, ours) for ours, theirs in renamed.items())
    compared = sorted(golden.keys() & names)
    for key in compared:
        limit = 1e-4 * np.abs(golden[key]).max() + 1e-6
        assert np.abs(found[names[key]] - golden[key]).max() <= limit, key
    assert {"blob:" + theirs for theirs in renamed.values()} <= set(compared)


@needs_shared
def test_a_shape_that_nothing_tells_is_asked_for(tmp_path, capfd):
    path = str(SHARED / "models" / "lenet-mnist" / "weights.caffemodel")
    assert worker.main(arguments(tmp_path, path)) == 3
    assert "--input-shape data=N,C,H,W" in capfd.readouterr().err


def with_blobs(text, **blobs):
    """A saved net whose layers have their blobs."""
    message = text_format.Parse(text, message_class("NetParameter")())
    for item in message.layer:
        for values in blobs.get(item.name, ()):
            made = item.blobs.add()
            made.shape.dim.extend(values.shape)
            made.data.extend(values.ravel().tolist())
    return message.SerializeToString()


def test_weights_apart_from_the_net(tmp_path, capfd):
    rng = np.random.default_rng(1)
    shapes = {"conv": [(4, 3, 3, 3), (4,)], "ip": [(6, 60), (6,)]}
    blobs = {
        name: [rng.standard_normal(shape, np.float32) for shape in own]
        for name, own in shapes.items()
    }
    (tmp_path / "net.caffemodel").write_bytes(serialized("\n".join(TEXT)))
    (tmp_path / "both.caffemodel").write_bytes(with_blobs("\n".join(TEXT), **blobs))
    for files, roles in (
        (["net.caffemodel", "both.caffemodel"], ["net", "weights"]),
        (["both.caffemodel"], ["weights"]),
    ):
        paths = [tmp_path / name for name in files]
        assert worker.main(arguments(tmp_path, *paths)) == 0
        content = interchange.read(tmp_path / "net.h5")
        assert [source.role for source in content.sources] == roles
        np.testing.assert_array_equal(content.weights["ip/0"], blobs["ip"][0])
        assert content.net.layers[1].fields == {"relu_param": {"negative_slope": 0.1}}
    assert worker.main(arguments(tmp_path, tmp_path / "net.caffemodel")) == 3
    assert "layer 'conv': 2 blobs expected, found 0" in capfd.readouterr().err


def test_pycaffe_has_no_prototxt_to_read(tmp_path, capfd):
    (tmp_path / "net.caffemodel").write_bytes(serialized(inputs(data=(2, 3)) + layer("TanH")))
    path = tmp_path / "net.caffemodel"
    assert worker.main(arguments(tmp_path, path, "--reader", "pycaffe")) == 2
    assert "--reader pycaffe needs a prototxt" in capfd.readouterr().err


# ---- As it was trained ---------------------------------------------------------------------------


def test_rules_are_over_and_losses_leave_their_head(stored):
    net = stored(
        serialized(
            layer("Data", "", "data label", "include { phase: TRAIN } phase: TRAIN "
                  "data_param { batch_size: 9 } transform_param { crop_size: 5 mean_value: 1 "
                  "mean_value: 2 mean_value: 3 }")
            + layer("InnerProduct", "data", "ip", "inner_product_param { num_output: 4 }")
            + layer("SoftmaxWithLoss", "ip label", "loss", "phase: TRAIN")
        )
    )  # fmt: skip
    built = network.build(net, network.Options())
    assert built.net.blobs["data"].shape == (9, 3, 5, 5)
    assert built.net.outputs == ("prob",)
    assert built.preprocessing["data"]["mean_value"] == [1.0, 2.0, 3.0]


SPLIT = "data_data_0_split"


@pytest.mark.parametrize(
    ("name", "tops", "kept"),
    [
        (SPLIT, [SPLIT + "_0", SPLIT + "_1"], False),
        (SPLIT, [SPLIT + "_0", "mine"], True),
        ("data_split", ["data_split_0", "data_split_1"], True),
        ("other_data_0_split", ["other_data_0_split_0", "other_data_0_split_1"], True),
        ("_" * 60_000, ["a", "b"], True),
        ("mine", ["a", "b"], True),
    ],
    ids=["Caffe's", "another top", "no number", "of another blob", "long", "the user's"],
)
def test_only_caffes_own_splits_are_taken_out(name, tops, kept, stored):
    net = stored(
        serialized(
            inputs(data=(2, 3))
            + layer("Split", "data", tops, name=name)
            + layer("TanH", tops[0], "t")
            + layer("Eltwise", [tops[1], "t"], "e")
        )
    )
    names = [item.fields["name"] for item in net.fields["layer"]]
    assert (name in names) is kept
    if not kept:
        bottoms = [item.fields.get("bottom", []) for item in net.fields["layer"]]
        assert bottoms == [[], ["data"], ["data", "t"]]


# ---- What BVLC's numbers do not tell -------------------------------------------------------------


def saved(*parts, type="Convolution", bottom="data"):
    """A net of an input and one layer with these further bytes."""
    own = cb.field(1, "x") + cb.field(2, type) + cb.field(3, bottom) + cb.field(4, "out")
    return serialized(inputs(data=(2, 3, 5, 7))) + cb.field(100, own + b"".join(parts))


CONVOLUTION = cb.number(1, 4) + cb.number(4, 3)  # num_output: 4 kernel_size: 3


def test_types_of_forks_are_told_all_at_once(stored):
    with pytest.raises(UnsupportedModel) as caught:
        stored(serialized(
            inputs(data=(2, 3, 5, 7)) + layer("Interp", "data", "i") + layer("Nonsense", "i", "n")
        ))  # fmt: skip
    message = str(caught.value)
    assert "'i' (Interp), 'n' (Nonsense)" in message
    assert message.endswith("(give the prototxt too: NET.prototxt WEIGHTS)")


def test_fields_that_bvlc_lacks_are_unknown(stored):
    net = stored(saved(cb.field(106, CONVOLUTION + cb.number(19, 1)), cb.number(200, 5)))
    with pytest.raises(UnsupportedModel) as caught:
        network.build(net, network.Options())
    assert (
        "unknown field: convolution_param.field number 19 of layer 'x', "
        "field number 200 of layer 'x' (" in str(caught.value)
    )
    built = network.build(net, network.Options(ignore_unknown=True))
    assert built.net.blobs["out"].shape == (2, 4, 3, 5)
    assert built.notes[0].startswith("ignored, though it may change the result: convolution_param")


def test_messages_of_other_types_are_not_looked_at(stored):
    """143 is input_param in BVLC's Caffe, and interp_param elsewhere."""
    net = stored(saved(cb.field(106, CONVOLUTION), cb.field(143, b"\xff\xff\xff")))
    assert network.build(net, network.Options()).net.blobs["out"].shape == (2, 4, 3, 5)


def test_an_enum_value_that_bvlc_lacks(stored):
    with pytest.raises(UnsupportedModel, match="pool is 7, which means nothing in BVLC's Caffe"):
        stored(saved(cb.field(121, cb.number(1, 7) + cb.number(2, 2)), type="Pooling"))


@pytest.mark.parametrize(
    ("number", "read"),
    [(0xFFFFFFFF, -1), (0xFFFFFFFFFFFFFFFF, -1), (1 << 32 | 2, 2)],
    ids=["32 bits", "64 bits", "too many bits"],
)
def test_numbers_are_cut_as_protobuf_cuts_them(number, read, stored):
    net = stored(saved(cb.field(104, cb.number(2, number)), type="Concat"))
    assert net.fields["layer"][-1].fields["concat_param"].fields["axis"] == read


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (cb.field(3, b"a" * 70_000), "a text of 70000 bytes; at most 65536 expected"),
        (cb.field(106, cb.field(4, b"\x01" * (1 << 18))), "more than 262144 bytes of parameters"),
        (cb.field(106, cb.field(7, b"x" * 9)), "ConvolutionParameter.weight_filler|number"),
        (cb.field(106, cb.tag(1, 2) + b"\x7f"), "ConvolutionParameter.num_output has 127 bytes"),
        (cb.number(106, 3), "LayerParameter.convolution_param cannot have wire type 0"),
        (cb.field(106, b"\x08"), "the message ends within a number"),
        (cb.field(104, b"\xff"), "the message ends within a number"),
    ],
    ids=["text", "many numbers", "garbage", "length", "wire type", "cut off", "other message"],
)
def test_damage_has_its_place(part, message, stored):
    with pytest.raises(MalformedModel, match=message) as caught:
        stored(saved(part, type="Convolution" if part[0] != 0xC2 else "Concat"))
    place = "" if "wire type" in message else ", layer 'x'"
    assert re.search(rf"net\.caffemodel, byte \d+{place}$", caught.value.where)


def test_unpacked_and_packed_lists(stored):
    coefficients = np.array([0.5, -1.25], "<f4")
    for content in (cb.packed(2, coefficients), cb.unpacked(2, coefficients)):
        net = stored(saved(cb.field(110, content), cb.field(3, "data"), type="Eltwise"))
        parameter = net.fields["layer"][-1].fields["eltwise_param"]
        assert parameter.fields["coeff"] == [0.5, -1.25]
    odd = cb.field(110, cb.field(2, struct.pack("<f", 1) + b"x"))
    with pytest.raises(MalformedModel, match="5 bytes are no whole number of values"):
        stored(saved(odd, type="Eltwise"))


def test_no_layers(stored):
    with pytest.raises(MalformedModel, match="there are no layers in this file"):
        stored(cb.field(1, "name") + bytes([0x50, 0x03]))
