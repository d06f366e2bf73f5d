"""What `backtest` returns in a notebook, and the forms in which it takes its arguments."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pytest

import mltrain as mt
from mltrain.errors import InputError, UsageError
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.times import format_ms
from support.bare_versions import tree

# The fees are assumed, and the bars are of the version's own holdout.
pytestmark = pytest.mark.filterwarnings("ignore::mltrain.MltrainWarning")

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def folder(trained_dir, tmp_path_factory):
    """Return a copy of the trained folder."""
    return Path(shutil.copytree(trained_dir, tmp_path_factory.mktemp("api") / "data", symlinks=True))


@pytest.fixture(scope="module")
def end_ms(folder):
    """Return the end of the snapshot's candles, ms UTC."""
    return open_snapshot(folder, "latest").window.end_ms


@pytest.fixture(scope="module")
def report(folder, end_ms):
    """Return a backtest of the last hours of the snapshot."""
    return mt.backtest(
        folder / "models" / "best_lgbm.pkl",
        policy="threshold",
        market="perp",
        funding=0.5,
        grid={"enter": np.array([0.51, 0.55]), "side": ("long", "both")},
        start=format_ms(end_ms - 20 * HOUR_MS),
        end=dt.datetime.fromtimestamp((end_ms - HOUR_MS) / 1000, dt.UTC),
        data_dir=folder,
    )


def test_arguments_mean_what_the_options_mean(report, end_ms):
    """Times as text or as a datetime, a rate as a number, and values of a grid as an array or a tuple."""
    request = report.result.request

    assert (request.start_ms, request.end_ms) == (end_ms - 20 * HOUR_MS, end_ms - HOUR_MS)
    assert request.funding == "0.5 bps per 8 hours"
    assert [(policy.enter, policy.side) for policy in request.grid] == [
        (0.51, "long"), (0.51, "both"), (0.55, "long"), (0.55, "both")
    ]  # fmt: skip
    assert (request.policy.side, request.costs.market) == ("both", "perp")


def test_the_tables_are_those_of_the_result(report):
    """The equity ends where the figures say, and each day and each fill is one row."""
    equity, daily, fills = report.equity_table(), report.daily_table(), report.fills_table()
    figures, start = report.result.performance, report.result.request.equity

    assert equity["equity"][-1] == pytest.approx(start * (1 + figures.net_return))
    assert daily["equity"][-1] == equity["equity"][-1]
    assert daily.height == figures.days
    assert (fills["units"].abs() * fills["price"]).sum() == pytest.approx(figures.traded)
    for symbol in report.result.symbols:
        units = fills.filter(symbol=symbol)["units"].sum()
        assert equity[f"units_{symbol}"][-1] == pytest.approx(units)


def test_a_backtest_is_named_by_itself_too(report, folder):
    """By its result, its path or its name: shown again it is the same, and so is a comparison with itself."""
    for backtest in (report, report.folder, str(report.folder), report.backtest, "latest"):
        assert mt.backtest_show(backtest, data_dir=folder) == report
    diff = mt.backtest_diff(report, report.backtest, data_dir=folder)
    assert diff.options == ()
    assert all(figure.first == figure.second for figure in diff.figures)


def test_a_damaged_table_is_refused(report, folder, tmp_path):
    """Its hash is checked; what is sound is still shown, with the problem."""
    copy = Path(shutil.copytree(folder / "backtests", tmp_path / "data" / "backtests")) / report.backtest
    (copy / "equity.parquet").write_bytes((copy / "daily.parquet").read_bytes())
    shown = mt.backtest_show(copy)

    assert any("equity.parquet" in problem for problem in shown.problems)
    assert shown.result == report.result
    with pytest.raises(InputError, match=r"equity\.parquet"):
        shown.equity_table()


WRONG = {
    "no market": ({"market": "margin"}, UsageError, "market is 'margin': expected one of spot, perp"),
    "no fill": ({"fill": "close"}, UsageError, "fill is 'close': expected one of next-open, maker"),
    "no policy": ({"policy": "luck"}, UsageError, "policy is luck"),
    "no side": ({"side": "short"}, UsageError, "side is short"),
    "no fees": ({"fees": "binanse"}, UsageError, "no packaged fees 'binanse'"),
    "fees of the other market": ({"fees": "binance", "market": "perp"}, UsageError, "those of a spot market"),
    "a time without a zone": ({"start": dt.datetime(2025, 10, 1)}, UsageError, "start: .* has no zone"),  # noqa: DTZ001
    "seconds": ({"end": 1_760_000_000}, UsageError, "end is 1760000000, which reads as seconds"),
    "no list": ({"grid": {"enter": 0.52}}, InputError, "grid: expected lists of values"),
    "an unknown option": ({"grid": {"entry": [0.52]}}, InputError, "grid: entry"),
    "no file": ({"grid": Path("no.yml")}, InputError, "no.yml"),
    "workers alone": ({"workers": 1}, UsageError, "go with --walk-forward"),
    "no version": ({"version": 7}, UsageError, "version is 7"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_written(case, folder):
    """The error says which argument, and what it has."""
    given, kind, message = WRONG[case]
    before = tree(folder)

    with pytest.raises(kind, match=message):
        mt.backtest(**given, data_dir=folder)
    assert tree(folder) == before
