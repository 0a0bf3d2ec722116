"""Layers that pick rows by number."""

from __future__ import annotations

from stage_build.lowering.registry import Call, Site, lowering


@lowering("Embed")
def embed(site: Site) -> Call:
    made = site.meaning
    arguments = {0: made.input_dim, 1: made.num_output, "bias": made.bias_term}
    return Call("embed", arguments, lambda: list(site.arrays))


@lowering("BatchReindex")
def batch_reindex(site: Site) -> Call:
    return Call("batch_reindex")


@lowering("Filter")
def filter_(site: Site) -> Call:
    return Call("filter")
