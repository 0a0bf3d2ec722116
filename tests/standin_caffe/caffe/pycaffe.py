"""The half of Net that is written in Python (python/caffe/pycaffe.py)."""

from __future__ import annotations

from collections import OrderedDict

from ._caffe import Net


def _cached(field, make):
    def get(self):
        if not hasattr(self, field):
            setattr(self, field, make(self))
        return getattr(self, field)

    return property(get)


def _names_of(ids):
    """As in PyCaffe, wrong after blobs of one name: positions among names are not among blobs."""

    def make(self):
        names = list(self.blobs)
        return OrderedDict(
            (self._layer_names[i], [names[j] for j in ids(self, i)])
            for i in range(len(self.layers))
        )

    return make


def _forward(self, blobs=None, start=None, end=None, **inputs):
    """The outputs of the net, or of the layer `end`, and `blobs`, by name."""
    blobs = blobs or []
    names = list(self._layer_names)
    first = 0 if start is None else names.index(start)
    last = len(self.layers) - 1 if end is None else names.index(end)
    outputs = set((self.outputs if end is None else self.top_names[end]) + blobs)
    if inputs:
        if set(inputs) != set(self.inputs):
            raise Exception("Input blob arguments do not match net inputs.")
        for name, values in inputs.items():
            if values.shape[0] != self.blobs[name].shape[0]:
                raise Exception("Input is not batch sized")
            self.blobs[name].data[...] = values
    self._forward(first, last)
    return {name: self.blobs[name].data for name in outputs}


Net.blobs = _cached("_blobs_dict", lambda self: OrderedDict(zip(self._blob_names, self._blobs)))
Net.params = _cached(
    "_params_dict",
    lambda self: OrderedDict(
        (name, layer.blobs) for name, layer in zip(self._layer_names, self.layers) if layer.blobs
    ),
)
Net.layer_dict = _cached(
    "_layer_dict", lambda self: OrderedDict(zip(self._layer_names, self.layers))
)
Net.inputs = _cached("_input_list", lambda self: [list(self.blobs)[i] for i in self._inputs])
Net.outputs = _cached("_output_list", lambda self: [list(self.blobs)[i] for i in self._outputs])
Net.top_names = _cached("_top_names", _names_of(Net._top_ids))
Net.bottom_names = _cached("_bottom_names", _names_of(Net._bottom_ids))
Net.forward = _forward
