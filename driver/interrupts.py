"""Ctrl-C and SIGTERM: one KeyboardInterrupt, then quiet, so that cleaning up is not disturbed.

The main thread gets it wherever it is; other threads ask for it, with `poll`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
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


_thread = threading.local()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


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


def poll() -> None:
    """Raises KeyboardInterrupt in a thread that no signal reaches, once one has come."""
    if not _is_main() and (_State.seen or getattr(_thread, "asked", bool)()):
        raise KeyboardInterrupt


@contextmanager
def asking(asked: Callable[[], bool]) -> Iterator[None]:
    """Has `poll` in this thread raise KeyboardInterrupt also where `asked` says so."""
    _thread.asked = asked
    try:
        yield
    finally:
        del _thread.asked


@contextmanager
def shielded() -> Iterator[None]:
    """Puts a KeyboardInterrupt off to the end of the block: no half-started worker is lost."""
    if not _is_main():
        yield
        return
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
        if _State.pending and not _State.shields:
            _State.pending = False
            raise KeyboardInterrupt
