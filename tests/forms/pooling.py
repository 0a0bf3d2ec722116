"""Pooling's positions, its pyramid, volumes, and the forks' padding."""

from __future__ import annotations

from tests import nets
from tests.forms import Form, form

IMAGE = (2, 3, 8, 11)


def positions(id_, parameters, shape=IMAGE):
    return form(id_, "Pooling", f"pooling_param {{ {parameters} }}", shape, tops="pool mask")


def average(id_, parameters):
    return form(id_, "Pooling", f"pooling_param {{ kernel_size: 3 {parameters} }}", IMAGE)


def pyramid(id_, parameters, shape=IMAGE):
    return form(id_, "SPP", f"spp_param {{ {parameters} }}", shape)


def volumes(id_, parameters, kinds=("MAX", "AVE")):
    return [
        form(
            f"{kind}-{id_}",
            "Pooling3D",
            f"pooling3d_param {{ pool: {kind} {parameters} }}",
            (2, 3, 5, 8, 7),
        )
        for kind in kinds
    ]


FORMS = [
    positions("positions", "kernel_size: 2 stride: 2"),
    positions("positions-overhang", "kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0"),
    positions("positions-overlap", "kernel_size: 3"),
    positions("positions-global", "global_pooling: true"),
    positions("positions-empty-window", "kernel_size: 1 stride: 3"),
    positions("positions-rows-left", "kernel_size: 2 stride: 3 round_mode: FLOOR"),
    *(
        average(f"{kind}-{id_}", f"{window} {field}")
        for kind, field in (
            ("exc-pad", "pool: AVE_EXC_PAD"),
            ("tf", "pool: AVE_TF"),
            ("intel", "pool: AVE avg_include_pad: false"),
        )
        for id_, window in (("pad", "stride: 2 pad: 2"), ("overhang", "stride: 2"), ("plain", ""))
    ),
    *(
        average(f"{kind}-{id_}", f"pool: {kind} stride: 2 {sides}")
        for kind in ("MAX", "AVE", "AVE_EXC_PAD")
        for id_, sides in (
            ("sides", "pad_l: 2 pad_t: 1 pad_b: 3"),
            ("sides-floor", "pad_r: 2 pad_b: 1 ceil_mode: false"),
            ("same", "pad_type: 1"),
        )
    ),
    average("sides-clipped", "pool: AVE stride: 3 pad_b: 2 pad_r: 2"),
    pyramid("one", "pyramid_height: 1"),
    pyramid("max", "pyramid_height: 3"),
    pyramid("average", "pyramid_height: 2 pool: AVE"),
    pyramid("pixels", "pyramid_height: 3", (2, 3, 4, 4)),
    *volumes("plain", "kernel_size: 2 kernel_depth: 2"),
    *volumes("first-of-c3d", "kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 1"),
    *volumes("overhang", "kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2"),
    # 7 + 2 - 2 over 2 rounds up to a window that starts in the far padding: not dropped.
    *volumes("pad", "kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 1 pad: 1", ["AVE"]),
]

SAVED = [
    Form(
        "poolings",
        (
            nets.layer(
                "Pooling", "data", "pool mask", "pooling_param { kernel_size: 3 stride: 2 }"
            ),
            nets.layer(
                "Pooling",
                "pool",
                "average",
                "pooling_param { pool: AVE_EXC_PAD kernel_size: 3 pad: 1 }",
            ),
        ),
        dict(data=IMAGE),
    )
]

FLAT = ["Positions"]
