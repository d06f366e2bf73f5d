"""The two logs: the pointer decides what happened, edits are detected, torn ends are ignored."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mltrain.errors import InputError
from mltrain.gates.holdout_looks import Look
from mltrain.store.history import (
    Attribution,
    check_history,
    look_line,
    promotion_line,
    read_looks,
    read_promotions,
)

NAMES = ["2025-10-14", "2025-10-15", "2025-10-15.2", "2025-10-16"]
CARD = "ab" * 32
NOON_MS = 1_760_529_600_000


def read_history(log, *, best, staged=None, where="log", slot="lgbm"):
    """Return the history of a slot in the bytes of a log."""
    return check_history(read_promotions(log, where=where), slot, best=best, staged=staged, where=where)


def append(log, from_version, to_version, why="why", slot="lgbm"):
    """Return the log with one more line."""
    attribution = Attribution(why, "me@host", NOON_MS)
    line = promotion_line(
        log,
        slot=slot,
        from_version=from_version,
        to_version=to_version,
        verdict="GO",
        card_sha256=CARD,
        attribution=attribution,
    )
    return log + line.encode() + b"\n"


def grown(moves):
    """Return a log and the live version after moves, some of them interrupted before the pointer moved."""
    log, best = b"", None
    for target, happens in moves:
        if target != best:
            log = append(log, best, target)
            best = target if happens else best
    return log, best


TIMES = st.integers(0, 2**50)
LOOKS = st.builds(Look, TIMES, TIMES, st.just("2025-10-15T12:00:00Z"), st.text("ab-", max_size=9))
MOVES = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=12)


@given(MOVES)
def test_the_pointer_shows_which_lines_happened(moves):
    """Moves that were interrupted between line and pointer are marked as not happened."""
    log, best = grown(moves)
    expected, at = [], None
    for target, happens in moves:
        if target != at:
            expected.append(happens)
            at = target if happens else at
    history = read_history(log, best=best, staged=moves[-1][0] if moves and best is None else None, where="log")

    assert [entry.happened for entry in history.entries] == expected
    assert (history.lost, history.problems, history.notes) == (None, (), ())


@given(MOVES.filter(lambda moves: any(happens for _, happens in moves)), st.sampled_from([None, *NAMES]))
def test_a_lost_pointer_keeps_every_line(moves, staged):
    """Whether the last line happened is then unknown, and it counts as if it had."""
    log, best = grown(moves)
    before = read_history(log, best=best, where="log")
    # A log of nothing but first promotions and a staged pointer to one of them: one that was interrupted, not a loss.
    assume(
        any(e.from_version is not None for e in before.entries) or staged not in {e.to_version for e in before.entries}
    )
    lost = read_history(log, best=None, staged=staged, where="log")

    assert [e.happened for e in lost.entries[:-1]] == [e.happened for e in before.entries[:-1]]
    assert lost.entries[-1].happened
    assert lost.lost == lost.entries[-1].to_version
    assert lost.problems == (f"log: {lost.lost} was the live version, and the pointer to it is missing",)


@given(MOVES.filter(lambda moves: any(happens for _, happens in moves)), st.sampled_from(NAMES))
def test_a_restored_pointer_is_no_move(moves, target):
    """A line from a version to itself does not change `previous`; any other line does."""
    log, _ = grown([move for move in moves if move[1]])
    before = read_history(log, best=None, where="log").lost
    previous = read_history(log, best=before, where="log").previous()
    after = read_history(append(log, before, target), best=target, where="log")

    assert all(entry.happened for entry in after.entries)
    assert after.problems == ()
    assert after.previous() == (previous if target == before else before)


@given(MOVES)
def test_previous_is_where_the_last_real_move_came_from(moves):
    """Moves that never happened do not count."""
    log, best = grown(moves)
    path = [None]
    for target, happens in moves:
        if happens and target != path[-1]:
            path.append(target)

    assert read_history(log, best=best, where="log").previous() == (path[-2] if len(path) > 1 else None)


def test_an_interrupted_first_promotion_is_not_a_lost_pointer():
    """A staged pointer shows that the pointer was never in place."""
    log = append(append(b"", None, "2025-10-14"), None, "2025-10-15")

    for staged in ("2025-10-14", "2025-10-15"):
        history = read_history(log, best=None, staged=staged, where="log")
        assert [entry.happened for entry in history.entries] == [False, False]
        assert (history.lost, history.problems) == (None, ())
    assert read_history(log, best=None, staged="2025-10-16", where="log").lost == "2025-10-15"


@given(MOVES.filter(bool), st.data())
def test_a_torn_end_is_ignored(moves, data):
    """A log cut anywhere in its last line reads as without that line, with a note."""
    log, best = grown(moves)
    whole = log[: log.rstrip(b"\n").rfind(b"\n") + 1]
    cut = data.draw(st.integers(len(whole) + 1, len(log) - 1))
    torn = read_history(log[:cut], best=best, where="log")
    without = read_history(whole, best=best, where="log")

    assert (torn.entries, torn.problems) == (without.entries, without.problems)
    assert len(torn.notes) == 1


@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6), st.data())
def test_any_edit_before_the_last_line_is_detected(targets, data):
    """Changed, removed or swapped lines break the chain."""
    log, best = grown([(target, True) for target in [*targets, *NAMES]])
    lines = log.splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 2))
    edited = [*lines[:index], lines[index].replace(b'"why":"why"', b'"why":"because"'), *lines[index + 1 :]]
    removed = lines[:index] + lines[index + 1 :]
    swapped = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]

    for forged in (edited, removed, swapped):
        assert read_history(b"".join(forged), best=best, where="log").problems


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"serial": NaN}',
        b"[" * 100_000,
        b'"' + b"x" * 70_000 + b'"',
        b"\xff",
        b'{"to": "../../etc"}',
    ],
)
def test_a_damaged_line_is_a_problem_and_the_others_are_read(line):
    """The other lines are read, so that a rollback stays possible."""
    log, best = grown([("2025-10-14", True), ("2025-10-15", True)])
    history = read_history(log + line + b"\n", best=best, where="promotions.jsonl")

    assert [entry.to_version for entry in history.entries] == ["2025-10-14", "2025-10-15"]
    assert history.was_promoted("2025-10-14", CARD)
    assert history.problems[0].startswith("promotions.jsonl: line 3: ")
    assert len(history.problems[0]) < 2_000


@pytest.mark.parametrize("name", ["../x", "best", "2025-10-15\n", ""])
def test_a_name_outside_its_grammar_is_no_entry(name):
    """No name from the log becomes a path unchecked."""
    line = json.loads(append(b"", None, "2025-10-15"))
    line["to"] = name
    history = read_history(json.dumps(line).encode() + b"\n", best=None, where="log")

    assert history.entries == ()
    assert history.problems


def test_versions_of_one_name_are_distinguished():
    """By the hash of the card."""
    log, best = grown([("2025-10-15", True)])
    history = read_history(log, best=best, where="log")

    assert history.was_promoted("2025-10-15", CARD)
    assert not history.was_promoted("2025-10-15", "cd" * 32)
    assert not history.was_promoted("2025-10-15.2", CARD)


@pytest.mark.parametrize("log", [b"", grown([("2025-10-14", True)])[0]])
def test_a_pointer_without_its_line_is_a_problem(log):
    """Someone moved it by hand, or the log is gone; the version before is then not known."""
    history = read_history(log, best="2025-10-16", where="log")

    assert history.problems == ("log: no line says how 2025-10-16 became the live version",)
    assert history.previous() is None


def test_a_line_records_every_field():
    """Serial, chain, time, both versions, verdict, reason, person and card, as one line of ASCII."""
    log = append(append(b"", None, "2025-10-14"), "2025-10-14", "2025-10-15", why="läuft\nbesser")
    line = json.loads(log.splitlines()[1])

    assert line["serial"] == 2
    assert (line["from"], line["to"], line["when"]) == ("2025-10-14", "2025-10-15", "2025-10-15T12:00:00Z")
    assert (line["verdict"], line["why"], line["by"], line["card_sha256"]) == ("GO", "läuft\nbesser", "me@host", CARD)
    assert log.isascii()
    assert len(log.splitlines()) == 2


@pytest.mark.parametrize("old", [b"why", b"me@host", b"2025-10-15T12", b"GO", b'"serial"', b"abab"])
def test_a_changed_last_line_is_detected(old):
    """By its own hash; no later line holds one."""
    log, best = grown([("2025-10-14", True), ("2025-10-15", True)])
    start = log.rstrip(b"\n").rfind(b"\n") + 1
    at = log.rindex(old, start)
    forged = log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]

    assert read_history(log, best=best, where="log").problems == ()
    assert read_history(forged, best=best, where="log").problems


def log_of(looks):
    """Return a log of looks."""
    log = b""
    for look in looks:
        log += look_line(log, look).encode() + b"\n"
    return log


@given(st.lists(LOOKS, min_size=2, max_size=5), st.data())
def test_a_changed_or_removed_look_is_an_error(looks, data):
    """Except the last one, whose removal is not detected."""
    log = log_of(looks)
    lines = log.splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 2))
    at = data.draw(st.integers(0, len(log) - 2))
    changed = log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]

    for forged in (b"".join(lines[:index] + lines[index + 1 :]), changed):
        with pytest.raises(InputError, match="looks: line"):
            read_looks(forged, where="looks")


@given(st.lists(LOOKS))
def test_looks_come_back_as_they_were(looks):
    """`read_looks` returns what `look_line` wrote; a torn end is ignored."""
    log = log_of(looks)

    assert read_looks(log, where="looks") == tuple(looks)
    assert read_looks(log + b'{"start', where="looks") == tuple(looks)


def test_a_damaged_look_is_an_error():
    """The number of looks is never guessed."""
    with pytest.raises(InputError, match="looks: line 1: "):
        read_looks(b'{"start_ms": 1}\n', where="looks")
