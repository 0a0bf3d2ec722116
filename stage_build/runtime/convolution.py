"""Convolutions with Caffe's explicit padding."""

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, registered


class ConvolutionCalls(Calls):
    def _padded(self, x, kernel, stride, pad, dilation, name):
        """The padded input, and Keras's padding for the rest: "same" where that is Caffe's pad."""
        same = all(
            s == 1 and 2 * p == d * (k - 1)
            for k, s, p, d in zip(kernel, stride, pad, dilation, strict=True)
        )
        if same or not any(pad):
            return x, "same" if any(pad) else "valid"
        rows, columns = ((p, p) for p in pad)
        return self.add(
            keras.layers.ZeroPadding2D((rows, columns), name=f"{name}__pad"), x
        ), "valid"

    def convolution(
        self, x, filters, *, kernel, name, stride=1, pad=0, dilation=1, group=1, bias=True
    ):
        """Cross-correlation of an NHWC tensor; every size is one number or (height, width)."""
        kernel, stride, pad, dilation = pair(kernel), pair(stride), pair(pad), pair(dilation)
        x, padding = self._padded(x, kernel, stride, pad, dilation, name)
        # Keras takes no stride with a dilation: convolve densely, then keep every stride-th.
        thin = max(stride) > 1 and max(dilation) > 1
        x = self.add(
            keras.layers.Conv2D(
                filters,
                kernel,
                strides=1 if thin else stride,
                padding=padding,
                dilation_rate=dilation,
                groups=group,
                use_bias=bias,
                name=f"{name}__dense" if thin else name,
            ),
            x,
        )
        return self.add(keras.layers.MaxPooling2D(1, strides=stride, name=name), x) if thin else x

    def depthwise_convolution(
        self, x, *, kernel, name, multiplier=1, stride=1, pad=0, dilation=1, bias=True
    ):
        """A convolution whose groups are single channels; `multiplier` filters for each."""
        kernel, pad, dilation = pair(kernel), pair(pad), pair(dilation)
        x, padding = self._padded(x, kernel, pair(stride), pad, dilation, name)
        return self.add(
            keras.layers.DepthwiseConv2D(
                kernel,
                strides=stride,
                padding=padding,
                depth_multiplier=multiplier,
                dilation_rate=dilation,
                use_bias=bias,
                name=name,
            ),
            x,
        )

    def deconvolution(
        self, x, filters, *, kernel, name, stride=1, pad=0, dilation=1, group=1, bias=True
    ):
        """Transposed convolution: height becomes stride * (height - 1) + kernel - 2 * pad."""
        kernel, stride, pad, dilation = pair(kernel), pair(stride), pair(pad), pair(dilation)
        if group > 1 or max(dilation) > 1:
            return self.add(
                GroupedDeconvolution(
                    filters, kernel, stride, pad, dilation, group, bias, name=name
                ),
                x,
            )
        # Keras makes at least stride rows of every input row; Caffe stops after the kernel.
        crop = tuple((p, p + max(s - k, 0)) for k, s, p in zip(kernel, stride, pad, strict=True))
        cropped = any(map(any, crop))
        x = self.add(
            keras.layers.Conv2DTranspose(
                filters,
                kernel,
                strides=stride,
                use_bias=bias,
                name=f"{name}__full" if cropped else name,
            ),
            x,
        )
        return self.add(keras.layers.Cropping2D(crop, name=name), x) if cropped else x


@registered
class GroupedDeconvolution(CaffeLayer):
    """Transposed convolution with groups and dilation, which Keras lacks.

    Zeros are put between the rows and columns, then a grouped convolution runs over them with the
    kernel turned around.
    """

    def __init__(self, filters, kernel, stride, pad, dilation, group, bias, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "filters": filters,
            "kernel": tuple(kernel),
            "stride": tuple(stride),
            "pad": tuple(pad),
            "dilation": tuple(dilation),
            "group": group,
            "bias": bias,
        }

    def build(self, shape):
        s = self.settings
        self.kernel = self.add_weight(
            shape=(*s["kernel"], shape[-1] // s["group"], s["filters"]), name="kernel"
        )
        self.bias = self.add_weight(shape=(s["filters"],), name="bias") if s["bias"] else None

    def compute_output_shape(self, shape):
        s = self.settings
        sides = (
            None if size is None else stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad
            for size, kernel, stride, pad, dilation in zip(
                shape[1:3], s["kernel"], s["stride"], s["pad"], s["dilation"], strict=True
            )
        )
        return (shape[0], *sides, s["filters"])

    def call(self, x):
        s = self.settings
        (sh, sw), channels = s["stride"], x.shape[-1]
        shape = tf.shape(x)
        batch, height, width = shape[0], shape[1], shape[2]
        x = tf.reshape(x, [batch, height, 1, width, 1, channels])
        x = tf.pad(x, [[0, 0], [0, 0], [0, sh - 1], [0, 0], [0, sw - 1], [0, 0]])
        x = tf.reshape(x, [batch, height * sh, width * sw, channels])
        x = x[:, : height * sh - (sh - 1), : width * sw - (sw - 1)]
        margins = [
            d * (k - 1) - p for k, p, d in zip(s["kernel"], s["pad"], s["dilation"], strict=True)
        ]
        (top, left), (crop_h, crop_w) = (max(m, 0) for m in margins), (max(-m, 0) for m in margins)
        x = tf.pad(x, [[0, 0], [top, top], [left, left], [0, 0]])
        x = x[:, crop_h : tf.shape(x)[1] - crop_h, crop_w : tf.shape(x)[2] - crop_w]
        kernel = tf.reverse(tf.convert_to_tensor(self.kernel), [0, 1])
        x = tf.nn.conv2d(x, kernel, 1, "VALID", dilations=s["dilation"])
        return x if self.bias is None else x + self.bias
