"""The net both stages speak of: layers in file order, blobs in single-assignment form.

Caffe lets a layer overwrite a blob in place. Here every value has a key of its own: the last value
a blob name takes is keyed by the name itself, an earlier one by ``name@layer``, where `layer` wrote
it. `Net.names` says which key holds the last value of each of Caffe's blob names (several names
share a key where Caffe shares their memory).

Shapes are Caffe's (N, C, H, W), whatever a stage does with the data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Mapping, Optional, Tuple

from schemas.errors import MalformedModel

Shape = Tuple[int, ...]


@dataclass(frozen=True)
class Blob:
    """One value of one blob.

    Attributes:
        key: unique in the net.
        name: the blob's name in Caffe.
        shape: Caffe's shape at the prototxt's batch size.
        batch: the axis that runs over the samples of a batch, or None where samples mix
            (a Reshape to literal sizes, batch statistics, a Concat on axis 0, ...).
        index: the values are positions or counts, to be compared exactly.
        varying: the axis whose size only the data tell (rows kept by a Filter, boxes found), or
            None; `shape` holds there what Caffe reshapes to before the first pass.
        sequence: axis 0 runs over the steps of sequences, which may be of any length where the
            batch (then axis 1, as in Caffe's recurrent layers) may be of any size.
    """

    key: str
    name: str
    shape: Shape
    batch: Optional[int] = None
    index: bool = False
    varying: Optional[int] = None
    sequence: bool = False

    def sample(self, number: int = 0) -> Tuple[Any, ...]:
        """What indexes one sample of the blob's value, keeping the axes; all where samples mix."""
        if self.batch is None:
            return (...,)
        return (slice(None),) * self.batch + (slice(number, number + 1),)


@dataclass(frozen=True)
class Layer:
    """One layer as the prototxt has it, after Caffe's own upgrades.

    Attributes:
        name: unique in the net (a repeated name gets a suffix).
        type: Caffe's current type string.
        bottoms, tops: blob keys.
        fields: every other field that was written, under Caffe's names, as JSON values:
            ``{"pooling_param": {"pool": "MAX", "kernel_size": 2}, "param": [{"lr_mult": 0.0}]}``.
        weights: keys of the layer's parameter blobs, in Caffe's order; two layers that share a
            parameter name the same key.
        dialect: the fork whose meaning of `type` applies; empty for BVLC Caffe.
        line: where the layer starts in the prototxt; 0 where there is no text.
    """

    name: str
    type: str
    bottoms: Tuple[str, ...]
    tops: Tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    weights: Tuple[str, ...] = ()
    dialect: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f", line {self.line}" if self.line else ""
        return f"layer {self.name!r} ({self.type}{place})"


@dataclass(frozen=True)
class Net:
    """A checked net.

    Attributes:
        name: as the prototxt has it, often empty.
        layers: in file order; each reads only what was written before it.
        blobs: key -> blob, for the inputs and every top.
        names: Caffe's blob name -> key of its last value.
        inputs, outputs: blob keys.

    Raises:
        MalformedModel: a blob is read before it is written or written twice, or a key is unknown.
    """

    name: str
    layers: Tuple[Layer, ...]
    blobs: Mapping[str, Blob]
    names: Mapping[str, str]
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]

    def __post_init__(self) -> None:
        written = set(self.inputs)
        if len(written) != len(self.inputs):
            raise MalformedModel("an input is listed twice: {}".format(", ".join(self.inputs)))
        layer_names = set()
        for layer in self.layers:
            if layer.name in layer_names:
                raise MalformedModel("two layers have this name", str(layer))
            layer_names.add(layer.name)
            for key in layer.bottoms:
                if key not in written:
                    raise MalformedModel(f"bottom {key!r} is read before it is written", str(layer))
            for key in layer.tops:
                if key in written:
                    raise MalformedModel(f"top {key!r} is written twice", str(layer))
                written.add(key)
        for what, keys in (
            ("blob", self.blobs),
            ("output", self.outputs),
            ("name of blob", self.names.values()),
        ):
            for key in keys:
                if key not in written:
                    raise MalformedModel(f"{what} {key!r} is written by no layer")
        missing = written.difference(self.blobs)
        if missing:
            raise MalformedModel(f"no shape is known for blob {min(missing)!r}")

    @cached_property
    def dynamic_batch(self) -> bool:
        """Whether every sample is computed on its own, so that any batch size will do."""
        return all(blob.batch is not None for blob in self.blobs.values())

    def sample_shape(self, key: str) -> Shape:
        """A blob's shape for one sample; where any batch size will not do, its own."""
        blob = self.blobs[key]
        if not self.dynamic_batch:
            return blob.shape
        return tuple(1 if axis == blob.batch else size for axis, size in enumerate(blob.shape))

    def one_batch(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes, by key, have one sample or more, and all as many."""
        axes = {key: self.blobs[key].batch for key in self.inputs}
        sizes = {shapes[key][axis] for key, axis in axes.items() if axis is not None}
        return not self.dynamic_batch or (len(sizes) <= 1 and 0 not in sizes)

    def free_axes(self, key: str) -> Tuple[int, ...]:
        """The axes of a blob whose sizes are the caller's to choose: its batch and its length."""
        blob = self.blobs[key]
        if blob.batch is None or not self.dynamic_batch:
            return ()
        return (0, blob.batch) if blob.sequence else (blob.batch,)
