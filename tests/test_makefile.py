"""The front door: every target is described, can be planned, and calls scripts that exist.

What is converted is made where it is missing or out of date, and nowhere else.
"""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from tests.paths import ROOT

TEXT = (ROOT / "Makefile").read_text()
PHONY = re.search(r"^TARGETS =((?:.*\\\n)*.*)$", TEXT, re.MULTILINE).group(1)
TARGETS = PHONY.replace("\\", "").split()
DIGITS = ROOT / "examples" / "digits"


# The tests may themselves run under make.
CLEAN = {key: value for key, value in os.environ.items() if not re.match("MAKE|MFLAGS|ARGS$", key)}


def make(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        ["make", *arguments],
        cwd=cwd,
        env={**CLEAN, **environment},
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
    given = (f"MODEL={DIGITS}/deploy.prototxt", "OUT=out/there", "IMAGES=some images")
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


# ---- What is out of date -------------------------------------------------------------------------

STANDIN = """#!{python}
import json, os, sys, time
from pathlib import Path

script, command, *argv = sys.argv[1:]
with open("runs", "a") as runs:
    runs.write(json.dumps([command, *argv]) + "\\n")
if os.environ.get("FAILS") == command:
    sys.exit(5)
out = Path(argv[argv.index("-o") + 1])
if command == "extract":
    out.write_bytes(b"\\x89HDF")
else:
    out.mkdir(exist_ok=True)
    (out / "names.json").write_text("{{}}")
if os.environ.get("HANGS") == command:
    open("hanging", "w").close()
    time.sleep(60)
"""


class Folder:
    """A folder with a model, and a make there whose Python notes what it was to do."""

    def __init__(self, path):
        self.path = path
        standin = path / "standin"
        standin.write_text(STANDIN.format(python=sys.executable))
        standin.chmod(0o755)
        self.give("net.prototxt", "net.caffemodel")

    def give(self, *names):
        """Makes files, older than anything that is made of them."""
        for name in names:
            (self.path / name).write_text(name)
            self.age(name, 100)

    def age(self, name, seconds):
        """Sets the age of a file: everything in these tests has another."""
        changed = time.time() - seconds
        os.utime(self.path / name, (changed, changed))

    def make(self, *arguments, code=0, **environment):
        """What the driver was called with, a list a call."""
        (self.path / "runs").unlink(missing_ok=True)
        self.ran = make(
            "-f",
            ROOT / "Makefile",
            "PY=./standin",
            "READY=",
            *arguments,
            cwd=self.path,
            **environment,
        )
        assert self.ran.returncode == code, self.ran.stderr
        try:
            return [json.loads(line) for line in (self.path / "runs").read_text().splitlines()]
        except FileNotFoundError:
            return []


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


BOTH = ("MODEL=net.prototxt", "WEIGHTS=net.caffemodel")
FILES = ["--", "net.prototxt", "net.caffemodel"]


@pytest.mark.parametrize("goal", [(), ("convert",)], ids=["no goal", "convert"])
def test_a_model_is_converted_once(goal, folder):
    given = (*goal, "OUT=out", *BOTH)
    assert folder.make(*given) == [["convert", "-o", "out", *FILES]]
    folder.age("out/names.json", 50)
    assert folder.make(*given) == []
    assert "Nothing to be done" in folder.ran.stdout
    assert folder.make("--question", *given) == []
    taken_for_changed = folder.make("-W", "net.prototxt", *given, "ARGS=--formats class")
    assert taken_for_changed == [["convert", "-o", "out", "--force", "--formats", "class", *FILES]]


@pytest.mark.parametrize("newer", ["net.prototxt", "net.caffemodel", "mean.npy", "own labels.txt"])
def test_a_newer_file_has_it_made_again(newer, folder):
    folder.give("mean.npy", "own labels.txt")
    given = ("OUT=out", *BOTH, "NEEDS=mean.npy own\\ labels.txt", "ARGS=--mean mean.npy")
    folder.make(*given)
    folder.age("out/names.json", 50)
    folder.age(newer, 20)
    assert folder.make("--question", *given, code=1) == []
    assert folder.make(*given) == [
        ["convert", "-o", "out", "--force", "--mean", "mean.npy", *FILES]
    ]
    assert folder.make(*given) == []


def test_a_net_may_have_no_weights(folder):
    assert folder.make("OUT=out", "MODEL=net.prototxt") == [
        ["convert", "-o", "out", "--", "net.prototxt"]
    ]
    assert folder.make("OUT=out", "MODEL=net.prototxt") == []


def test_stage_1_alone(folder):
    given = ("extract", "OUT=net.h5", *BOTH, "ARGS=--mean 1,2,3")
    assert folder.make(*given) == [["extract", "-o", "net.h5", "--mean", "1,2,3", *FILES]]
    folder.age("net.h5", 50)
    assert folder.make(*given) == []
    folder.age("net.caffemodel", 20)
    again = ["extract", "-o", "net.h5", "--force", "--mean", "1,2,3", *FILES]
    assert folder.make(*given) == [again]


def test_stage_2_alone_takes_no_weights(folder):
    folder.give("net.h5")
    given = ("build", "OUT=out", "MODEL=net.h5", "WEIGHTS=gone")
    assert folder.make(*given) == [["build", "-o", "out", "--", "net.h5"]]
    folder.age("out/names.json", 50)
    assert folder.make(*given) == []
    folder.age("net.h5", 20)
    assert folder.make(*given) == [["build", "-o", "out", "--force", "--", "net.h5"]]


@pytest.mark.parametrize("jobs", [(), ("-j8",)], ids=["in sequence", "in parallel"])
def test_a_chain_is_made_from_where_it_is_out_of_date(jobs, folder):
    options = ("EXTRACT_ARGS=--seed 3", "ARGS=--formats class")
    given = (*jobs, "OUT=out", "NET=net.h5", *BOTH, *options)
    extraction = ["extract", "-o", "net.h5", "--seed", "3", *FILES]
    building = ["build", "-o", "out", "--formats", "class", "--", "net.h5"]
    assert folder.make(*given) == [extraction, building]
    folder.age("net.h5", 60)
    folder.age("out/names.json", 50)
    assert folder.make(*given) == []
    folder.age("net.h5", 40)
    building[3:3] = ["--force"]
    assert folder.make(*given) == [building]
    folder.age("out/names.json", 30)
    folder.age("net.prototxt", 20)
    extraction[3:3] = ["--force"]
    assert folder.make(*given) == [extraction, building]


def test_a_plan_does_nothing(folder):
    assert folder.make("--dry-run", "OUT=out", "NET=net.h5", *BOTH) == []
    assert folder.ran.stdout.index(" extract -o ") < folder.ran.stdout.index(" build -o ")
    assert {path.name for path in folder.path.iterdir()} == {
        "net.prototxt",
        "net.caffemodel",
        "standin",
    }


@pytest.mark.parametrize("flags", ["k", "-j4 -k", "s"])
def test_makes_own_flags_may_be_in_the_environment(flags, folder):
    given = ("OUT=out", "NET=net.h5", *BOTH)
    ran = folder.make(*given, MAKEFLAGS=flags)
    assert [run[0] for run in ran] == ["extract", "build"]
    assert folder.make(*given, MAKEFLAGS=flags) == []


def test_paths_may_be_in_the_environment(folder):
    given = {"OUT": "out", "MODEL": "net.prototxt", "WEIGHTS": "net.caffemodel"}
    assert folder.make(**given) == [["convert", "-o", "out", *FILES]]


def test_what_failed_is_not_up_to_date(folder):
    given = ("OUT=out", "NET=net.h5", *BOTH)
    for _ in range(2):
        assert len(folder.make(*given, code=2, FAILS="extract")) == 1
    assert [run[0] for run in folder.make(*given, code=2, FAILS="build")] == ["extract", "build"]
    assert [run[0] for run in folder.make(*given)] == ["build"]
    folder.age("out/names.json", 50)
    folder.age("net.h5", 40)
    for _ in range(2):
        assert [run[0] for run in folder.make(*given, code=2, FAILS="build")] == ["build"]
    assert (folder.path / "out" / "names.json").is_file()


@pytest.mark.parametrize(
    "command, made", [("extract", "net.h5"), ("build", "out/names.json")], ids=lambda each: each
)
def test_a_make_that_is_ended_does_not_remove_what_is_whole(command, made, folder):
    """By itself it would: what changed while a recipe ran is no more than half of it, as a rule."""
    given = ("-f", ROOT / "Makefile", "PY=./standin", "READY=", "OUT=out", "NET=net.h5", *BOTH)
    running = subprocess.Popen(
        ["make", *given], cwd=folder.path, env={**CLEAN, "HANGS": command}, stderr=subprocess.PIPE
    )
    while running.poll() is None and not (folder.path / "hanging").exists():
        time.sleep(0.01)
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert (folder.path / made).is_file()


@pytest.mark.parametrize("goal, out", [("convert", "out"), ("extract", "thesis.pdf")])
def test_only_what_was_made_so_is_replaced(goal, out, folder):
    """The driver refuses the rest."""
    folder.give("thesis.pdf")
    (folder.path / "out").mkdir()
    folder.age("net.prototxt", 20)
    ((_, *argv),) = folder.make(goal, f"OUT={out}", *BOTH)
    assert "--force" not in argv


@pytest.mark.parametrize(
    "name",
    [
        "my net",
        "two  blanks",
        "a$net",
        "$(shell touch expanded)",
        "net (1)",
        "(1)net",
        "-net",
        "it's",
        'a "net"',
        "`touch expanded`",
        "R&D",
        "lr=0.1",
        "a,b",
        "a@b",
        "!a",
        "{a}",
        "<a>",
        "a^b+c",
        "größe",
    ],
)
def test_paths_may_hold(name, folder):
    model, net, out = f"{name}.prototxt", f"{name}.h5", f"out/{name}"
    (folder.path / "out").mkdir()
    folder.give(model)
    given = (f"MODEL={model}", f"NET={net}", f"OUT={out}")
    assert folder.make(*given) == [
        ["extract", "-o", net, "--", model],
        ["build", "-o", out, "--", net],
    ]
    assert folder.make(*given) == []
    for made in (net, f"{out}/names.json"):
        folder.age(made, 200)
    assert folder.make(*given) == [
        ["extract", "-o", net, "--force", "--", model],
        ["build", "-o", out, "--force", "--", net],
    ]
    assert not (folder.path / "expanded").exists()


@pytest.mark.parametrize(
    "name, told",
    [
        ("C:net", ":"),
        ("50%", "%"),
        ("a;b", ";"),
        ("a|b", "|"),
        ("a*", "*"),
        ("a?", "?"),
        ("a[0]", "[ ]"),
        ("a\\b", "\\"),
        ("#1", "#"),
        ("a\tb", "tab"),
        ("a\nb", "newline"),
        ("~/net", "~"),
        ("net (1)", ") at its end"),
        ("demo", "demo"),
        ("./demo", "demo"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("variable", ["MODEL", "WEIGHTS", "NET", "OUT"])
def test_paths_that_make_cannot_take(name, told, variable, folder):
    given = {"MODEL": "net.prototxt", "OUT": "out.h5", variable: name}
    goal = "extract" if variable == "OUT" else "convert"
    assert folder.make(goal, *(f"{key}={value}" for key, value in given.items()), code=2) == []
    assert f"{variable}={name}: make takes no path with {told};" in folder.ran.stderr


def test_a_folder_may_be_named_like_a_target(folder):
    (run,) = folder.make("OUT=demo", *BOTH)
    assert run[:3] == ["convert", "-o", "demo"]
    assert folder.make("OUT=demo", *BOTH) == []


def test_unfit_paths_in_the_environment_are_no_matter_to_other_targets():
    assert make("help", OUT="C:out", MODEL="a;b").returncode == 0


def test_a_model_that_is_not_there_is_named(folder):
    assert folder.make("OUT=out", "MODEL=gone.prototxt", code=2) == []
    assert "gone.prototxt" in folder.ran.stderr


def test_one_stage_at_a_time(folder):
    assert folder.make("extract", "build", "OUT=out", *BOTH, code=2) == []
    assert "one of them at a time" in folder.ran.stderr


@pytest.mark.parametrize("given", ["OUT=out", "MODEL=net.prototxt"])
def test_half_a_conversion_is_asked_for_the_rest(given, folder):
    assert folder.make(given, code=2) == []
    assert "= is missing" in folder.ran.stderr


def test_alone_it_shows_the_help():
    assert make().stdout == make("help").stdout != ""


@pytest.mark.slow
def test_a_chain_for_real(tmp_path):
    """The driver does what the rules go by: what is up to date has the younger time."""
    model, weights = tmp_path / "a net.prototxt", tmp_path / "a net.caffemodel"
    model.write_bytes((DIGITS / "deploy.prototxt").read_bytes())
    weights.write_bytes((DIGITS / "digits.caffemodel").read_bytes())
    net, out = tmp_path / "a net.h5", tmp_path / "out"
    chain = (f"MODEL={model}", f"WEIGHTS={weights}", f"NET={net}", f"OUT={out}")
    both = (*chain[:2], f"OUT={tmp_path / 'both'}")

    def run(*given):
        ran = make(f"PY={sys.executable}", "READY=", "ARGS=--formats class", *given)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return "Nothing to be done" not in ran.stdout

    def stamps():
        return [path.stat().st_mtime_ns for path in (net, out / "names.json")]

    assert run(*chain)
    made = stamps()
    assert not run(*chain)
    net.touch()
    assert run(*chain)
    assert not run(*chain)
    assert made[1] < stamps()[1]
    assert run(*both)
    assert not run(*both)
    weights.touch()
    assert run(*chain)
    assert run(*both)
    assert not run(*chain)
    assert not run(*both)
    assert json.loads((tmp_path / "both" / "report.json").read_text())["status"] == "ok"
    assert {path.name for path in tmp_path.iterdir()} == {
        "a net.prototxt",
        "a net.caffemodel",
        "a net.h5",
        "out",
        "both",
    }
