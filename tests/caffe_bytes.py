"""Caffe's binary messages, put together by hand, so that tests can also make wrong ones."""

from __future__ import annotations

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def field(number: int, payload: bytes | str) -> bytes:
    payload = payload.encode() if isinstance(payload, str) else payload
    return tag(number, BYTES) + varint(len(payload)) + payload


def number(number: int, value: int) -> bytes:
    return tag(number, VARINT) + varint(value)


def packed(number: int, values: np.ndarray) -> bytes:
    return field(number, values.tobytes())


def unpacked(number: int, values: np.ndarray) -> bytes:
    head = tag(number, FIXED64 if values.itemsize == 8 else FIXED32)
    return b"".join(head + value.tobytes() for value in values.ravel())


def shape(*dims: int) -> bytes:
    return field(7, field(1, b"".join(map(varint, dims))))


def legacy(*dims: int) -> bytes:
    return b"".join(number(i, dim) for i, dim in enumerate(dims, 1))


def blob(values: np.ndarray) -> bytes:
    """A current BlobProto: shape and packed floats."""
    return shape(*values.shape) + packed(5, values.astype("<f4"))


def layer(name: str, *blobs: bytes, type: str = "Convolution") -> bytes:
    """A field of NetParameter that holds a LayerParameter."""
    content = field(1, name) + field(2, type) + b"".join(field(7, item) for item in blobs)
    return field(100, content)


def v1_layer(name: str, *blobs: bytes, type: int = 4) -> bytes:
    content = field(4, name) + number(5, type) + b"".join(field(6, item) for item in blobs)
    return field(2, content)


def v0_layer(name: str, *blobs: bytes, type: str = "conv") -> bytes:
    inner = field(1, name) + field(2, type) + b"".join(field(50, item) for item in blobs)
    return field(2, field(1, inner) + field(2, "data") + field(3, name))
