"""report.json: the verdict, what each artefact showed, where the numbers come from."""

from __future__ import annotations

import json
import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import ConversionError, UsageError, VerificationFailed, listed
from schemas.graph import Net
from schemas.interchange import Interchange, array_shape
from stage_build import learning, processor
from stage_build.delivery import FORMATS, PRECISIONS

# What an artefact was held to, see `check.check_artefact`.
AGAINST = {
    "recorded": "the recorded reference",
    "batch": "the recorded reference at batch 3",
    "sizes": "NumPy's forward pass at another size of images",
    "twin": "the class",
    "user": "the user reference",
}
# What to do where fewer bits cost too much.
WAYS_OUT = {
    "float16": "leave it out, or accept more with --tolerance",
    "dynamic": "choose float16, or accept more with --tolerance",
    "int8": "choose float16, or calibrate on other images",
    "bfloat16": "leave it out, or accept more with --tolerance",
}
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "h5py")


def make_report(
    content: Interchange, results: dict[str, dict[str, Any]], tolerance: float
) -> dict[str, Any]:
    """The document of report.json.

    Args:
        results: artefact -> what `check.check_artefact` returned for it.
        tolerance: the one that was asked for.

    Raises:
        UsageError: there was nothing to verify against.
    """
    artefacts = {}
    for name, result in results.items():
        shown = result["recorded"] or result["user"] or result.get("twin")
        if shown:
            artefacts[name] = {
                "passed": shown["passed"],
                "worst": shown["worst"],
                "error": _finite(relative(shown["worst"])),
                "blobs": shown["blobs"],
                "tolerance": result.get("tolerance", tolerance),
                "quantized": result.get("quantized"),
                "sizes": result.get("sizes"),
                "twin": result.get("twin"),
            }
    main = results.get("class", {})
    picked = sorted({key for result in results.values() for key in result.get("picked", [])})
    return {
        **verdict(content, results, tolerance),
        "net": content.net.name,
        "parameters": sum(math.prod(array_shape(content.weights, key)) for key in content.weights),
        "tolerance": tolerance,
        "blobs": artefacts["class"]["blobs"] if "class" in artefacts else [],
        "artefacts": artefacts,
        "batch": main.get("batch"),
        "user_reference": main.get("user"),
        "skipped": main.get("skipped", {}),
        "rounding": main.get("rounding", {}),
        "picked": picked,
        "reference": content.reference.recorder if content.reference else "user",
        "dynamic_batch": content.net.dynamic_batch,
        "sources": [vars(source) for source in content.sources],
        "filled": sorted(content.filled),
        "notes": [
            *content.notes,
            *_about_rounding(main.get("rounding", {}), tolerance),
            *_about_picks(picked),
            *_about_learning(content.net),
            *_about_precision(results),
        ],
        "versions": versions(),
    }


def relative(blob: dict[str, Any]) -> float:
    """The largest error over the magnitude; infinite where there is no number."""
    if blob["max_error"] is None:
        return float("inf")
    return float(blob["max_error"] / blob["magnitude"] if blob["magnitude"] else blob["max_error"])


def _finite(value: float) -> float | None:
    return value if value < np.inf else None


def _about_rounding(rounding: dict[str, float], tolerance: float) -> list[str]:
    """The note that tells of differences which were accepted as rounding."""
    if not rounding:
        return []
    blob = max(rounding, key=rounding.__getitem__)
    return [
        f"float32 rounding grows in this net: {len(rounding)} blobs differ by more than "
        f"{tolerance:g}, by at most {rounding[blob]:.1e} ({blob!r}); alone, fed the reference's "
        "own bottoms, every layer is within 1e-05"
    ]


def _about_picks(picked: list[str]) -> list[str]:
    """The note that tells of places and lists that rounding decided."""
    if not picked:
        return []
    return [
        "numbers that are equal but for rounding decide what is picked, which is not as in the "
        f"reference, in {listed([*map(repr, picked)])}; fed the reference's own bottoms, every "
        "layer picks alike"
    ]


def _about_learning(net: Net) -> list[str]:
    """The note that tells of learning rates that Keras has no place for."""
    partly = learning.partly_frozen(net)
    if not partly:
        return []
    return [
        f"lr_mult is 0 for some, but not all, parameters of {listed([*map(repr, partly)])}; Keras "
        "freezes whole layers, so these stay trainable"
    ]


def _about_precision(results: dict[str, dict[str, Any]]) -> list[str]:
    """The note that tells of a processor that what was made is not for."""
    lowered = {result.get("quantized") for result in results.values()} & set(PRECISIONS)
    if not lowered or not processor.lacks_bfloat16():
        return []
    return [
        "this processor has no instructions for bfloat16 (avx512_bf16 or amx_bf16; on Arm, bf16): "
        "TensorFlow does without here, and the SavedModel is slower than in float32"
    ]


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Writes report.json."""
    (folder / "report.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=True) + "\n", "utf-8"
    )


def failure(content: Interchange, report: dict[str, Any]) -> ConversionError:
    """The error for a failed verification: the first blob that differs and the layer to blame."""
    first, culprit = report["first_failure"], report["culprit"]
    writer = next((layer for layer in content.net.layers if first["name"] in layer.tops), None)
    if first["reason"]:
        found = first["reason"]
    else:
        found = (
            f"largest error {first['max_error']:.3g} at magnitude {first['magnitude']:.3g}, "
            f"tolerance {first['tolerance']:g}"
        )
    hint = "see report.json"
    place = str(writer) if writer else f"input {first['name']!r}"
    bits = report["artefacts"].get(first["artefact"], {}).get("quantized")
    if bits:  # which no layer is to blame for
        option = "--precision" if bits in PRECISIONS else "--quantize"
        place = FORMATS[first["artefact"]].file
        hint = f"that is what {option} {bits} costs: {WAYS_OUT[bits]}"
    if culprit:
        where = f"{culprit['layer']!r} ({culprit['type']}, line {culprit['line']})"
        hint = f"fed the reference's own bottoms, layer {where} is the first that differs; {hint}"
    if report["cause"]:
        hint = f"{report['cause']}; {hint}"
    error = VerificationFailed(
        f"blob {first['name']!r} of the {first['artefact']} differs from "
        f"{AGAINST[first['against']]}: {found}",
        place,
        hint,
    )
    error.worst = report["worst"]
    return error


def versions() -> dict[str, str]:
    """Version of everything that had a part in the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def verdict(
    content: Interchange, results: dict[str, dict[str, Any]], tolerance: float
) -> dict[str, Any]:
    """What all artefacts together showed: status, the worst blob, the first failure, the culprit,
    and the likely cause.

    Raises:
        UsageError: there was nothing to verify against.
    """
    parts = [
        (artefact, part, result[part])
        for artefact, result in results.items()
        for part in AGAINST
        if result.get(part)
    ]
    if not parts:
        raise UsageError(
            "there is nothing to verify against: the file holds no reference",
            hint="extract without --no-reference, or pass --reference",
        )
    failed = [
        (artefact, part, outcome) for artefact, part, outcome in parts if not outcome["passed"]
    ]

    # A quantised model is held to limits of its own: its error is not the conversion's.
    exact = [part for part in parts if not results[part[0]].get("quantized")]
    worst = max((outcome["worst"] for _, _, outcome in (failed or exact or parts)), key=relative)
    first = None
    if failed:
        artefact, part, outcome = failed[0]
        limit = results[artefact].get("tolerance", tolerance)
        said = {"artefact": artefact, "against": part, "tolerance": limit}
        first = {**said, **outcome["first_failure"]}
    culprit = dict(
        next((result["culprit"] for result in results.values() if result.get("culprit")), {})
    )
    cause = culprit.pop("cause", "")
    return {
        "status": "failed" if failed else "ok",
        "worst": {
            "blob": worst["name"],
            "error": _finite(relative(worst)),
        },
        "first_failure": first,
        "culprit": culprit or None,
        "cause": cause,
    }
