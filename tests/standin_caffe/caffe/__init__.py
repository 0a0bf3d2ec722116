"""A double of PyCaffe for machines without Caffe: its interface, its graph, its memory, its habits.

What a layer computes is taken from `schemas.layers`, but for the layer that this build alone has.
All else follows Caffe's own files, whose names the modules here have, and shares no code with the
readers under test: protobuf parses by this build's own `caffe_pb2`, nets are upgraded, filtered and
split, blobs really share memory, in-place layers write over their bottom, the log goes to stderr,
and a net that Caffe refuses ends the process.

`golden.use` (or the environment variable STANDIN_CAFFE_GOLDEN) names what real Caffe computed for
the net: its shapes are then taken from there, and its values where its own input is fed.

Not here: databases, fillers (weights start as zeros), backward passes, training.
"""

from ._caffe import ArgumentError, Layer, layer_type_list, set_mode_cpu
from .proto.caffe_pb2 import TEST, TRAIN
from .pycaffe import Net

__all__ = ("TEST", "TRAIN", "ArgumentError", "Layer", "Net", "layer_type_list", "set_mode_cpu")
