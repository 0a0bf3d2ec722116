"""Real Caffe's numbers: the generated class, on every blob of every case."""

from __future__ import annotations

import pytest

from schemas.interchange import Interchange
from stage_build import codegen, weights_npz
from stage_build.artefacts import models
from stage_build.artefacts.check import check_batch
from stage_build.lowering.registry import lower
from stage_build.verify import Outcome, compare, ordered, users_reference
from stage_extract import reference
from tests import goldens
from tests.paths import needs_shared

pytestmark = needs_shared
KIND = "generated class"


@pytest.mark.parametrize("case", goldens.cases(*goldens.SETS), ids=lambda case: case.id)
def test_every_blob_is_caffes(case, tmp_path):
    goldens.tried[KIND][case.family] += 1
    net, weights = case.build()
    lowered = lower(net, weights)
    codegen.write_package(tmp_path, Interchange(net, weights), lowered)
    weights_npz.write(tmp_path / "weights.npz", lowered, lambda done, total: None)
    network = models.import_package(tmp_path).load()
    runner = models.KerasRunner(network.model, network.names)
    inputs, want, skipped = users_reference(net, case.arrays())
    got = runner(inputs, list(want))
    outcome = Outcome(
        tuple(
            compare(
                key,
                got[key],
                want[key],
                case.tolerance,
                case.exact(net) or net.blobs[key].index,
            )
            for key in ordered(net, want)
        )
    )
    assert outcome.compared, "nothing was compared"
    assert outcome.first_failure is None
    assert set(skipped) <= (set() if case.options.get("keep_losses") else case.dropped())
    if net.dynamic_batch:
        outputs = {key: reference.sample(net, key, want[key]) for key in net.outputs if key in want}
        rows = {key: reference.sample(net, key, value) for key, value in inputs.items()}
        assert check_batch(net, runner, rows, outputs, case.tolerance).passed
    goldens.passed[KIND].append((case.family, len(outcome.compared)))
