"""What tells a file or a folder from what it was: times, sizes, digests."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

from driver.interrupts import poll

CLOCK_TICK = 20_000_000
"""Nanoseconds by which a file system's clock may be behind ours."""

SLICE_BYTES = 1 << 20
MAX_IMAGES = 100_000


def told_apart(path: Path | None) -> list[Any]:
    """What tells a file from what it may become."""
    if path is None:
        return []
    try:
        status = os.stat(path)
    except OSError:
        return [str(path)]
    return [os.path.abspath(path), status.st_ino, *_moment(status)]


def _moment(status: os.stat_result) -> list[int]:
    """Size and times; the last of them never the same if it may still become older."""
    now = time.time_ns()
    settled = status.st_ctime_ns < now - CLOCK_TICK
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns if settled else now]


def folder_digest(folder: Path | None) -> list[Any]:
    """A folder of images: its path, and a digest of the names, sizes and times of its files."""
    if folder is None:
        return []
    digest, count, whole = hashlib.sha256(), 0, os.path.abspath(folder)
    for parent, folders, names in os.walk(whole):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                digest.update(json.dumps([path, *_moment(os.stat(path))]).encode())
            count += 1
            if count > MAX_IMAGES:  # who knows what that is
                return [whole, time.time_ns()]
    return [whole, digest.hexdigest()]


@functools.cache
def code_digest(root: Path, packages: tuple[str, ...]) -> str:
    """A digest of every file of our packages, as they are when a process first asks."""
    return modules_digest(root, packages)


def modules_digest(root: Path, folders: tuple[str, ...]) -> str:
    """A digest of the names and the contents of all files in folders of Python modules."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and "__pycache__" not in name.parts:
                digest.update(json.dumps([name.as_posix(), hashed(path)[1]]).encode())
    return digest.hexdigest()


def at_once(path: str, flags: int) -> int:
    """Opens a file for `open`; of a pipe, no writer is waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def hashed(path: str | Path) -> tuple[os.stat_result | None, str]:
    """Status and SHA-256 of a regular file; of anything else there are none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", opener=at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None, ""
            while data := stream.read(SLICE_BYTES):
                digest.update(data)
                poll()
            return status, digest.hexdigest()
    except OSError:
        return None, ""


def identity(path: Path) -> list[int]:
    """Inode, size and times of modification and change of a regular file; else nothing.

    An archive can bring any of them but the last, and so can no file that somebody else has made
    pass for one of ours. A link more or less changes it: such a file is copied.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return []
    if not stat.S_ISREG(status.st_mode):
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def copied(source: Path, target: Path, expected: list[int]) -> bool:
    """Whether `target` is now a copy of the file with the identity that is expected."""
    try:
        shutil.copyfile(source, target, follow_symlinks=False)
        if identity(source) == expected and identity(target)[1:2] == expected[1:2]:
            return True
    except OSError:
        pass
    with contextlib.suppress(OSError):
        target.unlink()
    return False
