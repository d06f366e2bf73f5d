"""Score rows of candles with a model that reads windows, which rows of features alone are not enough for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.serving.latency_bench import known_at_closes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.serving.model import Model
    from mltrain.training.samples import Samples


def score_candles(
    model: Model, candles: Mapping[str, pl.DataFrame], rows: Samples
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return raw scores and calibrated probabilities of up at rows, shape (n,); NaN where a row must not be scored.

    Args:
        model: The model.
        candles: Candles by symbol, leaders included and inputs joined.
        rows: Symbols and times; those of symbols that the model does not know have no score.
    """
    raw, p = np.full(rows.y.size, np.nan), np.full(rows.y.size, np.nan)
    leaders = {name: candles[name] for name in model.feature_set.leaders if name in candles}
    inputs = known_at_closes(model.feature_set, candles)
    for symbol in model.symbols:
        if symbol not in rows.symbols:
            continue
        own = np.flatnonzero(rows.symbol_ix == rows.symbols.index(symbol))
        table = model.predict_candles({**leaders, symbol: candles[symbol]}, inputs=inputs, rows="all")
        table = table.filter(table["symbol"] == symbol)
        # Every row was made from one of these candles, so each of its times is in the table.
        positions = np.searchsorted(times_ms(table), rows.ts_ms[own])
        raw[own], p[own] = (table[name].fill_null(float("nan")).gather(positions).to_numpy() for name in ("raw", "p"))
    return raw, p
