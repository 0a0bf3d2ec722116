"""Mutants of binary Caffe files, and the reader that is held to them.

A mutant is a message whose fields were changed one by one, at any depth, with the lengths around
them put right: what is wrong with it lies deeper than the wire format. One in eight is damaged
bytewise, lengths and all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from schemas.errors import ConversionError
from stage_extract import caffemodel, embedded, network, weights
from tests.caffe_bytes import BYTES, FIXED32, FIXED64, VARINT, field, number, tag, varint
from tests.fuzz import engine, interesting

GROUP, GROUP_END = 3, 4

# Kind of message -> number of a field that is a message -> its kind.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "net": {100: "layer", 2: "v1"},
    "layer": {7: "blob", 6: "parameters", **dict.fromkeys(range(100, 147), "parameters")},
    "v1": {6: "blob", 1: "v0", **dict.fromkeys((*range(8, 32), *range(36, 43)), "parameters")},
    "v0": {50: "blob"},
    "blob": {7: "shape"},
    "shape": {},
    "parameters": {},
}
KNOWN = {
    "net": (1, 2, 100),
    "layer": (1, 2, 3, 4, 7),
    "v1": (1, 2, 3, 4, 5, 6),
    "v0": (1, 2, 50),
    "blob": (1, 2, 3, 4, 5, 7, 8, 10, 11, 12),
    "shape": (1,),
    "parameters": tuple(range(1, 21)),
}


class Part(NamedTuple):
    """One field: its number, wire type and payload (of a varint, the number), and all its bytes."""

    number: int
    wire: int
    payload: bytes
    value: int
    whole: bytes


class Seed(NamedTuple):
    """A file to start from: its net's shapes, by layer name."""

    data: bytes
    kind: str
    wanted: Mapping[str, Sequence[tuple[int, ...]]]


class Caffemodels:
    """Binary caffemodels and mean images, read as stage 1 reads them."""

    name = "caffemodel"
    modules: tuple[str, ...] = (
        "stage_extract/wire.py",
        "stage_extract/caffemodel.py",
        "stage_extract/stored.py",
    )
    memory = engine.BYTES

    def __init__(self, files: Sequence[bytes], means: Sequence[bytes], folder: Path) -> None:
        self._path = folder / "mutant.caffemodel"
        self._seeds = [Seed(data, "blob", {}) for data in means]
        self._seeds += [Seed(data, "net", self._shapes(data)) for data in files]
        self._seed = self._seeds[0]

    def _shapes(self, data: bytes) -> dict[str, list[tuple[int, ...]]]:
        self._path.write_bytes(data)
        try:
            with weights.open_weights(self._path) as model:
                return {layer.name: [b.shape for b in layer.blobs] for layer in model.layers}
        except ConversionError:
            return {}

    def mutant(self, rng: Random) -> bytes:
        """A mutant of one of the seeds, which `read` then takes it for."""
        self._seed = seed = rng.choice(self._seeds)
        data = seed.data
        if rng.random() < 0.125:
            return interesting.damaged(data, rng)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = self._changed(data, seed.kind, rng)
        return data

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Opens the file, reads every value and matches it with its net.

        It is past the first layer when a whole model with blobs is open, or a mean image was read.
        """
        self._path.write_bytes(data)
        if self._seed.kind == "blob":
            caffemodel.read_blob(self._path)
            past()
            return
        with weights.open_weights(self._path) as model:
            if any(layer.blobs for layer in model.layers):
                past()
            for layer in model.layers:
                for blob in layer.blobs:
                    read = sum(piece.size for piece in blob.slices(1000))
                    assert read == blob.size == blob.array().size
            weights.match(model.layers, self._seed.wanted)

    def _changed(self, data: bytes, kind: str, rng: Random) -> bytes:
        """The message with one change somewhere in it."""
        fields = parts(data)
        if not fields:
            return data + self._stranger(rng)
        place = rng.randrange(len(fields))
        part = fields[place]
        inner = MESSAGES[kind].get(part.number) if part.wire == BYTES else None
        if inner and rng.random() < 0.85:
            made = field(part.number, self._changed(part.payload, inner, rng))
        else:
            made = self._replaced(part, fields, kind, rng)
        return b"".join(made if i == place else each.whole for i, each in enumerate(fields))

    def _replaced(self, part: Part, fields: Sequence[Part], kind: str, rng: Random) -> bytes:
        """What stands in the place of one field."""
        how = rng.randrange(14)
        if how == 0:
            return b""
        if how == 1:
            return part.whole * rng.choice((2, 2, 2, 2, 3, 3, 3, 40, 40, 2000))
        if how == 2:
            return rng.choice(fields).whole + part.whole
        if how == 3:
            return part.whole + self._stranger(rng)
        if how == 4:  # a field's bytes under the number of another
            return renumbered(part, rng.choice(KNOWN[kind]))
        if how == 5:  # a field of the same kind of message in another file
            return self._foreign(part, kind, rng)
        if how == 6:
            return tag(part.number, rng.randrange(8)) + part.whole[len(tag(part.number, 0)) :]
        if how == 7:
            return number(rng.choice(KNOWN[kind]), interesting.number(rng)) + part.whole
        if how == 8 and kind == "blob":
            return resized(rng)
        if part.wire == VARINT:
            return changed_number(part, rng)
        if part.wire == BYTES:
            return changed_bytes(part, rng)
        return (
            tag(part.number, part.wire)
            + rng.getrandbits(64).to_bytes(8, "little")[: len(part.payload)]
        )

    def _foreign(self, part: Part, kind: str, rng: Random) -> bytes:
        seed = rng.choice(self._seeds)
        found = [each for each in within(seed.data, seed.kind, kind) if each.number == part.number]
        return rng.choice(found).whole if found else part.whole

    def _stranger(self, rng: Random) -> bytes:
        """A field that Caffe does not know, or not there."""
        at = rng.choice((9, 13, 15, 16, 101, 19000, (1 << 29) - 1, 1 << 29, 0))
        return rng.choice(
            (
                number(at, rng.getrandbits(64)),
                field(at, rng.getrandbits(64).to_bytes(8, "little") * rng.choice((0, 1, 9))),
                tag(at, FIXED32) + b"\x01\x02\x03\x04",
                tag(at, FIXED64) + b"\x01\x02\x03\x04" * 2,
                tag(at, GROUP) + number(1, 5) + tag(at, GROUP_END),
                tag(at, GROUP) * 50,
                tag(at, rng.choice((6, 7))),
            )
        )


class EmbeddedNets(Caffemodels):
    """The nets within caffemodels, read and built where there is no prototxt."""

    name = "embedded net"
    modules: tuple[str, ...] = ("stage_extract/embedded.py",)

    def read(self, data: bytes, past: Callable[[], None]) -> None:
        """Reads the net, and is past the first layer then; builds its graph."""
        self._path.write_bytes(data)
        message = embedded.read(self._path)
        past()
        network.build(message, network.Options(dialects=("bvlc",)))


def parts(data: bytes) -> list[Part]:
    """The fields of a message, as far as it is one; the rest is one part."""
    found = []
    at = 0
    try:
        while at < len(data):
            start = at
            key, at = read_varint(data, at)
            number_, wire = key >> 3, key & 7
            payload, value = b"", 0
            if wire == VARINT:
                value, at = read_varint(data, at)
            elif wire == BYTES:
                size, at = read_varint(data, at)
                payload = data[at : at + size]
                at += size
            else:
                payload = data[at : at + {FIXED32: 4, FIXED64: 8}[wire]]
                at += len(payload)
            if at > len(data):
                raise IndexError
            found.append(Part(number_, wire, payload, value, data[start:at]))
    except (IndexError, KeyError):
        found.append(Part(15, BYTES, data[start:], 0, data[start:]))
    return found


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def within(data: bytes, kind: str, wanted: str) -> list[Part]:
    """The fields of every message of a kind in `data`."""
    found = parts(data)
    inner = [
        each
        for part in found
        if part.wire == BYTES and part.number in MESSAGES[kind]
        for each in within(part.payload, MESSAGES[kind][part.number], wanted)
    ]
    return found + inner if kind == wanted else inner


def renumbered(part: Part, to: int) -> bytes:
    return tag(to, part.wire) + part.whole[len(varint(part.number << 3 | part.wire)) :]


def changed_number(part: Part, rng: Random) -> bytes:
    head = tag(part.number, VARINT)
    how = rng.randrange(4)
    if how == 0:  # one more byte than needed, or many
        plain = bytearray(varint(part.value))
        plain[-1] |= 0x80
        return head + bytes(plain) + b"\x80" * rng.choice((0, 1, 7, 8, 9)) + b"\x00"
    if how == 1:
        return head + b"\xff" * rng.choice((9, 10, 20)) + b"\x01"
    return head + varint(
        interesting.number(rng) if how == 2 else part.value + rng.choice((-1, 1, 2))
    )


def changed_bytes(part: Part, rng: Random) -> bytes:
    """A field of another length, or with other bytes."""
    payload, head = part.payload, tag(part.number, BYTES)
    how = rng.randrange(9)
    if how == 0:  # the length lies
        size = max(0, len(payload) + rng.choice((-4, -1, 1, 4, 5)))
        return head + varint(size) + payload
    if how == 1:
        return head + varint(interesting.number(rng)) + payload
    if how == 2:
        return field(part.number, payload[: rng.randrange(len(payload) + 1)])
    if how == 3:
        return field(part.number, payload + payload[: rng.choice((1, 4, 8))])
    if how == 4:
        return field(part.number, interesting.name(rng))
    if how == 5:
        return field(part.number, interesting.damaged(payload, rng))
    if how == 6:  # a run of fields of 4 or 8 bytes in place of packed ones
        width = rng.choice((4, 8))
        one = tag(part.number, FIXED32 if width == 4 else FIXED64)
        return b"".join(
            one + payload[i : i + width] for i in range(0, len(payload) - width + 1, width)
        )
    if how == 7:  # the values in chunks
        at = rng.randrange(len(payload) // 4 + 1) * 4
        return field(part.number, payload[:at]) + field(part.number, payload[at:])
    special = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e-45)))
    return field(part.number, special * (len(payload) // 4))


def resized(rng: Random) -> bytes:
    """A shape with as many values as it has, which the fields around it may contradict."""
    dims = [rng.choice((0, 1, 2, 3, 5)) for _ in range(rng.choice((0, 1, 2, 4, 5, 32, 33)))]
    values = np.zeros(min(int(np.prod(dims[:4])), 1000), "<f4")
    where = rng.choice((5, 8, 12))
    packed = values.astype({5: "<f4", 8: "<f8", 12: "<f2"}[where]).tobytes()
    kind = number(10, 2) if where == 12 else b""
    return field(7, field(1, b"".join(map(varint, dims[:4])))) + kind + field(where, packed)
