"""`doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from driver.display import Display, table
from driver.environment import environment
from driver.options import Options
from driver.outcome import Outcome, ok_document
from driver.worker import interpreter
from driver.workspace import bytes_text
from schemas.errors import EnvironmentProblem
from schemas.processes import processors

OLDEST = {"extract": (3, 8), "build": (3, 10)}
NEEDED = {
    "extract": ("numpy", "h5py", "protobuf"),
    "build": ("numpy", "h5py", "igraph", "jinja2", "tensorflow", "keras"),
}
ALSO_KNOWN_AS = {
    "tensorflow": ("tensorflow-cpu", "tensorflow-macos", "tf-nightly", "tf-nightly-cpu")
}
MODULES = {"protobuf": "google.protobuf"}

PROBE_SECONDS = 30.0
CAFFE_SECONDS = 120.0

# What USE_PYCAFFE may be set to and still ask for nothing (stage_extract/pycaffe.py).
OFF = ("", "0", "false", "no", "off")

# Read by any Python from 2.7 on; imports none of the packages it asks for.
PROBE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]
names = json.loads(sys.argv[1])
found = {}
try:
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
except ImportError:
    names = {}
for name, (module, distributions) in names.items():
    try:
        there = find_spec(module) is not None
    except Exception:
        there = False
    if there:
        found[name] = "version unknown"
        for distribution in distributions:
            try:
                found[name] = version(distribution)
                break
            except PackageNotFoundError:
                pass
print(json.dumps({"python": list(sys.version_info[:3]), "packages": found}))
"""

CAFFE_PROBE = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import caffe
sys.stdout.write("\\n" + str(getattr(caffe, "__version__", "version unknown")))
"""


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        ok: whether it is as it should be; None where it need not be.
        fix: what to do where it is not.
    """

    what: str
    found: str
    ok: bool | None = True
    fix: str = ""


def doctor(options: Options, show: Display) -> Outcome:
    """Looks at interpreters, packages and machine; exit code 7 if something needed is missing."""
    checks = [Check("driver: Python", _dotted(sys.version_info[:3]))]
    pythons = {"extract": options.extract_python, "build": options.build_python}
    for stage, python in pythons.items():
        show.progress("doctor", f"packages for {stage}")
        checks += _interpreter_checks(stage, python)
    show.progress("doctor", "PyCaffe")
    checks.append(_caffe_check(options.extract_python))
    show.progress("doctor", "machine")
    checks += _machine_checks()
    missing = [check for check in checks if check.ok is False]
    document: dict[str, Any] = ok_document(None, checks=[asdict(check) for check in checks])
    if missing:
        document.update(
            status="failed",
            exit_code=EnvironmentProblem.exit_code,
            error="missing for a conversion: " + ", ".join(check.what for check in missing),
        )
    marks = {True: "✓", False: "✗", None: "·"}
    rows = [(marks[check.ok], check.what, check.found, check.fix) for check in checks]
    title = "This machine can convert models" if not missing else "Something is missing"
    return Outcome(
        document, tables=[table(title, ("", "what", "found", "fix"), rows)], is_product=True
    )


def _interpreter_checks(stage: str, python: str | None) -> list[Check]:
    option = f"--{stage}-python"
    try:
        command = interpreter(python)
        names = {
            name: (MODULES.get(name, name), (name, *ALSO_KNOWN_AS.get(name, ())))
            for name in NEEDED[stage]
        }
        answer = json.loads(_ask(stage, command, PROBE, PROBE_SECONDS, json.dumps(names)))
        version, packages = tuple(answer["python"]), answer["packages"]
    except (EnvironmentProblem, ValueError, KeyError) as error:
        return [Check(f"{stage}: Python", str(error), False, f"name a Python with {option}")]
    oldest = OLDEST[stage]
    new_enough = version >= oldest
    needed = f"{_dotted(oldest)} or newer: name one with {option}"
    found = f"{_dotted(version)}  {command}"
    checks = [Check(f"{stage}: Python", found, new_enough, "" if new_enough else needed)]
    for name in NEEDED[stage] if new_enough else ():
        fix = "" if name in packages else f"{command} -m pip install {name}"
        checks.append(Check(f"{stage}: {name}", packages.get(name, "missing"), not fix, fix))
    return checks


def _caffe_check(python: str | None) -> Check:
    wanted = os.environ.get("USE_PYCAFFE", "").strip().lower() not in OFF
    try:
        answer = _ask("extract", interpreter(python), CAFFE_PROBE, CAFFE_SECONDS)
        return Check("extract: PyCaffe", answer.rpartition("\n")[2])
    except EnvironmentProblem as error:
        found = f"not importable: {error.message}"
    fix = "put the folder of Caffe's Python package on PYTHONPATH, or unset USE_PYCAFFE"
    return Check("extract: PyCaffe", found, None, fix if wanted else "not needed")


def _ask(stage: str, command: str, code: str, seconds: float, *argv: str) -> str:
    """What `code` prints under an interpreter, in a folder where there is nothing to import.

    Raises:
        EnvironmentProblem: it failed; the message is the last line it printed.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder:
        try:
            answer = subprocess.run(
                [os.path.abspath(command), "-c", code, *argv],
                capture_output=True,
                check=False,
                cwd=folder,
                env=environment(stage, command),
                errors="replace",
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise EnvironmentProblem(f"no answer within {seconds:.0f} s", command) from error
        except OSError as error:
            raise EnvironmentProblem(error.strerror or str(error), command) from error
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise EnvironmentProblem(lines[-1], command)
    return answer.stdout.strip()


def _machine_checks() -> list[Check]:
    cpus = processors()
    page = os.sysconf("SC_PAGE_SIZE")
    memory = bytes_text(os.sysconf("SC_PHYS_PAGES") * page)
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        memory += f", free {bytes_text(os.sysconf('SC_AVPHYS_PAGES') * page)}"
    free = shutil.disk_usage(Path.cwd()).free
    return [
        Check("machine: CPUs", str(cpus)),
        Check("machine: memory", memory),
        Check("machine: free disk here", bytes_text(free)),
        _gpu_check(),
    ]


def _gpu_check() -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("machine: GPU", "none (no nvidia-smi)", None, "not needed")
    try:
        answer = subprocess.run(
            [tool, "-L"], capture_output=True, check=True, errors="replace", text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("machine: GPU", f"nvidia-smi fails: {error}", None, "check the driver")
    return Check("machine: GPU", answer.stdout.strip() or "none", True)


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)
