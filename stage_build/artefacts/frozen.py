"""The net as a frozen graph, for readers of TensorFlow 1: model.pb."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer

from stage_build.artefacts.models import load_names
from stage_build.artefacts.served import Served
from stage_build.layout import Door

FILE = "model.pb"
# What the nodes between inputs and outputs are under, so that no name is taken twice.
INSIDE = "net/"
# The operations whose attributes are all written: OpenCV asks for them.
WRITTEN = {"StridedSlice"}


def write(folder: Path, served: Served, *_: Any) -> None:
    """model.pb: constants and operations, no variable and no function.

    Inputs and outputs are nodes with the names of the signature, see `node_names`. Attributes that
    have their default value are left out, but of `WRITTEN`: a reader need not know them.
    """
    frozen = convert_variables_to_constants_v2(served.function)
    inputs = [tensor.op.name for tensor in frozen.inputs if tensor.dtype != tf.resource]
    nodes = node_names(inputs, sorted(served.function.structured_outputs))
    ends = [tensor.op.name for tensor in frozen.outputs]
    graph = _folded(frozen.graph, [*inputs, *ends])
    made_by = {node.name: node for node in graph.node}
    outputs = {
        nodes[name]: _computed(tensor.name.removesuffix(":0"), made_by)
        for name, tensor in zip(sorted(nodes), frozen.outputs, strict=True)
    }
    known = {name: name for name in inputs}
    for name, tensor in outputs.items():
        if tensor not in known and _has_one_tensor(made_by[_node(tensor)]):
            known[tensor] = name
    part = _needed(made_by, inputs, outputs.values(), known)
    part.versions.CopyFrom(graph.versions)
    for name, tensor in outputs.items():
        if known.get(tensor) != name:
            made = part.node.add(name=name, op="Identity")
            made.input.append(_named(tensor, known))
            made.attr["T"].type = tf.float32.as_datatype_enum
    for node in part.node:
        _strip(node)
    (folder / FILE).write_bytes(part.SerializeToString(deterministic=True))


def _folded(graph: tf.Graph, ends: Sequence[str]) -> Any:
    """The graph's definition, with what is computed from constants alone computed.

    So a bias, which Keras reshapes, is a constant where a reader like OpenCV looks for one.
    """
    with graph.as_default():
        meta = tf.compat.v1.train.export_meta_graph()
    meta.collection_def["train_op"].node_list.value.extend(ends)
    config = tf.compat.v1.ConfigProto()
    rewrites = config.graph_options.rewrite_options
    rewrites.min_graph_nodes = -1
    rewrites.optimizers.append("constfold")
    return tf_optimizer.OptimizeGraph(config, meta)


def node_names(inputs: Collection[str], outputs: Sequence[str]) -> dict[str, str]:
    """Output's name in names.json -> its node's name: the same, unless an input is called so.

    An input's node has the input's name. A node has one tensor: ``prob:0``.
    """
    return {name: f"{name}__out" if name in inputs else name for name in outputs}


def _computed(tensor: str, made_by: Mapping[str, Any]) -> str:
    """The tensor, as nodes write it, that this one is a copy of."""
    while made_by[_node(tensor)].op == "Identity":
        tensor = made_by[_node(tensor)].input[0]
    return tensor


def _node(tensor: str) -> str:
    """The node that makes a tensor, or that is waited for."""
    return tensor.removeprefix("^").partition(":")[0]


def _has_one_tensor(node: Any) -> bool:
    tensors = op_def_registry.get(node.op).output_arg
    return len(tensors) == 1 and not (tensors[0].number_attr or tensors[0].type_list_attr)


def _needed(
    made_by: Mapping[str, Any],
    inputs: Iterable[str],
    ends: Iterable[str],
    known: Mapping[str, str],
) -> Any:
    """The inputs' nodes, and those that the tensors `ends` are computed from, see `_named`."""
    graph = tf.compat.v1.GraphDef()
    ahead, seen = [*inputs, *map(_node, ends)], set()
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.node.add()
        node.CopyFrom(made_by[name])
        ahead += map(_node, node.input)
        node.name = _named(name, known)
        del node.input[:]
        node.input.extend(_named(source, known) for source in made_by[name].input)
    return graph


def _named(tensor: str, known: Mapping[str, str]) -> str:
    """A tensor's name in the file, or that of a node that is waited for.

    Args:
        known: names of nodes that have others there; the rest are under `INSIDE`.
    """
    waited, node = "^" if tensor.startswith("^") else "", _node(tensor)
    place = tensor.removeprefix("^")[len(node) :]
    return waited + known.get(node, INSIDE + node) + place


def _strip(node: Any) -> None:
    """Drops the device, defaults, and what only this TensorFlow wrote for itself."""
    value = node.attr["value"].tensor if node.op == "Const" else None
    if value is not None and not value.tensor_content:
        # All values, also those at the end that are alike: other readers do not repeat them.
        array = tf.make_ndarray(value)
        value.CopyFrom(tf.make_tensor_proto(array, shape=array.shape))
    node.device = ""
    node.ClearField("experimental_debug_info")
    known = {attribute.name: attribute for attribute in op_def_registry.get(node.op).attr}
    for name in list(node.attr):
        declared = known.get(name)
        default = declared and declared.HasField("default_value") and declared.default_value
        if declared is None or (default == node.attr[name] and node.op not in WRITTEN):
            del node.attr[name]


class FrozenRunner:
    """model.pb of a result, as a reader of TensorFlow 1 has it, by blob key."""

    def __init__(self, folder: Path) -> None:
        self._names = load_names(folder)
        self._graph = tf.Graph()
        read = tf.compat.v1.GraphDef.FromString((folder / FILE).read_bytes())
        with self._graph.as_default():
            tf.compat.v1.import_graph_def(read, name="")

    def __call__(
        self, inputs: Mapping[str, np.ndarray], keys: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs the graph: inputs by key -> the outputs `keys`."""
        names, door = self._names, Door.of(self._names)
        nodes = node_names(names["inputs"].values(), list(names["outputs"].values()))
        fed = {f"{names['inputs'][key]}:0": door.feed(value) for key, value in inputs.items()}
        wanted = {key: f"{nodes[names['outputs'][key]]}:0" for key in keys}
        with tf.compat.v1.Session(graph=self._graph) as session:
            results = session.run(wanted, fed)
        return {key: door.given(results[key]) for key in keys}
