"""What the commands do: convert, extract, build, verify. Each returns an `Outcome` or raises."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driver import record
from driver.crew import Crew, hdf5_from_outside
from driver.display import Display
from driver.job import run_job
from driver.options import Options
from driver.outcome import Outcome, ok_document
from driver.record import Asked
from driver.worker import path_argument
from driver.workspace import (
    ScratchSpace,
    Workspace,
    bytes_text,
    check_input,
    check_target_file,
    check_target_folder,
)
from schemas import streams
from schemas.errors import UsageError, cannot_use

PIPE = Path(streams.PIPE)


def convert(net: Path, weights: Path | None, out: Path, options: Options, show: Display) -> Outcome:
    """Both stages: TensorFlow is imported while the Caffe files are read."""
    check_conversion(net, weights, out, options)
    with Workspace(out) as work, Crew(work.folder, show.verbose) as crew:
        return convert_in(work, crew, net, weights, options, show)


def check_conversion(net: Path, weights: Path | None, out: Path, options: Options) -> None:
    """Raises UsageError for what can be seen to fail before any work."""
    options.require_quantized()
    inputs = (net, weights, options.reference)
    for path in inputs:
        check_input(path)
    check_target_folder(out, options.force, inputs)


def convert_in(
    work: Workspace,
    crew: Crew,
    net: Path,
    weights: Path | None,
    options: Options,
    show: Display,
) -> Outcome:
    """One conversion in its work folder, by workers that may be warm already."""
    began = time.monotonic()
    work.need_space(_size(weights) * options.copies_of_weights())
    asked = Asked.of(net, weights, options)
    interchange = work.folder / "net.h5"
    # It imports TensorFlow meanwhile.
    builder = crew.builder.warm(options.build_python, show, options.gpu)
    reused = None if options.no_cache else record.reuse(work.out, asked, interchange)
    if reused is not None:
        extraction = reused
        show.progress("extract", f"not run, nothing has changed since {reused.source}")
        for note in record.warnings_of(reused.result):
            show.warning(note)
    else:
        result = crew.extract(net, weights, interchange, options, work, show, builder)
        extraction = record.made(asked, result, interchange)
    show.done("extract")
    made_of = work.folder / record.MADE_OF
    record.write(made_of, extraction, asked)
    outside = reused is not None
    built = crew.build(interchange, extraction.result, made_of, options, work, show, outside)
    show.done("build")
    told = {**extraction.result, "reused": True} if reused else extraction.result
    return _built(work.out, built, {"extract": told, "build": _without_out(built)}, began)


def extract(net: Path, weights: Path | None, out: Path, options: Options, show: Display) -> Outcome:
    """Stage 1: Caffe files -> net.h5; an `out` of `-` is stdout."""
    began = time.monotonic()
    inputs = (net, weights)
    for path in inputs:
        check_input(path)
    if out != PIPE:
        check_target_file(out, options.force, inputs)
    elif sys.stdout.isatty():
        raise streams.no_stdout()
    with ScratchSpace("extract") if out == PIPE else Workspace(out) as work:
        work.need_space(_size(weights))
        interchange = work.folder / "net.h5"
        result = run_job(
            "extract",
            options.extract_argv(net, weights, interchange),
            work,
            show,
            python=options.extract_python,
            opening=hdf5_from_outside(weights),
            timeout=options.timeout,
        )
        if out != PIPE:
            check_target_file(out, options.force, inputs)  # it may have appeared meanwhile
        _publish(interchange, out)
    stages = {"extract": _without_out(result)}
    facts = [("layers", result.get("layers", "")), ("time", f"{time.monotonic() - began:.1f} s")]
    return Outcome(
        ok_document(str(out), seconds=time.monotonic() - began, stages=stages),
        title=f"{net} is extracted",
        facts=[("output", out), *facts, ("next", f"orchestrate build {out} -o OUT")],
    )


def build(net: Path, out: Path, options: Options, show: Display, verbose: bool = False) -> Outcome:
    """Stage 2: net.h5 -> OUT; a `net` of `-` is stdin."""
    began = time.monotonic()
    piped = net == PIPE
    for path in (None if piped else net, options.reference):
        check_input(path)
    # A model may be built anew from the net.h5 that it holds: the worker copies that.
    own = out.exists() and net.resolve() == (out / "net.h5").resolve()
    check_target_folder(out, options.force, (None if own or piped else net, options.reference))
    with Workspace(out) as work:
        if piped:
            show.progress("build", "receiving")
            net = work.folder / "net.h5"
            streams.receive(net)
        work.need_space(_size(net) * options.copies_of_weights())
        argv = [*options.build_argv(net, out), "--logs", path_argument(work.logs)]
        result = run_job(
            "build",
            [*argv, "--adopt"] if piped else argv,
            work,
            show,
            python=options.build_python,
            gpu=options.gpu,
            opening=net,
            timeout=options.timeout,
        )
    return _built(out, result, {"build": _without_out(result)}, began)


def verify(out: Path, options: Options, show: Display, verbose: bool = False) -> Outcome:
    """Proves a converted model again, against its own reference or the user's."""
    began = time.monotonic()
    if not (out / "net.h5").is_file():
        raise UsageError(
            "a converted model was expected, a folder that holds net.h5",
            str(out),
            "check the path, or convert the model again",
        )
    check_input(options.reference)
    argv = [path_argument(out), "--verify"]
    argv += [
        f"--{name}={path}"
        for name, path in (("reference", options.reference), ("calibration", options.calibration))
        if path is not None
    ]
    argv += [f"--plugin={folder}" for folder in options.plugin]
    with ScratchSpace("verify") as work:
        result = run_job(
            "build",
            argv,
            work,
            show,
            python=options.build_python,
            gpu=options.gpu,
            opening=out / "net.h5",
            timeout=options.timeout,
        )
    seconds = time.monotonic() - began
    return Outcome(
        ok_document(
            str(out),
            worst=result.get("worst"),
            seconds=seconds,
            stages={"build": _without_out(result)},
        ),
        title=f"{out} is verified",
        facts=[*_proof(result), ("time", f"{seconds:.1f} s")],
    )


def _publish(interchange: Path, out: Path) -> None:
    try:
        if out == PIPE:
            with interchange.open("rb") as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        else:
            os.replace(interchange, out)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_use(out, error) from error


def _built(out: Path, built: dict[str, Any], stages: dict[str, Any], began: float) -> Outcome:
    seconds = time.monotonic() - began
    times = [
        f"{name} {stage['seconds']:.1f} s"
        for name, stage in stages.items()
        if isinstance(stage.get("seconds"), int | float) and "reused" not in stage
    ]
    package = out.resolve().name
    use = f"import {package}; net = {package}.load()"
    if not package.isidentifier():
        use = f"import importlib; net = importlib.import_module({package!r}).load()"
    return Outcome(
        ok_document(str(out), worst=built.get("worst"), seconds=seconds, stages=stages),
        title=f"{out} is converted and verified",
        facts=[
            ("output", out),
            *_proof(built),
            *_filled(built),
            *_reused(stages),
            ("time", ", ".join([*times, f"in all {seconds:.1f} s"])),
            *_peak(stages),
            ("use", use),
        ],
    )


def _proof(result: dict[str, Any]) -> list[tuple[str, object]]:
    """What was compared, and the largest error, as far as the worker says it."""
    facts: list[tuple[str, object]] = []
    compared = result.get("compared")
    if isinstance(compared, dict) and compared:
        counts = ", ".join(f"{name} {count}" for name, count in compared.items())
        facts.append(("blobs verified", counts))
    for name, made in (result.get("formats") or {}).items():
        facts.append((f"  {name}", ", ".join(_told(made))))
    worst = result.get("worst")
    if isinstance(worst, dict) and isinstance(worst.get("error"), int | float):
        facts.append(("worst error", f"{worst['error']:.1e} relative, blob {worst.get('blob')!r}"))
    return facts


def _told(made: dict[str, Any]) -> Iterator[str]:
    """What a format is, as far as the worker says it: bits, worst error, size."""
    if made.get("quantized"):
        yield str(made["quantized"])
    if isinstance(made.get("error"), int | float):
        yield f"{made['error']:.1e}"
    if isinstance(made.get("bytes"), int):
        yield bytes_text(made["bytes"])


def _filled(result: dict[str, Any]) -> list[tuple[str, object]]:
    count = result.get("filled")
    return [("weights", f"UNTRAINED: {count} blobs come from fillers")] if count else []


def _reused(stages: dict[str, Any]) -> list[tuple[str, object]]:
    if "reused" not in stages.get("extract", {}):
        return []
    return [("extract", "not run: net.h5 is of the same files and options (--no-cache insists)")]


def _peak(stages: dict[str, Any]) -> list[tuple[str, object]]:
    """The largest process, of whichever stage."""
    sizes: list[int] = []
    for stage in stages.values():
        peak = stage.get("peak_bytes")
        values = peak.values() if isinstance(peak, dict) else [peak]
        sizes += [size for size in values if isinstance(size, int)]
    return [("memory", f"{bytes_text(max(sizes))} at most in a process")] if sizes else []


def _without_out(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "out"}


def _size(path: Path | None) -> int:
    return 0 if path is None else path.stat().st_size
