"""The recorded forward pass: what is fed, that it repeats, and what is done about overflow."""

from __future__ import annotations

import hashlib
import os

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


# ---- Examples in place of random values ----------------------------------------------------------

ANCHORS = 9
PYTHON = (
    'python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" '
    "param_str: \"'feat_stride': 16\" }"
)
PVANET = "proposal_param { ratio: 0.5 ratio: 1 ratio: 2 scale: 2 scale: 4 scale: 6 }"


def conv(bottom, top, outputs, kernel=1, stride=1):
    text = f"num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} stride: {stride}"
    return layer("Convolution", bottom, top, f"convolution_param {{ {text} }}")


def rpn(*proposal, info):
    """A region proposal network on a map of 6 by 10 places, 16 pixels apart."""
    shape = "reshape_param {{ shape {{ dim: 0 dim: {} dim: -1 dim: 0 }} }}"
    return (
        inputs(data=(1, 3, 96, 160), im_info=(1, info)),
        conv("data", "low", 8, kernel=3, stride=4),
        layer("ReLU", "low", "low", name="relu"),
        conv("low", "map", 12, kernel=3, stride=4),
        conv("map", "rpn_cls_score", 2 * ANCHORS),
        conv("map", "rpn_bbox_pred", 4 * ANCHORS),
        layer("Reshape", "rpn_cls_score", "two", shape.format(2)),
        layer("Softmax", "two", "two_prob"),
        layer("Reshape", "two_prob", "rpn_cls_prob", shape.format(2 * ANCHORS)),
        layer(proposal[0], "rpn_cls_prob rpn_bbox_pred im_info", "rois", *proposal[1:]),
    )


FASTER_RCNN = (
    layer("ROIPooling", "map rois", "pool",
          "roi_pooling_param { pooled_w: 3 pooled_h: 2 spatial_scale: 0.0625 }"),
    layer("InnerProduct", "pool", "score", "inner_product_param { num_output: 5 }"),
    layer("Softmax", "score", "cls_prob"),
)  # fmt: skip
R_FCN = (
    conv("map", "maps", 45),
    layer("PSROIPooling", "maps rois", "psroi",
          "psroi_pooling_param { spatial_scale: 0.0625 output_dim: 5 group_size: 3 }"),
    layer("Pooling", "psroi", "ave", "pooling_param { pool: AVE kernel_size: 3 stride: 3 }"),
    layer("Softmax", "ave", "cls_prob"),
)  # fmt: skip


@pytest.mark.parametrize("head", [FASTER_RCNN, R_FCN], ids=["faster-rcnn", "r-fcn"])
@pytest.mark.parametrize(
    ("proposal", "info"),
    [(("Python", PYTHON), (96, 160, 1)), (("Proposal", PVANET), (96, 160, 1, 1))],
    ids=["py-faster-rcnn", "pvanet"],
)
@pytest.mark.parametrize("factor", [1, 0.1], ids=["wild", "tame"])
def test_boxes_are_found_in_the_image_that_im_info_tells(proposal, info, head, factor):
    """Also by weights that throw the boxes about. Random numbers for im_info leave none."""
    built = build(*rpn(*proposal, info=len(info)), *head)
    weights = {k: v * np.float32(factor) for k, v in seeded_weights(built).items()}
    found = reference.record(
        built.net, lambda fed: reference.forward(built.net, weights, fed), "numpy"
    )
    np.testing.assert_array_equal(found.inputs["im_info"], np.array([info], np.float32))
    assert reference.without_rows(found.blobs) == []
    rois, prob = found.blobs["rois"], found.blobs["cls_prob"]
    assert len(rois) == len(prob) >= (5 if factor == 0.1 else 1)
    assert np.isfinite(prob).all() and prob.std() > 0
    assert found.inputs["data"].std() == pytest.approx(50, rel=0.1)


def pooled(rois, type_="ROIPooling", scale=0.25):
    param = f"roi_pooling_param {{ pooled_h: 2 pooled_w: 3 spatial_scale: {scale} }}"
    return layer(type_, f"data {rois}", f"of_{rois}_{scale}", param)


def example(rows, shape=(2, 4, 6, 9), scale=0.25):
    made = registry.find("ROIPooling", "faster-rcnn")(2, 3, scale)
    return made.examples([shape, (rows, 5)])[1]


@pytest.mark.parametrize(
    "between",
    [
        (),
        (layer("Split", "rois", "r other"),),
        (
            layer("Reshape", "rois", "flat", "reshape_param { shape { dim: 7 dim: 5 } }"),
            layer("Reshape", "flat", "r", "reshape_param { shape { dim: 7 dim: 5 dim: 1 } }"),
        ),
    ],
    ids=["read directly", "split", "reshaped"],
)  # fmt: skip
@pytest.mark.parametrize("scale", reference.SCALES)
def test_an_input_of_boxes_holds_boxes_at_any_seed_and_scale(between, scale):
    net = build(
        inputs(data=(2, 4, 6, 9), rois=(7, 5) if len(between) < 2 else (1, 7, 5, 1)),
        *between,
        pooled("r" if between else "rois"),
    ).net
    for seed in (1, 2):
        fed = reference.seeded_inputs(net, seed, scale)
        assert fed["rois"].shape == net.blobs["rois"].shape
        np.testing.assert_array_equal(fed["rois"].reshape(7, 5), example(7))
        assert fed["data"].std() == pytest.approx(scale or 1, rel=0.2)


def test_of_two_layers_the_first_has_the_example():
    text = inputs(data=(2, 4, 6, 9), rois=(7, 5))
    for first, second in ((0.25, 0.5), (0.5, 0.25)):
        net = build(text, pooled("rois", scale=first), pooled("rois", scale=second)).net
        fed = reference.seeded_inputs(net, SEED)
        np.testing.assert_array_equal(fed["rois"], example(7, scale=first))


def test_values_that_are_changed_on_their_way_stay_random():
    """Boxes that are computed, or in another order, are not what the input holds."""
    net = build(
        inputs(data=(2, 4, 6, 9), boxes=(7, 5), turned=(5, 7, 1, 1)),
        layer("Power", "boxes", "more", "power_param { shift: 3 }"),
        pooled("more"),
        layer("Permute", "turned", "t", "permute_param { order: 1 order: 0 order: 2 order: 3 }"),
        pooled("t"),
    ).net
    for key in ("boxes", "turned"):
        assert abs(reference.seeded_inputs(net, SEED)[key]).max() < 5


def test_blobs_without_rows():
    """A selector of zeros keeps nothing, and nothing comes of it."""
    built = build(
        inputs(data=(4, 3)),
        layer("Slice", "data", "keep rest", "slice_param { slice_point: 1 }"),
        layer("Power", "keep", "none", "power_param { scale: 0 }"),
        layer("Filter", "rest none", "kept"),
        layer("TanH", "kept", "out"),
    )
    assert reference.without_rows(recorded(built).blobs) == ["kept", "out"]


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
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 17)  # 16 GiB
    with pytest.raises(EnvironmentProblem, match="64,000,000,000 bytes.*17,179,869,184.*--no-ref"):
        recorded(built)
    assert os.sysconf("SC_PAGE_SIZE") == 1 << 17


def test_of_a_dynamic_batch_one_sample_counts(monkeypatch):
    built = build(inputs(data=(2000, 1, 1000, 1000)), layer("TanH", "data", "t"))
    net = built.net
    assert net.dynamic_batch
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 15)  # 1 GiB
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
