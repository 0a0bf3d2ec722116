"""The command line: `orchestrate convert NET.prototxt WEIGHTS -o OUT`, and the rest of it.

Everything but the parsing is in `driver/`, imported when a command runs, so that --help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from driver.parsing import Command, Group

app = typer.Typer(
    name="orchestrate",
    cls=Group,
    help="Converts Caffe models to TensorFlow, and proves that they compute the same numbers.",
    epilog="Exit codes: 0 ok, 2 usage, 3 malformed input, 4 unsupported layer or parameter, "
    "5 verification failed, 6 a stage crashed, 7 environment, 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VALIDATE_MERGE = "validate merge"
"""Two words on the command line, one name here; a model called merge is `./merge`."""

READ = partial(typer.Option, rich_help_panel="What is read")
MADE = partial(typer.Option, rich_help_panel="What is made")
RUN = partial(typer.Option, rich_help_panel="How it runs")
CLUSTER = partial(typer.Option, rich_help_panel="On a Dask cluster (docs/cluster.md)")
SPEECH = partial(typer.Option, rich_help_panel="How it speaks")

Net = Annotated[
    Path,
    typer.Argument(metavar="NET.prototxt", help="The net's definition; a .caffemodel holds one."),
]
Weights = Annotated[
    Path | None,
    typer.Argument(
        metavar="WEIGHTS",
        help=".caffemodel or .caffemodel.h5; without, the net's fillers.",
        show_default=False,
    ),
]
Interchange = Annotated[Path, typer.Argument(metavar="net.h5", help="What extract wrote.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The folder to write.")]
OutFile = Annotated[
    Path, typer.Option("--out", "-o", metavar="net.h5", help="The file to write; - is stdout.")
]
Scheduler = Annotated[
    str | None,
    CLUSTER(metavar="ADDRESS", help="Its scheduler's address, or the file that holds it."),
]
Storage = Annotated[
    str | None,
    CLUSTER(
        metavar="URL", help="Where files pass through; without, all machines see the same folders."
    ),
]
Patience = Annotated[
    float | None,
    CLUSTER(
        metavar="SECONDS", help="How long to wait for a worker with a needed resource, default 300."
    ),
]
Formats = Annotated[
    str | None,
    MADE(metavar="LIST", help="Of class, keras, saved_model (by default these), tflite, pb."),
]
Quantize = Annotated[str | None, MADE(metavar="float16|dynamic|int8", help="Of model.tflite.")]
Calibration = Annotated[Path | None, MADE(metavar="DIR", help="Images for --quantize int8.")]
Precision = Annotated[
    str | None,
    MADE(
        metavar="float32|bfloat16", help="That the SavedModel alone computes in, default float32."
    ),
]
AllowLarge = Annotated[bool, MADE("--allow-large", help="tflite and pb beyond 128 MB of weights.")]
SwapRgb = Annotated[bool, MADE("--swap-rgb", help="Take RGB where Caffe's takes BGR.")]
TransposeHw = Annotated[
    bool,
    MADE(
        "--transpose-hw", help="Take height by width where Caffe's takes width by height (Matlab)."
    ),
]
InputLayout = Annotated[str | None, MADE(metavar="nhwc|nchw", help="Of images, default nhwc.")]
DynamicSize = Annotated[bool, MADE("--dynamic-size", help="Take images of any size.")]
BakePreprocess = Annotated[
    bool, MADE("--bake-preprocess", help="A signature of the SavedModel that takes encoded images.")
]
BakeNormalization = Annotated[
    bool, MADE("--bake-normalization", help="keras and tflite take RGB pixels from 0 to 255.")
]
Tolerance = Annotated[
    float | None, typer.Option(metavar="X", help="Largest error relative to a blob's magnitude.")
]
Reference = Annotated[
    Path | None, typer.Option(metavar="R.npz", help="Compare with activations recorded elsewhere.")
]
NoReference = Annotated[
    bool, typer.Option("--no-reference", help="Skip the recorded forward pass.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
NoCache = Annotated[bool, RUN("--no-cache", help="Extract anew what an earlier run has extracted.")]
Phase = Annotated[str | None, READ(metavar="TEST|TRAIN", help="The phase, default TEST.")]
Stage = Annotated[list[str] | None, READ(metavar="NAME", help="A stage; repeatable.")]
Level = Annotated[int | None, READ(metavar="N", help="The level.")]
InputShape = Annotated[
    list[str] | None, READ(metavar="NAME=1,3,224,224", help="An input's shape; repeatable.")
]
Outputs = Annotated[str | None, READ(metavar="BLOB,...", help="Cut the net at these blobs.")]
Dialect = Annotated[
    list[str] | None,
    READ(metavar="NAME", help="The fork a layer is of, where nothing tells; repeatable."),
]
KeepLosses = Annotated[
    bool, READ("--keep-losses", help="Keep losses and scores; labels become inputs.")
]
IgnoreUnknown = Annotated[
    bool, READ("--ignore-unknown", help="Pass over fields that no schema knows.")
]
AllowMissing = Annotated[
    bool, READ("--allow-missing", help="Fill what the weights lack, as Caffe starts.")
]
Mean = Annotated[
    list[str] | None,
    READ(
        metavar="[NAME=]FILE|VALUES",
        help="An input's mean: .binaryproto, .npy or a value a channel; repeatable.",
    ),
]
Preprocess = Annotated[
    list[str] | None,
    READ(
        metavar="[NAME=]PRESET|FILE.toml",
        help="What is done to an image before the net; repeatable.",
    ),
]
Labels = Annotated[Path | None, READ(metavar="FILE", help="The classes' names, one a line.")]
Reader = Annotated[
    str | None, READ(metavar="auto|protobuf|pycaffe", help="Who reads, default auto.")
]
ExtractPython = Annotated[str | None, RUN(metavar="PYTHON", help="The interpreter of stage 1.")]
BuildPython = Annotated[str | None, RUN(metavar="PYTHON", help="The interpreter of stage 2.")]
Plugin = Annotated[
    list[Path] | None,
    READ(metavar="DIR", help="Layers of your own, see docs/adding-a-layer.md; repeatable."),
]
Timeout = Annotated[float | None, RUN(metavar="SECONDS", help="The longest a stage may take.")]
Gpu = Annotated[
    bool | None,
    RUN(
        "--gpu/--no-gpu",
        help="Whether TensorFlow sees the GPUs that CUDA_VISIBLE_DEVICES names, default not.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, SPEECH("--quiet", "-q", help="No progress, no summary.")]
Verbose = Annotated[bool, SPEECH("--verbose", "-v", help="Tracebacks too.")]
Json = Annotated[bool, SPEECH("--json", help="One JSON document on stdout.")]


def _run(action: Any, given: dict[str, Any], to_stderr: bool = False) -> None:
    """Runs `action(options, show)`; `given` holds the command's parameters by name."""
    try:
        from driver.command import Manners, run
        from driver.options import Options

        manners = Manners(given["quiet"], given["verbose"], given["json"], to_stderr)
        code = run(lambda show: action(Options.among(given), show), manners)
    except KeyboardInterrupt:  # of which typer would say nothing
        raise typer.Abort from None
    raise typer.Exit(code)


@app.command(cls=Command)
def convert(
    net: Net,
    out: Out,
    weights: Weights = None,
    formats: Formats = None,
    quantize: Quantize = None,
    calibration: Calibration = None,
    precision: Precision = None,
    allow_large: AllowLarge = False,
    swap_rgb: SwapRgb = False,
    transpose_hw: TransposeHw = False,
    input_layout: InputLayout = None,
    dynamic_size: DynamicSize = False,
    bake_preprocess: BakePreprocess = False,
    bake_normalization: BakeNormalization = False,
    tolerance: Tolerance = None,
    reference: Reference = None,
    force: Force = False,
    phase: Phase = None,
    stage: Stage = None,
    level: Level = None,
    input_shape: InputShape = None,
    outputs: Outputs = None,
    dialect: Dialect = None,
    keep_losses: KeepLosses = False,
    ignore_unknown: IgnoreUnknown = False,
    allow_missing: AllowMissing = False,
    mean: Mean = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    reader: Reader = None,
    extract_python: ExtractPython = None,
    build_python: BuildPython = None,
    plugin: Plugin = None,
    no_cache: NoCache = False,
    timeout: Timeout = None,
    gpu: Gpu = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Convert a Caffe model: both stages, verified."""

    def action(options: Any, show: Any) -> Any:
        from driver import pipeline

        return pipeline.convert(net, weights, out, options, show)

    _run(action, locals())


@app.command(cls=Command)
def extract(
    net: Net,
    out: OutFile,
    weights: Weights = None,
    no_reference: NoReference = False,
    force: Force = False,
    phase: Phase = None,
    stage: Stage = None,
    level: Level = None,
    input_shape: InputShape = None,
    outputs: Outputs = None,
    dialect: Dialect = None,
    keep_losses: KeepLosses = False,
    ignore_unknown: IgnoreUnknown = False,
    allow_missing: AllowMissing = False,
    mean: Mean = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    reader: Reader = None,
    extract_python: ExtractPython = None,
    plugin: Plugin = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Stage 1 alone: Caffe files to one HDF5 file."""

    def action(options: Any, show: Any) -> Any:
        from driver import pipeline

        return pipeline.extract(net, weights, out, options, show)

    _run(action, locals(), to_stderr=str(out) == "-")


@app.command(cls=Command)
def build(
    net: Interchange,
    out: Out,
    formats: Formats = None,
    quantize: Quantize = None,
    calibration: Calibration = None,
    precision: Precision = None,
    allow_large: AllowLarge = False,
    swap_rgb: SwapRgb = False,
    transpose_hw: TransposeHw = False,
    input_layout: InputLayout = None,
    dynamic_size: DynamicSize = False,
    bake_preprocess: BakePreprocess = False,
    bake_normalization: BakeNormalization = False,
    tolerance: Tolerance = None,
    reference: Reference = None,
    force: Force = False,
    build_python: BuildPython = None,
    plugin: Plugin = None,
    timeout: Timeout = None,
    gpu: Gpu = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Stage 2 alone: that file to TensorFlow, on this machine or another."""

    def action(options: Any, show: Any) -> Any:
        from driver import pipeline

        return pipeline.build(net, out, options, show)

    _run(action, locals())


@app.command(cls=Command)
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A converted model.")],
    reference: Reference = None,
    calibration: Calibration = None,
    plugin: Plugin = None,
    build_python: BuildPython = None,
    timeout: Timeout = None,
    gpu: Gpu = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Prove a converted model again."""

    def action(options: Any, show: Any) -> Any:
        from driver import pipeline

        return pipeline.verify(out, options, show)

    _run(action, locals())


@app.command(cls=Command)
def validate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A converted model.")],
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Images; without --labels a folder per class.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="`NAME INDEX`, `NAME SYNSET` or `NAME CLASS` a line."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON, default OUT.validation.json beside OUT."),
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="class|saved_model|bytes|tflite",
            help="What is run, default class; bytes: the SavedModel's baked preprocessing.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="Preprocessing in place of the model's own."),
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="N|H,W", help="The crop in place of the model's own.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", help="Counts labels among the best K, default 5.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images at once, default 32.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only N images, evenly spread.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Part I of N; see `validate merge`.")
    ] = None,
    shards: Annotated[
        int | None,
        CLUSTER(metavar="N", help="How many parts, default as many as the cluster does at once."),
    ] = None,
    scheduler: Scheduler = None,
    storage: Storage = None,
    patience: Patience = None,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew, whatever earlier runs have left.")
    ] = False,
    build_python: BuildPython = None,
    timeout: Timeout = None,
    gpu: Annotated[
        bool | None,
        RUN(
            "--gpu/--no-gpu",
            help="Whether TensorFlow sees the GPUs that CUDA_VISIBLE_DEVICES names, by default so.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Score a converted model on labelled images: top-1 and top-5."""
    given = locals()

    def action(options: Any, show: Any) -> Any:
        from driver import validation

        others = {name: given[name] for name in ("preset", "crop", "top", "batch_size", "limit")}
        request = validation.Request(out, images, labels, results, through, shard, force, others)
        return validation.validate(request, options, show, shards, _cluster(given))

    _run(action, given)


@app.command(VALIDATE_MERGE, cls=Command)
def validate_merge(
    parts: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Those of all shards.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="ALL.json", help="The file to write.")
    ],
    force: Force = False,
    build_python: BuildPython = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Make one file of what `validate --shard I/N` wrote on several machines."""

    def action(options: Any, show: Any) -> Any:
        from driver import validation

        return validation.merge(parts, out, options, show)

    _run(action, locals())


@app.command(cls=Command)
def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Prototxt, weights, net.h5 or a converted model."),
    ],
    extract_python: ExtractPython = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Show what is in a file, as a table."""

    def action(options: Any, show: Any) -> Any:
        from driver import inspection

        return inspection.inspect(file, options, show)

    _run(action, locals())


@app.command(cls=Command)
def batch(
    catalogue: Annotated[
        Path,
        typer.Argument(
            metavar="CATALOGUE.toml",
            help="For each model: name, prototxt, weights, and any option of convert.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Takes a folder per model.")
    ],
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Models at once.")] = 1,
    scheduler: Scheduler = None,
    storage: Storage = None,
    patience: Patience = None,
    formats: Formats = None,
    tolerance: Tolerance = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build every model again, changed or not.")
    ] = False,
    phase: Phase = None,
    reader: Reader = None,
    extract_python: ExtractPython = None,
    build_python: BuildPython = None,
    no_cache: NoCache = False,
    timeout: Timeout = None,
    gpu: Gpu = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Convert many models; what an earlier run converted from the same files is kept."""

    given = locals()

    def action(options: Any, show: Any) -> Any:
        from driver.batch import batch as convert_all

        return convert_all(catalogue, out, jobs, options, show, _cluster(given))

    _run(action, given)


@app.command(cls=Command)
def doctor(
    extract_python: ExtractPython = None,
    build_python: BuildPython = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Show what this machine can do, and what is missing."""

    def action(options: Any, show: Any) -> Any:
        from driver.doctor import doctor as examine

        return examine(options, show)

    _run(action, locals())


def _cluster(given: dict[str, Any]) -> Any:
    """The cluster that is among a command's parameters, or None."""
    from driver.cluster.session import named

    return named(given["scheduler"], given["storage"], given["patience"])


def _usage_error(error: Any, argv: Sequence[str]) -> int:
    """Reports what typer found wrong with the command line, in our form."""
    from driver.command import Manners, print_json
    from driver.outcome import failed_document
    from schemas.errors import UsageError
    from schemas.events import plain

    context = getattr(error, "ctx", None)
    command = context.command_path if context else "orchestrate"
    if not error.format_message():  # `orchestrate` alone: typer has shown the help
        return UsageError.exit_code
    problem = UsageError(error.format_message().rstrip("."), hint=f"see {command} --help")
    if "--json" in argv:
        print_json(failed_document(problem), Manners(to_stderr=_writes_to_stdout(argv)).stream)
    else:
        print(f"error: {plain(problem)}", file=sys.stderr)
    return problem.exit_code


def _writes_to_stdout(argv: Sequence[str]) -> bool:
    joined = "\0".join(argv) + "\0"
    asked = any(f"\0{option}\0" in joined for option in ("-o\0-", "--out\0-", "-o-", "--out=-"))
    return asked and argv[0] == "extract"


def _open_streams() -> None:
    """Has nobody at the other end of what is closed: files that are opened would get the number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def main(argv: Sequence[str] | None = None) -> None:
    """The `orchestrate` command; exits with the code of the contract."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] == VALIDATE_MERGE.split():
        arguments[:2] = [VALIDATE_MERGE]
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(arguments, prog_name="orchestrate", standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (KeyboardInterrupt, typer.Abort):  # before a command has begun
        print("error: interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = _usage_error(error, arguments)
    sys.exit(code)


if __name__ == "__main__":
    main()
