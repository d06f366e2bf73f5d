"""The training as a whole: repeatable, blind to the holdout, and recomputable from its files."""

from __future__ import annotations

import dataclasses
import json
import warnings

import lightgbm
import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.card.model_card import ModelCard
from mltrain.card.training_results import TrainingData
from mltrain.card.validation import check_card
from mltrain.config.loading import load_config
from mltrain.errors import InputError, LockedError
from mltrain.features.computation import compute_features
from mltrain.features.registry import load_registry
from mltrain.pipeline.plan import plan_training
from mltrain.pipeline.prepare import read_candles, split_samples
from mltrain.pipeline.retrain import find_same_version, retrain_version
from mltrain.pipeline.train import fit_model
from mltrain.pipeline.walk_forward import WalkForward, score_walk_forward
from mltrain.progress import Silent
from mltrain.report.texts import list_commands
from mltrain.serving.fast_row import SlowPathWarning
from mltrain.serving.model import load, model_from_bundle
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.locks import hold_lock
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange, parse_time
from mltrain.training.metrics import row_log_loss, score
from mltrain.training.samples import build_samples_and_ties
from mltrain.training.search import ExecutionOptions
from support.workshop import Workshop

IN_PROCESS = ExecutionOptions(workers=1)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def card_of(report):
    return json.loads((report.folder / "model_card.json").read_bytes())


def test_a_second_training_makes_the_same_model(trained):
    """Same snapshot, configuration and seed: the same bytes of `lgbm.pkl`, in a new version."""
    workshop, first = trained
    second = workshop.train(first.training.data.snapshot, promote=False)

    assert second.version != first.version
    assert second.model_sha256 == first.model_sha256
    assert (second.folder / "trials.parquet").read_bytes() == (first.folder / "trials.parquet").read_bytes()
    assert (second.folder / "holdout.parquet").read_bytes() == (first.folder / "holdout.parquet").read_bytes()


def test_another_seed_makes_another_model(trained):
    """The seed reaches the boosters, so the equal bytes above are no constant."""
    workshop, first = trained
    bagged = {"search.space.bagging_fraction.low": 0.5, "search.space.bagging_fraction.high": 0.5}
    bagged |= {"search.space.bagging_fraction.default": 0.5}
    one = workshop.train(first.training.data.snapshot, promote=False, seed=7, **bagged)
    other = workshop.train(first.training.data.snapshot, promote=False, seed=8, **bagged)

    assert one.model_sha256 != other.model_sha256


def test_poisoned_holdout_rows_change_no_byte_of_the_model(trained, tmp_path):
    """With garbage features and inverted labels in the holdout, lgbm.pkl is the same."""
    _, report = trained
    run = report.training
    clean, split = run.data.samples, run.data.split
    x, y = clean.x.copy(), clean.y.copy()
    rows = split.holdout.span
    x[rows] = np.random.default_rng(0).normal(0, 1e6, x[rows].shape).astype(np.float32)
    y[rows] = 1 - y[rows]
    poisoned = dataclasses.replace(clean, x=x, y=y)

    data = dataclasses.replace(run.data, samples=poisoned)
    model = fit_model(data, run.config, journal=tmp_path / "study.journal", execution=IN_PROCESS, progress=Silent())

    assert model.served.to_bytes() == (report.folder / "lgbm.pkl").read_bytes()


def test_the_card_is_valid_and_its_figures_come_from_the_stored_holdout(trained):
    """Every metric, also per symbol, can be recomputed from holdout.parquet only."""
    _, report = trained
    card = card_of(report)
    check = check_card((report.folder / "model_card.json").read_bytes(), where="card", folder=report.folder)
    table = pl.read_parquet(report.folder / "holdout.parquet").drop_nulls("y")
    again = dataclasses.asdict(score(table["p"].to_numpy(), table["y"].to_numpy()))

    assert check.violations == ()
    assert check.warnings == ()
    assert card["metrics"]["rows"] == table.height
    for name, value in again.items():
        assert card["metrics"]["calibration_ece" if name == "ece" else name] == value
        assert card["metrics"]["per_symbol"]["BTCUSDT"]["metrics"][name] == value
    assert card["train"]["class_balance"]["pos"] + card["train"]["class_balance"]["neg"] == card["train"]["rows"]


def test_the_stored_model_gives_the_stored_probabilities(trained):
    """The loaded model gives the probabilities of the holdout table for the snapshot's candles, bit for bit.

    Also those of candles whose label was dropped as a tie.
    """
    workshop, report = trained
    model = load(workshop.store.models / "best_lgbm.pkl")
    candles = read_candles(report.training.data.snapshot, Silent())

    served = model.predict_candles(candles, rows="all").filter(pl.col("refused").is_null())
    table = pl.read_parquet(report.folder / "holdout.parquet")
    both = table.join(served, on=["ts", "symbol"], suffix="_served", validate="1:1")

    assert both.height == table.height
    assert both["p"].equals(both["p_served"], check_names=False)
    assert both["raw"].equals(both["raw_served"], check_names=False)


def test_scores_are_stored_with_forward_returns(trained):
    """The label is the sign of the forward return, and the stored out-of-fold log loss is the search's."""
    _, report = trained
    run = report.training
    candles = read_candles(run.data.snapshot, Silent())["BTCUSDT"].sort("ts")
    after = candles.select(
        "ts",
        close_bps=(pl.col("close").shift(-1) / pl.col("close") - 1) * 1e4,
        open_bps=(pl.col("close").shift(-1) / pl.col("open").shift(-1) - 1) * 1e4,
    )
    tables = {name: pl.read_parquet(report.folder / f"{name}.parquet") for name in ("oof", "holdout")}

    for table in tables.values():
        both = table.join(after, on="ts", how="left", validate="1:1", maintain_order="left")
        assert both["forward_bps"].to_numpy() == pytest.approx(both["close_bps"].to_numpy(), abs=1e-9)
        assert both["forward_open_bps"].to_numpy() == pytest.approx(both["open_bps"].to_numpy(), abs=1e-9)
        labelled = table.drop_nulls("y")
        assert ((labelled["forward_bps"] > 0) == (labelled["y"] == 1)).all()
    oof = tables["oof"].drop_nulls("y")
    loss = row_log_loss(oof["raw"].to_numpy(), oof["y"].to_numpy())
    by_fold = pl.DataFrame({"fold": oof["fold"], "loss": loss}).group_by("fold").agg(pl.col("loss").mean())
    assert by_fold["loss"].mean() == pytest.approx(run.model.search.best.loss, abs=1e-6)
    assert oof["p"].to_list() == run.model.calibration.calibrator.apply(oof["raw"].to_numpy()).tolist()
    every_oof = tables["oof"]
    assert every_oof["p"].to_list() == run.model.calibration.calibrator.apply(every_oof["raw"].to_numpy()).tolist()
    valid = {b["name"]: b for b in card_of(report)["splits"]["blocks"]}
    for (fold,), rows in oof.group_by("fold"):
        block = valid[f"fold {fold} validation"]
        assert rows.height == block["rows"]
        assert parse_time(block["start"]) == times_ms(rows).min()


def test_dropped_ties_are_stored_without_a_label(trained):
    """In the range of their block, each candle with features and an unchanged close has a row without `y`."""
    _, report = trained
    run = report.training
    candles = read_candles(run.data.snapshot, Silent())["BTCUSDT"].sort("ts")
    features = compute_features(run.data.feature_set, "BTCUSDT", {"BTCUSDT": candles}).drop_nulls()
    unchanged = candles.filter(pl.col("close").shift(-1) == pl.col("close")).join(features, on="ts", how="semi")
    tables = {name: pl.read_parquet(report.folder / f"{name}.parquet") for name in ("oof", "holdout")}
    blocks = {b["name"]: b for b in card_of(report)["splits"]["blocks"]}
    parts = {"holdout": tables["holdout"]}
    parts |= {f"fold {k} validation": tables["oof"].filter(pl.col("fold") == k) for k in range(1, 6)}

    for name, table in parts.items():
        ties = table.filter(pl.col("y").is_null())
        opened = pl.Series(times_ms(unchanged))
        expected = unchanged.filter(
            opened.is_between(parse_time(blocks[name]["start"]), parse_time(blocks[name]["end"]))
        )
        assert ties["ts"].to_list() == expected["ts"].to_list()
        assert (ties["forward_bps"] == 0).all()
        assert table["ts"].is_sorted()
        assert table.drop("y").null_count().sum_horizontal().item() == 0
    assert sum(table["y"].null_count() for table in parts.values()) > 50


def test_the_economics_can_be_computed_from_the_stored_holdout(trained):
    """Mean moves and break-even cost equal those of a plain loop over all rows of holdout.parquet, ties included."""
    _, report = trained
    economics = card_of(report)["economics"]
    rows = pl.read_parquet(report.folder / "holdout.parquet").to_dicts()
    earned = [(1 if row["p"] > 0.5 else -1) * row["forward_open_bps"] for row in rows]
    traded, position = 0, 0
    for row in rows:
        side = 1 if row["p"] > 0.5 else -1
        traded += abs(side - position)
        position = side

    assert economics["break_even"]["value"] == pytest.approx(sum(earned) / traded, rel=1e-9)
    assert economics["break_even"]["low"] < economics["break_even"]["value"] < economics["break_even"]["high"]
    assert sum(part["rows"] for part in economics["by_confidence"]) == len(rows)
    ranked = sorted(zip([abs(row["p"] - 0.5) for row in rows], earned, strict=True))
    start = 0
    for part in economics["by_confidence"]:
        fifth = ranked[start : start + part["rows"]]
        start += part["rows"]
        assert part["confidence"] == pytest.approx(sum(c for c, _ in fifth) / len(fifth), rel=1e-9)
        assert part["move_bps"]["value"] == pytest.approx(sum(e for _, e in fifth) / len(fifth), rel=1e-9)
        assert start == len(rows) or ranked[start - 1][0] < ranked[start][0]
    assert [part["name"] for part in economics["by_volatility"]] == ["calm", "ordinary", "wild"]
    assert (
        f"ot tradable at taker fees of 10 bps per side: it breaks even at {economics['break_even']['value']:.2f}"
        in (card_of(report)["notes"])
    )


def test_a_strong_signal_is_promoted_and_logged(trained):
    """GO moves the pointer; the log has from, to and why; the look was recorded."""
    workshop, report = trained
    (entry,) = workshop.store.history().entries
    looks = workshop.store.looks()

    assert report.promoted
    assert (entry.from_version, entry.to_version, entry.by) == (None, report.version, "the test")
    assert looks[0].start_ms == report.training.data.split.holdout.start_ms
    assert report.version == "2025-10-20"


def test_no_signal_is_a_no_go(workshop):
    """A market without a signal fails the skill gate; the version is kept and not promoted."""
    report = workshop.train(workshop.snapshot(signal="none"))

    assert report.training.verdict.word == "NO-GO"
    assert "skill" in {o.name for o in report.training.verdict.failed}
    assert not report.promoted
    assert workshop.store.live_version() is None
    assert report.folder.is_dir()


def test_a_second_look_at_a_holdout_is_counted(trained):
    """Scoring the same range with another seed reports the earlier look, and raises the margin."""
    workshop, first = trained
    before = len(workshop.store.looks())
    again = workshop.train(first.training.data.snapshot, promote=False, seed=7)
    card = card_of(again)

    assert card["looks"]["earlier"] == card["looks"]["weighted"] == before
    assert 1 <= card["looks"]["others"] <= before
    assert "raised for" in card["gates"]["outcomes"][0]["target"]


def test_too_short_a_snapshot_says_how_many_days_and_changes_nothing(workshop):
    """It is refused before any file is written, with a remedy."""
    snapshot = workshop.snapshot(days=1)
    before = tree(workshop.folder)
    with pytest.raises(InputError) as caught:
        workshop.train(snapshot)

    assert "days" in caught.value.hint
    assert tree(workshop.folder) == before


def test_one_study_is_trained_once_at_a_time(trained):
    """A second training of the same study is refused at once, and does not touch the journal."""
    workshop, first = trained
    study = first.training.provenance.study
    before = tree(workshop.folder / "studies")
    with (
        hold_lock(workshop.folder / "studies" / f"{study}.lock", wait_s=0, purpose="the test"),
        pytest.raises(LockedError),
    ):
        workshop.train(first.training.data.snapshot)
    after = tree(workshop.folder / "studies")

    assert {k: v for k, v in before.items() if not k.endswith(".lock")} == {
        k: v for k, v in after.items() if not k.endswith(".lock")
    }


def test_the_card_has_the_holdout_in_parts(trained):
    """Weeks hold every row, terciles at most every row; selection optimism and the simple model are recorded."""
    _, report = trained
    card = card_of(report)
    metrics, optimism = card["metrics"], card["search"]["selection_optimism"]
    gap = optimism["out_of_fold_skill"] - optimism["holdout_skill"]

    assert sum(week["rows"] for week in metrics["per_week"]) == metrics["rows"]
    assert 0 < sum(part["rows"] for part in metrics["per_volatility"]) <= metrics["rows"]
    assert [part["name"] for part in metrics["per_volatility"]] == ["calm", "ordinary", "wild"]
    assert optimism["out_of_fold_minus_holdout"] == pytest.approx(gap)
    assert optimism["best_minus_median"] <= 0
    assert 0.4 < card["baselines"]["logistic"]["accuracy"] < 0.7
    assert card["gates"]["loosened"] == []


def test_a_loosened_gate_is_recorded(trained):
    """The card lists it in its notes and gates; the verdict uses the looser threshold."""
    workshop, first = trained
    report = workshop.train(first.training.data.snapshot, promote=False, **{"gates.ece_max": 0.5})
    card = card_of(report)

    assert card["gates"]["loosened"] == [{"name": "ece_max", "packaged": 0.1, "used": 0.5}]
    assert "The gate ece_max was loosened: 0.5 instead of 0.1." in card["notes"]


def test_the_economics_gate_is_judged_if_it_is_on(trained):
    """A break-even cost below the threshold is a NO-GO; the model and all other figures are as without the gate."""
    workshop, first = trained
    asked = {"gates.break_even_bps": 10.0, "economics.taker_bps": 0.01}
    judged = workshop.train(first.training.data.snapshot, promote=False, **asked)
    card, before = card_of(judged), card_of(first)
    (gate,) = (o for o in card["gates"]["outcomes"] if o["name"] == "economics")

    assert check_card((judged.folder / "model_card.json").read_bytes(), where="card").violations == ()
    assert (card["gates"]["verdict"], gate["outcome"]) == ("NO-GO", "failed")
    assert gate["value"] == card["economics"]["break_even"]["value"]
    assert gate["low"] < gate["value"] < 10
    assert card["gates"]["loosened"] == before["gates"]["loosened"]
    assert judged.model_sha256 == first.model_sha256
    assert card["economics"] == before["economics"] | {"taker_bps": 0.01}
    assert card["lineage"]["study"] == before["lineage"]["study"]
    assert card["lineage"]["configuration_sha256"] == before["lineage"]["configuration_sha256"]
    assert "above the taker fees of 0.01." in card["notes"]
    assert "economics" not in {o["name"] for o in before["gates"]["outcomes"]}


OPTIONS = {
    "booster": {
        "boosting": "dart",
        "drop_rate": 0.1,
        "skip_drop": 0.0,
        "monotone_constraints": {"return_5": -1, "rsi_7": 1},
        "interaction_constraints": [["return_1", "rsi_7", "quarter"]],
    },
    "search.space.max_depth": {"low": 3, "high": 5, "scale": "linear", "default": 5},
    "recency_half_life_days": 4,
    "valid_days": 1.5,
    "holdout_from": "2025-10-14T18:00:00Z",
}


@pytest.fixture(scope="module")
def bound(trained, tmp_path_factory):
    """Return a workshop with one version of dart with constraints on the snapshot of `trained`, and its report."""
    made = Workshop(tmp_path_factory.mktemp("bound") / "data")
    return made, made.train(trained[1].training.data.snapshot, **OPTIONS)


def open_stored(report):
    return load(report.folder / "lgbm.pkl", allow_no_go=True, clock=None)


def test_dart_makes_the_same_bytes_with_any_number_of_workers(bound, tmp_path):
    """A search by two workers and its final fit give the same files as one in this process; so does a retraining."""
    workshop, first = bound
    two = ExecutionOptions(workers=2)
    second = Workshop(tmp_path / "data").train(first.training.data.snapshot, execution=two, **OPTIONS)

    for name in ("lgbm.pkl", "trials.parquet", "oof.parquet", "holdout.parquet"):
        assert (second.folder / name).read_bytes() == (first.folder / name).read_bytes(), name
    version = workshop.store.open_version(first.version)
    assert retrain_version(version, first.training.data.snapshot.path.parents[1], progress=Silent()).same


def test_dart_with_constraints_scores_one_row_as_it_scores_many(bound):
    """The stored model gives each row the same bits alone as in a batch, and the stored ones, by the fast call."""
    _, report = bound
    samples, holdout = report.training.data.samples, report.training.data.split.holdout
    x = samples.x[holdout.span]

    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        model = open_stored(report)
        alone = np.concatenate([model.predict_proba(row[None, :]) for row in x[:300]])

    batch = model.predict_proba(x)
    assert alone.tobytes() == batch[:300].tobytes()
    stored = pl.read_parquet(report.folder / "holdout.parquet").drop_nulls("y")["p"].to_numpy()
    assert stored.tobytes() == np.ascontiguousarray(batch[:, 1]).tobytes()


def test_the_stored_model_keeps_its_monotone_constraints(trained, bound):
    """Along a feature with a sign, no probability steps the other way; without the constraints, many do."""
    samples = trained[1].training.data.samples
    for name, sign in OPTIONS["booster"]["monotone_constraints"].items():
        column = samples.names.index(name)
        grid = np.quantile(samples.x[:, column], np.linspace(0, 1, 60))
        rows = np.repeat(samples.x[:50].astype(float), grid.size, axis=0)
        rows[:, column] = np.tile(grid, 50)

        free, kept = (
            sign * np.diff(open_stored(report).predict_proba(rows)[:, 1].reshape(50, -1), axis=1)
            for _, report in (trained, bound)
        )
        assert (free < -0.001).sum() > 50
        assert kept.min() >= 0
        assert kept.max() > 0.01


def test_the_stored_trees_keep_their_interaction_constraints_and_depth(trained, bound):
    """No path from a root to a leaf has features of two lists, or more splits than the trial's depth."""

    def paths(node, above=()):
        if "split_feature" not in node:
            yield above
            return
        for side in ("left_child", "right_child"):
            yield from paths(node[side], (*above, node["split_feature"]))

    listed, crossing, lengths = {0, 3, 4}, [], []
    for _, report in (trained, bound):
        trees = lightgbm.Booster(model_str=report.training.model.served.model_text).dump_model()["tree_info"]
        found = [path for tree in trees for path in paths(tree["tree_structure"])]
        crossing.append(sum(bool(set(path) & listed and set(path) - listed) for path in found))
        lengths.append(max(map(len, found)))

    assert crossing[0] > 0 == crossing[1]
    assert lengths[0] > 5 >= card_of(bound[1])["hyperparameters"]["max_depth"] >= lengths[1]


def test_the_card_records_the_options_of_the_boosters(trained, bound):
    """The configuration in its lineage has them, its notes say what they mean; without options there is no word."""
    workshop, report = bound
    with_options, without = card_of(report), card_of(trained[1])

    assert with_options["lineage"]["config"]["booster"] == {"max_bin": 63, **OPTIONS["booster"]}
    assert without["lineage"]["config"]["booster"] == {"max_bin": 63}
    assert (
        "Its trees were grown by dart. By constraint, the probability never falls while rsi_7 rises, and never rises"
        in (with_options["notes"])
    )
    assert "a row counted half as much for every 4 days before the newest one" in with_options["notes"]
    assert with_options["lineage"]["config"]["recency_half_life_days"] == 4
    assert "constraint" not in without["notes"]
    assert "counted half" not in without["notes"]
    assert find_same_version(workshop.request(report.training.data.snapshot, **OPTIONS), workshop.store) is not None
    assert find_same_version(workshop.request(report.training.data.snapshot), workshop.store) is None


def test_a_card_is_valid_for_so_many_days_after_the_newest_candle(bound, trained):
    """Without `valid_days` it has no limit; the trials are those of a study without it."""
    workshop, report = bound
    snapshot = report.training.data.snapshot
    close_ms = max(facts.last_ms for facts in snapshot.facts) + MINUTE_MS

    assert ModelCard(card_of(report)).valid_until_ms == close_ms + int(1.5 * DAY_MS)
    assert "valid_until" not in card_of(trained[1])
    assert workshop.request(snapshot).study == workshop.request(snapshot, valid_days=9).study


def test_a_holdout_from_a_time_is_planned_recorded_and_judged(bound):
    """Plan, training and card agree that it begins there; the study is another one than with a share."""
    workshop, report = bound
    request = workshop.request(report.training.data.snapshot, **OPTIONS)
    card, start_ms = card_of(report), parse_time(OPTIONS["holdout_from"])

    assert plan_training(request, progress=Silent()).blocks == report.training.data.split.blocks()
    assert report.training.data.split.holdout.start_ms == start_ms
    assert pl.read_parquet(report.folder / "holdout.parquet")["ts"].min().timestamp() * 1000 == start_ms
    assert (card["lineage"]["config"]["val_ratio"], card["lineage"]["config"]["holdout_from"]) == (
        None,
        OPTIONS["holdout_from"],
    )
    assert any(
        "--holdout-from 2025-10-14T18:00:00Z" in line for line, _ in list_commands(ModelCard(card), report.version)
    )
    other = workshop.request(report.training.data.snapshot, **{**OPTIONS, "holdout_from": "2025-10-14T18:01:00Z"})
    assert request.study != other.study


def test_a_walk_forward_before_the_time_of_the_holdout_sets_aside_a_share(bound):
    """Each fit of a version with `holdout_from` sets aside the share that the version's holdout had."""
    workshop, report = bound
    version = workshop.store.open_version(report.version)
    window = TimeRange(parse_time("2025-10-14T12:00:00Z"), parse_time("2025-10-15T12:00:00Z"))
    scores, steps = score_walk_forward(
        version,
        open_stored(report),
        WalkForward(days=1),
        candles=read_candles(report.training.data.snapshot, Silent()),
        inputs={},
        window=window,
        progress=Silent(),
    )

    assert len(steps) == 1
    assert scores["p"].null_count() < scores.height == 1440


def test_constraints_of_unknown_features_are_refused_before_anything_is_read(trained):
    """The request of a training names the nearest feature of the registry."""
    workshop, first = trained
    with pytest.raises(InputError, match=r"'retrun_1' \(did you mean return_1 "):
        workshop.request(first.training.data.snapshot, **{"booster.monotone_constraints": {"retrun_1": 1}})


@pytest.mark.real_data
def test_real_bitcoin_minutes_have_the_known_skill(real_data, tmp_path):
    """The holdout AUC of the default registry on real BTCUSDT is in its known range: no leak, and not broken."""
    source = open_source(SourceSpec(name="files", folder=real_data / "spot_1m"))
    end_ms = source.clock_ms(("BTCUSDT",))
    candles = {"BTCUSDT": source.candles("BTCUSDT", TimeRange(end_ms - 90 * DAY_MS, end_ms))}
    feature_set, config = load_registry(None, interval="1m"), load_config(None, overrides={"search.trials": 1})
    samples, ties, quality = build_samples_and_ties(feature_set, candles)
    split = split_samples(samples, feature_set, config)
    data = TrainingData(None, feature_set, candles, samples, quality, split, guards=(), ties=ties)

    model = fit_model(data, config, journal=tmp_path / "study.journal", execution=IN_PROCESS, progress=Silent())
    _, p = model_from_bundle(model.evaluated).score(samples.x[split.holdout.span])

    assert 0.54 < score(p, samples.y[split.holdout.span]).auc_roc < 0.58
