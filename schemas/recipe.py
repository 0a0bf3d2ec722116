"""What one place tells of how images are made: the name of a preset, or a TOML file."""

from __future__ import annotations

import importlib
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from schemas.errors import EnvironmentProblem, MalformedModel, UsageError, cannot_use
from schemas.preprocessing import CHANNELS, MAX_SCALE, MAX_SIDE, RESIZES
from schemas.presets import PRESETS

MAX_TOML = 1 << 16  # bytes
MAX_MEAN = 1024  # values of a list
MAX_PATH = 4096  # characters


@dataclass(frozen=True)
class Recipe:
    """What is told of an input's images; what is not told is missing.

    Attributes:
        told: ``resize``, ``size``, ``crop``, ``channels``, ``scale`` -> value, as a
            `schemas.preprocessing.Preprocessing` has it; ``mean`` -> None, a number for all
            channels, a tuple with one for each, or the path of a file that is not read here.
        doubts: a name of `told` -> why its value may not be the one of the training.
        source: who told it, for messages.
        labels: the path of the names of the classes.
        files: (role, path) of the other files that it is from.
    """

    told: Mapping[str, Any] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    labels: Optional[Path] = None
    files: Tuple[Tuple[str, str], ...] = ()


def find(name: str, option: str) -> Recipe:
    """The recipe of a preset's name, or in a TOML file's path.

    Paths in a file start from its folder.

    Args:
        option: where `name` was given, for messages: ``--preprocess``.

    Raises:
        UsageError: there is neither.
        MalformedModel: the file is no TOML, or tells what cannot be.
        EnvironmentProblem: it cannot be read, or no package reads TOML here.
    """
    if name in PRESETS:
        resize, side, mean, doubt = PRESETS[name]
        told = {"resize": resize, "size": (side, side), "channels": "bgr", "mean": mean}
        doubts = {"mean": doubt} if doubt else {}
        return Recipe({**told, "scale": 1.0}, doubts, f"{option} {name}")
    if not os.path.exists(name):
        raise UsageError(
            f"{option} {name}: no such preset or file",
            hint=f"the presets: {', '.join(PRESETS)}",
        )
    return _from_file(name)


def _from_file(path: str) -> Recipe:
    told: Dict[str, Any] = {}
    for name, value in _document(path).items():
        if name not in _MEMBERS:
            raise MalformedModel(
                f"{name!r:.80} is not known here", path, f"there are {', '.join(_MEMBERS)}"
            )
        expected, convert = _MEMBERS[name]
        told[name] = convert(value)
        if told[name] is None:
            raise MalformedModel(f"{name} should be {expected}, found {value!r:.80}", path)
    if told.get("resize") == "none" and "size" in told:
        raise MalformedModel("a size is told, and resize is 'none'", path)
    files = [("preprocess", path)]
    for name in ("labels", "mean"):
        if isinstance(told.get(name), str):
            told[name] = Path(path).parent / told[name]
    if isinstance(told.get("mean"), Path):
        files.append(("mean", str(told["mean"])))
    labels = told.pop("labels", None)
    return Recipe(told, {}, path, labels, tuple(files))


def _document(path: str) -> Dict[str, Any]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        toml = importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentProblem(
            f"package {name} cannot be imported: {error}", path, f"pip install {name}, to read TOML"
        ) from error
    try:
        return dict(toml.loads(_read(path).decode("utf-8")))
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise MalformedModel(f"this is not TOML: {error!s:.200}", path) from error


def _read(path: str) -> bytes:
    try:
        # Looked at before opening: opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError("not a regular file", path, "check the path")
        with open(path, "rb") as file:
            data = file.read(MAX_TOML + 1)
    except OSError as error:
        raise cannot_use(path, error) from error
    if len(data) > MAX_TOML:
        raise MalformedModel(f"a TOML file of at most {MAX_TOML:,} bytes is expected", path)
    return data


# How each member is converted; None where it cannot be.


def is_number(value: Any) -> bool:
    """Whether it is a number that float32 can hold; not a NaN, nor true or false."""
    return type(value) in (int, float) and abs(value) <= MAX_SCALE


def _one_of(*names: str) -> Callable[[Any], Optional[str]]:
    return lambda value: value if value in names else None


def _number(value: Any) -> Optional[float]:
    return float(value) if is_number(value) else None


def _size(value: Any) -> Optional[Tuple[int, int]]:
    sides = value if isinstance(value, list) else [value, value]
    fits = len(sides) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
    return (sides[0], sides[1]) if fits else None


def _path(value: Any) -> Optional[str]:
    fits = isinstance(value, str) and 0 < len(value) <= MAX_PATH and "\0" not in value
    return value if fits else None


def _mean(value: Any) -> Any:
    if isinstance(value, str):
        return _path(value)
    if not isinstance(value, list):
        return _number(value)
    fits = 0 < len(value) <= MAX_MEAN and all(map(is_number, value))
    return tuple(map(float, value)) if fits else None


_PIXELS = f"a number of pixels or [height, width], each from 1 to {MAX_SIDE}"
_MEMBERS: Dict[str, Tuple[str, Callable[[Any], Any]]] = {
    "resize": (f"one of {', '.join(RESIZES)}", _one_of(*RESIZES)),
    "size": (_PIXELS, _size),
    "crop": (_PIXELS, _size),
    "channels": (f"one of {', '.join(CHANNELS)}", _one_of(*CHANNELS)),
    "mean": ("a number, a list of numbers or the path of a .binaryproto or .npy", _mean),
    "scale": ("a number", _number),
    "labels": ("the path of a text file", _path),
}
