"""A version after the time that its card has as `valid_until`."""

from __future__ import annotations

import json
import pickle

import pytest

from mltrain.errors import RefusedError
from mltrain.serving.model import ExpiredWarning, load
from support.asking import outcome, ways
from support.small_model import END_MS

UNTIL_MS = END_MS + 30_000


class Clock:
    """A clock that is set."""

    now_ms = UNTIL_MS

    def __call__(self):
        """Return the time in seconds."""
        return self.now_ms / 1000


@pytest.fixture
def limited(card):
    """A card that is valid until UNTIL_MS."""
    return json.dumps({**json.loads(card), "valid_until": "2025-10-15T12:00:30Z"}).encode()


@pytest.fixture
def live(store, publish, promote, limited):
    """The pointer to a live version with that card."""
    promote(publish(card=limited))
    return store.models / "best_lgbm.pkl"


def test_it_warns_once_and_answers(live, candles, samples):
    """From that time on; before, there is no warning, which would be an error."""
    clock = Clock()
    clock.now_ms = UNTIL_MS - 1
    model = load(live, clock=clock)
    before = {name: ask() for name, ask in ways(model, candles, samples).items()}
    assert not model.is_expired()

    clock.now_ms = UNTIL_MS
    with pytest.warns(ExpiredWarning, match="2025-10-15 was valid until 2025-10-15T12:00:30Z") as caught:
        after = {name: ask() for name, ask in ways(model, candles, samples).items()}
    assert (after, len(caught)) == (before, 1)
    assert not model.is_expired()
    assert model.predict_candles(candles)["refused"].to_list() == [None, None]


def test_a_strict_model_refuses(live, candles, samples):
    """In every way to ask, from that time on; a batch is history."""
    clock = Clock()
    model = load(live, strict_age=True, clock=clock)

    assert {outcome(ask) for ask in ways(model, candles, samples).values()} == {"expired"}
    assert model.is_expired()
    for rows in (model.predict_candles(candles), model.explain(candles)):
        assert rows["refused"].to_list() == ["expired", "expired"]
        assert rows["p"].null_count() == 2
    assert model.predict_candles(candles, rows="all")["p"].null_count() < candles["BTCUSDT"].height
    clock.now_ms -= 1
    assert not model.is_expired()
    assert model.predict_candles(candles)["refused"].to_list() == [None, None]


def test_the_time_of_a_call_goes_before_the_clock(live, candles):
    """Without any time, nothing expires; a row that is refused for another reason keeps it."""
    model = load(live, strict_age=True, clock=None)

    assert model.predict_candles(candles)["refused"].to_list() == [None, None]
    assert model.predict_candles(candles, now_ms=UNTIL_MS)["refused"].to_list() == ["expired", "expired"]
    assert model.predict_candles(candles, now_ms=UNTIL_MS + 120_000)["refused"].to_list() == ["stale", "stale"]
    stream = model.stream()
    stream.warm_up(candles)
    with pytest.raises(RefusedError, match=r"ETHUSDT at .* is not scored: its card says") as refused:
        stream.predict("ETHUSDT", now_ms=UNTIL_MS)
    assert refused.value.reason == "expired"


def test_a_promotion_ends_it(live, publish, promote, limited, samples):
    """The next version answers without a restart; a copy of the model is as strict."""
    model = load(live, strict_age=True, clock=Clock())
    copied = pickle.loads(pickle.dumps(model))
    for each in (model, copied):
        with pytest.raises(RefusedError, match="no longer valid"):
            each.predict_one(samples.x[0])

    later = json.dumps({**json.loads(limited), "valid_until": "2026-01-01"}).encode()
    promote(publish(card=later))
    assert model.predict_one(samples.x[0]) == copied.predict_one(samples.x[0])
