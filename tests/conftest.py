"""A session's surroundings and its closing lines: signals, what is left behind, Caffe's cases."""

from __future__ import annotations

import signal

import pytest

from tests import goldens, left_behind
from tests.rooms import call, call_json, late, room  # noqa: F401  fixtures


def pytest_configure(config):
    """Gives signals that a background job ignores their meaning back, for us and our children."""
    for number, meant in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, meant)
    left_behind.pytest_configure(config)


def pytest_sessionfinish(session):
    """Hands what a worker of pytest-xdist has tried to the session that sums up."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["goldens"] = goldens.tally()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if "goldens" in getattr(node, "workeroutput", {}):
        goldens.add(node.workeroutput["goldens"])


def pytest_terminal_summary(terminalreporter):
    """Says how many of Caffe's cases passed, by family."""
    for line in goldens.summary():
        terminalreporter.write_line(line)
