"""Download what the cache lacks: days are planned first, pages requested concurrently, finished days written at once.

Every request is known before the first is sent. When all rows of a symbol have arrived, its gaps are requested a second
time. However a download ends, the days that were finished are in the cache.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.candles.frame import times_ms
from mltrain.sources.async_run import run_async, run_in_threads
from mltrain.sources.day_cache import SymbolDays, lock_cache
from mltrain.sources.klines import PAGE_CANDLES, plan_pages
from mltrain.sources.source import DownloadResult, SymbolTraffic, TrafficReport
from mltrain.sources.symbol_download import SymbolDownload
from mltrain.times import DAY_MS, TimeRange, day_name, interval_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import polars as pl

    from mltrain.progress import Progress
    from mltrain.sources.http_client import Clock, Traffic
    from mltrain.sources.klines import OddRows
    from mltrain.sources.symbol_download import PendingDay
    from mltrain.sources.throttle import Throttle

# Written with one sync of their folder.
_BATCH_DAYS: Final = 32


class Pages(Protocol):
    """Requests candles from an exchange."""

    async def page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the rows of a page, in the order in which they came."""

    async def first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Return the first rows that open at a time or later, in any order."""


class Zips(Protocol):
    """Requests the candles of whole days from an archive."""

    async def day(self, symbol: str, day_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the rows of a day and the SHA-256 of its zip; or the reason why the archive cannot supply it."""


@dataclass(frozen=True, slots=True)
class DownloadSession:
    """Open connections to an exchange and perhaps to its archive.

    Attributes:
        pages: The exchange.
        zips: Its archive.
        odd: The odd rows received so far from both, by symbol and midnight, ms UTC.
    """

    pages: Pages
    zips: Zips | None = None
    odd: Mapping[tuple[str, int], OddRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DownloadJob:
    """How to download from an exchange.

    Attributes:
        host: Its name, for messages.
        interval: Interval of the candles.
        cache_name: Its folder in the cache.
        clock_ms: Its time, ms UTC: days that end later are not over.
        workers: Concurrent requests.
        connect: Opens a session.
        clock: The clock that durations are measured with.
        throttle: Source of the reported weights and waits.
        traffic: Source of the reported requests and bytes.
        page_candles: The most candles that one answer holds.
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
    """Download what the cache lacks, as `Source.download` does; the cache is locked while the block lasts."""
    begun_s = job.clock.monotonic_s()
    with lock_cache(data_dir, f"downloading from {job.host}") as cache:
        parts = {
            symbol: SymbolDownload(
                SymbolDays(cache, job.cache_name, symbol, job.interval), window, host=job.host, clock_ms=job.clock_ms
            )
            for symbol in symbols
        }
        notes = [note for part in parts.values() for note in part.plan(refresh=refresh)]
        notes += run_async(lambda: _download(job, list(parts.values()), progress))
        filled = run_in_threads([part.fill_gaps for part in parts.values()])
        notes += [note for part_notes in filled for note in part_notes]
        notes += [note for part in parts.values() for note in part.odd_notes()]
        yield DownloadResult(
            where=job.host,
            interval=job.interval,
            read=lambda symbol: parts[symbol].candles(),
            notes=lambda: tuple(notes),
            traffic=_report(job, list(parts.values()), begun_s),
        )


async def _download(job: DownloadJob, parts: Sequence[SymbolDownload], progress: Progress) -> list[str]:
    """Download the pending days of all symbols, then request their gaps a second time; return notes.

    Raises:
        InputError: A candle is damaged or impossible, or two contradict each other.
        SourceError: The exchange did not answer, or refused; the finished days are in the cache.
        MachineError: The machine refuses.
    """
    async with job.connect() as session:
        requests = _RequestQueue(job, session, parts, progress)
        for part in parts:
            requests.plan_days(part)
        await requests.run()
        for part in parts:
            requests.plan_recheck(part)
        await requests.run()
        return requests.notes


class _RequestQueue:
    """The requests of a download, which several workers send, while finished days are written.

    Attributes:
        notes: What the user should know.
    """

    def __init__(
        self, job: DownloadJob, session: DownloadSession, parts: Sequence[SymbolDownload], progress: Progress
    ) -> None:
        self.notes: list[str] = []
        self._job = job
        self._session = session
        self._parts = parts
        self._progress = progress
        self._step_ms = interval_ms(job.interval)
        self._queue: deque[Callable[[], Awaitable[None]]] = deque()
        self._day_finished = asyncio.Event()
        self._all_received = False
        self._begun_s = job.clock.monotonic_s()

    def plan_days(self, part: SymbolDownload) -> None:
        """Queue the requests for the pending days of a symbol."""
        for day in part.pending.values():
            if self._session.zips is not None and day.is_whole:
                day.requests = 1
                self._queue.append(partial(self._fetch_zip, self._session.zips, part, day))
        for missing in part.missing():
            self._plan_pages(part, missing)

    def _plan_pages(self, part: SymbolDownload, missing: TimeRange) -> None:
        for page in plan_pages(missing, self._step_ms, candles=self._job.page_candles):
            for day_ms in part.days_in(page):
                part.pending[day_ms].requests += 1
            self._queue.append(partial(self._fetch_page, part, page))

    def plan_recheck(self, part: SymbolDownload) -> None:
        """Queue, once, the second requests for the gaps of a symbol whose days are all written."""
        for gaps in part.plan_recheck(page_candles=self._job.page_candles):
            self._queue.append(partial(self._fetch_gaps, part, gaps))

    async def run(self) -> None:
        """Send all queued requests and write the days that they finish; the first error ends it."""
        self._all_received = False
        writer = asyncio.create_task(self._write_finished())
        workers = [asyncio.create_task(self._send_queued()) for _ in range(min(self._job.workers, len(self._queue)))]
        pending: set[asyncio.Task[None]] = {writer, *workers}
        try:
            while pending - {writer}:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            self._queue.clear()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            # The writer is not cancelled: its thread would go on writing, and nobody would wait for it.
            self._all_received = True
            self._day_finished.set()
            await writer

    async def _send_queued(self) -> None:
        while self._queue:
            await self._queue.popleft()()

    async def _write_finished(self) -> None:
        """Write finished days, off the event loop, until no more come.

        The gaps of a symbol are requested again as soon as its last day is written, while other symbols still arrive.
        """
        is_last = False
        while not is_last:
            await self._day_finished.wait()
            self._day_finished.clear()
            is_last = self._all_received
            for part in self._parts:
                while batch := part.finished[:_BATCH_DAYS]:
                    part.finished = part.finished[_BATCH_DAYS:]
                    self.notes += await asyncio.to_thread(part.write, batch)
                # A queue that is not empty has workers, which will send these requests, too.
                if self._queue and not part.pending:
                    self.plan_recheck(part)

    async def _fetch_page(self, part: SymbolDownload, page: TimeRange) -> None:
        self._begin(part)
        rows = await self._session.pages.page(part.symbol, page)
        part.add_page(page, rows, self._session.odd)
        self._received(part, (page.end_ms - page.start_ms) // self._step_ms, rows.height)

    async def _fetch_zip(self, zips: Zips, part: SymbolDownload, day: PendingDay) -> None:
        self._begin(part)
        found = await zips.day(part.symbol, day.day_ms)
        if isinstance(found, str):
            self.notes.append(f"{part.symbol} {day_name(day.day_ms)}: {found}: taken over REST")
            day.requests = 0
            self._plan_pages(part, day.missing)
            return
        rows, sha256 = found
        day.origin = f"archive {sha256}"
        part.add(day, rows, self._session.odd)
        self._received(part, DAY_MS // self._step_ms, rows.height)

    async def _fetch_gaps(self, part: SymbolDownload, gaps: list[TimeRange]) -> None:
        """Request the candles of gaps again; an answer begins at a gap, and may reach the gaps after it."""
        self._begin(part)
        left = deque(gaps)
        while left:
            start_ms = left[0].start_ms
            limit = min((left[-1].end_ms - start_ms) // self._step_ms + 1, self._job.page_candles)
            rows = await self._session.pages.first(part.symbol, start_ms, limit=limit)
            # The candle that is still open comes too, and differs each time.
            part.late.append(rows.filter(times_ms(rows) < self._job.clock_ms // self._step_ms * self._step_ms))
            if rows.is_empty():
                break
            seen_ms = int(times_ms(rows).max()) + self._step_ms
            while left and left[0].start_ms < seen_ms:
                gap = left.popleft()
                if gap.end_ms > seen_ms:
                    left.appendleft(TimeRange(seen_ms, gap.end_ms))

    def _begin(self, part: SymbolDownload) -> None:
        if part.begun_s is None:
            part.begun_s = self._job.clock.monotonic_s()
            wanted_ms = sum(day.until_ms - day.missing.start_ms for day in part.pending.values())
            self._progress.stage(part.symbol, total=wanted_ms // self._step_ms, concurrent=True)

    def _received(self, part: SymbolDownload, steps: int, rows: int) -> None:
        if part.finished:
            self._day_finished.set()
        part.ended_s = self._job.clock.monotonic_s()
        part.rows += rows
        rate = sum(each.rows for each in self._parts) / max(part.ended_s - self._begun_s, 1e-3)
        weight = f"weight {self._job.throttle.used} of {self._job.throttle.weight_limit}"
        self._progress.advance(steps, stage=part.symbol, note=f"{rate:,.0f} rows/s, {weight}")


def _report(job: DownloadJob, parts: Sequence[SymbolDownload], begun_s: float) -> TrafficReport:
    return TrafficReport(
        requests=job.traffic.requests.total(),
        bytes=job.traffic.bytes,
        seconds=round(job.clock.monotonic_s() - begun_s, 3),
        peak_weight=job.throttle.peak_weight,
        weight_limit=job.throttle.weight_limit,
        waited_s=job.throttle.waited_ms / 1000,
        symbols=tuple(
            SymbolTraffic(
                symbol=part.symbol,
                requests=job.traffic.requests[part.symbol],
                seconds=0.0 if part.begun_s is None else round(part.ended_s - part.begun_s, 3),
                days_cached=part.days_cached,
                days_fetched=part.days_fetched,
            )
            for part in parts
        ),
    )
