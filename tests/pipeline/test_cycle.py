"""Rounds at fixed times: every one is run or noticed as missed, and explained."""

from __future__ import annotations

import errno
import math
import os
from itertools import islice

import pytest

import mltrain as mt
from mltrain.errors import MachineError, SourceError, UsageError
from mltrain.monitoring.events import EVENTS, list_events, read_event
from mltrain.monitoring.rounds import ROUNDS_FILE, LiveScores, Round, RoundLog, Schedule, append_round, read_rounds
from mltrain.pipeline.cycle import Cycle
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, format_ms, parse_time
from support.ledger_rows import START_MS, VERSION, row
from support.program import QUICK
from support.receivers import write_secret

DAILY = Schedule.parse("24h", "02:00")
MIDNIGHT_MS = CLOCK_MS // DAY_MS * DAY_MS


class Clock:
    """A clock that only waits and work move."""

    def __init__(self, now_ms):
        self.now_ms = now_ms

    def __call__(self):
        return self.now_ms / 1000

    def wait(self, seconds):
        """Sleep, much longer than asked for: every wait of a day would take thousands of calls."""
        self.now_ms += max(int(seconds * 1000), 10 * MINUTE_MS if seconds >= 30 else 0)


class Rounds:
    """A cycle whose work is scripted.

    Attributes:
        began: When each round began, ms UTC.
        reported: The kinds of the reported events.
        during: Called with the number of the round and its result in each round.
    """

    def __init__(self, folder, clock, schedule=DAILY):
        self.clock, self.progress = clock, Silent()
        self.began, self.reported = [], []
        self.during = lambda *_: None
        self.cycle = Cycle(
            folder,
            "lgbm",
            schedule,
            work=self.work,
            report=lambda kind, *_: self.reported.append(kind),
            progress=self.progress,
            clock=clock,
        )

    def work(self, now_ms, result):
        self.began.append(now_ms)
        self.during(len(self.began), result)
        result.outcome, result.sentence = "held", "it was held: a test"

    def take(self, count):
        """Return the next rounds and gaps, without what is needed to go on."""
        return list(islice(self.cycle.run(self.clock.wait), count))


def test_rounds_begin_at_their_times(tmp_path):
    """The first at the next due time after the start, and one line for each, which are chained."""
    rounds = Rounds(tmp_path, Clock(MIDNIGHT_MS + 3 * HOUR_MS))
    made = rounds.take(3)

    assert [each.next_due for each in made[:2]] == [each.due for each in made[1:]]
    assert [each.due for each in made] == [format_ms(MIDNIGHT_MS + day * DAY_MS + 2 * HOUR_MS) for day in (1, 2, 3)]
    assert all(0 <= began - each.due_ms < 10 * MINUTE_MS for began, each in zip(rounds.began, made, strict=True))
    log = read_rounds(tmp_path)
    assert [each.sentence for each in log.rounds] == ["it was held: a test"] * 3
    assert log.problems == ()
    assert log.rounds[0].prev_sha256 is None
    path = tmp_path / ROUNDS_FILE
    path.write_bytes(path.read_bytes().replace(b"a test", b"a joke", 1))
    assert len(read_rounds(tmp_path).problems) == 2


def test_a_machine_that_was_off_misses_rounds_and_makes_up_for_the_newest(tmp_path):
    """Each missed one is recorded and reported; the newest begins at once, late."""
    clock = Clock(MIDNIGHT_MS)
    Rounds(tmp_path, clock).take(1)
    clock.now_ms = MIDNIGHT_MS + 4 * DAY_MS + 9 * HOUR_MS
    rounds = Rounds(tmp_path, clock)
    gap, made = rounds.take(2)

    assert (gap.outcome, gap.missed, made.outcome) == ("missed", 3, "held")
    assert "3 rounds, due from 2025-10-16T02:00:00Z to 2025-10-18T02:00:00Z, were missed" in gap.sentence
    assert made.due == "2025-10-19T02:00:00Z"
    assert made.notes == ("it began 420 minutes late",)
    assert rounds.reported == ["round-missed", "round-late"]
    assert [each.outcome for each in read_rounds(tmp_path).rounds] == ["held", "missed", "held"]


def test_a_round_that_takes_too_long_costs_those_after_it(tmp_path):
    """Within the process as after a start: every due time is run or missed."""
    clock = Clock(MIDNIGHT_MS)
    rounds = Rounds(tmp_path, clock, Schedule.parse("1h", "00:00"))

    def during(number, _):
        clock.now_ms += 210 * MINUTE_MS if number == 1 else MINUTE_MS

    rounds.during = during
    made = rounds.take(4)

    assert [(each.outcome, each.missed, each.due[11:16]) for each in made] == [
        ("held", 0, "01:00"), ("missed", 2, "03:00"), ("held", 0, "04:00"), ("held", 0, "05:00")
    ]  # fmt: skip


def test_a_failing_round_ends_nothing(tmp_path):
    """Errors and bugs are lines with their exit codes; the next round is tried at its time."""
    clock = Clock(MIDNIGHT_MS)
    rounds = Rounds(tmp_path, clock)

    def during(number, result):
        if number == 1:
            raise SourceError("the exchange is down", hint="try later")
        result.snapshot = "2025-10-16T02-00-00Z"
        if number == 2:
            raise MachineError("the disk\nis full")
        if number == 3:
            raise ZeroDivisionError("a bug")

    rounds.during = during
    made = rounds.take(4)

    assert [(each.outcome, each.exit_code) for each in made] == [
        ("failed", 6),
        ("failed", 8),
        ("failed", 1),
        ("held", 0),
    ]
    assert "failed in taking the snapshot (exit code 6)" in made[0].sentence
    assert made[0].sentence.endswith("the exchange is down; try later")
    assert made[1].sentence.endswith("the disk is full")
    assert "ZeroDivisionError: a bug" in made[2].sentence
    assert rounds.reported == ["round-failed"] * 3


def test_what_follows_a_training_does_not_change_what_it_gave(tmp_path):
    """A promotion stays one, also if removing old files fails."""
    rounds = Rounds(tmp_path, Clock(MIDNIGHT_MS))

    def during(_, result):
        result.outcome, result.sentence = "promoted", "it is live"
        raise ZeroDivisionError("a bug")

    rounds.during = during
    (made,) = rounds.take(1)

    assert (made.outcome, made.exit_code) == ("promoted", 0)
    assert made.notes == ("what follows the training failed (exit code 1): ZeroDivisionError: a bug",)
    assert rounds.reported == []


def test_a_round_that_was_killed_is_made_up_for(tmp_path):
    """It left no line, so that the next start runs it, as it is the newest that is due."""
    clock = Clock(MIDNIGHT_MS)
    Rounds(tmp_path, clock).take(1)
    killed = Rounds(tmp_path, clock)

    def during(*_):
        raise KeyboardInterrupt

    killed.during = during
    with pytest.raises(KeyboardInterrupt):
        killed.take(1)
    clock.now_ms += HOUR_MS
    (made,) = Rounds(tmp_path, clock).take(1)

    assert (made.due, made.outcome) == ("2025-10-16T02:00:00Z", "held")
    assert len(read_rounds(tmp_path).rounds) == 2


def test_a_full_disk_delays_the_lines(tmp_path, monkeypatch):
    """They are written as soon as there is space, in order; one warning says so."""
    rounds = Rounds(tmp_path, Clock(MIDNIGHT_MS))
    write, full = os.write, [True]

    def fail(fd, data):
        if full[0] and b'"sentence"' in bytes(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", fail)
    running = rounds.cycle.run(rounds.clock.wait)
    list(islice(running, 2))
    assert read_rounds(tmp_path) == RoundLog()
    full[0] = False
    next(running)

    assert len(read_rounds(tmp_path).rounds) == 3
    assert sum("a line of the log of rounds waits" in warning for warning in rounds.progress.warnings) == 1


def test_a_clock_that_is_set_back_stops_nothing(tmp_path):
    """By a second: no round twice; by a year: the next round is at its time of then."""
    clock = Clock(MIDNIGHT_MS)
    rounds = Rounds(tmp_path, clock)
    running = rounds.cycle.run(clock.wait)
    first = next(running)
    clock.now_ms = first.due_ms - 1000
    second = next(running)
    assert second.due_ms == first.due_ms + DAY_MS
    clock.now_ms -= 365 * DAY_MS
    assert next(running).due_ms == second.due_ms + DAY_MS - 365 * DAY_MS


def test_one_round_for_cron(tmp_path):
    """The newest that is due; the same again is one by hand; those that cron did not run are missed."""
    clock = Clock(MIDNIGHT_MS + 2 * HOUR_MS + MINUTE_MS)

    def run():
        return [(each.outcome, each.due, each.missed) for each in Rounds(tmp_path, clock).cycle.run_once()]

    assert run() == [("held", "2025-10-15T02:00:00Z", 0)]
    assert run() == [("held", None, 0)]
    clock.now_ms += 2 * DAY_MS
    assert run() == [("missed", "2025-10-16T02:00:00Z", 1), ("held", "2025-10-17T02:00:00Z", 0)]


@pytest.mark.parametrize(
    ("every", "at"), [("24", "02:00"), ("30s", "02:00"), ("5w", "02:00"), ("24h", "2:00"), ("24h", "24:00")]
)
def test_a_wrong_schedule_is_a_usage_error(every, at):
    """Before any round."""
    with pytest.raises(UsageError):
        Schedule.parse(every, at)


def test_slots_share_the_log(tmp_path):
    """Each counts its own rounds."""
    for slot, due in (("lgbm", "2025-10-15T02:00:00Z"), ("other", "2025-10-17T02:00:00Z")):
        append_round(tmp_path, Round(slot, "held", "a test", due, due, due, due))

    assert format_ms(read_rounds(tmp_path).last_due_ms("lgbm")) == "2025-10-15T02:00:00Z"
    assert read_rounds(tmp_path).last_due_ms("none") is None


# They can tell the strong signal: the last move, and where in the quarter-hour it is.
SEEING = {
    "version": 1,
    "label": {"kind": "direction", "horizon": 1, "ties": "drop"},
    "features": [
        {"name": "return_1", "op": "log_return", "params": {"bars": 1}},
        {"name": "quarter", "op": "clock", "params": {"period": "quarter", "wave": "saw"}},
    ],
}


# What happens in the week below, as times from and until which `status --check` has to complain: an exchange that is
# down on the 10th leaves the candles of the 9th, 30 hours are allowed; a machine that is off from then until the 12th
# misses the round of the 11th, which may be six hours late; and no event of the week is ever delivered.
WEEK = (
    ("no-live-version", "2025-10-08T01:00:00Z", "2025-10-08T02:00:00Z"),
    ("candles-old", "2025-10-10T08:00:00Z", "2025-10-12T05:00:00Z"),
    ("round-overdue", "2025-10-11T08:00:00Z", "2025-10-12T05:00:00Z"),
    ("events-waiting", "2025-10-08T03:00:00Z", "2025-10-14T00:00:00Z"),
)


def expect_problems(now_ms):
    """Return the kinds of problems at a time of the week; within half an hour of a change also those after it."""
    at = {kind for kind, start, end in WEEK if parse_time(start) < now_ms <= parse_time(end)}
    near = {kind for kind, *times in WEEK if any(abs(now_ms - parse_time(each)) <= 30 * MINUTE_MS for each in times)}
    return at - near, at | near


def test_a_week_on_the_simulated_exchange(tmp_path):
    """Trainings, a machine that is off for a day, an exchange that is down: every due time has its explanation.

    The status is right at every moment.
    """
    data = tmp_path / "data"
    seen = {}

    def check_status():
        if not data.exists():
            return
        found = {problem.kind for problem in mt.status(data_dir=data, now_ms=clock.now_ms).problems}
        least, most = expect_problems(clock.now_ms)
        assert least <= found <= most, (format_ms(clock.now_ms), found)
        seen[clock.now_ms] = found

    # Wednesday, 2025-10-08, one o'clock.
    clock = Clock(MIDNIGHT_MS - 7 * DAY_MS + HOUR_MS)
    down = Fault("status", endpoint="exchangeInfo", nth=3, times=1, status=451)
    with SimServer(signal="strong", clock_ms=clock.now_ms, faults=[down]) as server:

        def wait(seconds):
            check_status()
            clock.wait(seconds)
            server.set_clock(clock.now_ms)

        def start():
            return mt.cycle(
                every="24h",
                at="02:00",
                source="binance",
                base_url=server.base_url,
                symbols=["BTCUSDT", "ETHUSDT"],
                days=6,
                trials=1,
                features=SEEING,
                config=QUICK,
                workers=1,
                keep_versions=2,
                keep_snapshot_days=1,
                notify="http://127.0.0.1:9/closed",
                notify_secret_file=write_secret(tmp_path),
                data_dir=data,
                progress=Silent(),
                clock=clock,
                wait=wait,
            )

        running = start()
        made = list(islice(running, 3))
        running.close()
        # Off until Sunday morning: the round of Saturday is missed.
        for _ in range(51):
            clock.now_ms += HOUR_MS
            check_status()
        server.set_clock(clock.now_ms)
        running = start()
        made += list(islice(running, 3))
        running.close()

    assert set().union(*seen.values()) == {kind for kind, *_ in WEEK}
    assert [each.due[:10] for each in made] == [f"2025-10-{day:02}" for day in (8, 9, 10, 11, 12, 13)]
    assert [each.outcome for each in made] == ["promoted", "held", "failed", "missed", "held", "held"]
    assert "every gate passed" in made[0].sentence
    assert "was held: not compared with the live version" in made[1].sentence
    assert "failed in taking the snapshot (exit code 6)" in made[2].sentence
    assert "minutes late" in made[4].notes[-1]
    stored = mt.list_models(data_dir=data).models
    trained = [each for each in made if each.version is not None]
    assert [model.version for model in stored] == ["2025-10-08", "2025-10-12", "2025-10-13"]
    assert made[5].notes[0] == "keep_versions 2 removed 2025-10-09"
    assert made[5].notes[1].startswith("keep_snapshot_days 1 removed 2025-10-09T02-")
    assert all(each.version in each.sentence for each in trained)
    assert read_rounds(data).problems == ()
    assert [each.sentence for each in read_rounds(data).rounds] == [each.sentence for each in made]
    kinds = [read_event(path).event.kind for path in list_events(data / EVENTS)]
    assert len(kinds) == len(made) + 1
    assert {"round-failed", "round-missed", "round-late"} <= set(kinds)


CARD = (
    b'{"train": {"label": {"kind": "direction", "horizon_bars": 1, "ties": "drop"}, "interval": "1m", '
    b'"symbols": ["BTCUSDT"]}, "lineage": {"config": {"gates": {"latency_p95_ms": 15.0}}}}'
)


def test_the_live_version_is_scored_on_the_ledger(tmp_path):
    """The answers since its promotion whose outcome is known."""
    from mltrain.api.cycle import _score_live
    from mltrain.monitoring.ledger import LEDGER, Ledger

    store = Store(tmp_path)
    assert _score_live(store) is None
    files = {"lgbm.pkl": b"", "model_card.json": CARD}
    publish_version(store, files, verdict="GO", date=VERSION, now_ms=START_MS)
    promote_version(store, VERSION, why="a test", by="me", now_ms=START_MS)
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.append([row(bar, 0.6, close=100.0 + bar % 3) for bar in range(31)])
        ledger.append([row(31, 0.6, version="other", close=100.0)])

    scores = _score_live(store)
    assert (scores.version, scores.rows) == (VERSION, 30)
    assert scores.mean_p == pytest.approx(0.6)
    assert scores.up_share == pytest.approx(2 / 3)
    assert scores.ece == pytest.approx(2 / 3 - 0.6)
    assert isinstance(scores, LiveScores)
    assert scores.log_loss == pytest.approx(-(2 * math.log(0.6) + math.log(0.4)) / 3)
    assert "30 answers of 2025-10-15 came due" in scores.describe()
