"""Embed, BatchReindex and Filter, and the row numbers that a reference is recorded with."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from stage_extract import reference
from tests import prototxts
from tests.meanings import infer, run, values

same = np.testing.assert_array_equal
TABLE = values((3, 2), 1, 2, 10, 20, 100, 200)
BIAS = values((2,), 0.5, -0.5)


def test_embed():
    """embed_layer.cpp: rows 2, 0 and, 1.9 being cut off to 1, row 1 of the table, plus the bias."""
    param = dict(num_output=2, input_dim=3)
    (top,) = run("Embed", param, [values((3, 1), 2, 0, 1.9)], [TABLE, BIAS])
    same(top, [[[100.5, 199.5]], [[1.5, 1.5]], [[10.5, 19.5]]])


def test_embed_without_bias():
    """-0.5 is cut off to 0."""
    param = dict(num_output=2, input_dim=3, bias_term=False)
    (top,) = run("Embed", param, [values((2,), 1, -0.5)], [TABLE])
    same(top, [[10, 20], [1, 2]])


@pytest.mark.parametrize("number", [-1, 3, float("nan")])
def test_a_row_that_is_not_there(number):
    with pytest.raises(MalformedModel, match="row numbers below 3 expected, found"):
        run("Embed", dict(num_output=2, input_dim=3), [values((1,), number)], [TABLE, BIAS])


@pytest.mark.parametrize("param", [dict(num_output=2), dict(input_dim=3)])
def test_embed_needs_both_sizes(param):
    with pytest.raises(MalformedModel, match="num_output and input_dim should be positive"):
        infer("Embed", param, [(4,)])


@pytest.mark.parametrize("batch", [0, 1])
def test_embed_keeps_the_batch_where_it_is(batch):
    """Also behind time, as recurrent nets have it."""
    made, _, tops = infer("Embed", dict(num_output=2, input_dim=3), [(6, 4)])
    assert made.batch_axes([(6, 4)], [batch], tops) == [batch]


def test_batch_reindex():
    """batch_reindex_layer.cpp: rows (0 1), (2 3), (4 5) in the order 2, 0, 0, 1."""
    (top,) = run("BatchReindex", {}, [values((3, 2)), values((4,), 2, 0, 0, 1)])
    same(top, [[4, 5], [0, 1], [0, 1], [2, 3]])


@pytest.mark.parametrize("shapes", [[(3, 2), (4, 1)], [(), (4,)]], ids=["numbers", "no rows"])
def test_batch_reindex_refuses(shapes):
    with pytest.raises(MalformedModel, match="1 axes|should have rows"):
        infer("BatchReindex", {}, shapes)


def test_as_many_rows_as_there_are_numbers():
    shapes = [(3, 2), (4,)]
    made, _, tops = infer("BatchReindex", {}, shapes)
    assert made.batch_axes(shapes, [0, 0], tops) == [None]
    assert made.varying(shapes, [None, None], tops) == [None]
    assert made.varying(shapes, [0, None], tops) == [None]
    assert made.varying(shapes, [None, 0], tops) == [0]
    with pytest.raises(UnsupportedModel, match="number of rows depends on the data"):
        made.varying(shapes, [1, None], tops)


@pytest.mark.parametrize("selector", [(4,), (4, 1, 1)])
def test_filter(selector):
    """filter_layer.cpp: all that is not 0 keeps its row, whatever its sign."""
    shapes = [(4, 2), (4,), selector]
    made, _, tops = infer("Filter", {}, shapes, tops=2)
    assert tops == shapes[:2]
    bottoms = [values((4, 2)), values((4,)), values(selector, 0, -1, 0, 0.25)]
    first, second = made.forward(bottoms, [], 2)
    same(first, [[2, 3], [6, 7]])
    same(second, [1, 3])


def test_filter_may_keep_nothing():
    made, _, _ = infer("Filter", {}, [(2, 3, 5, 7), (2,)])
    (top,) = made.forward([values((2, 3, 5, 7)), values((2,), 0, 0)], [], 1)
    assert top.shape == (0, 3, 5, 7)


def test_the_rows_that_a_filter_keeps_vary():
    shapes = [(4, 2), (4,)]
    made, _, tops = infer("Filter", {}, shapes)
    assert made.varying(shapes, [None, None], tops) == [0]
    assert made.varying(shapes, [0, 0], tops) == [0]
    with pytest.raises(UnsupportedModel, match="number of rows depends on the data"):
        made.varying(shapes, [1, None], tops)


@pytest.mark.parametrize(
    "shapes, tops, message",
    [
        ([(4, 2), (4,)], 2, "one top per bottom but the last"),
        ([(4, 2), (4, 2)], 1, "1 value a row"),
        ([(4, 2), (3,)], 1, "as many rows"),
        ([(), ()], 1, "as many rows"),
    ],
)
def test_filter_refuses(shapes, tops, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Filter", {}, shapes, tops)


def test_a_reference_is_recorded_with_rows_that_are_there():
    """Also where they were reshaped on their way; what is read as a value stays as it was."""
    built = prototxts.build(
        prototxts.inputs(ids=(50, 4), order=(40,), keep=(50,), free=(50, 4)),
        prototxts.layer("Flatten", "ids", "flat", "flatten_param { axis: 0 }"),
        prototxts.layer("Embed", "flat", "words", "embed_param { input_dim: 3 num_output: 2 }"),
        prototxts.layer("BatchReindex", "words order", "again"),
        prototxts.layer("Filter", "free keep", "kept"),
    )
    fed = reference.seeded_inputs(built.net, 1)
    assert set(np.unique(fed["ids"])) == {0, 1, 2}
    assert set(np.unique(fed["keep"])) == {0, 1}
    same(fed["order"], np.floor(fed["order"]))
    assert fed["order"].min() >= 0
    assert 40 < fed["order"].max() < 200
    assert len(np.unique(fed["free"])) == 200
    blobs = reference.forward(built.net, prototxts.seeded_weights(built), fed)
    assert blobs["again"].shape == (40, 2)
    assert 0 < len(blobs["kept"]) < 50
