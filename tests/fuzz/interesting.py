"""Values that readers are often wrong about."""

from __future__ import annotations

from random import Random

NUMBERS = (
    *range(-2, 9), 15, 16, 31, 32, 33, 63, 64, 100, 127, 128, 255, 256, 1000, 4095, 4096, 4097,
    65535, 65536, 10**6, 46341, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, -(2**31), 2**32 - 1, 2**32,
    2**53 + 1, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64,
)  # fmt: skip

NAMES = (
    "", "a", "data", "conv1", "0", "..", "../../x", "a/b", "/", "\0", "\n", "\x7f", "<script>",
    '"); import os #', "class", "self", "a@b", "a'", "a#2", "\u00e9", "\U0001f600", "\ud800",
    "x" * 1000, "x" * 4096, "x" * 4097,
)  # fmt: skip


# How files start that are given by mistake.
STARTS = (
    b"", b"\x1f\x8b", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"<!DOCTYPE html>", b"<html>", b"BZh",
    b"version https://git-lfs", b"name: 'text'\n" * 400, bytes(5000), b"\xff\xfel\0",
    b"\xef\xbb\xbf",
)  # fmt: skip


def number(rng: Random) -> int:
    """Mostly a boundary of something, else any number of 1 to 64 bits."""
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.getrandbits(rng.randint(1, 64))


def name(rng: Random) -> bytes:
    """A name that someone may not expect; not always UTF-8."""
    return rng.choice(NAMES).encode("utf-8", "surrogatepass") + rng.choice((b"", b"", b"\xe9"))


def damaged(data: bytes, rng: Random) -> bytes:
    """`data` with some bytes changed, lost or repeated, wherever they are."""
    if rng.random() < 0.02:
        return rng.choice(STARTS) + data[: rng.choice((0, 4096))]
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        how = rng.randrange(6)
        if how == 0:
            made[at : at + 1] = bytes([rng.getrandbits(8)])
        elif how == 1 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del made[at : at + rng.choice((1, 1, 4, 64))]
        elif how == 3:
            made[at:at] = rng.choice((b"\0", b"\xff", b"\x80" * 10, b"\xff" * 8, b"\x7f"))
        elif how == 4:
            start = rng.randrange(len(made) + 1)
            made[at:at] = made[start : start + rng.choice((1, 8, 100))]
        elif rng.random() < 0.2:
            del made[at:]
    return bytes(made)
