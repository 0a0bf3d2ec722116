"""Layers that tell each place where it is."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import UnsupportedModel
from tests.meanings import close, infer, run, values


def test_slope():
    """happynear's slope_layer.cpp: channels h / 2 and w / 4 after the bottom's own."""
    x = values((3, 1, 2, 4))
    (top,) = run("Slope", {}, [x], dialect="happynear")
    np.testing.assert_array_equal(top[:, :1], x)
    for n in range(3):
        close(top[n, 1], [[0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
        close(top[n, 2], [[0, 0.25, 0.5, 0.75]] * 2)


def test_slope_needs_images():
    with pytest.raises(UnsupportedModel, match="4 axes"):
        infer("Slope", {}, [(2, 3)], dialect="happynear")


def test_the_batch_axis_of_slope():
    """Along the channels more come, along the rows h tells one from the other."""
    shape = (2, 3, 4, 5)
    made, _, tops = infer("Slope", {}, [shape], dialect="happynear")
    found = [made.batch_axes([shape], [batch], tops) for batch in (0, 1, 2)]
    assert found == [[0], [None], [None]]
