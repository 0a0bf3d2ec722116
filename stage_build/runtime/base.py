"""The class a converted net derives from. Needs TensorFlow, Keras and NumPy only."""

import hashlib
import json
import math
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Keras finds a saved layer's class by this name: two converted nets in one process share it only
# where their code is the same.
PACKAGE = "caffe_" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
registered = keras.saving.register_keras_serializable(package=PACKAGE)


class Calls:
    """What every family of calls builds on."""

    frozen: tuple = ()  # layers that training leaves alone: lr_mult is 0 in Caffe
    _stored: zipfile.ZipFile  # the open weights.npz
    _used: int  # how many of its members have found their layer

    def add(self, layer, tensor):
        """Applies a Keras layer, whose weights start out as the next ones of weights.npz."""
        if layer.name.partition("__")[0] in self.frozen:
            layer.trainable = False
        plain = layer.add_weight

        def add_weight(*args, initializer=None, **kwargs):
            return plain(*args, initializer=self.stored_weight, **kwargs)

        layer.add_weight = add_weight
        try:
            return layer(tensor)
        finally:
            del layer.add_weight

    def from_nchw(self, x, *, name):
        """NHWC images of NCHW ones."""
        return self.add(keras.layers.Permute((2, 3, 1), name=name), x)

    def transposed(self, x, *, name):
        """NHWC images with height and width exchanged."""
        return self.add(keras.layers.Permute((2, 1, 3), name=name), x)

    def preprocess(self, image):
        """Images as the net takes them; of a net whose preprocessing is known.

        Raises:
            ValueError: it is not known.
        """
        raise ValueError(
            "the preprocessing of this net is not known: tell it with `orchestrate convert "
            "--preprocess`, or feed the net arrays"
        )

    def classify(self, image, top=5):
        """The best classes of images; of a net whose preprocessing is known.

        Raises:
            ValueError: it is not known.
        """
        return self.preprocess(image)

    def stored_weight(self, shape, dtype=None):
        """The next member of weights.npz: an initializer, so that no weight exists twice."""
        number, self._used = self._used, self._used + 1
        value = self.stored_array(f"{number}.npy")
        if value.shape != tuple(shape):
            raise ValueError(
                f"weights.npz, member {number}: shape {tuple(shape)} expected, found {value.shape}"
            )
        return tf.experimental.dlpack.from_dlpack(value.__dlpack__()) if value.size else value

    def stored_array(self, name):
        """A member of weights.npz, where TensorFlow takes it without a copy: see `aligned`."""
        with self._stored.open(name) as member:
            shape, plain = read_header(member)
            size = self._stored.getinfo(name).file_size - member.tell()
            if not plain or 4 * math.prod(shape) != size:  # not as it was written here
                with self._stored.open(name) as again:
                    found = np.lib.format.read_array(again, allow_pickle=False)
                    return np.array(found, np.float32, order="C")
            values = aligned(shape)
            left = memoryview(values.reshape(-1)).cast("B")
            while piece := member.read(min(len(left), 1 << 20)):
                left[: len(piece)] = piece
                left = left[len(piece) :]
            if left:
                raise ValueError(f"weights.npz, {name}: {len(left)} bytes are missing")
        return values


def read_header(member):
    """The shape of an open .npy file, and whether its values are float32 in C's order."""
    version = np.lib.format.read_magic(member)
    shape, fortran, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(member)
    return shape, dtype == np.float32 and not fortran


def aligned(shape):
    """An empty float32 array at a multiple of 64 bytes, as TensorFlow wants it."""
    size = 4 * math.prod(shape)
    room = np.empty(size + 63, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(np.float32).reshape(shape)


class CaffeLayer(keras.layers.Layer):
    """A layer that is saved with its `settings`; unless it says otherwise, shapes stay as they are.

    Attributes:
        settings: the arguments of the subclass's constructor, by name, as JSON values.
    """

    settings: dict = {}

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), **self.settings}


def per_axis(value, axes):
    """A value for each of so many axes, of one that may be for all."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * axes


def pair(value):
    """(height, width) of a size that may be one number for both."""
    return per_axis(value, 2)


def spatial_sizes(x):
    """The sizes of all axes but the first and the last; where a graph does not know, tensors."""
    known = tuple(x.shape)[1:-1]
    return keras.ops.shape(x)[1:-1] if None in known else known


class BaseNetwork(Calls):
    """A Keras model whose layers, blobs and weights are those of a Caffe net.

    Attributes:
        model: the Keras functional model, for training, saving and everything else Keras does.
        names: names.json: Caffe's names of inputs, outputs, layers and blobs -> the names here.
    """

    inputs: dict = {}  # name -> shape; None is the batch

    def __init__(self, folder=None):
        self.folder = Path(folder or Path(__file__).parent)
        self.names = json.loads((self.folder / "names.json").read_text("utf-8"))
        tensors = {
            name: keras.Input(batch_shape=shape, name=name) for name, shape in self.inputs.items()
        }
        self._used = 0
        with zipfile.ZipFile(self.folder / "weights.npz") as self._stored:
            outputs = {
                # Keras takes no input for an output: it needs a layer between.
                name: keras.layers.Identity(name=f"{name}__out")(tensor)
                if any(tensor is given for given in tensors.values())
                else tensor
                for name, tensor in self.graph(**tensors).items()
            }
        bare = len(tensors) == 1
        self.model = keras.Model(
            next(iter(tensors.values())) if bare else tensors, outputs, name=type(self).__name__
        )

    def graph(self, **inputs):
        """The net: tensors by input name in, tensors by output name out."""
        raise NotImplementedError

    def __call__(self, inputs):
        """Runs the net on NHWC float32 arrays: one array, or a dict by input name.

        Returns:
            Output name -> tensor.
        """
        return self.model(inputs, training=False)

    def blob(self, name):
        """The sub-model from the inputs to the Caffe blob `name` (``net.blob("fc7")(images)``)."""
        return keras.Model(self.model.input, self.tensor(name), name="blob")

    def tensor(self, name):
        """The Keras tensor of a Caffe blob; an overwritten value is ``name@layer``."""
        if name not in self.names["blobs"]:
            known = ", ".join(sorted(self.names["blobs"]))
            raise KeyError(f"no blob {name!r}; known: {known}")
        layer, index = self.names["blobs"][name]
        output = self.model.get_layer(layer).output
        return output[index] if isinstance(output, (list, tuple)) else output
