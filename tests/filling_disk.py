"""A command on a disk of its own, which fills up while the command works. In a namespace:

    python filling_disk.py FOLDER SIZE PATTERN LEFT COMMAND...

A tmpfs of SIZE is mounted on FOLDER, with a copy of what lies in it. As soon as something in it
matches PATTERN (a glob), all of the disk but LEFT bytes is taken; with an empty pattern nothing is.
Printed is one JSON document: the command's exit code and stderr, whether the disk was filled, and
the files that are then there with their digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def manifest(folder: Path) -> dict[str, str]:
    """Every file under a folder, and every empty folder, with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def _mount(folder: Path, size: str) -> None:
    with tempfile.TemporaryDirectory() as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        shutil.copytree(aside, folder, dirs_exist_ok=True)


def _fill(folder: Path, left: int) -> None:
    with open(folder / "ballast", "wb") as ballast:
        free = shutil.disk_usage(folder).free
        while free > left:  # the command takes from it, too
            try:
                os.posix_fallocate(ballast.fileno(), ballast.seek(0, 2), free - left)
            except OSError:
                free //= 2
            else:
                ballast.seek(0, 2)
                free = shutil.disk_usage(folder).free


def main() -> None:
    folder, size, pattern, left = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    _mount(folder, size)
    filled = False
    with subprocess.Popen(sys.argv[5:], stdout=2, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and pattern:
            if any(folder.glob(pattern)):
                _fill(folder, left)
                filled = True
                break
            time.sleep(0.0005)
        _, said = process.communicate()
    (folder / "ballast").unlink(missing_ok=True)
    found = {"code": process.returncode, "said": said, "filled": filled}
    print(json.dumps({**found, "files": manifest(folder)}))


if __name__ == "__main__":
    main()
