"""From candles to rows of features, each with the reason why it must not be scored, where there is one.

Pure. The features come from `mltrain.features.computation`, as in training. Only the bars that a row depends on are
looked at, so that the cost of the newest row does not grow with the history that the caller happens to hold.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np
import polars as pl

from mltrain.candles.frame import TS_DTYPE, check_candles, segment_bounds, times_ms
from mltrain.candles.volumes import empty_false_volumes
from mltrain.errors import InputError, UsageError
from mltrain.features.computation import compute_features
from mltrain.features.newest import NewestFeatures
from mltrain.names import check_choice, describe
from mltrain.times import check_time_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.volumes import FalseVolume
    from mltrain.features.spec import FeatureSet

WhichRows: TypeAlias = Literal["last", "all"]

#: Why a row is not scored.
UNKNOWN_SYMBOL: Final = "unknown-symbol"  # the model was not trained on it
STALE: Final = "stale"  # newer candles should be there by now
TOO_FEW_BARS: Final = "too-few-bars"  # fewer candles than the longest lookback
# A candle is missing inside the lookback; callers know the code, so it keeps the older word.
GAP: Final = "hole"
# The same, of a leader symbol.
LEADER_GAP: Final = "leader-hole"
NOT_FINITE: Final = "not-finite"  # a feature is no finite number

#: The same reasons in words.
REASONS: Final[Mapping[str, str]] = {
    UNKNOWN_SYMBOL: "the model was not trained on it",
    STALE: "newer candles should be there by now",
    TOO_FEW_BARS: "fewer candles are held than the longest lookback",
    GAP: "a candle is missing inside the lookback",
    LEADER_GAP: "a candle of the leader is missing inside the lookback, or has not arrived yet",
    NOT_FINITE: "a feature is not a finite number",
}

_WHERE: Final = "the candles given"


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be scored.

    Attributes:
        feature_set: The model's registry.
        symbols: What the model was trained on.
        lookback_bars: Candles in a row that a row depends on, its own included.
        rows: "last": the newest closed candle of each symbol; "all": every candle.
        now_ms: The time, ms UTC: candles that close later are left out; None: all candles are closed.
        max_age_bars: With a time, and for the newest candle: how many bars after its close it counts as stale.
        newest: Computes newest rows of that registry; None: it is made for this question.

    Raises:
        UsageError: `rows` is neither, or `max_age_bars` is not a number of bars.
    """

    feature_set: FeatureSet
    symbols: tuple[str, ...]
    lookback_bars: int
    rows: WhichRows
    now_ms: int | None
    max_age_bars: int
    newest: NewestFeatures | None = None

    def __post_init__(self) -> None:
        """Check the options that callers pass."""
        check_choice(self.rows, "rows", get_args(WhichRows))
        bars = self.max_age_bars
        if not isinstance(bars, int | np.integer) or isinstance(bars, bool) or bars < 0:
            raise UsageError(f"max_age_bars is {describe(bars)}: expected a whole number of bars, 0 or above")


def read_now(now_ms: object, clock: Callable[[], float] | None) -> int | None:
    """Return the time by which newest candles are judged, ms UTC; None if there is none.

    Args:
        now_ms: What the caller gave, in ms since 1970; None: the clock is read.
        clock: Returns seconds since 1970, as `time.time` does; None: there is no clock.

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


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Rows of one symbol, in order of time.

    Attributes:
        symbol: The symbol.
        ts_ms: Open times; None in place of a newest candle where there is none at all.
        x: Features, shape (n, f); meaningless in refused rows.
        refused: The reason for each row; None where it may be scored.
    """

    symbol: str
    ts_ms: list[int | None]
    x: NDArray[np.float32]
    refused: list[str | None]


def read_rows(candles: Mapping[str, pl.DataFrame], question: Question) -> Iterator[FeatureRows]:
    """Give the rows of each symbol, in the order of `candles`; a symbol that only leads others is none of them.

    Args:
        candles: Candles by symbol, and those of the leaders.
        question: What is to be scored.

    Raises:
        InputError: A candle is impossible or out of order, or a column or a leader that a feature reads is missing.
        UsageError: The registry's interval is unknown.
    """
    tape = _Tape(candles, question)
    with explaining(tape.emptied):
        yield from _read_rows(tape, candles, question)


@contextmanager
def explaining(emptied: Mapping[str, tuple[FalseVolume, ...]]) -> Iterator[None]:
    """Extend an error about a missing column by the reason why it was emptied, for each symbol."""
    try:
        yield
    except InputError as err:
        why = [f"{symbol}: {false}" for symbol, found in emptied.items() for false in found if false.emptied]
        if not why or type(err) is not InputError:
            raise
        raise InputError("; ".join([err.message, *why]), hint=err.hint) from err


def _read_rows(tape: _Tape, candles: Mapping[str, pl.DataFrame], question: Question) -> Iterator[FeatureRows]:
    asked = [s for s in candles if s in question.symbols or s not in question.feature_set.leaders]
    early = {symbol: _refuse_early(symbol, tape.times(symbol), question) for symbol in asked}
    sound = [symbol for symbol in asked if early[symbol] is None]
    newest = _newest_rows(tape, sound, question) if question.rows == "last" else {}
    for symbol in asked:
        reason = early[symbol]
        if reason is not None:
            yield _refused_rows(symbol, tape.times(symbol), reason, question)
        elif symbol in newest:
            yield newest[symbol]
        else:
            yield _every_row(tape, symbol, question)


class _Tape:
    """The closed candles of all symbols; each is checked once, when it is taken out.

    Attributes:
        emptied: The volumes of each symbol that contradict its prices; where most do, the column is null.
    """

    def __init__(self, candles: Mapping[str, pl.DataFrame], question: Question) -> None:
        self._candles = candles
        self._question = question
        self._step_ms = interval_ms(question.feature_set.interval)
        self._times: dict[str, NDArray[np.int64]] = {}
        self._checked: dict[tuple[str, int, int], pl.DataFrame] = {}
        self.emptied: dict[str, tuple[FalseVolume, ...]] = {}

    def times(self, symbol: str) -> NDArray[np.int64]:
        """Return the open times of the closed candles, once they have proved sorted."""
        if symbol not in self._times:
            self._times[symbol] = self._read_times(symbol)
        return self._times[symbol]

    def _read_times(self, symbol: str) -> NDArray[np.int64]:
        frame = self._candles[symbol]
        ts = frame["ts"] if "ts" in frame.columns else None
        if ts is None or ts.dtype != TS_DTYPE or ts.null_count() or not ts.is_sorted():
            self._check(frame, symbol)
            raise InputError(f"{_WHERE}: {symbol}: ts is not a column of rising times")
        times, now_ms = times_ms(frame), self._question.now_ms
        return times if now_ms is None else times[: np.searchsorted(times, now_ms - self._step_ms, side="right")]

    def between(self, symbol: str, first_ms: int, last_ms: int) -> pl.DataFrame:
        """Return the candles that open in a time range, both ends included, checked."""
        key = (symbol, first_ms, last_ms)
        if key not in self._checked:
            times = self.times(symbol)
            start, stop = np.searchsorted(times, first_ms), np.searchsorted(times, last_ms, side="right")
            self._checked[key] = self._check(self._candles[symbol].slice(int(start), int(stop - start)), symbol)
        return self._checked[key]

    def _check(self, frame: pl.DataFrame, symbol: str) -> pl.DataFrame:
        interval = self._question.feature_set.interval
        frame = check_candles(frame, symbol=symbol, interval=interval, where=_WHERE)
        frame, self.emptied[symbol] = empty_false_volumes(frame)
        return frame

    def window(self, symbol: str) -> pl.DataFrame:
        """Return as many of a symbol's newest candles as a lookback has bars, checked, so that a gap shows."""
        times = self.times(symbol)
        return self.between(symbol, int(times[-self._question.lookback_bars :][0]), int(times[-1]))

    def leaders(self, first_ms: int, last_ms: int) -> dict[str, pl.DataFrame]:
        """Return the candles of those leaders that are there, of a range of open times, both ends included, checked."""
        there = [leader for leader in self._question.feature_set.leaders if leader in self._candles]
        return {leader: self.between(leader, first_ms, last_ms) for leader in there}


def _refuse_early(symbol: str, times: NDArray[np.int64], question: Question) -> str | None:
    """Return the reason that is known without any feature."""
    if symbol not in question.symbols:
        return UNKNOWN_SYMBOL
    if not times.size:
        return TOO_FEW_BARS
    if question.rows == "last" and question.now_ms is not None:
        step_ms = interval_ms(question.feature_set.interval)
        if question.now_ms - (int(times[-1]) + step_ms) >= question.max_age_bars * step_ms:
            return STALE
    return None


def _refused_rows(symbol: str, times: NDArray[np.int64], reason: str, question: Question) -> FeatureRows:
    shown: list[int | None] = list(times.tolist())
    if question.rows == "last":
        shown = shown[-1:] or [None]
    x = np.full((len(shown), len(question.feature_set.names)), np.nan, np.float32)
    return FeatureRows(symbol, shown, x, [reason] * len(shown))


def _newest_rows(tape: _Tape, symbols: Sequence[str], question: Question) -> dict[str, FeatureRows]:
    """Compute the newest row of symbols that have one, all at once."""
    if not symbols:
        return {}
    own = {symbol: tape.window(symbol) for symbol in symbols}
    last = [int(tape.times(symbol)[-1]) for symbol in symbols]
    reach_ms = (question.lookback_bars - 1) * interval_ms(question.feature_set.interval)
    # A symbol that leads others is read over their time, too; its own row is still that of its own last candle. Where
    # all end together, which is the rule, the tape gives the one frame for both.
    leaders = tape.leaders(min(last) - reach_ms, max(last))
    rows: dict[str, FeatureRows] = {}
    apart = [symbol for symbol in symbols if symbol in leaders and leaders[symbol] is not own[symbol]]
    for some in ([symbol for symbol in symbols if symbol not in apart], *([symbol] for symbol in apart)):
        x = _newest(question).compute(some, {**leaders, **{s: own[s] for s in some}}) if some else ()
        for symbol, row in zip(some, x, strict=True):
            ts_ms = times_ms(own[symbol])
            rows[symbol] = FeatureRows(
                symbol, [int(ts_ms[-1])], row[None, :], row_reasons(ts_ms, row[None, :], question)
            )
    return rows


def _newest(question: Question) -> NewestFeatures:
    return question.newest or NewestFeatures(question.feature_set)


def _every_row(tape: _Tape, symbol: str, question: Question) -> FeatureRows:
    times = tape.times(symbol)
    first_ms, last_ms = int(times[0]), int(times[-1])
    candles = {**tape.leaders(first_ms, last_ms), symbol: tape.between(symbol, first_ms, last_ms)}
    table = compute_features(question.feature_set, symbol, candles)
    ts_ms = times_ms(table)
    # Whole columns, not `select`: each query takes a millisecond on a busy machine, and a prediction has few of them.
    x = pl.DataFrame(table.get_columns()[1:]).to_numpy(order="c")
    refused = row_reasons(ts_ms, np.ascontiguousarray(x, np.float32), question)
    return FeatureRows(symbol, list(ts_ms.tolist()), x, refused)


def row_reasons(ts_ms: NDArray[np.int64], x: NDArray[np.float32], question: Question) -> list[str | None]:
    """Return why each of the last rows is not to be scored, a lookback that is not whole first; None where it may be.

    Args:
        ts_ms: Open times of all candles that were read, shape (m,).
        x: Features of the last n of them, shape (n, f); NaN where a feature has no value.
        question: What is to be scored.
    """
    sound = np.isfinite(x).all(axis=1)
    if sound.all():
        return [None] * sound.size
    bounds = segment_bounds(ts_ms, interval_ms(question.feature_set.interval))
    first = np.concatenate([np.full(stop - start, start) for start, stop in bounds])[-sound.size :]
    short = np.arange(ts_ms.size)[-sound.size :] - first + 1 < question.lookback_bars
    no_leader = np.isnan(x).any(axis=1) & bool(question.feature_set.leaders)
    reasons = np.select(
        [sound, short & (first > 0), short, no_leader], ["", GAP, TOO_FEW_BARS, LEADER_GAP], default=NOT_FINITE
    )
    return [reason or None for reason in reasons.tolist()]
