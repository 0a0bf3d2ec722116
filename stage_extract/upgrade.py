"""Brings an old net to the current format, by Caffe's own rules (upgrade_proto.cpp).

The steps, each only where it is needed: V0 layers to V1, deprecated fields of data layers to
``transform_param``, V1 ``layers`` to ``layer``, ``input`` fields to an Input layer, and the fixed
learning rates of BatchNorm. Messages are never changed in place, and every layer keeps its line.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional, Tuple

from schemas.errors import MalformedModel, UnsupportedModel
from stage_extract import descriptors
from stage_extract.prototxt import Message

# Fields of a net that steer training, memory, precision or the choice of implementation: dropped.
HARMLESS = (
    # BVLC
    "force_backward", "debug_info",
    # Intel
    "engine", "compile_net_state", "bn_stats_batch_size",
    # TSN, BVLC opencl
    "mem_param", "reduced_memory_inference",
    # NVIDIA
    "default_forward_type", "default_backward_type", "default_forward_math",
    "default_backward_math", "default_conv_algos_override", "default_cudnn_math_override",
    "global_grad_scale", "global_grad_scale_adaptive", "reduce_buckets", "eltwise_mem_sharing",
)  # fmt: skip

V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise", "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col", "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN", "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence",
    "SLICE": "Slice", "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split",
    "TANH": "TanH", "THRESHOLD": "Threshold", "WINDOW_DATA": "WindowData",
    # Forks.
    "BATCH_NORM": "BatchNorm", "BN": "BN", "CONADD": "Conadd", "CROP": "Crop",
    "DEFORMABLECONVOLUTION": "DeformableConvolution", "ELTWISE_AFFINE": "EltwiseAffine",
    "ELU": "ELU", "INSANITY": "Insanity", "LOCAL": "Local", "NORMALIZE": "Normalize",
    "PARSE_EVALUATE": "ParseEvaluate", "PARSE_OUTPUT": "ParseOutput", "PRELU": "PReLU",
    "RELU6": "ReLU6", "ROIPOOLING": "ROIPooling", "TRIPLET_LOSS": "TripletLoss",
}  # fmt: skip

V0_TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION",
    "data": "DATA", "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN", "hdf5_data": "HDF5_DATA", "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL", "images": "IMAGE_DATA", "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS", "pool": "POOLING", "relu": "RELU",
    "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS", "split": "SPLIT",
    "tanh": "TANH", "window_data": "WINDOW_DATA",
}  # fmt: skip

# V0 type -> the parameter message its fields go to, and those fields, as new=old where renamed.
V0_PARAMETERS = {
    "concat": ("concat_param", "concat_dim"),
    "conv": (
        "convolution_param",
        "num_output bias_term=biasterm weight_filler bias_filler "
        "pad kernel_size=kernelsize stride group",
    ),
    "data": ("data_param", "source batch_size=batchsize rand_skip"),
    "dropout": ("dropout_param", "dropout_ratio"),
    "hdf5_data": ("hdf5_data_param", "source batch_size=batchsize"),
    "images": (
        "image_data_param",
        "source batch_size=batchsize rand_skip shuffle=shuffle_images new_height new_width",
    ),
    "infogain_loss": ("infogain_loss_param", "source"),
    "innerproduct": (
        "inner_product_param",
        "num_output bias_term=biasterm weight_filler bias_filler",
    ),
    "lrn": ("lrn_param", "local_size alpha beta k"),
    "pool": ("pooling_param", "pad kernel_size=kernelsize stride pool"),
    "window_data": (
        "window_data_param",
        "source batch_size=batchsize fg_threshold=det_fg_threshold bg_threshold=det_bg_threshold "
        "fg_fraction=det_fg_fraction context_pad=det_context_pad crop_mode=det_crop_mode",
    ),
}

# The same for what a V0 layer of any type may have, and what is copied or, as in Caffe, lost.
V0_TRANSFORM = ("transform_param", "scale mean_file=meanfile crop_size=cropsize mirror")
V0_COPIED = ("name", "blobs", "blobs_lr", "weight_decay")
V0_LOST = ("type", "new_num", "new_channels")

# V1 data layer -> its parameter message, and the fields that belong in transform_param.
DATA_LAYERS = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
}
TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")

# Mean, variance and the moving average's factor.
BATCH_NORM_BLOBS = 3

# Lists of a V1 layer, one entry a parameter blob -> field of the ParamSpec that the entry goes to.
V1_PARAM_LISTS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


MAX_LAYERS = 20_000  # real nets have thousands


def upgrade(net: Message) -> Message:
    """The net in the current format.

    The result has `layer` (LayerParameter messages, possibly none), and `name` and `state` if they
    were given. Inputs given by `input` become an Input layer; where their shapes are missing, as in
    a net that was saved with its weights, the names stay in `input`, and the caller has to find the
    shapes.

    Raises:
        MalformedModel: the net mixes formats, or has what Caffe's own upgrade refuses.
        UnsupportedModel: a V1 layer type of a fork has no current name, or there are more than
            20,000 layers.
    """
    layers = sum(len(net.fields.get(name, ())) for name in ("layer", "layers"))
    if layers > MAX_LAYERS:
        raise UnsupportedModel(f"the net has {layers:,} layers, at most {MAX_LAYERS:,}", net.source)
    if "layer" in net.fields and "layers" in net.fields:
        raise MalformedModel(
            f"the net has both 'layers' (the old format, line {net.lines['layers']}) "
            f"and 'layer' (the new one, line {net.lines['layer']})",
            net.where("layers"),
            "write all layers in one format",
        )
    for step in (_v0_to_v1, _move_transforms, _v1_to_v2, _add_input_layer, _fix_batch_norms):
        net = step(net)
    return _with(net, {"layer": net.fields.get("layer", [])}, drop=HARMLESS)


def _with(
    of: Message, fields: Dict[str, Any], drop: Tuple[str, ...] = (), type_: str = ""
) -> Message:
    """A copy of a message with fields set and others dropped; a new field is on its line."""
    kept = {name: value for name, value in of.fields.items() if name not in drop}
    kept.update(fields)
    lines = {name: of.lines.get(name, of.line) for name in kept}
    return dataclasses.replace(of, type=type_ or of.type, fields=kept, lines=lines)


def _new(type_: str, at: Message, fields: Dict[str, Any], line: Optional[int] = None) -> Message:
    """A message that the file does not have, placed where `at` stands."""
    place = at.line if line is None else line
    return Message(type_, fields, place, at.column, {name: place for name in fields}, [], at.source)


def _v0_to_v1(net: Message) -> Message:
    layers = net.fields.get("layers", [])
    if not any("layer" in layer.fields for layer in layers):
        return net
    for layer in layers:
        if "layer" not in layer.fields:
            raise MalformedModel(
                "this layer has no 'layer' inside, as the others of this file have",
                layer.where(),
                "write all layers in one format",
            )
    kept = ("name", "input", "input_dim", "layers")
    inputs = net.fields.get("input", [])
    upgraded = [_v0_layer(layer) for layer in _without_padding(layers, inputs)]
    return _with(
        net, {"layers": upgraded}, drop=tuple(name for name in net.fields if name not in kept)
    )


def _without_padding(layers: List[Message], inputs: List[str]) -> List[Message]:
    """Folds V0 `padding` layers into the `pad` of the convolution or pooling that reads them."""
    made_by: Dict[str, Optional[Message]] = {name: None for name in inputs}
    kept = []
    for layer in layers:
        padding = None
        for bottom in layer.fields.get("bottom", []):
            if bottom not in made_by:
                raise MalformedModel(f"no layer makes bottom {bottom!r}", layer.where("bottom"))
            maker = made_by[bottom]
            padding = maker if maker and _v0_type(maker) == "padding" else padding
        if _v0_type(layer) != "padding" or padding:
            kept.append(_padded(layer, padding) if padding else layer)
        made_by.update((top, layer) for top in layer.fields.get("top", []))
    return kept


def _v0_type(layer: Message) -> str:
    return str(layer.fields["layer"].fields.get("type", ""))


def _padded(layer: Message, padding: Message) -> Message:
    """A V0 layer that does the work of the padding layer before it."""
    blobs = (layer.fields["bottom"], padding.fields.get("bottom", []), padding.fields["top"])
    if _v0_type(layer) not in ("conv", "pool") or any(len(names) != 1 for names in blobs):
        raise MalformedModel(
            "a padding layer may only stand between one blob and one conv or pool layer",
            layer.where("bottom"),
        )
    pad = padding.fields["layer"].fields.get("pad", 0)
    inner = _with(layer.fields["layer"], {"pad": pad})
    return _with(layer, {"layer": inner, "bottom": padding.fields.get("bottom")})


def _v0_layer(of: Message) -> Message:
    """One V1 layer from a V0 layer and its connections."""
    inner = of.fields["layer"]
    old = inner.fields.get("type", "")
    if old not in V0_TYPES:
        raise MalformedModel(
            f"{old!r} is no layer type of Caffe's oldest format", inner.where("type")
        )
    moves = {}
    for message, pairs in (V0_TRANSFORM, V0_PARAMETERS.get(old, ("", ""))):
        for pair in pairs.split():
            new, _, former = pair.partition("=")
            moves[former or new] = (message, new)
    copied = V0_COPIED + (("hdf5_output_param",) if old == "hdf5_output" else ())
    fields: Dict[str, Any] = {"type": V0_TYPES[old]}
    for name, value in inner.fields.items():
        if name in copied:
            fields[name] = value
        elif name in moves:
            message, new = moves[name]
            _set(fields, message, new, value, inner)
        elif name not in V0_LOST:
            raise MalformedModel(
                f"{name!r} means nothing to a layer of type {old!r}", inner.where(name), "remove it"
            )
    return _with(of, fields, drop=("layer",))


def _set(fields: Dict[str, Any], message: str, name: str, value: Any, at: Message) -> None:
    """Sets a field of one of a layer's parameter messages: of a copy, or of a new one."""
    schema = descriptors.message("LayerParameter").fields_by_name[message].message_type
    if descriptors.is_repeated(schema.fields_by_name[name]):
        value = [value]
    fields[message] = _with(fields.get(message) or _new(schema.name, at, {}), {name: value})


def _move_transforms(net: Message) -> Message:
    """Moves a V1 data layer's scale, mean and crop to where they belong since."""
    layers = net.fields.get("layers", [])
    parameters = [
        layer.fields.get(DATA_LAYERS.get(layer.fields.get("type", ""), "")) for layer in layers
    ]
    if not any(name in each.fields for each in parameters if each for name in TRANSFORMS):
        return net
    return _with(net, {"layers": [_moved(layer) for layer in layers]})


def _moved(layer: Message) -> Message:
    parameter = DATA_LAYERS.get(layer.fields.get("type", ""))
    if parameter is None:
        return layer
    fields = {
        "transform_param": layer.fields.get("transform_param")
        or _new("TransformationParameter", layer, {})
    }
    data = layer.fields.get(parameter)
    for name in TRANSFORMS:
        if data and name in data.fields:
            _set(fields, "transform_param", name, data.fields[name], data)
    if data:
        fields[parameter] = _with(data, {}, drop=TRANSFORMS)
    return _with(layer, fields)


def _v1_to_v2(net: Message) -> Message:
    if "layers" not in net.fields:
        return net
    upgraded = _with(
        net, {"layer": [_v1_layer(layer) for layer in net.fields["layers"]]}, drop=("layers",)
    )
    upgraded.lines["layer"] = net.lines["layers"]
    return upgraded


def _v1_layer(of: Message) -> Message:
    fields: Dict[str, Any] = {}
    if "type" in of.fields:
        old = of.fields["type"]
        if old not in V1_TYPES:
            raise UnsupportedModel(
                f"layer type {old} of the old format is not supported",
                of.where("type"),
                "if there is a current type that does the same, write the net with it",
            )
        fields["type"] = V1_TYPES[old]
    specs: List[Dict[str, Any]] = [
        {} for _ in range(max(len(of.fields.get(name, [])) for name in V1_PARAM_LISTS))
    ]
    for name, new in V1_PARAM_LISTS.items():
        for spec, value in zip(specs, of.fields.get(name, [])):
            spec[new] = value
    if specs:
        fields["param"] = [_new("ParamSpec", of, spec) for spec in specs]
    return _with(of, fields, drop=tuple(V1_PARAM_LISTS), type_="LayerParameter")


def _add_input_layer(net: Message) -> Message:
    """Turns the net's `input` and their shapes into an Input layer, the first of the net."""
    names = net.fields.get("input", [])
    shapes, sizes = net.fields.get("input_shape", []), net.fields.get("input_dim", [])
    if not names or not (shapes or sizes):
        return _with(net, {}, drop=("input_shape", "input_dim"))
    if not shapes:
        shapes = [
            _new("BlobShape", net, {"dim": sizes[i : i + 4]}, net.lines["input_dim"])
            for i in range(0, len(sizes) - 3, 4)
        ]
    if len(shapes) < len(names):
        raise MalformedModel(
            f"{len(names)} inputs but {len(shapes)} shapes",
            net.where("input_shape" if "input_shape" in net.fields else "input_dim"),
            "give each input its own input_shape, or four input_dim",
        )
    line = net.lines["input"]
    fields = {
        "name": "input",
        "type": "Input",
        "top": names,
        "input_param": _new("InputParameter", net, {"shape": shapes[: len(names)]}, line),
    }
    layers = [_new("LayerParameter", net, fields, line)] + net.fields.get("layer", [])
    return _with(net, {"layer": layers}, drop=("input", "input_shape", "input_dim"))


def _fix_batch_norms(net: Message) -> Message:
    """Keeps training from touching the statistics of a BatchNorm layer."""
    layers = []
    for layer in net.fields.get("layer", []):
        specs = layer.fields.get("param", [])
        statistics = layer.fields.get("type") == "BatchNorm" and len(specs) == BATCH_NORM_BLOBS
        fixed = [_with(spec, {"lr_mult": 0.0, "decay_mult": 0.0}) for spec in specs]
        layers.append(_with(layer, {"param": fixed}) if statistics else layer)
    return _with(net, {"layer": layers})
