"""Commands on backtests: backtest, and in its group list, show, diff, prune."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import DryRunOption, KeepOption, LiveVersionArgument, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, cost_option, fill_option, new_group, output_option, policy_option
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text, time_text, view_pruned
from mltrain.cli.tables import folding, optional, right, table
from mltrain.documents.results import Result
from mltrain.errors import NoGoError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.backtesting.costs import Market
    from mltrain.backtesting.fee_tiers import FeeTier
    from mltrain.backtesting.result import BacktestResult
    from mltrain.cli.render import View
    from mltrain.snapshots.snapshot import Snapshot

MAX_GRID_ROWS_SHOWN: Final = 10
# Fees for candles whose exchange is not known.
_USUAL_FEES: Final[Mapping[Market, str]] = {"spot": "binance", "perp": "binance-usdm"}


class PolicyChoice(StrEnum):
    """Policies."""

    COST_AWARE = "cost-aware"
    THRESHOLD = "threshold"
    HYSTERESIS = "hysteresis"
    SIGN = "sign"
    KELLY = "kelly"


class SideChoice(StrEnum):
    """Which positions a policy takes."""

    LONG = "long"
    BOTH = "both"


class MarketChoice(StrEnum):
    """What is traded."""

    SPOT = "spot"
    PERP = "perp"


class FillChoice(StrEnum):
    """How orders are filled."""

    NEXT_OPEN = "next-open"
    MAKER = "maker"


@dataclass(frozen=True, slots=True)
class BacktestDocument(Result):
    """The document of `backtest` and of `backtest show`.

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
class BacktestListDocument(Result):
    """The document of `backtest list`.

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
class BacktestDiffDocument(Result):
    """The document of `backtest diff`.

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


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = new_group(
        "Trade a version on candles that it has never learned from, with fees, slippage and funding.",
        has_default=True,
    )
    add_command(group, "run", backtest, example="mltrain backtest run best --market perp --funding 1")
    add_command(group, "list", backtest_list, example="mltrain backtest list")
    add_command(group, "show", backtest_show, example="mltrain backtest show latest")
    add_command(group, "diff", backtest_diff, example="mltrain backtest diff 2025-10-15-2025-11-01 latest")
    add_command(group, "prune", backtest_prune, example="mltrain backtest prune --keep 20 --dry-run")
    app.add_typer(group, name="backtest")


@command(opens_versions=True, need_mb=LEARNING_MB)
def backtest(
    session: Session,
    ref: LiveVersionArgument = None,
    snapshot: SnapshotOption = "latest",
    policy: Annotated[
        PolicyChoice,
        policy_option(
            "--policy",
            help="cost-aware: change a position only if the expected gain pays for it; threshold, hysteresis: beyond "
            "--enter; sign: always the likelier side; kelly: in proportion to the expected move.",
        ),
    ] = PolicyChoice.COST_AWARE,
    enter: Annotated[
        float, policy_option("--enter", metavar="P", help="Probability from which a position is opened.")
    ] = 0.53,
    leave: Annotated[
        float,
        policy_option("--exit", metavar="P", help="hysteresis: probability of the other side from which it is closed."),
    ] = 0.505,
    kelly_fraction: Annotated[
        float, policy_option("--kelly-fraction", metavar="SHARE", help="kelly: share of the Kelly weight.")
    ] = 0.25,
    max_weight: Annotated[
        float, policy_option("--max-weight", metavar="WEIGHT", help="Largest weight of a symbol; 1: its equal share.")
    ] = 1.0,
    side: Annotated[
        SideChoice | None, policy_option("--side", help="long: no short positions. Default: spot long, perp both.")
    ] = None,
    tune: Annotated[
        bool, policy_option("--tune", help="Choose --enter and --exit on out-of-fold scores of the training.")
    ] = False,
    market: Annotated[
        MarketChoice | None,
        cost_option("--market", help="spot, or perp: a perpetual future. Default: that of the snapshot."),
    ] = None,
    fees: Annotated[
        str | None,
        cost_option("--fees", metavar="NAME", help="Packaged fees, such as binance-usdm. Default: the snapshot's."),
    ] = None,
    taker_bps: Annotated[
        float | None, cost_option("--taker-bps", metavar="BPS", help="Fee of an order that takes the price.")
    ] = None,
    maker_bps: Annotated[float | None, cost_option("--maker-bps", metavar="BPS", help="Fee of a limit order.")] = None,
    spread_bps: Annotated[
        float, cost_option("--spread-bps", metavar="BPS", help="Bid-ask spread; a taker pays half of it.")
    ] = 0.0,
    slippage_bps: Annotated[
        float, cost_option("--slippage-bps", metavar="BPS", help="Further loss of a taker per side.")
    ] = 1.0,
    impact: Annotated[
        float, cost_option("--impact", metavar="Y", help="Factor of the square-root law of market impact; 0: none.")
    ] = 0.0,
    funding: Annotated[
        str | None,
        cost_option(
            "--funding", metavar="FILE|BPS", help="perp: funding rates, or bps per 8 hours. Default: the snapshot's."
        ),
    ] = None,
    fill: Annotated[
        FillChoice, fill_option("--fill", help="next-open: as a taker; maker: by a limit order at the close.")
    ] = FillChoice.NEXT_OPEN,
    delay_bars: Annotated[
        int, fill_option("--delay-bars", min=0, metavar="BARS", help="By how many bars orders arrive later.")
    ] = 0,
    participation: Annotated[
        str,
        fill_option(
            "--participation", metavar="SHARE", help="Largest share of a bar's volume that is filled, or `none`."
        ),
    ] = "0.1",
    start: Annotated[
        str | None, fill_option("--from", metavar="TIME", help="First open time. Default: the end of the training.")
    ] = None,
    end: Annotated[
        str | None, fill_option("--to", metavar="TIME", help="End of the open times. Default: the snapshot's.")
    ] = None,
    in_sample: Annotated[
        bool, fill_option("--in-sample", help="Also trade what the version learned from, which proves nothing.")
    ] = False,
    grid: Annotated[
        Path | None, fill_option("--grid", metavar="FILE", help="YAML: lists of values of policy options to compare.")
    ] = None,
    capacity: Annotated[
        bool, fill_option("--capacity", help="Find the equity at which nothing is earned any more; needs --impact.")
    ] = False,
    walk_forward: Annotated[
        int | None,
        fill_option("--walk-forward", metavar="DAYS", min=1, help="Fit the model again every so many days."),
    ] = None,
    train_days: Annotated[
        int | None,
        fill_option(
            "--train-days", metavar="DAYS", min=1, help="--walk-forward: days that each fit learns from. Default: all."
        ),
    ] = None,
    search: Annotated[
        int | None,
        fill_option(
            "--search",
            metavar="TRIALS",
            min=1,
            help="--walk-forward: search before each fit. Default: the version's hyperparameters.",
        ),
    ] = None,
    workers: Annotated[
        int | None, fill_option("--workers", min=1, max=256, help="--walk-forward: processes. Default: the cores.")
    ] = None,
    equity: Annotated[
        float, output_option("--equity", metavar="AMOUNT", help="Cash at the start, in the quote asset.")
    ] = 10_000.0,
    output: Annotated[
        Path | None,
        output_option("--output", metavar="DIR", help="Store the result in this folder. Default: backtests/."),
    ] = None,
    seed: Annotated[int, output_option("--seed", min=0, help="Random seed of the intervals.")] = 42,
    gate: Annotated[
        bool, output_option("--gate", help="Exit 4 unless the gain is proven and not due to choosing among many.")
    ] = False,
    ops: OpsOption = None,
) -> Outcome:
    """Trade a version on candles that it has never learned from, with fees, slippage and funding."""
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.grid import read_grid
    from mltrain.backtesting.policies import Policy
    from mltrain.card.machine import available_cores
    from mltrain.config.loading import MAX_FILE_BYTES
    from mltrain.pipeline.backtest import BacktestOptions
    from mltrain.pipeline.backtest import backtest as run
    from mltrain.pipeline.walk_forward import WalkForward
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.storage.reading import read_file
    from mltrain.times import parse_time

    if walk_forward is None and (train_days, search, workers) != (None, None, None):
        raise UsageError("--train-days, --search and --workers go with --walk-forward")
    if in_sample and gate:
        raise UsageError("--gate refuses --in-sample: what the version learned from proves nothing")
    opened = open_snapshot(session.data_dir, snapshot)
    tier, chosen_market = _choose_fees(opened, fees, market, taker_bps, maker_bps, session)
    costs = Costs(
        market=chosen_market,
        taker_bps=tier.taker_bps if taker_bps is None else taker_bps,
        maker_bps=tier.maker_bps if maker_bps is None else maker_bps,
        spread_bps=spread_bps,
        slippage_bps=slippage_bps,
        impact=impact,
        participation=_read_participation(participation),
        fill=fill.value,
        delay_bars=delay_bars,
    )
    chosen = Policy(
        name=policy.value,
        enter=enter,
        exit=leave,
        kelly_fraction=kelly_fraction,
        max_weight=max_weight,
        side=side.value if side else "both" if chosen_market == "perp" else "long",
    )
    given_fees = taker_bps is not None and maker_bps is not None
    options = BacktestOptions(
        policy=chosen,
        costs=costs,
        fees=None if given_fees else tier,
        funding=funding,
        start_ms=None if start is None else parse_time(start),
        end_ms=None if end is None else parse_time(end),
        in_sample=in_sample,
        tune=tune,
        grid=()
        if grid is None
        else read_grid(read_file(grid, max_bytes=MAX_FILE_BYTES, what="the grid"), chosen, where=str(grid)),
        capacity=capacity,
        walk_forward=None
        if walk_forward is None
        else WalkForward(walk_forward, train_days, search, workers or available_cores()),
        equity=equity,
        seed=seed,
    )
    register_ops(ops)
    stored = run(
        session.open_version(ref),
        opened,
        session.open_store(),
        options,
        now_ms=session.now_ms,
        progress=session.progress,
        output=output,
    )
    result = stored.result()
    failures = result.failures()
    document = BacktestDocument(stored.name, stored.folder, result.verdict, not failures, failures, (), result)
    failure = None
    if gate and failures:
        failure = NoGoError("; ".join(failures), hint=f"`mltrain backtest show {stored.name}` shows the figures again")
    return Outcome(document, lambda: view_backtest(document), failure=failure)


def _choose_fees(
    snapshot: Snapshot,
    fees: str | None,
    market: MarketChoice | None,
    taker_bps: float | None,
    maker_bps: float | None,
    session: Session,
) -> tuple[FeeTier, Market]:
    """Return the fee tier and the market that the options and the snapshot's source ask for."""
    from mltrain.backtesting.fee_tiers import find_fee_tier, usual_fee_tier

    if fees is not None:
        tier = find_fee_tier(fees)
        if market is not None and market.value != tier.market:
            raise UsageError(f"the fees {fees} are those of a {tier.market} market, not of --market {market.value}")
        return tier, tier.market
    source = snapshot.source
    snapshot_market: Market = "perp" if source.market == "usdm" else "spot"
    chosen = snapshot_market if market is None else market.value
    # The exchange of files and of the simulated market is not known.
    exchange = source.exchange or ("binance" if source.uses_network else "")
    known = usual_fee_tier(exchange, chosen)
    tier = known or find_fee_tier(_USUAL_FEES[chosen])
    if taker_bps is None or maker_bps is None:
        session.progress.warn(f"fees: {'' if known else 'assumed, choose others with --fees: '}{tier}")
    return tier, chosen


def _read_participation(text: str) -> float | None:
    """Return the value of --participation; None for `none`, which means no limit."""
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--participation {text} is not a share", hint="write it like 0.1, or none") from None


@command()
def backtest_list(session: Session) -> Outcome:
    """List the stored backtests."""
    from mltrain.backtesting.stored import list_backtests

    lines = []
    for row in list_backtests(session.data_dir):
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

    def view() -> View:
        if not lines:
            yield f"no backtests in {session.data_dir}: run one with `mltrain backtest`"
            return
        cells = [
            (line.backtest, minute_text(line.created_at), line.policy, _percent(line.net_return),
             number_text(line.sharpe, 2), number_text(line.break_even_bps, 2), "in sample" if line.in_sample else "",
             line.problem or "")
            for line in lines
        ]  # fmt: skip
        yield table(
            None, "backtest", *optional("run (UTC)"), *folding("policy"), *right("net return", "Sharpe", "break-even"),
            *folding("note", "problem"), rows=cells,
        )  # fmt: skip

    return Outcome(BacktestListDocument(tuple(lines)), view)


@command()
def backtest_show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")
    ] = "latest",
) -> Outcome:
    """Show a stored backtest again, and check its files."""
    from mltrain.backtesting.stored import open_backtest

    stored = open_backtest(session.data_dir, name)
    result, problems = stored.result(), stored.verify()
    failures = result.failures()
    document = BacktestDocument(stored.name, stored.folder, result.verdict, not failures, failures, problems, result)
    return Outcome(document, lambda: view_backtest(document), exit_code=FAILED_CHECK if problems else 0)


@command()
def backtest_diff(
    session: Session,
    first: Annotated[str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")],
    second: Annotated[str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")],
) -> Outcome:
    """Show how the options and the figures of two backtests differ."""
    from mltrain.backtesting.stored import open_backtest

    stored = [open_backtest(session.data_dir, name) for name in (first, second)]
    a, b = (each.result() for each in stored)
    options = [
        FigureDifference(name, x, y)
        for (name, x), (_, y) in zip(_list_options(a), _list_options(b), strict=True)
        if x != y
    ]
    figures = [
        FigureDifference(n, x, y) for (n, x, _), (_, y, _) in zip(_list_figures(a), _list_figures(b), strict=True)
    ]
    document = BacktestDiffDocument(stored[0].name, stored[1].name, tuple(options), tuple(figures))

    def view() -> View:
        names = (document.first, document.second)
        if options:
            yield table("Options", "option", *folding(*names), rows=[(o.name, o.first, o.second) for o in options])
        else:
            yield "the same options"
        yield table("Figures", "figure", *right(*names), rows=[(f.name, f.first, f.second) for f in figures])

    return Outcome(document, view)


@command()
def backtest_prune(session: Session, keep: KeepOption, dry_run: DryRunOption = False) -> Outcome:
    """Remove all but the newest backtests."""
    from mltrain.backtesting.stored import prune_backtests

    pruned = prune_backtests(session.data_dir, keep=keep, dry_run=dry_run)

    def view() -> View:
        yield from view_pruned(pruned.removed, {}, dry_run=dry_run)
        yield f"{pruned.bytes / 1e6:,.1f} MB"

    return Outcome(pruned, view)


def view_backtest(document: BacktestDocument) -> View:
    """Show a backtest: the verdict first, then figures, costs, benchmarks and how much may be luck."""
    result = document.result
    request, figures, luck = result.request, result.performance, result.luck
    if request.in_sample:
        yield "IN SAMPLE: the version may have learned from these bars, so this proves nothing"
    yield document.verdict
    yield (
        f"backtest {document.backtest}: {request.version} on {result.bars:,} bars of {', '.join(result.symbols)}, "
        f"{time_text(request.start_ms)} to {time_text(request.end_ms)} UTC; it learned until "
        f"{time_text(result.learned_until_ms)}"
    )
    costs = request.costs
    fees = f"maker {costs.maker_bps:g}, taker {costs.taker_bps:g} bps" if request.fees is None else str(request.fees)
    yield f"policy: {request.policy}{' (tuned)' if request.tuned else ''}; {costs.market}; fees: {fees}"
    if result.judged is not None:
        yield f"{result.judged.bars:,} of the bars are from the version's holdout: no new evidence"
    yield table("Figures", "figure", *right("value", "interval"), rows=_list_figures(result))
    cost_rows = [(c.name, f"{c.amount:,.2f}", number_text(c.turnover_bps, 2)) for c in figures.costs]
    yield table("Costs", "cost", *right("amount", "bps of turnover"), rows=cost_rows)
    rows = [(b.name, _percent(b.net_return), number_text(b.sharpe, 2), f"{b.drawdown:.2%}") for b in result.benchmarks]
    yield table("Held instead", "what", *right("net return", "Sharpe", "drawdown"), rows=rows)
    if result.grid:
        best = [
            (str(row.policy), _percent(row.net_return), number_text(row.sharpe, 2), number_text(row.turnover, 1))
            for row in result.grid[:MAX_GRID_ROWS_SHOWN]
        ]
        title = f"Grid: the best of {len(result.grid)}"
        yield table(title, *folding("policy"), *right("net return", "Sharpe", "turnover a day"), rows=best)
    if result.steps:
        fitted = [(time_text(step.cut_ms), f"{step.rows:,}", step.model_sha256[:16]) for step in result.steps]
        yield table("Walk forward", "from (UTC)", *right("rows learned"), "model (SHA-256)", rows=fitted)
    overfitting = "not applicable" if luck.overfitting is None else f"{luck.overfitting:.2f}"
    yield (
        f"deflated Sharpe ratio {number_text(luck.deflated_sharpe, 3)} (policies: {luck.grid}, backtests of these "
        f"candles: {luck.looks}); probability of overfitting: {overfitting}"
    )
    if request.capacity:
        size = "nothing is earned at any size" if result.capacity is None else f"{result.capacity:,.0f}"
        yield f"capacity: {size}"
    yield from document.problems
    yield f"report: {document.folder / 'report.html'}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def _list_options(result: BacktestResult) -> list[tuple[str, str]]:
    """Return the options of a backtest by name, as text."""
    from dataclasses import fields

    request = result.request
    listed = [(f.name, getattr(request, f.name)) for f in fields(request) if f.name not in {"policy", "costs", "grid"}]
    listed += [(f.name, getattr(request.policy, f.name)) for f in fields(request.policy)]
    listed += [(f.name, getattr(request.costs, f.name)) for f in fields(request.costs)]
    texts = [(name, time_text(value) if name.endswith("_ms") else str(value)) for name, value in listed]
    return [*texts, ("grid", f"{len(request.grid)} policies")]


def _list_figures(result: BacktestResult) -> list[tuple[str, str, str]]:
    """Return name, value and interval of each figure of a backtest, as text."""
    figures = result.performance
    daily, sharpe, break_even, fall = figures.daily_return, figures.sharpe, figures.break_even_bps, figures.drawdown
    hit_rate = figures.trades.hit_rate
    return [
        ("net return", _percent(figures.net_return), ""),
        ("gross return", _percent(figures.gross_return), ""),
        ("mean net return a day", "-" if daily is None else f"{daily.value:+.4%}",
         "-" if daily is None else f"{daily.low:+.4%} .. {daily.high:+.4%}"),
        ("break-even cost per side, bps", "-" if break_even is None else f"{break_even.value:.3f}",
         "-" if break_even is None else f"{break_even.low:.3f} .. {break_even.high:.3f}"),
        ("Sharpe ratio", "-" if sharpe is None else f"{sharpe.value:.2f}",
         "-" if sharpe is None else f"{sharpe.low:.2f} .. {sharpe.high:.2f}"),
        ("Sortino ratio", number_text(figures.sortino, 2), ""),
        ("Calmar ratio", "-" if figures.calmar is None else f"{figures.calmar:.3g}", ""),
        ("largest drawdown", "-" if fall is None else f"{fall.share:.2%}",
         "" if fall is None else f"{time_text(fall.peak_ms)} to {time_text(fall.trough_ms)}"),
        ("exposure", f"{figures.exposure:.1%}", ""),
        ("turnover a day", f"{figures.turnover:,.2f}", ""),
        ("trades", f"{figures.trades.number:,}", ""),
        ("hit rate", "-" if hit_rate is None else f"{hit_rate:.1%}", ""),
        ("P(Sharpe ratio > 0)", number_text(figures.probabilistic_sharpe, 3), ""),
        ("blind bars", f"{figures.blind_bars:,}", ""),
    ]  # fmt: skip
