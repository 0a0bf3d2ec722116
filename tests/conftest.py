"""Shared fixtures, and the closing line about real Caffe's cases."""

from __future__ import annotations

import signal

from tests import goldens


def pytest_configure():
    """Gives signals that a background job ignores their meaning back, for us and our children."""
    for number, meant in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, meant)


def pytest_terminal_summary(terminalreporter):
    """Says how many of Caffe's cases passed, by family."""
    for line in goldens.summary():
        terminalreporter.write_line(line)
