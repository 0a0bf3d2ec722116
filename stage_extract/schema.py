"""What the reader of prototxts must know of a message: caffe.proto's fields, and plug-ins'."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Dict, Mapping, Tuple

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


class Schemas:
    """Messages by the name of their type.

    A layer's messages that caffe.proto does not have are those of the registered meanings that
    read them (a plug-in's), with the parameters for fields.
    """

    def __init__(self) -> None:
        layer = _described("LayerParameter")
        self._own: Dict[str, Schema] = {}
        for cls in registry.registered().values():
            for name in set(cls.messages).difference(layer.fields):
                known = self._own.get(name, Schema(name, {})).fields
                self._own[name] = Schema(name, {**known, **_parameters(cls)})
        added = {name: Field(name, "message", False, name) for name in self._own}
        self._layer = Schema(layer.name, {**layer.fields, **added}, layer.required)

    def __getitem__(self, name: str) -> Schema:
        """Raises KeyError where there is no such message."""
        if name == self._layer.name:
            return self._layer
        return self._own.get(name) or _described(name)


@lru_cache(maxsize=None)
def _described(name: str) -> Schema:
    descriptor = descriptors.message(name)
    required = tuple(each.name for each in descriptor.fields if descriptors.is_required(each))
    return Schema(name, {each.name: _field(each) for each in descriptor.fields}, required)


def _field(of: Any) -> Field:
    def made(kind: str, **more: Any) -> Field:
        return Field(of.name, kind, descriptors.is_repeated(of), **more)

    if of.message_type is not None:
        name = of.message_type.full_name[len(descriptors.PACKAGE) + 1 :]
        return made("message", message=name)
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
