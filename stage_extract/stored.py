"""What a weight file of either format holds: layers, and blobs whose values stay in the file.

The readers (`caffemodel`, `hdf5_weights`) only find out where values lie; they are read here, from
a mapping. Mapped pages count as memory, so `StoredBlob.slices` gives them back as soon as their
values were used: a file of any size passes through a few megabytes.
"""

from __future__ import annotations

from math import prod
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from stage_extract.mapped import SLICE_BYTES, MappedFile

MAX_AXES = 32  # kMaxBlobAxes (blob.hpp)
MAX_VALUES = 2**31 - 1  # Caffe counts them in an int


def decode(name: bytes) -> str:
    """A name from a file: UTF-8, or Latin-1 where it is not (old editors wrote such prototxts)."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def is_possible(shape: Sequence[int]) -> bool:
    """Whether Caffe can have a blob of this shape (blob.cpp, Reshape)."""
    return (
        len(shape) <= MAX_AXES
        and all(size >= 0 for size in shape)
        and prod(size or 1 for size in shape) <= MAX_VALUES
    )


class Piece(NamedTuple):
    """Consecutive values: `size` of them, `stride` bytes apart, the first at byte `offset`."""

    offset: int
    size: int
    stride: int

    @property
    def end(self) -> int:
        return self.offset + self.size * self.stride


def _values(file: MappedFile, piece: Piece, dtype: np.dtype) -> np.ndarray:
    """The values as 1-D float32: a read-only view where they are packed floats, else a copy."""
    if piece.stride == dtype.itemsize:
        values = np.frombuffer(file.bytes, dtype, piece.size, piece.offset)
    else:
        # One byte of tag stands before each value.
        record = np.dtype(
            {"names": ["value"], "formats": [dtype], "offsets": [1], "itemsize": piece.stride}
        )
        values = np.frombuffer(file.bytes, record, piece.size, piece.offset - 1)["value"]
    with np.errstate(all="ignore"):  # a double beyond float's range becomes infinite, as in Caffe
        return np.ascontiguousarray(values, dtype=np.float32)


class StoredBlob:
    """One parameter blob of a stored layer.

    Attributes:
        shape: as stored; the product of its sizes is the number of values.
        dtype: float32, the type of what `slices` and `array` give.
        stored_dtype: the type of the values in the file, little-endian.
        legacy: whether `shape` is the old (num, channels, height, width), right-aligned.
        offset: the byte where the blob starts in the file, for messages.
    """

    __slots__ = ("_file", "_pieces", "legacy", "offset", "shape", "stored_dtype")
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        file: MappedFile,
        pieces: Sequence[Piece],
        stored_dtype: str,
        shape: Tuple[int, ...],
        offset: int,
        legacy: bool = False,
    ) -> None:
        self._file = file
        self._pieces = tuple(pieces)
        self.stored_dtype = np.dtype(stored_dtype)
        self.shape = shape
        self.offset = offset
        self.legacy = legacy

    @property
    def size(self) -> int:
        """The number of values."""
        return prod(self.shape)

    def reshaped(self, shape: Tuple[int, ...]) -> StoredBlob:
        """The same values under another shape of the same size."""
        return StoredBlob(self._file, self._pieces, self.stored_dtype.str, shape, self.offset)

    def slices(self, limit: int = SLICE_BYTES) -> Iterator[np.ndarray]:
        """Consecutive 1-D float32 arrays of at most `limit` bytes that together are the blob.

        The pages behind a slice are given back when the next one is asked for.
        """
        step = max(1, limit // self.dtype.itemsize)
        for offset, size, stride in self._pieces:
            for first in range(0, size, step):
                part = Piece(offset + first * stride, min(step, size - first), stride)
                yield _values(self._file, part, self.stored_dtype)
                self._file.forget(part.offset, part.end)

    def array(self) -> np.ndarray:
        """The whole blob, float32, in its shape.

        A read-only view of the file (of any alignment) where the values are one packed run of
        floats, else a copy. Large blobs are better read by `slices`: a view's pages count as memory
        once they were touched.
        """
        if len(self._pieces) == 1 and self._pieces[0].stride == 4:
            return _values(self._file, self._pieces[0], self.stored_dtype).reshape(self.shape)
        values = np.empty(self.size, self.dtype)
        filled = 0
        for part in self.slices():
            values[filled : filled + part.size] = part
            filled += part.size
        return values.reshape(self.shape)


class StoredLayer(NamedTuple):
    """One layer of a weight file.

    Attributes:
        name: as written.
        type: Caffe's type string, the number of V1's enum, or empty for HDF5, which has none.
        bottoms, tops: blob names; empty for HDF5.
        blobs: the parameter blobs, in Caffe's order.
        places: of HDF5, Caffe's index of each blob, for one that another layer owns is not stored.
    """

    name: str
    type: Union[str, int]
    bottoms: Tuple[str, ...]
    tops: Tuple[str, ...]
    blobs: Tuple[StoredBlob, ...]
    places: Optional[Tuple[int, ...]] = None


class StoredModel:
    """An open weight file; use it as a context manager.

    Arrays that were taken from it stay valid after `close`; blobs can no longer be read then.
    """

    def __init__(self, file: MappedFile, layers: List[StoredLayer]) -> None:
        self.path = file.path
        self.size = file.size
        self.layers = layers
        self._file = file

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> StoredModel:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
