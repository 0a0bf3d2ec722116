"""The files a net is read from, each hashed beside the work.

Hashing a large file takes as long as everything else together, so it begins with the process, while
NumPy is still being imported: nothing here needs it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from schemas.errors import UsageError, cannot_use
from stage_extract import recognise
from stage_extract.mapped import SLICE_BYTES, MappedFile

CLOCK_TICK = 20_000_000
"""Nanoseconds by which a file system's clock may be behind ours."""


def files(options: argparse.Namespace) -> Dict[str, str]:
    """Role -> path of the files that the net is read from; a net within its weights is one."""
    roles = {"prototxt": options.net, "weights": options.weights}
    if recognise.may_hold_net(options.net):
        roles = {"net": options.net, "weights": options.weights}
        if options.weights is None:
            roles = {"weights": options.net}
    return {role: path for role, path in roles.items() if path is not None}


class Sources:
    """Files that are read for one output, in the order in which they were added.

    A context manager, which ends when all are hashed.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._began = time.time_ns()
        self._digests: List[Tuple[str, str, Optional[os.stat_result], Future]] = []
        self._background = ThreadPoolExecutor(1)
        self._failed = threading.Event()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self._failed.set()
        self._background.shutdown()

    def add(self, role: str, path: str) -> None:
        """Starts to hash a file.

        Raises:
            UsageError: the output would replace it.
        """
        _spare(path, self._out)
        added = _status(path)
        digest = self._background.submit(sha256, path, self._failed)
        self._digests.append((role, path, added, digest))

    def hashed(self) -> Iterator[Tuple[str, str, int, str]]:
        """Role, name without its folder, size and SHA-256 of each file, waited for.

        Raises:
            MalformedModel: one is empty.
            UsageError, EnvironmentProblem: one cannot be read.
        """
        for role, path, _, hashed in self._digests:
            digest, status = hashed.result()
            yield role, Path(path).name, status.st_size, digest

    def unchanged(self) -> Optional[List[Dict[str, Any]]]:
        """What tells whether a file has changed since: ``role``, absolute ``path``, ``inode``,
        ``size``, ``mtime_ns``, ``ctime_ns`` and ``sha256`` of each.

        None if one was written to, or replaced, since the job began: what was read of it, and what
        was hashed, may then differ.
        """
        found = []
        for role, path, added, hashed in self._digests:
            digest, status = hashed.result()
            if added is None or not self._is_still(path, added) or not _same(added, status):
                return None
            found.append(
                {
                    "role": role,
                    "path": os.path.abspath(path),
                    "inode": status.st_ino,
                    "size": status.st_size,
                    "mtime_ns": status.st_mtime_ns,
                    "ctime_ns": status.st_ctime_ns,
                    "sha256": digest,
                }
            )
        return found

    def _is_still(self, path: str, status: os.stat_result) -> bool:
        now = _status(path)
        # A server's clock may lag behind ours: `status`, of when it was added, holds there too.
        return now is not None and _same(now, status) and now.st_ctime_ns < self._began - CLOCK_TICK


def _status(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except OSError:  # told by who reads it
        return None


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether it is one file, untouched: nobody can set back the time of its last change."""
    return os.path.samestat(one, other) and one.st_ctime_ns == other.st_ctime_ns


def require_file(path: str) -> None:
    """Refuses what cannot be read twice, or never ends: a pipe, a device.

    Raises:
        UsageError, EnvironmentProblem: there is no such file, or it is no regular one.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise cannot_use(path, error) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError("not a regular file", path, "check the path")


def _spare(path: str, out: Path) -> None:
    if out.exists() and os.path.samefile(path, str(out)):
        raise UsageError("-o would overwrite this input", path, "name another file")


def sha256(path: str, failed: threading.Event) -> Tuple[str, os.stat_result]:
    """The SHA-256 of a file, in hexadecimal, and the status of the very file that was hashed.

    Args:
        failed: set where nobody waits for it any more.

    Raises:
        MalformedModel: it is empty.
        UsageError, EnvironmentProblem: it cannot be read.
    """
    digest = hashlib.sha256()
    file = MappedFile(path)
    view = memoryview(file.bytes)
    for start in range(0, file.size, SLICE_BYTES):
        end = min(start + SLICE_BYTES, file.size)
        digest.update(view[start:end])
        file.forget(start, end)
        if failed.is_set():
            break
    return digest.hexdigest(), file.status
