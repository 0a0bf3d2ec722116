"""Caffe's recurrent layers: time-major, with a state that starts anew wherever `cont` is 0."""

import math

import keras
import tensorflow as tf

from stage_build.runtime.base import CaffeLayer, Calls, registered


class RecurrentCalls(Calls):
    def lstm(self, tensors, units, *, name, static=False, expose=False):
        """h of an LSTM at each step: (T, N, units) from x (T, N, ...) and cont (T, N).

        Args:
            tensors: [x, cont], then a `static` input (N, ...) that every step sees, then, with
                `expose`, the first h and c (1, N, units).
            expose: give the last h and c too: three tensors.
        """
        return self._recurrent(Lstm(units, static, expose, name=name), tensors)

    def rnn(self, tensors, units, *, name, static=False, expose=False):
        """tanh of a dense layer over h of a simple RNN; tensors as for `lstm`, without c."""
        return self._recurrent(Rnn(units, static, expose, name=name), tensors)

    def lstm_unit(self, tensors, *, name):
        """[c, h] after one step, from c before, the gates' inputs and cont."""
        return self._named(self.add(LstmUnit(name=f"{name}__step"), tensors), name)

    def junhyukoh_lstm(self, tensors, units, *, name, batch=1, cpu=False):
        """An LSTM over rows (T * batch, ...): x, or [x, clip], which is 0 where sequences start.

        Args:
            cpu: as the fork computes on a CPU, where all sequences take the first one's h; without
                it, as on a GPU, where each takes its own.
        """
        return self.add(JunhyukohLstm(units, batch, cpu, name=name), tensors)

    def _recurrent(self, layer, tensors):
        if not layer.settings["expose"]:
            return self.add(layer, tensors)
        name, layer.name = layer.name, f"{layer.name}__steps"
        return self._named(self.add(layer, tensors), name)

    def _named(self, tops, name):
        """Each tensor as the output of a layer of its own."""
        return [
            self.add(keras.layers.Identity(name=f"{name}__{i}"), top) for i, top in enumerate(tops)
        ]


def lstm_cell(gates, before, cont):
    """(c, h) from c before and the gates i, f, o, g, one after the other on the last axis."""
    i, f, o, g = tf.split(gates, 4, axis=-1)
    now = cont * tf.sigmoid(f) * before + tf.sigmoid(i) * tf.tanh(g)
    return now, tf.sigmoid(o) * tf.tanh(now)


class Recurrent(CaffeLayer):
    """What Caffe's recurrent layers share (recurrent_layer.cpp).

    Attributes:
        states: how many states are handed on, of which the first is h.
        wide: how many sets of `units` values a step makes of its inputs.
    """

    states = 1
    wide = 1

    def __init__(self, units, static, expose, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False
        self.settings = {"units": units, "static": static, "expose": expose}

    def build(self, shapes):
        units = self.settings["units"]
        size = math.prod(in_caffes_order(shapes[0])[2:])
        wide = self.wide * units
        self.kernel = self.add_weight(shape=(size, wide), name="kernel")
        self.bias = self.add_weight(shape=(wide,), name="bias")
        if self.settings["static"]:
            size = math.prod(shapes[2][1:])
            self.static_kernel = self.add_weight(shape=(size, wide), name="static_kernel")
        self.recurrent_kernel = self.add_weight(shape=(units, wide), name="recurrent_kernel")

    def compute_output_shape(self, shapes):
        steps, batch = in_caffes_order(shapes[0])[:2]
        units = self.settings["units"]
        top, state = (steps, batch, units), (1, batch, units)
        return [top] + [state] * self.states if self.settings["expose"] else top

    def call(self, tensors):
        x, cont, *others = tensors
        if len(x.shape) == 4:
            x = tf.transpose(x, [0, 3, 1, 2])
        steps, batch = tf.unstack(tf.shape(x)[:2])
        tf.debugging.assert_equal(tf.shape(cont), [steps, batch], "cont should be (T, N), as x is")
        # As in Caffe, the inputs of all steps at once.
        inputs = tf.matmul(tf.reshape(x, [-1, self.kernel.shape[0]]), self.kernel) + self.bias
        inputs = tf.reshape(inputs, [steps, batch, inputs.shape[1]])
        static = None
        if self.settings["static"]:
            rows = tf.reshape(others.pop(0), [batch, self.static_kernel.shape[0]])
            static = tf.matmul(rows, self.static_kernel)
        size = [batch, self.settings["units"]]
        first = [tf.reshape(state, size) for state in others] or [tf.zeros(size)] * self.states

        def step(states, given):
            inputs, cont = given
            total = tf.matmul(cont * states[0], self.recurrent_kernel) + inputs
            return self.step(total if static is None else total + static, states, cont)

        states = tf.scan(step, (inputs, cont[:, :, None]), tuple(first))
        top = self.top(states[0])
        return [top, *(state[-1:] for state in states)] if self.settings["expose"] else top

    def step(self, total, states, cont):
        """The states after a step, from the sum of all that goes into it."""
        raise NotImplementedError

    def top(self, hidden):
        """The top, from h of all steps."""
        return hidden


@registered
class Lstm(Recurrent):
    """Caffe's LSTM, gates i, f, o, g (lstm_layer.cpp)."""

    states = 2
    wide = 4

    def step(self, total, states, cont):
        now, hidden = lstm_cell(total, states[1], cont)
        return hidden, now


@registered
class Rnn(Recurrent):
    """Caffe's RNN (rnn_layer.cpp)."""

    def build(self, shapes):
        super().build(shapes)
        units = self.settings["units"]
        self.output_kernel = self.add_weight(shape=(units, units), name="output_kernel")
        self.output_bias = self.add_weight(shape=(units,), name="output_bias")

    def step(self, total, states, cont):
        return (tf.tanh(total),)

    def top(self, hidden):
        rows = tf.reshape(hidden, [-1, self.settings["units"]])
        rows = tf.tanh(tf.matmul(rows, self.output_kernel) + self.output_bias)
        return tf.reshape(rows, tf.shape(hidden))


@registered
class LstmUnit(CaffeLayer):
    """One step of an LSTM, without weights (lstm_unit_layer.cpp)."""

    def compute_output_shape(self, shapes):
        return [shapes[0], shapes[0]]

    def call(self, tensors):
        before, gates, cont = tensors
        return list(lstm_cell(gates, before, cont[:, :, None]))


@registered
class JunhyukohLstm(CaffeLayer):
    """junhyukoh's LSTM over rows (caffe-lstm, lstm_layer.cpp)."""

    def __init__(self, units, batch, cpu, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False
        self.settings = {"units": units, "batch": batch, "cpu": cpu}

    def build(self, shapes):
        x = shapes[0] if isinstance(shapes[0], (list, tuple)) else shapes
        units = self.settings["units"]
        self.kernel = self.add_weight(shape=(math.prod(x[1:]), 4 * units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(units, 4 * units), name="recurrent_kernel")
        self.bias = self.add_weight(shape=(4 * units,), name="bias")

    def compute_output_shape(self, shapes):
        x = shapes[0] if isinstance(shapes[0], (list, tuple)) else shapes
        return (x[0], self.settings["units"])

    def call(self, tensors):
        x, *clip = tensors if isinstance(tensors, (list, tuple)) else [tensors]
        batch, units = self.settings["batch"], self.settings["units"]
        rows = tf.matmul(tf.reshape(x, [-1, self.kernel.shape[0]]), self.kernel) + self.bias
        inputs = tf.reshape(rows, [-1, batch, 4 * units])
        step, sequence = tf.range(tf.shape(inputs)[0])[:, None], tf.range(batch)
        if clip:  # sequence n looks at clip t + n, a fault of the fork
            conts = tf.gather(tf.reshape(clip[0], [-1]), step + sequence) != 0
        else:
            conts = step + 0 * sequence > 0

        def take(states, given):
            inputs, cont = given
            hidden = states[0][:1] if self.settings["cpu"] else states[0]
            total = tf.matmul(hidden, self.recurrent_kernel) + inputs
            now, hidden = lstm_cell(
                tf.where(cont, total, inputs), states[1], tf.cast(cont, inputs.dtype)
            )
            return hidden, now

        zeros = tf.zeros([batch, units])
        hidden, _ = tf.scan(take, (inputs, conts[:, :, None]), (zeros, zeros))
        return tf.reshape(hidden, [-1, units])


def in_caffes_order(shape):
    """A tensor's shape as Caffe has it."""
    return [shape[axis] for axis in (0, 3, 1, 2)] if len(shape) == 4 else list(shape)
