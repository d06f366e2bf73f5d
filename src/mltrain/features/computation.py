"""Compute the feature matrix from candles: the one path for training and serving.

A feature is null at a row where fewer consecutive bars than its lookback end, and nowhere else, so no value spans a
gap. The expressions run over the whole frame, gaps included. That is sound because an op reads no further back than
its lookback; the leakage guards verify this for every feature, also just after gaps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import find_segments, times_ms
from mltrain.errors import InputError
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import MAX_FEATURES, build_window, columns_read
from mltrain.features.user_ops import user_module_of
from mltrain.names import join_first
from mltrain.times import format_ms, interval_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.op import Op
    from mltrain.features.spec import FeatureSet, FeatureSpec, Param

# With fewer rows, gaps alone can make candles of the right interval look like those of a longer one.
_MIN_ROWS_TO_INFER_INTERVAL: Final = 10

# Features and symbols named in a message.
_FEATURES_SHOWN: Final = 3
_SYMBOLS_SHOWN: Final = 5

# The symbol that has a problem, the verb for one symbol and for several, and the rest of the sentence.
_Problem: TypeAlias = tuple[str, str, str, str]

# A handful of rows is slower on two threads: the ops that call Python wait for each other's lock.
_ROWS_FOR_THREADS: Final = 10_000

# The optimizations of `DataFrame.select`, and one more: an input of several features, such as the return of one bar,
# is computed once.
_SHARE_INPUTS: Final = pl.QueryOptFlags.none(simplify_expression=True, comm_subexpr_elim=True)

_CONSECUTIVE_BARS: Final = "consecutive_bars"
_HINT: Final = "`--features features-ohlcv.yml` needs only open, high, low, close and volume of one symbol"


def compute_features(feature_set: FeatureSet, symbol: str, candles: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Compute every feature of one symbol.

    Args:
        feature_set: The features.
        symbol: A key of `candles`.
        candles: Checked candles by symbol; only those of `symbol` and of the leaders are read.

    Returns:
        The rows of `candles[symbol]`, in order: `ts`, then each feature as Float32, null in the warm-up after the
        start and after each gap (of a leader's feature: in either symbol). A leader's features are 0 on itself.

    Raises:
        InputError: A column or leader is missing, the candles are of another interval or out of order, or a user op
            fails.
    """
    check_inputs(feature_set, candles, symbols=[symbol])
    frame = candles[symbol]
    step_ms = interval_ms(feature_set.interval)
    # hstack, because each `select` of a frame costs as much as a feature of 300 rows.
    own = frame.hstack([pl.Series(_CONSECUTIVE_BARS, count_consecutive_bars(times_ms(frame), step_ms))])
    columns: dict[str, pl.Series] = {}
    for leader in dict.fromkeys(spec.leader for spec in feature_set.features):
        specs = [spec for spec in feature_set.features if spec.leader == leader]
        source = own if leader in {None, symbol} else _join_leader(own, candles[str(leader)], specs, step_ms)
        values = _evaluate_specs(source, specs, zero=leader == symbol)
        columns |= {column.name: column for column in values.get_columns()}
    return pl.DataFrame([frame["ts"], *(columns[name] for name in feature_set.names)])


def check_inputs(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], *, symbols: Iterable[str] | None = None
) -> None:
    """Check that the candles contain every symbol and column that the features of `symbols` (None: of all) read.

    Raises:
        InputError: A symbol, leader or column is missing, or the candles are of another interval, out of order or
            incomplete. One message names every such symbol, column and feature.
    """
    missing: list[_Problem] = []
    faults: list[_Problem] = []
    for symbol in sorted(candles) if symbols is None else symbols:
        for read, specs in _list_symbols_read(feature_set, symbol):
            frame = candles.get(read)
            missing += _describe_missing(read, frame, specs, leader=read != symbol)
            if frame is not None and "ts" in frame.columns:
                faults += _describe_time_faults(read, times_ms(frame), feature_set.interval)
    if missing or faults:
        raise InputError("; ".join(_join_problems([*missing, *faults])), hint=_HINT if missing else None)


def _join_problems(problems: Iterable[_Problem]) -> Iterator[str]:
    """Yield one sentence for each different problem, with all the symbols that have it."""
    symbols: dict[tuple[str, str, str], list[str]] = {}
    for symbol, singular, plural, rest in problems:
        named = symbols.setdefault((singular, plural, rest), [])
        if symbol not in named:
            named.append(symbol)
    for (singular, plural, rest), named in symbols.items():
        verb = singular if len(named) == 1 else plural
        yield " ".join(filter(None, (join_first(named, _SYMBOLS_SHOWN), verb, rest)))


def _list_symbols_read(feature_set: FeatureSet, symbol: str) -> Iterator[tuple[str, list[FeatureSpec]]]:
    """Yield each symbol whose candles the features of `symbol` read, itself first, with the features that read it."""
    yield symbol, list(feature_set.features)
    led = [spec for spec in feature_set.features if spec.leader not in {None, symbol}]
    for leader in dict.fromkeys(str(spec.leader) for spec in led):
        yield leader, [spec for spec in led if spec.leader == leader]


def _describe_missing(
    symbol: str, frame: pl.DataFrame | None, specs: Sequence[FeatureSpec], *, leader: bool
) -> Iterator[_Problem]:
    """Describe the candles and columns of one symbol that features need and that are missing, or null in some rows."""
    what = f"leader {symbol}" if leader else symbol
    if frame is None:
        yield f"there are no candles of {what},", "", "", f"for {_format_features(specs)}"
        return
    readers: dict[str, list[FeatureSpec]] = {"ts": list(specs)}
    for spec in specs:
        for name in columns_read(spec, leader=leader):
            readers.setdefault(name, []).append(spec)
    for name, features in readers.items():
        nulls = frame.height if name not in frame.columns else frame[name].null_count()
        if name not in frame.columns or nulls:
            rows = "" if nulls == frame.height else f" in {nulls} of {frame.height} rows"
            yield what, "lacks", "lack", f"{name}{rows}, for {_format_features(features)}"


def _describe_time_faults(symbol: str, ts_ms: NDArray[np.int64], interval: str) -> Iterator[_Problem]:
    """Describe candles (open times, UTC ms) that are out of order or of another interval than `interval`."""
    steps_ms = np.diff(ts_ms)
    if not steps_ms.size:
        return
    back = np.flatnonzero(steps_ms <= 0)
    if back.size:
        after = format_ms(int(ts_ms[back[0]]))
        yield f"{symbol}:", "", "", f"the candle after {after} is not later: sort the candles, drop duplicates"
        return
    expected_ms, step_ms = interval_ms(interval), int(np.gcd.reduce(steps_ms))
    if step_ms % expected_ms or (step_ms > expected_ms and ts_ms.size >= _MIN_ROWS_TO_INFER_INTERVAL):
        found = interval_name(step_ms)
        yield symbol, "has", "have", f"{found} candles, the features expect {interval}: take {interval} candles"


def _format_features(specs: Sequence[FeatureSpec]) -> str:
    """Join the names of the first few features with commas, and say how many more there are."""
    more = len(specs) - _FEATURES_SHOWN
    names = ", ".join(spec.name for spec in specs[:_FEATURES_SHOWN])
    return f"{names} and {more} more" if more > 0 else names


def evaluate(frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
    """Return the values of expressions over a frame; the bits of a row do not depend on how many rows there are.

    Where a divisor is one number for all rows (a literal, or a column that `with_columns` made of one value) or there
    is only one row, Polars multiplies by its reciprocal; where it is a column, Polars divides. Without the measures
    here, the last bits of a single row would differ from those of the same candle in a batch.
    """
    rows = pl.concat([frame, frame]) if frame.height == 1 else frame
    # Gives a column of one value its rows.
    plain = pl.DataFrame(rows.get_columns())
    query = plain.lazy().select_seq(exprs) if plain.height < _ROWS_FOR_THREADS else plain.lazy().select(exprs)
    return query.collect(engine="in-memory", optimizations=_SHARE_INPUTS).head(frame.height)


def _evaluate_specs(source: pl.DataFrame, specs: Sequence[FeatureSpec], *, zero: bool) -> pl.DataFrame:
    """Evaluate features that read the same frame; `zero` makes them 0, as a leader's features are on the leader itself.

    Raises:
        InputError: A user op fails; names feature, op and module.
    """
    exprs = [_make_column_expr(spec.name, OPS[spec.op], tuple(spec.params.items()), zero=zero) for spec in specs]
    try:
        return evaluate(source, exprs)
    except MemoryError:
        raise
    except (Exception, pl.exceptions.PanicException):
        for spec, expr in zip(specs, exprs, strict=True):
            module = user_module_of(spec.op)
            if module is None:
                continue
            try:
                evaluate(source, [expr])
            except (Exception, pl.exceptions.PanicException) as err:
                what, reason = f"{spec.name}: op {spec.op} of {module}", str(err).partition("\n")[0]
                raise InputError(f"{what} fails on {source.height} candles: {type(err).__name__}: {reason}") from err
        raise


# Cached for the same reason as build_window.
@lru_cache(maxsize=4 * MAX_FEATURES)
def _make_column_expr(name: str, op: Op, params: tuple[tuple[str, Param], ...], *, zero: bool) -> pl.Expr:
    """Return the expression of a feature (or of 0) as a Float32 column, null where its lookback is not complete."""
    window = build_window(op, params)
    value = pl.lit(0.0) if zero else window.expr
    return pl.when(pl.col(_CONSECUTIVE_BARS) >= window.lookback_bars).then(value).cast(pl.Float32).alias(name)


def _join_leader(own: pl.DataFrame, leader: pl.DataFrame, specs: Sequence[FeatureSpec], step_ms: int) -> pl.DataFrame:
    """Join the leader's columns to the symbol's rows, and count the consecutive bars that both have."""
    names = sorted({name for spec in specs for name in columns_read(spec, leader=True)} - {"ts"})
    columns, counts = take_leader_columns(own, leader, names, step_ms)
    kept = [column for column in own.get_columns() if column.name != _CONSECUTIVE_BARS]
    return pl.DataFrame([*kept, *columns.values(), pl.Series(_CONSECUTIVE_BARS, counts)])


def take_leader_columns(
    own: pl.DataFrame, leader: pl.DataFrame, names: Sequence[str], step_ms: int
) -> tuple[dict[str, pl.Series], NDArray[np.int64]]:
    """Return a leader's columns at a symbol's rows, and how many consecutive bars of both end at each row.

    The leader's candles are sorted by time and have no nulls in the columns `names`, which are without prefix.
    """
    own_ms, leader_ms = times_ms(own), times_ms(leader)
    # With NumPy, because a join takes three queries, which in serving cost as much as all of the leader's features.
    rows = np.minimum(np.searchsorted(leader_ms, own_ms), max(0, leader_ms.size - 1))
    present = leader_ms[rows] == own_ms if leader_ms.size else np.zeros(own_ms.size, np.bool_)
    columns = {}
    for name in names:
        values: NDArray[Any] = leader[name].to_numpy()
        # The 1 at missing candles is never seen: every window that contains it is in the warm-up.
        aligned = np.where(present, values[rows], 1) if values.size else np.ones(rows.size, values.dtype)
        columns[LEADER_PREFIX + name] = pl.Series(LEADER_PREFIX + name, aligned)
    return columns, count_consecutive_bars(own_ms, step_ms, present=present)


def count_consecutive_bars(
    ts_ms: NDArray[np.int64], step_ms: int, *, present: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Count, at each candle, the candles in a row without a gap that end with it, itself included.

    Args:
        ts_ms: Open times, rising, UTC ms, shape (n,).
        step_ms: Length of the interval, in ms.
        present: Where the candles of other symbols are present as well, shape (n,); elsewhere the count is 0.

    >>> count_consecutive_bars(np.array([0, 1, 2, 5, 6]), 1).tolist()
    [1, 2, 3, 1, 2]
    >>> count_consecutive_bars(np.array([0, 1, 2, 5, 6]), 1, present=np.array([True, False, True, True, True])).tolist()
    [1, 0, 1, 1, 2]
    """
    if present is not None:
        counts = np.zeros(ts_ms.size, dtype=np.int64)
        counts[present] = count_consecutive_bars(ts_ms[present], step_ms)
        return counts
    bounds = np.array(find_segments(ts_ms, step_ms), dtype=np.int64).reshape(-1, 2)
    first = np.repeat(bounds[:, 0], bounds[:, 1] - bounds[:, 0])
    return np.arange(1, ts_ms.size + 1, dtype=np.int64) - first
