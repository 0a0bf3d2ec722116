"""Priors: each parameter once at a value that is not its default."""

from __future__ import annotations

from tests import nets
from tests.forms import Form, form

MAP, IMAGE = (2, 3, 5, 7), (2, 4, 45, 60)


def priors(id_, parameters):
    return form(id_, "PriorBox", f"prior_box_param {{ {parameters} }}", MAP, like=IMAGE)


FORMS = [
    priors("default", "min_size: 12"),
    priors("two-sizes", "min_size: [12.9, 20]"),
    priors("max-size", "min_size: [12, 20] max_size: [15.5, 33]"),
    priors("ratios", "min_size: 12 max_size: 20 aspect_ratio: [2, 3]"),
    priors("ratios-once", "min_size: 12 aspect_ratio: [1, 2, 2.0000001, 0.5]"),
    priors("no-flip", "min_size: [12, 20] aspect_ratio: [2, 3] flip: false"),
    priors("clip", "min_size: 30 clip: true"),
    priors("one-variance", "min_size: 12 variance: 0.2"),
    priors("four-variances", "min_size: 12 variance: [0.1, 0.2, 0.3, 0.4]"),
    priors("step", "min_size: 12 step: 8"),
    priors("step-h-w", "min_size: 12 step_h: 8 step_w: 9.3"),
    priors("offset", "min_size: 12 offset: 0.3"),
    priors("img-size", "min_size: 12 img_size: 50"),
    priors("img-h-w", "min_size: 12 img_h: 50 img_w: 70"),
]

SAVED = [
    Form(
        "priors",
        (
            nets.layer(
                "PriorBox",
                "data image",
                "priors",
                "prior_box_param { min_size: [12, 20] max_size: [15, 33] aspect_ratio: 2 "
                "clip: true variance: [0.1, 0.1, 0.2, 0.3] img_h: 50 img_w: 70 step: 9 "
                "offset: 0.4 }",
            ),
            nets.layer(
                "PriorBox", "data image", "plain", "prior_box_param { min_size: 12 flip: false }"
            ),
        ),
        dict(data=MAP, image=IMAGE),
    )
]

# Only the sizes of its bottoms are read.
FLAT = ["PriorBox"]
