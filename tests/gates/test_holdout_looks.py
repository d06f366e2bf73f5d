"""Earlier looks at a holdout, and which of them make the next one a selection."""

from __future__ import annotations

import pytest

from mltrain.gates.holdout_looks import NEWER_MS, Look, LookCounts, count_looks
from mltrain.times import DAY_MS

OURS, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
START, END = 100 * DAY_MS, 118 * DAY_MS
STUDY = "2025-10-15T12-00-00Z-0123456789abcdef-42"


def look(start=START, end=END, *, study="2025-10-15T12-00-00Z-ffffffffffffffff-42", config=OTHER):
    return Look(start, end, "2025-10-15T12:00:00Z", study, config)


def count(*looks):
    return count_looks(looks, start_ms=START, end_ms=END, study=STUDY, configuration_sha256=OURS)


def test_a_fresh_holdout_was_not_looked_at():
    """Ranges that end before the holdout or start after it do not count."""
    assert count() == LookCounts(0, 0.0, 0.0)
    assert count(look(0, START), look(END, END + DAY_MS)) == LookCounts(0, 0.0, 0.0)


def test_every_other_configuration_counts_by_its_overlap():
    """Half of the range counts one half; two configurations add up."""
    half = look(START - 20 * DAY_MS, START + 9 * DAY_MS, config=THIRD)

    assert count(look(), half) == LookCounts(2, 1.5, 1.5)


def test_a_configuration_counts_once():
    """Another configuration that is retrained every night is one alternative, not eighteen."""
    nightly = [look(START - n * DAY_MS, END - n * DAY_MS) for n in range(18)]

    found = count(*nightly)

    assert found.earlier == 18
    assert found.others == 1.0


def test_routine_retraining_is_no_selection():
    """The same configuration and seed on candles at least half a day older: nothing was chosen."""
    nightly = [look(START - n * DAY_MS, END - n * DAY_MS, config=OURS) for n in range(1, 18)]

    assert count(*nightly).others == 0.0
    assert count(look(START, END - NEWER_MS, config=OURS)).others == 0.0


def test_moving_the_cut_by_minutes_is_trying_again():
    """Each cut within half a day of this one counts, later ones too, even with the same configuration."""
    cuts = [look(START, END - n * 60_000, study=f"cut {n}", config=OURS) for n in range(1, 5)]

    assert count(*cuts).others == pytest.approx(4, abs=0.01)
    assert count(look(START, END + DAY_MS, study="later", config=OURS)).others == 1.0


def test_the_same_study_again_changes_nothing():
    """The same study, repeated after a kill, gives the same scores and does not count."""
    assert count(look(study=STUDY, config=OURS)).others == 0.0


def test_an_evaluation_counts_as_the_configuration_it_evaluated():
    """Evaluating an older version of the same configuration does not count; one of another configuration does."""
    assert count(look(study="evaluate 2025-10-14", config=OURS)).others == 0.0
    assert count(look(study="evaluate 2025-10-14")).others == 1.0
    # The training of that version has its own line.
    assert count(look(study="evaluate 2025-10-14", config=None)).others == 0.0


def test_lines_of_earlier_releases_are_compared_by_the_name_of_the_study():
    """The end of a study's name holds configuration and seed, for lines without a configuration hash."""
    older = "2025-10-10T12-00-00Z-0123456789abcdef-42"
    seed = "2025-10-10T12-00-00Z-0123456789abcdef-43"

    assert count(look(START, END - 5 * DAY_MS, study=older, config=None)).others == 0.0
    assert count(look(study=seed, config=None)).others == 1.0


def test_parameters_from_a_warm_start_have_looked():
    """Rows on which warm-start parameters were chosen count as another configuration, rows that judged them do not."""
    study = f"warm start 2025-10-14 of {STUDY}"

    assert count(look(study=study, config=None)).others == 1.0
    assert count(look(START, END - 5 * DAY_MS, study=study, config=None)).others == pytest.approx(13 / 18)
    assert count(look(study=study, config=OURS)).others == 0.0
