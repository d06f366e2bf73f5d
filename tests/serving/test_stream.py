"""Streams: the numbers of the batch, and the rules for candles that are late, repeated, open or impossible."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError, RefusedError
from mltrain.features.spec import FeatureSpec
from mltrain.serving.live_model import SwapFailedWarning
from mltrain.serving.loaded_model import load_bundle
from mltrain.serving.model import load, model_from_bundle, open_model
from mltrain.serving.stream import _VALUES, Stream, _RingBuffer
from mltrain.times import MINUTE_MS

LOOKBACK = 31


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


@pytest.fixture
def stream(model):
    return model.stream()


def dicts(frame):
    return frame.to_dicts()


def test_a_buffer_that_grows_returns_every_bar_it_holds():
    """A longer lookback uses older bars at once, if they are still there, also if fewer were returned before."""
    buffer = _RingBuffer(2)
    for bar in range(4):
        buffer.push(bar * MINUTE_MS, tuple(range(len(_VALUES))))
    before = buffer.candles().height
    buffer.grow(4)

    assert (before, buffer.candles().height) == (2, 4)


def outcome(call):
    """Return a probability, or the reason of the refusal."""
    try:
        return call()
    except RefusedError as err:
        return err.reason


def replay(stream, candles, bars):
    """Push the last bars of both symbols, the leader first; return the outcome of each push."""
    given = {symbol: dicts(frame.tail(bars)) for symbol, frame in candles.items()}
    return [
        (symbol, outcome(lambda s=symbol, i=i: stream.push(s, given[s][i]))) for i in range(bars) for symbol in given
    ]


class TestNumbers:
    """A stream gives what `predict_candles` gives."""

    def test_each_push_is_the_batch(self, model, stream, candles):
        """Each push returns the probability of the batch, bit for bit, through several moves of the buffers."""
        batch = model.predict_candles({s: f.tail(140) for s, f in candles.items()}, rows="all")
        expected = {s: batch.filter(pl.col("symbol") == s) for s in candles}
        found = replay(stream, candles, 140)

        for symbol in candles:
            rows = zip(expected[symbol]["p"], expected[symbol]["refused"], strict=True)
            assert [x for s, x in found if s == symbol] == [reason or p for p, reason in rows]

    def test_gaps_are_those_of_the_batch(self, model, stream, candles, without):
        """Behind a gap both refuse the same rows for the same reason, of the leader's gap, too."""
        given = {
            "BTCUSDT": without(candles["BTCUSDT"].tail(160), 60),
            "ETHUSDT": without(candles["ETHUSDT"].tail(160), 110),
        }
        batch = model.predict_candles(given, rows="all").sort("ts", maintain_order=True)
        by_time = {s: {row["ts"]: row for row in dicts(f)} for s, f in given.items()}
        found = [
            outcome(lambda s=s, ts=ts: stream.push(s, by_time[s][ts]))
            for ts, s in zip(batch["ts"], batch["symbol"], strict=True)
        ]

        assert found == [reason or p for p, reason in zip(batch["p"], batch["refused"], strict=True)]
        assert {"hole", "leader-hole"} <= set(batch["refused"].drop_nulls())

    def test_a_restart_changes_nothing(self, model, stream, candles):
        """A new stream, warmed up with the bars of another, continues with the same numbers."""
        early = {s: f.head(900) for s, f in candles.items()}
        late = {s: f[900:940] for s, f in candles.items()}
        # The buffers hold 62 bars and are moved once.
        replay(stream, early, 70)
        other = model.stream()
        other.warm_up({s: stream.candles(s) for s in candles})

        assert stream.candles("BTCUSDT").height == LOOKBACK
        assert replay(other, late, 40) == replay(stream, late, 40)

    def test_only_read_columns_are_needed(self, model, stream, candles):
        """Candles without trades and taker volumes are enough for a model that does not read them."""
        optional = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")
        short = {s: f.drop(optional) for s, f in candles.items()}

        assert replay(model.stream(), short, 60) == replay(stream, candles, 60)

    def test_times_may_be_numbers_or_datetimes(self, model, stream, candles):
        """A datetime in any time zone and its ms UTC are the same time."""
        stream.warm_up({s: f.head(-1) for s, f in candles.items()})
        row = dicts(candles["BTCUSDT"].tail(1))[0]
        ms = int(candles["BTCUSDT"]["ts"].dt.timestamp("ms")[-1])
        expected = stream.push("BTCUSDT", row)

        assert stream.push("BTCUSDT", row | {"ts": ms}) == expected
        assert (
            stream.push("BTCUSDT", row | {"ts": row["ts"].astimezone(dt.timezone(dt.timedelta(hours=2)))}) == expected
        )
        assert expected == model.predict_candles({"BTCUSDT": candles["BTCUSDT"]})["p"][0]


class TestRules:
    """Candles that are late, repeated, changed, open or impossible."""

    @pytest.fixture
    def warm(self, stream, candles):
        stream.warm_up(candles)
        return stream

    def test_the_newest_candle_again_is_ignored(self, warm, candles):
        """The newest candle pushed again changes nothing and is scored again."""
        row = dicts(candles["BTCUSDT"].tail(1))[0]
        before = warm.candles("BTCUSDT")

        assert warm.push("BTCUSDT", row) == warm.predict("BTCUSDT")
        assert warm.candles("BTCUSDT").equals(before)

    @pytest.mark.parametrize(
        ("back", "change", "reason"),
        [
            (0, {"volume": 1e9}, "changed"),
            (1, {}, "late"),
            (5, {"volume": 1e9}, "late"),
            (900, {}, "late"),
        ],
    )
    def test_a_refused_candle_leaves_the_stream_unchanged(self, warm, candles, back, change, reason):
        """A known candle with other values, or an older one, is refused with its reason."""
        row = dicts(candles["BTCUSDT"])[-1 - back] | change
        before = warm.candles("BTCUSDT"), warm.predict("BTCUSDT")

        assert outcome(lambda: warm.push("BTCUSDT", row)) == reason
        assert warm.candles("BTCUSDT").equals(before[0])
        assert warm.predict("BTCUSDT") == before[1]

    def test_a_late_candle_fills_no_gap(self, stream, candles):
        """Out of order is late: the gap stays, until a lookback or a new warm-up is behind it."""
        rows = dicts(candles["BTCUSDT"])
        for row in (*rows[-60:-5], *rows[-4:]):
            outcome(lambda r=row: stream.push("BTCUSDT", r))

        assert outcome(lambda: stream.push("BTCUSDT", rows[-5])) == "late"
        assert outcome(lambda: stream.predict("BTCUSDT")) == "hole"
        stream.warm_up({"BTCUSDT": candles["BTCUSDT"]})
        assert 0 < stream.predict("BTCUSDT") < 1

    def test_an_open_candle_is_not_taken_and_a_stale_one_not_scored(self, stream, candles):
        """By the given time, an open candle is refused before it is taken, and a stale one after."""
        stream.warm_up({"BTCUSDT": candles["BTCUSDT"].head(-1)})
        row = dicts(candles["BTCUSDT"].tail(1))[0]
        close_ms = int(row["ts"].timestamp() * 1000) + MINUTE_MS

        assert outcome(lambda: stream.push("BTCUSDT", row, now_ms=close_ms - 1)) == "open"
        assert outcome(lambda: stream.push("BTCUSDT", row, now_ms=close_ms + 2 * MINUTE_MS)) == "stale"
        assert 0 < stream.push("BTCUSDT", row, now_ms=close_ms) < 1

    def test_a_symbol_is_scored_once_its_leader_has_arrived(self, stream, candles):
        """Without the leader's candle of the same time the prediction is refused, but the candle is kept."""
        stream.warm_up({s: f.head(-1) for s, f in candles.items()})
        rows = {s: dicts(f.tail(1))[0] for s, f in candles.items()}

        assert outcome(lambda: stream.push("ETHUSDT", rows["ETHUSDT"])) == "leader-hole"
        stream.take("BTCUSDT", rows["BTCUSDT"])
        assert 0 < stream.predict("ETHUSDT") < 1

    @pytest.mark.parametrize("symbol", ["DOGEUSDT", ""])
    def test_an_unknown_symbol_is_refused(self, model, stream, candles, symbol):
        """Both the stream and `Model.stream` refuse a symbol that the model does not know."""
        row = dicts(candles["BTCUSDT"].tail(1))[0]

        assert outcome(lambda: stream.push(symbol, row)) == "unknown-symbol"
        assert outcome(lambda: model.stream([symbol])) == "unknown-symbol"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"close": float("nan")}, "close"),
            ({"close": None}, "close"),
            ({"open": -1.0}, "open"),
            ({"high": 0.5}, "high"),
            ({"low": 1e12}, "low"),
            ({"volume": -1.0}, "volume"),
            ({"volume": float("inf")}, "volume"),
            ({"trades": "many"}, "trades is 'many'"),
            ({"trades": -1}, "trades"),
            ({"trades": 1.5}, "trades"),
            ({"ts": 1}, "grid"),
            ({"ts": -60_000}, "1970"),
            ({"ts": "yesterday"}, "ts is 'yesterday'"),
            ({"ts": dt.datetime(2025, 10, 15)}, "ts must be"),  # noqa: DTZ001 -- without a zone, on purpose
            ({"ts": None}, "ts must be"),
        ],
    )
    def test_an_impossible_candle_is_an_error_that_names_the_field(self, warm, candles, change, message):
        """The error names the invalid field, and the stream is unchanged."""
        before = warm.candles("BTCUSDT")
        ts = candles["BTCUSDT"]["ts"][-1] + dt.timedelta(minutes=1)

        with pytest.raises(InputError, match=message):
            warm.push("BTCUSDT", dicts(candles["BTCUSDT"].tail(1))[0] | {"ts": ts} | change)

        assert warm.candles("BTCUSDT").equals(before)


def test_a_promotion_is_followed_between_two_candles(store, publish, promote, bundle, candles):
    """After a promotion the stream scores the bars that it holds with the new version."""
    promote(publish())
    calm = replace(bundle, calibrator=replace(bundle.calibrator, method="none", knots=None))
    stream = load(store.models / "best_lgbm", clock=None).stream()
    stream.warm_up(candles)
    before = stream.predict("BTCUSDT")
    second = publish(model=calm)
    promote(second)

    assert stream.predict("BTCUSDT") == open_model(second).predict_candles({"BTCUSDT": candles["BTCUSDT"]})["p"][0]
    assert stream.predict("BTCUSDT") != before


def with_lookback(bundle, bars, *, leader):
    """Return the model with another lookback, and a leader's feature or none; it reads quote volumes."""
    specs = (
        *bundle.feature_set.features[:1],
        FeatureSpec("return_5", "log_return", {"bars": 2}),
        FeatureSpec("volatility_30", "realised_volatility", {"bars": bars - 1}),
        FeatureSpec("volume_z_20", "zscore", {"column": "quote_volume", "bars": 5}),
        FeatureSpec("leader_return_3", "leader_return", {"bars": bars - 3}, "BTCUSDT")
        if leader
        else FeatureSpec("leader_return_3", "log_return", {"bars": 3}),
    )
    return replace(bundle, feature_set=replace(bundle.feature_set, features=specs))


def test_a_leader_of_a_shorter_version_grows_with_a_longer_one(bundle, candles):
    """A leader's bars are kept for the longest lookback, also if it came with a shorter one than the symbol's."""
    versions = [with_lookback(bundle, bars, leader=leader) for bars, leader in ((31, False), (6, True), (31, True))]
    current = [load_bundle(version) for version in versions]
    stream = Stream(lambda: current[0], ["ETHUSDT"])
    given = {symbol: dicts(frame.tail(140)) for symbol, frame in candles.items()}
    for bar in range(140):
        if bar in {5, 70}:
            current.pop(0)
        if bar >= 5:
            stream.take("BTCUSDT", given["BTCUSDT"][bar])
        found = outcome(lambda bar=bar: stream.push("ETHUSDT", given["ETHUSDT"][bar]))

    expected = model_from_bundle(versions[-1]).predict_candles(candles).filter(pl.col("symbol") == "ETHUSDT")
    assert found == expected["p"].item()


def test_a_volume_that_an_older_bar_lacks_is_not_read(bundle, candles):
    """Also after a promotion to a shorter lookback, so that a restart from the stream's bars changes nothing."""
    current = [load_bundle(with_lookback(bundle, bars, leader=False)) for bars in (31, 6)]
    stream, restarted = (Stream(lambda: current[0], ["ETHUSDT"]) for _ in range(2))
    bars = dicts(candles["ETHUSDT"].tail(60))
    bars[40]["quote_volume"] = None
    for bar in bars:
        stream.take("ETHUSDT", bar)
    current.pop(0)
    restarted.warm_up({"ETHUSDT": stream.candles("ETHUSDT")})

    for each in (stream, restarted):
        with pytest.raises(InputError, match="ETHUSDT lacks quote_volume"):
            each.predict("ETHUSDT")


def test_a_promotion_with_another_meaning_is_not_followed(store, publish, promote, bundle, candles):
    """The old version scores the next candles, with a warning."""
    promote(publish())
    label = replace(bundle.label, ties="down")
    stream = load(store.models / "best_lgbm", clock=None).stream()
    stream.warm_up({symbol: frame.head(-1) for symbol, frame in candles.items()})
    promote(publish(model=replace(bundle, feature_set=replace(bundle.feature_set, label=label))))
    with pytest.warns(SwapFailedWarning, match=r"2025-10-15 stays in use: its label is .*ties: down.*ties: drop"):
        found = [stream.push(symbol, dicts(frame.tail(1))[0]) for symbol, frame in candles.items()]

    assert found == open_model(store.open_version("2025-10-15")).predict_candles(candles)["p"].to_list()


def test_threads_share_a_stream(model, candles):
    """Four threads that predict at the same time get the same numbers as one."""
    stream = model.stream()
    stream.warm_up(candles)
    expected = {s: stream.predict(s) for s in candles}
    wrong = []

    def ask():
        for _ in range(20):
            wrong.extend(s for s in candles if stream.predict(s) != expected[s])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert np.isfinite(list(expected.values())).all()


def test_a_row_of_pandas_may_lack_an_optional_value(model, candles):
    """A frame holds NaN in its place; the row is scored as the mapping without it, as whole frames are."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: it is no dependency of mltrain")
    ohlcv = ["ts", "open", "high", "low", "close", "volume"]
    plain, rows = model.stream(), model.stream()
    frame = next(iter(candles.values())).select(ohlcv).tail(LOOKBACK + 1)
    symbol = next(iter(candles))
    for record in frame.to_dicts():
        row = pandas.Series({**record, "trades": float("nan"), "quote_volume": float("nan")})
        expected, actual = (outcome(lambda s=s, r=r: s.push(symbol, r)) for s, r in ((plain, record), (rows, row)))
        assert actual == expected
