"""A result folder appears whole or not at all, and never in place of what is not a result."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from schemas.errors import (
    ConversionError,
    EnvironmentProblem,
    UnsupportedModel,
    UsageError,
    VerificationFailed,
)
from stage_build import publish
from stage_build.publish import check_failed, check_target, require_space, staged


def result(folder: Path, text: str) -> Path:
    """A folder that passes for an earlier result."""
    (folder / "saved_model").mkdir(parents=True)
    (folder / "names.json").write_text("{}")
    (folder / "saved_model" / "x").write_text(text)
    return folder


def write(folder: Path, text: str = "new") -> None:
    (folder / "saved_model").mkdir()
    (folder / "names.json").write_text("{}")
    (folder / "saved_model" / "x").write_text(text)


def report(folder: Path) -> None:
    (folder / "report.json").write_text("{}")


def tree(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too, with its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


NEW = {"out/names.json": "{}", "out/saved_model/x": "new"}
OLD = {"out/names.json": "{}", "out/saved_model/x": "old"}
FAILED = {
    "out.failed/names.json": "{}",
    "out.failed/report.json": "{}",
    "out.failed/saved_model/x": "new",
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def failed(tmp_path):
    return tmp_path / "out.failed"


def test_a_new_result_appears_whole(tmp_path, out, failed):
    with staged(out, failed) as folder:
        write(folder)
        assert not out.exists()
        assert folder.parent == tmp_path
        assert folder.name == f".out.{os.getpid()}.partial"
    assert tree(tmp_path) == NEW


def test_an_old_result_stays_until_the_new_one_is_whole(tmp_path, out, failed):
    result(out, "old")
    with staged(out, failed) as folder:
        write(folder)
        assert {k: v for k, v in tree(tmp_path).items() if k.startswith("out/")} == OLD
    assert tree(tmp_path) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
def test_everything_is_on_the_disk_before_the_folder_has_its_name(out, failed, monkeypatch, there):
    """Its files and folders; and the name itself, once it is given."""
    if there:
        result(out, "old")
    flushed, renamed = [], []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.fstat(fd).st_ino))
    replace = publish._replace
    monkeypatch.setattr(
        publish, "_replace", lambda *paths: (renamed.append([*flushed]), replace(*paths))
    )
    with staged(out, failed) as folder:
        write(folder)
    (before,) = renamed
    assert {path.stat().st_ino for path in (out, *out.rglob("*"))} == set(before)
    assert flushed == [*before, out.parent.stat().st_ino]


@pytest.fixture
def without_exchange(monkeypatch):
    """The system knows no exchange of two names."""
    monkeypatch.setattr(publish, "_exchange_function", lambda *names: (None, ()))


def watched(monkeypatch, out):
    """Whether `out` was there after each change of names that Python makes; a list to come."""
    seen = []
    rename = Path.rename

    def renamed(self, target):
        rename(self, target)
        seen.append(out.exists())

    monkeypatch.setattr(Path, "rename", renamed)
    return seen


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no exchange of names here")
def test_the_old_and_the_new_result_change_places_at_once(tmp_path, out, failed, monkeypatch):
    result(out, "old")
    seen = watched(monkeypatch, out)
    with staged(out, failed) as folder:
        write(folder)
    assert tree(tmp_path) == NEW
    assert seen == [], "one call of the system did it"


def test_without_an_exchange_there_are_two_renames(
    tmp_path, out, failed, monkeypatch, without_exchange
):
    result(out, "old")
    seen = watched(monkeypatch, out)
    with staged(out, failed) as folder:
        write(folder)
    assert tree(tmp_path) == NEW
    assert seen == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "number", sorted({*publish.NO_EXCHANGE}), ids=lambda number: errno.errorcode[number]
)
def test_a_file_system_that_refuses_the_exchange_gets_two_renames(
    tmp_path, out, failed, monkeypatch, number
):
    def refuse(*names):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(publish, "_exchange_function", lambda *names: (refuse, ()))
    result(out, "old")
    with staged(out, failed) as folder:
        write(folder)
    assert tree(tmp_path) == NEW


def test_an_exchange_that_fails_leaves_the_old_result(tmp_path, out, failed, monkeypatch):
    function = publish._exchange_function
    gone = os.fsencode(tmp_path / "gone")
    monkeypatch.setattr(publish, "_exchange_function", lambda one, other: function(gone, other))
    result(out, "old")
    with pytest.raises(UsageError, match="no such file"), staged(out, failed) as folder:
        write(folder)
    assert tree(tmp_path) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("boom"),
        UnsupportedModel("no"),
        UsageError("nothing to verify against"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
def test_nothing_is_left_of_a_block_that_fails(tmp_path, out, failed, error, there):
    if there:
        result(out, "old")
    with pytest.raises(type(error)), staged(out, failed) as folder:
        write(folder)
        raise error
    assert tree(tmp_path) == (OLD if there else {})
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if there else [])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), EnvironmentProblem),
        (PermissionError(13, "Permission denied"), EnvironmentProblem),
        (FileNotFoundError(2, "No such file or directory"), UsageError),
    ],
    ids=["disk-full", "permission", "missing"],
)
def test_what_the_system_refuses_is_told_in_one_line(tmp_path, out, failed, error, kind):
    with pytest.raises(kind) as caught, staged(out, failed) as folder:
        write(folder)
        raise error
    assert error.strerror.lower() in str(caught.value)
    assert str(out) in str(caught.value)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
def test_a_failed_verification_is_kept_apart(tmp_path, out, failed, there):
    if there:
        result(out, "old")
    with pytest.raises(VerificationFailed), staged(out, failed) as folder:
        write(folder)
        report(folder)
        raise VerificationFailed("blob 'x' differs")
    assert tree(tmp_path) == {**(OLD if there else {}), **FAILED}


def test_a_verification_that_never_began_leaves_nothing(tmp_path, out, failed):
    """Without a report nobody could tell what has failed; a later run would not replace it."""
    with pytest.raises(VerificationFailed), staged(out, failed) as folder:
        write(folder)
        raise VerificationFailed("nothing is proven")
    assert tree(tmp_path) == {}


def test_an_earlier_failure_gives_way_to_a_later_one(tmp_path, out, failed):
    result(failed, "older")
    (failed / "logs").mkdir()
    with pytest.raises(VerificationFailed), staged(out, failed) as folder:
        write(folder)
        report(folder)
        raise VerificationFailed("blob 'x' differs")
    assert tree(tmp_path) == FAILED
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed"]


def refuse(monkeypatch, which):
    """Makes the renames for which `which` holds fail."""
    rename = Path.rename

    def refusing(self, target):
        if which(self, Path(target)):
            raise OSError(5, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)


@pytest.mark.parametrize("there", [False, True], ids=["new", "replacing"])
def test_the_old_result_comes_back_where_the_exchange_fails(
    tmp_path, out, failed, there, monkeypatch, without_exchange
):
    if there:
        result(out, "old")
    refuse(monkeypatch, lambda source, target: source.name.endswith(".partial"))
    with (
        pytest.raises(EnvironmentProblem, match="input/output error"),
        staged(out, failed) as folder,
    ):
        write(folder)
    assert tree(tmp_path) == (OLD if there else {})


def test_the_old_result_stays_where_it_cannot_be_moved_away(
    tmp_path, out, failed, monkeypatch, without_exchange
):
    result(out, "old")
    refuse(monkeypatch, lambda source, target: target.name.endswith(".old"))
    with (
        pytest.raises(EnvironmentProblem, match="input/output error"),
        staged(out, failed) as folder,
    ):
        write(folder)
    assert tree(tmp_path) == OLD


def test_a_result_that_appeared_meanwhile_is_not_mixed_up(tmp_path, out, failed):
    with staged(out, failed) as folder:
        write(folder)
        result(out, "old")
    assert tree(tmp_path) == NEW


def test_left_overs_of_an_earlier_run_are_not_taken_over(tmp_path, out, failed):
    """A process that was killed left its folder, and its number is used again."""
    left = tmp_path / f".out.{os.getpid()}.partial"
    left.mkdir()
    (left / "old").write_text("old")
    with staged(out, failed) as folder:
        write(folder)
    assert tree(tmp_path) == NEW


def test_a_parent_that_vanishes_is_told(tmp_path, failed):
    with pytest.raises(UsageError, match="no such file"), staged(tmp_path / "no" / "out", failed):
        pytest.fail("the block must not run")


# Targets


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_a_new_target_is_fine(out, force):
    check_target(out, force)
    assert not out.exists()


def test_a_result_is_replaced_only_when_told_to(out):
    result(out, "old")
    with pytest.raises(UsageError, match=r"the target exists \(choose another, or pass --force\)"):
        check_target(out, False)
    check_target(out, True)


def a_file(out):
    out.write_text("text")


def an_empty_folder(out):
    out.mkdir()


def another_folder(out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")


def a_link_to_a_result(out):
    out.symlink_to(result(out.with_name("elsewhere"), "old"))


def a_dangling_link(out):
    out.symlink_to(out.with_name("nothing"))


def a_folder_that_names_a_folder(out):
    (out / "names.json").mkdir(parents=True)


@pytest.mark.parametrize(
    "make",
    [
        a_file,
        an_empty_folder,
        another_folder,
        a_link_to_a_result,
        a_dangling_link,
        a_folder_that_names_a_folder,
    ],
    ids=lambda make: make.__name__,
)
def test_nothing_but_a_result_is_replaced(tmp_path, out, make):
    make(out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="the target exists"):
        check_target(out, False)
    with pytest.raises(UsageError, match="not a converted model, so it is not replaced"):
        check_target(out, True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "make",
    [a_file, an_empty_folder, another_folder, a_link_to_a_result, a_dangling_link],
    ids=lambda make: make.__name__,
)
def test_nothing_but_a_failure_gives_way_to_a_failure(tmp_path, failed, make):
    make(failed)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="no failed run has left this"):
        check_failed(failed)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_gives_way_to_a_failure(failed):
    check_failed(failed)
    failed.mkdir()
    (failed / "report.json").write_text("{}")
    check_failed(failed)


def test_the_parent_must_be_there(tmp_path):
    with pytest.raises(UsageError, match=r"the folder does not exist \(make it first\)"):
        check_target(tmp_path / "no" / "out", False)


def test_the_parent_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the folder does not exist"):
        check_target(tmp_path / "file" / "out", False)


def test_the_parent_must_be_writable(out, monkeypatch):
    """The superuser may write anywhere: the system's answer is acted out."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        check_target(out, False)


def test_space_is_looked_for_first(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, 0)
    with pytest.raises(EnvironmentProblem, match=r"bytes are needed, [\d,]+ are free") as caught:
        require_space(tmp_path, 2 * free)
    assert caught.value.exit_code == 7
    assert isinstance(caught.value, ConversionError)
