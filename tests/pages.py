"""report.html for tests: nets, what a check of them would show, and the page that says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from schemas.interchange import Interchange
from stage_build import verify
from stage_build.page import write_page
from stage_build.report import make_report
from tests.nets import inputs, layer, net

CONVOLUTION = "convolution_param { num_output: %d kernel_size: 3 pad: 1 }"

# A residual block: two branches, layers in place, and a pooling and a classifier behind it.
BLOCK = (
    inputs(data=(2, 3, 8, 9)),
    layer("Convolution", "data", "stem", CONVOLUTION % 5),
    layer("BatchNorm", "stem", "stem", name="stem_bn"),
    layer("Scale", "stem", "stem", "scale_param { bias_term: true }", name="stem_scale"),
    layer("ReLU", "stem", "stem", name="stem_relu"),
    layer("Convolution", "stem", "left", CONVOLUTION % 5),
    layer("Convolution", "stem", "right", CONVOLUTION % 5),
    layer("ReLU", "right", "right_relu"),
    layer("Eltwise", "left right_relu", "sum"),
    layer("Pooling", "sum", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
    layer("InnerProduct", "pool", "score", "inner_product_param { num_output: 7 }"),
    layer("Softmax", "score", "prob"),
)


def block(**options: Any) -> Interchange:
    """The net of `BLOCK`, with its reference."""
    return net(*BLOCK, name="block", **options)


def checked(
    content: Interchange,
    errors: Mapping[str, float] | None = None,
    artefacts: Collection[str] = ("class", "saved_model"),
    tolerance: float = verify.NET_TOLERANCE,
    **more: Any,
) -> dict[str, Any]:
    """report.json of a check whose blobs differ by `errors` (relative, by key; else by 1e-7).

    Args:
        artefacts: which there are; all but the class and the Keras model show the outputs alone.
        more: what `check.check_artefact` returns of the class beside that.
    """

    def outcome(keys: Collection[str]) -> dict[str, Any]:
        judged = []
        for key in keys:
            error = (errors or {}).get(key, 1e-7)
            shape = content.net.sample_shape(key)
            passed = error <= tolerance
            judged.append(verify.Compared(key, shape, 2 * error, error, 2.0, passed))
        return verify.Outcome(tuple(judged)).document()

    results = {}
    for name in artefacts:
        whole = name in ("class", "keras")
        keys = list(content.net.blobs) if whole else list(content.net.outputs)
        results[name] = {"recorded": outcome(keys), "batch": None, "user": None, "skipped": {}}
    results["class"]["batch"] = outcome(content.net.outputs)
    results["class"].update(more)
    report = make_report(content, results, tolerance)
    report["versions"] = {"python": "3.11.7"}
    report["seconds"] = {"build": 1.5}
    report["peak_bytes"] = {"build": 1 << 20}
    return report


def statements(content: Interchange) -> dict[str, str]:
    """A line of code for every layer."""
    return {one.name: f"x = self.{one.type.lower()}(x)" for one in content.net.layers}


def page(folder: Path, content: Interchange, report: Mapping[str, Any] | None = None) -> Path:
    """Where the page of a net was written."""
    folder.mkdir(exist_ok=True)
    write_page(folder, content, report or checked(content), statements(content))
    return folder / "report.html"


def residual(blocks: int) -> Interchange:
    """Like ResNet-152: a chain of `blocks` bottlenecks of 10 layers, without a reference."""
    text = [inputs(data=(1, 4, 6, 5))]
    before = "data"
    for number in range(blocks):
        part = before
        for place in "abc":
            name = f"res{number}_branch2{place}"
            text += [
                layer("Convolution", part, name, CONVOLUTION % 4),
                layer("BatchNorm", name, name, name=f"bn{number}_branch2{place}"),
                layer("ReLU", name, name, name=f"{name}_relu"),
            ]
            part = name
        text.append(layer("Eltwise", f"{before} {part}", f"res{number}"))
        before = f"res{number}"
    return net(*text, name="deep", record=False)


def grown(content: Interchange, seed: int = 3) -> dict[str, float]:
    """Errors by key, of all sizes within the tolerance."""
    rng = np.random.default_rng(seed)
    return {key: float(10 ** rng.uniform(-8, -4.1)) for key in content.net.blobs}
