"""A barrier label through a whole training, and then served, evaluated and backtested."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import Policy
from mltrain.card.validation import check_card
from mltrain.errors import UsageError
from mltrain.features.spec import LabelSpec
from mltrain.guards.time_split import BlockArrays, time_split
from mltrain.pipeline.backtest import BacktestOptions, run_backtest
from mltrain.pipeline.evaluate import evaluate
from mltrain.pipeline.prepare import split_samples
from mltrain.pipeline.walk_forward import WalkForward
from mltrain.progress import Silent
from mltrain.serving.model import load
from mltrain.times import MINUTE_MS, parse_time
from mltrain.training.samples import build_samples
from support.workshop import NOW_MS, Workshop

LABEL = LabelSpec(kind="barrier", horizon_bars=10, ties="drop", upper=2.0, lower=2.0, volatility_bars=30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with a barrier label."""
    workshop = Workshop(tmp_path_factory.mktemp("barrier") / "data")
    request = workshop.request(workshop.snapshot(), promote=False, uniqueness=True)
    request = dataclasses.replace(request, feature_set=dataclasses.replace(request.feature_set, label=LABEL))
    return workshop, workshop.train_request(request)


@pytest.fixture(scope="module")
def later(trained):
    """Return a snapshot of the days after the training."""
    return trained[0].snapshot(days=2, end="2025-10-22T00:00:00Z")


def test_the_card_says_what_p_means(trained):
    """A valid card has the label's keys, no others, and the meaning of the probability; the gates judged it."""
    _, report = trained
    data = (report.folder / "model_card.json").read_bytes()
    card = json.loads(data)

    assert check_card(data, where="card", folder=report.folder).violations == ()
    assert card["train"]["label"] == {
        "kind": "barrier",
        "horizon_bars": 10,
        "ties": "drop",
        "cost_bps": 0.0,
        "upper": 2.0,
        "lower": 2.0,
        "volatility_bars": 30,
        "timeout": "drop",
    }
    assert (
        "Probability that the upper barrier is touched before the lower one (2 volatilities (of 30 bars) above and 2 "
        "below the close), given that one of them is within 10 bar(s)." in card["notes"]
    )
    assert card["gates"]["verdict"] in {"GO", "NO-GO"}


def test_labels_end_at_their_touch(trained):
    """Ends differ per row, within the horizon, and the last one of a block in the card is that of its rows."""
    _, report = trained
    samples, split = report.training.data.samples, report.training.data.split
    bars = (samples.label_end_ms - samples.ts_ms) // MINUTE_MS

    assert set(bars.tolist()) == set(range(1, 11))
    # Timeouts have no label and are traded: they end at the horizon.
    ties = report.training.data.ties
    assert {10} < set(((ties.label_end_ms - ties.ts_ms) // MINUTE_MS).tolist())
    assert split.embargo_ms == 10 * MINUTE_MS
    assert samples.label_end_ms[split.inner.span].max() + split.embargo_ms < split.holdout.start_ms


def take_blocks(samples, split):
    """Return the pairs of blocks that must be in order, with the samples' ends of labels."""
    pairs = [(split.inner, split.holdout), *((fold.train, fold.valid) for fold in split.folds)]
    return [
        tuple(BlockArrays(b.name, samples.ts_ms[b.span], samples.label_end_ms[b.span]) for b in pair) for pair in pairs
    ]


def test_the_purge_needs_the_true_ends(trained):
    """The training's split passes; one that is planned with ends one bar early, or at the next bar, overlaps."""
    data, config = trained[1].training.data, trained[1].training.config
    samples, step_ms = data.samples, MINUTE_MS
    early_ms = np.maximum(samples.label_end_ms - step_ms, samples.ts_ms + step_ms)
    passed = []
    for end_ms in (samples.label_end_ms, early_ms, samples.ts_ms + step_ms):
        split = split_samples(dataclasses.replace(samples, label_end_ms=end_ms), data.feature_set, config)
        passed.append(time_split(take_blocks(samples, split), embargo_ms=split.embargo_ms).passed)

    assert passed == [True, False, False]


def test_it_serves_and_can_be_evaluated(trained, later):
    """The stored version answers like the trained one, and later candles are scored after its last label's end."""
    workshop, report = trained
    x = report.training.data.samples.x[:500]
    served = load(report.folder / "lgbm.pkl", allow_no_go=True)
    version = workshop.store.open_version(report.version)

    assert served.label == LABEL
    assert np.isfinite(served.predict_proba(x)).all()
    evaluation = evaluate(version, later, workshop.store, now_ms=NOW_MS, progress=Silent())
    inner = report.training.data.split.inner.span
    assert evaluation.learned_until_ms == report.training.data.samples.label_end_ms[inner].max()
    assert evaluation.start_ms > evaluation.learned_until_ms


def test_a_walk_forward_learns_until_a_label_is_late(trained):
    """A fit takes the rows before the first whose label and embargo reach its cut, though later ones ended sooner."""
    workshop, report = trained
    longer, version = workshop.snapshot(days=6, end="2025-10-22T00:00:00Z"), workshop.store.open_version(report.version)
    feature_set = report.training.data.feature_set
    samples, _ = build_samples(feature_set, {s: longer.candles(s) for s in longer.symbols})

    def find_on_time(cut_ms):
        return samples.label_end_ms + 10 * MINUTE_MS < cut_ms

    def find_first_late(cut_ms):
        return next(row for row, is_on_time in enumerate(find_on_time(cut_ms)) if not is_on_time)

    first_ms = parse_time("2025-10-20T12:00:00Z")
    start_ms = next(
        cut_ms
        for cut_ms in range(first_ms, first_ms + 600 * MINUTE_MS, MINUTE_MS)
        if find_on_time(cut_ms)[find_first_late(cut_ms) :].any()
    )
    options = BacktestOptions(
        policy=Policy("threshold", enter=0.5, exit=0.5),
        costs=Costs(participation=None),
        walk_forward=WalkForward(days=2),
        start_ms=start_ms,
    )

    (step,) = run_backtest(version, longer, workshop.store, options, now_ms=NOW_MS, progress=Silent()).result.steps
    assert (step.cut_ms, step.rows) == (start_ms, find_first_late(start_ms))


def test_a_backtest_trades_thresholds_and_refuses_directions(trained, later):
    """A p of one half is not where a barrier label is neutral: policies that need a direction are refused."""
    workshop, report = trained
    version = workshop.store.open_version(report.version)

    def run(policy):
        options = BacktestOptions(policy=policy, costs=Costs(participation=None))
        return run_backtest(version, later, workshop.store, options, now_ms=NOW_MS, progress=Silent())

    assert run(Policy("threshold", enter=0.5, exit=0.5)).result.performance.trades.number > 0
    with pytest.raises(UsageError, match="which barrier is touched first, 2 volatilities"):
        run(Policy("sign"))
