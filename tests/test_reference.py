"""The recorded forward pass: what is fed, that it repeats, and what is done about overflow."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from schemas.errors import EnvironmentProblem, MalformedModel
from schemas.layers import registry
from stage_extract import reference
from tests.prototxts import build, inputs, layer, seeded, seeded_weights

SEED = reference.SEED


def recorded(built, seed=SEED):
    def run(fed):
        return reference.forward(built.net, seeded_weights(built), fed)

    return reference.record(built.net, run, "numpy", seed)


def exp(scale, shape=(2, 3, 5, 7)):
    """A net whose result leaves float32's range where its input is large."""
    return build(inputs(data=shape), layer("Exp", "data", "e", f"exp_param {{ scale: {scale} }}"))


# ---- What is fed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ([inputs(data=(4, 3, 5, 7)), layer("TanH")], {"data": (1, 3, 5, 7)}),
        ([inputs(data=(4, 9)), layer("TanH")], {"data": (1, 9)}),
        ([inputs(data=(4,)), layer("TanH")], {"data": (1,)}),
        (
            [inputs(a=(4, 3), b=(4, 3)), layer("Eltwise", "a b")],
            {"a": (1, 3), "b": (1, 3)},
        ),
        (  # rows are mixed: as in the prototxt
            [inputs(data=(4, 3, 5, 7)),
             layer("Concat", "data data", "c", "concat_param { axis: 0 }")],
            {"data": (4, 3, 5, 7)},
        ),
        (
            [inputs(data=(4, 3), rois=(6, 5)), layer("TanH"), layer("TanH", "rois", "t")],
            {"data": (4, 3), "rois": (6, 5)},
        ),
    ],
    ids=["image", "rows", "one axis", "two inputs", "mixed", "two batches"],
)  # fmt: skip
def test_one_sample_of_a_dynamic_batch(text, shapes):
    net = build(*text).net
    assert reference.reference_shapes(net) == shapes
    fed = reference.seeded_inputs(net, SEED)
    assert {key: value.shape for key, value in fed.items()} == shapes
    assert {value.dtype for value in fed.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("shape", "deviation"),
    [
        ((1, 3, 40, 60), 50),
        ((1, 1, 40, 60), 50),
        ((1, 3, 24, 24), 50),
        ((1, 3, 23, 90), 1),
        ((1, 4, 40, 60), 1),
        ((1, 3, 2400), 1),
        ((1, 2400), 1),
    ],
    ids=str,
)
def test_images_are_fed_larger(shape, deviation):
    net = build(inputs(data=shape), layer("TanH")).net
    fed = reference.seeded_inputs(net, SEED)["data"]
    assert fed.std() == pytest.approx(deviation, rel=0.1)
    assert abs(fed.mean()) < 0.1 * deviation
    assert reference.seeded_inputs(net, SEED, 0.5)["data"].std() == pytest.approx(0.5, rel=0.1)


def test_a_seed_gives_the_same_bytes_everywhere():
    """Of PCG64's stream, so that nets recorded elsewhere can be compared."""
    net = build(
        inputs(data=(4, 3, 5, 7), more=(4, 2)), layer("TanH"), layer("TanH", "more", "m")
    ).net
    first, again, other = (reference.seeded_inputs(net, seed) for seed in (1, 1, 2))
    for key in net.inputs:
        assert first[key].tobytes() == again[key].tobytes() != other[key].tobytes()
    assert not np.array_equal(first["data"][0, :2, 0, 0], first["more"][0])
    drawn = hashlib.sha256(first["data"].tobytes() + first["more"].tobytes()).hexdigest()
    assert drawn[:16] == "50826aee7e824aff"


def test_equal_seeds_give_equal_records():
    built = build(
        inputs(data=(4, 3, 5, 7)),
        layer("Convolution", "data", "c", "convolution_param { num_output: 2 kernel_size: 3 }"),
    )
    first, again, other = recorded(built, 5), recorded(built, 5), recorded(built, 6)
    assert first.seed == 5
    assert first.recorder == "numpy"
    assert set(first.blobs) == set(built.net.blobs)
    for key, blob in first.blobs.items():
        assert blob.tobytes() == again.blobs[key].tobytes() != other.blobs[key].tobytes()
        assert blob.dtype == np.float32


# ---- Overflow ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "deviation"),
    [(0.5, 50.0), (20, 1.0), (200, 0.1)],
    ids=["finite at once", "finite at 1", "finite at 0.1"],
)
def test_smaller_inputs_where_large_ones_overflow(scale, deviation):
    built = exp(scale, (2, 3, 24, 25))
    found = recorded(built)
    assert found.inputs["data"].std() == pytest.approx(deviation, rel=0.1)
    assert reference.non_finite(found.blobs) == []
    np.testing.assert_array_equal(
        found.blobs["e"], reference.forward(built.net, {}, found.inputs)["e"]
    )


def test_what_stays_infinite_is_recorded_and_named():
    built = exp(1e30)
    found = recorded(built)
    assert found.inputs["data"].std() == pytest.approx(0.1, rel=0.2)
    assert reference.non_finite(found.blobs) == ["e"]


def test_non_finite():
    blobs = {
        "fine": np.ones((2, 3), np.float32),
        "nan": np.array([1, np.nan], np.float32),
        "infinite": np.array([[-np.inf]], np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert reference.non_finite(blobs) == ["nan", "infinite"]


def test_more_than_the_machine_has_is_refused_before_it_is_made(monkeypatch):
    built = build(inputs(data=(1, 1, 40000, 40000)), *[
        layer("TanH", f"b{i}" if i else "data", f"b{i + 1}") for i in range(9)
    ])  # fmt: skip
    monkeypatch.setattr(reference.os, "sysconf", lambda name: 1 << 17)  # 16 GiB
    with pytest.raises(EnvironmentProblem, match="64,000,000,000 bytes.*17,179,869,184.*--no-ref"):
        recorded(built)
    assert reference.os.sysconf("SC_PAGE_SIZE") == 1 << 17


def test_of_a_dynamic_batch_one_sample_counts(monkeypatch):
    built = build(inputs(data=(2000, 1, 1000, 1000)), layer("TanH", "data", "t"))
    net = built.net
    assert net.dynamic_batch
    monkeypatch.setattr(reference.os, "sysconf", lambda name: 1 << 15)  # 1 GiB
    found = reference.record(net, dict, "numpy", SEED)
    assert found.inputs["data"].shape == (1, 1, 1000, 1000)


# ---- The pass ------------------------------------------------------------------------------------


def test_progress_counts_layers():
    built = build(inputs(data=(2, 3)), layer("TanH", "data", "t"), layer("ReLU", "t", "r"))
    told = []
    reference.forward(built.net, {}, seeded(built.net), lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]


def test_a_layer_that_breaks_its_word_is_caught(monkeypatch):
    built = build(inputs(data=(2, 3)), layer("TanH", "data", "t"))
    monkeypatch.setattr(
        registry.find("TanH"), "forward", lambda self, bottoms, weights, tops: [bottoms[0][:1]]
    )
    with pytest.raises(MalformedModel, match=r"'t'.*has shape \[1, 3\], expected \[2, 3\]"):
        reference.forward(built.net, {}, seeded(built.net))


def test_any_batch_may_be_fed():
    built = build(inputs(data=(2, 3)), layer("TanH", "data", "t"))
    fed = {"data": np.ones((5, 3), np.float32)}
    assert reference.forward(built.net, {}, fed)["t"].shape == (5, 3)
