"""Every way a run can fail, and the exit code each way has.

    ConversionError
    ├── UsageError           2   the command line asks for something impossible
    ├── MalformedModel       3   a file is broken, hostile or not what it claims: theirs to fix
    ├── UnsupportedModel     4   a layer or parameter we cannot convert exactly: ours to do
    ├── VerificationFailed   5   the converted model's numbers differ from Caffe's
    ├── StageCrashed         6   a worker crashed, was killed or timed out
    ├── EnvironmentProblem   7   a package is missing, the disk is full, a folder cannot be written
    └── Interrupted        130   Ctrl-C or SIGTERM

Standard library only: every other module, on every interpreter, may import this one.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, Optional, Sequence, Type

MAX_CHAIN = 16  # errors that come of one another
MAX_MESSAGE = 1 << 16  # characters; lists of a hostile file's names may have millions


class ConversionError(Exception):
    """A failure with one line for the user.

    Args:
        message: what was expected and what was found.
        where: the place: ``file:line:column``, ``file, byte 123``, ``layer 'conv1' (Convolution)``.
        hint: what to do about it.

    Attributes:
        table: what one line cannot hold, ``{"columns": [...], "rows": [[...], ...]}``.
    """

    exit_code = 1
    table: Optional[Dict[str, Any]] = None

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        if len(message) > MAX_MESSAGE:
            message = message[:MAX_MESSAGE] + "..."
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def document(self) -> Dict[str, Any]:
        """The error as JSON values, to cross a process boundary; `revive` is the way back."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "where": self.where,
            "hint": self.hint,
            **({"table": self.table} if self.table else {}),
        }


class UsageError(ConversionError):
    exit_code = 2


class MalformedModel(ConversionError):
    exit_code = 3


class UnsupportedModel(ConversionError):
    exit_code = 4


class VerificationFailed(ConversionError):
    """`worst`, once known, is the blob to blame and its relative error: ``{"blob", "error"}``."""

    exit_code = 5
    worst: Optional[Dict[str, Any]] = None

    def document(self) -> Dict[str, Any]:
        return dict(super().document(), worst=self.worst)


class StageCrashed(ConversionError):
    exit_code = 6


class EnvironmentProblem(ConversionError):
    exit_code = 7


class Interrupted(ConversionError):
    exit_code = 130


KINDS: Dict[str, Type[ConversionError]] = {
    kind.__name__: kind
    for kind in (
        UsageError,
        MalformedModel,
        UnsupportedModel,
        VerificationFailed,
        StageCrashed,
        EnvironmentProblem,
        Interrupted,
    )
}


def revive(document: Dict[str, Any]) -> ConversionError:
    """The error that `ConversionError.document` described; an unknown kind is a StageCrashed."""
    kind = KINDS.get(str(document.get("kind")), StageCrashed)
    error = kind(
        str(document.get("message", "")),
        str(document.get("where", "")),
        str(document.get("hint", "")),
    )
    error.table = document.get("table")
    return error


def listed(items: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first of the items, and how many more there are."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([*items[:most], *more])


def refused(error: Optional[BaseException]) -> Optional[OSError]:
    """The system's error that `error` is or comes of; a refusal to write, as of a full disk, first.

    Libraries put their own errors in its place, with its text, or fail once more over it:
    TensorFlow on every write, h5py and zipfile when they close the file.
    """
    found = error if isinstance(error, OSError) else None
    for _ in range(MAX_CHAIN):
        if error is None or isinstance(error, ConversionError):
            break
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return OSError(number, os.strerror(number), getattr(error, "filename", None))
        error = error.__cause__ or error.__context__
    return found


def cannot_use(path: object, error: OSError) -> ConversionError:
    """The error for a file the system would not open, read or write.

    A missing or wrong-typed path is the command line's fault (2); a full disk, a missing
    permission and the like are the environment's (7).
    """
    reason = os.strerror(error.errno) if error.errno else error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return UsageError(reason, str(path), "check the path")
    return EnvironmentProblem(reason, str(path), "check permissions and free space")
