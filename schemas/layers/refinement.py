"""What sharpens a segmentation by its image: known, and refused with the reason."""

from __future__ import annotations

from schemas.errors import UnsupportedModel
from schemas.layers.registry import Meaning, layer


@layer("DenseCRF", dialect="pspnet")
class DenseCRF(Meaning):
    """A fully connected CRF (DeepLab's densecrf_layer.cpp)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "DenseCRF filters in a lattice in a hash table made anew from each image, of which "
            "there is no exact form in TensorFlow's operations"
        )


@layer("MultiStageMeanfield", dialect="crf-rnn")
class MultiStageMeanfield(Meaning):
    """A CRF as steps of mean fields (CRF-RNN's multi_stage_meanfield.cpp)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "MultiStageMeanfield filters in lattices in a hash table made anew from each image, of "
            "which there is no exact form in TensorFlow's operations"
        )


@layer("DomainTransform", dialect="pspnet")
class DomainTransform(Meaning):
    """A recursive filter that stops at edges (DeepLab's domain_transform_layer.cpp)."""

    def check(self) -> None:
        raise UnsupportedModel(
            "DomainTransform filters from pixel to pixel, each on the result of the one before, "
            "which is not done here"
        )
