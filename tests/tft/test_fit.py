"""Fits repeat to the byte, learn what is there, and read nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mltrain.features.registry import parse_registry
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.tft.architecture import Architecture
from mltrain.tft.fit_options import FitOptions
from mltrain.tft.forward import Forward
from mltrain.tft.row_scores import score_rows
from mltrain.tft.sequences import Sequences
from mltrain.tft.variables import Scaler
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange
from mltrain.training.metrics import row_log_loss
from mltrain.training.samples import build_samples_and_ties
from support.torch import need_torch

need_torch()
pytestmark = pytest.mark.tft

from mltrain.tft.fit import Fit  # noqa: E402

REGISTRY = {
    "version": 1,
    "label": {"kind": "direction", "horizon": 1, "ties": "drop"},
    "features": [
        {"name": "return_1", "op": "log_return", "params": {"bars": 1}},
        {"name": "quarter", "op": "clock", "params": {"period": "quarter", "wave": "saw"}},
    ],
}
WINDOW = 10
ARCHITECTURE = Architecture(window=WINDOW, features=2, symbols=2, hidden=8, heads=2)
OPTIONS = FitOptions(learning_rate=0.01, weight_decay=0.01, dropout=0.1, largest_gradient=1.0, step_windows=128, seed=3)


@pytest.fixture(scope="module")
def sequences():
    """Two days of two symbols with a strong signal."""
    source = SimSource(signal="strong")
    window = TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS)
    candles = {symbol: source.candles(symbol, window) for symbol in ("BTCUSDT", "ETHUSDT")}
    samples, ties, _ = build_samples_and_ties(
        parse_registry(json.dumps(REGISTRY).encode(), where="a test", interval="1m"), candles
    )
    return Sequences.of([samples, ties], step_ms=MINUTE_MS)


def start(sequences, is_learned, **changed):
    scaler = Scaler.fit(sequences.parts[0].x, np.flatnonzero(is_learned))
    options = FitOptions(**{**{name: getattr(OPTIONS, name) for name in OPTIONS.__slots__}, **changed})
    return Fit(sequences, is_learned, weights=None, scaler=scaler, architecture=ARCHITECTURE, options=options), scaler


def test_it_learns_the_signal_and_repeats_to_the_byte(sequences):
    """On rows that it has not learned from, well below the loss of the base rate; twice the same bytes."""
    n = sequences.parts[0].y.size
    is_learned = sequences.mark(slice(0, int(0.7 * n))) & sequences.has_window(WINDOW)
    runs = []
    for _ in range(2):
        fit, scaler = start(sequences, is_learned)
        for _ in range(4):
            fit.run_epoch()
        runs.append({name: value.tobytes() for name, value in fit.export().items()})
    assert runs[0] == runs[1]
    forward = Forward(ARCHITECTURE, fit.export())
    later = slice(int(0.7 * n), n)
    p = sequences.take(score_rows(forward, sequences, scaler, sequences.mark(later)), 0, later)
    loss = row_log_loss(p, sequences.parts[0].y[later]).mean()
    assert loss < 0.68
