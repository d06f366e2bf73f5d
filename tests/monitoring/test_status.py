"""The status of folders made by hand: one line each for what is fresh, overdue, wrong or damaged."""

from __future__ import annotations

import os
import shutil

import pytest

from mltrain.cli.status import _view
from mltrain.config.loading import load_operate_config
from mltrain.errors import InputError
from mltrain.killswitch.halts import SENTINEL_SILENT
from mltrain.killswitch.heartbeat import HEARTBEAT_FILE
from mltrain.killswitch.switch import arm, halt
from mltrain.monitoring.events import EVENTS, queue_event
from mltrain.monitoring.rounds import Round, append_round
from mltrain.monitoring.status import Problem
from mltrain.monitoring.status_reader import find_status
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS
from support.bare_versions import tree
from support.operated import (
    BEAT_S,
    HELD,
    NOON_MS,
    SNAPSHOT,
    answered,
    operate,
    promote,
    publish,
    record,
    take_snapshot,
)

MINUTES = 60
FIRST = "2025-10-15"
ONE_MS = NOON_MS + MINUTES * MINUTE_MS


@pytest.fixture(scope="module")
def operated(tmp_path_factory):
    """Return a data folder in which nothing is overdue or wrong at 13:00; read only."""
    store = Store(tmp_path_factory.mktemp("operated") / "data")
    operate(store, minutes=MINUTES)
    return store.data_dir


@pytest.fixture
def store(operated, tmp_path):
    """Return the store of a copy that a test may change."""
    return Store(shutil.copytree(operated, tmp_path / "data", symlinks=True))


@pytest.fixture
def empty(tmp_path):
    """Return the store of an empty data folder."""
    (tmp_path / "data").mkdir()
    return Store(tmp_path / "data")


def look(store, *, now_ms=ONE_MS, slot=None, boot_s=BEAT_S + 1, **limits):
    return find_status(store, load_operate_config(limits), now_ms=now_ms, slot=slot, boot_s=lambda: boot_s)


def kinds(found):
    return [problem.kind for problem in found.problems]


def live(found):
    return found.slots[0].live


def test_a_fresh_folder_has_no_problem(operated):
    """Every part is there, and nothing on the disk changes."""
    before = tree(operated)
    found = look(Store(operated))

    assert found.problems == ()
    assert (found.when, found.slots[0].slot, live(found).version) == ("2025-10-15T13:00:00Z", "lgbm", FIRST)
    assert (live(found).age_s, live(found).live_since) == (3_600.0, "2025-10-15T12:00:00Z")
    assert (found.candles.snapshot, found.candles.newest, found.candles.age_s) == (
        SNAPSHOT,
        "2025-10-15T11:59:00Z",
        3_600.0,
    )
    assert (found.ledger.rows, found.ledger.last_version, found.ledger.last_candle) == (
        MINUTES,
        FIRST,
        "2025-10-15T12:59:00Z",
    )
    assert (found.kill_switch.state, found.kill_switch.heartbeat, found.kill_switch.silence) == (
        "running",
        "2025-10-15T13:00:00Z",
        None,
    )
    assert tree(operated) == before


def test_answers_drift_and_calibration_come_from_the_ledger(operated):
    """Of the live version since its promotion; the price falls and rises in turn, so the outcomes of 58 bars are."""
    found = live(look(Store(operated)))

    assert (found.answers.rows, found.answers.is_complete, found.answers.refused_share) == (MINUTES, True, 0.0)
    assert found.answers.age_s == pytest.approx(-0.3)
    assert (found.drift.rows, found.drift.distance < 0.12) == (MINUTES, True)
    assert (found.calibration.bars, found.calibration.rows, found.calibration.horizon_bars) == (59, 59, 1)
    assert found.calibration.up_share == pytest.approx(29 / 59)
    assert found.calibration.base_log_loss == pytest.approx(0.6931, abs=1e-4)


def test_a_limit_of_rows_leaves_out_older_answers(store):
    """What was read says since when."""
    record(store.data_dir, [answered(minute) for minute in range(MINUTES + 1, MINUTES + 101)])
    found = live(look(store, now_ms=ONE_MS + 100 * MINUTE_MS, ledger={"rows": 100}))

    assert (found.answers.rows, found.answers.is_complete) == (100, False)
    assert found.answers.first_at.startswith("2025-10-15T13:01:00")


# By kind: until when nothing is said, and what is said a minute later.
LIMITS = {
    "round-overdue": (
        NOON_MS + 30 * HOUR_MS,
        "a round of training was due at 2025-10-16 12:00, 6.0 h ago; the last one",
    ),
    "candles-old": (
        NOON_MS + 30 * HOUR_MS,
        f"of the latest snapshot, {SNAPSHOT}, closed 30.0 h ago; 30 h are too long",
    ),
    "answers-old": (ONE_MS + 5 * MINUTE_MS, "the newest answer of 2025-10-15 is 6 min old; 5 bars of 1m are too long"),
    "live-version-old": (NOON_MS + 30 * DAY_MS, "2025-10-15 was trained 30.0 days ago; 30 days are too long"),
}
OFF = {
    "training": {"every_h": None},
    "candles": {"max_age_h": None},
    "live": {"max_age_days": None},
    "ledger": {"max_age_bars": None},
}


@pytest.mark.parametrize("kind", LIMITS)
def test_what_is_overdue_is_named_from_its_limit_on(kind, operated):
    """Before, and with the limit switched off, nothing is said."""
    until_ms, sentence = LIMITS[kind]
    store = Store(operated)

    assert kind not in kinds(look(store, now_ms=until_ms))
    found = look(store, now_ms=until_ms + MINUTE_MS)
    assert [sentence in problem.sentence for problem in found.problems if problem.kind == kind] == [True]
    assert look(store, now_ms=until_ms + MINUTE_MS, **OFF).problems == ()


def test_events_that_nobody_accepts_are_named(store):
    """From an hour after the oldest; with the limit switched off, never."""
    for minute in (0, 30):
        queue_event(store.data_dir, "test", "a test", by="me", now_ms=ONE_MS + minute * MINUTE_MS)
    now_ms = ONE_MS + HOUR_MS

    assert kinds(look(store, now_ms=now_ms, **OFF)) == []
    (problem,) = look(store, now_ms=now_ms + MINUTE_MS, **OFF).problems
    assert problem.kind == "events-waiting"
    assert f"2 event(s) wait in {store.data_dir / EVENTS}, the oldest for 61 min; 1 h are too long" in problem.sentence
    assert kinds(look(store, now_ms=now_ms + MINUTE_MS, **OFF, events={"max_age_h": None})) == []


def test_a_live_version_that_has_expired_is_named(tmp_path):
    """From the time that its card has as valid_until, whatever the limits are."""
    store, until = Store(tmp_path / "data"), "2025-10-15T13:00:00Z"
    promote(store, publish(store, valid_until=until))

    assert live(look(store, now_ms=ONE_MS - 1, **OFF)).valid_until == until
    assert "expired" not in kinds(look(store, now_ms=ONE_MS - 1, **OFF))
    (problem,) = [p for p in look(store, now_ms=ONE_MS, **OFF).problems if p.kind == "expired"]
    assert problem.describe() == (
        "lgbm: 2025-10-15 was valid until 2025-10-15 13:00; train and promote a newer version"
    )


def test_the_next_round_follows_the_newest_version_of_any_verdict(store):
    """A NO-GO is a round, too; the screen says which gate failed."""
    name = publish(store, verdict="NO-GO", now_ms=NOON_MS + DAY_MS, failed=[("skill", "0.4 pp, lower end -1.2")])
    (slot,) = look(store, now_ms=NOON_MS + DAY_MS).slots

    assert slot.next_round == "2025-10-17T12:00:00Z"
    assert (slot.last_round.version, slot.last_round.verdict, slot.last_round.is_live) == (name, "NO-GO", False)
    assert slot.last_round.failed == ("skill: 0.4 pp, lower end -1.2",)
    assert slot.live.version == FIRST


def test_the_next_round_is_that_of_the_cycle_if_one_runs(store):
    """By its log of rounds, also after a round that gave no version; not by one from before the newest version."""
    begun = "2025-10-16T18:00:00Z"
    append_round(store.data_dir, Round("lgbm", "failed", "a test", begun, "2025-10-17T00:00:00Z", begun, begun))
    (slot,) = look(store).slots

    assert slot.next_round == "2025-10-17T00:00:00Z"
    old = "2025-10-14T18:00:00Z"
    append_round(store.data_dir, Round("lgbm", "failed", "a test", old, "2025-10-15T00:00:00Z", old, old))
    (slot,) = look(store).slots
    assert slot.next_round != "2025-10-15T00:00:00Z"


def test_a_held_version_says_why(store):
    """A GO that waits for a person is shown with its reason, and is no problem."""
    publish(store, now_ms=NOON_MS, held=HELD)
    found = look(store)

    assert (found.slots[0].last_round.held, found.slots[0].last_round.verdict) == (HELD, "GO")
    assert live(found).version == FIRST
    assert found.problems == ()


@pytest.mark.parametrize(("fitted_on", "label_end_ms"), [("all", NOON_MS), ("inner", NOON_MS - 3 * DAY_MS)])
def test_a_champion_that_cannot_be_compared_yet_is_named(empty, fitted_on, label_end_ms):
    """Ten days that touch no label of it must be in the candles; the day of its last label is the first of them."""
    promote(empty, publish(empty, fitted_on=fitted_on, label_end_ms=label_end_ms))
    day = (label_end_ms // DAY_MS + 9) * DAY_MS

    found = live(look(empty))
    assert (found.fitted_on, found.comparable_from) == (
        fitted_on,
        f"2025-10-{24 if fitted_on == 'all' else 21}T00:00:00Z",
    )
    assert live(look(empty, now_ms=day)).comparable_from is None
    take_snapshot(empty.data_dir)
    assert live(look(empty, now_ms=day)).comparable_from is not None


def test_a_folder_without_a_version_is_wrong_unless_none_is_required(empty):
    """So is a slot whose versions were never promoted; a folder that does not exist is an error."""
    assert [problem.describe() for problem in look(empty).problems] == [
        f"{empty.models} has no version: nothing can be served"
    ]
    assert look(empty, live={"required": False}).problems == ()
    publish(empty, verdict="NO-GO")
    assert [problem.describe() for problem in look(empty).problems] == [
        "lgbm: no version is live: nothing can be served"
    ]
    assert kinds(look(empty, slot="eth-1m")) == ["no-live-version"]
    with pytest.raises(InputError, match="there is no data folder"):
        look(Store(empty.data_dir / "none"))


def test_each_slot_has_a_status(store):
    """One slot alone can be looked at, and the problems of the others are then not shown."""
    other = store.in_slot("eth-1m")
    publish(other, verdict="NO-GO")

    assert [slot.slot for slot in look(store).slots] == ["eth-1m", "lgbm"]
    assert [(each.kind, each.slot) for each in look(store).problems] == [("no-live-version", "eth-1m")]
    assert look(store, slot="lgbm").problems == ()


def test_a_halt_is_wrong(store):
    """Halted and reduced, with the reason as `halt status` gives it."""
    halt(store.models, why="late candles", by="me@host", now_ms=NOON_MS, mode="reduce")
    assert (kinds(look(store)), look(store).kill_switch.state) == (["reduced"], "reduced")
    halt(store.models, why="wrong prices", by="me@host", now_ms=NOON_MS)
    found = look(store)

    assert (kinds(found), found.kill_switch.state) == (["reduced", "halted"], "halted")
    assert "wrong prices" in found.problems[1].sentence


def test_a_sentinel_that_has_stopped_is_wrong(store):
    """Armed, it halts after its timeout; not armed, it is missed after minutes; where none has run, nothing is said."""
    found = look(store, boot_s=BEAT_S + 301)
    assert kinds(found) == ["sentinel-silent"]
    assert found.kill_switch.silence == "its last heartbeat is 301.0 s old, of at most 300"
    assert kinds(look(store, boot_s=BEAT_S + 301, sentinel={"max_silence_s": None})) == []
    arm(store.models, timeout_s=10, by="me@host", now_ms=NOON_MS)
    found = look(store, boot_s=BEAT_S + 11)
    assert kinds(found) == ["halted"]
    assert found.kill_switch.halts[0].trigger == SENTINEL_SILENT
    assert found.kill_switch.armed.timeout_s == 10
    assert kinds(look(store)) == []


def test_without_a_sentinel_nothing_is_missed(store):
    """A folder in which none has run has no heartbeat."""
    (store.models / HEARTBEAT_FILE).unlink()
    found = look(store)

    assert (found.problems, found.kill_switch.heartbeat, found.kill_switch.silence) == ((), None, None)


def test_refusals_count_but_for_those_of_a_halt(store):
    """The share is of the answers that a halt did not refuse; too few are not judged."""
    record(store.data_dir, [answered(MINUTES + minute, refused="halted") for minute in range(1, 41)])
    assert live(look(store, now_ms=ONE_MS + 40 * MINUTE_MS)).answers.refused_share == 0
    record(store.data_dir, [answered(MINUTES + 40 + minute, refused="stale", missed=1) for minute in range(1, 31)])
    found = look(store, now_ms=ONE_MS + 70 * MINUTE_MS)

    answers = live(found).answers
    assert (answers.refused_share, answers.refused, answers.missed) == (30 / 90, {"halted": 40, "stale": 30}, 30)
    assert kinds(found) == ["refused"]
    assert "33.3% of the last 130 answers were refused, most of them as stale" in found.problems[0].sentence
    assert kinds(look(store, now_ms=ONE_MS + 70 * MINUTE_MS, ledger={"min_rows": 131})) == []


def test_a_version_that_is_never_asked_is_missed(store):
    """After a promotion that no process has followed, the answers are those of the version before."""
    name = publish(store, now_ms=NOON_MS)
    promote(store, name, now_ms=ONE_MS)
    late_ms = ONE_MS + 6 * MINUTE_MS
    assert kinds(look(store)) == []
    found = look(store, now_ms=late_ms)
    assert kinds(found) == ["no-answers"]
    assert f"{name} has given no answer since its promotion, the newest one is by {FIRST}" in found.problems[0].sentence
    promote(store, FIRST, now_ms=late_ms)
    assert live(look(store, now_ms=late_ms)).answers is None


def test_a_ledger_may_be_required(store):
    """Without one, nothing is said unless every live version must have an answer."""
    shutil.rmtree(store.data_dir / "ledger")

    assert (look(store).ledger, look(store).problems) == (None, ())
    assert kinds(look(store, ledger={"required": True})) == ["no-answers"]


def test_drift_and_calibration_are_judged_on_enough_rows(store):
    """Probabilities that have left those of the holdout, and that do not come true."""
    rows = [answered(MINUTES + minute, 0.9, close=100.0 - minute / 100) for minute in range(1, 541)]
    record(store.data_dir, rows)
    now_ms = ONE_MS + 540 * MINUTE_MS
    found = look(store, now_ms=now_ms)

    assert kinds(found) == ["drift", "calibration"]
    assert live(found).drift.distance == pytest.approx(0.9)
    assert live(found).calibration.ece > 0.8
    assert kinds(look(store, now_ms=now_ms, drift={"min_rows": 601}, calibration={"min_bars": 601})) == []
    off = {"drift": {"max_distance": None}, "calibration": {"max_ece": None}}
    assert kinds(look(store, now_ms=now_ms, **off)) == []


def test_a_changed_line_of_the_ledger_hides_only_what_is_before(store):
    """The newer answers count, and the damage is named."""
    (path,) = (store.data_dir / "ledger").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:20], lines[20].replace(b'"missed":0', b'"missed":9'), *lines[21:]]))
    found = look(store)

    assert kinds(found) == ["unreadable"]
    assert str(path) in found.problems[0].sentence
    assert (found.ledger.rows, live(found).answers.is_complete) == (39, False)


def test_a_changed_line_of_the_log_hides_no_slot(store):
    """The pointer still says what is live."""
    log = store.promotions_path
    log.write_bytes(log.read_bytes().replace(b"a test", b"A test"))
    found = look(store)

    assert set(kinds(found)) == {"unreadable"}
    assert any(str(log) in problem.sentence for problem in found.problems)
    assert live(found).version == FIRST


def test_a_lost_pointer_is_wrong(store):
    """The line has the command that restores it."""
    store.pointer.path.unlink()
    found = look(store)

    assert kinds(found) == ["unreadable"]
    assert found.problems[0].describe().endswith("run `mltrain models repair`")
    assert live(found) is None


def test_the_card_of_another_tool_gives_what_it_has(store):
    """Without label and splits there is no calibration and no date of comparison, and no problem."""
    card = b'{"train": {"symbols": ["BTCUSDT"]}, "metrics": {"accuracy": 0.5}}'
    files = {"lgbm.pkl": b"", "model_card.json": card, "report.html": b""}
    name = publish_version(store, files, verdict="GO", date=FIRST, now_ms=NOON_MS).name
    promote(store, name)
    record(store.data_dir, [answered(MINUTES, version=name)])
    found = look(store)

    assert (found.problems, live(found).version) == ((), name)
    assert (live(found).answers.rows, live(found).calibration, live(found).drift) == (1, None, None)


def test_an_odd_card_hides_nothing_and_prints_on_one_line(store):
    """Control characters of a reason are not printed, and an unknown interval is named."""
    reason = "\x1b[31mred\nline"
    publish(store, verdict="NO-GO", failed=[("skill", reason)])
    lines = list(_view(look(store)))

    assert [line for line in lines if "red" in line] == ["  last round   2025-10-15.2 NO-GO: skill:  [31mred line"]
    assert all(line.isprintable() for line in lines)
    problem = Problem("unreadable", None, "\x1b[31mred\nline\nthird", "do it")
    assert problem.describe() == " [31mred (and 2 more); do it"


PARTS = (
    "models/2025-10-15/manifest.json",
    "models/2025-10-15/model_card.json",
    "models/best_lgbm",
    "models/promotions.jsonl",
    "models/sentinel.json",
    "models/halt.json",
    "models/halts.jsonl",
    "models",
    "snapshots/latest",
    f"snapshots/{SNAPSHOT}/manifest.json",
    "ledger/2025-10-15.jsonl",
)


@pytest.mark.parametrize("damage", ["garbage", "empty", "folder", "link"])
@pytest.mark.parametrize("part", PARTS)
def test_no_damage_of_a_part_is_an_error(store, part, damage):
    """Whatever stands in the place of a file: every problem is one line, and the other parts are shown."""
    path = store.data_dir / part
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link":
        path.symlink_to("/nonexistent/place")
    else:
        path.write_bytes(b"\xff\x00{\n[1]\n" if damage == "garbage" else b"")
    found = look(store)

    harmless = {
        ("empty", "models/promotions.jsonl"),
        ("empty", "models/halts.jsonl"),
        ("empty", "ledger/2025-10-15.jsonl"),
    }
    assert found.problems or (damage, part) in harmless
    assert all("\n" not in problem.describe() for problem in found.problems)
    assert "snapshots" in part or found.candles is not None
    assert "ledger" in part or found.ledger is not None
