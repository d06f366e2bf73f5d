"""What an earlier version gives a training, and that it can be made again from its card."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mltrain.config import load_config
from mltrain.errors import InputError
from mltrain.files import sha256_bytes
from mltrain.learn.search import Manner
from mltrain.models.record import last_label_end_ms
from mltrain.models.serve import load
from mltrain.pipeline.audit import read_candles
from mltrain.pipeline.versions import Retraining, read_warm_start, retrain_version
from mltrain.progress import Silent


def card_of(report):
    return json.loads((report.folder / "model_card.json").read_bytes())


def made_again(workshop, report):
    return retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=Silent())


def test_a_version_is_made_again_from_its_card(trained):
    """No search, no clock: the same lgbm.pkl to the last byte, and nothing is written."""
    workshop, report = trained
    before = sorted(workshop.folder.rglob("*"))
    again = made_again(workshop, report)

    assert again.same
    assert again.found_sha256 == report.model_sha256
    assert again.differences == ()
    assert sorted(workshop.folder.rglob("*")) == before


def test_a_version_whose_search_ran_out_of_time_is_made_again(trained):
    """Its card names the trials that were told and what ended them; the model needs none of it."""
    workshop, first = trained
    options = {"search.trials": 50, "seed": 11}
    report = workshop.train(
        first.training.snapshot, promote=False, manner=Manner(workers=1, timeout_s=0.001), **options
    )
    search = card_of(report)["search"]

    assert (search["ended_by"], search["trials"], search["trials_asked_for"]) == ("timeout", 1, 50)
    assert made_again(workshop, report).same


def test_one_other_byte_is_another_model():
    """Only equal hashes are the same model; of any other, what differs besides is told, too."""
    assert Retraining("a" * 64, "a" * 64, ("the ops differ",)).problems == ()
    other = Retraining("a" * 64, "b" * 64, ("the ops differ",))
    assert not other.same
    assert other.problems[1:] == ("the ops differ",)


def test_a_snapshot_that_is_gone_is_said(trained, tmp_path):
    """Without the candles nothing can be made again; the message names them."""
    workshop, report = trained
    version = workshop.store.open_version(report.version)
    with pytest.raises(InputError, match=report.training.snapshot.id):
        retrain_version(version, tmp_path, progress=Silent())


def test_a_warm_start_is_the_second_trial_and_recorded(trained):
    """Its parameters come right after the defaults; card and looks tell of it, and the study is another one."""
    workshop, first = trained
    version = workshop.store.open_version(first.version)
    tuned = {"search.space.num_leaves.low": 5, "search.space.num_leaves.high": 9, "search.space.num_leaves.default": 7}
    config = load_config(None, overrides=tuned)
    warm = read_warm_start(version, config.search)
    looks = len(workshop.store.looks())
    report = workshop.train(first.training.snapshot, promote=False, warm_start=warm, **tuned)

    assert warm.params["num_leaves"] == min(max(card_of(first)["hyperparameters"]["num_leaves"], 5), 9)
    assert dict(report.training.search.trials[1].params) == warm.params
    assert card_of(report)["search"]["warm_start"] == {
        "version": first.version,
        "card_sha256": version.card_sha256,
        "params": warm.params,
    }
    assert len(workshop.store.looks()) == looks + 2
    assert card_of(report)["looks"]["earlier"] == looks + 1
    cold = workshop.train(first.training.snapshot, promote=False, **tuned)
    assert cold.training.study != report.training.study
    assert made_again(workshop, report).same


def test_the_model_of_everything_has_its_twins_figures(trained):
    """`final="all"`: other trees, the same calibrator and rounds; card and champion's rows tell of it."""
    workshop, first = trained
    report = workshop.train(first.training.snapshot, promote=False, final="all")
    ours, theirs = card_of(report), card_of(first)
    split = report.training.split

    assert report.model_sha256 != first.model_sha256
    assert ours["metrics"] == theirs["metrics"]
    assert ours["calibration"] == theirs["calibration"]
    assert ours["hyperparameters"] == theirs["hyperparameters"]
    assert (ours["splits"]["fitted_on"], theirs["splits"]["fitted_on"]) == ("all", "inner")
    assert "twin" in ours["notes"]
    assert "twin" not in theirs["notes"]
    assert last_label_end_ms(theirs) < split.holdout.start_ms
    assert last_label_end_ms(ours) == report.training.samples.label_end_ms[split.holdout.span].max()
    assert made_again(workshop, report).same
    served = load(report.folder / "lgbm.pkl", allow_no_go=True).predict_candles(
        read_candles(report.training.snapshot, Silent()), rows="all"
    )
    assert np.isfinite(served["p"].drop_nulls().to_numpy()).all()
    assert sha256_bytes((report.folder / "lgbm.pkl").read_bytes()) == report.model_sha256


def test_the_newest_rows_are_a_snapshot_of_their_own(trained):
    """`max_rows` takes the newest candles; the study and the card know, and the model is made again."""
    workshop, first = trained
    report = workshop.train(first.training.snapshot, promote=False, max_rows=4_000)

    assert sum(q.candles for q in report.training.quality) == 4_000
    assert report.training.study != first.training.study
    assert report.training.split.holdout.end_ms == first.training.split.holdout.end_ms
    assert made_again(workshop, report).same
