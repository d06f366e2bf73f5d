"""Backtest a version: trade it on candles that it has never learned from, and store what that would have earned.

The look at the candles is logged before the first of them is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain._version import __version__
from mltrain.backtesting.bars import align_bars
from mltrain.backtesting.comparisons import find_capacity, hold_everything, measure_luck
from mltrain.backtesting.engine import simulate
from mltrain.backtesting.funding_rates import read_funding
from mltrain.backtesting.grid import compare_policies
from mltrain.backtesting.performance import measure
from mltrain.backtesting.policies import NEED_DIRECTION, NEED_MOVES, find_answered, target_weights
from mltrain.backtesting.result import BacktestRequest, BacktestResult, JudgedRows
from mltrain.backtesting.result_tables import build_tables
from mltrain.backtesting.stored import publish_backtest
from mltrain.candles.frame import time_literal, times_ms
from mltrain.card.lineage import read_lineage
from mltrain.card.model_card import ModelCard
from mltrain.config.loading import load_config
from mltrain.errors import InputError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.gates.holdout_looks import BACKTEST
from mltrain.pipeline.evaluate import find_own_holdout, read_model_candles
from mltrain.pipeline.prepare import read_inputs
from mltrain.pipeline.training_scores import measure_moves, read_oof, tune_policy
from mltrain.pipeline.walk_forward import score_walk_forward
from mltrain.pipeline.write_version import to_parquet
from mltrain.serving.model import open_model
from mltrain.times import TimeRange, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.engine import Simulation
    from mltrain.backtesting.fee_tiers import FeeTier
    from mltrain.backtesting.policies import Policy
    from mltrain.backtesting.result import GridRow, WalkForwardStep
    from mltrain.backtesting.stored import StoredBacktest
    from mltrain.candles.input_tables import InputTable
    from mltrain.pipeline.walk_forward import WalkForward
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """What the user chose.

    Attributes:
        policy: The policy.
        costs: The costs.
        fees: The fee tier that `costs` has its fees from; None if they were given.
        funding: For a perpetual: a number of bps per 8 hours, or the path of a file; None: that of the snapshot.
        start_ms: First open time to trade, ms UTC; None: the first after the version's last training label.
        end_ms: End of the open times to trade, ms UTC; None: all.
        in_sample: Whether rows that the version learned from may be traded.
        tune: Whether to choose `enter` and `exit` on out-of-fold scores.
        grid: Policies to compare.
        capacity: Whether to search for the equity at which nothing is earned any more.
        walk_forward: How often to fit the model again; None: the version's model is used throughout.
        equity: Cash at the start, in the quote asset.
        seed: Random seed of the intervals.
    """

    policy: Policy
    costs: Costs
    fees: FeeTier | None = None
    funding: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    in_sample: bool = False
    tune: bool = False
    grid: tuple[Policy, ...] = ()
    capacity: bool = False
    walk_forward: WalkForward | None = None
    equity: float = 10_000.0
    seed: int = 42

    def __post_init__(self) -> None:
        """Check what belongs together; a UsageError names what does not."""
        policies = (self.policy, *self.grid)
        if self.costs.market == "spot" and any(policy.side == "both" for policy in policies):
            raise UsageError("a spot account cannot be short", hint="use --side long, or --market perp")
        if self.funding is not None and self.costs.market == "spot":
            raise UsageError("--funding goes with --market perp: a spot position pays none")
        if self.tune and self.policy.name not in {"threshold", "hysteresis"}:
            raise UsageError(f"--tune chooses enter and exit, which {self.policy.name} does not have")
        if self.capacity and not self.costs.impact:
            raise UsageError("--capacity needs --impact: without it, an order of any size has the same price")
        if not 0 < self.equity < float("inf"):
            raise UsageError(f"equity is {self.equity}: expected a number above 0")

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policy, and those of the grid."""
        return (self.policy, *self.grid)


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """A backtest that has run, before it is stored.

    Attributes:
        result: What was asked, and what was found.
        bars: The bars.
        simulation: The simulation of the policy.
        weights: Target weight of each symbol after each close, shape (t, s).
    """

    result: BacktestResult
    bars: Bars
    simulation: Simulation
    weights: NDArray[np.float64]


def backtest(
    version: StoredVersion,
    snapshot: Snapshot,
    store: Store,
    options: BacktestOptions,
    *,
    now_ms: int,
    progress: Progress,
    output: Path | None = None,
) -> StoredBacktest:
    """Trade a version on a snapshot, and store the result.

    Args:
        version: The version, of any verdict.
        snapshot: Candles of its symbols, later than its last training label unless `options.in_sample`.
        store: Its log of looks gets a line before anything is scored.
        options: Policy, costs, range.
        now_ms: The current time, ms UTC.
        progress: Receives stages and warnings.
        output: Folder to store the result in, instead of the data folder's `backtests`.

    Raises:
        UsageError: The policy does not fit the version's label, or the range is empty.
        InputError: The snapshot lacks a symbol or later candles, is of another interval or damaged; funding is missing;
            or the version has no out-of-fold scores and the policy needs them.
        LockedError: A folder is locked for longer than the wait.
        MachineError: The machine refuses; nothing is stored.
    """
    ran = run_backtest(version, snapshot, store, options, now_ms=now_ms, progress=progress)
    progress.stage("report")
    from mltrain.report.backtest_page import draft_backtest_report

    report = draft_backtest_report(ran.result, ran.bars, ran.simulation)
    tables = build_tables(ran.result, ran.bars, ran.simulation, ran.weights)
    return publish_backtest(
        store.data_dir,
        ran.result,
        {name: to_parquet(table) for name, table in tables.items()},
        now_ms=now_ms,
        named=lambda name: {"report.html": report(name)},
        folder=output,
    )


def run_backtest(
    version: StoredVersion,
    snapshot: Snapshot,
    store: Store,
    options: BacktestOptions,
    *,
    now_ms: int,
    progress: Progress,
) -> Backtest:
    """Trade a version on a snapshot; arguments and errors as of `backtest`."""
    model = open_model(version)
    card = ModelCard(model.card)
    for policy in options.policies:
        if policy.name in NEED_DIRECTION and model.label.kind != "direction":
            beyond = (
                f"which barrier is touched first, {model.label.describe_barriers()}"
                if model.label.kind == "barrier"
                else f"a move beyond {model.label.cost_bps:g} bps"
            )
            raise UsageError(
                f"the policy {policy.name} needs a direction label: {version.name} predicts {beyond}",
                hint="use --policy threshold or hysteresis",
            )
    step_ms, learned_until_ms = interval_ms(model.interval), card.last_label_end_ms()
    inputs = read_inputs(snapshot, model.feature_set)
    candles = read_model_candles(model, snapshot, progress, inputs=inputs)
    window = _find_window(model, candles, options, learned_until_ms=learned_until_ms, snapshot=snapshot)
    needs_moves = any(policy.name in NEED_MOVES for policy in options.policies)
    oof = read_oof(version) if needs_moves or options.tune else None
    funding, funding_name = None, None
    if options.costs.market == "perp":
        funding, funding_name = read_funding(snapshot, model.symbols, candles, window, options.funding, step_ms=step_ms)
    looks = store.looks()
    store.record_look(
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        study=f"{BACKTEST}{version.name}",
        now_ms=now_ms,
        configuration_sha256=card.configuration_sha256,
    )
    policy = options.policy
    statistics = None if oof is None or not needs_moves else measure_moves(oof, model)
    if options.tune:
        assert oof is not None  # noqa: S101 -- read above
        progress.stage("tune")
        policy = tune_policy(
            policy, options.costs, oof, model, data_dir=store.data_dir, equity=options.equity, progress=progress
        )
    progress.stage("score")
    steps: tuple[WalkForwardStep, ...] = ()
    if options.walk_forward is None:
        scores = _score(model, candles, inputs, window)
    else:
        scores, steps = score_walk_forward(
            version, model, options.walk_forward, candles=candles, inputs=inputs, window=window, progress=progress
        )
    bars = _align(model, candles, scores, window)
    progress.stage("simulate")
    targets = target_weights(bars, [policy], statistics=statistics, cost=options.costs.taker_cost)
    simulation = simulate(
        bars, targets, options.costs, equity=options.equity, answered=find_answered(bars), funding=funding
    )
    config = load_config(None, overrides={})
    performance = measure(
        bars,
        simulation,
        options.costs,
        start=options.equity,
        draws=config.bootstrap.draws,
        level=config.bootstrap.level,
        seed=options.seed,
    )
    grid: tuple[GridRow, ...] = ()
    returns = np.zeros((0, 0))
    if options.grid:
        progress.stage("grid")
        grid, returns = compare_policies(
            bars, options.grid, options.costs, start=options.equity, statistics=statistics, funding=funding
        )
    own_holdout = find_own_holdout(card, np.repeat(bars.ts_ms, bars.exists.sum(axis=1)))
    judged = None
    if own_holdout is not None:
        judged = JudgedRows(own_holdout.rows, own_holdout.start_ms, own_holdout.end_ms)
        progress.warn(
            f"{judged.bars:,} of these {int(bars.exists.sum()):,} bars are from {version.name}'s own holdout, which "
            "its gates have judged: they are no new evidence; backtest it on a newer snapshot"
        )
    if options.in_sample:
        progress.warn("these bars may include some that the version learned from: the result proves nothing")
    result = BacktestResult(
        request=BacktestRequest(
            version=version.name,
            version_sha256=version.manifest.self_sha256,
            snapshot=snapshot.id,
            snapshot_sha256=snapshot.manifest_sha256,
            start_ms=window.start_ms,
            end_ms=window.end_ms,
            in_sample=options.in_sample,
            policy=policy,
            tuned=options.tune,
            costs=options.costs,
            fees=options.fees,
            funding=funding_name,
            equity=options.equity,
            seed=options.seed,
            grid=options.grid,
            capacity=options.capacity,
            walk_forward_days=options.walk_forward.days if options.walk_forward else None,
            train_days=options.walk_forward.train_days if options.walk_forward else None,
            search_trials=options.walk_forward.trials if options.walk_forward else None,
            mltrain=__version__,
            package_sha256=read_lineage().package_sha256,
            ops_sha256=ops_sha256(),
        ),
        symbols=bars.symbols,
        interval=model.interval,
        bars=int(bars.exists.sum()),
        refused=int(bars.refused.sum()),
        learned_until_ms=learned_until_ms,
        judged=judged,
        performance=performance,
        benchmarks=hold_everything(bars, options.costs, equity=options.equity, funding=funding),
        luck=measure_luck(bars, simulation, grid, returns, equity=options.equity, looks=looks, window=window),
        grid=tuple(sorted(grid, key=lambda row: -np.inf if row.sharpe is None else row.sharpe, reverse=True)),
        steps=steps,
        capacity=find_capacity(bars, targets, options.costs, funding=funding) if options.capacity else None,
    )
    return Backtest(result, bars, simulation, targets[:, 0, :])


def _find_window(
    model: Model,
    candles: Mapping[str, pl.DataFrame],
    options: BacktestOptions,
    *,
    learned_until_ms: int,
    snapshot: Snapshot,
) -> TimeRange:
    """Return the open times to trade, of which every symbol has a candle.

    Raises:
        UsageError: --from lies before the end of the training.
        InputError: A symbol has no candle there.
    """
    step_ms = interval_ms(model.interval)
    # The candle at which the last label ended was read by the training.
    first_ms = 0 if options.in_sample else learned_until_ms + step_ms
    if options.start_ms is not None and options.start_ms < first_ms:
        raise UsageError(
            f"--from {format_ms(options.start_ms)} is before {format_ms(first_ms)}: {model.version} learned from "
            "earlier candles",
            hint="omit --from, or trade what it learned from with --in-sample, which proves nothing",
        )
    start_ms = first_ms if options.start_ms is None else options.start_ms
    end_ms = snapshot.window.end_ms if options.end_ms is None else options.end_ms
    if options.end_ms is not None and end_ms <= start_ms:
        raise UsageError(f"--to {format_ms(end_ms)} is not after {format_ms(start_ms)}, where the trading would begin")
    found: list[int] = []
    for symbol in model.symbols:
        ts_ms = times_ms(candles[symbol])
        inside = ts_ms[(ts_ms >= start_ms) & (ts_ms < end_ms)]
        if inside.size < 2:
            raise InputError(
                f"snapshot {snapshot.id} has no candles of {symbol} to trade from {format_ms(start_ms)} to "
                f"{format_ms(end_ms)}; {model.version} learned until {format_ms(learned_until_ms)}",
                hint="take a newer one with `mltrain snapshot`",
            )
        found += [int(inside[0]), int(inside[-1])]
    return TimeRange(min(found), max(found) + step_ms)


def _score(
    model: Model, candles: Mapping[str, pl.DataFrame], inputs: Mapping[str, InputTable], window: TimeRange
) -> pl.DataFrame:
    """Score every candle of a window, as `Model.predict_candles` does, with the candles before it as lookback."""
    lookback_ms = window.start_ms - (model.lookback_bars - 1) * interval_ms(model.interval)
    needed = {
        symbol: frame.filter(
            pl.col("ts").is_between(time_literal(lookback_ms), time_literal(window.end_ms), closed="left")
        )
        for symbol, frame in candles.items()
    }
    scores = model.predict_candles(needed, inputs=inputs, rows="all")
    return scores.filter(pl.col("ts") >= time_literal(window.start_ms))


def _align(model: Model, candles: Mapping[str, pl.DataFrame], scores: pl.DataFrame, window: TimeRange) -> Bars:
    """Join the candles of a window with their scores."""
    inside = pl.col("ts").is_between(time_literal(window.start_ms), time_literal(window.end_ms), closed="left")
    return align_bars(
        {symbol: candles[symbol].filter(inside) for symbol in model.symbols},
        {symbol: scores.filter(pl.col("symbol") == symbol) for symbol in model.symbols},
        step_ms=interval_ms(model.interval),
    )
