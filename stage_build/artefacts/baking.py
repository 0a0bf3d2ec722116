"""Models that have their preprocessing inside: of image files, or of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

TOP = 5
SIGNATURE = "classify_images"
PIXELS = "pixels"


def image_signature(network: Any, function: Callable[..., Mapping[str, tf.Tensor]]) -> Any:
    """A traced function that classifies image files, as a second signature of a SavedModel.

    It takes ``image_bytes``, (N) strings, each a JPEG or PNG file; it gives, best class first,
    ``labels`` (N, top) strings, ``indices`` (N, top) int32 and ``probabilities`` (N, top) float32,
    with top the smaller of `TOP` and the number of classes. Scores of a net that does not end in a
    softmax are not probabilities: they are called ``scores``. A label is the index as text where
    none are known. Labels and mean are constants of the graph.

    Args:
        network: a class whose preprocessing is known, see stage_build/runtime/images.py; of it the
            preprocessing, the labels and the name of the one input are taken.
        function: the same net, or it with layers folded: float32 tensors by input name in, tensors
            by output name out.

    Raises:
        ValueError: the outputs are not one score for each class, see `class_scores`, or images of
            several sizes would make no batch.
    """
    (name,) = network.inputs

    def prepared(encoded: tf.Tensor) -> tf.Tensor:
        return network.prepared(network.decoded(encoded))

    prepare = tf.function(prepared, autograph=False)
    ready = prepare.get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    if None in ready.shape:
        raise ValueError("the preprocessing gives images of several sizes, which make no batch")
    kind = "probabilities" if ends_in_softmax(network.model) else "scores"

    def classify_images(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = tf.TensorSpec(ready.shape, ready.dtype)
        images = tf.map_fn(prepare, image_bytes, fn_output_signature=spec)
        scores = network.class_scores(function(**{name: images}))
        classes = scores.shape[1]
        best = tf.math.top_k(scores, min(TOP, classes))
        labels = tf.constant([network.label(index) for index in range(classes)])
        return {
            "labels": tf.gather(labels, best.indices),
            "indices": best.indices,
            kind: best.values,
        }

    batch = network.inputs[name][0]
    spec = tf.TensorSpec([batch], tf.string, name="image_bytes")
    return tf.function(classify_images, autograph=False).get_concrete_function(spec)


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether the one output is a softmax, but for its shape."""
    (tensor,) = model.output.values()
    kinds = keras.layers
    layer = tensor._keras_history.operation
    while isinstance(layer, (kinds.Flatten, kinds.Identity, kinds.Permute, kinds.Reshape)):
        layer = layer.input._keras_history.operation
    return isinstance(layer, kinds.Softmax)


def normalized_model(network: Any) -> keras.Model:
    """The class's model with channel order, mean and scale inside.

    Its input ``pixels`` is (N, H, W, 3) RGB or (N, H, W, 1) gray, float32 from 0 to 255, resized
    and cropped already, whatever the layout of the class's. What the class takes is the output of
    the layer of that input's name, so that every blob is found as in the class. All layers that
    are added are Keras's own.

    Args:
        network: a class with one input whose preprocessing is known. Its weights are read from its
            folder once more.
    """
    kind = type(network)
    (name,) = kind.inputs

    class Normalized(kind):  # type: ignore[misc, valid-type]
        inputs = {PIXELS: pixels_shape(network)}

        def graph(self, **inputs: Any) -> Any:
            (pixels,) = inputs.values()
            return super().graph(**{name: _normalization(network, pixels, name)})

    Normalized.__name__ = kind.__name__
    return Normalized(network.folder).model


def pixels_shape(network: Any) -> tuple[Any, ...]:
    """The shape of images in a batch, (N, H, W, C), whatever the layout of the class's input."""
    ((batch, *sides),) = network.inputs.values()
    return (batch, *(sides[1:] + sides[:1] if _is_nchw(network) else sides))


def _is_nchw(network: Any) -> bool:
    return network.images.get("layout") == "nchw"


def _normalization(network: Any, pixels: Any, name: str) -> Any:
    """(N, H, W, C) pixels as the class takes them, by layers of which the last is called `name`."""
    if network.images["channels"] == "bgr":
        pixels = keras.ops.flip(pixels, axis=-1)
    if network.images["mean"] is not None:
        mean = np.asarray(network.cut_mean(*pixels.shape[1:3]))
        # Its variance starts as 1, so that the difference stays as it is. Not given as arguments:
        # an image of means would be written into the model's JSON.
        layer = keras.layers.Normalization((1, 2, 3) if mean.ndim == 3 else -1)
        layer.build(pixels.shape)
        layer.adapt_mean.assign(mean)
        layer.finalize_state()
        pixels = layer(pixels)
    last = f"{name}__scaled" if _is_nchw(network) else name
    pixels = keras.layers.Rescaling(network.images["scale"], name=last)(pixels)
    return keras.layers.Permute((3, 1, 2), name=name)(pixels) if _is_nchw(network) else pixels


def normalized_function(network: Any, function: Callable[..., Mapping[str, tf.Tensor]]) -> Any:
    """A traced function of ``pixels`` with channel order, mean and scale inside.

    Args:
        network, function: as for `image_signature`; pixels are those of `normalized_model`.
    """
    (name,) = network.inputs

    def normalized(pixels: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return function(**{name: taken(network, pixels)})

    spec = tf.TensorSpec(pixels_shape(network), tf.float32, name=PIXELS)
    return tf.function(normalized, autograph=False).get_concrete_function(spec)


def taken(network: Any, pixels: tf.Tensor) -> tf.Tensor:
    """(N, H, W, C) pixels as the class takes them, by its own preprocessing."""
    values = network.normalized(pixels)
    return tf.transpose(values, [0, 3, 1, 2]) if _is_nchw(network) else values


def signature_error(
    network: Any, signature: Callable[..., Mapping[str, tf.Tensor]], seed: int = 0
) -> float:
    """How far an `image_signature` is from the class with its own preprocessing.

    Args:
        network: the class.
        signature: of a SavedModel that was loaded.
        seed: of the images, which are PNG files of random pixels and different sizes.

    Returns:
        The largest difference in the scores of the best classes, relative to the greatest score;
        infinite where labels or indices do not go with the scores.
    """
    generator = np.random.default_rng(seed)
    batch, height, width, _ = pixels_shape(network)
    least = network.images["crop"] or (height or 32, width or 32)
    files = []
    for place in range(batch or 3):
        shape = (least[0] + 20 + 7 * place, least[1] + 5 * place, 3)
        files.append(tf.io.encode_png(generator.integers(0, 256, shape, np.uint8)).numpy())
    found = signature(image_bytes=tf.constant(files))
    kind = ({*found} - {"labels", "indices"}).pop()
    wanted = network.class_scores(network(network.preprocess(files))).numpy()
    best = np.sort(wanted)[:, ::-1][:, : found[kind].shape[1]]
    picked = np.take_along_axis(wanted, found["indices"].numpy(), 1)
    names = [[network.label(index) for index in row] for row in found["indices"].numpy()]
    texts = [[text.decode() for text in row] for row in found["labels"].numpy()]
    if names != texts:
        return float("inf")
    errors = [np.abs(found[kind].numpy() - values).max() for values in (best, picked)]
    return float(np.max(errors) / np.abs(wanted).max(initial=np.finfo(np.float32).tiny))


def normalization_error(
    network: Any, baked: Callable[[np.ndarray], Mapping[str, Any]], seed: int = 0
) -> float:
    """How far a baked model is from the class with its own preprocessing, on random pixels.

    Args:
        network: the class.
        baked: float32 pixels (N, H, W, C) in, values by output name out. Of a Keras model what the
            class takes is compared too: a softmax may hide that it is wrong.
        seed: of the pixels, whole numbers from 0 to 255.

    Returns:
        The largest difference in a value, relative to the greatest magnitude there.
    """
    (name,) = network.inputs
    if isinstance(baked, keras.Model):
        seen = baked.get_layer(name).output
        baked = keras.Model(baked.input, {**baked.output, name: seen})
    sides = network.images["crop"] or network.images["size"] or (32, 32)
    batch, height, width, channels = pixels_shape(network)
    shape = (batch or 2, height or sides[0], width or sides[1], channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
    values, found = taken(network, pixels), baked(pixels)
    wanted = dict(network(values))
    if name in found:
        wanted[name] = values
    errors = [_error(np.asarray(found[key]), np.asarray(wanted[key])) for key in wanted]
    return float(np.max(errors))  # NaN if one is


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    greatest = np.abs(wanted).max(initial=np.finfo(np.float32).tiny)
    return float(np.abs(found - wanted).max(initial=0) / greatest)
