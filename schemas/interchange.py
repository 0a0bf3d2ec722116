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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import h5py
import numpy as np

from schemas.errors import EnvironmentProblem, UnsupportedModel, cannot_use, refused
from schemas.graph import Net
from schemas.graph_json import Checked, net_document, net_from
from schemas.plain_hdf5 import Dataset, File, parsed
from schemas.preprocessing import MAX_MEAN, Preprocessing, images_from, labels_from

FORMAT = "caffe-orchestrate interchange"
VERSION = 1
# Bytes. A net of 500 layers takes half a megabyte; parsed, the worst of 16 MB take 400.
MAX_INDEX = 16 * 1024 * 1024
MAX_ARRAYS = 1 << 16
SLICE = 4 * 1024 * 1024  # bytes that are hashed, written and looked through at once


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
        filled: the keys of weights that come from fillers, and not from a file.
        means: input blob key -> what is subtracted from it, (C) or (C, H, W), in the net's channel
            order. Of (C, H, W) the centre of the input's size is taken.
        images: input blob key -> what else is done to an image before; only where something told.
        labels: the names of the classes, in the order of their indices.

    When writing, sources and notes are taken last: the sources may still be hashed meanwhile, and
    notes on the weights be added.
    """

    net: Net
    weights: Mapping[str, Any]
    sources: Iterable[Source] = ()
    reference: Optional[Reference] = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    filled: Sequence[str] = ()
    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: Mapping[str, Preprocessing] = field(default_factory=dict)
    labels: Sequence[str] = ()


def weight_bytes(content: Interchange) -> int:
    """The bytes of all weights; none is read for it."""
    weights = content.weights
    if isinstance(weights, _Arrays):
        return sum(weights.nbytes(key) for key in weights)
    return sum(_nbytes(array) for array in weights.values())


def array_shape(arrays: Mapping[str, Any], key: str) -> Tuple[int, ...]:
    """The shape of one of the weights, blobs or means; it is not read for it."""
    known = getattr(arrays, "shape", None)
    return tuple(known(key) if known else arrays[key].shape)


def forget(content: Interchange) -> None:
    """Gives back the memory of arrays that are mapped, see `read`; they may be read again."""
    if isinstance(content.weights, _Arrays):
        content.weights.forget()


# Writing

# Takes a parameter's key, how many of its values are NaN or infinite, and how many values it has.
NonFinite = Callable[[str, int, int], None]


def write(path: Path, content: Interchange, non_finite: Optional[NonFinite] = None) -> None:
    """Writes `content` to `path`, whole or not at all.

    The disk is not waited for: what a power cut spoils no longer matches its digests, and is made
    again from the sources.

    Args:
        non_finite: told of each of the weights that has NaNs or infinities.

    Raises:
        EnvironmentProblem: no space, no permission.
        UsageError: the folder does not exist.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _require_space(path, content)
        _write(partial, content, non_finite)
        os.replace(str(partial), str(path))
    except Exception as error:  # h5py's is another where a file cannot be closed
        problem = refused(error)
        if problem is None:
            raise
        raise cannot_use(path, problem) from error
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


def _write(path: Path, content: Interchange, non_finite: Optional[NonFinite]) -> None:
    pool = _ArrayPool()
    document: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sources": [],
        "net": net_document(content.net),
        "weights": {key: pool.add(array) for key, array in content.weights.items()},
        "filled": list(content.filled),
        "preprocessing": dict(content.preprocessing),
        "means": {key: pool.add(array) for key, array in content.means.items()},
        "images": {key: own.document() for key, own in content.images.items()},
        "labels": list(content.labels),
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
    # Made anew: in a folder of all, another user may have put a link there.
    with suppress(FileNotFoundError):
        path.unlink()
    with h5py.File(str(path), "x", libver=("earliest", "v108")) as file:
        group = file.create_group("data")
        offsets = [
            _create(group, str(i), array.shape, array.dtype) for i, array in enumerate(pool.arrays)
        ]
        file.flush()
        with open(str(path), "r+b", buffering=0) as raw, ThreadPoolExecutor(1) as beside:
            written = [
                _write_array(raw, offset, array, beside)
                for array, offset in zip(pool.arrays, offsets)
            ]
        document["arrays"] = [
            {
                "dataset": f"data/{i}",
                "shape": list(array.shape),
                "dtype": np.dtype(array.dtype).newbyteorder("<").str,
                "sha256": digest,
            }
            for i, (array, (digest, _)) in enumerate(zip(pool.arrays, written))
        ]
        for key, i in document["weights"].items():
            if non_finite is not None and written[i][1]:
                non_finite(key, written[i][1], math.prod(pool.arrays[i].shape))
        document["sources"] = [vars(source) for source in content.sources]
        document["notes"] = list(content.notes)
        index = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()
        if len(index) > MAX_INDEX:
            raise UnsupportedModel(
                f"the net without its weights takes {len(index):,} bytes, the limit is "
                f"{MAX_INDEX:,}",
                hint="split the net with --outputs",
            )
        for name, data in (("index", index), ("index_sha256", hashlib.sha256(index).digest())):
            file.create_dataset(name, data=np.frombuffer(data, np.uint8))


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


def _write_array(raw: Any, offset: int, array: Any, beside: ThreadPoolExecutor) -> Tuple[str, int]:
    """Writes an array from the byte `offset` on, and hashes it on another core.

    Returns:
        its SHA-256, and how many of its values are NaN or infinite.
    """
    digest, others = hashlib.sha256(), 0
    for piece in _slices(array):
        stored = np.ascontiguousarray(piece, np.dtype(array.dtype).newbyteorder("<"))
        view = stored.data.cast("B")
        hashing = beside.submit(digest.update, view)
        written = 0
        while written < len(view):
            written += os.pwrite(raw.fileno(), view[written:], offset + written)
        offset += len(view)
        others += piece.size - int(np.count_nonzero(np.isfinite(piece)))
        hashing.result()
    return digest.hexdigest(), others


def _slices(array: Any) -> Iterator[np.ndarray]:
    if hasattr(array, "slices"):
        yield from array.slices(SLICE)
        return
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, SLICE // max(1, flat.itemsize))
    for start in range(0, flat.size, step):
        yield flat[start : start + step]


# Reading


@dataclass(frozen=True)
class _Array:
    """An array of the index, found in the file."""

    dataset: Dataset
    sha256: str


class _Arrays(Mapping[str, np.ndarray]):
    """Arrays of the file by key, read and checked when asked for."""

    def __init__(self, file: File, arrays: Mapping[str, _Array]) -> None:
        self._file = file
        self._arrays = arrays
        self._checked: Set[str] = set()

    def __getitem__(self, key: str) -> np.ndarray:
        array = self._arrays[key]
        values = self._file.values(array.dataset)
        if key in self._checked:
            return values
        if hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest() != array.sha256:
            message = f"array {key!r} does not match its digest: the file is damaged"
            raise self._file.error(message)
        if self._file.mapped:  # else it is read anew
            self._checked.add(key)
        return values

    def __contains__(self, key: object) -> bool:
        return key in self._arrays  # Mapping's own would read the array to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def forget(self) -> None:
        self._file.forget()

    def shape(self, key: str) -> Tuple[int, ...]:
        return self._arrays[key].dataset.shape

    def dtype(self, key: str) -> np.dtype:
        return self._arrays[key].dataset.dtype

    def nbytes(self, key: str) -> int:
        return _nbytes(self._arrays[key].dataset)


def has_index(path: Path) -> bool:
    """Whether an HDF5 file is an interchange file, sound or not, and not Caffe's own HDF5.

    Raises:
        MalformedModel: it is not HDF5, or damaged.
        UsageError, EnvironmentProblem: it cannot be opened.
    """
    with File(path) as file:
        return file.has("index")


def read(path: Path, mapped: bool = False) -> Interchange:
    """Opens an interchange file; arrays are read, and checked against their digests, on access.

    Args:
        mapped: whether arrays are views of the mapped file instead, checked once: for a file that
            nobody else changes.

    Raises:
        MalformedModel: not an interchange file, damaged, or inconsistent.
        UnsupportedModel: written in a newer version of the format.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    with File(Path(path), mapped) as file:
        document = Checked(_document(file), "index", file.error)
        _check_format(document, file)
        net = net_from(document.child("net"))
        arrays = _Index(file, document)
        weights = arrays.named(document.child("weights"))
        for layer in net.layers:
            for key in layer.weights:
                if key not in weights:
                    raise file.error(f"{layer}: parameter {key!r} has no array")
        reference = None
        if document.value.get("reference") is not None:
            reference = _reference(document.child("reference"), arrays, net)
        means = arrays.means(document, net)
        mean_shapes = {key: array_shape(means, key) for key in means}
        return Interchange(
            net=net,
            weights=weights,
            sources=tuple(
                Source(
                    s.get("role", str),
                    s.get("name", str),
                    s.get("bytes", int),
                    s.get("sha256", str),
                )
                for s in document.items("sources")
            ),
            reference=reference,
            preprocessing={
                key: document.child("preprocessing").child(key).value
                for key in document.child("preprocessing").value
            },
            notes=document.strings("notes"),
            # Absent in older files.
            filled=document.strings("filled") if "filled" in document.value else (),
            means=means,
            images=images_from(document, net, mean_shapes),
            labels=labels_from(document),
        )


def _check_format(document: Checked, file: File) -> None:
    if document.get("format", str) != FORMAT:
        raise file.error(f"not a {FORMAT} file", "pass the file that stage 1 wrote")
    version = document.get("version", int)
    if version > VERSION:
        raise UnsupportedModel(
            f"format version {version} is newer than {VERSION}, the newest known here",
            str(file.path),
            "update caffe-orchestrate on this machine",
        )
    if version < 1:
        raise file.error(f"there is no format version {version}")


def _document(file: File) -> Any:
    """The index, whose digest is right."""
    index, digest = file.find(("index", "index_sha256"))
    for name, dataset, limit in (("index", index, MAX_INDEX), ("index_sha256", digest, 32)):
        if dataset.dtype != np.uint8 or math.prod(dataset.shape) > limit:
            raise file.error(f"{name} should have at most {limit:,} bytes")
    data = file.values(index).tobytes()
    if hashlib.sha256(data).digest() != file.values(digest).tobytes():
        raise file.error("the index does not match its digest: the file is damaged")
    try:
        return parsed(data)
    except (ValueError, RecursionError) as error:
        raise file.error(f"the index is not JSON as expected: {error}") from error


def _arrays(file: File, document: Checked) -> List[_Array]:
    """The index's `arrays`, found in the file."""
    items = list(document.items("arrays"))
    if len(items) > MAX_ARRAYS:
        raise file.error(f"there are more than {MAX_ARRAYS:,} arrays")
    found = file.find(item.get("dataset", str) for item in items)
    for item, dataset in zip(items, found):
        shape, dtype = item.shape("shape"), item.get("dtype", str)
        if dataset.shape != shape or dataset.dtype.str != dtype:
            raise file.error(
                f"{item.get('dataset', str)} is {dataset.dtype.str} {list(dataset.shape)}, "
                f"the index says {dtype} {list(shape)}"
            )
    return [_Array(dataset, item.get("sha256", str)) for item, dataset in zip(items, found)]


class _Index:
    """The index's `arrays`, found in the file, and the keys that refer to them."""

    def __init__(self, file: File, document: Checked) -> None:
        self._file = file
        self._arrays = _arrays(file, document)

    def named(self, keys: Checked) -> _Arrays:
        for key in keys.value:
            if not 0 <= keys.get(key, int) < len(self._arrays):
                raise keys.damage(key, "there is no such array")
        return _Arrays(self._file, {key: self._arrays[n] for key, n in keys.value.items()})

    def blobs(self, keys: Checked, net: Net) -> _Arrays:
        """Arrays of blobs: floats, of the blobs' shapes but for the axes that are free."""
        found = self.named(keys)
        for key in found:
            shape, dtype = found.shape(key), found.dtype(key)
            if key not in net.blobs or dtype != np.float32:
                raise keys.damage(key, "the net has no such blob of float32")
            blob = net.blobs[key]
            free = (*net.free_axes(key), blob.varying)
            if len(shape) != len(blob.shape) or any(
                size != expected
                for axis, (size, expected) in enumerate(zip(shape, blob.shape))
                if axis not in free
            ):
                raise keys.damage(
                    key, f"the array has shape {list(shape)}, the blob {list(blob.shape)}"
                )
        return found

    def means(self, document: Checked, net: Net) -> Mapping[str, np.ndarray]:
        """The means of inputs: floats, (C) or (C, H, W); none in older files."""
        if "means" not in document.value:
            return {}
        keys = document.child("means")
        found = self.named(keys)
        for key in found:
            shape, dtype = found.shape(key), found.dtype(key)
            channels = net.blobs[key].shape[1:2] if key in net.inputs else ()
            if dtype != np.float32 or len(shape) not in (1, 3) or shape[:1] != channels:
                raise keys.damage(key, "is no mean of an input, of shape (C) or (C, H, W)")
            if math.prod(shape) > MAX_MEAN or not np.isfinite(found[key]).all():
                raise keys.damage(key, f"is larger than {MAX_MEAN:,} numbers, or not finite")
        return found


def _reference(recorded: Checked, arrays: _Index, net: Net) -> Reference:
    inputs = arrays.blobs(recorded.child("inputs"), net)
    for key in net.inputs:
        if key not in inputs:
            raise recorded.damage("inputs", f"input {key!r} is missing")
    if not net.one_batch({key: inputs.shape(key) for key in net.inputs}):
        raise recorded.damage("inputs", "have no samples, or not all as many")
    return Reference(
        recorded.get("recorder", str),
        recorded.optional("seed", int),
        inputs,
        arrays.blobs(recorded.child("blobs"), net),
    )
