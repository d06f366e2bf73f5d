"""Score each candle as it closes, through faults of the network, until the caller stops.

Times are those of the source's clock. Only the age of candles from files is judged by the machine's clock, because the
clock of files is their last candle. Each poll asks for everything from the first unknown candle on, so that an outage
of any length loses no candle: they follow in order once the source answers again. A missing candle is requested again
for some seconds before it counts as a gap; a symbol waits as long for its leader. After a fault of the source, a
warning is issued and the pauses grow. Rows that have become too old to act on are refused as stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, SourceError
from mltrain.serving.rows import MAX_AGE_BARS, STALE
from mltrain.times import TimeRange, interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source

# A candle counts as missing once it is this late by the source's clock, and was absent from this many polls: one answer
# may lack what the next one has.
GRACE_MS: Final = 10_000
MIN_POLLS: Final = 3
# A candle takes a moment to appear after its close.
PUBLISHED_MS: Final = 250
# Pause between two polls for a late candle, and the longest pause after a fault.
RETRY_S: Final = 1.0
MAX_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Poll:
    """The result of one poll.

    Attributes:
        rows: ts, symbol, p, raw, refused of the candles that are due, by time; may be empty.
        wait_s: Seconds to wait before the next poll.
    """

    rows: pl.DataFrame
    wait_s: float


class Watch:
    """Polls a source, and scores the candles that have closed.

    Args:
        model: The model; if it follows a pointer, a promotion takes effect with the next candle.
        source: The source of the candles.
        progress: Receives a warning for each fault.
        clock: Returns seconds since 1970, as `time.time` does: used to judge staleness; None: the source's clock.
    """

    def __init__(
        self, model: Model, source: Source, progress: Progress, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._clock = clock
        self._model = model
        self._source = source
        self._progress = progress
        self._step_ms = interval_ms(model.interval)
        self._bars, self._symbols, self._leaders = model.lookback_bars, model.symbols, model.feature_set.leaders
        self._held: dict[str, pl.DataFrame] = {}
        # Exclusive ends: until when the candles of a symbol are known or given up, and its rows were returned.
        self._known_until_ms: dict[str, int] = {}
        self._returned_until_ms: dict[str, int] = {}
        # Open times of missing candles, and in how many polls in a row they were missing.
        self._missing: dict[str, dict[int, int]] = {}
        self._failures = 0

    def start(self) -> None:
        """Check the symbols.

        Raises:
            InputError: The source lacks one.
            SourceError: The source does not answer.
        """
        self._source.check_symbols(self._wanted())

    def _wanted(self) -> tuple[str, ...]:
        return tuple(sorted({*self._symbols, *self._leaders}))

    def poll(self) -> Poll:
        """Ask the source once."""
        try:
            return self._poll()
        except (SourceError, InputError) as err:
            # An InputError of the model too: it may have been replaced during the poll.
            pause_s = min(MAX_PAUSE_S, RETRY_S * 2.0**self._failures)
            self._failures += 1
            self._progress.warn(f"{err.message}; trying again in {pause_s:g} s")
            return Poll(self._no_rows(), pause_s)

    def _poll(self) -> Poll:
        self._follow_model()
        self._source.renew_clock()
        clock_ms = self._source.clock_ms(self._symbols)
        end_ms = clock_ms // self._step_ms * self._step_ms
        unknown = {s: span for s in self._wanted() if (span := self._unknown(s, end_ms)) is not None}
        for symbol, found in self._source.candles_of(unknown).items():
            self._extend(symbol, unknown[symbol], found, clock_ms)
        rows = self._due(end_ms, clock_ms)
        if self._failures:
            self._progress.warn("the source answers again")
            self._failures = 0
        if min(self._returned_until_ms[symbol] for symbol in self._symbols) < end_ms:
            return Poll(rows, RETRY_S)
        return Poll(rows, (end_ms + self._step_ms - clock_ms + PUBLISHED_MS) / 1000)

    def _follow_model(self) -> None:
        """Adopt the symbols and the lookback of the current version: it may have been promoted since the last poll."""
        bars = self._model.lookback_bars
        if bars > self._bars:
            # A longer past is needed than is held.
            self._held, self._known_until_ms, self._missing = {}, {}, {}
        self._bars, self._symbols, self._leaders = bars, self._model.symbols, self._model.feature_set.leaders

    def _no_rows(self) -> pl.DataFrame:
        return self._model.predict_candles({})

    def _unknown(self, symbol: str, end_ms: int) -> TimeRange | None:
        """Return the time range of the unknown candles of a symbol; None if there are none."""
        bars = self._bars + MAX_AGE_BARS
        first_ms = self._known_until_ms.setdefault(symbol, end_ms - bars * self._step_ms)
        self._returned_until_ms.setdefault(symbol, end_ms - self._step_ms)
        return TimeRange(first_ms, end_ms) if first_ms < end_ms else None

    def _extend(self, symbol: str, requested: TimeRange, found: pl.DataFrame, clock_ms: int) -> None:
        """Add the candles that the source returned for a symbol, and update until when they are known."""
        first_ms, end_ms = requested.start_ms, requested.end_ms
        held = self._held.get(symbol)
        if held is not None:
            found = pl.concat([held.filter(pl.col("ts").dt.timestamp("ms") < first_ms), found])
        self._held[symbol] = found
        present = set(times_ms(found).tolist())
        before = self._missing.get(symbol, {})
        missing = [ms for ms in range(first_ms, end_ms, self._step_ms) if ms not in present]
        self._missing[symbol] = counts = {ms: before.get(ms, 0) + 1 for ms in missing}
        late = (ms for ms in missing if counts[ms] < MIN_POLLS or ms + self._step_ms + GRACE_MS > clock_ms)
        self._known_until_ms[symbol] = next(late, end_ms)

    def _due(self, end_ms: int, clock_ms: int) -> pl.DataFrame:
        """Return the rows whose candles are known and that were not returned yet, by time."""
        leaders = [self._known_until_ms[leader] for leader in self._leaders]
        tables, returned = [], {}
        for symbol in self._symbols:
            until_ms = min([self._known_until_ms[symbol], *leaders])
            overdue_ms = (clock_ms - GRACE_MS) // self._step_ms * self._step_ms
            until_ms = max(until_ms, min(overdue_ms, self._known_until_ms[symbol]))
            if until_ms > self._returned_until_ms[symbol]:
                tables.append(self._score(symbol, until_ms, clock_ms))
                returned[symbol] = until_ms
        self._returned_until_ms |= returned
        self._forget(end_ms)
        return pl.concat(tables).sort("ts", maintain_order=True) if tables else self._no_rows()

    def _score(self, symbol: str, until_ms: int, clock_ms: int) -> pl.DataFrame:
        from_ms = self._returned_until_ms[symbol]
        reach_ms = from_ms - (self._bars - 1) * self._step_ms
        read = [symbol, *(leader for leader in self._leaders if leader != symbol)]
        candles = {name: _between(self._held[name], reach_ms, until_ms) for name in read}
        table = self._model.predict_candles(candles, rows="all").filter(
            (pl.col("symbol") == symbol) & (pl.col("ts").dt.timestamp("ms") >= from_ms)
        )
        now_ms = clock_ms if self._clock is None else int(self._clock() * 1000)
        old = pl.col("ts").dt.timestamp("ms") + (1 + MAX_AGE_BARS) * self._step_ms <= now_ms
        return table.with_columns(
            p=pl.when(~old).then("p"),
            raw=pl.when(~old).then("raw"),
            refused=pl.when(old & pl.col("refused").is_null()).then(pl.lit(STALE)).otherwise("refused"),
        )

    def _forget(self, end_ms: int) -> None:
        """Drop the candles that no later row reads."""
        next_ms = min([end_ms, *self._returned_until_ms.values()])
        reach_ms = next_ms - (self._bars + MAX_AGE_BARS) * self._step_ms
        self._held = {symbol: _between(frame, reach_ms, end_ms) for symbol, frame in self._held.items()}


def _between(frame: pl.DataFrame, first_ms: int, end_ms: int) -> pl.DataFrame:
    times = times_ms(frame)
    start, stop = times.searchsorted([first_ms, end_ms]).tolist()
    return frame.slice(start, stop - start)


def watch(source: Watch, wait: Callable[[float], None]) -> Iterator[pl.DataFrame]:
    """Yield the rows of each poll that found some, forever.

    Args:
        source: The watch to poll.
        wait: Waits for a number of seconds, such as `time.sleep`.
    """
    while True:
        poll = source.poll()
        if poll.rows.height:
            yield poll.rows
        wait(poll.wait_s)
