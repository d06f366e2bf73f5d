"""Score candles one by one, as they close.

A stream holds the last bars of each symbol. The features are computed by the code of `predict_candles` from the last
`lookback_bars` bars, so a stream that was restarted from its last bars returns the same numbers as one that never
stopped. The rules for an incoming candle:

* A candle that is newer than the symbol's newest is taken. After a gap, predictions are refused ("hole") until a whole
  lookback has arrived.
* The newest candle again, with the same values, is scored again. With other values it is refused ("changed"), because a
  closed candle does not change.
* An older candle is refused ("late"), seen before or not. It does not fill a gap; to fill one, call `warm_up` with
  candles from the exchange.
* An impossible candle is an error. A candle that has not closed by the given clock is refused ("open").

A candle that is refused leaves the stream unchanged. If the leader's candle of the same time is missing, the prediction
is refused ("leader-hole") but the candle is kept: push the leader first, or call `predict` later.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard

import numpy as np
import polars as pl

from mltrain.candles.anomalies import empty_false_volumes, find_false_volumes
from mltrain.candles.checks import check_candles
from mltrain.candles.conversion import as_candles, as_frame, as_record
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, TS_DTYPE, times_ms
from mltrain.errors import InputError, MltrainError, RefusedError, UsageError
from mltrain.features.input_join import join_inputs, take_known_values
from mltrain.features.newest import CandleArrays
from mltrain.names import describe, did_you_mean, show
from mltrain.serving.answers import NO_PRICES, Scored
from mltrain.serving.inputs import read_candles_by_symbol
from mltrain.serving.known_inputs import NO_VALUES, PushedInput, read_given_inputs
from mltrain.serving.rows import (
    EXPIRED,
    LEADER_GAP,
    MAX_AGE_BARS,
    REASONS,
    STALE,
    TOO_FEW_BARS,
    UNKNOWN_SYMBOL,
    ScoringRequest,
    explaining_emptied_volumes,
    find_refusals,
    read_now,
    read_rows,
    shorten_list,
)
from mltrain.serving.validity import ValidityCheck
from mltrain.times import EPOCH, as_time_ms, check_time_ms, floor_to_grid, format_ms, interval_ms, is_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputTable
    from mltrain.features.spec import FeatureSet
    from mltrain.serving.answers import Prices, Recorder
    from mltrain.serving.loaded_model import LoadedModel

# Why a candle is not taken.
LATE: Final = "late"
CHANGED: Final = "changed"
OPEN: Final = "open"

# Names a caller's candle in messages.
_WHERE: Final = "the candle pushed"
# The columns of a candle except its time: first the required ones, open, high, low, close and volume.
_VALUES: Final = tuple(name for name in CANDLE_SCHEMA if name != "ts")
_REQUIRED: Final = len(_VALUES) - len(OPTIONAL)
_MS: Final = dt.timedelta(milliseconds=1)


@dataclass(slots=True, eq=False)
class _RingBuffer:
    """The last bars of one symbol, in arrays of twice the size; when they are full, the newest half moves to the front.

    Attributes:
        bars: Smallest number of bars that are kept.
        ts_ms: Open times, ms UTC, shape (2 * bars,); only those before `stop` are bars.
        values: The columns _VALUES, shape (columns, 2 * bars); NaN: the source lacks the value.
        stop: Index after the newest bar.
        frame: The newest bars as candles, cached until the next push; None: not computed since.
        arrays: The newest bars as arrays, by their number, cached as well.
    """

    bars: int
    ts_ms: NDArray[np.int64] = field(init=False)
    values: NDArray[np.float64] = field(init=False)
    stop: int = 0
    frame: pl.DataFrame | None = None
    arrays: dict[int, CandleArrays] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ts_ms = np.zeros(2 * self.bars, np.int64)
        self.values = np.zeros((len(_VALUES), 2 * self.bars))

    def push(self, ts_ms: int, values: tuple[float, ...]) -> None:
        """Add a newer bar: its open time, ms UTC, and its values in the order of _VALUES."""
        if self.stop == self.ts_ms.size:
            kept = slice(self.stop - self.bars + 1, self.stop)
            self.ts_ms[: self.bars - 1], self.values[:, : self.bars - 1] = self.ts_ms[kept], self.values[:, kept]
            self.stop = self.bars - 1
        self.ts_ms[self.stop], self.values[:, self.stop] = ts_ms, values
        self.stop += 1
        self.forget_cached()

    def grow(self, bars: int) -> None:
        """Keep at least `bars` bars from now on, and all that are held."""
        old_ms, old_values = self.ts_ms[: self.stop], self.values[:, : self.stop]
        self.bars = bars
        self.forget_cached()
        # Creates larger arrays.
        self.__post_init__()
        self.ts_ms[: self.stop], self.values[:, : self.stop] = old_ms, old_values

    def forget_cached(self) -> None:
        """Drop what was computed of the bars; call it when they change."""
        self.frame = None
        self.arrays.clear()

    def take_arrays(self, bars: int) -> CandleArrays:
        """Return the last `bars` bars as arrays, without volumes that lack a value or contradict the prices."""
        if bars not in self.arrays:
            ts_ms = self.ts_ms[max(0, self.stop - bars) : self.stop]
            # Like `candles`, without those that lack a value in any bar that is held.
            held = zip(_VALUES, self.values[:, max(0, self.stop - self.bars) : self.stop], strict=True)
            columns = {name: c[-bars:] for name, c in held if name not in OPTIONAL or not np.isnan(c).any()}
            emptied = {name for false in find_false_volumes(columns) for name in false.emptied}
            columns = {name: column for name, column in columns.items() if name not in emptied}
            self.arrays[bars] = CandleArrays(ts_ms, {**columns, "ts": ts_ms.astype(np.float64)})
        return self.arrays[bars]

    def candles(self) -> pl.DataFrame:
        """Return the last `bars` bars, without the optional columns that lack a value."""
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
    """Holds the last bars of several symbols, and scores each new bar; `Model.stream` creates it.

    Safe for several threads; candles are taken one at a time. A promotion takes effect between two candles; a version
    with a longer lookback refuses predictions until its bars have come in. The clock returns seconds since 1970, UTC,
    for calls without `now_ms`; without one, open and stale candles are not recognised.
    """

    def __init__(
        self,
        current: Callable[[], LoadedModel],
        symbols: Iterable[str],
        *,
        begin: Callable[[str], float] = lambda _: 0.0,
        finish: Callable[[float, str], None] = lambda *_: None,
        recorder: Recorder | None = None,
        clock: Callable[[], float] | None = None,
        validity: ValidityCheck | None = None,
    ) -> None:
        self._current = current
        # Raise while an answer for a symbol must not be given, at its begin and at its end.
        self._begin, self._finish = begin, finish
        self._recorder = recorder
        self._clock = clock
        self._validity = validity or ValidityCheck()
        self._lock = threading.RLock()
        loaded = current()
        if not isinstance(symbols, Iterable) or isinstance(symbols, str):
            raise UsageError(f"symbols is {describe(symbols)}: expected a list", hint='such as ["BTCUSDT"]')
        self.symbols = tuple(dict.fromkeys(symbols))
        for symbol in self.symbols:
            if symbol not in loaded.bundle.symbols:
                raise _unknown_symbol_error(symbol, loaded.bundle.symbols)
        self._step_ms = interval_ms(loaded.bundle.interval)
        held = dict.fromkeys([*self.symbols, *loaded.bundle.feature_set.leaders])
        self._buffers = {symbol: _RingBuffer(loaded.lookback_bars) for symbol in held}
        self._inputs: dict[str, PushedInput] = {}

    def warm_up(self, candles: object, *, inputs: Mapping[str, object] | None = None) -> None:
        """Replace the bars of the symbols, and the values of the inputs, that are passed; only the newest are kept.

        Args:
            candles: Closed candles by symbol, leaders included, in any form that `Model.predict_candles` takes: those
                that `Stream.candles` returned before a restart, or the exchange's newest.
            inputs: The values of the model's inputs, as `Model.predict_candles` takes them.

        Raises:
            UsageError: `candles` or `inputs` has none of these forms.
            InputError: A candle is impossible or out of order, or the table of an input is not as declared.
            RefusedError: A symbol is neither one of the stream's nor a leader.
        """
        with self._lock:
            bundle = self._current().bundle
            given = read_given_inputs(inputs, bundle.feature_set.inputs)
            checked = {}
            for symbol, frame in read_candles_by_symbol(candles, bundle.symbols).items():
                # Raises if the symbol is unknown, before any buffer is changed.
                self._find_buffer(symbol)
                checked[symbol] = check_candles(
                    frame, symbol=symbol, interval=bundle.interval, where="the candles given"
                )
            for symbol, frame in checked.items():
                buffer = self._find_buffer(symbol)
                newest = frame.tail(buffer.bars)
                times, columns = times_ms(newest), [newest[name].cast(pl.Float64).to_numpy() for name in _VALUES]
                buffer.stop = newest.height
                buffer.ts_ms[: buffer.stop], buffer.values[:, : buffer.stop] = times, np.array(columns)
                buffer.forget_cached()
            for name in inputs or ():
                self._inputs[name] = PushedInput(given[name])
                self._forget_old_values(name)

    def push_input(self, name: str, value: float, *, known_at: object, symbol: str | None = None) -> None:
        """Take a value of one of the model's inputs; candles that close at `known_at` or later use it.

        Push it before such a candle: a prediction that was made is not made again.

        Args:
            name: The input's name.
            value: The value, finite.
            known_at: Time since when it is known: ms UTC, a datetime with a zone, or text such as
                "2025-10-15T12:00:00Z".
            symbol: The symbol that it is for; None: for all.

        Raises:
            UsageError: The model reads no such input, `value` is not a finite number, `known_at` is not a time, or
                earlier values were for all symbols and this one is not, or the other way round.
            RefusedError: Another value was already known since this time (changed), or the symbol is neither one of
                the stream's nor a leader (unknown-symbol).
        """
        with self._lock:
            specs = self._current().bundle.feature_set.inputs
            # Raises if the model reads no such input.
            read_given_inputs({name: NO_VALUES}, specs)
            number = _read_number(value)
            if not math.isfinite(number):
                raise UsageError(f"value is {describe(value)}: expected a finite number of the input {name}")
            known_ms = (
                check_time_ms(known_at, "known_at") if _is_integer(known_at) else as_time_ms(known_at, "known_at")
            )
            if not isinstance(symbol, str | None):
                raise UsageError(f"symbol is {describe(symbol)}: expected a name such as 'BTCUSDT', or None")
            # Raises if the stream has no candles of it: a misspelt symbol would show only as `input-missing`.
            if symbol is not None:
                self._find_buffer(symbol)
            try:
                taken = self._inputs.setdefault(name, PushedInput()).push(symbol, known_ms, number)
            except ValueError as err:
                raise UsageError(f"the input {name}: its {err}, and earlier ones were the other") from err
            if not taken:
                raise RefusedError(
                    f"{name} at {format_ms(known_ms)}: another value is already known since then",
                    reason=CHANGED,
                    hint="a corrected value is known since its correction: pass that time as `known_at`",
                )
            self._forget_old_values(name)

    def _forget_old_values(self, name: str) -> None:
        """Drop values of an input that are too old for every bar that is held."""
        oldest_ms = [int(b.ts_ms[max(0, b.stop - b.bars)]) for b in self._buffers.values() if b.stop]
        max_age_ms = next(s.max_age_ms for s in self._current().bundle.feature_set.inputs if s.name == name)
        if oldest_ms:
            self._inputs[name].forget_before(min(oldest_ms) - max_age_ms)

    def inputs(self) -> dict[str, pl.DataFrame]:
        """Return the values held of each input, as a table that `warm_up` takes after a restart."""
        with self._lock:
            specs = {spec.name: spec for spec in self._current().bundle.feature_set.inputs}
            return {
                name: pushed.table().to_frame().rename({"known_at": specs[name].known_at, "value": specs[name].column})
                for name, pushed in self._inputs.items()
                if name in specs
            }

    def candles(self, symbol: str) -> pl.DataFrame:
        """Return the bars held for a symbol as a table of candles; pass them to `warm_up` after a restart.

        Raises:
            RefusedError: The symbol is neither one of the stream's nor a leader.
        """
        with self._lock:
            return self._find_buffer(symbol).candles()

    def push(self, symbol: str, candle: object, *, now_ms: int | None = None) -> float:
        """Take a closed candle and return the calibrated probability of up after it, in [0, 1].

        Args:
            symbol: The candle's symbol.
            candle: `ts` (a datetime with a time zone, ms UTC, or ISO 8601 text), `open`, `high`, `low`, `close`,
                `volume`, and the optional columns that the features read: as a mapping, a frame of one row, a row of a
                pandas frame, or a Binance kline row.
            now_ms: The time, ms UTC: a candle that is still open is not taken, and a stale one is not scored. None:
                read the model's clock; without a clock neither is checked.

        Raises:
            UsageError: `candle` is not a candle, or `now_ms` is not a time in ms.
            InputError: The candle is impossible, or lacks a column that a feature reads.
            RefusedError: The candle was not taken (late, changed, open, unknown-symbol), or it was taken and cannot be
                scored (hole, too-few-bars, input-missing, input-stale, leader-hole, not-finite, stale), or must not be
                (expired, halted, reduced).
        """
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            if self._recorder is None:
                self._take(symbol, candle, now_ms)
                return self._predict(symbol, now_ms).p

            def score() -> Scored:
                self._take(symbol, candle, now_ms)
                return self._predict(symbol, now_ms)

            return self._recorder.answer(score, symbol, lambda: self._read_prices(symbol, candle))

    def take(self, symbol: str, candle: object, *, now_ms: int | None = None) -> None:
        """Take a closed candle without scoring it, such as a leader's; arguments and errors as in `push`."""
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            self._take(symbol, candle, now_ms)

    def _take(self, symbol: str, candle: object, now_ms: int | None) -> None:
        """Add a candle to the buffer of its symbol; raise if it is impossible, open, older, or changed."""
        buffer = self._find_buffer(symbol)
        ts_ms, values = self._read_candle(symbol, candle)
        if now_ms is not None and ts_ms + self._step_ms > now_ms:
            raise RefusedError(f"{symbol} at {format_ms(ts_ms)}: the candle has not closed yet", reason=OPEN)
        if not buffer.stop or ts_ms > (newest_ms := int(buffer.ts_ms[buffer.stop - 1])):
            buffer.push(ts_ms, values)
        elif ts_ms < newest_ms:
            raise RefusedError(
                f"{symbol} at {format_ms(ts_ms)}: too late, the candle of {format_ms(newest_ms)} was already taken",
                reason=LATE,
            )
        elif not np.array_equal(buffer.values[:, buffer.stop - 1], values, equal_nan=True):
            raise RefusedError(
                f"{symbol} at {format_ms(ts_ms)}: already taken with other values; a closed candle does not change",
                reason=CHANGED,
                hint="if the new values are right, call `warm_up` with the exchange's candles",
            )

    def predict(self, symbol: str, *, now_ms: int | None = None) -> float:
        """Return the calibrated probability of up, in [0, 1], after the newest candle of a symbol.

        Args:
            symbol: One of the stream's symbols.
            now_ms: The time, ms UTC, at which a candle may be stale; None: read the model's clock, if there is one.

        Raises:
            UsageError: `now_ms` is not a time in ms.
            InputError: The candles lack a column that a feature reads.
            RefusedError: The candle cannot be scored (hole, too-few-bars, input-missing, input-stale, leader-hole,
                not-finite, stale), or must not be (expired, halted, reduced).
        """
        now_ms = read_now(now_ms, self._clock)
        with self._lock:
            if self._recorder is None:
                return self._predict(symbol, now_ms).p
            return self._recorder.answer(
                lambda: self._predict(symbol, now_ms), symbol, lambda: self._newest_prices(symbol)
            )

    def _newest_prices(self, symbol: str) -> tuple[int | None, Prices]:
        """Return open time, ms UTC, and high, low and close of a symbol's newest candle, if there is one."""
        buffer = self._buffers.get(symbol)
        if buffer is None or not buffer.stop:
            return None, NO_PRICES
        _, high, low, close, *_ = buffer.values[:, buffer.stop - 1].tolist()
        return int(buffer.ts_ms[buffer.stop - 1]), (high, low, close)

    def _read_prices(self, symbol: str, candle: object) -> tuple[int | None, Prices]:
        """Return open time, ms UTC, and high, low and close of a caller's candle; None for one that is impossible."""
        try:
            ts_ms, (_, high, low, close, *_) = self._read_candle(symbol, candle)
        except MltrainError:
            return None, NO_PRICES
        return ts_ms, (high, low, close)

    def _predict(self, symbol: str, now_ms: int | None) -> Scored:
        """Return the scores of a symbol's newest candle; raise if it cannot be scored."""
        began_s = self._begin(symbol)
        loaded = self._current()
        if symbol not in loaded.bundle.symbols:
            raise _unknown_symbol_error(symbol, loaded.bundle.symbols)
        buffer = self._find_buffer(symbol)
        feature_set, bars = loaded.bundle.feature_set, loaded.lookback_bars
        if not buffer.stop:
            raise _refused_error(symbol, None, TOO_FEW_BARS)
        # A version promoted after the stream was created may have a longer lookback.
        for each in self._buffers.values():
            if each.bars < bars:
                each.grow(bars)
        ts_ms = int(buffer.ts_ms[buffer.stop - 1])
        if now_ms is not None and now_ms - (ts_ms + self._step_ms) >= MAX_AGE_BARS * self._step_ms:
            raise _refused_error(symbol, ts_ms, STALE)
        if self._validity.is_refused(loaded, now_ms):
            raise _refused_error(symbol, ts_ms, EXPIRED)
        leaders = {leader: self._find_buffer(leader) for leader in feature_set.leaders if leader != symbol}
        if not all(leader.stop for leader in leaders.values()):
            raise _refused_error(symbol, ts_ms, LEADER_GAP)
        held = {**leaders, symbol: buffer}
        tables = {spec.name: self._table(spec.name) for spec in feature_set.inputs}
        if loaded.window > 1:
            raw, p = self._score_window(loaded, symbol, held, tables)
            self._finish(began_s, symbol)
            return Scored(loaded, raw, p)
        arrays = {name: _join_arrays(feature_set, name, each.take_arrays(bars), tables) for name, each in held.items()}
        x = loaded.newest.compute_arrays(symbol, arrays)
        # Also states why a candle is refused, but takes ten times as long.
        if x is None or not np.isfinite(x).all():
            x = self._compute_rows(loaded, symbol, held, tables)
        raw, p = loaded.score_one(x[0])
        self._finish(began_s, symbol)
        return Scored(loaded, raw, p)

    def _score_window(
        self,
        loaded: LoadedModel,
        symbol: str,
        held: Mapping[str, _RingBuffer],
        tables: Mapping[str, InputTable],
    ) -> tuple[float, float]:
        """Return the scores of a symbol's newest candle by a model that reads windows; raise if it cannot be scored."""
        bars = loaded.lookback_bars
        request = ScoringRequest(
            feature_set=loaded.bundle.feature_set,
            symbols=loaded.bundle.symbols,
            lookback_bars=bars,
            rows="last",
            now_ms=None,
            max_age_bars=0,
            inputs=tables,
            window=loaded.window,
        )
        candles = {name: buffer.candles().tail(bars) for name, buffer in held.items()}
        (part,) = (part for part in read_rows(candles, request) if part.symbol == symbol)
        if (reason := part.refused[0]) is not None:
            raise _refused_error(symbol, part.ts_ms[0], reason)
        raw, p = loaded.score_bars(symbol, part.bars_ms, part.x, np.array([part.x.shape[0] - 1]))
        return float(raw[0]), float(p[0])

    def _compute_rows(
        self,
        loaded: LoadedModel,
        symbol: str,
        held: Mapping[str, _RingBuffer],
        tables: Mapping[str, InputTable],
    ) -> NDArray[np.float32]:
        """Return the features of a symbol's newest candle, shape (1, f); raise if it cannot be scored."""
        feature_set, bars = loaded.bundle.feature_set, loaded.lookback_bars
        candles, false_volumes = {}, {}
        for name, buffer in held.items():
            candles[name], false_volumes[name] = empty_false_volumes(buffer.candles().tail(bars))
        with explaining_emptied_volumes(false_volumes):
            x = loaded.newest.compute([symbol], join_inputs(feature_set, candles, tables))
        request = ScoringRequest(
            feature_set, loaded.bundle.symbols, bars, rows="last", now_ms=None, max_age_bars=0, inputs=tables
        )
        ts_ms = times_ms(candles[symbol])
        reason = find_refusals(symbol, ts_ms, x, request)[0]
        if reason is not None:
            raise _refused_error(symbol, int(ts_ms[-1]), reason)
        return x

    def _table(self, name: str) -> InputTable:
        """Return the values held of an input."""
        pushed = self._inputs.get(name)
        return NO_VALUES if pushed is None else pushed.table()

    def _find_buffer(self, symbol: str) -> _RingBuffer:
        """Return the buffer of a symbol or leader; raise RefusedError if it is neither."""
        buffer = self._buffers.get(symbol) if isinstance(symbol, str) else None
        if buffer is None:
            loaded = self._current()
            # A version promoted after the stream was created may have a new leader.
            if symbol not in loaded.bundle.feature_set.leaders:
                raise _unknown_symbol_error(symbol, tuple(self._buffers))
            buffer = self._buffers[symbol] = _RingBuffer(loaded.lookback_bars)
        return buffer

    def _read_candle(self, symbol: str, given: object) -> tuple[int, tuple[float, ...]]:
        """Return a caller's candle as open time, ms UTC, and values in the order of _VALUES, NaN where it has none.

        Raises:
            InputError: The candle is impossible, by the rules of `check_candles`.
        """
        candle = as_record(given, "candle")
        # A row of a pandas frame holds NaN where it has no value.
        if not isinstance(given, Mapping):
            candle = {name: value for name, value in candle.items() if not (name in OPTIONAL and _is_nan(value))}
        # A mapping of plain values is read in microseconds; the conversion of anything else takes a millisecond.
        if not _is_plain(candle):
            candle = as_candles(as_frame([candle], "candle"), _WHERE).row(0, named=True)
        ts_ms, values = _read_time(candle.get("ts")), tuple(map(_read_number, map(candle.get, _VALUES)))
        open_, high, low, close, volume = values[:_REQUIRED]
        amounts = [v for name, v in zip(_VALUES[4:], values[4:], strict=True) if candle.get(name) is not None]
        # Written so that NaN fails. `check_candles` would take a millisecond.
        sound = (
            ts_ms is not None
            and ts_ms >= 0
            and ts_ms == floor_to_grid(ts_ms, self._step_ms)
            and all(0 < price < math.inf for price in (open_, high, low, close))
            and low <= min(open_, close) <= max(open_, close) <= high
            and 0 <= volume < math.inf
            and all(0 <= amount < math.inf for amount in amounts)
            and (candle.get("trades") is None or values[_VALUES.index("trades")].is_integer())
        )
        if not sound or ts_ms is None:
            self._raise_impossible(symbol, candle, ts_ms)
        return ts_ms, values

    def _raise_impossible(self, symbol: str, candle: Mapping[str, Any], ts_ms: int | None) -> NoReturn:
        """Raise the InputError that names what is wrong with an impossible candle."""
        if ts_ms is None:
            raise InputError(f"{_WHERE}: {symbol}: ts must be a datetime with a time zone, or ms UTC as an int")
        columns = {name: [_as_checkable(name, candle.get(name))] for name in _VALUES if candle.get(name) is not None}
        frame = pl.DataFrame({"ts": pl.Series([ts_ms]).cast(TS_DTYPE), **columns})
        check_candles(frame, symbol=symbol, interval=self._current().bundle.interval, where=_WHERE)
        raise InputError(f"{_WHERE}: {symbol} at {format_ms(ts_ms)}: a value is not a number")


def _join_arrays(
    feature_set: FeatureSet, symbol: str, candles: CandleArrays, tables: Mapping[str, InputTable]
) -> CandleArrays:
    """Return a symbol's candles with the inputs that the features read, as `join_inputs` does."""
    if not feature_set.inputs:
        return candles
    close_ms = candles.ts_ms + interval_ms(feature_set.interval)
    inputs = {
        spec.name: take_known_values(tables[spec.name].of(symbol), close_ms, max_age_ms=spec.max_age_ms)
        for spec in feature_set.inputs
    }
    return CandleArrays(candles.ts_ms, {**candles.columns, **inputs})


def _is_plain(candle: Mapping[str, Any]) -> bool:
    """Return whether a candle's time and values have types that need no conversion."""
    ts = candle.get("ts", "")
    if not (ts is None or isinstance(ts, dt.datetime | bool) or (_is_integer(ts) and is_ms(ts))):
        return False
    return all(isinstance(candle.get(name), float | int | np.number | None) for name in _VALUES)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _read_time(ts: object) -> int | None:
    """Return a time in ms UTC; None if it is neither an int nor a datetime with a time zone."""
    if isinstance(ts, dt.datetime):
        return None if ts.tzinfo is None else (ts - EPOCH) // _MS
    return int(ts) if _is_integer(ts) else None


def _read_number(value: Any) -> float:  # noqa: ANN401 -- a caller's candle may hold anything
    """Return a value as a float; NaN if it is not a number."""
    if isinstance(value, float | int | np.number) and not isinstance(value, bool):
        # Turns -0.0 into 0.0.
        return float(value) + 0.0
    return math.nan


def _as_checkable(name: str, value: Any) -> float | int | None:  # noqa: ANN401 -- a caller's candle may hold anything
    """Return a value of a column in the type that `check_candles` needs to name its fault; None: not a number."""
    number = _read_number(value)
    if math.isnan(number) and not isinstance(value, float):
        return None
    return int(number) if name == "trades" and number.is_integer() else number


def _unknown_symbol_error(symbol: str, known: tuple[str, ...]) -> MltrainError:
    """Return the error for a symbol that is not one of the known ones, or is not a string."""
    if not isinstance(symbol, str):
        return UsageError(f"symbol is {describe(symbol)}: expected a name such as 'BTCUSDT'")
    hint = did_you_mean(symbol, known) or f"the symbols are {shorten_list(known)}"
    return RefusedError(f"the symbol {show(symbol)} is unknown", reason=UNKNOWN_SYMBOL, hint=hint)


def _refused_error(symbol: str, ts_ms: int | None, reason: str) -> RefusedError:
    """Return the error for a candle, by its open time in ms UTC, that is not scored for the reason with this code."""
    when = "" if ts_ms is None else f" at {format_ms(ts_ms)}"
    return RefusedError(f"{symbol}{when} is not scored: {REASONS[reason]}", reason=reason)
