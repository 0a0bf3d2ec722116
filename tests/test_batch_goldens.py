"""Real Caffe's cases once more, all in one `orchestrate batch`, two at a time."""

from __future__ import annotations

import pytest

from tests import goldens
from tests.cli import run_batch
from tests.paths import needs_shared

CASES = goldens.cases(*goldens.SETS)

pytestmark = [needs_shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    entries = []
    for case in CASES:
        files = {"prototxt": "net.prototxt", "weights": "net.caffemodel", "reference": "blobs.npz"}
        present = {key: case.folder / name for key, name in files.items()}
        entries.append(
            {
                "name": case.id.replace("/", "_"),
                **{key: path for key, path in present.items() if path.is_file()},
                **case.options,
                "tolerance": case.tolerance,
            }
        )
    return run_batch(entries, tmp_path_factory.mktemp("goldens"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_converted_and_verified(case, results):
    result = results[case.id.replace("/", "_")]
    assert result["exit_code"] == 0, result["error"]
