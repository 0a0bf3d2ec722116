"""The boxes that a detector's predictions start from."""

from __future__ import annotations

from stage_build.lowering.convolution import single
from stage_build.lowering.registry import Call, Site, lowering


@lowering("PriorBox", dialect="ssd")
def prior_box(site: Site) -> Call:
    made = site.meaning
    image, step = made.image(), made.cell()
    variance = list(made.variance) or [0.1]
    return Call(
        "prior_box",
        {
            "min_size": [int(size) for size in made.min_size],
            "max_size": [int(size) for size in made.max_size],
            # The shortest decimals that are the same float32.
            "ratios": [float(str(ratio)) for ratio in made.ratios()],
            "variance": variance[0] if len(variance) == 1 else variance,
            "image": image and single(image),
            "step": step and single(step),
            "offset": made.offset,
            "clip": made.clip,
        },
    )
