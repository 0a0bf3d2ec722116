"""Nets for images of any size: which they are, and that they are exact at other sizes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel, UsageError
from schemas.forward import forward
from schemas.interchange import Interchange
from stage_build import codegen, sizes, verify, weights_npz
from stage_build.artefacts import export, lite, models
from stage_build.delivery import Delivery
from stage_build.layout import to_blob, to_tensor
from stage_build.lowering.registry import lower, of_any_size, plugged_in
from stage_build.verify import LAYER_TOLERANCE, NET_TOLERANCE
from stage_extract import network, prototxt, upgrade, weights
from tests import goldens, nets
from tests.paths import SHARED, needs_shared


def conv(bottom, top, parameters="kernel_size: 3"):
    return nets.layer(
        "Convolution", bottom, top, f"convolution_param {{ num_output: 4 {parameters} }}"
    )


def pool(bottom, top, parameters="pool: MAX kernel_size: 3 stride: 2"):
    return nets.layer("Pooling", bottom, top, f"pooling_param {{ {parameters} }}")


def inner_product(bottom, top):
    return nets.layer("InnerProduct", bottom, top, "inner_product_param { num_output: 5 }")


def deconv(bottom, top, parameters):
    return nets.layer(
        "Deconvolution", bottom, top, f"convolution_param {{ num_output: 4 {parameters} }}"
    )


def net(*layers, data=(2, 3, 23, 30), **inputs):
    return nets.net(nets.inputs(data=data, **inputs), *layers, record=False)


def package(content, folder):
    """The generated class for images of any size."""
    lowered = lower(content.net, content.weights)
    codegen.write_package(folder, content, lowered, Delivery(dynamic_size=True))
    weights_npz.write(folder / "weights.npz", lowered, lambda done, total: None)
    return folder


def blobs(net):
    """The keys of what a Keras model has."""
    return [key for key in net.blobs if key not in verify.unreached(net)]


def traced(loaded, net):
    """Runs one graph of a loaded class, made for no size, that gives every blob."""
    runner, keys = models.KerasRunner(loaded.model, loaded.names), blobs(net)
    inputs = list(net.inputs)
    model = keras.Model(*([runner.tensor(key) for key in some] for some in (inputs, keys)))
    specs = [tf.TensorSpec(runner.tensor(key).shape, tf.float32) for key in inputs]
    free = {key for key, spec in zip(inputs, specs, strict=True) if spec.shape[1:3] == [None, None]}
    assert free == set(sizes.images(net))
    graph = tf.function(lambda *given: model(list(given))).get_concrete_function(*specs)

    def run(values, wanted):
        results = graph(*(tf.constant(to_tensor(values[key])) for key in inputs))
        found = dict(zip(keys, results, strict=True))
        return {key: to_blob(found[key].numpy()) for key in wanted}

    return run


def proven(content, folder, tolerance):
    """What the class shows at other sizes: as a graph, and called."""
    net = content.net
    loaded = models.import_package(package(content, folder)).load()
    runners = traced(loaded, net), models.KerasRunner(loaded.model, loaded.names)
    return [
        sizes.check_sizes(net, content.weights, run, tolerance, keys=blobs(net)) for run in runners
    ]


# Which nets

GLOBAL = "pool: AVE global_pooling: true"


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([inner_product("data", "fc")], ["layer 'fc' (InnerProduct, line 3): its weights are"]),
        (
            [
                conv("data", "a", "kernel_size: 3 stride: 2 pad_type: 1"),
                nets.layer("SPP", "data", "spp", "spp_param { pyramid_height: 2 }"),
                nets.layer("Reshape", "data", "r", "reshape_param { shape { dim: [0, 0, -1] } }"),
                inner_product("data", "ip"),
                inner_product("ip", "ip2"),
            ],
            [
                r"'a' (Convolution, line 3): convolution(pad) depends on the size of the image; ",
                "'spp' (SPP, line 4): its TensorFlow form is for one size of image; ",
                "'r' (Reshape, line 5): reshape(0) depends on the size of the image; ",
                "'ip' (InnerProduct, line 6): its weights are for one size of image (build",
            ],
        ),
        (
            [nets.layer("Reshape", "data", "r", "reshape_param { shape { dim: [0, 2070] } }")],
            ["'r' (Reshape, line 3): it cannot take what images of another size make of its bot"],
        ),
        (
            [nets.layer("Scale", "data", "s", "scale_param { axis: 1 num_axes: 3 }")],
            ["'s' (Scale, line 3): its weights are for one size of image"],
        ),
    ],
    ids=["weights", "all-at-once", "literal-sizes", "weights-of-places"],
)
def test_what_binds_a_net_to_one_size_is_named(layers, said):
    content = net(*layers)
    with pytest.raises(UnsupportedModel) as caught:
        sizes.require_any_size(content.net, content.weights)
    for words in said:
        assert words in str(caught.value)
    assert "ip2" not in str(caught.value)
    assert caught.value.hint == "build without --dynamic-size"


def test_images_are_needed():
    content = net(inner_product("data", "fc"), data=(2, 7))
    with pytest.raises(UsageError, match="no images for inputs"):
        sizes.require_any_size(content.net, content.weights)


ANY_SIZE = {
    "fully-convolutional": (conv("data", "a"), pool("a", "b"), conv("b", "c")),
    "global-pooling-before-weights": (pool("data", "a", GLOBAL), inner_product("a", "fc")),
    "gated": (
        pool("data", "a", GLOBAL),
        nets.layer("Flatten", "a", "flat"),
        nets.layer("Scale", "data flat", "s", "scale_param { axis: 0 }"),
    ),
}


@pytest.mark.parametrize("layers", ANY_SIZE.values(), ids=ANY_SIZE)
def test_what_sees_no_size_may_have_weights(layers):
    content = net(*layers)
    sizes.require_any_size(content.net, content.weights)


def test_sizes_that_fit_are_sought():
    """What is halved and doubled again must be even to meet itself."""
    content = net(
        conv("data", "down", "kernel_size: 2 stride: 2"),
        deconv("down", "up", "kernel_size: 2 stride: 2"),
        conv("data", "side", "kernel_size: 1"),
        nets.layer("Eltwise", "up side", "sum"),
        data=(2, 3, 22, 30),
    )
    sizes.require_any_size(content.net, content.weights)
    found = sizes.proof_sizes(content.net, content.weights)
    assert len(found) == sizes.PROOFS
    assert all(height % 2 == width % 2 == 0 for height, width in (s["data"] for s in found))
    with pytest.raises(MalformedModel, match="'sum'"):
        sizes.at(content.net, {"data": (23, 30)})


def test_twice_the_size_is_tried_where_little_steps_do_not_fit():
    content = net(
        conv("data", "down", "kernel_size: 64 stride: 64"),
        deconv("down", "up", "kernel_size: 64 stride: 64"),
        conv("data", "side", "kernel_size: 1"),
        nets.layer("Eltwise", "up side", "sum"),
        data=(1, 3, 64, 64),
    )
    sizes.require_any_size(content.net, content.weights)
    assert {"data": (128, 192)} in sizes.proof_sizes(content.net, content.weights)


def test_a_net_without_a_proof_is_refused(monkeypatch):
    content = net(conv("data", "a"))
    monkeypatch.setattr(sizes, "proof_sizes", lambda net, weights: [])
    with pytest.raises(UnsupportedModel, match="no other size of images was found"):
        sizes.require_any_size(content.net, content.weights)


def test_proof_sizes_are_smaller_and_larger_odd_and_even():
    content = net(conv("data", "a"), pool("a", "b"))
    first, *larger = (s["data"] for s in sizes.proof_sizes(content.net, content.weights))
    assert first[0] < 23 and first[1] < 30
    assert all(h > 23 and w > 30 for h, w in larger)
    assert {h % 2 for h, _ in larger} == {w % 2 for _, w in larger} == {0, 1}


def test_a_net_that_can_get_no_smaller_is_proven_at_larger_sizes():
    content = net(conv("data", "a", "kernel_h: 23 kernel_w: 30"))
    found = sizes.proof_sizes(content.net, content.weights)
    assert len(found) == sizes.PROOFS
    assert all(s["data"] > (23, 30) for s in found)


def test_blobs_at_another_size():
    content = net(conv("data", "a"), pool("a", "b"), pool("b", "g", GLOBAL), like=(2, 5))
    resized = sizes.at(content.net, {"data": (10, 40)})
    assert {key: blob.shape for key, blob in resized.blobs.items()} == {
        "data": (2, 3, 10, 40),
        "like": (2, 5),
        "a": (2, 4, 8, 38),
        "b": (2, 4, 4, 19),
        "g": (2, 4, 1, 1),
    }
    assert [b.batch for b in resized.blobs.values()] == [0] * 5
    free = sizes.free_sides(content.net)
    assert free == dict.fromkeys(("data", "a", "b"), (2, 3))


MEANING = """
from schemas.layers.registry import Meaning, layer


@layer("Twice")
class Twice(Meaning):
    def shapes(self, bottoms, tops):
        return [bottoms[0]]

    def forward(self, bottoms, weights, tops):
        return [bottoms[0] * bottoms[0].dtype.type(2)]
"""
LOWERING = """
from stage_build.lowering.registry import Call, lowering


@lowering("Twice"%s)
def twice(site):
    return Call("twice")
"""


@pytest.mark.parametrize(
    ("said", "any_size"), [("", False), (", any_size=True", True)], ids=["plain", "any-size"]
)
def test_a_plug_in_is_for_one_size_unless_it_says_otherwise(tmp_path, said, any_size):
    folder = tmp_path / "twice"
    folder.mkdir()
    for part, text in (("meaning", MEANING), ("lowering", LOWERING % said), ("runtime", "")):
        (folder / f"{part}.py").write_text(text, "utf-8")
    with plugged_in([folder]):
        content = net(nets.layer("Twice", "data", "t"))
        (layer,) = content.net.layers
        assert of_any_size(layer) is any_size
        if not any_size:
            with pytest.raises(UnsupportedModel, match="its TensorFlow form is for one size"):
                sizes.require_any_size(content.net, {})
    assert not of_any_size(layer)


# Exact at other sizes


FORMS = {
    "pooling-max": (pool("data", "a"),),
    "pooling-average": (pool("data", "a", "pool: AVE kernel_size: 3 stride: 2 pad: 1"),),
    "lrn-within-channel": (
        nets.layer("LRN", "data", "a", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }"),
    ),
    "positions": (pool("data", "a b", "pool: MAX kernel_size: 3 stride: 2 pad: 1"),),
    "fully-convolutional": (
        conv("data", "a", "kernel_size: 3 pad: 20"),
        pool("a", "b"),
        conv("b", "score_b", "kernel_size: 1"),
        pool("b", "c"),
        conv("c", "score_c", "kernel_size: 1"),
        deconv("score_c", "up_c", "kernel_size: 4 stride: 2 bias_term: false group: 4"),
        nets.layer("Crop", "up_c score_b", "cut_c", "crop_param { axis: 2 offset: [0, 1] }"),
        nets.layer("Eltwise", "score_b cut_c", "sum"),
        deconv("sum", "up", "kernel_size: 4 stride: 2"),
        nets.layer("Crop", "up data", "score", "crop_param { axis: 2 offset: 19 }"),
        nets.layer("Softmax", "score", "prob"),
    ),
}


@pytest.mark.parametrize("layers", FORMS.values(), ids=FORMS)
def test_every_blob_is_right_at_other_sizes(layers, tmp_path):
    content = net(*layers)
    sizes.require_any_size(content.net, content.weights)
    for outcome in proven(content, tmp_path, LAYER_TOLERANCE):
        assert outcome.first_failure is None
        assert len(outcome.compared) == sizes.PROOFS * len(blobs(content.net))
        assert len({blob.shape for blob in outcome.compared if blob.name == "data"}) > 2


def test_what_is_wrong_at_another_size_shows():
    """Pooling that rounds down gives less; another's weights give something else."""
    content = net(conv("data", "a"), pool("a", "b"))
    resized = {}

    def run(inputs, keys, weights=content.weights):
        shape = inputs["data"].shape
        resized.setdefault("at", []).append(shape)
        found = forward(sizes.at(content.net, {"data": shape[2:]}), weights, inputs)
        return {key: found[key] for key in keys}

    def rounding_down(inputs, keys):
        return {key: value[:, :, :-1] for key, value in run(inputs, keys).items()}

    def others(inputs, keys):
        return run(inputs, keys, {key: 2 * value for key, value in content.weights.items()})

    check = {"net": content.net, "weights": content.weights, "tolerance": LAYER_TOLERANCE}
    right = sizes.check_sizes(run=run, **check)
    assert right.passed
    assert [blob.max_error for blob in right.compared] == [0.0] * sizes.PROOFS
    assert len(set(resized["at"])) == sizes.PROOFS
    assert "shape" in sizes.check_sizes(run=rounding_down, **check).first_failure.reason
    wrong = sizes.check_sizes(run=others, **check)
    assert not any(blob.passed for blob in wrong.compared)
    seen = []

    def excuse(outcome, known):
        seen.append(sorted(known))
        return outcome.rounded(1e-7)

    assert sizes.check_sizes(run=others, excuse=excuse, **check).passed
    assert seen == [["b", "data"]] * sizes.PROOFS


def test_inputs_are_drawn_from_those_recorded():
    content = net(conv("data", "a"), like=(2, 5))
    recorded = {"data": np.array([3.0, -7.0], np.float32), "like": np.ones((2, 5), np.float32)}
    for resized, inputs, found in sizes.references(content.net, content.weights, recorded):
        assert set(np.unique(inputs["data"])) == {3.0, -7.0}
        assert inputs["data"].shape == resized.sample_shape("data")
        assert inputs["data"].shape[0] == inputs["like"].shape[0] == 1
        assert found["a"].dtype == np.float32


def test_pooling_that_never_reaches_past_the_image_stays_plain(tmp_path):
    content = net(
        pool("data", "floor", "kernel_size: 3 stride: 2 round_mode: FLOOR"),
        pool("data", "dense", "kernel_size: 3"),
        pool("data", "ceil", "kernel_size: 2 stride: 2"),
        data=(2, 3, 24, 30),
    )
    plain = keras.layers.MaxPooling2D
    fixed = models.import_package(nets.package(content, tmp_path / "fixed")).load().model
    assert {type(fixed.get_layer(name)) for name in ("floor", "dense", "ceil")} == {plain}
    (tmp_path / "any").mkdir()
    free = models.import_package(package(content, tmp_path / "any")).load().model
    kinds = [type(free.get_layer(name)).__name__ for name in ("floor", "dense", "ceil")]
    assert kinds == ["MaxPooling2D", "MaxPooling2D", "Pooling"]


def test_the_class_says_which_sides_are_free(tmp_path):
    content = net(conv("data", "a"), pool("a", "g", GLOBAL), conv("like", "b"), like=(2, 3, 9, 8))
    source = (package(content, tmp_path) / "model.py").read_text("utf-8")
    assert "(N, H, W, 3), like (N, H, W, 3) float32 -> " in source
    assert "b (N, any, any, 4), g (N, 1, 1, 4)" in " ".join(source.split())
    assert source.count("(None, None, None, 3)") == 2


# MTCNN's first net, which is run on a pyramid of images

PYRAMID = [(12, 12), (13, 18), (24, 37), (51, 30), (72, 65)]


@pytest.fixture(scope="module")
def det1(tmp_path_factory):
    """The net with Caffe's weights, and the folder of its class and what was exported of it."""
    given, folder = SHARED / "models" / "mtcnn-det1", tmp_path_factory.mktemp("det1")
    message = upgrade.upgrade(prototxt.read(given / "deploy.prototxt"))
    built = network.build(message, network.Options())
    with weights.open_weights(given / "weights.caffemodel") as model:
        match = weights.match(model.layers, built.weight_shapes)
        arrays = {
            f"{layer}/{place}": np.array(blob.array())
            for layer, found in match.blobs.items()
            for place, blob in found.items()
        }
    content = Interchange(built.net, arrays)
    sizes.require_any_size(content.net, content.weights)
    package(content, folder)
    list(export.handle(str(folder), ["keras", "saved_model"]))
    return content, folder


def check_at(content, run, size, keys):
    net = sizes.at(content.net, {"data": size})
    rng = np.random.default_rng(sum(size))
    inputs = {"data": rng.standard_normal((1, 3, *size), np.float32)}
    want = forward(net, content.weights, inputs)
    outcome = verify.check(net, run, inputs, {key: want[key] for key in keys}, NET_TOLERANCE)
    assert outcome.first_failure is None
    assert len(outcome.compared) == len(keys)
    assert outcome.worst.relative < LAYER_TOLERANCE


@needs_shared
@pytest.mark.parametrize("artefact", ["class", "graph", "keras", "saved_model"])
def test_mtcnns_first_net_at_five_sizes(det1, artefact):
    content, folder = det1
    outputs_alone = artefact == "saved_model"
    keys = content.net.outputs if outputs_alone else blobs(content.net)
    with models.imported(folder) as module:
        if outputs_alone:
            run = models.SavedRunner(folder)
        elif artefact == "keras":
            run = models.load_keras(folder)
        elif artefact == "graph":
            run = traced(module.load(), content.net)
        else:
            loaded = module.load()
            run = models.KerasRunner(loaded.model, loaded.names)
        for size in PYRAMID:
            check_at(content, run, size, keys)


@needs_shared
@pytest.mark.slow
def test_mtcnns_first_net_at_five_sizes_in_tflite(det1):
    """Sizes that only the run tells are within TFLite's own operations."""
    content, folder = det1
    list(export.handle(str(folder), ["tflite"], dynamic_size=True))
    run = lite.LiteRunner(folder)
    for size in PYRAMID:
        check_at(content, run, size, content.net.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("layers", FORMS.values(), ids=FORMS)
def test_every_output_is_right_at_other_sizes_in_tflite(layers, tmp_path):
    content = net(*layers)
    package(content, tmp_path)
    list(export.handle(str(tmp_path), ["tflite"], dynamic_size=True))
    run = lite.LiteRunner(tmp_path)
    outcome = sizes.check_sizes(content.net, content.weights, run, LAYER_TOLERANCE)
    assert outcome.first_failure is None
    assert len(outcome.compared) == sizes.PROOFS * len(content.net.outputs)


# Real Caffe's cases

# How many of each set are for any size; fewer means that a layer has lost it.
REFUSED = (
    "no images",
    "one size of image",
    "another size",
    "depends on the size of the image",
)
GOLDENS = {"layers": 150, "ssd": 5, "forks": 100}


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [case for case in goldens.cases("layers") if case.folder.name.startswith("pool-")],
    ids=lambda case: case.id,
)
def test_pooling_at_caffes_own_size_and_others(case, tmp_path):
    net, arrays = case.build()
    content = Interchange(net, arrays)
    loaded = models.import_package(package(content, tmp_path)).load()
    inputs, want, _ = verify.users_reference(net, case.arrays())
    for run in traced(loaded, net), models.KerasRunner(loaded.model, loaded.names):
        own = verify.check(net, run, inputs, want, LAYER_TOLERANCE)
        assert own.first_failure is None
        other = sizes.check_sizes(net, arrays, run, LAYER_TOLERANCE)
        assert other.first_failure is None
        assert len(other.compared) == len(net.outputs) * sizes.PROOFS


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("kind", GOLDENS)
def test_every_golden_that_is_for_any_size_is_right_at_others(kind, tmp_path):
    right = 0
    for case in goldens.cases(kind):
        net, arrays = case.build()
        try:
            sizes.require_any_size(net, arrays)
        except ConversionError as error:
            assert any(words in str(error) for words in REFUSED), str(error)
            continue
        folder = tmp_path / case.folder.name
        folder.mkdir()
        for outcome in proven(Interchange(net, arrays), folder, case.tolerance):
            assert outcome.first_failure is None, case.id
        right += 1
    assert right >= GOLDENS[kind]
