"""The network in NumPy: it scores what is served, and is the independent check of the network that is trained.

The variables of a bar are selected once, because neighbouring windows share all bars but one. Bars and windows are
computed in blocks of a fixed size, the last one filled up: the order in which a matrix product adds up depends on its
shape, so that one row alone and the same row in a batch have the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.tft.architecture import Architecture

    Array = NDArray[np.float32]

# Bars and windows of a block.
BARS: Final = 64
WINDOWS: Final = 16

_EPSILON: Final = np.float32(1e-5)
_ONE: Final = np.float32(1)
# Beyond it the exponential overflows in float32.
_LARGEST: Final = np.float32(80)


@dataclass(frozen=True, slots=True, eq=False)
class _Context:
    """What the network needs of one symbol, each of shape (h,): constants of its layers, and the LSTM's first state."""

    select: Array
    enrich: Array
    state: Array
    cell: Array


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Scores of windows, and what they were made of.

    Attributes:
        logits: Log odds of up, shape (m,).
        attention: Weight of each bar of the window in the attention, mean of the heads, shape (m, window).
    """

    logits: NDArray[np.float64]
    attention: Array


class Forward:
    """The forward pass of a network.

    Args:
        architecture: Its sizes.
        parameters: Its parameters by name, with the shapes that `Architecture.shapes` gives.
    """

    def __init__(self, architecture: Architecture, parameters: Mapping[str, Array]) -> None:
        self.architecture = architecture
        self._p = {name: np.ascontiguousarray(value, np.float32) for name, value in parameters.items()}
        # As they are multiplied: inputs on the rows.
        self._t: dict[str, Array] = {
            name: np.ascontiguousarray(np.swapaxes(value, -1, -2))
            for name, value in self._p.items()
            if name.endswith(".weight") and value.ndim > 1 and not name.startswith(("variable.embed", "variable.in"))
        }
        for name in ("lstm.input", "lstm.hidden", "attend.query", "attend.key", "attend.value"):
            self._t[name] = np.ascontiguousarray(self._p[name].T)
        self._contexts = [self._make_context(row) for row in self._p["symbol"]]

    def _make_context(self, symbol: Array) -> _Context:
        static = {
            name: self._grn(f"static.{name}", symbol[None, :])[0] for name in ("select", "enrich", "state", "cell")
        }
        return _Context(
            select=static["select"] @ self._p["select.context"].T,
            enrich=static["enrich"] @ self._p["enrich.context"].T,
            state=static["state"],
            cell=static["cell"],
        )

    def select(self, variables: Array, symbol: int) -> tuple[Array, Array]:
        """Return what the network makes of each bar, shape (n, h), and the weight of each variable, shape (n, v).

        Args:
            variables: The variables of bars of one symbol, shape (n, v).
            symbol: Position of the symbol.
        """
        count, v = variables.shape
        made = np.empty((count, self.architecture.hidden), np.float32)
        weights = np.empty((count, v), np.float32)
        context, block = self._contexts[symbol], np.zeros((BARS, v), np.float32)
        for start in range(0, count, BARS):
            part = slice(start, min(start + BARS, count))
            size = part.stop - start
            block[:size] = variables[part]
            block[size:] = 0
            block_made, block_weights = self._select_block(block, context)
            made[part], weights[part] = block_made[:size], block_weights[:size]
        return made, weights

    def _select_block(self, x: Array, context: _Context) -> tuple[Array, Array]:
        p, t = self._p, self._t
        first = _elu(x @ t["select.in.weight"] + p["select.in.bias"] + context.select)
        middle = first @ t["select.mid.weight"] + p["select.mid.bias"]
        skip = x @ t["select.skip.weight"] + p["select.skip.bias"]
        weights = _softmax(self._gated("select", middle, skip))
        # Variables first: each has its own matrices.
        by_variable = np.ascontiguousarray(x.T)[:, :, None]
        first = _elu(by_variable * p["variable.in.weight"][:, None, :] + p["variable.in.bias"][:, None, :])
        middle = _multiply(first, t["variable.mid.weight"]) + p["variable.mid.bias"][:, None, :]
        opened = _multiply(middle, t["variable.gate.weight"]) + p["variable.gate.bias"][:, None, :]
        skip = by_variable * p["variable.embed.weight"][:, None, :] + p["variable.embed.bias"][:, None, :]
        made = _normalise(_glu(opened) + skip, p["variable.norm.gain"][:, None, :], p["variable.norm.bias"][:, None, :])
        return (np.ascontiguousarray(weights.T)[:, :, None] * made).sum(axis=0), weights

    def score(self, made: Array, ends: NDArray[np.int64], symbol: int) -> NDArray[np.float64]:
        """Return the log odds of up of windows, shape (m,).

        Args:
            made: What `select` made of consecutive bars, shape (n, h).
            ends: Position of the last bar of each window, shape (m,), `window` - 1 at least.
            symbol: Position of the symbol.
        """
        return self.explain(made, ends, symbol).logits

    def explain(self, made: Array, ends: NDArray[np.int64], symbol: int) -> Explained:
        """Return the scores of windows, and the weight of each bar in them; arguments as in `score`."""
        length, hidden = self.architecture.window, self.architecture.hidden
        logits = np.empty(ends.size, np.float64)
        attention = np.empty((ends.size, length), np.float32)
        context = self._contexts[symbol]
        back = np.arange(1 - length, 1)
        # Bars first, so that each step of the LSTM reads memory in one piece.
        block = np.zeros((length, WINDOWS, hidden), np.float32)
        for start in range(0, ends.size, WINDOWS):
            part = slice(start, min(start + WINDOWS, ends.size))
            size = part.stop - start
            block[:, :size] = made[back[:, None] + ends[part]]
            block[:, size:] = 0
            block_logits, block_attention = self._score_block(block, context)
            logits[part], attention[part] = block_logits[:size], block_attention[:, :size].T
        return Explained(logits, attention)

    def _score_block(self, x: Array, context: _Context) -> tuple[Array, Array]:
        p, t, arch = self._p, self._t, self.architecture
        length, windows, hidden = x.shape
        recurred = self._run_lstm(x, context)
        flat = recurred.reshape(length * windows, hidden)
        local = self._gated("recur", flat, x.reshape(length * windows, hidden))
        enriched = self._grn("enrich", local, context.enrich)
        keys = (enriched @ t["attend.key"]).reshape(length, windows, arch.heads, -1)
        values = (enriched @ t["attend.value"]).reshape(length, windows, -1)
        last = enriched.reshape(length, windows, hidden)[-1]
        query = (last @ t["attend.query"]).reshape(windows, arch.heads, -1)
        scale = np.float32(1 / np.sqrt(hidden // arch.heads))
        similarity = (keys * query).sum(axis=-1) * scale
        # Over the bars, then the mean of the heads, which share the values.
        exponentials = np.exp(similarity - similarity.max(axis=0))
        attention = (exponentials / exponentials.sum(axis=0)).mean(axis=-1)
        attended = (attention[:, :, None] * values).sum(axis=0)
        out = attended @ t["attend.out.weight"] + p["attend.out.bias"]
        fused = self._gated("attend", out, last)
        fed = self._grn("feed", fused)
        final = self._gated("last", fed, local.reshape(length, windows, hidden)[-1])
        return (final @ t["logit.weight"] + p["logit.bias"])[:, 0], attention

    def _run_lstm(self, x: Array, context: _Context) -> Array:
        """Return the state after each bar, shape (window, m, h); the gates are in the order of PyTorch."""
        length, windows, hidden = x.shape
        inputs = (x.reshape(length * windows, hidden) @ self._t["lstm.input"] + self._p["lstm.bias"]).reshape(
            length, windows, 4 * hidden
        )
        state = np.broadcast_to(context.state, (windows, hidden))
        cell = np.broadcast_to(context.cell, (windows, hidden))
        states = np.empty_like(x)
        for bar in range(length):
            gates = inputs[bar] + state @ self._t["lstm.hidden"]
            opened = _sigmoid(gates)
            take, keep, show = opened[:, :hidden], opened[:, hidden : 2 * hidden], opened[:, 3 * hidden :]
            cell = keep * cell + take * np.tanh(gates[:, 2 * hidden : 3 * hidden])
            state = show * np.tanh(cell)
            states[bar] = state
        return states

    def _grn(self, name: str, x: Array, context: Array | None = None) -> Array:
        """Return the result of a gated residual network; `context` is added inside its first layer."""
        first = x @ self._t[f"{name}.in.weight"] + self._p[f"{name}.in.bias"]
        first = _elu(first if context is None else first + context)
        return self._gated(name, first @ self._t[f"{name}.mid.weight"] + self._p[f"{name}.mid.bias"], x)

    def _gated(self, name: str, x: Array, skip: Array) -> Array:
        """Return a gated skip connection: the normalised sum of `skip` and what its gate lets through of x."""
        gated = _glu(x @ self._t[f"{name}.gate.weight"] + self._p[f"{name}.gate.bias"])
        return _normalise(gated + skip, self._p[f"{name}.norm.gain"], self._p[f"{name}.norm.bias"])


def _multiply(x: Array, weight: Array) -> Array:
    product: Array = np.matmul(x, weight)
    return product


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - _ONE)


def _sigmoid(x: Array) -> Array:
    return _ONE / (_ONE + np.exp(np.minimum(-x, _LARGEST)))


def _glu(x: Array) -> Array:
    """Return the first half of the last axis, times the sigmoid of the second."""
    half = x.shape[-1] // 2
    return x[..., :half] * _sigmoid(x[..., half:])


def _softmax(x: Array) -> Array:
    exponentials: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    weights: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return weights


def _normalise(x: Array, gain: Array, bias: Array) -> Array:
    """Return layer normalisation over the last axis (Ba et al. 2016)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normalised: Array = centred / np.sqrt(variance + _EPSILON) * gain + bias
    return normalised
