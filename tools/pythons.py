"""Other Python versions: where they are, an environment for each, and the tests run under them.

    python tools/pythons.py 3.8 3.9        tests of schemas and stage_extract alone
    python tools/pythons.py --full 3.12    every test, with every package

A version that this machine does not offer is reported as not run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"
ROOM_PACKAGES = ("numpy", "h5py", "protobuf", "pytest")
FULL_PACKAGES = ("-e", ".[extract,build-cpu,dev]")
PIP_OPTIONS = ("--quiet", "--no-input", "--disable-pip-version-check", "-c", "constraints.txt")
PYTEST_OPTIONS = ("-q", "-p", "no:cacheprovider", "-m", "not slow")

# A test that imports nothing else, and one of the rooms, belongs to the rooms.
ROOMS = {"schemas", "stage_extract"}
ROOM_IMPORTS = ROOMS | {"google", "h5py", "numpy", "pytest", "tests"}


@functools.cache
def find(version: str) -> Path | None:
    """The interpreter of `version` ("3.8") on the PATH or in pyenv, or None."""
    return next((exe for exe in _candidates(version) if _answers(exe, version)), None)


def _candidates(version: str) -> Iterator[Path]:
    pyenvs = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    for folder in map(Path, os.environ.get("PATH", "").split(os.pathsep)):
        yield folder / f"python{version}"
        if folder.name == "shims":
            pyenvs.append(folder.parent)
    for pyenv in pyenvs:
        yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)


def _answers(exe: Path, version: str) -> bool:
    """Whether `exe` runs and is of `version` (pyenv's shims may refuse to run theirs)."""
    if not exe.is_file():
        return False
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([exe, "-c", code], capture_output=True, text=True, check=False)
    return ran.returncode == 0 and ran.stdout.strip() == version


def environment(version: str, full: bool = False) -> Path | None:
    """The interpreter of a virtual environment for `version`, made where it is missing or outdated.

    Args:
        full: with every package, not only what the rooms need.

    Raises:
        subprocess.CalledProcessError: the packages could not be installed.
    """
    exe = find(version)
    if exe is None:
        return None
    packages = FULL_PACKAGES if full else ROOM_PACKAGES
    wanted = hashlib.sha256(
        b"\0".join(
            [
                str(exe).encode(),
                " ".join(packages).encode(),
                (ROOT / "constraints.txt").read_bytes(),
                (ROOT / "pyproject.toml").read_bytes() if full else b"",
            ]
        )
    ).hexdigest()
    folder = ENVIRONMENTS / f"py{version.replace('.', '')}{'-full' if full else ''}"
    python, stamp = folder / "bin" / "python", folder / "stamp"
    with _alone():
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _make(exe, folder)
            install = [str(python), "-m", "pip", "install", *PIP_OPTIONS]
            if full:
                subprocess.run([*install, "setuptools"], cwd=ROOT, check=True)
                install.append("--no-build-isolation")
            subprocess.run([*install, *packages], cwd=ROOT, check=True)
            stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Tests run side by side, and each may need the same environment."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(exe: Path, folder: Path) -> None:
    """Makes a virtual environment. Python 3.8 forgets a temporary file over that."""
    with tempfile.TemporaryDirectory() as aside:
        env = {**os.environ, "TMPDIR": aside}
        subprocess.run([exe, "-m", "venv", folder], check=True, env=env)


def room_tests() -> list[Path]:
    """The test files that need nothing but the rooms and their packages, told by their imports."""
    known = ROOM_IMPORTS | set(sys.stdlib_module_names)
    return [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if (names := _imports(path)) & ROOMS and names <= known
    ]


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Top-level names of the packages that `path` imports anywhere, helpers in tests/ followed."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            dotted.append(str(node.module))
        else:
            continue
        for name in dotted:
            names.add(name.partition(".")[0])
            helper = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and helper.is_file() and helper != path:
                names |= _imports(helper)
    return frozenset(names)


def run_tests(version: str, full: bool) -> bool:
    """Runs the tests under `version`; True unless they failed or could not be set up."""
    title = f"Python {version}"
    try:
        python = environment(version, full)
    except subprocess.CalledProcessError as error:
        print(f"{title}: FAILED: no environment: {error}", flush=True)
        return False
    if python is None:
        print(f"{title}: not run: no {title}", flush=True)
        return True
    paths = [] if full else [str(path.relative_to(ROOT)) for path in room_tests()]
    if not full and not paths:
        print(f"{title}: not run: no tests of {' and '.join(sorted(ROOMS))}", flush=True)
        return True
    what = "every test" if full else f"{len(paths)} test files of {' and '.join(sorted(ROOMS))}"
    print(f"{title}: {what}", flush=True)
    command = [str(python), "-m", "pytest", *PYTEST_OPTIONS, *paths]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the tests under other Python versions.")
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="for example 3.8")
    parser.add_argument("--full", action="store_true", help="every test (Python 3.10 and newer)")
    options = parser.parse_args()
    results = [run_tests(version, options.full) for version in options.versions]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
