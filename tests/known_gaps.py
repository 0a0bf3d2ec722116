"""Meanings that are known and refused: (type, dialect) -> the fork's source that says why.

No case of the goldens is among them.
"""

from __future__ import annotations

_AUGMENTS = "flownet2 {}_layer.cpp: random crops and colours, for training"

GAPS: dict[tuple[str, str], str] = {
    ("BlackAugmentation", "flownet2"): _AUGMENTS.format("black_augmentation"),
    ("ChannelShuffle", "holmesshuan"): (
        "channel_shuffle_layer.cpp, pattern 1 (its default): the address has no group"
    ),
    ("Correlation1D", "flownet2"): "correlation_layer1d.cpp, Forward_cpu: NOT_IMPLEMENTED",
    ("DataAugmentation", "flownet2"): (
        "data_augmentation_layer.cpp: a mean that runs on, blobs of the training images' size"
    ),
    ("DeformableConvolution", "deformable"): "deformable_conv_layer.cu: no code for CPUs",
    ("DeformablePSROIPooling", "makefile-frcnn"): (
        "deformable_psroi_pooling_layer.cu: no code for CPUs"
    ),
    ("DenseCRF", "pspnet"): "densecrf_layer.cpp: a permutohedral lattice, a hash table",
    ("DetectNetTransformation", "nvidia"): (
        "detectnet_transform_layer.cpp: random crops and colours, for training"
    ),
    ("DomainTransform", "pspnet"): (
        "domain_transform_layer.cpp: each pixel on the result before it"
    ),
    ("FlowAugmentation", "flownet2"): _AUGMENTS.format("flow_augmentation"),
    ("FrcnnProposal", "makefile-frcnn"): "frcnn_proposal_layer.cpp: FrcnnParam, read from a file",
    ("GenerateAugmentationParameters", "flownet2"): _AUGMENTS.format(
        "generate_augmentation_parameters"
    ),
    ("MultiStageMeanfield", "crf-rnn"): "multi_stage_meanfield.cpp: a permutohedral lattice",
    ("ROIAlign", "synopsys"): "roi_align_layer.cpp: regions are skipped by their place in the list",
    ("ROIMaskPooling", "makefile-frcnn"): "roi_mask_pooling_layer.cpp: the mask in GPU code alone",
    ("ROIWarping", "soeaver"): "roi_warping_layer.cpp, Forward_cpu: NOT_IMPLEMENTED",
}
