"""The process behind a `workers.Worker`: python -m benchmarks.sides SIDE ARGUMENT...

A side is a function: its arguments -> (a case -> a call without arguments that does the work once).
A case is a batch size, for single layers a list of a `Convolution`'s numbers. Each request is a
line of JSON on stdin, each answer one on what was stdout: ``first`` and ``time`` with seconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Prepare = Callable[[Any], Callable[[], Any]]
SIZE = 2048  # of the matrices whose product is timed


def images(batch: int, *shape: int) -> np.ndarray:
    """The same for every side, but for the layout."""
    generator = np.random.default_rng(batch)
    return generator.standard_normal((batch, *shape), np.float32) * np.float32(50)


def matmul(library: str) -> Prepare:
    """A product of two float32 matrices, of `SIZE` by `SIZE`."""
    left, right = images(SIZE, SIZE), images(SIZE, SIZE)[::-1].copy()
    if library == "numpy":
        out = np.empty_like(left)
        return lambda _: lambda: np.matmul(left, right, out=out)
    tf = _tensorflow()
    one, other = tf.constant(left), tf.constant(right)
    return lambda _: lambda: tf.linalg.matmul(one, other).numpy()


def served(folder: str) -> Prepare:
    """The serving signature of a SavedModel."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(folder)
    served.kept = loaded  # type: ignore[attr-defined]  # its variables live as long as it does
    return _signature(loaded.signatures["serving_default"])


def generated(folder: str) -> Prepare:
    """The class in a result's folder: its Keras model in a tf.function."""
    from stage_build.artefacts.models import import_package

    tf = _tensorflow()
    network = import_package(Path(folder)).load()
    (shape,) = network.inputs.values()
    return _function(tf, network.model, shape[1:])


def applications(name: str, export: str) -> Prepare:
    """A model of keras.applications in a tf.function; `export` is where it is saved first."""
    import keras

    tf = _tensorflow()
    model = getattr(keras.applications, name)(weights=None)
    model.export(export, verbose=False)
    return _function(tf, model, model.input_shape[1:])


def opencv(prototxt: str, weights: str, *shape: str) -> Prepare:
    """OpenCV's DNN module, its input set and its output taken at each call."""
    import cv2

    net = cv2.dnn.readNetFromCaffe(prototxt, weights)

    def prepare(batch: int) -> Callable[[], Any]:
        blob = images(batch, *map(int, shape))

        def call() -> Any:
            net.setInput(blob)
            return net.forward()

        return call

    return prepare


def reference(net_file: str) -> Prepare:
    """The NumPy forward pass of net.h5, at the net's own batch size, weights in memory."""
    from schemas.forward import forward
    from schemas.interchange import read

    content = read(Path(net_file))
    net = content.net
    weights = {key: np.asarray(content.weights[key]) for key in content.weights}
    fed = {key: images(*net.blobs[key].shape) for key in net.inputs}
    return lambda _: lambda: forward(net, weights, fed)


class Convolution(NamedTuple):
    """A grouped convolution alone; `size` is the image's height and width."""

    name: str
    channels: int
    outputs: int
    kernel: int
    size: int
    group: int
    stride: int
    batch: int = 1

    def images(self) -> np.ndarray:
        """What it is fed, NHWC."""
        return images(self.batch, self.size, self.size, self.channels)


def layer(folder: str) -> Prepare:
    """A SavedModel of single layers, each of an input of its own; Grappler drops the others."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(folder)
    layer.kept = loaded  # type: ignore[attr-defined]  # as in `served`
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]

    def prepare(case: list[Any]) -> Callable[[], Any]:
        asked = Convolution(*case)
        shapes = {name: (asked.batch, *spec.shape[1:]) for name, spec in specs.items()}

        @tf.function
        def one(x: Any) -> Any:
            others = {name: tf.zeros(shape) for name, shape in shapes.items()}
            return signature(**{**others, f"{asked.name}_in": x})[asked.name]

        x = tf.constant(asked.images())
        return lambda: one(x).numpy()

    return prepare


def convolution(form: str) -> Prepare:
    """A convolution by TensorFlow's own means, its kernel a constant: `form` is native, split or
    depthwise."""
    tf = _tensorflow()

    def native(x: Any, kernels: np.ndarray, asked: Convolution) -> Any:
        return tf.nn.conv2d(x, tf.constant(kernels), asked.stride, "SAME")

    def split(x: Any, kernels: np.ndarray, asked: Convolution) -> Any:
        pieces = np.split(kernels, asked.group, 3)
        parts = zip(tf.split(x, asked.group, 3), pieces, strict=True)
        return tf.concat([native(part, piece, asked) for part, piece in parts], 3)

    def depthwise(x: Any, kernels: np.ndarray, asked: Convolution) -> Any:
        turned = tf.constant(kernels.reshape(asked.kernel, asked.kernel, asked.channels, -1))
        return tf.nn.depthwise_conv2d(x, turned, [1, asked.stride, asked.stride, 1], "SAME")

    made = {"native": native, "split": split, "depthwise": depthwise}[form]

    def prepare(case: list[Any]) -> Callable[[], Any]:
        asked = Convolution(*case)
        shape = (asked.kernel, asked.kernel, asked.channels // asked.group, asked.outputs)
        kernels = images(*shape) / np.float32(50)
        function = tf.function(lambda x: made(x, kernels, asked))
        x = tf.constant(asked.images())
        return lambda: function(x).numpy()

    return prepare


def operations(folder: str) -> dict[str, dict[str, int]]:
    """The operations of a SavedModel's serving signature: as saved, and as they are run."""
    from tensorflow.python.eager import context

    tf = _tensorflow()
    loaded = tf.saved_model.load(folder)
    prepare = _signature(loaded.signatures["serving_default"])
    context.enable_graph_collection()
    prepare(1)()
    metadata = context.export_run_metadata()
    graphs = max(
        metadata.function_graphs, key=lambda g: sum(len(p.node) for p in g.partition_graphs)
    )
    before = graphs.pre_optimization_graph
    saved = [*before.node, *(n for f in before.library.function for n in f.node_def)]
    run = [node for graph in graphs.partition_graphs for node in graph.node]
    return {"saved": _counts(saved), "run": _counts(run)}


def difference(folder: str, other: str) -> float:
    """The largest difference of two SavedModels' outputs, relative to the greatest magnitude."""
    values = []
    for path in (folder, other):
        found = served(path)(1)()
        values.append(np.asarray(found, np.float64))
    return float(np.abs(values[0] - values[1]).max() / np.abs(values[1]).max())


def _counts(nodes: list[Any]) -> dict[str, int]:
    """Op -> how often; with what is fused into it, where something is."""
    counts: dict[str, int] = {}
    for node in nodes:
        fused = [name.decode() for name in node.attr["fused_ops"].list.s]
        name = node.op + ("+" + "+".join(fused) if fused else "")
        counts[name] = counts.get(name, 0) + 1
    return counts


def _signature(signature: Any) -> Prepare:
    import tensorflow as tf

    ((name, spec),) = signature.structured_input_signature[1].items()

    def prepare(batch: int) -> Callable[[], Any]:
        x = tf.constant(images(batch, *spec.shape[1:]))
        return lambda: next(iter(signature(**{name: x}).values())).numpy()

    return prepare


def _function(tf: Any, model: Any, shape: tuple[int, ...]) -> Prepare:
    function = tf.function(lambda x: model(x, training=False))

    def prepare(batch: int) -> Callable[[], Any]:
        x = tf.constant(images(batch, *shape))

        def call() -> Any:
            found = function(x)
            return (next(iter(found.values())) if isinstance(found, dict) else found).numpy()

        return call

    return prepare


def _tensorflow() -> Any:
    import tensorflow as tf

    threads = int(os.environ.get("BENCH_THREADS", "0"))
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


SIDES: dict[str, Callable[..., Prepare]] = {
    side.__name__: side
    for side in (matmul, served, generated, applications, opencv, reference, layer, convolution)
}
ONCE: dict[str, Callable[..., Any]] = {side.__name__: side for side in (operations, difference)}


def timed(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of a call: the mean of as many as fill `seconds`, after one that is not counted
    unless it fills them alone."""
    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    if first >= seconds:
        return first
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call()
        count += 1
    return (time.perf_counter() - started) / count


def _end_with_parent() -> None:
    """Linux kills this process when its parent ends, even while it is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    _end_with_parent()
    # Libraries write to stdout; the answers keep it to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side, *arguments = sys.argv[1:]
    if side in ONCE:
        print(json.dumps(ONCE[side](*arguments)), file=answers)
        return
    _import(side, arguments)
    started = time.perf_counter()
    prepare = SIDES[side](*arguments)
    print(time.perf_counter() - started, file=answers, flush=True)
    calls: dict[str, Callable[[], Any]] = {}
    for request in map(json.loads, sys.stdin):
        key = str(request["case"])
        if key not in calls:
            calls[key] = prepare(request["case"])
        call = calls[key]
        if request["request"] == "first":
            started = time.perf_counter()
            call()
            answer = time.perf_counter() - started
        else:
            answer = timed(call, request["seconds"])
        print(answer, file=answers, flush=True)


def _import(side: str, arguments: list[str]) -> None:
    """What a side needs is imported before its own seconds begin."""
    if side == "opencv":
        import cv2  # noqa: F401
    elif side != "reference" and arguments != ["numpy"]:
        import tensorflow  # noqa: F401


if __name__ == "__main__":
    main()
