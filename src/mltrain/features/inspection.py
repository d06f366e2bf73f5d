"""Feature inspection: one feature at one time, with the candles in its lookback, or why it has no value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import find_gaps, times_ms
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.input_join import find_known_rows, take_known_values
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.registry import describe_features
from mltrain.features.spec import inputs_read
from mltrain.names import did_you_mean, show
from mltrain.times import format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputTable
    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import FeatureSet

# Gaps named in a message.
_GAPS_SHOWN: Final = 3
# Bars before and after the inspected one whose values are shown.
AROUND_BARS: Final = 5


@dataclass(frozen=True, slots=True)
class JoinedValue:
    """The value of an input that a candle knows, and since when it was known.

    Attributes:
        input: The input.
        symbol: The symbol whose value it is.
        ts_ms: Open time of the candle, UTC ms.
        close_ms: Its close, UTC ms; what was known later does not count.
        value: The joined value; None if none was known at the close, or only one that was too old.
        known_ms: Since when the newest value known at the close was known, UTC ms, also if it was too old; None without
            one.
    """

    input: str
    symbol: str
    ts_ms: int
    close_ms: int
    value: float | None
    known_ms: int | None

    @property
    def age_ms(self) -> int | None:
        """Time from `known_ms` to the close, in ms, 0 or more; None if no value was known."""
        return None if self.known_ms is None else self.close_ms - self.known_ms


@dataclass(frozen=True, slots=True, eq=False)
class FeatureInspection:
    """One feature of one symbol at one time.

    Attributes:
        info: The feature.
        symbol: The symbol.
        ts_ms: Open time of the inspected candle, UTC ms.
        value: The value computed from the whole history; None for no value.
        from_lookback: The value computed from the candles in its lookback only; equal, unless the feature leaks.
        why_none: Why there is no value; None if there is one.
        around: The values of the bars around it, as (open time in UTC ms, value).
        inputs: The candles in its lookback, oldest first: `ts`, then each column that it reads, including the leader's.
        history: `ts`, `close` and the feature as `value`, over the whole history.
        joined: The values of each input that it reads at the bars around it, by input, symbol and time.
    """

    info: FeatureInfo
    symbol: str
    ts_ms: int
    value: float | None
    from_lookback: float | None
    why_none: str | None
    around: tuple[tuple[int, float | None], ...]
    inputs: pl.DataFrame
    history: pl.DataFrame
    joined: tuple[JoinedValue, ...] = ()


def check_feature_name(feature_set: FeatureSet, name: str) -> None:
    """Check that the registry has a feature of this name.

    Raises:
        InputError: The registry has no such feature; the hint lists similar names.
    """
    if name not in feature_set.names:
        hint = did_you_mean(name, feature_set.names) or "`mltrain features info` lists them"
        raise InputError(f"there is no feature {show(name)} in the registry", hint=hint)


def inspect_feature(
    feature_set: FeatureSet,
    name: str,
    *,
    symbol: str,
    candles: Mapping[str, pl.DataFrame],
    ts_ms: int,
    inputs: Mapping[str, InputTable] | None = None,
) -> FeatureInspection:
    """Compute a feature at one candle, and collect what it depends on.

    Args:
        feature_set: The features.
        name: The feature.
        symbol: The symbol.
        candles: Checked candles by symbol, with the feature's leader, joined with the inputs.
        ts_ms: Open time of the candle, UTC ms.
        inputs: The values of the inputs, by name; needed if the feature reads any.

    Raises:
        InputError: There is no such feature or candle, or the candles lack what the feature reads.
    """
    check_feature_name(feature_set, name)
    position = feature_set.names.index(name)
    single = replace(feature_set, features=feature_set.features[position : position + 1])
    info = describe_features(single)[0]
    frame = candles[symbol]
    times = times_ms(frame)
    row = int(np.searchsorted(times, ts_ms))
    if row == times.size or times[row] != ts_ms:
        near = [format_ms(int(times[i])) for i in (row - 1, row) if 0 <= i < times.size]
        raise InputError(
            f"{symbol} has no candle that opens at {format_ms(ts_ms)}",
            hint=f"the nearest open at {' and '.join(near)}" if near else "the snapshot has no candle of this symbol",
        )
    since_ms = ts_ms - (info.lookback_bars - 1) * interval_ms(single.interval)
    reads = {s: candles[s] for s in (symbol, info.leader) if s is not None and s in candles}
    lookback = {s: f.filter(pl.col("ts").dt.timestamp("ms").is_between(since_ms, ts_ms)) for s, f in reads.items()}
    values = compute_features(single, symbol, reads)[name]
    around = slice(max(0, row - AROUND_BARS), row + AROUND_BARS + 1)
    joined = tuple(_list_joined(single, symbol, times[around], inputs or {}))
    return FeatureInspection(
        info=info,
        symbol=symbol,
        ts_ms=ts_ms,
        value=values[row],
        from_lookback=compute_features(single, symbol, lookback)[name][-1],
        why_none=_explain_missing(single, symbol, lookback, since_ms=since_ms, ts_ms=ts_ms)
        if values[row] is None
        else None,
        around=tuple(zip(times[around].tolist(), values[around].to_list(), strict=True)),
        inputs=_join_inputs(info, symbol, lookback),
        history=frame.select("ts", "close").with_columns(values.alias("value")),
        joined=joined,
    )


def _list_joined(
    single: FeatureSet, symbol: str, ts_ms: NDArray[np.int64], inputs: Mapping[str, InputTable]
) -> Iterator[JoinedValue]:
    """Yield the values of the inputs that one feature of a symbol reads, at candles that open at `ts_ms`."""
    (spec,) = single.features
    close_ms = ts_ms + interval_ms(single.interval)
    declared = {known.name: known for known in single.inputs}
    for of, names in (
        (symbol, inputs_read(spec, leader=False)),
        (spec.leader or symbol, inputs_read(spec, leader=True)),
    ):
        for name in names:
            known = inputs[name].of(of)
            rows = find_known_rows(known, close_ms).tolist()
            values = take_known_values(known, close_ms, max_age_ms=declared[name].max_age_ms).tolist()
            for ts, close, row, value in zip(ts_ms.tolist(), close_ms.tolist(), rows, values, strict=True):
                known_ms = int(known.known_ms[row]) if row >= 0 else None
                yield JoinedValue(name, of, ts, close, None if np.isnan(value) else value, known_ms)


def _explain_missing(
    single: FeatureSet, symbol: str, lookback: Mapping[str, pl.DataFrame], *, since_ms: int, ts_ms: int
) -> str:
    """Describe what a feature's lookback lacks between two open times, UTC ms, both included: candles, or inputs."""
    step_ms, bars = interval_ms(single.interval), single.lookback_bars
    for of, frame in lookback.items():
        gaps = find_gaps(times_ms(frame), step_ms, start_ms=since_ms, end_ms=ts_ms + step_ms)
        if gaps:
            missing = sum(gap.missing for gap in gaps)
            shown = ", ".join(f"{format_ms(g.from_ms)} to {format_ms(g.to_ms)}" for g in gaps[:_GAPS_SHOWN])
            more = f" and {len(gaps) - _GAPS_SHOWN} more gaps" if len(gaps) > _GAPS_SHOWN else ""
            return f"{missing} of the {bars} candles of {of} that it needs are missing: {shown}{more}"
    (spec,) = single.features
    leader = spec.leader or symbol
    for of, names in ((symbol, inputs_read(spec, leader=False)), (leader, inputs_read(spec, leader=True))):
        for name in names:
            missing = lookback[of][name].null_count()
            if missing:
                return (
                    f"at {missing} of the {bars} candles of {of} that it needs, no value of "
                    f"the input {name} was known, or only one older than max_age"
                )
    return "its lookback is complete, but its op returns no value"


def _join_inputs(info: FeatureInfo, symbol: str, lookback: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return `ts` and the columns that a feature reads, of its symbol and of its leader (as `leader_...`)."""
    own = lookback[symbol].select("ts", *(name for name in info.columns if name != "ts"))
    if info.leader is None or info.leader == symbol:
        return own
    columns = [name for name in info.leader_columns if name != "ts"]
    leader = lookback[info.leader].select("ts", pl.col(columns).name.prefix(LEADER_PREFIX))
    return own.join(leader, on="ts", how="left", maintain_order="left")
