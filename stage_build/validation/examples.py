"""Which images are scored, and what each of them shows: a list of labels, or a folder per class."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import MalformedModel, UsageError, cannot_use, listed

MAX_LABELS_FILE = 256 << 20  # bytes; ImageNet's 1.3 million training images take 50 MB

# What TensorFlow decodes. A list of labels may name files that end otherwise.
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")

_SYNSET = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Example:
    """An image and the index of the class that it shows.

    Attributes:
        name: its path below the folder of images, parts joined by ``/``.
    """

    name: str
    label: int


@dataclass(frozen=True)
class Found:
    """The images that can be scored, by name, and what could not be matched.

    Attributes:
        examples: sorted by name.
        notes: what the user should know, a line each.
    """

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


class Classes:
    """The classes of a net, found by what people call them.

    Args:
        labels: their names in the order of their indices, as in Caffe's ``synset_words.txt``
            (``n01440764 tench, Tinca tinca``) or without the synset; none are needed for indices.
        count: how many the net tells apart.
    """

    def __init__(self, labels: Sequence[str], count: int) -> None:
        self.count = count
        found: dict[str, set[int]] = {}
        for index, label in enumerate(labels):
            for name in _names(label):
                found.setdefault(name, set()).add(index)
        # ImageNet has two classes "crane", and two "maillot": such a name tells nothing.
        self._indices = {name: min(among) for name, among in found.items() if len(among) == 1}

    def number(self, text: str) -> int | None:
        """The index that `text` is; None if it is none."""
        return int(text) if _NUMBER.fullmatch(text) and int(text) < self.count else None

    def index(self, text: str) -> int | None:
        """The index that `text` stands for (a name, a synset or a number); None if none does."""
        return self._indices.get(text, self.number(text))


def _names(label: str) -> set[str]:
    """What a class is called: its whole line, its synset, the words after that, the first word."""
    label = label.strip()
    first, _, rest = label.partition(" ")
    names = {label}
    if _SYNSET.fullmatch(first):
        names |= {first, rest.strip()}
        label = rest.strip()
    names.add(label.partition(",")[0].strip())
    return names - {""}


def files_below(folder: Path) -> list[str]:
    """The files in a folder and its folders, sorted; but hidden ones. Links are followed.

    Raises:
        ConversionError: a folder cannot be read.
    """
    names: list[str] = []

    def visit(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        status = os.stat(path)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that holds it
            return
        for entry in os.scandir(path):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                visit(entry.path, f"{prefix}{entry.name}/", above | {here})
            elif entry.is_file():
                names.append(prefix + entry.name)

    try:
        visit(str(folder), "", frozenset())
    except OSError as error:
        raise cannot_use(error.filename or folder, error) from error
    return sorted(names)


def read_list(path: Path) -> dict[str, str]:
    """A list of labels, ``NAME LABEL`` a line: image's name -> its label's text.

    A tab parts the two wherever there is one; else the last blank does if a number or a synset
    follows it, and the first one if not.

    Raises:
        MalformedModel: it is too large, a line has one word alone, or two lines disagree.
        ConversionError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LABELS_FILE + 1)
    except OSError as error:
        raise cannot_use(path, error) from error
    if len(content) > MAX_LABELS_FILE:
        raise MalformedModel("a list of labels has at most 256 MiB", str(path), "check the path")
    labels: dict[str, str] = {}
    # File names are bytes: what is not UTF-8 is kept as `os` keeps it.
    text = content.decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(map(_stripped, text.split("\n")), 1):
        if not line:
            continue
        name, label = _parted(line)
        if not label:
            raise MalformedModel(
                f"an image's name and its label were expected, found {line:.80}",
                f"{path}:{number}",
                "write `NAME INDEX`, `NAME SYNSET` or `NAME CLASS` on each line",
            )
        name = os.path.normpath(name)
        if labels.setdefault(name, label) != label:
            raise MalformedModel(
                f"{name:.80} is labelled {label:.80}, and was labelled {labels[name]:.80} before",
                f"{path}:{number}",
            )
    return labels


def _stripped(line: str) -> str:
    return line.strip(" \r\t")


def _parted(line: str) -> tuple[str, str]:
    if "\t" in line:
        name, _, label = line.partition("\t")
        return name.strip(), label.strip()
    name, _, last = line.rpartition(" ")
    if not (_NUMBER.fullmatch(last) or _SYNSET.fullmatch(last)):
        name, _, last = line.partition(" ")
    return name.strip(), last.strip()


def from_list(names: Sequence[str], labels: Mapping[str, str], classes: Classes) -> Found:
    """The images of a folder that a list gives a label to.

    Args:
        names: of `files_below`.
        labels: of `read_list`.

    Raises:
        UsageError: none of the labels means a class, or no image of them is there.
    """
    there = set(names)
    numbers = all(_NUMBER.fullmatch(text) for text in labels.values())
    if numbers and labels:
        _check_numbers({int(text) for text in labels.values()}, classes)
    # In a list of indices, a class that is called "7" has no say.
    find = classes.number if numbers else classes.index
    known = {name: find(text) for name, text in labels.items()}
    examples = [
        Example(name, index) for name, index in known.items() if index is not None and name in there
    ]
    unresolved = sorted({labels[name] for name, index in known.items() if index is None})
    missing = sorted(name for name in labels if name not in there)
    if not examples:
        _refuse(labels, unresolved, missing, classes)
    notes = []
    if unresolved:
        count = sum(index is None for index in known.values())
        notes.append(f"{count} images are left out, no class is called {listed(unresolved)}")
    if missing:
        notes.append(f"{len(missing)} images of the list are not there: {listed(missing)}")
    unlisted = [name for name in names if name.lower().endswith(IMAGES) and name not in labels]
    if unlisted:
        notes.append(f"{len(unlisted)} images are not in the list: {listed(unlisted)}")
    return Found(tuple(sorted(examples, key=lambda one: one.name)), tuple(notes))


def _check_numbers(numbers: set[int], classes: Classes) -> None:
    """Raises a UsageError for indices that count from 1, as those of ImageNet's own files do."""
    if min(numbers) == 1 and max(numbers) == classes.count:
        raise UsageError(
            f"the labels run from 1 to {classes.count}, a net's classes from 0 to "
            f"{classes.count - 1}",
            hint="write the indices in the order of the net's labels, from 0",
        )


def _refuse(
    labels: Mapping[str, str], unresolved: Sequence[str], missing: Sequence[str], classes: Classes
) -> None:
    if not labels:
        raise UsageError("the list of labels is empty", hint="check --labels")
    if len(missing) == len(labels):
        raise UsageError(
            f"no image of the list is there: {listed(missing, 3)}",
            hint="check --images: names are relative to that folder",
        )
    raise UsageError(
        f"no label means one of the net's {classes.count} classes: {listed(unresolved, 3)}",
        hint="give indices from 0, or names that are in labels.txt of the model",
    )


def from_folders(names: Sequence[str], classes: Classes) -> Found:
    """The images of a folder that has a folder per class.

    A folder's name is a class's or its synset, or its index. Where no folder has such a name, and
    there are as many as the net has classes, they are the classes in the order of their names.

    Args:
        names: of `files_below`.

    Raises:
        UsageError: the folders are not those of the net's classes.
    """
    images = [name for name in names if name.lower().endswith(IMAGES)]
    folders = sorted({name.partition("/")[0] for name in images if "/" in name})
    if not folders:
        raise UsageError(
            "no folder of --images holds an image",
            hint="pass --labels FILE, or one folder per class",
        )
    indices = {folder: classes.index(folder) for folder in folders}
    notes = []
    if all(index is None for index in indices.values()):
        if len(folders) != classes.count:
            raise UsageError(
                f"{len(folders)} folders for {classes.count} classes, and none has the name of one:"
                f" {listed(folders, 3)}",
                hint="name them after classes or synsets of the model's labels.txt, or by index",
            )
        indices = {folder: index for index, folder in enumerate(folders)}
        notes.append("the folders are taken for the classes in the order of their names")
    examples = []
    left: list[str] = []
    for name in images:
        folder, slash, _ = name.partition("/")
        index = indices[folder] if slash else None
        if index is None:
            left.append(name)
        else:
            examples.append(Example(name, index))
    if left:
        notes.append(f"{len(left)} images are in no folder of a class: {listed(left)}")
    return Found(tuple(examples), tuple(notes))


def digest(examples: Sequence[Example]) -> str:
    """The SHA-256 of names and labels: that of one set of images is the same on every machine."""
    sums = hashlib.sha256()
    for example in examples:
        sums.update(json.dumps([example.name, example.label]).encode() + b"\n")
    return sums.hexdigest()


def shard_of(text: str) -> tuple[int, int]:
    """``2/4`` as (2, 4).

    Raises:
        UsageError: it is no such text.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard must be I/N, the first is 1/N, not {text!r:.80}")
    return number, count


def spread(examples: Sequence[Example], limit: int | None) -> tuple[Example, ...]:
    """At most `limit` of them, evenly spread: of images sorted by class, there are of each."""
    count = len(examples)
    chosen = count if limit is None else min(limit, count)
    return tuple(examples[place * count // chosen] for place in range(chosen))


def sharded(examples: Sequence[Example], shard: tuple[int, int]) -> tuple[Example, ...]:
    """Every `count`-th example from the `number`-th on, so that each shard has of each class."""
    number, count = shard
    return tuple(examples[number - 1 :: count])
