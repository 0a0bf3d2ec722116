"""Images at another size."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import Form, form

SHAPE = (2, 3, 8, 11)
# Some pixels and a corner, so that no mean is of half unknown pixels to the last bit.
HOLES = np.arange(528, dtype=np.float32).reshape(SHAPE) / 100
HOLES[:, :, 2::4, 1::5] = np.nan
HOLES[1, 2, :5, 6:] = np.nan


def interp(id_, parameters, shape=SHAPE, **more):
    return form(id_, "Interp", f"interp_param {{ {parameters} }}", shape, **more)


def resample(id_, parameters, **more):
    return form(id_, "Resample", f"resample_param {{ {parameters} }}", SHAPE, **more)


def downsample(id_, parameters, **more):
    return form(id_, "Downsample", f"downsample_param {{ {parameters} }}", SHAPE, **more)


def accum(id_, parameters, *shapes):
    names = [f"x{i}" for i in range(len(shapes))]
    text = nets.layer("Accum", " ".join(names), "out", f"accum_param {{ {parameters} }}")
    return Form(f"Accum-{id_}", (text,), dict(zip(names, shapes, strict=True)))


FORMS = [
    interp("both-factors", "shrink_factor: 3 zoom_factor: 2"),
    interp("size-over-both-factors", "shrink_factor: 3 zoom_factor: 2 height: 6 width: 4"),
    interp("full-zoom", "full_zoom_factor: 2"),
    interp("crop", "zoom_factor: 3 pad_beg: -2 pad_end: -1"),
    interp("like", "pad_beg: -1", like=(2, 1, 13, 4)),
    interp("from-one-pixel", "height: 4 width: 5", (2, 3, 1, 1)),
    interp("to-one-row", "height: 1 width: 30"),
    resample("up-and-down", "height: 20 width: 5"),
    resample("up-and-down-plain", "height: 20 width: 5 antialias: false"),
    resample("cubic-up-and-down", "height: 3 width: 30 type: CUBIC"),
    resample("one-pixel", "height: 1 width: 1"),
    resample("like", "type: NEAREST", like=(2, 1, 4, 6)),
    downsample("up", "top_height: 8 top_width: 23"),
    downsample("nan", "top_height: 3 top_width: 5", x=HOLES),
    downsample("like", "", like=(2, 1, 3, 7)),
    accum("one", "top_height: 9 top_width: 13", SHAPE),
    accum("one-size-alone-larger", "top_height: 9 top_width: 11", SHAPE, (2, 1, 5, 4)),
    accum("reference", "have_reference: true", SHAPE, (2, 1, 5, 4)),
    form("pyramid", "Resize", "resize_param { is_pyramid_test: true out_height_scale: 0.7 "
         "out_width_scale: 2.3 }", SHAPE),
    form("one-pixel", "Resize", "resize_param { height: 1 width: 1 }", SHAPE),
]  # fmt: skip

SAVED = [
    Form(
        "resizing",
        (
            nets.layer("Interp", "data", "interp", "interp_param { zoom_factor: 2 pad_end: -1 }"),
            nets.layer("Resample", "interp", "resample", "resample_param { height: 9 width: 5 }"),
            nets.layer(
                "Downsample", "resample", "down", "downsample_param { top_height: 4 top_width: 3 }"
            ),
            nets.layer("Resize", "data", "resize", "resize_param { height: 13 width: 6 }"),
            nets.layer("Accum", "down resize", "accum", "accum_param { size_divisible_by: 8 }"),
        ),
        dict(data=SHAPE),
    )
]
