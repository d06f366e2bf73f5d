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
from mltrain.sources.klines import count_odd, is_rising, merge_rows
from mltrain.sources.source import Origin, SymbolCandles
from mltrain.times import DAY_MS, TimeRange, day_name, floor_to_grid, format_seconds, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mltrain.sources.day_cache import SymbolDays
    from mltrain.sources.klines import OddRows


@dataclass(slots=True)
class PendingDay:
    """A day, or run of days in one file, that the cache lacks, wholly or in part.

    Attributes:
        day_ms: The midnight at which it begins, ms UTC.
        until_ms: End of the wanted part, ms UTC.
        beginning: The cached first part of the day, which the download completes.
        replaced: The cached day that is downloaded again, and compared.
        open_requests: Number of requests that are not answered yet.
        frames: Rows received, one frame per answer.
        origin: "rest", or "archive" and the SHA-256 of the zip.
        left_out: How many odd rows of the requested range were left out.
        closed_early: How many candles of the requested range closed before their interval ended.
    """

    day_ms: int
    until_ms: int
    beginning: CachedDay | None = None
    replaced: CachedDay | None = None
    open_requests: int = 0
    frames: list[pl.DataFrame] = field(default_factory=list)
    origin: str = "rest"
    left_out: int = 0
    closed_early: int = 0

    @property
    def missing(self) -> TimeRange:
        """The range of open times to request."""
        return TimeRange(self.day_ms if self.beginning is None else self.beginning.until_ms, self.until_ms)

    @property
    def is_whole(self) -> bool:
        """Whether the whole day is to be requested."""
        return self.beginning is None and self.until_ms - self.day_ms >= DAY_MS


class SymbolDownload:
    """The download of one symbol's candles into the cache.

    Attributes:
        symbol: The symbol.
        pending: Days whose rows have not all arrived, by midnight, ms UTC.
        finished: Days whose rows have all arrived and that are not written yet.
        late_rows: Rows that arrived when gaps were requested again, one frame per answer.
        days_cached: Number of days that the cache had.
        rows_received: Number of rows received.
        start_s: Time of the first request, monotonic seconds; None before it.
        end_s: Time of the last answer, monotonic seconds.

    Args:
        days: The symbol's folder in the cache, whose lock the caller holds.
        window: Open times that are wanted.
        host: Name of the exchange, for messages.
        clock_ms: Time of the exchange, ms UTC.
        kept_rows: Number of written candles that stay in memory, so that they need not be read from the cache.
    """

    def __init__(self, days: SymbolDays, window: TimeRange, *, host: str, clock_ms: int, kept_rows: int = 0) -> None:
        self.symbol = days.symbol
        self.pending: dict[int, PendingDay] = {}
        self.finished: list[PendingDay] = []
        self.late_rows: list[pl.DataFrame] = []
        self.days_cached = 0
        self.rows_received = 0
        self.start_s: float | None = None
        self.end_s = 0.0
        self._days = days
        self._window = window
        self._host = host
        self._clock_ms = clock_ms
        self._step_ms = interval_ms(days.interval)
        self._day_length_ms = days.unit_days * DAY_MS
        # Days in the cache, by midnight, ms UTC.
        self._ready: dict[int, CachedDay] = {}
        # Candles of some of them, by the hash of the day's file, and how many more may be kept.
        self._kept: dict[str, pl.DataFrame] = {}
        self._kept_rows_left = kept_rows
        # Rows outside the page that was requested.
        self._unrequested: list[pl.DataFrame] = []
        # Days whose gaps are requested a second time; None until that is planned.
        self._rechecked: list[CachedDay] | None = None

    @property
    def days_fetched(self) -> int:
        """Number of days that were downloaded, wholly or in part, and written."""
        return sum(map(_count_days, self._ready.values())) - self.days_cached

    def plan(self, *, refresh: bool) -> list[str]:
        """Find out which days of the window are pending, all of them with `refresh`; return notes on damaged ones."""
        notes = []
        self._days.open_for_writing()
        closed_ms = floor_to_grid(self._clock_ms, self._step_ms)
        for day_ms in self.days_in(self._window):
            end_ms = day_ms + self._day_length_ms
            until_ms = end_ms if end_ms <= closed_ms else min(end_ms, self._window.end_ms)
            cached, damage = self._days.find(day_ms)
            if damage:
                notes.append(f"{damage}: downloaded again")
            if refresh:
                self.pending[day_ms] = PendingDay(day_ms, until_ms, replaced=cached)
            elif cached is None or cached.until_ms < until_ms:
                self.pending[day_ms] = PendingDay(day_ms, until_ms, beginning=cached)
            else:
                self._ready[day_ms] = cached
                self.days_cached += _count_days(cached)
        return notes

    def days_in(self, window: TimeRange) -> range:
        """Return the midnights, ms UTC, of the cached days that a range touches."""
        return range(floor_to_grid(window.start_ms, self._day_length_ms), window.end_ms, self._day_length_ms)

    def unplanned(self) -> list[TimeRange]:
        """Return the missing ranges of open times for which no request is planned, sorted; adjacent ones are joined."""
        return _join(day.missing for day in self.pending.values() if not day.open_requests)

    def add_page(self, page: TimeRange, rows: pl.DataFrame, odd: Mapping[tuple[str, int], OddRows]) -> None:
        """Add the rows of an answer, in any order, to the days of the requested page.

        Args:
            page: The requested range of open times.
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
            self.add_rows(self.pending[day_ms], _slice(rows, day_ms, day_ms + self._day_length_ms), odd)

    def add_rows(self, day: PendingDay, rows: pl.DataFrame, odd: Mapping[tuple[str, int], OddRows]) -> None:
        """Add the rows of one answer to a day, and move the day to `finished` with its last answer.

        `odd` holds the odd rows received so far, by symbol and midnight, ms UTC.
        """
        day.frames.append(rows)
        day.open_requests -= 1
        if not day.open_requests:
            day.left_out, day.closed_early = count_odd(odd, self.symbol, day.missing)
            self.finished.append(self.pending.pop(day.day_ms))

    def write(self, finished: list[PendingDay]) -> list[str]:
        """Check finished days and write them into the cache; return notes on changed history.

        Raises:
            InputError: A row cannot be a candle, or two rows of one time differ.
        """
        finished = sorted(finished, key=lambda day: day.day_ms)
        frames = []
        for day in finished:
            frames += [self._read(day.beginning), *day.frames] if day.beginning is not None else day.frames
        merged = self._check(self._merge(frames))
        new_days: list[tuple[CachedDay, pl.DataFrame]] = []
        notes: list[str] = []
        for day in finished:
            candles = _slice(merged, day.day_ms, day.until_ms).rechunk()
            new = CachedDay(
                day.day_ms,
                day.until_ms,
                day.origin,
                gaps_rechecked=False,
                fetched_ms=self._clock_ms,
                left_out=day.left_out + (0 if day.beginning is None else day.beginning.left_out),
                closed_early=day.closed_early + (0 if day.beginning is None else day.beginning.closed_early),
                days=self._days.unit_days,
            )
            new_days.append((new, candles))
            notes += self._describe_change(day.replaced, new, candles)
        for written, (_, candles) in zip(self._days.write(new_days), new_days, strict=True):
            self._ready[written.day_ms] = written
            if candles.height <= self._kept_rows_left:
                self._kept_rows_left -= candles.height
                self._kept[written.sha256] = candles
        return notes

    def _read(self, day: CachedDay) -> pl.DataFrame:
        """Return the candles of a day in the cache."""
        kept = self._kept.get(day.sha256)
        return self._days.read(day) if kept is None else kept

    def _describe_change(self, old: CachedDay | None, new: CachedDay, candles: pl.DataFrame) -> Iterator[str]:
        """Yield a note if the candles of a new day differ from the old ones, where the old day has any."""
        if old is None:
            return
        end_ms = min(old.until_ms, new.until_ms)
        diff = compare_frames(_slice(self._read(old), old.day_ms, end_ms), _slice(candles, old.day_ms, end_ms))
        if not diff.is_empty:
            yield (
                f"{self.symbol} {day_name(old.day_ms)}: the exchange changed its history since "
                f"{format_seconds(old.fetched_ms)}: {describe_diff(diff)}"
            )

    def plan_recheck(self, *, page_candles: int) -> list[list[TimeRange]]:
        """Return the gaps to request a second time, in groups that one page of `page_candles` candles each can cover.

        The first call, once every day is written, returns them all; later calls return none.
        """
        if self._rechecked is not None:
            return []
        self._rechecked = []
        ranges: list[TimeRange] = []
        for day in self._ready_days():
            if day.gaps_rechecked:
                continue
            ts_ms = times_ms(self._read(day))
            gaps = find_gaps(ts_ms, self._step_ms, start_ms=day.day_ms, end_ms=day.until_ms)
            if gaps:
                self._rechecked.append(day)
                ranges += [TimeRange(gap.from_ms, gap.to_ms + self._step_ms) for gap in gaps]
        groups: list[list[TimeRange]] = []
        for joined in _join(ranges):
            if groups and joined.start_ms - groups[-1][0].start_ms < page_candles * self._step_ms:
                groups[-1].append(joined)
            else:
                groups.append([joined])
        return groups

    def fill_gaps(self) -> list[str]:
        """Write the late rows into their days, and record that the other gaps were requested twice; return notes."""
        if not self._rechecked:
            return []
        late_rows = self._merge(self.late_rows)
        filled, unchanged, notes = [], [], []
        for day in self._rechecked:
            old = self._read(day)
            new = self._merge([old, _slice(late_rows, day.day_ms, day.until_ms)])
            if new.height == old.height:
                unchanged.append(day)
                continue
            filled_day = replace(day, origin="rest", gaps_rechecked=True, fetched_ms=self._clock_ms)
            filled.append((filled_day, self._check(new)))
            candles = f"{new.height - old.height} candle{'s' * (new.height - old.height > 1)}"
            notes.append(f"{self.symbol} {day_name(day.day_ms)}: {candles} came only when requested again")
        written = (*self._days.write(filled), *self._days.mark_rechecked(unchanged))
        self._ready |= {day.day_ms: day for day in written}
        return notes

    def describe_odd(self) -> Iterator[str]:
        """Yield notes on the odd rows of all days, downloaded or cached."""
        if affected := [day for day in self._ready_days() if day.left_out]:
            rows = sum(day.left_out for day in affected)
            yield (
                f"{self.symbol}: {rows:,} row{'s' * (rows > 1)} of the exchange's history left out, off the "
                f"{self._days.interval} grid ({_span(affected)}): their candles are missing"
            )
        if affected := [day for day in self._ready_days() if day.closed_early]:
            rows = sum(day.closed_early for day in affected)
            yield (
                f"{self.symbol}: kept {rows:,} candle{'s' * (rows > 1)} that closed before the end of the interval "
                f"({_span(affected)}): trading had stopped"
            )

    def read_candles(self) -> SymbolCandles:
        """Return the candles inside the window, once the download has ended.

        Raises:
            InputError: A day in the cache was changed after it was written, or an unrequested row contradicts a candle.
        """
        if self.pending or self.finished:
            raise RuntimeError(f"{self.symbol}: days of the download are missing")
        days, window = self._ready_days(), self._window
        frame = _slice(pl.concat([self._read(day) for day in days]), window.start_ms, window.end_ms)
        # Merged to be compared only.
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
        """Return the days in the cache, sorted by time."""
        return [self._ready[day_ms] for day_ms in sorted(self._ready)]

    def _merge(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        """Return the rows of all frames, sorted and without duplicates; InputError if two of one time differ."""
        return merge_rows(frames, symbol=self.symbol, where=self._host)

    def _check(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows if all of them can be candles; else InputError."""
        return check_candles(frame, symbol=self.symbol, interval=self._days.interval, where=self._host)


def _count_days(day: CachedDay) -> int:
    """Return how many UTC days a cached day covers, wholly or in part."""
    return -(-(day.until_ms - day.day_ms) // DAY_MS)


def _slice(frame: pl.DataFrame, start_ms: int, end_ms: int) -> pl.DataFrame:
    """Return the rows of a sorted frame that open in [start_ms, end_ms), without a copy."""
    start, end = np.searchsorted(times_ms(frame), [start_ms, end_ms]).tolist()
    return frame[start:end]


def _join(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """Return sorted ranges with adjacent ones joined."""
    joined: list[TimeRange] = []
    for each in ranges:
        if joined and joined[-1].end_ms == each.start_ms:
            joined[-1] = TimeRange(joined[-1].start_ms, each.end_ms)
        else:
            joined.append(each)
    return joined


def _span(days: list[CachedDay]) -> str:
    """Return the first and the last of sorted days, such as "2025-10-14 to 2025-10-15"."""
    first, last = day_name(days[0].day_ms), day_name(days[-1].day_ms)
    return first if first == last else f"{first} to {last}"
