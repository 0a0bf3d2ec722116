"""Compiles schemas/caffe.proto to schemas/caffe.desc, by which stage 1 reads prototxts.

    python tools/compile_proto.py [OUT]

Needs grpcio-tools. Equal sources give equal bytes: no source positions, no paths, no time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"


def compile_proto(out: Path) -> None:
    """Writes the FileDescriptorSet of schemas/caffe.proto to `out`.

    Raises:
        CalledProcessError: grpcio-tools is missing, or protoc refused the file; stderr says which.
    """
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    options = [f"-I{SCHEMAS}", f"--descriptor_set_out={out}"]
    subprocess.run([*protoc, *options, str(SCHEMAS / "caffe.proto")], check=True)


if __name__ == "__main__":
    compile_proto(Path(sys.argv[1]) if len(sys.argv) > 1 else SCHEMAS / "caffe.desc")
