"""Halts, in every way to ask a model: nothing is answered, and what may be answered is marked."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest

from mltrain.errors import RefusedError
from mltrain.killswitch.switch import halt, resume
from mltrain.serving.model import load, open_model
from support.asking import outcome, ways

BY = {"by": "me@host", "now_ms": 1_760_529_600_000}


@pytest.fixture
def live(store, publish, promote):
    """A live version."""
    promote(publish())
    return store.models / "best_lgbm.pkl"


@pytest.fixture
def model(live):
    """The model of the live version."""
    return load(live, clock=None)


def stop(store, **options):
    """Halt."""
    return halt(store.models, why="a test", **BY, **options)


class TestHalted:
    """No answer, in any way, until it is resumed."""

    def test_every_bare_number_is_refused_and_the_same_after_a_resume(self, store, model, candles, samples):
        """The model need not be loaded again."""
        calls = ways(model, candles, samples)
        before = {name: outcome(call) for name, call in calls.items()}
        stop(store)
        refused = {name: outcome(call) for name, call in calls.items()}
        resume(store.models, why="again", **BY)

        assert refused == dict.fromkeys(calls, "halted")
        assert {name: outcome(call) for name, call in calls.items()} == before

    @pytest.mark.parametrize("rows", ["last", "all"])
    def test_the_rows_of_a_table_have_no_probability(self, store, model, candles, rows):
        """Their reason is `halted`, whatever else they might be refused for."""
        stop(store)
        table = model.predict_candles(candles, rows=rows)
        explained = model.explain(candles, rows=rows)

        assert set(table["refused"]) == {"halted"}
        assert table["p"].null_count() == table["raw"].null_count() == table.height
        assert explained["log_odds"].null_count() == explained.height

    def test_only_the_symbols_of_a_halt_are_refused(self, store, model, candles, samples):
        """A number for an unknown symbol may be for any of them."""
        stop(store, symbols=["ETHUSDT"])
        calls = ways(model, candles, samples)

        assert dict(model.predict_candles(candles).select("symbol", "refused").rows()) == {
            "BTCUSDT": None,
            "ETHUSDT": "halted",
        }
        assert isinstance(outcome(calls["stream.predict"]), float)
        assert outcome(calls["predict_one"]) == "halted"

    def test_a_halted_model_is_loaded_only_on_request(self, store, live):
        """A service may start and wait for the end of the halt."""
        stop(store)
        with pytest.raises(RefusedError, match="serving is halted since 2025-10-15T12:00:00Z") as err:
            load(live, clock=None)
        assert err.value.reason == "halted"
        assert outcome(lambda: load(live, clock=None, while_halted=True).permit()) == "halted"

    def test_a_model_with_a_symbol_that_runs_is_loaded(self, store, live, candles):
        """The others are refused at each use."""
        stop(store, symbols=["ETHUSDT"])
        assert outcome(lambda: load(live, clock=None).predict_candles(candles).height) == len(candles)

    def test_copies_are_halted_as_well(self, store, model, samples):
        """They are made, and refuse."""
        stop(store)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert outcome(lambda each=other: each.predict_one(samples.x[0])) == "halted"

    def test_a_version_that_is_not_followed_heeds_halts_too(self, store, live, samples):
        """It lies in the same models folder."""
        folder = (store.models / "best_lgbm").resolve()
        model = load(folder, clock=None)
        stop(store)
        assert outcome(lambda: model.predict_one(samples.x[0])) == "halted"
        assert live.exists()

    def test_measurements_do_not_ask(self, store, live, samples):
        """Bench, evaluation and backtest go on."""
        stop(store)
        assert live.exists()
        assert isinstance(open_model(store.live_version()).predict_one(samples.x[0]), float)

    def test_a_candle_is_taken_although_it_is_not_scored(self, store, model, candles):
        """So that a stream is ready when serving is resumed."""
        stream = model.stream()
        stream.warm_up({symbol: frame.head(-1) for symbol, frame in candles.items()})
        stop(store)
        for symbol, frame in candles.items():
            assert outcome(lambda s=symbol, f=frame: stream.push(s, f.tail(1).to_dicts()[0])) == "halted"
        resume(store.models, why="again", **BY)
        (p,) = model.predict_candles(candles).filter(symbol="BTCUSDT")["p"]
        assert stream.predict("BTCUSDT") == p


class TestReduced:
    """Answers are given, and marked."""

    def test_the_rows_of_a_table_have_their_permit(self, store, model, candles):
        """Numbers are those of an unrestricted answer."""
        before = model.predict_candles(candles)
        stop(store, mode="reduce", symbols=["ETHUSDT"])
        table = model.predict_candles(candles)

        assert dict(table.select("symbol", "permit").rows()) == {"BTCUSDT": None, "ETHUSDT": "reduce"}
        assert table.drop("permit").equals(before.drop("permit"))
        assert model.permit("ETHUSDT") == "reduce"

    def test_a_bare_number_needs_a_caller_that_heeds_it(self, store, live, candles, samples):
        """It cannot be marked."""
        careless, careful = load(live, clock=None), load(live, clock=None, allow_reduce=True)
        stop(store, mode="reduce")

        assert {outcome(call) for call in ways(careless, candles, samples).values()} == {"reduced"}
        assert "reduced" not in {str(outcome(call)) for call in ways(careful, candles, samples).values()}

    def test_a_row_that_is_refused_anyway_has_no_permit(self, store, model, candles):
        """There is nothing to use."""
        stop(store, mode="reduce")
        table = model.predict_candles({symbol: frame.head(3) for symbol, frame in candles.items()})
        assert set(table.select("refused", "permit").rows()) == {("too-few-bars", None)}


def test_no_answer_begins_after_a_halt_and_before_the_next_resume(store, model, candles, samples):
    """Four threads ask in every way while serving is halted and resumed."""
    calls = list(ways(model, candles, samples).values())
    # Odd: halted. It is raised after a halt has returned, and before a resume begins; an answer that has the same odd
    # number before and after began and ended in between.
    phase, done, errors = [0], threading.Event(), []
    answered = [0, 0]

    def ask(number):
        while not done.is_set():
            for call in calls[number::4]:
                began = phase[0]
                result = outcome(call)
                if result == "halted":
                    answered[1] += 1
                elif began % 2 and phase[0] == began:
                    errors.append(result)
                else:
                    answered[0] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        stop(store)
        phase[0] += 1
        threading.Event().wait(0.005)
        phase[0] += 1
        resume(store.models, why="again", **BY)
        threading.Event().wait(0.005)
    done.set()
    for thread in threads:
        thread.join()

    assert errors == []
    assert min(answered) > 20
