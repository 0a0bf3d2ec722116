"""What protoc would make of this build's caffe.proto: the usual one, and more that only it knows.

In a pool of its own, so that a real caffe_pb2 can live in the same process.
"""

from __future__ import annotations

import pkgutil

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FieldProto = descriptor_pb2.FieldDescriptorProto


def _usual():
    described = pkgutil.get_data("schemas", "caffe.desc")
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(described).file
    return file


def _add_field(message, name, number, kind, label="optional", **more):
    message.field.add(
        name=name,
        number=number,
        type=getattr(FieldProto, "TYPE_" + kind.upper()),
        label=getattr(FieldProto, "LABEL_" + label.upper()),
        **more,
    )


def _extended(file):
    """Adds the parameters of the layer Mix, its name in V1 nets, and a parameter of ReLU."""
    messages = {message.name: message for message in file.message_type}
    curve = file.message_type.add(name="MixCurve")
    _add_field(curve, "power", 1, "uint32", default_value="1")
    mix = file.message_type.add(name="MixParameter")
    mode = mix.enum_type.add(name="Mode")
    mode.value.add(name="PLAIN", number=0)
    mode.value.add(name="NEGATED", number=1)
    _add_field(mix, "scale", 1, "float", default_value="1")
    _add_field(mix, "mode", 2, "enum", type_name=".caffe.MixParameter.Mode", default_value="PLAIN")
    _add_field(mix, "offset", 3, "int32", "repeated")
    _add_field(mix, "curve", 4, "message", type_name=".caffe.MixCurve")
    _add_field(mix, "comment", 5, "string")
    for layer in ("LayerParameter", "V1LayerParameter"):
        _add_field(messages[layer], "mix_param", 50000, "message", type_name=".caffe.MixParameter")
    _add_field(messages["ReLUParameter"], "ceiling", 50000, "float")
    (types,) = (each for each in messages["V1LayerParameter"].enum_type if each.name == "LayerType")
    types.value.add(name="MIX", number=50000)
    return file


def _class(descriptor):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_pool).GetPrototype(descriptor)  # protobuf 3.20


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_extended(_usual()).SerializeToString())
DESCRIPTOR = _pool.FindFileByName("caffe.proto")
globals().update(
    (name, _class(descriptor)) for name, descriptor in DESCRIPTOR.message_types_by_name.items()
)
globals().update(
    (value.name, value.number)
    for enum in DESCRIPTOR.enum_types_by_name.values()
    for value in enum.values
)
