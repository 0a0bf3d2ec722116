"""Every form of the model in a result folder, loaded and run alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage_build.artefacts import frozen, lite, models

# Format -> what loads it for good, or for as long as it is needed.
_KEPT: dict[str, Callable[[Path], Any]] = {
    "saved_model": models.SavedRunner,
    "tflite": lite.LiteRunner,
    "pb": frozen.FrozenRunner,
}


@contextmanager
def opened(folder: Path, artefact: str, mapped: bool = False) -> Iterator[Any]:
    """A runner of one of `delivery.FORMATS`: (inputs by key, keys) -> values by key, in Caffe's
    order; forgotten at the end.

    Args:
        mapped: of the class, see `models.load`.
    """
    if artefact in _KEPT:
        yield _KEPT[artefact](folder)
    elif artefact == "class":
        with models.opened_class(folder, mapped) as runner:
            yield runner
    else:
        with models.opened_keras(folder) as runner:
            yield runner
