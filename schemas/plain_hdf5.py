"""Plain datasets of an HDF5 file from a stranger, and JSON within bounds.

libhdf5 only says where values lie, in datasets that are named to it: nothing is walked, no link is
followed but hard ones, and what would read other files or run a filter (external storage, virtual
datasets, chunks) is refused.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import h5py
import numpy as np
from h5py import h5d, h5l, h5o, h5s, h5t

from schemas.errors import ConversionError, MalformedModel, cannot_use

MAX_NAME = 256  # characters of a dataset's name
MAX_VALUES = 2**31 - 1  # Caffe counts them in an int
MAX_MEMORY = 256 * 1024 * 1024  # bytes that libhdf5 may take; it needs a few
MAX_DEPTH = 64  # of JSON values
MAX_DIGITS = 400  # of a number in JSON
DTYPES = {
    "<f4": h5t.IEEE_F32LE,
    "<f8": h5t.IEEE_F64LE,
    "<i4": h5t.STD_I32LE,
    "<i8": h5t.STD_I64LE,
    "|u1": h5t.STD_U8LE,
}


@dataclass(frozen=True)
class Dataset:
    """Where a dataset's values lie in the file, and what they are."""

    offset: int
    shape: Tuple[int, ...]
    dtype: np.dtype


class File:
    """An HDF5 file; a context manager, within which `find` may be asked, and `values` afterwards.

    Args:
        mapped: whether values are views of the mapped file, where nobody else changes it.

    Raises:
        MalformedModel: it is not HDF5, or damaged.
        UsageError, EnvironmentProblem: it cannot be opened.
    """

    def __init__(self, path: Path, mapped: bool = False) -> None:
        self.path = path
        self._whole: Optional[mmap.mmap] = None
        try:
            self._size = path.stat().st_size
            with open(str(path), "rb") as start:
                if start.read(8) != b"\x89HDF\r\n\x1a\n":
                    raise self.error("not an HDF5 file", "pass the file that stage 1 wrote")
                if mapped:
                    self._whole = mmap.mmap(start.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise cannot_use(path, error) from error
        with bounded_memory(), self._guarded("damaged HDF5"):
            self._h5 = h5py.File(str(path), "r")

    @property
    def mapped(self) -> bool:
        return self._whole is not None

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: Any) -> None:
        with self._guarded("damaged HDF5"):
            self._h5.close()

    def error(self, message: str, hint: str = "extract the model again") -> MalformedModel:
        return MalformedModel(message, str(self.path), hint)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """What h5py raises over damage, nearly every type of exception, becomes our own."""
        try:
            yield
        except ConversionError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise cannot_use(self.path, error) from error
            raise self.error(f"{what}: {_first_line(error)}") from error

    def has(self, name: str) -> bool:
        with bounded_memory(), self._guarded(name):
            return bool(self._h5.id.links.exists(name.encode()))

    def find(self, names: Iterable[str]) -> List[Dataset]:
        """Plain datasets: hard-linked, contiguous, unfiltered and within the file."""
        with bounded_memory():
            return [self._find(name) for name in names]

    def _find(self, name: str) -> Dataset:
        if len(name) > MAX_NAME:
            raise self.error(f"a dataset's name has {len(name):,} characters")
        with self._guarded(name):
            parent = self._h5.id
            for part in name.encode().split(b"/"):
                if parent.links.get_info(part).type != h5l.TYPE_HARD:
                    raise self.error(f"{name} is not a plain dataset")
                parent = h5o.open(parent, part)
            if not isinstance(parent, h5d.DatasetID):
                raise self.error(f"{name} is not a dataset")
            return self._located(name, parent)

    def _located(self, name: str, dataset: h5d.DatasetID) -> Dataset:
        how, space, stored = dataset.get_create_plist(), dataset.get_space(), dataset.get_type()
        dtype = next((np.dtype(text) for text, kind in DTYPES.items() if stored.equal(kind)), None)
        if (
            dtype is None
            or how.get_layout() != h5d.CONTIGUOUS
            or how.get_external_count()
            or how.get_nfilters()
            or space.get_simple_extent_type() not in (h5s.SIMPLE, h5s.SCALAR)
        ):
            raise self.error(f"{name} is not a plain contiguous dataset")
        shape = tuple(int(size) for size in space.get_simple_extent_dims())
        if math.prod(size or 1 for size in shape) > MAX_VALUES:
            raise self.error(f"{name}: no array can have shape {list(shape)}")
        size = math.prod(shape) * dtype.itemsize
        offset = dataset.get_offset() if size else 0
        if dataset.get_storage_size() != size or offset is None or offset + size > self._size:
            raise self.error(
                f"{name}: shape {list(shape)} needs {size:,} bytes, which are not in the file"
            )
        return Dataset(int(offset), shape, dtype)

    def values(self, dataset: Dataset) -> np.ndarray:
        """The dataset's values, read without libhdf5."""
        count = math.prod(dataset.shape)
        if self._whole is not None and count:
            view = np.frombuffer(self._whole, dataset.dtype, count, dataset.offset)
            return view.reshape(dataset.shape)
        values = np.fromfile(str(self.path), dataset.dtype, count, offset=dataset.offset)
        if values.size != count:
            raise self.error("the file became shorter while it was read")
        return values.reshape(dataset.shape)

    def forget(self) -> None:
        """Gives back the memory of what was mapped; what is looked at again is mapped again."""
        if self._whole is not None and hasattr(self._whole, "madvise"):
            self._whole.madvise(mmap.MADV_DONTNEED)


@contextmanager
def bounded_memory(more: int = MAX_MEMORY) -> Iterator[None]:
    """Ends what asks for over `more` bytes meanwhile in a MemoryError, or in an error of libhdf5.

    libhdf5 believes a damaged header's sizes: one of gigabytes would be taken, and filled with
    zeros. Mapped files do not count. Only Linux can be told so.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        data = int(file.read().split()[5]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [data + more, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").split("\n")[0]


def parsed(data: bytes) -> Any:
    """JSON in ASCII, within bounds; the constants NaN, Infinity and -Infinity are known.

    Raises:
        ValueError, RecursionError: it is not.
    """
    document = json.loads(data.decode("ascii"), parse_int=_whole, object_pairs_hook=_members)
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"values are nested more than {MAX_DEPTH} deep")
        below: List[Any] = []
        for value in level:
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair is a ValueError
            elif isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                below += [*value, *value.values()]
        level = below
    return document


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:  # takes time that grows with the square of their number
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _members(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has two members of one name")
    return members
