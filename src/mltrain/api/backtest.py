"""`backtest run`, `list`, `show`, `diff` and `prune`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from mltrain.api.references import as_reference, read_snapshot, read_version
from mltrain.api.workspace import (
    DATA_DIR,
    check_path,
    open_store,
    read_clock,
    read_number,
    read_progress,
    read_time,
    read_whole,
)
from mltrain.documents.results import Result
from mltrain.errors import UsageError
from mltrain.names import describe

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import polars as pl

    from mltrain.api.references import SnapshotRef, VersionRef
    from mltrain.api.workspace import PathText, ProgressLike, Time
    from mltrain.backtesting.costs import Fill, Market
    from mltrain.backtesting.policies import Policy, PolicyName, Side
    from mltrain.backtesting.result import BacktestResult
    from mltrain.backtesting.stored import PrunedBacktests, StoredBacktest
    from mltrain.documents.values import Json

    BacktestRef: TypeAlias = str | os.PathLike[str] | "BacktestReport"


@dataclass(frozen=True, slots=True)
class BacktestReport(Result):
    """The result of `backtest` and of `backtest show`: a stored backtest.

    Attributes:
        backtest: Name of the stored backtest.
        folder: Its folder.
        verdict: Whether this could be traded at these costs, in one sentence.
        passes: Whether `--gate` accepts it.
        failures: Why it does not, one sentence each.
        problems: Files that are not as they were written; empty if the backtest is sound.
        result: What was asked, and what was found.
    """

    SCHEMA: ClassVar[str] = "backtest/1"

    backtest: str
    folder: Path
    verdict: str
    passes: bool
    failures: tuple[str, ...]
    problems: tuple[str, ...]
    result: BacktestResult

    def equity_table(self) -> pl.DataFrame:
        """Return the equity bar by bar, as `equity.parquet` has it.

        Returns:
            One row for each bar: `ts` (open time, UTC); `equity` (at the close) and `costs` (booked at the bar, with
            funding), in the quote asset; `held`, the return of equal weights held without costs; and for each symbol
            its `units_SYMBOL` (the position after the bar) and `weight_SYMBOL` (the target after its close).
        """
        return self._open().table("equity.parquet")

    def daily_table(self) -> pl.DataFrame:
        """Return the result day by day, as `daily.parquet` has it.

        Returns:
            One row for each UTC day: `day`, `equity` at its end, `net_return` (ratio), and in the quote asset `gross`,
            `costs`, `funding` and `traded`.
        """
        return self._open().table("daily.parquet")

    def fills_table(self) -> pl.DataFrame:
        """Return the orders that were filled, as `fills.parquet` has them.

        Returns:
            One row for each fill: `ts` (when it was filled, UTC), `candle` (open time of its bar), `decided` (open
            time of the bar whose close decided it), `symbol`, `units` (negative: sold), `reference` (price before
            costs), `price` and `fee` (quote asset).
        """
        return self._open().table("fills.parquet")

    def _open(self) -> StoredBacktest:
        return open_stored_backtest(self, self.folder.parent)


@dataclass(frozen=True, slots=True)
class BacktestLine:
    """One line of `backtest list`.

    Attributes:
        backtest: Its name.
        created_at: When it was run, UTC; None if it is damaged.
        policy: The policy and its parameters; None if it is damaged.
        net_return: Of the whole time, as a ratio; None if it is damaged.
        sharpe: Annual Sharpe ratio; None if the returns do not vary.
        break_even_bps: Cost per side at which nothing is earned; None if nothing was traded.
        in_sample: Whether the version may have learned from the traded bars.
        problem: What is wrong with it; None if it is sound.
    """

    backtest: str
    created_at: str | None
    policy: str | None
    net_return: float | None
    sharpe: float | None
    break_even_bps: float | None
    in_sample: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class BacktestList(Result):
    """The result of `backtest list`.

    Attributes:
        backtests: In the order in which they were run.
    """

    SCHEMA: ClassVar[str] = "backtest-list/1"

    backtests: tuple[BacktestLine, ...]


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """A figure or an option of two backtests.

    Attributes:
        name: Its name.
        first: Its value in the first one, as text; None if it has none.
        second: Its value in the second one, as text; None if it has none.
    """

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True)
class BacktestDiff(Result):
    """The result of `backtest diff`.

    Attributes:
        first: Name of the first backtest.
        second: Name of the second one.
        options: The options that differ.
        figures: The figures of both.
    """

    SCHEMA: ClassVar[str] = "backtest-diff/1"

    first: str
    second: str
    options: tuple[FigureDifference, ...]
    figures: tuple[FigureDifference, ...]


def backtest(
    version: VersionRef | None = None,
    snapshot: SnapshotRef = "latest",
    *,
    policy: PolicyName = "cost-aware",
    enter: float = 0.53,
    exit: float = 0.505,  # noqa: A002 (the name of the option)
    kelly_fraction: float = 0.25,
    max_weight: float = 1.0,
    side: Side | None = None,
    tune: bool = False,
    market: Market | None = None,
    fees: str | None = None,
    taker_bps: float | None = None,
    maker_bps: float | None = None,
    spread_bps: float = 0.0,
    slippage_bps: float = 1.0,
    impact: float = 0.0,
    funding: PathText | float | None = None,
    fill: Fill = "next-open",
    delay_bars: int = 0,
    participation: float | None = 0.1,
    start: Time | None = None,
    end: Time | None = None,
    in_sample: bool = False,
    grid: PathText | Mapping[str, Iterable[object]] | None = None,
    capacity: bool = False,
    walk_forward: int | None = None,
    train_days: int | None = None,
    search: int | None = None,
    workers: int | None = None,
    equity: float = 10_000.0,
    seed: int = 42,
    output: PathText | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    now_ms: int | None = None,
    progress: ProgressLike | None = None,
) -> BacktestReport:
    """Trade a version on candles that it has never learned from, with fees, slippage and funding; store the result.

    The look at these candles is logged before they are scored, because later trainings must count it.

    Args:
        version: Its name, "latest", "best", "best:SLOT", a path, the model itself, or the result of its training; None:
            the live version or, with a warning, the latest if nothing was promoted yet.
        snapshot: The candles: "latest", an id, a path, or a snapshot.
        policy: "cost-aware": change a position only if the expected gain pays for it; "threshold", "hysteresis": beyond
            `enter`; "sign": always the likelier side; "kelly": in proportion to the expected move.
        enter: Probability from which a position is opened, 0.5 to 1.
        exit: "hysteresis": probability of the other side from which it is closed, 0.5 to `enter`.
        kelly_fraction: "kelly": share of the Kelly weight, above 0, at most 1.
        max_weight: Largest weight of a symbol, above 0; 1: its equal share.
        side: "long": no short positions; "both"; None: long on spot, both on a perpetual.
        tune: Choose `enter` and `exit` on out-of-fold scores of the training.
        market: "spot", or "perp": a perpetual future; None: that of the snapshot.
        fees: Packaged fees, such as "binance-usdm"; None: those of the snapshot's exchange.
        taker_bps: Fee of an order that takes the price, in bps, instead of that of `fees`.
        maker_bps: Fee of a limit order, in bps, instead of that of `fees`.
        spread_bps: Bid-ask spread, in bps; a taker pays half of it.
        slippage_bps: Further loss of a taker per side, in bps.
        impact: Factor of the square-root law of market impact; 0: none.
        funding: For a perpetual: bps per 8 hours, or a file of funding rates; None: the rates of the snapshot.
        fill: "next-open": as a taker; "maker": by a limit order at the close.
        delay_bars: By how many bars orders arrive later, 0 or more.
        participation: Largest share of a bar's volume that is filled, above 0; None: no limit.
        start: First open time: text, a datetime, or ms UTC; None: the end of the training.
        end: End of the open times; None: that of the snapshot.
        in_sample: Also trade what the version learned from, which proves nothing.
        grid: Lists of values of policy options to compare, as a mapping such as {"enter": [0.52, 0.53]} or a YAML file.
        capacity: Find the equity at which nothing is earned any more; needs `impact`.
        walk_forward: Fit the model again every so many days; None: the version's model throughout.
        train_days: With `walk_forward`: days that each fit learns from; None: all.
        search: With `walk_forward`: trials of a search before each fit; None: the version's hyperparameters.
        workers: With `walk_forward`: number of processes that fit; None: one per core.
        equity: Cash at the start, in the quote asset.
        seed: Random seed of the intervals.
        output: A folder to store the result in, instead of the data folder's `backtests`.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        now_ms: The time, ms UTC, whose date is part of the name; None: the machine's clock.
        progress: Receives stages and warnings.

    Raises:
        UsageError: An option is out of its range, contradicts another, or does not fit the version's label.
        InputError: The snapshot lacks a symbol or later candles, is of another interval or damaged; funding is missing;
            the version has no out-of-fold scores and the policy needs them; or there is no such version.
        OwnOpsError: The version was trained with user ops that are not imported.
        LockedError: A folder is locked for longer than the wait.
        MachineError: The machine refuses; nothing is stored.
    """
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.fee_tiers import choose_fee_tier
    from mltrain.backtesting.policies import Policy
    from mltrain.card.machine import available_cores
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.backtest import BacktestOptions
    from mltrain.pipeline.backtest import backtest as run
    from mltrain.pipeline.walk_forward import WalkForward

    shown, store = read_progress(progress), open_store(data_dir, slot)
    if walk_forward is None and (train_days, search, workers) != (None, None, None):
        raise UsageError("--train-days, --search and --workers go with --walk-forward")
    opened = read_snapshot(snapshot, data_dir)
    tier, known = choose_fee_tier(opened.source, fees=fees, market=market)
    needs_tier = taker_bps is None or maker_bps is None
    if fees is None and needs_tier:
        shown.warn(f"fees: {'' if known else 'assumed, choose others with --fees: '}{tier}")
    costs = Costs(
        market=tier.market,
        taker_bps=tier.taker_bps if taker_bps is None else read_number(taker_bps, "taker_bps"),
        maker_bps=tier.maker_bps if maker_bps is None else read_number(maker_bps, "maker_bps"),
        spread_bps=read_number(spread_bps, "spread_bps"),
        slippage_bps=read_number(slippage_bps, "slippage_bps"),
        impact=read_number(impact, "impact"),
        participation=None if participation is None else read_number(participation, "participation"),
        fill=fill,
        delay_bars=read_whole(delay_bars, "delay_bars"),
    )
    chosen = Policy(
        name=policy,
        enter=read_number(enter, "enter"),
        exit=read_number(exit, "exit"),
        kelly_fraction=read_number(kelly_fraction, "kelly_fraction"),
        max_weight=read_number(max_weight, "max_weight"),
        side=side or ("both" if tier.market == "perp" else "long"),
    )
    options = BacktestOptions(
        policy=chosen,
        costs=costs,
        fees=tier if needs_tier else None,
        funding=_funding_text(funding),
        start_ms=None if start is None else read_time(start, "start"),
        end_ms=None if end is None else read_time(end, "end"),
        in_sample=in_sample,
        tune=tune,
        grid=_read_grid(grid, chosen),
        capacity=capacity,
        walk_forward=None
        if walk_forward is None
        else WalkForward(
            read_whole(walk_forward, "walk_forward"),
            None if train_days is None else read_whole(train_days, "train_days"),
            None if search is None else read_whole(search, "search"),
            available_cores() if workers is None else read_whole(workers, "workers"),
        ),
        equity=read_number(equity, "equity"),
        seed=read_whole(seed, "seed"),
    )
    if ops is not None:
        import_user_ops(ops)
    stored = run(
        read_version(version, store, shown),
        opened,
        store,
        options,
        now_ms=read_clock(now_ms),
        progress=shown,
        output=None if output is None else check_path(output, "output"),
    )
    return _describe(stored, problems=())


def list_backtests(*, data_dir: PathText = DATA_DIR) -> BacktestList:
    """List the stored backtests of a data folder."""
    from mltrain.backtesting.stored import list_backtests

    lines = []
    for row in list_backtests(check_path(data_dir, "data_dir")):
        if row.backtest is None or row.result is None:
            lines.append(BacktestLine(row.name, None, None, None, None, None, False, row.problem))
            continue
        figures, request = row.result.performance, row.result.request
        lines.append(
            BacktestLine(
                backtest=row.name,
                created_at=row.backtest.created_at,
                policy=str(request.policy),
                net_return=figures.net_return,
                sharpe=figures.sharpe.value if figures.sharpe else None,
                break_even_bps=figures.break_even_bps.value if figures.break_even_bps else None,
                in_sample=request.in_sample,
                problem=None,
            )
        )
    return BacktestList(tuple(lines))


def backtest_show(backtest: BacktestRef = "latest", *, data_dir: PathText = DATA_DIR) -> BacktestReport:
    """Return a stored backtest again, and check its files.

    Args:
        backtest: "latest", a name, a path, or the result of a backtest.
        data_dir: The data folder.

    Raises:
        UsageError: `backtest` is none of these.
        InputError: There is no such backtest, or its manifest or its result is damaged.
    """
    stored = open_stored_backtest(backtest, data_dir)
    return _describe(stored, problems=stored.verify())


def backtest_diff(first: BacktestRef, second: BacktestRef, *, data_dir: PathText = DATA_DIR) -> BacktestDiff:
    """Return how the options and the figures of two backtests differ.

    Args:
        first: "latest", a name, a path, or the result of a backtest.
        second: The other one.
        data_dir: The data folder.

    Raises:
        UsageError: An argument is none of these.
        InputError: There is no such backtest, or it is damaged.
    """
    from mltrain.backtesting.figures import list_figures, list_options

    stored = [open_stored_backtest(each, data_dir) for each in (first, second)]
    a, b = (each.result() for each in stored)
    options = zip(list_options(a), list_options(b), strict=True)
    figures = zip(list_figures(a), list_figures(b), strict=True)
    return BacktestDiff(
        stored[0].name,
        stored[1].name,
        tuple(FigureDifference(name, x, y) for (name, x), (_, y) in options if x != y),
        tuple(FigureDifference(name, x, y) for (name, x, _), (_, y, _) in figures),
    )


def backtest_prune(*, keep: int, dry_run: bool = False, data_dir: PathText = DATA_DIR) -> PrunedBacktests:
    """Remove all but the newest backtests; a damaged one counts as old.

    Args:
        keep: How many to keep, 0 or more.
        dry_run: Only return what would be removed.
        data_dir: The data folder.

    Raises:
        UsageError: `keep` is negative.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.backtesting.stored import prune_backtests

    if keep < 0:
        raise UsageError(f"keep is {keep}: expected 0 or more")
    return prune_backtests(check_path(data_dir, "data_dir"), keep=keep, dry_run=dry_run)


def _describe(stored: StoredBacktest, *, problems: tuple[str, ...]) -> BacktestReport:
    """Return a stored backtest with its result and whether `--gate` accepts it."""
    result = stored.result()
    failures = result.failures()
    return BacktestReport(stored.name, stored.folder, result.verdict, not failures, failures, problems, result)


def open_stored_backtest(backtest: BacktestRef, data_dir: PathText) -> StoredBacktest:
    """Open the backtest that a caller named or passed."""
    from mltrain.backtesting.stored import open_backtest

    if isinstance(backtest, BacktestReport):
        backtest = backtest.folder
    if not isinstance(backtest, str | os.PathLike):
        raise UsageError(f"backtest is {describe(backtest)}: expected latest, a backtest's name, or its path")
    return open_backtest(check_path(data_dir, "data_dir"), as_reference(backtest))


def _funding_text(funding: PathText | float | None) -> str | None:
    """Return funding as `BacktestOptions` has it: a number of bps as text, or the path of a file."""
    if funding is None or isinstance(funding, str):
        return funding
    # Without an exponent, which would be the name of a file.
    return as_reference(funding) if isinstance(funding, os.PathLike) else f"{read_number(funding, 'funding'):f}"


def _read_grid(grid: PathText | Mapping[str, Iterable[object]] | None, policy: Policy) -> tuple[Policy, ...]:
    """Return the policies of a grid that is given as a file or as a mapping."""
    from mltrain.backtesting.grid import expand_grid, read_grid
    from mltrain.config.loading import MAX_FILE_BYTES
    from mltrain.storage.reading import read_file

    if grid is None:
        return ()
    if isinstance(grid, Mapping):
        lists: Json = {key: _as_list(values) for key, values in grid.items()}
        return expand_grid(lists, policy, where="grid")
    data = read_file(check_path(grid, "grid"), max_bytes=MAX_FILE_BYTES, what="the grid")
    return read_grid(data, policy, where=os.fspath(grid))


def _as_list(values: Any) -> Any:  # noqa: ANN401 (the reader of the grid checks it)
    """Return the values of an option as a list of Python's numbers or texts; anything but values as it is."""
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        return values
    # An array of NumPy gives its scalars otherwise.
    return values.tolist() if hasattr(values, "tolist") else list(values)
