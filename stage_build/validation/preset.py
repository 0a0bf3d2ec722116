"""Preprocessing that is told in place of the model's own: a preset, a TOML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import MalformedModel, UsageError, cannot_use
from schemas.preprocessing import CHANNELS, Preprocessing
from schemas.recipe import find

MAX_MEAN = 1 << 28  # numbers
DEFAULTS = {
    "resize": "warp",
    "size": None,
    "crop": None,
    "channels": "bgr",
    "mean": None,
    "scale": 1.0,
}


def given(text: str) -> dict[str, Any]:
    """The preprocessing that --preset tells, as ``images`` of a class has it.

    Args:
        text: a preset's name, or the path of a TOML file as --preprocess of convert takes it; the
            labels that it may name count for nothing here.

    Returns:
        All of `DEFAULTS`; sizes are pairs, a mean is an array of (), (C) or (H, W, C), or None.

    Raises:
        UsageError: there is neither, or it names a mean in a form that is not read here.
        MalformedModel: a file is damaged, or tells what cannot be.
        ConversionError: one cannot be read.
    """
    recipe = find(text, "--preset")
    made: dict[str, Any] = {**DEFAULTS, **recipe.told}
    try:
        checked = Preprocessing(**{name: made[name] for name in DEFAULTS if name != "mean"})
    except ValueError as error:
        raise MalformedModel(f"no preprocessing is told: {error}", recipe.source) from error
    mean, channels = made["mean"], CHANNELS[checked.channels]
    if mean is not None:
        values = _mean_image(mean) if isinstance(mean, Path) else np.asarray(mean, np.float32)
        if values.shape[-1:] not in ((), (1,), (channels,)):
            raise MalformedModel(
                f"the mean has shape {values.shape}, images have {channels} channels", recipe.source
            )
        made["mean"] = values
    return made


def _mean_image(path: Path) -> np.ndarray:
    """A mean image of Caffe's, (C, H, W), as (H, W, C) float32."""
    if path.suffix != ".npy":
        raise UsageError(
            "a mean image is read from .npy alone here",
            str(path),
            "convert with --preprocess, which reads a .binaryproto, and leave --preset out",
        )
    try:
        mean = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise cannot_use(path, error) from error
    except Exception as error:  # of NumPy's reader: several types
        raise MalformedModel(f"not an npy file: {error!s:.200}", str(path)) from error
    if mean.dtype.kind not in "iuf" or mean.ndim != 3 or mean.size > MAX_MEAN:
        raise MalformedModel(
            f"a mean image is numbers of shape (C, H, W), found {mean.dtype} {mean.shape}",
            str(path),
        )
    return np.ascontiguousarray(mean.transpose(1, 2, 0), np.float32)


def crop_of(text: str) -> tuple[int, int]:
    """``227`` or ``227,200`` as (height, width).

    Raises:
        UsageError: it is neither.
    """
    sides = text.split(",")
    if len(sides) > 2 or not all(re.fullmatch("[1-9][0-9]{0,4}", side) for side in sides):
        raise UsageError(f"--crop must be N or H,W, not {text!r:.80}")
    return int(sides[0]), int(sides[-1])
