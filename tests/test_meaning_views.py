"""Reshape's pixelshuffler."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel
from tests.meanings import infer, run, values


def test_pixelshuffler():
    """Synopsys' reshape_layer.cpp: channels 0 to 3 of the pixels (h, w) become the block of rows
    2 h, 2 h + 1 and columns 2 w, 2 w + 1 of channel 0, row by row; 4 to 7 those of channel 1."""
    (top,) = run("Reshape", dict(pixelshuffler=2, axis=3), [values((1, 8, 1, 2))])
    np.testing.assert_array_equal(
        top[0], [[[0, 2, 1, 3], [4, 6, 5, 7]], [[8, 10, 9, 11], [12, 14, 13, 15]]]
    )


def test_pixelshuffler_1_is_a_reshape():
    (top,) = run("Reshape", dict(pixelshuffler=1, shape=dict(dim=[0, -1])), [values((2, 3, 5))])
    np.testing.assert_array_equal(top, values((2, 15)))


def test_shuffled_pixels_are_no_view():
    made, _, tops = infer("Reshape", dict(pixelshuffler=2), [(2, 4, 5, 7)])
    assert not made.shares_memory(1, 1)
    assert made.batch_axes([(2, 4, 5, 7)], [0], tops) == [0]
    assert made.batch_axes([(2, 4, 5, 7)], [1], tops) == [None]
    assert infer("Reshape", dict(shape=dict(dim=[0, -1])), [(2, 4)])[0].shares_memory(1, 1)


@pytest.mark.parametrize(
    "factor, shape, message",
    [
        (2, (2, 6, 5, 7), "square of pixelshuffler 2 should divide"),
        (2, (2, 4, 5), "4 axes"),
        (0, (2, 4, 5, 7), "should be positive, found 0"),
    ],
)
def test_pixelshuffler_refuses(factor, shape, message):
    with pytest.raises(MalformedModel, match=message):
        infer("Reshape", dict(pixelshuffler=factor), [shape])
