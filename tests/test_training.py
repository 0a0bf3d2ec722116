"""A converted net can be trained as in Caffe: the class, and model.keras of another process."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from schemas.errors import MalformedModel
from schemas.graph import Layer
from stage_build import learning, report
from stage_build.artefacts import models
from tests import nets
from tests.cli import orchestrate
from tests.paths import ROOT

DIGITS = ROOT / "examples" / "digits"


# What training may change, by Caffe's learning rates


def lr(*rates):
    return " ".join(f"param {{ lr_mult: {rate} }}" for rate in rates)


def blobs(type_, count, *rates, dialect="", param=None):
    """A layer of so many parameter blobs, with these rates."""
    specs = [{"lr_mult": float(rate)} for rate in rates] if param is None else param
    weights = tuple(f"l/{i}" for i in range(count))
    return Layer("l", type_, ("x",), ("y",), {"param": specs}, weights, dialect)


@pytest.mark.parametrize(
    ("layer", "frozen", "partly"),
    [
        (blobs("Convolution", 2, 0, 0), True, False),
        (blobs("Convolution", 2), False, False),
        (blobs("Convolution", 2, 1, 0), False, True),
        (blobs("Convolution", 2, 0), False, True),
        (blobs("Convolution", 1, 0, 0), True, False),
        (blobs("ReLU", 0, 0), False, False),
        (blobs("BatchNorm", 3, 0, 0, 0), False, False),
        (blobs("BatchNorm", 5, 0, 0, 0, dialect="nvidia"), False, False),
        (blobs("BatchNorm", 5, 1, 1, 0, 0, 0, dialect="nvidia15"), False, False),
        (blobs("BatchNorm", 5, 0, 0, 1, 1, 1, dialect="nvidia15"), True, False),
        (blobs("BatchNorm", 5, 0, 0, 0, 0, 0, dialect="intel"), True, False),
        (blobs("BatchNorm", 5, 0, 0, 0, 1, 0, dialect="intel"), False, True),
        (blobs("BN", 4, 1, 1, 0, 0, dialect="pspnet"), False, False),
        (blobs("BN", 4, 0, 0, dialect="tsn"), True, False),
        (blobs("BN", 2, 0, 0, dialect="segnet"), True, False),
        (blobs("Convolution", 2, param=[{"decay_mult": 0.0}, {"lr_mult": 0.0}]), False, True),
    ],
    ids=lambda value: f"{value.type}-{value.dialect}" if isinstance(value, Layer) else None,
)
def test_a_layer_without_a_rate_is_frozen(layer, frozen, partly):
    assert learning.frozen(layer) is frozen
    rates = learning.rates(layer)
    assert (any(rates) and not all(rates)) is partly


@pytest.mark.parametrize("param", [5, [5], ["rate"]], ids=["number", "numbers", "texts"])
def test_rates_that_are_none_are_refused(param):
    with pytest.raises(MalformedModel, match="layer 'l'"):
        learning.rates(blobs("Convolution", 2, param=param))


def test_the_old_form_of_rates_is_read():
    content = nets.net(
        "input: 'data' input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 5",
        "layers { name: 'a' type: CONVOLUTION bottom: 'data' top: 'a' blobs_lr: 0 blobs_lr: 0",
        "convolution_param { num_output: 4 kernel_size: 3 } }",
        "layers { name: 'b' type: CONVOLUTION bottom: 'a' top: 'b' blobs_lr: 0 blobs_lr: 2",
        "convolution_param { num_output: 5 kernel_size: 2 } }",
        record=False,
    )
    assert [layer.name for layer in content.net.layers if learning.frozen(layer)] == ["a"]
    assert learning.partly_frozen(content.net) == ["b"]


def test_what_keras_has_no_place_for_is_told(tmp_path):
    content = nets.net(
        nets.inputs(data=(2, 3)),
        nets.layer("InnerProduct", "data", "a", f"inner_product_param {{ num_output: 4 }} {lr(0)}"),
    )
    result = {"recorded": {"passed": True, "worst": {"name": "a", "max_error": 0, "magnitude": 1}}}
    result["recorded"]["blobs"] = []
    notes = report.make_report(content, {"class": {**result, "user": None}}, 1e-4)["notes"]
    assert notes == [
        "lr_mult is 0 for some, but not all, parameters of 'a'; Keras freezes whole layers, so "
        "these stay trainable"
    ]


def test_frozen_layers_are_listed_and_wrapped(tmp_path):
    def source(count, rates):
        layers = [
            nets.layer("Scale", "data" if i == 0 else f"layer{i - 1}", f"layer{i}", rates)
            for i in range(count)
        ]
        content = nets.net(nets.inputs(data=(2, 3, 5, 4)), *layers, record=False)
        return (nets.package(content, tmp_path / f"{count}{rates[-3:]}") / "model.py").read_text()

    assert "frozen" not in source(1, lr(1))
    assert '\n    frozen = ("layer0",)\n' in source(1, lr(0))
    long = source(20, lr(0))
    assert "\n    frozen = (\n" in long and all(len(line) <= 100 for line in long.splitlines())
    found = {}
    exec(
        long[long.index("    frozen") : long.index("    def graph")].replace(
            "    frozen", "frozen"
        ),
        found,
    )
    assert found["frozen"] == tuple(f"layer{i}" for i in range(20))


SLOPES = "slope_filler { type: 'constant' value: 1 }"


@pytest.mark.parametrize(
    ("type_", "parameters", "dialect", "fixed"),
    [
        ("BatchNorm", "batch_norm_param { use_global_stats: true }", "bvlc", True),
        ("BatchNorm", "", "bvlc", False),
        ("BatchNorm", "batch_norm_param { use_global_stats: true }", "nvidia15", True),
        ("BN", f"bn_param {{ frozen: true {SLOPES} }}", "pspnet", True),
        ("BN", f"bn_param {{ {SLOPES} }}", "pspnet", False),
    ],
)
def test_stored_statistics_serve_in_training_where_caffe_is_told_so(
    type_, parameters, dialect, fixed, tmp_path
):
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 4)),
        nets.layer(type_, "data", "norm", parameters),
        dialects=(dialect,),
        record=False,
    )
    source = (nets.package(content, tmp_path / "net") / "model.py").read_text()
    assert ("use_global_stats=True" in source) is fixed


# A net with a form of everything that training treats apart

NORM = "batch_norm_param { moving_average_fraction: 0.75 eps: 0.01 %s }"
LAYERS = (
    nets.inputs(data=(2, 3, 6, 5)),
    nets.layer(
        "Convolution",
        "data",
        "fixed",
        f"convolution_param {{ num_output: 4 kernel_size: 3 }} {lr(0, 0)}",
    ),
    nets.layer("BatchNorm", "fixed", "norm", NORM % "" + lr(0, 0, 0)),
    nets.layer("Scale", "norm", "scale", "scale_param { bias_term: true }"),
    nets.layer("BatchNorm", "scale", "stored", NORM % "use_global_stats: true" + lr(0, 0, 0)),
    nets.layer(
        "Deconvolution",
        ["stored", "scale"],
        ["up", "again"],
        f"convolution_param {{ num_output: 2 kernel_size: 2 stride: 2 }} {lr(0, 0)}",
        name="both",
    ),
    nets.layer("Concat", ["up", "again"], "joined"),
    nets.layer("Dropout", "joined", "dropped", "dropout_param { dropout_ratio: 0.25 }"),
    nets.layer(
        "Dropout", "joined", "bare", "dropout_param { dropout_ratio: 0.25 scale_train: false }"
    ),
    nets.layer("Eltwise", ["dropped", "bare"], "sum"),
    nets.layer("InnerProduct", "sum", "fc", f"inner_product_param {{ num_output: 7 }} {lr(0, 0)}"),
    nets.layer("InnerProduct", "fc", "top", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "top", "prob"),
)
FROZEN = {"fixed", "both", "fc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The class, and model.keras as it is loaded again."""
    content = nets.net(*LAYERS)
    folder = nets.package(content, tmp_path_factory.mktemp("built") / "net")
    with models.imported(folder) as package:
        network = package.load()
        network.model.save(folder / "model.keras")
        again = keras.models.load_model(folder / "model.keras", compile=False)
        yield content, {"class": network.model, "keras": again}


@pytest.fixture(params=["class", "keras"])
def model(built, request):
    found = built[1][request.param]
    before = found.get_weights()
    yield found
    found.set_weights(before)


def of_layer(layer):
    """The Caffe layer that a Keras layer is part of."""
    return layer.name.partition("__")[0]


def test_trainable_flags_follow_the_learning_rates(model):
    learned = [layer for layer in model.layers if layer.weights]
    assert {of_layer(layer) for layer in learned if not layer.trainable} == FROZEN
    assert {of_layer(layer) for layer in learned if layer.trainable} == {
        "norm",
        "scale",
        "stored",
        "top",
    }
    names = {v.path.split("/")[0].partition("__")[0] for v in model.trainable_variables}
    assert names == {"scale", "top"}


def channels_last(shape=(4, 6, 5, 3)):
    return np.random.default_rng(3).standard_normal(shape, np.float32)


def test_dropout_drops_and_scales_as_caffe_does(model):
    """dropout_layer.cpp: the values that are kept are divided by 1 - dropout_ratio."""
    keras.utils.set_random_seed(2)
    x = np.abs(channels_last((4, 80, 70, 3))) + 0.5
    for name, kept, at_inference in (("dropped", 1 / 0.75, 1.0), ("bare", 1.0, 0.75)):
        layer = model.get_layer(name)
        got = np.asarray(layer(x, training=True))
        zero = got == 0
        assert zero.mean() == pytest.approx(0.25, abs=0.01)  # of 67,200 values: 6 deviations
        np.testing.assert_allclose(got[~zero], x[~zero] * np.float32(kept), rtol=1e-6)
        got = np.asarray(layer(x, training=False))
        np.testing.assert_allclose(got, x * np.float32(at_inference), rtol=1e-6)


def test_batch_norm_takes_the_batch_and_the_average_follows(model):
    """batch_norm_layer.cpp, with the factor that its third blob tends to, 1 / (1 - fraction):
    mean' = fraction * mean + (1 - fraction) * batch's; the variance's by m / (m - 1)."""
    layer = model.get_layer("norm")
    x = channels_last((3, 4, 2, 4)) * 3 + 1
    mean, variance = (np.asarray(v) for v in (layer.moving_mean, layer.moving_variance))
    batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    got = np.asarray(layer(x, training=True))
    expected = (x - batch_mean) / np.sqrt(batch_variance + 0.01)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.75 * mean + 0.25 * batch_mean, rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, 0.75 * variance + 0.25 * batch_variance * 24 / 23, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["stored", "norm"])
def test_a_batch_norm_of_global_statistics_or_frozen_stays_in_inference(model, name):
    layer = model.get_layer(name)
    x = channels_last((3, 4, 2, 4))
    trainable, layer.trainable = layer.trainable, name == "stored"
    before = layer.get_weights()
    try:
        np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    finally:
        layer.trainable = trainable
    for now, then in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_epoch_changes_what_may_change(model):
    keras.utils.set_random_seed(1)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.compile(keras.optimizers.SGD(0.1), {"prob": "sparse_categorical_crossentropy"})
    model.fit(channels_last(), {"prob": np.array([0, 4, 2, 1])}, batch_size=4, verbose=0)
    moved = {
        name
        for name, weights in before.items()
        if any(
            not np.array_equal(now, then)
            for now, then in zip(model.get_layer(name).get_weights(), weights, strict=True)
        )
    }
    # The input of `scale` was normalized with the batch's statistics, which `norm` follows.
    assert moved == {"norm", "scale", "top"}


# The digits example

FINE_TUNE = """
import json, sys
import keras, numpy as np
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import converted, demo

keras.utils.set_random_seed(5)
images, labels = demo.test_set()
model = keras.models.load_model(sys.argv[1] + "/converted/model.keras")
start = model.get_layer("ip2").get_weights()
fresh = keras.initializers.GlorotUniform(seed=5)
model.get_layer("ip2").set_weights([np.asarray(fresh(start[0].shape)), np.zeros(10, "f4")])
for layer in model.layers:
    layer.trainable = layer.name == "ip2"
model.compile(
    keras.optimizers.Adam(0.01),
    {"prob": "sparse_categorical_crossentropy"},
    metrics={"prob": "accuracy"},
)
half = len(images) // 2
score = lambda: model.evaluate(images[half:], {"prob": labels[half:]}, verbose=0)[-1]
before = score()
model.fit(images[:half], {"prob": labels[:half]}, epochs=25, batch_size=32, verbose=0)
print(json.dumps([before, score()]))
"""


@pytest.mark.slow
def test_fitting_improves_a_new_last_layer(tmp_path):
    net = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    done = orchestrate("convert", *net, "-o", tmp_path / "converted", "--formats", "class,keras")
    assert done.returncode == 0, done.stderr
    ran = subprocess.run(
        [sys.executable, "-c", FINE_TUNE, tmp_path, DIGITS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    before, after = json.loads(ran.stdout.splitlines()[-1])
    assert before < 0.3 and after > 0.95
