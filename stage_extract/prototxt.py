"""Reads a prototxt: protobuf's text format, typed by Caffe's schema, with the line of every field.

protobuf's own text_format gives no positions, and drops or refuses what users' files have: fields
of forks, ``pad: 2.0``, byte order marks, Latin-1. Here a field that no schema knows is kept aside
in `Message.unknown`, for the caller to judge; all else that protobuf would refuse is refused.
"""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from schemas.errors import MalformedModel, cannot_use
from stage_extract import descriptors, recognise
from stage_extract.schema import Field, Schema, Schemas
from stage_extract.tokens import MAX_STRING, Tokens, brief, decimal, decode, whole

MAX_DEPTH = 100
MAX_FIELDS = 1000 * 1000

# More names than this are not listed in an error.
MAX_NAMES = 12


@dataclass
class Unknown:
    """A field that no schema knows.

    Attributes:
        path: from the root, ``layer[3].pooling_param.foo``.
        name: the field's own name.
        line, column: where it stands, both from 1.
    """

    path: str
    name: str
    line: int
    column: int


@dataclass
class Message:
    """One message of a prototxt, with only the fields that were written.

    Attributes:
        type: the message's name in Caffe's schema, ``LayerParameter``.
        fields: name -> value: int, float, bool, str (also for enums: the value's name) or Message;
            a list of those for a repeated field. Floats are as written, not rounded to float32.
        line, column: where the message's name stands, both from 1.
        lines: name -> line of the field's first occurrence.
        unknown: the fields that no schema knows, of this message and all within it.
        source: the file's name.
    """

    type: str
    fields: Dict[str, Any] = field(default_factory=dict)
    line: int = 1
    column: int = 1
    lines: Dict[str, int] = field(default_factory=dict)
    unknown: List[Unknown] = field(default_factory=list)
    source: str = ""

    def document(self) -> Dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: _plain(value) for name, value in self.fields.items()}

    def where(self, name: str = "") -> str:
        """``file:line`` of the message, or of one of its fields if that is written."""
        return f"{self.source}:{self.lines.get(name, self.line)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return value.document()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def read(path: Union[str, os.PathLike[str]], build: Optional[Any] = None) -> Message:
    """The NetParameter of a prototxt file.

    Args:
        build: see `Schemas`.

    Raises:
        MalformedModel: the file is larger than 64 MB, or see `parse`.
        UsageError, EnvironmentProblem: the file cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size  # so much is taken before it is read
            data = file.read(min(size, recognise.MAX_BYTES) + 1)
    except OSError as error:
        raise cannot_use(name, error) from error
    return parse(data, name, build)


def parse(text: Union[str, bytes], source_name: str, build: Optional[Any] = None) -> Message:
    """The NetParameter that `text` describes.

    Args:
        build: see `Schemas`.

    Raises:
        MalformedModel: the text is no prototxt, breaks its syntax or its schema, describes no net,
            is nested deeper than 100 messages, or has more than a million fields; `where` is
            ``file:line:column``.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    latin = recognise.prototxt(data, source_name).decode("latin-1")
    net = _Reader(Tokens(latin, source_name), build).read("NetParameter")
    if not {"layer", "layers", "input"} & set(net.fields):
        raise _no_net(latin, net)
    return net


def _no_net(latin: str, net: Message) -> MalformedModel:
    """The error for a file that parses but has no layers: most likely a solver."""
    names = [unknown.name for unknown in net.unknown]
    if set(names) & set(Schemas()["SolverParameter"].fields):
        hint = "pass the prototxt of the net itself"
        try:
            solver = _Reader(Tokens(latin, net.source)).read("SolverParameter")
            paths = [solver.fields[key] for key in ("net", "train_net") if key in solver.fields]
            hint = f"pass the net that it names, {brief(paths[0])}" if paths else hint
        except MalformedModel:
            pass
        return MalformedModel("this is a solver's file, not a net's", net.where() + ":1", hint)
    found = f", but {', '.join(brief(name) for name in names[:5])}" if names else ""
    return MalformedModel(f"the file describes no net: it has no layer{found}", net.where() + ":1")


# Where a field stands: the path of the message around it, its name, its index if it is repeated.
_Path = Optional[Tuple[Any, str, Optional[int]]]

_CLOSING = {"{": "}", "<": ">"}
_BOOLEANS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_NO_NUMBERS = {word: math.inf for word in ("inf", "inff", "infinity")}
_NO_NUMBERS.update((word, math.nan) for word in ("nan", "nanf"))


class _Reader:
    """Recursive descent over the tokens. What has no schema is read for its syntax only."""

    def __init__(self, tokens: Tokens, build: Optional[Any] = None) -> None:
        self._tokens = tokens
        self._schemas = Schemas(build)
        self._unknown: List[Unknown] = []
        self._path: _Path = None
        self._place = (1, 1)
        self._count = 0
        self._depth = 0

    def read(self, type_: str) -> Message:
        """The whole text as one message."""
        root = Message(type_, source=self._tokens.source)
        self._fields(root, self._schemas[type_])
        if self._tokens.kind != "end":
            raise self._expected("a field's name")
        root.unknown = self._unknown
        return root

    def _fields(self, into: Message, schema: Optional[Schema]) -> None:
        """Reads fields up to what cannot be one: a closing bracket, or the end of the text."""
        tokens = self._tokens
        around = self._path
        while tokens.kind == "name":
            name = tokens.text
            known = schema.fields.get(name) if schema else None
            self._place = place = (tokens.line, tokens.column)
            if known is None:
                if schema is not None:
                    self._unknown.append(Unknown(_written((around, name, None)), name, *place))
                self._values([], name, None, around)
            elif known.repeated:
                into.lines.setdefault(name, place[0])
                self._values(into.fields.setdefault(name, []), name, known, around)
            elif name in into.lines:
                raise tokens.error(
                    f"{name!r} is given twice, first on line {into.lines[name]}",
                    "remove one of them",
                )
            else:
                into.lines[name] = place[0]
                values: List[Any] = []
                self._values(values, name, known, around)
                into.fields[name] = values[0]
            if tokens.kind == "mark" and tokens.text in ",;":
                tokens.advance()

    def _values(self, values: List[Any], name: str, known: Optional[Field], around: _Path) -> None:
        """Appends the value of one field, or those of a list in brackets; its name is next."""
        tokens = self._tokens
        indexed = known is not None and known.repeated
        tokens.advance()
        colon = tokens.accept(":")
        mark = tokens.text if tokens.kind == "mark" else ""
        scalars = mark == "[" and known is not None and not known.message
        if not colon and (scalars or mark not in ("{", "<", "[")):
            raise self._expected(f"':' after {brief(name)}")
        if mark != "[":
            self._path = (around, name, len(values) if indexed else None)
            values.append(self._value(known))
            return
        if known is not None and not indexed:
            raise self._expected(f"one value for {name!r}")
        tokens.advance()
        more = not tokens.accept("]")
        while more:
            self._path = (around, name, len(values))
            self._place = (tokens.line, tokens.column)
            values.append(self._value(known))
            more = tokens.accept(",")
            if not more and not tokens.accept("]"):
                raise self._expected(f"',' or ']' in the list of {brief(name)}")

    def _value(self, known: Optional[Field]) -> Any:
        self._counted()
        return self._kinds[known.kind](self, known) if known else self._skipped()

    def _counted(self) -> None:
        """Counts one value, or one more piece of a string."""
        self._count += 1
        if self._count > MAX_FIELDS:
            raise self._tokens.error(
                f"the file has more than {MAX_FIELDS} fields", "weights belong in a caffemodel"
            )

    def _skipped(self) -> None:
        """Reads a value of unknown type."""
        tokens = self._tokens
        if tokens.kind == "mark" and tokens.text in _CLOSING:
            self._block("", None)
        elif tokens.kind == "string":
            for _ in self._pieces():
                pass
        else:
            tokens.accept("-")
            if tokens.kind not in ("name", "number"):
                raise self._expected("a value")
            tokens.advance()

    def message(self, known: Field) -> Message:
        """A message in ``{}`` or ``<>``."""
        schema = self._schemas[known.message]
        found = self._block(known.message, schema)
        for name in schema.required:
            if name not in found.fields:
                raise self._tokens.error(
                    f"{known.name} needs the field {name!r}", "", found.line, found.column
                )
        return found

    def _block(self, type_: str, schema: Optional[Schema]) -> Message:
        tokens = self._tokens
        made = Message(type_, {}, self._place[0], self._place[1], source=tokens.source)
        closing = _CLOSING.get(tokens.text) if tokens.kind == "mark" else None
        if closing is None:
            raise self._expected("'{'")
        if self._depth == MAX_DEPTH:
            raise tokens.error(f"messages are nested more than {MAX_DEPTH} deep")
        self._depth += 1
        already = len(self._unknown)
        tokens.advance()
        self._fields(made, schema)
        if not tokens.accept(closing):
            raise self._expected(f"a field's name, or {closing!r} for line {made.line}")
        self._depth -= 1
        made.unknown = self._unknown[already:]
        return made

    def integer(self, known: Field) -> int:
        """A whole number within the field's bounds, written in any way."""
        tokens = self._tokens
        negative = tokens.accept("-")
        value = whole(tokens.text) if tokens.kind == "number" else None
        if value is None:
            raise self._expected(f"an integer for {known.name!r}")
        value = -value if negative else value
        if not known.least <= value <= known.most:
            raise tokens.error(
                f"{known.name!r} is {value}, but must be from {known.least} to {known.most}"
            )
        tokens.advance()
        return value

    def real(self, known: Field) -> float:
        """A decimal number, an infinity or NaN; a float field's overflow is an infinity."""
        tokens = self._tokens
        negative = tokens.accept("-")
        value = None
        if tokens.kind == "number":
            value = decimal(tokens.text)
        elif tokens.kind == "name":
            value = _NO_NUMBERS.get(tokens.text.lower())
        if value is None:
            raise self._expected(f"a number for {known.name!r}")
        tokens.advance()
        if value > known.most:
            value = math.inf
        return -value if negative else value

    def boolean(self, known: Field) -> bool:
        """A truth value as protobuf has them: true, True, t, 1 and their opposites."""
        tokens = self._tokens
        value = None
        if tokens.kind == "number":
            number = whole(tokens.text)
            value = bool(number) if number in (0, 1) else None
        elif tokens.kind == "name":
            value = _BOOLEANS.get(tokens.text)
        if value is None:
            raise self._expected(f"true or false for {known.name!r}")
        tokens.advance()
        return value

    def enum(self, known: Field) -> str:
        """The name of an enum's value, written as its name, or as BVLC's number."""
        tokens = self._tokens
        name: Optional[str] = tokens.text
        if tokens.kind == "number":
            number = whole(tokens.text)
            bvlc = (item for item in known.enum.items() if item[1] < descriptors.FORKS)
            name = next((each for each, value in bvlc if value == number), None)
        if tokens.kind not in ("name", "number") or name not in known.enum:
            raise self._no_enum_value(known)
        tokens.advance()
        return name

    def _no_enum_value(self, known: Field) -> MalformedModel:
        text, names = self._tokens.text, list(known.enum)
        if self._tokens.kind == "string" and "CONVOLUTION" in known.enum:
            return self._expected(
                "an old type such as CONVOLUTION", "a quoted type belongs in 'layer', not 'layers'"
            )
        near = difflib.get_close_matches(text.upper()[:40], names, 1)
        hint = f"did you mean {near[0]}?" if near else ""
        choice = f"one of {', '.join(names)}" if len(names) <= MAX_NAMES else "a known name"
        return self._expected(f"{choice} for {known.name!r}", hint)

    def string(self, known: Field) -> str:
        """One or more quoted strings, which are joined."""
        tokens = self._tokens
        if tokens.kind != "string":
            old = known.name == "type" and tokens.kind == "name"
            raise self._expected(
                f"a quoted string for {known.name!r}",
                "old names such as CONVOLUTION belong in 'layers', not 'layer'" if old else "",
            )
        parts = []
        for raw in self._pieces():
            part = decode(raw)
            if part is None:
                raise tokens.error(
                    f"unknown escape in the string for {known.name!r}", "write \\\\ for a backslash"
                )
            parts.append(part)
        return parts[0] if len(parts) == 1 else "".join(parts)

    def _pieces(self) -> Iterator[str]:
        """The raw texts of the quoted strings that stand here, which protobuf joins."""
        tokens = self._tokens
        size = 0
        while tokens.kind == "string":
            size += len(tokens.text)
            if size > MAX_STRING:
                raise tokens.error(f"a string has more than {MAX_STRING} bytes")
            yield tokens.text
            tokens.advance()
            if tokens.kind == "string":
                self._counted()

    _kinds: Mapping[str, Callable[[Any, Field], Any]] = {
        "message": message,
        "enum": enum,
        "real": real,
        "boolean": boolean,
        "integer": integer,
        "string": string,
    }

    def _expected(self, what: str, hint: str = "") -> MalformedModel:
        return self._tokens.error(f"expected {what}, found {self._tokens.describe()}", hint)


def _written(path: _Path) -> str:
    """A path as text: ``layer[3].pooling_param.foo``."""
    parts: List[str] = []
    while path is not None:
        path, name, index = path
        parts.append(name if index is None else f"{name}[{index}]")
    return ".".join(reversed(parts))
