"""Packs stage 1 into one file, to be copied to the machine that has Caffe.

    python tools/build_pyz.py [-o dist/stage_extract.pyz]

The archive holds `schemas`, `stage_extract` and the license. Equal sources give equal bytes on
every machine: entries are sorted, stored uncompressed, and dated 1980.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "stage_extract")
DATA = ("schemas/caffe.desc", "LICENSE")

# Runs under any Python: stage_extract/__main__.py looks at the version, in Python 2.7's syntax.
MAIN = 'import runpy\n\nrunpy.run_module("stage_extract", run_name="__main__", alter_sys=True)\n'


def sources() -> Iterator[Path]:
    """Every file that belongs in the archive."""
    for room in ROOMS:
        yield from (ROOT / room).rglob("*.py")
    for name in DATA:
        yield ROOT / name


def build(out: Path) -> None:
    """Writes the archive to `out`, whole or not at all."""
    entries = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sources()}
    entries["__main__.py"] = MAIN.encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(stream, "w") as archive:
                for name in sorted(entries):
                    info = zipfile.ZipInfo(name)
                    info.create_system = 3
                    info.external_attr = 0o100644 << 16
                    archive.writestr(info, entries[name])
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Packs stage 1 into one file.")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "dist" / "stage_extract.pyz")
    out = parser.parse_args().out
    build(out)
    print(f"{out}  {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
