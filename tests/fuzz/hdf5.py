"""Mutants of HDF5 files: net.h5, whose index is read, and Caffe's own weights, which are walked.

One third are damaged in what libhdf5 reads (superblock, headers, trees, heaps), one third hold
something else than plain datasets, and of net.h5 one third have another index, its digest put
right. libhdf5 may die of the first: these readers are run in processes of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import h5py
import numpy as np

from schemas import graph_json, interchange, plain_hdf5
from schemas.graph import Net
from stage_extract import hdf5_weights, stored, weights
from tests.fuzz import interesting

# What reads in the module that also writes.
READING = (
    "schemas/interchange.py: "
    "read has_index _check_format _reference _document _arrays _Index _Arrays"
)
MEMORY = plain_hdf5.MAX_MEMORY + 64 * 1024 * 1024  # what libhdf5 may take, and our own
SLACK = 4096  # bytes of an index that are spaces, so that a mutant fits in its place


class Seed(NamedTuple):
    """A file; by dataset, its values and where they lie; and where all else lies."""

    data: bytes
    values: Mapping[str, np.ndarray]
    extents: Mapping[str, tuple[int, int]]
    metadata: Sequence[int]
    index: Any = None


def seed(data: bytes, index: Any = None) -> Seed:
    values, extents = {}, {}
    with h5py.File(io.BytesIO(data), "r") as file:

        def note(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                values[name] = node[()]
                start = node.id.get_offset()
                extents[name] = (start, start + node.id.get_storage_size())

        file.visititems(note)
    taken = {at for extent in extents.values() for at in range(*extent)}
    metadata = [at for at in range(len(data)) if at not in taken]
    return Seed(data, values, extents, metadata, index)


def damaged(of: Seed, rng: Random) -> bytes:
    """The file with its metadata changed, mostly where sizes and addresses stand."""
    if rng.random() < 0.1:
        return interesting.damaged(of.data, rng)
    made = bytearray(of.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.choice(of.metadata)
        how = rng.randrange(4)
        if how == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            made[at] = rng.getrandbits(8)
        elif how == 2:
            number = interesting.number(rng) & (2**64 - 1)
            made[at : at + 8] = number.to_bytes(8, "little")[: len(made) - at]
        else:  # an address or a header from elsewhere in the file
            start, size = rng.choice(of.metadata), rng.choice((8, 8, 24, 64))
            made[at : at + size] = made[start : start + size]
    return bytes(made)


Change = Any  # a function of a file, the name of a dataset and its values


def _created(**options: Any) -> Change:
    """Puts another dataset in the place of one."""

    def change(file: h5py.File, name: str, values: np.ndarray) -> None:
        chosen = dict({"data": values}, **options)
        if "shape" in chosen or chosen["data"] is None:
            del chosen["data"]
        file.create_dataset(name, **chosen)

    return change


def _linked(link: Any) -> Change:
    def change(file: h5py.File, name: str, values: np.ndarray) -> None:
        file[name] = link

    return change


def _soft(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.require_dataset(name + "-elsewhere", values.shape, values.dtype)
    file[name] = h5py.SoftLink(f"/{name}-elsewhere")


def _hard(file: h5py.File, name: str, values: np.ndarray) -> None:
    file[name] = file["/"]


def _virtual(file: h5py.File, name: str, values: np.ndarray) -> None:
    how, space = _timeless(h5py.h5p.DATASET_CREATE), h5py.h5s.create_simple(values.shape)
    how.set_virtual(space, b"/etc/passwd", b"data/0", space)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, how)


def _named_type(file: h5py.File, name: str, values: np.ndarray) -> None:
    # A copy of one in the oldest form, which has no time in it.
    with h5py.File(io.BytesIO(), "w", libver="earliest") as other:
        other["type"] = np.dtype("<f4")
        other.copy("type", file, name)


def _group(file: h5py.File, name: str, values: np.ndarray) -> None:
    _groups(file, name + "/0")


def _deep(file: h5py.File, name: str, values: np.ndarray) -> None:
    _groups(file, name + "/x" * 70)


def _groups(file: h5py.File, name: str) -> None:
    """Makes a group, and those that it is in."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        if path not in file:
            h5py.h5g.create(file.id, path.encode(), None, _timeless(h5py.h5p.GROUP_CREATE))


def _compact(file: h5py.File, name: str, values: np.ndarray) -> None:
    how = _timeless(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, how)


def _solver(file: h5py.File, name: str, values: np.ndarray) -> None:
    _groups(file, "history")


def _moved(file: h5py.File, name: str, values: np.ndarray) -> None:
    file[name + "-1"] = values


CHANGES: tuple[Change, ...] = (
    _created(chunks=True),
    _created(chunks=True, compression="gzip"),
    _created(chunks=True, shuffle=True, fletcher32=True),
    _created(data=None, shape=(2**30, 2**30), dtype="<f4"),
    _created(data=None, shape=(2**20,) * 3, dtype="<f4", chunks=(1, 1, 1)),
    _created(data=None, shape=(4,), maxshape=(None,), dtype="<f4"),
    _created(data=None, shape=(1,) * 32, dtype="<f4"),
    _created(data=None, shape=(2**62, 0, 2**62), dtype="<f4"),
    _created(data=None, shape=(0,), dtype="<f4"),
    _created(data=None, shape=(), dtype="<f4"),
    _created(data=None, shape=(4,), dtype="<f8"),
    _created(data=None, shape=(4,), dtype=">f4"),
    _created(data=None, shape=(4,), dtype="<f2"),
    _created(data=None, shape=(4,), dtype="|u1"),
    _created(data=None, shape=(4,), dtype="S7"),
    _created(data=None, shape=(4,), dtype="?"),
    _created(data=None, shape=(4,), dtype=h5py.string_dtype()),
    _created(data=None, shape=(4,), dtype=h5py.ref_dtype),
    _created(data=None, shape=(4,), dtype=h5py.regionref_dtype),
    _created(data=None, shape=(4,), dtype=np.dtype(("<f4", (2, 3)))),
    _created(data=None, shape=(4,), dtype=np.dtype([("a", "<f4"), ("b", ">i8", (4,))])),
    _created(data=None, shape=(4,), dtype=h5py.enum_dtype({"a": 1, "b": 2})),
    _created(data=None, shape=(4,), dtype=h5py.vlen_dtype("<f4")),
    _created(data=None, shape=(4,), dtype="<f4", external=[("/etc/passwd", 0, 16)]),
    _created(data=None, shape=(4,), dtype="<f4", external=[("mutant.h5", 8, 16)]),
    _created(data=h5py.Empty("<f4")),
    _linked(h5py.ExternalLink("other.h5", "/data/0")),
    _linked(h5py.ExternalLink("/etc/passwd", "/")),
    _linked(h5py.SoftLink("/nowhere")),
    _linked(h5py.SoftLink("/")),
    _soft,
    _hard,
    _virtual,
    _named_type,
    _group,
    _deep,
    _compact,
    _moved,
    _solver,
    lambda file, name, values: None,
)


def restructured(of: Seed, rng: Random) -> bytes:
    """The file with something else where datasets are, or where groups of them are."""
    image = io.BytesIO(of.data)
    with h5py.File(image, "r+") as file:
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(sorted(of.values))
            if rng.random() < 0.1:
                parts = name.split("/")
                name = "/".join(parts[: rng.randint(1, len(parts))])
            if name in file:
                del file[name]
                rng.choice(CHANGES)(file, name, of.values.get(name, np.zeros(3)))
    return image.getvalue()


class Hdf5Weights:
    """Caffe's own HDF5, read as stage 1 reads it."""

    name = "hdf5 weights"
    modules: tuple[str, ...] = ("stage_extract/hdf5_weights.py",)
    memory = MEMORY

    def __init__(self, files: Sequence[bytes], folder: Path) -> None:
        self._path = folder / "mutant.caffemodel.h5"
        self._seeds = [seed(data) for data in [*files, *caffes(folder)]]

    def mutant(self, rng: Random) -> bytes:
        """A mutant of one of the seeds."""
        how = damaged if rng.random() < 0.5 else restructured
        return how(rng.choice(self._seeds), rng)

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Opens the file and reads every value; it is past the first layer with the net's first."""

        def noted(*parts: Any) -> stored.StoredLayer:
            past()
            return stored.StoredLayer(*parts)

        self._path.write_bytes(data)
        with mock.patch.object(hdf5_weights, "StoredLayer", noted):
            model = weights.open_weights(self._path)
        with model:
            for layer in model.layers:
                for blob in layer.blobs:
                    assert blob.array().shape == blob.shape


def caffes(folder: Path) -> list[bytes]:
    """Files as Caffe writes them (net.cpp, ToHDF5), by either generation of libhdf5's format.

    Args:
        folder: takes one at a time while it is made.
    """
    made = []
    for version in (h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18):
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(version, h5py.h5f.LIBVER_V18)
        how = _timeless(h5py.h5p.FILE_CREATE)
        path = folder / "made.h5"
        with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, how, access)) as file:
            for group in (b"data", b"data/conv", b"data/a", b"data/a/b", b"data/d", b"data/relu"):
                h5py.h5g.create(file.id, group, None, _timeless(h5py.h5p.GROUP_CREATE))
            for name, shape in {"conv/0": (4, 3, 2, 2), "conv/1": (4,), "a/b/0": (1,)}.items():
                file["data/" + name] = np.ones(shape, "<f4")
            file["data/d/0"] = np.ones((2, 2), "<f8")
        made.append(path.read_bytes())
    return made


def _timeless(kind: Any) -> Any:
    """Properties of what is created without the time in it, so that a case can be made again."""
    properties = h5py.h5p.create(kind)
    properties.set_obj_track_times(False)
    return properties


class Interchanges:
    """net.h5, read as stage 2 reads it."""

    name = "interchange"
    modules: tuple[str, ...] = (
        "schemas/plain_hdf5.py",
        "schemas/graph_json.py",
        "schemas/preprocessing.py",
        READING,
    )
    memory = MEMORY

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._path = folder / "mutant.h5"
        self._seeds = [padded(path) for path in files]

    def mutant(self, rng: Random) -> bytes:
        """A mutant of one of the seeds."""
        of, how = rng.choice(self._seeds), rng.random()
        if how < 0.25:
            return damaged(of, rng)
        return restructured(of, rng) if how < 0.45 else self._reindexed(of, rng)

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Reads the index, and is past the first layer when that is a net; reads every array."""

        def noted(document: graph_json.Checked) -> Net:
            net = graph_json.net_from(document)
            past()
            return net

        self._path.write_bytes(data)
        with mock.patch.object(interchange, "net_from", noted):
            content = interchange.read(self._path)
        interchange.weight_bytes(content)
        recorded = content.reference
        given = (recorded.inputs, recorded.blobs) if recorded else ()
        for arrays in (content.weights, content.means, *given):
            for key in arrays:
                assert key in arrays
                assert isinstance(arrays[key], np.ndarray)

    def _reindexed(self, of: Seed, rng: Random) -> bytes:
        document = json.loads(json.dumps(of.index))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            change(document, rng)
        text = json.dumps(document).encode()
        if rng.random() < 0.1:
            text = respelt(text, rng)
        return reindexed(of.data, of.extents, text)


def padded(path: Path) -> Seed:
    """An interchange file with spaces behind its index."""
    with h5py.File(path, "r") as file:
        index = json.loads(file["index"][()].tobytes())
    data = path.read_bytes()
    return seed(reindexed(data, {}, json.dumps(index).encode() + b" " * SLACK), index)


def reindexed(data: bytes, extents: Mapping[str, tuple[int, int]], text: bytes) -> bytes:
    """The file with `text` for its index: in the old one's place if it fits, else in a new one."""
    start, end = extents.get("index", (0, 0))
    if len(text) > end - start:
        image = io.BytesIO(data)
        with h5py.File(image, "r+") as file:
            for name, stored in (("index", text), ("index_sha256", hashlib.sha256(text).digest())):
                del file[name]
                file[name] = np.frombuffer(stored, np.uint8)
        return image.getvalue()
    text = text.ljust(end - start)
    made = bytearray(data)
    made[start:end] = text
    start, end = extents["index_sha256"]
    made[start:end] = hashlib.sha256(text).digest()
    return bytes(made)


def change(document: Any, rng: Random) -> None:
    """Changes one value of a JSON document, or a member's name."""
    around, key = document, rng.choice(sorted(document))
    while isinstance(around[key], (dict, list)) and around[key] and rng.random() < 0.9:
        around = around[key]
        key = rng.choice(sorted(around)) if isinstance(around, dict) else rng.randrange(len(around))
    how = rng.randrange(8)
    if how == 0:
        del around[key]
    elif how == 1 and isinstance(around, dict):
        around[interesting.name(rng).decode("latin-1")] = around.pop(key)
    elif how == 2 and isinstance(around, list):
        around += around * rng.choice((1, 1, 100))
    elif how == 3:
        around[key] = _another(document, rng)
    elif how == 4 and isinstance(around[key], int):
        around[key] += rng.choice((-1, 1))
    elif how == 5 and isinstance(around, list):
        around.insert(key, around[rng.randrange(len(around))])
    else:
        around[key] = _value(rng)


def _another(document: Any, rng: Random) -> Any:
    """Some value of the document."""
    while isinstance(document, (dict, list)) and document and rng.random() < 0.85:
        members = list(document.values()) if isinstance(document, dict) else document
        document = rng.choice(members)
    return json.loads(json.dumps(document))


def _value(rng: Random) -> Any:
    nested: Any = 1
    for _ in range(rng.choice((1, 3, 100, 900))):
        nested = [nested]
    values: tuple[Any, ...] = (
        None, True, "", "data", "data/0", "data", "index", "../x", "x" * 5000, [], {}, [1, 2], 0.5,
        float("nan"), float("inf"), {"a": 1}, [[]], nested, 10**399, 10**400,
    )  # fmt: skip
    return interesting.number(rng) if rng.random() < 0.5 else rng.choice(values)


def respelt(text: bytes, rng: Random) -> bytes:
    """JSON text that is not as `json.dumps` writes it."""
    how = rng.randrange(7)
    if how == 0:
        return interesting.damaged(text, rng)
    if how == 1:
        return text.replace(b'"name":', b'"name": "again", "name":', 1)
    if how == 2:
        return text.replace(b": ", b": " + rng.choice((b"[", b'{"a":')) * 200_000, 1)
    if how == 3:
        return text.replace(b": 1", b": 1" + b"0" * rng.choice((30, 400, 10**6)), 1)
    if how == 4:
        return text.replace(b'"name": "', b'"name": "\\ud800', 1)
    if how == 5:
        return text.replace(b'": "', b'": "\xc3\xa9', 1)
    return text.replace(b": 1", rng.choice((b": 1e999", b": -NaN", b": 0x1", b": 01")), 1)
