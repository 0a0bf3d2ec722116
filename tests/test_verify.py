"""Verification: what counts as equal, what is compared, and who is to blame where it is not."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schemas import memory
from schemas.errors import EnvironmentProblem, MalformedModel, UsageError, VerificationFailed
from schemas.graph import Blob, Layer, Net
from schemas.interchange import Interchange, Reference, read, write
from stage_build import verify
from stage_build.artefacts import check, export, models
from stage_build.verify import ABSOLUTE, NET_TOLERANCE, Outcome, compare, users_reference
from tests import nets

NAN, INF = np.nan, np.inf


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers)


# compare


def test_a_difference_of_exactly_the_limit_passes():
    limit = 0.25 * 2 + ABSOLUTE
    assert compare("x", values(limit, 2), values(0, 2), 0.25).passed
    assert not compare("x", values(np.nextafter(limit, 1), 2), values(0, 2), 0.25).passed


def test_the_limit_goes_by_the_largest_value_of_all():
    assert compare("x", values(1000.09, 0.09), values(1000, 0), 1e-4).passed
    assert not compare("x", values(0.09), values(0), 1e-4).passed


def test_a_blob_of_zeros_may_be_off_by_the_absolute_limit():
    compared = compare("x", values(ABSOLUTE, 0), values(0, 0), 1e-4)
    assert compared.passed
    assert compared.magnitude == 0
    assert compared.relative == compared.max_error == ABSOLUTE
    assert not compare("x", values(1.01 * ABSOLUTE, 0), values(0, 0), 1e-4).passed


def test_the_figures():
    compared = compare("x", values(1, -4, 3), values(1, -5, 1), 1e-4)
    assert not compared.passed
    assert (compared.max_error, compared.mean_error, compared.magnitude) == (2, 1, 5)
    assert compared.relative == 0.4
    assert compared.shape == (3,)
    assert compared.reason == ""


def test_differences_are_taken_in_double_precision():
    """Neither overflow nor a float32's last digit may hide in the subtraction."""
    most = np.finfo(np.float32).max
    compared = compare("x", np.array([most]), np.array([-most]), 1e-4)
    assert not compared.passed
    assert compared.max_error == 2.0 * float(most)


@pytest.mark.parametrize(
    ("got", "passed"), [([3, 7], True), ([3, 8], False), ([3, 7 + 1e-7], False)], ids=str
)
def test_positions_are_compared_exactly(got, passed):
    assert compare("x", np.array(got), values(3, 7), 0.5, index=True).passed is passed


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ([NAN, 1], [NAN, 1]),
        ([INF, 1], [INF, 1]),
        ([-INF, 1], [-INF, 1]),
        ([NAN, INF], [NAN, INF]),
    ],
    ids=str,
)
def test_infinities_and_nans_in_the_same_places_pass(got, want):
    compared = compare("x", np.array(got), np.array(want), 1e-4)
    assert compared.passed
    assert compared.max_error == 0
    assert not compare("x", np.array(got) + values(0, 1), np.array([*want[:1], 0]), 1e-4).passed


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ([-INF, 1], [INF, 1]),
        ([NAN, 1], [INF, 1]),
        ([INF, 1], [NAN, 1]),
        ([1, NAN], [NAN, 1]),
        ([NAN, 1], [1, 1]),
        ([1, 1], [NAN, 1]),
        ([1e30, 1], [INF, 1]),
        ([INF, 1], [1e30, 1]),
    ],
    ids=str,
)
def test_infinities_and_nans_in_other_places_fail(got, want):
    compared = compare("x", np.array(got), np.array(want), 0.9)
    assert not compared.passed
    assert compared.reason == "infinities or NaNs in other places"
    assert compared.document()["max_error"] is None
    json.dumps(compared.document(), allow_nan=False)


@pytest.mark.parametrize(
    ("got", "want"),
    [((2, 3), (3, 2)), ((6,), (2, 3)), ((2, 3, 1), (2, 3)), ((), (1,)), ((0,), (0, 3))],
    ids=str,
)
def test_shapes_must_be_the_same(got, want):
    compared = compare("x", np.zeros(got), np.zeros(want), 0.5)
    assert not compared.passed
    assert compared.reason == f"shape {list(got)}, expected {list(want)}"
    assert compared.shape == want


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)], ids=str)
def test_nothing_equals_nothing(shape):
    compared = compare("x", np.zeros(shape), np.zeros(shape), 0)
    assert compared.passed
    assert (compared.max_error, compared.mean_error, compared.magnitude) == (0, 0, 0)


def test_one_number_without_axes():
    assert compare("x", np.array(2.0), np.array(2.0), 0).passed
    assert not compare("x", np.array(3.0), np.array(2.0), 0.1).passed


# Outcome


def test_an_outcome_of_nothing_has_not_passed():
    assert not Outcome(()).passed


def test_the_worst_blob_is_a_failed_one_then_the_largest_relative_error():
    small = compare("small", values(1.05), values(1), 0.1)
    large = compare("large", values(1.09), values(1), 0.1)
    failed = compare("failed", values(1.01), values(1), 1e-4)
    wrong = compare("shape", values(1, 2), values(1), 1e-4)
    assert Outcome((small, large)).worst is large
    assert Outcome((large, failed, small)).worst is failed
    assert Outcome((failed, wrong, large)).worst is wrong
    assert Outcome((small, failed, wrong)).first_failure is failed
    assert Outcome((small, large)).first_failure is None
    document = Outcome((small, failed, wrong)).document()
    assert not document["passed"]
    assert document["first_failure"]["name"] == "failed"
    assert [blob["name"] for blob in document["blobs"]] == ["small", "failed", "shape"]
    json.dumps(document, allow_nan=False)


# check, with a model that is NumPy

SMALL = (
    nets.inputs(data=(2, 3, 5, 7)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 }"),
    nets.layer("ReLU", "conv", "conv", name="relu"),
    nets.layer("Pooling", "conv", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
    nets.layer("InnerProduct", "pool", "ip", "inner_product_param { num_output: 6 }"),
    nets.layer("ArgMax", "ip", "best"),
)


FILTERED = (
    nets.inputs(data=(4, 3), keep=(4, 1)),
    nets.layer("Filter", "data keep", "kept"),
    nets.layer("TanH", "kept", "out"),
)


def selector(*kept: int) -> dict[str, np.ndarray]:
    """Which of the 4 rows of `FILTERED` are kept: 1 or 0 each, or one number for all."""
    return {"keep": np.broadcast_to(np.array(kept, np.float32), 4).reshape(4, 1).copy()}


def playback(recorded, **changes):
    """A model that gives what was recorded, but for `changes`: key -> function."""

    def run(inputs, keys):
        for key, value in inputs.items():
            np.testing.assert_array_equal(value, recorded.inputs[key])
        blobs = {key: recorded.blobs[key] for key in keys}
        return {key: changes[key](blobs[key]) if key in changes else blobs[key] for key in keys}

    return run


def checked(content, run, tolerance=NET_TOLERANCE):
    recorded = content.reference
    return verify.check(content.net, run, recorded.inputs, recorded.blobs, tolerance)


def test_every_blob_is_compared_in_the_net_s_order():
    content = nets.net(*SMALL)
    outcome = checked(content, playback(content.reference))
    assert outcome.passed
    assert [blob.name for blob in outcome.compared] == list(content.net.blobs)
    assert len(outcome.compared) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x * np.float32(1.001), ""),
        (lambda x: x + np.float32(1e-3), ""),
        (lambda x: x[:, ::-1], ""),
        (lambda x: x[:, :, ::-1], ""),
        (lambda x: x.swapaxes(2, 3), "shape"),
        (lambda x: x[:1], "shape"),
        (lambda x: x * np.float32("nan"), "infinities or NaNs"),
    ],
    ids=["scaled", "shifted", "channels", "rows", "transposed", "batch", "nan"],
)
def test_a_changed_blob_is_found(change, reason):
    content = nets.net(*SMALL)
    outcome = checked(content, playback(content.reference, pool=change))
    assert not outcome.passed
    assert [blob.name for blob in outcome.compared if not blob.passed] == ["pool"]
    assert outcome.first_failure.reason.startswith(reason)


def test_a_position_that_is_off_by_one_is_found():
    content = nets.net(*SMALL)
    assert content.net.blobs["best"].index
    outcome = checked(content, playback(content.reference, best=lambda x: x + 1), tolerance=0.9)
    assert outcome.first_failure.name == "best"


def test_comparing_nothing_is_a_failure():
    content = nets.net(*SMALL)
    with pytest.raises(VerificationFailed, match="nothing is proven"):
        verify.check(content.net, playback(content.reference), content.reference.inputs, {}, 0.5)


def test_blobs_without_rows_are_left_out():
    """They have no value that could be wrong; their number of rows could be, and is looked at."""
    content = nets.net(*FILTERED, given=selector(0))
    outcome = checked(content, playback(content.reference))
    assert outcome.passed
    assert [blob.name for blob in outcome.compared] == ["data", "keep"]
    reason = "it has no rows in the reference"
    left_out = verify.without_rows(content.reference.blobs, outcome)
    assert left_out == {"kept": reason, "out": reason}
    one = np.zeros((1, 3), np.float32)
    outcome = checked(content, playback(content.reference, kept=lambda x: one))
    assert not outcome.passed
    assert outcome.first_failure.name == "kept"
    assert outcome.first_failure.reason == "shape [1, 3], expected [0, 3]"
    assert list(verify.without_rows(content.reference.blobs, outcome)) == ["out"]


def test_comparing_no_rows_is_a_failure():
    content = nets.net(*FILTERED, given=selector(0))
    recorded = content.reference
    want = {key: recorded.blobs[key] for key in ("kept", "out")}
    with pytest.raises(VerificationFailed, match="no rows in 'kept', 'out': nothing is proven"):
        verify.check(content.net, playback(recorded), recorded.inputs, want, 0.5)


# A user's reference


def user_net() -> Net:
    return nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer(
            "Convolution",
            "data",
            "a/b",
            "convolution_param { num_output: 4 kernel_size: 1 }",
            name="conv",
        ),
        nets.layer("ReLU", ["a/b"], ["a/b"], name="relu"),
        nets.layer("Flatten", ["a/b"], "flat"),
        nets.layer("Split", "flat", "s0 s1"),
        nets.layer("Sigmoid", "s0", "out"),
        nets.layer("SoftmaxWithLoss", "s1 data", "loss"),
        record=False,
    ).net


DATA = {"input:data": np.zeros((2, 3, 5, 7), np.float32)}


def blob(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def test_a_slash_is_written_as_percent_2f():
    inputs, blobs, skipped = users_reference(user_net(), {**DATA, "blob:a%2Fb": blob(2, 4, 5, 7)})
    assert list(inputs) == ["data"]
    assert list(blobs) == ["a/b"]
    assert not skipped
    assert blobs["a/b"].dtype == np.float32
    np.testing.assert_array_equal(blobs["a/b"], blob(2, 4, 5, 7))


def test_an_input_s_own_name_may_have_a_slash():
    net = nets.net(nets.inputs(**{"in/put": (2, 3)}), nets.layer("ReLU", ["in/put"], "x")).net
    inputs, _, _ = users_reference(net, {"input:in%2Fput": blob(2, 3)})
    assert list(inputs) == ["in/put"]


def test_a_missing_input_is_named():
    with pytest.raises(MalformedModel, match=r"--reference: the reference has no input 'data'"):
        users_reference(user_net(), {"blob:out": blob(2, 140)})


@pytest.mark.parametrize(
    "shape", [(2, 3, 7, 5), (2, 3, 5), (3, 5, 7), (2, 3, 5, 7, 1), ()], ids=str
)
def test_an_input_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(MalformedModel) as caught:
        users_reference(user_net(), {"input:data": np.zeros(shape)})
    assert f"has shape {list(shape)}, the net takes [2, 3, 5, 7]" in str(caught.value)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_any_batch_will_do_where_the_net_takes_any(batch):
    inputs, _, _ = users_reference(user_net(), {"input:data": np.zeros((batch, 3, 5, 7))})
    assert inputs["data"].shape == (batch, 3, 5, 7)


@pytest.mark.parametrize("batches", [(0, 0), (2, 3)], ids=["none", "different"])
def test_inputs_have_samples_all_as_many(batches):
    net = nets.net(
        nets.inputs(a=(2, 3), b=(2, 3)), nets.layer("Eltwise", "a b", "sum"), record=False
    ).net
    assert net.dynamic_batch
    given = {f"input:{key}": np.zeros((n, 3)) for key, n in zip("ab", batches, strict=True)}
    with pytest.raises(MalformedModel, match="no samples, or not all as many: 'a'"):
        users_reference(net, given)


def test_a_fixed_batch_must_be_met():
    net = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Reshape", "data", "x", "reshape_param { shape { dim: 3 dim: -1 } }"),
    ).net
    assert not net.dynamic_batch
    assert users_reference(net, DATA)[0]["data"].shape == (2, 3, 5, 7)
    with pytest.raises(MalformedModel, match=r"has shape \[1, 3, 5, 7\]"):
        users_reference(net, {"input:data": np.zeros((1, 3, 5, 7))})


def test_what_cannot_be_compared_is_listed_with_its_reason():
    arrays = {
        **DATA,
        "blob:out": blob(2, 140),
        "blob:nothing": blob(1),
        "blob:loss": blob(),
        "blob:a%2Fb_relu_0_split_0": blob(2, 4, 5, 7),
        "blob:flat_flat_0_split_1": blob(2, 140),
        "blob:data_data_0_split_0": blob(2, 3, 5, 7),
        "other:x": blob(1),
        "meta": blob(1),
    }
    _, blobs, skipped = users_reference(user_net(), arrays)
    assert list(blobs) == ["out"]
    reasons = {name: reason.split(" ")[0] for name, reason in skipped.items()}
    assert reasons == {
        "nothing": "not",
        "loss": "not",
        "a/b_relu_0_split_0": "Caffe's",
        "flat_flat_0_split_1": "Caffe's",
        "data_data_0_split_0": "Caffe's",
    }
    assert "'flat'" in skipped["flat_flat_0_split_1"]
    assert "'data'" in skipped["data_data_0_split_0"]


def test_a_key_of_ours_names_an_overwritten_value():
    _, blobs, _ = users_reference(user_net(), {**DATA, "blob:a%2Fb@conv": blob(2, 4, 5, 7)})
    assert list(blobs) == ["a/b@conv"]


def test_names_that_share_memory_are_compared_once():
    """Caffe has one memory for in-place ReLU behind Flatten, under two names and shapes."""
    net = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Power", "data", "x", "power_param { shift: 1 }"),
        nets.layer("Flatten", "x", "flat"),
        nets.layer("ReLU", "flat", "flat", name="relu"),
    ).net
    both = {**DATA, "blob:x": blob(2, 3, 5, 7), "blob:flat": blob(2, 105)}
    assert net.names["x"] == net.names["flat"] == "flat"
    for names in (["blob:x", "blob:flat"], ["blob:flat", "blob:x"]):
        _, blobs, _ = users_reference(net, {**DATA, **{name: both[name] for name in names}})
        assert list(blobs) == ["flat"]
        np.testing.assert_array_equal(blobs["flat"], blob(2, 105))
    _, blobs, _ = users_reference(net, {**DATA, "blob:x": blob(2, 3, 5, 7)})
    np.testing.assert_array_equal(blobs["flat"], blob(2, 105))


def test_an_npz_is_read(tmp_path):
    np.savez(tmp_path / "r.npz", **DATA, **{"blob:out": blob(2), "note": blob(3)})
    assert set(check.load_npz(tmp_path / "r.npz")) == {"input:data", "blob:out"}


def truncated(path: Path) -> None:
    np.savez(path, **DATA)
    path.write_bytes(path.read_bytes()[:-40])


def damaged(path: Path) -> None:
    np.savez(path, **DATA)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pickled(path: Path) -> None:
    np.savez(path, **{"blob:x": np.array([{"a": 1}], object)})


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"blob:x": 1}))


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, blob(3))


def a_zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("blob:x.npy", "text")


def a_zip_of_other_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("blob:x", "text")


def texts(path: Path) -> None:
    np.savez(path, **{"blob:x": np.array(["a", "b"])})


def complex_numbers(path: Path) -> None:
    np.savez(path, **{"blob:x": np.array([1j])})


def header(shape: str) -> Callable[[Path], None]:
    """Makes an npz with an array of 4 bytes, and this for its shape."""

    def make(path: Path) -> None:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"four"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("blob:x.npy", data)

    return make


@pytest.mark.parametrize(
    "make",
    [
        header("(1000000000000,)"),
        header("(True,)"),
        header("(-1,)"),
        header("(" * 5000 + ")" * 5000),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("text"),
        truncated,
        damaged,
        pickled,
        a_pickle,
        one_array,
        a_zip_of_text,
        a_zip_of_other_files,
        texts,
        complex_numbers,
    ],
    ids=[
        "terabytes",
        "shape-of-truth",
        "negative-shape",
        "deep-shape",
        "empty",
        "text",
        "truncated",
        "damaged",
        "pickled",
        "a-pickle",
        "one-array",
        "zip-of-text",
        "zip-of-other-files",
        "texts",
        "complex",
    ],
)
def test_a_reference_that_is_no_npz_of_numbers_is_refused(tmp_path, make):
    make(tmp_path / "r.npz")
    with pytest.raises(MalformedModel, match="r.npz: not an npz file of"):
        check.load_npz(tmp_path / "r.npz")


def test_a_reference_larger_than_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "r.npz", **DATA)
    monkeypatch.setattr(check, "MAX_REFERENCE", 100)
    with pytest.raises(MalformedModel, match="larger than"):
        check.load_npz(tmp_path / "r.npz")


def test_a_reference_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "r.npz", **DATA)
    monkeypatch.setattr(memory, "physical", lambda: 100)
    with pytest.raises(EnvironmentProblem, match="the arrays of --reference need .* has 100"):
        check.load_npz(tmp_path / "r.npz")


def test_a_missing_reference_is_the_command_lines_fault(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        check.load_npz(tmp_path / "nothing.npz")


# Rows


def leaky(x):
    """Takes the mean of the batch: rows leak into each other."""
    return x - x.mean(0, keepdims=True)


@pytest.mark.parametrize(
    ("run", "passed"),
    [
        (lambda x: x * 2, True),
        (lambda x: x * 2 + leaky(x) * np.float32(1e-2), False),
        (lambda x: x * 2 + np.arange(len(x), dtype=np.float32).reshape(-1, 1, 1, 1), False),
        (lambda x: x[::-1] * 2, True),  # rows 0 and 2 are the same sample
        (lambda x: np.roll(x, 1, 0) * 2, False),
        (lambda x: np.repeat(x[:1], len(x), 0) * 2, True),
        (lambda x: x[:1] * 2, False),
    ],
    ids=["apart", "mean", "numbered", "reversed", "rolled", "first-row-alone", "one-row"],
)
def test_rows_that_leak_are_found(run, passed):
    """Rows 0 and 2 of a batch of 3 must be what the lone sample gave."""
    net = Net(
        "net",
        (Layer("double", "Power", ("data",), ("x",)),),
        {name: Blob(name, name, (2, 3, 5, 7), 0) for name in ("data", "x")},
        {"data": "data", "x": "x"},
        ("data",),
        ("x",),
    )
    data = nets.seeded_inputs(net)
    rows = []

    def runner(inputs, keys):
        rows.append(inputs["data"])
        return {"x": run(inputs["data"])}

    outcome = check.check_batch(net, runner, data, {"x": data["data"] * 2}, 1e-4)
    assert outcome.passed is passed
    assert len(outcome.compared) == 2
    (stacked,) = rows
    assert stacked.shape == (3, 3, 5, 7)
    np.testing.assert_array_equal(stacked[0], data["data"][0])
    np.testing.assert_array_equal(stacked[2], stacked[0])
    assert not np.array_equal(stacked[1], stacked[0])


# A built package, and who is to blame

CULPRITS = (
    nets.inputs(data=(2, 3, 9, 11)),
    nets.layer("Convolution", "data", "c1", "convolution_param { num_output: 4 kernel_size: 3 }"),
    nets.layer("ReLU", "c1", "c1", "relu_param { negative_slope: 0.1 }", name="r1"),
    nets.layer("Pooling", "c1", "p1", "pooling_param { kernel_size: 3 stride: 2 }"),
    nets.layer("Convolution", "p1", "c2", "convolution_param { num_output: 6 kernel_size: 2 }"),
    nets.layer("BatchNorm", "c2", "c2", name="bn2"),
    nets.layer("Scale", "c2", "c2", "scale_param { bias_term: true }", name="sc2"),
    nets.layer("InnerProduct", "c2", "ip", "inner_product_param { num_output: 5 }"),
    nets.layer("Softmax", "ip", "prob"),
)


@pytest.fixture
def built(tmp_path):
    """A package and its net.h5."""
    content = nets.net(*CULPRITS)
    folder = nets.package(content, tmp_path / "net")
    write(tmp_path / "net.h5", content)
    return content, folder, tmp_path / "net.h5"


def change_weight(folder: Path, number: int, change) -> None:
    """Rewrites one member of weights.npz."""
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    weights[str(number)] = change(weights[str(number)]).astype(np.float32)
    np.savez(folder / "weights.npz", **weights)


def change_source(folder: Path, old: str, new: str) -> None:
    text = (folder / "model.py").read_text()
    assert text.count(old) == 1
    (folder / "model.py").write_text(text.replace(old, new))


def test_a_right_package_passes(built):
    content, folder, file = built
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE)
    assert result["recorded"]["passed"]
    assert {blob["name"] for blob in result["recorded"]["blobs"]} == set(content.net.blobs)
    assert result["batch"]["passed"]
    assert {blob["name"] for blob in result["batch"]["blobs"]} == {"prob"}
    assert not result.get("culprit")
    assert not result["skipped"]
    assert result["user"] is None
    json.dumps(result, allow_nan=False)


def others_are_unharmed(content, folder, culprit):
    """Fed the reference's own bottoms, every other layer gives the reference's tops."""
    network = models.import_package(folder).load()
    runner = models.KerasRunner(network.model, network.names)
    blobs = content.reference.blobs
    for layer in content.net.layers:
        bottoms = {key: blobs[key] for key in layer.bottoms}
        got = runner.between(layer.bottoms, bottoms, layer.tops)
        for key in layer.tops:
            compared = compare(key, got[key], blobs[key], verify.LAYER_TOLERANCE)
            assert compared.passed is (layer.name != culprit), (layer.name, compared)


@pytest.mark.parametrize(
    ("change", "culprit", "first"),
    [
        (lambda f: change_weight(f, 0, lambda w: w[::-1]), "c1", "c1@c1"),
        (lambda f: change_weight(f, 1, lambda w: w + 1), "c1", "c1@c1"),
        (lambda f: change_weight(f, 2, lambda w: w * 1.1), "c2", "c2@c2"),
        (lambda f: change_weight(f, 4, lambda w: w + 0.5), "bn2", "c2@bn2"),
        (lambda f: change_weight(f, 5, lambda w: w * 2), "bn2", "c2@bn2"),
        (lambda f: change_weight(f, 6, lambda w: w[::-1]), "sc2", "c2"),
        (lambda f: change_weight(f, 8, lambda w: np.roll(w, 1, 0)), "ip", "ip"),
        (lambda f: change_weight(f, 9, lambda w: w + 0.1), "ip", "ip"),
        (lambda f: change_source(f, "slope=0.1", "slope=0.2"), "r1", "c1"),
        (lambda f: change_source(f, '"max"', '"average"'), "p1", "p1"),
        (lambda f: change_source(f, "batch_norm(c2", "batch_norm(c2, eps=0.1"), "bn2", "c2@bn2"),
        (lambda f: change_source(f, "softmax(ip", 'activation(ip, "sigmoid"'), "prob", "prob"),
    ],
    ids=[
        "kernel",
        "bias",
        "second-kernel",
        "mean",
        "variance",
        "scale",
        "dense",
        "dense-bias",
        "slope",
        "pooling",
        "eps",
        "activation",
    ],
)
def test_the_layer_to_blame_is_named(built, change, culprit, first):
    content, folder, file = built
    change(folder)
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE)
    assert not result["recorded"]["passed"]
    assert result["batch"] is None
    assert result["recorded"]["first_failure"]["name"] == first
    named = result["culprit"]
    assert (named["layer"], named["name"]) == (culprit, first)
    lines = {layer.name: (layer.type, layer.line) for layer in content.net.layers}
    assert (named["type"], named["line"]) == lines[culprit]
    others_are_unharmed(content, folder, culprit)


def test_a_reference_that_was_changed_is_no_layers_rounding(built):
    """Every blob differs a little, and no layer alone explains it: the input is another."""
    content, folder, _ = built
    blobs = {k: np.asarray(v) * np.float32(1 + 3e-3) for k, v in content.reference.blobs.items()}
    changed = Interchange(
        content.net,
        content.weights,
        reference=Reference("numpy", 1, content.reference.inputs, blobs),
    )
    write(folder / "net.h5", changed)
    result = check.check_artefact(folder, folder / "net.h5", "class", NET_TOLERANCE)
    assert not result["recorded"]["passed"]


def test_a_user_s_reference_is_compared_too(built, tmp_path):
    content, folder, file = built
    data = nets.seeded_inputs(content.net, seed=99)
    forward = nets.reference.forward(content.net, content.weights, data)
    arrays = {"input:data": data["data"]}
    arrays.update({f"blob:{name}": forward[key] for name, key in content.net.names.items()})
    np.savez(tmp_path / "r.npz", **arrays, **{"blob:gone": blob(3)})
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE, tmp_path / "r.npz")
    assert result["recorded"]["passed"] and result["user"]["passed"]
    assert {b["name"] for b in result["user"]["blobs"]} == set(content.net.names.values())
    assert set(result["skipped"]) == {"gone"}
    arrays["blob:p1"] = arrays["blob:p1"] + np.float32(1)
    np.savez(tmp_path / "r.npz", **arrays)
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE, tmp_path / "r.npz")
    assert result["recorded"]["passed"] and not result["user"]["passed"]
    assert result["user"]["first_failure"]["name"] == "p1"
    assert result["culprit"]["layer"] == "p1"


def test_a_user_s_reference_alone_will_do(built, tmp_path):
    content, folder, _ = built
    write(tmp_path / "bare.h5", Interchange(content.net, content.weights))
    recorded = content.reference
    np.savez(
        tmp_path / "r.npz",
        **{"input:data": recorded.inputs["data"], "blob:prob": recorded.blobs["prob"]},
    )
    result = check.check_artefact(
        folder, tmp_path / "bare.h5", "class", NET_TOLERANCE, tmp_path / "r.npz"
    )
    assert result["recorded"] is None
    assert [blob["name"] for blob in result["user"]["blobs"]] == ["prob"]
    assert result["user"]["passed"]


def test_a_user_s_reference_that_shares_nothing_with_the_net_proves_nothing(built, tmp_path):
    content, folder, file = built
    np.savez(tmp_path / "r.npz", **{"input:data": content.reference.inputs["data"]})
    with pytest.raises(VerificationFailed, match="nothing is proven"):
        check.check_artefact(folder, file, "class", NET_TOLERANCE, tmp_path / "r.npz")


def test_what_has_no_rows_is_listed_and_not_counted(tmp_path):
    """Until a user's own reference has rows for it."""
    content = nets.net(*FILTERED, given=selector(0))
    folder, file = nets.package(content, tmp_path / "net"), tmp_path / "net.h5"
    write(file, content)
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE)
    assert result["recorded"]["passed"]
    assert [blob["name"] for blob in result["recorded"]["blobs"]] == ["data", "keep"]
    reason = "it has no rows in the reference"
    assert result["skipped"] == {"kept": reason, "out": reason}

    def against(name, *kept):
        again = nets.net(*FILTERED, given=selector(*kept)).reference
        arrays = {f"input:{key}": value for key, value in again.inputs.items()}
        np.savez(tmp_path / "r.npz", **arrays, **{f"blob:{name}": again.blobs[name]})
        return check.check_artefact(folder, file, "class", NET_TOLERANCE, tmp_path / "r.npz")

    result = against("out", 1, 0, 1, 1)
    assert [blob["name"] for blob in result["user"]["blobs"]] == ["out"]
    assert result["user"]["passed"]
    assert result["skipped"] == {"kept": reason}
    with pytest.raises(VerificationFailed, match="no rows in 'out': nothing is proven"):
        against("out", 0)


def test_what_the_recorded_reference_showed_is_not_listed(tmp_path):
    """Though the user's has no rows for it."""
    content = nets.net(*FILTERED, given=selector(1, 0, 1, 0))
    folder, file = nets.package(content, tmp_path / "net"), tmp_path / "net.h5"
    write(file, content)
    again = nets.net(*FILTERED, given=selector(0)).reference
    arrays = {f"input:{key}": value for key, value in again.inputs.items()}
    np.savez(tmp_path / "r.npz", **arrays, **{f"blob:{k}": v for k, v in again.blobs.items()})
    result = check.check_artefact(folder, file, "class", NET_TOLERANCE, tmp_path / "r.npz")
    assert result["recorded"]["passed"] and result["user"]["passed"]
    assert len(result["recorded"]["blobs"]) == 4 and len(result["user"]["blobs"]) == 2
    assert result["skipped"] == {}


def test_a_top_that_leads_to_no_output_is_listed_and_not_missed(tmp_path):
    """--outputs keeps a layer whole, and Keras drops the half of it that nobody needs."""
    content = nets.net(
        nets.inputs(data=(2, 3, 5, 7)),
        nets.layer("Slice", "data", "a b c"),
        nets.layer("ReLU", "b", "d"),
        outputs=["d"],
    )
    folder = nets.package(content, tmp_path / "net")
    write(tmp_path / "net.h5", content)
    result = check.check_artefact(folder, tmp_path / "net.h5", "class", NET_TOLERANCE)
    assert result["recorded"]["passed"]
    assert {blob["name"] for blob in result["recorded"]["blobs"]} == {"data", "b", "d"}
    assert set(result["skipped"]) == {"a", "c"}


@pytest.fixture
def amplifier(tmp_path):
    """A net whose second layer lets a rounding of the first, within one layer's tolerance, grow."""
    content = nets.net(
        nets.inputs(data=(2, 3, 4, 5)),
        nets.layer("Power", "data", "high", "power_param { shift: 1000 }"),
        nets.layer("Power", "high", "low", "power_param { shift: -1000 }"),
        record=True,
    )
    inputs = content.reference.inputs
    high = (inputs["data"] + np.float32(1000)) * np.float32(1 + 4e-6)
    blobs = {"data": inputs["data"], "high": high, "low": high - np.float32(1000)}
    reference = Reference("numpy", 1, inputs, blobs)
    folder = nets.package(content, tmp_path / "out")
    write(folder / "net.h5", Interchange(content.net, content.weights, reference=reference))
    return folder


def test_rounding_that_grows_is_told_and_accepted(amplifier):
    result = check.check_artefact(amplifier, amplifier / "net.h5", "class", NET_TOLERANCE)
    assert result["recorded"]["passed"] and result["culprit"] is None
    assert list(result["rounding"]) == ["low"]
    assert NET_TOLERANCE < result["rounding"]["low"] < verify.ROUNDING_LIMIT
    (low,) = (blob for blob in result["recorded"]["blobs"] if blob["name"] == "low")
    assert "rounding that grew" in low["reason"]


def test_rounding_is_no_excuse_for_a_smaller_tolerance(amplifier):
    result = check.check_artefact(amplifier, amplifier / "net.h5", "class", 1e-7)
    assert not result["recorded"]["passed"]
    assert result["culprit"]["name"] == "high"


@pytest.fixture
def picker(tmp_path):
    """A net that picks by numbers which are equal but for a rounding of the first layer."""
    content = nets.net(
        nets.inputs(data=(1, 2, 1, 3)),
        nets.layer("Power", "data", "near", "power_param { shift: 1 }"),
        nets.layer("ArgMax", "near", "place", "argmax_param { axis: 1 }"),
        nets.layer("Eltwise", "place place", "twice"),
        given={"data": np.array([[[[0.5, 1, 2]], [[0.5, 0, 3]]]], np.float32)},
    )
    recorded = content.reference
    blobs = {key: value.copy() for key, value in recorded.blobs.items()}
    # Of equal numbers the later place is the greatest's: the first is made so by its last bits.
    blobs["near"][0, 0, 0, 0] += 4e-7
    assert blobs["place"][0, 0, 0, 0] == 1
    blobs["place"][0, 0, 0, 0] = blobs["twice"][0, 0, 0, 0] = 0
    folder = tmp_path / "picker"
    nets.package(content, folder)
    list(export.handle(str(folder), ["keras", "saved_model"]))
    changed = Reference("numpy", 1, recorded.inputs, blobs)
    write(folder / "net.h5", Interchange(content.net, content.weights, reference=changed))
    return folder


def test_what_near_ties_pick_is_told_and_accepted(picker):
    file = picker / "net.h5"
    result = check.check_artefact(picker, file, "class", NET_TOLERANCE)
    assert result["recorded"]["passed"] and result["culprit"] is None
    assert result["picked"] == ["place", "twice"]
    assert result["rounding"] == {}
    told = {blob["name"]: blob["reason"] for blob in result["recorded"]["blobs"]}
    assert told["place"].startswith("picked among near ties") and not told["near"]
    again = check.check_artefact(picker, file, "keras", NET_TOLERANCE)
    assert again["recorded"]["passed"] and again["picked"] == result["picked"]
    served = check.check_artefact(picker, file, "saved_model", NET_TOLERANCE)
    assert served["recorded"]["passed"] and served["picked"] == ["twice"]


def test_a_wrong_pick_is_no_near_tie(picker):
    content = read(picker / "net.h5")
    blobs = {key: np.array(value) for key, value in content.reference.blobs.items()}
    blobs["place"][0, 0, 0, 2] = 0
    changed = Reference("numpy", 1, content.reference.inputs, blobs)
    write(picker / "net.h5", Interchange(content.net, content.weights, reference=changed))
    result = check.check_artefact(picker, picker / "net.h5", "class", NET_TOLERANCE)
    assert not result["recorded"]["passed"] and result["picked"] == []
    assert result["culprit"]["layer"] == "place"
    result = check.check_artefact(picker, picker / "net.h5", "keras", NET_TOLERANCE)
    assert not result["recorded"]["passed"]


def test_a_saved_model_of_another_net_is_no_near_tie(picker, tmp_path):
    """The class's own graph is what it is held to."""
    content = nets.net(
        nets.inputs(data=(1, 2, 1, 3)),
        nets.layer("Power", "data", "near", "power_param { scale: -1 }"),
        nets.layer("ArgMax", "near", "place", "argmax_param { axis: 1 }"),
        nets.layer("Eltwise", "place place", "twice"),
    )
    other = nets.package(content, tmp_path / "other")
    list(export.handle(str(other), ["saved_model"]))
    shutil.rmtree(picker / "saved_model")
    (other / "saved_model").rename(picker / "saved_model")
    result = check.check_artefact(picker, picker / "net.h5", "saved_model", NET_TOLERANCE)
    assert not result["recorded"]["passed"]


def test_allowed_rounding_reaches_what_is_computed_from_it():
    content = nets.net(
        nets.inputs(data=(2, 3, 4, 5)),
        nets.layer("ReLU", "data", "a"),
        nets.layer("ReLU", "a", "b"),
        nets.layer("ReLU", "data", "apart"),
        nets.layer("Eltwise", "b apart", "sum"),
        record=False,
    )
    found = verify.allowances(content.net, {"a": 1e-3, "b": 1e-4})
    assert found == {"a": 3e-3, "b": 3e-3, "apart": 0, "sum": 3e-3}
    assert verify.allowances(content.net, {}) == {}
