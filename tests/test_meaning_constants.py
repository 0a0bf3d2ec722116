"""Parameter, and DummyData where it is a constant."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel
from tests import prototxts
from tests.meanings import infer, run, values

same = np.testing.assert_array_equal


def test_parameter():
    """parameter_layer.hpp: the top is the blob."""
    blob = values((2, 3))
    (top,) = run("Parameter", dict(shape=dict(dim=[2, 3]), blob_filler={}), [], [blob])
    same(top, blob)


def test_parameter_takes_no_bottom():
    with pytest.raises(MalformedModel, match="0 bottoms expected, found 1"):
        infer("Parameter", dict(shape=dict(dim=[2])), [(2,)])


@pytest.mark.parametrize(
    "param, expected",
    [
        (dict(shape=[dict(dim=[2, 1])]), [[[0], [0]], [[0], [0]]]),
        (dict(shape=[dict(dim=[2])], data_filler=[dict(value=1.5)]), [[1.5, 1.5], [1.5, 1.5]]),
        (
            dict(
                shape=[dict(dim=[1]), dict(dim=[3])],
                data_filler=[dict(type="constant", value=-2), dict(std=4)],
            ),
            [[-2], [0, 0, 0]],
        ),
        (
            dict(num=[1], channels=[2], height=[1], width=[1, 2], data_filler=[dict(value=3)]),
            [[[[[3]], [[3]]]], [[[[3, 3]], [[3, 3]]]]],
        ),
    ],
    ids=["no-filler", "one-filler", "a-filler-each", "old-shape"],
)
def test_constant_data(param, expected):
    """dummy_data_layer.cpp: shape and filler once, or once for each of the two tops."""
    tops = run("DummyData", param, [], tops=2, dialect="constant")
    assert [top.tolist() for top in tops] == expected


def test_constant_data_needs_a_filler_for_each_top():
    param = dict(shape=[dict(dim=[2])], data_filler=[{}, {}])
    with pytest.raises(MalformedModel, match="once per top .3., found 2"):
        infer("DummyData", param, [], tops=3, dialect="constant")


CONSTANT = 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 2 } }'
RANDOM = 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } }'


def test_constant_data_beside_an_input_is_no_input():
    built = prototxts.build(
        prototxts.layer("DummyData", "", "two", CONSTANT),
        prototxts.inputs(data=(2, 3)),
        prototxts.layer("Eltwise", "data two", "sum"),
    )
    assert built.net.inputs == ("data",)
    x = values((2, 3))
    same(prototxts.values(built, {"data": x})["sum"], x + 2)


@pytest.mark.parametrize("parameters", [CONSTANT, RANDOM], ids=["constant", "random"])
def test_dummy_data_alone_stands_for_data(parameters):
    built = prototxts.build(
        prototxts.layer("DummyData", "", "two", parameters),
        prototxts.layer("TanH", "two", "out"),
    )
    assert built.net.inputs == ("two",)


def test_random_data_is_an_input_beside_another():
    built = prototxts.build(
        prototxts.layer("DummyData", "", "noise", RANDOM),
        prototxts.inputs(data=(2, 3)),
        prototxts.layer("Eltwise", "data noise", "sum"),
    )
    assert built.net.inputs == ("noise", "data")
