"""The mean that is subtracted from an input: an image of means, or a value for each channel."""

from __future__ import annotations

import re
from typing import Dict, Iterable, Optional

import numpy as np

from schemas.errors import MalformedModel, UsageError
from schemas.graph import Net
from schemas.preprocessing import MAX_MEAN
from stage_extract import caffemodel
from stage_extract.mapped import MappedFile

NUMPY_MAGIC = b"\x93NUMPY"
_NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*"
_VALUES = re.compile(f"{_NUMBER}(?:,{_NUMBER})*")


def path_of(text: str, inputs: Iterable[str] = ()) -> Optional[str]:
    """The file that an option ``[NAME=]FILE|VALUES`` names, if it names one."""
    name, _, rest = text.partition("=")
    given = rest if name in inputs else text
    return None if _VALUES.fullmatch(given) else given


def read(options: Iterable[str], net: Net) -> Dict[str, np.ndarray]:
    """Input key -> its mean as float32, (C) or (C, H, W), in the net's channel order.

    H and W are the file's own: Caffe takes the part that is cropped from the image.

    Args:
        options: ``[NAME=]FILE|VALUES`` each: a ``.binaryproto`` (compute_image_mean.cpp), a NumPy
            ``.npy``, or numbers with commas between. Without a name it is for the one image input.

    Raises:
        MalformedModel: a file is damaged, or has other channels than the input.
        UsageError: there is no such input or file, or several inputs that may be meant.
        EnvironmentProblem: a file cannot be read.
    """
    means: Dict[str, np.ndarray] = {}
    for text in options:
        name, _, rest = text.partition("=")
        named = name in net.inputs
        given = rest if named else text
        key = target(name if named else "", net, "--mean")
        if key in means:
            raise UsageError(f"--mean is given twice for input {key!r}")
        path = path_of(given)
        where = f"--mean {given}" if path is None else path
        means[key] = image(path) if path is not None else _checked(_values(given), where)
        check_channels(means[key], key, net, where)
    return means


def target(name: str, net: Net, option: str) -> str:
    """The input that an option is for: the one of this name, or for an empty name the only image.

    Raises:
        UsageError: there is no such input, or there are several images, or none.
    """
    if name in net.inputs:
        return name
    images = [key for key in net.inputs if len(net.blobs[key].shape) == 4]
    if name or len(images) != 1:
        raise UsageError(
            f"{option}: there is no input {name!r}" if name else f"{option}: which input is meant?",
            hint=f"{option} NAME=...; the inputs: {', '.join(map(repr, net.inputs))}",
        )
    return images[0]


def check_channels(mean: np.ndarray, key: str, net: Net, where: str) -> None:
    """Holds the mean of an input to its channels.

    Raises:
        MalformedModel: it has others.
    """
    if mean.shape[:1] != net.blobs[key].shape[1:2]:
        raise MalformedModel(
            f"a mean of {mean.shape[0]} channels, input {key!r} has shape "
            f"{list(net.blobs[key].shape)}",
            where,
        )


def _values(text: str) -> np.ndarray:
    return np.array([float(value) for value in text.split(",")], np.float32)


def image(path: str) -> np.ndarray:
    """The mean in a file as float32, (C) or (C, H, W).

    Raises:
        As `read`.
    """
    file = MappedFile(path)
    is_numpy = file.bytes[: len(NUMPY_MAGIC)] == NUMPY_MAGIC
    file.close()
    return _checked(_numpy_array(path) if is_numpy else caffemodel.read_blob(path), path)


def _numpy_array(path: str) -> np.ndarray:
    try:
        # Mapped: a size that the header lies about is found before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # of NumPy's reader, and of Python's, which the header is given to
        said = str(error).partition("\n")[0]
        raise MalformedModel(f"the .npy file is damaged: {said:.200}", path) from error
    if array.dtype.kind not in "fiu":
        raise MalformedModel(f"numbers are expected, found {array.dtype}", path)
    return array


def _checked(mean: np.ndarray, where: str) -> np.ndarray:
    """The mean without the axis of one image that Caffe stores."""
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim not in (1, 3) or not 0 < mean.size <= MAX_MEAN:
        raise MalformedModel(
            f"a mean of shape {list(mean.shape)}; C, C x H x W or 1 x C x H x W are expected", where
        )
    mean = np.array(mean, np.float32)
    if not np.isfinite(mean).all():
        raise MalformedModel("the mean has NaNs or infinities", where)
    return mean
