"""Caffe's own HDF5 weights, ``.caffemodel.h5``: ``/data/<layer>/<blob index>`` (net.cpp, ToHDF5).

libhdf5 only says where the values lie; they are read from the mapped file like a caffemodel's. What
Caffe never writes is refused: links that are not hard (before they are followed), and storage that
is not one contiguous run of floats within this file.
"""

from __future__ import annotations

import os
import re
from typing import Dict, Iterator, List, Tuple, Union

import h5py
from h5py import h5d, h5g, h5l, h5o, h5t

from schemas.errors import ConversionError, MalformedModel
from schemas.plain_hdf5 import bounded_memory
from stage_extract.mapped import MappedFile
from stage_extract.stored import (
    Piece,
    StoredBlob,
    StoredLayer,
    StoredModel,
    decode,
    is_possible,
)

MAX_MEMBERS = 1 << 16  # real files have hundreds
MAX_DEPTH = 32
MAX_SHOWN = 5
DTYPES = ((h5t.IEEE_F32LE, "<f4"), (h5t.IEEE_F64LE, "<f8"))


def open_hdf5(path: Union[str, os.PathLike]) -> StoredModel:
    """Opens a ``.caffemodel.h5``; layers have no type, bottoms and tops there.

    Groups may be nested (``/data/conv1/7x7_s2/0`` is blob 0 of layer ``conv1/7x7_s2``).

    Raises:
        MalformedModel: the file is damaged, hostile, or not one that Caffe wrote.
        UsageError, EnvironmentProblem: the file cannot be opened.
    """
    file = MappedFile(path)
    try:
        with bounded_memory(), h5py.File(file.path, "r") as source:
            layers = _Walk(file).layers(h5g.open(source.id, b"/"))
    except ConversionError:
        file.close()
        raise
    except Exception as error:  # h5py turns damage into nearly every type of exception
        file.close()
        raise MalformedModel(f"the HDF5 file is damaged: {error!r:.200}", file.path) from error
    return StoredModel(file, layers)


class _Walk:
    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._members_left = MAX_MEMBERS

    def layers(self, root: h5g.GroupID) -> List[StoredLayer]:
        if not root.links.exists(b"data"):
            hint = "this is a solver state" if root.links.exists(b"history") else ""
            raise self._damage("/", "there is no group 'data' as in Caffe's weight files", hint)
        if self._kind(root, b"data", "/data") != h5o.TYPE_GROUP:
            raise self._damage("/data", "a group is expected, found a dataset")
        return list(self._layers(h5g.open(root, b"data"), ()))

    def _layers(self, group: h5g.GroupID, names: Tuple[str, ...]) -> Iterator[StoredLayer]:
        """The layer in `group`, if it is one, then those in the groups below."""
        here = "/".join(("/data", *names))
        self._members_left -= len(group)
        if self._members_left < 0:
            raise self._damage(here, f"the file has more than {MAX_MEMBERS} groups and datasets")
        if len(names) > MAX_DEPTH:
            raise self._damage(here, f"groups are nested more than {MAX_DEPTH} deep")
        groups: List[Tuple[bytes, str]] = []
        blobs: Dict[str, StoredBlob] = {}
        for link in group:
            name = decode(link)
            place = f"{here}/{name}"
            kind = self._kind(group, link, place)
            if kind == h5o.TYPE_GROUP:
                groups.append((link, name))
            elif kind == h5o.TYPE_DATASET and names:
                blobs[name] = self._blob(h5d.open(group, link), place)
            else:
                raise self._damage(place, "only layers and their blobs belong here")
        if names and (blobs or not groups):
            places = self._places(blobs, here)
            in_order = tuple(blobs[str(place)] for place in places)
            yield StoredLayer("/".join(names), "", (), (), in_order, places)
        for link, name in groups:
            yield from self._layers(h5g.open(group, link), (*names, name))

    def _kind(self, group: h5g.GroupID, link: bytes, place: str) -> int:
        if group.links.get_info(link).type != h5l.TYPE_HARD:
            raise self._damage(place, "a soft or external link, which Caffe never writes")
        return int(h5o.get_info(group, link).type)

    def _places(self, blobs: Dict[str, StoredBlob], here: str) -> Tuple[int, ...]:
        """The blobs' indices in order; what another layer owns is not stored (Net::ToHDF5)."""
        if not all(re.fullmatch("0|[1-9][0-9]{0,3}", name) for name in blobs):
            message = f"blobs are called by their index, found {sorted(blobs)[:MAX_SHOWN]}"
            raise self._damage(here, message)
        return tuple(sorted(map(int, blobs)))

    def _blob(self, dataset: h5d.DatasetID, place: str) -> StoredBlob:
        stored_dtype = next((name for kind, name in DTYPES if dataset.get_type().equal(kind)), None)
        if stored_dtype is None:
            raise self._damage(place, "values should be little-endian floats of 32 or 64 bits")
        how = dataset.get_create_plist()
        if how.get_layout() != h5d.CONTIGUOUS or how.get_nfilters() or how.get_external_count():
            raise self._damage(
                place,
                "values should be contiguous, unfiltered and in this file, as Caffe writes them",
                "rewrite it with `h5repack -l CONTI -f NONE`",
            )
        space = dataset.get_space()
        if space.get_simple_extent_type() not in (h5py.h5s.SIMPLE, h5py.h5s.SCALAR):
            raise self._damage(place, "the dataset has no shape")
        width = int(stored_dtype[2:])
        shape = tuple(int(size) for size in space.get_simple_extent_dims())
        if not is_possible(shape):
            raise self._damage(place, f"no blob can have shape {list(shape)}")
        blob = StoredBlob(self._file, (), stored_dtype, shape, 0)
        nbytes = blob.size * width
        if nbytes == 0:
            return blob
        offset = dataset.get_offset()
        if dataset.get_storage_size() != nbytes or not offset or offset + nbytes > self._file.size:
            raise self._damage(
                place, f"shape {list(shape)} needs {nbytes} bytes, which are not in the file"
            )
        return StoredBlob(
            self._file, [Piece(offset, blob.size, width)], stored_dtype, shape, offset
        )

    def _damage(self, place: str, message: str, hint: str = "") -> MalformedModel:
        return MalformedModel(message, f"{self._file.path}, {place!r}", hint)
