"""Verifies a result folder in a process that did not build it."""

from __future__ import annotations

import math
import time
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from schemas import memory
from schemas.errors import ConversionError, MalformedModel, cannot_use
from schemas.graph import Layer, Net
from schemas.interchange import Interchange, read
from stage_build import diagnosis, sizes, verify
from stage_build.artefacts import baking, lite, models, opening, precision
from stage_build.delivery import FORMATS, fewer_bits
from stage_build.lowering.registry import given, plugged_in

MAX_REFERENCE = 16 * 1024**3
# Bytes of blobs in memory at once.
KEPT = 512 * 1024**2
# What fewer bits are held to, relative to an output's greatest magnitude.
TOLERANCES = {**lite.TOLERANCES, **precision.TOLERANCES}


def handle(
    folder: str,
    net_file: str,
    artefact: str,
    tolerance: float,
    reference: str | None,
    rounding: dict[str, float] | None,
    calibration: str | None = None,
    plugins: Sequence[str] = (),
    mapped: bool = False,
    again: bool = False,
) -> dict[str, Any]:
    """`check_artefact`, asked by another process.

    Args:
        plugins: folders of layers of the user's own.
        again: the result was made before, maybe elsewhere: what cannot be loaded is its fault.

    Raises:
        MalformedModel: an artefact that was made before cannot be loaded, or not be run.
    """
    user = Path(reference) if reference else None
    images = Path(calibration) if calibration else None
    out, net = Path(folder), Path(net_file)
    try:
        with plugged_in(plugins):
            return check_artefact(out, net, artefact, tolerance, user, rounding, images, mapped)
    except ConversionError:
        raise
    except Exception as error:  # of zipfile, NumPy, Keras and TensorFlow: every type
        if not again:
            raise
        said = str(error).strip().partition("\n")[0]
        raise MalformedModel(
            f"the {artefact} cannot be loaded or run: {said:.200}",
            str(out / FORMATS[artefact].file),
            "copy it again, or convert the model again",
        ) from error


def check_artefact(
    folder: Path,
    net_file: Path,
    artefact: str,
    tolerance: float,
    reference: Path | None = None,
    rounding: dict[str, float] | None = None,
    calibration: Path | None = None,
    mapped: bool = False,
) -> dict[str, Any]:
    """Loads one artefact of `folder` and compares it with the recorded reference.

    Where the class is out of tolerance by a little, each layer is fed the reference's own bottoms.
    If every layer is right alone, the difference is float32 rounding that the net lets grow, and
    is accepted and told: another order of summation is all that sets the two apart. So is what was
    picked by numbers that are equal but for rounding (see `verify.picked`), however much it
    differs; of a SavedModel, which has no single layers, the class's own graph is then asked for.

    Args:
        artefact: ``class`` or ``keras``, compared on every blob; of the others, the outputs are.
        reference: a user's own activations (npz); compared on every blob, by the class. Where
            nothing was recorded, the others are held to the class on the same inputs.
        rounding: what the check of the class returned under this name.
        calibration: the images that an int8 model.tflite is held to, see `lite.agreement`; fewer
            bits of weights are held to `lite.TOLERANCES` or `precision.TOLERANCES`.
        mapped: result and net_file were just made and are nobody else's yet, see `models.load` and
            `interchange.read`.

    Returns:
        JSON values: ``recorded`` (an `Outcome` document), ``picked`` (keys accepted as picked among
        near ties), ``sizes`` (where images may have any size: at others, against NumPy), ``twin``
        (of what takes pixels, files or int8: against the class), ``tolerance``, ``quantized``;
        for the class also ``batch`` (the model at batch 3 against the same rows), ``user``,
        ``skipped`` and ``rounding`` (blob key -> the relative error that was accepted); on failure
        ``culprit``, with its ``cause`` (see `diagnosis.cause`).
    """
    started = time.monotonic()
    content = read(net_file, mapped)
    names = models.load_names(folder)
    quantized = fewer_bits(artefact, names)
    tolerance = max(tolerance, TOLERANCES.get(quantized or "", 0.0))
    with opening.opened(folder, artefact, mapped) as runner:
        checks = _Checks(
            folder, content, runner, set(names["blobs"]), tolerance, dict(rounding or {})
        )
        result: dict[str, Any] = {"recorded": None, "batch": None, "user": None, "skipped": {}}
        baked = artefact in names.get("baked", ())
        # What these take is no blob of Caffe's: they are held to the class, which is.
        if quantized != "int8" and not (baked and artefact == "tflite"):
            result.update(checks.recorded(artefact))
            if names.get("dynamic_size"):
                result["sizes"] = checks.sizes(artefact)
        if quantized == "int8":
            result["twin"] = checks.calibrated(calibration, baked)
        elif baked:
            result["twin"] = checks.baked(artefact)
        if reference is not None and artefact == "class":
            checks.users(reference, result)
        elif reference is not None and content.reference is None and not result.get("twin"):
            result["twin"] = checks.like_the_class(reference)
    held = {"tolerance": tolerance, "quantized": quantized}
    return {**result, **held, "seconds": time.monotonic() - started}


def _served_by_class(
    folder: Path, inputs: Mapping[str, np.ndarray], keys: Collection[str]
) -> dict[str, np.ndarray]:
    """What the class gives for the outputs among `keys`, as a graph, in Caffe's order."""
    with models.opened_class(folder) as runner:
        return runner.served(inputs, keys)


@dataclass
class _Checks:
    """The comparisons that one artefact stands.

    Attributes:
        folder: where the artefact lies.
        names: keys of the blobs that it has.
        grown: key -> relative error that is put down to rounding.
        picks: keys that are accepted as picked among near ties.
    """

    folder: Path
    content: Interchange
    runner: Any
    names: set[str]
    tolerance: float
    grown: dict[str, float]
    picks: set[str] = field(default_factory=set)

    def calibrated(self, images: Path | None, baked: bool) -> dict[str, Any] | None:
        """Against the class, on the images that the model was calibrated on, if they are there."""
        if images is None:
            return None
        with models.imported(self.folder) as package:
            network = package.load()
            found = lite.Images(network, images, baked)
            return lite.agreement(network, self.runner, found).document()

    def baked(self, artefact: str) -> dict[str, Any]:
        """Against the class with its own preprocessing, on random pixels."""
        with models.imported(self.folder) as package:
            network = package.load()
            if artefact == "saved_model":
                error = baking.signature_error(network, self.runner.signature(baking.SIGNATURE))
            else:
                error = baking.normalization_error(
                    network, self.runner.model if artefact == "keras" else self.runner.named
                )
        # Rounding that grows in the net does so here, too.
        allowed = verify.allowances(self.content.net, self.grown).values()
        passed = error <= max(self.tolerance, *allowed, 0.0)
        fed = baking.SIGNATURE if artefact == "saved_model" else baking.PIXELS
        return verify.Outcome((verify.Compared(fed, (), error, error, 1.0, passed),)).document()

    def like_the_class(self, reference: Path) -> dict[str, Any]:
        """The outputs against those of the class, on the inputs of a user's own activations."""
        net = self.content.net
        inputs, _, _ = verify.users_reference(net, load_npz(reference))
        want = _served_by_class(self.folder, inputs, net.outputs)
        return self._outcome(inputs, want, verify.undefined_blobs(net, want, want)).document()

    def sizes(self, artefact: str) -> dict[str, Any]:
        """At other sizes of images, against NumPy."""
        net, recorded = self.content.net, self.content.reference
        picks = verify.picked(net)

        def excuse(outcome: verify.Outcome, known: Mapping[str, np.ndarray]) -> verify.Outcome:
            return self._excused(outcome, known, picks)[0]

        keys = None if FORMATS[artefact].served else set(net.blobs) - self._unreached()
        return sizes.check_sizes(
            net,
            self.content.weights,
            self.runner,
            self.tolerance,
            keys=keys,
            recorded=recorded.inputs if recorded else None,
            rounding=self.grown,
            # What is served has no single layers that could be looked into.
            **({} if FORMATS[artefact].served else {"excuse": excuse}),
        ).document()

    def recorded(self, artefact: str) -> dict[str, Any]:
        """Against the recorded reference."""
        net, recorded = self.content.net, self.content.reference
        skipped = dict.fromkeys(sorted(self._unreached()), "no output is computed from it")
        result: dict[str, Any] = {"recorded": None, "batch": None, "skipped": skipped}
        if recorded is not None:
            keys = net.outputs if FORMATS[artefact].served else list(recorded.blobs)
            there = [key for key in keys if key in recorded.blobs and key not in skipped]
            want = {key: recorded.blobs[key] for key in there}
            inputs = {key: recorded.inputs[key] for key in net.inputs}
            undefined = verify.undefined_blobs(net, want, recorded.blobs)
            outcome = self._outcome(inputs, want, undefined)
            failed = {blob.name: blob.relative for blob in outcome.compared if not blob.passed}
            picks = verify.picked(net)
            if failed and artefact == "class":
                outcome, result["culprit"] = self._excused(outcome, {**inputs, **want}, picks)
                if outcome.passed:
                    self.grown = {key: error for key, error in failed.items() if key not in picks}
            elif failed and set(failed) <= picks and artefact == "keras":
                outcome, _ = self._excused(outcome, {**inputs, **want}, picks)
            elif failed and set(failed) <= picks:
                twin = _served_by_class(self.folder, inputs, failed)
                outcome = self._outcome(inputs, {**want, **twin}, undefined)
            if outcome.passed:
                self.picks = set(failed) & picks
            result["recorded"] = outcome.document()
            skipped.update(verify.without_rows(want, outcome))
            sure = {key: value for key, value in want.items() if key not in self.picks}
            proven = outcome.passed and not sure.keys().isdisjoint(net.outputs)
            if artefact == "class" and net.dynamic_batch and proven:
                batch = check_batch(
                    net, self.runner, inputs, sure, self.tolerance, undefined, self.grown
                )
                result["batch"] = batch.document()
        return {**result, "rounding": self.grown, "picked": sorted(self.picks)}

    def users(self, reference: Path, result: dict[str, Any]) -> None:
        """Against a user's own activations; adds to the result."""
        net = self.content.net
        inputs, given, unknown = verify.users_reference(net, load_npz(reference))
        unreached = self._unreached()
        want = {key: value for key, value in given.items() if key not in unreached}
        outcome = self._outcome(inputs, want, verify.undefined_blobs(net, want, want))
        if not outcome.passed and not result.get("culprit"):
            picks = verify.picked(net)
            outcome, result["culprit"] = self._excused(outcome, {**inputs, **want}, picks)
        result["user"] = outcome.document()
        skipped = {**result["skipped"], **unknown, **verify.without_rows(want, outcome)}
        parts = [part for part in (result["recorded"], result["user"]) if part]
        shown = {blob["name"] for part in parts for blob in part["blobs"]}
        result["skipped"] = {key: why for key, why in skipped.items() if key not in shown}

    def _unreached(self) -> set[str]:
        return verify.unreached(self.content.net) - self.names

    def _outcome(
        self,
        inputs: Mapping[str, np.ndarray],
        want: Mapping[str, np.ndarray],
        undefined: Collection[str],
    ) -> verify.Outcome:
        net, tolerance = self.content.net, self.tolerance
        return verify.check(net, self.runner, inputs, want, tolerance, undefined, self.grown)

    def _excused(
        self, outcome: verify.Outcome, known: Mapping[str, np.ndarray], picks: Collection[str]
    ) -> tuple[verify.Outcome, dict[str, Any] | None]:
        """The outcome with what is rounding accepted, and the layer that is wrong, if one is."""
        culprit, alone = find_culprit(self.content.net, self.runner, known, self.tolerance)
        if culprit is not None:
            culprit["cause"] = diagnosis.cause(self.content, known, culprit["name"])
        if culprit is not None or alone is None or not outcome.may_be_rounding(picks):
            return outcome, culprit
        return outcome.rounded(alone, picks), None


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
    stacked = {}
    for key, value in inputs.items():
        one = value[net.blobs[key].sample()]
        other = one.reshape(-1)[::-1].reshape(one.shape)
        stacked[key] = np.concatenate([one, other, one], net.blobs[key].batch)
    outputs = [key for key in net.outputs if key in want]
    blobs = sum(math.prod(net.sample_shape(key)) for key in net.blobs)
    # Keras keeps every blob of an eager pass.
    run = runner.traced if 3 * 4 * blobs > KEPT else runner
    got = run(stacked, outputs)
    compared, judge = [], verify.Judge(net, tolerance, undefined, rounding)
    for key in outputs:
        value, blob = got[key], net.blobs[key]
        first = want[key][blob.sample()]
        compared += [judge(key, value[blob.sample(row)], first) for row in (0, 2)]
    return verify.Outcome(tuple(compared))


def find_culprit(
    net: Net,
    runner: Any,
    known: Mapping[str, np.ndarray],
    tolerance: float = verify.NET_TOLERANCE,
) -> tuple[dict[str, Any] | None, float | None]:
    """Feeds each layer the reference's own bottoms and holds it to the tolerance of one layer.

    Where the reference lacks a bottom (of a blob that is overwritten in place, Caffe keeps only the
    last value), the layers from the nearest blobs that it has are taken as one.

    Args:
        tolerance: the one that was asked for; where it is smaller, it holds for one layer too.

    Returns:
        The first layer that is wrong, as JSON values, or None; and, where every layer could be
        checked and is right, the largest relative error of one.
    """
    alone = min(tolerance, verify.LAYER_TOLERANCE)
    worst: float | None = 0.0
    writers = {key: layer for layer in net.layers for key in layer.tops}
    for layer in net.layers:
        tops = [key for key in layer.tops if key in known]
        bottoms = _known_before(net, layer, known, writers) if tops else []
        if bottoms is None:
            worst = None
            continue
        fed = [runner.tensor(key) for key in bottoms]
        made = [key for key in tops if not any(runner.tensor(key) is tensor for tensor in fed)]
        if not made:
            continue
        got = runner.between(bottoms, {key: known[key] for key in bottoms}, made)
        for key in made:
            blob = verify.compare(key, got[key], known[key], alone, net.blobs[key].index)
            if not blob.passed:
                place = {"layer": layer.name, "type": layer.type, "line": layer.line}
                return {**place, **blob.document()}, None
            worst = None if worst is None else max(worst, blob.relative)
    return None, worst


def _known_before(
    net: Net, layer: Layer, known: Collection[str], writers: Mapping[str, Layer]
) -> list[str] | None:
    """The nearest known blobs that the layer's tops are computed from; None where one is not."""
    found: dict[str, None] = {}
    ahead = list(given(net, layer))
    while ahead:
        key = ahead.pop(0)
        if key in known:
            found[key] = None
        elif key in writers:
            ahead += given(net, writers[key])
        else:
            return None
    return list(found)


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a user's npz file.

    Raises:
        UsageError: there is no such file.
        MalformedModel: it is not an npz file of arrays.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as members:
            size = sum(info.file_size for info in members.infolist())
            if size > MAX_REFERENCE:
                raise MalformedModel("larger than 16 GiB", str(path))
            memory.require(size, "the arrays of --reference", "leave some of them out")
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            found = {
                name: arrays[name] for name in arrays.files if name.startswith(("input:", "blob:"))
            }
    except OSError as error:
        raise cannot_use(path, error) from error
    except ConversionError:
        raise
    except Exception as error:  # of zipfile, zlib and NumPy's reader: nearly every type
        said = str(error).partition("\n")[0]
        raise MalformedModel(f"not an npz file of arrays: {said}", str(path)) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise MalformedModel(f"not an npz file of numbers: {name!r} holds none", str(path))
    return found
