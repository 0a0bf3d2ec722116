"""What a worker sees of the environment: modules, settings, threads, GPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from schemas.processes import processors

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
"""TensorFlow reads the first two, once each; OpenBLAS (NumPy's, Caffe's), MKL and OpenMP the third.

What a user has set for one of them alone, such as OPENBLAS_NUM_THREADS, comes before it.
"""

TENSORFLOW_SETTINGS = ("TF_", "TF2_", "TFLITE_", "TENSORFLOW_", "KERAS_", "XLA_", "AUTOGRAPH_")
"""How the names begin that TensorFlow, Keras and XLA read: nothing that reads Caffe files does."""


def environment(
    stage: str, python: str, threads: int | None = None, gpu: bool | None = None
) -> dict[str, str]:
    """The environment variables a worker of `stage` under `python` is given.

    PYTHONPATH is kept for extraction, where PyCaffe lives on it, without the entries that mean the
    current folder (an empty one is easily left by `PYTHONPATH=$PYTHONPATH:/opt/caffe/python`).
    Extraction sees no settings of TensorFlow's. What the user has set of the others is respected.

    Args:
        threads: how many it may compute with, as many as there are processors by default.
        gpu: whether it sees the GPUs that CUDA_VISIBLE_DEVICES names, which extraction never does:
            PyCaffe computes on the processor. By default validation alone does.
    """
    env = dict(os.environ)
    unwanted = ["PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT"]
    if python != sys.executable:
        unwanted += ["PYTHONHOME", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__"]
    if stage == "extract":
        unwanted += [name for name in env if name.startswith(TENSORFLOW_SETTINGS)]
    for name in unwanted:
        env.pop(name, None)
    used: Sequence[str] = THREADS
    if stage == "extract":
        entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        kept = [entry for entry in entries if entry and os.path.normpath(entry) != os.curdir]
        if kept:
            env["PYTHONPATH"] = os.pathsep.join(kept)
        used = THREADS[2:]
    else:
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        env["KERAS_BACKEND"] = "tensorflow"
    for name in used:
        env.setdefault(name, str(threads or processors()))
    return {**env, **_devices(stage, gpu)}


def _devices(stage: str, gpu: bool | None) -> dict[str, str]:
    """What decides over the GPUs of a worker."""
    if stage == "validate" and gpu is None:
        return {}
    if stage == "extract" or not gpu:
        return {"CUDA_VISIBLE_DEVICES": "-1"}
    # float32 means float32; and the exporter and the checker share the GPU.
    return {"NVIDIA_TF32_OVERRIDE": "0", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
