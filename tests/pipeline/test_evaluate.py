"""An evaluation scores no row that the version learned from, and reports the drift since."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError
from mltrain.pipeline.evaluate import OwnHoldout, evaluate, find_own_holdout
from mltrain.progress import Silent
from mltrain.serving.model import open_model
from mltrain.training.drift import find_drift

NOW_MS = 1_760_529_600_000


def test_only_later_candles_are_scored(trained):
    """Every scored row is after the last training label; only a look is written; weeks hold every row."""
    workshop, report = trained
    version = workshop.store.open_version(report.version)
    before = sorted(workshop.folder.rglob("*"))
    looks = workshop.store.looks()
    found = evaluate(version, report.training.data.snapshot, workshop.store, now_ms=NOW_MS, progress=Silent())

    assert found.start_ms > found.learned_until_ms == ModelCard(open_model(version).card).last_label_end_ms()
    # Rows that the embargo kept from both blocks.
    assert 0 <= found.scores.rows - report.training.holdout.scores.rows <= 2
    assert found.scores.after.accuracy == pytest.approx(report.training.holdout.scores.after.accuracy, abs=0.005)
    assert sum(week.rows for week in found.weeks) == found.scores.rows
    assert {d.name for d in found.drift} == set(report.training.data.samples.names)
    assert sorted(workshop.folder.rglob("*")) == before
    assert [(k.start_ms, k.end_ms, k.study) for k in workshop.store.looks()[len(looks) :]] == [
        (found.start_ms, found.end_ms + 60_000, f"evaluate {report.version}")
    ]


def test_the_holdout_of_the_version_is_reported(trained):
    """Rows that the gates have judged are no new evidence: the result and a warning say so."""
    workshop, report = trained
    progress = Silent()
    version = workshop.store.open_version(report.version)
    found = evaluate(version, report.training.data.snapshot, workshop.store, now_ms=NOW_MS, progress=progress)
    holdout = report.training.data.split.holdout

    assert found.own_holdout == OwnHoldout(holdout.rows, holdout.start_ms, holdout.end_ms)
    assert any("own holdout" in warning for warning in progress.warnings)
    assert found.skill_percent == 100 * found.scores.comparison.log_loss_skill.value


@pytest.mark.parametrize(
    ("times", "rows"), [([0, 1], None), ([5, 9], 2), ([9, 10, 11], 1), ([4, 5, 6], 2), ([10], None), ([], None)]
)
def test_an_overlap_is_counted(times, rows):
    """Both ends of the holdout belong to it."""
    block = {"name": "holdout", "start": "1970-01-01T00:00:05Z", "end": "1970-01-01T00:00:09Z"}
    card = ModelCard({"splits": {"blocks": [{"name": "inner"}, block]}})
    found = find_own_holdout(card, np.array(times, np.int64) * 1000)

    assert found == (None if rows is None else OwnHoldout(rows, 5000, 9000))


def test_a_snapshot_without_later_candles_is_refused(trained):
    """The message has the end of the version's training."""
    workshop, report = trained
    older = workshop.snapshot(days=1, end="2025-06-01T00:00:00Z")
    version, looks = workshop.store.open_version(report.version), workshop.store.looks()
    with pytest.raises(InputError, match="no candle later than"):
        evaluate(version, older, workshop.store, now_ms=NOW_MS, progress=Silent())

    assert workshop.store.looks() == looks


def test_drift_is_found_where_it_is():
    """A shifted feature has drifted; one that varies between days anyway has not."""
    rng = np.random.default_rng(4)
    ts_ms = np.arange(40 * 288) * 300_000
    later = ts_ms >= 30 * 86_400_000
    restless = np.repeat(rng.normal(size=40), 288) + rng.normal(size=ts_ms.size) * 0.1
    x = np.stack([rng.normal(size=ts_ms.size) + later * 0.5, restless], axis=1).astype(np.float32)
    shifted, moody = sorted(find_drift(x, ts_ms, later=later, names=("shifted", "moody"), seed=1),
                            key=lambda d: d.name, reverse=True)  # fmt: skip

    assert shifted.drifted
    assert shifted.effect > 0.15 > shifted.null_p95
    assert moody.null_p95 > 0.2
