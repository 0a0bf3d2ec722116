"""Tells a prototxt from the other things that users pass as one."""

from __future__ import annotations

import re

from schemas.errors import MalformedModel

MAX_BYTES = 64 * 1024 * 1024

# First bytes -> what such a file is, and what to do.
_MAGIC = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "weights go second: NET.prototxt WEIGHTS.caffemodel.h5"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKUP = re.compile(rb"<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def prototxt(data: bytes, source: str) -> bytes:
    """`data` without a byte order mark, if it may be a prototxt.

    Raises:
        MalformedModel: it is empty, larger than 64 MB, or some other kind of file, which is named.
    """
    start = f"{source}:1:1"
    for magic, what, hint in _MAGIC:
        if data.startswith(magic):
            raise MalformedModel(f"expected a prototxt, found {what}", start, hint)
    if data.startswith(_BYTE_ORDER_MARK):
        data = data[len(_BYTE_ORDER_MARK) :]
    head = data[:4096].lstrip()
    if _MARKUP.match(head):
        hint = "download the raw file, not the page that shows it"
        raise MalformedModel("expected a prototxt, found a web page", start, hint)
    if _CONTROL.search(head):
        hint = "weights go second: NET.prototxt WEIGHTS.caffemodel"
        raise MalformedModel("expected a prototxt, found a binary file", start, hint)
    if len(data) > MAX_BYTES:
        raise MalformedModel(
            f"the file has more than {MAX_BYTES >> 20} MB", start, "weights belong in a caffemodel"
        )
    if not head and not data.strip():
        raise MalformedModel("the file is empty", start, "was the download complete?")
    return data
