"""What real Caffe computed for one net: shapes and values, by the names of Caffe's own blobs."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np

FILE = os.environ.get("STANDIN_CAFFE_GOLDEN")

# What told the shapes of the layers that were set up: "tops: golden", "parameters: weights", or
# else "tops: computed", "parameters: computed".
told = Counter()


class Golden:
    """The arrays of a golden.npz: ``input:<blob>`` was fed, ``blob:<blob>`` came out."""

    def __init__(self, path):
        self._arrays = {}
        if path:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {
                    name.replace("%2F", "/"): file[name] for name in file.files if ":" in name
                }
        self.inputs = {
            name.partition(":")[2]: values
            for name, values in self._arrays.items()
            if name.startswith("input:")
        }

    def blob(self, name):
        """The values of a blob after the whole pass, or None where they are not known."""
        return self._arrays.get("blob:" + name)


def used():
    """The golden that is in use; one without arrays if none is."""
    return Golden(FILE)


def use(path):
    """Takes shapes and values from this npz file, or from none again."""
    globals().update(FILE=path)
    told.clear()
