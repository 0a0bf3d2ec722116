"""Tile, Intel's Concat, and the Crop of the old FCN branch."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import MalformedModel, UnsupportedModel
from tests import prototxts
from tests.meanings import infer, run, values

same = np.testing.assert_array_equal


@pytest.mark.parametrize(
    "param, expected",
    [
        (dict(tiles=2), [[0, 1, 0, 1], [2, 3, 2, 3]]),
        (dict(axis=0, tiles=3), [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1], [2, 3]]),
        (dict(axis=-1, tiles=1), [[0, 1], [2, 3]]),
    ],
    ids=["default", "axis", "once"],
)
def test_tile(param, expected):
    """tile_layer.cpp: the rows 01, 23, each axis as a whole."""
    (top,) = run("Tile", param, [values((2, 2))])
    same(top, expected)


def test_tile_refuses():
    with pytest.raises(MalformedModel, match="tiles should be positive, found 0"):
        infer("Tile", {}, [(2, 3)])
    with pytest.raises(MalformedModel, match="axis 2 is out of range"):
        infer("Tile", dict(axis=2, tiles=2), [(2, 3)])


@pytest.mark.parametrize("axis, expected", [(0, None), (1, 0)])
def test_tiled_samples_are_not_apart(axis, expected):
    made, _, tops = infer("Tile", dict(axis=axis, tiles=2), [(2, 3)])
    assert made.batch_axes([(2, 3)], [0], tops) == [expected]


def test_a_fused_concat_is_refused():
    """Intel's caffe.proto: per_fla_fuse."""
    with pytest.raises(UnsupportedModel, match="per_fla_fuse"):
        infer("Concat", dict(per_fla_fuse=True), [(2, 3), (2, 3)])
    infer("Concat", dict(per_fla_fuse=False), [(2, 3), (2, 3)])


# ---- Crop of the old FCN branch ------------------------------------------------------------------


def convolution(bottom, top, parameters, type_="Convolution"):
    return prototxts.layer(
        type_, bottom, top, f"convolution_param {{ num_output: 2 {parameters} }}"
    )


def crop(bottom, like="data", top="crop"):
    return prototxts.layer("Crop", f"{bottom} {like}", top)


def build(*layers, shape=(1, 3, 20, 27), dialect="fcn-future"):
    return prototxts.build(prototxts.inputs(data=shape), *layers, dialects=(dialect,))


def offsets(built, name="crop"):
    (found,) = (layer for layer in built.net.layers if layer.name == name)
    return found.fields["crop_param"]["aligned"]


def test_a_padded_convolution():
    """coord_map(): pixel x of the image is pixel (x - ((k - 1) / 2 - p)) / s of the convolution.
    Rows: (3 - 1) / 2 - 4 = -3, so image row 0 is row 3; columns: (5 - 1) / 2 - 3 = -1."""
    built = build(
        convolution("data", "conv", "kernel_h: 3 kernel_w: 5 pad_h: 4 pad_w: 3"), crop("conv")
    )
    assert offsets(built) == [3, 1]
    assert built.net.blobs["crop"].shape == (1, 2, 20, 27)
    assert any("row 3, column 1" in note for note in built.notes)
    everything = prototxts.values(built)
    same(everything["crop"], everything["conv"][:, :, 3:23, 1:28])


def test_down_and_up_again():
    """conv: x + 8 - 1 = x + 7; pool: (x + 7 - 0.5) / 2; the deconvolution's inverse: 2 y + 1.5, so
    x + 6.5 + 1.5 = x + 8."""
    built = build(
        convolution("data", "conv", "kernel_size: 3 pad: 8"),
        prototxts.layer("Pooling", "conv", "pool", "pooling_param { kernel_size: 2 stride: 2 }"),
        convolution("pool", "up", "kernel_size: 4 stride: 2", "Deconvolution"),
        crop("up"),
    )
    assert offsets(built) == [8, 8]


def test_the_way_goes_through_an_earlier_crop():
    """conv: x + 4; its crop to `like`: x + 4 - 4; the second convolution: x + 1."""
    built = build(
        convolution("data", "conv", "kernel_size: 3 pad: 5"),
        crop("conv", top="first"),
        prototxts.layer("ReLU", "first", "first", name="relu"),
        convolution("first", "more", "kernel_size: 1 pad: 1"),
        crop("more", top="second"),
    )
    assert offsets(built, "first") == [4, 4]
    assert offsets(built, "second") == [1, 1]


def test_layers_beyond_the_common_blob_do_not_matter():
    """The data were reshaped before both ways part."""
    built = build(
        prototxts.layer(
            "Reshape", "data", "image", "reshape_param { shape { dim: [0, 3, 27, 20] } }"
        ),
        convolution("image", "conv", "kernel_size: 3 pad: 3"),
        crop("conv", "image"),
    )
    assert offsets(built) == [2, 2]


@pytest.mark.parametrize(
    "layers, message",
    [
        ([convolution("data", "conv", "kernel_size: 3")], r"x \+ -1|x \+ 1"),
        ([convolution("data", "conv", "kernel_size: 2 pad: 3")], r"5/2"),
        ([convolution("data", "conv", "kernel_size: 1 stride: 2 pad: 9")], "lies at 2 x"),
        ([prototxts.inputs(conv=(1, 3, 30, 30))], "leads to both"),
    ],
    ids=["negative", "half", "scale", "apart"],
)
def test_bottoms_that_cannot_be_aligned(layers, message):
    with pytest.raises(MalformedModel, match=message):
        build(*layers, crop("conv"))


def test_a_layer_that_resizes_otherwise_is_refused():
    with pytest.raises(UnsupportedModel, match="how it moves pixels is not known"):
        build(
            prototxts.layer(
                "Reshape", "data", "conv", "reshape_param { shape { dim: [0, 3, 27, 20] } }"
            ),
            crop("conv"),
        )


def test_without_a_word_the_user_must_choose():
    """BVLC's Crop without parameters takes offset 0."""
    layers = [convolution("data", "conv", "kernel_size: 3 pad: 3"), crop("conv")]
    with pytest.raises(UnsupportedModel, match="--dialect bvlc or fcn-future"):
        prototxts.build(prototxts.inputs(data=(1, 3, 20, 27)), *layers)
    built = build(*layers, dialect="bvlc")
    everything = prototxts.values(built)
    same(everything["crop"], everything["conv"][:, :, :20, :27])


def test_crop_parameters_are_bvlcs():
    built = prototxts.build(
        prototxts.inputs(data=(1, 3, 20, 27)),
        convolution("data", "conv", "kernel_size: 3 pad: 3"),
        prototxts.layer("Crop", "conv data", "crop", "crop_param { offset: 1 }"),
    )
    assert built.net.layers[-1].dialect == ""


def test_a_crop_that_was_not_aligned_is_not_computed():
    with pytest.raises(UnsupportedModel, match="was not worked out"):
        infer("Crop", {}, [(1, 2, 9, 9), (1, 3, 5, 5)], dialect="fcn-future")
