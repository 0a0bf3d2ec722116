"""Caffe's schema as protobuf descriptors, in a pool of our own.

The pool is private, so that PyCaffe's own `caffe_pb2`, which declares the same names, can live in
the same process. Everything works with protobuf 3.20 to 7, and from inside a zip file.
"""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "caffe"

# In BVLC's messages, fields and enum values from this number on are the forks', known by name.
FORKS = 100000


@lru_cache(maxsize=None)
def pool() -> descriptor_pool.DescriptorPool:
    """The private pool, holding schemas/caffe.proto alone."""
    data = pkgutil.get_data("schemas", "caffe.desc")
    if data is None:
        raise ImportError("schemas/caffe.desc cannot be read", name="schemas")
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        made.AddSerializedFile(file.SerializeToString())
    return made


def message(name: str) -> Any:
    """The Descriptor of one of Caffe's messages (``LayerParameter``); KeyError if there is none."""
    return pool().FindMessageTypeByName(f"{PACKAGE}.{name}")


def message_class(name: str) -> Any:
    """The class of one of Caffe's messages, to parse binary data by BVLC's numbers with."""
    descriptor = message(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool()).GetPrototype(descriptor)


def is_repeated(field: Any) -> bool:
    """Whether a FieldDescriptor is of a repeated field (new protobuf deprecates `label`)."""
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)


def is_required(field: Any) -> bool:
    """Whether a FieldDescriptor is of a required field."""
    if hasattr(field, "is_required"):
        return bool(field.is_required)
    return bool(field.label == field.LABEL_REQUIRED)
