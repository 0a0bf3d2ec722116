"""InnerProduct with the forks' fields, and distances, by hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests.meanings import close, infer, run, values


def test_unit_weights():
    """happynear's inner_product_layer.cpp: rows (3, 4) and (0, 0) by sqrt(25 + 1e-6) and 1e-3;
    x = 10 5: 50 / 5 and 0."""
    param = dict(num_output=2, normalize=True, bias_term=False)
    (top,) = run("InnerProduct", param, [values((1, 2), 10, 5)], [values((2, 2), 3, 4, 0, 0)])
    np.testing.assert_allclose(top, values((1, 2), 10, 0), rtol=1e-6)


def test_unit_weights_where_they_are_transposed():
    """The fork scales num_output = 2 runs of K = 3 values in memory: (3, 4, 0) and (0, 0, 8) become
    0.6 0.8 0 | 0 0 1, which then is read as K rows of 2: 0.6 0.8 | 0 0 | 0 1. x = 10 20 30."""
    param = dict(num_output=2, normalize=True, transpose=True, bias_term=False)
    weight = values((3, 2), 3, 4, 0, 0, 0, 8)
    (top,) = run("InnerProduct", param, [values((1, 3), 10, 20, 30)], [weight])
    np.testing.assert_allclose(top, values((1, 2), 6, 8 + 30), rtol=1e-6)


def test_a_relu_of_its_own():
    """Intel's mkldnn_inner_product_layer.cpp: 2 - 6 + 1 = -3, -2 + 6 + 1 = 5; slope 1/2."""
    param = dict(num_output=2, relu=True, negative_slope=0.5)
    blobs = [values((2, 2), 1, -2, -1, 2), values((2,), 1, 1)]
    (top,) = run("InnerProduct", param, [values((1, 2), 2, 3)], blobs)
    close(top, values((1, 2), -1.5, 5))


X = values((2, 1, 1, 2), 1, 2, 3, 4)


def test_distances():
    """inner_distance_layer.cpp of caffe-windows: the sum of squares, or of absolute values.
    From (1, 2) and (3, 4) to (0, 0), (1, 5), (3, 3)."""
    weight = [values((3, 2), 0, 0, 1, 5, 3, 3)]
    (top,) = run("InnerDistance", dict(num_output=3), [X], weight, dialect="happynear")
    close(top, values((2, 3), 5, 9, 5, 25, 5, 1))
    param = dict(num_output=3, distance_type="L1")
    (top,) = run("InnerDistance", param, [X], weight, dialect="happynear")
    close(top, values((2, 3), 3, 3, 3, 7, 3, 1))


def test_distances_from_another_axis():
    """The last axis alone: 0 1 | 2 3 to 1."""
    param = dict(num_output=1, axis=-1)
    (top,) = run(
        "InnerDistance", param, [values((2, 2, 1))], [values((1, 1), 1)], dialect="happynear"
    )
    close(top, values((2, 2, 1), 1, 0, 1, 4))


def test_distances_to_unit_weights():
    """(3, 4) by sqrt(25 + 1e-6) is (0.6, 0.8): 0.4^2 + 1.2^2 = 1.6, 2.4^2 + 3.2^2 = 16."""
    param = dict(num_output=1, normalize=True)
    (top,) = run("InnerDistance", param, [X], [values((1, 2), 3, 4)], dialect="happynear")
    np.testing.assert_allclose(top, values((2, 1), 1.6, 16), rtol=1e-6)


def test_distances_to_a_second_bottom():
    """Its rows take the place of the weights, also of their number, and are not made units."""
    bottoms = [X, values((1, 2), 1, 4)]
    param = dict(num_output=9, normalize=True)
    (top,) = run("InnerDistance", param, bottoms, dialect="happynear")
    close(top, values((2, 1), 4, 4))


def test_samples_mix_where_rows_are_samples():
    made, _, tops = infer("InnerDistance", {}, [(4, 6), (3, 6)], dialect="happynear")
    assert made.batch_axes([(4, 6), (3, 6)], [0, None], tops) == [0]
    assert made.batch_axes([(4, 6), (3, 6)], [0, 0], tops) == [None]


@pytest.mark.parametrize(
    "type_, dialect, param, shapes, error, message",
    [
        (
            "InnerProduct",
            "",
            dict(num_output=2, relu=True, negative_slope=-1),
            [(1, 3)],
            UnsupportedModel,
            "negative_slope is -1",
        ),
        ("InnerDistance", "happynear", {}, [(1, 3)], MalformedModel, "num_output"),
        ("InnerDistance", "happynear", {}, [(1, 3), (2, 4)], MalformedModel, "3 values for each"),
        (
            "InnerDistance",
            "happynear",
            dict(num_output=2, transpose=True),
            [(1, 3)],
            UnsupportedModel,
            "transpose",
        ),
        (
            "InnerDistance",
            "happynear",
            dict(num_output=2, distance_type="L3"),
            [(1, 3)],
            UnsupportedModel,
            "L3; supported: L2, L1",
        ),
    ],
)
def test_refused(type_, dialect, param, shapes, error, message):
    with pytest.raises(error, match=message):
        infer(type_, param, shapes, dialect=dialect)
