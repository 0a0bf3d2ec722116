"""Fine-tunes model.keras: a new last layer, here for a task of two classes, odd and even digits.

Usage: make demo && python examples/fine_tune.py [out/digits]
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import keras
from held_out import digits


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/digits").resolve()
    sys.path.insert(0, str(out.parent))
    importlib.import_module(out.name)  # makes the layers of model.keras known to Keras
    keras.utils.set_random_seed(1)

    old = keras.models.load_model(out / "model.keras")
    names = json.loads((out / "names.json").read_text())
    layer, _ = names["blobs"]["ip1"]  # what the old last layer was fed, by its name in Caffe
    new = keras.layers.Dense(2, activation="softmax", name="odd")
    model = keras.Model(old.input, new(old.get_layer(layer).output))

    # To train the old layers as well, leave this out; those of lr_mult 0 in Caffe stay frozen.
    for layer in old.layers:
        layer.trainable = False

    images, labels = digits()
    odd, half = labels % 2, len(labels) // 2
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    _, before = model.evaluate(images[half:], odd[half:], verbose=0)
    model.fit(images[:half], odd[:half], batch_size=32, epochs=40, verbose=0)
    _, after = model.evaluate(images[half:], odd[half:], verbose=0)
    print(f"odd or even: {before:.1%} right before, {after:.1%} after, of images not trained on")


if __name__ == "__main__":
    main()
