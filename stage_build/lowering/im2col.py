"""Im2col: the windows of a convolution as channels."""

from __future__ import annotations

from typing import Any

from stage_build.lowering.registry import Call, Site, lowering

_UNHELD = "over three axes or more, it moves more axes than TensorFlow Lite can"


def _once(values: tuple[int, ...]) -> Any:
    """One number for equal ones."""
    return values[0] if len(set(values)) == 1 else values


@lowering("Im2col")
def im2col(site: Site) -> Call:
    size = site.meaning.spatial(site.bottoms[0].shape)
    window = site.meaning.geometry(len(size))
    return Call(
        "im2col",
        {
            "axes": len(size),
            "kernel": _once(window.kernel),
            "stride": _once(window.stride),
            "pad": _once(window.pad),
            "dilation": _once(window.dilation),
        },
        unheld={"tflite": _UNHELD} if len(size) > 2 else {},
    )
