"""The HDF5 file that passes between the stages; `interchange.md` is its written form.

One JSON index names every array with its dataset, shape, dtype and SHA-256. The file is boring HDF5
on purpose: no attributes, contiguous unfiltered little-endian datasets, readable by the oldest
libhdf5. A reader follows the index, never the links, and takes plain datasets only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import h5py
import numpy as np

from schemas.errors import EnvironmentProblem, MalformedModel, UnsupportedModel, cannot_use
from schemas.graph import Net
from schemas.graph_json import Checked, net_document, net_from

FORMAT = "caffe-orchestrate interchange"
VERSION = 1
MAX_INDEX = 256 * 1024 * 1024
SLICE = 16 * 1024 * 1024
DTYPES = ("<f4", "<f8", "<i4", "<i8", "|u1")


@dataclass(frozen=True)
class Source:
    """A file the net was read from.

    Attributes:
        role: ``prototxt``, ``weights``, ...
        name: the file's name, without its folder.
        bytes: its size.
        sha256: of its bytes, in hexadecimal.
    """

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Reference:
    """What one forward pass computed.

    Attributes:
        recorder: ``numpy`` (the meanings in schemas.layers), ``caffe``, or ``user``.
        seed: of the input's random numbers; None where the input was an image or the user's.
        inputs, blobs: blob key -> float32 array in Caffe's axis order.
    """

    recorder: str
    seed: Optional[int]
    inputs: Mapping[str, np.ndarray]
    blobs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Interchange:
    """Everything that stage 2 needs of a Caffe model.

    Attributes:
        weights: parameter key -> array. When writing, a value may also be an object with ``shape``,
            ``dtype`` and ``slices(limit)`` (flat consecutive pieces), so that a large file never
            has to be in memory; when reading, arrays are loaded and checked one by one on access.
        preprocessing: input blob key -> the prototxt's ``transform_param`` for it.
        sources: the files the net was read from.
        notes: what the user was told while reading.

    When writing, sources and notes are taken last: the sources may still be hashed meanwhile, and
    the slices of the weights may add notes.
    """

    net: Net
    weights: Mapping[str, Any]
    sources: Iterable[Source] = ()
    reference: Optional[Reference] = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def weight_bytes(content: Interchange) -> int:
    """The bytes of all weights; none is read for it."""
    weights = content.weights
    if isinstance(weights, _Arrays):
        return sum(weights.nbytes(key) for key in weights)
    return sum(_nbytes(array) for array in weights.values())


# Writing


def write(path: Path, content: Interchange) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
        EnvironmentProblem: no space, no permission.
        UsageError: the folder does not exist.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _require_space(path, content)
        _write(partial, content)
        os.replace(str(partial), str(path))
    except OSError as error:
        raise cannot_use(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _require_space(path: Path, content: Interchange) -> None:
    arrays: List[Any] = list(content.weights.values())
    if content.reference is not None:
        arrays += content.reference.blobs.values()
    needed = sum(_nbytes(array) for array in arrays) + 1024 * 1024
    stat = os.statvfs(str(path.parent))
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise EnvironmentProblem(
            f"{needed:,} bytes are needed, {free:,} are free", str(path.parent), "free some space"
        )


def _nbytes(array: Any) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _write(path: Path, content: Interchange) -> None:
    pool = _ArrayPool()
    document: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sources": [],
        "net": net_document(content.net),
        "weights": {key: pool.add(array) for key, array in content.weights.items()},
        "preprocessing": dict(content.preprocessing),
        "notes": [],
        "reference": None,
    }
    if content.reference is not None:
        document["reference"] = {
            "recorder": content.reference.recorder,
            "seed": content.reference.seed,
            "inputs": {key: pool.add(array) for key, array in content.reference.inputs.items()},
            "blobs": {key: pool.add(array) for key, array in content.reference.blobs.items()},
        }
    # 'earliest' and no object times: equal input gives equal bytes, which any libhdf5 reads.
    with h5py.File(str(path), "w", libver=("earliest", "v108")) as file:
        group = file.create_group("data")
        offsets = [
            _create(group, str(i), array.shape, array.dtype) for i, array in enumerate(pool.arrays)
        ]
        file.flush()
        with open(str(path), "r+b", buffering=0) as raw, _Beside(raw) as beside:
            document["arrays"] = [
                {
                    "dataset": f"data/{i}",
                    "shape": list(array.shape),
                    "dtype": np.dtype(array.dtype).newbyteorder("<").str,
                    "sha256": _write_array(raw, offset, array, beside),
                }
                for i, (array, offset) in enumerate(zip(pool.arrays, offsets))
            ]
        document["sources"] = [vars(source) for source in content.sources]
        document["notes"] = list(content.notes)
        index = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()
        for name, data in (("index", index), ("index_sha256", hashlib.sha256(index).digest())):
            file.create_dataset(name, data=np.frombuffer(data, np.uint8))
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _ArrayPool:
    """Numbers arrays; the same array object (shared weights, aliased blobs) is stored once."""

    def __init__(self) -> None:
        self.arrays: List[Any] = []
        self._known: Dict[int, int] = {}

    def add(self, array: Any) -> int:
        if id(array) not in self._known:
            self._known[id(array)] = len(self.arrays)
            self.arrays.append(array)
        return self._known[id(array)]


def _create(group: h5py.Group, name: str, shape: Tuple[int, ...], dtype: Any) -> int:
    """Makes a contiguous dataset whose bytes are written apart; returns their file offset."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
    dataset = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), plist)
    return int(dataset.get_offset() or 0)


class _Beside:
    """Two threads beside the writing one: one hashes, one has the disk take what was written."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._hasher = ThreadPoolExecutor(1)
        self._flusher = ThreadPoolExecutor(1)
        self._flushing: Optional[Future] = None

    def __enter__(self) -> _Beside:
        return self

    def hash(self, digest: Any, view: memoryview) -> Future:
        """Starts to take `view` into the digest, and a flush unless one is under way."""
        if self._flushing is None or self._flushing.done():
            self._flushing = self._flusher.submit(os.fsync, self._raw.fileno())
        return self._hasher.submit(digest.update, view)

    def __exit__(self, *_: Any) -> None:
        self._hasher.shutdown()
        self._flusher.shutdown()


def _write_array(raw: Any, offset: int, array: Any, beside: _Beside) -> str:
    digest = hashlib.sha256()
    for piece in _slices(array):
        stored = np.ascontiguousarray(piece, np.dtype(array.dtype).newbyteorder("<"))
        view = stored.data.cast("B")
        hashing = beside.hash(digest, view)
        written = 0
        while written < len(view):
            written += os.pwrite(raw.fileno(), view[written:], offset + written)
        offset += len(view)
        hashing.result()
    return digest.hexdigest()


def _slices(array: Any) -> Iterator[np.ndarray]:
    if hasattr(array, "slices"):
        yield from array.slices(SLICE)
        return
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, SLICE // max(1, flat.itemsize))
    for start in range(0, flat.size, step):
        yield flat[start : start + step]


# Reading


class _Arrays(Mapping[str, np.ndarray]):
    """Arrays of the file by key, read and checked when asked for."""

    def __init__(self, file: _File, numbers: Mapping[str, int]) -> None:
        self._file = file
        self._numbers = numbers

    def __getitem__(self, key: str) -> np.ndarray:
        return self._file.array(self._numbers[key], key)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers  # Mapping's own would read the array to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def nbytes(self, key: str) -> int:
        return _nbytes(self._file.entries[self._numbers[key]])


@dataclass(frozen=True)
class _Entry:
    dataset: str
    shape: Tuple[int, ...]
    dtype: str
    sha256: str


class _File:
    """An open interchange file that hands out checked arrays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: Sequence[_Entry] = ()
        try:
            self._size = path.stat().st_size
            with open(str(path), "rb") as start:
                if start.read(8) != b"\x89HDF\r\n\x1a\n":
                    raise self.error("not an HDF5 file", "pass the file that stage 1 wrote")
            self._h5 = h5py.File(str(path), "r")
        except OSError as error:
            if error.errno is None:
                raise self.error(f"damaged HDF5: {_first_line(error)}") from error
            raise cannot_use(path, error) from error

    def error(self, message: str, hint: str = "extract the model again") -> MalformedModel:
        return MalformedModel(message, str(self.path), hint)

    def raw(self, name: str, limit: Optional[int] = None) -> Tuple[np.ndarray, int]:
        """The bytes of a plain dataset as an array, and the offset they stand at."""
        try:
            parent = self._h5.id
            for part in name.encode().split(b"/"):
                if parent.links.get_info(part).type != h5py.h5l.TYPE_HARD:
                    raise self.error(f"{name} is not a plain dataset")
                parent = h5py.h5o.open(parent, part)
            if not isinstance(parent, h5py.h5d.DatasetID):
                raise self.error(f"{name} is not a dataset")
            plist = parent.get_create_plist()
            dtype, shape = parent.dtype, parent.shape
            size = math.prod(shape) * dtype.itemsize
            offset = parent.get_offset() if size else 0
            plain = (
                plist.get_layout() == h5py.h5d.CONTIGUOUS
                and plist.get_external_count() == 0
                and plist.get_nfilters() == 0
                and dtype.str in DTYPES
                and parent.get_storage_size() == size
                and offset is not None
                and offset + size <= self._size
            )
        except (KeyError, RuntimeError, ValueError, TypeError, OSError, AttributeError) as error:
            raise self.error(f"{name}: {_first_line(error)}") from error
        if not plain:
            raise self.error(f"{name} is not a plain contiguous dataset")
        if limit is not None and size > limit:
            raise self.error(f"{name} has {size:,} bytes, the limit is {limit:,}")
        values = np.fromfile(str(self.path), dtype, math.prod(shape), offset=offset)
        return values.reshape(shape), size

    def has(self, name: str) -> bool:
        return bool(self._h5.id.links.exists(name.encode()))

    def index(self) -> Any:
        raw = self.raw("index", MAX_INDEX)[0].tobytes()
        if hashlib.sha256(raw).digest() != self.raw("index_sha256", 64)[0].tobytes():
            raise self.error("the index does not match its digest: the file is damaged")
        try:
            return json.loads(raw.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise self.error(f"the index is not JSON: {error}") from error

    def array(self, number: int, key: str) -> np.ndarray:
        entry = self.entries[number]
        values, _ = self.raw(entry.dataset)
        if values.shape != entry.shape or values.dtype.str != entry.dtype:
            raise self.error(
                f"array {key!r} is {values.dtype.str} {list(values.shape)}, "
                f"the index says {entry.dtype} {list(entry.shape)}"
            )
        if hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest() != entry.sha256:
            raise self.error(f"array {key!r} does not match its digest: the file is damaged")
        return values


def has_index(path: Path) -> bool:
    """Whether an HDF5 file is an interchange file, sound or not, and not Caffe's own HDF5.

    Raises:
        MalformedModel: it is not HDF5, or damaged.
        UsageError, EnvironmentProblem: it cannot be opened.
    """
    return _File(path).has("index")


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").split("\n")[0]


def read(path: Path) -> Interchange:
    """Opens an interchange file; arrays are read, and checked against their digests, on access.

    Raises:
        MalformedModel: not an interchange file, damaged, or inconsistent.
        UnsupportedModel: written in a newer version of the format.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = _File(Path(path))
    document = Checked(file.index(), "index", file.error)
    if document.get("format", str) != FORMAT:
        raise file.error(f"not a {FORMAT} file", "pass the file that stage 1 wrote")
    version = document.get("version", int)
    if version > VERSION:
        raise UnsupportedModel(
            f"format version {version} is newer than {VERSION}, the newest known here",
            str(path),
            "update caffe-orchestrate on this machine",
        )
    file.entries = [_entry(item) for item in document.items("arrays")]
    net = net_from(document.child("net"))
    weights = _Arrays(file, _numbers(document.child("weights"), file))
    for layer in net.layers:
        for key in layer.weights:
            if key not in weights:
                raise file.error(f"{layer}: parameter {key!r} has no array")
    reference = None
    if document.value.get("reference") is not None:
        recorded = document.child("reference")
        reference = Reference(
            recorded.get("recorder", str),
            recorded.optional("seed", int),
            _Arrays(file, _numbers(recorded.child("inputs"), file)),
            _Arrays(file, _numbers(recorded.child("blobs"), file)),
        )
    return Interchange(
        net=net,
        weights=weights,
        sources=tuple(
            Source(
                s.get("role", str), s.get("name", str), s.get("bytes", int), s.get("sha256", str)
            )
            for s in document.items("sources")
        ),
        reference=reference,
        preprocessing=document.child("preprocessing").value,
        notes=tuple(document.strings("notes")),
    )


def _entry(item: Checked) -> _Entry:
    return _Entry(
        item.get("dataset", str),
        item.shape("shape"),
        item.get("dtype", str),
        item.get("sha256", str),
    )


def _numbers(keys: Checked, file: _File) -> Dict[str, int]:
    for key in keys.value:
        if not 0 <= keys.get(key, int) < len(file.entries):
            raise file.error(f"{keys.path}.{key}: there is no such array")
    return keys.value
