"""Fills the page's template."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from schemas.interchange import Interchange, array_shape
from stage_build.delivery import FORMATS
from stage_build.page import charts, layout
from stage_build.page.facts import (
    STATES,
    Facts,
    LayerFacts,
    gather,
    relative,
    shortened,
    shown,
    worst,
)
from stage_build.publish import size

HERE = Path(__file__).parent

# Characters: in the lines of a box, of a name where there is a line for it, and of a sentence.
BOX_NAME, BOX_TYPES, BOX_SHAPE, NAME, TEXT = 25, 30, 18, 120, 1000

WHAT = {
    "class": "TensorFlow class",
    "keras": "Keras model",
    "saved_model": "SavedModel",
    "tflite": "TensorFlow Lite",
    "pb": "frozen graph",
}

AGAINST = {
    "recorded": "against the recorded reference",
    "batch": "at batch 3, against batch 1",
    "sizes": "at another size of images, against NumPy's forward pass",
    "twin": "against the class",
    "user": "against your own reference",
}


def write_page(
    folder: Path, content: Interchange, report: Mapping[str, Any], statements: Mapping[str, str]
) -> None:
    """Writes report.html.

    Args:
        folder: the result, whose artefacts are measured.
        report: the document of report.json, of a verification that passed or failed.
        statements: layer name -> the source text that was generated for it.
    """
    page = render(folder, content, report, statements)
    # Halves of surrogate pairs, which a JSON file may hold, have no bytes in UTF-8.
    (folder / "report.html").write_bytes(page.encode("utf-8", "replace"))


def render(
    folder: Path, content: Interchange, report: Mapping[str, Any], statements: Mapping[str, str]
) -> str:
    """The page's text; see `write_page`."""
    facts = gather(content, report, statements)
    picture = layout.draw(facts, content.net.outputs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        error=_error,
        many=_many,
        size=_size,
        name=_name,
        relative=relative,
        shape=_shape,
        seconds=_seconds,
        text=lambda said: shortened(said, TEXT),
    )
    style, script = (HERE / "page.css").read_text("utf-8"), (HERE / "page.js").read_text("utf-8")
    compared = [
        (key, one)
        for key in [key for layer in facts.layers for key in layer.tops]
        if (one := shown(facts.comparisons.get(key, ())))
    ]
    return environment.get_template("page.html.j2").render(
        content=content,
        report=report,
        facts=facts,
        picture=picture,
        boxes=[_box(facts, box) for box in picture.boxes],
        box_size=layout.BOX,
        states=STATES,
        artefacts=_artefacts(folder, report),
        failure=_failure(content, report),
        compared=compared,
        errors=charts.dots([(one.error, one.state) for _, one in compared], report["tolerance"]),
        macs=charts.bars([layer.macs for layer in facts.layers]),
        parameters=charts.bars([layer.parameter_count for layer in facts.layers]),
        chart=charts,
        images=[_image(content, key) for key in content.net.inputs],
        data=_data(facts, picture, [key for key, _ in compared]),
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows this style and this script, and nothing else."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; "
        f"script-src 'sha256-{digest(script)}'; base-uri 'none'; form-action 'none'"
    )


# Parts of the page


def _artefacts(folder: Path, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each artefact: what and how large it is, and how it compared; then its other comparisons."""
    rows = []
    for name, part in report["artefacts"].items():
        file = FORMATS[name].file
        bits = part.get("quantized")
        rows.append(
            {
                "what": WHAT[name],
                "file": f"{file}, {bits}" if bits else file,
                "bytes": part.get("bytes") or size(folder / file),
                **_row(part, part["tolerance"]),
            }
        )
        for key, what in (("sizes", "at other sizes"), ("twin", "against the class")):
            outcome = part.get(key)
            if outcome and outcome["blobs"] != part["blobs"]:
                held = _row(outcome, part["tolerance"])
                rows.append({"what": f"{WHAT[name]}, {what}", **held})
    if report.get("user_reference"):
        row = _row(report["user_reference"], report["tolerance"])
        rows.append({"what": "TensorFlow class, against --reference", **row})
    return rows


def _row(outcome: Mapping[str, Any], tolerance: float) -> dict[str, Any]:
    worst_blob = outcome["worst"]
    return {
        "passed": outcome["passed"],
        "compared": len(outcome["blobs"]),
        "worst": worst_blob["name"],
        "error": relative(worst_blob),
        "reason": worst_blob.get("reason", ""),
        "tolerance": tolerance,
    }


def _failure(content: Interchange, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first blob that differs, who writes it, and the layer to blame."""
    first = report.get("first_failure")
    if not first:
        return None
    layers = content.net.layers
    writer = next((layer for layer in layers if first["name"] in layer.tops), None)
    return {
        **first,
        "error": relative(first),
        "against": AGAINST.get(first["against"], first["against"]),
        "limit": first["tolerance"],
        "writer": writer,
        "culprit": report.get("culprit"),
        "cause": report.get("cause"),
    }


def _image(content: Interchange, key: str) -> dict[str, Any]:
    """The preprocessing of one input, as far as it is known."""
    mean = None
    if key in content.means:
        values = np.asarray(content.means[key], np.float64)
        mean = {
            "shape": array_shape(content.means, key),
            "channels": [float(v) for v in values.reshape(len(values), -1).mean(axis=1)[:16]],
        }
    return {
        "key": key,
        "shape": content.net.sample_shape(key),
        "document": content.images.get(key),
        "mean": mean,
        "transform": [
            (name, shortened(json.dumps(value, ensure_ascii=False), 200))
            for name, value in dict(content.preprocessing.get(key) or {}).items()
        ],
    }


def _box(facts: Facts, box: layout.Box) -> dict[str, Any]:
    """What is written in a box of the picture, and what is said of it."""
    layers = [facts.layers[i] for i in box.layers]
    judged = worst(layers)
    state, error = (judged.state, judged.error) if judged else ("none", None)
    top = layers[-1].tops[0] if layers[-1].tops else None
    said = "not compared" if state == "none" else f"error {_error(error)}, {STATES[state]}"
    return {
        "x": round(box.x),
        "y": round(box.y),
        "name": _fitted(layers[0].name, BOX_NAME),
        "types": _fitted(" + ".join(layer.type for layer in layers), BOX_TYPES),
        "shape": _fitted("\u00d7".join(map(str, facts.shapes[top])), BOX_SHAPE) if top else "",
        "state": state,
        "error": "" if state == "none" else _error(error),
        "title": f"{_name(layers[0].name)}, {_name(layers[0].type)}: {said}",
    }


def _data(facts: Facts, picture: layout.Picture, compared: Sequence[str]) -> dict[str, Any]:
    """What the script shows of layers that are chosen."""
    return {
        "layers": [_layer(facts, layer) for layer in facts.layers],
        "boxes": [box.layers for box in picture.boxes],
        "lines": [[line.start, line.end] for line in picture.lines],
        "column": round(picture.column),
        "compared": compared,
        "states": STATES,
    }


def _layer(facts: Facts, layer: LayerFacts) -> dict[str, Any]:
    blobs = [
        {
            "key": key,
            "shape": _shape(facts.shapes[key]),
            "compared": [
                [one.where, _error(one.error), one.state, one.reason]
                for one in facts.comparisons.get(key, ())
            ],
        }
        for key in layer.tops
    ]
    return {
        "name": layer.name,
        "type": layer.type,
        "line": layer.line,
        "bottoms": [[key, _shape(facts.shapes[key])] for key in layer.bottoms],
        "blobs": blobs,
        "parameters": layer.parameters,
        "weights": [[key, _shape(shape), filled] for key, shape, filled in layer.weights],
        "count": layer.parameter_count,
        "macs": layer.macs,
        "said": [_many(layer.parameter_count), _many(layer.macs)],
        "code": layer.statement,
        "state": layer.state,
        "error": -1 if layer.error is None else layer.error,
    }


# How values are written


def _error(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "no number"
    return f"{value:.1e}" if value else "0"


def _many(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return str(value)


def _size(value: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value} bytes"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value // 60:.0f} min {value % 60:.0f} s"


def _shape(shape: Sequence[int]) -> str:
    return " \u00d7 ".join(map(str, shape)) or "one number"


def _name(text: str) -> str:
    return shortened(text, NAME)


def _fitted(text: str, columns: int) -> str:
    """`text` cut to this many columns of a fixed-width font, East Asian letters being two wide."""
    room = columns
    for place, letter in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return text[: max(place - 1, 0)] + "\u2026"
    return text
