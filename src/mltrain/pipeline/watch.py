"""Watching: each candle's probability as it closes, through faults of the network, until somebody stops it.

By the source's clock; only the age of candles from files is judged by the machine's clock, because their own clock is
their last candle. Each look asks for all that is not known yet, from the first candle that is missing, so that an
outage of any length costs no candle: what closed meanwhile comes in order once the source answers again. A candle that
is missing is asked for again for some seconds before the gap is believed; a symbol waits as long for its leader.
Faults of the source are told, and tried again with growing pauses. What has become too old to act on comes as a row
that is refused as stale.
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

GRACE_MS: Final = 10_000  # so long a candle may be late, by the source's clock, before its gap is believed
LOOKS: Final = 3  # and so many looks it must have been missing in: one answer may lack what the next one has
PUBLISHED_MS: Final = 250  # after its close a candle takes a moment to appear
RETRY_S: Final = 1.0  # between two looks for a candle that is late
MAX_PAUSE_S: Final = 30.0  # the longest pause after a fault


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one look at the source found.

    Attributes:
        rows: ts, symbol, p, raw, refused of the candles that are due, by time; perhaps none.
        wait_s: How long to wait before the next look.
    """

    rows: pl.DataFrame
    wait_s: float


class Watch:
    """Asks a source again and again, and scores what has closed.

    Args:
        model: The model; where it follows a pointer, promotions are served from the next candle on.
        source: Where the candles come from.
        progress: Told of faults.
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
        self._whole_ms: dict[str, int] = {}  # up to here, exclusive, a symbol's candles are known or given up
        self._told_ms: dict[str, int] = {}  # up to here, exclusive, its rows have been handed out
        self._missing: dict[str, dict[int, int]] = {}  # candles that were not there, and in how many looks in a row
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

    def look(self) -> Look:
        """Ask the source once."""
        try:
            return self._look()
        except (SourceError, InputError) as err:  # of the model, too, where a promotion came in the midst of a look
            pause_s = min(MAX_PAUSE_S, RETRY_S * 2.0**self._failures)
            self._failures += 1
            self._progress.warn(f"{err.message}; trying again in {pause_s:g} s")
            return Look(self._no_rows(), pause_s)

    def _look(self) -> Look:
        self._take_over()
        self._source.renew_clock()
        clock_ms = self._source.clock_ms(self._symbols)
        end_ms = clock_ms // self._step_ms * self._step_ms
        unknown = {s: window for s in self._wanted() if (window := self._unknown(s, end_ms)) is not None}
        for symbol, found in self._source.candles_of(unknown).items():
            self._extend(symbol, unknown[symbol], found, clock_ms)
        rows = self._due(end_ms, clock_ms)
        if self._failures:
            self._progress.warn("the source answers again")
            self._failures = 0
        if min(self._told_ms[symbol] for symbol in self._symbols) < end_ms:
            return Look(rows, RETRY_S)
        return Look(rows, (end_ms + self._step_ms - clock_ms + PUBLISHED_MS) / 1000)

    def _take_over(self) -> None:
        """Take over what the version that is served now reads: it may have been promoted since the last look."""
        bars = self._model.lookback_bars
        if bars > self._bars:  # more of the past is needed than is held
            self._held, self._whole_ms, self._missing = {}, {}, {}
        self._bars, self._symbols, self._leaders = bars, self._model.symbols, self._model.feature_set.leaders

    def _no_rows(self) -> pl.DataFrame:
        return self._model.predict_candles({})

    def _unknown(self, symbol: str, end_ms: int) -> TimeRange | None:
        """Return the window of what is not known of a symbol yet; None where nothing is missing."""
        bars = self._bars + MAX_AGE_BARS
        first_ms = self._whole_ms.setdefault(symbol, end_ms - bars * self._step_ms)
        self._told_ms.setdefault(symbol, end_ms - self._step_ms)
        return TimeRange(first_ms, end_ms) if first_ms < end_ms else None

    def _extend(self, symbol: str, asked: TimeRange, found: pl.DataFrame, clock_ms: int) -> None:
        """Take in what the source had of a symbol, and say up to where it is whole."""
        first_ms, end_ms = asked.start_ms, asked.end_ms
        held = self._held.get(symbol)
        if held is not None:
            found = pl.concat([held.filter(pl.col("ts").dt.timestamp("ms") < first_ms), found])
        self._held[symbol] = found
        there = set(times_ms(found).tolist())
        before = self._missing.get(symbol, {})
        missing = [ms for ms in range(first_ms, end_ms, self._step_ms) if ms not in there]
        self._missing[symbol] = counts = {ms: before.get(ms, 0) + 1 for ms in missing}
        late = (ms for ms in missing if counts[ms] < LOOKS or ms + self._step_ms + GRACE_MS > clock_ms)
        self._whole_ms[symbol] = next(late, end_ms)

    def _due(self, end_ms: int, clock_ms: int) -> pl.DataFrame:
        """Return the rows that are whole and not told yet, by time."""
        leaders = [self._whole_ms[leader] for leader in self._leaders]
        tables, told = [], {}
        for symbol in self._symbols:
            until_ms = min([self._whole_ms[symbol], *leaders])
            overdue_ms = (clock_ms - GRACE_MS) // self._step_ms * self._step_ms
            until_ms = max(until_ms, min(overdue_ms, self._whole_ms[symbol]))
            if until_ms > self._told_ms[symbol]:
                tables.append(self._score(symbol, until_ms, clock_ms))
                told[symbol] = until_ms
        self._told_ms |= told
        self._forget(end_ms)
        return pl.concat(tables).sort("ts", maintain_order=True) if tables else self._no_rows()

    def _score(self, symbol: str, until_ms: int, clock_ms: int) -> pl.DataFrame:
        from_ms = self._told_ms[symbol]
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
        """Let go of what no later row reads."""
        told_ms = min([end_ms, *self._told_ms.values()])
        reach_ms = told_ms - (self._bars + MAX_AGE_BARS) * self._step_ms
        self._held = {symbol: _between(frame, reach_ms, end_ms) for symbol, frame in self._held.items()}


def _between(frame: pl.DataFrame, first_ms: int, end_ms: int) -> pl.DataFrame:
    times = times_ms(frame)
    start, stop = times.searchsorted([first_ms, end_ms]).tolist()
    return frame.slice(start, stop - start)


def watch(looks: Watch, wait: Callable[[float], None]) -> Iterator[pl.DataFrame]:
    """Give the rows of each look that found any, for ever.

    Args:
        looks: What to ask.
        wait: Waits so many seconds.
    """
    while True:
        look = looks.look()
        if look.rows.height:
            yield look.rows
        wait(look.wait_s)
