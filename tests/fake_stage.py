"""A stage that acts out what its input file says, one act a line: the double of both workers.

Copied to ROOT/stage_extract/__main__.py and ROOT/stage_build/__main__.py by `tests/test_driver.py`.
The acts of the extraction stand above a line `---`, those of the build below it.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from schemas.errors import KINDS
from schemas.events import Events

STAGE = __package__.partition("_")[2]
EXTRA = []


def perform(argv, events):
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("-o")
    parser.add_argument("--inspect")
    parser.add_argument("--logs")
    parser.add_argument("--record")
    parser.add_argument("--adopt", action="store_true")
    parser.add_argument("--verify", action="store_true")
    options, _ = parser.parse_known_args(argv)
    script = Path(options.inspect or options.inputs[0])
    if script.is_dir():
        script = script / "net.h5"
    mine, _, rest = script.read_text(encoding="utf-8").partition("---\n")
    fields = {"argv": argv}
    if STAGE == "extract" and not options.inspect:
        roles = ("prototxt", "weights")
        fields["files"] = [read_file(roles[i], path) for i, path in enumerate(options.inputs)]
    EXTRA.clear()
    for line in mine.splitlines():
        act, _, rest_of_line = line.partition(" ")
        fields.update(ACTS[act](rest_of_line, options, events) or {})
    if EXTRA:
        fields["files"] = [*fields["files"], *EXTRA]
    if options.o and not options.verify:
        (write_net if STAGE == "extract" else write_model)(options, script, rest)
    events.result(**{"out": options.o, "seconds": 0.5, **fields})


def read_file(role, path):
    status, digest = os.stat(path), hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {
        "role": role,
        "path": os.path.abspath(path),
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "sha256": digest,
    }


def write_net(options, script, rest):
    Path(options.o).write_text(rest, encoding="utf-8")


def write_model(options, script, rest):
    out, content = Path(options.o), script.read_text(encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir()
    if options.adopt:
        script.rename(out / "net.h5")
    else:
        (out / "net.h5").write_text(content, encoding="utf-8")
    (out / "names.json").write_text("{}")
    report = {"status": "ok", "blobs": [{"name": "ip1", "max_error": 1e-7}], "versions": {"x": "1"}}
    (out / "report.json").write_text(json.dumps(report))
    if options.logs:
        shutil.copytree(options.logs, out / "logs")
    if options.record:
        told = json.loads(Path(options.record).read_text())
        if told.get("extract"):
            status = (out / "net.h5").stat()
            times = [status.st_mtime_ns, status.st_ctime_ns]
            told["extract"]["net.h5"] = [status.st_ino, status.st_size, *times]
        (out / "logs" / Path(options.record).name).write_text(json.dumps(told))
        result = {"status": "ok", "worst": {"blob": "ip1", "error": 1e-7}, "seconds": 0.5}
        files = {name: (out / name).stat().st_size for name in ("net.h5", "names.json")}
        built = {"version": 1, "result": result, "files": files}
        (out / "logs" / "built.json").write_text(json.dumps(built))


def error(text, options, events):
    kind, _, message = text.partition(" ")
    raise KINDS[kind](message, "layer 'conv1' (Convolution)", "mend it")


def progress(text, options, events):
    task, done, total = text.split()
    events.progress(task, int(done), int(total))


def raw(text, options, events):
    os.write(events._fd, text.encode() + b"\n")


def child(text, options, events):
    """Leaves a process behind that holds everything open, and notes its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False
    )
    Path(text).write_text(str(process.pid))


def reads(text, options, events):
    """A further file of the extraction; acts in this order: role, path."""
    EXTRA.append(read_file(*text.split()))


def wait_for(text, options, events):
    deadline = time.monotonic() + 60
    while not Path(text).exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{text} did not appear")
        time.sleep(0.02)


def pid(text, options, events):
    Path(text).write_text(str(os.getpid()))


def note(text, options, events):
    """Adds a line to a file: how often something was done."""
    with Path(text).open("a", encoding="utf-8") as file:
        file.write(f"{STAGE}\n")


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


def fill(text, options, events):
    """Takes memory, megabyte after megabyte, up to so many."""
    taken = []
    for _ in range(int(text)):
        taken.append(bytearray(b"x" * (1 << 20)))
    return {"megabytes": len(taken)}


def hold(text, options, events):
    """Sleeps for so many seconds in C, and keeps Python's lock meanwhile."""
    ctypes.PyDLL(None).usleep(int(float(text) * 1e6))


def compute(text, options, events):
    """Computes in C, and keeps Python's lock meanwhile: twice as long for one more."""
    re.match("(a+)+$", "a" * int(text) + "b")


def linger(text, options, events):
    """Goes on as soon as it has said where it is."""
    before = os.fstat(2).st_size
    while os.fstat(2).st_size == before:
        time.sleep(0.001)


def shout(text, options, events):
    print(text, flush=True)


def fault(text, options, events):
    raise RuntimeError(text)


ACTS = {
    "child": child,
    "compute": compute,
    "environ": lambda text, o, events: events.warning(f"{STAGE} {text}={os.environ.get(text)}"),
    "error": error,
    "exit": lambda text, o, e: os._exit(int(text)),
    "fault": fault,
    "fill": fill,
    "fields": lambda text, o, e: json.loads(text),
    "note": note,
    "hold": hold,
    "linger": linger,
    "origin": origin,
    "partial": partial,
    "pid": pid,
    "print": shout,
    "progress": progress,
    "raw": raw,
    "reads": reads,
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
