from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mltrain.config.loading import load_halt_config
from mltrain.errors import InputError
from mltrain.killswitch.heartbeat import HEARTBEAT_FILE, find_silence
from mltrain.killswitch.switch import halt, read_halts, read_history, resume
from mltrain.monitoring.ledger import LEDGER, Ledger, format_at
from mltrain.monitoring.sentinel import BY, Sentinel, find_condition, read_facts, run
from mltrain.progress import Silent
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import MINUTE_MS
from support.bare_versions import HAND
from support.ledger_rows import START_MS, row

BEGIN_MS = HAND["now_ms"]
LABEL = {"kind": "direction", "horizon_bars": 1, "ties": "drop", "cost_bps": 0.0}
CARD = {
    "train": {
        "label": LABEL,
        "interval": "1m",
        "symbols": ["BTCUSDT", "ETHUSDT"],
        "rows": 10,
        "class_balance": {"pos": 4},
    },
    "lineage": {"config": {"gates": {"latency_p95_ms": 15.0}}},
    "baselines": {"priors": [{"symbol": "BTCUSDT", "up_share": 0.52, "rule": "majority"}]},
}


def publish(store, card=CARD):
    files = {"lgbm.pkl": b"", "model_card.json": json.dumps(card).encode(), "report.html": b""}
    return publish_version(store, files, verdict="GO", date="2025-10-15", now_ms=BEGIN_MS)


@pytest.fixture
def store(tmp_path):
    """Return a store with one live version, 2025-10-15."""
    made = Store(tmp_path / "data")
    promote_version(made, publish(made).name, **HAND)
    return made


@pytest.fixture
def write(store):
    """Return a function that appends rows, given as minutes after the promotion, to the ledger."""
    with Ledger(store.data_dir / LEDGER) as ledger:
        yield ledger.append


def served(minute, p=0.5, **more):
    """Return the row of a candle that closed so many minutes after the promotion."""
    return row((BEGIN_MS - START_MS) // MINUTE_MS + minute - 1, p, **more)


def at(minute, seconds=1.0):
    return BEGIN_MS + minute * MINUTE_MS + int(1000 * seconds)


def watch(store, *, now_ms=BEGIN_MS, is_running=True, **settings):
    return Sentinel(store, load_halt_config({"triggers": settings}), now_ms=now_ms, is_running=is_running)


def in_force(store):
    return [(each.trigger, each.mode) for each in read_halts(store.models).halts]


def test_the_facts_come_from_the_card(store):
    """Base rates of symbols without a prior are those of all rows."""
    facts, live_since_ms = read_facts(store)

    assert (facts.version, facts.step_ms, facts.latency_budget_ms, live_since_ms) == (
        "2025-10-15",
        60_000,
        15.0,
        BEGIN_MS,
    )
    assert facts.bases == {"BTCUSDT": 0.52, "ETHUSDT": 0.4}
    assert (facts.label.kind, facts.label.horizon_bars, facts.label.ties) == ("direction", 1, "drop")


def test_a_quiet_store_is_watched_and_beaten_for(store, write):
    """Nothing fires, the heartbeat is fresh, and no file of the kill switch is written."""
    sentinel = watch(store)
    write([served(minute) for minute in range(1, 4)])
    step = sentinel.step(at(3))

    assert (step.rows, step.halted, step.fired) == (3, (), ())
    assert [each.trigger for each in step.evidence][:2] == ["stale", "refused"]
    assert find_silence(store.models, 60) is None
    assert in_force(store) == []
    assert sentinel.step(at(3)).rows == 0


def test_a_breach_halts_once_while_it_is_in_force(store, write):
    """The log has one line with sentence and evidence, however often the trigger is evaluated."""
    sentinel = watch(store)
    write([served(1), served(2, refused="error")])

    assert sentinel.step(at(2)).halted == ("error",)
    assert sentinel.step(at(2)).halted == ()
    assert watch(store).step(at(2)).halted == ()
    (line,) = read_history(store.models).lines
    assert (line.trigger, line.by, line.mode) == ("error", BY, "halt")
    assert line.why.startswith("error: serving failed with an exception 1 time(s)")
    assert line.evidence == {"version": "2025-10-15", "value": 1, "level": 1, "sample": 2}


def test_the_mode_of_a_trigger_is_that_of_its_halt(store, write):
    """Late answers reduce; a trigger that is off does nothing."""
    write([served(minute, latency_ms=99.0) for minute in range(1, 300)] + [served(300, refused="error")])

    assert watch(store, error={"mode": "off"}).step(at(300)).halted == ("latency",)
    assert in_force(store) == [("latency", "reduce")]
    # A stricter setting is not satisfied by it.
    assert watch(store, error={"mode": "off"}, latency={"mode": "halt"}).step(at(300)).halted == ("latency",)
    assert in_force(store) == [("latency", "reduce"), ("latency", "halt")]


def test_a_halt_by_a_person_hides_no_trigger(store, write):
    """The halt of a trigger is a separate one."""
    halt(store.models, why="maintenance", by="me", now_ms=BEGIN_MS)
    write([served(1, refused="error")])

    assert watch(store).step(at(1)).halted == ("error",)
    assert in_force(store) == [(None, "halt"), ("error", "halt")]


def test_after_a_resume_the_triggers_begin_again(store, write):
    """In the sentinel that runs, and in one that is started later; a new breach halts again."""
    sentinel = watch(store)
    write([served(1, refused="error")])
    sentinel.step(at(1))
    resume(store.models, why="fixed", by="me", now_ms=at(2), acknowledge=["error"])

    assert sentinel.step(at(3)).fired == ()
    assert watch(store, now_ms=at(3)).step(at(3)).fired == ()
    write([served(3, refused="error")])
    assert sentinel.step(at(3)).halted == ("error",)


def test_after_a_resume_a_feed_that_stands_still_is_stale_again(store, write):
    """The candles that close after the resume are due, although no row has come since."""
    sentinel = watch(store)
    write([served(1)])
    assert sentinel.step(at(4, 12)).halted == ("stale",)
    resume(store.models, why="restarted", by="me", now_ms=at(10), acknowledge=["stale"])

    assert sentinel.step(at(12)).fired == ()
    assert sentinel.step(at(13, 12)).halted == ("stale",)


def test_a_promotion_begins_with_new_triggers(store, write):
    """Rows of the version before count no longer, but the candles that it answered are not missed."""
    sentinel = watch(store)
    write([served(minute, refused="hole") for minute in range(1, 60)])
    assert sentinel.step(at(59)).fired == ()
    promote_version(store, publish(store).name, **HAND | {"now_ms": at(59)})
    write([served(60, refused="hole"), served(61, version="2025-10-15.2")])
    step = sentinel.step(at(61))

    assert step.fired == ()
    assert {each.version for each in step.evidence} == {"2025-10-15.2"}
    assert next(each for each in step.evidence if each.trigger == "refused").sample == 1
    # A version that was live before begins again as well.
    again = watch(store, now_ms=at(62)).step(at(62))
    assert {each.version for each in again.evidence} == {"2025-10-15.2"}


def test_every_slot_is_watched(store, write):
    """Each has a live version; the trigger halts everything once."""
    other = store.in_slot("btc-5m")
    promote_version(other, publish(other).name, **HAND)
    write([served(1), served(1, version="2025-10-15.2", refused="error")])
    step = watch(store).step(at(1))

    assert {each.version for each in step.evidence} == {"2025-10-15", "2025-10-15.2"}
    assert step.halted == ("error",)


def test_a_ledger_that_was_changed_halts(store, write):
    """What cannot be read is a breach, and not the end of the sentinel."""
    write([served(1), served(2)])
    (path,) = (store.data_dir / LEDGER).glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6", 1))
    sentinel = watch(store)
    step = sentinel.step(at(2))

    assert step.halted == ("error",)
    assert "cannot watch what is served" in read_halts(store.models).halts[0].why
    assert sentinel.step(at(2)).halted == ()


def test_a_pointer_that_is_lost_or_a_card_that_lacks_the_label_halts(store):
    """A version that cannot be judged is not served."""
    sentinel = watch(store)
    sentinel.step(at(1))
    store.pointer.path.rename(store.models / "aside")
    assert sentinel.step(at(1)).halted == ("error",)
    (store.models / "aside").rename(store.pointer.path)
    promote_version(store, publish(store, {**CARD, "lineage": {}}).name, **HAND)

    evidence = sentinel.evaluate(at(1)).fired[0]
    assert "does not state label, interval, symbols and the latency gate" in evidence.sentence


def test_without_a_live_version_there_is_nothing_to_watch(tmp_path):
    """An InputError names the folder, and nothing is created."""
    empty = Store(tmp_path / "data")
    with pytest.raises(InputError, match="does not exist"):
        watch(empty)
    empty.models.mkdir(parents=True)
    with pytest.raises(InputError, match="has no live version"):
        watch(empty)
    assert list(empty.models.iterdir()) == []


def test_a_long_ledger_is_read_in_parts(store, write):
    """Until its end is reached nothing is judged, but the heartbeat goes on."""
    write([served(minute) for minute in range(1, 10_002)])
    sentinel = watch(store, now_ms=at(10_001), is_running=False)
    first, second = sentinel.step(at(10_001)), sentinel.step(at(10_001))

    assert (first.rows, first.is_current, first.evidence) == (10_000, False, ())
    assert (second.rows, second.is_current) == (1, True)
    assert (store.models / HEARTBEAT_FILE).exists()
    assert next(each for each in second.evidence if each.trigger == "code").sample == 10_001


def test_what_was_missed_before_the_start_counts_once_only(store, write):
    """A sentinel that keeps running waits for the first candles; one evaluation judges what is there."""
    write([served(1)])

    assert watch(store, now_ms=at(60)).step(at(61)).fired == ()
    once = watch(store, now_ms=at(60), is_running=False).evaluate(at(60))
    assert [each.trigger for each in once.fired] == ["stale"]


def test_a_condition_is_judged_by_the_rows_since_the_halt(store, write):
    """A feed that stands still still does; what needs answers is no obstacle to a resume."""
    write([served(1), served(2, refused="error")])
    sentinel = watch(store)
    sentinel.step(at(2))
    sentinel.step(at(6))
    errors, stale = read_halts(store.models).halts
    config = load_halt_config(None)

    assert find_condition(store, config, errors, now_ms=at(6)) is None
    assert "due candle(s) were not answered" in find_condition(store, config, stale, now_ms=at(6))
    write([served(6, refused="halted")])
    assert find_condition(store, config, stale, now_ms=at(6)) is None
    assert find_condition(store, config, replace(errors, trigger=None), now_ms=at(6)) is None


def test_it_runs_until_it_is_ended(store, write):
    """It waits between evaluations, yields those that halted, and warns once about each failure."""
    waits, progress = [], Silent()
    minutes = iter(range(1, 9))

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            write([served(2, refused="error")])
        if len(waits) == 4:
            store.models.rename(store.models.with_name("gone"))
        if len(waits) == 7:
            raise KeyboardInterrupt

    running = run(watch(store), progress, every_s=0.5, clock=lambda: at(next(minutes)) / 1000, wait=wait)
    assert next(running).halted == ("error",)
    with pytest.raises(KeyboardInterrupt):
        list(running)

    assert waits == [0.5] * 7
    assert len(progress.warnings) == 1
    assert progress.warnings[0].endswith("no heartbeat is written")


def test_rows_in_the_second_of_a_resume_count(store, write):
    """The moment is known to the second; its first answer is not lost."""
    resume_ms = at(5, 0)
    halt(store.models, why="test", by="me", now_ms=at(4))
    resume(store.models, why="test", by="me", now_ms=resume_ms)
    write([served(5, at=format_at(resume_ms - 1)), served(5, symbol="ETHUSDT", at=format_at(resume_ms + 1))])
    step = watch(store).step(at(5))

    assert next(each for each in step.evidence if each.trigger == "refused").sample == 1
