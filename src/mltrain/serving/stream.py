"""Streaming: candle by candle to probabilities, holding no more than the last bars of each symbol.

The features are computed by the code of `predict_candles`, from the last `lookback` bars alone, so a stream that was
restarted from its last bars gives the numbers of one that never stopped. The rules for what comes in:

* the next candle of a symbol is taken; where candles between are missing, the gap refuses predictions ("hole") until
  a whole lookback has come in behind it;
* the newest candle once more, with the same values, is ignored and scored again; with other values it is refused
  ("changed"): a closed candle does not change;
* an older candle is refused ("late"), whether it was seen before or not; it fills no gap, for training had none to
  fill; to mend a gap, `warm_up` with candles from the exchange;
* an impossible candle is an error; a candle that is still open by the clock given is refused ("open").

What is refused leaves the stream as it was. A symbol whose leader has not sent the same candle yet is refused
("leader-hole"), its own candle being kept: push the leader first, or ask `predict` again.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import numpy as np
import polars as pl

from mltrain.candles.conversion import as_candles, as_frame, as_record
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, TS_DTYPE, check_candles, times_ms
from mltrain.candles.volumes import empty_false_volumes
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.names import describe, did_you_mean, show
from mltrain.serving.inputs import candles_by_symbol
from mltrain.serving.rows import (
    LEADER_GAP,
    REASONS,
    STALE,
    TOO_FEW_BARS,
    UNKNOWN_SYMBOL,
    Question,
    explaining,
    read_now,
    row_reasons,
)
from mltrain.times import EPOCH, format_ms, interval_ms, is_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mltrain.errors import MltrainError
    from mltrain.serving.loaded_model import Served

#: Why a candle is not taken.
LATE: Final = "late"  # a newer one is there already
CHANGED: Final = "changed"  # the newest one once more, with other values
OPEN: Final = "open"  # it has not closed yet

_WHERE: Final = "the candle pushed"
_VALUES: Final = tuple(name for name in CANDLE_SCHEMA if name != "ts")
_REQUIRED: Final = len(_VALUES) - len(OPTIONAL)
_MS: Final = dt.timedelta(milliseconds=1)


@dataclass(slots=True, eq=False)
class _Tape:
    """The last bars of one symbol, in an array that is moved to its front when it is full.

    Attributes:
        bars: How many bars at least are kept.
        ts_ms: Open times, shape (2 * bars,).
        values: The other columns, shape (columns, 2 * bars); NaN where a source lacks one.
        stop: One past the newest.
        frame: The newest bars as candles; None once more have come in.
    """

    bars: int
    ts_ms: NDArray[np.int64] = field(init=False)
    values: NDArray[np.float64] = field(init=False)
    stop: int = 0
    frame: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        self.ts_ms = np.zeros(2 * self.bars, np.int64)
        self.values = np.zeros((len(_VALUES), 2 * self.bars))

    def push(self, ts_ms: int, values: tuple[float, ...]) -> None:
        if self.stop == self.ts_ms.size:
            kept = slice(self.stop - self.bars + 1, self.stop)
            self.ts_ms[: self.bars - 1], self.values[:, : self.bars - 1] = self.ts_ms[kept], self.values[:, kept]
            self.stop = self.bars - 1
        self.ts_ms[self.stop], self.values[:, self.stop] = ts_ms, values
        self.stop += 1
        self.frame = None

    def grow(self, bars: int) -> None:
        """Keep more bars from now on."""
        old_ms, old_values = self.ts_ms[: self.stop], self.values[:, : self.stop]
        self.bars, kept = bars, min(self.stop, 2 * bars)
        self.__post_init__()
        self.ts_ms[:kept], self.values[:, :kept] = old_ms[-kept:], old_values[:, -kept:]
        self.stop = kept

    def candles(self) -> pl.DataFrame:
        """Return the last `bars` bars; a column that any of them lacks is left out."""
        if self.frame is None:
            kept = slice(max(0, self.stop - self.bars), self.stop)
            columns = [pl.Series("ts", self.ts_ms[kept]).cast(TS_DTYPE)]
            for name, values in zip(_VALUES, self.values[:, kept], strict=True):
                if name in OPTIONAL and np.isnan(values).any():
                    continue
                columns.append(pl.Series(name, values.astype(np.int64) if name == "trades" else values))
            self.frame = pl.DataFrame(columns)
        return self.frame


class Stream:
    """The last bars of some symbols, and the probability of each newest one; `Model.stream` makes it.

    May be used from several threads; candles are taken one at a time. A promotion is followed between two candles;
    a version with a longer lookback refuses until its bars have come in.
    """

    def __init__(
        self, current: Callable[[], Served], symbols: Iterable[str], *, clock: Callable[[], float] | None = None
    ) -> None:
        self._current = current
        self._clock = clock
        self._lock = threading.RLock()
        served = current()
        if not isinstance(symbols, Iterable) or isinstance(symbols, str):
            raise UsageError(f"symbols is {describe(symbols)}: expected a list", hint='such as ["BTCUSDT"]')
        wanted = tuple(dict.fromkeys(symbols))
        for symbol in wanted:
            if symbol not in served.bundle.symbols:
                raise _unknown(symbol, served.bundle.symbols)
        self.symbols = wanted
        self._step_ms = interval_ms(served.bundle.interval)
        held = dict.fromkeys([*wanted, *served.bundle.feature_set.leaders])
        self._tapes = {symbol: _Tape(served.lookback_bars) for symbol in held}

    def warm_up(self, candles: object) -> None:
        """Hold these candles, in place of what was held of their symbols; only the newest are kept.

        Args:
            candles: Closed candles by symbol, those of leaders too, as in `Model.predict_candles`; those that
                `candles` returned before a restart, or the exchange's newest ones.

        Raises:
            UsageError: They are not candles.
            InputError: A candle is impossible or out of order.
            RefusedError: A symbol is none of the stream's or of its leaders.
        """
        with self._lock:
            given = candles_by_symbol(candles, self._current().bundle.symbols)
            checked = {symbol: self._checked(symbol, frame) for symbol, frame in given.items()}
            for symbol, frame in checked.items():
                tape = self._tape(symbol)
                newest = frame.tail(tape.bars)
                times, columns = times_ms(newest), [newest[name].cast(pl.Float64).to_numpy() for name in _VALUES]
                tape.stop = newest.height
                tape.ts_ms[: tape.stop], tape.values[:, : tape.stop] = times, np.array(columns)
                tape.frame = None

    def candles(self, symbol: str) -> pl.DataFrame:
        """Return the bars that are held of a symbol, to be kept for a restart.

        Raises:
            RefusedError: The symbol is none of the stream's or of its leaders.
        """
        with self._lock:
            return self._tape(symbol).candles()

    def push(self, symbol: str, candle: object, *, now_ms: int | None = None) -> float:
        """Take a closed candle and return the probability of up of what follows it.

        Args:
            symbol: Whose.
            candle: `ts` (a datetime with its zone, ms UTC, or ISO 8601 text), `open`, `high`, `low`, `close`, `volume`,
                and the optional columns that the features read: as a mapping, a frame of one row, a row of a
                pandas frame, or one of Binance's kline rows.
            now_ms: The time, ms UTC: a candle that is still open is not taken, and a stale one is not scored; None:
                the model's clock is read; without a clock neither is checked.

        Raises:
            UsageError: It is not a candle, or `now_ms` is not a time in ms.
            InputError: The candle is impossible, or lacks a column that a feature reads.
            RefusedError: It was not taken (late, changed, open, unknown-symbol), or it was and cannot be scored (hole,
                too-few-bars, leader-hole, not-finite, stale).
        """
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            self._take(symbol, candle, now_ms)
            return self._predict(symbol, now_ms)

    def take(self, symbol: str, candle: object, *, now_ms: int | None = None) -> None:
        """Take a closed candle without scoring it, such as that of a leader; see `push`.

        Raises:
            UsageError: It is not a candle, or `now_ms` is not a time in ms.
            InputError: The candle is impossible.
            RefusedError: It was not taken.
        """
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            self._take(symbol, candle, now_ms)

    def _take(self, symbol: str, candle: object, now_ms: int | None) -> None:
        tape = self._tape(symbol)
        ts_ms, values = self._read(symbol, candle)
        if now_ms is not None and ts_ms + self._step_ms > now_ms:
            raise RefusedError(f"{symbol} at {format_ms(ts_ms)}: the candle has not closed yet", reason=OPEN)
        if not tape.stop or ts_ms > (newest_ms := int(tape.ts_ms[tape.stop - 1])):
            tape.push(ts_ms, values)
        elif ts_ms < newest_ms:
            raise RefusedError(
                f"{symbol} at {format_ms(ts_ms)}: too late, the candle of {format_ms(newest_ms)} has already come in",
                reason=LATE,
            )
        elif not np.array_equal(tape.values[:, tape.stop - 1], values, equal_nan=True):
            raise RefusedError(
                f"{symbol} at {format_ms(ts_ms)}: already came with other values; a closed candle does not change",
                reason=CHANGED,
                hint="warm the stream up with the exchange's candles if they are right",
            )

    def predict(self, symbol: str, *, now_ms: int | None = None) -> float:
        """Return the probability of up after the newest candle of a symbol.

        Raises:
            UsageError: `now_ms` is not a time in ms.
            InputError: The candles lack a column that a feature reads.
            RefusedError: It cannot be scored; see `push`.
        """
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            return self._predict(symbol, now_ms)

    def _predict(self, symbol: str, now_ms: int | None) -> float:
        served = self._current()
        if symbol not in served.bundle.symbols:
            raise _unknown(symbol, served.bundle.symbols)
        row = self._row(symbol, served, now_ms)
        return served.score_one(row)[1]

    def _row(self, symbol: str, served: Served, now_ms: int | None) -> NDArray[np.float32]:
        own = self._tape(symbol)
        feature_set, bars = served.bundle.feature_set, served.lookback_bars
        question = Question(feature_set, served.bundle.symbols, bars, rows="last", now_ms=now_ms, max_age_bars=2)
        if not own.stop:
            raise _refused(symbol, None, TOO_FEW_BARS)
        if own.bars < bars:
            for tape in self._tapes.values():
                tape.grow(bars)
        ts_ms = int(own.ts_ms[own.stop - 1])
        if now_ms is not None and now_ms - (ts_ms + self._step_ms) >= question.max_age_bars * self._step_ms:
            raise _refused(symbol, ts_ms, STALE)
        leaders = {leader: self._tape(leader) for leader in feature_set.leaders if leader != symbol}
        if not all(tape.stop for tape in leaders.values()):
            raise _refused(symbol, ts_ms, LEADER_GAP)
        candles, emptied = {}, {}
        for name, tape in {**leaders, symbol: own}.items():
            candles[name], emptied[name] = empty_false_volumes(tape.candles().tail(bars))
        with explaining(emptied):
            x = served.newest.compute([symbol], candles)
        reason = row_reasons(times_ms(candles[symbol]), x, question)[0]
        if reason is not None:
            raise _refused(symbol, ts_ms, reason)
        newest: NDArray[np.float32] = x[0]
        return newest

    def _tape(self, symbol: str) -> _Tape:
        tape = self._tapes.get(symbol) if isinstance(symbol, str) else None
        if tape is None:
            served = self._current()
            if symbol not in served.bundle.feature_set.leaders:  # of a version promoted since
                raise _unknown(symbol, tuple(self._tapes))
            tape = self._tapes[symbol] = _Tape(served.lookback_bars)
        return tape

    def _checked(self, symbol: str, frame: pl.DataFrame) -> pl.DataFrame:
        self._tape(symbol)
        return check_candles(frame, symbol=symbol, interval=self._current().bundle.interval, where="the candles given")

    def _read(self, symbol: str, candle: object) -> tuple[int, tuple[float, ...]]:
        """Return open time and values, under the rules of `check_candles`.

        A mapping of plain values is read as it is, which takes microseconds; anything else is converted first, which
        takes a millisecond.
        """
        record = as_record(candle, "candle")
        return self._read_plain(symbol, record if _is_plain(record) else _convert(record))

    def _read_plain(self, symbol: str, candle: Mapping[str, Any]) -> tuple[int, tuple[float, ...]]:
        ts_ms, values = _time_of(candle.get("ts")), tuple(map(_number, map(candle.get, _VALUES)))
        open_, high, low, close, volume = values[:_REQUIRED]
        amounts = [v for name, v in zip(_VALUES[4:], values[4:], strict=True) if candle.get(name) is not None]
        # Written so that NaN fails.
        sound = (
            ts_ms is not None
            and ts_ms >= 0
            and ts_ms % self._step_ms == 0
            and all(0 < price < math.inf for price in (open_, high, low, close))
            and low <= min(open_, close) <= max(open_, close) <= high
            and 0 <= volume < math.inf
            and all(0 <= amount < math.inf for amount in amounts)
            and (candle.get("trades") is None or values[_VALUES.index("trades")].is_integer())
        )
        if not sound or ts_ms is None:
            self._refuse_impossible(symbol, candle, ts_ms)
        assert ts_ms is not None  # noqa: S101 -- as just checked
        return ts_ms, values

    def _refuse_impossible(self, symbol: str, candle: Mapping[str, Any], ts_ms: int | None) -> None:
        if ts_ms is None:
            raise InputError(f"{_WHERE}: {symbol}: ts must be a datetime with its zone, or ms UTC as an int")
        columns = {name: [_shown(name, candle.get(name))] for name in _VALUES if candle.get(name) is not None}
        frame = pl.DataFrame({"ts": pl.Series([ts_ms]).cast(TS_DTYPE), **columns})
        check_candles(frame, symbol=symbol, interval=self._current().bundle.interval, where=_WHERE)
        raise InputError(f"{_WHERE}: {symbol} at {format_ms(ts_ms)}: a value is no number")


def _is_plain(candle: Mapping[str, Any]) -> bool:
    """Tell whether a candle can be read, or refused, without a conversion."""
    ts = candle.get("ts", "")
    if not (ts is None or isinstance(ts, dt.datetime | bool) or (_is_integer(ts) and is_ms(ts))):
        return False
    return all(isinstance(candle.get(name), float | int | np.number | None) for name in _VALUES)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _convert(candle: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a candle with the names and types of CANDLE_SCHEMA."""
    return as_candles(as_frame([candle], "candle"), _WHERE).row(0, named=True)


def _time_of(ts: object) -> int | None:
    if isinstance(ts, dt.datetime):
        return None if ts.tzinfo is None else (ts - EPOCH) // _MS
    return int(ts) if _is_integer(ts) else None


def _number(value: Any) -> float:  # noqa: ANN401 (whatever a caller's candle holds)
    """Return a value as a number, -0.0 as 0.0; NaN for what is none."""
    if isinstance(value, float | int | np.number) and not isinstance(value, bool):
        return float(value) + 0.0
    return math.nan


def _shown(name: str, value: Any) -> float | int | None:  # noqa: ANN401 (likewise)
    """Return a value as `check_candles` takes it, so that it can say what is wrong."""
    number = _number(value)
    if math.isnan(number) and not isinstance(value, float):
        return None
    return int(number) if name == "trades" and number.is_integer() else number


def _unknown(symbol: str, known: tuple[str, ...]) -> MltrainError:
    if not isinstance(symbol, str):
        return UsageError(f"symbol is {describe(symbol)}: expected a name such as 'BTCUSDT'")
    few = ", ".join(known[:5]) + (f" and {len(known) - 5} others" if len(known) > 5 else "")
    hint = did_you_mean(symbol, known) or f"it knows {few}"
    return RefusedError(f"{show(symbol)} is none of the symbols here", reason=UNKNOWN_SYMBOL, hint=hint)


def _refused(symbol: str, ts_ms: int | None, reason: str) -> RefusedError:
    when = "" if ts_ms is None else f" at {format_ms(ts_ms)}"
    return RefusedError(f"{symbol}{when} is not scored: {REASONS[reason]}", reason=reason)
