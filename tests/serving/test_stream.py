from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError, RefusedError
from mltrain.serving.follow import SwapFailedWarning
from mltrain.serving.model import load, model_from_bundle, open_model
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


def outcome(call):
    """Return a probability, or the reason why there is none."""
    try:
        return call()
    except RefusedError as err:
        return err.reason


def replay(stream, candles, bars):
    """Push the last bars of both symbols, the leader first; return what each push gave."""
    tapes = {symbol: dicts(frame.tail(bars)) for symbol, frame in candles.items()}
    return [
        (symbol, outcome(lambda s=symbol, i=i: stream.push(s, tapes[s][i]))) for i in range(bars) for symbol in tapes
    ]


class TestNumbers:
    """A stream gives what `predict_candles` gives."""

    def test_each_push_is_the_batch(self, model, stream, candles):
        """Bar by bar the probability of the table of all rows, bit for bit, through several moves of the buffers."""
        batch = model.predict_candles({s: f.tail(200) for s, f in candles.items()}, rows="all")
        expected = {s: batch.filter(pl.col("symbol") == s) for s in candles}
        found = replay(stream, candles, 200)

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
        tapes = {s: {row["ts"]: row for row in dicts(f)} for s, f in given.items()}
        found = [
            outcome(lambda s=s, ts=ts: stream.push(s, tapes[s][ts]))
            for ts, s in zip(batch["ts"], batch["symbol"], strict=True)
        ]

        assert found == [reason or p for p, reason in zip(batch["p"], batch["refused"], strict=True)]
        assert {"hole", "leader-hole"} <= set(batch["refused"].drop_nulls())

    def test_a_restart_changes_nothing(self, model, stream, candles):
        """Warmed up with what another stream held, a new one goes on with the same numbers."""
        early = {s: f.head(900) for s, f in candles.items()}
        late = {s: f.tail(100) for s, f in candles.items()}
        replay(stream, early, 300)
        other = model.stream()
        other.warm_up({s: stream.candles(s) for s in candles})

        assert stream.candles("BTCUSDT").height == LOOKBACK
        assert replay(other, late, 100) == replay(stream, late, 100)

    def test_only_read_columns_are_needed(self, model, stream, candles):
        """A candle without trades and takers serves a model that never looks at them."""
        optional = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")
        short = {s: f.drop(optional) for s, f in candles.items()}

        assert replay(model.stream(), short, 60) == replay(stream, candles, 60)

    def test_times_may_be_numbers_or_moments(self, model, stream, candles):
        """A datetime in any zone, and ms UTC, are the same time."""
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
    """What comes late, twice, changed, open or impossible."""

    @pytest.fixture
    def warm(self, stream, candles):
        stream.warm_up(candles)
        return stream

    def test_the_newest_once_more_is_ignored(self, warm, candles):
        """The same candle again changes nothing and is scored again."""
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
    def test_what_is_refused_leaves_the_stream_as_it_was(self, warm, candles, back, change, reason):
        """A candle that came before, with other values, or one that is older, is refused with its reason."""
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
        """The clock, where it is given, is the source's."""
        stream.warm_up({"BTCUSDT": candles["BTCUSDT"].head(-1)})
        row = dicts(candles["BTCUSDT"].tail(1))[0]
        close_ms = int(row["ts"].timestamp() * 1000) + MINUTE_MS

        assert outcome(lambda: stream.push("BTCUSDT", row, now_ms=close_ms - 1)) == "open"
        assert outcome(lambda: stream.push("BTCUSDT", row, now_ms=close_ms + 2 * MINUTE_MS)) == "stale"
        assert 0 < stream.push("BTCUSDT", row, now_ms=close_ms) < 1

    def test_a_symbol_waits_for_its_leader(self, stream, candles):
        """Its candle is kept; once the leader's is there it is scored."""
        stream.warm_up({s: f.head(-1) for s, f in candles.items()})
        rows = {s: dicts(f.tail(1))[0] for s, f in candles.items()}

        assert outcome(lambda: stream.push("ETHUSDT", rows["ETHUSDT"])) == "leader-hole"
        stream.take("BTCUSDT", rows["BTCUSDT"])
        assert 0 < stream.predict("ETHUSDT") < 1

    @pytest.mark.parametrize("symbol", ["DOGEUSDT", ""])
    def test_an_unknown_symbol_is_refused(self, model, stream, candles, symbol):
        """By the stream, and by the model that is asked for one."""
        row = dicts(candles["BTCUSDT"].tail(1))[0]

        assert outcome(lambda: stream.push(symbol, row)) == "unknown-symbol"
        assert outcome(lambda: model.stream([symbol])) == "unknown-symbol"

    @pytest.mark.parametrize(
        ("change", "told"),
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
    def test_an_impossible_candle_is_an_error_that_names_the_field(self, warm, candles, change, told):
        """What no exchange gives is an input to mend, and the stream stays as it was."""
        before = warm.candles("BTCUSDT")
        ts = candles["BTCUSDT"]["ts"][-1] + dt.timedelta(minutes=1)

        with pytest.raises(InputError, match=told):
            warm.push("BTCUSDT", dicts(candles["BTCUSDT"].tail(1))[0] | {"ts": ts} | change)

        assert warm.candles("BTCUSDT").equals(before)


def test_a_promotion_is_followed_between_two_candles(store, publish, promote, bundle, candles):
    """The bars stay, the version changes."""
    promote(publish())
    calm = replace(bundle, calibrator=replace(bundle.calibrator, method="none", knots=None))
    stream = load(store.models / "best_lgbm", clock=None).stream()
    stream.warm_up(candles)
    before = stream.predict("BTCUSDT")
    second = publish(model=calm)
    promote(second)

    assert stream.predict("BTCUSDT") == open_model(second).predict_candles({"BTCUSDT": candles["BTCUSDT"]})["p"][0]
    assert stream.predict("BTCUSDT") != before


def test_a_promotion_of_another_meaning_leaves_the_stream_as_it_was(store, publish, promote, bundle, candles):
    """The old version goes on with the next candles, and says so."""
    promote(publish())
    label = replace(bundle.label, ties="down")
    stream = load(store.models / "best_lgbm", clock=None).stream()
    stream.warm_up({symbol: frame.head(-1) for symbol, frame in candles.items()})
    promote(publish(model=replace(bundle, feature_set=replace(bundle.feature_set, label=label))))
    with pytest.warns(SwapFailedWarning, match=r"2025-10-15 stays in use: its label is .*ties: down.*ties: drop"):
        found = [stream.push(symbol, dicts(frame.tail(1))[0]) for symbol, frame in candles.items()]

    assert found == open_model(store.open_version("2025-10-15")).predict_candles(candles)["p"].to_list()


def test_threads_share_a_stream(model, candles):
    """Four threads push and ask; every answer is that of a whole window."""
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
