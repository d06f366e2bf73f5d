"""Download what the cache lacks: days planned up front, pages fetched side by side, each finished day kept at once.

The plan knows every page before the first is asked for. A day is kept when all its pages have come; its gaps are
asked for once more when everything else is there, and only then believed. Whatever ends a download, the days that were
finished are on the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import polars as pl

from mltrain.candles.diff import compare_frames, tell_change
from mltrain.candles.frame import Gap, check_candles, find_gaps, times_ms
from mltrain.sources.async_run import run_async, run_in_threads
from mltrain.sources.day_cache import FreshDay, SymbolDays, hold_cache
from mltrain.sources.klines import PAGE_CANDLES, merge_rows, plan_pages
from mltrain.sources.source import DownloadResult, Origin, SymbolCandles, SymbolTraffic, TrafficReport
from mltrain.times import DAY_MS, TimeRange, day_name, format_seconds, interval_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mltrain.progress import Progress
    from mltrain.sources.day_cache import CachedDay
    from mltrain.sources.http_client import Clock, Traffic
    from mltrain.sources.klines import OddRows
    from mltrain.sources.throttle import Throttle

_BATCH_DAYS: Final = 32  # written with one sync of their folder


class Pages(Protocol):
    """Asks an exchange for candles."""

    async def page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the rows of a page, in the order that they came."""

    async def first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Return the first rows that open at a time or later, by time."""


class Zips(Protocol):
    """Asks an archive for the candles of whole days."""

    async def day(self, symbol: str, day_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the rows of a day and the SHA-256 of its zip; or why it cannot be had there."""


@dataclass(frozen=True, slots=True)
class DownloadSession:
    """An exchange that can be asked, and perhaps its archive.

    Attributes:
        pages: The exchange.
        zips: Its archive.
        odd: The odd rows in the answers of both so far, by symbol and day.
    """

    pages: Pages
    zips: Zips | None = None
    odd: Mapping[tuple[str, int], OddRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DownloadJob:
    """How an exchange is asked.

    Attributes:
        host: Its name, for messages.
        interval: Interval of the candles.
        cache_name: Its folder in the cache.
        clock_ms: Its time, ms UTC: days that end later are not over.
        workers: Requests under way at once.
        connect: Opens the connection.
        clock: The time that passes, for the figures.
        throttle: Whose figures are told.
        traffic: Whose figures are told.
        page_candles: The most that one answer holds.
    """

    host: str
    interval: str
    cache_name: str
    clock_ms: int
    workers: int
    connect: Callable[[], AbstractAsyncContextManager[DownloadSession]]
    clock: Clock
    throttle: Throttle
    traffic: Traffic
    page_candles: int = PAGE_CANDLES


@contextmanager
def download_days(
    job: DownloadJob, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
) -> Iterator[DownloadResult]:
    """Download what the cache lacks, as `Source.download` does; the cache is held while the block lasts."""
    with hold_cache(data_dir, f"downloading from {job.host}") as cache:
        download = Download(job, symbols, window, cache=cache, refresh=refresh, progress=progress)
        run_async(download.run)
        yield DownloadResult(download.candles, lambda: tuple(download.notes), download.report())


@dataclass(slots=True)
class _Day:
    """A day that is missing, wholly or in part.

    Attributes:
        day_ms: Its midnight.
        until_ms: The end of what is wanted of it.
        have: Its beginning, where the cache has that.
        old: What the cache has of it, where it is asked for all the same.
        awaited: Pages that have not come yet.
        parts: Rows that have come.
        origin: As of CachedDay.
        left_out: As in CachedDay, for the requested range.
        closed_early: As in CachedDay, for the requested range.
    """

    day_ms: int
    until_ms: int
    have: CachedDay | None = None
    old: CachedDay | None = None
    awaited: int = 0
    parts: list[pl.DataFrame] = field(default_factory=list)
    origin: str = "rest"
    left_out: int = 0
    closed_early: int = 0

    @property
    def missing(self) -> TimeRange:
        """What is to be asked for."""
        return TimeRange(self.day_ms if self.have is None else self.have.until_ms, self.until_ms)


@dataclass(slots=True)
class _Symbol:
    """One symbol of a download: what is there, what is missing, what was odd."""

    days: SymbolDays
    ready: dict[int, CachedDay] = field(default_factory=dict)
    missing: dict[int, _Day] = field(default_factory=dict)
    finished: list[_Day] = field(default_factory=list)
    strays: list[pl.DataFrame] = field(default_factory=list)
    late: list[pl.DataFrame] = field(default_factory=list)
    doubts: list[Gap] | None = None
    cached: int = 0
    fetched_rows: int = 0
    begun_s: float | None = None
    ended_s: float = 0.0

    @property
    def name(self) -> str:
        """The symbol."""
        return self.days.symbol


class Download:
    """One download of some symbols in one window.

    Attributes:
        notes: What the user should know.

    Args:
        job: How the exchange is asked.
        symbols: Whose candles.
        window: Their open times.
        cache: The folder of the cache, held by the caller.
        refresh: Whether what is there is downloaded again, and compared.
        progress: Told of each symbol.
    """

    def __init__(
        self,
        job: DownloadJob,
        symbols: tuple[str, ...],
        window: TimeRange,
        *,
        cache: Path,
        refresh: bool,
        progress: Progress,
    ) -> None:
        self.notes: list[str] = []
        self._job = job
        self._window = window
        self._step_ms = interval_ms(job.interval)
        self._refresh = refresh
        self._progress = progress
        self._symbols = {s: _Symbol(SymbolDays(cache, job.cache_name, s, job.interval)) for s in symbols}
        self._odd: Mapping[tuple[str, int], OddRows] = {}
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._news = asyncio.Event()
        self._over = False
        self._begun_s = job.clock.monotonic_s()

    async def run(self) -> None:
        """Download what is missing.

        Raises:
            InputError: A candle is damaged or impossible, or two contradict each other.
            SourceError: The exchange did not answer, or refused; the finished days are kept.
            MachineError: The machine refuses.
        """
        for symbol in self._symbols.values():
            self._plan(symbol)
        async with self._job.connect() as line:
            self._odd = line.odd
            for symbol in self._symbols.values():
                self._plan_jobs(symbol, line)
            await self._work(line.pages)
            for symbol in self._symbols.values():
                self._plan_doubts(symbol, line.pages)
            await self._work(line.pages)
        late = await run_in_threads([partial(self._fill, symbol) for symbol in self._symbols.values()])
        self.notes += [note for notes in late for note in notes]
        self.notes += [note for symbol in self._symbols.values() for note in self._odd_notes(symbol)]

    def _plan(self, symbol: _Symbol) -> None:
        """Tell which days are there and which are missing."""
        symbol.days.open_for_writing()
        closed_ms = self._job.clock_ms // self._step_ms * self._step_ms
        for day_ms in range(self._window.start_ms // DAY_MS * DAY_MS, self._window.end_ms, DAY_MS):
            end_ms = day_ms + DAY_MS
            until_ms = end_ms if end_ms <= closed_ms else min(end_ms, self._window.end_ms)
            found, damage = symbol.days.find(day_ms)
            if damage:
                self.notes.append(f"{damage}: downloaded again")
            if found is not None and found.until_ms >= until_ms and not self._refresh:
                symbol.ready[day_ms] = found
                symbol.cached += 1
            elif self._refresh:
                symbol.missing[day_ms] = _Day(day_ms, until_ms, old=found)
            else:
                symbol.missing[day_ms] = _Day(day_ms, until_ms, have=found)

    def _plan_jobs(self, symbol: _Symbol, line: DownloadSession) -> None:
        for day in list(symbol.missing.values()):
            whole = day.have is None and day.until_ms == day.day_ms + DAY_MS
            if line.zips is not None and whole:
                day.awaited = 1
                self._jobs.append(partial(self._take_zip, symbol, day, line))
        runs = _join([day.missing for day in symbol.missing.values() if not day.awaited])
        for run in runs:
            self._plan_pages(symbol, run, line.pages)

    def _plan_pages(self, symbol: _Symbol, run: TimeRange, pages: Pages) -> None:
        for page in plan_pages(run, self._step_ms, candles=self._job.page_candles):
            for day in self._days_of(symbol, page):
                day.awaited += 1
            self._jobs.append(partial(self._take_page, symbol, page, pages))

    def _days_of(self, symbol: _Symbol, window: TimeRange) -> Iterator[_Day]:
        for day_ms in range(window.start_ms // DAY_MS * DAY_MS, window.end_ms, DAY_MS):
            yield symbol.missing[day_ms]

    async def _work(self, pages: Pages) -> None:
        """Do all jobs, several at once, and keep the days that they finish; the first error ends it."""
        self._over = False
        keeper = asyncio.create_task(self._keep_finished(pages))
        workers = [asyncio.create_task(self._work_off()) for _ in range(min(self._job.workers, len(self._jobs)))]
        pending: set[asyncio.Task[None]] = {keeper, *workers}
        try:
            while pending - {keeper}:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            self._jobs.clear()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            # The keeper is not cancelled: what it is writing would go on, and nobody would know when it was there.
            self._over = True
            self._news.set()
            await keeper

    async def _work_off(self) -> None:
        while self._jobs:
            await self._jobs.popleft()()

    async def _take_page(self, symbol: _Symbol, page: TimeRange, pages: Pages) -> None:
        self._begin(symbol)
        rows = await pages.page(symbol.name, page)
        ts_ms = times_ms(rows)
        inside = (ts_ms >= page.start_ms) & (ts_ms < page.end_ms)
        if not inside.all():
            symbol.strays.append(rows.filter(~inside).unique())
            rows = rows.filter(inside)
        rows = merge_rows([rows], symbol=symbol.name, where=self._job.host)
        ts_ms = times_ms(rows)
        for day in list(self._days_of(symbol, page)):
            begin, end = np.searchsorted(ts_ms, [day.day_ms, day.day_ms + DAY_MS]).tolist()
            self._add(symbol, day, rows[begin:end])
        self._report(symbol, (page.end_ms - page.start_ms) // self._step_ms, rows.height)

    async def _take_zip(self, symbol: _Symbol, day: _Day, line: DownloadSession) -> None:
        self._begin(symbol)
        assert line.zips is not None  # noqa: S101 -- the job was planned for it
        found = await line.zips.day(symbol.name, day.day_ms)
        if isinstance(found, str):
            self.notes.append(f"{symbol.name} {day_name(day.day_ms)}: {found}: taken over REST")
            day.awaited = 0
            self._plan_pages(symbol, day.missing, line.pages)
            return
        rows, sha256 = found
        day.origin = f"archive {sha256}"
        self._add(symbol, day, rows)
        self._report(symbol, DAY_MS // self._step_ms, rows.height)

    def _add(self, symbol: _Symbol, day: _Day, rows: pl.DataFrame) -> None:
        day.parts.append(rows)
        day.awaited -= 1
        if not day.awaited:
            if (odd := self._odd.get((symbol.name, day.day_ms))) is not None:
                day.left_out, day.closed_early = odd.count(day.missing)
            symbol.finished.append(symbol.missing.pop(day.day_ms))
            self._news.set()

    async def _keep_finished(self, pages: Pages) -> None:
        """Write the days that are finished, off the event loop, until there are none to come.

        The gaps of a symbol are asked for again as soon as its last day is there, while others are still coming.
        """
        over = False
        while not over:
            await self._news.wait()
            self._news.clear()
            over = self._over
            for symbol in self._symbols.values():
                while batch := symbol.finished[:_BATCH_DAYS]:
                    symbol.finished = symbol.finished[_BATCH_DAYS:]
                    await asyncio.to_thread(self._keep, symbol, batch)
                if self._jobs and not symbol.missing:  # while there are jobs, somebody is working them off
                    self._plan_doubts(symbol, pages)

    def _keep(self, symbol: _Symbol, finished: list[_Day]) -> None:
        """Check finished days and write them into the cache."""
        where = self._job.host
        fresh, frames = [], []
        for day in sorted(finished, key=lambda d: d.day_ms):
            parts = day.parts if day.have is None else [symbol.days.read(day.have), *day.parts]
            frame = merge_rows(parts, symbol=symbol.name, where=where)
            frames.append(frame)
            fresh.append(
                FreshDay(
                    frame,
                    day.day_ms,
                    day.until_ms,
                    day.origin,
                    gaps_asked=False,
                    fetched_ms=self._job.clock_ms,
                    left_out=day.left_out + (0 if day.have is None else day.have.left_out),
                    closed_early=day.closed_early + (0 if day.have is None else day.have.closed_early),
                )
            )
        check_candles(pl.concat(frames), symbol=symbol.name, interval=self._job.interval, where=where)
        for day, frame in zip(sorted(finished, key=lambda d: d.day_ms), frames, strict=True):
            self._compare(symbol, day, frame)
        for known in symbol.days.write(fresh):
            symbol.ready[known.day_ms] = known

    def _compare(self, symbol: _Symbol, day: _Day, frame: pl.DataFrame) -> None:
        """Note where the exchange tells another story of a day than before."""
        if day.old is None:
            return
        before = symbol.days.read(day.old).filter(pl.col("ts").dt.timestamp("ms") < day.until_ms)
        diff = compare_frames(before, frame.filter(pl.col("ts").dt.timestamp("ms") < day.old.until_ms))
        if not diff.same:
            self.notes.append(
                f"{symbol.name} {day_name(day.day_ms)}: the exchange changed its history since "
                f"{format_seconds(day.old.fetched_ms)}: {tell_change(diff)}"
            )

    def _plan_doubts(self, symbol: _Symbol, pages: Pages) -> None:
        """Plan, once, to ask a second time for the gaps of a symbol, all of whose days are there."""
        if symbol.doubts is not None:
            return
        symbol.doubts = []
        for day in sorted(symbol.ready.values(), key=lambda d: d.day_ms):
            if not day.gaps_asked:
                ts_ms = times_ms(symbol.days.read(day))
                symbol.doubts += find_gaps(ts_ms, self._step_ms, start_ms=day.day_ms, end_ms=day.until_ms)
        for cluster in _cluster(_runs(symbol.doubts, self._step_ms), self._job.page_candles * self._step_ms):
            self._jobs.append(partial(self._ask_again, symbol, cluster, pages))

    async def _ask_again(self, symbol: _Symbol, gaps: list[Gap], pages: Pages) -> None:
        """Ask for the candles of gaps once more: the answer begins at a gap, and tells what comes after it, too."""
        self._begin(symbol)
        left = deque(TimeRange(gap.from_ms, gap.to_ms + self._step_ms) for gap in gaps)
        while left:
            start_ms = left[0].start_ms
            limit = min((left[-1].end_ms - start_ms) // self._step_ms + 1, self._job.page_candles)
            rows = await pages.first(symbol.name, start_ms, limit=limit)
            # The candle that is still open comes too, and says something else each time.
            symbol.late.append(rows.filter(times_ms(rows) < self._job.clock_ms // self._step_ms * self._step_ms))
            if rows.is_empty():
                break
            seen_ms = int(times_ms(rows)[-1]) + self._step_ms
            while left and left[0].start_ms < seen_ms:
                gap = left.popleft()
                if gap.end_ms > seen_ms:
                    left.appendleft(TimeRange(seen_ms, gap.end_ms))

    def _fill(self, symbol: _Symbol) -> list[str]:
        """Put the rows that came late into their days, and note that the gaps that stay were asked for twice.

        Returns:
            What the user should know.
        """
        if not symbol.doubts:
            return []
        ts = pl.col("ts").dt.timestamp("ms")
        rows = merge_rows(symbol.late, symbol=symbol.name, where=self._job.host)
        filled, empty, notes = [], [], []
        for day_ms in _days_with(symbol.doubts):
            day = symbol.ready[day_ms]
            of_day = rows.filter(ts.is_between(day.day_ms, day.until_ms, closed="left"))
            before = symbol.days.read(day)
            frame = merge_rows([before, of_day], symbol=symbol.name, where=self._job.host)
            if frame.height == before.height:
                empty.append(day)
                continue
            check_candles(frame, symbol=symbol.name, interval=self._job.interval, where=self._job.host)
            fresh = FreshDay(
                frame,
                day.day_ms,
                day.until_ms,
                "rest",
                gaps_asked=True,
                fetched_ms=self._job.clock_ms,
                left_out=day.left_out,
                closed_early=day.closed_early,
            )
            filled.append(fresh)
            late = frame.height - before.height
            notes.append(f"{symbol.name} {day_name(day_ms)}: {late} candles came only when asked for again")
        for known in (*symbol.days.write(filled), *symbol.days.mark_asked(empty)):
            symbol.ready[known.day_ms] = known
        return notes

    def _odd_notes(self, symbol: _Symbol) -> Iterator[str]:
        """Yield notes on the odd rows of a symbol's days, downloaded or cached."""
        days = [symbol.ready[day_ms] for day_ms in sorted(symbol.ready)]
        if off := [day for day in days if day.left_out]:
            rows = sum(day.left_out for day in off)
            yield (
                f"{symbol.name}: {rows:,} row{'s' * (rows > 1)} of the exchange's history left out, off the "
                f"{self._job.interval} grid ({_span(off)}): their candles are missing"
            )
        if early := [day for day in days if day.closed_early]:
            rows = sum(day.closed_early for day in early)
            yield (
                f"{symbol.name}: kept {rows:,} candle{'s' * (rows > 1)} that closed before the end of the interval "
                f"({_span(early)}): trading had stopped"
            )

    def _begin(self, symbol: _Symbol) -> None:
        if symbol.begun_s is None:
            symbol.begun_s = self._job.clock.monotonic_s()
            wanted = sum(day.until_ms - day.missing.start_ms for day in symbol.missing.values())
            self._progress.stage(symbol.name, total=wanted // self._step_ms, beside=True)

    def _report(self, symbol: _Symbol, steps: int, rows: int) -> None:
        now_s = self._job.clock.monotonic_s()
        symbol.fetched_rows += rows
        symbol.ended_s = now_s
        total = sum(s.fetched_rows for s in self._symbols.values())
        rate = total / max(now_s - self._begun_s, 1e-3)
        used, limit = self._job.throttle.used, self._job.throttle.weight_limit
        self._progress.advance(steps, stage=symbol.name, note=f"{rate:,.0f} rows/s, weight {used} of {limit}")

    def candles(self, name: str) -> SymbolCandles:
        """Return the candles of a symbol inside the window, once `run` has ended.

        Raises:
            InputError: The cache was changed meanwhile; or a row cannot be a candle, or an answer contradicts another.
            MachineError: The machine refuses to read.
        """
        symbol, where = self._symbols[name], self._job.host
        if symbol.missing or symbol.finished:
            raise RuntimeError(f"{name}: days of the download are not there")
        days = [symbol.ready[day_ms] for day_ms in sorted(symbol.ready)]
        frame = check_candles(self._read(symbol.days, days), symbol=name, interval=self._job.interval, where=where)
        for strays in symbol.strays:  # what came unasked must not say something else
            merge_rows([frame, strays.join(frame, on="ts", how="semi")], symbol=name, where=where)
        return SymbolCandles(frame, tuple(_origins(days, self._window)))

    def _read(self, folder: SymbolDays, days: list[CachedDay]) -> pl.DataFrame:
        """Return the rows of days in order that are inside the window; only its first and last day can reach beyond."""
        parts = [folder.read(day) for day in days]
        inside = pl.col("ts").dt.timestamp("ms").is_between(self._window.start_ms, self._window.end_ms, closed="left")
        for edge in {0, len(parts) - 1}:
            parts[edge] = parts[edge].filter(inside)
        return pl.concat(parts)

    def report(self) -> TrafficReport:
        """Return what the download took."""
        job = self._job
        traffic = job.traffic
        return TrafficReport(
            requests=traffic.requests.total(),
            bytes=traffic.bytes,
            seconds=round(job.clock.monotonic_s() - self._begun_s, 3),
            peak_weight=job.throttle.peak_weight,
            weight_limit=job.throttle.weight_limit,
            waited_s=job.throttle.waited_ms / 1000,
            symbols=tuple(
                SymbolTraffic(
                    symbol=s.name,
                    requests=traffic.requests[s.name],
                    seconds=0.0 if s.begun_s is None else round(s.ended_s - s.begun_s, 3),
                    days_cached=s.cached,
                    days_fetched=len(s.ready) - s.cached,
                )
                for s in self._symbols.values()
            ),
        )


def _span(days: list[CachedDay]) -> str:
    """Return the first and the last of some days in order."""
    first, last = day_name(days[0].day_ms), day_name(days[-1].day_ms)
    return first if first == last else f"{first} to {last}"


def _join(windows: Iterable[TimeRange]) -> list[TimeRange]:
    """Return windows in order, those that touch made one."""
    joined: list[TimeRange] = []
    for window in windows:
        if joined and joined[-1].end_ms == window.start_ms:
            joined[-1] = TimeRange(joined[-1].start_ms, window.end_ms)
        else:
            joined.append(window)
    return joined


def _runs(gaps: list[Gap], step_ms: int) -> list[Gap]:
    """Return the gaps of days as the gaps that they are: those that touch made one."""
    runs: list[Gap] = []
    for gap in gaps:
        if runs and runs[-1].to_ms + step_ms == gap.from_ms:
            runs[-1] = Gap(runs[-1].from_ms, gap.to_ms, runs[-1].missing + gap.missing)
        else:
            runs.append(gap)
    return runs


def _cluster(gaps: list[Gap], span_ms: int) -> Iterator[list[Gap]]:
    """Cut a list of gaps into runs that begin less than `span_ms` apart: one question covers each."""
    cluster: list[Gap] = []
    for gap in gaps:
        if cluster and gap.from_ms - cluster[0].from_ms >= span_ms:
            yield cluster
            cluster = []
        cluster.append(gap)
    if cluster:
        yield cluster


def _days_with(gaps: list[Gap]) -> list[int]:
    """Return the midnights of the days that a gap begins in: those of one day end in it."""
    return sorted({gap.from_ms // DAY_MS * DAY_MS for gap in gaps})


def _origins(days: list[CachedDay], window: TimeRange) -> Iterator[Origin]:
    """Yield where the candles of a window came from; neighbours of one origin are one range."""
    last: Origin | None = None
    for day in days:
        start, end = max(day.day_ms, window.start_ms), min(day.until_ms, window.end_ms)
        if last is not None and (last.origin, last.to_ms) == (day.origin, start):
            last = Origin(last.from_ms, end, day.origin)
            continue
        if last is not None:
            yield last
        last = Origin(start, end, day.origin)
    if last is not None:
        yield last
