from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mltrain.config.loading import load_halt_config
from mltrain.features.label_spec import LabelSpec
from mltrain.monitoring.triggers import VersionTriggers
from mltrain.times import DAY_MS, MINUTE_MS, format_ms
from support.ledger_rows import CODE, START_MS, facts, row

OTHER = "d" * 64


def triggers(of=None, *, from_ms=None, newest_ms=None, **settings):
    """Return the triggers of a version, with some settings such as stale={"bars": 5}."""
    config = load_halt_config({"triggers": settings}).triggers
    return VersionTriggers(of or facts(), config, from_ms=from_ms, newest_ms=newest_ms)


def at(bar, seconds=1.0):
    """Return the time, ms, some seconds after the close of a bar."""
    return START_MS + (bar + 1) * MINUTE_MS + int(1000 * seconds)


def evidence(found, name, now_ms=START_MS):
    return next(e for e in found.evaluate(now_ms) if e.trigger == name)


def fired(found, now_ms=START_MS):
    return [e.trigger for e in found.evaluate(now_ms) if e.fired]


def walk(bars, *, up=0.5, p=None, seed=1):
    """Return rows whose next move is up with the probability `up`; the model says `p`, by default the truth."""
    rng = np.random.default_rng(seed)
    close, rows = 100.0, []
    for bar in range(bars):
        rows.append(row(bar, up if p is None else p, close=close))
        close *= 1 + (1e-4 if rng.random() < up else -1e-4)
    return rows


def test_nothing_fires_without_rows_or_after_one():
    """Every trigger has a name and a sentence before the first row, and none fires below its sample."""
    found = triggers()

    assert [e.trigger for e in found.evaluate(at(0))] == [
        *("stale", "refused", "latency", "error", "code", "calibration", "skill", "loss")
    ]
    assert fired(found) == []
    found.feed([row(0, 0.99)])
    assert fired(found) == []
    assert all(e.sentence and e.version == "2025-10-15" for e in found.evaluate(at(0)))


def test_a_mode_of_off_leaves_a_trigger_out():
    """Its evidence is not among the others."""
    found = triggers(refused={"mode": "off"}, error={"mode": "off"})

    assert {"refused", "error"}.isdisjoint(e.trigger for e in found.evaluate(at(0)))


@pytest.mark.parametrize(("bar", "seconds", "lacking"), [(0, 50, 0), (1, 11, 1), (2, 11, 2), (3, 9, 2), (3, 10, 3)])
def test_stale_counts_due_candles(bar, seconds, lacking):
    """After the last row a candle is due every minute, ten seconds after its close; the third one fires."""
    found = triggers()
    found.feed([row(0, 0.5)])
    seen = evidence(found, "stale", at(bar, seconds))

    assert (seen.value, seen.fired) == (lacking, lacking >= 3)


def test_stale_goes_by_the_clock_of_the_source():
    """A source an hour behind is not late, and one an hour ahead is."""
    behind, ahead = triggers(), triggers()
    behind.feed([row(0, source_at=format_ms(at(0, 0.3) - 60 * MINUTE_MS))])
    ahead.feed([row(0, source_at=format_ms(at(0, 0.3) + 60 * MINUTE_MS))])

    assert evidence(behind, "stale", at(62)).value == 1
    assert evidence(ahead, "stale", at(0)).fired


def test_stale_names_the_symbol_that_lags():
    """One symbol of two stands still; a symbol that never had a row is not missed."""
    found = triggers(facts("BTCUSDT", "ETHUSDT", "XRPUSDT"))
    found.feed([row(bar, symbol=s) for bar in range(9) for s in ("BTCUSDT", "ETHUSDT") if s == "BTCUSDT" or bar < 5])
    seen = evidence(found, "stale", at(8, 15))

    assert (seen.fired, seen.value) == (True, 4)
    assert seen.sentence.startswith("ETHUSDT: 4 due candle(s)")


def test_stale_after_a_promotion_or_a_resume():
    """The new version must answer the candles that close after that moment, not those before it."""
    found = triggers(from_ms=at(100), newest_ms={"BTCUSDT": START_MS, "XRPUSDT": START_MS})

    assert evidence(found, "stale", at(100)).value == 0
    assert evidence(found, "stale", at(103, 12)).value == 3


def test_refused_counts_the_newest_rows_and_no_halted_ones():
    """12 of 60 are a breach, 11 are none; a halt is no reason to stay halted."""
    found = triggers()
    found.feed([row(bar) for bar in range(49)])
    found.feed([row(49 + bar, refused="not-finite") for bar in range(11)])
    assert not evidence(found, "refused").fired

    found.feed([row(60 + bar, refused=("halted", "reduced")[bar % 2]) for bar in range(500)])
    assert (evidence(found, "refused").sample, evidence(found, "refused").fired) == (60, False)
    found.feed([row(600, refused="hole")])
    seen = evidence(found, "refused")
    assert (seen.value, seen.fired) == (0.2, True)
    assert seen.sentence == "12 of the last 60 answers were refused, most of them as not-finite; 20% are a breach"


def test_refused_needs_a_whole_window():
    """59 refused rows are no sample, 60 are."""
    found = triggers()
    found.feed([row(bar, refused="hole") for bar in range(59)])
    assert not evidence(found, "refused").fired
    found.feed([row(59)])

    assert evidence(found, "refused").fired


def test_latency_compares_the_p99_with_the_budget_of_the_card():
    """Of 1000 answers 10 may be slower than the latency gate allowed, 15 ms here; 11 may not."""
    found = triggers()
    found.feed([row(bar, latency_ms=22.0 if bar < 10 else 2.0) for bar in range(1000)])
    assert not evidence(found, "latency").fired

    found.feed([row(1000, latency_ms=22.0)])
    assert not evidence(found, "latency").fired
    found.feed([row(bar, latency_ms=22.0) for bar in range(1001, 1011)])
    seen = evidence(found, "latency")
    assert (seen.value, seen.level, seen.fired) == (22.0, 15.0, True)
    assert evidence(triggers(latency={"budget_ms": 80.0}), "latency").level == 80


def test_latency_ignores_refused_answers_and_small_samples():
    """A refusal costs no time to speak of."""
    found = triggers()
    found.feed([row(bar, latency_ms=90.0) for bar in range(199)])
    found.feed([row(bar, latency_ms=90.0, refused="hole") for bar in range(199, 999)])
    assert not evidence(found, "latency").fired
    found.feed([row(999, latency_ms=90.0)])

    assert evidence(found, "latency").fired


def test_an_exception_in_serving_fires_at_once():
    """The first row counts."""
    found = triggers()
    found.feed([row(0), row(1, refused="error"), row(2)])

    assert fired(found) == ["error"]
    assert evidence(found, "error").sentence.startswith("serving failed with an exception 1 time(s), the first at 2025")


def test_code_fires_when_an_earlier_hash_comes_back():
    """A deployment replaces the hash once; two processes that differ alternate."""
    found = triggers()
    found.feed([row(0), row(1), row(2, code_sha256=OTHER), row(3, code_sha256=OTHER)])
    assert fired(found) == []
    found.feed([row(4, code_sha256=CODE)])

    assert fired(found) == ["code"]
    assert evidence(found, "code").sentence.endswith("dddddddddddd and cccccccccccc")


def test_code_forgets_after_its_window():
    """Going back to an earlier release after a day is another deployment."""
    found = triggers(code={"window_rows": 100})
    found.feed([row(0), *(row(bar, code_sha256=OTHER) for bar in range(1, 101)), row(101)])

    assert fired(found) == []


def test_rows_of_other_versions_do_not_count():
    """Neither for the sample nor for a breach; a promotion begins with nothing."""
    found = triggers(facts(version="2025-10-16"))
    found.feed([row(bar, refused="error", code_sha256=(CODE, OTHER)[bar % 2]) for bar in range(200)])

    assert fired(found) == []
    assert evidence(found, "refused").sample == 0


def test_a_calibrated_model_is_left_alone():
    """Two thousand bars of a fair model, at a bias of nearly the tolerance."""
    found = triggers()
    found.feed(walk(2_000, up=0.559, p=0.55))

    assert fired(found, at(2_000)) == []
    assert evidence(found, "calibration").sample == 1_999


@pytest.mark.parametrize(
    ("up", "p", "names"), [(0.3, 0.7, {"calibration", "skill"}), (0.5, 0.7, {"calibration", "skill"})]
)
def test_wrong_probabilities_fire(up, p, names):
    """An inverted model, and one that is sure of nothing, within some hundred bars."""
    found = triggers()
    found.feed(walk(400, up=up, p=p))

    assert names == set(fired(found, at(399)))
    seen = evidence(found, "calibration")
    assert seen.value >= 1000
    assert "bets that the probabilities are wrong have multiplied their stake by" in seen.sentence


def test_a_breach_does_not_depend_on_when_it_is_asked_for():
    """Row by row, or all at once: the largest wealth counts, even if it falls again before the question."""
    rows = [*walk(300, up=0.3, p=0.7), *(replace(r, ts=format_ms(START_MS + 300 * MINUTE_MS)) for r in walk(1))]
    at_once, one_by_one = triggers(), triggers()
    at_once.feed(rows)
    for each in rows:
        one_by_one.feed([each])

    assert at_once.evaluate(at(300)) == one_by_one.evaluate(at(300))


def test_no_trigger_of_bets_fires_below_its_sample():
    """However large the wealth is."""
    found = triggers(calibration={"min_bars": 400}, skill={"min_bars": 400})
    found.feed(walk(400, up=0.3, p=0.7))

    assert evidence(found, "calibration").value > 1000
    assert fired(found, at(399)) == []


def test_outcomes_that_never_come_are_a_breach():
    """A feed that repeats one price has ties only: after the deadline calibration, skill and their kind fire."""
    found = triggers(calibration={"deadline_bars": 100}, skill={"deadline_bars": 100})
    found.feed([row(bar, 0.6) for bar in range(101)])
    seen = evidence(found, "calibration")

    assert (seen.value, seen.fired) == (None, True)
    assert fired(found, at(100)) == ["calibration", "skill"]


def test_answers_without_a_latency_or_a_price_are_a_breach():
    """A ledger without the evidence must not look sound."""
    found = triggers(latency={"window_rows": 200, "min_rows": 200}, loss={"deadline_bars": 200})
    found.feed([row(bar, latency_ms=None, close=None, high=None, low=None) for bar in range(200)])

    assert fired(found, at(199)) == ["latency", "loss"]


def account(closes, p=0.9, **settings):
    found = triggers(loss={"exposure": 1.0, "min_bars": 1, **settings})
    found.feed([row(bar, p, close=close) for bar, close in enumerate(closes)])
    return evidence(found, "loss")


def test_loss_by_hand():
    """Long at 100, marked at 98: 2 % of the equity, and nothing was sold. Short it is a gain."""
    assert account([100.0, 98.0]).value == pytest.approx(0.02)
    assert account([100.0, 98.0], per_day=0.0199).fired
    assert not account([100.0, 98.0], per_day=0.0201).fired
    assert account([100.0, 98.0], p=0.1).value == 0
    assert account([100.0, 98.0], exposure=0.5).value == pytest.approx(0.01)
    assert account([100.0, 100.0], cost_bps=10).value == pytest.approx(0.001)


def test_loss_counts_from_the_peak_and_from_midnight():
    """A loss of 1.5 % on each of four days is no breach of a day's limit, but of that from the peak."""
    found = triggers(loss={"exposure": 1.0, "min_bars": 1})
    days = [
        row(1440 * day - 1 + late, 0.9, close=100 * 0.985 ** (day + late - 1)) for day in range(1, 5) for late in (0, 1)
    ]
    found.feed(days)
    seen = evidence(found, "loss")

    assert (seen.fired, seen.level) == (True, 0.05)
    assert seen.value == pytest.approx(1 - 0.985**4)
    assert "since its peak" in seen.sentence
    assert (START_MS % DAY_MS, days[0].ts[11:16]) == (0, "23:59")


def test_loss_that_was_won_back_is_a_breach_all_the_same():
    """The largest loss counts; a refused answer leaves the position as it is."""
    found = triggers(loss={"exposure": 1.0, "min_bars": 1})
    found.feed([row(0, 0.9, close=100.0), row(1, refused="stale", close=97.0), row(2, 0.9, close=110.0)])

    assert evidence(found, "loss").value == pytest.approx(0.03)
    assert fired(found, at(2)) == ["loss"]


def test_an_error_inside_a_trigger_is_a_breach_with_its_name():
    """A close of 0 cannot be marked: the account fails, and the others go on."""
    found = triggers()
    found.feed([row(0, close=0.0), row(1, close=0.0), row(2, refused="error")])
    seen = evidence(found, "error", at(2))

    assert seen.fired
    assert seen.sentence == "the trigger loss failed: ZeroDivisionError: float division by zero"
    assert evidence(found, "refused").sample == 3


def test_a_barrier_label_is_watched_too():
    """Its horizon is the longest: one wealth for each residue."""
    found = triggers(facts(label=LabelSpec("barrier", 3, "drop", upper_bps=1, lower_bps=1)))
    found.feed([replace(r, high=r.close, low=r.close) for r in walk(2000, up=0.3, p=0.7)])

    assert "calibration" in fired(found, at(1999))
