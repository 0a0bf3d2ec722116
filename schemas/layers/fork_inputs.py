"""The forks' data layers, which become inputs of the converted net.

What a fork's data layer gives beside its images (boxes, sizes of images) is as long as its data
have it: its shape is asked for where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence, Tuple

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.inputs import READING, TRANSFORM, Source, images, without_effect
from schemas.layers.registry import layer

# What these layers read of transform_param.
_READ = ("crop_size", "crop_h", "crop_w", "crop_height", "crop_width", "resize_param")
_REST = {name: reason for name, reason in TRANSFORM.items() if name not in _READ}
# Where the layer itself says how its images are decoded.
_DECODED = without_effect(
    "does not tell the number of channels", "mean_value force_color force_gray"
)


@dataclass(frozen=True, eq=False)
class Transformed(Source):
    """Images of a size that transform_param tells: what is cropped to, or else resized to."""

    batch_size: int = 0
    crop_size: int = 0
    crop_h: int = 0
    crop_w: int = 0
    crop_height: int = 0
    crop_width: int = 0
    resize_param: Tuple[Mapping[str, Any], ...] = ()

    def check(self) -> None:
        for one, other in ((self.crop_h, self.crop_w), (self.crop_height, self.crop_width)):
            if (one > 0) != (other > 0):
                raise MalformedModel(
                    f"crop height and width should be set together, found {one} and {other}"
                )

    def size(self) -> Tuple[int, int]:
        """(height, width); 0 where the images themselves decide."""
        height = self.crop_h or self.crop_height or self.crop_size
        if height:
            return height, self.crop_w or self.crop_width or self.crop_size
        return self.resized()

    def resized(self) -> Tuple[int, int]:
        """(height, width) that each image is brought to before it is cropped."""
        sizes = {
            (resize.get("height", 0), resize.get("width", 0))
            for resize in self.resize_param
            # The longer side of this one depends on the image (InferNewSize, im_transforms.cpp).
            if resize.get("resize_mode", "WARP") != "FIT_SMALL_SIZE"
        }
        return sizes.pop() if len(sizes) == len(self.resize_param) == 1 else (0, 0)


@dataclass(frozen=True, eq=False)
class Encoded(Transformed):
    """Images from a database, or from a camera, that tell their channels only when decoded."""

    mean_value: Tuple[float, ...] = ()
    force_color: bool = False
    force_gray: bool = False

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        channels = len(self.mean_value) if len(self.mean_value) > 1 else 0
        channels = 3 if self.force_color else 1 if self.force_gray else channels
        data = images(self.batch_size, channels, *self.size(), 1)
        return [*data, *[None] * (tops - 1)]


_DATABASE = without_effect(
    READING,
    """
    source backend rand_skip force_encoded_color prefetch cache parser_threads precache random
    shuffle shuffle_buffer_size threads side num_label show_data scale mean_file mirror
    """,
)


@layer(
    "AnnotatedData",
    messages=("data_param", "transform_param"),
    harmless={**_REST, **_DATABASE},
    dialect="ssd",
)
class AnnotatedData(Encoded):
    """data (N, C, H, W) and the boxes in it, a row of 8 each (annotated_data_layer.cpp of
    weiliu89/caffe). H and W are known by a crop or by resize_param, C as in Data."""


@layer(
    "VideoData",
    messages=("data_param", "transform_param"),
    harmless={**_REST, **_DATABASE},
    dialect="ssd",
)
class VideoData(Encoded):
    """Frames of a video or a camera, with labels (video_data_layer.cpp of weiliu89/caffe). TSN's,
    C3D's and makefile/frcnn's read video_data_param, which tells no shape: it is asked for."""


@layer("BoxData", messages=("data_param", "transform_param"), harmless={**_REST, **_DATABASE},
       dialect="yolo")  # fmt: skip
class BoxData(Encoded):
    """data (N, C, H, W) and a top of boxes for each `side` (box_data_layer.cpp of
    gklz1982/caffe-yolov2)."""


@dataclass(frozen=True, eq=False)
class Listed(Transformed):
    """Images from the files of a list, with a label for each pixel."""

    batch_size: int = 1
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True

    def check(self) -> None:
        super().check()
        if (self.new_height > 0) != (self.new_width > 0):
            raise MalformedModel(
                "new_height and new_width should be set together, "
                f"found {self.new_height} and {self.new_width}"
            )

    def resized(self) -> Tuple[int, int]:
        return self.new_height, self.new_width

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        height, width = self.size()
        data, _ = images(self.batch_size, 3 if self.is_color else 1, height, width, 2)
        label = None if data is None else (self.batch_size, 1, height, width)
        sizes = (self.batch_size, 1, 1, 2) if self.batch_size > 0 else None
        return [data, label, sizes][:tops]


_FILES = without_effect(
    READING,
    "source rand_skip shuffle root_folder mean_file mirror label_divide_factor scale",
)


@layer(
    "DenseImageData",
    messages=("dense_image_data_param", "transform_param"),
    harmless={**_REST, **_DECODED, **_FILES},
    dialect="segnet",
)
class DenseImageData(Listed):
    """data (N, C, H, W) and a label for each pixel (N, 1, H, W) (dense_image_data_layer.cpp of
    alexgkendall/caffe-segnet and TimoSaemann/caffe-enet)."""

    batch_size: int = 0
    top_count = (1, 2)


@layer(
    "ImageSegData",
    messages=("image_data_param", "transform_param"),
    harmless={
        **_REST,
        **_DECODED,
        **_FILES,
        **without_effect(READING, "ignore_label label_type"),
    },
    dialect="pspnet",
)
class ImageSegData(Listed):
    """data (N, C, H, W), a label for each pixel (N, 1, H, W) and the images' sizes (N, 1, 1, 2)
    (image_seg_data_layer.cpp of hszhao/PSPNet and DeepLab)."""

    top_count = (1, 3)


class Unknown(Source):
    """Tops whose shapes only the files know."""

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        return [None] * tops


@layer("SegData", dialect="tsn")
class SegData(Unknown):
    """Images and their labels from two folders (seg_data_layer.cpp of yjxiong/caffe)."""


@layer("MultiLabelImageData", dialect="happynear")
class MultiLabelImageData(Unknown):
    """Images with several labels each (multi_label_image_data_layer.cpp of
    happynear/caffe-windows)."""


@layer("BboxData", dialect="kvmanohar22")
class BboxData(Unknown):
    """Images and all boxes in them, one after the other (bbox_data_layer.cpp of
    kvmanohar22/caffe)."""


@layer("CPMData", dialect="openpose")
class CPMData(Unknown):
    """Images, and maps of body parts (cpm_data_layer.cpp of OpenPose's caffe_train)."""


@layer("MatRead", dialect="pspnet")
class MatRead(Unknown):
    """Blobs from .mat files (mat_read_layer.cpp of DeepLab)."""


@layer("CustomData", "DisparityData", "ImgReader", "FloatReader", dialect="flownet2")
class FlowFiles(Unknown):
    """FlowNet2's readers of images, flow fields and disparities (custom_data_layer.cpp,
    imgreader_layer.cpp, float_reader_layer.cpp of lmb-freiburg/flownet2)."""
