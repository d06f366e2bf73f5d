"""A backtest trades only what the version has not learned from, with the probabilities of serving, after its look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import Policy
from mltrain.backtesting.stored import list_backtests, open_backtest, prune_backtests
from mltrain.errors import InputError, UsageError
from mltrain.pipeline import backtest as pipeline
from mltrain.pipeline.backtest import BacktestOptions, backtest, run_backtest
from mltrain.pipeline.training_scores import measure_moves
from mltrain.pipeline.walk_forward import WalkForward
from mltrain.progress import Silent
from mltrain.serving.model import open_model
from mltrain.times import DAY_MS, parse_time
from support.workshop import Workshop

NOW_MS = parse_time("2025-10-20T09:30:00Z")
FREE = Costs(taker_bps=0, maker_bps=0, slippage_bps=0, participation=None)
SIGN = BacktestOptions(policy=Policy(name="sign"), costs=FREE)


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """Return a workshop with a version and a later snapshot of two symbols that begins before its training ended."""
    made = Workshop(tmp_path_factory.mktemp("backtest") / "data")
    symbols = ("BTCUSDT", "ETHUSDT")
    report = made.train(made.snapshot(days=4, end="2025-10-11T00:00:00Z", symbols=symbols))
    return made, made.store.open_version(report.version), made.snapshot(days=9, symbols=symbols)


def run(later, options=SIGN, progress=None):
    made, version, snapshot = later
    return run_backtest(version, snapshot, made.store, options, now_ms=NOW_MS, progress=progress or Silent())


def test_the_look_is_logged_before_anything_is_scored(later, monkeypatch):
    """A backtest that ends while it scores has looked all the same."""
    made, version, snapshot = later
    looks = made.store.looks()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_score", fail)
    with pytest.raises(KeyboardInterrupt):
        backtest(version, snapshot, made.store, SIGN, now_ms=NOW_MS, progress=Silent())
    new = made.store.looks()[len(looks) :]

    assert [(look.study, look.end_ms) for look in new] == [(f"backtest {version.name}", snapshot.window.end_ms)]
    assert list_backtests(made.folder) == ()


def test_a_backtest_is_stored_and_read_back(later):
    """The stored result is the one that was computed, every file has its hash, and a second run has another name."""
    made, version, snapshot = later
    stored = [backtest(version, snapshot, made.store, SIGN, now_ms=NOW_MS, progress=Silent()) for _ in range(2)]
    try:
        names = [f"{version.name}-2025-10-20", f"{version.name}-2025-10-20.2"]
        assert [each.name for each in stored] == names
        assert [row.name for row in list_backtests(made.folder)] == names
        assert open_backtest(made.folder, "latest").name == names[1]
        assert all(each.verify() == () for each in stored)
        a, b = (each.result() for each in stored)
        assert b.luck.looks == a.luck.looks + 1
        assert replace(b, luck=a.luck) == a
        equity = pl.read_parquet(stored[0].folder / "equity.parquet")
        assert equity["equity"][-1] / 10_000 - 1 == a.performance.net_return
        assert {path.name for path in stored[0].folder.iterdir()} == {
            "manifest.json", "request.json", "result.json", "fills.parquet", "equity.parquet", "daily.parquet",
            "report.html",
        }  # fmt: skip
    finally:
        assert prune_backtests(made.folder, keep=0).removed == tuple(names)


def test_the_verdict_is_about_the_costs(later):
    """Without costs the strong signal earns; with those of a taker it does not, and the verdict says so."""
    free = run(later).result
    paid = run(later, replace(SIGN, costs=replace(FREE, taker_bps=10.0))).result

    assert free.performance.net_return == pytest.approx(free.performance.gross_return)
    assert free.performance.daily_return.low > 0
    assert free.verdict.startswith("profitable after fees of 0 bps")
    assert paid.verdict.startswith("not tradable at fees of 10 bps taker: it breaks even at ")
    assert paid.performance.break_even_bps.value == pytest.approx(free.performance.break_even_bps.value, rel=0.1)
    assert paid.failures()


def test_cost_aware_trades_nothing_that_cannot_pay(later):
    """At the fees of a taker no minute's move is worth a trade; the expected moves come from the training."""
    _, version, _ = later
    oof = pl.read_parquet(version.folder / "oof.parquet")
    moves = measure_moves(oof, open_model(version))
    result = run(later, BacktestOptions(policy=Policy(), costs=Costs())).result

    assert [m.mean_move for m in moves] == pytest.approx(
        [oof.filter(pl.col("symbol") == s)["forward_bps"].abs().mean() / 1e4 for s in ("BTCUSDT", "ETHUSDT")]
    )
    assert all(1 < m.run_bars < 20 for m in moves)
    assert result.performance.trades.number == 0
    assert "no expected gain exceeds the cost of 11 bps" in result.verdict


def test_funding_must_be_complete(later, tmp_path):
    """A constant or a whole file is charged; a file with a gap is refused, and so is funding on spot."""
    _, _, snapshot = later
    perp = replace(SIGN, costs=replace(FREE, market="perp"), policy=Policy(name="sign", side="both"))
    constant = run(later, replace(perp, funding="2")).result
    first_ms = snapshot.window.start_ms // DAY_MS * DAY_MS
    hours = np.arange(first_ms, snapshot.window.end_ms + 1, 8 * 3_600_000)
    table = pl.DataFrame({"ts": np.tile(hours, 2), "symbol": ["BTCUSDT"] * hours.size + ["ETHUSDT"] * hours.size})
    table = table.with_columns(rate=pl.lit(0.0002))
    table.write_csv(tmp_path / "whole.csv")
    table.filter(pl.col("ts") != hours[-5]).write_parquet(tmp_path / "gap.parquet")
    filed = run(later, replace(perp, funding=str(tmp_path / "whole.csv"))).result

    assert constant.request.funding == "2 bps per 8 hours"
    assert filed.request.funding.startswith("whole.csv, SHA-256 ")
    assert filed.performance.costs[-1].name == "funding"
    assert filed.performance.costs[-1].amount == pytest.approx(constant.performance.costs[-1].amount, rel=1e-9)
    with pytest.raises(InputError, match=r"has no funding between .* a missing rate is not zero"):
        run(later, replace(perp, funding=str(tmp_path / "gap.parquet")))
    with pytest.raises(UsageError, match="--funding goes with --market perp"):
        replace(SIGN, funding="1")


def test_a_walk_forward_learns_from_the_past_only(later, monkeypatch):
    """No candle from a model's first traded one on changes it, and neither does the number of workers."""
    options = replace(SIGN, walk_forward=WalkForward(days=2, train_days=3))
    steps = run(later, options).result.steps
    parallel = run(later, replace(options, walk_forward=WalkForward(days=2, train_days=3, workers=2))).result

    assert parallel.steps == steps
    assert [step.cut_ms for step in steps[1:]] == [step.end_ms for step in steps[:-1]]
    assert len({step.model_sha256 for step in steps}) == len(steps) >= 2

    changed_from_ms = steps[1].cut_ms
    read = pipeline.read_model_candles

    def falsified(*arguments, **more):
        after = pl.col("ts").dt.timestamp("ms") >= changed_from_ms
        prices = [pl.when(after).then(pl.col(name) * 1.5).otherwise(pl.col(name)).alias(name)
                  for name in ("open", "high", "low", "close")]  # fmt: skip
        return {symbol: frame.with_columns(prices) for symbol, frame in read(*arguments, **more).items()}

    monkeypatch.setattr(pipeline, "read_model_candles", falsified)
    falsified_steps = run(later, options).result.steps

    assert falsified_steps[:2] == steps[:2]
    assert falsified_steps[2:] != steps[2:]


def test_a_walk_forward_may_search(later):
    """With trials, each fit searches its own hyperparameters."""
    options = replace(SIGN, walk_forward=WalkForward(days=3, trials=1))
    found = run(later, options)

    assert found.result.request.search_trials == 1
    assert np.isfinite(found.bars.p[found.bars.exists]).mean() > 0.9


def test_later_candles_are_needed(later):
    """A snapshot that ends before the training, or lacks a symbol, is refused; no look is logged."""
    made, version, _ = later
    looks = made.store.looks()
    for snapshot, message in (
        (made.snapshot(days=1, end="2025-09-01T00:00:00Z", symbols=("BTCUSDT", "ETHUSDT")), "has no candles of"),
        (made.snapshot(days=2), "has no candles of ETHUSDT"),
    ):
        with pytest.raises(InputError, match=message):
            run_backtest(version, snapshot, made.store, SIGN, now_ms=NOW_MS, progress=Silent())
    assert made.store.looks() == looks
