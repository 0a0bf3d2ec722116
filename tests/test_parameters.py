"""The parameters of every meaning are those of caffe.proto: names, types, defaults, completeness.

Runs on Python 3.8 too.
"""

from __future__ import annotations

import numpy as np
import pytest

from schemas.layers import registry
from stage_extract import descriptors

REGISTERED = registry.registered()
# The old FCN branch's Crop has no message: its parameter is what the net around the layer tells.
UNWRITTEN = {("Crop", "fcn-future")}
READING = sorted({key for key, cls in REGISTERED.items() if cls.messages} - UNWRITTEN)
MESSAGES = descriptors.message("LayerParameter").fields_by_name

# (type, dialect, parameter) -> why its default is not that of schemas/caffe.proto, which holds one
# definition of a message that several forks define each in its own way.
OTHER_DEFAULTS = {
    ("ChannelShuffle", "shufflenet", "group"): "README.md of farmingyard/ShuffleNet: default = 1",
    ("ShuffleChannel", "shufflenet", "group"): "README.md of farmingyard/ShuffleNet: default = 1",
    ("DetectionOutput", "caffe-yolov2", "confidence_threshold"): "SSD's has no default",
    ("Upsample", "yolo", "scale"): "MobileNet-YOLO's 1, SegNet's 2: the proto has neither",
}


def schema_fields(cls):
    """Name -> FieldDescriptor, over the messages that the meaning reads."""
    return {
        field.name: field
        for message in reversed(cls.messages)
        for field in MESSAGES[message].message_type.fields
    }


def schema_type(field):
    """The annotation that a field of caffe.proto calls for."""
    if field.message_type is not None:
        kind = "Tuple[int, ...]" if field.message_type.name == "BlobShape" else "Mapping[str, Any]"
    else:
        kind = {
            field.CPPTYPE_BOOL: "bool",
            field.CPPTYPE_ENUM: "str",
            field.CPPTYPE_STRING: "str",
            field.CPPTYPE_FLOAT: "float",
            field.CPPTYPE_DOUBLE: "float",
        }.get(field.cpp_type, "int")
    return f"Tuple[{kind}, ...]" if descriptors.is_repeated(field) else kind


def schema_default(field):
    if descriptors.is_repeated(field) or field.message_type is not None:
        return ()
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return field.default_value


def described(key):
    """(name, dataclass field, FieldDescriptor) of each parameter."""
    schema = schema_fields(REGISTERED[key])
    parameters = registry.parameters(REGISTERED[key]).items()
    return [(name, parameter, schema[name]) for name, parameter in parameters]


@pytest.mark.parametrize("key", READING, ids="-".join)
def test_parameters_have_the_names_and_types_of_the_schema(key):
    for name, parameter, field in described(key):
        if parameter.type.startswith("Optional["):
            assert parameter.type == f"Optional[{schema_type(field)}]", name
        else:
            assert parameter.type == schema_type(field), name


@pytest.mark.parametrize("key", READING, ids="-".join)
def test_parameters_have_the_defaults_of_the_schema(key):
    for name, parameter, field in described(key):
        if parameter.type.startswith("Optional["):  # whether it was written makes a difference
            assert parameter.default is None, name
        else:
            same = (
                np.float32(parameter.default) == np.float32(schema_default(field))
                if parameter.type == "float"
                else parameter.default == schema_default(field)
            )
            assert same != ((*key, name) in OTHER_DEFAULTS), name


@pytest.mark.parametrize("key", READING, ids="-".join)
def test_choices_are_those_of_the_schema(key):
    cls = REGISTERED[key]
    schema = schema_fields(cls)
    assert set(cls.choices) <= set(registry.parameters(cls))
    for name, values in cls.choices.items():
        if schema[name].enum_type is None:
            assert schema_type(schema[name]) == "str"  # a word that the layer itself compares
        else:
            assert set(values) <= set(schema[name].enum_type.values_by_name)


@pytest.mark.parametrize("key", READING, ids="-".join)
def test_every_field_of_bvlc_is_read_or_harmless(key):
    """Forks keep BVLC's fields in BVLC's messages; what other forks add is refused where set."""
    cls = REGISTERED[key]
    known = set(registry.parameters(cls)) | set(cls.harmless)
    for message in cls.messages:
        if MESSAGES[message].number < descriptors.FORKS:
            fields = MESSAGES[message].message_type.fields
            assert {field.name for field in fields if field.number < descriptors.FORKS} <= known


@pytest.mark.parametrize("key", READING, ids="-".join)
def test_what_is_harmless_is_in_the_schema_and_not_read(key):
    cls = REGISTERED[key]
    assert set(cls.harmless) <= set(schema_fields(cls))
    assert not set(cls.harmless) & set(registry.parameters(cls))
    assert all(reason.strip() for reason in cls.harmless.values())


def test_the_exceptions_are_of_registered_layers():
    assert {key[:2] for key in OTHER_DEFAULTS} | UNWRITTEN <= set(REGISTERED)
