"""What the reader of prototxts must know of a message: caffe.proto's fields, and plug-ins'; also
those of a Caffe that is in use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Dict, Mapping, Optional, Set, Tuple

from schemas.layers import registry
from stage_extract import descriptors

# Half a step above the largest float32: what rounds to infinity in a float field.
FLOAT_OVERFLOW = 3.4028235677973366e38


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        kind: ``message``, ``enum``, ``real``, ``boolean``, ``integer`` or ``string``.
        message: the name of a message's type.
        enum: an enum's names and numbers.
        least, most: what a number must be within.
    """

    name: str
    kind: str
    repeated: bool
    message: str = ""
    enum: Dict[str, int] = field(default_factory=dict)
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class Schema:
    """One message's fields by name, and which of them must be written."""

    name: str
    fields: Mapping[str, Field]
    required: Tuple[str, ...] = ()


# The messages whose fields are named by what a meaning reads as a whole.
_LAYERS = ("LayerParameter", "V1LayerParameter")


class Schemas:
    """Messages by the name of their type.

    What caffe.proto says of a message stands. A layer's messages that it does not have are those of
    the registered meanings that read them (a plug-in's), with the parameters for fields.

    A build of Caffe adds what it knows beyond that, as far as a registered meaning reads it: a
    layer's messages, with all that is in them, further fields of known messages, and names of
    enums. What no meaning reads stays unknown, because nothing else would refuse it.

    Args:
        build: the Descriptor of NetParameter in the build's own caffe_pb2.
    """

    def __init__(self, build: Optional[Any] = None) -> None:
        self._build: Dict[str, Schema] = {}
        self._made: Dict[str, Schema] = {}
        self._read: Dict[str, Set[str]] = {}
        if build is not None:
            _collect(build, self._build)
            self._read = _read_of(self._build)
        known = _described(_LAYERS[0])
        added: Dict[str, Field] = {}
        for cls in registry.registered().values():
            for name in set(cls.messages).difference(known.fields, self._read.get(known.name, ())):
                fields = self._made.get(name, Schema(name, {})).fields
                self._made[name] = Schema(name, {**fields, **_parameters(cls)})
                added[name] = Field(name, "message", False, name)
        layer = self._merged(known.name)
        self._made[known.name] = replace(layer, fields={**layer.fields, **added})

    def __getitem__(self, name: str) -> Schema:
        """Raises KeyError where there is no such message."""
        if name not in self._made:
            self._made[name] = self._merged(name)
        return self._made[name]

    def _merged(self, name: str) -> Schema:
        """caffe.proto's message with what the build adds, or the build's own."""
        theirs = self._build.get(name)
        if theirs is None:
            return _described(name)
        try:
            ours = _described(name)
        except KeyError:
            return theirs
        read = self._read.get(name, ())
        fields = {each: theirs.fields[each] for each in theirs.fields if each in read}
        fields.update((each.name, _widened(each, theirs)) for each in ours.fields.values())
        return replace(ours, fields=fields)


def _collect(message: Any, into: Dict[str, Schema]) -> None:
    """The schemas of a message and of all that it is made of, by name."""
    schema = _schema(message)
    if schema.name not in into:
        into[schema.name] = schema
        for each in message.fields:
            if each.message_type is not None:
                _collect(each.message_type, into)


def _read_of(build: Mapping[str, Schema]) -> Dict[str, Set[str]]:
    """The build's messages -> the names in them that registered meanings read or call harmless."""
    read: Dict[str, Set[str]] = {}
    for cls in registry.registered().values():
        names = {*registry.parameters(cls), *cls.harmless}
        for layer in _LAYERS:
            fields = build[layer].fields if layer in build else {}
            for message in set(cls.messages).intersection(fields):
                read.setdefault(layer, set()).add(message)
                read.setdefault(fields[message].message, set()).update(names)
    return read


def _widened(ours: Field, theirs: Schema) -> Field:
    """Our field, with the names that the build's has as well where both are enums."""
    other = theirs.fields.get(ours.name)
    if other is None or not ours.enum:
        return ours
    # Ours come first: a number means the first name that has it.
    return replace(ours, enum={**ours.enum, **other.enum, **ours.enum})


@lru_cache(maxsize=None)
def _described(name: str) -> Schema:
    return _schema(descriptors.message(name))


def _schema(message: Any) -> Schema:
    """A Descriptor's fields."""
    required = tuple(each.name for each in message.fields if descriptors.is_required(each))
    return Schema(_name(message), {each.name: _field(each) for each in message.fields}, required)


def _name(message: Any) -> str:
    """A Descriptor's full name without the package."""
    package = message.file.package
    return str(message.full_name[len(package) + 1 :] if package else message.full_name)


def _field(of: Any) -> Field:
    def made(kind: str, **more: Any) -> Field:
        return Field(of.name, kind, descriptors.is_repeated(of), **more)

    if of.message_type is not None:
        return made("message", message=_name(of.message_type))
    if of.enum_type is not None:
        return made("enum", enum={value.name: value.number for value in of.enum_type.values})
    if of.cpp_type == of.CPPTYPE_FLOAT:
        return made("real", most=FLOAT_OVERFLOW)
    if of.cpp_type == of.CPPTYPE_DOUBLE:
        return made("real")
    if of.cpp_type == of.CPPTYPE_BOOL:
        return made("boolean")
    if of.cpp_type == of.CPPTYPE_STRING:
        return made("string")
    bits = 32 if of.cpp_type in (of.CPPTYPE_INT32, of.CPPTYPE_UINT32) else 64
    signed = of.cpp_type in (of.CPPTYPE_INT32, of.CPPTYPE_INT64)
    least = -(1 << bits - 1) if signed else 0
    return made("integer", least=least, most=least + (1 << bits) - 1)


_KINDS = {"int": "integer", "float": "real", "bool": "boolean", "str": "string"}


def _parameters(cls: Any) -> Dict[str, Field]:
    """A meaning's parameters as fields: a choice is an enum's name, a tuple is a repeated field.

    What is neither number, truth value nor text is no field.
    """
    fields = {}
    for name, parameter in registry.parameters(cls).items():
        text = registry.annotation(parameter)
        repeated = text.startswith("Tuple[")
        inner = text[text.index("[") + 1 : -1].split(",")[0] if "[" in text else text
        names = {choice: i for i, choice in enumerate(cls.choices.get(name, ()))}
        kind = "enum" if names else _KINDS.get(inner)
        if kind:
            fields[name] = Field(name, kind, repeated, enum=names)
    return fields
