"""Laws of the feed: requests that name symbols are answered from the newest candles, at the source's time."""

from __future__ import annotations

import httpx
import polars as pl
import pytest

import mltrain as mt
from mltrain.errors import SourceError
from mltrain.progress import Silent
from mltrain.service.candle_feed import CandleFeed
from mltrain.service.scoring import NO_CANDLES_YET, NotReadyError, Scoring
from mltrain.sources.source import LocalSource, check_known
from support.service import clock
from support.small_model import END_MS, SYMBOLS

MINUTE_MS = 60_000


class GrowingSource(LocalSource):
    """Has the candles of the small model that have closed by a time which a test sets."""

    name, host, interval, market = "test", "", "1m", ""

    def __init__(self, candles):
        self._candles = candles
        self.now_ms = END_MS - 5 * MINUTE_MS
        self.fails = False

    def renew_clock(self):
        if self.fails:
            raise SourceError("the test's source is down")

    def clock_ms(self, _):
        return self.now_ms

    def check_symbols(self, symbols):
        check_known(symbols, SYMBOLS, "the source")

    def candles(self, symbol, window):
        closed_ms = min(window.end_ms, self.now_ms - MINUTE_MS + 1)
        return self._candles[symbol].filter(pl.col("ts").dt.timestamp("ms").is_between(window.start_ms, closed_ms - 1))

    def notes(self):
        return ()


class Passing:
    """A monotonic clock that a test sets."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def parts(live_dir, candles):
    """Return a source, a clock, warnings, a feed that has not polled yet, and what answers from it."""
    model = mt.load(live_dir / "models" / "best_lgbm")
    source, passing, progress = GrowingSource(candles), Passing(), Silent()
    feed = CandleFeed(model, source, progress, monotonic=passing)
    return source, passing, progress, feed, Scoring(model, clock=clock, feed=feed)


def ask(scoring, *symbols):
    return scoring.predict({"symbols": list(symbols)}).rows


def test_an_answer_is_that_of_the_newest_candles(parts, live_dir, candles):
    """After each poll the answer is what the library says of the candles that have closed by then."""
    source, _, progress, feed, scoring = parts
    model = mt.load(live_dir / "models" / "best_lgbm")
    for _ in range(3):
        feed.poll()
        known = {s: f.filter(pl.col("ts").dt.timestamp("ms") < source.now_ms) for s, f in candles.items()}
        expected = {row["symbol"]: row for row in model.predict_candles(known, now_ms=source.now_ms).to_dicts()}
        for order in (SYMBOLS, SYMBOLS[::-1], SYMBOLS[1:]):
            rows = ask(scoring, *order)
            assert [row.symbol for row in rows] == list(order)
            assert [(row.p, row.raw, row.refused) for row in rows] == [
                tuple(expected[s][name] for name in ("p", "raw", "refused")) for s in order
            ]
            assert all(row.refused is None for row in rows)
        source.now_ms += MINUTE_MS
    assert progress.warnings == []


def test_before_the_first_poll_nothing_is_ready(parts):
    """The service says so instead of guessing."""
    *_, scoring = parts

    assert scoring.find_obstacles() == (NO_CANDLES_YET,)
    assert scoring.data_age_s() is None
    with pytest.raises(NotReadyError):
        ask(scoring, "BTCUSDT")


def test_candles_of_a_silent_source_become_stale(parts):
    """Its time goes on while it does not answer; then it answers again."""
    source, passing, progress, feed, scoring = parts
    feed.poll()
    assert (ask(scoring, "BTCUSDT")[0].refused, scoring.find_obstacles(), scoring.data_age_s()) == (None, (), 0)
    source.fails = True
    for age_s, refused in ((119, None), (120, "stale"), (4_000, "stale")):
        passing.now_s = 100 + age_s
        feed.poll()
        row = ask(scoring, "BTCUSDT")[0]
        assert (row.refused, row.p is None) == (refused, refused is not None)
        assert scoring.find_obstacles() == (("stale",) if refused else ())
        assert scoring.data_age_s() == age_s
    assert "the test's source is down" in progress.warnings[0]
    source.fails, source.now_ms = False, END_MS
    feed.poll()

    assert (ask(scoring, "BTCUSDT")[0].refused, scoring.find_obstacles()) == (None, ())
    assert progress.warnings[-1] == "the source answers again"


def test_a_symbol_without_candles_has_a_row(parts):
    """Unknown symbols are refused like those of the library."""
    *_, feed, scoring = parts
    feed.poll()

    assert [row.refused for row in ask(scoring, "BTCUSDT", "XRPUSDT")] == [None, "unknown-symbol"]


def test_a_source_without_the_symbols_is_an_error_at_the_start(parts, monkeypatch):
    """Not a warning every second."""
    source, *_, feed, _ = parts
    monkeypatch.setattr(source, "check_symbols", lambda symbols: check_known(symbols, ("ABCUSDT",), "the source"))
    with pytest.raises(mt.InputError, match="no symbol 'BTCUSDT', 'ETHUSDT'"):
        feed.start()


def test_a_bug_in_a_poll_is_reported_and_the_feed_goes_on(parts, monkeypatch):
    """The thread survives, and stops at `stop`."""
    source, _, progress, feed, _ = parts
    calls = []

    def fail(_):
        calls.append(1)
        raise KeyError("secret")

    monkeypatch.setattr(source, "clock_ms", fail)
    monkeypatch.setattr(feed._stopping, "wait", lambda _: len(calls) == 3 and feed._stopping.set())
    feed.start()
    feed._thread.join(20)

    assert len(calls) == 3
    assert all("a bug while reading candles" in warning and "secret" in warning for warning in progress.warnings)


def test_only_a_source_that_grows_can_be_watched(live_dir, tmp_path):
    """The simulated market has a fixed end, and options of a source go with --watch."""
    with pytest.raises(mt.UsageError, match="has none"), mt.serve(data_dir=live_dir, watch=True, source="sim"):
        pass
    with pytest.raises(mt.UsageError, match="--watch"), mt.serve(data_dir=live_dir, source="binance"):
        pass
    with pytest.raises(mt.UsageError, match="--watch"), mt.serve(data_dir=live_dir, inputs=tmp_path):
        pass


def test_a_folder_is_watched_by_the_machines_clock(live_dir, candles, tmp_path):
    """The service polls by itself; candles of files are as old as the machine's clock says."""
    for symbol, frame in candles.items():
        frame.tail(100).write_parquet(tmp_path / f"{symbol}.parquet")
    with (
        mt.serve(
            bind="127.0.0.1:0", data_dir=live_dir, watch=True, source="files", folder=tmp_path, clock=clock
        ) as service,
        httpx.Client(base_url=service.url, trust_env=False) as client,
    ):
        while client.get("/readyz").json()["reasons"] == [NO_CANDLES_YET]:
            pass
        answer = client.post("/v1/predict", json={"symbols": ["ETHUSDT"]})

    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["rows"]
    assert (row["symbol"], row["ts"], row["refused"]) == ("ETHUSDT", "2025-10-15T11:59:00Z", None)
    assert service.to_json()["watching"] is True
