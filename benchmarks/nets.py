"""A net of the size that hurts, made here: VGG-16 with seeded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.caffe_bytes import blob, field, layer

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(folder: Path) -> tuple[Path, Path]:
    """Writes vgg16.prototxt and vgg16.caffemodel (553 MB, unless it is there) and returns both."""
    random = np.random.Generator(np.random.PCG64(16))
    text = ['name: "vgg16" input: "data" input_dim: 1 input_dim: 3 input_dim: 224 input_dim: 224']
    weights: list[tuple[str, tuple[int, ...], str]] = []
    bottom, channels = "data", 3

    def add(name: str, type_: str, top: str, more: str = "") -> None:
        nonlocal bottom
        text.append(
            f'layer {{ name: "{name}" type: "{type_}" bottom: "{bottom}" top: "{top}" {more} }}'
        )
        bottom = top

    for stage, (outputs, depth) in enumerate(STAGES, 1):
        for step in range(1, depth + 1):
            name = f"conv{stage}_{step}"
            more = f"convolution_param {{ num_output: {outputs} pad: 1 kernel_size: 3 }}"
            add(name, "Convolution", name, more)
            add(f"relu{stage}_{step}", "ReLU", name)
            weights.append((name, (outputs, channels, 3, 3), "Convolution"))
            channels = outputs
        add(f"pool{stage}", "Pooling", f"pool{stage}", "pooling_param { kernel_size: 2 stride: 2 }")
    size = channels * 7 * 7
    for number, outputs in ((6, 4096), (7, 4096), (8, 1000)):
        name = f"fc{number}"
        add(name, "InnerProduct", name, f"inner_product_param {{ num_output: {outputs} }}")
        weights.append((name, (outputs, size), "InnerProduct"))
        if number < 8:
            add(f"relu{number}", "ReLU", name)
        size = outputs
    add("prob", "Softmax", "prob")
    prototxt, caffemodel = folder / "vgg16.prototxt", folder / "vgg16.caffemodel"
    prototxt.write_text("\n".join(text) + "\n")
    if not caffemodel.exists():
        partial = caffemodel.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(field(1, "vgg16"))
            for name, shape, type_ in weights:
                scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
                values = random.standard_normal(shape, np.float32) * scale
                bias = random.standard_normal(shape[0], np.float32) * np.float32(0.1)
                file.write(layer(name, blob(values), blob(bias), type=type_))
        partial.rename(caffemodel)
    return prototxt, caffemodel
