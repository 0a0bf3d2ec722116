"""Convolutions with Caffe's explicit padding, over images and over any other number of axes."""

import itertools
import math
from functools import partial

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, pair, per_axis, registered

# Number of spatial axes -> Keras's layers: convolution, zeros around, every stride-th value.
PLAIN = {
    1: (keras.layers.Conv1D, keras.layers.ZeroPadding1D, keras.layers.MaxPooling1D),
    2: (keras.layers.Conv2D, keras.layers.ZeroPadding2D, keras.layers.MaxPooling2D),
    3: (keras.layers.Conv3D, keras.layers.ZeroPadding3D, keras.layers.MaxPooling3D),
}


class ConvolutionCalls(Calls):
    """Every size is one number, or one for each axis; a pad may also be (before, after) for each.

    The tensor may be a list of tensors, which then share the weights.
    """

    def convolution(
        self,
        x,
        filters,
        *,
        kernel,
        name,
        stride=1,
        pad=0,
        dilation=1,
        group=1,
        bias=True,
        relu=None,
    ):
        """Cross-correlation of an NHWC tensor; `relu` is the slope of a ReLU after it."""
        dense = partial(keras.layers.Conv2D, filters, groups=group, use_bias=bias)
        steps = self._windowed(2, dense, kernel, stride, pad, dilation, relu)
        return self._apply(x, name, steps)

    def depthwise_convolution(
        self, x, *, kernel, name, multiplier=1, stride=1, pad=0, dilation=1, bias=True, relu=None
    ):
        """A convolution whose groups are single channels; `multiplier` filters for each."""
        dense = partial(keras.layers.DepthwiseConv2D, depth_multiplier=multiplier, use_bias=bias)
        steps = self._windowed(2, dense, kernel, stride, pad, dilation, relu)
        return self._apply(x, name, steps)

    def convolution_nd(
        self,
        x,
        filters,
        *,
        kernel,
        name,
        axis=1,
        stride=1,
        pad=0,
        dilation=1,
        group=1,
        bias=True,
        relu=None,
    ):
        """Cross-correlation over the axes after Caffe's channel `axis`."""
        rank = len((x[0] if isinstance(x, list) else x).shape)
        axes = rank - axis - 1
        # TensorFlow has groups in three axes through XLA alone.
        if axis == 1 and axes in PLAIN and rank != 4 and (group == 1 or axes < 3):
            dense = partial(PLAIN[axes][0], filters, groups=group, use_bias=bias)
            steps = {
                "last": partial(keras.layers.Permute, (*range(2, rank), 1)),
                **self._windowed(axes, dense, kernel, stride, pad, dilation, relu),
                "first": partial(keras.layers.Permute, (rank - 1, *range(1, rank - 1))),
            }
            return self._apply(x, name, steps)
        window = _window(axes, kernel, stride, pad, dilation)
        steps = {"nd": partial(ConvolutionND, filters, group=group, bias=bias, axis=axis, **window)}
        if relu is not None:
            steps["relu"] = partial(keras.layers.ReLU, negative_slope=relu)
        return self._apply(x, name, self._in_caffes_order(rank, steps))

    def deconvolution(
        self, x, filters, *, kernel, name, stride=1, pad=0, dilation=1, group=1, bias=True
    ):
        """Transposed convolution: height becomes stride * (height - 1) + kernel - 2 * pad."""
        kernel, stride, pad, dilation = pair(kernel), pair(stride), pair(pad), pair(dilation)
        if group > 1 or max(dilation) > 1:
            made = partial(
                GroupedDeconvolution, filters, kernel, stride, pad, dilation, group, bias
            )
            return self._apply(x, name, {"grouped": made})
        # Keras makes at least stride rows of every input row; Caffe stops after the kernel.
        crop = tuple((p, p + max(s - k, 0)) for k, s, p in zip(kernel, stride, pad, strict=True))
        full = partial(keras.layers.Conv2DTranspose, filters, kernel, strides=stride, use_bias=bias)
        steps = {"full": full}
        if any(map(any, crop)):
            steps["crop"] = partial(keras.layers.Cropping2D, crop)
        return self._apply(x, name, steps)

    def deconvolution_nd(
        self, x, filters, *, kernel, name, axis=1, stride=1, pad=0, dilation=1, group=1, bias=True
    ):
        """Transposed convolution over the axes after Caffe's channel `axis`."""
        rank = len((x[0] if isinstance(x, list) else x).shape)
        window = _window(rank - axis - 1, kernel, stride, pad, dilation)
        made = partial(DeconvolutionND, filters, group=group, bias=bias, axis=axis, **window)
        steps = {"nd": made}
        return self._apply(x, name, self._in_caffes_order(rank, steps))

    def _apply(self, x, name, steps):
        """Keras layers, one after the other: suffix of the name -> what makes one of a name.

        The last has the plain name. Over several tensors, the same layers are called on each.
        """
        last = list(steps)[-1]
        layers = [
            make(name=name if suffix == last else f"{name}__{suffix}")
            for suffix, make in steps.items()
        ]

        def applied(tensor):
            for layer in layers:
                tensor = self.add(layer, tensor)
            return tensor

        if not isinstance(x, list):
            return applied(x)
        return [
            self.add(keras.layers.Identity(name=f"{name}__{i}"), applied(tensor))
            for i, tensor in enumerate(x)
        ]

    def _windowed(self, axes, dense, kernel, stride, pad, dilation, relu):
        """The steps of a channels-last convolution; `dense` makes Keras's layer."""
        _, padded, kept = PLAIN[axes]
        kernel, stride, dilation = (per_axis(value, axes) for value in (kernel, stride, dilation))
        pads = [pair(sides) for sides in per_axis(pad, axes)]
        same = all(
            s == 1 and before == after and 2 * before == d * (k - 1)
            for k, s, d, (before, after) in zip(kernel, stride, dilation, pads, strict=True)
        )
        some = any(map(any, pads))
        steps = {}
        if some and not same:
            steps["pad"] = partial(padded, pads[0] if axes == 1 else pads)
        # Keras takes no stride with a dilation: convolve densely, then keep every stride-th.
        thin = max(stride) > 1 and max(dilation) > 1
        steps["dense"] = partial(
            dense,
            kernel_size=kernel,
            strides=(1,) * axes if thin else stride,
            padding="same" if some and same else "valid",
            dilation_rate=dilation,
        )
        if thin:
            steps["thin"] = partial(kept, 1, strides=stride)
        if relu is not None:
            steps["relu"] = partial(keras.layers.ReLU, negative_slope=relu)
        return steps

    def _in_caffes_order(self, rank, steps):
        """`steps` on blobs in Caffe's order: NHWC tensors are turned before and after."""
        if rank != 4:
            return steps
        return {
            "nchw": partial(keras.layers.Permute, (3, 1, 2)),
            **steps,
            "nhwc": partial(keras.layers.Permute, (2, 3, 1)),
        }


def _window(axes, kernel, stride, pad, dilation):
    sizes = {"kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    return {name: per_axis(value, axes) for name, value in sizes.items()}


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
        # One axis after the other: TensorFlow Lite pads at most five.
        x = tf.reshape(x, [batch, height, 1, width * channels])
        x = tf.pad(x, [[0, 0], [0, 0], [0, sh - 1], [0, 0]])
        x = tf.reshape(x, [batch, height * sh * width, 1, channels])
        x = tf.pad(x, [[0, 0], [0, 0], [0, sw - 1], [0, 0]])
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


@registered
class ConvolutionND(CaffeLayer):
    """Cross-correlation over the axes after `axis`, in Caffe's order (im2col_nd_cpu)."""

    def __init__(self, filters, kernel, stride, pad, dilation, group, bias, axis, **kwargs):
        super().__init__(**kwargs)
        self.settings = {
            "filters": filters,
            "kernel": tuple(kernel),
            "stride": tuple(stride),
            "pad": tuple(pair(sides) for sides in pad),
            "dilation": tuple(dilation),
            "group": group,
            "bias": bias,
            "axis": axis,
        }

    def build(self, shape):
        s = self.settings
        self.kernel = self.add_weight(
            shape=(*s["kernel"], shape[s["axis"]] // s["group"], s["filters"]), name="kernel"
        )
        self.bias = self.add_weight(shape=(s["filters"],), name="bias") if s["bias"] else None

    def window(self):
        """(kernel, stride, (before, after), dilation) of each axis."""
        return zip(
            *(self.settings[k] for k in ("kernel", "stride", "pad", "dilation")), strict=True
        )

    def out(self, size, kernel, stride, sides, dilation):
        """What becomes of an axis of `size`."""
        return (size + sum(sides) - dilation * (kernel - 1) - 1) // stride + 1

    def compute_output_shape(self, shape):
        axis = self.settings["axis"]
        sides = (
            size if size is None else self.out(size, *window)
            for size, window in zip(shape[axis + 1 :], self.window(), strict=True)
        )
        return (*shape[:axis], self.settings["filters"], *sides)

    def call(self, x):
        s = self.settings
        rank, axis = len(x.shape), s["axis"]
        x = tf.transpose(x, [*range(axis), *range(axis + 1, rank), axis])
        x = self.correlated(x)
        x = x if self.bias is None else x + self.bias
        return tf.transpose(x, [*range(axis), rank - 1, *range(axis, rank - 1)])

    def correlated(self, x):
        """The top without its bias, channels last on both sides."""
        s = self.settings
        x = tf.pad(x, [*[(0, 0)] * s["axis"], *s["pad"], (0, 0)])
        return self.correlate(x, tf.convert_to_tensor(self.kernel), s["stride"])

    def correlate(self, x, kernel, stride):
        """Every window of x times the kernel, tap by tap."""
        s = self.settings
        first, group = s["axis"], s["group"]
        steps = list(zip(s["kernel"], stride, s["dilation"], strict=True))
        parts = []
        for tap in itertools.product(*map(range, s["kernel"])):
            places = [slice(None)] * first
            for t, (k, step, d) in zip(tap, steps, strict=True):
                places.append(slice(t * d, (t + 1 - k) * d or None, step))
            parts.append(x[tuple(places)])
        kernels = tf.split(tf.reshape(kernel, [-1, s["filters"]]), group, -1)
        columns = zip(*(tf.split(part, group, -1) for part in parts), strict=True)
        tops = [
            tf.tensordot(tf.concat(taps, -1), kernel, 1)
            for taps, kernel in zip(columns, kernels, strict=True)
        ]
        return tf.concat(tops, -1)


@registered
class DeconvolutionND(ConvolutionND):
    """Transposed convolution over the axes after `axis`, in Caffe's order (col2im_nd_cpu).

    Zeros are put between the values, then a convolution runs over them with the kernel turned
    around.
    """

    def out(self, size, kernel, stride, sides, dilation):
        return stride * (size - 1) + dilation * (kernel - 1) + 1 - sum(sides)

    def correlated(self, x):
        first = self.settings["axis"]
        for axis, (kernel, stride, (pad, _), dilation) in enumerate(self.window(), start=first):
            x = self.widened(x, axis, stride)
            margin = dilation * (kernel - 1) - pad
            around = [(0, 0)] * len(x.shape)
            around[axis] = (max(margin, 0),) * 2
            crop = max(-margin, 0)
            places = [slice(None)] * axis + [slice(crop, -crop or None)]
            x = tf.pad(x[tuple(places)], around)
        kernel = tf.reverse(tf.convert_to_tensor(self.kernel), range(len(self.settings["kernel"])))
        return self.correlate(x, kernel, (1,) * len(self.settings["kernel"]))

    def widened(self, x, axis, stride):
        """x with stride - 1 zeros between two values of an axis."""
        known = tf.shape(x)
        sizes = [known[place] if size is None else size for place, size in enumerate(x.shape)]
        sizes[axis] *= stride
        # As three axes: TensorFlow Lite pads at most five.
        x = tf.reshape(x, [-1, 1, math.prod(sizes[axis + 1 :])])
        x = tf.reshape(tf.pad(x, [(0, 0), (0, stride - 1), (0, 0)]), sizes)
        return x[tuple([slice(None)] * axis + [slice(0, 1 - stride or None)])]
