"""How the images of well-known nets were made for training: data for both stages.

A preset does not tell the crop: it is the net's own input, 227 or 224. Means are in the order BGR,
from 0 to 255.
"""

from __future__ import annotations

from typing import Dict, Tuple

# The channels' means of imagenet_mean.binaryproto (ILSVRC2012, 256 x 256), as Caffe's
# examples/00-classification.ipynb takes them.
_ILSVRC = (104.00698793, 116.66876762, 122.67891434)
# What bvlc_googlenet/train_val.prototxt and SqueezeNet's subtract.
_ROUNDED = (104.0, 117.0, 123.0)
# The VGG team's own (the ILSVRC-2014 model with 16 layers).
_VGG = (103.939, 116.779, 123.68)
# The channels' means of ResNet_mean.binaryproto (224 x 224, subtracted after the crop).
_RESNET = (103.062623801, 115.902882574, 123.151630838)

_IMAGE = "a mean for each channel stands for the mean image {} (--mean takes it)"
_BVLC = _IMAGE.format("imagenet_mean.binaryproto")
_KAIMING = _IMAGE.format("ResNet_mean.binaryproto")

# Name -> (resize, size, means of the channels, what is not as it was in training).
PRESETS: Dict[str, Tuple[str, int, Tuple[float, ...], str]] = {
    "alexnet": ("warp", 256, _ILSVRC, _BVLC),
    "caffenet": ("warp", 256, _ILSVRC, _BVLC),
    "googlenet": ("warp", 256, _ROUNDED, ""),
    "nin": ("short_side", 256, _ILSVRC, _IMAGE.format("that the authors made of their own data")),
    "resnet-50": ("short_side", 256, _RESNET, _KAIMING),
    "resnet-101": ("short_side", 256, _RESNET, _KAIMING),
    "resnet-152": ("short_side", 256, _RESNET, _KAIMING),
    "squeezenet": ("warp", 256, _ROUNDED, ""),
    "vgg16": ("short_side", 256, _VGG, ""),
}
