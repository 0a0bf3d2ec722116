"""A stage that acts out what its input file says, one act a line: the double of both workers.

Copied to ROOT/stage_extract/__main__.py and ROOT/stage_build/__main__.py by `tests/test_driver.py`.
The acts of the extraction stand above a line `---`, those of the build below it.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from schemas.errors import KINDS
from schemas.events import Events

STAGE = __package__.partition("_")[2]


def perform(argv, events):
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("-o")
    parser.add_argument("--inspect")
    parser.add_argument("--logs")
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--verify", action="store_true")
    options, _ = parser.parse_known_args(argv)
    script = Path(options.inspect or options.inputs[0])
    if options.verify:
        script = script / "net.h5"
    mine, _, rest = script.read_text(encoding="utf-8").partition("---\n")
    fields = {"argv": argv}
    for line in mine.splitlines():
        act, _, rest_of_line = line.partition(" ")
        fields.update(ACTS[act](rest_of_line, options, events) or {})
    if options.o and not options.verify:
        (write_net if STAGE == "extract" else write_model)(options, script, rest)
    events.result(**{"out": options.o, "seconds": 0.5, **fields})


def write_net(options, script, rest):
    Path(options.o).write_text(rest, encoding="utf-8")


def write_model(options, script, rest):
    out, content = Path(options.o), script.read_text(encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir()
    (out / "net.h5").write_text(content, encoding="utf-8")
    if options.adopt:
        script.unlink()
    (out / "names.json").write_text("{}")
    report = {"status": "ok", "blobs": [{"name": "ip1", "max_error": 1e-7}], "versions": {"x": "1"}}
    (out / "report.json").write_text(json.dumps(report))
    if options.logs:
        shutil.copytree(options.logs, out / "logs")


def error(text, options, events):
    kind, _, message = text.partition(" ")
    raise KINDS[kind](message, "layer 'conv1' (Convolution)", "mend it")


def progress(text, options, events):
    task, done, total = text.split()
    events.progress(task, int(done), int(total))


def raw(text, options, events):
    events._stream.write(text + "\n")
    events._stream.flush()


def child(text, options, events):
    """Leaves a process behind that holds everything open, and notes its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False
    )
    Path(text).write_text(str(process.pid))


def wait_for(text, options, events):
    deadline = time.monotonic() + 20
    while not Path(text).exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{text} did not appear")
        time.sleep(0.02)


def pid(text, options, events):
    Path(text).write_text(str(os.getpid()))


def partial(text, options, events):
    out = Path(options.o)
    folder = out.with_name(f".{out.name}.{os.getpid()}.{text}")
    if text == "old":
        out.rename(folder)
    else:
        folder.mkdir()


def origin(text, options, events):
    try:
        spec = importlib.util.find_spec(text)
    except ImportError:
        spec = None
    events.warning(f"{STAGE} {text}: {spec.origin if spec else None}")


def suicide(text, options, events):
    os.kill(os.getpid(), getattr(signal, text))
    time.sleep(60)


def shout(text, options, events):
    print(text, flush=True)


def fault(text, options, events):
    raise RuntimeError(text)


ACTS = {
    "child": child,
    "environ": lambda text, o, events: events.warning(f"{STAGE} {text}={os.environ.get(text)}"),
    "error": error,
    "exit": lambda text, o, e: os._exit(int(text)),
    "fault": fault,
    "fields": lambda text, o, e: json.loads(text),
    "origin": origin,
    "partial": partial,
    "pid": pid,
    "print": shout,
    "progress": progress,
    "raw": raw,
    "signal": suicide,
    "sleep": lambda text, o, e: time.sleep(float(text)),
    "stubborn": lambda text, o, e: signal.signal(signal.SIGTERM, signal.SIG_IGN) and None,
    "wait_for": wait_for,
    "warning": lambda text, o, events: events.warning(text),
}


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--events", type=int)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--serve", action="store_true")
    options, argv = parser.parse_known_args()
    events = Events(options.events, options.verbose)
    jobs = (json.loads(line)["argv"] for line in sys.stdin) if options.serve else [argv]
    code = 0
    behaviour = Path(__file__).with_name("at_start")
    if behaviour.exists():
        act, _, rest = behaviour.read_text().strip().partition(" ")
        try:
            ACTS[act](rest, None, events)
        except Exception as problem:
            return events.error(problem)
    for job in jobs:
        try:
            events.started(STAGE)
            perform(job, events)
            code = 0
        except Exception as problem:
            code = events.error(problem)
    return 0 if options.serve else code


if __name__ == "__main__":
    sys.exit(main())
