"""Recurrent nets: which blobs are time-major, and the class at other lengths and batch sizes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from schemas.errors import MalformedModel
from schemas.graph_json import Checked, net_document, net_from
from stage_build import layout
from stage_build.artefacts import export, models
from stage_build.artefacts.check import check_batch
from stage_build.lowering.registry import lower
from stage_build.verify import compare, users_reference
from stage_extract import reference
from tests import nets
from tests.forms import Form
from tests.forms.recurrent import SEQUENCES
from tests.prototxts import inputs, layer

TOLERANCE = 1e-5
LSTM = "recurrent_param { num_output: 4 }"


def blobs(*text):
    """Blob name -> (batch, sequence), and the net."""
    net = nets.net(*text, record=False).net
    return {
        name: (net.blobs[key].batch, net.blobs[key].sequence) for name, key in net.names.items()
    }, net


CAPTION = (
    inputs(words=(6, 3), cont=(6, 3), image=(3, 5)),
    layer("Embed", "words", "embed", "embed_param { input_dim: 10 num_output: 7 }"),
    layer("LSTM", "embed cont image", "lstm1", LSTM),
    layer("LSTM", "lstm1 cont", "lstm2", LSTM),
    layer("InnerProduct", "lstm2", "scores", "inner_product_param { num_output: 10 axis: 2 }"),
    layer("Softmax", "scores", "prob", "softmax_param { axis: 2 }"),
)


def test_what_recurrent_layers_read_is_time_major():
    found, net = blobs(*CAPTION)
    assert found.pop("image") == (0, False)
    assert set(found.values()) == {(1, True)}
    assert net.dynamic_batch
    assert net.free_axes("words") == (0, 1)
    assert net.free_axes("image") == (0,)
    assert reference.reference_shapes(net) == {"words": (6, 1), "cont": (6, 1), "image": (1, 5)}


def test_states_have_a_batch_on_axis_1_and_no_length():
    found, net = blobs(
        inputs(x=(6, 3, 2), cont=(6, 3), h=(1, 3, 4), c=(1, 3, 4)),
        layer("LSTM", "x cont h c", "out h_last c_last", LSTM[:-1] + "expose_hidden: true }"),
    )
    assert found == {
        **dict.fromkeys(("x", "cont", "out"), (1, True)),
        **dict.fromkeys(("h", "c", "h_last", "c_last"), (1, False)),
    }
    assert net.free_axes("h") == (1,)


@pytest.mark.parametrize(
    ("between", "kept"),
    [
        ("", True),  # the sequences go to the recurrent layer as they are
        (
            layer("Reshape", "data", "data", "reshape_param { shape { dim: 0 dim: 0 dim: -1 } }"),
            True,
        ),
        (
            layer("Reshape", "data", "data", "reshape_param { shape { dim: -1 dim: 0 dim: 6 } }"),
            True,
        ),
        (layer("Flatten", "data", "data", "flatten_param { axis: 2 }"), True),
        (layer("Power", "data", "data", "power_param { shift: 1 }"), True),
        (layer("Slice", "data", "data rest", "slice_param { axis: 2 slice_point: 1 }"), True),
        (layer("Eltwise", "data data", "data"), True),
        (layer("Concat", "data data", "data", "concat_param { axis: 2 }"), True),
        (layer("Reverse", "data", "data", "reverse_param { axis: 0 }"), True),
        # What mixes steps, or makes their number known.
        (
            layer("Reshape", "data", "data", "reshape_param { shape { dim: 6 dim: 0 dim: -1 } }"),
            False,
        ),
        (layer("Softmax", "data", "data", "softmax_param { axis: 0 }"), False),
        (layer("Scale", "data", "data", "scale_param { axis: 0 }"), False),
        (layer("ArgMax", "data", "data", "argmax_param { axis: 1 top_k: 3 }"), False),
    ],
    ids=lambda value: str(value).split('"')[1] if "{" in str(value) else "",
)
def test_layers_that_keep_time_and_batch_apart(between, kept):
    between = between.replace('top: "data"', 'top: "seq"')
    x = "seq" if between else "data"
    found, net = blobs(
        inputs(data=(6, 3, 2, 3), cont=(6, 3)), between, layer("LSTM", f"{x} cont", "out", LSTM)
    )
    assert net.dynamic_batch is kept
    assert [net.blobs[net.names["out"]].sequence, found["out"][0] == 1] == [kept, kept]


def test_a_batch_that_becomes_axis_1_is_followed():
    """Images (N, C, 1, W) -> (W, N, C): any number of images, of one width."""
    found, net = blobs(
        inputs(image=(2, 3, 1, 6), cont=(6, 2)),
        layer("Convolution", "image", "conv", "convolution_param { num_output: 4 kernel_size: 1 }"),
        layer("Transpose", "conv", "t", "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }"),
        layer("Reshape", "t", "seq", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }"),
        layer("LSTM", "seq cont", "out", LSTM),
    )
    assert found["image"] == (0, False)
    assert found["t"] == (2, False)
    assert found["seq"] == (1, False)
    assert found["cont"] == found["out"] == (1, True)
    assert net.dynamic_batch
    assert net.free_axes("image") == (0,)


@pytest.mark.parametrize(
    "after",
    [
        layer("Flatten", "lstm", "out", "flatten_param { axis: 0 end_axis: 1 }"),
        layer("Reshape", "lstm", "out", "reshape_param { shape { dim: -1 dim: 4 } }"),
        layer("InnerProduct", "lstm", "out", "inner_product_param { num_output: 2 }"),
        layer("Slice", "lstm", "out last", "slice_param { axis: 0 }"),
        layer("Permute", "lstm", "out", "permute_param { order: 1 order: 0 }"),
        layer("Pooling", "lstm4", "out", "pooling_param { kernel_size: 1 }"),
    ],
    ids=["flatten", "reshape", "inner-product", "slice", "permute", "pooling"],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_out_of_the_order_the_batch_is_fixed(after, steps):
    """Even with one step, which a layer might take for no axis at all."""
    four = layer(
        "Reshape", "lstm", "lstm4", "reshape_param { shape { dim: 0 dim: 0 dim: 2 dim: 2 } }"
    )
    content = nets.net(
        inputs(x=(steps, 3, 2), cont=(steps, 3)),
        layer("LSTM", "x cont", "lstm", LSTM),
        *([four] if "lstm4" in after else []),
        after if steps == 2 else after.replace('top: "last"', ""),
        record=False,
    )
    net = content.net
    assert not net.dynamic_batch
    assert net.blobs["out"].batch is None
    assert not net.blobs["out"].sequence
    assert net.free_axes("x") == ()


def test_the_order_passes_to_stage_2_and_is_checked():
    _, net = blobs(*CAPTION)
    document = net_document(net)

    def read():
        return net_from(Checked(document, "net", lambda text: MalformedModel(text, "file")))

    assert read().blobs == net.blobs
    del document["blobs"]["image"]["sequence"]  # as in older files
    assert read().blobs == net.blobs
    for name, changes, message in [
        ("image", {"batch": 2}, r"net.blobs.image.batch is 2, the blob has 2 axes"),
        ("image", {"batch": -1}, r"net.blobs.image.batch is -1"),
        ("image", {"sequence": True}, r"net.blobs.image is a sequence whose batch is not axis 1"),
    ]:
        kept = dict(document["blobs"][name])
        document["blobs"][name].update(changes)
        with pytest.raises(MalformedModel, match=message):
            read()
        document["blobs"][name] = kept


# ---- The class -----------------------------------------------------------------------------------


def resized(net, values, steps, batch, rng):
    """Random inputs of another length and batch size; sequences start in the middle too."""
    made = {}
    for key in values:
        shape = list(net.blobs[key].shape)
        shape[net.blobs[key].batch] = batch
        if net.blobs[key].sequence:
            shape[0] = steps
        made[key] = rng.standard_normal(shape).astype(np.float32)
        if key == "cont":
            made[key] = (rng.random(shape) > 0.3).astype(np.float32)
            made[key][0], made[key][steps // 2 :, 0] = 0, 1
    return made


def check(content, runner, keys, given):
    """Every blob against NumPy's forward pass."""
    net = content.net
    want = reference.forward(net, content.weights, given)
    got = runner(given, keys)
    for key in keys:
        compared = compare(key, got[key], want[key], TOLERANCE)
        assert compared.passed, compared


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    content = SEQUENCES.content()
    nets.package(content, folder)
    list(export.handle(str(folder), ["keras", "saved_model"]))
    return content, folder


@pytest.mark.parametrize("artefact", ["class", "keras", "saved_model"])
def test_other_lengths_and_batch_sizes(artefact, sequences):
    content, folder = sequences
    net = content.net
    keys = list(net.outputs if artefact == "saved_model" else net.blobs)
    if artefact == "class":
        network = models.import_package(folder).load()
        runner = models.KerasRunner(network.model, network.names)
    else:
        runner = {"keras": models.load_keras, "saved_model": models.SavedRunner}[artefact](folder)
    rng = np.random.default_rng(8)
    for steps, batch in ((9, 5), (1, 2), (20, 1)):
        check(content, runner, keys, resized(net, content.reference.inputs, steps, batch, rng))


def test_samples_stay_apart_on_axis_1(sequences):
    content, folder = sequences
    network = models.import_package(folder).load()
    runner = models.KerasRunner(network.model, network.names)
    recorded = content.reference
    assert check_batch(content.net, runner, recorded.inputs, recorded.blobs, TOLERANCE).passed


def test_the_class_says_which_sizes_are_free(sequences):
    _, folder = sequences
    source = (folder / "model.py").read_text()
    assert "x (T, N, 4)" in source
    assert '"x": (None, None, 4)' in source
    assert '"static": (None, 4, 7, 2)' in source
    assert '"h": (1, None, 5)' in source


def test_bottoms_of_different_lengths_are_refused(sequences):
    content, folder = sequences
    network = models.import_package(folder).load()
    rng = np.random.default_rng(9)
    given = resized(content.net, content.reference.inputs, 4, 3, rng)
    given["cont"] = np.ascontiguousarray(given["cont"].T)
    with pytest.raises(Exception, match="cont should be"):
        network({key: layout.to_tensor(value) for key, value in given.items()})


def test_a_users_reference_of_another_length(sequences):
    content, _ = sequences
    rng = np.random.default_rng(10)
    given = resized(content.net, content.reference.inputs, 9, 2, rng)
    arrays = {f"input:{key}": value for key, value in given.items()}
    found, _, _ = users_reference(content.net, arrays)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in given.items()
    }
    arrays["input:h"] = np.zeros((2, 2, 5), np.float32)
    with pytest.raises(MalformedModel, match=r"input 'h' has shape \[2, 2, 5\], the net takes"):
        users_reference(content.net, arrays)


def test_a_moved_batch_may_be_of_any_size(tmp_path):
    saved = Form(
        "moved",
        (
            layer(
                "Reshape", "data", "r", "reshape_param { shape { dim: 1 dim: -1 dim: 3 dim: 35 } }"
            ),
            layer("TanH", "r", "t"),
            layer(
                "Reshape", "t", "out", "reshape_param { shape { dim: -1 dim: 5 dim: 7 } axis: 1 }"
            ),
        ),
        dict(data=(2, 3, 5, 7)),
    )
    content = saved.content()
    assert content.net.blobs["t"].batch == 1
    assert content.net.dynamic_batch is False  # -1 stands for N * C
    content = Form("moved", saved.layers[:2], saved.inputs).content()
    assert content.net.dynamic_batch
    network = models.import_package(nets.package(content, tmp_path)).load()
    runner = models.KerasRunner(network.model, network.names)
    given = {"data": np.random.default_rng(1).standard_normal((4, 3, 5, 7), np.float32)}
    check(content, runner, ["r", "t"], given)


def test_a_recurrent_net_can_be_trained(tmp_path):
    content = nets.net(
        inputs(x=(6, 3, 4), cont=(6, 3)),
        layer("LSTM", "x cont", "lstm", LSTM),
        layer("RNN", "lstm cont", "rnn", LSTM),
        layer("InnerProduct", "rnn", "ip", "inner_product_param { num_output: 5 axis: 2 }"),
        layer("Softmax", "ip", "prob", "softmax_param { axis: 2 }"),
    )
    network = models.import_package(nets.package(content, tmp_path)).load()
    rng = np.random.default_rng(3)
    given = resized(content.net, content.reference.inputs, 8, 2, rng)
    labels = {"prob": rng.integers(5, size=(8, 2))}
    before = [variable.numpy() for variable in network.model.trainable_variables]
    network.model.compile(keras.optimizers.Adam(0.03), {"prob": "sparse_categorical_crossentropy"})
    losses = [float(network.model.train_on_batch(given, labels)) for _ in range(15)]
    assert losses[-1] < 0.8 * losses[0]
    after = [variable.numpy() for variable in network.model.trainable_variables]
    assert len(after) == len(content.weights) == 10
    assert all(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))


def test_the_forks_lstm_as_its_gpu_code_computes(tmp_path):
    """Without cpu=True each sequence is computed as it is alone."""
    content = nets.net(
        inputs(x=(8, 4)), layer("Lstm", "x", "out", "lstm_param { num_output: 5 batch_size: 2 }")
    )
    (lowered,) = lower(content.net, content.weights)
    assert lowered.call.arguments == {0: 5, "batch": 2, "cpu": True}
    folder = nets.package(content, tmp_path)
    source = (folder / "model.py").read_text()
    assert source.count("batch=2, cpu=True") == 1
    (folder / "model.py").write_text(source.replace(", cpu=True", ""))
    network = models.import_package(folder).load()
    x = content.reference.inputs["x"]
    got = np.asarray(network(x)["out"])
    for start in (0, 1):
        alone = nets.net(
            inputs(x=(4, 4)),
            layer("Lstm", "x", "out", "lstm_param { num_output: 5 }"),
            given={"x": x[start::2]},
            weights=content.weights,
        )
        want = alone.reference.blobs["out"]
        np.testing.assert_allclose(got[start::2], want, rtol=0, atol=1e-6)
    assert np.abs(got[1::2] - content.reference.blobs["out"][1::2]).max() > 1e-3
