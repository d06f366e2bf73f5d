"""Compute the feature matrix from candles: the one path for training and serving.

A feature is null at a row where fewer consecutive bars than its lookback end, and nowhere else, so no value spans a
gap. For a feature that reads inputs, only bars count at which all of them have a value. The expressions run over the
whole frame, gaps included. That is sound because an op reads no further back than its lookback; the leakage guards
verify this for every feature, also just after gaps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, find_segments, times_ms
from mltrain.errors import InputError
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import MAX_FEATURES, build_window, columns_read, inputs_read
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
# In place of values that are missing, and never seen: every window that contains one is in the warm-up.
_FILLER: Final = 1.0
_HINT: Final = "`--features features-ohlcv.yml` needs only open, high, low, close and volume of one symbol"


def compute_features(feature_set: FeatureSet, symbol: str, candles: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Compute every feature of one symbol.

    Args:
        feature_set: The features.
        symbol: A key of `candles`.
        candles: Checked candles by symbol, as `join_inputs` returns them; only those of `symbol` and of the leaders are
            read.

    Returns:
        The rows of `candles[symbol]`, in order: `ts`, then each feature as Float32, null in the warm-up after the
        start and after each gap (of a leader's feature: in either symbol), and after each bar without a value of an
        input that it reads. A leader's features are 0 on itself.

    Raises:
        InputError: A column or leader is missing, the candles are of another interval or out of order, or a user op
            fails.
    """
    check_inputs(feature_set, candles, symbols=[symbol])
    frame = candles[symbol]
    step_ms = interval_ms(feature_set.interval)
    columns: dict[str, pl.Series] = {}
    for reads, specs in group_features(feature_set).items():
        if reads.leader in {None, symbol}:
            source = take_own_columns(frame, reads, step_ms)
        else:
            names = sorted({name for spec in specs for name in columns_read(spec, leader=True)} - {"ts"})
            source = take_led_columns(frame, candles[str(reads.leader)], reads, names, step_ms)
        # hstack, because each `select` of a frame costs as much as a feature of 300 rows.
        rows = pl.DataFrame([*source.columns.values(), pl.Series(_CONSECUTIVE_BARS, source.bars)])
        values = _evaluate_specs(rows, specs, zero=reads.leader == symbol)
        columns |= {column.name: column for column in values.get_columns()}
    return pl.DataFrame([frame["ts"], *(columns[name] for name in feature_set.names)])


class Reads(NamedTuple):
    """What features read, apart from the columns of their symbol's candles.

    Attributes:
        leader: The leader, whose candles they read; None for none.
        inputs: Inputs of the symbol.
        leader_inputs: Inputs of the leader, without prefix.
    """

    leader: str | None
    inputs: tuple[str, ...] = ()
    leader_inputs: tuple[str, ...] = ()


class Source(NamedTuple):
    """The columns that features read, by name, and how many consecutive bars that have all of them end at each row."""

    columns: dict[str, pl.Series]
    bars: NDArray[np.int64]


def group_features(feature_set: FeatureSet) -> dict[Reads, list[FeatureSpec]]:
    """Return the features with the same leader and inputs together, in column order."""
    groups: dict[Reads, list[FeatureSpec]] = {}
    for spec in feature_set.features:
        reads = Reads(spec.leader)
        # Asking each feature costs 0.2 ms, and few registries have inputs.
        if feature_set.inputs:
            reads = Reads(spec.leader, inputs_read(spec, leader=False), inputs_read(spec, leader=True))
        groups.setdefault(reads, []).append(spec)
    return groups


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
        names = columns_read(spec, leader=leader)
        # On itself, a leader's features are 0 where its inputs have values.
        if spec.leader == symbol and not leader:
            names = (*names, *inputs_read(spec, leader=True))
        for name in names:
            readers.setdefault(name, []).append(spec)
    for name, features in readers.items():
        if name not in CANDLE_SCHEMA:
            if name not in frame.columns:
                yield what, "lacks", "lack", f"the input {name}, for {_format_features(features)}"
            continue
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


def take_own_columns(own: pl.DataFrame, reads: Reads, step_ms: int, *, names: Sequence[str] | None = None) -> Source:
    """Return columns of a symbol's candles for features that read no other symbol's, which its leader's features are.

    `names` are those to take; None: all.
    """
    columns = {name: own[name] for name in (own.columns if names is None else names)}
    inputs = sorted({*reads.inputs, *reads.leader_inputs})
    present, filled = _find_present(own, inputs)
    columns |= {name: column for name, column in filled.items() if name in columns}
    return Source(columns, count_consecutive_bars(times_ms(own), step_ms, present=present))


def take_led_columns(
    own: pl.DataFrame,
    leader: pl.DataFrame,
    reads: Reads,
    leader_names: Sequence[str],
    step_ms: int,
    *,
    names: Sequence[str] | None = None,
) -> Source:
    """Return columns of a symbol's candles, and at the same rows those of its leader's.

    Args:
        own: The symbol's candles.
        leader: The leader's candles, sorted by time, without nulls in the columns `leader_names` but those of inputs.
        reads: What the features read.
        leader_names: Columns to take of the leader, without prefix and without `ts`.
        step_ms: Length of the interval, in ms.
        names: Columns to take of the symbol; None: all.
    """
    own_ms, leader_ms = times_ms(own), times_ms(leader)
    # With NumPy, because a join takes three queries, which in serving cost as much as all of the leader's features.
    rows = np.minimum(np.searchsorted(leader_ms, own_ms), max(0, leader_ms.size - 1))
    present = leader_ms[rows] == own_ms if leader_ms.size else np.zeros(own_ms.size, np.bool_)
    leader_present, leader_filled = _find_present(leader, reads.leader_inputs)
    if leader_present is not None and leader_ms.size:
        present = present & leader_present[rows]
    own_present, filled = _find_present(own, reads.inputs)
    columns = {name: filled.get(name, own[name]) for name in (own.columns if names is None else names)}
    for name in leader_names:
        values: NDArray[Any] = leader_filled.get(name, leader[name]).to_numpy()
        aligned = np.where(present, values[rows], _FILLER) if values.size else np.ones(rows.size, values.dtype)
        columns[LEADER_PREFIX + name] = pl.Series(LEADER_PREFIX + name, aligned)
    if own_present is not None:
        present = present & own_present
    return Source(columns, count_consecutive_bars(own_ms, step_ms, present=present))


def _find_present(frame: pl.DataFrame, inputs: Sequence[str]) -> tuple[NDArray[np.bool_] | None, dict[str, pl.Series]]:
    """Return the rows at which every input has a value (None without inputs), and the inputs with _FILLER elsewhere."""
    if not inputs:
        return None, {}
    values = {name: frame[name].to_numpy() for name in inputs}
    present = np.logical_and.reduce([np.isfinite(column) for column in values.values()])
    return present, {name: pl.Series(name, np.where(present, column, _FILLER)) for name, column in values.items()}


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
