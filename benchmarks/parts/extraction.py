"""Reading a caffemodel: VGG-16 beside `cp`, SHA-256, protobuf and OpenCV; then other sizes."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.bench import Bench, extract
from benchmarks.figures import MB, Result, Table, Target, line, noisy, percent, timing_table
from benchmarks.processes import ROOT, Command, interleaved, remove
from benchmarks.workers import NO_OPENCV, has_opencv

TITLE = "Extraction"

SIZES = (50, 100, 250, 550, 1000, 2000)  # MB
FACTOR, CONSTANT, MEMORY = 1.5, 0.35, 200.0

SHA = """# SHA-256 of a mapped file
import hashlib, mmap, sys, time
with open(sys.argv[1], "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    started = time.perf_counter()
    hashlib.sha256(mapped).digest()
    print(time.perf_counter() - started)
"""
PROTOBUF = """# parse all, into NumPy
import sys
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
files = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read())
pool = descriptor_pool.DescriptorPool()
for file in files.file:
    pool.Add(file)
kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
net = kind.FromString(open(sys.argv[2], "rb").read())
arrays = [np.asarray(b.data, np.float32) for l in (*net.layer, *net.layers) for b in l.blobs]
assert sum(array.size for array in arrays)
"""
OPENCV = "import sys, cv2; cv2.dnn.readNetFromCaffe(*sys.argv[1:])"


def measure(bench: Bench) -> Result:
    """Extraction's figures."""
    result = Result()
    _vgg16(bench, result)
    _scaling(bench, result)
    return result


def _vgg16(bench: Bench, result: Result) -> None:
    files = bench.nets.files("vgg16")
    copy, net = bench.folder / "copy", bench.folder / "net.h5"
    python, weights = sys.executable, files.weights
    descriptors = ROOT / "schemas" / "caffe.desc"
    commands = [
        Command("`cp`", ["cp", weights, copy], [copy]),
        Command("one SHA-256 pass", [python, "-c", SHA, weights], own=True),
        Command("Python with NumPy and h5py", [python, "-c", "import numpy, h5py"]),
        Command("ours", extract(files, net), [net]),
        Command("protobuf, into NumPy", [python, "-c", PROTOBUF, descriptors, weights]),
    ]
    if has_opencv():
        load: list[str | Path] = [python, "-c", OPENCV, files.prototxt, weights]
        commands.append(Command("OpenCV DNN, loading", load))
    timings = interleaved(commands, bench.repeat, bench.say)
    remove(copy)
    remove(net)
    cp, sha, _, ours, *_ = timings
    limit = FACTOR * cp.median + CONSTANT + sha.median
    text = (
        f"{files.weights.stat().st_size / MB:,.0f} MB. Whole processes, but for the SHA-256 pass "
        "(hashlib, one thread, over the mapped file), which is the pass alone."
    )
    text += "" if has_opencv() else f" OpenCV: {NO_OPENCV}."
    result.timings += timings
    result.tables.append(timing_table("VGG-16", timings, text))
    claim = f"VGG-16 in 1.5 x `cp` + 0.35 s + one SHA-256 pass = {limit:.2f} s"
    mark = noisy(cp, sha, ours)
    result.targets.append(
        Target("extraction-time", claim, ours.command, ours.median, limit, "s", mark)
    )


def _scaling(bench: Bench, result: Result) -> None:
    net, rows, points, peaks = bench.folder / "net.h5", [], [], []
    every = []
    for size in SIZES:
        files = bench.nets.of_size(size)
        command = Command(f"{size:,} MB", extract(files, net), [net])
        (timing,) = interleaved([command], bench.repeat, bench.say)
        gigabytes = files.weights.stat().st_size / 1e9
        remove(files.weights)
        remove(net)
        every.append(timing)
        points.append((gigabytes, timing.median))
        peaks.append(timing.peak_bytes / MB)
        rows.append((timing.name, timing.median, percent(timing.seconds), peaks[-1]))
    fitted = line(points)
    text = (
        f"Files of one pattern of layers. Least squares: seconds = {fitted.start:.2f} + "
        f"{fitted.slope:.2f} x GB, largest deviation {fitted.deviation:.2f} s."
    )
    result.timings += every
    columns = ("caffemodel", "median s", "spread", "peak MB")
    result.tables.append(Table("Time and memory by size", columns, rows, text))
    result.targets.append(
        Target(
            "extraction-memory",
            "extraction in 200 MB, whatever the size (50 MB to 2 GB)",
            every[-1].command,
            max(peaks),
            MEMORY,
            "MB",
        )
    )
    result.targets.append(
        Target(
            "extraction-linear",
            "time linear in size: largest deviation from the line, against the longest time",
            every[-1].command,
            100 * fitted.deviation / max(seconds for _, seconds in points),
            10.0,
            "%",
            noisy(*every),
        )
    )
