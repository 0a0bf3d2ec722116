"""tools/pythons.py: a missing version is reported as not run, and which tests the others get."""

import sys

import pytest

from tests.paths import ROOT
from tools import pythons


def test_it_finds_this_interpreters_version(monkeypatch):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = ROOT / "nowhere"
    monkeypatch.setenv("PYENV_ROOT", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{sys.base_prefix}/bin")
    pythons.find.cache_clear()
    assert pythons.find(version) is not None
    pythons.find.cache_clear()


@pytest.mark.parametrize("full", [False, True], ids=["rooms", "full"])
def test_a_missing_version_is_not_run(full, capsys):
    assert pythons.run_tests("9.9", full)
    assert capsys.readouterr().out == "Python 9.9: not run: no Python 9.9\n"


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import schemas.graph", True),
        ("from stage_extract import wire\nimport numpy, json", True),
        ("def test():\n    import h5py\n    from schemas.errors import UsageError", True),
        ("from tests.helper import compare\nimport schemas", False),
        ("import numpy", False),
        ("import schemas\nimport keras", False),
        ("import schemas\ndef test():\n    import stage_build.layout", False),
    ],
)
def test_a_test_belongs_to_the_rooms_by_its_imports(source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(pythons, "ROOT", tmp_path)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "helper.py").write_text("import tensorflow\n")
    path = tests / "test_it.py"
    path.write_text(source)
    assert (path in pythons.room_tests()) is expected
