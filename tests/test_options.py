"""Options that no worker would accept are told before one is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver import options
from stage_build import delivery
from tests.rooms import call, call_json, net, room

__all__ = ["call", "call_json", "room"]  # fixtures


@pytest.mark.parametrize("words", ["FORMATS", "QUANTIZATIONS", "PRECISIONS", "LAYOUTS"])
def test_the_driver_knows_the_worker_s_words(words):
    assert getattr(options, words) == tuple(getattr(delivery, words))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--formats", "class,h5"), "--formats: unknown format 'h5'; known: class, keras, "),
        (("--quantize", "int4"), "--quantize must be float16 or dynamic or int8, not 'int4'"),
        (("--precision", "half"), "--precision must be float32 or bfloat16, not 'half'"),
        (("--input-layout", "hwc"), "--input-layout must be nhwc or nchw, not 'hwc'"),
        (("--quantize", "float16"), "--quantize is for tflite, see --formats"),
        (("--calibration", "."), "--calibration is for tflite, see --formats"),
        (
            ("--quantize", "int8", "--formats", "tflite"),
            "--quantize int8 and --calibration DIR go together",
        ),
    ],
)
def test_before_a_worker_is_started(given, message, room, call_json):
    document = call_json("convert", net("pid started\n---\n"), "-o", "out", *given)
    assert document["exit_code"] == 2
    assert document["error"].startswith(message)
    assert not Path("started").exists()
