"""What the figures were measured on, and how fast it multiplied matrices at the time."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from benchmarks.sides import SIZE
from benchmarks.workers import Worker

PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "h5py",
    "protobuf",
    "opencv-python-headless",
)
TURNS, SECONDS = 3, 0.1


def facts() -> dict[str, str]:
    """The processor, what is installed, and the system."""
    found = {"processor": _line("/proc/cpuinfo", "model name")}
    found["cores"] = str(os.cpu_count())
    kilobytes = _line("/proc/meminfo", "MemTotal").partition(" ")[0]
    found["memory"] = f"{int(kilobytes) * 1024 / 1e9:.1f} GB" if kilobytes else ""
    flags = _line("/proc/cpuinfo", "flags").split()
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    found["instructions"] = ", ".join(name for name in wide if name in flags)
    found["system"] = platform.platform()
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {name: value for name, value in found.items() if value}


def _line(path: str, name: str) -> str:
    """The first line of a /proc file that begins with `name`, after its colon."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((text.partition(":")[2].strip() for text in lines if text.startswith(name)), "")


@dataclass
class Rates:
    """Float32 products of square matrices, in GFLOP/s, by library and number of cores."""

    workers: dict[str, Worker] = field(default_factory=dict)

    def measure(self) -> dict[str, float]:
        """Medians of `TURNS` turns."""
        if not self.workers:
            for library, name in (("numpy", "NumPy"), ("tensorflow", "TensorFlow")):
                self.workers[f"{name}, all cores"] = Worker("matmul", library)
                self.workers[f"{name}, one core"] = Worker("matmul", library, threads=1)
        found: dict[str, list[float]] = {name: [] for name in self.workers}
        for _ in range(TURNS):
            for name, worker in self.workers.items():
                seconds = worker.ask("time", case=None, seconds=SECONDS)
                found[name].append(2 * SIZE**3 / seconds / 1e9)
        return {name: statistics.median(values) for name, values in found.items()}

    def close(self) -> None:
        """Ends the processes."""
        for worker in self.workers.values():
            worker.close()
