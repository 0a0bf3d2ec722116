"""BN, of four blobs and of two."""

from __future__ import annotations

from dataclasses import replace

from tests import nets
from tests.forms import SHAPES, Form
from tests.forms.batch_normalization import weights


def of(dialect, id_, parameters="", shape=SHAPES[4], tops="out"):
    """One layer of a fork."""
    return Form(
        f"BN-{dialect}-{id_}",
        (nets.layer("BN", "data", tops, f"bn_param {{ {parameters} }}"),),
        {"data": shape},
        options={"dialects": (dialect,)},
    )


def of_4(dialect, id_, blobs, shape=SHAPES[4]):
    """A layer with four blobs: s(lope), b(ias), m(ean) and v(ariance) or its inverse root."""
    form_ = (1, -1, 1, 1) if dialect == "pspnet" else (1, -1)
    return replace(
        of(dialect, id_, "eps: 0.3", shape),
        weights={key: value.reshape(form_) for key, value in weights(shape[1], blobs).items()},
    )


FORMS = [
    *(
        of_4(dialect, f"{rank}", "sbmv", SHAPES[rank])
        for dialect in ("pspnet", "tsn", "happynear")
        for rank in (2, 3, 4)
    ),
    # A deviation below 0 as well: no blob is refused that Caffe takes.
    of_4("happynear", "signs", "sbms"),
    *(of("segnet", f"learn-{r}", shape=SHAPES[r]) for r in (2, 3, 4)),
    *(of("segnet", f"inference-{r}", "bn_mode: INFERENCE", SHAPES[r]) for r in (1, 2, 3, 4)),
    of("segnet", "2-tops", "bn_mode: LEARN", tops="out mean"),
    of("segnet", "3-tops", shape=SHAPES[3], tops="out mean variance"),
    *(of("parsenet", f"{r}", "var_eps: 0.5", SHAPES[r]) for r in (2, 3, 4)),
    *(of("parsenet", f"values-{r}", "across_spatial: false", SHAPES[r]) for r in (2, 3, 4)),
]

SAVED = [
    Form(
        "bn",
        (
            nets.layer("BN", "data", "out mean variance", "bn_param { bn_mode: LEARN }"),
            nets.layer("BN", "out", "values", "bn_param { across_spatial: false var_eps: 0.1 }"),
        ),
        dict(data=SHAPES[4]),
    )
]
