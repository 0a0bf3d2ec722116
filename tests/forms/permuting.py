"""The forks' layers that put values into another order."""

from __future__ import annotations

import itertools

from tests import nets
from tests.forms import SHAPES, Form, form


def ordered(type_, message, field, rank, order):
    """A transpose by `order`."""
    values = ", ".join(map(str, order))
    name = "".join(map(str, order)) or "none"
    return form(f"rank-{rank}-{name}", type_, f"{message} {{ {field}: [{values}] }}", SHAPES[rank])


def permute(rank, *order):
    return ordered("Permute", "permute_param", "order", rank, order)


def transpose(rank, *order):
    return ordered("Transpose", "transpose_param", "dim", rank, order)


def reverse(rank, *axes):
    fields = " ".join(f"axis: {axis}" for axis in axes)
    name = "-".join(map(str, axes)) or "default"
    return form(
        f"rank-{rank}-axis-{name}", "Reverse", f"reverse_param {{ {fields} }}", SHAPES[rank]
    )


def shuffle(id_, parameters, shape):
    return form(id_, "ShuffleChannel", f"shuffle_channel_param {{ {parameters} }}", shape)


def reorg(id_, parameters, shape):
    return form(id_, "Reorg", f"reorg_param {{ {parameters} }}", shape)


FORMS = [
    *(permute(rank, *range(rank)[::-1]) for rank in SHAPES),
    *(permute(4, *order) for order in itertools.permutations(range(4))),
    permute(4),
    permute(4, 2),
    permute(4, 0, 3),
    permute(5, 0, 4, 1),
    permute(3, 0, 2),
    *(transpose(rank, *(*range(1, rank), 0)) for rank in SHAPES),
    transpose(3, 0, 1, 2),
    *(reverse(rank, axis) for rank in SHAPES for axis in range(rank)),
    reverse(4),
    reverse(4, 1, 3),
    reverse(5, -2, 0),
    form("default", "Flip"),
    form("height", "Flip", "flip_param { flip_width: false flip_height: true }"),
    form("both", "Flip", "flip_param { flip_height: true }"),
    form("neither", "Flip", "flip_param { flip_width: false }"),
    shuffle("default", "", (2, 6, 5, 7)),
    shuffle("groups-2", "group: 2", (2, 6, 5, 7)),
    shuffle("groups-3", "group: 3", (2, 6, 5, 7)),
    shuffle("groups-6", "group: 6", (2, 6, 5, 7)),
    form("nhwc", "ChannelShuffle", "channel_shuffle_param { shuffle_pattern: 0 group: 3 }"),
    reorg("stride-1", "stride: 1", (2, 3, 5, 7)),
    reorg("stride-2", "stride: 2", (2, 8, 6, 10)),
    reorg("stride-3", "stride: 3", (2, 18, 9, 6)),
    reorg("reverse-1", "stride: 1 reverse: true", (2, 3, 5, 7)),
    reorg("reverse-2", "stride: 2 reverse: true", (2, 12, 5, 7)),
    reorg("reverse-3", "stride: 3 reverse: true", (2, 9, 2, 5)),
]

SAVED = [
    Form(
        "permuting",
        (
            nets.layer("Permute", "data", "seq", "permute_param { order: [0, 3, 1] }"),
            nets.layer("Flip", "seq", "flip"),
            nets.layer("ShuffleChannel", "data", "shuffle", "shuffle_channel_param { group: 4 }"),
            nets.layer(
                "ChannelShuffle", "shuffle", "nhwc", "channel_shuffle_param { shuffle_pattern: 0 }"
            ),
            nets.layer("Reorg", "nhwc", "reorg", "reorg_param { stride: 2 }"),
            nets.layer("Reorg", "nhwc", "space", "reorg_param { stride: 2 reverse: true }"),
        ),
        {"data": (2, 8, 6, 10)},
    ),
    Form(
        "permuting-samples",
        (nets.layer("Transpose", "data", "major", "transpose_param { dim: [3, 0, 2, 1] }"),),
        {"data": (2, 3, 5, 7)},
    ),
]
