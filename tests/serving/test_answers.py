"""Every answer and every refusal is recorded before the caller gets it, once, with its candle."""

from __future__ import annotations

import pickle

import polars as pl
import pytest

from mltrain.errors import InputError, MachineError, RefusedError, UsageError
from mltrain.killswitch.switch import halt
from mltrain.monitoring.ledger import Ledger, format_at, read_ledger
from mltrain.serving import answers as module
from mltrain.serving.model import load
from mltrain.times import format_ms

NOW_MS = 1_760_529_600_000
BY = {"why": "a test", "by": "me@host", "now_ms": NOW_MS}


class Log:
    """A log in memory."""

    def __init__(self):
        self.answers, self.on_record = [], lambda: None

    def record(self, answers):
        """Append the answers."""
        self.on_record()
        self.answers += answers

    def take(self):
        """Return the answers since the last call."""
        taken, self.answers = self.answers, []
        return taken


@pytest.fixture
def live(store, publish, promote):
    """A live version."""
    promote(publish())
    return store.models / "best_lgbm.pkl"


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def model(live, log):
    """The model of the live version, which records its answers."""
    return load(live, ledger=log, clock=None)


@pytest.fixture
def stream(model, candles):
    """A stream that has all candles but the last."""
    stream = model.stream()
    stream.warm_up({symbol: frame.head(-1) for symbol, frame in candles.items()})
    return stream


def newest(candles, symbol):
    """Return the newest candle, its open time, and its prices."""
    row = candles[symbol].row(-1, named=True)
    ts_ms = int(candles[symbol]["ts"].dt.timestamp("ms")[-1])
    return row, ts_ms, (row["high"], row["low"], row["close"])


class TestTables:
    def test_each_row_for_a_newest_candle_is_recorded(self, model, log, candles):
        """Refused ones as well, with the same scores."""
        given = {
            **candles,
            "ETHUSDT": candles["ETHUSDT"].head(3),
            "NONE": candles["BTCUSDT"],
            "x" * 999: candles["BTCUSDT"].head(0),
        }
        table = model.predict_candles(given)
        found = log.take()

        assert [(a.symbol, a.p, a.raw, a.refused, a.permit) for a in found] == table.drop("ts").rows()
        assert {a.refused for a in found} >= {None, "too-few-bars", "unknown-symbol"}
        for answer in found:
            if answer.ts_ms is not None:
                last = given[answer.symbol].row(-1, named=True)
                assert answer.prices == (last["high"], last["low"], last["close"])
            assert (answer.version, answer.missed, answer.source_ms) == (model.version, 0, None)
            assert answer.latency_ms > 0

    def test_what_nobody_acts_on_is_not_recorded(self, model, log, candles, samples):
        """Batches, explanations, and the interface of scikit-learn."""
        model.predict_candles(candles, rows="all")
        model.predict_candles({})
        model.explain(candles)
        model.predict_proba(samples.x[:2])
        model.predict(samples.x[:2])
        model.score(samples.x[:2])

        assert log.take() == []

    def test_an_error_is_recorded_for_each_symbol_without_an_answer(self, model, log, candles):
        """And raised; a wrong argument is none."""
        broken = {**candles, "BTCUSDT": candles["BTCUSDT"].with_columns(low=pl.col("high") * 2)}
        with pytest.raises(InputError):
            model.predict_candles(broken)
        assert [(a.symbol, a.ts_ms, a.p, a.refused) for a in log.take()] == [(s, None, None, "error") for s in broken]

        with pytest.raises(UsageError):
            model.predict_candles(candles, now_ms=5)
        assert log.take() == []


class TestFeatures:
    def test_one_row_is_recorded_without_a_symbol(self, model, log, samples):
        """Its probability is the one that is returned."""
        p = model.predict_one(samples.x[0])
        (answer,) = log.take()

        assert (answer.p, answer.symbol, answer.ts_ms, answer.prices) == (p, None, None, (None, None, None))
        assert answer.raw == model.score(samples.x[:1])[0][0]

    def test_refusals_and_errors_are_recorded(self, model, log, samples):
        """By their reason."""
        row = dict(zip(model.feature_names_in_, samples.x[0].tolist(), strict=True))
        first = next(iter(row))
        for given, error in [
            ({**row, first: float("nan")}, RefusedError),
            ({**row, "other": 1.0}, InputError),
            (5, UsageError),
        ]:
            with pytest.raises(error):
                model.predict_one(given)

        assert [(a.refused, a.p, a.raw) for a in log.take()] == [("not-finite", None, None), ("error", None, None)]


class TestStreams:
    def test_pushes_and_predictions_are_recorded(self, stream, log, candles):
        """With the candle that was pushed, or the newest one."""
        for symbol in stream.symbols:
            candle, ts_ms, prices = newest(candles, symbol)
            p = stream.push(symbol, candle)
            stream.take(symbol, candle)
            again = stream.predict(symbol)
            first, second = log.take()

            assert (first.symbol, first.ts_ms, first.prices, first.p) == (symbol, ts_ms, prices, p)
            assert (second.symbol, second.ts_ms, second.prices, second.p) == (symbol, ts_ms, prices, again)

    def test_refused_candles_are_recorded(self, stream, log, candles):
        """Those that were not taken, too, with their own time and prices; of an impossible one only the symbol."""
        candle, ts_ms, prices = newest(candles, "BTCUSDT")
        late = candles["BTCUSDT"].row(-3, named=True)
        calls = [
            lambda: stream.push("BTCUSDT", late),
            lambda: stream.push("BTCUSDT", candle, now_ms=ts_ms + 1),
            lambda: stream.push("NONE", candle),
            lambda: stream.predict("NONE"),
            lambda: stream.push("BTCUSDT", {**candle, "low": candle["high"] * 2}),
            lambda: stream.push("BTCUSDT", candle, now_ms=ts_ms + 10**9),
        ]
        for call in calls:
            with pytest.raises(InputError):
                call()
        found = log.take()

        assert [a.refused for a in found] == ["late", "open", "unknown-symbol", "unknown-symbol", "error", "stale"]
        assert found[0].prices == (late["high"], late["low"], late["close"])
        assert [(found[at].ts_ms, found[at].prices) for at in (1, 5)] == [(ts_ms, prices)] * 2
        assert [(found[at].ts_ms, found[at].prices[0]) for at in (3, 4)] == [(None, None)] * 2
        for wrong in ({}, 5):
            with pytest.raises(UsageError):
                stream.push(wrong, candle)
        assert log.take() == []


class TestKillSwitch:
    def test_answers_that_a_halt_forbids_are_recorded(self, store, model, log, stream, candles, samples):
        """As `halted`."""
        halt(store.models, **BY)
        model.predict_candles(candles)
        for call in (lambda: model.predict_one(samples.x[0]), lambda: stream.predict("BTCUSDT")):
            with pytest.raises(RefusedError):
                call()
        found = log.take()

        assert [a.refused for a in found] == ["halted"] * (len(candles) + 2)
        assert [a.p for a in found] == [None] * len(found)

    def test_answers_that_may_only_reduce_positions_are_marked(self, store, live, log, candles, samples):
        """In every way to get one."""
        model = load(live, ledger=log, allow_reduce=True, clock=None)
        halt(store.models, mode="reduce", **BY)
        model.predict_candles(candles)
        model.predict_one(samples.x[0])

        assert [a.permit for a in log.take()] == ["reduce"] * (len(candles) + 1)

    def test_an_answer_that_waited_for_its_log_is_asked_again(self, store, model, log, candles, samples, monkeypatch):
        """Serving was halted while it waited: what was computed before is not given."""
        monkeypatch.setattr(module, "LONG_S", -1.0)
        p = model.predict_one(samples.x[0])
        assert [a.p for a in log.take()] == [p, p]

        log.on_record = lambda: halt(store.models, **BY)
        assert model.predict_candles(candles)["p"].to_list() == [None] * len(candles)
        with pytest.raises(RefusedError):
            model.predict_one(samples.x[0])


class TestLedger:
    def test_what_cannot_be_recorded_is_not_given(self, model, log, stream, candles, samples):
        """In no way."""

        def fail():
            raise MachineError("full")

        log.on_record = fail
        calls = (
            lambda: model.predict_candles(candles),
            lambda: model.predict_one(samples.x[0]),
            lambda: stream.predict("BTCUSDT"),
            lambda: stream.push("BTCUSDT", newest(candles, "BTCUSDT")[0]),
        )
        for call in calls:
            with pytest.raises(MachineError, match="full"):
                call()

    def test_a_copy_in_another_process_records_in_the_same_ledger(self, live, tmp_path, candles):
        """The ledger is found again by its folder, whatever the working directory is."""
        model = load(live, ledger=Ledger(tmp_path / "ledger"), clock=None)
        table = model.predict_candles(candles)
        pickle.loads(pickle.dumps(model)).predict_candles(candles)
        rows = list(read_ledger(tmp_path / "ledger"))

        assert [r.p for r in rows] == table["p"].to_list() * 2
        assert [r.ts for r in rows] == [format_ms(int(t)) for t in table["ts"].to_physical()] * 2
        assert rows[0].at > format_at(NOW_MS)

    def test_what_is_no_ledger_is_refused(self, live):
        """A path, for example."""
        with pytest.raises(UsageError, match=r"expected a mltrain\.Ledger"):
            load(live, ledger="data/ledger")
