"""What the forks train and score with: known, so that it is dropped with its labels.

None of these is computed, not with --keep-losses either; each says why.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from schemas.errors import UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import Meaning, layer


class Training(Meaning):
    """A loss or score without an exact form here; its parameters are not looked at.

    Attributes:
        reason: why it is not computed.
    """

    bottom_count: Tuple[int, Optional[int]] = (1, None)
    top_count: Tuple[int, Optional[int]] = (0, None)
    role = "loss"
    reason: str = ""

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        raise UnsupportedModel(
            f"it is dropped, and cannot be kept with --keep-losses: {self.reason}"
        )


@layer("MultiBoxLoss", dialect="ssd")
class MultiBoxLoss(Training):
    """SSD's loss of boxes and classes over the priors that it matches and the negatives that it
    mines (multibox_loss_layer.cpp of weiliu89/caffe)."""

    bottom_count = (4, 4)
    labels = 3
    reason = "its matching and its mining of negatives have no form here"


@layer("DetectionEvaluate", dialect="ssd")
class DetectionEvaluate(Training):
    """Counts detections against ground truth for an average precision that the solver works out
    over a whole data set (detection_evaluate_layer.cpp of weiliu89/caffe)."""

    bottom_count = (2, 2)
    reason = "its ground truth is as long as the data has it, and only the solver sums it up"


@layer(
    "BoxAnnotatorOHEM",
    "SoftmaxWithLossOHEM",
    "SoftmaxLossOHEM",
    "SmoothL1LossOHEM",
    dialect="r-fcn",
)
class OnlineHardExamples(Training):
    """Online hard example mining: the losses of each region, and the choice of the regions to learn
    from (box_annotator_ohem_layer.cpp and others of daijifeng001/caffe-rfcn)."""

    labels = 2
    reason = "it picks the regions of one training step, and its code is for GPUs only"


@layer("SegAccuracy", dialect="pspnet")
class SegAccuracy(Training):
    """DeepLab's accuracy over the confusion matrix of all batches since the last reset
    (seg_accuracy_layer.cpp of xmojiao/deeplab_v2)."""

    bottom_count = (2, 2)
    reason = "it adds up one confusion matrix over many passes"


@layer("ParseEvaluate", dialect="parsenet")
class ParseEvaluate(Training):
    """ParseNet's counts of right, labelled and predicted pixels (parse_evaluate_layer.cpp)."""

    bottom_count = (2, 2)
    reason = "its source was not at hand"


@layer("RegionLoss", "DetectionLoss", "Yolov3", "GaussianYolov3", "YoloSeg", dialect="yolo")
class YoloLoss(Training):
    """The losses of YOLO v1 to v3: of boxes, objects and classes in the cells of a grid, over the
    anchors that fit the ground truth (region_loss_layer.cpp, yolov3_layer.cpp and others of
    eric612/MobileNet-YOLO)."""

    reason = "what it weighs depends on how many images it was trained with"


@layer("EvalDetection", "SegmentationEvaluate", dialect="yolo")
class YoloScore(Training):
    """Scores of YOLO's forks over a data set (eval_detection_layer.cpp)."""

    reason = "it has no form here, and only the solver sums it up"


@layer(
    "CenterLoss",
    "TripletLoss",
    "GeneralTripletLoss",
    "NCALoss",
    "BatchContrastiveLoss",
    "GeneralContrastiveLoss",
    "SoftContrastiveLoss",
    "CorrelationLoss",
    "ConfidencePenaltyLoss",
    "FocalLoss",
    "FCNAccuracy",
    dialect="happynear",
)
class EmbeddingLoss(Training):
    """Losses and scores of happynear's caffe-windows, of caffe-face and of makefile/frcnn, which
    give some of them other meanings under one name."""

    reason = "forks give the name different meanings, and none was at hand to compare with"


@layer("MarginInnerProduct", "LargeMarginInnerProduct", "LabelSpecificAdd", dialect="happynear")
class Margin(Training):
    """Scores whose own class is made harder by a margin, in both phases: SphereFace's and
    L-Softmax's inner products, and happynear's added margin. A deploy net goes without."""

    reason = "the margin depends on how far the training was"


@layer("L1Loss", "LpqLoss", dialect="flownet2")
class FlowLoss(Training):
    """FlowNet2's losses of flow fields, in which ground truth that is not a number does not count
    (l1loss_layer.cu, lpq_loss_layer.cu of lmb-freiburg/flownet2)."""

    reason = "its code is for GPUs only, and there was none at hand to compare with"


@layer("CtcLoss", "LabelsequenceAccuracy", dialect="crnn")
class SequenceLoss(Training):
    """CRNN's connectionist temporal classification, and the share of whole words that are right
    (ctc_loss_layer.cpp, labelsequence_accuracy_layer.cpp of crnn.caffe)."""

    reason = "its alignment of label sequences has no form here"


class Refused(Meaning):
    """Stands in the middle of a net, so that it cannot be dropped, and has no exact form."""

    bottom_count = (1, None)
    top_count = (1, None)


@layer("DataAugmentation", dialect="flownet2")
class DataAugmentation(Refused):
    """Crops and colours images at random, and subtracts a mean that it adds up from the images of
    its first passes (data_augmentation_layer.cu of lmb-freiburg/flownet2, for GPUs only)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "DataAugmentation's mean goes on from pass to pass, and its blobs have the size of the "
            "images that it was trained with: replace it by a Mean layer that holds that mean"
        )


@layer(
    "GenerateAugmentationParameters", "FlowAugmentation", "BlackAugmentation", dialect="flownet2"
)
class Augmentation(Refused):
    """FlowNet2's random augmentation of training data."""

    def check(self) -> None:
        raise UnsupportedModel(
            "it augments training data at random: leave it out, as a deploy net does"
        )


@layer("DetectNetTransformation", dialect="nvidia")
class DetectNetTransformation(Refused):
    """DetectNet's augmentation, which also makes its labels (detectnet_transform_layer.cpp of
    NVIDIA/caffe)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "it augments training data at random: leave it out, as a deploy net does"
        )
