"""The net, its weights and its reference, by whichever reader applies."""

from __future__ import annotations

import argparse
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas import memory
from schemas.errors import EnvironmentProblem, MalformedModel, UnsupportedModel, UsageError, listed
from schemas.events import Events
from schemas.graph import Net, Shape
from schemas.interchange import Reference
from schemas.plain_hdf5 import bounded_memory
from stage_extract import (
    embedded,
    fillers,
    network,
    prototxt,
    pycaffe,
    reference,
    upgrade,
    weights,
)
from stage_extract.sources import files
from stage_extract.stored import StoredBlob

EMBEDDED = (
    "the net is read from the weights, whose field numbers are taken for those of BVLC's Caffe: "
    "where there is a prototxt, give it"
)


@dataclass(frozen=True)
class Reading:
    """What a reader got.

    Attributes:
        built: the net.
        arrays: parameter key -> its values.
        reference: the recorded pass, if one was asked for.
        filled: the parameter keys whose values come from fillers and not from a file.
    """

    built: network.Built
    arrays: Mapping[str, Any]
    reference: Optional[Reference]
    filled: Tuple[str, ...]


def read(options: argparse.Namespace, notes: List[str], events: Events) -> Reading:
    """The net, its weights and its reference, from whichever reader applies.

    Args:
        notes: takes what the user should be told.

    Raises:
        ConversionError: see schemas.errors.
    """
    paths = files(options)
    weights_path = paths.get("weights")
    caffe = schema = None
    if "prototxt" in paths:
        caffe = _caffe(options.reader, notes)
        schema = None if caffe is None else pycaffe.schema(notes)
        message = upgrade.upgrade(prototxt.read(options.net, schema))
    else:
        if options.reader == "pycaffe":
            raise UsageError("--reader pycaffe needs a prototxt", options.net)
        if options.weights is not None:
            weights.open_weights(options.weights).close()  # it may be the prototxt
        message = embedded.read(options.net)
        notes.append(EMBEDDED)
    state = network.with_state(
        message,
        network.Options(
            phase=options.phase,
            level=options.level,
            stages=tuple(options.stage),
            input_shapes=dict(_input_shape(text) for text in options.input_shape),
            outputs=tuple(name for name in options.outputs.split(",") if name),
            dialects=tuple(options.dialect),
            keep_losses=options.keep_losses,
            ignore_unknown=options.ignore_unknown,
        ),
    )
    with pycaffe.advice(caffe, schema, message), _advice("prototxt" in paths):
        built = network.build(message, state, lambda: _stored_shapes(weights_path))
    for note in built.notes:
        notes.append(note)
    arrays: Dict[str, Any] = {}
    missing: Sequence[str] = ()
    try:
        # With PyCaffe too: Caffe aborts on a misfit, and leaves what is missing as it was.
        arrays, missing = _match(weights_path, built, options.allow_missing, notes)
    except UnsupportedModel:
        if caffe is None:
            raise
    filled = _fill(built, missing, options.seed)
    session = None
    if caffe is not None:
        events.progress("caffe", 0, 1)
        session = pycaffe.Session(caffe, options.net, weights_path, state, built)
        session.set_weights(filled)
        arrays = session.weights()
    events.progress("opened", 1, 1)
    used = {key for layer in built.net.layers for key in layer.weights}
    arrays = {key: array for key, array in {**arrays, **filled}.items() if key in used}
    recorded = None
    if not options.no_reference:
        if session is not None and state.phase == "TEST":
            recorded = reference.record(built.net, session.forward, "caffe", options.seed)
        else:
            run = _numpy_forward(built.net, arrays, events)
            recorded = reference.record(built.net, run, "numpy", options.seed)
        for key in reference.non_finite(recorded.blobs)[:1]:
            notes.append(f"blob {key!r} has infinities or NaNs in the reference")
        empty = reference.without_rows(recorded.blobs)
        if empty:
            notes.append(
                f"nothing is compared of {listed([*map(repr, empty)])}: no rows came out in the "
                "reference; pass --reference, activations of your own that have some"
            )
    return Reading(built, arrays, recorded, tuple(key for key in filled if key in used))


@contextmanager
def _advice(has_prototxt: bool) -> Iterator[None]:
    """Adds to an error over a net without a prototxt that one may help."""
    try:
        yield
    except (MalformedModel, UnsupportedModel) as error:
        if not has_prototxt:
            advice = "the weights may hold the net in part: give the prototxt too"
            error.hint = "; ".join(filter(None, (error.hint, advice)))
        raise


def _numpy_forward(net: Net, arrays: Mapping[str, Any], events: Events) -> reference.Run:
    loaded = _Read(arrays)

    def run(inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        # A layer may take more on its way than its blobs: a convolution's columns, a padded copy.
        with bounded_memory(memory.free()):
            return reference.forward(
                net, loaded, inputs, lambda done, total: events.progress("reference", done, total)
            )

    return run


class _Read(Dict[str, Any]):
    """Parameter key -> its values, read when a layer asks for them and gone when it is done."""

    def __getitem__(self, key: str) -> np.ndarray:
        blob = super().__getitem__(key)
        return _aligned(blob) if isinstance(blob, StoredBlob) else blob


def _aligned(blob: StoredBlob) -> np.ndarray:
    """The blob's values, aligned: then they are multiplied faster, and alike in every file."""
    copy = np.empty(blob.size, blob.dtype)
    filled = 0
    for piece in blob.slices():  # gives the file's pages back
        copy[filled : filled + piece.size] = piece
        filled += piece.size
    return copy.reshape(blob.shape)


def _caffe(reader: str, notes: List[str]) -> Any:
    """The caffe module where PyCaffe is to read, else None."""
    if reader == "protobuf" or (reader == "auto" and not pycaffe.wanted()):
        return None
    try:
        return pycaffe.load()
    except ImportError as error:
        if reader == "pycaffe":
            raise EnvironmentProblem(
                f"import caffe failed: {error}",
                "--reader pycaffe",
                "set PYTHONPATH to Caffe's python folder",
            ) from error
        notes.append(
            f"USE_PYCAFFE is set but import caffe failed ({error}): the protobuf reader is used"
        )
        return None


def _stored_shapes(path: Optional[str]) -> Dict[str, List[Shape]]:
    """Layer name -> shapes of its stored blobs."""
    if path is None:
        return {}
    with weights.open_weights(path) as model:
        return {layer.name: [blob.shape for blob in layer.blobs] for layer in model.layers}


def _match(
    path: Optional[str], built: network.Built, allow_missing: bool, notes: List[str]
) -> Tuple[Dict[str, Any], Sequence[str]]:
    """Parameter key -> stored blob, by Caffe's matching, and the names of layers without any."""
    if path is None:
        if built.weight_shapes:
            notes.append(
                "untrained: no weights were given, those of "
                f"{len(built.weight_shapes)} layers come from their fillers"
            )
        return {}, tuple(built.weight_shapes)
    model = weights.open_weights(path)
    wanted: Dict[str, List[Shape]] = {la.name: [] for la in built.net.layers if not la.weights}
    wanted.update(built.weight_shapes)
    shared = {
        layer.name: [i for i, key in enumerate(layer.weights) if key != f"{layer.name}/{i}"]
        for layer in built.net.layers
    }
    match = weights.match(model.layers, wanted, str(path), allow_missing, shared)
    known = {layer.name for layer in built.net.layers}
    unused = [name for name in match.unused if name not in known]
    if unused:
        names = listed([*map(repr, unused)])
        notes.append(f"{len(unused)} layers of the weights are not in the net: {names}")
    if match.missing:
        notes.append(
            f"untrained: {len(match.missing)} layers are missing from the weights and come from "
            f"their fillers: {listed([*map(repr, match.missing)], len(match.missing))}"
        )
    found = {
        f"{layer}/{i}": blob for layer, blobs in match.blobs.items() for i, blob in blobs.items()
    }
    return found, match.missing


def _fill(built: network.Built, names: Sequence[str], seed: int) -> Dict[str, np.ndarray]:
    """Parameter key -> values as Caffe starts with, for the layers of these names."""
    count = sum(math.prod(shape) for name in names for shape in built.weight_shapes[name])
    memory.require(
        count * np.dtype(np.float32).itemsize,
        "the weights from fillers",
        "give the net's own weights",
    )
    wanted = set(names)
    return {
        f"{layer.name}/{i}": values
        for layer in built.net.layers
        if layer.name in wanted
        for i, values in enumerate(fillers.fill(layer, built.weight_shapes[layer.name], seed))
    }


def _input_shape(text: str) -> Tuple[str, Shape]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise UsageError(f"--input-shape takes NAME=N,C,H,W, found {text!r}")
    return name, shape
