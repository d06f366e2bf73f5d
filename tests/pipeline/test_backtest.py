"""A backtest trades only what the version has not learned from, with the probabilities of serving, after its look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import Policy
from mltrain.backtesting.stored import list_backtests, open_backtest, prune_backtests
from mltrain.candles.frame import times_ms
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError, UsageError
from mltrain.pipeline import backtest as pipeline
from mltrain.pipeline.backtest import BacktestOptions, backtest, measure_moves, run_backtest
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


def test_only_later_candles_are_traded(later):
    """The first bar is the one after the last label of the training; --in-sample begins with the snapshot."""
    _, version, snapshot = later
    learned_until_ms = ModelCard(open_model(version).card).last_label_end_ms()
    found = run(later)

    assert snapshot.window.start_ms < learned_until_ms
    assert found.result.learned_until_ms == learned_until_ms
    assert found.bars.ts_ms[0] == found.result.request.start_ms == learned_until_ms + 60_000
    assert run(later, replace(SIGN, in_sample=True)).bars.ts_ms[0] == snapshot.window.start_ms
    with pytest.raises(UsageError, match="learned from earlier candles"):
        run(later, replace(SIGN, start_ms=learned_until_ms))


def test_the_probabilities_are_those_of_serving(later):
    """Bit for bit those of `predict_candles` on the whole snapshot, and of a stream, bar by bar."""
    _, version, snapshot = later
    found, model = run(later), open_model(version)
    candles = {symbol: snapshot.candles(symbol) for symbol in snapshot.symbols}
    scores = model.predict_candles(candles, rows="all")
    for ix, symbol in enumerate(found.bars.symbols):
        of_symbol = scores.filter(pl.col("symbol") == symbol, pl.col("ts").dt.timestamp("ms") >= found.bars.ts_ms[0])
        exists = found.bars.exists[:, ix]
        assert found.bars.p[exists, ix].tobytes() == of_symbol["p"].cast(float).fill_null(np.nan).to_numpy().tobytes()
        assert found.bars.refused[exists, ix].tolist() == of_symbol["refused"].is_not_null().to_list()
    stream = model.stream()
    start = int(np.searchsorted(times_ms(candles["BTCUSDT"]), found.bars.ts_ms[0]))
    for row in range(start - model.lookback_bars, start + 30):
        for ix, symbol in enumerate(found.bars.symbols):
            candle = candles[symbol].row(row, named=True)
            if row < start:
                stream.take(symbol, candle)
            else:
                bar = np.searchsorted(found.bars.ts_ms, times_ms(candles[symbol])[row])
                assert stream.push(symbol, candle) == found.bars.p[bar, ix]


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


def test_tuning_reads_no_traded_candle(later):
    """`--tune` chooses the same limits, whatever is traded."""
    options = replace(SIGN, policy=Policy(name="hysteresis"), tune=True)
    chosen = run(later, options).result.request
    assert chosen.tuned
    assert chosen.policy.enter >= chosen.policy.exit >= 0.5
    shorter = run(later, replace(options, end_ms=later[2].window.end_ms - DAY_MS)).result.request
    assert shorter.policy == chosen.policy


def test_a_grid_says_how_much_may_be_luck(later):
    """The policies are compared on the same bars, best first; the policy of the options is the reported one."""
    grid = tuple(Policy(name="threshold", enter=enter, exit=0.5) for enter in (0.51, 0.53, 0.55, 0.57))
    result = run(later, replace(SIGN, grid=grid)).result
    sharpes = [row.sharpe for row in result.grid]

    assert result.luck.grid == 4
    assert sorted(sharpes, reverse=True) == sharpes
    assert {row.policy for row in result.grid} == set(grid)
    # With more tries the same Sharpe ratio proves less.
    assert result.luck.deflated_sharpe <= run(later).result.luck.deflated_sharpe
    best = run(later, replace(SIGN, policy=result.grid[0].policy)).result.performance
    assert result.grid[0].net_return == pytest.approx(best.net_return, rel=1e-12)


def test_capacity_is_where_the_gain_ends(later):
    """With impact, a small account earns and one of the capacity does not; without a gain there is no capacity."""
    costs = replace(FREE, impact=1.0)
    options = replace(SIGN, costs=costs, capacity=True)
    capacity = run(later, options).result.capacity

    assert 1 < capacity < 1e12
    assert run(later, replace(options, equity=capacity / 30)).result.performance.daily_return.value > 0
    assert run(later, replace(options, equity=capacity * 30)).result.performance.daily_return.value < 0
    assert run(later, replace(options, costs=replace(costs, taker_bps=20.0))).result.capacity is None
    with pytest.raises(UsageError, match="--capacity needs --impact"):
        replace(SIGN, capacity=True)


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

    def falsified(*arguments):
        after = pl.col("ts").dt.timestamp("ms") >= changed_from_ms
        prices = [pl.when(after).then(pl.col(name) * 1.5).otherwise(pl.col(name)).alias(name)
                  for name in ("open", "high", "low", "close")]  # fmt: skip
        return {symbol: frame.with_columns(prices) for symbol, frame in read(*arguments).items()}

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
