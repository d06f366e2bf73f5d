"""The figures of the reports of versions and backtests, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrain.api.backtest import open_stored_backtest
from mltrain.api.references import read_version
from mltrain.api.workspace import DATA_DIR, open_store, read_progress

if TYPE_CHECKING:
    from mltrain.api.backtest import BacktestRef
    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.report.chart import Chart
    from mltrain.report.version_data import Material


def plot_calibration(
    version: VersionRef | None = None,
    *,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> Chart:
    """Plot predicted against observed frequency on the holdout, before and after calibration.

    Args:
        version: A version's name, "best", "best:SLOT", "latest", a path, a model, or the result of `train`; None: the
            live version.
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        progress: Receives a warning if nothing was promoted yet.

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    from mltrain.report.chart import Chart
    from mltrain.report.model_plots import draw_reliability, draw_spread

    name, material = _read(version, data_dir, slot, progress)
    figures = (draw_reliability(material.card, material.holdout), draw_spread(material.holdout))
    return Chart(f"Calibration of {name}", figures)


def plot_trials(
    version: VersionRef | None = None,
    *,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> Chart:
    """Plot the out-of-fold log loss of each trial of the search, and over each hyperparameter.

    The arguments and errors are those of `plot_calibration`.
    """
    from mltrain.report.chart import Chart
    from mltrain.report.data_plots import draw_hyperparameters, draw_trials

    name, material = _read(version, data_dir, slot, progress)
    figures = (draw_trials(material.trials), *draw_hyperparameters(material.trials, material.card))
    return Chart(f"Trials of {name}", figures)


def plot_feature_importance(
    version: VersionRef | None = None,
    *,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> Chart:
    """Plot each feature's share of the total gain, and of the contributions to the predictions.

    The arguments and errors are those of `plot_calibration`.
    """
    from mltrain.report.chart import Chart
    from mltrain.report.model_plots import draw_importance

    name, material = _read(version, data_dir, slot, progress)
    return Chart(f"Feature importance of {name}", (draw_importance(material.card),))


def plot_equity(backtest: BacktestRef = "latest", *, data_dir: PathText = DATA_DIR) -> Chart:
    """Plot the equity of a backtest: after and before costs, against equal weights held; and its drawdown.

    Args:
        backtest: The result of `backtest` or `backtest_show`, "latest", a backtest's name, or its path.
        data_dir: The data folder.

    Raises:
        InputError: There is no such backtest, or it is damaged.
    """
    from mltrain.report.backtest_plots import draw_drawdown, draw_equity
    from mltrain.report.chart import Chart
    from mltrain.times import interval_ms

    stored = open_stored_backtest(backtest, data_dir)
    result, equity = stored.result(), stored.table("equity.parquet")
    step_ms = interval_ms(result.interval)
    figures = (draw_equity(result, equity, step_ms=step_ms), draw_drawdown(result, equity, step_ms=step_ms))
    return Chart(f"Equity of {stored.name}", figures)


def _read(
    version: VersionRef | None, data_dir: PathText, slot: str | None, progress: ProgressLike | None
) -> tuple[str, Material]:
    """Return the name of a version, and the inputs of its report."""
    from mltrain.report.version_data import read_material
    from mltrain.store.listing import read_version_card

    opened = read_version(version, open_store(data_dir, slot), read_progress(progress))
    return opened.name, read_material(opened, read_version_card(opened))
