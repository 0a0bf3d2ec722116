"""Verifies a result folder in a process that did not build it."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import MalformedModel, cannot_use
from schemas.graph import Net
from schemas.interchange import read
from stage_build import layout, models, verify

MAX_REFERENCE = 16 * 1024**3


def handle(
    folder: str, net_file: str, artefact: str, tolerance: float, reference: str | None
) -> dict[str, Any]:
    """`check_artefact`, asked by another process."""
    user = Path(reference) if reference else None
    return check_artefact(Path(folder), Path(net_file), artefact, tolerance, user)


def check_artefact(
    folder: Path, net_file: Path, artefact: str, tolerance: float, reference: Path | None = None
) -> dict[str, Any]:
    """Loads one artefact of `folder` and compares it with the recorded reference.

    Args:
        artefact: ``class`` or ``keras``, compared on every blob; ``saved_model``, on its outputs.
        reference: a user's own activations (npz); compared on every blob, by the class.

    Returns:
        JSON values: ``recorded`` (an `Outcome` document), for the class also ``batch`` (the model
        at batch 3 against the same rows), ``user`` and ``skipped``, and on failure ``culprit``.
    """
    started = time.monotonic()
    content = read(net_file)
    net = content.net
    package = None
    if artefact == "class":
        package = models.import_package(folder)
        network = package.load()
        runner: Any = models.KerasRunner(network.model, network.names)
    elif artefact == "keras":
        runner = models.load_keras(folder)
    else:
        runner = models.SavedRunner(folder)
    result: dict[str, Any] = {"recorded": None, "batch": None, "user": None, "skipped": {}}
    outcomes = []
    if content.reference is not None:
        recorded = content.reference
        keys = net.outputs if artefact == "saved_model" else list(recorded.blobs)
        want = {key: recorded.blobs[key] for key in keys if key in recorded.blobs}
        inputs = {key: recorded.inputs[key] for key in net.inputs}
        undefined = verify.undefined_blobs(net, want, recorded.blobs)
        outcome = verify.check(net, runner, inputs, want, tolerance, undefined)
        result["recorded"] = outcome.document()
        outcomes.append((outcome, inputs, want))
        if artefact == "class" and net.dynamic_batch and outcome.passed:
            batch = check_batch(net, runner, inputs, want, tolerance, undefined)
            result["batch"] = batch.document()
    if artefact == "class" and reference is not None:
        inputs, want, result["skipped"] = verify.users_reference(net, load_npz(reference))
        undefined = verify.undefined_blobs(net, want, want)
        outcome = verify.check(net, runner, inputs, want, tolerance, undefined)
        result["user"] = outcome.document()
        outcomes.append((outcome, inputs, want))
    if artefact != "saved_model":
        for outcome, inputs, want in outcomes:
            if not outcome.passed:
                result["culprit"] = find_culprit(net, runner, {**inputs, **want})
                break
    if package is not None:
        models.forget_package(package)
    return {**result, "seconds": time.monotonic() - started}


def check_batch(
    net: Net,
    runner: Any,
    inputs: dict[str, np.ndarray],
    want: dict[str, np.ndarray],
    tolerance: float,
    undefined: Collection[str] = (),
) -> verify.Outcome:
    """Compares the model at batch 3 with what the reference has for its first sample.

    That sample is rows 0 and 2; row 1 is another (the same values in reverse), so that rows which
    leak show.
    """
    stacked = {
        key: np.concatenate(
            [value[:1], value[:1].reshape(-1)[::-1].reshape(value[:1].shape), value[:1]]
        )
        for key, value in inputs.items()
    }
    outputs = [key for key in net.outputs if key in want]
    got = runner({key: layout.to_tensor(value) for key, value in stacked.items()}, outputs)
    compared = []
    for key in outputs:
        blob, index = layout.to_blob(got[key]), net.blobs[key].index
        for row in (0, 2):
            one, first = blob[row : row + 1], want[key][:1]
            compared.append(verify.compare(key, one, first, tolerance, index, key in undefined))
    return verify.Outcome(tuple(compared))


def find_culprit(net: Net, runner: Any, known: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """The first layer that is wrong when it is fed the reference's own bottoms."""
    for layer in net.layers:
        bottoms = [key for key in dict.fromkeys(layer.bottoms) if key in known]
        tops = [key for key in layer.tops if key in known and key not in bottoms]
        if len(bottoms) < len(set(layer.bottoms)) or not tops:
            continue
        if any(runner.tensor(top) is runner.tensor(bottom) for top in tops for bottom in bottoms):
            continue
        values = {key: layout.to_tensor(known[key]) for key in bottoms}
        got = runner.between(bottoms, values, tops)
        for key in tops:
            blob = verify.compare(
                key,
                layout.to_blob(got[key]),
                known[key],
                verify.LAYER_TOLERANCE,
                net.blobs[key].index,
            )
            if not blob.passed:
                return {
                    "layer": layer.name,
                    "type": layer.type,
                    "line": layer.line,
                    **blob.document(),
                }
    return None


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a user's npz file.

    Raises:
        UsageError: there is no such file.
        MalformedModel: it is not an npz file of arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(info.file_size for info in arrays.zip.infolist()) > MAX_REFERENCE:
                raise MalformedModel("larger than 16 GiB", str(path))
            return {
                name: arrays[name] for name in arrays.files if name.startswith(("input:", "blob:"))
            }
    except OSError as error:
        raise cannot_use(path, error) from error
    except (ValueError, KeyError, EOFError, AttributeError) as error:
        raise MalformedModel(f"not an npz file of arrays: {error}", str(path)) from error
