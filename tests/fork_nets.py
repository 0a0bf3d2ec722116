"""Nets in the manner of the forks' published ones: their layers, fields and order, but small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.prototxts import inputs, layer

LRS = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
XAVIER = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0 }'


@dataclass(frozen=True)
class ForkNet:
    """A net to be converted.

    Attributes:
        told: (dialect, type) of each note that names one.
        options: further entries of the catalogue.
        rows: the output's rows depend on the data.
        stored: the dialect of the weights, where the blobs alone tell it.
    """

    name: str
    text: str
    told: frozenset[tuple[str, str]]
    options: dict[str, Any] = field(default_factory=dict)
    rows: bool = False
    stored: str = ""


class Text:
    """Prototxt, layer by layer; every method gives back the blob that it made."""

    def __init__(self, *start: str) -> None:
        self.lines = list(start)

    def add(self, type_: str, bottoms: str, top: str, parameters: str = "", name: str = "") -> str:
        self.lines.append(layer(type_, bottoms, top, parameters, name or None))
        return top.partition(" ")[0]

    def conv(
        self, bottom: str, name: str, outputs: int, window: str, more: str = "", type_: str = ""
    ) -> str:
        given = f"convolution_param {{ num_output: {outputs} {window} {XAVIER} }} {LRS} {more}"
        return self.add(type_ or "Convolution", bottom, name, given)

    def relu(self, blob: str, more: str = "") -> str:
        return self.add("ReLU", blob, blob, more, f"{blob}_relu")

    def block(self, bottom: str, name: str, outputs: int, window: str) -> str:
        """A convolution and a ReLU in place."""
        return self.relu(self.conv(bottom, name, outputs, window))

    def normalised(self, bottom: str, name: str, outputs: int, window: str, relu: str = "") -> str:
        """Convolution, BatchNorm and Scale in place."""
        self.conv(bottom, name, outputs, f"{window} bias_term: false")
        self.add("BatchNorm", name, name, "batch_norm_param { eps: 1e-04 }", f"{name}_bn")
        self.add("Scale", name, name, "scale_param { bias_term: true }", f"{name}_scale")
        return self.relu(name) if relu else name

    def pool(self, bottom: str, name: str, window: str = "kernel_size: 2 stride: 2") -> str:
        return self.add("Pooling", bottom, name, f"pooling_param {{ pool: MAX {window} }}")

    def made(self, name: str, told: str, rows: bool = False, **options: Any) -> ForkNet:
        """`told`: ``dialect:Type dialect:Type``."""
        pairs = frozenset((pair.split(":")[0], pair.split(":")[1]) for pair in told.split())
        return ForkNet(name, f'name: "{name}"\n' + "\n".join(self.lines), pairs, options, rows)


K3, K1 = "kernel_size: 3 pad: 1", "kernel_size: 1"
DOWN = "kernel_size: 3 pad: 1 stride: 2"


# SSD

PRIORS = (
    "prior_box_param {{ min_size: {} max_size: {} aspect_ratio: 2 flip: true clip: false "
    "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 step: {} offset: 0.5 }}"
)
DETECTION = """detection_output_param { num_classes: 4 share_location: true background_label_id: 0
    nms_param { nms_threshold: 0.45 top_k: 40 }
    save_output_param { label_map_file: "data/VOC0712/labelmap_voc.prototxt" }
    code_type: CENTER_SIZE keep_top_k: 20 confidence_threshold: 0.6 }"""
TOLD_SSD = "ssd:Normalize ssd:Permute ssd:PriorBox"


def ssd_body(net: Text) -> Text:
    net.block(net.block("data", "conv4_3", 8, DOWN), "fc7", 12, f"{DOWN} dilation: 1")
    norm = "norm_param { across_spatial: false channel_shared: false scale_filler { value: 20 } }"
    net.add("Normalize", "conv4_3", "conv4_3_norm", norm)
    sources = [("conv4_3_norm", "10", "18", 2), ("fc7", "18", "30", 4)]
    for source, least, most, step in sources:
        for kind, values in (("loc", 4), ("conf", 4)):
            head = net.conv(source, f"{source}_mbox_{kind}", 4 * values, K3)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            net.add("Permute", head, f"{head}_perm", order)
            net.add("Flatten", f"{head}_perm", f"{head}_flat", "flatten_param { axis: 1 }")
        prior = f"{source}_mbox_priorbox"
        net.add("PriorBox", f"{source} data", prior, PRIORS.format(least, most, step))
    for kind, ending, axis in (("loc", "_flat", 1), ("conf", "_flat", 1), ("priorbox", "", 2)):
        parts = " ".join(f"{source[0]}_mbox_{kind}{ending}" for source in sources)
        net.add("Concat", parts, f"mbox_{kind}", f"concat_param {{ axis: {axis} }}")
    return net


def ssd_found(net: Text) -> Text:
    test = "include { phase: TEST }"
    shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: 4 }} }} {test}"
    net.add("Reshape", "mbox_conf", "mbox_conf_reshape", shape)
    net.add("Softmax", "mbox_conf_reshape", "mbox_softmax", f"softmax_param {{ axis: 2 }} {test}")
    net.add("Flatten", "mbox_softmax", "mbox_flatten", f"flatten_param {{ axis: 1 }} {test}")
    net.add(
        "DetectionOutput",
        "mbox_loc mbox_flatten mbox_priorbox",
        "detection_out",
        f"{DETECTION} {test}",
    )
    return net


def ssd() -> ForkNet:
    net = ssd_found(ssd_body(Text(inputs(data=(1, 3, 24, 32)))))
    return net.made("ssd", f"{TOLD_SSD} ssd:DetectionOutput", rows=True)


SSD_DATA = """transform_param { mean_value: 104 mean_value: 117 mean_value: 123
      resize_param { prob: 1 resize_mode: WARP height: 24 width: 32 interp_mode: LINEAR } }
    data_param { source: "examples/VOC0712_lmdb" batch_size: 2 backend: LMDB }
    annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1
      sampler { min_scale: 0.3 max_scale: 1 } sample_constraint { min_jaccard_overlap: 0.1 } }
      label_map_file: "data/VOC0712/labelmap_voc.prototxt" }"""
SSD_LOSS = """multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX num_classes: 4
      match_type: PER_PREDICTION overlap_threshold: 0.5 use_prior_for_matching: true
      neg_pos_ratio: 3 mining_type: MAX_NEGATIVE }
    loss_param { normalization: VALID } propagate_down: true propagate_down: true
    propagate_down: false propagate_down: false include { phase: TRAIN }"""
SSD_SCORE = """detection_evaluate_param { num_classes: 4 overlap_threshold: 0.5
      name_size_file: "data/VOC0712/test_name_size.txt" } include { phase: TEST }"""


def ssd_train_val(phase: str) -> ForkNet:
    net = Text()
    for each in ("TRAIN", "TEST"):
        net.add("AnnotatedData", "", "data label", f"{SSD_DATA} include {{ phase: {each} }}")
    ssd_found(ssd_body(net))
    net.add("MultiBoxLoss", "mbox_loc mbox_conf mbox_priorbox label", "mbox_loss", SSD_LOSS)
    net.add("DetectionEvaluate", "detection_out label", "detection_eval", SSD_SCORE)
    ends = {
        "TRAIN": "ssd:MultiBoxLoss",
        "TEST": "ssd:DetectionOutput ssd:DetectionEvaluate",
    }
    told = f"ssd:AnnotatedData {TOLD_SSD} {ends[phase]}"
    shapes = ["data=1,3,24,32"]
    return net.made(f"ssd_train_val_{phase.lower()}", told, phase=phase, input_shape=shapes)


# Faster R-CNN and R-FCN

PROPOSAL = """python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer'
    param_str: "'feat_stride': 16" }"""


def proposals(net: Text, bottom: str) -> str:
    net.relu(net.conv(bottom, "rpn/output", 12, K3))
    net.conv("rpn/output", "rpn_cls_score", 18, K1)
    net.conv("rpn/output", "rpn_bbox_pred", 36, K1)
    for blob, made, channels in (
        ("rpn_cls_score", "rpn_cls_score_reshape", 2),
        ("rpn_cls_prob", "rpn_cls_prob_reshape", 18),
    ):
        if channels == 18:
            net.add("Softmax", "rpn_cls_score_reshape", "rpn_cls_prob")
        shape = f"reshape_param {{ shape {{ dim: 0 dim: {channels} dim: -1 dim: 0 }} }}"
        net.add("Reshape", blob, made, shape)
    given = "rpn_cls_prob_reshape rpn_bbox_pred im_info"
    return net.add("Python", given, "rois", PROPOSAL, "proposal")


def faster_rcnn() -> ForkNet:
    net = Text(inputs(data=(1, 3, 96, 128), im_info=(1, 3)))
    blob = "data"
    for stage in range(1, 6):
        blob = net.block(blob, f"conv{stage}", 4 * stage, K3)
        blob = net.pool(blob, f"pool{stage}") if stage < 5 else blob
    proposals(net, blob)
    pooled = "roi_pooling_param { pooled_w: 3 pooled_h: 2 spatial_scale: 0.0625 # 1/16\n }"
    net.add("ROIPooling", f"{blob} rois", "pool5", pooled, "roi_pool5")
    net.add("InnerProduct", "pool5", "fc6", f"inner_product_param {{ num_output: 16 }} {LRS}")
    net.relu("fc6")
    net.add("Dropout", "fc6", "fc6", "dropout_param { dropout_ratio: 0.5 }", "drop6")
    net.add("InnerProduct", "fc6", "cls_score", f"inner_product_param {{ num_output: 5 }} {LRS}")
    net.add("InnerProduct", "fc6", "bbox_pred", f"inner_product_param {{ num_output: 20 }} {LRS}")
    net.add("Softmax", "cls_score", "cls_prob")
    told = "faster-rcnn:ROIPooling"
    return net.made("faster_rcnn", told, rows=True)


def rfcn() -> ForkNet:
    net = Text(inputs(data=(1, 3, 96, 128), im_info=(1, 3)))
    net.normalised("data", "conv1", 8, "kernel_size: 7 pad: 3 stride: 2", "relu")
    net.pool("conv1", "pool1", "kernel_size: 3 stride: 2")
    blob = "pool1"
    for name in ("res3a", "res4a"):
        net.normalised(blob, f"{name}_branch1", 12, "kernel_size: 1 stride: 2")
        net.normalised(blob, f"{name}_branch2a", 6, "kernel_size: 1 stride: 2", "relu")
        net.normalised(f"{name}_branch2a", f"{name}_branch2b", 12, K3)
        net.add("Eltwise", f"{name}_branch1 {name}_branch2b", name)
        blob = net.relu(name)
    proposals(net, blob)
    net.block(blob, "conv_new_1", 12, K1)
    for kind, outputs in (("cls", 3), ("bbox", 8)):
        net.conv("conv_new_1", f"rfcn_{kind}", outputs * 9, K1)
        given = f"spatial_scale: 0.0625 output_dim: {outputs} group_size: 3"
        pooled = f"psroipooled_{kind}_rois"
        net.add("PSROIPooling", f"rfcn_{kind} rois", pooled, f"psroi_pooling_param {{ {given} }}")
        average = "pooling_param { pool: AVE kernel_size: 3 stride: 3 }"
        net.add("Pooling", pooled, f"{kind}_pre", average)
    net.add("Softmax", "cls_pre", "cls_prob_pre")
    for blob, made, columns in (("cls_prob_pre", "cls_prob", 3), ("bbox_pre", "bbox_pred", 8)):
        shape = f"reshape_param {{ shape {{ dim: -1 dim: {columns} }} }}"
        net.add("Reshape", blob, made, shape)
    return net.made("rfcn", "r-fcn:PSROIPooling", rows=True)


# Segmentation

SEGNET_BN = """bn_param { scale_filler { type: "constant" value: 1 } bn_mode: INFERENCE
    shift_filler { type: "constant" value: 0.001 } }"""


def segnet_body(net: Text) -> None:
    def unit(bottom: str, name: str, outputs: int) -> str:
        net.conv(bottom, name, outputs, K3)
        net.add("BN", name, name, SEGNET_BN, f"{name}_bn")
        return net.relu(name)

    window = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    for stage, bottom, outputs in ((1, "data", 6), (2, "pool1", 8), (3, "pool2", 8)):
        unit(bottom, f"conv{stage}_1", outputs)
        net.add("Pooling", f"conv{stage}_1", f"pool{stage} pool{stage}_mask", window)
    for stage, bottom, outputs, size in (
        (3, "pool3", 8, "upsample_w: 8 upsample_h: 5"),
        (2, "conv3_1_D", 6, "pad_out_h: true"),
        (1, "conv2_1_D", 5, ""),
    ):
        mask, made = f"pool{stage}_mask", f"upsample{stage}"
        net.add("Upsample", f"{bottom} {mask}", made, f"upsample_param {{ scale: 2 {size} }}")
        unit(made, f"conv{stage}_1_D", outputs)


def segnet() -> ForkNet:
    net = Text(inputs(data=(1, 3, 18, 32)))
    segnet_body(net)
    net.add("Softmax", "conv1_1_D", "prob", "softmax_param { engine: CAFFE }")
    return net.made("segnet", "segnet:BN segnet:Upsample")


def segnet_train() -> ForkNet:
    data = """dense_image_data_param { source: "/SegNet/CamVid/train.txt" batch_size: 2
        shuffle: true }"""
    net = Text(layer("DenseImageData", "", "data label", data))
    segnet_body(net)
    net.lines = [line.replace("INFERENCE", "LEARN") for line in net.lines]
    loss = """softmax_param { engine: CAFFE } loss_param: { weight_by_label_freqs: true
        ignore_label: 11 class_weighting: 0.2595 class_weighting: 0.1826 class_weighting: 4.564
        class_weighting: 0.1417 class_weighting: 0.9051 }"""
    net.add("SoftmaxWithLoss", "conv1_1_D label", "loss", loss)
    net.add("Accuracy", "conv1_1_D label", "accuracy per_class_accuracy")
    told = "segnet:DenseImageData segnet:BN segnet:Upsample"
    return net.made("segnet_train", told, input_shape=["data=2,3,18,32"])


def enet() -> ForkNet:
    net = Text(inputs(data=(1, 3, 16, 24)))

    def tail(blob: str) -> str:
        net.add("BN", blob, blob, SEGNET_BN, f"{blob}_bn")
        return net.add("PReLU", blob, blob, "", f"{blob}_prelu")

    net.conv("data", "conv0_1", 5, DOWN)
    net.pool("data", "pool0_1")
    tail(net.add("Concat", "conv0_1 pool0_1", "concat0_1"))
    pooled = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    net.add("Pooling", "concat0_1", "pool1_0 pool1_0_mask", pooled)
    tail(net.conv("concat0_1", "conv1_0_0", 4, "kernel_size: 2 stride: 2 bias_term: false"))
    net.conv("conv1_0_0", "conv1_0_1_a", 4, "kernel_h: 5 kernel_w: 1 pad_h: 2 bias_term: false")
    tail(net.conv("conv1_0_1_a", "conv1_0_1", 4, "kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2"))
    net.conv("conv1_0_1", "conv1_0_2", 8, "kernel_size: 3 pad: 2 dilation: 2")
    net.add("Dropout", "conv1_0_2", "conv1_0_2", "dropout_param { dropout_ratio: 0.1 }", "drop1_0")
    net.add("Eltwise", "conv1_0_2 pool1_0", "eltwise1_0", "eltwise_param { operation: SUM }")
    tail("eltwise1_0")
    net.add("Upsample", "eltwise1_0 pool1_0_mask", "upsample5_0", "upsample_param { scale: 2 }")
    tail(net.conv("eltwise1_0", "deconv5_0", 8, "kernel_size: 2 stride: 2", "", "Deconvolution"))
    net.add("Eltwise", "deconv5_0 upsample5_0", "eltwise5_0", "eltwise_param { operation: SUM }")
    net.conv("eltwise5_0", "deconv6", 7, "kernel_size: 2 stride: 2", "", "Deconvolution")
    return net.made("enet", "segnet:BN segnet:Upsample")


def pspnet() -> ForkNet:
    net = Text(inputs(data=(1, 3, 33, 41)))
    bn = """param { lr_mult: 1 decay_mult: 0 } param { lr_mult: 1 decay_mult: 0 }
        param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 }
        bn_param { slope_filler { type: "constant" value: 1 } frozen: true momentum: 0.95
        bias_filler { type: "constant" value: 0 } }"""

    def unit(bottom: str, name: str, outputs: int, window: str) -> str:
        net.conv(bottom, name, outputs, f"{window} bias_term: false")
        return net.relu(net.add("BN", name, f"{name}/bn", bn))

    blob = unit(unit("data", "conv1_1_3x3_s2", 6, DOWN), "conv2_3x3", 8, DOWN)
    blob = unit(
        unit(blob, "conv3_3x3", 8, DOWN), "conv4_3x3", 8, "kernel_size: 3 pad: 2 dilation: 2"
    )
    blob = unit(blob, "conv5_3x3", 8, "kernel_size: 3 pad: 4 dilation: 4")
    parts = [blob]
    for size, window in ((1, (5, 6)), (2, (3, 3)), (3, (2, 2))):
        name = f"conv5_3_pool{size}"
        height, width = window
        given = f"kernel_h: {height} kernel_w: {width} stride_h: {height} stride_w: {width}"
        net.add("Pooling", blob, name, f"pooling_param {{ pool: AVE {given} }}")
        made = unit(name, f"{name}_conv", 4, K1)
        parts.append(
            net.add("Interp", made, f"{name}_interp", "interp_param { height: 5 width: 6 }")
        )
    net.add("Concat", " ".join(parts), "conv5_3_concat")
    net.add("Dropout", "conv5_3_concat", "conv5_3_concat", "dropout_param { dropout_ratio: 0.1 }")
    net.conv("conv5_3_concat", "conv6", 5, K1)
    net.add("Interp", "conv6", "conv6_interp", "interp_param { zoom_factor: 8 }")
    return net.made("pspnet", "pspnet:BN pspnet:Interp")


def deeplab(crf: bool = False) -> ForkNet:
    data = """image_data_param { source: "${EXP}/list/${TEST_SET}.txt" batch_size: 1
        root_folder: "${DATA_ROOT}" label_type: NONE } include { phase: TEST }
        transform_param { mean_value: 104.008 crop_size: 33 mirror: false }"""
    net = Text(layer("ImageSegData", "", "data label data_dim", data))
    blob = net.pool(net.block("data", "conv1_1", 6, K3), "pool1", DOWN)
    blob = net.pool(net.block(blob, "conv2_1", 8, K3), "pool2", DOWN)
    blob = net.pool(net.block(blob, "conv3_1", 8, "kernel_size: 3 pad: 2 dilation: 2"), "pool3", K3)
    branches = []
    for number, reach in enumerate((6, 12), 1):
        window = f"kernel_size: 3 pad: {reach} dilation: {reach}"
        fc6 = net.block(blob, f"fc6_{number}", 8, window)
        net.add("Dropout", fc6, fc6, "dropout_param { dropout_ratio: 0.5 }", f"drop6_{number}")
        branches.append(net.conv(fc6, f"fc8_{number}", 5, K1))
    net.add("Eltwise", " ".join(branches), "fc8", "eltwise_param { operation: SUM }")
    net.add("Interp", "fc8", "fc8_interp", "interp_param { zoom_factor: 4 }")
    end = "fc8_interp"
    if crf:
        given = """dense_crf_param { max_iter: 10 pos_w: 3 pos_xy_std: 3 bi_w: 4 bi_xy_std: 49
            bi_rgb_std: 5 output_probability: false }"""
        end = net.add("DenseCRF", "fc8_interp data_dim data", "crf_inf", given)
    else:
        net.add("Silence", "data_dim", "", name="silence_dim")
    given = 'mat_write_param { prefix: "${FEATURE_DIR}/" source: "val.txt" strip: 0 period: 1 }'
    net.add("MatWrite", end, "", given, "fc8_mat")
    net.add("Silence", "label", "", name="silence")
    return net.made("deeplab", "pspnet:ImageSegData pspnet:Interp pspnet:MatWrite")


def fcn8s() -> ForkNet:
    net = Text(inputs(data=(1, 3, 20, 26)))
    net.pool(net.block("data", "conv1_1", 6, "kernel_size: 3 pad: 20"), "pool1")
    net.pool(net.block("pool1", "conv2_1", 8, K3), "pool2")
    net.block("pool2", "fc6", 8, "kernel_size: 7")
    net.conv("fc6", "score_fr", 4, K1)
    frozen = "convolution_param {{ num_output: 4 bias_term: false kernel_size: {} stride: 2 }}"
    learned = "param { lr_mult: 0 }"
    net.add("Deconvolution", "score_fr", "upscore2", f"{frozen.format(4)} {learned}")
    net.add("Scale", "pool1", "scale_pool1", "scale_param { filler { value: 0.01 } }")
    net.conv("scale_pool1", "score_pool1", 4, K1)
    net.add("Crop", "score_pool1 upscore2", "score_pool1c", "crop_param { axis: 2 offset: 5 }")
    net.add("Eltwise", "upscore2 score_pool1c", "fuse", "eltwise_param { operation: SUM }")
    net.add("Deconvolution", "fuse", "upscore", f"{frozen.format(6)} {learned}")
    net.add("Crop", "upscore data", "score", "crop_param { axis: 2 offset: 9 }")
    return net.made("fcn8s", "")


def hed() -> ForkNet:
    net = Text(inputs(data=(1, 3, 20, 28)))
    net.block("data", "conv1_1", 6, "kernel_size: 3 pad: 9")
    net.pool("conv1_1", "pool1")
    net.block("pool1", "conv2_1", 8, K3)
    net.conv("conv1_1", "score-dsn1", 1, K1)
    net.conv("conv2_1", "score-dsn2", 1, K1)
    window = "convolution_param { kernel_size: 4 stride: 2 num_output: 1 bias_term: false }"
    net.add("Deconvolution", "score-dsn2", "score-dsn2-up", f"{window} param {{ lr_mult: 0 }}")
    for number, blob in ((1, "score-dsn1"), (2, "score-dsn2-up")):
        net.add("Crop", f"{blob} data", f"upscore-dsn{number}", name="crop")
        net.add("Sigmoid", f"upscore-dsn{number}", f"sigmoid-dsn{number}")
    concat = "concat_param { concat_dim: 1 }"
    net.add("Concat", "upscore-dsn1 upscore-dsn2", "concat-upscore", concat)
    net.conv("concat-upscore", "upscore-fuse", 1, K1)
    net.add("Sigmoid", "upscore-fuse", "sigmoid-fuse")
    return net.made("hed", "fcn-future:Crop", dialect=["fcn-future"])


# Classification


def senet() -> ForkNet:
    net = Text(inputs(data=(1, 3, 17, 21)))
    net.normalised("data", "conv1", 8, DOWN, "relu")
    net.normalised("conv1", "conv2_1_3x3", 8, K3)
    pooled = "pooling_param { pool: AVE engine: CAFFE global_pooling: true }"
    net.add("Pooling", "conv2_1_3x3", "conv2_1_global_pool", pooled)
    net.block("conv2_1_global_pool", "conv2_1_1x1_down", 2, K1)
    net.conv("conv2_1_1x1_down", "conv2_1_1x1_up", 8, K1)
    net.add("Sigmoid", "conv2_1_1x1_up", "conv2_1_1x1_up", "", "conv2_1_prob")
    net.relu(net.add("Axpy", "conv2_1_1x1_up conv2_1_3x3 conv1", "conv2_1"))
    net.add("InnerProduct", "conv2_1", "classifier", "inner_product_param { num_output: 6 }")
    net.add("Softmax", "classifier", "prob")
    return net.made("senet", "senet:Axpy")


def shufflenet() -> ForkNet:
    net = Text(inputs(data=(1, 3, 17, 25)))
    net.pool(net.normalised("data", "conv1", 6, DOWN, "relu"), "pool1", "kernel_size: 3 stride: 2")
    blob = "pool1"
    for number, stride in ((1, 2), (2, 1)):
        name, width = f"resx{number}", 6 * number
        net.normalised(blob, f"{name}_conv1", 6, f"{K1} group: 3", "relu")
        shuffled = f"shuffle{number}"
        group = "shuffle_channel_param { group: 3 }"
        net.add("ShuffleChannel", f"{name}_conv1", shuffled, group)
        window = f"kernel_size: 3 pad: 1 stride: {stride} bias_term: false"
        net.conv(shuffled, f"{name}_conv2", 6, window, "", "ConvolutionDepthwise")
        net.normalised(f"{name}_conv2", f"{name}_conv3", width, f"{K1} group: 3")
        if stride == 2:
            average = "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"
            net.add("Pooling", blob, f"{name}_match_conv", average)
            blob = net.add("Concat", f"{name}_match_conv {name}_conv3", f"{name}_concat")
        else:
            blob = net.add("Eltwise", f"{blob} {name}_conv3", f"{name}_elewise")
        net.relu(blob)
    net.add("Pooling", blob, "pool_ave", "pooling_param { global_pooling : true pool: AVE }")
    net.conv("pool_ave", "fc", 6, K1)
    told = "shufflenet:ShuffleChannel depthwise:ConvolutionDepthwise"
    return net.made("shufflenet", told)


def nvidia(version: str) -> ForkNet:
    """caffe-0.17 writes `scale_bias`; what caffe-0.15 stored shows in the blobs alone."""
    dialect, more = {"0.17": ("nvidia", " scale_bias: true"), "0.15": ("nvidia15", "")}[version]
    net = Text(inputs(data=(2, 3, 9, 11)))
    net.conv("data", "conv1", 6, f"{DOWN} bias_term: false")
    given = f"batch_norm_param {{ moving_average_fraction: 0.9 eps: 0.0001{more} }} {LRS}"
    net.relu(net.add("BatchNorm", "conv1", "bn1", given))
    net.add("InnerProduct", "bn1", "fc", "inner_product_param { num_output: 5 }")
    made = net.made(f"{dialect}_batch_norm", f"{dialect}:BatchNorm")
    return replace(made, stored=dialect)


def c3d() -> ForkNet:
    net = Text(inputs(data=(1, 3, 4, 14, 18)))
    blob = "data"
    for number, outputs, depth in ((1, 6, 1), (2, 8, 2)):
        given = f"""convolution3d_param {{ num_output: {outputs} kernel_size: 3 kernel_depth: 3
            pad: 1 temporal_pad: 1 {XAVIER} }} {LRS}"""
        net.relu(net.add("Convolution3D", blob, f"conv{number}a", given))
        pooled = f"""pooling3d_param {{ pool: MAX kernel_size: 2 kernel_depth: {depth} stride: 2
            temporal_stride: {depth} }}"""
        blob = net.add("Pooling3D", f"conv{number}a", f"pool{number}", pooled)
    net.add("InnerProduct", blob, "fc8", f"inner_product_param {{ num_output: 5 }} {LRS}")
    net.add("Softmax", "fc8", "prob")
    return net.made("c3d", "c3d:Convolution3D c3d:Pooling3D")


def lmdb_train_val() -> ForkNet:
    net = Text()
    for phase, source in (("TRAIN", "train"), ("TEST", "val")):
        given = f"""include {{ phase: {phase} }} transform_param {{ mirror: true crop_size: 16
            mean_file: "data/ilsvrc12/imagenet_mean.binaryproto" }} data_param {{
            source: "examples/imagenet/ilsvrc12_{source}_lmdb" batch_size: 4 backend: LMDB }}"""
        net.add("Data", "", "data label", given)
    net.pool(net.block("data", "conv1", 6, "kernel_size: 5 stride: 2"), "pool1")
    net.add("LRN", "pool1", "norm1", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")
    net.block("norm1", "conv2", 6, f"{K3} group: 2")
    net.add("InnerProduct", "conv2", "fc8", f"inner_product_param {{ num_output: 7 }} {LRS}")
    net.add("Accuracy", "fc8 label", "accuracy", "include { phase: TEST }")
    top = "include { phase: TEST } accuracy_param { top_k: 3 }"
    net.add("Accuracy", "fc8 label", "accuracy_top3", top)
    net.add("SoftmaxWithLoss", "fc8 label", "loss")
    return net.made("lmdb_train_val", "", keep_losses=True, input_shape=["data=4,3,16,16"])


# YOLO


def yolo_v3() -> ForkNet:
    net = Text(inputs(data=(1, 3, 64, 64)))
    blob = net.normalised("data", "conv0", 8, DOWN, "relu")
    for number in (1, 2):
        name = f"conv{number}/dw"
        window = "kernel_size: 3 pad: 1 stride: 2 group: 8 engine: CAFFE"
        blob = net.relu(net.conv(blob, name, 8, window, "", "DepthwiseConvolution"))
        blob = net.normalised(blob, f"conv{number}", 8, K1, "relu")
    net.normalised(blob, "conv3", 8, DOWN, "relu")
    net.add("Upsample", "conv3", "upsample", "upsample_param { scale: 2 }")
    net.add("Eltwise", "upsample conv2", "conv4/sum")
    net.conv("conv3", "conv20", 21, K1)
    net.conv("conv4/sum", "conv21", 21, K1)
    biases = " ".join(f"biases: {size}" for size in (6, 8, 9, 14, 12, 10, 18, 22, 25, 19, 30, 34))
    given = f"""yolov3_detection_output_param {{ confidence_threshold: 0.7 nms_threshold: 0.45
        num_classes: 2 {biases} mask: 3 mask: 4 mask: 5 mask: 0 mask: 1 mask: 2
        anchors_scale: 16 anchors_scale: 8 mask_group_num: 2 }} include {{ phase: TEST }}"""
    net.add("Yolov3DetectionOutput", "conv20 conv21", "detection_out", given)
    told = "depthwise:DepthwiseConvolution yolo:Upsample yolo:Yolov3DetectionOutput"
    return net.made("yolo_v3", told, rows=True)


def yolo_v2() -> ForkNet:
    net = Text(inputs(data=(1, 3, 32, 32)))

    def unit(bottom: str, number: int, outputs: int) -> str:
        net.conv(bottom, f"conv{number}", outputs, f"{K3} bias_term: false")
        stored = "batch_norm_param { use_global_stats: true }"
        net.add("BatchNorm", f"conv{number}", f"bn{number}", stored)
        scaled = f"scale{number}"
        net.add("Scale", f"bn{number}", scaled, "scale_param { bias_term: true }")
        return net.relu(scaled, "relu_param { negative_slope: 0.1 }")

    blob = net.pool(net.pool(unit("data", 1, 6), "pool1"), "pool2")
    last = unit(net.pool(unit(blob, 2, 8), "pool3"), 3, 8)
    net.add("Reorg", "scale2", "reorg1", "reorg_param { stride: 2 }")
    unit(net.add("Concat", f"reorg1 {last}", "concat1"), 4, 8)
    net.conv("scale4", "conv22", 16, K1)
    given = """yolo_detection_output_param { confidence_threshold: 0.4 nms_threshold: 0.45
        num_classes: 3 num_box: 2 biases: 1.08 biases: 1.19 biases: 3.42 biases: 4.41 }"""
    net.add("YoloDetectionOutput", "conv22", "detection_out", given)
    return net.made("yolo_v2", "yolo:Reorg yolo:YoloDetectionOutput", rows=True)


# Optical flow


def flownet2(correlated: bool) -> ForkNet:
    net = Text(inputs(img0=(1, 3, 32, 40), img1=(1, 3, 32, 40)))
    slope = "relu_param { negative_slope: 0.1 }"
    resized = "resample_param {{ width: 48 height: 32 type: {} antialias: true }}"
    for number in "01":
        scaled = "eltwise_param { operation: SUM coeff: 0.00392156862745098 }"
        net.add("Eltwise", f"img{number}", f"img{number}s", scaled)
        net.add("Resample", f"img{number}s", f"img{number}_aug", resized.format("LINEAR"))
    if correlated:
        for place, side in enumerate("ab"):
            shared = 'param { name: "conv1_w" } param { name: "conv1_b" }'
            given = f"convolution_param {{ num_output: 6 {DOWN} engine: CUDNN }} {shared}"
            net.relu(net.add("Convolution", f"img{place}_aug", f"conv1{side}", given), slope)
        given = """correlation_param { pad: 4 kernel_size: 1 max_displacement: 4 stride_1: 1
            stride_2: 2 }"""
        net.relu(net.add("Correlation", "conv1a conv1b", "corr", given), slope)
        net.relu(net.conv("conv1a", "conv_redir", 4, K1), slope)
        both = "conv_redir corr"
    else:
        both = "img0_aug img1_aug"
    net.add("Concat", both, "blob16", "concat_param { axis: 1 }")
    net.relu(net.conv("blob16", "conv2", 8, DOWN), slope)
    net.conv("conv2", "predict_flow2", 2, K3)
    net.conv(
        "predict_flow2", "upsampled", 2, "kernel_size: 4 pad: 1 stride: 2", "", "Deconvolution"
    )
    net.add("Eltwise", "upsampled", "blob44", "eltwise_param { operation: SUM coeff: 20.0 }")
    net.add("Resample", "blob44", "flow", resized.format("CUBIC"))
    net.add("FlowWarp", "img1_aug flow", "warped")
    given = "eltwise_param { operation: SUM coeff: 1.0 coeff: -1.0 }"
    net.add("Eltwise", "img0_aug warped", "img_diff", given)
    net.add("ChannelNorm", "img_diff", "brightness_error")
    told = "flownet2:Resample flownet2:FlowWarp flownet2:ChannelNorm"
    return net.made(
        f"flownet2_{'c' if correlated else 's'}",
        told + (" flownet2:Correlation" if correlated else ""),
    )


# Sequences


def crnn() -> ForkNet:
    net = Text(inputs(data=(1, 1, 8, 14)))
    net.pool(net.block("data", "conv1", 6, K3), "pool1")
    flat = "pooling_param { pool: MAX kernel_h: 4 kernel_w: 1 }"
    net.add("Pooling", "pool1", "pool2", flat)
    net.add("Transpose", "pool2", "pool2_t", "transpose_param { dim: 3 dim: 0 dim: 1 dim: 2 }")
    net.add("Reshape", "pool2_t", "seq", "reshape_param { shape { dim: -1 dim: 6 } }")
    given = """lstm_param { num_output: 5 clipping_threshold: 0.1
        weight_filler { type: "gaussian" std: 0.1 } bias_filler { type: "constant" } }"""
    net.add("Lstm", "seq", "lstm1", given)
    net.add("Reverse", "seq", "rlstm2_in", "reverse_param { axis: 0 }")
    net.add("Lstm", "rlstm2_in", "rlstm2", given)
    net.add("Reverse", "rlstm2", "lstm2", "reverse_param { axis: 0 }")
    net.add("Concat", "lstm1 lstm2", "blstm", "concat_param { axis: 1 }")
    net.add("InnerProduct", "blstm", "fc1", "inner_product_param { num_output: 7 }")
    net.add("Softmax", "fc1", "probs")
    told = "makefile-frcnn:Transpose makefile-frcnn:Reverse junhyukoh:Lstm"
    return net.made("crnn", told)


def lrcn() -> ForkNet:
    shapes = dict(cont_sentence=(4, 2), input_sentence=(4, 2), image_features=(2, 6))
    net = Text(inputs(**shapes))
    given = "embed_param { bias_term: false input_dim: 9 num_output: 5 }"
    net.add("Embed", "input_sentence", "embedded", given, "embedding")
    recurrent = """recurrent_param { num_output: 5 bias_filler { type: "constant" value: 0 }
        weight_filler { type: "uniform" min: -0.08 max: 0.08 } }"""
    net.add("LSTM", "embedded cont_sentence", "lstm1", recurrent)
    net.add("LSTM", "lstm1 cont_sentence image_features", "lstm2", recurrent)
    net.add("InnerProduct", "lstm2", "predict", "inner_product_param { num_output: 9 axis: 2 }")
    net.add("Softmax", "predict", "probs", "softmax_param { axis: 2 }")
    return net.made("lrcn", "")


# DIGITS

DETECTNET = """detectnet_groundtruth_param: { stride: 16 scale_cvg: 0.4 gridbox_type: GRIDBOX_MIN
      coverage_type: RECTANGULAR min_cvg_len: 20 obj_norm: true image_size_x: 32 image_size_y: 24
      crop_bboxes: true object_class: { src: 1 dst: 0 } }
    detectnet_augmentation_param: { crop_prob: 1 flip_prob: 0.5 scale_min: 0.8 }
    transform_param: { mean_value: 127 } include: { phase: TRAIN }"""


def detectnet(**options: Any) -> ForkNet:
    train, deploy = "include: { phase: TRAIN }", 'include: { phase: TEST not_stage: "val" }'
    net = Text()
    for top in ("data", "label"):
        stored = f"""data_param {{ backend: LMDB source: "kitti_{top}.lmdb" batch_size: 10 }}"""
        net.add("Data", "", top, f"{stored} {train}", f"train_{top}")
    shape = f"input_param {{ shape {{ dim: 1 dim: 3 dim: 24 dim: 32 }} }} {deploy}"
    net.add("Input", "", "data", shape, "deploy_data")
    changed = "transformed_data transformed_label"
    net.add("DetectNetTransformation", "data label", changed, DETECTNET, "train_transform")
    shift = f"power_param {{ shift: -127 }} {deploy}"
    net.add("Power", "data", "transformed_data", shift, "deploy_transform")
    net.block("transformed_data", "conv1/7x7_s2", 6, "kernel_size: 7 pad: 3 stride: 2")
    net.conv("conv1/7x7_s2", "cvg/classifier", 1, K1)
    net.add("Sigmoid", "cvg/classifier", "coverage", "", "coverage/sig")
    net.conv("conv1/7x7_s2", "bboxes", 4, K1)
    net.add("L1Loss", "bboxes transformed_label", "loss_bbox", f"loss_weight: 2 {train}")
    given = """python_param { module: 'caffe.layers.detectnet.clustering'
        layer: 'ClusterDetections' param_str : '32, 24, 16, 0.6, 3, 0.02, 22, 1' }"""
    net.add("Python", "coverage bboxes", "bbox-list", f"{given} include: {{ phase: TEST }}")
    return net.made("detectnet", "", **options)


def all_nets() -> Sequence[ForkNet]:
    """Every net that is to be converted."""
    return (
        ssd(),
        ssd_train_val("TEST"),
        ssd_train_val("TRAIN"),
        faster_rcnn(),
        rfcn(),
        segnet(),
        segnet_train(),
        enet(),
        pspnet(),
        deeplab(),
        fcn8s(),
        hed(),
        senet(),
        shufflenet(),
        nvidia("0.17"),
        nvidia("0.15"),
        c3d(),
        lmdb_train_val(),
        yolo_v3(),
        yolo_v2(),
        flownet2(correlated=True),
        flownet2(correlated=False),
        crnn(),
        lrcn(),
        detectnet(outputs="coverage,bboxes"),
    )
