"""A catalogue of models: a TOML file.

Paths in it are relative to it. An entry takes every option of `convert` but --out and
--build-python, in snake or kebab case:

    [[model]]
    name = "lenet"
    prototxt = "lenet/deploy.prototxt"
    weights = "lenet/lenet.caffemodel"
    reference = "lenet/golden.npz"
    input-shape = ["data=1,1,28,28"]
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import sys
from pathlib import Path
from typing import Any

from driver.options import Options
from schemas.errors import MalformedModel, UsageError, cannot_use

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MAX_CATALOGUE = 16 << 20
RESERVED = ("summary.html", "summary.json", "summary.md")


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
_TEXTS = ("phase", "reader", "quantize", "precision", "input_layout")
_NOT_CONVERTS = ("no_reference", "build_python")
_FIELDS = tuple(f for f in dataclasses.fields(Options) if f.name not in _NOT_CONVERTS)
_FLAGS = tuple(field.name for field in _FIELDS if "bool" in str(field.type))
OPTIONS = ("name", "prototxt", "weights", *(field.name for field in _FIELDS))


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
    for entry in entries:
        failed = f"{entry.name}.failed"
        if failed.casefold() in seen:
            reason = f"a failure of {entry.name!r} would take the place of model {failed!r}"
            raise UsageError(reason, str(path), "choose other names")
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
        return _number(name, value)
    if name == "level":
        return _typed(name, value, (int,), "an integer")
    if name in _FLAGS:
        return _typed(name, value, (bool,), "true or false")
    if name == "preprocess":
        return tuple(_recipe(text, folder) for text in _texts(name, value))
    if name == "extract_python":
        return _program(_text(name, value), folder)
    if name in _TEXTS:
        return _text(name, value)
    if name == "build_python":
        raise UsageError("one build worker serves all models: give --build-python to batch itself")
    raise UsageError(f"{name!r} is no option; there are {', '.join(OPTIONS)}")


def _mean(text: str, folder: Path) -> str:
    """``[NAME=]FILE|VALUES`` with the file in `folder`."""
    name, equals, rest = text.rpartition("=")
    return text if re.fullmatch(r"[-+.,0-9eE\s]+", rest) else f"{name}{equals}{folder / rest}"


def _recipe(text: str, folder: Path) -> str:
    """``[NAME=]PRESET|FILE.toml`` with the file in `folder`."""
    name, equals, rest = text.rpartition("=")
    is_file = rest.endswith(".toml") or (folder / rest).is_file()
    return f"{name}{equals}{folder / rest}" if is_file else text


def _program(text: str, folder: Path) -> str:
    """A program's path is relative to `folder`; one without a slash is looked for by the system."""
    return str(folder / text) if "/" in text and not text.startswith("~") else text


def _number(name: str, value: Any) -> float:
    try:
        return float(_typed(name, value, (int, float), "a number"))
    except OverflowError:  # of an integer
        return math.inf  # which no option takes


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
        reason = f"a name that can name a folder was expected, not {name!r}"
        raise UsageError(reason, hint="no slash, and no dot or dash to begin with")
    if name.casefold() in RESERVED:
        raise UsageError(f"{name!r} is the name of a file that batch writes")
    return name
