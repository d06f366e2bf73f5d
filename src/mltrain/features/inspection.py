"""A close look at one feature at one time: its value, the candles that it is made of, or why there is none. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import find_gaps, times_ms
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.registry import describe
from mltrain.names import did_you_mean, show
from mltrain.times import format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import FeatureSet

_GAPS_TOLD: Final = 3
AROUND: Final = 5  # bars before and after the asked one whose values are told, too


@dataclass(frozen=True, slots=True, eq=False)
class FeatureInspection:
    """One feature of one symbol at one time.

    Attributes:
        info: The feature.
        symbol: The symbol.
        ts_ms: Open time of the candle, ms UTC.
        value: The value in the whole history; None where there is none.
        alone: The value from the candles of its lookback alone; the same number, or something is wrong.
        why_none: Why there is no value; None where there is one.
        around: The values of the bars around it, as (ts_ms, value).
        inputs: The candles in its lookback, oldest first: `ts`, then each column that it reads, leader's included.
        history: `ts`, the symbol's `close` and the feature as `value`, over the whole history: for a picture.
    """

    info: FeatureInfo
    symbol: str
    ts_ms: int
    value: float | None
    alone: float | None
    why_none: str | None
    around: tuple[tuple[int, float | None], ...]
    inputs: pl.DataFrame
    history: pl.DataFrame


def check_feature_name(feature_set: FeatureSet, name: str) -> None:
    """Refuse a name that no feature of the registry has.

    Raises:
        InputError: It has none; the hint tells the nearest names, or where they all are.
    """
    if name not in feature_set.names:
        hint = did_you_mean(name, feature_set.names) or "`mltrain features info` lists them"
        raise InputError(f"there is no feature {show(name)} in the registry", hint=hint)


def inspect_feature(
    feature_set: FeatureSet, name: str, *, symbol: str, candles: Mapping[str, pl.DataFrame], ts_ms: int
) -> FeatureInspection:
    """Look at a feature.

    Args:
        feature_set: The registry.
        name: The feature's name in it.
        symbol: Whose feature; a key of `candles`.
        candles: Checked candles by symbol.
        ts_ms: Open time of a candle of the symbol, ms UTC.

    Raises:
        InputError: There is no such feature or candle, or the candles lack what the feature reads.
    """
    check_feature_name(feature_set, name)
    at = feature_set.names.index(name)
    one = replace(feature_set, features=feature_set.features[at : at + 1])
    info = describe(one)[0]
    frame = candles[symbol]
    row = _row_of(frame, ts_ms, symbol)
    step_ms = interval_ms(one.interval)
    since_ms = ts_ms - (info.lookback_bars - 1) * step_ms
    reads = {s: candles[s] for s in (symbol, info.leader) if s is not None and s in candles}
    window = {s: f.filter(pl.col("ts").dt.timestamp("ms").is_between(since_ms, ts_ms)) for s, f in reads.items()}
    values = compute_features(one, symbol, reads)[name]
    alone = compute_features(one, symbol, window)[name][-1]
    first, stop = max(0, row - AROUND), min(frame.height, row + AROUND + 1)
    return FeatureInspection(
        info=info,
        symbol=symbol,
        ts_ms=ts_ms,
        value=values[row],
        alone=alone,
        why_none=None
        if values[row] is not None
        else _why_none(info, window, span_ms=(since_ms, ts_ms), step_ms=step_ms),
        around=tuple(zip(times_ms(frame)[first:stop].tolist(), values[first:stop].to_list(), strict=True)),
        inputs=_inputs(info, symbol, window),
        history=frame.select("ts", "close").with_columns(values.alias("value")),
    )


def _row_of(frame: pl.DataFrame, ts_ms: int, symbol: str) -> int:
    times = times_ms(frame)
    row = int(np.searchsorted(times, ts_ms))
    if row < times.size and times[row] == ts_ms:
        return row
    near = [format_ms(int(times[i])) for i in (row - 1, row) if 0 <= i < times.size]
    raise InputError(
        f"{symbol} has no candle that opens at {format_ms(ts_ms)}",
        hint=f"the nearest are those of {' and '.join(near)}" if near else "the snapshot has no candle of it at all",
    )


def _why_none(info: FeatureInfo, window: Mapping[str, pl.DataFrame], *, span_ms: tuple[int, int], step_ms: int) -> str:
    """Say which candles of the lookback, from the first to the last open time of `span_ms`, are missing."""
    for who, frame in window.items():
        gaps = find_gaps(times_ms(frame), step_ms, start_ms=span_ms[0], end_ms=span_ms[1] + step_ms)
        if gaps:
            missing = sum(gap.missing for gap in gaps)
            told = ", ".join(f"{format_ms(h.from_ms)} to {format_ms(h.to_ms)}" for h in gaps[:_GAPS_TOLD])
            more = f" and {len(gaps) - _GAPS_TOLD} more gaps" if len(gaps) > _GAPS_TOLD else ""
            return f"{missing} of the {info.lookback_bars} candles of {who} that it needs are missing: {told}{more}"
    return "all its candles are there, and its op gives no value"


def _inputs(info: FeatureInfo, symbol: str, window: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    own = window[symbol].select("ts", *(name for name in info.columns if name != "ts"))
    if info.leader is None or info.leader == symbol:
        return own
    columns = [name for name in info.leader_columns if name != "ts"]
    leader = window[info.leader].select("ts", pl.col(columns).name.prefix(LEADER_PREFIX))
    return own.join(leader, on="ts", how="left", maintain_order="left")
