"""Serves a converted net from its SavedModel: TensorFlow alone, no code of the result.

Usage: make demo && python examples/serve_saved_model.py [out/digits]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf
from held_out import digits


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits")
    names = json.loads((out / "names.json").read_text())  # Caffe's names -> those of the signature
    model = tf.saved_model.load(str(out / "saved_model"))
    serve = model.signatures["serving_default"]

    images, labels = digits()
    batch = {names["inputs"]["data"]: tf.constant(images)}  # of any size
    probabilities = serve(**batch)[names["outputs"]["prob"]].numpy()

    found = probabilities.argmax(axis=1)
    for digit, label, row in zip(found[:5], labels, probabilities, strict=False):
        print(f"a {label} looks like a {digit} ({row[digit]:.1%})")
    print(f"{(found == labels).sum()} of {len(labels)} right")


if __name__ == "__main__":
    main()
