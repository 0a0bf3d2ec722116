"""Prints a lowered net: model.py, caffe_layers.py and names.json."""

from __future__ import annotations

import ast
import functools
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.graph import Net
from schemas.interchange import Interchange
from stage_build import layout, learning, sizes
from stage_build.caffe_layers import calls_name, module_source, runtime_source
from stage_build.delivery import Delivery
from stage_build.images import FAMILY, Images, images_of, write_labels
from stage_build.lowering.registry import Call, Lowered
from stage_build.names import Namespace, class_name
from stage_build.printing import (
    WIDTH,
    Code,
    docstring,
    filled,
    literal,
    parenthesised,
    wrapped,
    wrapped_call,
    wrapped_tuple,
)
from stage_build.verify import unreached

_INIT = '''{title}

from .model import {name}


def load():
    """The net with its weights: ``load()(images)``; its Keras model is ``load().model``."""
    return {name}()
'''

_MAIN = '''"""python -m PACKAGE [IMAGE ...]: classifies images; without any, describes the net."""

import sys

from . import load


def describe(net):
    """Prints layers, inputs and outputs."""
    net.model.summary()
    for kind in ("inputs", "outputs"):
        for name, here in net.names[kind].items():
            print(f"{kind[:-1]} {name!r}: {here}")


def classify(net, paths):
    """Prints the best classes of each image; returns 1 if there is one without, else 0."""
    failed = 0
    for path in paths:
        try:
            best = net.classify(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            failed = 1
        else:
            print(path)
            for label, probability in best:
                print(f"{probability:10.4f}  {label}")
    return failed


if __name__ == "__main__":
    network = load()
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    if len(sys.argv) == 1:
        sys.exit(describe(network))
    sys.exit(classify(network, sys.argv[1:]))
'''


@dataclass(frozen=True)
class Names:
    """Identifiers for everything in the net.

    Attributes:
        inputs, outputs: blob key -> identifier.
        layers: layer name -> Keras layer name.
        blobs: blob key -> (Keras layer name, index among its outputs).
        variables: blob key -> Python variable.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: dict[str, str]
    blobs: dict[str, tuple[str, int]]
    variables: dict[str, str]

    def document(self, net: Net) -> dict[str, Any]:
        """names.json: Caffe's names -> the names in the class."""
        named = {name: self.blobs[key] for name, key in net.names.items() if key in self.blobs}
        blobs = {**self.blobs, **named}
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "layers": self.layers,
            "blobs": {name: list(place) for name, place in sorted(blobs.items())},
        }


def write_package(
    folder: Path,
    content: Interchange,
    lowered: Sequence[Lowered],
    delivery: Delivery = Delivery(),  # noqa: B008  it is frozen
) -> None:
    """Writes the class and what it needs, but the weights, into `folder`."""
    net = content.net
    names = _names(net, lowered)
    title = _title(content)
    name = class_name(net.name)
    families = {item.family for item in lowered}
    images = images_of(content, layout.Door(**delivery.door()))
    if images is not None:
        families.add(FAMILY)
        images.write(folder)
    write_labels(folder, content.labels)
    files = {
        "__init__.py": _INIT.format(title="\n".join(docstring(title)), name=name),
        "__main__.py": _MAIN,
        "model.py": _model_source(net, lowered, names, title, name, delivery, images),
        "caffe_layers.py": runtime_source(sorted(families)),
        "names.json": json.dumps(
            {**names.document(net), **delivery.facts()}, indent=1, ensure_ascii=True
        )
        + "\n",
    }
    for file, text in files.items():
        (folder / file).write_text(text, "utf-8")


def _title(content: Interchange) -> str:
    """One line of provenance, free of anything that could end a docstring."""

    def safe(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9._ -]", "_", text[:40])

    sources = " and ".join(f"{safe(s.name)} (sha256 {safe(s.sha256)[:8]})" for s in content.sources)
    title = f"{safe(content.net.name) or 'A net'}, converted from {sources or 'Caffe'}"
    if not content.filled:
        return title + "."
    part = "" if len(content.filled) == len(content.weights) else " in part"
    return f"{title}; untrained{part}: weights come from fillers, see report.json."


# Names

# What the generated method itself needs, and what its readers would take for something else.
_RESERVED = ("self", "folder", "model", "graph", "keras", "tf", "np", "float", "pixels")


def _names(net: Net, lowered: Sequence[Lowered]) -> Names:
    space = Namespace(_RESERVED)
    inputs = {key: space.take(net.blobs[key].name, "input") for key in net.inputs}
    layers = {item.site.layer.name: space.take(item.site.layer.name, "layer") for item in lowered}
    blobs: dict[str, tuple[str, int]] = {key: (name, 0) for key, name in inputs.items()}
    for item in lowered:
        layer = item.site.layer
        for index, key in enumerate(layer.tops):
            if item.call.alias:
                blobs[key] = blobs[layer.bottoms[0]]
            elif len(layer.tops) > 1:
                blobs[key] = (f"{layers[layer.name]}__{index}", 0)
            else:
                blobs[key] = (layers[layer.name], 0)
    held = {blobs[key] for key in set(blobs) - unreached(net)}
    blobs = {key: place for key, place in blobs.items() if place in held}
    out = Namespace()
    outputs = {key: out.take(net.blobs[key].name, "output") for key in net.outputs}
    return Names(inputs, outputs, layers, blobs, _variables(net, lowered, inputs))


def _variables(net: Net, lowered: Sequence[Lowered], inputs: dict[str, str]) -> dict[str, str]:
    """A Python variable for each value; an overwritten blob keeps its one if nobody looks back."""
    last_read = {
        blob.key: place for place, item in enumerate(lowered) for blob in item.site.bottoms
    }
    last_read |= dict.fromkeys(net.outputs, len(lowered))
    space = Namespace((*_RESERVED, *inputs.values()))
    variables = dict(inputs)
    holds = {variable: key for key, variable in inputs.items()}
    names: dict[str, str] = {}
    for place, item in enumerate(lowered):
        for key in item.site.layer.tops:
            blob = net.blobs[key].name
            variable = names.get(blob)
            if variable is None or last_read.get(holds[variable], -1) > place:
                variable = space.take(blob, "blob")
                names[blob] = variable
            variables[key] = variable
            holds[variable] = key
    return variables


# model.py


def _model_source(
    net: Net,
    lowered: Sequence[Lowered],
    names: Names,
    title: str,
    name: str,
    delivery: Delivery,
    images: Images | None,
) -> str:
    door = layout.Door(**delivery.door())
    sides = sizes.free_sides(net) if delivery.dynamic_size else {}

    def tensor(key: str) -> tuple[int | None, ...]:
        free, shape = (*net.free_axes(key), *sides.get(key, ())), net.blobs[key].shape
        return door.input_order([None if i in free else side for i, side in enumerate(shape)])

    def described(keys: Sequence[str], known: dict[str, str]) -> str:
        texts = []
        for key in keys:
            named = [str(side) for side in net.blobs[key].shape]
            for axis in sides.get(key, ()):
                named[axis] = "HW"[axis - 2] if key in net.inputs else "any"
            for axis in net.free_axes(key):
                named[axis] = "N" if axis == net.blobs[key].batch else "T"
            varying = net.blobs[key].varying
            if varying is not None:
                named[varying] = "rows"
            order = door.input_order if key in net.inputs else door.output_order
            texts.append(f"{known[key]} ({', '.join(order(named))})")
        return ", ".join(texts)

    summary = (
        f"{described(net.inputs, names.inputs)} float32 -> {described(net.outputs, names.outputs)}."
    )
    lines = [
        *docstring(title),
        "",
        "from .caffe_layers import Network",
        "",
        "",
        f"class {name}(Network):",
        *docstring(summary, "    "),
        "",
        *wrapped("    inputs = ", {names.inputs[key]: tensor(key) for key in net.inputs}),
        *_frozen(lowered, names),
        *(images.lines() if images else ()),
        "",
        *wrapped_call("    def graph(", ["self", *(names.inputs[k] for k in net.inputs)], "):"),
    ]
    spatial = [names.inputs[key] for key in net.inputs if len(net.blobs[key].shape) == 4]
    for image in spatial if door.layout == "nchw" else ():
        lines.append(f'        {image} = self.from_nchw({image}, name="{image}__nhwc")')
    for image in spatial if door.transposed else ():
        lines.append(f'        {image} = self.transposed({image}, name="{image}__turned")')
    for item in lowered:
        lines += _statement(item, names)
    outputs = {}
    for key in net.outputs:
        code = names.variables[key]
        if door.transposed and len(net.blobs[key].shape) == 4:
            code = f'self.transposed({code}, name="{names.outputs[key]}__upright")'
        outputs[names.outputs[key]] = Code(code)
    return "\n".join([*lines, *wrapped("        return ", outputs), ""])


def _frozen(lowered: Sequence[Lowered], names: Names) -> list[str]:
    """The class attribute that names the layers which training leaves alone, if there are any."""
    layers = [item.site.layer for item in lowered if not item.call.alias]
    found = [names.layers[layer.name] for layer in layers if learning.frozen(layer)]
    return wrapped_tuple("    frozen = ", found) if found else []


def statements(net: Net, lowered: Sequence[Lowered]) -> dict[str, str]:
    """Layer name -> the statement of model.py that it became."""
    names = _names(net, lowered)
    return {
        item.site.layer.name: textwrap.dedent("\n".join(_statement(item, names)))
        for item in lowered
    }


def _statement(item: Lowered, names: Names) -> list[str]:
    layer, call = item.site.layer, item.call
    bottoms = [names.variables[blob.key] for blob in item.site.bottoms]
    tops = [names.variables[key] for key in layer.tops]
    indent = " " * 8
    if len(tops) == 1 and call.alias:
        return parenthesised(f"{indent}{tops[0]} = ", bottoms[0])
    arguments = [f"[{', '.join(bottoms)}]" if len(bottoms) > 1 else bottoms[0]]
    arguments += _arguments(call, item.family)
    if not call.alias:
        arguments.append(f'name="{names.layers[layer.name]}"')
    start = f"{indent}{', '.join(tops)} = self.{call.method}("
    if len(start) <= WIDTH:
        return wrapped_call(start, arguments, ")")
    assigned = filled([f"{top}," for top in tops], indent + "    ")
    rest = wrapped_call(f"{indent}) = self.{call.method}(", arguments, ")")
    return [f"{indent}(", *assigned, *rest]


def _arguments(call: Call, family: str) -> list[str]:
    """The arguments as source, in the method's own order, without those that equal the defaults."""
    parameters = _parameters(family)[call.method]
    places = sorted(key for key in call.arguments if isinstance(key, int))
    named = {key for key in call.arguments if not isinstance(key, int)}
    if not named <= set(parameters) or places != list(range(len(places))):
        raise TypeError(f"{family}.{call.method} does not take {call.arguments}")
    texts = [literal(call.arguments[place]) for place in places]
    for name, default in parameters.items():
        if name in named:
            text = literal(call.arguments[name])
            if text != default:
                texts.append(f"{name}={text}")
    return texts


def _parameters(family: str) -> dict[str, dict[str, str]]:
    """Method -> parameter -> its default as source ("" for none), read without importing Keras."""
    return _methods(module_source(family), calls_name(family))


@functools.lru_cache(maxsize=64)
def _methods(source: str, calls: str) -> dict[str, dict[str, str]]:
    methods = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == calls:
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    methods[method.name] = _defaults(method.args)
    return methods


def _defaults(arguments: ast.arguments) -> dict[str, str]:
    positional = [argument.arg for argument in arguments.args]
    tail = zip(positional[::-1], arguments.defaults[::-1], strict=False)
    defaults = {**dict.fromkeys(positional, ""), **{name: _source(node) for name, node in tail}}
    for argument, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        defaults[argument.arg] = _source(node) if node else ""
    return defaults


def _source(node: ast.expr) -> str:
    return literal(ast.literal_eval(node))
