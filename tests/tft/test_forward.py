"""The forward pass in NumPy: the same as the network that is trained, and the same bits for one row as for many."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.tft.architecture import Architecture
from mltrain.tft.forward import Forward
from support.torch import is_lacking_torch

ARCHITECTURE = Architecture(window=60, features=20, symbols=2, hidden=16, heads=4)
BARS = 400


def draw_parameters(architecture, seed=0):
    """Return parameters of the size that training leaves."""
    rng = np.random.default_rng(seed)
    return {
        name: (name.endswith(".gain") + rng.normal(0, 0.3, shape)).astype(np.float32)
        for name, shape in architecture.shapes().items()
    }


@pytest.fixture(scope="module")
def parameters():
    return draw_parameters(ARCHITECTURE)


@pytest.fixture(scope="module")
def variables():
    return np.random.default_rng(1).normal(0, 1, (BARS, ARCHITECTURE.variables)).astype(np.float32)


@pytest.mark.tft
@pytest.mark.skipif(is_lacking_torch(), reason="torch is not installed")
def test_numpy_and_torch_agree(parameters, variables):
    """On all windows of both symbols, to 1e-5."""
    import torch

    from mltrain.tft.network import Network

    network = Network(ARCHITECTURE, dropout=0.1, generator=torch.Generator().manual_seed(1)).eval()
    network.load(parameters)
    forward = Forward(ARCHITECTURE, network.export())
    for symbol in range(2):
        with torch.no_grad():
            expected = network(torch.from_numpy(variables), symbol).numpy()
        made, weights = forward.select(variables, symbol)
        ends = np.arange(ARCHITECTURE.window - 1, BARS)
        assert np.abs(forward.score(made, ends, symbol) - expected).max() < 1e-5
        assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
        assert np.std(expected) > 0.1


def test_one_row_has_the_bits_of_a_batch(parameters, variables):
    """Wherever the row is in the batch."""
    forward, length = Forward(ARCHITECTURE, parameters), ARCHITECTURE.window
    made, _ = forward.select(variables, 1)
    ends = np.arange(length - 1, BARS)
    batch = forward.score(made, ends, 1)
    for position, end in enumerate(ends):
        alone, _ = forward.select(variables[end - length + 1 : end + 1], 1)
        assert forward.score(alone, np.array([length - 1]), 1)[0] == batch[position]


def test_the_order_of_the_bars_matters(parameters, variables):
    """A window read backwards has another score; bars before it change nothing."""
    forward, length = Forward(ARCHITECTURE, parameters), ARCHITECTURE.window
    end = np.array([length - 1])

    def score(bars):
        made, _ = forward.select(np.ascontiguousarray(bars), 0)
        return forward.score(made, end, 0)[0]

    window = variables[100 : 100 + length]
    assert abs(score(window) - score(window[::-1])) > 1e-3
    made, _ = forward.select(variables[: 100 + length], 0)
    assert forward.score(made, np.array([100 + length - 1]), 0)[0] == score(window)


def test_a_window_longer_than_a_block_of_bars(variables):
    """Blocks are of a fixed size, windows are not."""
    architecture = Architecture(window=150, features=20, symbols=2, hidden=8, heads=2)
    forward = Forward(architecture, draw_parameters(architecture, seed=4))
    made, weights = forward.select(variables, 0)
    ends = np.arange(149, BARS)
    batch = forward.explain(made, ends, 0)
    alone, _ = forward.select(variables[7:157], 0)

    assert forward.score(alone, np.array([149]), 0)[0] == batch.logits[7]
    assert batch.attention.shape == (ends.size, 150)
    assert np.allclose(batch.attention.sum(axis=1), 1, atol=1e-5)
    assert weights.shape == (BARS, architecture.variables)
