"""The names of the classes: a text file with one a line, in the order of their indices."""

from __future__ import annotations

from typing import Tuple

from schemas.errors import MalformedModel
from schemas.preprocessing import check_labels
from stage_extract import recognise
from stage_extract.mapped import MappedFile
from stage_extract.stored import decode

MAX_BYTES = 2 * 1024 * 1024  # ImageNet's 21,841 classes take half of it
_BYTE_ORDER_MARK = "\ufeff"


def read(path: str) -> Tuple[str, ...]:
    """The lines of a file in UTF-8, or Latin-1 where it is not, as they stand.

    A line of ILSVRC's ``synset_words.txt`` (``n01440764 tench, Tinca tinca``) keeps its synset.
    White space at the ends of a line goes, and so do empty lines at the end; a tab is a space.

    Raises:
        MalformedModel: the file is something else, or a line of it is no label.
        UsageError, EnvironmentProblem: it cannot be read.
    """
    file = MappedFile(path)
    data = file.bytes[: MAX_BYTES + 1]
    file.close()
    found = recognise.mistaken(data[: recognise.HEAD])
    if found is not None:
        raise MalformedModel(
            f"names of classes are expected, a line each, found {found.what}", path, found.hint
        )
    if len(data) > MAX_BYTES:
        raise MalformedModel(f"names of classes take at most {MAX_BYTES:,} bytes", path)
    text = decode(data).lstrip(_BYTE_ORDER_MARK).rstrip()
    labels = tuple(line.replace("\t", " ").strip(" \r") for line in text.split("\n"))
    try:
        check_labels(labels)
    except ValueError as error:
        raise MalformedModel(
            f"names of classes are expected, a line each: {error}", path, "counted from 0"
        ) from error
    return labels
