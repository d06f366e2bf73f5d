"""Higher time frames: statistics of longer candles, such as those of an hour, that have closed.

The longer candles are made of the candles of the symbol, on the UTC grid on which an exchange has them (weeks begin on
Monday). At a candle, the newest of them is the last one that ends no later than the candle itself: at 12:59 on
one-minute candles that of 12:00 to 13:00, which closes with it, at 12:58 that of 11:00 to 12:00.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import polars as pl

from mltrain.features.formula import col, open_times_ms
from mltrain.features.op import Interval, Limits, Op, Window
from mltrain.features.ops.expressions import log_returns
from mltrain.features.windows import Statistic, share, window_at_ends, window_max, window_min
from mltrain.times import INTERVALS_MS, grid_offset_ms

# A week of minutes.
MAX_RESAMPLED_BARS: Final = 10_080
_EVERY: TypeAlias = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w"]
_VALUE: TypeAlias = Literal["return", "volatility", "range", "close_location", "range_position", "gap_to_mean", "rsi"]


def resample(
    *, every: _EVERY, value: _VALUE, bars: Annotated[int, Limits(1, 1_000)], interval: Interval = ""
) -> Window:
    """Statistic of the last `bars` candles of a longer interval, `every`, that have closed: of hours, say, at minutes.

    Of those candles, return: ln(c / c[bars]); volatility: sqrt(mean r^2); range: mean of ln(h / l); close_location:
    mean of ((c - l) - (h - c)) / (h - l), where a candle without range counts 0; range_position: (c - min l) / (max h -
    min l), 0.5 without a range; gap_to_mean: ln(c / mean c); rsi: sum of rises / (sum of rises + sum of falls), 0.5
    where nothing moved. Unit: log return for return, volatility, range and gap_to_mean, else share. `interval` is that
    of the candles, and is filled in. The lookback is at most MAX_RESAMPLED_BARS candles.
    """
    step_ms, every_ms = _find_steps(every, interval)
    per = every_ms // step_ms
    # The newest closed one ends up to `per` - 1 candles ago. Some values also need the close before the first, or all
    # candles of the first.
    lookback_bars = bars * per + {"return": per, "volatility": per, "rsi": per, "gap_to_mean": 0}.get(value, per - 1)
    if interval and lookback_bars > MAX_RESAMPLED_BARS:
        limit = f"{MAX_RESAMPLED_BARS:,} candles of {interval}"
        raise ValueError(f"bars ({bars}) of {every} depend on {lookback_bars:,}: at most {limit} are possible")
    passed_ms = (open_times_ms() - grid_offset_ms(every_ms)) % every_ms
    is_end = (passed_ms == every_ms - step_ms).cast(pl.Float64)
    # Of the longer candle that ends with each row, if one does.
    close, high, low = col("close"), window_max(col("high"), per), window_min(col("low"), per)

    def of_closed(statistic: Statistic, *inputs: pl.Expr, count: int = bars) -> pl.Expr:
        return window_at_ends(statistic, is_end, *inputs, count=count, bars=lookback_bars)

    match value:
        case "return":
            expr = of_closed("sum", log_returns(bars=bars * per), count=1)
        case "volatility":
            expr = of_closed("root_mean_square", log_returns(bars=per))
        case "range":
            expr = of_closed("sum", (high / low).log()) / bars
        case "close_location":
            expr = of_closed("sum", share((close - low) - (high - close), high - low)) / bars
        case "range_position":
            expr = of_closed("range_position", close, low, high)
        case "gap_to_mean":
            expr = (of_closed("sum", close, count=1) / of_closed("mean", close)).log()
        case "rsi":
            move = close - close.shift(per)
            expr = of_closed("share", move.clip(lower_bound=0), move.abs())
    return Window(expr, lookback_bars)


def _find_steps(every: str, interval: str) -> tuple[int, int]:
    """Return the length of the candles and of the longer ones, in ms; raise ValueError if these are not made of those.

    As long as the candles' interval is not known, it is taken as one minute, so that the lookback is an example.
    """
    step_ms, every_ms = INTERVALS_MS[interval or ("1m" if every != "1m" else "1s")], INTERVALS_MS[every]
    if every_ms <= step_ms or every_ms % step_ms:
        raise ValueError(f"every ({every}) must be longer than the candles' interval, {interval}, and a multiple of it")
    return step_ms, every_ms


OPS: Final[dict[str, Op]] = {"resample": resample}
