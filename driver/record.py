"""What a converted model was made of, so that what has not changed is not made again.

OUT/logs/made_of.json holds a part for each stage: what it was asked, and what came of it. Files are
known by path, inode, size and the times of modification and of change, which nobody can set; one
that is not where or as it was is hashed, and is the same while its SHA-256 is. net.h5 itself is
taken only where it is the very file that was written here, whose times nobody can bring along: a
record that came with somebody else's model tells nothing. Records are read as any file from outside
is: what is not exactly as expected counts as no record. Safe to use from several threads.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driver import worker
from driver.digests import (
    CLOCK_TICK,
    at_once,
    code_digest,
    copied,
    folder_digest,
    hashed,
    identity,
    modules_digest,
    told_apart,
)
from driver.options import Options
from driver.outcome import finite, ok_document
from schemas.errors import EnvironmentProblem, cannot_use

MADE_OF = "made_of.json"
BUILT = "built.json"
"""Beside it, of the build worker: its result, and the files of the converted model."""

VERSION = 1
MAX_BYTES = 8 << 20
MAX_DEPTH = 8
Part = dict[str, Any]
"""JSON values that tell of one stage."""


@dataclass(frozen=True)
class Asked:
    """What the stages of a conversion are asked, by what may change in it.

    Attributes:
        extract, build: a word for the user -> JSON values.
        files: ``[option, text, path]`` of each file that the options of stage 1 name; of a value
            that is no file, the path is None.
    """

    extract: Part
    build: Part
    files: list[list[Any]]

    @classmethod
    def of(cls, net: Path, weights: Path | None, options: Options) -> Asked:
        """Looked at before a stage begins, so that what changes meanwhile counts as changed."""
        plugins = [
            [folder.resolve().name, modules_digest(folder, (".",))] for folder in options.plugin
        ]
        extract = {
            "options": options.extract_words(),
            "--plugin": plugins,
            "--extract-python": _interpreter(options.extract_python),
            "USE_PYCAFFE": os.environ.get("USE_PYCAFFE", ""),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "code": code_digest(worker.ROOT, ("schemas", worker.PACKAGES["extract"])),
        }
        build = {
            "options": options.build_words(),
            "--plugin": plugins,
            "--reference": told_apart(options.reference),
            "--calibration": folder_digest(options.calibration),
            "--build-python": _interpreter(options.build_python),
            "--gpu": bool(options.gpu),
            "code": code_digest(worker.ROOT, ("schemas", worker.PACKAGES["build"])),
        }
        files: list[list[Any]] = [["net", "", os.path.abspath(net)]]
        if weights is not None:
            files.append(["weights", "", os.path.abspath(weights)])
        if options.labels is not None:
            files.append(["--labels", "", os.path.abspath(options.labels)])
        files += [_argument("--mean", text) for text in options.mean]
        files += [_argument("--preprocess", text) for text in options.preprocess]
        return cls(extract, build, files)


@dataclass(frozen=True)
class Extraction:
    """Stage 1's part of a record.

    Attributes:
        part: as it is written; None if a file changed while it was read: then it tells nothing.
        result: of stage 1, without its ``out``.
        source: the net.h5 that was taken instead of running stage 1, or None.
    """

    part: Part | None
    result: dict[str, Any]
    source: Path | None = None


def made(asked: Asked, result: dict[str, Any], net_file: Path) -> Extraction:
    """What stage 1 has just been asked, and has made."""
    told = {name: value for name, value in result.items() if name != "out"}
    part = {
        **asked.extract,
        "arguments": asked.files,
        "files": told.get("files"),
        "net.h5": identity(net_file),
        "result": told,
    }
    return Extraction(_extraction({"extract": part}), told)


def of_copy(extraction: Extraction, net_file: Path) -> Extraction:
    """The same, of a copy of its net.h5."""
    return replace(extraction, part={**(extraction.part or {}), "net.h5": identity(net_file)})


def reuse(out: Path, asked: Asked, target: Path) -> Extraction | None:
    """Makes `target` from the net.h5 of an earlier conversion of the same, if there is one.

    Looked for in `out`, and where a failed verification leaves its result.
    """
    for folder in (out, out.with_name(f"{out.name}.failed")):
        part = _extraction(_read(folder / "logs" / MADE_OF))
        if part is None:
            continue
        found = folder / "net.h5"
        if identity(found) != part["net.h5"] or _change(part, asked.extract):
            continue
        files = [now for _, now in _files_now(part, asked)]
        if None not in files and copied(found, target, part["net.h5"]):
            current = {"arguments": asked.files, "files": files, "net.h5": identity(target)}
            return Extraction({**part, **current}, part["result"], found)
    return None


def write(path: Path, extraction: Extraction, asked: Asked) -> None:
    """Writes the record of a conversion whose second stage is about to begin.

    Raises:
        EnvironmentProblem: it cannot be written.
    """
    document = {"version": VERSION, "extract": extraction.part, "build": asked.build}
    try:
        path.write_text(json.dumps(document), encoding="utf-8")
    except OSError as error:
        raise cannot_use(path, error) from error


def up_to_date(out: Path, net: Path, weights: Path | None, options: Options) -> str | None:
    """None if converting would make `out` as it is; else what has changed, in a few words.

    No process is started, and nothing is written.
    """
    if options.no_cache:
        return "--no-cache"
    if not os.path.lexists(out):
        return "not converted yet"
    record, built = _read(out / "logs" / MADE_OF), _read(out / "logs" / BUILT)
    extract, build = _extraction(record), record.get("build")
    if extract is None or not isinstance(build, dict) or not _is_built(built):
        return "no record"
    if (missing := _difference_of_result(out, extract, built)) is not None:
        return missing
    asked = Asked.of(net, weights, options)
    changed = _change(extract, asked.extract) or _change(build, asked.build)
    if changed is not None:
        return changed
    files = _files_now(extract, asked)
    return next((f"{name} changed" for name, now in files if now is None), None)


def is_there(out: Path) -> bool:
    """Whether `out` tells that it was converted here, if not of which files."""
    return bool(_read(out / "logs" / MADE_OF))


def document(out: Path) -> dict[str, Any]:
    """What a batch said of `out`, with ``unchanged``; for what is `up_to_date`."""
    built = _read(out / "logs" / BUILT)
    extract = _extraction(_read(out / "logs" / MADE_OF))
    if extract is None or not _is_built(built):
        raise ValueError(f"{out} is not up to date")
    build = {name: value for name, value in built["result"].items() if name != "out"}
    stages = finite({"extract": extract["result"], "build": build})
    seconds = sum(_number(stage.get("seconds")) for stage in stages.values())
    told = ok_document(str(out), _worst(build), seconds=seconds, stages=stages)
    return {**told, "unchanged": True, "warnings": warnings_of(extract["result"])}


def warnings_of(result: dict[str, Any]) -> list[str]:
    """The warnings of an extraction, as its result tells them."""
    found = result.get("notes")
    return [note for note in found if isinstance(note, str)] if isinstance(found, list) else []


# What has changed


def _change(recorded: Part, asked: Part) -> str | None:
    for word, value in asked.items():
        if recorded.get(word) != value:
            name = _option_of(recorded.get(word), value) if word == "options" else word
            return f"{name} changed"
    return None


def _option_of(recorded: Any, asked: list[str]) -> str:
    """The first option that one of two command lines has and the other has not."""
    known = recorded if isinstance(recorded, list) else []
    differing = [word for word in (*asked, *known) if (word in asked) != (word in known)]
    return str(differing[0]).partition("=")[0] if differing else "the order of options"


def _files_now(part: Part, asked: Asked) -> Iterator[tuple[str, Part | None]]:
    """What names each recorded file, and the record of it now; None if it is another."""
    entries = {entry["path"]: entry for entry in part["files"]}
    named = {argument[2] for argument in part["arguments"]}
    inner = [entry for entry in part["files"] if entry["path"] not in named]
    for old, new in itertools.zip_longest(part["arguments"], asked.files):
        if old is None or new is None or old[:2] != new[:2] or (old[2] is None) != (new[2] is None):
            yield (new or old)[0], None
        elif new[2] is not None:
            # A file's name goes into net.h5, and a recipe's own files are looked for beside it.
            moved = old[2] != new[2]
            renamed = os.path.basename(old[2]) != os.path.basename(new[2])
            entry = entries.get(old[2])
            if entry is None or renamed or (moved and inner and new[0] == "--preprocess"):
                yield new[0], None
            else:
                yield new[0], _current(entry, new[2])
    for entry in inner:
        yield entry["role"], _current(entry, entry["path"])


def _current(entry: Part, path: str) -> Part | None:
    """The record of the file that is at `path` now, if it holds what the recorded one held."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if found.st_size != entry["size"]:
        return None
    times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    if entry == {**entry, **times, "path": path, "inode": found.st_ino}:
        return entry
    began = time.time_ns()
    status, digest = hashed(path)
    if status is None or digest != entry["sha256"]:
        return None
    if status.st_ctime_ns >= began - CLOCK_TICK:
        # Written just now: the old times hold, and have it hashed once more.
        return {**entry, "path": path}
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {**entry, **times, "path": path, "inode": status.st_ino}


def _difference_of_result(out: Path, extract: Part, built: Part) -> str | None:
    if identity(out / "net.h5") != extract["net.h5"]:
        return "net.h5 changed"
    for name, size in built["files"].items():
        # A name of our own making, or somebody's: nothing outside is asked for.
        if os.path.isabs(name) or os.pardir in Path(name).parts:
            return "no record"
        try:
            found = os.lstat(out / name).st_size
        except (OSError, ValueError):
            return f"{name} is missing"
        if found != size:
            return f"{name} changed"
    return None


# What a stage is asked


def _argument(option: str, text: str) -> list[Any]:
    """``[NAME=]FILE`` or a value, as the workers tell them apart: by whether there is a file."""
    name, equals, rest = text.partition("=")
    if os.path.isfile(text):
        return [option, "", os.path.abspath(text)]
    if equals and os.path.isfile(rest):
        return [option, name, os.path.abspath(rest)]
    return [option, text, None]


def _interpreter(python: str | None) -> str:
    try:
        return os.path.abspath(worker.interpreter(python))
    except EnvironmentProblem:  # told by who starts it
        return str(python)


# Reading a record


def _read(path: Path) -> dict[str, Any]:
    """A record's document; an empty one if there is none to be trusted."""
    try:
        with open(path, "rb", opener=at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return {}
            data = stream.read(MAX_BYTES + 1)
        document: Any = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return {}
    return document if _is_shallow(document, MAX_DEPTH) else {}


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether nothing of it is deeper, nor a number greater than a file's anything."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)
    return not isinstance(value, int) or abs(value) < 1 << 64


def _extraction(document: dict[str, Any]) -> Part | None:
    """Stage 1's part of a record, if all of it that is used is of the right form."""
    part = document.get("extract")
    fits = (
        isinstance(part, dict)
        and _all(part.get("files"), _is_file)
        and _all(part.get("arguments"), _is_argument)
        and _all(part.get("net.h5"), _is_count)
        and len(part["net.h5"]) == 4
        and _is_result(part.get("result"))
    )
    return part if fits else None


def _all(values: Any, test: Any) -> bool:
    return isinstance(values, list) and all(map(test, values))


def _is_result(result: Any) -> bool:
    """Whether the figures of it that go into reports are figures, or missing."""
    if not isinstance(result, dict):
        return False
    figures = (result.get(name) or 0.0 for name in ("seconds", "peak_bytes"))
    return all(isinstance(figure, int | float) and math.isfinite(figure) for figure in figures)


def _is_file(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(map(_is_text, (entry.get("role"), entry.get("path"))))
        and all(map(_is_count, map(entry.get, ("inode", "size", "mtime_ns", "ctime_ns"))))
        and _is_text(entry.get("sha256"))
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
    )


def _is_argument(argument: Any) -> bool:
    if not isinstance(argument, list) or len(argument) != 3:
        return False
    return all(map(_is_text, argument[:2])) and (argument[2] is None or _is_text(argument[2]))


def _is_built(built: dict[str, Any]) -> bool:
    result, files = built.get("result"), built.get("files")
    return (
        isinstance(result, dict)
        and result.get("status") == "ok"
        and isinstance(files, dict)
        and all(_is_count(size) for size in files.values())
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _worst(result: dict[str, Any]) -> Any:
    worst: Any = result.get("worst")
    fits = isinstance(worst, dict) and isinstance(worst.get("blob"), str)
    return worst if fits else None
