"""Which layers are run, and the Split after each top that is read more than once."""

from __future__ import annotations

from .log import check
from .proto import caffe_pb2


def filtered(net):
    """Net::FilterNet (net.cpp)."""
    for layer in net.layer:
        check(
            not (layer.include and layer.exclude),
            "Specify either include rules or exclude rules; not both",
        )
        met = [_meets(rule, net.state) for rule in layer.include or layer.exclude]
        if any(met) if layer.include else not any(met):
            yield layer


def _meets(rule, state):
    """Net::StateMeetsRule."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


def with_splits(layers):
    """InsertSplits (insert_splits.cpp)."""
    made = {}  # blob name -> (layer index, top index) that wrote it last
    sources = {}  # (layer index, bottom index) -> the top that it reads
    readers = {}  # (layer index, top index) -> how many read it
    for i, layer in enumerate(layers):
        for j, name in enumerate(layer.bottom):
            check(
                name in made,
                f"Unknown bottom blob '{name}' (layer '{layer.name}', bottom index {j})",
                "insert_splits.cpp:29",
            )
            sources[i, j] = made[name]
            readers[made[name]] = readers.get(made[name], 0) + 1
        made.update((name, (i, j)) for j, name in enumerate(layer.top))
    used = {}
    for i, layer in enumerate(layers):
        split = caffe_pb2.LayerParameter()
        split.CopyFrom(layer)
        for j, name in enumerate(layer.bottom):
            source = sources[i, j]
            if readers[source] > 1:
                part = used.setdefault(source, 0)
                named = _split_name(layers[source[0]].name, name, source[1])
                split.bottom[j] = f"{named}_{part}"
                used[source] += 1
        yield split
        for j, name in enumerate(layer.top):
            count = readers.get((i, j), 0)
            if count > 1:
                named = _split_name(layer.name, name, j)
                tops = [f"{named}_{k}" for k in range(count)]
                yield caffe_pb2.LayerParameter(name=named, type="Split", bottom=[name], top=tops)


def _split_name(layer, blob, index):
    return f"{blob}_{layer}_{index}_split"
