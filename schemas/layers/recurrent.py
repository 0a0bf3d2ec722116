"""Recurrent layers.

BVLC's read sequences that stand side by side: x is (T, N, ...), T steps of N sequences, and
cont (T, N) is 0 where a sequence starts and 1 where it goes on. Caffe unrolls the steps; the net
here does them in turn, so that any T will do. Caffe keeps the state from pass to pass where it is
not exposed; here every pass starts as Caffe's first does, from zeros. Where the first cont is 0, as
it is at the start of a sequence, there is no difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np

from schemas.errors import MalformedModel
from schemas.graph import Shape
from schemas.layers.axes import count
from schemas.layers.registry import BIAS, FILLER, WEIGHT, Filler, Meaning, layer


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), as the layers here compute it themselves."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def cell(gates: np.ndarray, before: np.ndarray, cont: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(c, h) of an LSTM's step; `gates` holds i, f, o, g, one after the other on the last axis.

    c = cont * sigmoid(f) * before + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c).
    """
    i, f, o, g = np.split(gates, 4, axis=-1)
    now = cont * sigmoid(f) * before + sigmoid(i) * np.tanh(g)
    return now, sigmoid(o) * np.tanh(now)


@dataclass(frozen=True, eq=False)
class Recurrent(Meaning):
    """Bottoms x (T, N, ...), cont (T, N), perhaps a static input (N, ...) that every step sees, and
    with `expose_hidden` the first states (1, N, num_output); tops (T, N, num_output) and with
    `expose_hidden` the last states (recurrent_layer.cpp).

    Attributes:
        states: how many states are handed on, of which the first is h.
        wide: how many sets of num_output values a step makes of its inputs.
    """

    num_output: int = 0
    expose_hidden: bool = False

    states = 1
    wide = 1

    def check(self) -> None:
        if self.num_output < 1:
            raise MalformedModel(f"num_output should be positive, found {self.num_output}")

    def static(self, bottoms: int) -> bool:
        """Whether so many bottoms have a static input among them."""
        return bottoms > 2 + self.states * self.expose_hidden

    def time_major(self, bottoms: int) -> Mapping[int, bool]:
        first = 2 + self.static(bottoms)
        return {0: True, 1: True, **dict.fromkeys(range(first, bottoms), False)}

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        self._sizes(bottoms)
        rows = self.wide * self.num_output
        static = [(rows, count(bottoms[2][1:]))] if self.static(len(bottoms)) else []
        return [(rows, count(bottoms[0][2:])), (rows,), *static, (rows, self.num_output)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, BIAS] + [WEIGHT] * (blobs - 2)

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        steps, batch = self._sizes(bottoms)
        exposed = self.states * self.expose_hidden
        if tops != 1 + exposed:
            raise MalformedModel(f"{1 + exposed} tops expected, found {tops}")
        return [(steps, batch, self.num_output), *[(1, batch, self.num_output)] * exposed]

    def _sizes(self, bottoms: Sequence[Shape]) -> Tuple[int, int]:
        """(T, N).

        Raises:
            MalformedModel: the bottoms do not fit each other.
        """
        static = self.static(len(bottoms))
        exposed = self.states * self.expose_hidden
        if len(bottoms) != 2 + static + exposed:
            raise MalformedModel(
                f"{2 + exposed} or one more bottoms expected, found {len(bottoms)}"
            )
        x, cont = tuple(bottoms[0]), tuple(bottoms[1])
        if len(x) < 3 or cont != x[:2]:
            raise MalformedModel(
                f"x (T, N, ...) and cont (T, N) expected, found shapes {list(x)} and {list(cont)}"
            )
        if static and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise MalformedModel(
                f"a static input ({x[1]}, ...) expected, found shape {list(bottoms[2])}"
            )
        state = (1, x[1], self.num_output)
        for shape in bottoms[2 + static :]:
            if tuple(shape) != state:
                raise MalformedModel(f"a state should be {list(state)}, found {list(shape)}")
        return x[0], x[1]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        steps, batch = bottoms[1].shape
        kernel, bias, *others = weights
        # In Caffe's order: all steps' inputs at once, then the sum of what a step's state, its
        # input and the static input give.
        inputs = np.matmul(bottoms[0].reshape(steps * batch, -1), kernel.T) + bias
        inputs = inputs.reshape(steps, batch, -1)
        static = None
        if self.static(len(bottoms)):
            static = np.matmul(bottoms[2].reshape(batch, -1), others.pop(0).T)
        recurrent = others.pop(0)
        states = [state[0] for state in bottoms[2 + (static is not None) :]]
        states = states or [np.zeros((batch, self.num_output), np.float32)] * self.states
        hidden = np.empty((steps, batch, self.num_output), np.float32)
        for step, cont in enumerate(bottoms[1][:, :, None]):
            total = np.matmul(cont * states[0], recurrent.T) + inputs[step]
            if static is not None:
                total += static
            states = self.step(total, states, cont)
            hidden[step] = states[0]
        last = [state[None] for state in states] if self.expose_hidden else []
        return [self.output(hidden, others), *last]

    def step(
        self, total: np.ndarray, states: Sequence[np.ndarray], cont: np.ndarray
    ) -> List[np.ndarray]:
        """The states after a step, h first, from the sum of all that goes into it (N, ...)."""
        raise NotImplementedError

    def output(self, hidden: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
        """The top from h of all steps and the weights that are left."""
        return hidden

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        steps, batch = bottoms[1]
        matrices = [count(shape) for shape in self.weight_shapes(bottoms) if len(shape) == 2]
        static = matrices.pop(1) if self.static(len(bottoms)) else 0
        return batch * (steps * sum(matrices) + static)

    def batch_axes(
        self, bottoms: Sequence[Shape], batches: Sequence[Optional[int]], tops: Sequence[Shape]
    ) -> List[Optional[int]]:
        ordered = self.time_major(len(bottoms))
        wanted = [1 if place in ordered else 0 for place in range(len(bottoms))]
        return [1 if list(batches) == wanted else None] * len(tops)


_HARMLESS = {"weight_filler": FILLER, "bias_filler": FILLER, "debug_info": "prints, and no more"}


@layer("LSTM", message="recurrent_param", harmless=_HARMLESS)
class LSTM(Recurrent):
    """h and c by `cell`, of W_hc (cont * h) + W_xc x + b_c + W_static x_static (lstm_layer.cpp).

    Blobs: W_xc (4H, D), b_c (4H), W_static (4H, D_static) with a static input, W_hc (4H, H).
    """

    bottom_count = (2, 5)
    top_count = (1, 3)
    states = 2
    wide = 4

    def step(
        self, total: np.ndarray, states: Sequence[np.ndarray], cont: np.ndarray
    ) -> List[np.ndarray]:
        now, hidden = cell(total, states[1], cont)
        return [hidden, now]


@layer("RNN", message="recurrent_param", harmless=_HARMLESS)
class RNN(Recurrent):
    """h = tanh(W_hh (cont * h) + W_xh x + b_h + W_static x_static), o = tanh(W_ho h + b_o)
    (rnn_layer.cpp).

    Blobs: W_xh (H, D), b_h (H), W_static (H, D_static) with a static input, W_hh (H, H),
    W_ho (H, H), b_o (H).
    """

    bottom_count = (2, 4)
    top_count = (1, 2)

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        own = [(self.num_output, self.num_output), (self.num_output,)]
        return super().weight_shapes(bottoms) + own

    def fillers(self, blobs: int) -> List[Filler]:
        return super().fillers(blobs - 2) + [WEIGHT, BIAS]

    def step(
        self, total: np.ndarray, states: Sequence[np.ndarray], cont: np.ndarray
    ) -> List[np.ndarray]:
        return [np.tanh(total)]

    def output(self, hidden: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.matmul(hidden.reshape(-1, self.num_output), weights[0].T) + weights[1]
        return np.tanh(rows).reshape(hidden.shape)


@layer("LSTMUnit")
class LSTMUnit(Meaning):
    """One step: (c, h) by `cell` from c before (1, N, H), the gates' inputs (1, N, 4H) and
    cont (1, N) (lstm_unit_layer.cpp)."""

    bottom_count = (3, 3)
    top_count = (2, 2)

    def time_major(self, bottoms: int) -> Mapping[int, bool]:
        return dict.fromkeys(range(bottoms), False)

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 2

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        before = tuple(bottoms[0])
        batch, units = before[1:] if len(before) == 3 else (0, 0)
        if [tuple(shape) for shape in bottoms] != [
            (1, batch, units),
            (1, batch, 4 * units),
            (1, batch),
        ]:
            raise MalformedModel(
                "bottoms (1, N, H), (1, N, 4H) and (1, N) expected, "
                f"found shapes {[list(shape) for shape in bottoms]}"
            )
        return [before, before]

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        before, gates, cont = bottoms
        return list(cell(gates, before, cont[:, :, None]))


@layer(
    "Lstm",
    message="lstm_param",
    harmless={
        "weight_filler": FILLER,
        "bias_filler": FILLER,
        "clipping_threshold": "bounds the gradients in training",
    },
    dialect="junhyukoh",
)
class Lstm(Meaning):
    """An LSTM over x (T * batch_size, ...), a row for each sequence in turn, step after step
    (junhyukoh/caffe-lstm, lstm_layer.cpp).

    h and c by `cell` of W_x x + b + W_h h, where a step that starts a sequence has neither W_h h
    nor c before. That is the first step alone or, with a second bottom, each step whose clip is 0;
    the states at the start of a pass are zeros here, with a second bottom the fork keeps those
    of the pass before. Blobs: W_x (4H, D), W_h (4H, H), b (4H). The top is (T * batch_size, H).

    Two faults of the fork are kept. Its CPU code adds the W_h h of the first sequence to all of
    them, its GPU code each one's own; they differ where batch_size is above 1. And sequence n at
    step t looks at clip t + n, in both.
    """

    num_output: int = 0
    batch_size: int = 1

    bottom_count = (1, 2)

    def check(self) -> None:
        if self.num_output < 1 or self.batch_size < 1:
            raise MalformedModel(
                "num_output and batch_size should be positive, "
                f"found {self.num_output} and {self.batch_size}"
            )

    def weight_shapes(self, bottoms: Sequence[Shape]) -> List[Shape]:
        rows = 4 * self.num_output
        return [(rows, count(bottoms[0][1:])), (rows, self.num_output), (rows,)]

    def fillers(self, blobs: int) -> List[Filler]:
        return [WEIGHT, WEIGHT, BIAS]

    def shapes(self, bottoms: Sequence[Shape], tops: int) -> List[Shape]:
        x = tuple(bottoms[0])
        if not 1 <= len(x) <= 4 or x[0] % self.batch_size:
            raise MalformedModel(
                f"1 to 4 axes and a multiple of {self.batch_size} rows expected, "
                f"found shape {list(x)}"
            )
        last = x[0] // self.batch_size - 1 + self.batch_size - 1
        if len(bottoms) == 2 and not last < bottoms[1][0] == count(bottoms[1]):
            raise MalformedModel(f"a clip of shape ({x[0]}, 1) expected, found {list(bottoms[1])}")
        return [(x[0], self.num_output)]

    def goes_on(self, steps: int, clip: Optional[np.ndarray]) -> np.ndarray:
        """Whether each step goes on with a sequence: bool (steps, batch_size)."""
        step, sequence = np.arange(steps)[:, None], np.arange(self.batch_size)
        return (step + 0 * sequence > 0) if clip is None else clip.ravel()[step + sequence] != 0

    def forward(
        self, bottoms: Sequence[np.ndarray], weights: Sequence[np.ndarray], tops: int
    ) -> List[np.ndarray]:
        rows, batch = len(bottoms[0]), self.batch_size
        kernel, recurrent, bias = weights
        inputs = (np.matmul(bottoms[0].reshape(rows, -1), kernel.T) + bias).reshape(
            rows // batch, batch, -1
        )
        hidden = before = np.zeros((batch, self.num_output), np.float32)
        top = np.empty(inputs.shape[:2] + (self.num_output,), np.float32)
        clip = bottoms[1] if len(bottoms) == 2 else None
        for step, cont in enumerate(self.goes_on(len(inputs), clip)[:, :, None]):
            shared = np.matmul(hidden[:1], recurrent.T)
            total = np.where(cont, inputs[step] + shared, inputs[step])
            before, hidden = cell(total, before, cont.astype(np.float32))
            top[step] = hidden
        return [top.reshape(rows, self.num_output)]

    def macs(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        kernel, recurrent, _ = self.weight_shapes(bottoms)
        return bottoms[0][0] * (count(kernel) + count(recurrent))

    def leading(self, bottoms: Sequence[Shape]) -> int:
        return 0
