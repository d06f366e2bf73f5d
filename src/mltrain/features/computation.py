"""From candles to the feature matrix: the one path for training and serving.

A feature is null where fewer bars in a row than its lookback end at that row, and nowhere else: so that no value
spans a gap, each contiguous run of candles being a series of its own. The expressions themselves run over the whole
frame at once, gaps and all, which is sound because an op reads no further back than its lookback; the leakage guard
proves that for every feature, from the lookback alone, just behind gaps too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import segment_bounds, times_ms
from mltrain.errors import InputError
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import MAX_FEATURES, build_window, columns_read
from mltrain.features.user_ops import computing, user_module_of
from mltrain.times import INTERVALS_MS, format_ms, interval_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.op import Op
    from mltrain.features.spec import FeatureSet, FeatureSpec, Param

# With fewer rows, candles of the right interval can all lie apart by chance of gaps.
_ROWS_THAT_TELL_INTERVAL: Final = 10

_FEATURES_NAMED: Final = 3  # in a message, which must stay readable

_ROWS_FOR_THREADS: Final = 10_000

# What a `select` of a frame does, and one thing more: what several features read, such as the return of one bar, is
# computed once.
_SHARE_INPUTS: Final = pl.QueryOptFlags.none(simplify_expression=True, comm_subexpr_elim=True)

_CONSECUTIVE_BARS: Final = "consecutive_bars"
_WAY_OUT: Final = "`--features features-ohlcv.yml` needs open, high, low, close and volume of one symbol alone"


def compute_features(feature_set: FeatureSet, symbol: str, candles: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Compute every feature of one symbol.

    Args:
        feature_set: What to compute.
        symbol: Whose features; a key of `candles`.
        candles: Checked candles by symbol; only those of `symbol` and of the leaders are read.

    Returns:
        The rows of `candles[symbol]`, in order: `ts`, then each feature as Float32, null in the warm-up behind the
        start and behind each gap (for a leader's feature, of either symbol). A leader's features are 0 on itself.

    Raises:
        InputError: A column or leader is missing, the candles are of another interval or out of order, or an op of
            the user's own fails.
    """
    check_inputs(feature_set, candles, symbols=[symbol])
    frame = candles[symbol]
    step_ms = interval_ms(feature_set.interval)
    # Columns are put side by side as they are: each `select` of one frame costs as much as a feature of 300 rows.
    own = frame.hstack([pl.Series(_CONSECUTIVE_BARS, consecutive_bars(times_ms(frame), step_ms))])
    columns: dict[str, pl.Series] = {}
    for leader in dict.fromkeys(spec.leader for spec in feature_set.features):
        specs = [spec for spec in feature_set.features if spec.leader == leader]
        source = own if leader in {None, symbol} else _join_leader(own, candles[str(leader)], specs, step_ms)
        found = _evaluate_specs(source, specs, zero=leader == symbol)
        columns |= {column.name: column for column in found.get_columns()}
    return pl.DataFrame([frame["ts"], *(columns[name] for name in feature_set.names)])


def check_inputs(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], *, symbols: Iterable[str] | None = None
) -> None:
    """Check that the candles hold all that the features read.

    Args:
        feature_set: What is to be computed.
        candles: Candles by symbol.
        symbols: Whose features are to be computed; None: of every symbol in `candles`.

    Raises:
        InputError: A symbol, leader or column is missing, or the candles are of another interval, out of order or
            incomplete. One message names every such symbol, column and feature, and the way out.
    """
    lacks: list[str] = []
    faults: list[str] = []
    for symbol in sorted(candles) if symbols is None else symbols:
        for who, specs in _readers(feature_set, symbol):
            frame, is_leader = candles.get(who), who != symbol
            lacks += _lacks(who, frame, specs, leader=is_leader)
            if frame is not None and "ts" in frame.columns:
                faults += _grid_faults(who, times_ms(frame), feature_set.interval)
    if lacks or faults:
        raise InputError("; ".join(dict.fromkeys([*lacks, *faults])), hint=_WAY_OUT if lacks else None)


def _readers(feature_set: FeatureSet, symbol: str) -> Iterator[tuple[str, list[FeatureSpec]]]:
    """Give each symbol whose candles are read for `symbol`, itself first, with the features that read them."""
    yield symbol, list(feature_set.features)
    led = [spec for spec in feature_set.features if spec.leader not in {None, symbol}]
    for leader in dict.fromkeys(str(spec.leader) for spec in led):
        yield leader, [spec for spec in led if spec.leader == leader]


def _lacks(who: str, frame: pl.DataFrame | None, specs: Sequence[FeatureSpec], *, leader: bool) -> list[str]:
    """Say which candles or columns are not there."""
    what = f"leader {who}" if leader else who
    if frame is None:
        return [f"there are no candles of {what}, for {_tell(specs)}"]
    readers: dict[str, list[FeatureSpec]] = {"ts": list(specs)}
    for spec in specs:
        for name in columns_read(spec, leader=leader):
            readers.setdefault(name, []).append(spec)
    return [
        f"{what} lacks {name}{_tell_share(frame, name)}, for {_tell(readers[name])}"
        for name in readers
        if name not in frame.columns or frame[name].null_count()
    ]


def _grid_faults(who: str, ts_ms: NDArray[np.int64], interval: str) -> list[str]:
    """Say what is wrong with the times of the candles."""
    steps = np.diff(ts_ms)
    if not steps.size:
        return []
    back = np.flatnonzero(steps <= 0)
    if back.size:
        return [f"{who}: the candle after {format_ms(int(ts_ms[back[0]]))} is not later: sort candles, drop duplicates"]
    step_ms, found_ms = interval_ms(interval), int(np.gcd.reduce(steps))
    if found_ms % step_ms or (found_ms > step_ms and ts_ms.size >= _ROWS_THAT_TELL_INTERVAL):
        found = interval_name(found_ms)
        own = f", or `--features FILE` with a registry that says `interval: {found}`" if found in INTERVALS_MS else ""
        told = f"{who} has {found} candles and the features are registered for {interval} ones"
        return [f"{told}: take {interval} candles{own}"]
    return []


def _tell_share(frame: pl.DataFrame, name: str) -> str:
    """Say in how many rows a column is empty, where that is not all of them."""
    empty = frame.height if name not in frame.columns else frame[name].null_count()
    return "" if empty == frame.height else f" in {empty} of {frame.height} rows"


def _tell(specs: Sequence[FeatureSpec]) -> str:
    """Name the first few features."""
    more = len(specs) - _FEATURES_NAMED
    names = ", ".join(spec.name for spec in specs[:_FEATURES_NAMED])
    return f"{names} and {more} more" if more > 0 else names


def evaluate(frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
    """Select the expressions, with the same bits however the frame was made.

    Polars divides by the reciprocal where the divisor is one number for all rows (a literal, or a column that
    `with_columns` made of one value), and truly where it is a column, or where there is only one row: a single row,
    and a constant column, would else get other last bits than the same candle in a batch.
    """
    rows = pl.concat([frame, frame]) if frame.height == 1 else frame
    plain = pl.DataFrame(rows.get_columns())  # gives a column of one value its rows
    # A handful of rows is slower on two threads: the ops that call Python wait for each other's lock.
    query = plain.lazy().select_seq(exprs) if plain.height < _ROWS_FOR_THREADS else plain.lazy().select(exprs)
    return query.collect(engine="in-memory", optimizations=_SHARE_INPUTS).head(frame.height)


def _evaluate_specs(source: pl.DataFrame, specs: Sequence[FeatureSpec], *, zero: bool) -> pl.DataFrame:
    """Evaluate features that read the same frame; where an op of the user's own fails, say which and how."""
    exprs = [_column(*_key(spec), zero=zero) for spec in specs]
    try:
        with computing():
            return evaluate(source, exprs)
    except MemoryError:
        raise
    except (Exception, pl.exceptions.PanicException):
        for spec, expr in zip(specs, exprs, strict=True):
            module = user_module_of(spec.op)
            if module is not None:
                _try_user_op(source, expr, f"{spec.name}: op {spec.op} of {module}")
        raise


def _try_user_op(source: pl.DataFrame, expr: pl.Expr, what: str) -> None:
    try:
        evaluate(source, [expr])
    except (Exception, pl.exceptions.PanicException) as err:
        reason = str(err).partition("\n")[0]
        raise InputError(f"{what} fails on {source.height} candles: {type(err).__name__}: {reason}") from err


def _key(spec: FeatureSpec) -> tuple[str, Op, tuple[tuple[str, Param], ...]]:
    return spec.name, OPS[spec.op], tuple(spec.params.items())


@lru_cache(maxsize=4 * MAX_FEATURES)  # for the same reason as build_window
def _column(name: str, op: Op, params: tuple[tuple[str, Param], ...], *, zero: bool) -> pl.Expr:
    window = build_window(op, params)
    value = pl.lit(0.0) if zero else window.expr
    return pl.when(pl.col(_CONSECUTIVE_BARS) >= window.lookback_bars).then(value).cast(pl.Float32).alias(name)


def _join_leader(own: pl.DataFrame, leader: pl.DataFrame, specs: Sequence[FeatureSpec], step_ms: int) -> pl.DataFrame:
    """Put the leader's columns beside the symbol's own rows, and count bars in a row where both are there."""
    names = sorted({name for spec in specs for name in columns_read(spec, leader=True)} - {"ts"})
    columns, in_a_row = take_leader_columns(own, leader, names, step_ms)
    kept = [column for column in own.get_columns() if column.name != _CONSECUTIVE_BARS]
    return pl.DataFrame([*kept, *columns.values(), pl.Series(_CONSECUTIVE_BARS, in_a_row)])


def take_leader_columns(
    own: pl.DataFrame, leader: pl.DataFrame, names: Sequence[str], step_ms: int
) -> tuple[dict[str, pl.Series], NDArray[np.int64]]:
    """Return the leader's columns at the symbol's own rows, and how many bars in a row end there of both.

    Args:
        own: The symbol's candles.
        leader: The leader's, sorted by time, without nulls.
        names: Which columns, without prefix.
        step_ms: The interval.
    """
    own_ms, leader_ms = times_ms(own), times_ms(leader)
    # By numpy: a join takes three queries, which in serving cost as much as all of the leader's features.
    at = np.minimum(np.searchsorted(leader_ms, own_ms), max(0, leader_ms.size - 1))
    there = leader_ms[at] == own_ms if leader_ms.size else np.zeros(own_ms.size, np.bool_)
    in_a_row = np.zeros(own.height, dtype=np.int64)
    in_a_row[there] = consecutive_bars(own_ms[there], step_ms)
    taken = {LEADER_PREFIX + name: _taken(leader[name].to_numpy(), at, there) for name in names}
    return {name: pl.Series(name, values) for name, values in taken.items()}, in_a_row


def _taken(values: NDArray[Any], at: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the leader's value at each row, and 1 where it has no bar."""
    # The 1 is read by no value: every window that holds it is in the warm-up.
    return np.where(there, values[at], 1) if values.size else np.ones(at.size, values.dtype)


def consecutive_bars(ts_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """Count, at each row, the candles without a gap that end there, itself included."""
    bounds = np.array(segment_bounds(ts_ms, step_ms), dtype=np.int64).reshape(-1, 2)
    first = np.repeat(bounds[:, 0], bounds[:, 1] - bounds[:, 0])
    return np.arange(1, ts_ms.size + 1, dtype=np.int64) - first
