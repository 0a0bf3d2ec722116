"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stage_build import layout
from stage_build.lowering.registry import Call, Site, lowering, unheld_loop


@lowering("LSTM")
def lstm(site: Site) -> Call:
    return Call("lstm", _arguments(site), _weights(site), unheld=unheld_loop(site))


@lowering("RNN")
def rnn(site: Site) -> Call:
    return Call("rnn", _arguments(site), _weights(site), unheld=unheld_loop(site))


def _static(site: Site) -> bool:
    return bool(site.meaning.static(len(site.bottoms)))


def _arguments(site: Site) -> dict[Any, Any]:
    made = site.meaning
    return {0: made.num_output, "static": _static(site), "expose": made.expose_hidden}


def _weights(site: Site) -> Callable[[], list[np.ndarray]]:
    def weights() -> list[np.ndarray]:
        arrays = [array.T for array in site.arrays]
        if _static(site):
            arrays[2] = _rows(site.arrays[2], site.bottoms[2].shape)
        return arrays

    return weights


def _rows(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The kernel for rows of a blob of this shape, flattened as the tensor has them."""
    return layout.inner_product_kernel(weight, shape[1:] if len(shape) == 4 else ())


@lowering("LSTMUnit")
def lstm_unit(site: Site) -> Call:
    return Call("lstm_unit")


@lowering("Lstm", dialect="junhyukoh")
def junhyukoh_lstm(site: Site) -> Call:
    made = site.meaning

    def weights() -> list[np.ndarray]:
        kernel, recurrent, bias = site.arrays
        return [_rows(kernel, site.bottoms[0].shape), recurrent.T, bias]

    several = made.batch_size > 1
    return Call(
        "junhyukoh_lstm", {0: made.num_output, "batch": made.batch_size, "cpu": several}, weights
    )
