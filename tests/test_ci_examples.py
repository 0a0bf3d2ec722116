"""The pipelines of examples/ci do what they say: their commands run, in a folder a runner.

What only the service does is played: the checkout, the artifact. Of the commands one is not run,
the installation of packages, in whose place the tests' own interpreter is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.paths import ROOT

CI = ROOT / "examples" / "ci"
CHECKED_OUT = ("constraints.txt", "driver", "examples", "orchestrate.py", "pyproject.toml")
CHECKED_OUT += ("schemas", "stage_build", "stage_extract")
NOT_RUN = {
    'python -m pip install -c constraints.txt ".[extract]"',
    'python -m pip install -c constraints.txt ".[build-cpu]"',
}
ACTIONS = {"checkout", "setup-python", "upload-artifact", "download-artifact"}
COLUMNS = "| step | result | worst error | in blob | seconds | message |"


class Runner:
    """A machine with a checkout, and with nothing else that another runner has.

    Args:
        folder: where it works.
        shared: where artifacts are kept.
        variables: of the pipeline.
    """

    def __init__(self, folder, shared, variables):
        self.folder = folder / "checkout"
        self.shared = shared
        for name in CHECKED_OUT:
            copy(ROOT / name, self.folder / name)
        python = folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        self.said = ""
        self.summary = folder / "summary.md"
        self.environment = {
            **os.environ,
            **variables,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(self.summary),
        }

    def run(self, command):
        """The exit code of a step, in the shell and with the settings of both services."""
        if command in NOT_RUN:
            return 0
        ran = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if command.startswith("python examples/ci/summary.py"):
            with self.summary.open("a") as summary:
                summary.write(ran.stdout)
        self.said += ran.stderr
        return ran.returncode

    def keep(self, name, paths):
        """Keeps what there is of `paths` as an artifact."""
        for path in paths:
            copy(self.folder / path, self.shared / name / path)

    def fetch(self, name):
        for path in (self.shared / name).iterdir():
            copy(path, self.folder / path.name)


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.is_file():
        shutil.copy(source, target)


def github(job, runner):
    """Runs a job of a workflow; its exit code."""
    code = 0
    for step in job["steps"]:
        if code and step.get("if") != "always()":
            continue
        given = step.get("with", {})
        if "run" in step:
            ended = runner.run(step["run"])
            code = code or ended
        elif "upload-artifact" in step["uses"]:
            runner.keep(given["name"], given["path"].split())
        elif "download-artifact" in step["uses"]:
            runner.fetch(given["name"])
    return code


def gitlab(name, job, runner):
    """Runs a job of a pipeline; its exit code."""
    for needed in job.get("needs", []):
        runner.fetch(needed)
    code = next(filter(None, map(runner.run, job["script"])), 0)
    for command in job["after_script"]:
        assert runner.run(command) == 0
    if not code or job["artifacts"].get("when") == "always":
        runner.keep(name, job["artifacts"]["paths"])
    return code


WORKFLOW = yaml.safe_load((CI / "github-actions.yml").read_text())
PIPELINE = yaml.safe_load((CI / "gitlab-ci.yml").read_text())


def on_github(name, runner):
    return github(WORKFLOW["jobs"][name], runner)


def on_gitlab(name, runner):
    return gitlab(name, PIPELINE[name], runner)


SERVICES = pytest.mark.parametrize(
    "service, variables",
    [(on_github, WORKFLOW["env"]), (on_gitlab, PIPELINE["variables"])],
    ids=["GitHub", "GitLab"],
)


@pytest.fixture
def runners(tmp_path):
    """The runner of a job by its name; they share the artifacts."""

    def runner(name, variables):
        (tmp_path / name).mkdir()
        return Runner(tmp_path / name, tmp_path / "artifacts", variables)

    return runner


def rows(runner):
    """The table that a job has shown: its rows' first two cells."""
    header, _, *lines = runner.summary.read_text().splitlines()
    assert header == COLUMNS
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]


@pytest.mark.slow
@SERVICES
def test_a_model_goes_from_one_runner_to_the_other(service, variables, runners, tmp_path):
    first = runners("extract", variables)
    assert service("extract", first) == 0, first.said
    assert rows(first) == [("extract", "ok (0)")]
    (kept,) = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    second = runners("build", variables)
    shutil.rmtree(second.folder / "examples" / "digits")
    assert service("build", second) == 0, second.said
    assert rows(second) == [("build", "ok (0)"), ("verify", "ok (0)")]
    (result,) = (tmp_path / "artifacts").glob("*/converted")
    report = json.loads((result / "report.json").read_text())
    assert report["status"] == "ok"
    assert (result / "net.h5").read_bytes() == kept.read_bytes()
    assert (result / "model.keras").is_file()
    verified = json.loads((result.parent / "verify.json").read_text())
    assert verified["status"] == "ok"


@SERVICES
def test_a_job_fails_with_its_command(service, variables, runners, tmp_path):
    runner = runners("extract", variables)
    (runner.folder / variables["WEIGHTS"]).write_bytes(b"no weights")
    assert service("extract", runner) == 3, runner.said
    assert rows(runner) == [("extract", "failed (3)")]
    assert not (tmp_path / "artifacts" / "net.h5" / "net.h5").exists()
    second = runners("build", variables)
    for name in ("net.h5", "extract"):  # GitHub's artifact has a name, GitLab's is the job's
        (tmp_path / "artifacts" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifacts" / name / "net.h5").write_bytes(b"no interchange file")
    assert service("build", second) == 3, second.said
    assert rows(second) == [("build", "failed (3)"), ("verify", "not run")]


def test_actions_are_pinned_and_known():
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    pinned = [re.fullmatch(r"actions/([a-z-]+)@[0-9a-f]{40}", name) for name in used]
    assert {match.group(1) for match in pinned} == ACTIONS


def test_both_say_the_same():
    commands = {
        name: [step["run"].partition(" >> ")[0] for step in job["steps"] if "run" in step]
        for name, job in WORKFLOW["jobs"].items()
    }
    for name, said in commands.items():
        assert said == PIPELINE[name]["script"] + PIPELINE[name]["after_script"]
    assert {command for said in commands.values() for command in said} > NOT_RUN
    for name, value in WORKFLOW["env"].items():
        assert PIPELINE["variables"][name] == value
        assert (ROOT / value).is_file()


def test_a_cache_is_keyed_on_what_is_installed():
    keyed = PIPELINE["default"]["cache"]["key"]["files"]
    for job in WORKFLOW["jobs"].values():
        (setup,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
        assert setup["cache-dependency-path"].split() == keyed
    assert all((ROOT / name).is_file() for name in keyed)


def test_what_a_summary_holds_stays_in_its_cell(tmp_path):
    """A blob may be named anything."""
    worst = {"error": 2e-7, "blob": "a|b\n<img src=x>"}
    document = {"status": "failed", "exit_code": 5, "error": "a | b\nc", "worst": worst}
    (tmp_path / "build.json").write_text(json.dumps(document))
    ran = subprocess.run(
        [sys.executable, CI / "summary.py", "build.json", "verify.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[2:] == [
        r"| build | failed (5) | 2.0e-07 | a\|b &lt;img src=x&gt; |  | a \| b c |",
        "| verify | not run |  |  |  |  |",
    ]
