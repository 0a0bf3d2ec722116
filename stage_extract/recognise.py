"""Tells Caffe's files from the other things that users pass as one."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from schemas.errors import MalformedModel, cannot_use

MAX_BYTES = 64 * 1024 * 1024
HEAD = 4096  # bytes that are looked at

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Mistaken(NamedTuple):
    """What a file is that is none of Caffe's, and what to do."""

    what: str
    hint: str


_UNPACK = "unpack it first"
_AGAIN = "download or copy it again"
_PAGE = "download the raw file, not the page that shows it"

# First bytes -> what such a file is.
_MAGIC = (
    (b"\x1f\x8b", Mistaken("a gzip archive", _UNPACK)),
    (b"PK\x03\x04", Mistaken("a zip archive", _UNPACK)),
    (b"BZh", Mistaken("a bzip2 archive", _UNPACK)),
    (b"\xfd7zXZ\x00", Mistaken("an xz archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Mistaken("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Mistaken("a rar archive", _UNPACK)),
    (b"version https://git-lfs", Mistaken("a Git LFS pointer", "run `git lfs pull`")),
    (b"\x93NUMPY", Mistaken("a NumPy array", "a mean goes to --mean")),
)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_TAR = slice(257, 262)


def mistaken(head: bytes) -> Optional[Mistaken]:
    """What a file with these first bytes is, if it is nothing that Caffe or we write."""
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head[_TAR] == b"ustar":
        return Mistaken("a tar archive", _UNPACK)
    if _MARKUP.match(head):
        return Mistaken("a web page", _PAGE)
    if head and not head.strip(b"\0"):
        return Mistaken(f"{len(head)} zero bytes at its start", _AGAIN)
    return None


def is_text(head: bytes) -> bool:
    """Whether a file with these first bytes is text, in UTF-8, Latin-1 or the like."""
    return not _CONTROL.search(head)


def may_hold_net(path: str) -> bool:
    """Whether a file is binary and may be a caffemodel, which holds the net it was saved from.

    Raises:
        UsageError, EnvironmentProblem: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise cannot_use(path, error) from error
    other = head.startswith((HDF5_SIGNATURE, *_UTF_16)) or mistaken(head)
    return not (other or is_text(head))


def prototxt(data: bytes, source: str) -> bytes:
    """`data` without a byte order mark, if it may be a prototxt.

    Raises:
        MalformedModel: it is empty, larger than 64 MB, or some other kind of file, which is named.
    """
    start = f"{source}:1:1"
    if data.startswith(_BYTE_ORDER_MARK):
        data = data[len(_BYTE_ORDER_MARK) :]
    head = data[:HEAD]
    found = mistaken(head)
    if head.startswith(HDF5_SIGNATURE):
        hint = "weights go second: NET.prototxt WEIGHTS.caffemodel.h5"
        found = Mistaken("an HDF5 file", hint)
    elif head.startswith(_UTF_16):
        found = Mistaken("UTF-16 text", "save it as UTF-8")
    elif found is None and not is_text(head):
        found = Mistaken("a binary file", "weights go second: NET.prototxt WEIGHTS.caffemodel")
    if found is not None:
        raise MalformedModel(f"expected a prototxt, found {found.what}", start, found.hint)
    if len(data) > MAX_BYTES:
        raise MalformedModel(
            f"the file has more than {MAX_BYTES >> 20} MB", start, "weights belong in a caffemodel"
        )
    if not head.strip() and not data.strip():
        raise MalformedModel("the file is empty", start, "was the download complete?")
    return data
