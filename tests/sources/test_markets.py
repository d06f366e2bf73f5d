"""Laws of the two markets of the exchange: each has its paths, weights, limits and cache, and they never mix."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from mltrain.errors import InputError, SourceError, UsageError
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.archive import ArchiveSource
from mltrain.sources.binance import BinanceSource
from mltrain.sources.fetch_candles import fetch_candles
from mltrain.sources.markets import MARKETS
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.opening import open_recorded, open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange, floor_to_grid, format_ms, interval_ms
from support.downloads import download
from support.program import call

WINDOW = TimeRange(CLOCK_MS - 3 * DAY_MS, CLOCK_MS)


def truth(market, symbol="BTCUSDT", *, interval="1m"):
    """Return the true candles of the window."""
    return SimSource(interval=interval, market=market).candles(symbol, WINDOW)


# --- side by side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", [False, True])
def test_spot_and_futures_side_by_side(tmp_path, archive):
    """From one host into one data folder, each market has its own candles, cache folder and manifest."""
    with SimServer() as server:
        taken = {
            market: download(server, tmp_path, days=3, archive=archive, market=market).snapshot
            for market in ("spot", "usdm", "spot")
        }

    for market, snapshot in taken.items():
        assert snapshot.candles("BTCUSDT").equals(truth(market))
        assert snapshot.source.market == market
    assert not truth("spot").equals(truth("usdm"))
    name = "archive" if archive else "binance"
    folders = sorted(path.name.partition("@")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert folders == [name, f"{name}-usdm"]
    manifests = [json.loads((snapshot.path / "manifest.json").read_text()) for snapshot in taken.values()]
    assert [manifest["source"].get("market") for manifest in manifests] == [None, "usdm"]


def test_the_public_hosts_of_both_markets():
    """Without an address, each market has its own REST host; the archive has one host for both."""
    specs = [SourceSpec("archive", market=market) for market in ("spot", "usdm")]

    assert [spec.base_url for spec in specs] == ["https://data-api.binance.vision", "https://fapi.binance.com"]
    assert {spec.archive_url for spec in specs} == {"https://data.binance.vision"}
    assert [BinanceSource("1m", market=market).cache_name for market in MARKETS] == ["binance", "binance-usdm"]
    assert [ArchiveSource("1m", market=market).cache_name for market in MARKETS] == ["archive", "archive-usdm"]
    for spec in specs:
        assert SourceSpec.from_dict(spec.to_dict()) == spec


def test_a_recorded_host_of_the_other_market_is_not_contacted():
    """The public host of spot does not serve futures, so that a manifest that says so is not believed."""
    spec = SourceSpec("binance", base_url=MARKETS["spot"].rest_url, market="usdm")

    with pytest.raises(InputError, match="a file alone cannot make this machine connect to it"):
        open_recorded(spec)
    assert open_recorded(SourceSpec("binance", market="usdm")).host == "fapi.binance.com"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "binance", "market": "futures"}, "market 'futures'"),
        ({"name": "binance", "market": "usdm", "interval": "1s"}, "no candles of 1s"),
        ({"name": "files", "folder": "here", "market": "usdm"}, "the source files has no market usdm"),
    ],
)
def test_a_market_that_does_not_exist(options, words):
    """It is refused when the source is described."""
    with pytest.raises(UsageError, match=words):
        SourceSpec(**options)


@pytest.mark.parametrize("interval", ["15m", "1h", "12h", "1w"])
def test_intervals_of_futures(interval):
    """Longer candles than 1m, over REST."""
    with SimServer() as server:
        spec = SourceSpec("binance", base_url=server.base_url, interval=interval, market="usdm")
        frames = fetch_candles("BTCUSDT", start=format_ms(WINDOW.start_ms - 30 * DAY_MS), spec=spec)

    source = SimSource(interval=interval, market="usdm")
    first_ms = floor_to_grid(WINDOW.start_ms - 30 * DAY_MS, interval_ms(interval))
    assert frames["BTCUSDT"].equals(source.candles("BTCUSDT", TimeRange(first_ms, CLOCK_MS)))


# --- weights and limits ----------------------------------------------------------------------------------------------


def test_the_weights_of_futures_are_those_that_are_counted(tmp_path):
    """Every answer reports the sum of the weights that the throttle counted: 1, 1 and 2 per page of 499."""
    with SimServer() as server:
        traffic = download(server, tmp_path, days=3, market="usdm").traffic
        pages = [record for record in server.log if record.path == "/fapi/v1/klines"]
        used = max(record.weight_used for record in server.log)

    first_pages = [record for record in pages if "endTime" in record.query]
    assert {record.query["limit"] for record in first_pages} == {"499"}
    # The days are whole, from midnight on.
    assert len(first_pages) == -(-(3 * 1440 + 720) // 499)
    assert traffic.peak_weight == used
    assert used == 2 + sum(MARKETS["usdm"].page_weight(int(record.query["limit"])) for record in pages)
    assert traffic.weight_limit == 2400


@pytest.mark.parametrize(
    ("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10)]
)
def test_the_weight_of_a_page_of_futures(limit, weight):
    """As documented: below 100 rows 1, below 500 2, up to 1,000 5, above 10."""
    assert MARKETS["usdm"].page_weight(limit) == weight


def test_the_limit_that_the_exchange_states_is_kept():
    """With a lower limit than the usual one, no minute goes above it, and nothing is refused."""
    clock = JumpingClock()
    with SimServer(weight_limit=30, monotonic=clock.monotonic_s) as server:
        source = BinanceSource(
            "1m",
            server.base_url,
            market="usdm",
            rules=NetworkRules(connections=4),
            clock=clock,
            rng=random.Random(0),  # noqa: S311 -- repeatable
        )
        frame = source.candles("BTCUSDT", TimeRange(CLOCK_MS - 7 * DAY_MS, CLOCK_MS))
        statuses = {record.status for record in server.log}
        used = [record.weight_used for record in server.log]

    assert frame.equals(SimSource(market="usdm").candles("BTCUSDT", TimeRange(CLOCK_MS - 7 * DAY_MS, CLOCK_MS)))
    assert statuses == {200}
    assert max(used) <= 30
    # It had to wait for the next minute.
    assert sum(after < before for before, after in itertools.pairwise(used)) >= 1


class JumpingClock:
    """A clock whose waits pass at once."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("drop_rows", endpoint="klines", count=40)],
        [Fault("shuffle_rows", endpoint="klines", times=0), Fault("duplicate_rows", endpoint="klines", nth=2)],
        [Fault("status", endpoint="klines", status=429, headers={"Retry-After": "0"})],
        [Fault("short", endpoint="klines"), Fault("status", endpoint="klines", nth=2)],
    ],
)
def test_faults_are_overcome_as_for_spot(tmp_path, faults):
    """Rows that come late, in disorder or twice, a wait, a cut answer: the same candles."""
    with SimServer(faults=faults) as server:
        snapshot = download(server, tmp_path, days=3, market="usdm").snapshot

    assert snapshot.candles("BTCUSDT").equals(truth("usdm"))


def test_a_corrupt_zip_of_futures_is_refused(tmp_path):
    """Its day is taken over REST, with a note that says why; the others keep the hash of their zip."""
    day = "2025-10-13"
    at_ms = CLOCK_MS // DAY_MS * DAY_MS - 2 * DAY_MS
    faults = [Fault("bad_checksum", at_ms=at_ms, times=0), Fault("corrupt_zip", at_ms=at_ms - DAY_MS, times=0)]
    with SimServer(faults=faults) as server:
        snapshot = download(server, tmp_path, days=5, archive=True, market="usdm").snapshot

    expected = SimSource(market="usdm").candles("BTCUSDT", snapshot.window)
    assert snapshot.candles("BTCUSDT").equals(expected)
    assert any(f"BTCUSDT {day}: BTCUSDT-1m-{day}.zip has SHA-256 " in note for note in snapshot.notes)
    assert any("BTCUSDT 2025-10-12: " in note and "taken over REST" in note for note in snapshot.notes)
    origins = {format_ms(origin.from_ms)[:10]: origin.origin for origin in snapshot.facts[0].origins}
    assert origins["2025-10-12"] == "rest"
    assert origins["2025-10-11"].startswith("archive ")


def test_an_interrupted_download_of_futures_is_resumed(tmp_path):
    """The days that came before the failure are not requested again."""
    failing = [Fault("status", endpoint="klines", nth=8, times=0, status=403)]
    with SimServer(faults=failing) as broken:
        # The cache folder is that of the address: the same one is needed.
        port = int(broken.base_url.rpartition(":")[2])
        with pytest.raises(SourceError, match="HTTP 403"):
            download(broken, tmp_path, days=5, market="usdm")
    cached = list((tmp_path / "cache").rglob("*.parquet"))
    assert cached
    with SimServer(port=port) as server:
        taken = download(server, tmp_path, days=5, market="usdm")

    assert taken.traffic.symbols[0].days_cached == len(cached)
    assert taken.snapshot.candles("BTCUSDT").equals(SimSource(market="usdm").candles("BTCUSDT", taken.snapshot.window))


def test_a_delivery_future_is_no_symbol(tmp_path):
    """It ends and pays no funding; and unknown symbols are refused with the nearest ones, as for spot."""
    with SimServer() as server:
        source = open_source(SourceSpec("binance", base_url=server.base_url, market="usdm"))

        assert "BTCUSDT_251226" not in source.symbols()
        with pytest.raises(InputError, match="has no symbol 'BTCUSD'") as refused:
            take_snapshot(
                tmp_path,
                source,
                SourceSpec("binance", base_url=server.base_url, market="usdm"),
                SnapshotRequest(("BTCUSD",), 1),
                now_ms=CLOCK_MS,
                progress=None,
            )
    assert "BTCUSDT" in refused.value.hint


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--symbols", "BTC/USDT:USDT"], ("BTC/USDT:USDT names a future", "--market usdm", "BTCUSDT")),
        (["--symbols", "ETH-USDT-SWAP", "--source", "sim"], ("ETH-USDT-SWAP names a future",)),
        (["--market", "usdm", "--from", "x"], ("--market does not go with --source files",)),
        (["--market", "usdm", "--interval", "1s"], ("the market of USD-M futures has no candles of 1s",)),
    ],
)
def test_options_that_contradict_the_market(tmp_path, options, words):
    """One clear message, and nothing is written."""
    result = call("snapshot", *options, "--data-dir", str(tmp_path / "data"))

    assert result.code == 2
    for word in words:
        assert word in " ".join(result.err.split())
    assert not (tmp_path / "data" / "snapshots").exists()
