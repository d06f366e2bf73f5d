"""Check, when a model is loaded, that the formulas of its features give the bits of Polars.

`NewestFeatures` computes a row from formulas in NumPy. They repeat what Polars does to the last bit, but not if another
version of a library, compiler or processor computes one step differently. Therefore they are used only after they have
given the same bits as Polars on probe windows: prices on a tick grid, and with none; volumes of zero, of which all or
none were bought; values of every size; a gap; too few bars. A feature that differs once is left to Polars, with a
warning.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, PRICES, TS_DTYPE
from mltrain.features.newest import NewestFeatures
from mltrain.names import join_first
from mltrain.serving.fast_row import SlowPathWarning
from mltrain.times import floor_to_grid, interval_ms

if TYPE_CHECKING:
    from mltrain.features.spec import FeatureSet

# Any time.
_START_MS: Final = 1_750_000_000_000
# By how many bars the probes end apart: other times of the day, and of longer candles.
_APART_BARS: Final = 37


class _Market(NamedTuple):
    """A random walk: its first price, the deviation of its log returns, its tick (0: none), and its usual volume."""

    price: float
    deviation: float
    tick: float
    volume: float


_MARKETS: Final = (
    _Market(price=100.0, deviation=3e-4, tick=0.02, volume=5.0),
    _Market(price=1e-7, deviation=0.3, tick=1e-8, volume=1e-6),
    _Market(price=1e9, deviation=1e-6, tick=1_000.0, volume=1e12),
    _Market(price=3e-4, deviation=2.0, tick=0.0, volume=1e15),
)
_LISTED: Final = 5


def open_newest_features(feature_set: FeatureSet) -> NewestFeatures:
    """Return what computes the newest features of a registry, by formulas wherever these are right on every probe.

    Warns:
        SlowPathWarning: A formula gives other bits than Polars, which computes the feature instead.
    """
    try:
        newest = NewestFeatures(feature_set)
        wrong, problem = find_wrong_formulas(feature_set, newest), "gives other values"
    # Any error: Polars can still compute the features.
    except Exception as err:  # noqa: BLE001
        wrong, problem = feature_set.names, f"fails: {type(err).__name__}: {err}"
    if not wrong:
        return newest
    warnings.warn(
        f"Polars computes the newest row of {join_first(wrong, _LISTED)}, which is slower: NumPy {problem}",
        SlowPathWarning,
        stacklevel=2,
    )
    return NewestFeatures(feature_set, without_formula=wrong)


def find_wrong_formulas(feature_set: FeatureSet, newest: NewestFeatures) -> tuple[str, ...]:
    """Return the features that `newest` computes with other bits than Polars on any probe window."""
    if len(newest.recorded) < len(feature_set.names):
        # The ops without a formula are the user's: they may be slow, or fail.
        specs = tuple(spec for spec in feature_set.features if spec.name in newest.recorded)
        if not specs:
            return ()
        feature_set = replace(feature_set, features=specs)
        newest = NewestFeatures(feature_set)
    candles = make_probe_candles(feature_set)
    found = newest.compute(list(candles), candles)
    expected = NewestFeatures(feature_set, without_formula=feature_set.names).compute(list(candles), candles)
    same = (found.view(np.int32) == expected.view(np.int32)) | (np.isnan(found) & np.isnan(expected))
    return tuple(name for name, is_same in zip(feature_set.names, same.all(axis=0), strict=True) if not is_same)


def make_probe_candles(feature_set: FeatureSet) -> dict[str, pl.DataFrame]:
    """Return possible candles that end in windows of every kind, by a probe's name, and those of the leaders."""
    bars, rng = feature_set.lookback_bars, np.random.default_rng(0)
    rows = bars + _APART_BARS * len(_MARKETS)
    markets = [_make_candles(feature_set, rng, rows, market) for market in _MARKETS]
    candles = {f"PROBE{i}": market.slice(i * _APART_BARS, bars) for i, market in enumerate(markets)}
    first, still = candles["PROBE0"], _stop_trading(markets[0].tail(bars))
    candles |= {
        "STILL": still,
        "STOPPED": pl.concat([markets[0].tail(bars).head(bars // 2), still.tail(bars - bars // 2)]),
        "GAP": pl.concat([first.head(bars // 2), first.tail(bars - bars // 2 - 1)]),
        "SHORT": first.tail(bars // 2),
    }
    return {**candles, **dict.fromkeys(feature_set.leaders, markets[0])}


def _make_candles(feature_set: FeatureSet, rng: np.random.Generator, rows: int, market: _Market) -> pl.DataFrame:
    """Return candles of a market, and inputs; in one candle of four nothing is traded."""
    step_ms = interval_ms(feature_set.interval)
    deviation, tick = market.deviation, market.tick
    walk = market.price * np.exp(np.cumsum(rng.normal(0, deviation, rows + 1)))
    if tick:
        walk = np.maximum(np.round(walk / tick), 1) * tick
    open_, close = walk[:-1], walk[1:]
    high = np.maximum(open_, close) * (1 + deviation * rng.integers(0, 3, rows))
    low = np.minimum(open_, close) / (1 + deviation * rng.integers(0, 3, rows))
    traded = market.volume * rng.lognormal(0, 2, rows) * rng.integers(0, 4, rows).astype(bool)
    bought = traded * rng.choice([0.0, 0.5, 1.0, 0.123], rows)
    paid = np.clip((open_ + close) / 2, low, high)
    ts_ms = floor_to_grid(_START_MS, step_ms) + step_ms * np.arange(rows)
    return pl.DataFrame(
        {
            "ts": pl.Series(ts_ms).cast(TS_DTYPE),
            "open": open_,
            "high": high,
            "low": low,
            "close": close,
            "volume": traded,
            "quote_volume": traded * paid,
            "trades": rng.integers(1, 1_000, rows) * (traded > 0),
            "taker_buy_base": bought,
            "taker_buy_quote": bought * paid,
            **{spec.name: np.round(rng.normal(0, market.volume, rows), 1) for spec in feature_set.inputs},
        }
    )


def _stop_trading(candles: pl.DataFrame) -> pl.DataFrame:
    """Return candles in which the price stays at the first close and nothing is traded."""
    amounts = [name for name in CANDLE_SCHEMA if name not in {"ts", *PRICES}]
    return candles.with_columns(pl.col("close").first().alias(name) for name in PRICES).with_columns(
        pl.col(name) * 0 for name in amounts
    )
