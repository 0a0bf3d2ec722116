"""Real Caffe's numbers: the NumPy forward, on every blob of every case."""

from __future__ import annotations

import numpy as np
import pytest

from stage_extract import reference
from tests import goldens
from tests.paths import needs_shared

pytestmark = needs_shared
KIND = "NumPy forward"


def assert_close(actual, expected, tolerance, name):
    assert actual.shape == expected.shape, name
    if expected.size:
        limit = tolerance * np.abs(expected).max() + 1e-6 if tolerance else 0
        assert np.abs(actual - expected).max() <= limit, name


@pytest.mark.parametrize("case", goldens.cases(*goldens.SETS), ids=lambda case: case.id)
def test_every_blob_is_caffes(case):
    """And where samples are said to stay apart, one alone gives its row."""
    goldens.tried[KIND][case.family] += 1
    net, weights = case.build()
    arrays = case.arrays()
    inputs = {key: arrays["input:" + net.blobs[key].name] for key in net.inputs}
    values = reference.forward(net, weights, inputs)
    expected = {key[5:]: value for key, value in arrays.items() if key.startswith("blob:")}
    kept = set(expected) & set(net.names)
    assert kept
    assert set(expected) - kept <= (set() if case.options.get("keep_losses") else case.dropped())
    for blob in sorted(kept):
        key = net.names[blob]
        limit = 0 if case.exact(net) or net.blobs[key].index else case.tolerance
        assert_close(values[key], expected[blob], limit, blob)
    if net.dynamic_batch:
        rows = {key: reference.sample(net, key, value) for key, value in inputs.items()}
        for key, value in reference.forward(net, weights, rows).items():
            row = reference.sample(net, key, values[key])
            assert_close(value, row, case.tolerance, f"{key} at batch 1")
    goldens.passed[KIND].append((case.family, len(kept)))
