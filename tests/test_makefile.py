"""The front door: every target is described, can be planned, and calls scripts that exist."""

import os
import re
import subprocess

import pytest

from tests.paths import ROOT

TEXT = (ROOT / "Makefile").read_text()
PHONY = re.search(r"^\.PHONY:((?:.*\\\n)*.*)$", TEXT, re.MULTILINE).group(1)
TARGETS = PHONY.replace("\\", "").split()


# The tests may themselves run under make.
CLEAN = {key: value for key, value in os.environ.items() if not re.match("MAKE|MFLAGS|ARGS$", key)}


def make(*arguments):
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_target():
    listed = re.findall(r"^  make (\S+) +\S", make("help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_it_can_be_planned(target):
    given = ("MODEL=a model", "WEIGHTS=some weights", "OUT=out/there", "IMAGES=some images")
    ran = make("--dry-run", target, *given)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("script", sorted(set(re.findall(r"\$\(PY\) (\S+\.py)", TEXT))))
def test_its_script_exists(script):
    assert (ROOT / script.replace("$(DIGITS)", "examples/digits")).is_file()


@pytest.mark.parametrize(
    "target, missing",
    [
        ("convert", "MODEL"),
        ("extract", "OUT"),
        ("build", "MODEL"),
        ("verify", "OUT"),
        ("validate", "OUT"),
        ("validate", "IMAGES"),
    ],
)
def test_a_missing_path_is_named(target, missing):
    given = [name for name in ("MODEL=x", "OUT=y", "IMAGES=z") if not name.startswith(missing)]
    ran = make(target, f"{missing}=", *given)
    assert ran.returncode == 2
    assert f"{missing}= is missing" in ran.stderr


def test_ci_runs_what_make_offers():
    called = re.search(r"for target in (.*); do", (ROOT / ".ci" / "run").read_text()).group(1)
    assert set(called.split()) <= set(TARGETS)
