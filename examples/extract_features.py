"""Features from inside a converted net, by the blob's name in Caffe.

The most alike image, by the features that the net has in "ip1", is nearly always of the same digit.

Usage: make demo && python examples/extract_features.py [out/digits]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
from held_out import digits


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits").resolve()
    sys.path.insert(0, str(out.parent))
    net = importlib.import_module(out.name).load()

    images, labels = digits()
    features = np.asarray(net.blob("ip1")(images))
    print(f"ip1: {features.shape[1]} features of each of {len(features)} images")

    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness = units @ units.T
    np.fill_diagonal(likeness, -1)
    same = labels[likeness.argmax(axis=1)] == labels
    print(f"{same.sum()} of {len(labels)} are most like another image of their digit")


if __name__ == "__main__":
    main()
