"""Laws of snapshots of futures: funding is a file of the manifest, proven like candles, and never counted as zero."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import polars as pl
import pytest

from mltrain.candles.funding import encode_funding
from mltrain.errors import InputError
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import compare_snapshots, open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRecord, SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import read_manifest
from mltrain.times import DAY_MS, HOUR_MS, TimeRange
from support.downloads import download
from support.program import call

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def take(data_dir, *, market="usdm", interval="1h", days=20, end_ms=None, progress=None, seed=0, source=None):
    """Take a snapshot of the simulated market."""
    spec = SourceSpec("sim", market=market, interval=interval, seed=seed)
    request = SnapshotRequest(SYMBOLS, days, interval, end_ms)
    opened = source or open_source(spec)
    return take_snapshot(data_dir, opened, spec, request, now_ms=CLOCK_MS, progress=progress or Silent()).snapshot


class Holed:
    """The simulated market without some of its funding events.

    Args:
        keep: Given the number of an event, from 0, whether it is there.
    """

    def __init__(self, keep):
        self._source = SimSource(interval="1h", market="usdm")
        self._keep = keep

    def __getattr__(self, name):
        return getattr(self._source, name)

    def funding(self, symbols, window):
        whole = self._source.funding(symbols, window)
        kept = {
            symbol: replace(found, frame=found.frame.filter([self._keep(i) for i in range(found.frame.height)]))
            for symbol, found in whole.symbols.items()
        }
        return replace(whole, symbols=kept)


@pytest.fixture(scope="module")
def futures(tmp_path_factory):
    """Return a snapshot of futures, to be read only."""
    return take(tmp_path_factory.mktemp("futures"))


def test_the_funding_of_the_window_is_read_back(futures):
    """Every event of the window and no other, by symbol, with its manifest entry."""
    for symbol in SYMBOLS:
        expected = SimSource(interval="1h", market="usdm").funding((symbol,), futures.window).symbols[symbol].frame
        assert futures.funding(symbol).equals(expected)
        assert expected.height == 60
    entry = json.loads((futures.path / "manifest.json").read_text())["files"][-1]
    assert entry["path"] == "funding.parquet"
    assert entry["bytes"] == (futures.path / "funding.parquet").stat().st_size
    assert [(s["symbol"], s["events"], s["interval_ms"], s["gaps"]) for s in entry["symbols"]] == [
        (symbol, 60, 8 * HOUR_MS, []) for symbol in SYMBOLS
    ]
    assert verify_snapshot(futures) == ()
    with pytest.raises(InputError, match="has no symbol 'SOLUSDT'"):
        futures.funding("SOLUSDT")


def test_a_snapshot_without_funding_says_how_to_get_it(tmp_path):
    """Its manifest has neither market nor funding, as before there were markets."""
    spot = take(tmp_path, market="spot")
    manifest = json.loads((spot.path / "manifest.json").read_text())

    with pytest.raises(InputError, match="has no funding rates") as refused:
        spot.funding("BTCUSDT")
    assert "--market usdm" in refused.value.hint
    assert "market" not in manifest["source"]
    assert "funding" not in json.dumps(manifest)
    assert verify_snapshot(spot) == ()


def test_the_record_survives_the_manifest(futures):
    """`from_manifest(to_manifest(r)) == r`, funding included; a manifest with its facts elsewhere is refused."""
    manifest = read_manifest(futures.path, kind="snapshot")
    record = SnapshotRecord.from_manifest(manifest, where="here")

    assert record.to_manifest() == manifest
    assert record.funding_facts == futures.funding_facts
    entry = manifest.files[-1]
    facts = {**entry.facts, "sha256": entry.sha256, "bytes": entry.bytes}
    moved = replace(manifest, head={**manifest.head, "funding": facts}, files=manifest.files[:-1])
    with pytest.raises(InputError, match=r"funding: belongs to the entry of funding\.parquet"):
        SnapshotRecord.from_manifest(moved, where="here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 119}, "its rows are not the events of its symbols together"),
        ({"symbols": 0}, "expected the symbols BTCUSDT, ETHUSDT, got ETHUSDT"),
        ({"first": "2020-01-01T00:00:00Z"}, "BTCUSDT: first and last are not inside"),
        ({"events": 0}, "first and last do not fit the number of events"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(futures, change, words):
    """Numbers, symbols and times of the funding must fit each other and the window."""
    manifest = read_manifest(futures.path, kind="snapshot")
    entry = manifest.files[-1]
    facts = json.loads(json.dumps(dict(entry.facts)))
    if "symbols" in change:
        del facts["symbols"][change["symbols"]]
    elif "rows" in change:
        facts.update(change)
    else:
        facts["symbols"][0].update(change)
    changed = replace(manifest, files=(*manifest.files[:-1], replace(entry, facts=facts)))

    with pytest.raises(InputError) as refused:
        SnapshotRecord.from_manifest(changed, where="here")
    assert words in refused.value.message


def test_a_changed_file_is_found_and_rebuilt(tmp_path):
    """Its bytes are compared before they are read; `--rebuild` makes the same bytes again."""
    snapshot = take(tmp_path)
    path = snapshot.path / "funding.parquet"
    sound = path.read_bytes()
    changed = snapshot.funding("BTCUSDT").with_columns(pl.lit(0.0).alias("rate"))
    path.write_bytes(encode_funding(pl.concat([changed, snapshot.funding("ETHUSDT")])))

    with pytest.raises(InputError, match="is not the file that was published"):
        snapshot.funding("BTCUSDT")
    assert any("funding.parquet" in problem for problem in verify_snapshot(snapshot))
    rebuilt = rebuild_snapshot(snapshot, open_source(snapshot.source), data_dir=tmp_path, progress=Silent())
    assert [(file.file, file.outcome) for file in rebuilt] == [
        ("BTCUSDT.parquet", "sound"),
        ("ETHUSDT.parquet", "sound"),
        ("funding.parquet", "rebuilt"),
    ]
    assert path.read_bytes() == sound
    path.unlink()
    assert any("funding.parquet" in problem for problem in verify_snapshot(snapshot))
    other = SimSource(interval="1h", market="usdm", seed=5)
    lost = rebuild_snapshot(snapshot, other, data_dir=tmp_path, progress=Silent())[-1]
    assert (lost.outcome, lost.detail) == ("lost", "the source now has other funding events of BTCUSDT, ETHUSDT")


def test_a_gap_is_recorded_and_said(tmp_path):
    """Missing events are no zeros: the manifest lists the time without them, and a warning names it."""
    progress = Silent()
    snapshot = take(tmp_path, source=Holed(lambda i: i not in {10, 11}), progress=progress)
    facts = snapshot.funding_facts.of_symbol("BTCUSDT")
    ts_ms = snapshot.funding("BTCUSDT")["ts"].dt.timestamp("ms").to_list()

    assert [(gap.from_ms, gap.to_ms) for gap in facts.gaps] == [(ts_ms[9], ts_ms[10])]
    assert ts_ms[10] - ts_ms[9] > 23 * HOUR_MS
    assert [w.partition(":")[0] for w in progress.warnings] == ["BTCUSDT", "ETHUSDT"]
    assert "unknown there, not zero" in progress.warnings[0]
    assert verify_snapshot(snapshot) == ()


def test_without_any_funding_no_snapshot_is_written(tmp_path):
    """A perpetual future pays funding: a source that has none of it is not believed."""
    with pytest.raises(InputError, match="BTCUSDT has no funding rates from"):
        take(tmp_path, source=Holed(lambda _: False))
    assert not list((tmp_path / "snapshots").glob("*/manifest.json"))


def test_a_window_of_a_few_hours_may_have_no_event(tmp_path):
    """From 00:00:01 to 08:00 nothing is due; the file then has no rows."""
    spec = SourceSpec("sim", market="usdm", interval="1h")
    end_ms = CLOCK_MS // DAY_MS * DAY_MS + 8 * HOUR_MS
    request = replace(SnapshotRequest(("BTCUSDT",), 1, "1h", end_ms), start_ms=end_ms - 7 * HOUR_MS)
    snapshot = take_snapshot(tmp_path, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent()).snapshot

    assert snapshot.funding("BTCUSDT").is_empty()
    assert snapshot.funding_facts.of_symbol("BTCUSDT").gaps == ()
    assert verify_snapshot(snapshot) == ()


def test_the_same_candles_with_other_funding_are_another_snapshot(tmp_path):
    """A changed history of rates is written and said, and `snapshots diff` shows it."""
    first = take(tmp_path)
    assert take(tmp_path).id == first.id
    progress = Silent()
    second = take(tmp_path, source=Holed(lambda i: i != 10), progress=progress)
    diffs = {diff.symbol: diff for diff in compare_snapshots(first, second)}

    assert second.id == f"{first.id}.2"
    assert any("BTCUSDT differs from snapshot" in w and "1 funding event gone" in w for w in progress.warnings)
    assert diffs["BTCUSDT"].diff.is_empty
    assert (diffs["BTCUSDT"].funding.gone, diffs["BTCUSDT"].funding.added) == (1, 0)
    shown = call("snapshots", "diff", first.id, second.id, data_dir=tmp_path)
    assert "BTCUSDT: 1 funding event gone" in shown.out
    spot = take(tmp_path, market="spot")
    with pytest.raises(InputError, match="snapshots of different markets cannot be compared"):
        compare_snapshots(first, spot)


def test_the_common_range_trims_the_funding(tmp_path):
    """With `--align common`, events outside the range that all symbols cover are not in the file."""
    spec = SourceSpec("sim", market="usdm", interval="1h")
    request = SnapshotRequest(SYMBOLS, 20, "1h", align="common")
    snapshot = take_snapshot(tmp_path, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent()).snapshot
    ts_ms = snapshot.funding("BTCUSDT")["ts"].dt.timestamp("ms").to_list()

    assert snapshot.window.start_ms <= ts_ms[0] <= ts_ms[-1] < snapshot.window.end_ms
    assert verify_snapshot(snapshot) == ()


@pytest.mark.parametrize("archive", [False, True])
def test_from_the_exchange_with_its_archive(tmp_path, archive):
    """Candles and rates are the true ones from either source; every file of the archive is proven."""
    with SimServer() as server:
        taken = download(server, tmp_path, SYMBOLS, days=40, interval="1h", archive=archive, market="usdm")
    snapshot = taken.snapshot
    source = SimSource(interval="1h", market="usdm")

    for symbol in SYMBOLS:
        # The rates of the exchange do not depend on the interval; their mark prices are those of its 1m candles.
        expected = source.funding((symbol,), snapshot.window).symbols[symbol].frame.select("ts", "rate")
        assert snapshot.funding(symbol).select("ts", "rate").equals(expected)
        assert snapshot.candles(symbol).equals(source.candles(symbol, snapshot.window))
        kinds = {o.origin.partition(" ")[0] for o in snapshot.funding_facts.of_symbol(symbol).origins}
        assert kinds == ({"archive", "rest"} if archive else {"rest"})
    # The requests for funding count in the traffic.
    assert sum(symbol.requests for symbol in taken.traffic.symbols) >= 2
    assert verify_snapshot(snapshot) == ()


def test_the_command_proves_checksums_of_futures(tmp_path):
    """`mltrain snapshot --market usdm --source archive` as users run it, with a wrong checksum of either kind."""
    september_ms = CLOCK_MS - 30 * DAY_MS
    faults = [
        Fault("bad_checksum", endpoint="fundingChecksum", symbol="BTCUSDT", at_ms=september_ms),
        Fault("bad_checksum", endpoint="checksum", symbol="BTCUSDT", at_ms=CLOCK_MS - 3 * DAY_MS),
    ]
    with SimServer(faults=faults) as server:
        done = call(
            *("snapshot", "--market", "usdm", "--source", "archive", "--symbols", "BTC/USDT:USDT", "--days", "40"),
            *("--interval", "1h", "--base-url", server.base_url, "--archive-url", server.archive_url, "--json"),
            data_dir=tmp_path,
        )
    document = done.document
    snapshot = open_snapshot(tmp_path, "latest")

    assert done.code == 0
    assert document["snapshot"]["source"]["market"] == "usdm"
    assert document["snapshot"]["funding_facts"]["rows"] == 120
    assert "BTCUSDT 2025-09: BTCUSDT-fundingRate-2025-09.zip has SHA-256" in done.err
    assert "BTCUSDT 2025-10-12: BTCUSDT-1h-2025-10-12.zip has SHA-256" in done.err
    source = SimSource(interval="1h", market="usdm")
    assert snapshot.candles("BTCUSDT").equals(source.candles("BTCUSDT", snapshot.window))
    expected = source.funding(("BTCUSDT",), snapshot.window).symbols["BTCUSDT"].frame.select("ts", "rate")
    assert snapshot.funding("BTCUSDT").select("ts", "rate").equals(expected)
    assert call("verify", "snapshot", "latest", data_dir=tmp_path).code == 0
    os.truncate(snapshot.path / "funding.parquet", 100)
    assert call("verify", "snapshot", "latest", data_dir=tmp_path).code == 3
    with SimServer() as server:
        rebuilt = call(
            *("snapshot", "--rebuild", "latest", "--base-url", server.base_url, "--archive-url", server.archive_url),
            data_dir=tmp_path,
        )
    # A month from the archive, then over REST: the bytes are the same.
    assert rebuilt.code == 0, rebuilt.err
    assert call("verify", "snapshot", "latest", data_dir=tmp_path).code == 0


def test_offline_from_the_simulated_market(tmp_path):
    """`--source sim --market usdm` needs no network, and `BTC/USDT` is as good as `BTC/USDT:USDT`."""
    first = call(
        *("snapshot", "--source", "sim", "--market", "usdm", "--symbols", "BTC/USDT,ETH/USDT:USDT", "--days", "3"),
        data_dir=tmp_path,
    )
    snapshot = open_snapshot(tmp_path, "latest")

    assert first.code == 0
    assert "18 funding rates" in first.out
    assert snapshot.source == SourceSpec("sim", market="usdm")
    window = TimeRange(CLOCK_MS - 3 * DAY_MS, CLOCK_MS)
    assert snapshot.candles("ETHUSDT").equals(SimSource(market="usdm").candles("ETHUSDT", window))
