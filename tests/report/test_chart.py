"""Charts for notebooks: the report's figures by themselves."""

from __future__ import annotations

import re
import shutil
import warnings
from html import unescape

import pytest

import mltrain as mt
from mltrain.report.backtest_plots import draw_equity
from mltrain.times import MINUTE_MS

PLOTS = (mt.plot_calibration, mt.plot_trials, mt.plot_feature_importance)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_a_chart_is_what_the_report_shows(plot, trained_dir):
    """Each picture of a chart is in the report of its version, byte for byte."""
    report = mt.load(trained_dir / "models" / "best_lgbm.pkl").folder / "report.html"
    chart = plot(data_dir=trained_dir)

    pictures = re.findall(r"<svg class=.*?</svg>", chart.to_html(), re.DOTALL)
    assert pictures
    assert all(picture in report.read_text("utf-8") for picture in pictures)


def test_a_notebook_shows_a_chart_in_a_frame(trained_dir):
    """The frame holds the whole page, is as high as its pictures, and breaks out of no attribute."""
    chart = mt.plot_calibration(data_dir=trained_dir)
    frame = chart._repr_html_()
    inside, height = re.fullmatch(r'<iframe srcdoc="([^"]*)" .* height="([0-9]+)"></iframe>', frame).groups()

    heights = re.findall(r'<svg class="figure" [^>]* height="([0-9]+)"', chart.to_html())
    assert unescape(inside) == chart.to_html()
    assert int(height) > max(map(int, heights)) > 0


def test_a_chart_is_saved_as_a_page(trained_dir, tmp_path):
    """`save` writes the page, whose name is that of the version."""
    chart = mt.plot_trials("latest", data_dir=trained_dir)
    chart.save(tmp_path / "trials.html")

    assert (tmp_path / "trials.html").read_text("utf-8") == chart.to_html()
    assert repr(chart).startswith("<mltrain.Chart Trials of 20")


def test_a_loaded_model_has_charts(trained_dir):
    """A model is taken in place of the name of its version."""
    model = mt.load(trained_dir / "models" / "best_lgbm.pkl")

    assert mt.plot_calibration(model).to_html() == mt.plot_calibration("best", data_dir=trained_dir).to_html()


@pytest.fixture(scope="module")
def backtested(trained_dir, tmp_path_factory):
    """Return a backtest, on rows that its version has learned from."""
    folder = shutil.copytree(trained_dir, tmp_path_factory.mktemp("backtested") / "data", symlinks=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mt.MltrainWarning)
        return mt.backtest(data_dir=folder, in_sample=True, policy="sign", taker_bps=1.0)


def test_the_equity_is_that_of_the_report(backtested):
    """The stored table gives the pictures of the page, which was drawn from the simulation, byte for byte."""
    chart = mt.plot_equity(backtested)

    pictures = re.findall(r"<svg class=.*?</svg>", chart.to_html(), re.DOTALL)
    assert len(pictures) == 2
    assert all(picture in (backtested.folder / "report.html").read_text("utf-8") for picture in pictures)
    assert mt.plot_equity(data_dir=backtested.folder.parents[1]).to_html() == chart.to_html()


def test_an_earlier_table_has_its_equity_alone(backtested):
    """A table without costs and the return of what is held, as earlier versions stored it, shows what it has."""
    table = backtested.equity_table()
    whole, less = (
        draw_equity(backtested.result, each, step_ms=MINUTE_MS) for each in (table, table.drop("costs", "held"))
    )

    assert [name for _, name in whole.legend] == [
        "after costs",
        "the same trades before costs",
        "equal weight held, without costs",
    ]
    assert [name for _, name in less.legend] == ["after costs"]
    assert "orange" in whole.reading
    assert "Equal weight" in whole.reading
    assert "orange" not in less.reading
    assert "Equal weight" not in less.reading
