"""Published architectures, printed as prototxts with the shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]


@dataclass
class Printer:
    """A prototxt as it grows.

    Attributes:
        text: its layers.
        weights: (layer, type, shape of each blob) of what has weights.
        top, channels: of the last layer.
        inputs: channels of the net's input.
    """

    text: list[str] = field(default_factory=list)
    weights: list[tuple[str, str, tuple[Shape, ...]]] = field(default_factory=list)
    top: str = "data"
    channels: int = 3
    inputs: int = 3

    def layer(
        self, name: str, type_: str, more: str = "", *bottoms: str, inplace: bool = False
    ) -> str:
        """Adds one; its bottom is the last top unless others are named. Returns its top."""
        given = bottoms or (self.top,)
        self.top = given[0] if inplace else name
        below = " ".join(f'bottom: "{bottom}"' for bottom in given)
        self.text.append(
            f'layer {{ name: "{name}" type: "{type_}" {below} top: "{self.top}" {more} }}'
        )
        return self.top

    def conv(
        self,
        name: str,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        group: int = 1,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        """A convolution, with a ReLU in place if asked for."""
        more = (
            f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} stride: {stride} "
            f"pad: {pad} group: {group} bias_term: {str(bias).lower()} }}"
        )
        self.layer(name, "Convolution", more)
        kernels = (outputs, self.channels // group, kernel, kernel)
        shapes = (kernels, (outputs,)) if bias else (kernels,)
        self.weights.append((name, "Convolution", shapes))
        self.channels = outputs
        if relu:
            self.relu(name)

    def relu(self, name: str) -> None:
        """In place."""
        self.layer(f"relu_{name}", "ReLU", inplace=True)

    def norm(self, name: str, *, relu: bool = False) -> None:
        """BatchNorm and Scale in place, as ResNet's authors published them."""
        one = (self.channels,)
        more = "batch_norm_param { use_global_stats: true }"
        self.layer(f"bn_{name}", "BatchNorm", more, inplace=True)
        self.layer(f"scale_{name}", "Scale", "scale_param { bias_term: true }", inplace=True)
        self.weights += [(f"bn_{name}", "BatchNorm", (one, one, (1,)))]
        self.weights += [(f"scale_{name}", "Scale", (one, one))]
        if relu:
            self.relu(name)

    def pool(self, name: str, kernel: int, stride: int, kind: str = "MAX") -> None:
        """A pooling without padding."""
        size = f"pool: {kind} kernel_size: {kernel} stride: {stride}"
        self.layer(name, "Pooling", f"pooling_param {{ {size} }}")

    def average(self, name: str) -> None:
        """Over all of the image."""
        self.layer(name, "Pooling", "pooling_param { pool: AVE global_pooling: true }")

    def full(self, name: str, outputs: int, inputs: int, *, relu: bool = False) -> None:
        """An inner product."""
        self.layer(name, "InnerProduct", f"inner_product_param {{ num_output: {outputs} }}")
        self.weights.append((name, "InnerProduct", ((outputs, inputs), (outputs,))))
        self.channels = outputs
        if relu:
            self.relu(name)

    def prototxt(self, name: str, size: int) -> str:
        """All of it."""
        dims = (1, self.inputs, size, size)
        sides = " ".join(f"input_dim: {dim}" for dim in dims)
        return "\n".join([f'name: "{name}" input: "data" {sides}', *self.text, ""])


def vgg16(net: Printer) -> None:
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for stage, (outputs, depth) in enumerate(stages, 1):
        for step in range(1, depth + 1):
            net.conv(f"conv{stage}_{step}", outputs, 3, pad=1, relu=True)
        net.pool(f"pool{stage}", 2, 2)
    net.full("fc6", 4096, 512 * 49, relu=True)
    net.full("fc7", 4096, 4096, relu=True)
    net.full("fc8", 1000, 4096)
    net.layer("prob", "Softmax")


def resnet(*depths: int) -> Callable[[Printer], None]:
    """With bottleneck blocks."""

    def print_(net: Printer) -> None:
        net.conv("conv1", 64, 7, stride=2, pad=3, bias=False)
        net.norm("conv1", relu=True)
        net.pool("pool1", 3, 2)
        for stage, depth in enumerate(depths, 2):
            width = 32 << (stage - 1)
            for block in range(depth):
                stride = 2 if block == 0 and stage > 2 else 1
                _bottleneck(net, f"{stage}_{block + 1}", width, stride, shortcut=block > 0)
        net.average("pool5")
        net.full("fc1000", 1000, net.channels)
        net.layer("prob", "Softmax")

    return print_


def _bottleneck(net: Printer, name: str, width: int, stride: int, *, shortcut: bool) -> None:
    below, channels = net.top, net.channels
    other = below
    if not shortcut:
        net.conv(f"res{name}_0", 4 * width, 1, stride=stride, bias=False)
        net.norm(f"{name}_0")
        other, net.top, net.channels = net.top, below, channels
    net.conv(f"res{name}_a", width, 1, stride=stride, bias=False)
    net.norm(f"{name}_a", relu=True)
    net.conv(f"res{name}_b", width, 3, pad=1, bias=False)
    net.norm(f"{name}_b", relu=True)
    net.conv(f"res{name}_c", 4 * width, 1, bias=False)
    net.norm(f"{name}_c")
    net.layer(f"res{name}", "Eltwise", "", other, net.top)
    net.relu(f"res{name}")


def squeezenet(net: Printer) -> None:
    net.conv("conv1", 64, 3, stride=2, relu=True)
    net.pool("pool1", 3, 2)
    for number, squeezed in (
        (2, 16),
        (3, 16),
        (4, 32),
        (5, 32),
        (6, 48),
        (7, 48),
        (8, 64),
        (9, 64),
    ):
        if number in (4, 6):
            net.pool(f"pool{number - 1}", 3, 2)
        name = f"fire{number}"
        net.conv(f"{name}_squeeze", squeezed, 1, relu=True)
        below = net.top
        net.conv(f"{name}_1x1", 4 * squeezed, 1, relu=True)
        one, net.top, net.channels = net.top, below, squeezed
        net.conv(f"{name}_3x3", 4 * squeezed, 3, pad=1, relu=True)
        net.layer(f"{name}_concat", "Concat", "", one, net.top)
        net.channels = 8 * squeezed
    net.conv("conv10", 1000, 1, relu=True)
    net.average("pool10")
    net.layer("prob", "Softmax")


def alexnet(net: Printer) -> None:
    lrn = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    net.conv("conv1", 96, 11, stride=4, relu=True)
    net.layer("norm1", "LRN", lrn)
    net.pool("pool1", 3, 2)
    net.conv("conv2", 256, 5, pad=2, group=2, relu=True)
    net.layer("norm2", "LRN", lrn)
    net.pool("pool2", 3, 2)
    net.conv("conv3", 384, 3, pad=1, relu=True)
    net.conv("conv4", 384, 3, pad=1, group=2, relu=True)
    net.conv("conv5", 256, 3, pad=1, group=2, relu=True)
    net.pool("pool5", 3, 2)
    net.full("fc6", 4096, 256 * 36, relu=True)
    net.full("fc7", 4096, 4096, relu=True)
    net.full("fc8", 1000, 4096)
    net.layer("prob", "Softmax")


def mobilenet(net: Printer) -> None:
    """The first MobileNet: depthwise and pointwise convolutions in turn."""
    net.conv("conv1", 32, 3, stride=2, pad=1, bias=False)
    net.norm("conv1", relu=True)
    steps = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for number, (outputs, stride) in enumerate([*steps, (1024, 2), (1024, 1)], 2):
        own = net.channels
        net.conv(f"conv{number}_dw", own, 3, stride=stride, pad=1, group=own, bias=False)
        net.norm(f"conv{number}_dw", relu=True)
        net.conv(f"conv{number}_pw", outputs, 1, bias=False)
        net.norm(f"conv{number}_pw", relu=True)
    net.average("pool")
    net.full("fc", 1000, 1024)
    net.layer("prob", "Softmax")


def lenet(net: Printer) -> None:
    net.channels = net.inputs = 1
    net.conv("conv1", 20, 5)
    net.pool("pool1", 2, 2)
    net.conv("conv2", 50, 5)
    net.pool("pool2", 2, 2)
    net.full("ip1", 500, 50 * 16, relu=True)
    net.full("ip2", 10, 500)
    net.layer("prob", "Softmax")


ARCHITECTURES: dict[str, tuple[Callable[[Printer], None], int]] = {
    "vgg16": (vgg16, 224),
    "resnet-50": (resnet(3, 4, 6, 3), 224),
    "resnet-101": (resnet(3, 4, 23, 3), 224),
    "resnet-152": (resnet(3, 8, 36, 3), 224),
    "squeezenet_v1.1": (squeezenet, 227),
    "bvlc_alexnet": (alexnet, 227),
    "mobilenet": (mobilenet, 224),
    "lenet": (lenet, 28),
}


def printed(name: str) -> tuple[str, list[tuple[str, str, tuple[Shape, ...]]]]:
    """The prototxt of one, and its weights' shapes."""
    print_, size = ARCHITECTURES[name]
    net = Printer()
    print_(net)
    return net.prototxt(name, size), net.weights


def grouped(rows: Sequence[Any]) -> tuple[str, list[tuple[str, str, tuple[Shape, ...]]]]:
    """A net of single convolutions, each a `sides.Convolution`, of an input of its own."""
    net, heads = Printer(), []
    for row in rows:
        given = f"{row.name}_in"
        sides = " ".join(f"dim: {n}" for n in (1, row.channels, row.size, row.size))
        heads.append(f'input: "{given}" input_shape {{ {sides} }}')
        net.top, net.channels = given, row.channels
        more = {"stride": row.stride, "pad": row.kernel // 2, "group": row.group}
        net.conv(row.name, row.outputs, row.kernel, bias=False, **more)
    return "\n".join(['name: "layers"', *heads, *net.text, ""]), net.weights
