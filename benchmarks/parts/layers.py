"""Grouped and depthwise convolutions as they are served, beside the native and the split form."""

from __future__ import annotations

from benchmarks.architectures import grouped
from benchmarks.bench import Bench, convert
from benchmarks.figures import Result, Table, faster, percent
from benchmarks.processes import run
from benchmarks.sides import Convolution
from benchmarks.workers import Worker, in_turn

TITLE = "Grouped and depthwise convolutions"

SHAPES = (
    Convolution("alexnet_conv2", 96, 256, 5, 27, 2, 1),
    Convolution("alexnet_conv4", 384, 384, 3, 13, 2, 1),
    Convolution("alexnet_conv5", 384, 256, 3, 13, 2, 1),
    Convolution("mobilenet_dw2", 32, 32, 3, 112, 32, 1),
    Convolution("mobilenet_dw5", 128, 128, 3, 56, 128, 1),
    Convolution("mobilenet_dw8", 512, 512, 3, 14, 512, 1),
)
BATCHES = (1, 8)
FORMS = ("native", "split", "depthwise")
TURN = 0.1
# Two runs of the same form differ by as much.
SLACK = 0.95


def measure(bench: Bench) -> Result:
    """The layers' figures."""
    out = bench.result("layers")
    run(convert(bench.nets.written("layers", *grouped(SHAPES)), out))
    workers = {"served": Worker("layer", out / "saved_model")}
    workers |= {form: Worker("convolution", form) for form in FORMS}
    result = Result()
    rows: list[tuple[object, ...]] = []
    for shape in SHAPES:
        some = {form: worker for form, worker in workers.items() if _is_form_of(form, shape)}
        for batch in BATCHES:
            _measure(bench, shape._replace(batch=batch), some, result, rows)
    for worker in workers.values():
        worker.close()
    columns = ("layer", "batch", "form", "ms", "spread", "served is faster by")
    text = (
        "Each form in a process of its own, its kernel a constant. Native: `tf.nn.conv2d` with "
        "groups; split: one for each group; depthwise: `tf.nn.depthwise_conv2d`."
    )
    result.tables.append(Table("One layer alone", columns, rows, text))
    return result


def _is_form_of(form: str, shape: Convolution) -> bool:
    return form != "depthwise" or shape.group == shape.channels


def _measure(
    bench: Bench,
    case: Convolution,
    workers: dict[str, Worker],
    result: Result,
    rows: list[tuple[object, ...]],
) -> None:
    label = f"{case.name}, batch {case.batch}"
    timings = in_turn(workers, label, case, bench.repeat, bench.say, TURN)
    ours = timings.pop("served")
    for form, timing in {"served": ours, **timings}.items():
        cells = (1e3 * timing.median, percent(timing.seconds), timing.median / ours.median)
        rows.append((case.name, case.batch, form, *cells))
    best = min(timings.values(), key=lambda timing: timing.median)
    result.timings += [ours, *timings.values()]
    result.targets.append(
        faster(
            f"layers-{case.name}-{case.batch}",
            f"{label}: {SLACK} x the best form, which is {best.name}",
            ours,
            best,
            SLACK,
        )
    )
