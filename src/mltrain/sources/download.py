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
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.candles.frame import times_ms
from mltrain.sources.async_run import run_async, run_in_threads
from mltrain.sources.day_cache import SymbolDays, cached_unit_days, lock_cache
from mltrain.sources.klines import PAGE_CANDLES, plan_pages
from mltrain.sources.source import DownloadResult, SymbolTraffic, TrafficReport
from mltrain.sources.symbol_download import SymbolDownload
from mltrain.times import DAY_MS, TimeRange, day_name, floor_to_grid, interval_ms

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

# Days written with one sync of their folder.
_BATCH_DAYS: Final = 32
# Written candles that stay in memory, of all symbols together: 32 MB.
_KEPT_ROWS: Final = 400_000


class Pages(Protocol):
    """Requests candles from an exchange."""

    async def fetch_page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request the candles that open inside a window of at most one page; return the rows in any order."""

    async def fetch_first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Request the first `limit` candles that open at `start_ms`, ms UTC, or later; return the rows in any order."""


class Zips(Protocol):
    """Requests the candles of whole days from an archive."""

    async def fetch_day(self, symbol: str, day_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the candles of the UTC day at midnight `day_ms`, and the SHA-256 of its zip; or why there are none."""


@dataclass(frozen=True, slots=True)
class DownloadSession:
    """Open connections to an exchange and perhaps to its archive.

    Attributes:
        pages: Requests candles from the exchange.
        zips: Requests whole days from its archive; None without one.
        odd: The odd rows received so far from both, by symbol and midnight, ms UTC.
    """

    pages: Pages
    zips: Zips | None = None
    odd: Mapping[tuple[str, int], OddRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DownloadJob:
    """How to download from an exchange.

    Attributes:
        host: The exchange's name, for messages.
        interval: Interval of the candles.
        cache_name: Folder of the source in the day cache.
        clock_ms: The exchange's time, ms UTC: days that end later are not over.
        workers: Number of concurrent requests.
        connect: Opens a session.
        clock: The clock that durations are measured with.
        throttle: Source of the reported weights and waits.
        traffic: Source of the reported requests and bytes.
        page_candles: The most candles that one answer holds.
        unit_days: How many UTC days one file of the cache holds; None: as many as `cached_unit_days` says.
        empty_is_end: Whether an empty answer to `fetch_first` means that no later candle exists. Otherwise it says
            nothing about candles more than `limit` intervals later.
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
    unit_days: int | None = None
    empty_is_end: bool = True


@contextmanager
def download_days(
    job: DownloadJob, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
) -> Iterator[DownloadResult]:
    """Download the days of a window that the cache in `data_dir` lacks, or all of them with `refresh`.

    The cache is locked while the block lasts, in which the result reads all candles of the window from it.
    """
    start_s = job.clock.monotonic_s()
    unit_days = job.unit_days or cached_unit_days(interval_ms(job.interval))
    with lock_cache(data_dir, f"downloading from {job.host}") as cache:
        downloads = {
            symbol: SymbolDownload(
                SymbolDays(cache, job.cache_name, symbol, job.interval, unit_days=unit_days),
                window,
                host=job.host,
                clock_ms=job.clock_ms,
                kept_rows=_KEPT_ROWS // len(symbols),
            )
            for symbol in symbols
        }
        notes = [note for download in downloads.values() for note in download.plan(refresh=refresh)]
        notes += run_async(lambda: _download(job, list(downloads.values()), progress))
        notes += chain.from_iterable(run_in_threads([download.fill_gaps for download in downloads.values()]))
        notes += [note for download in downloads.values() for note in download.describe_odd()]
        yield DownloadResult(
            where=job.host,
            interval=job.interval,
            read=lambda symbol: downloads[symbol].read_candles(),
            notes=lambda: tuple(notes),
            traffic=_report_traffic(job, list(downloads.values()), start_s),
        )


async def _download(job: DownloadJob, downloads: Sequence[SymbolDownload], progress: Progress) -> list[str]:
    """Download the pending days of all symbols, then request their gaps a second time; return notes for the user."""
    async with job.connect() as session:
        requests = _RequestQueue(job, session, downloads, progress)
        for download in downloads:
            requests.plan_days(download)
        await requests.run()
        for download in downloads:
            requests.plan_recheck(download)
        await requests.run()
        return requests.notes


class _RequestQueue:
    """The requests of a download, which several workers send, while finished days are written.

    Attributes:
        notes: What the user should know about the download.
    """

    def __init__(
        self, job: DownloadJob, session: DownloadSession, downloads: Sequence[SymbolDownload], progress: Progress
    ) -> None:
        self.notes: list[str] = []
        self._job = job
        self._session = session
        self._downloads = downloads
        self._progress = progress
        self._step_ms = interval_ms(job.interval)
        self._queue: deque[Callable[[], Awaitable[None]]] = deque()
        self._day_finished = asyncio.Event()
        self._all_received = False
        self._start_s = job.clock.monotonic_s()

    def plan_days(self, download: SymbolDownload) -> None:
        """Queue the requests for the pending days of a symbol."""
        for day in download.pending.values():
            if self._session.zips is not None and day.is_whole:
                day.open_requests = 1
                self._queue.append(partial(self._fetch_zip, self._session.zips, download, day))
        for missing in download.unplanned():
            self._plan_pages(download, missing)

    def _plan_pages(self, download: SymbolDownload, missing: TimeRange) -> None:
        """Queue the page requests for a range of open times."""
        for page in plan_pages(missing, self._step_ms, candles=self._job.page_candles):
            for day_ms in download.days_in(page):
                download.pending[day_ms].open_requests += 1
            self._queue.append(partial(self._fetch_page, download, page))

    def plan_recheck(self, download: SymbolDownload) -> None:
        """Queue, once, the second requests for the gaps of a symbol whose days are all written."""
        for gaps in download.plan_recheck(page_candles=self._job.page_candles):
            self._queue.append(partial(self._fetch_gaps, download, gaps))

    async def run(self) -> None:
        """Send all queued requests and write the days that they finish; the first error ends both."""
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
        """Send the queue's requests one after another, as one of several workers."""
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
            for download in self._downloads:
                while batch := download.finished[:_BATCH_DAYS]:
                    download.finished = download.finished[_BATCH_DAYS:]
                    self.notes += await asyncio.to_thread(download.write, batch)
                # A queue that is not empty has workers, which will send these requests, too.
                if self._queue and not download.pending:
                    self.plan_recheck(download)

    async def _fetch_page(self, download: SymbolDownload, page: TimeRange) -> None:
        """Request one page of a symbol and add its rows to their days."""
        self._start_symbol(download)
        rows = await self._session.pages.fetch_page(download.symbol, page)
        download.add_page(page, rows, self._session.odd)
        self._count_answer(download, (page.end_ms - page.start_ms) // self._step_ms, rows.height)

    async def _fetch_zip(self, zips: Zips, download: SymbolDownload, day: PendingDay) -> None:
        """Request a day from the archive; queue the requests for its pages if the archive cannot supply it."""
        self._start_symbol(download)
        result = await zips.fetch_day(download.symbol, day.day_ms)
        if isinstance(result, str):
            self.notes.append(f"{download.symbol} {day_name(day.day_ms)}: {result}: taken over REST")
            day.open_requests = 0
            self._plan_pages(download, day.missing)
            return
        rows, sha256 = result
        day.origin = f"archive {sha256}"
        download.add_rows(day, rows, self._session.odd)
        self._count_answer(download, DAY_MS // self._step_ms, rows.height)

    async def _fetch_gaps(self, download: SymbolDownload, gaps: list[TimeRange]) -> None:
        """Request the candles of gaps again; an answer begins at a gap, and may reach the gaps after it."""
        self._start_symbol(download)
        unanswered = deque(gaps)
        while unanswered:
            start_ms = unanswered[0].start_ms
            limit = min((unanswered[-1].end_ms - start_ms) // self._step_ms + 1, self._job.page_candles)
            rows = await self._session.pages.fetch_first(download.symbol, start_ms, limit=limit)
            # The candle that is still open comes too, and differs each time.
            download.late_rows.append(rows.filter(times_ms(rows) < floor_to_grid(self._job.clock_ms, self._step_ms)))
            if rows.is_empty() and self._job.empty_is_end:
                break
            last_ms = start_ms + (limit - 1) * self._step_ms if rows.is_empty() else int(times_ms(rows).max())
            answered_ms = last_ms + self._step_ms
            while unanswered and unanswered[0].start_ms < answered_ms:
                gap = unanswered.popleft()
                if gap.end_ms > answered_ms:
                    unanswered.appendleft(TimeRange(answered_ms, gap.end_ms))

    def _start_symbol(self, download: SymbolDownload) -> None:
        """Start a symbol's time and progress, before its first request."""
        if download.start_s is None:
            download.start_s = self._job.clock.monotonic_s()
            missing_ms = sum(day.until_ms - day.missing.start_ms for day in download.pending.values())
            self._progress.stage(download.symbol, total=missing_ms // self._step_ms, concurrent=True)

    def _count_answer(self, download: SymbolDownload, requested: int, received: int) -> None:
        """Wake the writer if a day is finished, and report the numbers of candles requested and received."""
        if download.finished:
            self._day_finished.set()
        download.end_s = self._job.clock.monotonic_s()
        download.rows_received += received
        rate = sum(each.rows_received for each in self._downloads) / max(download.end_s - self._start_s, 1e-3)
        throttle = self._job.throttle
        # An exchange without a limit of weight has none to show.
        weight = f", weight {throttle.used_weight} of {throttle.weight_limit}" if throttle.weight_limit else ""
        self._progress.advance(requested, stage=download.symbol, note=f"{rate:,.0f} rows/s{weight}")


def _report_traffic(job: DownloadJob, downloads: Sequence[SymbolDownload], start_s: float) -> TrafficReport:
    """Return the traffic of a download that started at `start_s`, in monotonic seconds."""
    return TrafficReport(
        requests=job.traffic.requests.total(),
        bytes=job.traffic.bytes,
        seconds=round(job.clock.monotonic_s() - start_s, 3),
        peak_weight=job.throttle.peak_weight,
        weight_limit=job.throttle.weight_limit,
        waited_s=job.throttle.waited_ms / 1000,
        symbols=tuple(
            SymbolTraffic(
                symbol=download.symbol,
                requests=job.traffic.requests[download.symbol],
                seconds=0.0 if download.start_s is None else round(download.end_s - download.start_s, 3),
                days_cached=download.days_cached,
                days_fetched=download.days_fetched,
            )
            for download in downloads
        ),
    )
