"""The benchmarks' own arithmetic, and the nets that they print."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks import architectures, report, sides, workers
from benchmarks.figures import Line, Result, Table, Target, Timing, line, markdown, percent, shown
from benchmarks.figures import spread as spread_of
from benchmarks.nets import Nets
from benchmarks.processes import Command, interleaved, shorter
from schemas.layers.registry import meaning
from stage_extract import network, upgrade, weights
from stage_extract.prototxt import read as read_prototxt


def test_a_timing_tells_median_and_spread():
    timing = Timing("a", "do", (3.0, 1.0, 2.0, 2.5), 7)
    assert timing.median == 2.25
    assert spread_of(timing.seconds) == pytest.approx(2 / 2.25)
    assert timing.document()["spread"] == spread_of(timing.seconds)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [((1.0, 1.0), "0%"), ((0.95, 1.0, 1.05), "10%"), ((0.9, 1.0, 1.1), "20% (noisy)")],
)
def test_a_spread_over_15_percent_is_marked(values, wanted):
    assert percent(values) == wanted


@pytest.mark.parametrize(
    ("found", "limit", "at_least", "outcome"),
    [
        (1.5, 1.5, False, "met: 1.50 s"),
        (1.8, 1.5, False, "missed by 0.3 s (20%): 1.80 s"),
        (1.5, 1.5, True, "met: 1.50 s"),
        (1.2, 1.5, True, "missed by 0.3 s (20%): 1.20 s"),
    ],
    ids=["most-met", "most-missed", "least-met", "least-missed"],
)
def test_a_target_says_by_how_much(found, limit, at_least, outcome):
    target = Target("key", "claim", "do", found, limit, "s", at_least=at_least)
    assert target.outcome == outcome
    assert target.met == outcome.startswith("met")


def test_a_target_says_that_it_is_noisy():
    assert Target("key", "claim", "do", 1.0, 2.0, "s", True).outcome == "met: 1.00 s (noisy)"


def test_a_line_through_points():
    assert line([(0.0, 1.0), (1.0, 3.0), (3.0, 7.0)]) == pytest.approx(Line(1.0, 2.0, 0.0))
    found = line([(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)])
    assert (found.start, found.slope, found.deviation) == pytest.approx((1.0, 0.0, 2.0))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "–"),
        ("text", "text"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (2.345, "2.35"),
        (0.0123, "0.0123"),
        (0.000012, "1.2e-05"),
        (0.0, "0"),
    ],
)
def test_a_cell_is_short(value, wanted):
    assert shown(value) == wanted


def test_a_table_puts_numbers_at_the_right():
    table = Table("Title", ("name", "s"), [("a|b", None), ("c", 1.5)], "Text.")
    assert markdown(table.document()) == [
        *("### Title", "", "Text.", ""),
        *("| name | s |", "| --- | ---: |", "| a\\|b | – |", "| c | 1.50 |", ""),
    ]


def part(title: str, *targets: Target) -> dict:
    """A part's document."""
    facts = {"command": "make bench", "date": "today", "commit": "commit 1", "repeat": 5}
    facts |= {"nets": "printed", "machine": {"cores": "2"}, "rates": {"before": {"NumPy": 9.0}}}
    return {"title": title, **facts, **Result(targets=list(targets)).document()}


def test_parts_that_were_not_run_are_kept():
    earlier = {"parts": {"a": part("old a"), "b": part("old b"), "gone": part("gone")}}
    found = report.merged(earlier, {"b": part("new b"), "c": part("new c")}, ("c", "b", "a"))
    assert [one["title"] for one in found["parts"].values()] == ["new c", "new b", "old a"]


def test_only_a_missed_target_has_its_remark():
    missed = Target("missed", "fast", "do", 3.0, 2.0, "s")
    met = Target("met", "small", "do", 1.0, 2.0, "MB")
    remarks = {"missed": "The disk\nis slow.", "met": "Never shown."}
    text = report.text({"parts": {"a": part("Part", missed, met)}}, remarks)
    assert "* **fast**: missed by 1.00 s (50%): 3.00 s. The disk is slow." in text
    assert "Never shown" not in text
    assert "| small | met: 1.00 MB | Part: `do` |" in text


def test_remarks_are_of_targets():
    """No remark under a misspelt key: all targets' keys begin with a part's name."""
    from benchmarks import run

    remarks = run.TOML.loads((report.HERE / "remarks.toml").read_text())
    assert all(key.split("-")[0] in run.PARTS for key in remarks)


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_a_turn_is_filled(seconds):
    calls: list[int] = []
    found = sides.timed(lambda: calls.append(1), seconds)
    assert found >= 0
    assert len(calls) == 1 if seconds == 0 else len(calls) > 2


def test_commands_run_in_turn_and_without_earlier_outputs(tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    first = f"test ! -e {out} && echo a >> {log} && touch {out}"
    commands = [
        Command("a", ["sh", "-c", first], [out]),
        Command("b", ["sh", "-c", f"echo b >> {log}; echo 0.25"], own=True),
    ]
    timings = interleaved(commands, 2, lambda text: None)
    assert log.read_text().split() == ["a", "b"] * 3
    assert timings[1].seconds == (0.25, 0.25)


def test_a_failed_command_ends_the_run():
    with pytest.raises(SystemExit, match="exit 3"):
        interleaved([Command("bad", ["sh", "-c", "exit 3"])], 1, lambda text: None)


def test_a_command_is_shown_with_file_names_only():
    assert shorter(["/a/b/cp", "/c/d.txt", "-o", "x"]) == "cp d.txt -o x"


MACS = {  # of one image, as published
    "vgg16": 15.47e9,
    "resnet-50": 3.86e9,
    "resnet-101": 7.58e9,
    "resnet-152": 11.30e9,
    "squeezenet_v1.1": 0.39e9,
    "bvlc_alexnet": 0.72e9,
    "mobilenet": 0.57e9,
    "lenet": 2.29e6,
}


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_a_printed_net_is_the_published_one(name, tmp_path):
    text, _ = architectures.printed(name)
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(text)
    net = network.build(upgrade.upgrade(read_prototxt(prototxt)), network.Options()).net
    macs = 0
    for layer in net.layers:
        ends = ([net.blobs[key].shape for key in keys] for keys in (layer.bottoms, layer.tops))
        macs += meaning(layer).macs(*ends)
    assert macs == pytest.approx(MACS[name], rel=0.03)


def test_a_printed_net_has_all_its_weights(tmp_path):
    files = Nets(tmp_path, shared=False).files("squeezenet_v1.1")
    built = network.build(upgrade.upgrade(read_prototxt(files.prototxt)), network.Options())
    with weights.open_weights(files.weights) as model:
        match = weights.match(model.layers, built.weight_shapes)
        found = [blob for blobs in match.blobs.values() for blob in blobs.values()]
        assert sum(blob.array().size for blob in found) == 1235496


def test_a_file_of_a_size(tmp_path):
    files = Nets(tmp_path, shared=False).of_size(50)
    assert files.weights.stat().st_size == pytest.approx(50e6, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_side_rests_until_it_is_asked():
    worker = workers.Worker("matmul", "numpy")
    try:
        assert worker.ask("time", case=None, seconds=0) > 0
        stat = Path("/proc") / str(worker.pid) / "stat"
        deadline = time.monotonic() + 10  # the signal is sent; the system takes it a moment later
        while (state := stat.read_text().rpartition(")")[2].split()[0]) != "T":
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        assert worker.ask("first", case=None) > 0
    finally:
        worker.close()
