"""One symbol of a download: which days the cache lacks, the rows received for them, and the days written.

Nothing here touches the network. A day is checked and written when all its rows have arrived. Its gaps are believed
only after they were requested a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.checks import check_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import find_gaps, times_ms
from mltrain.sources.day_cache import CachedDay
from mltrain.sources.klines import is_rising, merge_rows
from mltrain.sources.source import Origin, SymbolCandles
from mltrain.times import DAY_MS, TimeRange, day_name, format_seconds, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mltrain.sources.day_cache import SymbolDays
    from mltrain.sources.klines import OddRows


@dataclass(slots=True)
class PendingDay:
    """A day that the cache lacks, wholly or in part.

    Attributes:
        day_ms: Its midnight, ms UTC.
        until_ms: End of the wanted part, ms UTC.
        have: Its cached beginning, which is completed.
        old: Its cached state, which is downloaded again and compared.
        requests: Requests that are not answered yet.
        parts: Rows received.
        origin: As in CachedDay.
        left_out: As in CachedDay, for the requested range.
        closed_early: As in CachedDay, for the requested range.
    """

    day_ms: int
    until_ms: int
    have: CachedDay | None = None
    old: CachedDay | None = None
    requests: int = 0
    parts: list[pl.DataFrame] = field(default_factory=list)
    origin: str = "rest"
    left_out: int = 0
    closed_early: int = 0

    @property
    def missing(self) -> TimeRange:
        """The range to request."""
        return TimeRange(self.day_ms if self.have is None else self.have.until_ms, self.until_ms)

    @property
    def is_whole(self) -> bool:
        """Whether the whole day is to be requested."""
        return self.have is None and self.until_ms == self.day_ms + DAY_MS


class SymbolDownload:
    """The download of one symbol's candles into the cache.

    Attributes:
        symbol: The symbol.
        pending: Days whose rows have not all arrived, by midnight, ms UTC.
        finished: Days whose rows have all arrived and that are not written yet.
        late: Rows that arrived when gaps were requested again.
        days_cached: Days that the cache had.
        rows: Rows received.
        begun_s: Monotonic time of the first request; None before it.
        ended_s: Monotonic time of the last answer.

    Args:
        days: The symbol's folder in the cache, whose lock the caller holds.
        window: Open times that are wanted.
        host: Name of the exchange, for messages.
        clock_ms: Time of the exchange, ms UTC.
    """

    def __init__(self, days: SymbolDays, window: TimeRange, *, host: str, clock_ms: int) -> None:
        self.symbol = days.symbol
        self.pending: dict[int, PendingDay] = {}
        self.finished: list[PendingDay] = []
        self.late: list[pl.DataFrame] = []
        self.days_cached = 0
        self.rows = 0
        self.begun_s: float | None = None
        self.ended_s = 0.0
        self._days = days
        self._window = window
        self._host = host
        self._clock_ms = clock_ms
        self._step_ms = interval_ms(days.interval)
        self._ready: dict[int, CachedDay] = {}
        self._unrequested: list[pl.DataFrame] = []
        self._rechecked: list[CachedDay] | None = None

    @property
    def days_fetched(self) -> int:
        """Days that were downloaded, wholly or in part, and written."""
        return len(self._ready) - self.days_cached

    def plan(self, *, refresh: bool) -> list[str]:
        """Find out which days of the window are pending; return notes on damaged ones.

        Args:
            refresh: Download cached days again.

        Raises:
            InputError: Something else is in the place of a day.
            MachineError: The machine refuses.
        """
        notes = []
        self._days.open_for_writing()
        closed_ms = self._clock_ms // self._step_ms * self._step_ms
        for day_ms in self.days_in(self._window):
            end_ms = day_ms + DAY_MS
            until_ms = end_ms if end_ms <= closed_ms else min(end_ms, self._window.end_ms)
            found, damage = self._days.find(day_ms)
            if damage:
                notes.append(f"{damage}: downloaded again")
            if refresh:
                self.pending[day_ms] = PendingDay(day_ms, until_ms, old=found)
            elif found is None or found.until_ms < until_ms:
                self.pending[day_ms] = PendingDay(day_ms, until_ms, have=found)
            else:
                self._ready[day_ms] = found
                self.days_cached += 1
        return notes

    @staticmethod
    def days_in(window: TimeRange) -> range:
        """Return the midnights, ms UTC, of the days that a range touches."""
        return range(window.start_ms // DAY_MS * DAY_MS, window.end_ms, DAY_MS)

    def missing(self) -> list[TimeRange]:
        """Return the ranges for which no request is planned yet, by time; days that touch are one range."""
        return _join(day.missing for day in self.pending.values() if not day.requests)

    def add_page(self, page: TimeRange, rows: pl.DataFrame, odd: Mapping[tuple[str, int], OddRows]) -> None:
        """Add the rows that arrived for a page, in any order, to its days.

        Args:
            page: The requested range.
            rows: May repeat rows, and hold rows outside the page.
            odd: The odd rows received so far, by symbol and midnight, ms UTC.
        """
        ts_ms = times_ms(rows)
        inside = (ts_ms >= page.start_ms) & (ts_ms < page.end_ms)
        if not inside.all():
            self._unrequested.append(rows.filter(~inside).unique())
            rows = rows.filter(inside)
        if not is_rising(times_ms(rows)):
            rows = rows.sort("ts")
        for day_ms in self.days_in(page):
            self.add(self.pending[day_ms], _part(rows, day_ms, day_ms + DAY_MS), odd)

    def add(self, day: PendingDay, rows: pl.DataFrame, odd: Mapping[tuple[str, int], OddRows]) -> None:
        """Add the rows of one answer to a day, and move the day to `finished` with its last answer."""
        day.parts.append(rows)
        day.requests -= 1
        if not day.requests:
            if (found := odd.get((self.symbol, day.day_ms))) is not None:
                day.left_out, day.closed_early = found.count(day.missing)
            self.finished.append(self.pending.pop(day.day_ms))

    def write(self, finished: list[PendingDay]) -> list[str]:
        """Check finished days and write them into the cache; return notes on changed history.

        Raises:
            InputError: A row cannot be a candle, or two rows of one time differ.
            MachineError: The machine refuses.
        """
        finished = sorted(finished, key=lambda day: day.day_ms)
        parts = []
        for day in finished:
            parts += [self._days.read(day.have), *day.parts] if day.have is not None else day.parts
        frame = self._check(self._merge(parts))
        fresh: list[tuple[CachedDay, pl.DataFrame]] = []
        notes: list[str] = []
        for day in finished:
            candles = _part(frame, day.day_ms, day.until_ms)
            known = CachedDay(
                day.day_ms,
                day.until_ms,
                day.origin,
                gaps_asked=False,
                fetched_ms=self._clock_ms,
                left_out=day.left_out + (0 if day.have is None else day.have.left_out),
                closed_early=day.closed_early + (0 if day.have is None else day.have.closed_early),
            )
            fresh.append((known, candles))
            notes += self._compare(day.old, known, candles)
        self._ready |= {day.day_ms: day for day in self._days.write(fresh)}
        return notes

    def _compare(self, old: CachedDay | None, new: CachedDay, candles: pl.DataFrame) -> Iterator[str]:
        """Yield a note if the exchange changed the part of a day that was cached before."""
        if old is None:
            return
        end_ms = min(old.until_ms, new.until_ms)
        diff = compare_frames(_part(self._days.read(old), old.day_ms, end_ms), _part(candles, old.day_ms, end_ms))
        if not diff.is_empty:
            yield (
                f"{self.symbol} {day_name(old.day_ms)}: the exchange changed its history since "
                f"{format_seconds(old.fetched_ms)}: {describe_diff(diff)}"
            )

    def plan_recheck(self, *, page_candles: int) -> list[list[TimeRange]]:
        """Return the gaps to request a second time, in groups that one page each can cover.

        Only the first call, which needs every day to be written, returns any.

        Raises:
            InputError: The cache was changed after it was written.
            MachineError: The machine refuses.
        """
        if self._rechecked is not None:
            return []
        self._rechecked = []
        gaps: list[TimeRange] = []
        for day in self._ready_days():
            if day.gaps_asked:
                continue
            ts_ms = times_ms(self._days.read(day))
            found = find_gaps(ts_ms, self._step_ms, start_ms=day.day_ms, end_ms=day.until_ms)
            if found:
                self._rechecked.append(day)
                gaps += [TimeRange(gap.from_ms, gap.to_ms + self._step_ms) for gap in found]
        groups: list[list[TimeRange]] = []
        for gap in _join(gaps):
            if groups and gap.start_ms - groups[-1][0].start_ms < page_candles * self._step_ms:
                groups[-1].append(gap)
            else:
                groups.append([gap])
        return groups

    def fill_gaps(self) -> list[str]:
        """Write the late rows into their days, and record that the other gaps were requested twice.

        Returns:
            Notes on the days that late rows completed.

        Raises:
            InputError: A row cannot be a candle, or contradicts another.
            MachineError: The machine refuses.
        """
        if not self._rechecked:
            return []
        late = self._merge(self.late)
        filled, unchanged, notes = [], [], []
        for day in self._rechecked:
            before = self._days.read(day)
            frame = self._merge([before, _part(late, day.day_ms, day.until_ms)])
            if frame.height == before.height:
                unchanged.append(day)
                continue
            known = replace(day, origin="rest", gaps_asked=True, fetched_ms=self._clock_ms)
            filled.append((known, self._check(frame)))
            count = frame.height - before.height
            notes.append(f"{self.symbol} {day_name(day.day_ms)}: {count} candles came only when asked for again")
        written = (*self._days.write(filled), *self._days.mark_asked(unchanged))
        self._ready |= {day.day_ms: day for day in written}
        return notes

    def odd_notes(self) -> Iterator[str]:
        """Yield notes on the odd rows of all days, downloaded or cached."""
        if off := [day for day in self._ready_days() if day.left_out]:
            rows = sum(day.left_out for day in off)
            yield (
                f"{self.symbol}: {rows:,} row{'s' * (rows > 1)} of the exchange's history left out, off the "
                f"{self._days.interval} grid ({_span(off)}): their candles are missing"
            )
        if early := [day for day in self._ready_days() if day.closed_early]:
            rows = sum(day.closed_early for day in early)
            yield (
                f"{self.symbol}: kept {rows:,} candle{'s' * (rows > 1)} that closed before the end of the interval "
                f"({_span(early)}): trading had stopped"
            )

    def candles(self) -> SymbolCandles:
        """Return the candles inside the window, read from the cache, once the download has ended.

        Raises:
            InputError: The cache was changed after it was written, or an unrequested row contradicts a candle.
            MachineError: The machine refuses to read.
        """
        if self.pending or self.finished:
            raise RuntimeError(f"{self.symbol}: days of the download are missing")
        days, window = self._ready_days(), self._window
        frame = _part(pl.concat([self._days.read(day) for day in days]), window.start_ms, window.end_ms)
        for rows in self._unrequested:
            self._merge([frame, rows.join(frame, on="ts", how="semi")])
        origins: list[Origin] = []
        for day in days:
            start_ms, end_ms = max(day.day_ms, window.start_ms), min(day.until_ms, window.end_ms)
            if origins and (origins[-1].origin, origins[-1].to_ms) == (day.origin, start_ms):
                origins[-1] = replace(origins[-1], to_ms=end_ms)
            else:
                origins.append(Origin(start_ms, end_ms, day.origin))
        return SymbolCandles(frame, tuple(origins))

    def _ready_days(self) -> list[CachedDay]:
        return [self._ready[day_ms] for day_ms in sorted(self._ready)]

    def _merge(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        return merge_rows(frames, symbol=self.symbol, where=self._host)

    def _check(self, frame: pl.DataFrame) -> pl.DataFrame:
        return check_candles(frame, symbol=self.symbol, interval=self._days.interval, where=self._host)


def _part(frame: pl.DataFrame, start_ms: int, end_ms: int) -> pl.DataFrame:
    """Return the rows of a sorted frame that open in [start_ms, end_ms), without a copy."""
    start, end = np.searchsorted(times_ms(frame), [start_ms, end_ms]).tolist()
    return frame[start:end]


def _join(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """Return ranges, given by time, with those that touch made one."""
    joined: list[TimeRange] = []
    for each in ranges:
        if joined and joined[-1].end_ms == each.start_ms:
            joined[-1] = TimeRange(joined[-1].start_ms, each.end_ms)
        else:
            joined.append(each)
    return joined


def _span(days: list[CachedDay]) -> str:
    """Return the first and the last of some days in order."""
    first, last = day_name(days[0].day_ms), day_name(days[-1].day_ms)
    return first if first == last else f"{first} to {last}"
