"""`convert --precision bfloat16` beside float32: speed and error."""

from __future__ import annotations

from benchmarks.bench import Bench, report
from benchmarks.figures import MB, Result, Table, Target, percent
from benchmarks.workers import Worker, first_calls, in_turn, once

TITLE = "bfloat16"

# Net -> the blob before its softmax, which seeded weights saturate: its errors would be nothing.
NETS = {"resnet-50": "fc1000", "vgg16": "fc8", "squeezenet_v1.1": "pool10"}
BATCHES = (1, 8)
OPTIONS = ("--precision", "bfloat16")


def measure(bench: Bench) -> Result:
    """The figures of fewer bits."""
    result = Result()
    rows: list[tuple[object, ...]] = []
    for name, scores in NETS.items():
        cut = ("--outputs", scores)
        folders = {
            "float32": bench.converted(name, *cut),
            "bfloat16": bench.converted(name, *cut, *OPTIONS),
        }
        models = {precision: folder / "saved_model" for precision, folder in folders.items()}
        error = once("difference", models["bfloat16"], models["float32"])
        held = {
            precision: report(folder)["artefacts"]["saved_model"]
            for precision, folder in folders.items()
        }
        fewer = held["bfloat16"]
        result.targets.append(
            Target(
                f"precision-{name}",
                f"{name} in bfloat16 as near to the reference as its tolerance says",
                f"orchestrate convert {name} {' '.join(OPTIONS)}",
                fewer["error"],
                fewer["tolerance"],
                "of the greatest magnitude",
            )
        )
        workers = {precision: Worker("served", model) for precision, model in models.items()}
        peaks = {side: first_calls(worker, BATCHES)[1] for side, worker in workers.items()}
        for batch in BATCHES:
            timings = in_turn(workers, f"{name}, batch {batch}", batch, bench.repeat, bench.say)
            result.timings += timings.values()
            for precision, timing in timings.items():
                ratio = timings["float32"].median / timing.median
                cells = (batch / timing.median, percent(timing.seconds), ratio)
                errors = (held[precision]["error"], held[precision]["tolerance"])
                apart = None if precision == "float32" else error
                rows.append((name, batch, precision, *cells, *errors, apart, peaks[precision] / MB))
        for worker in workers.values():
            worker.close()
    columns = (
        *("net", "batch", "precision", "images/s", "spread", "x float32"),
        *("error to the reference", "tolerance", "error to float32", "peak MB"),
    )
    text = (
        "Errors are relative to the greatest magnitude of the output: the report's, and that of "
        "the two models to each other, on random pixels. The nets are cut before their softmax, "
        "which seeded weights saturate."
    )
    result.tables.append(Table("float32 and bfloat16", columns, rows, text))
    return result
