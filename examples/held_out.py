"""The images that the scripts beside this one are run with: examples/digits/test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).resolve().parent / "digits" / "test"
SCALE = 0.00390625  # Caffe's transform_param { scale: 0.00390625 }: pixels 0..255 become 0..1


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 360 images as the net is fed them, (N, 8, 8, 1) float32, and their labels, (N,)."""
    lines = (FOLDER / "labels.txt").read_text().splitlines()
    names, labels = zip(*(line.split() for line in lines), strict=True)
    pixels = [tf.io.decode_png(tf.io.read_file(str(FOLDER / name)), channels=1) for name in names]
    return np.stack(pixels).astype(np.float32) * SCALE, np.array(labels, int)
