"""Nets without weights, or without some: filled as Caffe starts, and marked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from schemas import interchange
from stage_extract import worker
from tests import caffe_bytes as cb
from tests.prototxts import inputs, layer

IP = "inner_product_param { num_output: 4 weight_filler { type: 'xavier' } }"
TEXT = "\n".join(
    [
        inputs(data=(2, 3, 5, 7)),
        layer("Convolution", "data", "conv", "convolution_param { num_output: 4 kernel_size: 3 "
              "weight_filler { type: 'gaussian' std: 0.5 } "
              "bias_filler { type: 'constant' value: 0.25 } }"),
        layer("BatchNorm", "conv", "bn"),
        layer("Scale", "bn", "scale", "scale_param { bias_term: true }"),
        layer("InnerProduct", "scale", "ip", IP),
    ]
)  # fmt: skip
OWNED = {"conv/0", "conv/1", "bn/0", "bn/1", "bn/2", "scale/0", "scale/1", "ip/0", "ip/1"}
CONV = [np.ones((4, 3, 3, 3), np.float32), np.ones(4, np.float32)]


@pytest.fixture
def extract(tmp_path, capfd):
    """Extracts TEXT with these stored layers; (exit code, lines of stderr, content if any)."""

    def call(*options, text=TEXT, **blobs):
        (tmp_path / "net.prototxt").write_text(text)
        files = [tmp_path / "net.prototxt"]
        if blobs:
            data = b"".join(cb.layer(name, *map(cb.blob, own)) for name, own in blobs.items())
            (tmp_path / "net.caffemodel").write_bytes(data)
            files.append(tmp_path / "net.caffemodel")
        out = tmp_path / "net.h5"
        code = worker.main([str(each) for each in (*files, "-o", out, *options)])
        lines = capfd.readouterr().err.splitlines()
        return code, lines, interchange.read(out) if code == 0 else None

    return call


def test_no_weights_at_all(extract):
    code, lines, content = extract()
    assert code == 0
    assert lines == [
        "warning: untrained: no weights were given, those of 4 layers come from their fillers"
    ]
    assert set(content.filled) == set(content.weights) == OWNED
    np.testing.assert_array_equal(content.weights["conv/1"], np.full(4, 0.25, np.float32))
    np.testing.assert_array_equal(content.weights["bn/2"], np.zeros(1, np.float32))
    np.testing.assert_array_equal(content.weights["scale/0"], np.ones(4, np.float32))
    assert 0.4 < content.weights["conv/0"].std() < 0.6
    assert content.reference is not None
    first = {key: content.weights[key] for key in OWNED}
    _, _, again = extract()
    for key, values in first.items():
        assert again.weights[key].tobytes() == values.tobytes()
    _, _, other = extract("--seed", "3")
    assert other.weights["conv/0"].tobytes() != first["conv/0"].tobytes()


def test_weights_larger_than_the_memory_are_refused_before_they_are_filled(extract, tmp_path):
    text = inputs(data=(1, 3)) + "".join(
        layer("InnerProduct", "data", f"ip{i}", "inner_product_param { num_output: 700000000 }")
        for i in range(999)
    )
    code, lines, _ = extract("--no-reference", text=text)
    assert code == 7
    assert lines[-1].startswith("error: the weights from fillers need 11,188,800,000,000 bytes")
    assert not (tmp_path / "net.h5").exists()


def test_missing_weights_are_an_error_unless_allowed(extract):
    code, lines, _ = extract(conv=CONV)
    assert code == 3
    assert "layer 'bn' is missing; layer 'scale' is missing; layer 'ip' is missing" in lines[0]
    assert "--allow-missing fills what is missing" in lines[0]
    code, lines, content = extract("--allow-missing", conv=CONV, old=CONV)
    assert code == 0
    assert lines == [
        "warning: 1 layers of the weights are not in the net: 'old'",
        "warning: untrained: 3 layers are missing from the weights and come from their fillers: "
        "'bn', 'scale', 'ip'",
    ]
    assert set(content.filled) == {key for key in OWNED if not key.startswith("conv/")}
    np.testing.assert_array_equal(content.weights["conv/0"], CONV[0])


def test_mis_shaped_weights_stay_an_error(extract):
    code, lines, _ = extract("--allow-missing", conv=CONV[:1])
    assert code == 3
    assert "layer 'conv': 2 blobs expected, found 1" in lines[0]
    assert "is missing" not in lines[0]


def test_shared_parameters_are_filled_once(extract):
    shared = f"param {{ name: 'w' }} param {{ name: 'b' }} {IP}"
    text = "\n".join(
        [
            inputs(data=(2, 3, 5, 7)),
            layer("InnerProduct", "data", "a", shared),
            layer("InnerProduct", "data", "b", shared),
        ]
    )
    code, _, content = extract(text=text)
    assert code == 0
    assert set(content.weights) == set(content.filled) == {"a/0", "a/1"}
    blobs = content.reference.blobs
    np.testing.assert_array_equal(blobs["a"], blobs["b"])


def test_an_unknown_filler(extract):
    code, lines, _ = extract(text=TEXT.replace("xavier", "magic"))
    assert code == 4
    assert "'magic'" in lines[-1] and "layer 'ip'" in lines[-1]


def test_unknown_fields_are_passed_over_when_asked(extract, tmp_path):
    text = TEXT.replace("num_output: 4 kernel_size", "of_a_fork: 3 num_output: 4 kernel_size")
    code, lines, _ = extract(text=text)
    assert code == 4
    assert "convolution_param.of_a_fork of layer 'conv' (line 2)" in lines[-1]
    code, lines, content = extract("--ignore-unknown", text=text)
    assert code == 0
    assert (
        "ignored, though it may change the result: "
        "convolution_param.of_a_fork of layer 'conv' (line 2)" in content.notes
    )


def test_older_files_have_no_mark(tmp_path, extract, monkeypatch):
    """A file of before there were fillers and means is read as one without."""
    _, _, content = extract()
    dumps = json.dumps

    def without(document, **options):
        return dumps({k: v for k, v in document.items() if k not in ("filled", "means")}, **options)

    monkeypatch.setattr(interchange.json, "dumps", without)
    interchange.write(tmp_path / "old.h5", content)
    old = interchange.read(tmp_path / "old.h5")
    assert (tuple(old.filled), dict(old.means)) == ((), {})
