"""How images become inputs of the net, resolved from all that tells it.

What the prototxt's data layer does is the lowest; above it stand --preprocess, and --mean. Where
nothing tells anything, nothing is done. Where something is told, what is missing is assumed, and
said.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel, UsageError
from schemas.graph import Net
from schemas.preprocessing import CHANNELS, Preprocessing, Size
from schemas.recipe import Recipe, find
from stage_extract import labels as labels_file
from stage_extract import mean
from stage_extract.transforms import recipe as of_transform


@dataclass(frozen=True)
class Told:
    """What the options tell, before the net is known.

    Attributes:
        recipes: (input, recipe); an empty name is the one image input's.
        labels: the names of the classes.
        files: (role, path) of the files that were read.
    """

    recipes: Tuple[Tuple[str, Recipe], ...]
    labels: Tuple[str, ...]
    files: Tuple[Tuple[str, str], ...]


@dataclass(frozen=True)
class Resolved:
    """What the interchange file takes: its `images`, `means` and `labels`."""

    images: Mapping[str, Preprocessing]
    means: Mapping[str, np.ndarray]
    labels: Sequence[str]


def read(options: argparse.Namespace) -> Told:
    """Reads what --preprocess (``[NAME=]PRESET|FILE.toml`` each) and --labels (a file) name.

    Raises:
        MalformedModel: a file is damaged, or tells what cannot be.
        UsageError: there is no such preset or file.
        EnvironmentProblem: a file cannot be read, or no package reads TOML here.
    """
    recipes = [_recipe(text) for text in options.preprocess]
    files = [file for _, own in recipes for file in own.files]
    path = options.labels or next((str(own.labels) for _, own in recipes if own.labels), None)
    if path is None:
        return Told(tuple(recipes), (), tuple(files))
    return Told(tuple(recipes), labels_file.read(path), (*files, ("labels", path)))


def _recipe(text: str) -> Tuple[str, Recipe]:
    """The input that an option names, or "", and the recipe for it, its mean read."""
    name, _, given = text.partition("=")
    if not given or os.path.exists(text):
        name, given = "", text
    recipe = find(given, "--preprocess")
    if isinstance(recipe.told.get("mean"), Path):
        told = {**recipe.told, "mean": mean.image(str(recipe.told["mean"]))}
        recipe = replace(recipe, told=told)
    return name, recipe


def resolve(
    told: Told,
    means: Iterable[str],
    net: Net,
    transforms: Mapping[str, Mapping[str, Any]],
    notes: List[str],
) -> Resolved:
    """The preprocessing of each input of which anything is told.

    Args:
        means: options ``[NAME=]FILE|VALUES`` each; see `mean.read`.
        transforms: input key -> transform_param, and what else its data layer does to images.
        notes: takes what was assumed.

    Raises:
        MalformedModel: a mean has other channels than the input, or is smaller.
        UsageError: there is no such input, or what is told cannot be done for it.
    """
    given = _by_input(told.recipes, net)
    found = mean.read(means, net)
    images: Dict[str, Preprocessing] = {}
    for key in net.inputs:
        shape, transform = net.blobs[key].shape, transforms.get(key, {})
        if _is_image(shape):
            recipe = _merged(of_transform(transform, shape), given.get(key, Recipe()))
            if key in found:
                above = Recipe({"mean": found[key]}, {}, recipe.source or "--mean")
                recipe = _merged(recipe, above)
            if recipe.told:
                images[key], values = _image(key, recipe, net)
                found.update({} if values is None else {key: values})
        lacks_mean = "mean_file" in transform and key not in found
        if lacks_mean:
            notes.append(
                f"input {key!r}: the prototxt subtracts the mean in "
                f"{transform['mean_file']!r:.200}, which is not known: pass it with --mean"
            )
        # The first is then that mean.
        doubts = images[key].unknown[lacks_mean:] if key in images else ()
        if doubts:
            notes.append(
                f"input {key!r}: its preprocessing is assumed in part: {'; '.join(doubts)} "
                "(--preprocess tells it)"
            )
    _tell_of_classes(net, told.labels, notes)
    return Resolved(images, found, told.labels)


def _by_input(recipes: Iterable[Tuple[str, Recipe]], net: Net) -> Dict[str, Recipe]:
    found: Dict[str, Recipe] = {}
    for name, recipe in recipes:
        key = mean.target(name, net, "--preprocess")
        if key in found:
            raise UsageError(f"--preprocess is given twice for input {key!r}")
        if not _is_image(net.blobs[key].shape):
            raise UsageError(
                f"{recipe.source}: images have 1 or 3 channels, input {key!r} has shape "
                f"{list(net.blobs[key].shape)}"
            )
        found[key] = recipe
    return found


def _merged(below: Recipe, above: Recipe) -> Recipe:
    """What either tells, `above` where both do."""
    doubts = {name: doubt for name, doubt in below.doubts.items() if name not in above.told}
    told = {**below.told, **above.told}
    return Recipe(told, {**doubts, **above.doubts}, above.source or below.source)


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] in CHANNELS.values()


def _image(key: str, recipe: Recipe, net: Net) -> Tuple[Preprocessing, Optional[np.ndarray]]:
    """The preprocessing of an input, and the mean that goes with it."""
    channels, *takes = net.blobs[key].shape[1:]
    crop: Size = (takes[0], takes[1])
    order = recipe.told.get("channels")
    if order is not None and CHANNELS[order] != channels:
        raise UsageError(f"{recipe.source}: channels is {order!r}, input {key!r} has {channels}")
    values = _mean(key, recipe, net)
    told, doubts = _completed(recipe, channels, crop, values)
    if recipe.told.get("crop", crop) != crop:
        raise UsageError(
            f"{recipe.source}: crop is {_by(recipe.told['crop'])}, input {key!r} takes {_by(crop)}",
            hint="leave crop out, or give --input-shape",
        )
    resize, size = told["resize"], told["size"]
    whole = "crop" not in told if resize == "none" else resize == "warp" and size == crop
    try:
        made = Preprocessing(
            resize,
            None if resize == "none" else size,
            None if whole else crop,
            told["channels"],
            told["scale"],
            tuple(doubts.values()),
        )
    except ValueError as error:
        raise UsageError(f"{recipe.source}: input {key!r}: {error}") from error
    return made, values


def _mean(key: str, recipe: Recipe, net: Net) -> Optional[np.ndarray]:
    """What is subtracted, of shape (C) or (C, H, W), no smaller than the input."""
    if recipe.told.get("mean") is None:
        return None
    shape = net.blobs[key].shape
    values = np.array(recipe.told["mean"], np.float32)
    if not values.ndim:
        values = np.full(shape[1], values)
    mean.check_channels(values, key, net, recipe.source)
    if any(own < taken for own, taken in zip(values.shape[1:], shape[2:])):
        raise MalformedModel(
            f"a mean image of {_by(values.shape[1:])}, input {key!r} takes {_by(shape[2:])}",
            recipe.source,
        )
    return values


def _completed(
    recipe: Recipe, channels: int, crop: Size, values: Optional[np.ndarray]
) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """What is told and what is assumed of an input, and what there is to doubt of it."""
    told, doubts = dict(recipe.told), dict(recipe.doubts)
    # Caffe's mean image has the size that images have before they are cropped.
    size: Sequence[int] = crop if values is None or values.ndim == 1 else values.shape[1:]
    if told.get("resize") == "short_side":
        size = (max(size), max(size))
    size = told.setdefault("size", tuple(size))
    assumed = {
        "resize": ("warp", f"images are warped to {_by(size)}"),
        "channels": ("bgr", "the order of the channels is BGR"),
        "mean": (None, "no mean is subtracted"),
        "scale": (1.0, "values stay in the range of 0 to 255"),
    }
    if channels == 1:
        told.setdefault("channels", "gray")
    for name, (value, doubt) in assumed.items():
        if name not in told:
            told[name], doubts[name] = value, doubt
    if values is not None and values.ndim > 1 and values.shape[1:] not in (size, crop):
        doubts["mean"] = (
            f"the mean image, of {_by(values.shape[1:])}, is of other images: its centre is taken"
        )
    return told, doubts


def _tell_of_classes(net: Net, labels: Sequence[str], notes: List[str]) -> None:
    counts = {
        net.blobs[key].shape[1]
        for key in net.outputs
        if len(net.blobs[key].shape) > 1
        and set(net.blobs[key].shape[2:]) <= {1}
        and not net.blobs[key].index
    }
    if labels and len(counts) == 1 and counts != {len(labels)}:
        notes.append(
            f"there are {len(labels):,} labels, and {counts.pop():,} classes in the net: images "
            "cannot be classified with them"
        )


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
