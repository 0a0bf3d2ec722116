"""The net as it is served, in bfloat16: its convolutions and inner products, float32 in and out."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from stage_build.artefacts import models

BFLOAT16 = "bfloat16"

# Relative to an output's greatest magnitude: what a net that computes in it is held to. Three times
# what trained nets were off by (2.8e-2, boxes of a detector; 1.6e-2, scores of classes).
TOLERANCES = {BFLOAT16: 1e-1}

# What is computed in it. Not the layers of stage_build/runtime that have kernels of their own: most
# are upsampling, or loops over the kernel, and gain nothing.
COMPUTING = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)
# What passes its values on, so that they need not be float32 in between: oneDNN then computes bias,
# sum and ReLU together with the convolution.
PASSING = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.Permute,
    keras.layers.ReLU,
    keras.layers.Reshape,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)


def load(package: ModuleType) -> Any:
    """The class of an imported result, loaded with the weights of `COMPUTING` layers in bfloat16.

    These compute in bfloat16, and so do `PASSING` ones where all that they are given is in it.
    All else, softmax, averages and normalisation with it, is float32, as inputs and outputs are.
    """
    plain: Any = models.class_of(package)

    class Lowered(plain):
        def add(self, layer: keras.layers.Layer, tensor: Any) -> Any:
            if isinstance(layer, COMPUTING) or (isinstance(layer, PASSING) and _lowered(tensor)):
                layer.dtype_policy = BFLOAT16
            return super().add(layer, tensor)

        def stored_weight(self, shape: Any, dtype: Any = None) -> Any:
            return tf.cast(super().stored_weight(shape, dtype), dtype)

        def graph(self, **inputs: Any) -> dict[str, Any]:
            return {
                name: keras.layers.Identity(dtype="float32", name=f"{name}__float32")(tensor)
                if _lowered(tensor)
                else tensor
                for name, tensor in super().graph(**inputs).items()
            }

    return Lowered()


def _lowered(given: Any) -> bool:
    """Whether a tensor, or each of several, is in bfloat16."""
    tensors = given if isinstance(given, (list, tuple)) else [given]
    return all(tensor.dtype == BFLOAT16 for tensor in tensors)
