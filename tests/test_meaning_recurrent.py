"""What recurrent layers mean, worked by hand.

With the logarithms below, gates are fractions: sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2,
sigmoid(-ln 3) = 1/4, tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 3/5, tanh(ln 3) = 4/5.
"""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConversionError, MalformedModel, UnsupportedModel
from schemas.graph import Layer
from schemas.layers import registry

LN2, LN3 = np.log(2), np.log(3)
# Gates i = 3/4, f = 1/2, o = 1/4, g = 3/5 of an input of 1.
GATES = np.array([[LN3], [0], [-LN3], [LN2]])
ONE = {"num_output": 1}


def layer(type_, param, bottoms, tops):
    message = {"Lstm": "lstm_param", "LSTMUnit": ""}.get(type_, "recurrent_param")
    return Layer(
        "it",
        type_,
        tuple(f"b{i}" for i in range(bottoms)),
        tuple(f"t{i}" for i in range(tops)),
        {message: param} if message else {},
        dialect="junhyukoh" if type_ == "Lstm" else "",
    )


def forward(type_, param, bottoms, weights=(), tops=1):
    """The tops, after shapes and parameters were checked."""
    bottoms = [np.asarray(bottom, np.float32) for bottom in bottoms]
    weights = [np.asarray(weight, np.float32) for weight in weights]
    of = layer(type_, param, len(bottoms), tops)
    made, weight_shapes, shapes = registry.infer(of, [bottom.shape for bottom in bottoms])
    assert [weight.shape for weight in weights] == [tuple(shape) for shape in weight_shapes]
    results = made.forward(bottoms, weights, tops)
    assert [result.shape for result in results] == [tuple(shape) for shape in shapes]
    assert all(result.dtype == np.float32 for result in results)
    return results


def close(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected, np.float32), rtol=1e-6, atol=1e-7)


# ---- BVLC ----------------------------------------------------------------------------------------


def test_lstm_hands_c_on_as_far_as_cont_says():
    """lstm_unit_layer.cpp. T = 2, N = 3, x = 1, W_hc = 0; cont of the second step is 1, 0, 1/2.

    c_1 = 3/4 * 3/5 = 0.45; c_2 = cont * 1/2 * 0.45 + 0.45 = 0.675, 0.45, 0.5625;
    h = 1/4 * tanh(c).
    """
    (top,) = forward(
        "LSTM",
        ONE,
        [np.ones((2, 3, 1)), [[0, 1, 1], [1, 0, 0.5]]],
        [GATES, np.zeros(4), np.zeros((4, 1))],
    )
    close(top[:, :, 0], np.tanh([[0.45] * 3, [0.675, 0.45, 0.5625]]) / 4)


def test_lstm_multiplies_h_by_cont_before_its_weights():
    """lstm_layer.cpp. h_0 = 2, c_0 = 1, x = 0, W_hc = GATES / 2; cont is 1, then 0.

    cont 1: the gates are those of 1: c = 1/2 * 1 + 3/4 * 3/5 = 0.95, h = tanh(0.95) / 4.
    cont 0: all gates are those of 0: c = 0 + 1/2 * 0 = 0, h = 0.
    """
    top, hidden, cell = forward(
        "LSTM",
        {"num_output": 1, "expose_hidden": True},
        [np.zeros((1, 2, 3)), [[1, 0]], [[[2], [2]]], [[[1], [1]]]],
        [np.zeros((4, 3)), np.zeros(4), GATES / 2],
        tops=3,
    )
    close(top, np.tanh([[[0.95], [0]]]) / 4)
    close(hidden, top)
    close(cell, [[[0.95], [0]]])


def test_lstm_adds_bias_and_static_input_at_every_step():
    """lstm_layer.cpp. Half of each gate's input is b, half W_static * 1/2 of the image (2, 2).

    At each step the gates are those of 1: c_1 = 0.45, c_2 = 1/2 * 0.45 + 0.45 = 0.675.
    """
    (top,) = forward(
        "LSTM",
        ONE,
        [np.zeros((2, 1, 3)), [[0], [1]], [[[0, 0], [0.5, 7]]]],
        [np.zeros((4, 3)), GATES[:, 0] / 2, np.hstack([0 * GATES, GATES, GATES, 0 * GATES]),
         np.zeros((4, 1))],
    )  # fmt: skip
    close(top[:, 0, 0], np.tanh([0.45, 0.675]) / 4)


def test_lstm_flattens_what_comes_after_time_and_batch():
    """inner_product_layer.cpp, axis 2: x (T, N, 2, 2) times W_xc (4, 4), C order; 1 = 0.25 * 4."""
    x = np.zeros((1, 2, 2, 2))
    x[0, 1, 0, 1] = 4
    (top,) = forward(
        "LSTM",
        ONE,
        [x, [[1, 1]]],
        [np.hstack([GATES, GATES / 4, GATES, GATES]), np.zeros(4), np.zeros((4, 1))],
    )
    close(top[0, :, 0], [0, np.tanh(0.45) / 4])


def test_the_units_of_a_gate_stand_together():
    """lstm_unit_layer.cpp: i, f, o, g have H rows each. H = 2, gates of 1 for unit 0, of 0 for 1.

    Unit 0: h = tanh(0.45) / 4; unit 1: c = 1/2 * 0 = 0.
    """
    kernel = np.zeros((8, 1))
    kernel[0::2] = GATES
    (top,) = forward(
        "LSTM",
        {"num_output": 2, "debug_info": True},
        [np.ones((1, 1, 1)), [[0]]],
        [kernel, np.zeros(8), np.zeros((8, 2))],
    )
    close(top[0, 0], [np.tanh(0.45) / 4, 0])


@pytest.mark.parametrize("expose", [False, True])
def test_rnn(expose):
    """rnn_layer.cpp. x is 1, then 0; W_xh = ln 2, W_hh = 5/3 ln 2, W_ho = 5/3 (ln 3 - ln 2),
    b_o = ln 2; cont of the second step is 1, 0.

    h_1 = tanh(ln 2) = 3/5; h_2 = tanh(5/3 ln 2 * cont * 3/5) = 3/5, 0;
    o = tanh(ln 3 - ln 2 + ln 2) = 4/5 where h = 3/5, tanh(ln 2) = 3/5 where h = 0.
    """
    states = [np.zeros((1, 2, 1))] * expose
    top, *last = forward(
        "RNN",
        {"num_output": 1, "expose_hidden": expose},
        [[[[1], [1]], [[0], [0]]], [[1, 1], [1, 0]], *states],
        [[[LN2]], [0], [[5 / 3 * LN2]], [[5 / 3 * (LN3 - LN2)]], [LN2]],
        tops=1 + expose,
    )
    close(top[:, :, 0], [[0.8, 0.8], [0.8, 0.6]])
    for state in last:
        close(state, [[[0.6], [0]]])


def test_rnn_takes_its_static_weights_third():
    """rnn_layer.cpp: W_xh, b_h, W_static, W_hh, W_ho, b_o.

    h = tanh(W_static * 2) = tanh(ln 2) = 3/5, o = tanh(5/3 ln 3 * 3/5) = 4/5.
    """
    (top,) = forward(
        "RNN",
        ONE,
        [np.zeros((1, 1, 3)), [[0]], [[2, 9]]],
        [np.zeros((1, 3)), [0], [[LN2 / 2, 0]], [[0]], [[5 / 3 * LN3]], [0]],
    )
    close(top, [[[0.8]]])


def test_lstm_unit():
    """lstm_unit_layer.cpp. Gates 3/4, 1/2, 1/4, 3/5, c before = 1; cont is 1, 0.

    c = cont * 1/2 * 1 + 0.45 = 0.95, 0.45; h = tanh(c) / 4.
    """
    cell, hidden = forward(
        "LSTMUnit", {}, [np.ones((1, 2, 1)), [[GATES[:, 0]] * 2], [[1, 0]]], tops=2
    )
    close(cell[0, :, 0], [0.95, 0.45])
    close(hidden[0, :, 0], np.tanh([0.95, 0.45]) / 4)


def test_gates_far_out_saturate():
    """sigmoid(-1000) = 0 and sigmoid(1000) = 1, without a warning: c = 1 * 0.5 + 0 = 0.5."""
    gates = [[[-1000, 1000, 1000, 0]]]
    cell, hidden = forward("LSTMUnit", {}, [[[[0.5]]], gates, [[1]]], tops=2)
    close(cell, [[[0.5]]])
    close(hidden, np.tanh([[[0.5]]]))


# ---- junhyukoh -----------------------------------------------------------------------------------

# W_h that makes of h = tanh(0.45) / 4 a g of 3/5 and leaves the other gates alone.
G_ALONE = np.array([[0], [0], [0], [LN2 * 4 / np.tanh(0.45)]])


def test_junhyukohs_lstm_hands_c_on():
    """lstm_layer.cpp. Three rows, x = (1/2, 1/2), W_h = 0: c = 0.45, 0.45 / 2 + 0.45 = 0.675,
    0.675 / 2 + 0.45 = 0.7875; h = tanh(c) / 4. Blobs: W_x, W_h, b."""
    (top,) = forward(
        "Lstm",
        {"num_output": 1, "clipping_threshold": 0.01},
        [np.full((3, 2), 0.5)],
        [np.hstack([GATES, GATES]) / 2, np.zeros((4, 1)), GATES[:, 0] / 2],
    )
    close(top[:, 0], np.tanh([0.45, 0.675, 0.7875]) / 4)


def test_a_clip_of_0_starts_a_sequence():
    """lstm_layer.cpp. x is 1, 0, 1, 0 and clip 1, 2, 0, 0 (anything but 0 goes on).

    Row 0: c = 0.45. Row 1: g = 3/5 by W_h, i = f = o = 1/2: c = 0.45 / 2 + 3/5 / 2 = 0.525.
    Row 2: c = 0.45 again. Row 3: neither W_h h nor c: c = 1/2 * 0 = 0.
    """
    (top,) = forward(
        "Lstm",
        ONE,
        [[[1], [0], [1], [0]], [[1], [2], [0], [0]]],
        [GATES, G_ALONE, np.zeros(4)],
    )
    expected = [np.tanh(0.45) / 4, np.tanh(0.525) / 2, np.tanh(0.45) / 4, 0]
    close(top[:, 0], expected)


def test_all_sequences_of_a_batch_take_the_first_ones_h():
    """lstm_layer.cpp, Forward_cpu: h_to_gate is added and never moved on.

    Two sequences side by side, x is 1, 0 at step 0 and 0, 0 at step 1. Step 0: c = 0.45, 0.
    Step 1: g = 3/5 for both, from the first one's h: c = 0.45 / 2 + 0.3 = 0.525, 0 + 0.3 = 0.3.
    """
    (top,) = forward(
        "Lstm",
        {"num_output": 1, "batch_size": 2},
        [[[1], [0], [0], [0]]],
        [GATES, G_ALONE, np.zeros(4)],
    )
    close(top[:, 0], [np.tanh(0.45) / 4, 0, np.tanh(0.525) / 2, np.tanh(0.3) / 2])


def test_a_sequence_of_a_batch_looks_at_clip_t_plus_n():
    """lstm_layer.cpp: clip + offset(t), then clip_t[n]. As above, with clip 0, 0, 1, 0.

    Step 1: the first looks at clip 1, which is 0: c = 0; the second at clip 2: c = 0.3.
    """
    (top,) = forward(
        "Lstm",
        {"num_output": 1, "batch_size": 2},
        [[[1], [0], [0], [0]], [[0], [0], [1], [0]]],
        [GATES, G_ALONE, np.zeros(4)],
    )
    close(top[:, 0], [np.tanh(0.45) / 4, 0, 0, np.tanh(0.3) / 2])


# ---- Refusals ------------------------------------------------------------------------------------

X, CONT = (5, 2, 4), (5, 2)
STATE = (1, 2, 6)
SIX = {"num_output": 6}


@pytest.mark.parametrize(
    "type_, param, shapes, tops, error, message",
    [
        ("LSTM", {}, [X, CONT], 1, MalformedModel, "num_output should be positive, found 0"),
        ("RNN", SIX, [X], 1, MalformedModel, "2 to 4 bottoms expected, found 1"),
        ("RNN", SIX, [X, CONT, (2, 3), STATE], 1, MalformedModel, "2 or one more bottoms"),
        ("LSTM", SIX, [X, CONT], 3, MalformedModel, "1 tops expected, found 3"),
        ("LSTM", SIX, [X, (2, 5)], 1, MalformedModel, r"shapes \[5, 2, 4\] and \[2, 5\]"),
        ("LSTM", SIX, [CONT, CONT], 1, MalformedModel, r"x \(T, N, ...\) and cont \(T, N\)"),
        ("LSTM", SIX, [X, CONT, (3, 3)], 1, MalformedModel, r"static input \(2, ...\) expected"),
        ("LSTM", SIX, [X, CONT, (2,)], 1, MalformedModel, r"static input .*found shape \[2\]"),
        ("LSTM", {**SIX, "expose_hidden": True}, [X, CONT, STATE], 3, MalformedModel,
         "4 or one more bottoms expected, found 3"),
        ("LSTM", {**SIX, "expose_hidden": True}, [X, CONT, STATE, (1, 2, 5)], 3, MalformedModel,
         r"a state should be \[1, 2, 6\], found \[1, 2, 5\]"),
        ("LSTM", {**SIX, "direction": "reverse"}, [X, CONT], 1, UnsupportedModel, "direction"),
        ("LSTMUnit", {}, [STATE, (1, 2, 18), (1, 2)], 2, MalformedModel, r"\(1, N, 4H\)"),
        ("LSTMUnit", {}, [X, (5, 2, 16), CONT], 2, MalformedModel, r"\(1, N, H\)"),
        ("LSTMUnit", {}, [CONT, CONT, CONT], 2, MalformedModel, r"\(1, N, H\)"),
        ("Lstm", {}, [(6, 4)], 1, MalformedModel, "found 0 and 1"),
        ("Lstm", {**SIX, "batch_size": 0}, [(6, 4)], 1, MalformedModel, "found 6 and 0"),
        ("Lstm", {**SIX, "batch_size": 4}, [(6, 4)], 1, MalformedModel, "multiple of 4 rows"),
        ("Lstm", SIX, [(6, 1, 1, 1, 1)], 1, MalformedModel, "1 to 4 axes"),
        ("Lstm", SIX, [(6, 4), (6, 2)], 1, MalformedModel, r"a clip of shape \(6, 1\)"),
        ("Lstm", {**SIX, "batch_size": 2}, [(6, 4), (3, 1)], 1, MalformedModel, "a clip of shape"),
    ],
)  # fmt: skip
def test_refused(type_, param, shapes, tops, error, message):
    with pytest.raises(ConversionError, match=message) as caught:
        registry.infer(layer(type_, param, len(shapes), tops), shapes)
    assert isinstance(caught.value, error)
