"""The options of a conversion, and the workers' command lines that they become."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from driver.worker import path_argument
from schemas.errors import UsageError

PHASES = ("TEST", "TRAIN")
READERS = ("auto", "protobuf", "pycaffe")
# As stage_build.delivery has them: wrong words shall be told before stage 1 has run.
FORMATS = ("class", "keras", "saved_model", "tflite", "pb")
QUANTIZATIONS = ("float16", "dynamic", "int8")
PRECISIONS = ("float32", "bfloat16")
LAYOUTS = ("nhwc", "nchw")


@dataclass(frozen=True)
class Options:
    """What `convert` can be told; `extract` and `build` take their halves.

    A value that is not given is not passed on: the worker's default holds. Raises UsageError for
    a value that no worker would accept.
    """

    formats: str | None = None
    quantize: str | None = None
    calibration: Path | None = None
    precision: str | None = None
    allow_large: bool = False
    swap_rgb: bool = False
    transpose_hw: bool = False
    input_layout: str | None = None
    dynamic_size: bool = False
    bake_preprocess: bool = False
    bake_normalization: bool = False
    tolerance: float | None = None
    reference: Path | None = None
    no_reference: bool = False
    force: bool = False
    phase: str | None = None
    stage: tuple[str, ...] = ()
    level: int | None = None
    input_shape: tuple[str, ...] = ()
    outputs: str | None = None
    dialect: tuple[str, ...] = ()
    keep_losses: bool = False
    ignore_unknown: bool = False
    allow_missing: bool = False
    mean: tuple[str, ...] = ()
    preprocess: tuple[str, ...] = ()
    labels: Path | None = None
    reader: str | None = None
    extract_python: str | None = None
    build_python: str | None = None
    plugin: tuple[Path, ...] = ()
    timeout: float | None = None
    gpu: bool | None = None
    no_cache: bool = False

    def __post_init__(self) -> None:
        one_of("--phase", self.phase, PHASES)
        one_of("--reader", self.reader, READERS)
        one_of("--quantize", self.quantize, QUANTIZATIONS)
        one_of("--precision", self.precision, PRECISIONS)
        one_of("--input-layout", self.input_layout, LAYOUTS)
        for name in self._formats():
            if name not in FORMATS:
                known = ", ".join(FORMATS)
                raise UsageError(f"--formats: unknown format {name!r}; known: {known}")
        _within("--tolerance", self.tolerance, 0, 1)
        _within("--timeout", self.timeout, 0, threading.TIMEOUT_MAX)
        for shape in self.input_shape:
            if not re.fullmatch(r"[^=]+=[0-9]+(,[0-9]+)*", shape):
                raise UsageError(
                    f"--input-shape expects NAME=1,3,224,224, not {shape!r}",
                    hint="sizes are in N,C,H,W order",
                )

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> Options:
        """The options that are among a command's parameters, by their names."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = given.get(field.name)
            if value is not None:
                repeatable = str(field.type).startswith("tuple")
                values[field.name] = tuple(value) if repeatable else value
        return cls(**values)

    def _formats(self) -> list[str]:
        return [name.strip() for name in (self.formats or "").split(",") if name.strip()]

    def require_quantized(self) -> None:
        """Raises UsageError where --quantize or --calibration stands without what it is about."""
        needed = "tflite"
        for option, given in (("--quantize", self.quantize), ("--calibration", self.calibration)):
            if given is not None and needed not in self._formats():
                raise UsageError(f"{option} is for {needed}, see --formats")
        if (self.quantize == "int8") != (self.calibration is not None):
            raise UsageError("--quantize int8 and --calibration DIR go together")

    def extract_argv(self, net: Path, weights: Path | None, out: Path) -> list[str]:
        """The command line of `stage_extract`."""
        argv = [path_argument(net)]
        if weights is not None:
            argv.append(path_argument(weights))
        argv += ["-o", path_argument(out), *self.extract_words()]
        argv += _given(labels=self.labels)
        argv += [f"--mean={mean}" for mean in self.mean]
        argv += [f"--preprocess={recipe}" for recipe in self.preprocess]
        return [*argv, *self._plugins()]

    def extract_words(self) -> list[str]:
        """The options of `stage_extract` that name no file."""
        words = self._switched("no_reference", "keep_losses", "ignore_unknown", "allow_missing")
        words += _given(
            phase=self.phase, level=self.level, outputs=self.outputs, reader=self.reader
        )
        words += [f"--stage={stage}" for stage in self.stage]
        words += [f"--input-shape={shape}" for shape in self.input_shape]
        return [*words, *(f"--dialect={name}" for name in self.dialect)]

    def build_argv(self, net: Path, out: Path) -> list[str]:
        """The command line of `stage_build`."""
        argv = [path_argument(net), "-o", path_argument(out), *self.build_words()]
        argv += _given(calibration=self.calibration, reference=self.reference)
        return [*argv, *self._switched("force"), *self._plugins()]

    def build_words(self) -> list[str]:
        """The options of `stage_build` that name no file and change its result."""
        words = _given(
            formats=self.formats,
            quantize=self.quantize,
            precision=self.precision,
            input_layout=self.input_layout,
            tolerance=self.tolerance,
        )
        return words + self._switched(
            "allow_large",
            "swap_rgb",
            "transpose_hw",
            "dynamic_size",
            "bake_preprocess",
            "bake_normalization",
        )

    def _switched(self, *names: str) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]

    def _plugins(self) -> list[str]:
        return [f"--plugin={folder}" for folder in self.plugin]

    def copies_of_weights(self) -> int:
        """How often the weights are written: net.h5, weights.npz, and each format but the class."""
        formats = (self.formats or "class,keras,saved_model").split(",")
        return 2 + sum(name.strip() not in ("", "class") for name in formats)


def _given(**values: object) -> list[str]:
    return [
        f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None
    ]


def one_of(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raises UsageError for a value that is given and is no choice."""
    if value is not None and value not in choices:
        raise UsageError(f"{option} must be {' or '.join(choices)}, not {value!r}")


def _within(option: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"{option} must be between {least:g} and {most:g}, not {value:g}")
