"""Laws of watching: no candle is lost or returned twice, whatever the exchange does."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.features.registry import parse_registry
from mltrain.pipeline.predict import open_followed_model
from mltrain.pipeline.watch import MAX_PAUSE_S, Watch, watch
from mltrain.progress import Silent
from mltrain.serving.model import model_from_bundle
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.binance import BinanceSource
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange
from mltrain.training.booster import normalise_model_text
from mltrain.training.calibration import Calibrator
from mltrain.training.lightgbm_import import import_lightgbm

START_MS = CLOCK_MS - 40 * MINUTE_MS


class Pacer:
    """A clock that advances only by waiting."""

    def __init__(self):
        self._lock, self._s = threading.Lock(), 1_000.0

    def monotonic_s(self):
        """Return the time."""
        with self._lock:
            return self._s

    def wait(self, seconds):
        """Advance by the waiting time."""
        with self._lock:
            self._s += max(seconds, 0.001)

    async def sleep(self, seconds):
        """Advance by the client's waiting time."""
        self.wait(seconds)


@pytest.fixture(scope="module")
def model(trained):
    workshop, _ = trained
    return open_followed_model(workshop.store, None, allow_no_go=False)[0]


def watched(model, faults, minutes, *, latency_ms=0.0, progress=None):
    """Return the rows and the warnings of a watch of so many candles."""
    pacer, progress = Pacer(), progress or Silent()
    with SimServer(
        signal="strong",
        clock_ms=START_MS,
        ticking=True,
        faults=faults,
        monotonic=pacer.monotonic_s,
        latency_ms=latency_ms,
    ) as server:
        rules = NetworkRules(max_wait_s=90.0)
        source = BinanceSource("1m", server.base_url, rules=rules, clock=pacer, rng=random.Random(1))  # noqa: S311
        watching = Watch(model, source, progress)
        watching.check_symbols()
        rows = []
        for table in watch(watching, pacer.wait):
            rows += table.to_dicts()
            if len({row["ts"] for row in rows}) >= minutes:
                break
    return rows, progress.warnings


def expected_rows(model, minutes):
    """Return the rows of the batch for those candles."""
    source = SimSource(signal="strong")
    bars = model.lookback_bars + minutes
    first_ms = START_MS - MINUTE_MS
    window = TimeRange(first_ms - bars * MINUTE_MS, first_ms + minutes * MINUTE_MS)
    wanted = sorted({*model.symbols, *model.feature_set.leaders})
    table = model.predict_candles({symbol: source.candles(symbol, window) for symbol in wanted}, rows="all")
    return table.filter(pl.col("ts").dt.timestamp("ms") >= first_ms).to_dicts()


def test_each_candle_comes_once_with_its_probability(model):
    """Without faults, each minute's candle is scored as in a batch, in order."""
    rows, warnings = watched(model, [], 12)

    assert rows == expected_rows(model, 12)
    assert warnings == []


def test_files_grow_stale_by_another_clock(model):
    """The clock of files stops at their last candle, so another clock gives its age."""
    watching = Watch(model, SimSource(signal="strong"), Silent(), clock=lambda: CLOCK_MS / 1000 + 120)
    watching.check_symbols()

    assert watching.poll().rows["refused"].to_list() == ["stale"] * len(model.symbols)
    assert Watch(model, SimSource(signal="strong"), Silent()).poll().rows["refused"].to_list() == [None]


FAULTS = {
    "refused for minutes": [Fault("status", "klines", nth=4, times=40, status=503)],
    "cut and reset": [Fault("reset", "klines", nth=3, times=2), Fault("short", "klines", nth=7, times=3)],
    "garbage": [Fault("garbage", "time", nth=4, times=9), Fault("html", "klines", nth=5, times=9)],
    "ordered to wait": [Fault("status", "klines", nth=4, times=1, status=429, headers={"Retry-After": "80"})],
    "a bad value": [Fault("bad_value", "klines", nth=4, times=8, value="abc")],
    "rows left out": [Fault("drop_rows", "klines", nth=4, times=2, count=1)],
    "all of it": [
        Fault("status", "klines", nth=3, times=9, status=502),
        Fault("garbage", "time", nth=6, times=5),
        Fault("reset", "any", nth=30, times=4),
        Fault("drop_rows", "klines", nth=14, times=2, count=1),
        Fault("short", "klines", nth=18, times=2),
    ],
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_cost_no_candle(model, name):
    """Every candle comes once, in order; timely ones have the batch's bits, late ones are refused as stale."""
    rows, _ = watched(model, FAULTS[name], 12)
    expected = {row["ts"]: row for row in expected_rows(model, 20)}
    times = [row["ts"] for row in rows]

    assert times == sorted(times)
    assert times == list(expected)[: len(times)]
    assert len(times) >= 12
    for row in rows:
        whole = row == expected[row["ts"]]
        assert whole or (row["refused"], row["p"], row["raw"]) == ("stale", None, None)
    assert rows[-1]["refused"] is None


def test_a_gap_of_the_market_is_accepted(model):
    """A missing candle is not waited for, and the rows after it are refused for the gap."""
    at_ms = START_MS + 2 * MINUTE_MS
    rows, _ = watched(model, [Fault("drop_rows", "klines", times=0, at_ms=at_ms, count=1)], 6)
    refused = [row["refused"] for row in rows]

    assert at_ms not in {int(row["ts"].timestamp() * 1000) for row in rows}
    assert refused[:3] == [None, None, None]
    assert set(refused[3:]) == {"hole"}


def test_faults_are_reported_and_retried_with_growing_pauses(model):
    """There is one line for each failure, and one for the recovery."""
    _, warnings = watched(model, FAULTS["refused for minutes"], 8)

    assert any("trying again in" in line for line in warnings)
    assert warnings[-1] == "the source answers again"
    assert MAX_PAUSE_S <= 30


class Promoted:
    """A model that is replaced by another one after some candles, as by a promotion."""

    def __init__(self, before, after, candles):
        self._models, self._candles, self._scored = (before, after), candles, 0

    def __getattr__(self, name):
        return getattr(self._models[self._scored >= self._candles], name)

    def predict_candles(self, candles, **options):
        """Score the candles, and count the calls."""
        table = self.__getattr__("predict_candles")(candles, **options)
        self._scored += bool(candles)
        return table


def test_a_promotion_with_more_symbols_and_a_longer_lookback_is_followed(model):
    """The new version's candles are fetched with its lookback; no candle of the old symbols is lost."""
    bundle = model._current().bundle
    text = "{name: long, op: log_return, params: {bars: 400}}"
    short = parse_registry(SHORT.replace(b"LAST", b"{name: other, op: log_return, params: {bars: 3}}"), where="short")
    long = parse_registry(SHORT.replace(b"LAST", text.encode()), where="long")
    first, second = (
        model_from_bundle(
            replace(
                bundle, model_text=grow(found), feature_set=found, calibrator=Calibrator("none", None), symbols=names
            )
        )
        for found, names in ((short, ("BTCUSDT",)), (long, ("BTCUSDT", "ETHUSDT")))
    )
    rows, warnings = watched(Promoted(first, second, 4), [], 8)
    of_btc = [row for row in rows if row["symbol"] == "BTCUSDT"]

    assert warnings == []
    assert [row["refused"] for row in rows] == [None] * len(rows)
    assert len({row["ts"] for row in of_btc}) == len(of_btc) == 8
    assert sum(row["symbol"] == "ETHUSDT" for row in rows) >= 3


SHORT = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - LAST
"""


def grow(feature_set):
    """Return a small model text of a registry's features."""
    lightgbm, rng = import_lightgbm(), np.random.default_rng(0)
    x = rng.standard_normal((300, len(feature_set.names))).astype(np.float32)
    data = lightgbm.Dataset(x, (x[:, 0] > 0).astype(int), feature_name=list(feature_set.names))
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 4}
    return normalise_model_text(lightgbm.train(params, data, 3).model_to_string())
