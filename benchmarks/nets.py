"""The nets that are measured: those of the shared zoo, or the same printed here; seeded weights."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.architectures import Shape, printed
from benchmarks.processes import ROOT
from tests.caffe_bytes import BYTES, blob, field, layer, shape, tag, varint

SHARED = ROOT.parent / "shared"
# Names of the zoo that stand for a kind of net; what is printed here has the kind's name.
ZOO = {"mobilenet": "mobilenet_v2"}
PIECE = 32 << 20  # bytes of random numbers that a large file repeats


@dataclass(frozen=True)
class Files:
    """A net's two files."""

    prototxt: Path
    weights: Path


@dataclass(frozen=True)
class Nets:
    """Makes nets, each once.

    Attributes:
        folder: where they are kept.
        shared: take the shared zoo's.
    """

    folder: Path
    shared: bool

    @property
    def origin(self) -> str:
        """For people."""
        return (
            "those of `../shared/zoo`" if self.shared else "printed by benchmarks/architectures.py"
        )

    def files(self, name: str) -> Files:
        """One of `architectures.ARCHITECTURES`."""
        return self._of_zoo(name) if self.shared else self._of_ours(name)

    def _of_zoo(self, name: str) -> Files:
        net = SHARED / "zoo" / ZOO.get(name, name)
        weights = self.folder / f"{net.name}.caffemodel"
        if not weights.exists():
            partial = self._partial(weights)
            tool = SHARED / "tools" / "fill_caffemodel.py"
            subprocess.run([sys.executable, tool, net, partial], check=True)
            partial.rename(weights)
        return Files(net / "deploy.prototxt", weights)

    def _of_ours(self, name: str) -> Files:
        text, shapes = printed(name)
        return self.written(f"own-{name}", text, shapes)

    def written(
        self, name: str, text: str, shapes: Sequence[tuple[str, str, tuple[Shape, ...]]]
    ) -> Files:
        """A printed net with seeded weights; written anew if its text is another."""
        prototxt = self.folder / f"{name}.prototxt"
        weights = prototxt.with_suffix(".caffemodel")
        if not weights.exists() or prototxt.read_text() != text:
            partial = self._partial(weights)
            with partial.open("wb") as file:
                file.write(field(1, name))
                for layer_name, type_, blobs in shapes:
                    values = [_values(layer_name, type_, i, one) for i, one in enumerate(blobs)]
                    file.write(layer(layer_name, *map(blob, values), type=type_))
            prototxt.write_text(text)
            partial.rename(weights)
        return Files(prototxt, weights)

    def of_size(self, megabytes: int) -> Files:
        """Inner products of one pattern, 40 to a GB or one at least, in a file of about that size.

        The same numbers over and over: what they are is nothing to who reads them.
        """
        files = Files(
            self.folder / f"size-{megabytes}.prototxt", self.folder / f"size-{megabytes}.caffemodel"
        )
        count = max(1, megabytes // 25)
        inputs = int(megabytes * 1e6 / count / 4 / 1000)
        files.prototxt.write_text(_fan(count, inputs))
        partial = self._partial(files.weights)
        with partial.open("wb") as file:
            file.write(field(1, "size"))
            for number in range(count):
                _write_inner_product(file, f"fc{number}", (1000, inputs))
        partial.rename(files.weights)
        return files

    def _partial(self, path: Path) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return path.with_suffix(".partial")


def _values(name: str, type_: str, index: int, shape_: Shape) -> np.ndarray:
    """He-normal kernels, small biases; statistics and scales with which a deep net stays finite."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(f"{name}/{index}".encode())))
    if type_ == "BatchNorm":
        return np.ones(shape_, np.float32) * np.float32((0, 1, 1)[index])
    if type_ == "Scale" and index == 0:
        size = 0.2 if name.endswith("_c") else 1.0
        return np.float32(size) * (random.random(shape_, np.float32) * np.float32(0.4) + 0.8)
    if len(shape_) == 1:
        return random.random(shape_, np.float32) * np.float32(0.2) - np.float32(0.1)
    return random.standard_normal(shape_, np.float32) * np.float32(np.sqrt(2 / np.prod(shape_[1:])))


def _fan(count: int, inputs: int) -> str:
    text = f'name: "size" input: "data" input_shape {{ dim: 1 dim: {inputs} }}\n'
    more = "inner_product_param { num_output: 1000 bias_term: false }"
    for number in range(count):
        name = f'name: "fc{number}" type: "InnerProduct"'
        text += f'layer {{ {name} bottom: "data" top: "fc{number}" {more} }}\n'
    return text


def _write_inner_product(file: BinaryIO, name: str, dims: Shape) -> None:
    """One layer of a NetParameter, its numbers in pieces."""
    size = 4 * int(np.prod(dims))
    data = tag(5, BYTES) + varint(size)
    head = shape(*dims) + data
    content = field(1, name) + field(2, "InnerProduct") + tag(7, BYTES) + varint(len(head) + size)
    file.write(tag(100, BYTES) + varint(len(content) + len(head) + size) + content + head)
    for piece in _pieces(size):
        file.write(piece)


def _pieces(size: int) -> Iterator[memoryview]:
    random = np.random.default_rng(1).standard_normal(PIECE // 4, np.float32) * np.float32(0.01)
    numbers = memoryview(random).cast("B")
    while size:
        piece = numbers[: min(size, PIECE)]
        yield piece
        size -= len(piece)
