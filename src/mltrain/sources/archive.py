"""The source `archive`: whole days from the exchange's public archive, the rest over REST.

A day is one zip with a `.CHECKSUM` file. Monthly files are not used: they disagree with the daily ones and with REST. A
day that the archive lacks or has damaged is requested over REST, as are the present day and the gaps of every day.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.candles.checks import check_candles
from mltrain.candles.compression import parse_checksum, unzip_single
from mltrain.candles.frame import times_ms
from mltrain.candles.layouts import read_binance_csv
from mltrain.errors import InputError, UsageError
from mltrain.sources.async_run import task_group
from mltrain.sources.binance import BinanceSource, cache_folder_name
from mltrain.sources.download import DownloadSession
from mltrain.sources.funding_download import FundingPages, FundingSession, next_month_ms, read_funding_csv
from mltrain.sources.http_client import HostClock, HttpClient, Query
from mltrain.sources.klines import add_odd, split_odd
from mltrain.sources.markets import SPOT
from mltrain.sources.network_rules import check_base_url
from mltrain.sources.source_spec import PUBLIC_ARCHIVE
from mltrain.sources.throttle import Throttle
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS, day_name, interval_ms

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    import polars as pl

    from mltrain.sources.http_client import Clock
    from mltrain.sources.klines import OddDays
    from mltrain.sources.markets import Market
    from mltrain.sources.network_rules import NetworkRules

# A day of minutes takes 80 kB, and 150 kB unpacked; one of seconds takes 5 MB, and 13 MB unpacked.
_MAX_ZIP_BYTES: Final = 16 << 20
_MAX_CSV_BYTES: Final = 32 << 20
_MAX_CHECKSUM_BYTES: Final = 4096
_NOT_FOUND: Final = 404
# The archive does not count request weight.
_NO_WEIGHT_LIMIT: Final = 10**9


class ArchiveSource(BinanceSource):
    """The exchange's daily archive, completed over REST, as a Source.

    Args:
        interval: One of INTERVALS_MS.
        base_url: Address of the REST host; "" for the public one of the market.
        archive_url: Address of the archive: `/data/spot/daily/klines/...` follows it.
        market: One of MARKETS.
        rules: How the network may be used; None for the defaults.
        clock: Measures durations and waits; None for this machine's clock.
        rng: Draws the jitter of the pauses before retries.

    Raises:
        UsageError: The interval is unknown or longer than a day, or an address is invalid.
    """

    # Each day has a zip, whose hash the cache keeps.
    _unit_days = 1

    def __init__(
        self,
        interval: str,
        base_url: str = "",
        archive_url: str = PUBLIC_ARCHIVE,
        *,
        market: str = SPOT,
        rules: NetworkRules | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(interval, base_url, market=market, rules=rules, clock=clock, rng=rng)
        if interval_ms(interval) > DAY_MS:
            raise UsageError(
                f"the archive has no daily files of {interval} candles", hint="take them with --source binance"
            )
        self.archive_url = check_base_url(archive_url)

    @property
    def name(self) -> str:
        """Name of this kind of source: "archive"."""
        return "archive"

    @property
    def cache_name(self) -> str:
        """Name of this source's folder in the day cache, which depends on both addresses."""
        kind = self._cache_kind
        if (self.base_url, self.archive_url) == (self._market.rest_url, PUBLIC_ARCHIVE):
            return kind
        if self.archive_url.startswith(self.base_url):
            return f"{kind}@{cache_folder_name(self.host)}"
        return f"{kind}@{cache_folder_name(f'{self.host} {self.archive_url}')}"

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[DownloadSession]:
        """Open clients of the REST host and of the archive for one download."""
        async with self._client() as rest, self._archive_client() as archive:
            pages = self._pages(rest)
            yield DownloadSession(pages, DayZips(archive, self.interval, self._market, pages.odd), pages.odd)

    @asynccontextmanager
    async def _connect_funding(self) -> AsyncIterator[FundingSession]:
        """Open clients of the REST host and of the archive for the funding rates."""
        async with self._funding_client() as rest, self._archive_client() as archive:
            yield FundingSession(FundingPages(rest, self._market), MonthZips(archive, self._market))

    def _archive_client(self) -> HttpClient:
        """Return a client of the archive's host."""
        return HttpClient(
            self.archive_url,
            rules=self._rules,
            throttle=Throttle(weight_limit=_NO_WEIGHT_LIMIT, max_wait_ms=round(self._rules.max_wait_s * 1000)),
            traffic=self._traffic,
            host_clock=HostClock(self._clock),
            rng=self._rng,
        )


@dataclass(frozen=True, slots=True)
class DayZips:
    """Requests the zips of whole days from the archive.

    Attributes:
        client: The open client of the archive's host.
        interval: Interval of the candles.
        market: The market.
        odd: Receives the odd rows of the zips; see `split_odd`.
    """

    client: HttpClient
    interval: str
    market: Market
    odd: OddDays

    async def fetch_day(self, symbol: str, day_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the candles, without odd rows, of the UTC day at midnight `day_ms`, and the SHA-256 of its zip.

        Returns the reason instead if the archive lacks the day or has damaged it.
        """
        name = f"{symbol}-{self.interval}-{day_name(day_ms)}.zip"
        folder = f"/data/{self.market.archive_folder}/daily/klines/{symbol}/{self.interval}"
        proven = await fetch_csv(self.client, f"{folder}/{name}", symbol)
        if isinstance(proven, str):
            return proven
        csv, sha256 = proven
        try:
            rows, closes_ms = read_binance_csv(csv, where=name, symbol=symbol, step_ms=interval_ms(self.interval))
            kept, odd = split_odd(times_ms(rows), closes_ms, symbol=symbol, interval=self.interval, where=name)
            rows = rows.filter(kept)
            check_candles(rows, symbol=symbol, interval=self.interval, where=name)
        except InputError as err:
            return err.message
        ts_ms = times_ms(rows)
        if ts_ms.size and not day_ms <= ts_ms[0] <= ts_ms[-1] < day_ms + DAY_MS:
            return f"{name} holds candles of another day"
        add_odd(self.odd, symbol, odd)
        return rows, sha256


@dataclass(frozen=True, slots=True)
class MonthZips:
    """Requests the zips of a month's funding events from the archive, which has no daily ones.

    Attributes:
        client: The open client of the archive's host.
        market: The market, which has funding.
    """

    client: HttpClient
    market: Market

    async def fetch_month(self, symbol: str, month_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the funding events of the month that begins at `month_ms`, and the SHA-256 of its zip.

        Returns the reason instead if the archive lacks the month or has damaged it. The files have no mark prices.
        """
        name = f"{symbol}-fundingRate-{day_name(month_ms)[:7]}.zip"
        proven = await fetch_csv(
            self.client, f"/data/{self.market.archive_folder}/monthly/fundingRate/{symbol}/{name}", symbol
        )
        if isinstance(proven, str):
            return proven
        csv, sha256 = proven
        try:
            rows = read_funding_csv(csv, symbol=symbol, where=name)
        except InputError as err:
            return err.message
        ts_ms = times_ms(rows)
        # An event is stamped up to some milliseconds after its hour, never before.
        if ts_ms.size and not month_ms <= ts_ms[0] <= ts_ms[-1] < next_month_ms(month_ms):
            return f"{name} holds funding events of another month"
        return rows, sha256


async def fetch_csv(client: HttpClient, path: str, symbol: str) -> tuple[bytes, str] | str:
    """Return the CSV in a zip of the archive whose checksum file proves it, and the SHA-256 of the zip.

    Returns the reason instead if the archive lacks either file, or they contradict each other.
    """
    name = path.rpartition("/")[2]

    async def get(path: str, file_name: str, max_bytes: int) -> bytes | None:
        """Return the content of a file of the archive; None if the archive does not have it."""
        query = Query(path, subject=file_name, weight=0, max_bytes=max_bytes, symbol=symbol)
        return await client.get(
            query, lambda answer: None if answer.status == _NOT_FOUND else answer.body, accept=(_NOT_FOUND,)
        )

    async with task_group() as group:
        zip_task = group.create_task(get(path, name, _MAX_ZIP_BYTES))
        checksum_task = group.create_task(get(f"{path}.CHECKSUM", f"{name}.CHECKSUM", _MAX_CHECKSUM_BYTES))
    zipped, checksum_text = zip_task.result(), checksum_task.result()
    if zipped is None or checksum_text is None:
        return f"the archive has no {name if zipped is None else f'{name}.CHECKSUM'}"
    try:
        expected = parse_checksum(checksum_text, file_name=name, where=f"{name}.CHECKSUM")
        if (actual := sha256_bytes(zipped)) != expected:
            return f"{name} has SHA-256 {actual}, its checksum file says {expected}"
        return unzip_single(zipped, where=name, max_bytes=_MAX_CSV_BYTES), expected
    except InputError as err:
        return err.message
