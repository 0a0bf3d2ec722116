"""MVN, the forks' Normalize and their kin."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form

# A channel that is all one value, and a pixel that is all zeros.
DEGENERATE = np.random.default_rng(1).standard_normal(SHAPES[4], np.float32)
DEGENERATE[1, 2] = 0
DEGENERATE[0, :, 1, 3] = 0


def of(dialect, id_, type_, parameters="", shape=SHAPES[4], tops="out", x=None):
    """One layer of a fork."""
    shape = shape if x is None else x.shape
    return Form(
        f"{type_}-{dialect}-{id_}",
        (nets.layer(type_, "data", tops, parameters),),
        {"data": shape},
        {} if x is None else {"data": x},
        options={"dialects": (dialect,)},
    )


FORMS = [
    form("default", "MVN"),
    form("across-channels", "MVN", "mvn_param { across_channels: true }"),
    form("mean-only", "MVN", "mvn_param { normalize_variance: false }"),
    form("eps", "MVN", "mvn_param { eps: 0.3 }"),
    form("eps-under-root", "MVN", "mvn_param { eps: 0.3 add_eps_before_sqrt: true }"),
    form("degenerate", "MVN", x=DEGENERATE),
    form("no-eps", "MVN", "mvn_param { eps: 0 across_channels: true }"),
    form("rank-1", "MVN", shape=SHAPES[1]),
    form("rank-2", "MVN", "mvn_param { across_channels: true }", SHAPES[2]),
    form("rank-3", "MVN", shape=SHAPES[3]),
    form("rank-3-across-channels", "MVN", "mvn_param { across_channels: true }", SHAPES[3]),
    *(
        of("ssd", f"{id_}-{rank}", "Normalize", f"norm_param {{ {parameters} }}", SHAPES[rank])
        for rank in (2, 3, 4)
        for id_, parameters in (
            ("default", ""),
            ("pixels", "across_spatial: false"),
            ("channel-scales", "channel_shared: false eps: 0.5"),
            ("pixels-channel-scales", "across_spatial: false channel_shared: false eps: 2"),
            ("eps-after-root", "add_eps_before_sqrt: false eps: 3"),
            (
                "eps-under-root-of-pixels",
                "across_spatial: false add_eps_before_sqrt: false eps: 3",
            ),
        )
    ),
    of("ssd", "zeros", "Normalize", "norm_param { across_spatial: false }", x=DEGENERATE),
    *(
        of("happynear", f"{kind}-{rank}", "Normalize", parameters, SHAPES[rank], tops)
        for rank in (2, 3, 4)
        for kind, parameters, tops in (
            ("L2", "", "out"),
            ("L1", 'normalize_param { normalize_type: "L1" }', "out"),
            ("L2-length", 'normalize_param { normalize_type: "L2" }', "out length"),
            ("L1-length", 'normalize_param { normalize_type: "L1" }', "out length"),
        )
    ),
    form("rank-2", "L2Normalization", shape=SHAPES[2]),
    form("rank-4", "L2Normalization", shape=(2, 5, 1, 1)),
    *(of("gy20073", f"{r}", "L2Normalization", shape=SHAPES[r]) for r in (2, 3, 4, 5)),
    *(of("spongezhang", f"{r}", "L2Normalization", shape=SHAPES[r]) for r in (2, 3, 4)),
    *(form(f"{r}", "ChannelNorm", shape=SHAPES[r]) for r in (1, 2, 3, 4)),
    form("zeros", "ChannelNorm", x=DEGENERATE),
]

SAVED = [
    Form(
        "normalization",
        (
            nets.layer("MVN", "data", "mvn", "mvn_param { eps: 0.1 }"),
            nets.layer("Normalize", "mvn", "scaled", "norm_param { channel_shared: false eps: 1 }"),
            nets.layer("Normalize", "data", "unit", 'normalize_param { normalize_type: "L1" }'),
            nets.layer("ChannelNorm", "scaled", "length"),
            nets.layer("L2Normalization", "data", "whole"),
        ),
        dict(data=SHAPES[4]),
        options={"dialects": ("gy20073",)},
    )
]
