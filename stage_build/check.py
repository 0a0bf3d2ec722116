"""Verifies a result folder in a process that did not build it."""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import MalformedModel, cannot_use
from schemas.graph import Net
from schemas.interchange import read
from stage_build import layout, models, verify

MAX_REFERENCE = 16 * 1024**3


def handle(
    folder: str,
    net_file: str,
    artefact: str,
    tolerance: float,
    reference: str | None,
    rounding: dict[str, float] | None,
) -> dict[str, Any]:
    """`check_artefact`, asked by another process."""
    user = Path(reference) if reference else None
    return check_artefact(Path(folder), Path(net_file), artefact, tolerance, user, rounding)


def check_artefact(
    folder: Path,
    net_file: Path,
    artefact: str,
    tolerance: float,
    reference: Path | None = None,
    rounding: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Loads one artefact of `folder` and compares it with the recorded reference.

    Where the class is out of tolerance by a little, each layer is fed the reference's own bottoms.
    If every layer is right alone, the difference is float32 rounding that the net lets grow, and
    is accepted and told: another order of summation is all that sets the two apart.

    Args:
        artefact: ``class`` or ``keras``, compared on every blob; ``saved_model``, on its outputs.
        reference: a user's own activations (npz); compared on every blob, by the class.
        rounding: what the check of the class returned under this name.

    Returns:
        JSON values: ``recorded`` (an `Outcome` document); for the class also ``batch`` (the model
        at batch 3 against the same rows), ``user``, ``skipped`` and ``rounding`` (blob key -> the
        relative error that was accepted); on failure ``culprit``.
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
    grown = dict(rounding or {})
    unreached = verify.unreached(net) - set(models.load_names(folder)["blobs"])
    skipped = dict.fromkeys(sorted(unreached), "no output is computed from it")
    result: dict[str, Any] = {"recorded": None, "batch": None, "user": None, "skipped": skipped}
    if content.reference is not None:
        recorded = content.reference
        keys = net.outputs if artefact == "saved_model" else list(recorded.blobs)
        there = [key for key in keys if key in recorded.blobs and key not in unreached]
        want = {key: recorded.blobs[key] for key in there}
        inputs = {key: recorded.inputs[key] for key in net.inputs}
        undefined = verify.undefined_blobs(net, want, recorded.blobs)
        outcome = verify.check(net, runner, inputs, want, tolerance, undefined, grown)
        if not outcome.passed and artefact == "class":
            result["culprit"], alone = find_culprit(net, runner, {**inputs, **want}, tolerance)
            if result["culprit"] is None and outcome.may_be_rounding and alone is not None:
                failed = [blob for blob in outcome.compared if not blob.passed]
                grown = {blob.name: blob.relative for blob in failed}
                outcome = outcome.rounded(alone)
        result["recorded"] = outcome.document()
        if artefact == "class" and net.dynamic_batch and outcome.passed:
            batch = check_batch(net, runner, inputs, want, tolerance, undefined, grown)
            result["batch"] = batch.document()
    if artefact == "class" and reference is not None:
        inputs, given, unknown = verify.users_reference(net, load_npz(reference))
        want = {key: value for key, value in given.items() if key not in unreached}
        skipped.update(unknown)
        undefined = verify.undefined_blobs(net, want, want)
        outcome = verify.check(net, runner, inputs, want, tolerance, undefined, grown)
        result["user"] = outcome.document()
        if not outcome.passed and not result.get("culprit"):
            result["culprit"], _ = find_culprit(net, runner, {**inputs, **want}, tolerance)
    if package is not None:
        models.forget_package(package)
    return {**result, "rounding": grown, "seconds": time.monotonic() - started}


def check_batch(
    net: Net,
    runner: Any,
    inputs: dict[str, np.ndarray],
    want: dict[str, np.ndarray],
    tolerance: float,
    undefined: Collection[str] = (),
    rounding: Mapping[str, float] | None = None,
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
    compared, allowed = [], verify.allowances(net, rounding)
    for key in outputs:
        blob, index = layout.to_blob(got[key]), net.blobs[key].index
        limit = max(tolerance, allowed.get(key, 0.0))
        for row in (0, 2):
            one, first = blob[row : row + 1], want[key][:1]
            compared.append(verify.compare(key, one, first, limit, index, key in undefined))
    return verify.Outcome(tuple(compared))


def find_culprit(
    net: Net,
    runner: Any,
    known: dict[str, np.ndarray],
    tolerance: float = verify.NET_TOLERANCE,
) -> tuple[dict[str, Any] | None, float | None]:
    """Feeds each layer the reference's own bottoms and holds it to the tolerance of one layer.

    Args:
        tolerance: the one that was asked for; where it is smaller, it holds for one layer too.

    Returns:
        The first layer that is wrong, as JSON values, or None; and, where every layer could be
        checked and is right, the largest relative error of one.
    """
    alone = min(tolerance, verify.LAYER_TOLERANCE)
    worst: float | None = 0.0
    for layer in net.layers:
        bottoms = list(dict.fromkeys(layer.bottoms))
        tops = [key for key in layer.tops if key in known]
        if not all(key in known for key in bottoms) or len(tops) < len(layer.tops):
            worst = None
            continue
        given = [runner.tensor(key) for key in bottoms]
        made = [key for key in tops if not any(runner.tensor(key) is tensor for tensor in given)]
        if not made:
            continue
        got = runner.between(bottoms, {key: layout.to_tensor(known[key]) for key in bottoms}, made)
        for key in made:
            value, index = layout.to_blob(got[key]), net.blobs[key].index
            blob = verify.compare(key, value, known[key], alone, index)
            if not blob.passed:
                place = {"layer": layer.name, "type": layer.type, "line": layer.line}
                return {**place, **blob.document()}, None
            worst = None if worst is None else max(worst, blob.relative)
    return None, worst


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a user's npz file.

    Raises:
        UsageError: there is no such file.
        MalformedModel: it is not an npz file of arrays.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as members:
            if sum(info.file_size for info in members.infolist()) > MAX_REFERENCE:
                raise MalformedModel("larger than 16 GiB", str(path))
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            found = {
                name: arrays[name] for name in arrays.files if name.startswith(("input:", "blob:"))
            }
    except OSError as error:
        raise cannot_use(path, error) from error
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise MalformedModel(f"not an npz file of arrays: {error}", str(path)) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise MalformedModel(f"not an npz file of numbers: {name!r} holds none", str(path))
    return found
