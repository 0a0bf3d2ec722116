"""The file of a validation: written image by image while it runs, one document when it is done.

While a run goes on, ``RESULTS.partial`` has a JSON line for its `Setting`, and one for each image;
a run that finds one goes on from there. At the end, RESULTS appears whole: the summary, and the
images, one a line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from schemas.errors import MalformedModel, UsageError, cannot_use
from stage_build.validation.examples import Example

FORMAT = "caffe-orchestrate validation"
VERSION = 1
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Setting:
    """What decides the numbers: results of another setting are never mixed with these.

    Attributes:
        model: the SHA-256 of the model's files.
        through: the artefact that was run.
        preprocessing: what was done to the images, JSON values.
        images: the SHA-256 of the names and labels of all images, those of other shards too.
        count: how many images that are.
        top: how many of the best classes are looked at.
        labels: the names of the classes, where the model has them.
    """

    model: str
    through: str
    preprocessing: Any
    images: str
    count: int
    top: int
    labels: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "labels": list(self.labels)}

    def differences(self, other: Setting) -> list[str]:
        """What differs, in words."""
        mine, others = self.document(), other.document()
        return [_WORDS[name] for name in mine if mine[name] != others[name] and name in _WORDS]


_WORDS = {
    "model": "the model",
    "through": "--through",
    "preprocessing": "the preprocessing",
    "images": "the images or their labels",
    "top": "--top",
    "labels": "the names of the classes",
}


@dataclass(frozen=True)
class Record:
    """What became of one image.

    Attributes:
        top: indices of the best classes, best first; none where the image could not be read.
        unreadable: why not, or nothing.
    """

    name: str
    label: int
    top: tuple[int, ...]
    unreadable: str = ""

    def right(self, k: int) -> bool:
        """Whether the label is among the best `k`."""
        return self.label in self.top[:k]

    def document(self) -> dict[str, Any]:
        """JSON values."""
        own = {"name": self.name, "label": self.label}
        if self.unreadable:
            return {**own, "unreadable": self.unreadable}
        return {**own, "top": list(self.top)}


@dataclass(frozen=True)
class Results:
    """A validation that is done, or as far as it is.

    Attributes:
        shard: (number, count); (1, 1) is all.
        records: by name.
        runs: of each run that took part, what it says of itself; JSON values.
    """

    setting: Setting
    shard: tuple[int, int]
    records: Mapping[str, Record]
    runs: Sequence[Any] = ()


class ResultsFile:
    """The file of the validation that is running; as a context manager, it is closed at the end.

    Args:
        path: RESULTS.
        setting, shard: of this run.
        examples: of this shard.
        force: begin anew, whatever is there.

    Attributes:
        records: what is known already, by name. Images that could not be read are tried again.
        runs: of the earlier runs that came to an end, what they say of themselves.

    Raises:
        UsageError: there are results of something else, or another run is writing them.
        MalformedModel: what is there is no such file.
        ConversionError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        setting: Setting,
        shard: tuple[int, int],
        examples: Sequence[Example],
        force: bool = False,
    ) -> None:
        self.path = path
        self.partial = partial_of(path)
        self.setting = setting
        self.shard = shard
        self._wanted = {example.name: example.label for example in examples}
        self._is_ours = False
        self.records: dict[str, Record] = {}
        self.runs: list[Any] = []
        try:
            self._file = FileIO(self.partial, "ab")
        except OSError as error:
            raise cannot_use(self.partial, error) from error
        try:
            self._lock()
            if force:
                self.path.unlink(missing_ok=True)
                self._file.truncate(0)
            else:
                self._take_over()
            self._is_ours = True
            if not os.fstat(self._file.fileno()).st_size:
                self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it; one without an image goes."""
        if not self._file.closed:
            if self._is_ours and not self.records:
                self.partial.unlink(missing_ok=True)
            self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "another run is writing these results", str(self.partial), "wait, or --results FILE"
            ) from error

    def _take_over(self) -> None:
        """Reads what earlier runs have left, and cuts off a line that one could not finish."""
        if self.path.exists():
            self._accept(load(self.path), self.path)
        content = _read(self.partial)
        whole = content.rfind(b"\n") + 1
        if whole:
            found = _from_lines(content[:whole], self.partial)
            if all(record.unreadable for record in found.records.values()):
                whole = 0  # nothing is lost with it, whatever it is of
            else:
                self._accept(found, self.partial)
        elif content:
            raise _malformed(self.partial, "its first line is cut off")
        self._file.truncate(whole)

    def _accept(self, found: Results, path: Path) -> None:
        differing = self.setting.differences(found.setting)
        if found.shard != self.shard:
            differing.append("--shard")
        known = found.records.values()
        if not differing and any(self._wanted.get(one.name) != one.label for one in known):
            differing.append("the images or their labels")
        if differing:
            raise UsageError(
                f"these are results of something else, what differs: {', '.join(differing)}",
                str(path),
                "--results FILE for another file, --force to begin anew",
            )
        self.records.update((one.name, one) for one in known if not one.unreadable)
        self.runs += found.runs

    def _begin(self) -> None:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "setting": self.setting.document(),
            "shard": list(self.shard),
        }
        self._write([header, *(record.document() for record in self.records.values())])

    def add(self, records: Sequence[Record]) -> None:
        """Writes what became of some images, all at once."""
        self._write([record.document() for record in records])
        self.records.update((record.name, record) for record in records)

    def _write(self, documents: Iterable[Any]) -> None:
        lines = "".join(json.dumps(document) + "\n" for document in documents).encode()
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
        except OSError as error:
            raise cannot_use(self.partial, error) from error

    def results(self) -> Results:
        """As far as they are."""
        return Results(self.setting, self.shard, self.records, self.runs)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Puts RESULTS in the place of its partial file."""
        write(self.path, self.results(), summary)
        self.partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Where a run writes until it is done."""
    return path.with_name(path.name + ".partial")


def write(path: Path, results: Results, summary: Mapping[str, Any]) -> None:
    """Writes a document of results, whole or not at all.

    Raises:
        ConversionError: it cannot be written.
    """
    head = {
        "format": FORMAT,
        "version": VERSION,
        "summary": summary,
        "setting": results.setting.document(),
        "shard": list(results.shard),
        "runs": list(results.runs),
    }
    images = [json.dumps(results.records[name].document()) for name in sorted(results.records)]
    text = json.dumps(head, indent=1, allow_nan=False)[:-2]
    text += ',\n "images": [\n  ' + ",\n  ".join(images) + "\n ]\n}\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise cannot_use(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> Results:
    """A finished document of results.

    Raises:
        UsageError: there is none, or it is one of a run that is not done.
        MalformedModel: it is something else.
    """
    content = _read(path)
    if is_partial(content):
        raise UsageError(
            "this validation is not done", str(path), "run it to its end, it goes on where it was"
        )
    document = _json(content, path)
    results = _setting_of(document, path)
    runs: Any = document.get("runs")
    _hold_runs(runs, path)
    return replace(results, records=_records(document.get("images"), path), runs=runs)


def is_partial(content: bytes) -> bool:
    """Whether this is the file of a run that is not done: a header, alone on its line."""
    try:
        header = json.loads(content.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT and "images" not in header


def _from_lines(content: bytes, path: Path) -> Results:
    header, *lines = content.splitlines()
    results = _setting_of(_json(header, path), path)
    return replace(results, records=_records([_json(line, path) for line in lines], path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise cannot_use(path, error) from error
    if len(content) > MAX_BYTES:
        raise _malformed(path, "it has more than 1 GiB")
    return content


def _json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"it is not JSON, {error}") from error
    if not isinstance(document, dict):
        raise _malformed(path, "a JSON object was expected")
    return document


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number there")


def _malformed(path: Path, reason: str) -> MalformedModel:
    return MalformedModel(
        f"these are no results of a validation: {reason}", str(path), "check the path, or remove it"
    )


def _setting_of(document: Mapping[str, Any], path: Path) -> Results:
    """Setting and shard, without the images."""
    if document.get("format") != FORMAT:
        raise _malformed(path, "they do not say that they are")
    if document.get("version") != VERSION:
        raise _malformed(path, f"they have version {document.get('version')!r:.20}, not {VERSION}")
    known: Any = document.get("setting")
    shard: Any = document.get("shard")
    try:
        _hold(isinstance(known, dict) and isinstance(shard, list))
        texts = [known[name] for name in ("model", "through", "images")]
        numbers = [known["count"], known["top"], *shard]
        labels = known["labels"]
        _hold(all(isinstance(text, str) for text in [*texts, *labels]))
        _hold(all(type(number) is int and number > 0 for number in numbers))
        number, count = shard
        _hold(number <= count)
        setting = Setting(**{**known, "labels": tuple(labels)})
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, "their setting is not whole") from error
    return Results(setting, (number, count), {})


def _hold_runs(runs: Any, path: Path) -> None:
    numbers = ("images", "seconds", "images_per_second")
    whole = isinstance(runs, list) and all(
        isinstance(run, dict) and all(isinstance(run.get(n), (int, float)) for n in numbers)
        for run in runs
    )
    if not whole:
        raise _malformed(path, "their runs are not whole")


def _hold(condition: bool) -> None:
    if not condition:
        raise ValueError


def _records(documents: Any, path: Path) -> dict[str, Record]:
    if not isinstance(documents, list):
        raise _malformed(path, "they have no images")
    records = {}
    for place, document in enumerate(documents):
        try:
            record = Record(
                document["name"],
                document["label"],
                tuple(document.get("top", ())),
                document.get("unreadable", ""),
            )
            _hold(isinstance(record.name, str) and isinstance(record.unreadable, str))
            indices = (record.label, *record.top)
            _hold(all(type(index) is int and index >= 0 for index in indices))
            _hold(bool(record.top) != bool(record.unreadable))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _malformed(path, f"image {place} of them is not whole") from error
        records[record.name] = record
    return records
