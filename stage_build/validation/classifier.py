"""A converted model as something that turns image files into guesses of classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from schemas.errors import UsageError
from stage_build.artefacts import baking, lite, models
from stage_build.layout import Door
from stage_build.runtime.images import ImagesCalls

# What is run, and the files of a result that it is made of.
SIZES = ("size", "crop")
FILES = {
    "class": ("model.py", "caffe_layers.py", "weights.npz"),
    "saved_model": ("saved_model",),
    "bytes": ("saved_model",),
    "tflite": ("model.tflite",),
}


@dataclass(frozen=True)
class Classifier:
    """What scoring needs of a model.

    Attributes:
        classes: how many it tells apart.
        labels: their names; none where they are not known.
        preprocessing: what is done to an image before, JSON values.
        digest: the SHA-256 of the model's files.
        batch: the number of images that it takes at once; None for any.
        prepared: an image file's bytes -> what the model takes; works in graphs.
        best: a batch of that, how many -> the indices of each image's best classes, best first.
    """

    classes: int
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    digest: str
    batch: int | None
    prepared: Callable[[tf.Tensor], tf.Tensor]
    best: Callable[[tf.Tensor, int], list[list[int]]]

    def guesses(self, values: tf.Tensor, top: int) -> list[list[int]]:
        """`best` of any number of images, where that is at most `batch`."""
        count = len(values)
        if self.batch is not None:
            filling = tf.repeat(values[-1:], self.batch - count, axis=0)
            values = tf.concat([values, filling], 0)
        return self.best(values, top)[:count]


@contextmanager
def opened(
    out: Path, through: str, given: Mapping[str, Any] | None, crop: tuple[int, int] | None
) -> Iterator[Classifier]:
    """A converted model's classifier.

    Args:
        through: of `FILES`.
        given: preprocessing in place of the model's own, as a class's ``images`` has it but for the
            layout; without a crop, what the net takes is cropped.
        crop: (height, width) in place of that.

    Raises:
        UsageError: the model has no such artefact, does not take one image, does not give one score
            for each class, or how its images are prepared is not known.
    """
    for file in ("names.json", *FILES[through]):
        if not (out / file).exists():
            raise UsageError(
                f"--through {through} needs {file}, which the model has not",
                str(out),
                "convert it again with this format",
            )
    if through == "bytes" and (given is not None or crop is not None):
        raise UsageError(
            "--through bytes has its preprocessing inside: --preset and --crop have no say",
            hint="leave them out, or choose --through saved_model",
        )
    with models.imported(out) as package:
        net = _Net(out, package)
        images = net.images(given, crop)
        run = _RUNS[through](net)
        model = _classifier(net, images, run, _digest(out, ("names.json", *FILES[through])))
        yield model if through != "bytes" else _baked(model, run.loaded, images, out)


def _classifier(net: _Net, images: Any, run: _Run, digest: str) -> Classifier:
    """What takes prepared images."""
    shape = net.shape(images, run.takes_pixels)

    def scores(values: tf.Tensor) -> np.ndarray:
        try:
            return np.asarray(images.class_scores(run.outputs(values)))
        except ValueError as error:
            where = str(net.folder)
            raise UsageError(f"there are no classes to score: {error}", where) from error

    def prepared(encoded: tf.Tensor) -> tf.Tensor:
        pixels = images.decoded(encoded)
        if run.takes_pixels:
            return tf.ensure_shape(tf.cast(images.fitted(pixels), tf.float32), shape)
        return tf.ensure_shape(images.prepared(pixels), shape)

    def best(values: tf.Tensor, most: int) -> list[list[int]]:
        found = np.argsort(-scores(values), axis=1, kind="stable")
        return list(found[:, :most].tolist())

    classes = scores(tf.zeros([net.batch or 1, *shape])).shape[1]
    return Classifier(classes, images.labels, _document(images), digest, net.batch, prepared, best)


def _baked(model: Classifier, loaded: Any, images: Any, out: Path) -> Classifier:
    """The signature of the SavedModel that takes image files, in place of the plain one."""
    if baking.SIGNATURE not in loaded.signatures:
        raise UsageError(
            "the SavedModel has no signature that takes image files",
            str(out),
            "convert it again with --bake-preprocess",
        )
    classify = loaded.signatures[baking.SIGNATURE]

    def prepared(encoded: tf.Tensor) -> tf.Tensor:
        # One that cannot be prepared is found here: it would end its whole batch there.
        with tf.control_dependencies([images.prepared(images.decoded(encoded))]):
            return tf.identity(encoded)

    def best(values: tf.Tensor, most: int) -> list[list[int]]:
        if most > baking.TOP:
            raise UsageError(
                f"--through bytes gives the best {baking.TOP} classes, --top asks for {most}"
            )
        return list(classify(image_bytes=values)["indices"][:, :most].numpy().tolist())

    return replace(model, prepared=prepared, best=best)


class _Net:
    """A result's class, without its weights: what it says of itself.

    Attributes:
        folder: of the result.
        package: the result, imported.
        name: of its one input.
        batch: the size of that, None for any.
        door: how it stands to Caffe's blob.
    """

    def __init__(self, folder: Path, package: ModuleType) -> None:
        self.folder = folder
        self.package = package
        self._class: Any
        (self._class,) = (one for one in vars(package).values() if isinstance(one, type))
        inputs = self._class.inputs
        if len(inputs) != 1 or len(next(iter(inputs.values()))) != 4:
            raise UsageError(
                f"the net takes {', '.join(inputs)}, and not one image, as validation needs",
                str(folder),
            )
        ((self.name, (self.batch, *sides)),) = inputs.items()
        self.door = Door.of(models.load_names(folder))
        height, width, channels = sides if self.door.layout == "nhwc" else (*sides[1:], sides[0])
        self._size = (height, width)  # None is any
        self._channels = channels

    def images(self, given: Mapping[str, Any] | None, crop: tuple[int, int] | None) -> Any:
        """What prepares its images: the class's own calls, or ours by what is `given`.

        Raises:
            UsageError: there is neither, or it makes images that the net does not take.
        """
        known: Any = getattr(self._class, "images", None)
        if given is None and known is None:
            raise UsageError(
                "the model does not say how its images are prepared",
                str(self.folder),
                "pass --preset, or convert it again with --preprocess",
            )
        if given is None and crop is None:
            images = self._class.__new__(self._class)
        else:
            images = ImagesCalls()
            images.images = dict(known) if given is None else self._at_the_door(given)
            if crop is not None:
                images.images["crop"] = crop
        images.folder = self.folder
        self._check(images.images)
        return images

    def _at_the_door(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Preprocessing for Caffe's blob as that for the model's input."""
        images, mean = dict(given), given["mean"]
        if self.door.transposed:
            images.update({name: own and own[::-1] for name, own in given.items() if name in SIZES})
            mean = mean.swapaxes(0, 1) if mean is not None and mean.ndim == 3 else mean
        if self.door.swapped and given["channels"] != "gray":
            images["channels"] = {"bgr": "rgb", "rgb": "bgr"}[given["channels"]]
            mean = mean[..., ::-1] if mean is not None and mean.shape else mean
        images["mean"] = mean
        if self.door.layout == "nchw":
            images["layout"] = "nchw"
        taken = None if None in self._size else self._size
        if images["crop"] is None and images["resize"] != "none" and images["size"] != taken:
            images["crop"] = taken
        return images

    def _check(self, images: Mapping[str, Any]) -> None:
        size, count = self._made(images), 1 if images["channels"] == "gray" else 3
        mean = images["mean"]
        if np.ndim(mean) == 3 and any(a < (b or 0) for a, b in zip(mean.shape, size, strict=False)):
            raise UsageError(
                f"the mean image is {_by(mean.shape)}, smaller than images, {_by((*size, count))}",
                str(self.folder),
                "give one of the size that images are resized to",
            )
        fits = all(own in (None, side) for own, side in zip(self._size, size, strict=True))
        if None in size or not fits or count != self._channels:
            raise UsageError(
                f"images are made {_by((*size, count))}, the net takes "
                f"{_by((*self._size, self._channels))}",
                str(self.folder),
                "check --preset and --crop",
            )

    def _made(self, images: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """(height, width) of prepared images; None where they have several."""
        if images["crop"] is not None:
            return tuple(images["crop"])
        if images["resize"] == "warp":
            return tuple(images["size"])
        return self._size if images["resize"] == "none" else (None, None)

    def shape(self, images: Any, pixels: bool) -> list[int]:
        """That of one prepared image, in the model's order; of one before that, where asked."""
        sides = [side for side in self._made(images.images) if side is not None]
        if self.door.layout == "nchw" and not pixels:
            return [self._channels, *sides]
        return [*sides, self._channels]


def _by(sides: Iterable[int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in sides)


@dataclass(frozen=True)
class _Run:
    """An artefact that can be run.

    Attributes:
        outputs: a batch of images -> outputs by name.
        takes_pixels: whether it does the rest itself: channel order, mean and scale.
        loaded: the SavedModel, if it is that.
    """

    outputs: Callable[[tf.Tensor], Mapping[str, Any]]
    takes_pixels: bool = False
    loaded: Any = None


def _class(net: _Net) -> _Run:
    return _Run(tf.function(net.package.load()))


def _saved_model(net: _Net) -> _Run:
    loaded = tf.saved_model.load(str(net.folder / "saved_model"))
    serve = loaded.signatures["serving_default"]
    return _Run(lambda values: serve(**{net.name: values}), loaded=loaded)


def _tflite(net: _Net) -> _Run:
    run = lite.LiteRunner(net.folder).run
    (name,) = run.get_input_details()
    # A net's own input may be called "pixels", too.
    baked = name != net.name or (name == baking.PIXELS and _is_baked(net.folder))
    return _Run(lambda values: run(**{name: values.numpy()}), baked)


def _is_baked(folder: Path) -> bool:
    """Whether model.tflite was made to normalise what it takes."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    return bool(report["delivery"]["bake_normalization"])


_RUNS = {"class": _class, "saved_model": _saved_model, "bytes": _saved_model, "tflite": _tflite}


def _document(images: Any) -> dict[str, Any]:
    """``images`` as JSON values, a mean image by its SHA-256."""
    mean = images.mean
    told = mean.tolist() if mean.ndim < 3 else hashlib.sha256(mean.tobytes()).hexdigest()
    return {
        **{
            name: list(value) if isinstance(value, tuple) else value
            for name, value in images.images.items()
        },
        "mean": told,
    }


def _digest(folder: Path, names: Iterable[str]) -> str:
    """The SHA-256 of files and folders of a result: of their names, sizes and bytes."""
    sums = hashlib.sha256()
    for name in names:
        below = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        for path in below or [folder / name]:
            sums.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    sums.update(chunk)
    return sums.hexdigest()
