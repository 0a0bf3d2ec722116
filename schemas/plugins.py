"""Plug-ins: layers that a user adds without touching this project, a folder each.

A folder holds ``meaning.py`` (NumPy only, loaded by both stages), ``lowering.py`` (loaded by
stage 2) and ``runtime.py`` (its text goes into the generated caffe_layers.py); each is what a
family's module is in `schemas.layers`, `stage_build.lowering` and `stage_build.runtime`. The
folder's name is the family's.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence, Union

from schemas.errors import ConversionError, UsageError
from schemas.layers import registry

PACKAGE = "plugin"


@contextmanager
def meanings(folders: Sequence[Union[str, Path]]) -> Iterator[None]:
    """Knows the plug-ins' meanings while it lasts.

    Raises:
        UsageError: there is no such plug-in, or it cannot be loaded.
    """
    registry.registered()
    with registry.extended():
        for folder in folders:
            load(Path(folder), "meaning")
        yield


def family(folder: Path) -> str:
    """The name of the family that a plug-in's folder holds.

    Raises:
        UsageError: it is not the name of a module.
    """
    name = folder.resolve().name
    if not name.isidentifier():
        raise UsageError(
            f"--plugin: the folder's name names the family and must be a Python name, not {name!r}",
            str(folder),
        )
    return name


def load(folder: Path, part: str) -> None:
    """Runs ``meaning.py`` or ``lowering.py`` of a plug-in: its decorators register its layers.

    Raises:
        UsageError: the file is missing or cannot be run.
    """
    file = folder / f"{part}.py"
    name = f"{PACKAGE}.{part}.{family(folder)}"
    spec = importlib.util.spec_from_file_location(name, str(file))
    if not file.is_file() or spec is None or spec.loader is None:
        raise UsageError(
            f"--plugin: the folder holds no {part}.py",
            str(folder),
            "a plug-in has meaning.py, lowering.py and runtime.py",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except ConversionError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"--plugin: {part}.py cannot be loaded: {said}", str(file)) from error
    finally:
        sys.dont_write_bytecode = bytecode
