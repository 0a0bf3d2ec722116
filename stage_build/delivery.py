"""What a result is to hold, and how its models are to take their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import UsageError

# Bytes of weights: graphs that hold them as constants take several times that to make and to load.
LARGE = 128 * 1024**2
# A protocol buffer's limit, which such a graph cannot pass.
LARGEST = 2 * 1024**3 - 16 * 1024**2

# In a result while it is made: the class of the net as it is served, where it is another.
SERVED = "served"

LAYOUTS = ("nhwc", "nchw")
QUANTIZATIONS = ("float16", "dynamic", "int8")
FLOAT32 = "float32"
PRECISIONS = (FLOAT32, "bfloat16")


@dataclass(frozen=True)
class Format:
    """One form of the model.

    Attributes:
        file: the file or folder in the result that says it is there.
        default: whether it is made where none are chosen.
        constant: whether the weights are constants of one graph, see `LARGE`.
        served: whether it is made from the net as it is served, with BatchNorm and Scale folded,
            and has the net's outputs alone.
    """

    file: str
    default: bool = True
    constant: bool = False
    served: bool = True


# The class comes first: the others are made from it.
FORMATS = {
    "class": Format("weights.npz", served=False),
    "keras": Format("model.keras", served=False),
    "saved_model": Format("saved_model"),
    "tflite": Format("model.tflite", default=False, constant=True),
    "pb": Format("model.pb", default=False, constant=True),
}
DEFAULT = tuple(name for name, format_ in FORMATS.items() if format_.default)


@dataclass(frozen=True)
class Delivery:
    """What is made of a net, and how it is to be used.

    Attributes:
        formats: of `FORMATS`, the class first.
        quantize: of `QUANTIZATIONS`, for model.tflite; None for float32.
        calibration: the folder of images that int8 is calibrated on.
        precision: of `PRECISIONS`, what the SavedModel computes convolutions and inner products in.
        allow_large: make graphs of constants whatever the size of the weights.
        swap_rgb: the first convolution takes RGB where Caffe's takes BGR.
        transpose_hw: images are height by width where Caffe's are width by height (Matlab).
        input_layout: of `LAYOUTS`, of 4-axis inputs.
        dynamic_size: images may have any height and width.
        bake_preprocess: the SavedModel has a signature that takes encoded images.
        bake_normalization: model.keras and model.tflite take pixels.

    Raises:
        UsageError: an option without what it is about, or an unknown value.
    """

    formats: tuple[str, ...] = DEFAULT
    quantize: str | None = None
    calibration: str | None = None
    precision: str = FLOAT32
    allow_large: bool = False
    swap_rgb: bool = False
    transpose_hw: bool = False
    input_layout: str = "nhwc"
    dynamic_size: bool = False
    bake_preprocess: bool = False
    bake_normalization: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--quantize", self.quantize, (None, *QUANTIZATIONS)),
            ("--precision", self.precision, PRECISIONS),
            ("--input-layout", self.input_layout, LAYOUTS),
        ):
            if value not in known:
                choices = " or ".join(filter(None, known))
                raise UsageError(f"{option} must be {choices}, not {value!r}")
        for option, given, needed in (
            ("--quantize", self.quantize, ("tflite",)),
            ("--calibration", self.calibration, ("tflite",)),
            (f"--precision {self.precision}", self.precision != FLOAT32, ("saved_model",)),
            ("--bake-preprocess", self.bake_preprocess, ("saved_model",)),
            ("--bake-normalization", self.bake_normalization, ("keras", "tflite")),
        ):
            if given and not set(needed) & set(self.formats):
                raise UsageError(f"{option} is for {' and '.join(needed)}, see --formats")
        if (self.quantize == "int8") != (self.calibration is not None):
            raise UsageError("--quantize int8 and --calibration DIR go together")

    def require_size(self, weights: int) -> None:
        """Refuses graphs of constants that would be too large.

        Args:
            weights: bytes.

        Raises:
            UsageError: the weights are beyond `LARGE` and that is not allowed, or beyond `LARGEST`.
        """
        chosen = [name for name in self.formats if FORMATS[name].constant]
        limit = LARGEST if self.allow_large else LARGE
        if chosen and weights > limit:
            raise UsageError(
                f"{weights // 1024**2} MB of weights are too much for {' and '.join(chosen)}, "
                f"up to {limit // 1024**2} MB",
                hint="leave the format out"
                if self.allow_large
                else "leave the format out, or pass --allow-large",
            )

    def door(self) -> dict[str, Any]:
        """How the result's models take their images, for names.json; see `layout.Door`."""
        return {
            "layout": self.input_layout,
            "swapped": self.swap_rgb,
            "transposed": self.transpose_hw,
        }

    def facts(self) -> dict[str, Any]:
        """What a reader of the result must know of it, for names.json."""
        return {
            "door": self.door(),
            "quantize": self.quantize,
            "precision": self.precision,
            "dynamic_size": self.dynamic_size,
            "baked": [
                name
                for name, baked in (
                    ("saved_model", self.bake_preprocess),
                    ("keras", self.bake_normalization),
                    ("tflite", self.bake_normalization),
                )
                if baked and name in self.formats
            ],
        }

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "formats": list(self.formats)}


def fewer_bits(artefact: str, facts: Mapping[str, Any]) -> str | None:
    """Of `QUANTIZATIONS` and `PRECISIONS`, what a format has instead of float32; of
    `Delivery.facts`."""
    chosen = {"tflite": facts.get("quantize"), "saved_model": facts.get("precision")}.get(artefact)
    return None if chosen == FLOAT32 else chosen


def chosen_formats(text: str) -> tuple[str, ...]:
    """The formats of a list with commas, in order, and the class, which is always there.

    Raises:
        UsageError: one is unknown.
    """
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise UsageError(f"--formats: unknown format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    return in_order([*chosen, "class"])


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Names of formats in the order of `FORMATS`."""
    return tuple(name for name in FORMATS if name in names)
