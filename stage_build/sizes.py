"""Nets whose images may have any height and width: which they are, and the proof at other sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from schemas.errors import ConversionError, UnsupportedModel, UsageError
from schemas.forward import forward
from schemas.graph import Layer, Net, Shape
from schemas.interchange import array_shape
from schemas.layers import registry as meanings
from stage_build import verify
from stage_build.lowering.registry import Call, lower, lower_layer, of_any_size

# Input key -> (height, width).
Sizes = Mapping[str, tuple[int, int]]

SEED = 20160628
PROOFS = 3

# Other sizes, by what is added to height and width. Those of a net that halves its images, and adds
# what it doubles again, must be whole multiples of some power of two.
_SMALLER = ((-3, -6), (-1, -2), (-2, -1), (-16, -32), (-32, -32))
_LARGER = ((1, 2), (6, 7), (13, 3), (3, 5), (16, 48), (48, 16), (32, 64), (64, 96))


def images(net: Net) -> tuple[str, ...]:
    """The keys of the inputs that are images: of 4 axes, and more than one pixel.

    Raises:
        UsageError: there is none.
    """
    found = tuple(
        key
        for key in net.inputs
        if len(net.blobs[key].shape) == 4 and net.blobs[key].shape[2:] != (1, 1)
    )
    if not found:
        raise UsageError("--dynamic-size: the net has no images for inputs")
    return found


def at(net: Net, sizes: Sizes) -> Net:
    """The net with every blob's shape worked out anew for images of these sizes.

    Args:
        sizes: of some or all of `images`; the others keep theirs.

    Raises:
        MalformedModel, UnsupportedModel: a layer cannot take what it then gets.
    """
    found = _inferred(net, sizes)
    for error in found.errors.values():
        raise error
    return found.net


@dataclass(frozen=True)
class _Inferred:
    """A net at other sizes.

    Attributes:
        errors: layer name -> why it cannot take what it gets; its tops, and all that is computed
            from them, keep their shapes.
        unknown: the keys of those.
        parameters: layer name -> the shapes of its weights.
    """

    net: Net
    errors: dict[str, ConversionError]
    unknown: set[str]
    parameters: dict[str, list[Shape]]


def _inferred(net: Net, sizes: Sizes) -> _Inferred:
    shapes = {key: (*net.blobs[key].shape[:2], *size) for key, size in sizes.items()}
    errors: dict[str, ConversionError] = {}
    unknown: set[str] = set()
    parameters: dict[str, list[Shape]] = {}
    for layer in net.layers:
        if not unknown.isdisjoint(layer.bottoms):
            unknown.update(layer.tops)
            continue
        bottoms = [shapes.get(key, net.blobs[key].shape) for key in layer.bottoms]
        try:
            _, parameters[layer.name], tops = meanings.infer(layer, bottoms)
        except ConversionError as error:
            errors[layer.name] = error
            unknown.update(layer.tops)
        else:
            shapes.update(zip(layer.tops, map(tuple, tops), strict=True))
    blobs = {
        key: replace(blob, shape=shapes.get(key, blob.shape)) for key, blob in net.blobs.items()
    }
    return _Inferred(replace(net, blobs=blobs), errors, unknown, parameters)


def _own(net: Net) -> dict[str, tuple[int, int]]:
    return {key: (net.blobs[key].shape[2], net.blobs[key].shape[3]) for key in images(net)}


def _scaled(net: Net, down: float, across: float) -> dict[str, tuple[int, int]]:
    """Sizes of all images by a share of their own."""
    return {key: (int(h * down), int(w * across)) for key, (h, w) in _own(net).items()}


def _added(net: Net, steps: Sequence[tuple[int, int]]) -> Iterator[dict[str, tuple[int, int]]]:
    """Sizes of all images that are larger, or smaller, by these steps."""
    for down, across in steps:
        yield {key: (h + down, w + across) for key, (h, w) in _own(net).items()}


def _larger(net: Net) -> list[_Inferred]:
    """The net at larger sizes: those that every layer can take, or else one of the others."""
    found = [_inferred(net, sizes) for sizes in (*_added(net, _LARGER), _scaled(net, 2, 3))]
    fewest = min(len(inferred.errors) for inferred in found)
    fitting = [inferred for inferred in found if len(inferred.errors) == fewest]
    return fitting if fewest == 0 else fitting[:1]


def require_any_size(net: Net, weights: Mapping[str, np.ndarray]) -> None:
    """Refuses a net that cannot be converted for images of any size.

    It can where every layer that sees the size is declared so (`any_size`), and becomes the same
    call, with weights of the same shapes, at other sizes.

    Raises:
        UnsupportedModel: names all layers that do not.
        UsageError: see `images`.
    """
    own = _calls(net, weights)
    problems: dict[str, UnsupportedModel] = {}
    for inferred in _larger(net):
        problems = {**_problems(net, inferred, own, weights), **problems}
    if problems:
        named = [problems[layer.name] for layer in net.layers if layer.name in problems]
        raise UnsupportedModel("; ".join(map(str, named)), hint="build without --dynamic-size")
    if not proof_sizes(net, weights):
        raise UnsupportedModel(
            "--dynamic-size: no other size of images was found that every layer takes, so nothing "
            "could be proven",
            hint="build without it",
        )


def _calls(net: Net, weights: Mapping[str, np.ndarray]) -> dict[str, Call]:
    return {lowered.site.layer.name: lowered.call for lowered in lower(net, weights)}


def _problems(
    net: Net, inferred: _Inferred, own: Mapping[str, Call], weights: Mapping[str, np.ndarray]
) -> dict[str, UnsupportedModel]:
    """Layer name -> what binds it to the net's own size, seen at another one."""
    found = {
        layer.name: UnsupportedModel(
            f"it cannot take what images of another size make of its bottoms: "
            f"{inferred.errors[layer.name].message}",
            str(layer),
        )
        for layer in net.layers
        if layer.name in inferred.errors
    }
    for layer in net.layers:
        if inferred.unknown.isdisjoint((*layer.bottoms, *layer.tops)):
            problem = _problem(net, inferred, layer, own[layer.name], weights)
            if problem is not None:
                found[layer.name] = problem
    return found


def _problem(
    net: Net, inferred: _Inferred, layer: Layer, own: Call, weights: Mapping[str, np.ndarray]
) -> UnsupportedModel | None:
    """What binds a layer whose shapes are known at the other size."""
    stored = [tuple(array_shape(weights, key)) for key in layer.weights]
    if stored != [tuple(shape) for shape in inferred.parameters[layer.name]]:
        return UnsupportedModel("its weights are for one size of image", str(layer))
    resized = [key for key in layer.bottoms if inferred.net.blobs[key] != net.blobs[key]]
    if resized and not of_any_size(layer):
        return UnsupportedModel("its TensorFlow form is for one size of image", str(layer))
    try:
        call = lower_layer(inferred.net, layer, weights).call
    except ConversionError as error:
        return UnsupportedModel(f"it has no form for another size: {error.message}", str(layer))
    if (call.method, call.arguments, call.alias) == (own.method, own.arguments, own.alias):
        return None
    changed = [str(key) for key in call.arguments if call.arguments[key] != own.arguments.get(key)]
    named = f"{call.method}({', '.join(changed)})"
    return UnsupportedModel(f"{named} depends on the size of the image", str(layer))


def free_sides(net: Net) -> dict[str, tuple[int, ...]]:
    """Blob key -> those of its axes that are as large as the images make them, if there are any."""
    larger = [inferred.net.blobs for inferred in _larger(net)]
    found = {
        key: tuple(
            axis
            for axis, size in enumerate(blob.shape)
            if any(blobs[key].shape[axis] != size for blobs in larger)
        )
        for key, blob in net.blobs.items()
    }
    return {key: axes for key, axes in found.items() if axes}


def proof_sizes(net: Net, weights: Mapping[str, np.ndarray]) -> list[dict[str, tuple[int, int]]]:
    """Up to `PROOFS` other sizes that a net of any size is proven at, the first smaller if any is.

    At each the net is what it is at its own size: a convolution is not, in Caffe, where the image
    is too small for one window.

    Args:
        net: one that `require_any_size` lets pass.
    """
    own = _calls(net, weights)

    def fits(sizes: Sizes) -> bool:
        if min(min(size) for size in sizes.values()) < 1:
            return False
        inferred = _inferred(net, sizes)
        return not inferred.errors and not _problems(net, inferred, own, weights)

    less = (_scaled(net, 0.4, 0.6), _scaled(net, 0.5, 0.5), *_added(net, _SMALLER))
    smaller = [*itertools.islice(filter(fits, less), 1)]
    larger = filter(fits, (*_added(net, _LARGER), _scaled(net, 2, 3)))
    return [*smaller, *itertools.islice(larger, PROOFS - len(smaller))]


def references(
    net: Net,
    weights: Mapping[str, np.ndarray],
    recorded: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[Net, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """For each of `proof_sizes`: the net at it, inputs, and every blob of NumPy's forward pass.

    Args:
        recorded: the inputs of a reference at the net's own size; images of other sizes are made of
            its values, drawn at random from a seed. Without it, inputs are normal random values.

    Yields:
        Inputs and blobs by key, in Caffe's order, of one sample where any batch size will do.
    """
    for sizes in proof_sizes(net, weights):
        resized = at(net, sizes)
        generator = np.random.Generator(np.random.PCG64(SEED))
        inputs = {}
        for key in net.inputs:
            shape = resized.sample_shape(key)
            if recorded is None:
                inputs[key] = generator.standard_normal(shape, np.float32)
            elif key in sizes:
                inputs[key] = generator.choice(recorded[key].reshape(-1), shape)
            else:
                inputs[key] = recorded[key][net.blobs[key].sample() if net.dynamic_batch else ...]
        yield resized, inputs, forward(resized, weights, inputs)


# An outcome that failed, and the values that it was held to -> what is to be made of it.
Excuse = Callable[[verify.Outcome, Mapping[str, np.ndarray]], verify.Outcome]


def check_sizes(
    net: Net,
    weights: Mapping[str, np.ndarray],
    run: verify.Run,
    tolerance: float,
    *,
    keys: Collection[str] | None = None,
    recorded: Mapping[str, np.ndarray] | None = None,
    rounding: Mapping[str, float] | None = None,
    excuse: Excuse = lambda outcome, known: outcome,
) -> verify.Outcome:
    """Compares a model, at each of `proof_sizes`, with NumPy's forward pass.

    Args:
        run: see `verify.check`.
        keys: the blobs that are compared; None for the outputs.
        recorded: see `references`.
        rounding: see `verify.check`.
        excuse: asked about each size that fails, see `verify.Outcome.rounded`.
    """
    chosen = net.outputs if keys is None else keys
    compared: list[verify.Compared] = []
    for resized, inputs, blobs in references(net, weights, recorded):
        want = {key: blobs[key] for key in chosen}
        undefined = verify.undefined_blobs(resized, want, blobs)
        outcome = verify.check(resized, run, inputs, want, tolerance, undefined, rounding)
        if not outcome.passed:
            outcome = excuse(outcome, {**inputs, **want})
        compared += outcome.compared
    return verify.Outcome(tuple(compared))
