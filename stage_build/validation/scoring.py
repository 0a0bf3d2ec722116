"""Images through a model, batch by batch, on all cores."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from stage_build.validation.classifier import Classifier
from stage_build.validation.examples import Example
from stage_build.validation.results import Record

MAX_REASON = 200  # characters
MAX_BYTES = 256 << 20  # of an image's file, which is read as a whole


def scored(
    model: Classifier, folder: Path, examples: Sequence[Example], batch: int, top: int
) -> Iterator[list[Record]]:
    """What the model says of each image, in their order, a batch at a time.

    Images are read, decoded and prepared by several threads ahead of the model. One that cannot be
    is left out of its batch, and is seen by the gap that it leaves: it is tried once more, alone,
    for the reason.

    Args:
        folder: of the images.
        batch: how many are scored at once, where the model takes any number.
        top: how many of the best classes are kept.
    """
    if not examples:
        return
    paths = [os.fsencode(folder / example.name) for example in examples]

    def prepared(path: tf.Tensor) -> tf.Tensor:
        return model.prepared(tf.io.read_file(path))

    def record(place: int, best: Sequence[int]) -> Record:
        reason = ""
        if place in large:
            reason = f"it has more than {MAX_BYTES >> 20} MiB"
        elif not best:
            reason = _reason(lambda: prepared(tf.constant(paths[place])))
        return Record(examples[place].name, examples[place].label, tuple(best), reason)

    large = {place for place, path in enumerate(paths) if _size(path) > MAX_BYTES}
    places = [place for place in range(len(paths)) if place not in large]
    # A list of no texts would become numbers.
    fitting = np.array([paths[place] for place in places], object)
    images = tf.data.Dataset.from_tensor_slices((places, tf.constant(fitting, tf.string)))
    images = images.map(
        lambda place, path: (place, prepared(path)), tf.data.AUTOTUNE, deterministic=True
    )
    images = images.ignore_errors().batch(model.batch or batch).prefetch(tf.data.AUTOTUNE)
    due = 0
    for numbers, values in images:
        rows = dict(zip(numbers.numpy().tolist(), model.guesses(values, top), strict=True))
        after = max(rows) + 1
        yield [record(place, rows.get(place, ())) for place in range(due, after)]
        due = after
    if due < len(paths):
        yield [record(place, ()) for place in range(due, len(paths))]


def _size(path: bytes) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # it is seen again when it is read
        return 0


def _reason(attempt: Callable[[], object]) -> str:
    """Why an image could not be read, in TensorFlow's words."""
    try:
        attempt()
    except (tf.errors.OpError, ValueError) as error:
        text = str(getattr(error, "message", error))
        # What it says of graphs and operators is of no help here.
        text = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", text).strip().partition("\n")[0]
        return text[:MAX_REASON].strip() or type(error).__name__
    return "it could be read at the second attempt alone"
