"""The graph as JSON values, and back: what the interchange file's index holds of a net."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Tuple

from schemas.errors import MalformedModel
from schemas.graph import Blob, Layer, Net


def net_document(net: Net) -> Dict[str, Any]:
    """The graph as JSON values; a layer reads like its prototxt."""
    return {
        "name": net.name,
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "names": dict(net.names),
        "blobs": {
            blob.key: {
                "name": blob.name,
                "shape": list(blob.shape),
                "batch": blob.batch,
                "index": blob.index,
                "varying": blob.varying,
                "sequence": blob.sequence,
            }
            for blob in net.blobs.values()
        },
        "layer": [
            {
                "name": layer.name,
                "type": layer.type,
                "bottom": list(layer.bottoms),
                "top": list(layer.tops),
                "weights": list(layer.weights),
                "dialect": layer.dialect,
                "line": layer.line,
                "fields": dict(layer.fields),
            }
            for layer in net.layers
        ],
    }


class Checked:
    """A JSON object from a stranger, whose members are asked for by name and type.

    Args:
        path: where it stands in its document, for messages.
        error: makes the MalformedModel that is raised where a member is missing or of another type.
    """

    def __init__(self, value: Any, path: str, error: Callable[[str], MalformedModel]) -> None:
        self.path = path
        self.error = error
        if not isinstance(value, dict):
            raise error(f"{path} is not an object")
        self.value: Dict[str, Any] = value

    def get(self, name: str, kind: type) -> Any:
        value = self.value.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.damage(name, f"should be {kind.__name__}, found {value!r:.80}")
        return value

    def damage(self, name: str, message: str) -> MalformedModel:
        """The error to raise over a member."""
        return self.error(f"{_member(self.path, name)} {message}")

    def optional(self, name: str, kind: type) -> Any:
        return None if self.value.get(name) is None else self.get(name, kind)

    def child(self, name: str) -> Checked:
        return Checked(self.value.get(name), _member(self.path, name), self.error)

    def items(self, name: str) -> Iterator[Checked]:
        for i, item in enumerate(self.get(name, list)):
            yield Checked(item, f"{self.path}.{name}[{i}]", self.error)

    def strings(self, name: str) -> Tuple[str, ...]:
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.damage(name, "should be a list of strings")
        return tuple(values)

    def shape(self, name: str) -> Tuple[int, ...]:
        values = self.get(name, list)
        if len(values) > 32 or not all(type(value) is int and value >= 0 for value in values):
            raise self.damage(name, f"is not a shape: {values!r:.80}")
        return tuple(values)


def _member(path: str, name: str) -> str:
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r:.80}]"


def net_from(document: Checked) -> Net:
    """The net that `net_document` described.

    Raises:
        MalformedModel: it is not such a document, or not a net.
    """
    for name in ("inputs", "outputs", "layer"):
        if not document.get(name, list):
            raise document.damage(name, "is empty")
    blobs = {}
    for key in document.child("blobs").value:
        blob = document.child("blobs").child(key)
        blobs[key] = Blob(
            key,
            blob.get("name", str),
            blob.shape("shape"),
            blob.optional("batch", int),
            blob.get("index", bool),
            blob.optional("varying", int),
            bool(blob.optional("sequence", bool)),
        )
        _check_axes(blobs[key], blob)
    names = document.child("names")
    return Net(
        name=document.get("name", str),
        layers=tuple(
            Layer(
                name=layer.get("name", str),
                type=layer.get("type", str),
                bottoms=layer.strings("bottom"),
                tops=layer.strings("top"),
                fields=layer.child("fields").value,
                weights=layer.strings("weights"),
                dialect=layer.get("dialect", str),
                line=layer.get("line", int),
            )
            for layer in document.items("layer")
        ),
        blobs=blobs,
        names={name: names.get(name, str) for name in names.value},
        inputs=document.strings("inputs"),
        outputs=document.strings("outputs"),
    )


def _check_axes(blob: Blob, document: Checked) -> None:
    for name in ("batch", "varying"):
        axis = getattr(blob, name)
        if axis is not None and not 0 <= axis < len(blob.shape):
            raise document.damage(name, f"is {axis}, the blob has {len(blob.shape)} axes")
    if blob.sequence and blob.batch != 1:
        raise document.error(f"{document.path} is a sequence whose batch is not axis 1")
