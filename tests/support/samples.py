"""Random samples for the tests of training."""

from __future__ import annotations

import numpy as np

from mltrain.times import MINUTE_MS
from mltrain.training.samples import Samples


def make_samples(*, rows=6_000, features=5, symbols=2, signal=1.0, step_ms=MINUTE_MS, horizon_bars=1, seed=0):
    """Return rows of some symbols at the same times; only the first feature changes the odds of "up"."""
    rng = np.random.default_rng(seed)
    ts = np.arange(rows) // symbols * step_ms
    x = rng.standard_normal((rows, features)).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-signal * x[:, 0]))).astype(np.uint8)
    return Samples(
        x=x,
        y=y,
        ts_ms=ts,
        label_end_ms=ts + horizon_bars * step_ms,
        symbol_ix=(np.arange(rows) % symbols).astype(np.int16),
        last_move=rng.integers(-1, 2, rows).astype(np.int8),
        symbols=tuple(f"SYM{i}" for i in range(symbols)),
        names=tuple(f"f{i}" for i in range(features)),
    )
