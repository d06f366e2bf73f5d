"""What `train` returns in a notebook, and the forms in which it takes its arguments."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

import mltrain as mt
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.features.registry import read_registry
from mltrain.snapshots.snapshot import open_snapshot
from support.bare_versions import tree
from support.program import QUICK

CONFIG = parse_yaml(QUICK.read_bytes(), where="quick.yml").value


@pytest.fixture(scope="module")
def folder(trained_dir, tmp_path_factory):
    """Return a copy of the trained folder, which no test here changes."""
    return Path(shutil.copytree(trained_dir, tmp_path_factory.mktemp("api") / "data", symlinks=True))


@pytest.fixture(scope="module")
def result(folder):
    """Return the result of the training that the folder has already."""
    return mt.train(trials=2, config=QUICK, data_dir=folder)


def test_a_cell_that_is_run_again_gives_the_version_that_is_there(result, folder):
    """It is a TrainResult like that of the first run: only whether anything was trained is another type."""
    assert isinstance(result, mt.ExistingVersion)
    assert isinstance(result, mt.TrainResult)
    assert issubclass(mt.TrainedVersion, mt.TrainResult)
    assert result.folder == folder / "models" / result.version
    assert (result.verdict, result.promoted, result.best) == ("GO", False, True)


def test_a_result_has_the_card_and_the_model(result):
    """The card is a plain dictionary, and the model the version's own."""
    model = result.model()

    assert result.card == model.card
    assert (type(result.card), model.version) == (dict, result.version)


def test_a_version_that_was_never_promoted_is_loaded_only_if_that_is_accepted(folder, tmp_path):
    """As with `load`, a version is served without a promotion only by name."""
    shutil.copytree(folder, tmp_path / "data", symlinks=True)
    models = tmp_path / "data" / "models"
    for path in (models / "best_lgbm", models / "promotions.jsonl"):
        path.unlink()
    result = mt.train(trials=2, config=QUICK, data_dir=tmp_path / "data")

    assert not result.best
    with pytest.raises(InputError, match="never promoted"):
        result.model()
    assert result.model(allow_no_go=True).version == result.version


def test_the_trials_are_those_of_the_search(result):
    """One row for each trial, with a column for each hyperparameter of the search space."""
    table = result.trials_table()
    best = result.card["search"]["best"]
    row = table.row(best["number"], named=True)

    assert table["number"].to_list() == [0, 1]
    assert table.columns[:4] == ["number", "state", "log_loss", "rounds"]
    assert {name: row[name] for name in best["params"]} == best["params"]
    assert (row["log_loss"], row["rounds"]) == (best["log_loss"], best["rounds"])
    assert set(table.columns[4:]) == set(result.card["lineage"]["config"]["search"]["space"])


def test_the_calibration_table_adds_up_to_the_holdout(result):
    """Raw and calibrated bins both have every labelled row, and their up shares its mean."""
    holdout = pl.read_parquet(result.folder / "holdout.parquet").drop_nulls("y")
    table = result.calibration_table()

    assert table.columns == ["calibrated", "low", "high", "rows", "mean_p", "up_share"]
    for calibrated, column in ((False, "raw"), (True, "p")):
        bins = table.filter(calibrated=calibrated)
        assert bins["rows"].sum() == holdout.height
        assert (bins["rows"] * bins["up_share"]).sum() == pytest.approx(holdout["y"].sum())
        assert (bins["rows"] * bins["mean_p"]).sum() == pytest.approx(holdout[column].sum())


def test_the_importance_names_every_feature(result):
    """The features of the model, the largest gain first; a contribution is a mean of absolute values."""
    table = result.feature_importance()

    assert table.columns == ["name", "gain", "contribution"]
    assert sorted(table["name"]) == sorted(result.model().feature_set.names)
    assert table["gain"].is_sorted(descending=True)
    assert (table["contribution"] >= 0).all()


FORMS = {
    "a snapshot": lambda folder: {"snapshot": open_snapshot(folder, "latest")},
    "the path of a snapshot": lambda folder: {"snapshot": folder / "snapshots" / "latest"},
    "a mapping": lambda _: {"config": CONFIG},
    "a mapping that has what an option overrides": lambda _: {"config": CONFIG | {"seed": 7}, "seed": 42},
    "the name of a packaged registry": lambda _: {"features": "features.yml"},
    "a registry": lambda _: {"features": read_registry()},
    "the features of a model": lambda folder: {"features": mt.load(folder / "models" / "best_lgbm.pkl").feature_set},
    "features as a mapping": lambda folder: {
        "features": mt.load(folder / "models" / "best_lgbm.pkl").feature_set.to_json()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_an_argument_means_the_same_in_every_form(form, folder, result):
    """The training is then the one that the folder has already."""
    given = {"config": QUICK, "trials": 2} | FORMS[form](folder)

    assert mt.train(**given, data_dir=folder) == result


WRONG = {
    "trials is no number": ({"trials": "two"}, UsageError, "search.trials"),
    "trials is out of range": ({"trials": 0}, UsageError, "search.trials"),
    "an unknown method": ({"calibration": "platt"}, UsageError, "calibration"),
    "an unknown key": ({"config": {"serach": {"trials": 2}}}, InputError, "config: serach"),
    "no snapshot": ({"snapshot": 7}, UsageError, "snapshot is 7"),
    "an unknown op": (
        {"features": {"version": 1, "label": {"kind": "direction", "horizon": 1, "ties": "drop"},
                      "features": [{"name": "a", "op": "lag_return"}]}},
        InputError,
        r"features: features\[0\].op: 'lag_return' is unknown",
    ),
    "other rows": ({"final": "holdout"}, UsageError, "final is 'holdout': expected one of inner, all"),
    "no worker": ({"workers": 0}, UsageError, "workers is 0"),
    "no time": ({"timeout_s": 0.0}, UsageError, "timeout is 0.0 s"),
    "no version": ({"warm_start": "1999-01-01"}, InputError, "1999-01-01"),
    "no module": ({"ops": "no_such_module"}, InputError, "no_such_module"),
    "no key": ({"sign": "no.pem"}, MltrainError, "no.pem"),
}  # fmt: skip


@pytest.mark.parametrize("function", [mt.train, mt.train_plan])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_written(case, function, folder):
    """The error says which argument, and what it has."""
    given, kind, message = WRONG[case]
    before = tree(folder)

    with pytest.raises(kind, match=message):
        function(**given, data_dir=folder)
    assert tree(folder) == before
