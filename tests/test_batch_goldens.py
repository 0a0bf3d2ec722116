"""Real Caffe's cases once more, through `orchestrate batch`: the same verdicts, one warm worker."""

from __future__ import annotations

import pytest

from tests.cli import run_batch
from tests.goldens import cases
from tests.known_gaps import WAITING_FOR_LOWERING
from tests.paths import needs_shared

CASES = cases("layers", "random")

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
                "tolerance": case.tolerance,
            }
        )
    return run_batch(entries, tmp_path_factory.mktemp("goldens"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_same_verdict(case, results):
    result = results[case.id.replace("/", "_")]
    waits = case.waits_for() or WAITING_FOR_LOWERING.get(case.id)
    # The constant data of one case is taken for an input, which the reference does not feed.
    expected = 0 if not waits else 3 if case.id == "layers/dummydata" else 4
    assert result["exit_code"] == expected, result["error"]
