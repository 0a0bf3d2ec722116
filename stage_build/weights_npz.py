"""weights.npz: a numbered member for every Keras weight, where it can be used as it lies."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stage_build.lowering.registry import Lowered

ZIP_PADDING = 0xD935  # the number that Android's zipalign gives such a field


def write(
    path: Path, lowered: Sequence[Lowered], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Writes them one at a time.

    Members are stored uncompressed and without times, so that equal weights give equal bytes, and
    their values start at a multiple of 64 bytes.

    Returns:
        For each member, the layer it belongs to and its shape.
    """
    written: list[dict[str, Any]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for place, item in enumerate(lowered):
            for array in item.call.weights():
                info = zipfile.ZipInfo(f"{len(written)}.npy", (1980, 1, 1, 0, 0, 0))
                info.extra = _padding(archive.start_dir, info.filename)
                with archive.open(info, "w", force_zip64=True) as member:
                    _write_array(member, array)
                written.append({"layer": item.site.layer.name, "shape": list(array.shape)})
            progress(place + 1, len(lowered))
    return written


def _padding(offset: int, name: str) -> bytes:
    """The extra field with which a member whose header starts at `offset` starts at a multiple of
    64 bytes: NumPy's header is as long, so that the values can be used where they lie."""
    fixed = 30 + len(name) + 20  # zip's local header, and what ZIP64 adds
    missing = -(offset + fixed + 4) % 64
    return struct.pack("<HH", ZIP_PADDING, missing) + bytes(missing)


def _write_array(member: Any, array: np.ndarray) -> None:
    array = np.asarray(array, np.float32, order="C")
    np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
    for piece in _pieces(array.reshape(-1)):
        member.write(piece.data.cast("B"))


def _pieces(flat: np.ndarray, size: int = 4 * 1024 * 1024) -> Iterator[np.ndarray]:
    for start in range(0, flat.size, size):
        yield flat[start : start + size]


def mapped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """A member that `write` wrote, copy-on-write."""
    with archive.open(info) as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        header = member.tell()
    with open(str(archive.filename), "rb") as file:
        file.seek(info.header_offset + 26)  # zip's local header: lengths of name and extra field
        lengths = struct.unpack("<HH", file.read(4))
        return np.memmap(file, dtype, "c", file.tell() + sum(lengths) + header, shape)
