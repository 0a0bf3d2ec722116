"""Real Caffe's numbers: the generated class, on every blob of every case."""

from __future__ import annotations

import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from stage_build import codegen, models
from stage_build.check import check_batch
from stage_build.layout import to_blob, to_tensor
from stage_build.lowering.registry import lower
from tests.conftest import golden_results
from tests.goldens import Case, cases
from tests.known_gaps import WAITING_FOR_LOWERING
from tests.paths import needs_shared

CASES = cases("layers", "random")
pytestmark = needs_shared


def run(case: Case, kind: str, forward, waits: str) -> None:
    """Runs `forward` on the case; a case that waits for something must be refused."""
    if waits:
        with pytest.raises((UnsupportedModel, MalformedModel)):
            forward()
        golden_results[kind].append((case.id, waits))
        pytest.skip(f"waiting for {waits}")
    forward()
    golden_results[kind].append((case.id, ""))


def check(case: Case, net, got, want, skipped) -> None:
    outcome = case.compared(net, got, want)
    assert outcome.compared, "nothing was compared"
    assert outcome.first_failure is None
    assert set(skipped) <= case.dropped()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_generated_class(case, tmp_path):
    def forward():
        content = case.content()
        net = content.net
        lowered = lower(net, content.weights)
        codegen.write_package(tmp_path, content, lowered)
        codegen.write_weights(tmp_path / "weights.npz", lowered, lambda done, total: None)
        network = models.import_package(tmp_path).load()
        runner = models.KerasRunner(network.model, network.names)
        inputs, want, skipped = case.reference(net)
        got = runner({key: to_tensor(value) for key, value in inputs.items()}, list(want))
        got = {key: to_blob(value) for key, value in got.items()}
        check(case, net, got, want, skipped)
        if net.dynamic_batch:
            outputs = {key: want[key][:1] for key in net.outputs if key in want}
            rows = {key: value[:1] for key, value in inputs.items()}
            assert check_batch(net, runner, rows, outputs, case.tolerance).passed

    run(case, "generated class", forward, case.waits_for() or WAITING_FOR_LOWERING.get(case.id, ""))
