"""Images per second of the served SavedModel beside keras.applications, OpenCV and the class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import MB, Result, Table, Target, Timing, faster, percent
from benchmarks.workers import NO_OPENCV, Worker, first_calls, has_opencv, in_turn, once
from schemas.interchange import read
from schemas.layers.registry import meaning

TITLE = "Served inference"

BATCHES = (1, 8)
OURS, CLASS, OPENCV = "SavedModel, ours", "class, in tf.function", "OpenCV DNN"
KERAS, KERAS_FUNCTION = "keras.applications, SavedModel", "keras.applications, tf.function"

# Net -> its model of keras.applications, if there is one.
NETS = {
    "resnet-50": "ResNet50",
    "resnet-101": "ResNet101",
    "resnet-152": "ResNet152",
    "vgg16": "VGG16",
    "bvlc_alexnet": "",
    "mobilenet": "",
    "squeezenet_v1.1": "",
}
# Net -> competitor -> batch -> images per second of ours over the competitor's, at least.
LIMITS = {
    "resnet-50": {
        KERAS: {1: 1.5, 8: 1.2},
        KERAS_FUNCTION: {1: 1.5, 8: 1.2},
        OPENCV: {1: 1.3, 8: 1.3},
    },
    "vgg16": {
        KERAS: {1: 1.05, 8: 1.05},
        KERAS_FUNCTION: {1: 1.05, 8: 1.05},
        OPENCV: {1: 1.1, 8: 1.3},
    },
}
KINDS = {KERAS: "keras", KERAS_FUNCTION: "keras-function", OPENCV: "opencv"}  # in targets' keys
GROUPS: dict[str, Callable[[str], bool]] = {
    "convolutions with what is fused": lambda op: _is_convolution(op) and "+" in op,
    "convolutions alone": lambda op: _is_convolution(op) and "+" not in op,
    "matrix products": lambda op: "MatMul" in op,
    "BatchNorm": lambda op: "BatchNorm" in op,
    "Mul, Add, Sub": lambda op: op.removeprefix("_MklNative") in ("Mul", "Add", "AddV2", "Sub"),
    "BiasAdd and Relu alone": lambda op: op in ("BiasAdd", "Relu"),
    "Transpose": lambda op: "Transpose" in op,
    "Pad": lambda op: op in ("Pad", "PadV2", "MirrorPad"),
    "weights read": lambda op: op == "ReadVariableOp",
}


def _is_convolution(op: str) -> bool:
    return "Conv" in op and "Backprop" not in op


@dataclass(frozen=True)
class Facts:
    """A net as it is run: one image's shape in Caffe's order, its multiply-accumulates, and how
    many of its layers scale or shift channels."""

    shape: tuple[int, ...]
    macs: int
    scales: int


def facts(net_file: Path) -> Facts:
    """Of one sample of net.h5."""
    net = read(net_file).net
    shapes = {key: net.sample_shape(key) for key in net.blobs}
    macs = 0
    for layer in net.layers:
        ends = ([shapes[key] for key in keys] for keys in (layer.bottoms, layer.tops))
        macs += meaning(layer).macs(*ends)
    shape = shapes[net.inputs[0]]
    scales = sum(layer.type in ("BatchNorm", "Scale", "Bias") for layer in net.layers)
    return Facts(shape[1:], macs // shape[0], scales)


def measure(bench: Bench) -> Result:
    """Serving's figures."""
    result = Result()
    speeds: list[tuple[object, ...]] = []
    starts: list[tuple[object, ...]] = []
    counts: list[tuple[object, ...]] = []
    for name in NETS:
        out = bench.converted(name)
        about = facts(out / "net.h5")
        one = _Net(bench, name, about)
        starts.append(one.started(out))
        counts += _operations(name, out, about)  # while the other sides start
        for batch in BATCHES:
            timings = in_turn(one.workers, f"{name}, batch {batch}", batch, bench.repeat, bench.say)
            result.timings += timings.values()
            speeds += one.speeds(timings, batch)
            result.targets += one.targets(timings, batch)
        one.close()
        bench.rate(f"after serving {name}")
    shares = [(*row[:-1], row[-1] / bench.peak) for row in speeds]  # type: ignore[operator]
    result.tables += [
        _speed_table([(*row[:-1], f"{row[-1]:.0%}") for row in shares], bench),
        Table(
            "The serving process",
            ("net", "SavedModel MB", "load s", "first call s", "second shape s", "peak MB"),
            starts,
            "Load is `tf.saved_model.load` alone; peak memory is the process's own (VmHWM), "
            "TensorFlow's libraries included, when both batch sizes have run.",
        ),
        Table(
            "Operations of the SavedModel: as saved → as run",
            ("net", "Caffe's BatchNorm, Scale, Bias", *GROUPS, "all"),
            counts,
            "As run: the graph of the executor, after TensorFlow's own optimisation.",
        ),
    ]
    return result


class _Net:
    """One net's sides, each in its own process."""

    def __init__(self, bench: Bench, name: str, about: Facts) -> None:
        self.name, self._bench, self._about = name, bench, about
        self.workers: dict[str, Worker] = {}

    def started(self, out: Path) -> tuple[object, ...]:
        """Starts all sides, ours first and alone: its row of the table about the process."""
        worker = self.workers[OURS] = Worker("served", out / "saved_model")
        first, peak = first_calls(worker, BATCHES)
        self.workers[CLASS] = Worker("generated", out)
        files = self._bench.nets.files(self.name)
        if has_opencv():
            shape = self._about.shape
            self.workers[OPENCV] = Worker("opencv", files.prototxt, files.weights, *shape)
        model = NETS[self.name]
        if model:
            export = self._bench.folder / f"{model}-export"
            self.workers[KERAS_FUNCTION] = Worker("applications", model, export).ready()
            self.workers[KERAS] = Worker("served", export)
        size = sum(f.stat().st_size for f in (out / "saved_model").rglob("*") if f.is_file())
        return (self.name, size / MB, worker.loaded, *first.values(), peak / MB)

    def speeds(self, timings: dict[str, Timing], batch: int) -> Iterator[tuple[object, ...]]:
        """Rows of the table of speeds; GFLOP/s last."""
        ours = timings[OURS].median
        for side, timing in timings.items():
            rate = 2 * self._about.macs * batch / timing.median / 1e9
            images, ratio = batch / timing.median, timing.median / ours
            milliseconds, marked = 1e3 * timing.median, percent(timing.seconds)
            yield (self.name, batch, side, milliseconds, marked, images, ratio, rate)

    def targets(self, timings: dict[str, Timing], batch: int) -> Iterator[Target]:
        """What was to be reached at this batch size."""
        ours = timings[OURS]
        for side, limits in LIMITS.get(self.name, {}).items():
            if side in timings:
                limit = limits[batch]
                yield faster(
                    f"serving-{self.name}-{KINDS[side]}-{batch}",
                    f"{self.name}, batch {batch}: {limit} x the images per second of {side}",
                    ours,
                    timings[side],
                    limit,
                )

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def _speed_table(rows: list[tuple[object, ...]], bench: Bench) -> Table:
    columns = ("net", "batch", "side", "ms", "spread", "images/s", "ours is faster by", "of peak")
    text = (
        "Each side in a process of its own, the others stopped; inputs are in memory and outputs "
        "are taken as NumPy arrays. keras.applications has random weights, and the same "
        "multiply-accumulates to within a percent. *Of peak*: 2 x the net's multiply-accumulates "
        f"a second, against {bench.peak:,.0f} GFLOP/s of matrix products in this run."
    )
    return Table("Speed", columns, rows, text if has_opencv() else f"{text} OpenCV: {NO_OPENCV}.")


def _operations(name: str, out: Path, about: Facts) -> Iterator[tuple[object, ...]]:
    found = once("operations", out / "saved_model")
    cells = [f"{_sum(found['saved'], of)} → {_sum(found['run'], of)}" for of in GROUPS.values()]
    every = [sum(found[moment].values()) for moment in ("saved", "run")]
    yield (name, about.scales, *cells, f"{every[0]} → {every[1]}")


def _sum(counts: dict[str, int], belongs: Callable[[str], bool]) -> int:
    return sum(count for op, count in counts.items() if belongs(op))
