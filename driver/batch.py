"""Many models, one after the other, with one warm build worker.

The catalogue is a TOML file; paths in it are relative to it. An entry takes every option of
`convert` but --out and --build-python, in snake or kebab case:

    [[model]]
    name = "lenet"
    prototxt = "lenet/deploy.prototxt"
    weights = "lenet/lenet.caffemodel"
    reference = "lenet/golden.npz"
    input-shape = ["data=1,1,28,28"]
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

from driver.crew import Crew
from driver.display import BATCH, Display, table
from driver.options import Options
from driver.outcome import Outcome, failed_document, finite
from driver.pipeline import check_conversion, convert_in
from driver.workspace import Workspace
from schemas.errors import Interrupted, MalformedModel, UsageError, cannot_use
from schemas.events import plain

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MAX_CATALOGUE = 16 << 20
RESERVED = ("summary.json", "summary.md")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of a catalogue."""

    name: str
    prototxt: Path
    weights: Path | None
    options: Options


_LISTS = ("stage", "input_shape", "dialect")
_COMMA_LISTS = ("formats", "outputs")
_NUMBERS = ("tolerance", "timeout")
_PATHS = ("prototxt", "weights", "reference", "calibration", "labels")
_TEXTS = ("phase", "reader", "extract_python", "quantize", "precision", "input_layout")
_FLAGS = tuple(field.name for field in dataclasses.fields(Options) if field.type == "bool")


def read_catalogue(path: Path, defaults: Options) -> list[Entry]:
    """The entries of a catalogue; `defaults` holds what an entry does not say.

    Raises:
        MalformedModel: it is not TOML, or larger than 16 MiB.
        UsageError: it cannot be read, or asks for what there is not.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CATALOGUE + 1)
    except OSError as error:
        raise cannot_use(path, error) from error
    if len(content) > MAX_CATALOGUE:
        raise MalformedModel("a catalogue of at most 16 MiB was expected", str(path))
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedModel(f"this is not TOML: {error}", str(path)) from error
    models = document.get("model")
    if set(document) != {"model"} or not isinstance(models, list) or not models:
        raise UsageError("a catalogue holds [[model]] entries and nothing else", str(path))
    entries = [_entry(model, path, number, defaults) for number, model in enumerate(models, 1)]
    seen: set[str] = set()
    for entry in entries:
        # Some file systems take two names that differ in case only for one.
        if entry.name.casefold() in seen:
            raise UsageError(f"two models are named {entry.name!r}", str(path))
        seen.add(entry.name.casefold())
    return entries


def _entry(model: Any, path: Path, number: int, defaults: Options) -> Entry:
    where = f"{path}, [[model]] {number}"
    if not isinstance(model, dict):
        raise UsageError("[[model]] was expected, a table", where)
    try:
        values = {
            name.replace("-", "_"): _value(name.replace("-", "_"), value, path.parent)
            for name, value in model.items()
        }
        if len(values) < len(model):
            raise UsageError("an option is given twice, in snake and in kebab case")
        for needed in ("name", "prototxt"):
            if needed not in values:
                raise UsageError(f"{needed!r} is missing")
        name, prototxt = values.pop("name"), values.pop("prototxt")
        weights = values.pop("weights", None)
        return Entry(name, prototxt, weights, dataclasses.replace(defaults, **values))
    except UsageError as error:
        raise UsageError(error.message, where, error.hint) from error


def _value(name: str, value: Any, folder: Path) -> Any:
    """The value of option `name`, as `Options` has it."""
    if name == "name":
        return _model_name(value)
    if name in _PATHS:
        return folder / _text(name, value)
    if name == "plugin":
        return tuple(folder / text for text in _texts(name, value))
    if name == "mean":
        return tuple(_mean(text, folder) for text in _texts(name, value))
    if name in _LISTS:
        return tuple(_texts(name, value))
    if name in _COMMA_LISTS:
        return ",".join(_texts(name, value))
    if name in _NUMBERS:
        return float(_typed(name, value, (int, float), "a number"))
    if name == "level":
        return _typed(name, value, (int,), "an integer")
    if name in _FLAGS:
        return _typed(name, value, (bool,), "true or false")
    if name == "preprocess":
        return tuple(_recipe(text, folder) for text in _texts(name, value))
    if name in _TEXTS:
        return _text(name, value)
    if name == "build_python":
        raise UsageError("one build worker serves all models: give --build-python to batch itself")
    known = [field.name for field in dataclasses.fields(Options) if field.name != "build_python"]
    known = ["name", "prototxt", "weights", *known]
    raise UsageError(f"{name!r} is no option; there are {', '.join(known)}")


def _mean(text: str, folder: Path) -> str:
    """``[NAME=]FILE|VALUES`` with the file in `folder`."""
    name, equals, rest = text.rpartition("=")
    return text if re.fullmatch(r"[-+.,0-9eE\s]+", rest) else f"{name}{equals}{folder / rest}"


def _recipe(text: str, folder: Path) -> str:
    """``[NAME=]PRESET|FILE.toml`` with the file in `folder`."""
    name, equals, rest = text.rpartition("=")
    is_file = rest.endswith(".toml") or (folder / rest).is_file()
    return f"{name}{equals}{folder / rest}" if is_file else text


def _typed(name: str, value: Any, kinds: tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{name!r} takes {expected}, not {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    text: str = _typed(name, value, (str,), "a text")
    if "\0" in text:
        raise UsageError(f"{name!r} takes a text without null characters")
    return text


def _texts(name: str, value: Any) -> list[str]:
    return [_text(name, item) for item in (value if isinstance(value, list) else [value])]


def _model_name(value: Any) -> str:
    name = _text("name", value)
    if not name or name.startswith((".", "-")) or "/" in name or not name.isprintable():
        raise UsageError(f"a name that can name a folder was expected, not {name!r}")
    if name in RESERVED:
        raise UsageError(f"{name!r} is the name of a file that batch writes")
    return name


def batch(catalogue: Path, out: Path, options: Options, show: Display) -> Outcome:
    """Converts every model of `catalogue` into `out`/NAME, and sums up.

    A model that fails does not keep the others from being converted. The exit code is the worst
    model's.
    """
    entries = read_catalogue(catalogue, options)
    _check_targets(entries, out, options.force)
    documents: list[dict[str, Any]] = []
    with Workspace(out) as work:
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_use(out, error) from error
        with Crew(work, options.build_python, show.verbose) as crew:
            try:
                for number, entry in enumerate(entries, 1):
                    show.restart()
                    show.progress(BATCH, entry.name, number - 1, len(entries))
                    documents.append(_convert_one(entry, out / entry.name, crew, show))
            except KeyboardInterrupt as interrupt:
                entry = entries[len(documents)]
                documents.append({"name": entry.name, **failed_document(interrupt)})
        document = _summed_up(documents, out)
        _write_summary(document, out)
    return Outcome(document, tables=[_table(document)], facts=[("summary", out / "summary.md")])


def _check_targets(entries: list[Entry], out: Path, force: bool) -> None:
    """Raises UsageError for the first target that exists, before any work."""
    if out.exists() and not out.is_dir():
        raise UsageError("a folder for the models was expected", str(out), "choose another -o")
    if (out / "summary.json").exists() and not force:
        raise UsageError(
            "this folder holds an earlier batch", str(out), "--force replaces its models"
        )
    for entry in entries:
        if (out / entry.name).exists() and not entry.options.force:
            raise UsageError("this exists already", str(out / entry.name), "--force replaces it")


def _convert_one(entry: Entry, out: Path, crew: Crew, show: Display) -> dict[str, Any]:
    began = time.monotonic()
    show.take_warnings()
    try:
        check_conversion(entry.prototxt, entry.weights, out, entry.options)
        with Workspace(out) as work:
            outcome = convert_in(work, crew, entry.prototxt, entry.weights, entry.options, show)
        document = outcome.document
    except Exception as problem:
        document = failed_document(problem)
        document["seconds"] = time.monotonic() - began
        show.error(f"{entry.name}: {document['error']}")
    return {"name": entry.name, **document, "warnings": show.take_warnings()}


def _summed_up(models: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    failed = sum(model["status"] != "ok" for model in models)
    exit_code = max(model["exit_code"] for model in models)
    error = f"{failed} of {len(models)} models failed" if failed else None
    worst = max(models, key=lambda model: _rank(_error(model)))
    return {
        "status": "failed" if failed else "ok",
        "exit_code": exit_code,
        "error": "interrupted" if exit_code == Interrupted.exit_code else error,
        "out": str(out),
        "worst": worst["worst"],
        "models": models,
    }


def _rank(error: float | None) -> float:
    """Orders errors from none to NaN, which no comparison would find."""
    if error is None:
        return -1.0
    return math.inf if math.isnan(error) else error


def _error(model: dict[str, Any]) -> float | None:
    worst = model["worst"]
    value = worst.get("error") if isinstance(worst, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _rows(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for model in document["models"]:
        error = _error(model)
        rows.append(
            [
                model["name"],
                model["status"],
                "" if error is None else f"{error:.1e}",
                "" if error is None else str(model["worst"].get("blob", "")),
                f"{model['seconds']:.1f}" if "seconds" in model else "",
                model["error"] or "",
            ]
        )
    return rows


COLUMNS = ("model", "status", "worst error", "in blob", "seconds", "message")


def _table(document: dict[str, Any]) -> Any:
    return table(_headline(document), COLUMNS, _rows(document))


def _headline(document: dict[str, Any]) -> str:
    models = document["models"]
    good = sum(model["status"] == "ok" for model in models)
    return f"{good} of {len(models)} models converted and verified"


def _write_summary(document: dict[str, Any], out: Path) -> None:
    lines = [
        f"# {_headline(document)}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for row in _rows(document):
        # A renderer of Markdown takes tags for HTML.
        cells = (html.escape(plain(cell), quote=False).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    try:
        text = json.dumps(finite(document), indent=2) + "\n"
        (out / "summary.json").write_text(text, encoding="utf-8")
        (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise cannot_use(out, error) from error
