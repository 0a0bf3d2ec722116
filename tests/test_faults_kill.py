"""kill -9 at any time: the target is the old one whole, the new one whole, or absent as before.

Real conversions of examples/digits, with its weights and with weights from fillers in turn. Half of
the kills come at random times, half while the build waits just before or just after it gives the
result its name, or as it does so (`stage_build.publish`). Killed are the driver, the build worker,
or all of the run's processes. Every run finds what the one before has left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from stage_build.publish import PAUSES
from tests.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists(), reason="processes are found in /proc"
    ),
]

DIGITS = ROOT / "examples" / "digits"
KINDS = {"trained": ["digits.caffemodel"], "untrained": []}
LANES = 2
KILLS = 25
NEAR = 0.2
"""Seconds before and after the publishing step within which the hook's half of the kills comes."""
PATIENCE = 120.0
DIFFERING = ("report.html", "report.json", "logs/")
"""Files that tell of times and places: two runs' differ."""

Manifest = dict[str, str]


def manifest(out: Path) -> Manifest:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }


def lasting(files: Manifest) -> Manifest:
    """Files with their digests; those that differ from run to run without."""
    return {name: "" if name.startswith(DIFFERING) else digest for name, digest in files.items()}


def command(kind: str, out: Path) -> list[str]:
    inputs = [str(DIGITS / name) for name in ("deploy.prototxt", *KINDS[kind])]
    options = ["--formats", "class", "--force", "--quiet"]
    return [
        sys.executable,
        str(ROOT / "orchestrate.py"),
        "convert",
        *inputs,
        "-o",
        str(out),
        *options,
    ]


@dataclass(frozen=True)
class Process:
    pid: int
    words: list[bytes]

    @property
    def is_driver(self) -> bool:
        return any(word.endswith(b"orchestrate.py") for word in self.words[:2])

    @property
    def is_build_worker(self) -> bool:
        return b"stage_build" in self.words[2:4]


def processes(pauses: Path) -> list[Process]:
    """Those of a run, which inherit a variable that names its folder."""
    wanted = f"{PAUSES}={pauses}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found.append(Process(int(entry.name), words))
        except OSError:  # it has ended
            continue
    return found


def until(what: str, found, patience: float = PATIENCE):
    """What `found` returns as soon as that is true."""
    deadline = time.monotonic() + patience
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)
    return value


class Lane:
    """One target, and the runs into it one after the other.

    Args:
        folder: an empty one.
        results: a folder with an undisturbed result of each kind.
        seconds: that one takes alone.
    """

    def __init__(self, folder: Path, results: Path, seconds: float) -> None:
        self.folder = folder
        self.results = results
        self.out = folder / "here" / "out"
        self.pauses = folder / "pauses"
        self.references = {kind: lasting(manifest(results / kind)) for kind in KINDS}
        self.seconds = seconds
        self.there = ""
        self.seen: Counter[str] = Counter()
        for made in (self.out.parent, self.pauses):
            made.mkdir(parents=True)

    def kill(self, moment: str, whom: str, chance: random.Random) -> None:
        """One run that is killed, and a look at what is left of it."""
        self._provide(chance)
        kind = "untrained" if self.there == "trained" else "trained"
        before = manifest(self.out)
        for name in ("before", "after"):
            (self.pauses / name).unlink(missing_ok=True)
            if moment != "random":
                os.mkfifo(self.pauses / name)
        env = {**os.environ, PAUSES: str(self.pauses)}
        with (self.folder / "said").open("wb") as said:
            process = subprocess.Popen(command(kind, self.out), stdout=said, stderr=said, env=env)
        held: list[int] = []
        try:
            for pid in self._victims(moment, whom, process, held, chance):
                kill(pid)
            if whom == "all":
                until("the end of all", lambda: not [kill(p.pid) for p in processes(self.pauses)])
            process.wait(PATIENCE)
            until("the last process", lambda: not processes(self.pauses), 60)
        finally:
            for descriptor in held:
                os.close(descriptor)
            until("the end", lambda: not [kill(p.pid) for p in processes(self.pauses)])
        state = self._state(kind, before)
        self.seen[f"{moment} {whom}: {state}"] += 1
        self.there = kind if state == "new" else self.there

    def _provide(self, chance: random.Random) -> None:
        """An earlier result, the last run's if there is one; every fifth time none."""
        if chance.random() < 0.2:
            shutil.rmtree(self.out, ignore_errors=True)
            self.there = ""
        elif not self.there:
            self.there = "untrained"
            shutil.copytree(self.results / self.there, self.out)

    def _victims(
        self,
        moment: str,
        whom: str,
        process: subprocess.Popen[bytes],
        held: list[int],
        chance: random.Random,
    ) -> list[int]:
        """Who is to be killed, when it is time to."""
        if moment == "random":
            time.sleep(chance.uniform(0, 1.5 * self.seconds))
            return self._those(whom, process.pid)
        held.append(self._arrival("before", process))
        found = self._those(whom, process.pid)
        if moment == "before":
            time.sleep(chance.uniform(0, NEAR))
            return found
        os.close(held.pop())
        if moment == "as":
            time.sleep(max(0, chance.uniform(-0.0003, 0.0003)))  # it takes the build as long
            return found
        held.append(self._arrival("after", process))
        time.sleep(chance.uniform(0, NEAR))
        return found

    def _arrival(self, name: str, process: subprocess.Popen[bytes]) -> int:
        """Waits until the build waits there, as it does until the descriptor is closed."""

        def opened() -> int | None:
            assert process.poll() is None, (self.folder / "said").read_text()
            try:
                return os.open(self.pauses / name, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return None

        return until(f"the build to be {name} the exchange", opened)

    def _those(self, whom: str, driver: int) -> list[int]:
        """The driver, or the build worker if there is one yet; of all, first the driver."""
        workers = [p.pid for p in processes(self.pauses) if p.is_build_worker]
        return workers if whom == "worker" and workers else [driver]

    def _state(self, kind: str, before: Manifest) -> str:
        after = manifest(self.out)
        if not self.out.exists():
            assert not before, "the old result is gone"
            return "absent"
        if after == before:
            return "old"
        assert lasting(after) == self.references[kind], "the new result is not whole"
        report = json.loads((self.out / "report.json").read_text("utf-8"))
        assert report["status"] == "ok"
        return "new"

    def finish(self) -> None:
        """A run that is left alone succeeds, and nothing but its result is there."""
        kind = "untrained" if self.there == "trained" else "trained"
        done = subprocess.run(
            command(kind, self.out), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        assert lasting(manifest(self.out)) == self.references[kind]
        assert os.listdir(self.out.parent) == ["out"]


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a result of each kind, and the seconds that the longest run took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    references, seconds = {}, []
    for kind in KINDS:
        began = time.monotonic()
        subprocess.run(command(kind, folder / kind), check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
        references[kind] = lasting(manifest(folder / kind))
    assert references["trained"] != references["untrained"]
    assert references["trained"].keys() == references["untrained"].keys()
    return folder, max(seconds)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("moments", [["random"], ["before", "as", "after"]], ids="-".join)
def test_a_kill_leaves_the_target_whole(tmp_path, undisturbed, moments, seed, record_property):
    lanes = [Lane(tmp_path / str(number), *undisturbed) for number in range(LANES)]

    def run(number: int) -> None:
        chance = random.Random(100 * seed + number)
        for turn in range(number, KILLS, LANES):
            whom = ("driver", "worker", "all")[turn // len(moments) % 3]
            lanes[number].kill(moments[turn % len(moments)], whom, chance)
        lanes[number].finish()

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(run, range(LANES)))
    seen = sum((lane.seen for lane in lanes), Counter())
    assert sum(seen.values()) == KILLS
    for what, times in sorted(seen.items()):
        record_property(what, times)
        print(f"{times:3} {what}")
