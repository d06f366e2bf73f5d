"""Volumes that contradict the prices: no training reads them, and the card says so."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mltrain.candles.anomalies import QUOTE
from mltrain.errors import InputError
from mltrain.features.registry import parse_registry
from mltrain.pipeline.prepare import read_candles
from mltrain.progress import Silent
from mltrain.serving.model import load
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange
from support.workshop import NOW_MS, Workshop

READING = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: paid_gap_1, op: gap_to_traded_vwap, params: {bars: 1}}
"""


@pytest.fixture(scope="module")
def in_base(tmp_path_factory):
    """Return a data folder and a snapshot of candles whose quote volume is in the base asset."""
    folder = tmp_path_factory.mktemp("in_base")
    market = SimSource(signal="strong").candles("BTCUSDT", TimeRange(CLOCK_MS - 4 * DAY_MS, CLOCK_MS))
    market.with_columns(quote_volume=pl.col("volume")).write_parquet(folder / "BTCUSDT.parquet")
    spec, request = SourceSpec("files", folder=folder), SnapshotRequest(("BTCUSDT",), 4)
    data = folder / "data"
    taken = take_snapshot(data, open_source(spec), spec, request, now_ms=NOW_MS, progress=Silent())
    return Workshop(data), taken.snapshot


def test_a_registry_that_reads_it_is_refused(in_base):
    """The error is that of a missing column, after a warning with the reason."""
    workshop, snapshot = in_base
    request = replace(workshop.request(snapshot), feature_set=parse_registry(READING, where="registry"))
    progress = Silent()
    with pytest.raises(InputError) as caught:
        workshop.train_request(request, progress=progress)

    assert caught.value.message == "BTCUSDT lacks quote_volume, for paid_gap_1"
    assert "features-ohlcv.yml" in caught.value.hint
    assert any(f"BTCUSDT: {QUOTE} lies outside low..high" in warning for warning in progress.warnings)


def test_any_other_registry_is_trained_and_the_card_says_so(in_base):
    """Its warning has the figures of the manifest."""
    workshop, snapshot = in_base
    report = workshop.train(snapshot)
    warnings = load(report.folder, allow_no_go=True).card["data_quality"]["warnings"]

    (false,) = snapshot.facts[0].volumes
    assert warnings.count(f"BTCUSDT: {false}") == 1


def test_a_snapshot_of_an_earlier_version_is_judged_when_it_is_read(in_base):
    """Its file still holds volumes that were never checked."""
    _, snapshot = in_base
    old = {"BTCUSDT": SimSource(signal="strong").candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS))}
    old = {symbol: frame.with_columns(quote_volume=pl.col("volume")) for symbol, frame in old.items()}

    class Old:
        symbols = ("BTCUSDT",)
        facts = (replace(snapshot.facts[0], volumes=()),)

        def candles(self, symbol):
            return old[symbol]

    progress = Silent()
    assert read_candles(Old(), progress)["BTCUSDT"]["quote_volume"].is_null().all()
    assert [w.startswith("BTCUSDT: quote_volume / volume lies outside low..high in") for w in progress.warnings] == [
        True
    ]
