"""Reading a net by protobuf, and bringing it to the current format (upgrade_proto.cpp)."""

from __future__ import annotations

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from .log import check, log
from .proto import caffe_pb2

# UpgradeV1LayerType: the types by their old names, which are the new ones in capitals, but for one.
TYPES = (
    "AbsVal Accuracy ArgMax BNLL Concat ContrastiveLoss Convolution Data Deconvolution Dropout "
    "DummyData Eltwise EuclideanLoss Exp Flatten HDF5Data HDF5Output HingeLoss Im2col ImageData "
    "InfogainLoss InnerProduct LRN MemoryData MultinomialLogisticLoss MVN Pooling Power ReLU "
    "Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax Split TanH Threshold WindowData"
)
BY_V1_NAME = {name.upper(): name for name in TYPES.split()}
BY_V1_NAME["SOFTMAXLOSS"] = "SoftmaxWithLoss"

# UpgradeV0LayerType, where the old name is not the V1 name in small letters.
V1_BY_V0_NAME = {
    "conv": "CONVOLUTION", "images": "IMAGE_DATA", "innerproduct": "INNER_PRODUCT",
    "pool": "POOLING",
}  # fmt: skip

# UpgradeV0LayerParameter: V0 type -> the message of its parameters, and those renamed.
V0_MESSAGES = {
    "concat": "concat_param", "conv": "convolution_param", "data": "data_param",
    "dropout": "dropout_param", "hdf5_data": "hdf5_data_param", "images": "image_data_param",
    "infogain_loss": "infogain_loss_param", "innerproduct": "inner_product_param",
    "lrn": "lrn_param", "pool": "pooling_param", "window_data": "window_data_param",
}  # fmt: skip
V0_RENAMED = {"biasterm": "bias_term", "kernelsize": "kernel_size", "batchsize": "batch_size"}
V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size"}
V0_KEPT = ("name", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param")
V0_LOST = ("type", "new_num", "new_channels")

V1_PARAM_LISTS = {
    "param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}  # fmt: skip


def read_text(path):
    """ReadNetParamsFromTextFileOrDie."""
    net = caffe_pb2.NetParameter()
    with open(path, encoding="utf-8") as file:
        try:
            text_format.Parse(file.read(), net)
        except text_format.ParseError as error:
            log("E", "text_format.cc:274", f"Error parsing text-format caffe.NetParameter: {error}")
            check(False, f"Failed to parse NetParameter file: {path}", "upgrade_proto.cpp:90")
    return upgraded(net, path)


def read_binary(path):
    """ReadNetParamsFromBinaryFileOrDie."""
    net = caffe_pb2.NetParameter()
    with open(path, "rb") as file:
        try:
            net.ParseFromString(file.read())
        except DecodeError:
            check(False, f"Failed to parse NetParameter file: {path}", "upgrade_proto.cpp:97")
    return upgraded(net, path)


def upgraded(net, path):
    """UpgradeNetAsNeeded, but for what only training asks of it."""
    if any(layer.HasField("layer") for layer in net.layers):
        net = _step("V0LayerParameter", path, _from_v0, net)
    if net.layers:
        net = _step("V1LayerParameter", path, _from_v1, net)
    if net.input:
        net = _step("input fields", path, _from_inputs, net)
    return net


def _step(format_, path, upgrade, net):
    place = "upgrade_proto.cpp:53"
    log(
        "I", place, f"Attempting to upgrade input file specified using deprecated {format_}: {path}"
    )
    net = upgrade(net)
    log("I", place, f"Successfully upgraded file specified using deprecated {format_}")
    return net


def _copy(value, into, name):
    """Sets a field of a message, or adds to a repeated one."""
    field = into.DESCRIPTOR.fields_by_name[name]
    target = getattr(into, name)
    if hasattr(target, "extend"):
        target.extend(value if hasattr(value, "extend") else [value])
    elif field.message_type is not None:
        target.CopyFrom(value)
    else:
        setattr(into, name, value)


def _from_v0(net):
    """UpgradeV0Net."""
    made = caffe_pb2.NetParameter(name=net.name, input=net.input, input_dim=net.input_dim)
    for layer in _without_padding(net):
        new = made.layers.add(bottom=layer.bottom, top=layer.top)
        type_ = layer.layer.type
        new.type = new.LayerType.Value(V1_BY_V0_NAME.get(type_, type_.upper()))
        for field, value in layer.layer.ListFields():
            if field.name in V0_KEPT:
                _copy(value, new, field.name)
            elif field.name in V0_TRANSFORM:
                _copy(value, new.transform_param, V0_TRANSFORM[field.name])
            elif field.name not in V0_LOST:
                check(type_ in V0_MESSAGES, f"Unknown parameter {field.name} for layer {type_}")
                parameters = getattr(new, V0_MESSAGES[type_])
                _copy(value, parameters, V0_RENAMED.get(field.name, field.name))
    return made


def _without_padding(net):
    """UpgradeV0PaddingLayers: the pad goes to the layer that reads the padded blob."""
    paddings = {}
    for layer in net.layers:
        if layer.layer.type == "padding":
            paddings[layer.top[0]] = layer
            continue
        for i, bottom in enumerate(layer.bottom):
            if bottom in paddings:
                check(layer.layer.type in ("conv", "pool"), "Padding layer input to a non-convolu")
                layer.layer.pad = paddings[bottom].layer.pad
                layer.bottom[i] = paddings[bottom].bottom[0]
        yield layer


def _from_v1(net):
    """UpgradeV1Net."""
    check(not net.layer, "Input NetParameter to be upgraded already specifies 'layer' fields")
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    made.ClearField("layers")
    for layer in net.layers:
        new = made.layer.add()
        for field, value in layer.ListFields():
            if field.name == "type":
                name = field.enum_type.values_by_number[value].name
                new.type = BY_V1_NAME.get(name.replace("_", ""), name.title())
            elif field.name in V1_PARAM_LISTS:
                for i, item in enumerate(value):
                    spec = new.param[i] if i < len(new.param) else new.param.add()
                    setattr(spec, V1_PARAM_LISTS[field.name], item)
            else:
                _copy(value, new, field.name)
    return made


def _from_inputs(net):
    """UpgradeNetInput."""
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    for name in ("input", "input_shape", "input_dim", "layer"):
        made.ClearField(name)
    if net.input_shape or net.input_dim:
        first = made.layer.add(name="input", type="Input", top=net.input)
        if net.input_shape:
            first.input_param.shape.extend(net.input_shape)
        else:
            for i in range(0, len(net.input_dim), 4):
                first.input_param.shape.add(dim=net.input_dim[i : i + 4])
    made.layer.extend(net.layer)
    return made
