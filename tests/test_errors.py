"""What our errors make of other people's."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

import pytest

from schemas.errors import EnvironmentProblem, StageCrashed
from schemas.events import as_conversion_error


def a_zip_archive():
    with zipfile.ZipFile("/dev/full", "w") as archive, archive.open("a", "w") as member:
        member.write(bytes(1 << 20))


def tensorflow_s_own():
    class InternalError(Exception):
        pass

    raise InternalError("/out/variables; No space left on device [Op:SaveV2]")


def h5py_s_own():
    text = "Can't write data (file write failed, errno = 28, error message = '...')"
    raise OSError(errno.ENOSPC, text)


def h5py_s_when_it_closes():
    try:
        h5py_s_own()
    finally:
        raise RuntimeError("Can't decrement id ref count")


@pytest.mark.parametrize(
    "write",
    [a_zip_archive, tensorflow_s_own, h5py_s_own, h5py_s_when_it_closes],
    ids=lambda write: write.__name__,
)
def test_what_libraries_make_of_a_full_disk(write):
    if write is a_zip_archive and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(Exception, match=r".") as caught:
        write()
    error = as_conversion_error(caught.value)
    assert (error.exit_code, error.message) == (
        EnvironmentProblem.exit_code,
        "no space left on device",
    )


def test_another_fault_stays_one():
    assert as_conversion_error(ValueError("no space")).exit_code == StageCrashed.exit_code
    assert (
        as_conversion_error(OSError("file signature not found")).exit_code
        == EnvironmentProblem.exit_code
    )
