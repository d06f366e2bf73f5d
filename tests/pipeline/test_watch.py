"""Laws of watching: no candle is lost or returned twice, whatever the exchange does."""

from __future__ import annotations

import random
import shutil
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError, MachineError, RefusedError
from mltrain.features.registry import parse_registry
from mltrain.monitoring.ledger import Ledger, format_at, hash_own_package, read_ledger
from mltrain.pipeline.predict import open_followed_model
from mltrain.pipeline.watch import MAX_PAUSE_S, Watch, watch
from mltrain.progress import Silent
from mltrain.serving.model import model_from_bundle
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.binance import BinanceSource
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange, parse_time
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


def watched(model, faults, minutes, *, latency_ms=0.0, progress=None, start_ms=START_MS, ledger=None):
    """Return the rows, without the version, and the warnings of a watch of so many candles."""
    pacer, progress = Pacer(), progress or Silent()
    with SimServer(
        signal="strong",
        clock_ms=start_ms,
        ticking=True,
        faults=faults,
        monotonic=pacer.monotonic_s,
        latency_ms=latency_ms,
    ) as server:
        rules = NetworkRules(max_wait_s=90.0)
        source = BinanceSource("1m", server.base_url, rules=rules, clock=pacer, rng=random.Random(1))  # noqa: S311
        watching = Watch(model, source, progress, ledger=ledger)
        watching.check_symbols()
        rows = []
        for table in watch(watching, pacer.wait):
            assert table["version"].to_list() == [model.version] * table.height
            rows += table.drop("version").to_dicts()
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


@pytest.mark.parametrize("mode", ["halt", "reduce"])
def test_a_halt_after_a_row_was_scored_counts(model, mode):
    """Other symbols may have taken seconds since."""
    (row,) = Watch(HaltedSince(model, mode), SimSource(signal="strong"), Silent()).poll().rows.to_dicts()
    assert (row["refused"], row["permit"]) == {"halt": ("halted", None), "reduce": (None, "reduce")}[mode]
    assert (row["p"] is None, row["raw"] is None) == (mode == "halt",) * 2


def test_an_expired_version_is_refused_by_its_clock(model):
    """Of several reasons, an earlier one stays."""
    (row,) = Watch(Expired(model), SimSource(signal="strong"), Silent()).poll().rows.to_dicts()
    assert (row["refused"], row["p"], row["raw"]) == ("expired", None, None)
    assert Expired.asked_ms == [CLOCK_MS]


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


class TestLedger:
    """A watch with a ledger."""

    def test_every_row_is_recorded_with_its_candle_and_the_clocks(self, model, tmp_path):
        """With the prices from which its outcome can be computed, and the time of each clock."""
        with Ledger(tmp_path, clock=lambda: START_MS / 1000) as ledger:
            rows, _ = watched(model, [], 5, ledger=ledger)
        recorded = list(read_ledger(tmp_path))
        window = TimeRange(START_MS - MINUTE_MS, START_MS + 9 * MINUTE_MS)
        candles = {
            s: SimSource(signal="strong").candles(s, window).rows_by_key("ts", named=True) for s in model.symbols
        }

        assert len(recorded) == len(rows)
        for row, found in zip(rows, recorded, strict=True):
            (candle,) = candles[row["symbol"]][row["ts"]]
            assert (found.p, found.raw, found.refused) == (row["p"], row["raw"], row["refused"])
            assert (found.ts, found.symbol) == (row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ"), row["symbol"])
            assert (found.high, found.low, found.close) == (candle["high"], candle["low"], candle["close"])
            assert 0 <= parse_time(found.source_at) - parse_time(found.ts) - MINUTE_MS < MINUTE_MS
            assert found.at == format_at(START_MS)
            assert (found.version, found.missed, found.permit) == (model.version, 0, None)
            assert found.code_sha256 == hash_own_package()
            assert 0 < found.latency_ms < 60_000

    def test_a_restart_says_what_it_missed(self, model, tmp_path):
        """On the first row of each symbol; a candle that is answered again was not missed."""
        for start_ms in (START_MS, START_MS + 9 * MINUTE_MS, START_MS + 10 * MINUTE_MS):
            with Ledger(tmp_path) as ledger:
                watched(model, [], 3, start_ms=start_ms, ledger=ledger)
        found = {symbol: [r.missed for r in read_ledger(tmp_path) if r.symbol == symbol] for symbol in model.symbols}

        assert found == {symbol: [0, 0, 0, 6, 0, 0, 0, 0, 0] for symbol in model.symbols}

    def test_an_exception_in_scoring_is_recorded_once_for_a_candle(self, model, tmp_path):
        """And raised as without a ledger: one that may pass becomes a warning, and the candle is tried again."""
        failing = Failing(model, InputError("impossible"), calls=(2, 3))
        with Ledger(tmp_path) as ledger:
            rows, warnings = watched(failing, [], 4, ledger=ledger)
            with pytest.raises(ZeroDivisionError):
                watched(Failing(model, ZeroDivisionError(), calls=(1,)), [], 4, ledger=ledger)
        recorded = list(read_ledger(tmp_path))

        assert [w for w in warnings if "impossible" in w] != []
        assert [r.refused for r in recorded].count("error") == 2
        assert recorded[-1].refused == "error"
        assert [r.p for r in recorded if r.refused != "error"] == [row["p"] for row in rows]

    def test_what_cannot_be_recorded_is_not_returned(self, model, tmp_path):
        """The watch ends."""
        with Ledger(tmp_path / "ledger") as ledger:
            shutil.rmtree(tmp_path / "ledger")
            with pytest.raises(MachineError, match="an answer that cannot be recorded is not given"):
                watched(model, [], 1, ledger=ledger)

    def test_a_changed_ledger_is_not_continued(self, model, tmp_path):
        """It is found before the first answer."""
        with Ledger(tmp_path) as ledger:
            watched(model, [], 1, ledger=ledger)
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(path.read_bytes().replace(b'"missed":0', b'"missed":1'))

        with Ledger(tmp_path) as ledger, pytest.raises(InputError, match=r"\.jsonl: does not match its own hash"):
            watched(model, [], 1, ledger=ledger)


class HaltedSince:
    """A model that is halted or restricted right after each table of answers."""

    def __init__(self, model, mode):
        self._model, self._mode = model, mode

    def __getattr__(self, name):
        return getattr(self._model, name)

    def permit(self, _symbol):
        """Answer as a model while serving is halted or restricted."""
        if self._mode == "halt":
            raise RefusedError("serving is halted", reason="halted")
        return self._mode


class Expired:
    """A model whose card is no longer valid."""

    asked_ms: ClassVar[list[int]] = []

    def __init__(self, model):
        self._model = model
        self.asked_ms.clear()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def is_expired(self, now_ms):
        """Answer as a strict model does after `valid_until`."""
        self.asked_ms.append(now_ms)
        return True


class Failing:
    """A model that fails in some of its calls with candles, counted from 1."""

    def __init__(self, model, error, calls):
        self._model, self._error, self._calls, self._count = model, error, calls, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def predict_candles(self, candles, **options):
        """Score the candles, or fail."""
        self._count += bool(candles)
        if candles and self._count in self._calls:
            raise self._error
        return self._model.predict_candles(candles, **options)
