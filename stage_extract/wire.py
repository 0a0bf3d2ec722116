"""Protobuf's wire format over a mapped file: fields as spans of bytes, nothing copied.

Only the fields that a schema names come out; the others are stepped over. Every length is checked
against the message around it before it is used, and no byte is looked at twice on the way down.
"""

from __future__ import annotations

from typing import Callable, Iterator, Mapping, NamedTuple, Tuple

import numpy as np

from schemas.errors import MalformedModel
from stage_extract.mapped import MappedFile

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
WIDTHS = {FIXED64: 8, FIXED32: 4}

MAX_FIELDS = 1 << 18  # real files have thousands; a run of unpacked values counts as one


class Schema(NamedTuple):
    """What is read of a message.

    Attributes:
        message: its name, for errors.
        fields: number -> name.
        wires: number -> the wire types it may have, where that is not BYTES.
        hint: what to do when a field has another wire type.
        others: whether the fields that `fields` lacks come out too, their number for a name.
    """

    message: str
    fields: Mapping[int, str]
    wires: Mapping[int, Tuple[int, ...]] = {}
    hint: str = ""
    others: bool = False


class Field(NamedTuple):
    """A field's name, wire type and the bytes [start, end) of its value.

    For fixed-width values the span may hold a run of them, with the one-byte tag between.
    """

    name: str
    wire: int
    start: int
    end: int


class Wire:
    """Reads messages as spans [start, end) of `file`; `place` says where one is, for errors."""

    def __init__(self, file: MappedFile, place: Callable[[], str]) -> None:
        self._file = file
        self._bytes = file.bytes
        self._place = place
        self._fields_left = MAX_FIELDS

    def fields(self, start: int, end: int, schema: Schema) -> Iterator[Field]:
        """The fields in [start, end) that the schema knows, in the file's order.

        Raises:
            MalformedModel: the bytes are no such message.
        """
        at = start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self.damage(at, f"the file has more than {MAX_FIELDS} fields")
            tag_at = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.damage(tag_at, f"a field has number {number}, which does not exist")
            begin = at
            if wire == VARINT:
                _, at = self.varint(at, end)
            elif wire == BYTES:
                length, begin = self.varint(at, end)
                at = begin + length
            elif wire in WIDTHS:
                at += WIDTHS[wire]
            else:
                raise self.damage(tag_at, f"field {number} has wire type {wire}, unknown to Caffe")
            if at > end:
                name = schema.fields.get(number, f"field {number}")
                message = f"{schema.message}.{name} has {at - begin} bytes, {end - begin} are left"
                raise self._cut_off(begin, end, message)
            if wire in WIDTHS and at < end and tag_at + 1 == begin and self._bytes[at] == tag:
                at = self._run_end(at, end, 1 + WIDTHS[wire])
            if number in schema.fields:
                name = schema.fields[number]
                if wire not in schema.wires.get(number, (BYTES,)):
                    message = f"{schema.message}.{name} cannot have wire type {wire}"
                    raise self.damage(tag_at, message, schema.hint)
                yield Field(name, wire, begin, at)
            elif schema.others:
                yield Field(str(number), wire, begin, at)

    def _run_end(self, at: int, end: int, stride: int) -> int:
        """Where the fields of `stride` bytes stop that repeat the tag at `at`."""
        tag = self._bytes[at]
        block = 64
        while True:
            count = min(block, (end - at) // stride)
            tags = np.frombuffer(self._bytes, np.uint8, count * stride, at)[::stride]
            others = np.flatnonzero(tags != tag)
            stop = at + stride * (int(others[0]) if others.size else count)
            self._file.forget(at, stop)
            if others.size or count < block:
                return stop
            at = stop
            block = min(4 * block, 1 << 20)

    def varint(self, at: int, end: int) -> Tuple[int, int]:
        """The unsigned number at `at`, and the place behind it."""
        view = self._bytes
        start, value, shift = at, 0, 0
        while at < end:
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift == 70:
                if byte >= 0x80 or value >> 64:
                    raise self.damage(start, "a number has more than 64 bits")
                return value, at
        raise self._cut_off(start, end, "the message ends within a number")

    def int64(self, start: int, end: int) -> int:
        """The number at `start`; negative int32 and enum values are written like this, too."""
        return signed(self.varint(start, end)[0])

    def damage(self, at: int, message: str, hint: str = "") -> MalformedModel:
        return MalformedModel(
            message, self.where(at), hint or "the file is damaged: download or copy it again"
        )

    def where(self, at: int) -> str:
        return f"{self._file.path}, byte {at}{self._place()}"

    def _cut_off(self, at: int, end: int, message: str) -> MalformedModel:
        """A message that ends too early: at the outermost level, it is the file that does."""
        if end == self._file.size and not self._place():
            message = "the file is cut off: " + message
        return self.damage(at, message)


def signed(value: int) -> int:
    """An unsigned 64-bit number read as two's complement."""
    return value - (1 << 64) if value >> 63 else value
