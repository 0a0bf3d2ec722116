"""One run at a time into a target.

The lock is flock's, on a file that says who holds it, in the hidden folder beside the target in
which the run works. The system lets go of it when the run ends, in whatever way: what a dead run
left is taken over. Where the file system has no locks (some FUSE and NFS mounts), nobody is kept
out; every run has a folder of its own there too, and results still appear whole or not at all.

Workers do not inherit the lock: NFS would not let them, and one that hangs would keep the target.
One that outlives its driver for a moment does no harm, as nobody else uses the names of its files,
and they are moved away before they are removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas.errors import EnvironmentProblem, UsageError

NAME = "lock"
MAX_NOTE = 4096
MAX_COMMAND = 200
PATIENCE = 1.0
"""Seconds a holder may take to write who it is, and to leave with its folder."""

_OURS = re.compile(rf"{NAME}|\d+-[0-9a-f]{{8}}")

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def unique_name() -> str:
    """A name beside the lock's file that no other run, dead or alive, has had."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


class Lock:
    """The lock of `target`, a file in `folder`, which appears and goes with it.

    Attributes:
        exclusive: whether nobody else can hold it meanwhile.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.exclusive = False
        self._folder = folder
        self._file = folder / NAME
        self._target = target
        self._descriptor = -1

    def take(self) -> None:
        """Takes the lock, or says who has it.

        Raises:
            EnvironmentProblem: another run holds it. Not a UsageError: the command is right, and
                will do when the other run is over.
            UsageError: the folder is not one of ours.
            OSError: the folder or its file cannot be made.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._taken(late=time.monotonic() > deadline):
            time.sleep(0.01)

    def _taken(self, late: bool) -> bool:
        """Whether the lock is held now; if not, and it is not `late`, it is worth trying again."""
        try:
            self._folder.mkdir(exist_ok=True)
            self._require_ours()
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            if late or not self._target.parent.is_dir():
                raise
            return False  # another run ended in between, and took the folder with it
        except OSError:
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # unless there is something in it
            raise
        try:
            self.exclusive = _locked(descriptor)
            if self.exclusive and not self._is_file(descriptor):
                os.close(descriptor)
                return False  # the file of a run that ended in between
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if not holder and not late:
                return False  # it is about to write it
            raise EnvironmentProblem(
                f"another run works on this target: {holder or 'it does not say which'}",
                str(self._target),
                "wait for its end, or choose another -o",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        try:
            _write_note(descriptor)
        except BaseException:
            self.release()
            raise
        return True

    def _require_ours(self) -> None:
        """Refuses a folder that no run has made: its contents would be removed."""
        strange = [name for name in os.listdir(self._folder) if not _OURS.fullmatch(name)]
        if strange or self._folder.is_symlink():
            raise UsageError(
                "no run has made this, and a run would work in it",
                str(self._folder),
                "move it away, or choose another -o",
            )

    def _is_file(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Removes the file, and the folder unless something else is in it; then lets go."""
        if self._descriptor < 0:
            return
        for remove in (self._file.unlink, self._folder.rmdir):
            with contextlib.suppress(OSError):
                remove()
        os.close(self._descriptor)
        self._descriptor = -1
        self.exclusive = False


def _locked(descriptor: int) -> bool:
    """Locks a file; False where the file system has no locks.

    Raises:
        BlockingIOError: it is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _write_note(descriptor: int) -> None:
    note = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": " ".join(["orchestrate", *sys.argv[1:]])[:MAX_COMMAND],
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(note).encode(), 0)


def _holder(descriptor: int) -> str:
    """Who wrote the note, in words; empty where there is none yet."""
    text = os.pread(descriptor, MAX_NOTE, 0)
    try:
        note: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(note, dict):
        return ""
    said = {name: str(note.get(name, "?"))[:MAX_COMMAND] for name in ("pid", "host", "since")}
    command = str(note.get("command", ""))[:MAX_COMMAND]
    return f"process {said['pid']} on {said['host']} since {said['since']}, {command}"
