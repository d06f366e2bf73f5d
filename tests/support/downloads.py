"""Snapshots of the simulated exchange over HTTP, and the requests they made."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

from mltrain.candles.frame import times_ms
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.download import DownloadJob, DownloadSession, download_days
from mltrain.sources.http_client import MachineClock, Traffic
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.sources.throttle import Throttle
from mltrain.times import DAY_MS, MINUTE_MS

TODAY_MS = CLOCK_MS // DAY_MS * DAY_MS


def spec_of(server, *, interval="1m", archive=False, market="spot"):
    """Return the source spec of a server."""
    spec = SourceSpec("binance", base_url=server.base_url, interval=interval, market=market)
    return replace(spec, name="archive", archive_url=server.archive_url) if archive else spec


def download(server, data_dir, symbols=("BTCUSDT",), *, days=2, end_ms=None, interval="1m", refresh=False, **rest):
    """Take a snapshot from a server."""
    spec = spec_of(server, interval=interval, archive=rest.pop("archive", False), market=rest.pop("market", "spot"))
    return take_snapshot(
        data_dir,
        open_source(spec, NetworkRules(connections=4)),
        spec,
        SnapshotRequest(tuple(symbols), days, interval, end_ms),
        now_ms=CLOCK_MS + 1,
        progress=rest.pop("progress", None) or Silent(),
        refresh=refresh,
        **rest,
    )


def requested_pages(records):
    """Return the symbol and the half-open window of each requested page, sorted."""
    pages = [record for record in records if record.path.endswith("/klines") and "endTime" in record.query]
    return sorted((p.symbol, int(p.query["startTime"]), int(p.query["endTime"]) + 1) for p in pages)


def requested_minutes(records, symbol):
    """Return every minute whose candle was requested, with repetition, sorted."""
    return sorted(
        ts for name, start, end in requested_pages(records) if name == symbol for ts in range(start, end, MINUTE_MS)
    )


def day_frame(frame, day_ms):
    """Return the candles of one day."""
    ts_ms = times_ms(frame)
    return frame.filter((ts_ms >= day_ms) & (ts_ms < day_ms + DAY_MS))


def download_pages(pages, symbol, window, data_dir, *, clock_ms, workers, page_candles):
    """Return the 15m candles of a window that `download_days` requests from `pages`."""

    @asynccontextmanager
    async def connect():
        yield DownloadSession(pages)

    job = DownloadJob(
        host="here",
        interval="15m",
        cache_name="binance",
        clock_ms=clock_ms,
        workers=workers,
        connect=connect,
        clock=MachineClock(),
        throttle=Throttle(),
        traffic=Traffic(),
        page_candles=page_candles,
    )
    with download_days(job, (symbol,), window, data_dir=data_dir, refresh=False, progress=Silent()) as downloaded:
        return downloaded.candles(symbol).frame
