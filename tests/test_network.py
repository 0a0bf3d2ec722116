"""From layers to a net: rules, inputs, losses, single assignment, shared memory, the cut, refusals.

Long for being tables. The rules are those of Caffe's net.cpp, blob.cpp and insert_splits.cpp.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel, UsageError
from schemas.graph_json import net_document
from stage_extract import network, prototxt, upgrade
from tests.paths import GOLDENS, needs_shared
from tests.prototxts import FILE, build, dims, inputs, layer, seeded, values

DATA = inputs(data=(2, 3, 5, 7))
CONV = "convolution_param { num_output: 4 kernel_size: 3 }"
IP = "inner_product_param { num_output: 4 }"


def refused(kind, *text, **options):
    """The error of a net that must be refused, as the user reads it."""
    with pytest.raises(ConversionError) as caught:
        build(*text, **options)
    assert type(caught.value) is kind, caught.value
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(built):
    return [each.name for each in built.net.layers]


def find(built, name):
    (found,) = [each for each in built.net.layers if each.name == name]
    return found


def relu(x):
    return np.maximum(x, 0)


# ---- Include and exclude rules -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "state", "expected"),
    [
        ("", {}, True),
        ("include {}", {}, True),
        ("exclude {}", {}, False),
        ("include { phase: TEST }", {}, True),
        ("include { phase: TRAIN }", {}, False),
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("exclude { phase: TRAIN }", {}, True),
        ("exclude { phase: TRAIN }", {"phase": "TRAIN"}, False),
        ("include { phase: TRAIN } include { phase: TEST }", {}, True),
        ("exclude { phase: TRAIN } exclude { stage: 's' }", {"stages": ("s",)}, False),
        ("include { min_level: 2 }", {}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("include { min_level: -1 }", {}, True),
        ("include { max_level: -1 }", {}, False),
        ("include { min_level: -3 max_level: -1 }", {"level": -2}, True),
        ("include { stage: 'a' }", {}, False),
        ("include { stage: 'a' }", {"stages": ("b", "a")}, True),
        ("include { stage: 'a' stage: 'b' }", {"stages": ("a",)}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ("a", "b")}, True),
        ("include { not_stage: 'a' }", {}, True),
        ("include { not_stage: 'a' not_stage: 'b' }", {"stages": ("b",)}, False),
        ("include { phase: TEST stage: 'a' }", {}, False),
        ("include { phase: TEST stage: 'a' min_level: 1 }", {"stages": ("a",), "level": 1}, True),
        ("exclude { phase: TEST not_stage: 'a' }", {"stages": ("a",)}, True),
    ],
)
def test_rules(rules, state, expected):
    built = build(DATA, layer("ReLU", tops="r", parameters=rules), layer("TanH"), **state)
    assert ("r" in names(built)) is expected


@pytest.mark.parametrize(
    ("in_file", "options", "expected"),
    [
        ("stage: 'a'", {}, ["r", "out"]),
        ("stage: 'b'", {"stages": ("a",)}, ["r", "s", "out"]),
        ("stage: 'a' stage: 'b' level: 4", {}, ["r", "s", "t", "out"]),
        ("level: 4", {"level": 3}, ["out"]),
        ("level: 3", {"level": 4}, ["t", "out"]),
        ("phase: TRAIN", {}, ["out"]),  # the phase is always the command line's, as in PyCaffe
    ],
)
def test_the_files_own_state(in_file, options, expected):
    built = build(
        f"state {{ {in_file} }}",
        DATA,
        layer("ReLU", tops="r", parameters="include { stage: 'a' }"),
        layer("ReLU", tops="s", parameters="include { stage: 'b' }"),
        layer("ReLU", tops="t", parameters="include { min_level: 4 }"),
        layer("ReLU", tops="u", parameters="include { phase: TRAIN }"),
        layer("TanH"),
        **options,
    )
    assert names(built) == expected


def test_the_state_as_caffe_is_to_have_it():
    net = upgrade.upgrade(prototxt.parse("state { stage: 'a' stage: 'b' level: 2 }" + DATA, FILE))
    found = network.with_state(net, network.Options(stages=("b", "c")))
    assert (found.stages, found.level) == (("b", "c", "a"), 2)
    assert network.with_state(net, found) == found
    assert network.with_state(net, network.Options(level=1)).level == 1


def test_include_and_exclude_together():
    text = layer("ReLU", parameters="include { phase: TEST } exclude { phase: TRAIN }")
    message = refused(MalformedModel, DATA, text)
    assert message.startswith("net.prototxt, line 2: layer 'out' has both include and exclude")


# ---- Sources -------------------------------------------------------------------------------------

DATABASE = layer("Data", "", "data label", "data_param { batch_size: 8 }", name="db")


def test_a_data_layer_becomes_an_input():
    transform = "transform_param { crop_size: 5 scale: 0.5 mean_value: 1 mean_value: 2 }"
    built = build(
        layer("Data", "", "data", f"{transform} data_param {{ batch_size: 8 }}"), layer("TanH")
    )
    assert built.net.inputs == ("data",)
    assert built.net.blobs["data"].shape == (8, 2, 5, 5)
    assert built.preprocessing == {"data": {"crop_size": 5, "scale": 0.5, "mean_value": [1.0, 2.0]}}
    assert names(built) == ["out"]


def test_preprocessing_is_of_the_first_top_and_follows_its_key():
    text = "transform_param { scale: 0.5 } memory_data_param { batch_size: 2 channels: 3 "
    text += "height: 5 width: 7 }"
    built = build(
        layer("MemoryData", "", "data label", text, name="source"),
        layer("ReLU", "data", "data", name="r"),
        layer("TanH", "label", "t"),
    )
    assert built.preprocessing == {"data@source": {"scale": 0.5}}
    assert built.net.inputs == ("data@source", "label")


def test_a_missing_shape_is_asked_for():
    assert refused(MalformedModel, DATABASE, layer("TanH")) == (
        "net.prototxt, layer 'db' (Data, line 1): the prototxt does not tell the shape of 'data' "
        "(give it with --input-shape data=N,C,H,W)"
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (layer("HDF5Data", "", "x data", "hdf5_data_param { batch_size: 2 }"), "x"),
        (layer("Input", "", "data"), "data"),
        ("input: 'data'", "data"),
        ("input: 'data' input: 'second'", "data"),
    ],
    ids=["hdf5", "input layer", "input", "inputs"],
)
def test_what_cannot_tell_a_shape(text, asked):
    assert f"--input-shape {asked}=N,C,H,W" in refused(MalformedModel, text, layer("TanH"))


@pytest.mark.parametrize(
    "text",
    [
        DATABASE,
        DATA,
        "input: 'data'",
        "input: 'data' input_dim: 9 input_dim: 9 input_dim: 9 input_dim: 9",
        layer("HDF5Data", "", "data", "hdf5_data_param { batch_size: 2 }"),
        layer("MemoryData", "", "data label", "memory_data_param { batch_size: 4 }"),
    ],
    ids=["database", "input layer", "input", "input_dim", "hdf5", "memory"],
)
def test_a_given_shape_goes_before_the_prototxts(text):
    given = {"data": (4, 1, 5, 7), "label": (4,)} if "label" in text else {"data": (4, 1, 5, 7)}
    built = build(text, layer("TanH"), input_shapes=given)
    assert built.net.blobs["data"].shape == built.net.blobs["out"].shape == (4, 1, 5, 7)


def test_a_given_shape_and_a_known_one_of_the_same_layer():
    built = build(DATABASE, layer("TanH"), input_shapes={"data": (8, 3, 5, 7)})
    assert built.net.blobs["label"].shape == (8,)
    assert set(built.net.inputs) == {"data", "label"}


def test_a_shape_for_no_input():
    options = {"input_shapes": {"dta": (1, 3, 5, 7)}}
    message = refused(UsageError, DATA, layer("TanH"), **options)
    assert message == "--input-shape: the net has no input 'dta' (its inputs: 'data')"


@pytest.mark.parametrize("shape", [(1, 3, 10**5, 10**5), (0, 3, 5, 7), (-1, 3)], ids=str)
def test_an_impossible_shape(shape):
    message = refused(MalformedModel, DATA, layer("TanH"), input_shapes={"data": shape})
    assert str(list(shape)) in message
    assert "layer 'data'" in message


def test_an_input_that_another_layer_makes():
    message = refused(MalformedModel, DATA, layer("TanH", tops="x"), inputs(x=(2, 3, 5, 7)))
    assert "line 3): input 'x' is already the top of another layer" in message


@pytest.mark.parametrize("text", ["name: 'empty' layer { }", "input: 'data' input_dim: 1"])
def test_a_net_that_is_not_there(text):
    refused(MalformedModel, text)


def test_no_layer_in_this_phase():
    text = layer("TanH", parameters="include { phase: TRAIN }")
    assert "no layers (check --phase" in refused(MalformedModel, text)


def test_inputs_alone_are_no_net():
    assert "nothing is left" in refused(UnsupportedModel, DATA)


def test_no_input():
    assert "bottom 'data' is the top of no earlier" in refused(MalformedModel, layer("TanH"))
    generated = layer("Split", "", "x")
    assert "no input (add an Input layer" in refused(MalformedModel, generated)


# ---- Losses, labels and sinks --------------------------------------------------------------------

TRAIN_VAL = (
    layer("Data", "", "data label", "include { phase: TRAIN } transform_param { crop_size: 5 } "
          "data_param { batch_size: 16 }"),
    layer("Data", "", "data label", "include { phase: TEST } transform_param { crop_size: 5 } "
          "image_data_param { } data_param { batch_size: 8 }"),
    layer("Convolution", "data", "conv", CONV),
    layer("ReLU", "conv", "conv", name="relu"),
    layer("InnerProduct", "conv", "ip", IP),
    layer("Accuracy", "ip label", "accuracy", "include { phase: TEST }"),
    layer("SoftmaxWithLoss", "ip label", "loss"),
)  # fmt: skip


@pytest.mark.parametrize(("phase", "batch"), [("TEST", 8), ("TRAIN", 16)])
def test_a_net_for_training(phase, batch):
    built = build(*TRAIN_VAL, phase=phase, input_shapes={"data": (batch, 3, 5, 5)})
    assert built.net.inputs == ("data",)
    assert built.net.outputs == ("prob",)
    assert names(built) == ["conv", "relu", "ip", "prob"]
    assert built.net.layers[-1].type == "Softmax"
    assert built.net.dynamic_batch
    assert (
        "layer 'loss' (SoftmaxWithLoss, line 7): its Softmax stays, and makes 'prob'" in built.notes
    )
    dropped = [note for note in built.notes if note.startswith("dropped")]
    assert len(dropped) == 1
    assert "'loss' (SoftmaxWithLoss, line 7)" in dropped[0]
    assert ("'accuracy'" in dropped[0]) is (phase == "TEST")


HEAD = (inputs(data=(2, 3, 5, 7), label=(2, 4)), layer("InnerProduct", "data", "ip", IP))


@pytest.mark.parametrize(
    "text",
    [
        [layer("HingeLoss", "ip label", "loss")],
        [layer("HingeLoss", "ip label", [], name="loss")],
        [
            layer("Slice", "label", "l1 l2"),
            layer("EuclideanLoss", "ip l1", "a"),
            layer("EuclideanLoss", "ip l2", "b"),
        ],
        [
            layer("Split", "label", "l1 l2"),
            layer("HingeLoss", "ip l1", "loss"),
            layer("Silence", "l2", [], name="quiet"),
        ],
        [
            layer("Power", "label", "half", "power_param { scale: 0.5 }"),
            layer("ReLU", "half", "half", name="r"),
            layer("Flatten", "half", "flat"),
            layer("EuclideanLoss", "ip flat", "loss"),
        ],
        [layer("EuclideanLoss", "label ip", "loss")],
        [layer("HingeLoss", "ip label", "loss"), layer("Silence", "loss", [], name="quiet")],
        [
            layer("HingeLoss", "ip label", "loss"),
            layer("Power", "loss", "scaled", "power_param { scale: 0.5 }"),
        ],
        [layer("Accuracy", "ip label", "top1 classes"), layer("HingeLoss", "ip label", "loss")],
        [layer("Silence", "label", [], name="quiet")],
    ],
    ids=[
        "plain", "no top", "through a slice", "through a split", "through layers",
        "label first", "silenced loss", "loss read on", "scores", "silenced label",
    ],
)  # fmt: skip
def test_labels_go_and_predictions_stay(text):
    built = build(*HEAD, *text)
    assert built.net.inputs == ("data",)
    assert built.net.outputs == ("ip",)
    assert names(built) == ["ip"]


def test_what_else_reads_the_label_keeps_it():
    built = build(*HEAD, layer("EuclideanLoss", "ip label", "loss"), layer("TanH", "label", "t"))
    assert built.net.inputs == ("data", "label")
    assert built.net.outputs == ("ip", "t")


SOFTMAX_LOSS = layer("SoftmaxWithLoss", "ip label", "loss")


@pytest.mark.parametrize(
    ("text", "outputs", "kept"),
    [
        ([SOFTMAX_LOSS], ["prob"], ["ip", "prob"]),
        ([layer("SoftmaxWithLoss", "ip label", [], name="loss")], ["prob"], ["ip", "prob"]),
        ([layer("SoftmaxWithLoss", "ip label", "loss p")], ["p"], ["ip", "prob"]),
        ([layer("SigmoidCrossEntropyLoss", "ip label", "loss")], ["prob"], ["ip", "prob"]),
        (
            [layer("DummyData", "", "h", "dummy_data_param { shape { dim: 4 dim: 4 } }"),
             layer("InfogainLoss", "ip label h", "loss")],
            ["prob"],
            ["ip", "prob"],
        ),
        ([layer("Softmax", "ip", "p"), SOFTMAX_LOSS], ["p"], ["ip", "p"]),
        (
            [layer("TanH", "ip", "ip", name="t"), SOFTMAX_LOSS],
            ["prob"],
            ["ip", "t", "prob"],
        ),
        (
            [layer("Power", "data", "prob"), SOFTMAX_LOSS],
            ["prob", "prob'"],
            ["ip", "prob", "prob'"],
        ),
        (
            [
                layer("SoftmaxWithLoss", "ip label", "loss p"),
                layer("ArgMax", "p", "best"),
                layer("Power", "loss", "scaled", "power_param { scale: 0.5 }"),
            ],
            ["best"],
            ["ip", "prob", "best"],
        ),
        (
            [layer("TanH", "ip", "t"), SOFTMAX_LOSS, layer("SoftmaxWithLoss", "t label", "main")],
            ["prob"],
            ["ip", "t", "prob"],
        ),
        (
            [
                layer("TanH", "ip", "t"), layer("AbsVal", "ip", "a"),
                layer("SoftmaxWithLoss", "a label", "aux"),
                layer("SoftmaxWithLoss", "t label", "main"),
            ],
            ["aux_prob", "main_prob"],
            ["ip", "t", "a", "aux_prob", "main_prob"],
        ),
        (
            [SOFTMAX_LOSS, layer("SoftmaxWithLoss", "ip label", "again")],
            ["prob"],
            ["ip", "prob"],
        ),
    ],
    ids=[
        "softmax", "no top", "a top of its own", "sigmoid", "infogain", "there already", "in place",
        "the name is taken", "read on", "not read on", "two ends", "two losses of one blob",
    ],
)  # fmt: skip
def test_a_loss_leaves_its_head(text, outputs, kept):
    """Softmax or Sigmoid, where the net ends in the loss (loss layers' own SetUp)."""
    built = build(*HEAD, *text)
    assert built.net.inputs == ("data",)
    assert list(built.net.outputs) == outputs
    assert names(built) == kept


def test_a_head_can_be_asked_for_and_keeps_its_axis():
    text = (
        inputs(data=(2, 3, 5, 7), label=(2, 3, 5)), layer("TanH", "data", "t"),
        layer("SoftmaxWithLoss", "t label", "loss",
              "softmax_param { axis: 3 } loss_param { ignore_label: 2 } loss_weight: 2"),
    )  # fmt: skip
    for outputs in (("prob",), ()):
        built = build(*text, outputs=outputs)
        assert built.net.outputs == ("prob",)
        np.testing.assert_allclose(values(built)["prob"].sum(3), 1, rtol=1e-5)
    assert build(*text, outputs=("t",)).net.outputs == ("t",)


def test_an_autoencoder_keeps_its_decoder():
    built = build(
        DATA,
        layer("Flatten", "data", "flat"),
        layer("InnerProduct", "flat", "code", IP),
        layer("InnerProduct", "code", "decoded", "inner_product_param { num_output: 105 }"),
        layer("EuclideanLoss", "decoded flat", "loss"),
    )
    assert names(built) == ["flat", "code", "decoded"]
    assert built.net.outputs == ("decoded",)


def test_a_loss_between_two_predictions_keeps_both():
    built = build(
        inputs(data=(2, 3, 5, 7), pair=(2, 3, 5, 7), same=(2,)),
        layer("InnerProduct", "data", "a", IP),
        layer("InnerProduct", "pair", "b", IP),
        layer("ContrastiveLoss", "a b same", "loss"),
        layer("EuclideanLoss", "a b", "distance"),
    )
    assert built.net.inputs == ("data", "pair")
    assert built.net.outputs == ("a", "b")


def test_the_order_tells_the_label_where_nothing_is_learned():
    built = build(
        DATA, inputs(label=(2, 3, 5, 7)), layer("TanH", "data", "t"),
        layer("EuclideanLoss", "t label", "loss"),
    )  # fmt: skip
    assert built.net.inputs == ("data",)
    assert built.net.outputs == ("t",)


@pytest.mark.parametrize(
    "source",
    [
        "input: 'data' input: 'label' input_shape { dim: 2 dim: 105 } input_shape { dim: 2 }",
        layer("Input", "", "data label", "input_param { shape { dim: 2 dim: 105 } "
              "shape { dim: 2 } }"),
        layer("DummyData", "", "data label", "dummy_data_param { shape { dim: 2 dim: 105 } "
              "shape { dim: 2 } }"),
        layer("DummyData", "", "label data", "dummy_data_param { shape { dim: 2 } "
              "shape { dim: 2 dim: 105 } }"),
        layer("Input", "", "label data", "input_param { shape { dim: 2 } "
              "shape { dim: 2 dim: 105 } }"),
    ],
    ids=["input", "input layer", "dummy", "dummy, label first", "label first"],
)  # fmt: skip
def test_shapes_stay_with_their_tops(source):
    built = build(
        source, layer("InnerProduct", "data", "ip", IP),
        layer("SoftmaxWithLoss", "ip label", "loss"),
    )  # fmt: skip
    assert built.net.inputs == ("data",)
    assert built.net.blobs["data"].shape == (2, 105)


@pytest.mark.parametrize(
    "text",
    [
        [layer("HingeLoss", "data label", "loss")],
        [layer("TanH", "label", "t"), layer("EuclideanLoss", "data t", "loss")],
        [layer("Silence", "data label", [], name="quiet")],
    ],
    ids=["loss", "label branch", "silence"],
)
def test_nothing_left(text):
    message = refused(UnsupportedModel, inputs(data=(2, 4), label=(2, 4)), *text)
    assert "nothing is left of the net without its losses" in message


@pytest.mark.parametrize(("phase", "batch"), [("TEST", 8), ("TRAIN", 16)])
def test_losses_are_kept(phase, batch):
    """The labels are inputs as the data layer has them; Caffe's outputs are the net's."""
    shapes = {"data": (batch, 3, 5, 5)}
    built = build(*TRAIN_VAL, phase=phase, input_shapes=shapes, keep_losses=True)
    scores = ["accuracy"] if phase == "TEST" else []
    assert built.net.inputs == ("data", "label")
    assert built.net.outputs == (*scores, "loss")
    assert names(built) == ["conv", "relu", "ip", *scores, "loss"]
    assert built.net.blobs["label"].shape == (batch,)
    assert all(built.net.blobs[key].shape == () for key in built.net.outputs)
    assert not built.net.dynamic_batch
    assert not [note for note in built.notes if note.startswith("dropped")]


def test_a_kept_loss_is_a_blob_like_any_other():
    """It is read on, silenced, cut at; without a name it takes its layer's."""
    text = [
        *HEAD,
        layer("EuclideanLoss", "ip label", "distance"),
        layer("Power", "distance", "scaled", "power_param { scale: 0.5 }", name="half"),
        layer("EuclideanLoss", "ip label", [], name="scaled"),
        layer("EuclideanLoss", "ip label", "quiet"),
        layer("Silence", "quiet", [], name="hush"),
    ]
    built = build(*text, keep_losses=True)
    assert built.net.outputs == ("scaled", "scaled'")
    named = "layer 'scaled' (EuclideanLoss, line 6): it names no top, called \"scaled'\" here"
    assert named in built.notes
    found = values(built)
    np.testing.assert_allclose(found["scaled"] * 2, found["scaled'"])
    cut = build(*text, keep_losses=True, outputs=("quiet",))
    assert (cut.net.outputs, names(cut)) == (("quiet",), ["ip", "quiet"])
    message = refused(UsageError, *text, outputs=("quiet",))
    assert "comes from a loss or score" in message and "--keep-losses" in message


def test_what_a_dropped_layer_has_of_its_own_is_not_looked_at():
    """A field that no schema knows, of data, losses and writers; elsewhere it is refused."""
    text = [
        layer("Data", "", "data", "data_param { batch_size: 2 of_a_fork: 3 }", name="db"),
        inputs(label=(2, 4)),
        layer("InnerProduct", "data", "ip", IP),
        layer("EuclideanLoss", "ip label", "loss", "loss_param { of_a_fork: 3 } other { a: 1 }"),
    ]
    shapes = {"data": (2, 3, 5, 7)}
    assert build(*text, input_shapes=shapes).net.outputs == ("ip",)
    message = refused(UnsupportedModel, *text, input_shapes=shapes, keep_losses=True)
    assert "unknown field: loss_param.of_a_fork of layer 'loss' (line 4), other of" in message
    assert "batch_size" not in message and "layer[0]" not in message


def test_silence_drops_what_only_it_reads():
    built = build(
        DATA,
        inputs(unused=(2, 2)),
        layer("TanH", "data", "t"),
        layer("Power", "t", "p"),
        layer("Sigmoid", "t", "s"),
        layer("ReLU", "p", "p", name="r"),
        layer("Silence", "unused p", [], name="quiet"),
    )
    assert names(built) == ["t", "s"]
    assert built.net.inputs == ("data",)
    assert built.net.outputs == ("s",)
    assert "dropped (nothing reads on): layer 'quiet' (Silence, line 7)" in built.notes


# ---- Single assignment ---------------------------------------------------------------------------


def test_the_last_value_has_the_plain_name():
    built = build(
        DATA,
        layer("Power", "data", "c", "power_param { shift: -1 }", name="c"),
        layer("Power", "c", "early", "power_param { scale: 2 }"),
        layer("ReLU", "c", "c", name="r"),
        layer("Dropout", "c", "c", name="d"),
        layer("Power", "c", "late", "power_param { scale: 2 }"),
    )
    net = built.net
    assert [(la.name, la.bottoms, la.tops) for la in net.layers] == [
        ("c", ("data",), ("c@c",)),
        ("early", ("c@c",), ("early",)),
        ("r", ("c@c",), ("c@r",)),
        ("d", ("c@r",), ("c",)),
        ("late", ("c",), ("late",)),
    ]
    assert net.names == {"data": "data", "c": "c", "early": "early", "late": "late"}
    assert net.outputs == ("early", "late")
    assert {blob.name for blob in net.blobs.values()} == set(net.names)
    found = values(built)
    np.testing.assert_array_equal(found["early"], (found["data"] - 1) * 2)
    np.testing.assert_array_equal(found["late"], relu(found["data"] - 1) * 2)


def test_an_input_written_in_place():
    net = build(DATA, layer("ReLU", "data", "data", name="r"), layer("TanH")).net
    assert net.inputs == ("data@data",)
    assert net.names["data"] == "data"
    assert net.blobs["data@data"].name == "data"


ODD = ["a@b", "@", "a/b", "a b", "ü", "quote'", 'double"', "back\\slash", "class", "a@b'", "tab\t"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names(name):
    built = build(
        DATA,
        layer("Power", "data", [name], "power_param { shift: -1 }", name=name),
        layer("ReLU", [name], [name], name=name + "@r"),
        layer("TanH", [name], "out"),
    )
    assert built.net.names[name] == name
    assert names(built) == [name, name + "@r", "out"]
    found = values(built)
    np.testing.assert_allclose(found["out"], np.tanh(relu(found["data"] - 1)), rtol=1e-6)


def test_names_that_look_like_keys():
    """Blobs are called as the earlier values of others are."""
    built = build(
        DATA,
        layer("Power", "data", "c", "power_param { shift: 1 }", name="p"),
        layer("Power", "data", ["c@p"], "power_param { shift: 2 }", name="q"),
        layer("Power", "data", ["c@p'"], "power_param { shift: 3 }", name="s"),
        layer("ReLU", "c", "c", name="r"),
        layer("Power", "data", ["c"], "power_param { shift: 4 }", name="p@r"),
        layer("Eltwise", ["c", "c@p", "c@p'"], "out"),
    )
    net = built.net
    assert net.names == {name: name for name in ("data", "c", "c@p", "c@p'", "out")}
    assert len(net.blobs) == 1 + len(net.layers)
    found = values(built)
    np.testing.assert_allclose(found["out"], 3 * found["data"] + 9, rtol=1e-5)


def test_a_top_that_another_layer_made():
    built = build(
        DATA,
        layer("Power", "data", "x", "power_param { shift: 1 }", name="one"),
        layer("TanH", "x", "t"),
        layer("Power", "data", "x", "power_param { shift: 2 }", name="two"),
        layer("Sigmoid", "x", "s"),
    )
    assert find(built, "t").bottoms == ("x@one",)
    assert find(built, "s").bottoms == ("x",)
    assert built.notes == (
        "layer 'two' (Power, line 4): top 'x' replaces an earlier blob of that name",
    )


def test_in_place_goes_by_the_place():
    """Only a top that stands where the bottom stands is in place."""
    text = [DATA, layer("Power", "data", "x"), layer("Power", "data", "y")]
    built = build(*text, layer("Eltwise", "x y", "y", name="sum"))
    assert "top 'y' replaces" in built.notes[0]
    assert build(*text, layer("Eltwise", "x y", "x", name="sum")).notes == ()


def test_a_top_listed_twice():
    message = refused(MalformedModel, DATA, layer("Slice", "data", "a a", name="s"))
    assert "layer 's' (Slice, line 2): a top is listed twice" in message


def test_equal_nets_give_equal_documents():
    text = [DATA, layer("Split", "data", "b a"), layer("ReLU", "a", "a", name="r")]
    assert net_document(build(*text).net) == net_document(build(*text).net)


# ---- Shared memory -------------------------------------------------------------------------------

VIEWS = {
    "split": ("Split", ""),
    "flatten": ("Flatten", ""),
    "reshape": ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }"),
    "reshape-batch": ("Reshape", "reshape_param { shape { dim: 6 dim: -1 } }"),
    "concat": ("Concat", ""),
    "slice": ("Slice", ""),
}


@pytest.mark.parametrize("view", VIEWS)
def test_in_place_changes_all_that_share_the_memory(view):
    type_, parameters = VIEWS[view]
    built = build(
        DATA,
        layer("Power", "data", "x", "power_param { shift: 1 }"),
        layer("TanH", "x", "before"),
        layer(type_, "x", "v", parameters),
        layer("ReLU", "v", "v", name="r"),
        layer("TanH", "x", "after"),
        layer("TanH", "v", "seen"),
    )
    found = values(built)
    x = found["data"] + 1
    np.testing.assert_allclose(found["before"], np.tanh(x), rtol=1e-5)
    np.testing.assert_allclose(found["after"], np.tanh(relu(x)), rtol=1e-5)
    np.testing.assert_allclose(found["seen"].reshape(x.shape), np.tanh(relu(x)), rtol=1e-5)
    assert built.net.outputs == ("after", "before", "seen")
    reshaped = [la for la in built.net.layers if la.name == "x@r"]
    assert len(reshaped) == (built.net.blobs["v"].shape != x.shape)
    assert built.net.dynamic_batch is (view != "reshape-batch")
    if built.net.dynamic_batch:  # the Reshape that was put between takes any batch
        wide = np.concatenate([found["data"], found["data"][:1]])
        after = values(built, {"data": wide})["after"]
        np.testing.assert_array_equal(after[:2], found["after"])


@pytest.mark.parametrize(
    ("type_", "bottoms", "parameters"),
    [
        ("Power", "x", ""),
        ("Concat", "x x", ""),
        ("Dropout", "x", ""),
        ("Slice", "x", "slice_param { slice_point: 1 }"),
    ],
)
def test_other_layers_copy(type_, bottoms, parameters):
    built = build(
        DATA,
        layer("Power", "data", "x"),
        layer(type_, bottoms, "v w" if type_ == "Slice" else "v", parameters),
        layer("ReLU", "v", "v", name="r"),
        layer("TanH", "x", "after"),
    )
    found = values(built)
    np.testing.assert_array_equal(found["after"], np.tanh(found["data"]))


def test_views_of_views():
    built = build(
        DATA,
        layer("Split", "data", "a b"),
        layer("Flatten", "a", "f"),
        layer("Reshape", "f", "g", "reshape_param { shape { dim: 0 dim: 7 dim: 15 } }"),
        layer("ReLU", "g", "g", name="r"),
        layer("TanH", "b", "t"),
        layer("Power", "f", "f", "power_param { shift: 1 }", name="p"),
        layer("TanH", "b", "u"),
        layer("TanH", "g", "w"),
    )
    found = values(built)
    data = found[built.net.inputs[0]]
    np.testing.assert_allclose(found["t"], np.tanh(relu(data)), rtol=1e-5)
    np.testing.assert_allclose(found["u"], np.tanh(relu(data) + 1), rtol=1e-5)
    np.testing.assert_allclose(found["w"].ravel(), np.tanh(relu(data) + 1).ravel(), rtol=1e-5)


def test_a_new_blob_of_the_name_leaves_the_memory():
    built = build(
        DATA,
        layer("Power", "data", "x"),
        layer("Split", "x", "a b"),
        layer("Power", "data", "a", "power_param { shift: 5 }", name="new"),
        layer("ReLU", "a", "a", name="r"),
        layer("TanH", "b", "t"),
    )
    found = values(built)
    np.testing.assert_array_equal(found["t"], np.tanh(found["data"]))


def test_an_unread_view_is_an_output_in_its_own_shape():
    built = build(
        DATA,
        layer("Split", "data", "a b"),
        layer("Flatten", "a", "f"),
        layer("ReLU", "f", "f", name="r"),
    )
    assert built.net.outputs == ("b", "f")
    found = values(built)
    np.testing.assert_array_equal(found["b"], relu(found[built.net.inputs[0]]))
    assert found["b"].shape == (2, 3, 5, 7)


def test_the_layer_put_between_has_a_free_name():
    built = build(
        DATA,
        layer("Flatten", "data", "f", name="data@r"),
        layer("ReLU", "f", "f", name="r"),
        layer("TanH", "data", "t"),
    )
    assert names(built) == ["data@r", "r", "data@r'", "t"]


@needs_shared
@pytest.mark.parametrize("kind", ["layers", "random"])
def test_outputs_are_caffes(kind):
    """Of every case that stage 1 reads whole."""
    compared = 0
    for folder in sorted((GOLDENS / kind).glob("*")):
        message = upgrade.upgrade(prototxt.read(folder / "net.prototxt"))
        try:
            built = network.build(message, network.Options())
        except (UnsupportedModel, MalformedModel):
            continue
        if any(note.startswith("dropped") for note in built.notes):
            continue
        with np.load(folder / "blobs.npz", allow_pickle=False) as blobs:
            outputs = [str(name) for name in blobs["outputs"]]
            keys = {built.net.names[name] for name in outputs}
            assert sorted(keys) == list(built.net.outputs), folder.name
            for name in outputs:
                found = built.net.blobs[built.net.names[name]]
                expected = list(blobs["blob:" + name.replace("/", "%2F")].shape)
                if found.varying is not None:  # before the first pass, all rows are there
                    expected[found.varying] = found.shape[found.varying]
                assert found.shape == tuple(expected), folder.name
        compared += 1
    assert compared >= 30


# ---- The cut -------------------------------------------------------------------------------------

BRANCHES = (
    DATA,
    layer("Power", "data", "x", "power_param { shift: 1 }"),
    layer("ReLU", "x", "x", name="r"),
    layer("TanH", "x", "t"),
    layer("Sigmoid", "x", "s"),
    layer("Eltwise", "t s", "sum"),
)


@pytest.mark.parametrize(
    ("outputs", "expected", "kept"),
    [
        (("t",), ("t",), ["x", "r", "t"]),
        (("x",), ("x",), ["x", "r"]),
        (("t", "s"), ("s", "t"), ["x", "r", "t", "s"]),
        (("sum", "x"), ("sum", "x"), ["x", "r", "t", "s", "sum"]),
    ],
    ids=["branch", "in place", "two", "with an intermediate"],
)
def test_outputs_cut_the_net(outputs, expected, kept):
    built = build(*BRANCHES, outputs=outputs)
    assert built.net.outputs == expected
    assert names(built) == kept
    whole, cut = values(build(*BRANCHES)), values(built)
    for key in expected:
        np.testing.assert_array_equal(cut[key], whole[key])


def test_the_cut_keeps_what_writes_to_shared_memory():
    text = (
        DATA,
        layer("Split", "data", "a b"),
        layer("ReLU", "a", "a", name="r"),
        layer("TanH", "b", "t"),
        layer("Power", "a", "a", "power_param { shift: 1 }", name="p"),
    )
    whole = values(build(*text))
    for output, kept in (("t", ["a", "r", "t"]), ("b", ["a", "r", "p"])):
        built = build(*text, outputs=(output,))
        assert names(built) == kept
        key = built.net.names[output]
        assert built.net.outputs == (key,)
        np.testing.assert_array_equal(values(built)[key], whole[build(*text).net.names[output]])


def test_the_cut_takes_a_view_in_its_own_shape():
    text = (DATA, layer("Flatten", "data", "f"), layer("ReLU", "f", "f", name="r"))
    built = build(*text, outputs=("data",))
    (output,) = built.net.outputs
    found = values(built)
    np.testing.assert_array_equal(found[output], relu(seeded(built.net)[built.net.inputs[0]]))


def test_an_unknown_output():
    message = refused(UsageError, *BRANCHES, outputs=("sun",))
    assert message == "--outputs: the net has no blob 'sun' (did you mean 'sum'?)"
    message = refused(UsageError, *BRANCHES, outputs=("t", "nothing-like-it"))
    assert message.endswith("'nothing-like-it' (`inspect` lists the blobs)")


def test_the_cut_leaves_the_unsupported_behind():
    text = (
        *HEAD,
        layer("Strange", "ip", "strange", "foo: 1"),
        layer("SoftmaxWithLoss", "strange label", "loss"),
    )
    assert "Strange" in refused(UnsupportedModel, *text)
    built = build(*text, outputs=("ip",))
    assert names(built) == ["ip"]
    assert built.net.inputs == ("data",)


def test_a_loss_is_no_output():
    message = refused(UsageError, *TRAIN_VAL, outputs=("loss",))
    assert "--outputs: blob 'loss' comes from a loss or score" in message


def test_an_input_alone_is_no_output():
    assert "nothing is left" in refused(UnsupportedModel, *BRANCHES, outputs=("data",))


# ---- Names of layers -----------------------------------------------------------------------------


def test_a_repeated_layer_name():
    built = build(
        DATA, layer("TanH", "data", "a", name="x"), layer("TanH", "a", "b", name="x#2"),
        layer("TanH", "b", "c", name="x"), layer("TanH", "c", "d", name="x"),
    )  # fmt: skip
    assert names(built) == ["x", "x#2", "x#3", "x#4"]
    assert built.notes == (
        "layer 'x' (TanH, line 4): the name is taken, called 'x#3' here",
        "layer 'x' (TanH, line 5): the name is taken, called 'x#4' here",
    )


def test_a_layer_without_a_name():
    """Caffe takes it."""
    built = build(DATA, "layer { type: 'TanH' bottom: 'data' top: 'a' }",
                  "layer { type: 'TanH' bottom: 'a' top: 'b' }")  # fmt: skip
    assert names(built) == ["TanH", "TanH#2"]


def test_a_layer_without_a_type():
    message = refused(MalformedModel, DATA, "layer { name: 'a' bottom: 'data' top: 'a' }")
    assert message == "net.prototxt, line 2: layer 'a' has no type"


# ---- Refusals ------------------------------------------------------------------------------------


def test_an_unknown_bottom():
    message = refused(MalformedModel, DATA, layer("TanH", "data", "conv1"),
                      layer("TanH", "cnov1", "t"))  # fmt: skip
    assert message == (
        "net.prototxt, layer 't' (TanH, line 3): bottom 'cnov1' is the top of no earlier layer "
        "(did you mean 'conv1'?)"
    )
    message = refused(
        MalformedModel, DATA, layer("TanH", "later", "t"), layer("TanH", "t", "later")
    )
    assert "layer 't' (TanH, line 2): bottom 'later' is the top of no earlier layer" in message


def test_a_bottom_that_another_phase_makes():
    text = inputs(data=(2, 3, 5, 7)).replace(" }", " } include { phase: TRAIN }", 1)
    text = layer("MemoryData", "", "data", "include { phase: TRAIN } memory_data_param { "
                 "batch_size: 2 channels: 3 height: 5 width: 7 }", name="source")  # fmt: skip
    message = refused(MalformedModel, text, layer("TanH"))
    assert "layer 'source' (MemoryData, line 1) makes it, but not in phase TEST" in message
    assert build(text, layer("TanH"), phase="TRAIN").net.inputs == ("data",)


def test_everything_unsupported_is_told_at_once():
    message = refused(
        UnsupportedModel,
        DATA,
        layer("Warp", "data", "a"),
        layer("Pooling", "a", "b", "pooling_param { pool: MAX kernel_size: 2 sharpen: 1 }"),
        layer("Curl", "b", "c"),
        layer("Pooling", "c", "d", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"),
        layer("Curl", "d", "e"),
        "glow: true",
    )
    for part in (
        "unknown field: pooling_param.sharpen of layer 'b' (line 3), glow (line 7)",
        "--ignore-unknown passes over unknown fields",
        "layer type 'Warp' is not supported: 'a' (line 2)",
        "layer type 'Curl' is not supported: 'c' (line 4), 'e' (line 6)",
        "'d' (line 5)",
    ):
        assert part in message, message


def test_what_another_phase_has_is_not_judged():
    text = layer("Strange", "data", "x", "include { phase: TRAIN } foo { bar: 1 }")
    assert names(build(DATA, text, layer("TanH"))) == ["out"]


# ---- Shared parameters ---------------------------------------------------------------------------

TWO = inputs(a=(2, 3, 5, 7), b=(2, 3, 5, 7))


def conv(bottom, top, params, fields=CONV):
    return layer("Convolution", bottom, top, f"{params} {fields}")


def test_shared_parameters_have_one_key():
    shared = "param { name: 'w' } param { name: 'bias' }"
    built = build(TWO, conv("a", "ca", shared), conv("b", "cb", shared))
    assert find(built, "ca").weights == find(built, "cb").weights == ("ca/0", "ca/1")
    assert built.weight_shapes == {"ca": [(4, 3, 3, 3), (4,)]}


def test_parameters_shared_in_part():
    built = build(
        TWO,
        conv("a", "ca", "param { name: 'w' lr_mult: 1 } param { lr_mult: 2 }"),
        conv("b", "cb", "param { name: 'w' lr_mult: 1 } param { lr_mult: 2 }"),
    )
    assert find(built, "ca").weights == ("ca/0", "ca/1")
    assert find(built, "cb").weights == ("ca/0", "cb/1")
    assert built.weight_shapes["cb"] == [(4, 3, 3, 3), (4,)]


def test_a_parameter_shared_within_a_layer():
    scale = layer("Scale", "a", "s", "param { name: 'w' } param { name: 'w' } "
                  "scale_param { bias_term: true }")  # fmt: skip
    built = build(TWO, scale, layer("TanH", "b", "t"))
    assert find(built, "s").weights == ("s/0", "s/0")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("", MalformedModel), ("share_mode: STRICT", MalformedModel),
     ("share_mode: PERMISSIVE", UnsupportedModel)],
    ids=["default", "strict", "permissive"],
)  # fmt: skip
def test_shared_parameters_of_other_shapes(mode, kind):
    message = refused(
        kind,
        TWO,
        conv("a", "ca", "param { name: 'w' }"),
        conv("b", "cb", f"param {{ name: 'w' {mode} }}",
             "convolution_param { num_output: 4 kernel_h: 1 kernel_w: 5 }"),
    )  # fmt: skip
    assert "layer 'cb' (Convolution, line 4): shared parameter 'w'" in message
    assert "[4, 3, 1, 5] here and [4, 3, 3, 3] in 'ca/0'" in message


# ---- Batch ---------------------------------------------------------------------------------------


def test_a_dynamic_batch():
    built = build(*TRAIN_VAL, input_shapes={"data": (8, 3, 5, 5)})
    assert built.net.dynamic_batch
    assert {blob.batch for blob in built.net.blobs.values()} == {0}
    assert not any("batch" in note for note in built.notes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            [DATA, layer("Reshape", "data", "r", "reshape_param { shape { dim: 6 dim: -1 } }")],
            "layer 'r' (Reshape, line 2) mixes or renumbers samples",
        ),
        (
            [DATA, layer("TanH"), layer("Concat", "data data", "c", "concat_param { axis: 0 }"),
             layer("TanH", "c", "t")],
            "layer 'c' (Concat, line 3) mixes",
        ),
        (
            [inputs(data=(2, 3, 5, 7), rois=(4, 5)), layer("TanH"), layer("TanH", "rois", "t")],
            "the inputs have different first axes",
        ),
        (
            [DATA, layer("BatchNorm", "data", "n", "batch_norm_param { use_global_stats: false }")],
            "layer 'n' (BatchNorm, line 2) mixes",
        ),
    ],
    ids=["reshape", "concat", "inputs", "statistics"],
)  # fmt: skip
def test_a_fixed_batch_has_a_reason(text, reason):
    built = build(*text)
    assert not built.net.dynamic_batch
    (note,) = [note for note in built.notes if "batch" in note]
    assert note.startswith("the batch size is fixed as in the prototxt: ")
    assert reason in note


# ---- Hostile files -------------------------------------------------------------------------------

HUGE = 2**31 - 1
HOSTILE = {
    "num_output": layer("Convolution", "data", "c", "convolution_param { num_output: 2147483648 "
                        "kernel_size: 1 }"),
    "ip": layer("InnerProduct", "data", "c", f"inner_product_param {{ num_output: {HUGE} }}"),
    "pad": layer("Convolution", "data", "c", "convolution_param { num_output: 1 pad: 1000000000 "
                 "kernel_size: 1 }"),
    "kernel": layer("Convolution", "data", "c", f"convolution_param {{ num_output: 1 kernel_size: "
                    f"{HUGE} pad: {HUGE} }}"),
    "dilation": layer("Convolution", "data", "c", "convolution_param { num_output: 1 kernel_size: "
                      "3 dilation: 4294967295 }"),
    "stride 0": layer("Convolution", "data", "c", "convolution_param { num_output: 1 kernel_size: "
                      "1 stride: 0 }"),
    "group 0": layer("Convolution", "data", "c", "convolution_param { num_output: 1 kernel_size: "
                     "1 group: 0 }"),
    "deconvolution": layer("Deconvolution", "data", "c", "convolution_param { num_output: 1 "
                           "kernel_size: 1 stride: 1000000000 }"),
    "reshape": layer("Reshape", "data", "c", f"reshape_param {{ shape {{ {dims([10**18] * 4)} }} "
                     "}"),
    "reshape axes": layer("Reshape", "data", "c", "reshape_param { axis: -99 num_axes: 99 }"),
    "slice point": layer("Slice", "data", "a b", "slice_param { slice_point: 4294967295 }"),
    "crop": layer("Crop", "data data", "c", "crop_param { axis: 2 offset: 4294967295 }"),
    "axis": layer("Softmax", "data", "c", f"softmax_param {{ axis: {HUGE} }}"),
    "top_k": layer("ArgMax", "data", "c", "argmax_param { top_k: 4294967295 }"),
    "no bottoms": layer("Convolution", "", "c", CONV),
    "no tops": layer("Convolution", "data", [], CONV, name="c"),
    "wrong shape": layer("Scale", "data", "c", f"scale_param {{ axis: 0 num_axes: {HUGE} }}"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_sizes_are_refused_without_memory(case):
    build(DATA, layer("TanH"))  # loads the meanings
    tracemalloc.start()
    try:
        message = refused(MalformedModel, DATA, HOSTILE[case])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message.startswith("net.prototxt, layer ")
    assert "line" in message
    assert peak < 10e6


@pytest.mark.parametrize(
    "shape", [[HUGE, 2], [10**9] * 4, [2**63 - 1], [-1, 3], [0, 3, 5, 7]], ids=str
)
def test_hostile_inputs(shape):
    text = layer("Input", "", "data", f"input_param {{ shape {{ {dims(shape)} }} }}")
    assert str(shape) in refused(MalformedModel, text, layer("TanH"))


def test_padding_costs_nothing():
    """A window far larger than the image, which Caffe allows."""
    far = "pooling_param { pad: 1000000000 kernel_size: 2000000000 }"
    started = time.process_time()
    found = values(build(DATA, layer("Pooling", "data", "p", far)))
    assert time.process_time() - started < 5
    data, p = found["data"], found["p"]
    assert p.shape == (2, 3, 6, 8)
    np.testing.assert_array_equal(p, np.broadcast_to(data.max((2, 3), keepdims=True), p.shape))


def test_sizes_that_grow_layer_by_layer():
    double = "convolution_param { num_output: 3 kernel_size: 2 stride: 2 }"
    text = [
        layer("Deconvolution", f"b{i}" if i else "data", f"b{i + 1}", double) for i in range(64)
    ]
    assert "would have shape" in refused(MalformedModel, DATA, *text)


COUNT = 10_000
DEEP = {
    "chain": [layer("ReLU", f"b{i}" if i else "data", f"b{i + 1}") for i in range(COUNT)],
    "in place": [layer("ReLU", "data", "data", name=f"r{i}") for i in range(COUNT)],
    "one name": [layer("ReLU", "data", "data", name="r") for _ in range(COUNT)],
    "many views": [
        layer("Split", "data", [f"s{i}" for i in range(COUNT)], name="split"),
        *[layer("ReLU", "s0", "s0", name=f"r{i}") for i in range(COUNT)],
    ],
    "views of another shape": [
        *[layer("Flatten", "data", f"f{i}") for i in range(COUNT // 4)],
        *[layer("ReLU", "f0", "f0", name=f"r{i}") for i in range(COUNT // 4)],
        layer("Eltwise", [f"f{i}" for i in range(COUNT // 4)], "sum"),
    ],
    "losses": [
        layer("TanH", "data", "t"),
        *[layer("EuclideanLoss", "t data", f"l{i}") for i in range(COUNT)],
    ],
}


@pytest.mark.parametrize("case", DEEP)
def test_deep_nets_take_time_in_proportion(case):
    """A step that looks at all blobs or layers for each layer would take minutes."""
    started = time.process_time()
    built = build(DATA, *DEEP[case])
    assert time.process_time() - started < 20
    assert built.net.layers


def test_refusals_that_need_shapes_are_told_together():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
    layer { name: "g" type: "Reshape" bottom: "x" top: "g"
            reshape_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 dim: 1 } } }
    layer { name: "p" type: "Slope" bottom: "g" top: "m" }
    layer { name: "after" type: "ReLU" bottom: "m" top: "r" }
    layer { name: "c" type: "ShuffleChannel" bottom: "g" top: "c" }
    """
    with pytest.raises(UnsupportedModel) as refused:
        network.build(upgrade.upgrade(prototxt.parse(text, "n.prototxt")), network.Options())
    assert "layer 'p' (Slope, line 5)" in str(refused.value)
    assert "layer 'c' (ShuffleChannel, line 7)" in str(refused.value)
    assert "after" not in str(refused.value)
