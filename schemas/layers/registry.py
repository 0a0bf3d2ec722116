"""How a layer's meaning is declared, and how the rest of the project asks for it.

A meaning is a class whose fields are the layer's parameters under Caffe's own names and defaults::

    @layer("ReLU", message="relu_param", harmless={"engine": "a choice of implementation"})
    class ReLU(Meaning):
        \"\"\"max(x, 0) + negative_slope * min(x, 0) (relu_layer.cpp).\"\"\"

        negative_slope: float = 0.0

        def shapes(self, bottoms, tops):
            return [bottoms[0]]

        def forward(self, bottoms, weights, tops):
            ...

`meaning(layer)` fills one from a graph layer's fields: a field that is neither a parameter nor
declared harmless is refused, so nothing that could change a result is ever skipped. Families are
found by looking into this package; nothing lists them.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from contextlib import contextmanager
from functools import lru_cache
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

import numpy as np

import schemas.layers
from schemas.errors import ConversionError, MalformedModel, UnsupportedModel
from schemas.graph import Layer, Shape

# Fields that any Caffe layer may carry and that no forward pass depends on.
HARMLESS_EVERYWHERE = {
    "param": "learning rates, decay and the names of shared parameters",
    "loss_weight": "scales the training loss",
    "propagate_down": "steers the backward pass",
    "phase": "the phase the layer was saved in",
    "transform_param": "preprocessing, read apart",
}

ENGINE = "a choice of implementation"
FILLER = "initial values, replaced by the weights"

# What every Python layer writes: `module` and `layer` are its dialect, param_str is its parameters.
PYTHON = {
    "module": "names the meaning",
    "layer": "names the meaning",
    "share_in_parallel": "steers training on several GPUs",
}

# A blob's count is an int in Caffe (blob.hpp).
MAX_COUNT = 2**31 - 1
MAX_AXES = 32  # kMaxBlobAxes
# Of the fields of its messages, some have 64 bits.
MAX_INT = 2**64 - 1

_registry: Dict[Tuple[str, str], Type[Meaning]] = {}


class Filler(NamedTuple):
    """How a parameter blob starts, where no weights are given.

    Attributes:
        field: the field of the layer's parameter message that says it, a FillerParameter or a
            number; empty where the layer sets the blob itself.
        value: the constant where that field is not written. Caffe's own is 0.
    """

    field: str = ""
    value: float = 0.0


WEIGHT, BIAS = Filler("weight_filler"), Filler("bias_filler")


class Meaning:
    """What one layer computes; subclasses are frozen dataclasses of its parameters.

    Class attributes, the registry's facts that the rest of the project goes by:
        messages: the parameter messages that are read (``("pooling_param",)``).
        harmless: parameter -> the reason why it cannot change a result.
        choices: parameter -> the values that are supported, for enumerations.
        bottom_count, top_count: (least, most) allowed; None for no limit.
        role: ``compute``; ``input`` (an Input layer); ``data`` (a source of batches: becomes an
            input); ``loss`` (training or scoring: dropped with its labels); ``sink`` (no tops,
            dropped).
        labels: for ``loss`` and ``sink``, the first bottom that is a label and not a prediction;
            its branch goes too.
        head: for ``loss``, the type of the layer within it that makes predictions of bottom 0.
        index_tops: tops whose values are positions or counts.
        copies: every value of the tops is one of the bottoms', unchanged, or a place or 0.
        running: places of the parameter blobs that are statistics: no gradient reaches them, so
            that their learning rate means nothing.
        contested: a fork's meaning which a layer that fits BVLC's may have as well: the user is
            asked to choose.
    """

    messages: Tuple[str, ...] = ()
    harmless: Mapping[str, str] = {}
    choices: Mapping[str, Tuple[str, ...]] = {}
    bottom_count: Tuple[int, Optional[int]] = (1, 1)
    top_count: Tuple[int, Optional[int]] = (1, 1)
    role: str = "compute"
    labels: int = 1
    head: str = ""
    index_tops: Tuple[int, ...] = ()
    copies: bool = False
    running: Tuple[int, ...] = ()
    contested: bool = False

    @classmethod
    def fits_blobs(cls, shapes: Sequence[Shape]) -> bool:
        """Whether stored parameter blobs of these shapes may belong to a layer of this meaning."""
        return True

    def check(self) -> None:
        """Refuses parameter combinations that need no shapes to be judged.

        Raises:
            MalformedModel: Caffe itself would refuse them.
            UnsupportedModel: we cannot compute them exactly.
        """

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        """Shapes of the parameter blobs, in Caffe's order."""
        return []

    def fillers(self, blobs: int) -> List[Filler]:
        """How each of the `blobs` parameter blobs starts; by default all are 0."""
        return [Filler()] * blobs

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        """Shapes of the `tops` tops."""
        raise NotImplementedError

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        """The tops of one TEST-phase forward pass: float32 arrays in and out, C order."""
        raise NotImplementedError

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """The multiply-accumulates of one forward pass.

        They are the terms of the sums of products, taps that meet padding among them; biases, and
        what is done value by value (scaling, interpolation), count for none.
        """
        return 0

    def per_channel(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[Tuple[np.ndarray, np.ndarray]]:
        """(factor, offset) where the top is factor * bottom + offset with a number for each
        channel (axis 1), (C) float64; else None."""
        return None

    def absorbing(
        self,
        bottoms: Sequence[Shape],
        weights: Sequence[np.ndarray],
        factor: np.ndarray,
        offset: np.ndarray,
    ) -> Optional[Tuple[Dict[str, Any], List[np.ndarray]]]:
        """The parameters that change, and all weights, where the top's channels (axis 1) are to be
        multiplied by a factor (C) and shifted by an offset (C); None where weights cannot do it.
        """
        return None

    def with_reversed_channels(
        self, bottoms: Sequence[Shape], weights: Sequence[np.ndarray]
    ) -> Optional[List[np.ndarray]]:
        """The weights with which the layer takes every bottom's channels (axis 1) in reverse; None
        where weights cannot do it."""
        return None

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        """The batch axis of each top, given those of the bottoms; None where samples mix.

        The default keeps the batch that all bottoms have in common on one of the `leading` axes.
        """
        batch = batches[0] if len(set(batches)) == 1 else None
        if batch is None or batch >= self.leading(bottoms):
            return [None] * len(tops)
        kept = tuple(bottoms[0][: batch + 1])
        return [batch if tuple(top[: batch + 1]) == kept else None for top in tops]

    def leading(self, bottoms: Sequence[Shape]) -> int:
        """How many leading axes the layer leaves alone: what stands at one place of them depends on
        nothing that stands at another.

        By default 1, for samples on axis 0. A blob of sequences (T, N, ...) goes on as one where
        there are 2 or more.
        """
        return 1

    def time_major(self, bottoms: int) -> Mapping[int, bool]:
        """The bottoms with a batch on axis 1 behind time on axis 0: whether any length will do."""
        return {}

    def varying(
        self, bottoms: Sequence[Shape], axes: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        """The axis of each top whose size only the data tell, given those of the bottoms.

        The default suits a layer that takes rows as it takes the samples of a batch.

        Raises:
            UnsupportedModel: a bottom has such an axis, and the layer cannot go by it.
        """
        if all(axis is None for axis in axes):
            return [None] * len(tops)
        found = self.batch_axes(bottoms, axes, tops)
        if any(axis is None for axis in found):
            raise UnsupportedModel(
                "a bottom's number of rows depends on the data, which this layer cannot go by here"
            )
        return found

    def numbers(self, bottoms: Sequence[Shape]) -> Dict[int, int]:
        """Which bottoms hold whole numbers from 0 on, and below what: rows, classes, labels."""
        return {}

    def examples(self, bottoms: Sequence[Shape]) -> Dict[int, np.ndarray]:
        """Sensible values of the bottoms that random ones would make no sense for, by place.

        A reference is recorded with them where such a bottom is an input of the net. Always the
        same, float32, of the bottom's shape.
        """
        return {}

    def shares_memory(self, bottoms: int, tops: int) -> bool:
        """Whether Caffe's tops are views of bottom 0, so that writing one in place changes all."""
        return False


M = TypeVar("M", bound=Type[Meaning])


def layer(
    *types: str,
    message: str = "",
    messages: Tuple[str, ...] = (),
    harmless: Optional[Mapping[str, str]] = None,
    dialect: str = "",
) -> Callable[[M], M]:
    """Registers a Meaning for one or more Caffe types and makes it a frozen dataclass.

    Args:
        types: Caffe's type strings.
        message, messages: the one parameter message that is read, or all of them.
        harmless: see `Meaning`.
        dialect: the fork whose meaning this is; empty for BVLC Caffe.

    Raises:
        RuntimeError: a type has a meaning in this dialect already.
    """

    def register(cls: M) -> M:
        # Works on `cls` itself; its own __annotations__ decide what is a field. eq=False keeps
        # hashing by identity.
        dataclasses.dataclass(frozen=True, eq=False)(cls)
        cls.messages = messages or ((message,) if message else ())
        cls.harmless = dict(harmless or {})
        for type_ in types:
            key = (type_, dialect)
            if key in _registry:
                raise RuntimeError(
                    "layer type {!r} (dialect {!r}) is registered twice".format(*key)
                )
            _registry[key] = cls
        return cls

    return register


@lru_cache(maxsize=None)
def _load() -> None:
    for module in pkgutil.iter_modules(schemas.layers.__path__):
        if module.name != "registry":
            importlib.import_module("schemas.layers." + module.name)


def registered() -> Dict[Tuple[str, str], Type[Meaning]]:
    """Every (type, dialect) and its meaning."""
    _load()
    return dict(_registry)


@contextmanager
def extended() -> Iterator[None]:
    """Forgets, at its end, the meanings that were registered meanwhile."""
    before = dict(_registry)
    try:
        yield
    finally:
        _registry.clear()
        _registry.update(before)


def dialects(type_: str) -> Dict[str, Type[Meaning]]:
    """Dialect -> the meaning that a layer type has there."""
    _load()
    return {dialect: cls for (known, dialect), cls in _registry.items() if known == type_}


def find(type_: str, dialect: str = "") -> Optional[Type[Meaning]]:
    """The meaning of a layer type, or None."""
    _load()
    return _registry.get((type_, dialect))


def meaning(of: Layer) -> Meaning:
    """The layer's parameters, filled from its fields.

    Raises:
        UnsupportedModel: the type is unknown, or a field is set that nobody reads.
        MalformedModel: a value has the wrong type, or Caffe would refuse it.
    """
    cls = find(of.type, of.dialect)
    if cls is None:
        named = f"{of.type!r} ({of.dialect})" if of.dialect else repr(of.type)
        raise UnsupportedModel(f"layer type {named} is not supported", str(of))
    with located(of):
        made = cls(**_parameters(of, cls))
        made.check()
    return made


def parameters(cls: Type[Meaning]) -> Dict[str, Any]:
    """Caffe's name of each parameter -> its field; the keyword ``lambda`` is ``lambda_``."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return {field.name.rstrip("_"): field for field in fields}


def objections(of: Layer, cls: Type[Meaning]) -> List[str]:
    """What speaks against the layer's having this meaning, where its type has several.

    That is what is written and not read: a field, a value that is not a choice, a message that
    another meaning of the type reads, a number of bottoms or tops.
    """
    found: List[str] = []
    rivals = {message for other in dialects(of.type).values() for message in other.messages}
    declared = parameters(cls)
    for name, content in of.fields.items():
        if name in cls.messages and isinstance(content, Mapping):
            for key, value in content.items():
                if key not in declared and key not in cls.harmless:
                    found.append(f"field {name}.{key}")
                elif key in cls.choices and value not in cls.choices[key]:
                    found.append(f"{name}.{key} is {value}")
        elif name in rivals:
            found.append(f"message {name}")
    return found + [f"{number} {what}" for what, number, _ in _miscounted(of, cls)]


def _miscounted(of: Layer, cls: Type[Meaning]) -> Iterator[Tuple[str, int, str]]:
    """What there is too little or too much of, how many there are, and how many there may be."""
    for what, number, (least, most) in (
        ("bottoms", len(of.bottoms), cls.bottom_count),
        ("tops", len(of.tops), cls.top_count),
    ):
        if number < least or (most is not None and number > most):
            upper = "any number" if most is None else most
            yield what, number, str(least) if most == least else f"{least} to {upper}"


def _parameters(of: Layer, cls: Type[Meaning]) -> Dict[str, Any]:
    values: Dict[str, Any] = {}
    for name, content in of.fields.items():
        if name in cls.messages:
            if not isinstance(content, Mapping):
                raise MalformedModel(f"{name} is not a message", str(of))
            values.update(_read_message(of, cls, name, content))
        # Caffe ignores a BVLC parameter message on a layer that does not read it.
        elif (
            name not in HARMLESS_EVERYWHERE
            and name not in cls.harmless
            and not name.endswith("_param")
        ):
            raise UnsupportedModel(f"field {name!r} is set but not understood", str(of))
    return values


def _read_message(
    of: Layer, cls: Type[Meaning], name: str, content: Mapping[str, Any]
) -> Dict[str, Any]:
    """The parameters in one message that the meaning reads."""
    declared = parameters(cls)
    values: Dict[str, Any] = {}
    for key, value in content.items():
        if key in declared:
            field = declared[key]
            values[field.name] = _checked(of, f"{name}.{key}", value, annotation(field))
            allowed = cls.choices.get(key)
            if allowed is not None and value not in allowed:
                raise UnsupportedModel(
                    f"{name}.{key} is {value}; supported: {', '.join(allowed)}", str(of)
                )
        elif key not in cls.harmless:
            raise UnsupportedModel(
                f"{name}.{key} is set ({value!r}) but not understood, and could change the result",
                str(of),
            )
    return values


_SCALARS: Dict[str, Tuple[Any, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Mapping[str, Any]": (Mapping,),
}


def annotation(field: dataclasses.Field) -> str:
    """A parameter's type as text, whether or not the module postpones its annotations."""
    if isinstance(field.type, type):
        return field.type.__name__
    text = str(field.type).replace("typing.", "")
    # Optional[...], as Python 3.8 and as Python 3.14 write it out.
    for start, end in (("Union[", ", NoneType]"), ("", " | None")):
        if text.startswith(start) and text.endswith(end):
            return "Optional[" + text[len(start) : -len(end)] + "]"
    return text


def _checked(of: Layer, name: str, value: Any, annotation: str) -> Any:
    """`value` if it has the annotated type; lists become tuples, whole numbers pass for floats."""
    kind = annotation[len("Optional[") : -1] if annotation.startswith("Optional[") else annotation
    if kind.startswith("Tuple["):
        inner = kind[len("Tuple[") : -1].rsplit(",", 1)[0]
        if isinstance(value, Mapping) and set(value) <= {"dim"}:  # a BlobShape
            value = value.get("dim", [])
            if isinstance(value, list) and len(value) > MAX_AXES:
                raise MalformedModel(f"{name} has {len(value)} axes, at most {MAX_AXES}", str(of))
        if isinstance(value, (list, tuple)):
            return tuple(_checked(of, name, item, inner) for item in value)
    elif isinstance(value, _SCALARS[kind]) and isinstance(value, bool) == (kind == "bool"):
        if kind == "int" and abs(value) > MAX_INT:
            raise MalformedModel(f"{name} is {value:.1e}, no integer of Caffe's", str(of))
        return float(value) if kind == "float" else value
    raise MalformedModel(f"{name} should be of type {kind}, found {value!r:.80}", str(of))


@contextmanager
def located(of: Layer) -> Iterator[None]:
    """Adds the layer to errors that a meaning raises without knowing where it stands.

    What Python itself raises over a meaning's arithmetic becomes a MalformedModel.
    """
    try:
        yield
    except ConversionError as error:
        error.where = error.where or str(of)
        raise
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise MalformedModel(str(error), str(of)) from error


def infer(of: Layer, bottoms: Sequence[Shape]) -> Tuple[Meaning, List[Shape], List[Shape]]:
    """The layer's meaning, the shapes of its weights and those of its tops.

    Raises:
        MalformedModel: the wrong number of bottoms or tops, or shapes that Caffe would refuse.
        UnsupportedModel: see `meaning`.
    """
    made = meaning(of)
    for what, number, limit in _miscounted(of, type(made)):
        raise MalformedModel(f"{limit} {what} expected, found {number}", str(of))
    with located(of):
        weights = made.weight_shapes(bottoms)
        tops = made.shapes(bottoms, len(of.tops))
        for what, shape in [("top", shape) for shape in tops] + [
            ("parameter", shape) for shape in weights
        ]:
            if len(shape) > MAX_AXES:
                raise MalformedModel(f"a {what} would have {len(shape)} axes, at most {MAX_AXES}")
            if any(size < 1 for size in shape) or math.prod(shape) > MAX_COUNT:
                raise MalformedModel(
                    f"a {what} would have shape {list(shape)}; "
                    f"bottoms have {[list(bottom) for bottom in bottoms]}"
                )
    return made, weights, tops
