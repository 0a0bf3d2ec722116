"""A file as a mapping, without NumPy, so that a worker can begin on it before that is imported."""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import suppress
from typing import Union

from schemas.errors import MalformedModel, UsageError, cannot_use

SLICE_BYTES = 16 * 1024 * 1024


class MappedFile:
    """A regular, non-empty file, mapped read-only; `status` is that of what is mapped.

    Raises:
        UsageError: there is no such file, or it is not a regular one.
        MalformedModel: the file is empty.
        EnvironmentProblem: the system does not let us read it.
    """

    def __init__(self, path: Union[str, os.PathLike]) -> None:
        self.path = os.fspath(path)
        try:
            mode = os.stat(path).st_mode
            # Looked at before opening: opening a pipe would wait for a writer.
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError("not a regular file", self.path, "check the path")
            with open(path, "rb") as stream:
                self.status = os.fstat(stream.fileno())
                self.size = self.status.st_size
                if self.size == 0:
                    raise MalformedModel(
                        "the file is empty", self.path, "download or copy it again"
                    )
                self.bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise cannot_use(self.path, error) from error

    def forget(self, start: int, end: int) -> None:
        """Gives back the memory of the pages from `start` on that end before `end`.

        Reading them again maps them again.
        """
        first = start - start % mmap.PAGESIZE
        length = end - end % mmap.PAGESIZE - first
        if length > 0 and hasattr(self.bytes, "madvise"):
            self.bytes.madvise(mmap.MADV_DONTNEED, first, length)

    def close(self) -> None:
        # Arrays that still look at the mapping keep it; it goes with the last of them.
        with suppress(BufferError):
            self.bytes.close()
