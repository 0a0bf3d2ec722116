"""Files on their way between the machines of a cluster: the one module that imports fsspec.

Each is put under a name that begins with its SHA-256, once, and checked against it where it is
taken out, so that no half-written or changed file passes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from schemas.errors import EnvironmentProblem, MalformedModel, UsageError

BLOCK = 1 << 20
EXTRA = "pip install '.[cluster]'"


class Exchange:
    """A folder of one run, shared or below an fsspec URL; tasks are sent it as a value.

    Args:
        folder: a folder of the run's own that all machines see; for where there is no `url`.
        url: where the run's own folder is made.

    Raises:
        UsageError: the URL is none, or is of a memory that no other machine sees.
        EnvironmentProblem: a package is missing.
    """

    def __init__(self, folder: Path, url: str | None) -> None:
        self.shared = url is None
        if url is None or "://" not in url:  # a folder, the same one for all processes
            url = os.path.abspath(folder if url is None else url)
        self.place = url
        self._root = f"{self.place.rstrip('/')}/exchange-{uuid.uuid4().hex}"
        self._system()

    def _system(self) -> tuple[Any, str]:
        """The file system, and the run's folder on it."""
        try:
            import fsspec
        except ImportError as error:
            raise EnvironmentProblem(
                f"package {error.name!r} cannot be imported: {error}", hint=EXTRA
            ) from error
        if self.shared:
            return fsspec.filesystem("file"), self._root
        try:
            system, root = fsspec.core.url_to_fs(self._root)
        except ImportError as error:
            missing = f"this kind of storage needs a package: {error}"
            hint = "install it on all machines"
            raise EnvironmentProblem(missing, self.place, hint) from error
        except Exception as error:
            raise UsageError(f"--storage: {error}", self.place, "pass a URL of fsspec") from error
        if "memory" in system.protocol:
            raise UsageError(
                "--storage: each process has a memory of its own",
                self.place,
                "pass a URL that all machines see",
            )
        return system, root

    def make(self) -> None:
        """Makes the run's folder.

        Raises:
            EnvironmentProblem: it cannot be made.
        """
        try:
            system, root = self._system()
            system.makedirs(root, exist_ok=True)
        except Exception as error:
            raise self._unusable(error) from error

    def remove(self) -> None:
        """Removes the run's folder.

        Raises:
            EnvironmentProblem: it cannot be removed.
        """
        try:
            system, root = self._system()
            if system.exists(root):
                system.rm(root, recursive=True)
        except Exception as error:
            raise self._unusable(error) from error

    def put(self, path: Path) -> str:
        """Puts a file there, and returns its name."""
        name = f"{sha256(path)}-{uuid.uuid4().hex}"
        try:
            system, root = self._system()
            system.put_file(str(path), f"{root}/{name}")
        except Exception as error:
            raise self._unusable(error) from error
        return name

    def get(self, name: str, target: Path) -> Path:
        """Takes a file out, into `target`, and returns that.

        Raises:
            EnvironmentProblem: it is not there, or not as it was.
        """
        try:
            system, root = self._system()
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(f"{root}/{name}", str(target))
        except Exception as error:
            raise self._unusable(error) from error
        if sha256(target) != name.partition("-")[0]:
            raise EnvironmentProblem(
                f"the file {name} is not as it was put there", self.place, "is the disk full?"
            )
        return target

    def put_folder(self, folder: Path, scratch: Path) -> str:
        """Puts a folder there as one file, which is made in `scratch` first."""
        archive = scratch / f"{uuid.uuid4().hex}.tar"
        try:
            with tarfile.open(archive, "w", dereference=True) as tar:
                tar.add(folder, arcname=".")
            return self.put(archive)
        finally:
            archive.unlink(missing_ok=True)

    def get_folder(self, name: str, target: Path, scratch: Path) -> Path:
        """Takes a folder out, into `target`, which it makes and returns."""
        archive = self.get(name, scratch / f"{uuid.uuid4().hex}.tar")
        try:
            unpack(archive, target)
        finally:
            archive.unlink()
        return target

    def _unusable(self, error: Exception) -> Exception:
        if isinstance(error, UsageError | EnvironmentProblem):
            return error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return EnvironmentProblem(
            f"files cannot be exchanged here: {reason or type(error).__name__}",
            self.place,
            "all machines must read and write this place; --storage names another",
        )


def unpack(archive: Path, target: Path) -> None:
    """Makes the folder `target` of a tar file's folders and files.

    Raises:
        MalformedModel: it holds something else, a name that leads out of it, or a name twice.
    """
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                _unpack_member(tar, member, target)
    except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
        raise MalformedModel(f"a damaged archive: {error}", str(archive)) from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    name = PurePosixPath(member.name)
    plain = member.isdir() or (member.isreg() and not member.issparse())
    if name.is_absolute() or ".." in name.parts or not plain:
        raise MalformedModel(f"a file or a folder below was expected, not {member.name!r:.200}")
    place = target.joinpath(*name.parts)
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, place.open("xb") as copy:
        shutil.copyfileobj(source, copy, BLOCK)


def sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
