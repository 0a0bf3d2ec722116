"""Trains the net of deploy.prototxt on scikit-learn's handwritten digits.

Usage: python examples/digits/train.py [-o FOLDER]

Writes digits.caffemodel and the held-out images, test/*.png with test/labels.txt. The same net is
written down once more here, in Keras, for training alone; the converter never sees it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the result must not depend on the machine
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))  # the project's root, for Caffe's schema

import keras  # noqa: E402  the lines above come first
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

from stage_extract.descriptors import message_class  # noqa: E402

SCALE = 0.00390625
SEED = 0
EPOCHS = 80
BATCH = 64
HELD_OUT = 360

# BatchNorm's third blob, by which the first two must be divided (batch_norm_layer.cpp): the sum of
# moving_average_fraction ** i, here what 11,000 of Caffe's iterations leave.
BATCHNORM_FACTOR = np.float32(999.9823)


def data() -> list[np.ndarray]:
    """Training images, held-out images (N, 8, 8) uint8, training labels, held-out labels."""
    digits = load_digits()
    images = np.minimum(digits.images * 16, 255).astype(np.uint8)
    return train_test_split(
        images, digits.target, test_size=HELD_OUT, random_state=SEED, stratify=digits.target
    )


def network() -> keras.Model:
    """The net of deploy.prototxt; on these sizes Keras's "same" pooling pads as Caffe's does."""
    layers = keras.layers
    data = x = keras.Input((8, 8, 1), name="data")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = layers.Lambda(norm1, name="norm1")(x)
    x = layers.Conv2D(32, 3, padding="same", groups=2, use_bias=False, name="conv2")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="bn2")(x)
    x = layers.LeakyReLU(0.1, name="relu2")(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool2")(x)
    x = layers.Permute((3, 1, 2), name="nchw")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(64, activation="relu", name="ip1")(x)
    x = layers.Dropout(0.3, seed=SEED, name="drop3")(x)
    x = layers.Dense(10, activation="softmax", name="ip2")(x)
    return keras.Model(data, x)


def norm1(x: tf.Tensor) -> tf.Tensor:
    """Caffe divides alpha by local_size, TensorFlow does not."""
    return tf.nn.lrn(x, depth_radius=2, bias=1.0, alpha=0.5 / 5, beta=0.75)


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    steps = EPOCHS * -(-len(images) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        "sparse_categorical_crossentropy",
    )
    model.fit(scaled(images), labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)


def scaled(images: np.ndarray) -> np.ndarray:
    """Pixels as the net is fed them: (N, 8, 8) uint8 -> (N, 8, 8, 1) float32."""
    return images[..., None].astype(np.float32) * SCALE


def caffe_blobs(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """Layer name -> parameter blobs, in Caffe's order and layout."""
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    gamma, beta, mean, variance = weights["bn2"]
    factor = BATCHNORM_FACTOR

    def convolution(kernel: np.ndarray, *bias: np.ndarray) -> list[np.ndarray]:
        return [kernel.transpose(3, 2, 0, 1), *bias]  # HWIO -> OIHW

    def inner_product(kernel: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
        return [kernel.T, bias]

    return {
        "conv1": convolution(*weights["conv1"]),
        "conv2": convolution(*weights["conv2"]),
        "bn2": [mean * factor, variance * factor, np.array([factor])],
        "scale2": [gamma, beta],
        "ip1": inner_product(*weights["ip1"]),
        "ip2": inner_product(*weights["ip2"]),
    }


def write_caffemodel(path: Path, blobs: dict[str, list[np.ndarray]]) -> None:
    """Writes what Caffe's Net::ToProto would: every layer with its parameters and its blobs."""
    net = message_class("NetParameter")()
    text_format.Parse((HERE / "deploy.prototxt").read_text(), net)
    for layer in net.layer:
        layer.phase = 1  # TEST
        for array in blobs.pop(layer.name, []):
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
    if blobs:
        raise SystemExit(f"deploy.prototxt has no layer {', '.join(blobs)}")
    path.write_bytes(net.SerializeToString(deterministic=True))


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index:03d}.png" for index in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name, optimize=True)
    lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
    (folder / "labels.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains examples/digits.")
    parser.add_argument("-o", "--out", type=Path, default=HERE, help="folder to write to")
    out = parser.parse_args().out
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    train_images, test_images, train_labels, test_labels = data()
    model = network()
    train(model, train_images, train_labels)
    right = model.predict(scaled(test_images), verbose=0).argmax(axis=1) == test_labels
    out.mkdir(parents=True, exist_ok=True)
    write_caffemodel(out / "digits.caffemodel", caffe_blobs(model))
    write_images(out / "test", test_images, test_labels)
    print(f"{right.sum()} of {len(right)} held-out images right ({right.mean():.2%}), by Keras")


if __name__ == "__main__":
    main()
