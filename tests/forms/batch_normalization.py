"""BatchNorm as the forks have it."""

from __future__ import annotations

import numpy as np

from tests import nets
from tests.forms import SHAPES, Form, form

RNG = np.random.default_rng(2)


def weights(channels, form_):
    """Parameters by key, from a letter each: m(ean), v(ariance), f(actor), anything else."""
    blobs = {}
    for place, letter in enumerate(form_):
        values = RNG.standard_normal(1 if letter == "f" else channels, np.float32)
        blobs[f"out/{place}"] = np.abs(values) + np.float32(0.5) if letter in "vf" else values
    return blobs


def of(dialect, id_, blobs, parameters="", shape=SHAPES[4], type_="BatchNorm"):
    """One layer of a fork, with blobs that suit it."""
    return Form(
        f"{type_}-{dialect}-{id_}",
        (nets.layer(type_, "data", "out", f"batch_norm_param {{ {parameters} }}"),),
        {"data": shape},
        weights=weights(shape[1], blobs),
        options={"dialects": (dialect,)},
    )


def bvlc(id_, parameters):
    return form(id_, "BatchNorm", f"batch_norm_param {{ {parameters} }}")


FORMS = [
    bvlc("disable-mean", "disable_mean: true"),
    bvlc("disable-variance", "disable_variance: true"),
    bvlc("batch-without-mean", "use_global_stats: false disable_mean: true eps: 0.1"),
    bvlc("batch-without-variance", "use_global_stats: false disable_variance: true"),
    bvlc("eps-after-root", "add_eps_before_sqrt: false eps: 0.5"),
    *(of("nvidia", f"3-blobs-{r}", "mvf", "eps: 1e-9", SHAPES[r]) for r in (2, 3, 4, 5)),
    *(of("nvidia", f"5-blobs-{r}", "mvfsb", "scale_bias: true", SHAPES[r]) for r in (2, 3, 4, 5)),
    of("nvidia", "filler", "mvfsb", "bias_filler { value: 2 } use_global_stats: false eps: 0.3"),
    *(of("nvidia15", f"{r}", "sbmvf", "eps: 0.2", SHAPES[r]) for r in (2, 3, 4, 5)),
    of("nvidia15", "batch", "sbmvf", "eps: 0.2 use_global_stats: false"),
    of("nvidia15", "batch-rank-3", "sbmvf", "use_global_stats: false", SHAPES[3]),
    *(of("intel", f"5-blobs-{r}", "mvfsb", "eps: 0.2 relu: true", SHAPES[r]) for r in (2, 3, 4, 5)),
    of("intel", "4-blobs", "mvfs", "bias_term: false"),
    of("intel", "3-blobs", "mvf", "use_weight_bias: false relu: true"),
    of("intel", "batch", "mvfsb", "use_global_stats: false relu: true eps: 0.3"),
    of("intel", "mkl", "mvfsb", type_="MKLBatchNorm"),
]

SAVED = [
    Form(
        "batch-normalization",
        (
            nets.layer("BatchNorm", "data", "norm", "batch_norm_param { scale_bias: true }"),
            nets.layer(
                "BatchNorm",
                "norm",
                "batch",
                "batch_norm_param { use_global_stats: false bias_filler { value: 1 } relu: true }",
            ),
        ),
        dict(data=SHAPES[4]),
    )
]
