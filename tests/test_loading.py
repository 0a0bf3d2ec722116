"""How the class takes its weights: read, mapped, or from another's npz."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from tests import nets

pytest.importorskip("tensorflow")

from stage_build.artefacts import models  # noqa: E402  once TensorFlow is known to be there

SIDE = 600  # of a matrix that is large enough to be mapped
NET = (
    nets.inputs(data=(2, 3, 10, 12)),
    nets.layer("Convolution", "data", "conv", "convolution_param { num_output: 5 kernel_size: 3 }"),
    nets.layer("InnerProduct", "conv", "first", f"inner_product_param {{ num_output: {SIDE} }}"),
    nets.layer("InnerProduct", "first", "second", f"inner_product_param {{ num_output: {SIDE} }}"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("net")
    nets.package(nets.net(*NET), made)
    return made


def values(network) -> list[np.ndarray]:
    return [weight.numpy() for weight in network.model.weights]


def plain(folder) -> list[np.ndarray]:
    with models.imported(folder) as package:
        return values(package.load())


def test_mapped_weights_are_those_that_are_read(folder):
    with np.load(folder / "weights.npz") as stored:
        sizes = [stored[name].nbytes for name in stored.files]
    assert min(sizes) < models.MAPPED < max(sizes)
    with models.imported(folder) as package:
        network = models.load(package)
        mapped = values(network)
        assert network.model.name == type(package.load()).__name__
    for got, want in zip(mapped, plain(folder), strict=True):
        np.testing.assert_array_equal(got, want)


def test_what_is_assigned_to_a_mapped_weight_stays_out_of_the_file(folder):
    before = (folder / "weights.npz").read_bytes()
    with models.imported(folder) as package:
        network = models.load(package)
        for weight in network.model.weights:
            weight.value.assign_add(np.ones(weight.shape, np.float32))
        for got, want in zip(values(network), plain(folder), strict=True):
            np.testing.assert_array_equal(got, want + 1)
    assert (folder / "weights.npz").read_bytes() == before


@pytest.mark.parametrize("form", ["compressed", "doubles", "Fortran"])
def test_weights_that_others_saved_are_taken_too(folder, tmp_path, form):
    """Of numpy.savez, as after training elsewhere."""
    nets.package(nets.net(*NET), tmp_path)
    with np.load(folder / "weights.npz") as stored:
        arrays = {name: stored[name] * 2 for name in stored.files}
    if form == "doubles":
        arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    if form == "Fortran":
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    save = np.savez_compressed if form == "compressed" else np.savez
    save(tmp_path / "weights.npz", **arrays)
    for got, want in zip(plain(tmp_path), plain(folder), strict=True):
        np.testing.assert_array_equal(got, want * 2)


def test_a_damaged_weight_is_noticed(folder, tmp_path):
    nets.package(nets.net(*NET), tmp_path)
    file = tmp_path / "weights.npz"
    whole = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        last = archive.infolist()[-2]
    whole[last.header_offset + last.file_size] ^= 1
    file.write_bytes(whole)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        plain(tmp_path)


def test_a_member_that_is_shorter_than_it_says_is_refused(folder, tmp_path):
    """A zip file's directory may say anything of a member's size."""
    nets.package(nets.net(*NET), tmp_path)
    file = tmp_path / "weights.npz"
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    whole = members["0.npy"]
    short = whole[:-40]
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, short if name == "0.npy" else data)
        archive.getinfo("0.npy").file_size = len(whole)  # in the directory, written at the end
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        plain(tmp_path)


def test_an_eager_pass_and_a_traced_one_are_the_same(folder):
    content = nets.net(*NET)
    inputs, outputs = content.reference.inputs, content.net.outputs
    with models.opened_class(folder) as runner:
        eager, traced = runner(inputs, outputs), runner.traced(inputs, outputs)
    for key in outputs:
        np.testing.assert_array_equal(traced[key], eager[key])
