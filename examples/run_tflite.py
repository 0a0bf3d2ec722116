"""Runs model.tflite through TensorFlow Lite's interpreter, as a phone would.

model.tflite is not among the default formats:

    orchestrate convert examples/digits/deploy.prototxt examples/digits/digits.caffemodel \\
        -o out/digits-lite --formats class,tflite

Usage: python examples/run_tflite.py [out/digits-lite]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf
from held_out import digits


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits-lite")
    names = json.loads((out / "names.json").read_text())  # Caffe's names -> those of the signature
    # The package ai-edge-litert has the same class without the rest of TensorFlow.
    interpreter = tf.lite.Interpreter(str(out / "model.tflite"))
    run = interpreter.get_signature_runner("serving_default")

    images, labels = digits()
    right = 0
    for image, label in zip(images, labels, strict=True):
        probabilities = run(**{names["inputs"]["data"]: image[None]})[names["outputs"]["prob"]]
        right += int(probabilities[0].argmax() == label)
    print(f"{right} of {len(labels)} right")


if __name__ == "__main__":
    main()
