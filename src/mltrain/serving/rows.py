"""Turn candles into rows of features, and refuse with a reason those that must not be scored.

Pure. The features come from `mltrain.features.computation`, as in training. Only the bars that a row depends on are
read, so that the cost of the newest row does not grow with the length of the history passed in.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
import polars as pl

from mltrain.candles.anomalies import empty_false_volumes
from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE, find_segments, times_ms
from mltrain.errors import InputError, UsageError
from mltrain.features.computation import compute_features
from mltrain.features.input_join import join_inputs
from mltrain.killswitch.gate import HALTED
from mltrain.names import check_choice, describe
from mltrain.serving.checked_features import open_newest_features
from mltrain.serving.known_inputs import find_lacking_inputs
from mltrain.times import check_time_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.anomalies import FalseVolume
    from mltrain.candles.input_tables import InputTable
    from mltrain.features.newest import NewestFeatures
    from mltrain.features.spec import FeatureSet
    from mltrain.killswitch.gate import Permit

WhichRows: TypeAlias = Literal["last", "all"]

# A candle that closed two bars ago should have a successor, with one bar to spare.
MAX_AGE_BARS: Final = 2

# Why a row is not scored: the codes in the column `refused`.
UNKNOWN_SYMBOL: Final = "unknown-symbol"
STALE: Final = "stale"
EXPIRED: Final = "expired"
TOO_FEW_BARS: Final = "too-few-bars"
# Callers know these two codes, so they keep the older word for a gap.
GAP: Final = "hole"
LEADER_GAP: Final = "leader-hole"
INPUT_MISSING: Final = "input-missing"
INPUT_STALE: Final = "input-stale"
NOT_FINITE: Final = "not-finite"

REASONS: Final[Mapping[str, str]] = {
    HALTED: "serving is halted: `mltrain halt status` says why",
    UNKNOWN_SYMBOL: "the model was not trained on this symbol",
    STALE: "a newer candle should have arrived by now",
    EXPIRED: "its card says that it is no longer valid: train and promote a newer version",
    TOO_FEW_BARS: "there are fewer candles than the longest lookback",
    GAP: "a candle is missing inside the lookback",
    LEADER_GAP: "a candle of the leader is missing inside the lookback, or has not arrived yet",
    INPUT_MISSING: "no value of an input was known at a candle's close inside the lookback, or none was passed",
    INPUT_STALE: "the newest value of an input was older than its max_age at a candle's close inside the lookback",
    NOT_FINITE: "a feature is not a finite number",
}

# Names the candles of a caller in messages.
_WHERE: Final = "the candles given"
# Names that a message repeats.
_MAX_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """Which rows to score, for which model, at what time.

    Attributes:
        feature_set: The model's registry.
        symbols: The symbols that the model was trained on.
        lookback_bars: Consecutive candles that a row depends on, its own included.
        window: Consecutive bars whose features a row depends on, its own included; those of the first one reach back
            the rest of the lookback.
        rows: "last": the newest closed candle of each symbol; "all": every candle.
        now_ms: The time, ms UTC: candles that close later are left out. None: all candles count as closed.
        max_age_bars: Bars after its close at which the newest candle is stale; needs `now_ms`.
        newest: Computes the features of the newest candles; None: created from `feature_set` when needed.
        inputs: The values of each input that the features read.

    Raises:
        UsageError: `rows` or `max_age_bars` is invalid.
    """

    feature_set: FeatureSet
    symbols: tuple[str, ...]
    lookback_bars: int
    rows: WhichRows
    now_ms: int | None
    max_age_bars: int
    newest: NewestFeatures | None = None
    inputs: Mapping[str, InputTable] = field(default_factory=dict)
    window: int = 1

    def __post_init__(self) -> None:
        """Check the options that callers pass."""
        check_choice(self.rows, "rows", get_args(WhichRows))
        bars = self.max_age_bars
        if not isinstance(bars, int | np.integer) or isinstance(bars, bool) or bars < 0:
            raise UsageError(f"max_age_bars is {describe(bars)}: expected a whole number of bars, 0 or above")


def read_now(now_ms: object, clock: Callable[[], float] | None) -> int | None:
    """Return the current time, ms UTC: the caller's `now_ms` or, if that is None, the clock's; None without both.

    The clock returns seconds since 1970, UTC, as `time.time` does.

    Raises:
        UsageError: `now_ms` is not a time in ms, or the clock does not return a time in seconds.
    """
    if now_ms is not None:
        return check_time_ms(now_ms, "now_ms")
    if clock is None:
        return None
    seconds = clock()
    try:
        return check_time_ms(seconds * 1000, "clock")
    except (UsageError, TypeError) as err:
        raise UsageError(
            f"clock returned {describe(seconds)}: expected seconds since 1970 in UTC, as time.time returns"
        ) from err


def shorten_list(names: Sequence[str]) -> str:
    """Return names for a message: five, and how many others there are.

    >>> shorten_list(["A", "B"]), shorten_list("ABCDEFG")
    ('A, B', 'A, B, C, D, E and 2 others')
    """
    others = len(names) - _MAX_LISTED
    more = f" and {others} other{'s' if others > 1 else ''}" if others > 0 else ""
    return ", ".join(names[:_MAX_LISTED]) + more


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Rows of features of one symbol, in the order of time.

    Attributes:
        symbol: The symbol.
        ts_ms: Open time of each row's candle, ms UTC; a single None stands for a newest candle that does not exist.
        x: Features of the rows, shape (n, f), meaningless in refused ones; for a model that reads windows, after those
            of the earlier bars that it needs.
        refused: The reason code of each row; None: the row may be scored.
        permit: How their scores may be used.
        earlier_ms: Open times of the earlier bars, ms UTC.
    """

    symbol: str
    ts_ms: list[int | None]
    x: NDArray[np.float32]
    refused: list[str | None]
    permit: Permit = None
    earlier_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def bars_ms(self) -> NDArray[np.int64]:
        """Open time of the bar of each row of `x`, ms UTC."""
        return np.concatenate([self.earlier_ms, np.array(self.ts_ms, np.int64)])


def read_rows(candles: Mapping[str, pl.DataFrame], request: ScoringRequest) -> Iterator[FeatureRows]:
    """Compute features from candles by symbol, leaders included, and yield the requested rows of each symbol in order.

    A symbol that is only a leader has no rows.

    Raises:
        InputError: A candle is impossible or out of order, or a column or a leader that a feature reads is missing.
    """
    window = _CandleWindow(candles, request)
    with explaining_emptied_volumes(window.false_volumes):
        scored = [s for s in candles if s in request.symbols or s not in request.feature_set.leaders]
        reasons = {symbol: _refuse_early(symbol, window.times_ms(symbol), request) for symbol in scored}
        accepted = [symbol for symbol in scored if reasons[symbol] is None]
        newest: dict[str, FeatureRows] = {}
        if request.rows == "last" and accepted:
            compute = _compute_newest_rows if request.window == 1 else _compute_newest_windows
            newest = compute(window, accepted, request)
        for symbol in scored:
            if (reason := reasons[symbol]) is not None:
                ts_ms: list[int | None] = list(window.times_ms(symbol).tolist())
                if request.rows == "last":
                    ts_ms = ts_ms[-1:] or [None]
                x = np.full((len(ts_ms), len(request.feature_set.names)), np.nan, np.float32)
                yield FeatureRows(symbol, ts_ms, x, [reason] * len(ts_ms))
            elif symbol in newest:
                yield newest[symbol]
            else:
                yield _compute_all_rows(window, symbol, request)


@contextmanager
def explaining_emptied_volumes(false_volumes: Mapping[str, tuple[FalseVolume, ...]]) -> Iterator[None]:
    """Add to an InputError of the block, such as a missing column, which volumes were emptied, by symbol, and why."""
    try:
        yield
    except InputError as err:
        reasons = [f"{symbol}: {false}" for symbol, found in false_volumes.items() for false in found if false.emptied]
        if not reasons or type(err) is not InputError:
            raise
        raise InputError("; ".join([err.message, *reasons]), hint=err.hint) from err


class _CandleWindow:
    """The closed candles of all symbols; a range of them is checked once, when it is first read.

    Attributes:
        false_volumes: By symbol, the volumes that contradict its prices; if most do, the column is emptied.
    """

    def __init__(self, candles: Mapping[str, pl.DataFrame], request: ScoringRequest) -> None:
        self._candles = candles
        self._request = request
        self._step_ms = interval_ms(request.feature_set.interval)
        self._times_ms: dict[str, NDArray[np.int64]] = {}
        # By symbol and first and last open time.
        self._checked: dict[tuple[str, int, int], pl.DataFrame] = {}
        self.false_volumes: dict[str, tuple[FalseVolume, ...]] = {}

    def times_ms(self, symbol: str) -> NDArray[np.int64]:
        """Return the open times of a symbol's closed candles, ms UTC, shape (m,); raise InputError unless they rise."""
        if symbol not in self._times_ms:
            frame = self._candles[symbol]
            ts = frame["ts"] if "ts" in frame.columns else None
            if ts is None or ts.dtype != TS_DTYPE or ts.null_count() or not ts.is_sorted():
                # Raises an error that names the exact fault; the line below is for a fault that it does not know.
                self._check(frame, symbol)
                raise InputError(f"{_WHERE}: {symbol}: ts is not a column of rising times")
            times, now_ms = times_ms(frame), self._request.now_ms
            closed = times.size if now_ms is None else np.searchsorted(times, now_ms - self._step_ms, side="right")
            self._times_ms[symbol] = times[:closed]
        return self._times_ms[symbol]

    def between(self, symbol: str, first_ms: int, last_ms: int) -> pl.DataFrame:
        """Return a symbol's candles with open times, ms UTC, in [first_ms, last_ms], checked."""
        key = (symbol, first_ms, last_ms)
        if key not in self._checked:
            times = self.times_ms(symbol)
            start, stop = np.searchsorted(times, first_ms), np.searchsorted(times, last_ms, side="right")
            self._checked[key] = self._check(self._candles[symbol].slice(int(start), int(stop - start)), symbol)
        return self._checked[key]

    def _check(self, frame: pl.DataFrame, symbol: str) -> pl.DataFrame:
        """Raise unless the candles are possible; empty the volumes that contradict the prices, and join the inputs."""
        feature_set = self._request.feature_set
        frame = check_candles(frame, symbol=symbol, interval=feature_set.interval, where=_WHERE)
        frame, self.false_volumes[symbol] = empty_false_volumes(frame)
        return join_inputs(feature_set, {symbol: frame}, self._request.inputs)[symbol]

    def newest(self, symbol: str) -> pl.DataFrame:
        """Return a symbol's newest candles, as many as a lookback has bars, checked; there may be gaps between them."""
        times = self.times_ms(symbol)
        return self.between(symbol, int(times[-self._request.lookback_bars :][0]), int(times[-1]))

    def leaders(self, first_ms: int, last_ms: int) -> dict[str, pl.DataFrame]:
        """Return the candles of the leaders with open times, ms UTC, in [first_ms, last_ms], checked."""
        given = [leader for leader in self._request.feature_set.leaders if leader in self._candles]
        return {leader: self.between(leader, first_ms, last_ms) for leader in given}


def _refuse_early(symbol: str, ts_ms: NDArray[np.int64], request: ScoringRequest) -> str | None:
    """Return the code of the reason why all rows of a symbol are refused before any feature is computed; else None.

    `ts_ms` are the open times of its closed candles, ms UTC, rising.
    """
    if symbol not in request.symbols:
        return UNKNOWN_SYMBOL
    if not ts_ms.size:
        return TOO_FEW_BARS
    if request.rows == "last" and request.now_ms is not None:
        step_ms = interval_ms(request.feature_set.interval)
        if request.now_ms - (int(ts_ms[-1]) + step_ms) >= request.max_age_bars * step_ms:
            return STALE
    return None


def _compute_newest_rows(
    window: _CandleWindow, symbols: Sequence[str], request: ScoringRequest
) -> dict[str, FeatureRows]:
    """Compute the newest row of each symbol, in as few calls as possible: one costs about as much for many symbols."""
    candles = {symbol: window.newest(symbol) for symbol in symbols}
    last_ms = [int(window.times_ms(symbol)[-1]) for symbol in symbols]
    reach_ms = (request.lookback_bars - 1) * interval_ms(request.feature_set.interval)
    # A leader is read over the time range of all symbols, but its own row is that of its last candle. Usually all
    # symbols end at the same time, and the window returns the same frame for both.
    leaders = window.leaders(min(last_ms) - reach_ms, max(last_ms))
    separate = [symbol for symbol in symbols if symbol in leaders and leaders[symbol] is not candles[symbol]]
    together = [symbol for symbol in symbols if symbol not in separate]
    newest = request.newest or open_newest_features(request.feature_set)
    rows: dict[str, FeatureRows] = {}
    for group in ([together] if together else []) + [[symbol] for symbol in separate]:
        x = newest.compute(group, {**leaders, **{symbol: candles[symbol] for symbol in group}})
        for symbol, row in zip(group, x, strict=True):
            ts_ms = times_ms(candles[symbol])
            refused = find_refusals(symbol, ts_ms, row[None, :], request)
            rows[symbol] = FeatureRows(symbol, [int(ts_ms[-1])], row[None, :], refused)
    return rows


def _compute_newest_windows(
    window: _CandleWindow, symbols: Sequence[str], request: ScoringRequest
) -> dict[str, FeatureRows]:
    """Compute the features of the bars that the newest row of each symbol depends on."""
    rows = {}
    for symbol in symbols:
        candles = window.newest(symbol)
        first_ms, last_ms = (int(ms) for ms in times_ms(candles)[[0, -1]])
        ts_ms, x = _compute_matrix(request.feature_set, symbol, {**window.leaders(first_ms, last_ms), symbol: candles})
        refused = find_refusals(symbol, ts_ms, x, request)[-1:]
        earlier_ms = ts_ms[-request.window : -1]
        rows[symbol] = FeatureRows(symbol, [int(ts_ms[-1])], x[-request.window :], refused, earlier_ms=earlier_ms)
    return rows


def _compute_all_rows(window: _CandleWindow, symbol: str, request: ScoringRequest) -> FeatureRows:
    """Compute a row of features for each closed candle of a symbol."""
    times = window.times_ms(symbol)
    first_ms, last_ms = int(times[0]), int(times[-1])
    candles = {**window.leaders(first_ms, last_ms), symbol: window.between(symbol, first_ms, last_ms)}
    ts_ms, x = _compute_matrix(request.feature_set, symbol, candles)
    return FeatureRows(symbol, list(ts_ms.tolist()), x, find_refusals(symbol, ts_ms, x, request))


def _compute_matrix(
    feature_set: FeatureSet, symbol: str, candles: Mapping[str, pl.DataFrame]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return open time, ms UTC, and features, shape (n, f), NaN where there is none, of each candle of a symbol."""
    table = compute_features(feature_set, symbol, candles)
    # Whole columns instead of `select`: a query takes a millisecond on a busy machine.
    x = pl.DataFrame(table.get_columns()[1:]).to_numpy(order="c")
    return times_ms(table), np.ascontiguousarray(x, np.float32)


def find_refusals(
    symbol: str, ts_ms: NDArray[np.int64], x: NDArray[np.float32], request: ScoringRequest
) -> list[str | None]:
    """Return for each row of features the code of the reason why it must not be scored; None: it may be.

    If several reasons apply, an incomplete lookback goes first, then an input, then a leader's missing candle.

    Args:
        symbol: The symbol of the rows.
        ts_ms: Open times of all candles that were read, ms UTC, shape (m,).
        x: Features of the last n of these candles, shape (n, f); NaN: the feature has no value.
        request: The model's registry, lookback and inputs.
    """
    finite = np.asarray(np.isfinite(x).all(axis=1))
    complete = finite if request.window == 1 else _find_windows(ts_ms[-finite.size :], finite, request)
    if complete.all():
        return [None] * finite.size
    feature_set = request.feature_set
    bounds = find_segments(ts_ms, interval_ms(feature_set.interval))
    # For each row, the position of the first candle of its segment.
    segment_start = np.concatenate([np.full(stop - start, start) for start, stop in bounds])[-finite.size :]
    short = np.arange(ts_ms.size)[-finite.size :] - segment_start + 1 < request.lookback_bars
    missing, stale = find_lacking_inputs(symbol, ts_ms, x, feature_set, request.inputs)
    no_leader = np.isnan(x).any(axis=1) & bool(feature_set.leaders)
    conditions = [complete, short & (segment_start > 0), short, missing, stale, no_leader]
    codes = ["", GAP, TOO_FEW_BARS, INPUT_MISSING, INPUT_STALE, LEADER_GAP]
    reasons = np.select(conditions, codes, default=NOT_FINITE)
    # Of a row whose own bar is sound, the reason of the newest bar of its window that is not.
    at = np.arange(finite.size)
    unsound = np.maximum.accumulate(np.where(finite, -1, at))
    inherits = finite & ~complete & ~short & (unsound >= 0)
    reasons[inherits] = reasons[unsound[inherits]]
    return [reason or None for reason in reasons.tolist()]


def _find_windows(ts_ms: NDArray[np.int64], finite: NDArray[np.bool_], request: ScoringRequest) -> NDArray[np.bool_]:
    """Return which bars end a whole window of consecutive bars with finite features, shape (n,)."""
    at = np.arange(finite.size)
    has_gap = np.concatenate([[False], np.diff(ts_ms) != interval_ms(request.feature_set.interval)])[: at.size]
    start = np.maximum.accumulate(np.where(finite, np.where(has_gap, at, 0), at + 1))
    return at - start + 1 >= request.window
