"""The built wheel is complete: installed alone, it converts from an unrelated folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow

ROOMS = ("driver", "schemas", "stage_build", "stage_extract")
DIGITS = ROOT / "examples" / "digits"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools builds in the source folder, and packs what an earlier build left there.
    source = folder / "source"
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "orchestrate.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, source], check=True, timeout=300
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `orchestrate` of an environment that holds the wheel, and sees this one's packages."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel],
        check=True,
        timeout=300,
    )
    (site,) = folder.glob("lib/python*/site-packages")
    # A path file adds folders, but not what an editable installation hooks in from there.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "orchestrate"


def run(command, *arguments, cwd):
    return subprocess.run(
        [command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )


def test_it_holds_every_file_of_the_rooms_and_the_license(wheel):
    files = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert files | {"orchestrate.py"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {*ROOMS, "orchestrate.py"}


def test_it_answers_for_help(installed, tmp_path):
    ran = run(installed, "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "convert" in ran.stdout


def test_its_modules_are_its_own(installed, tmp_path):
    code = "import orchestrate, schemas, stage_build; print(orchestrate.__file__)"
    ran = run(installed.with_name("python"), "-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(installed.parent.parent))


def test_it_converts_from_an_unrelated_folder(installed, tmp_path):
    net = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    ran = run(installed, "convert", *net, "-o", "digits", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == "ok"
    report = json.loads((tmp_path / "digits" / "report.json").read_text())
    assert report["status"] == "ok"
