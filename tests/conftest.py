"""Shared fixtures, and the closing line about real Caffe's cases."""

from __future__ import annotations

import collections
import signal

golden_results: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)


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
    """Says how many of Caffe's cases passed, and what the others wait for."""
    for kind, results in sorted(golden_results.items()):
        reasons = (reason for _, waits in results for reason in waits.split(", ") if waits)
        waiting = collections.Counter(reasons)
        passed = sum(not reason for _, reason in results)
        line = f"goldens, {kind}: {passed} of {len(results)} cases passed"
        if waiting:
            line += "; waiting for " + ", ".join(f"{k} ({n})" for k, n in sorted(waiting.items()))
        terminalreporter.write_line(line)
