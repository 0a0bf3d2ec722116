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

# A blob's count is an int in Caffe (blob.hpp).
MAX_COUNT = 2**31 - 1

_registry: Dict[Tuple[str, str], Type[Meaning]] = {}


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
        labels: for ``loss``, the first bottom that is a label and not a prediction.
        index_tops: tops whose values are positions or counts.
    """

    messages: Tuple[str, ...] = ()
    harmless: Mapping[str, str] = {}
    choices: Mapping[str, Tuple[str, ...]] = {}
    bottom_count: Tuple[int, Optional[int]] = (1, 1)
    top_count: Tuple[int, Optional[int]] = (1, 1)
    role: str = "compute"
    labels: int = 1
    index_tops: Tuple[int, ...] = ()

    def check(self) -> None:
        """Refuses parameter combinations that need no shapes to be judged.

        Raises:
            MalformedModel: Caffe itself would refuse them.
            UnsupportedModel: we cannot compute them exactly.
        """

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        """Shapes of the parameter blobs, in Caffe's order."""
        return []

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        """Shapes of the `tops` tops."""
        raise NotImplementedError

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        """The tops of one TEST-phase forward pass: float32 arrays in and out, C order."""
        raise NotImplementedError

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        """The batch axis of each top, given those of the bottoms; None where samples mix.

        The default suits a layer that treats the samples one by one and keeps them on axis 0.
        """
        if not batches or any(axis != 0 for axis in batches):
            return [None] * len(tops)
        return [0 if top and top[0] == bottoms[0][0] else None for top in tops]

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
        raise UnsupportedModel(f"layer type {of.type!r} is not supported", str(of))
    values = _parameters(of, cls)
    with located(of):
        made = cls(**values)
        made.check()
    return made


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
    declared = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: Dict[str, Any] = {}
    for key, value in content.items():
        if key in declared:
            values[key] = _checked(of, f"{name}.{key}", value, str(declared[key].type))
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
}


def _checked(of: Layer, name: str, value: Any, annotation: str) -> Any:
    """`value` if it has the annotated type; lists become tuples, whole numbers pass for floats."""
    kind = annotation[len("Optional[") : -1] if annotation.startswith("Optional[") else annotation
    if kind.startswith("Tuple["):
        inner = kind[len("Tuple[") : -1].rsplit(",", 1)[0]
        if isinstance(value, Mapping) and set(value) <= {"dim"}:  # a BlobShape
            value = value.get("dim", [])
        if isinstance(value, (list, tuple)):
            return tuple(_checked(of, name, item, inner) for item in value)
    elif isinstance(value, _SCALARS[kind]) and isinstance(value, bool) == (kind == "bool"):
        return float(value) if kind == "float" else value
    raise MalformedModel(f"{name} should be of type {kind}, found {value!r}", str(of))


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
    except (ValueError, IndexError, TypeError) as error:
        raise MalformedModel(str(error), str(of)) from error


def infer(of: Layer, bottoms: Sequence[Shape]) -> Tuple[Meaning, List[Shape], List[Shape]]:
    """The layer's meaning, the shapes of its weights and those of its tops.

    Raises:
        MalformedModel: the wrong number of bottoms or tops, or shapes that Caffe would refuse.
        UnsupportedModel: see `meaning`.
    """
    made = meaning(of)
    for what, count, (least, most) in (
        ("bottoms", len(of.bottoms), made.bottom_count),
        ("tops", len(of.tops), made.top_count),
    ):
        if count < least or (most is not None and count > most):
            limit = (
                str(least)
                if most == least
                else "{} to {}".format(least, "any number" if most is None else most)
            )
            raise MalformedModel(f"{limit} {what} expected, found {count}", str(of))
    with located(of):
        weights = made.weight_shapes(bottoms)
        tops = made.shapes(bottoms, len(of.tops))
        for what, shape in [("top", shape) for shape in tops] + [
            ("parameter", shape) for shape in weights
        ]:
            if any(size < 1 for size in shape) or math.prod(shape) > MAX_COUNT:
                raise MalformedModel(
                    f"a {what} would have shape {list(shape)}; "
                    f"bottoms have {[list(bottom) for bottom in bottoms]}"
                )
    return made, weights, tops
