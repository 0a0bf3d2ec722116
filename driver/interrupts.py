"""Ctrl-C and SIGTERM: one KeyboardInterrupt, then quiet, so that cleaning up is not disturbed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    shields = 0
    pending = False
    seen = False


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _State.seen:
        return
    _State.seen = True
    if _State.shields:
        _State.pending = True
    else:
        raise KeyboardInterrupt


@contextmanager
def handled() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; later ones are ignored.

    A signal that is ignored already (nohup, a shell's background job) stays ignored.
    """
    _State.shields, _State.pending, _State.seen = 0, False, False
    found = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    for number in ours:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def shielded() -> Iterator[None]:
    """Puts a KeyboardInterrupt off to the end of the block: no half-started worker is lost."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.pending and not _State.shields:
            _State.pending = False
            raise KeyboardInterrupt
