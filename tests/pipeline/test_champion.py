"""The gate against the served version: compared only on rows that it cannot have seen."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from rich.console import Console

from mltrain.card.model_card import ModelCard
from mltrain.cli.evaluate import view_evaluation
from mltrain.gates.gate_evidence import ChampionEvidence, NotApplicable, NotEvaluated, Origin
from mltrain.pipeline.champion import compare_meaning, compare_with_champion, find_origin, open_champion
from mltrain.pipeline.evaluate import evaluate
from mltrain.pipeline.prepare import read_candles
from mltrain.progress import Silent
from mltrain.serving.model import open_model
from mltrain.sources.source_spec import SourceSpec
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import parse_time
from mltrain.training.metrics import row_log_loss
from mltrain.training.samples import take_rows
from support.workshop import NOW_MS, Workshop

NEWER = {"days": 90, "interval": "5m", "end": "2025-10-15T00:00:00Z"}
OLDER = {"days": 60, "interval": "5m", "end": "2025-09-10T00:00:00Z"}


CHAMPION_READS = []


@contextmanager
def record_opens(suffix, found):
    """Append to a list each file of this name that is opened within the block."""
    active = [True]

    def note(event, args):
        if active and event == "open" and str(args[0]).endswith(suffix):
            found.append(args[0])

    sys.addaudithook(note)
    try:
        yield
    finally:
        active.clear()


@pytest.fixture(scope="module")
def rivals(tmp_path_factory):
    """Return a workshop whose champion was trained at an older cut, and the report of a newer training."""
    made = Workshop(tmp_path_factory.mktemp("rivals") / "data")
    champion = made.train(made.snapshot(**OLDER))
    assert champion.promoted
    snapshot = made.snapshot(**NEWER)
    with record_opens(f"{champion.version}/lgbm.pkl", CHAMPION_READS):
        report = made.train(snapshot, promote=False)
    return made, champion, report


def meet(workshop, report, **changes):
    run = report.training
    holdout = take_rows(run.data.samples, run.data.split.holdout.span)
    _, p = open_model(workshop.store.open_version(report.version)).score(holdout.x)
    given = {"feature_set": run.data.feature_set, "holdout": holdout, "config": run.config} | changes
    candles = read_candles(run.data.snapshot, Silent())
    champion = open_champion(workshop.store)
    config, snapshot = given["config"], run.data.snapshot
    return compare_with_champion(
        champion, given["feature_set"], candles, given["holdout"], p=p, config=config, snapshot=snapshot
    )


def test_the_champion_is_compared_on_fresh_rows_only(rivals):
    """The evidence is the paired gain on rows after the champion's last training label."""
    workshop, champion, report = rivals
    run = report.training
    holdout = take_rows(run.data.samples, run.data.split.holdout.span)
    best = open_model(workshop.store.live_version())
    fresh = holdout.ts_ms > ModelCard(best.card).last_label_end_ms()
    _, mine = open_model(workshop.store.open_version(report.version)).score(holdout.x)
    _, theirs = best.score(holdout.x)
    gain = row_log_loss(theirs, holdout.y) - row_log_loss(mine, holdout.y)

    evidence = meet(workshop, report)

    assert isinstance(evidence, ChampionEvidence)
    assert evidence.version == champion.version
    assert evidence.gain.value == pytest.approx(gain[fresh].mean(), abs=1e-15)
    assert evidence.gain.low < evidence.gain.value < evidence.gain.high
    assert evidence.days == np.unique(holdout.ts_ms[fresh] // 86_400_000).size >= 10


def test_rows_that_the_champion_was_trained_on_are_left_out(rivals):
    """The labels of a champion of the same cut end before the holdout."""
    _, _, report = rivals
    card = json.loads((report.folder / "model_card.json").read_bytes())
    run = report.training

    assert ModelCard(card).last_label_end_ms() == int(run.data.samples.label_end_ms[run.data.split.inner.span].max())
    assert ModelCard(card).last_label_end_ms() < run.data.split.holdout.start_ms


def test_few_fresh_days_are_not_compared(rivals):
    """With fewer than ten UTC days after the champion's training, the reason has their number."""
    workshop, _, report = rivals
    run = report.training
    holdout = take_rows(run.data.samples, slice(run.data.split.holdout.stop_row - 500, run.data.split.holdout.stop_row))
    _, p = open_model(workshop.store.open_version(report.version)).score(holdout.x)
    candles = read_candles(run.data.snapshot, Silent())
    evidence = compare_with_champion(
        open_champion(workshop.store),
        run.data.feature_set,
        candles,
        holdout,
        p=p,
        config=run.config,
        snapshot=run.data.snapshot,
    )

    assert isinstance(evidence, NotEvaluated)
    assert "UTC days, fewer than 10" in evidence.reason


def test_another_label_interval_or_a_lost_symbol_is_not_compared(rivals):
    """A champion with another label or interval, or with a symbol that is missing here, is not compared."""
    workshop, _, report = rivals
    run = report.training
    label = dataclasses.replace(run.data.feature_set.label, horizon_bars=2)
    holdout = dataclasses.replace(take_rows(run.data.samples, run.data.split.holdout.span), symbols=("ETHUSDT",))

    assert "label" in meet(workshop, report, feature_set=dataclasses.replace(run.data.feature_set, label=label)).reason
    assert "BTCUSDT" in meet(workshop, report, holdout=holdout).reason


def test_an_added_symbol_is_left_out_of_the_comparison(rivals):
    """Rows of a symbol that the champion does not know do not count."""
    workshop, _, report = rivals
    run = report.training
    holdout = take_rows(run.data.samples, run.data.split.holdout.span)
    other = (np.arange(holdout.ts_ms.size) % 2).astype(np.int16)
    mixed = dataclasses.replace(holdout, symbols=("BTCUSDT", "ETHUSDT"), symbol_ix=other)
    candles = read_candles(run.data.snapshot, Silent())
    candles = {"BTCUSDT": candles["BTCUSDT"], "ETHUSDT": candles["BTCUSDT"]}
    _, p = open_model(workshop.store.open_version(report.version)).score(holdout.x)

    whole = meet(workshop, report)
    half = compare_with_champion(
        open_champion(workshop.store),
        run.data.feature_set,
        candles,
        mixed,
        p=p,
        config=run.config,
        snapshot=run.data.snapshot,
    )

    assert isinstance(whole, ChampionEvidence)
    assert isinstance(half, ChampionEvidence)
    best = open_model(workshop.store.live_version())
    own = (holdout.ts_ms > ModelCard(best.card).last_label_end_ms()) & (other == 0)
    _, theirs = best.score(holdout.x)
    gain = row_log_loss(theirs, holdout.y) - row_log_loss(p, holdout.y)
    assert half.gain.value == pytest.approx(gain[own].mean(), abs=1e-15)
    assert half.gain.value != whole.gain.value


def test_the_meaning_is_that_of_the_version_served(rivals, tmp_path):
    """Equal registries and symbols have no difference; neither has a version without a champion."""
    workshop, _, report = rivals
    run = report.training
    label = dataclasses.replace(run.data.feature_set.label, horizon_bars=2)
    champion, other = open_champion(workshop.store), dataclasses.replace(run.data.feature_set, label=label)

    assert compare_meaning(champion, run.data.feature_set, run.data.samples.symbols, market="spot") == ()
    (found,) = compare_meaning(champion, other, run.data.samples.symbols, market="spot")
    assert "label" in found
    futures = compare_meaning(champion, run.data.feature_set, run.data.samples.symbols, market="usdm")
    assert futures == ("its market is usdm, not spot",)
    assert open_champion(Store(tmp_path)) is None
    assert isinstance(compare_meaning(None, run.data.feature_set, ("BTCUSDT",), market="spot"), NotApplicable)


@pytest.mark.usefixtures("rivals")
def test_a_training_reads_the_champion_once():
    """Gate, meaning and origin use one opened model, so all three are about the same version."""
    assert len(CHAMPION_READS) == 1


def test_without_a_promoted_version_the_gate_does_not_apply(workshop):
    """The first version has no champion."""
    report = workshop.train(workshop.snapshot(), promote=False)
    gate = next(o for o in report.training.verdict.outcomes if o.name == "champion")

    assert gate.outcome == "not applicable"
    assert "nothing is promoted" in gate.reason


def test_a_damaged_champion_is_not_compared(rivals, tmp_path):
    """A champion that cannot be read was not beaten, so the version is held."""
    workshop, champion, report = rivals
    copy = type(workshop)(shutil.copytree(workshop.folder, tmp_path / "data", symlinks=True))
    (copy.store.models / champion.version / "lgbm.pkl").write_bytes(b"damaged")

    assert isinstance(meet(copy, report), NotEvaluated)


def test_the_origin_of_both_is_reported(rivals, tmp_path):
    """The origins of both models' candles come from the snapshot and from the champion's card."""
    workshop, _, report = rivals
    simulated = report.training.data.snapshot
    real = dataclasses.replace(simulated, source=SourceSpec(name="files", folder=tmp_path, interval="5m"))

    assert find_origin(open_champion(workshop.store), simulated) == Origin(simulated=True, champion="simulated")
    assert find_origin(open_champion(workshop.store), real) == Origin(simulated=False, champion="simulated")
    assert find_origin(open_champion(Store(tmp_path)), real) == Origin(simulated=False, champion="none")


def test_the_end_of_the_last_label_is_read_from_the_card():
    """It is that of the inner block, whatever other blocks exist."""
    blocks = [{"name": "holdout"}, {"name": "inner", "last_label_end": "2025-10-15T12:00:00Z"}]

    assert ModelCard({"splits": {"blocks": blocks}}).last_label_end_ms() == parse_time("2025-10-15T12:00:00Z")


def test_an_evaluation_shows_both_in_full(rivals):
    """One table has every score of both with its interval, on rows that neither was trained on."""
    workshop, champion, report = rivals
    version = workshop.store.open_version(report.version)
    assert champion.version == workshop.store.live_version().name != report.version

    found = evaluate(version, report.training.data.snapshot, workshop.store, now_ms=NOW_MS, progress=Silent())
    both = found.champion.side_by_side

    assert both.rows == found.scores.rows
    assert both.ours == found.scores.intervals
    assert both.theirs != both.ours
    assert found.champion.gain.value == pytest.approx(both.theirs.log_loss.value - both.ours.log_loss.value)
    console = Console(file=io.StringIO(), width=200)
    for part in view_evaluation(found):
        console.print(part)
    text = console.file.getvalue()
    assert "Compared with the champion" in text
    assert f"{both.theirs.f1.value:.4f}" in text


def test_a_champion_that_came_during_the_training_is_not_replaced(workshop, monkeypatch):
    """The gates had no champion to compare with when a person promoted one, so the GO is held."""
    first = workshop.train(workshop.snapshot(), promote=False)

    def promote_first(store, *args, **options):
        promote_version(Store(store.data_dir), first.version, why="by hand", by="a person", now_ms=NOW_MS)
        return publish_version(store, *args, **options)

    monkeypatch.setattr("mltrain.pipeline.write_version.publish_version", promote_first)
    report = workshop.train(workshop.snapshot(), seed=7)

    assert report.training.verdict.go
    assert not report.promoted
    assert first.version in report.held
    assert workshop.store.live_version().name == first.version
