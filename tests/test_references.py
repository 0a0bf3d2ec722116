"""A user's own reference: which of its arrays are held against which blob of the net."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel
from stage_build.verify import users_reference
from tests import nets

SHAPE = (2, 3, 4, 5)


@pytest.fixture(scope="module")
def shared():
    """`flat` is a view of `x`, and is overwritten in place: in Caffe, so is `x`."""
    return nets.net(
        nets.inputs(data=SHAPE),
        nets.layer("Power", "data", "x", "power_param { shift: -1 }"),
        nets.layer("Flatten", "x", "flat"),
        nets.layer("ReLU", "flat", "flat", name="relu"),
    )


def arrays(content, **blobs):
    data = content.reference.inputs["data"]
    return {"input:data": data, **{f"blob:{name}": value for name, value in blobs.items()}}


@pytest.mark.parametrize("order", [("x", "flat"), ("flat", "x"), ("x",), ("flat",)], ids="-".join)
def test_names_that_share_memory_are_one_blob(shared, order):
    flat = shared.reference.blobs["flat"]
    views = {"flat": flat, "x": flat.reshape(SHAPE)}
    given = arrays(shared, **{name: views[name] for name in order})
    _, blobs, skipped = users_reference(shared.net, given)
    assert skipped == {}
    assert list(blobs) == ["flat"]
    np.testing.assert_array_equal(blobs["flat"], flat, strict=True)


def test_the_blobs_own_name_goes_before_its_views(shared):
    flat = shared.reference.blobs["flat"]
    for order in ("flat x", "x flat"):
        given = {"flat": flat, "x": np.zeros(SHAPE, np.float32)}
        given = {name: given[name] for name in order.split()}
        _, blobs, _ = users_reference(shared.net, arrays(shared, **given))
        np.testing.assert_array_equal(blobs["flat"], flat, strict=True)


def test_a_view_of_another_size_is_left_to_fail(shared):
    given = arrays(shared, x=np.zeros((2, 3, 4, 6), np.float32))
    _, blobs, _ = users_reference(shared.net, given)
    assert blobs["flat"].shape == (2, 3, 4, 6)


def test_an_earlier_value_is_named_with_its_layer(shared):
    before = shared.reference.blobs["flat@flat"]
    _, blobs, skipped = users_reference(shared.net, arrays(shared, **{"flat@flat": before}))
    assert skipped == {}
    np.testing.assert_array_equal(blobs["flat@flat"], before, strict=True)


def test_what_the_net_lacks_is_skipped_with_the_reason(shared):
    value = np.zeros((2, 60), np.float32)
    names = {"label": value, "x_x_0_split_1": value}
    _, blobs, skipped = users_reference(shared.net, arrays(shared, **names))
    assert blobs == {}
    assert "dropped with a loss" in skipped["label"]
    assert "Caffe's own copy" in skipped["x_x_0_split_1"]


def test_a_slash_is_written_as_percent_2f():
    content = nets.net(nets.inputs(data=SHAPE), nets.layer("ReLU", "data", "a/b"))
    value = content.reference.blobs["a/b"]
    _, blobs, _ = users_reference(content.net, arrays(content, **{"a%2Fb": value}))
    np.testing.assert_array_equal(blobs["a/b"], value, strict=True)


@pytest.mark.parametrize("batch", [1, 7])
def test_any_batch_where_the_net_takes_any(shared, batch):
    given = {"input:data": np.ones((batch, 3, 4, 5), np.float64)}
    inputs, _, _ = users_reference(shared.net, given)
    assert inputs["data"].shape == (batch, 3, 4, 5)
    assert inputs["data"].dtype == np.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no input 'data'"),
        ({"input:data": np.ones((2, 3, 4, 6))}, r"\[2, 3, 4, 6\], the net takes \[2, 3, 4, 5\]"),
        ({"input:data": np.ones((3, 4, 5))}, "has shape"),
    ],
    ids=["missing", "size", "rank"],
)
def test_inputs_that_do_not_fit_are_refused(shared, given, message):
    with pytest.raises(MalformedModel, match=message):
        users_reference(shared.net, given)
