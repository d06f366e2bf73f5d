"""Labels and weights other than the packaged ones, through a whole training and back from its card."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mltrain.card.validation import check_card
from mltrain.features.spec import LabelSpec
from mltrain.pipeline.retrain import retrain_version
from mltrain.pipeline.train import train_anew
from mltrain.progress import Silent
from mltrain.serving.model import load
from support.workshop import NOW_MS, Workshop

LABEL = LabelSpec(kind="threshold", horizon_bars=3, ties="drop", cost_bps=2.0)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Train with a threshold label, three bars ahead, and with row weights."""
    workshop = Workshop(tmp_path_factory.mktemp("other") / "data")
    request = workshop.request(workshop.snapshot(), promote=False, class_weight=4.0, uniqueness=True)
    request = dataclasses.replace(request, feature_set=dataclasses.replace(request.feature_set, label=LABEL))
    return workshop, train_anew(request, workshop.store, now_ms=NOW_MS, progress=Silent())


def test_the_card_has_label_and_weights(report):
    """A valid card has the label, the weights and their effect."""
    _, report = report
    data = (report.folder / "model_card.json").read_bytes()
    card = json.loads(data)

    assert check_card(data, where="card", folder=report.folder).violations == ()
    label = {"kind": "threshold", "horizon_bars": 3, "ties": "drop", "cost_bps": 2.0}
    assert {key: card["train"]["label"][key] for key in label} == label
    assert card["lineage"]["config"]["class_weight"] == 4.0
    assert "higher by more than 2 bps after 3 bar(s), given that it moves by more than 2 bps." in card["notes"]
    assert "counted 4 times in fits" in card["notes"]
    assert "overlap in time counted less" in card["notes"]


def test_weights_do_not_bias_probabilities(report):
    """Ups counted four times, yet the mean p is their share; also when served from disk."""
    _, report = report
    run = report.training
    rows = run.data.split.holdout.span
    p = load(report.folder / "lgbm.pkl", allow_no_go=True).predict_proba(run.data.samples.x[rows])[:, 1]

    assert p.mean() == pytest.approx(run.data.samples.y[rows].mean(), abs=0.05)
    assert run.holdout.scores.before.log_loss < run.holdout.scores.baselines.base_rate_log_loss


def test_it_can_be_made_again_from_its_card(report):
    """Label and weights come from card and model, and give the same bytes."""
    workshop, report = report

    again = retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=Silent())
    assert again.problems == ()
