"""The NumPy reference forward pass, for one image, beside OpenCV's DNN module."""

from __future__ import annotations

from benchmarks.bench import Bench, extract
from benchmarks.figures import Result, Table, Target, noisy, percent
from benchmarks.processes import remove, run
from benchmarks.workers import NO_OPENCV, Worker, has_opencv, in_turn

TITLE = "NumPy reference forward"

LIMITS = {"resnet-152": 3.0, "vgg16": 2.0}


def measure(bench: Bench) -> Result:
    """The forward pass's figures."""
    result = Result()
    rows: list[tuple[object, ...]] = []
    for name, limit in LIMITS.items():
        files, net = bench.nets.files(name), bench.folder / f"{name}.h5"
        run(extract(files, net, "--input-shape", "data=1,3,224,224"))
        workers = {"NumPy": Worker("reference", net)}
        if has_opencv():
            workers["OpenCV DNN"] = Worker("opencv", files.prototxt, files.weights, 3, 224, 224)
        else:
            rows.append((name, f"OpenCV DNN: {NO_OPENCV}", None, None, None))
        timings = in_turn(workers, name, 1, bench.repeat, bench.say)
        for worker in workers.values():
            worker.close()
        remove(net)
        ours = timings["NumPy"]
        for side, timing in timings.items():
            ratio = ours.median / timing.median
            rows.append((name, side, timing.median, percent(timing.seconds), ratio))
        result.timings += timings.values()
        result.targets.append(
            Target(
                f"forward-{name}",
                f"one image of {name} in {limit:.0f} s",
                ours.command,
                ours.median,
                limit,
                "s",
                noisy(ours),
            )
        )
    columns = ("net", "side", "median s", "spread", "NumPy's time / its own")
    text = "Weights in memory; each side in a process of its own."
    result.tables.append(Table("One image", columns, rows, text))
    return result
