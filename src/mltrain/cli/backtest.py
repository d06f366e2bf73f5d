"""Commands on backtests: backtest, and in its group list, show, diff, prune."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.api.backtest import backtest as run_backtest
from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import DryRunOption, KeepOption, LiveVersionArgument, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, cost_option, fill_option, new_group, output_option, policy_option
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text, time_text, view_pruned
from mltrain.cli.tables import folding, optional, right, table
from mltrain.errors import NoGoError, UsageError

if TYPE_CHECKING:
    from mltrain.api.backtest import BacktestReport
    from mltrain.cli.render import View

MAX_GRID_ROWS_SHOWN: Final = 10
#: The default of each option.
DEFAULTS: Final = dict(run_backtest.__kwdefaults__ or {})


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


DEFAULT_POLICY: Final = PolicyChoice(DEFAULTS["policy"])
DEFAULT_FILL: Final = FillChoice(DEFAULTS["fill"])


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
    ] = DEFAULT_POLICY,
    enter: Annotated[
        float, policy_option("--enter", metavar="P", help="Probability from which a position is opened.")
    ] = DEFAULTS["enter"],
    leave: Annotated[
        float,
        policy_option("--exit", metavar="P", help="hysteresis: probability of the other side from which it is closed."),
    ] = DEFAULTS["exit"],
    kelly_fraction: Annotated[
        float, policy_option("--kelly-fraction", metavar="SHARE", help="kelly: share of the Kelly weight.")
    ] = DEFAULTS["kelly_fraction"],
    max_weight: Annotated[
        float, policy_option("--max-weight", metavar="WEIGHT", help="Largest weight of a symbol; 1: its equal share.")
    ] = DEFAULTS["max_weight"],
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
    ] = DEFAULTS["spread_bps"],
    slippage_bps: Annotated[
        float, cost_option("--slippage-bps", metavar="BPS", help="Further loss of a taker per side.")
    ] = DEFAULTS["slippage_bps"],
    impact: Annotated[
        float, cost_option("--impact", metavar="Y", help="Factor of the square-root law of market impact; 0: none.")
    ] = DEFAULTS["impact"],
    funding: Annotated[
        str | None,
        cost_option(
            "--funding", metavar="FILE|BPS", help="perp: funding rates, or bps per 8 hours. Default: the snapshot's."
        ),
    ] = None,
    fill: Annotated[
        FillChoice, fill_option("--fill", help="next-open: as a taker; maker: by a limit order at the close.")
    ] = DEFAULT_FILL,
    delay_bars: Annotated[
        int, fill_option("--delay-bars", min=0, metavar="BARS", help="By how many bars orders arrive later.")
    ] = DEFAULTS["delay_bars"],
    participation: Annotated[
        str,
        fill_option(
            "--participation", metavar="SHARE", help="Largest share of a bar's volume that is filled, or `none`."
        ),
    ] = str(DEFAULTS["participation"]),
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
    ] = DEFAULTS["equity"],
    output: Annotated[
        Path | None,
        output_option("--output", metavar="DIR", help="Store the result in this folder. Default: backtests/."),
    ] = None,
    seed: Annotated[int, output_option("--seed", min=0, help="Random seed of the intervals.")] = DEFAULTS["seed"],
    gate: Annotated[
        bool, output_option("--gate", help="Exit 4 unless the gain is proven and not due to choosing among many.")
    ] = False,
    ops: OpsOption = None,
) -> Outcome:
    """Trade a version on candles that it has never learned from, with fees, slippage and funding."""
    # Before anything is scored.
    if in_sample and gate:
        raise UsageError("--gate refuses --in-sample: what the version learned from proves nothing")
    register_ops(ops)
    report = run_backtest(
        ref,
        snapshot,
        policy=policy.value,
        enter=enter,
        exit=leave,
        kelly_fraction=kelly_fraction,
        max_weight=max_weight,
        side=None if side is None else side.value,
        tune=tune,
        market=None if market is None else market.value,
        fees=fees,
        taker_bps=taker_bps,
        maker_bps=maker_bps,
        spread_bps=spread_bps,
        slippage_bps=slippage_bps,
        impact=impact,
        funding=funding,
        fill=fill.value,
        delay_bars=delay_bars,
        participation=_read_participation(participation),
        start=start,
        end=end,
        in_sample=in_sample,
        grid=grid,
        capacity=capacity,
        walk_forward=walk_forward,
        train_days=train_days,
        search=search,
        workers=workers,
        equity=equity,
        seed=seed,
        output=output,
        data_dir=session.data_dir,
        slot=session.slot,
        now_ms=session.now_ms,
        progress=session.progress,
    )
    failure = None
    if gate and not report.passes:
        hint = f"`mltrain backtest show {report.backtest}` shows the figures again"
        failure = NoGoError("; ".join(report.failures), hint=hint)
    return Outcome(report, lambda: _view_report(report), failure=failure)


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
    from mltrain.api.backtest import list_backtests

    listed = list_backtests(data_dir=session.data_dir)

    def view() -> View:
        from mltrain.backtesting.figures import format_change

        if not listed.backtests:
            yield f"no backtests in {session.data_dir}: run one with `mltrain backtest`"
            return
        cells = [
            (line.backtest, minute_text(line.created_at), line.policy, format_change(line.net_return),
             number_text(line.sharpe, 2), number_text(line.break_even_bps, 2), "in sample" if line.in_sample else "",
             line.problem or "")
            for line in listed.backtests
        ]  # fmt: skip
        yield table(
            None, "backtest", *optional("run (UTC)"), *folding("policy"), *right("net return", "Sharpe", "break-even"),
            *folding("note", "problem"), rows=cells,
        )  # fmt: skip

    return Outcome(listed, view)


@command()
def backtest_show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")
    ] = "latest",
) -> Outcome:
    """Show a stored backtest again, and check its files."""
    from mltrain.api.backtest import backtest_show

    report = backtest_show(name, data_dir=session.data_dir)
    return Outcome(report, lambda: _view_report(report), exit_code=FAILED_CHECK if report.problems else 0)


@command()
def backtest_diff(
    session: Session,
    first: Annotated[str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")],
    second: Annotated[str, typer.Argument(metavar="BACKTEST", help="latest, a name, or a path with a / in it.")],
) -> Outcome:
    """Show how the options and the figures of two backtests differ."""
    from mltrain.api.backtest import backtest_diff

    diff = backtest_diff(first, second, data_dir=session.data_dir)

    def view() -> View:
        names = (diff.first, diff.second)
        if diff.options:
            rows = [(o.name, o.first, o.second) for o in diff.options]
            yield table("Options", "option", *folding(*names), rows=rows)
        else:
            yield "the same options"
        yield table("Figures", "figure", *right(*names), rows=[(f.name, f.first, f.second) for f in diff.figures])

    return Outcome(diff, view)


@command()
def backtest_prune(session: Session, keep: KeepOption, dry_run: DryRunOption = False) -> Outcome:
    """Remove all but the newest backtests."""
    from mltrain.api.backtest import backtest_prune

    pruned = backtest_prune(keep=keep, dry_run=dry_run, data_dir=session.data_dir)

    def view() -> View:
        yield from view_pruned(pruned.removed, {}, dry_run=dry_run)
        yield f"{pruned.bytes / 1e6:,.1f} MB"

    return Outcome(pruned, view)


def _view_report(report: BacktestReport) -> View:
    """Show a backtest: the verdict first, then figures, costs, benchmarks and how much may be luck."""
    from mltrain.backtesting.figures import format_change, list_figures

    result = report.result
    request, figures, luck = result.request, result.performance, result.luck
    if request.in_sample:
        yield "IN SAMPLE: the version may have learned from these bars, so this proves nothing"
    yield report.verdict
    yield (
        f"backtest {report.backtest}: {request.version} on {result.bars:,} bars of {', '.join(result.symbols)}, "
        f"{time_text(request.start_ms)} to {time_text(request.end_ms)} UTC; it learned until "
        f"{time_text(result.learned_until_ms)}"
    )
    costs = request.costs
    fees = f"maker {costs.maker_bps:g}, taker {costs.taker_bps:g} bps" if request.fees is None else str(request.fees)
    yield f"policy: {request.policy}{' (tuned)' if request.tuned else ''}; {costs.market}; fees: {fees}"
    if result.judged is not None:
        yield f"{result.judged.bars:,} of the bars are from the version's holdout: no new evidence"
    yield table("Figures", "figure", *right("value", "interval"), rows=list_figures(result))
    cost_rows = [(c.name, f"{c.amount:,.2f}", number_text(c.turnover_bps, 2)) for c in figures.costs]
    yield table("Costs", "cost", *right("amount", "bps of turnover"), rows=cost_rows)
    rows = [
        (b.name, format_change(b.net_return), number_text(b.sharpe, 2), f"{b.drawdown:.2%}") for b in result.benchmarks
    ]
    yield table("Held instead", "what", *right("net return", "Sharpe", "drawdown"), rows=rows)
    if result.grid:
        best = [
            (str(row.policy), format_change(row.net_return), number_text(row.sharpe, 2), number_text(row.turnover, 1))
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
    yield from report.problems
    yield f"report: {report.folder / 'report.html'}"
