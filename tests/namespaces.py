"""Commands in a namespace of their own (Linux), where anybody may mount."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def in_namespace(*command: object) -> subprocess.CompletedProcess[str]:
    """Runs a command where its mounts are its own; skips the test where the system refuses that."""
    if shutil.which("unshare") is None or _run("true").returncode:
        pytest.skip("user namespaces (unshare -Urm) are refused here: nothing can be mounted")
    return _run(*command)


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-Urm", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
