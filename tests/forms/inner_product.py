"""InnerProduct with the forks' fields, and distances."""

from __future__ import annotations

from tests import nets
from tests.forms import SHAPES, Form, form


def distance(id_, parameters="", shape=SHAPES[4], like=None):
    count = "num_output: 4" if like is None else ""
    text = f"inner_distance_param {{ {count} {parameters} }}"
    return form(id_, "InnerDistance", text, shape, like=like)


FORMS = [
    *(
        form(id_, "InnerProduct", f"inner_product_param {{ num_output: 4 {parameters} }}", shape)
        for id_, parameters, shape in (
            ("relu", "relu: true", SHAPES[4]),
            ("relu-slope", "axis: 3 relu: true negative_slope: 0.25", SHAPES[4]),
            ("normalize", "normalize: true", SHAPES[4]),
            ("normalize-transpose", "normalize: true transpose: true", SHAPES[2]),
        )
    ),
    *(
        distance(f"rank-{rank}-axis-{axis}", f"axis: {axis}", shape)
        for rank, shape in SHAPES.items()
        for axis in range(rank)
    ),
    distance("absolute", 'distance_type: "L1" axis: -1'),
    distance("normalize", "normalize: true"),
    distance("to-rows", "", (3, 6), like=(4, 6)),
    distance("to-rows-of-images", 'distance_type: "L1"', (2, 3, 5, 7), like=(4, 3, 7, 5)),
    distance("to-rows-from-axis-3", "axis: 3", (2, 3, 5, 7), like=(4, 7)),
    distance("to-rows-from-axis-0", "axis: 0", (2, 3), like=(4, 6)),
]

SAVED = [
    Form(
        "distances",
        (
            nets.layer(
                "InnerDistance", "data", "distance", "inner_distance_param { num_output: 4 }"
            ),
            nets.layer("InnerDistance", "data like", "between"),
            nets.layer(
                "InnerProduct", "data", "flat", "inner_product_param { num_output: 3 axis: 2 }"
            ),
        ),
        dict(data=(2, 3, 5), like=(4, 15)),
    )
]
