"""Layers that give the values another shape."""

from __future__ import annotations

from schemas.graph import Blob
from stage_build.lowering.registry import Call, Site, lowering


@lowering("Flatten", any_size=True)
def flatten(site: Site) -> Call:
    bottom, top = site.bottoms[0], site.tops[0]
    if _rows(bottom) != 0 or _rows(top) != 0:
        shape = list(top.shape)
        if top.batch is not None:
            shape[top.batch] = 0 if top.batch == bottom.batch else -1
        if top.sequence:
            shape[0] = 0
        return Call("reshape_batch", {0: shape})
    if len(top.shape) == 2:
        return Call("flatten")
    return Call("reshape", {0: top.shape[1:]})


@lowering("Reshape", any_size=True)
def reshape(site: Site) -> Call:
    if site.meaning.pixelshuffler != 1:
        return Call("pixel_shuffle", {0: site.meaning.pixelshuffler})
    return flatten(site)


def _rows(blob: Blob) -> int | None:
    """The axis of rows that are apart: samples, or as many as the data tell."""
    return blob.batch if blob.varying is None else blob.varying
