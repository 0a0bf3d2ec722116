"""Where data comes from: Input, and the data layers, which become inputs of the converted net."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UnsupportedModel
from schemas.graph import Shape
from schemas.layers.registry import FILLER, Meaning, layer


def without_effect(reason: str, names: str) -> Dict[str, str]:
    """The parameters `names`, separated by blanks, as `harmless` for one reason."""
    return dict.fromkeys(names.split(), reason)


READING = "how a training run reads its data"

# Fields of transform_param, the forks' too. What they make of an image's size is overruled by
# crop_size, and where that is missing the shape is not known.
TRANSFORM = without_effect(
    "preprocessing, read apart",
    """
    scale mirror mean_file bgr2rgb caffe_yolo center_crop crop_h crop_height crop_w crop_width
    distort_param emit_constraint expand_param flow noise_param pad random_90_deg_rot
    random_aspect_ratio_param random_resize_param resize_param scale_factors vertical_mirror
    """,
)
# Where the layer itself says how its images are decoded.
_DECODED = without_effect(
    "does not tell the number of channels", "mean_value force_color force_gray"
)


class Source(Meaning):
    """A layer without bottoms: its tops are fed."""

    bottom_count = (0, 0)
    top_count: Tuple[int, Optional[int]] = (1, None)
    role = "data"

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        """The shape of each top as far as the prototxt tells it, else None."""
        raise NotImplementedError

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        """The shapes of all tops.

        Raises:
            MalformedModel: the prototxt does not tell them.
        """
        shapes = []
        for index, shape in enumerate(self.known(tops)):
            if shape is None:
                raise MalformedModel(
                    f"the prototxt does not tell the shape of top {index}",
                    hint="give it with --input-shape NAME=N,C,H,W",
                )
            shapes.append(shape)
        return shapes

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        raise UnsupportedModel("an input is fed, not computed")

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        return [0 if top else None for top in tops]


def _once_or_per_top(what: str, values: Sequence, tops: int) -> List:
    if len(values) not in (1, tops):
        raise MalformedModel(
            f"{what} should be given once or once per top ({tops}), found {len(values)}"
        )
    return list(values) * tops if len(values) == 1 else list(values)


@layer("Input", message="input_param")
class Input(Source):
    """Tops that the caller fills, of a shape given once or once per top (input_layer.cpp)."""

    shape: Tuple[Tuple[int, ...], ...] = ()

    role = "input"

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        if not self.shape:
            return [None] * tops
        return _once_or_per_top("shape", self.shape, tops)


@layer("DummyData", message="dummy_data_param", harmless={"data_filler": FILLER})
class DummyData(Source):
    """Tops filled by data_filler, shaped by `shape` or the four old fields
    (dummy_data_layer.cpp)."""

    num: Tuple[int, ...] = ()
    channels: Tuple[int, ...] = ()
    height: Tuple[int, ...] = ()
    width: Tuple[int, ...] = ()
    shape: Tuple[Tuple[int, ...], ...] = ()

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        old = {name: getattr(self, name) for name in ("num", "channels", "height", "width")}
        if not any(old.values()):
            return _once_or_per_top("shape", self.shape, tops)
        if self.shape:
            raise MalformedModel("shape and the old num, channels, height, width are both given")
        return list(zip(*(_once_or_per_top(name, values, tops) for name, values in old.items())))


@layer("MemoryData", message="memory_data_param")
class MemoryData(Source):
    """data (N, C, H, W) and label (N), handed over in memory (memory_data_layer.cpp)."""

    batch_size: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0

    top_count = (1, 2)

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        data = (self.batch_size, self.channels, self.height, self.width)
        if min(data) < 1:
            raise MalformedModel(
                f"batch_size, channels, height and width should all be positive, found {list(data)}"
            )
        return [data, (self.batch_size,)][:tops]


def images(
    batch: int, channels: int, height: int, width: int, tops: int
) -> Sequence[Optional[Shape]]:
    """The shapes of images and their labels (N), each None where a size of it is 0: not told."""
    data = (batch, channels, height, width)
    return [data if min(data) > 0 else None, (batch,) if batch > 0 else None][:tops]


@layer(
    "Data",
    messages=("data_param", "transform_param"),
    harmless={
        **TRANSFORM,
        **without_effect(
            READING,
            """
            source backend rand_skip force_encoded_color prefetch cache parser_threads precache
            random shuffle shuffle_buffer_size threads
            """,
        ),
    },
)
class Data(Source):
    """data (N, C, H, W) and label (N) from a database; H and W are known by crop_size, C by
    force_color, force_gray or several mean_values (data_layer.cpp, data_transformer.cpp)."""

    batch_size: int = 0
    crop_size: int = 0
    mean_value: Tuple[float, ...] = ()
    force_color: bool = False
    force_gray: bool = False

    top_count = (1, 2)

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        channels = len(self.mean_value) if len(self.mean_value) > 1 else 0
        channels = 3 if self.force_color else 1 if self.force_gray else channels
        return images(self.batch_size, channels, self.crop_size, self.crop_size, tops)


@layer(
    "ImageData",
    messages=("image_data_param", "transform_param"),
    harmless={
        **TRANSFORM,
        **_DECODED,
        **without_effect(READING, "source rand_skip shuffle root_folder"),
    },
)
class ImageData(Source):
    """data (N, C, H, W) and label (N) from image files; H and W are known by crop_size or by
    new_height and new_width (image_data_layer.cpp)."""

    batch_size: int = 1
    crop_size: int = 0
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True

    top_count = (1, 2)

    def check(self) -> None:
        if (self.new_height > 0) != (self.new_width > 0):
            raise MalformedModel(
                "new_height and new_width should be set together, "
                f"found {self.new_height} and {self.new_width}"
            )

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        height, width = self.crop_size or self.new_height, self.crop_size or self.new_width
        return images(self.batch_size, 3 if self.is_color else 1, height, width, tops)


@layer(
    "WindowData",
    messages=("window_data_param", "transform_param"),
    harmless={
        **TRANSFORM,
        **_DECODED,
        **without_effect(
            READING,
            """
            source fg_threshold bg_threshold fg_fraction context_pad crop_mode cache_images
            root_folder
            """,
        ),
    },
)
class WindowData(Source):
    """data (N, 3, crop_size, crop_size) and label (N) from a window file
    (window_data_layer.cpp)."""

    batch_size: int = 0
    crop_size: int = 0

    top_count = (1, 2)

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        return images(self.batch_size, 3, self.crop_size, self.crop_size, tops)


@layer("HDF5Data", message="hdf5_data_param", harmless=without_effect(READING, "source shuffle"))
class HDF5Data(Source):
    """Each top is the data set of its name, batch_size rows at a time; the files alone know the
    other axes (hdf5_data_layer.cpp)."""

    batch_size: int = 0

    def known(self, tops: int) -> Sequence[Optional[Shape]]:
        return [None] * tops
