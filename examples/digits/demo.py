"""Scores the held-out digits with the converted net, and says what the conversion proved.

Usage: python examples/digits/demo.py out/digits
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402  TensorFlow's log level is set first
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.panel import Panel  # noqa: E402
from rich.table import Table  # noqa: E402

HERE = Path(__file__).resolve().parent
SCALE = 0.00390625  # Caffe's transform_param { scale: 0.00390625 }: pixels 0..255 become 0..1


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """The held-out images as the net is fed them, (N, 8, 8, 1) float32, and their labels, (N,)."""
    lines = (HERE / "test" / "labels.txt").read_text().splitlines()
    names, labels = zip(*(line.split() for line in lines), strict=True)
    pixels = np.stack([np.asarray(Image.open(HERE / "test" / name)) for name in names])
    return pixels[..., None].astype(np.float32) * SCALE, np.array(labels, int)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Drops what TensorFlow's libraries write to stderr; exceptions pass."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def predict(package: Path, images: np.ndarray) -> np.ndarray:
    """Class probabilities from the converted package, imported by its own name."""
    sys.path.insert(0, str(package.parent))
    with without_chatter():
        net = importlib.import_module(package.name).load()
        return np.asarray(net(images)["prob"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores the held-out digits.")
    parser.add_argument("package", type=Path, help="the converted package")
    package = parser.parse_args().package.resolve()

    images, labels = test_set()
    right = int((predict(package, images).argmax(axis=1) == labels).sum())
    report = json.loads((package / "report.json").read_text())
    passed = sum(blob["passed"] for blob in report["blobs"])
    worst = report["worst"]
    files = sorted(path.name for path in package.iterdir() if not path.name.startswith("_"))

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    score = f"{right / len(labels):.2%}  ({right} of {len(labels)} held-out images)"
    table.add_row("accuracy", score)
    table.add_row("verified", f"{passed} of {len(report['blobs'])} blobs")
    table.add_row(
        "largest error", f"{worst['error']:.1e} of the blob's largest value ({worst['blob']})"
    )
    table.add_row("files", f"{os.path.relpath(package)}/\n[dim]{'  '.join(files)}[/dim]")
    title = "digits: Caffe to TensorFlow"
    Console().print(Panel(table, title=title, expand=False, border_style="green"))


if __name__ == "__main__":
    main()
