"""What mutants are made from: the shared goldens where they are, and nets made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from schemas.interchange import Interchange, Reference, write
from schemas.preprocessing import Preprocessing
from stage_extract import reference
from tests import caffe_bytes as cb
from tests.paths import GOLDENS, ROOT
from tests.prototxts import build, inputs, layer, seeded, seeded_weights

MAX_BYTES = 6000  # of a seed: small ones are quick, and hold as many forms

CURRENT = "\n".join(
    (
        'name: "net"',
        inputs(data=(2, 3, 9, 8)),
        layer(
            "Convolution",
            tops="conv",
            parameters="param { lr_mult: 1 decay_mult: 0 } param { lr_mult: 2 } "
            "convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 "
            'weight_filler { type: "xavier" } }',
        ),
        layer("BatchNorm", "conv", "conv", "param { lr_mult: 0 } " * 3, name="bn"),
        layer("Scale", "conv", "conv", "scale_param { bias_term: true }", name="scale"),
        layer("ReLU", "conv", "conv", "relu_param { negative_slope: 0.1 }", name="relu"),
        layer("Pooling", "conv", "pool", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
        layer("LRN", "pool", "norm", "lrn_param { local_size: 3 alpha: 1e-4 beta: 0.75 }"),
        layer("Slice", "norm", "a b", "slice_param { axis: 1 slice_point: 2 }", name="slice"),
        layer("Eltwise", "a b", "sum", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }"),
        layer("Concat", "sum b", "cat", "concat_param { axis: 1 }"),
        layer("Reshape", "cat", "flat", "reshape_param { shape { dim: 0 dim: -1 } }"),
        layer("InnerProduct", "flat", "ip", "inner_product_param { num_output: 5 }"),
        layer("Dropout", "ip", "ip", "dropout_param { dropout_ratio: 0.5 }", name="drop"),
        layer("Softmax", "ip", "prob"),
    )
)
TRAINING = """
name: "train_val"  # a comment
state { stage: "deploy" }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 8 mean_value: [104, 117, 123] }
  data_param { source: "lmdb" batch_size: 4 backend: LMDB } }
layer { name: "in" type: "Input" top: "data" include { phase: TEST stage: "deploy" }
  input_param { shape < dim: 1 dim: 3 dim: 8 dim: 8 > } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: .01 } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc"
  include { phase: TRAIN } exclude { not_stage: 'x' } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" loss_weight: 1.0
  include { phase: TRAIN min_level: 1 max_level: 2 } }
layer { name: "out" type: "Sigmoid" bottom: "ip" top: "out" ; }
"""
V1 = """
name: 'old' input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 6
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2
  weight_decay: 1 weight_decay: 0 param: "w" blob_share_mode: STRICT
  convolution_param { num_output: 2 kernel_h: 3 kernel_w: 2 pad: 2.0 group: 1 } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { pool: 1 kernel_size: 2 } }
layers { name: "i" type: IMAGE_DATA top: "x" top: "y" exclude { phase: TEST }
  image_data_param { source: "s" batch_size: 3 scale: 0.5 mirror: 1 crop_size: 7 } }
layers { name: "s" type: SOFTMAX bottom: "p" top: "s" }
"""
V0 = """
name: "oldest" input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 6
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 stride: 1 biasterm: true
  weight_filler { type: "constant" value: 1 } blobs_lr: 1. weight_decay: 1. }
  bottom: "pad" top: "c" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "c" top: "p" }
layers { layer { name: "n" type: "lrn" local_size: 3 alpha: 1e-4 beta: .75 } bottom: "p" top: "n" }
layers { layer { name: "d" type: "dropout" dropout_ratio: 0.5 } bottom: "n" top: "n" }
layers { layer { name: "i" type: "innerproduct" num_output: 3 } bottom: "n" top: "i" }
layers { layer { name: "k" type: "concat" concat_dim: 1 } bottom: "i" bottom: "i" top: "k" }
layers { layer { name: "s" type: "softmax" } bottom: "k" top: "s" }
"""
SHAPES = """
input: "a" input: "b" input: "cont" input_shape { dim: 2 dim: 4 dim: 5 dim: 5 }
input_shape { dim: [2, 4, 3, 3] } input_shape < dim: 2; dim: 4 >
layer { name: "up" type: "Deconvolution" bottom: "a" top: "up"
  convolution_param { num_output: 4 kernel_size: 4 stride: 2 group: 4 bias_term: false } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "b" top: "crop"
  crop_param { axis: 2 offset: 1 offset: 2 } }
layer { name: "r" type: "Reshape" bottom: "crop" top: "r"
  reshape_param { shape { dim: 0 dim: 4 dim: -1 } axis: 0 num_axes: -1 } }
layer { name: "f" type: "Flatten" bottom: "crop" top: "f" }
layer { name: "in place" type: "ReLU" bottom: "f" top: "f" }
layer { name: "lstm" type: "LSTM" bottom: "r" bottom: "cont" top: "h"
  recurrent_param { num_output: 2 } }
layer { name: "arg" type: "ArgMax" bottom: "crop" top: "arg" argmax_param { top_k: 2 axis: 1 } }
layer { name: "tile" type: "Tile" bottom: "f" top: "t" tile_param { axis: 1 tiles: 2 } }
"""
SOLVER = 'net: "train_val.prototxt" base_lr: 0.01 lr_policy: "step" snapshot_prefix: "x"\n'


def texts() -> list[bytes]:
    """Prototxts."""
    made = [text.encode() for text in (CURRENT, TRAINING, V1, V0, SHAPES)]
    shared = [path.read_bytes() for path in _small("*.prototxt")]
    # The goldens have few old nets.
    return [SOLVER.encode(), *made * (1 + len(shared) // 20), *shared]


def caffemodels() -> list[bytes]:
    """Binary caffemodels: of every age and form, and damaged ones."""
    w, b = _values(4, 3, 3, 3), _values(4)
    raw = np.arange(6, dtype="<f2").tobytes()
    half = cb.shape(2, 3) + cb.number(10, 2) + cb.field(12, raw)
    made = [
        cb.field(1, "net") + cb.layer("conv", cb.blob(w), cb.blob(b)) + cb.layer("relu"),
        cb.v1_layer("conv", cb.legacy(4, 3, 3, 3) + cb.packed(5, w), cb.legacy(1, 1, 1, 4)
                    + cb.unpacked(5, b)) + cb.v1_layer("relu", type=18),
        cb.v0_layer("conv", cb.legacy(4, 3, 3, 3) + cb.unpacked(5, w)) + cb.v0_layer("relu"),
        cb.layer("d", cb.shape(4) + cb.packed(8, b.astype("<f8")), cb.blob(_values(0)),
                 cb.packed(5, b[:2]) + cb.shape(4) + cb.packed(5, b[2:]), half),
        cb.layer("é", cb.shape(4) + cb.unpacked(8, b.astype("<f8")), cb.packed(5, b[:1]),
                 type="Scale") + cb.v1_layer("a/b", cb.blob(_values(2, 2))),
    ]  # fmt: skip
    data = cb.field(143, cb.field(1, cb.field(1, b"\2\3")))  # an input_param
    ip = cb.field(117, cb.number(1, 4)) + cb.field(7, cb.blob(_values(4, 3)))
    whole = cb.field(100, cb.field(1, "data") + cb.field(2, "Input") + cb.field(4, "data") + data)
    whole += cb.field(100, cb.field(1, "ip") + cb.field(2, "InnerProduct") + cb.field(3, "data")
                      + cb.field(4, "ip") + ip + cb.field(7, cb.blob(b)))  # fmt: skip
    made += [whole] * 3
    forks = (
        cb.legacy(1, 1, 1, 2) + cb.number(5, 2) + cb.packed(5, b[:2]),  # C3D
        cb.legacy(1, 1, 1, 2) + cb.field(11, raw),  # BVLC's opencl branch
        cb.shape(2, 3) + cb.number(10, 3) + cb.field(12, raw),  # NVIDIA's, of another type
    )
    shared = [path.read_bytes() for path in _small("*.caffemodel")]
    refused = [cb.layer("fork", blob) for blob in forks]
    return (made * 8 + refused) * (1 + len(shared) // 100) + shared


def means() -> list[bytes]:
    """Mean images."""
    return [cb.legacy(1, 3, 2, 2) + cb.packed(5, _values(12)), cb.blob(_values(3, 2, 2))] + [
        path.read_bytes() for path in _small("*.binaryproto")
    ]


def hdf5_weights() -> list[bytes]:
    """Caffe's own HDF5."""
    return [path.read_bytes() for path in _small("*.caffemodel.h5", 20_000)]


def interchanges(folder: Path) -> list[Path]:
    """Interchange files: the oldest, and new ones of nets made here, written to `folder`."""
    files = [ROOT / "tests" / "data" / "interchange_v1.h5"]
    for name, text in (("current", CURRENT), ("shapes", SHAPES)):
        built = build(text, dialects=("bvlc",))
        parameters, fed = seeded_weights(built), seeded(built.net)
        blobs = reference.forward(built.net, parameters, fed)
        shapes = {key: built.net.blobs[key].shape for key in built.net.inputs}
        images = {key: shape[2:] for key, shape in shapes.items() if shape[1:2] == (3,)}
        content = Interchange(
            built.net,
            parameters,
            reference=Reference("numpy", 7, fed, blobs),
            means={key: _values(3, *size) for key, size in images.items()},
            images={key: Preprocessing("warp", (64, 80), (size[0], size[1]))
                    for key, size in images.items()},
            labels=("tench", "goldfish"),
        )  # fmt: skip
        files.append(folder / f"{name}.h5")
        write(files[-1], content)
    return files


def _values(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape, np.float32)


def _small(pattern: str, most: int = MAX_BYTES) -> list[Path]:
    return [path for path in sorted(GOLDENS.rglob(pattern)) if 0 < path.stat().st_size <= most]
