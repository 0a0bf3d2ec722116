"""Caffe's names -> identifiers that Python, Keras, TensorFlow and file systems all take."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

MAX_LENGTH = 50

# Letters that read as digits.
AMBIGUOUS = ("l", "O", "I")


def identifier(name: str, fallback: str = "x") -> str:
    """`name` as ``[A-Za-z][A-Za-z0-9_]*``: accents dropped, everything else odd an underscore.

    Args:
        fallback: the name where nothing is left, and the prefix where a digit would come first.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:MAX_LENGTH].rstrip("_")
    if not plain:
        plain = fallback
    if not plain[0].isalpha():
        plain = f"{fallback}_{plain}"
    return plain


class Namespace:
    """Hands out identifiers, no two alike even where case does not count, as in file systems."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {name.lower() for name in reserved}
        self._counts: dict[str, int] = {}  # how far the numbers of a name are taken

    def take(self, name: str, fallback: str = "x") -> str:
        """The identifier for `name`, numbered where it is taken, a keyword, or reads as a digit."""
        base = identifier(name, fallback)
        candidate, count = base, self._counts.get(base.lower(), 1)
        while (
            candidate.lower() in self._taken
            or keyword.iskeyword(candidate)
            or keyword.issoftkeyword(candidate)
            or candidate in AMBIGUOUS
        ):
            count += 1
            candidate = f"{base}_{count}"
        self._counts[base.lower()] = count
        self._taken.add(candidate.lower())
        return candidate


def class_name(name: str) -> str:
    """`name` in CamelCase, for a class: ``VGG_ILSVRC_16_layers`` -> ``VGGILSVRC16Layers``."""
    words = identifier(name, "net").split("_")
    camel = "".join(word[:1].upper() + word[1:] for word in words)
    taken = ("Network", "BaseNetwork", *AMBIGUOUS)
    return camel + "Net" if camel in taken or keyword.iskeyword(camel) else camel
