"""The tokens of protobuf's text format, each with its line and column, in time linear in the text.

The text is held as Latin-1, one character a byte, so that any bytes pass through unharmed; a
string's bytes are decoded when it is complete (`decode`): as UTF-8, else as Latin-1.
"""

from __future__ import annotations

import re
from typing import Match, Optional

from schemas.errors import MalformedModel

# No alternative can match what another one does, and no repeat can give back what it took and still
# match: nothing here backtracks more than once. Hence also the "quote" of strings with an escape,
# which are walked through by hand.
_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\v\f]+|\#[^\n]*){1,1000})
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>[][{}<>:,;-])
    |(?P<number>0[xX][0-9A-Fa-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
    |(?P<string>"[^"\\\n]*"|'[^'\\\n]*')
    |(?P<quote>["'])""",
    re.VERBOSE,
)
MAX_DIGITS = 400
MAX_STRING = 1 << 16  # bytes; the longest are the parameters of Python layers
MAX_SHOWN = 60
_STRING_STOP = {'"': re.compile(r'["\\\n]'), "'": re.compile(r"['\\\n]")}
_WORD = re.compile(r"[A-Za-z0-9_.]")
_ESCAPE = re.compile(
    r"\\(?:([0-3]?[0-7]{1,2})|[xX]([0-9A-Fa-f]{1,2})"
    r"|u([dD][89abAB][0-9A-Fa-f]{2})\\u([dD][c-fC-F][0-9A-Fa-f]{2})"
    r"|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.)|$)"
)
_NAMED_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip


class Tokens:
    """A cursor over the tokens of one text.

    Attributes:
        kind: ``name``, ``number``, ``string``, ``mark`` (one of ``[]{}<>:,;-``) or ``end``.
        text: the token itself; for a string, what stands between the quotes, escapes and all.
        line, column: where it starts, both from 1; columns count bytes.
    """

    __slots__ = (
        "_end",
        "_input",
        "_line_start",
        "_next_line",
        "column",
        "kind",
        "line",
        "source",
        "text",
    )

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._input = text
        self._end = 0
        self._next_line = 1
        self._line_start = 0
        self.advance()

    def error(self, message: str, hint: str = "", line: int = 0, column: int = 0) -> MalformedModel:
        """The error to raise at this token, or at a line and column."""
        if not line:
            line, column = self.line, self.column
        return MalformedModel(message, f"{self.source}:{line}:{column}", hint)

    def describe(self) -> str:
        """This token, for an error message."""
        if self.kind == "end":
            return "the end of the file"
        text = brief(self.text)
        return f"the string {text}" if self.kind == "string" else text

    def advance(self) -> None:
        """Goes to the next token.

        Raises:
            MalformedModel: what follows is no token.
        """
        text = self._input
        position = self._end
        match = _TOKEN.match(text, position)
        while match is not None and match.lastgroup == "space":
            end = match.end()
            newlines = text.count("\n", position, end)
            if newlines:
                self._next_line += newlines
                self._line_start = text.rfind("\n", position, end) + 1
            position = end
            match = _TOKEN.match(text, position)
        self.line = self._next_line
        self.column = position - self._line_start + 1
        if match is None:
            self._no_token(position)
            return
        self.kind = str(match.lastgroup)
        self._end = match.end()
        if self.kind == "string":
            self.text = text[position + 1 : self._end - 1]
        elif self.kind == "quote":
            self._long_string(position)
        else:
            self.text = match.group()
            if self.kind == "number" and _WORD.match(text, self._end):
                raise self.error(
                    f"{brief(self.text)} is followed by {text[self._end]!r} without a space"
                )

    def accept(self, mark: str) -> bool:
        """Steps over `mark` if it is here; whether it was."""
        if self.kind == "mark" and self.text == mark:
            self.advance()
            return True
        return False

    def _no_token(self, position: int) -> None:
        if position < len(self._input):
            found = self._input[position : position + 4].encode("latin-1")
            raise self.error(f"unexpected {found.decode('utf-8', 'replace')[0]!r}")
        self.kind, self.text = "end", ""
        self._end = position

    def _long_string(self, start: int) -> None:
        text = self._input
        stop = _STRING_STOP[text[start]]
        found = stop.search(text, start + 1)
        while (
            found is not None
            and found.group() == "\\"
            and text[found.end() : found.end() + 1] != "\n"
        ):
            if found.end() - start > MAX_STRING:
                raise self.error(f"a string has more than {MAX_STRING} bytes")
            found = stop.search(text, found.end() + 1)
        if found is None or found.group() != text[start]:
            raise self.error("this string is not closed on its line", "add the closing quote")
        self.kind = "string"
        self.text = text[start + 1 : found.start()]
        self._end = found.end()


def brief(text: str) -> str:
    """`text` in quotes, cut to what an error message can hold."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def whole(text: str) -> Optional[int]:
    """The value of a number token if it is a whole number."""
    try:
        if len(text) > MAX_DIGITS:
            return None
        if text.isdigit():
            return int(text, 8 if text[0] == "0" else 10)
        if text[:2] in ("0x", "0X"):
            return int(text, 16)
    except ValueError:
        return None
    value = decimal(text)
    return int(value) if value is not None and value.is_integer() else None


def decimal(text: str) -> Optional[float]:
    """The value of a number token; None for octal and hexadecimal."""
    if (
        len(text) > MAX_DIGITS
        or text[:2] in ("0x", "0X")
        or (text[0] == "0" and len(text) > 1 and text.isdigit())
    ):
        return None
    return float(text.rstrip("fF"))


def decode(raw: str) -> Optional[str]:
    """What a string's raw text stands for; None if it has an escape that protobuf does not know."""
    if "\\" in raw:
        try:
            raw = _ESCAPE.sub(_unescape, raw)
        except ValueError:
            return None
    elif raw.isascii():
        return raw
    data = raw.encode("latin-1")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unescape(match: Match[str]) -> str:
    octal, hexadecimal, high, low, short, long, name = match.groups()
    if octal or hexadecimal:
        return chr(int(octal, 8) if octal else int(hexadecimal, 16))
    if high:
        pair = bytes.fromhex(high + low)
        return pair.decode("utf-16-be").encode("utf-8").decode("latin-1")
    if short or long:
        return chr(int(short or long, 16)).encode("utf-8").decode("latin-1")
    if name not in _NAMED_ESCAPES:
        raise ValueError("unknown escape")
    return _NAMED_ESCAPES[name]
