"""Whole trainings of a network: the same bytes however they are run, and nothing learned from what is later."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from support.torch import need_torch

need_torch()
pytestmark = pytest.mark.tft

from mltrain.errors import InputError, MachineError  # noqa: E402
from mltrain.pipeline import fit_network as fitting  # noqa: E402
from mltrain.pipeline.fit_network import fit_network  # noqa: E402
from mltrain.pipeline.plan import plan_training  # noqa: E402
from mltrain.pipeline.prepare import prepare  # noqa: E402
from mltrain.pipeline.retrain import retrain_version  # noqa: E402
from mltrain.progress import Silent  # noqa: E402
from mltrain.serving.model import load  # noqa: E402
from mltrain.tft.fold_fit import run_fold  # noqa: E402
from mltrain.tft.network_search import NetworkSearch, rows_folder  # noqa: E402
from mltrain.training.search import ExecutionOptions  # noqa: E402
from support.workshop import Workshop  # noqa: E402

RATES = {"low": 0.003, "high": 0.02, "scale": "log", "default": 0.01}
WIDTHS = {"low": 8, "high": 8, "scale": "linear", "default": 8}
OPTIONS = {
    "model": "tft",
    "folds.count": 2,
    "tft": {
        "window": 8,
        "heads": 2,
        "epochs": 2,
        "step_windows": 128,
        "search": {"trials": 2, "space": {"learning_rate": RATES, "hidden": WIDTHS}},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder with a snapshot of two symbols, and the report of a training on it."""
    workshop = Workshop(tmp_path_factory.mktemp("network") / "data")
    workshop.store = workshop.store.in_slot("tft")
    snapshot = workshop.snapshot(days=3, symbols=("BTCUSDT", "ETHUSDT"))
    return workshop, workshop.train(snapshot, **OPTIONS)


@pytest.fixture(scope="module")
def config(made):
    """The configuration of that training."""
    return made[1].training.config


@pytest.fixture
def data(made):
    """The rows of that training, which a test may change."""
    kept = made[1].training.data
    return replace(kept, samples=copy.deepcopy(kept.samples), ties=copy.deepcopy(kept.ties))


@pytest.fixture
def journal(tmp_path):
    """The path of a journal."""
    return tmp_path / "study.journal"


def fit(data, config, journal, **options):
    """Return the files of the model that is fitted on the data."""
    execution = ExecutionOptions(workers=1, **options)
    return fit_network(data, config, journal=journal, execution=execution, progress=Silent()).evaluated.to_files()


def test_workers_change_nothing(made, data, config, journal):
    """Two processes make the bytes of one."""
    found = fit_network(data, config, journal=journal, execution=ExecutionOptions(workers=2), progress=Silent())
    assert found.evaluated.to_files() == made[1].training.model.evaluated.to_files()


def test_an_interrupted_search_resumes_to_the_same_bytes(made, data, config, journal, monkeypatch):
    """After its first trial; what was in flight is run again."""
    run_trials = fitting.NetworkSearch.run_trials

    def interrupted(search, proposals):
        yield next(run_trials(search, proposals))
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.NetworkSearch, "run_trials", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(data, config, journal)
    monkeypatch.undo()
    assert fit(data, config, journal, resume=True) == made[1].training.model.evaluated.to_files()
    assert journal.exists()


def test_poisoned_holdout_rows_change_nothing(made, data, config, journal):
    """Their features and labels; no scaler, no fit and no calibrator reads them."""
    holdout = data.split.holdout.span
    data.samples.x[holdout] = 1e6
    data.samples.y[holdout] = 1 - data.samples.y[holdout]
    assert fit(data, config, journal) == made[1].training.model.evaluated.to_files()


def test_a_fold_reads_nothing_later_than_its_validation_rows(data, config, journal):
    """Poisoned rows after the first fold leave its scores as they are; poisoned training rows do not."""
    first, scores = data.split.folds[0], []
    for rows in (
        slice(0, 0),
        slice(first.valid.stop_row, None),
        slice(first.train.stop_row - 50, first.train.stop_row),
    ):
        data.samples.x[rows] = -1e3
        with rows_folder(journal) as folder:
            search = NetworkSearch(
                data.samples, data.ties, data.short, data.split, config, folder=folder, step_ms=60_000, workers=1
            )
            job = search.fold_job(config.tft.search.space.defaults(), 0, 1)
            scores.append(run_fold(job).scores.tobytes())
    assert scores[0] == scores[1] != scores[2]


def test_a_version_is_retrained_to_the_byte_and_served(made):
    """From its card; its slot is named after the model."""
    workshop, report = made
    version = workshop.store.open_version(report.version)
    again = retrain_version(version, workshop.folder, progress=Silent())
    assert (again.same, again.file) == (True, "tft.json")
    model = load(version.folder, allow_no_go=True, clock=None)
    assert (model.window, model.path) == (8, "NumPy")
    rows = model.predict_candles(report.training.data.candles)
    assert rows["p"].null_count() == 0


def test_the_card_says_what_it_is(made):
    """Weights of the variables that sum to one, epochs, and the blocks of a training without windows."""
    workshop, report = made
    card = load(report.folder, allow_no_go=True, clock=None).card
    plain = workshop.request(report.training.data.snapshot, **{"folds.count": 2})
    blocks = prepare(plain.snapshot, plain.feature_set, plain.config, Silent()).split.blocks()

    assert card["model_name"] == "tft_prod"
    assert sum(entry["gain"] for entry in card["feature_importance"]) == pytest.approx(1)
    assert card["hyperparameters"]["epochs"] in {1, 2}
    assert card["lineage"]["config"]["tft"]["window"] == 8
    own = report.training.data.split.blocks()
    assert [(block.start_ms, block.end_ms) for block in own] == [(block.start_ms, block.end_ms) for block in blocks]
    # Seven rows of each symbol at the beginning, and after each of its gaps.
    assert 14 <= blocks[0].rows - own[0].rows < 100


def test_without_torch_nothing_is_begun(made, monkeypatch):
    """Exit code 8, and the line to type."""
    workshop, report = made
    monkeypatch.setattr(fitting, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match="needs PyTorch") as refused:
        workshop.train(report.training.data.snapshot, **OPTIONS)
    assert refused.value.hint == "pip install 'mltrain-lgbm[tft]'"


def test_a_window_that_is_too_long_is_refused(made):
    """With what is left, and what to do."""
    workshop, report = made
    options = {**OPTIONS, "tft": {**OPTIONS["tft"], "window": 1_000}, "max_rows": 4_000}
    with pytest.raises(InputError, match="have 1000 consecutive bars") as refused:
        workshop.train(report.training.data.snapshot, **options)
    assert "lower tft.window" in refused.value.hint


def test_the_card_shows_what_a_network_looks_at(made):
    """Weights and attention sum to one; what carries the signal has the greatest weight and importance."""
    card = load(made[1].folder, allow_no_go=True, clock=None).card
    shown = card["sequence"]

    assert (shown["window"], shown["inputs"], shown["heads"]) == (8, 9, 2)
    assert sum(shown["variable_weights"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(shown["attention_by_lag"]) == pytest.approx(1, abs=1e-5)
    assert len(shown["attention_by_lag"]) == 8
    importance = shown["permutation_importance"]
    assert {"return_1", "quarter"} & set(sorted(importance, key=importance.get)[-3:])
    assert -1 <= shown["rank_agreement"] <= 1
    assert [entry["name"] for entry in card["feature_importance"]] == sorted(
        importance, key=lambda name: -shown["variable_weights"][name]
    )


def test_a_plan_measures_a_few_steps(made):
    """The trials are those of the network, and nothing is written."""
    workshop, report = made
    plan = plan_training(workshop.request(report.training.data.snapshot, **OPTIONS), progress=Silent())
    assert plan.trials == 2
    assert 0 < plan.minutes < 10
