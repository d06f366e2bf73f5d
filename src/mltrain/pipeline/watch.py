"""Score each candle as it closes, through faults of the network, until the caller stops.

Times are those of the source's clock. Only the age of candles from files is judged by the machine's clock, because the
clock of files is their last candle. Each poll asks for everything from the first unknown candle on, so that an outage
of any length loses no candle: they follow in order once the source answers again. A missing candle is requested again
for some seconds before it counts as a gap; a symbol waits as long for its leader. After a fault of the source there is
a warning, and the pauses grow. Rows that have become too old to act on are refused as stale.

With a ledger, rows are recorded before they are returned. A watch that starts again goes on after the ledger's last
line: the first row of each symbol says how many candles were not answered in between. It answers the newest closed
candle at once, which may be one that was answered before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, RefusedError, SourceError
from mltrain.killswitch.gate import HALTED
from mltrain.pipeline.predict import read_inputs
from mltrain.serving.answers import ERROR, Answer, find_prices
from mltrain.serving.rows import EXPIRED, MAX_AGE_BARS, STALE
from mltrain.times import TimeRange, floor_to_grid, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.monitoring.ledger import Ledger
    from mltrain.pipeline.predict import GivenInputs
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source

# A candle counts as missing once it is this late by the source's clock, and was absent from this many polls: one answer
# may lack what the next one has.
GRACE_MS: Final = 10_000
MIN_POLLS: Final = 3
# A candle takes a moment to appear after its close.
PUBLISH_DELAY_MS: Final = 250
# Pause between two polls for a late candle, and the longest pause after a fault.
RETRY_S: Final = 1.0
MAX_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Poll:
    """The result of one request for new candles.

    Attributes:
        rows: ts, symbol, p, raw, refused, version of the new candles, by time; may be empty.
        wait_s: Seconds to wait before the next poll.
        clock_ms: The source's time, ms UTC; None: the source did not answer.
    """

    rows: pl.DataFrame
    wait_s: float
    clock_ms: int | None = None


class Watch:
    """Polls a source, and scores the candles that have closed.

    Args:
        model: The model; if it follows the live version, a promotion takes effect with the next candle.
        source: The source of the candles.
        progress: Receives a warning for each fault.
        inputs: For `mltrain.pipeline.predict.read_inputs`, which reads the files of a folder again for new candles.
        clock: Returns seconds since 1970, as `time.time` does; decides which candles are stale. None: the source's
            clock.
        ledger: Records the rows; None: nothing does.

    Raises:
        InputError: A row of the ledger was changed.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        progress: Progress,
        *,
        inputs: GivenInputs = None,
        clock: Callable[[], float] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._inputs = inputs
        self._ledger = ledger
        self._clock = clock
        self._model = model
        self._source = source
        self._progress = progress
        self._step_ms = interval_ms(model.interval)
        self._adopt_version()
        self._candles: dict[str, pl.DataFrame] = {}
        # Per symbol, exclusive ends, ms UTC: until when candles are known or given up as missing, and until when rows
        # were returned.
        self._known_until_ms: dict[str, int] = {}
        self._returned_until_ms: dict[str, int] = {}
        # Per symbol: open time of each missing candle, ms UTC, and in how many polls in a row it was missing.
        self._missed_polls: dict[str, dict[int, int]] = {}
        self._failures = 0
        # Per symbol, from the ledger: open time of the last candle that was answered before this watch began, ms UTC,
        # until its first row; and that of the candle whose error was recorded last.
        self._answered_before_ms = self._read_answered()
        self._failed_ms: dict[str, int] = {}

    def _adopt_version(self) -> None:
        """Read lookback, symbols and leaders of the model's current version."""
        self._lookback_bars, self._symbols = self._model.lookback_bars, self._model.symbols
        self._leaders = self._model.feature_set.leaders

    def check_symbols(self) -> None:
        """Raise InputError if the source lacks a symbol or a leader of the model, SourceError if it does not answer."""
        self._source.check_symbols(tuple(self._needed_symbols()))

    def _needed_symbols(self) -> list[str]:
        return sorted({*self._symbols, *self._leaders})

    def held_candles(self) -> dict[str, pl.DataFrame]:
        """Return the candles of each symbol and leader from which the next rows are computed."""
        return dict(self._candles)

    def poll(self) -> Poll:
        """Ask the source for new candles, and score them; a fault becomes a warning and a longer wait."""
        try:
            return self._poll()
        except (SourceError, InputError) as err:
            # An InputError of the model, too: it may have been replaced during the poll.
            pause_s = min(MAX_PAUSE_S, RETRY_S * 2.0**self._failures)
            self._failures += 1
            self._progress.warn(f"{err.message}; trying again in {pause_s:g} s")
            return Poll(self._no_rows(), pause_s)

    def _poll(self) -> Poll:
        """Ask the source for new candles, and score them; raise SourceError or InputError at a fault."""
        held_bars = self._lookback_bars
        # Another version may have been promoted since the last poll.
        self._adopt_version()
        if self._lookback_bars > held_bars:
            # Fetch everything again, because the candles held do not reach far enough back.
            self._candles, self._known_until_ms, self._missed_polls = {}, {}, {}
        self._source.renew_clock()
        clock_ms = self._source.clock_ms(self._symbols)
        end_ms = floor_to_grid(clock_ms, self._step_ms)
        requested = {}
        first_needed_ms = end_ms - (self._lookback_bars + MAX_AGE_BARS) * self._step_ms
        for symbol in self._needed_symbols():
            first_ms = self._known_until_ms.setdefault(symbol, first_needed_ms)
            self._returned_until_ms.setdefault(symbol, end_ms - self._step_ms)
            if first_ms < end_ms:
                requested[symbol] = TimeRange(first_ms, end_ms)
        found = self._source.candles_of(requested)
        found_s = time.perf_counter()
        for symbol, new in found.items():
            self._add_candles(symbol, new, requested[symbol], clock_ms)
        rows = self._heed_halts(self._score_new(clock_ms))
        self._record(rows, clock_ms, latency_ms=1000 * (time.perf_counter() - found_s))
        self._drop_old_candles(end_ms)
        if self._failures:
            self._progress.warn("the source answers again")
            self._failures = 0
        if min(self._returned_until_ms[symbol] for symbol in self._symbols) < end_ms:
            return Poll(rows, RETRY_S, clock_ms)
        return Poll(rows, (end_ms + self._step_ms - clock_ms + PUBLISH_DELAY_MS) / 1000, clock_ms)

    def _no_rows(self) -> pl.DataFrame:
        return self._model.predict_candles({}).with_columns(version=pl.lit(self._model.version))

    def _add_candles(self, symbol: str, new: pl.DataFrame, requested: TimeRange, clock_ms: int) -> None:
        """Add the candles that the source returned for a time range, and update until when candles are known.

        A missing candle ends the known range until it was absent from MIN_POLLS polls and is GRACE_MS late.
        """
        first_ms, end_ms = requested.start_ms, requested.end_ms
        held = self._candles.get(symbol)
        if held is not None:
            new = pl.concat([held.filter(pl.col("ts").dt.timestamp("ms") < first_ms), new])
        self._candles[symbol] = new
        present = set(times_ms(new).tolist())
        earlier = self._missed_polls.get(symbol, {})
        missing = [ms for ms in range(first_ms, end_ms, self._step_ms) if ms not in present]
        self._missed_polls[symbol] = counts = {ms: earlier.get(ms, 0) + 1 for ms in missing}
        awaited = (ms for ms in missing if counts[ms] < MIN_POLLS or ms + self._step_ms + GRACE_MS > clock_ms)
        self._known_until_ms[symbol] = next(awaited, end_ms)

    def _score_new(self, clock_ms: int) -> pl.DataFrame:
        """Return the rows that were not returned yet and whose candles are known, by time.

        A row is returned without its leader's candle once it is GRACE_MS late.
        """
        leaders_known_ms = [self._known_until_ms[leader] for leader in self._leaders]
        overdue_ms = floor_to_grid(clock_ms - GRACE_MS, self._step_ms)
        tables, returned = [], {}
        for symbol in self._symbols:
            known_ms = self._known_until_ms[symbol]
            until_ms = max(min([known_ms, *leaders_known_ms]), min(overdue_ms, known_ms))
            if until_ms > self._returned_until_ms[symbol]:
                try:
                    tables.append(self._score(symbol, until_ms, clock_ms))
                except SourceError:
                    # Of an input: nothing was scored.
                    raise
                except Exception:
                    self._record_error(symbol, until_ms - self._step_ms, clock_ms)
                    raise
                returned[symbol] = until_ms
        self._returned_until_ms |= returned
        return pl.concat(tables).sort("ts", maintain_order=True) if tables else self._no_rows()

    def _score(self, symbol: str, until_ms: int, clock_ms: int) -> pl.DataFrame:
        """Return a symbol's rows that open before `until_ms` and were not returned yet; old ones are refused."""
        from_ms = self._returned_until_ms[symbol]
        first_ms = from_ms - (self._lookback_bars - 1) * self._step_ms
        candles = {name: _slice_times(self._candles[name], first_ms, until_ms) for name in [symbol, *self._leaders]}
        inputs = read_inputs(self._model, self._inputs, source=self._source, window=TimeRange(first_ms, until_ms))
        version = None
        # Until the answer is certainly of the version that is named with it: there may be a promotion at any time.
        while version != self._model.version:
            version = self._model.version
            table = self._model.predict_candles(candles, inputs=inputs, rows="all")
        table = table.filter((pl.col("symbol") == symbol) & (pl.col("ts").dt.timestamp("ms") >= from_ms))
        now_ms = clock_ms if self._clock is None else int(self._clock() * 1000)
        old = pl.col("ts").dt.timestamp("ms") + (1 + MAX_AGE_BARS) * self._step_ms <= now_ms
        reason = pl.lit(EXPIRED) if self._model.is_expired(now_ms) else pl.when(old).then(pl.lit(STALE))
        return table.with_columns(
            p=pl.when(reason.is_null()).then("p"),
            raw=pl.when(reason.is_null()).then("raw"),
            refused=pl.coalesce("refused", reason),
            permit=pl.when(reason.is_null()).then("permit"),
            version=pl.lit(version),
        )

    def _heed_halts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows without those that were halted since: the inputs of the next symbol may have taken seconds."""
        halted, reduced = set(), set()
        for symbol in rows["symbol"].unique():
            try:
                if self._model.permit(symbol) is not None:
                    reduced.add(symbol)
            except RefusedError:
                halted.add(symbol)
        if not halted | reduced:
            return rows
        is_halted = pl.col("symbol").is_in(halted)
        is_reduced = pl.col("symbol").is_in(reduced) & pl.col("refused").is_null()
        return rows.with_columns(
            p=pl.when(~is_halted).then("p"),
            raw=pl.when(~is_halted).then("raw"),
            refused=pl.when(is_halted).then(pl.lit(HALTED)).otherwise("refused"),
            permit=pl.when(is_reduced).then(pl.lit("reduce")).when(~is_halted).then("permit"),
        )

    def _read_answered(self) -> dict[str, int]:
        """Return by symbol the open time, ms UTC, of the last candle that the ledger has a row of."""
        rows = {} if self._ledger is None else self._ledger.last_rows(self._symbols)
        return {symbol: parse_time(row.ts) for symbol, row in rows.items() if row.ts is not None}

    def _record(self, rows: pl.DataFrame, clock_ms: int, *, latency_ms: float) -> None:
        """Write rows to the ledger, before anybody acts on them."""
        if self._ledger is None:
            return
        answers, ops_sha256 = [], self._ops_sha256()
        for ts_ms, row in zip(times_ms(rows).tolist(), rows.drop("ts").iter_rows(named=True), strict=True):
            symbol = row["symbol"]
            before_ms = self._answered_before_ms.pop(symbol, None)
            answers.append(
                Answer(
                    **row,
                    ts_ms=ts_ms,
                    ops_sha256=ops_sha256,
                    prices=find_prices(self._candles[symbol], ts_ms),
                    source_ms=clock_ms,
                    latency_ms=latency_ms,
                    missed=0 if before_ms is None else max(0, (ts_ms - before_ms) // self._step_ms - 1),
                )
            )
        self._ledger.record(answers)

    def _record_error(self, symbol: str, ts_ms: int, clock_ms: int) -> None:
        """Write to the ledger that an exception prevented the answer for a candle; once if it comes again."""
        if self._ledger is None or self._failed_ms.get(symbol) == ts_ms:
            return
        self._failed_ms[symbol] = ts_ms
        prices = find_prices(self._candles[symbol], ts_ms)
        self._ledger.record(
            [
                Answer(
                    ts_ms=ts_ms,
                    symbol=symbol,
                    version=self._model.version,
                    ops_sha256=self._ops_sha256(),
                    refused=ERROR,
                    prices=prices,
                    source_ms=clock_ms,
                )
            ]
        )

    def _ops_sha256(self) -> str | None:
        ops = self._model.feature_set.user_ops()
        return None if ops is None else ops.sha256

    def _drop_old_candles(self, end_ms: int) -> None:
        """Drop the candles that no later row reads."""
        next_ms = min([end_ms, *self._returned_until_ms.values()])
        first_ms = next_ms - (self._lookback_bars + MAX_AGE_BARS) * self._step_ms
        self._candles = {symbol: _slice_times(frame, first_ms, end_ms) for symbol, frame in self._candles.items()}


def _slice_times(frame: pl.DataFrame, first_ms: int, end_ms: int) -> pl.DataFrame:
    """Return the candles whose open times, ms UTC, are in [first_ms, end_ms)."""
    start, stop = times_ms(frame).searchsorted([first_ms, end_ms]).tolist()
    return frame.slice(start, stop - start)


def watch(watching: Watch, wait: Callable[[float], None]) -> Iterator[pl.DataFrame]:
    """Poll forever, and yield the rows of each poll that has some; `wait` waits for seconds, as `time.sleep` does."""
    while True:
        poll = watching.poll()
        if poll.rows.height:
            yield poll.rows
        wait(poll.wait_s)
