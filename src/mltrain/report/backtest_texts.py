"""State a backtest in words and tables: figures, options, luck, what the simulation does not know, lineage.

Pure: a result in, rows of text out; the page escapes them, and words of a command are quoted for a shell.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from mltrain.backtesting.result import GATE_OVERFITTING, GATE_SHARPE
from mltrain.report.texts import DASH, Tile, format_number, format_percent
from mltrain.times import day_name, format_minutes, format_ms
from mltrain.training.bootstrap import MIN_DAYS
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mltrain.backtesting.fee_tiers import FeeTier
    from mltrain.backtesting.result import BacktestResult
    from mltrain.training.bootstrap import Interval

# Rows of the table of a grid: the others are in grid.parquet.
MAX_GRID_ROWS: Final = 100


def describe_run(result: BacktestResult) -> str:
    """State the bars, the time range, and until when the version learned."""
    request = result.request
    learned = f"the version learned until {format_minutes(result.learned_until_ms)}"
    if request.walk_forward_days is not None:
        learned = f"models fitted again every {request.walk_forward_days} days"
    return (
        f"{result.bars:,} bars of {result.interval} · {format_minutes(request.start_ms)} to "
        f"{format_minutes(request.end_ms)} UTC · {learned}"
    )


def list_warnings(result: BacktestResult) -> list[str]:
    """Return what makes the result weaker than it looks, in sentences."""
    lines = []
    judged, days = result.judged, result.performance.days
    if result.request.in_sample:
        lines.append(
            "In sample: the version may have learned from these bars. Whatever it earns here, it proves nothing."
        )
    if judged is not None:
        lines.append(
            f"{judged.bars:,} of the {result.bars:,} bars are from the version's own holdout "
            f"({format_minutes(judged.start_ms)} to {format_minutes(judged.end_ms)}), on which its gates have judged "
            "it: they are no new evidence."
        )
    if days < MIN_DAYS:
        lines.append(f"{days} day{'s are' if days != 1 else ' is'} few: one event can make or break the result.")
    return lines


def list_tiles(result: BacktestResult) -> tuple[Tile, ...]:
    """Return the main figures, from the net return to the trades."""
    figures = result.performance
    fall, trades = figures.drawdown, figures.trades
    break_even, sharpe = figures.break_even_bps, figures.sharpe
    return (
        Tile("Net return", format_percent(figures.net_return, signed=True),
             f"{format_percent(figures.gross_return, signed=True)} before costs"),
        Tile("Break-even cost", DASH if break_even is None else f"{break_even.value:.2f} bps",
             f"per side; {_format_ends(break_even, '{:.2f}')}" if break_even else "per side"),
        Tile("Sharpe ratio", format_number(sharpe.value if sharpe else None, 2), _format_ends(sharpe, "{:.2f}")),
        Tile("Largest drawdown", format_percent(fall.share if fall else 0.0),
             f"{day_name(fall.peak_ms)} to {day_name(fall.trough_ms)}" if fall else "the equity never falls"),
        Tile("Turnover per day", f"{figures.turnover:,.2f}", f"times the equity; {figures.exposure:.1%} exposed"),
        Tile("Trades", f"{trades.number:,}",
             "" if trades.hit_rate is None else f"{trades.hit_rate:.1%} earned something"),
    )  # fmt: skip


def _format_ends(interval: Interval | None, form: str) -> str:
    """Return the ends of an interval as text, such as "0.10 to 0.52"; empty without one."""
    return "" if interval is None else f"{form.format(interval.low)} to {form.format(interval.high)}"


def list_tier_costs(result: BacktestResult, tiers: Mapping[str, FeeTier]) -> list[tuple[str, float]]:
    """Return what one side would cost on the traded market at each packaged fee tier, in bps, the cheapest first.

    A taker pays the fee, and spread, slippage and impact as this backtest assumes them; a maker pays the fee alone.
    """
    taken_bps = price_cost_bps(result)
    costs = [
        cost
        for name, tier in tiers.items()
        if tier.market == result.request.costs.market
        for cost in ((f"{name} maker", tier.maker_bps), (f"{name} taker", tier.taker_bps + taken_bps))
    ]
    return sorted(costs, key=lambda cost: (cost[1], cost[0]))


def price_cost_bps(result: BacktestResult) -> float:
    """Return what a taker loses per side besides the fee, in bps: half the spread, slippage and mean impact."""
    impact = next((cost.turnover_bps for cost in result.performance.costs if cost.name == "impact"), None)
    return result.request.costs.taker_loss * BPS + (impact or 0.0)


def describe_tiers(result: BacktestResult, tiers: Mapping[str, FeeTier]) -> str:
    """State which fee tiers cost less than the break-even cost; empty if nothing was traded."""
    break_even = result.performance.break_even_bps
    if break_even is None:
        return ""
    costs = list_tier_costs(result, tiers)
    below = [name for name, cost in costs if cost < break_even.value]
    surely = [name for name, cost in costs if cost < break_even.low]
    market = {"spot": "spot", "perp": "perpetual"}[result.request.costs.market]
    limit = f"the break-even cost of {break_even.value:.2f} bps per side"
    if break_even.value <= 0:
        return f"The trades lose even without fees: none of the {len(costs)} {market} fee tiers is low enough."
    if not below:
        return f"None of the {len(costs)} {market} fee tiers costs less than {limit}."
    line = f"All {len(costs)}" if len(below) == len(costs) else f"{', '.join(below)} ({len(below)} of {len(costs)}"
    line += f" {market} fee tiers{'' if len(below) == len(costs) else ')'} cost less than {limit}"
    if len(surely) == len(below):
        return f"{line}, and less than the lower end of its interval."
    return f"{line}; less than the lower end of its interval: {', '.join(surely) or 'none'}."


def list_costs(result: BacktestResult) -> tuple[tuple[str, str, str, str], ...]:
    """Return each cost: its name, the amount in the quote asset, the share of the start equity, and bps of turnover."""
    return tuple(
        (
            cost.name,
            format_number(cost.amount, 2),
            format_percent(cost.amount / result.request.equity),
            format_number(cost.turnover_bps, 3),
        )
        for cost in result.performance.costs
    )


def list_trades(result: BacktestResult) -> tuple[tuple[str, str], ...]:
    """Return name and value of what describes the trades, as text."""
    figures = result.performance
    trades, start = figures.trades, result.request.equity

    def per_side(share: float) -> str:
        return f"{share * start / figures.traded * BPS:+.3f} bps" if figures.traded else DASH

    return (
        ("Trades, from opening to end or reversal", f"{trades.number:,}"),
        ("Trades that earned something after costs", f"{trades.hits:,}"),
        ("Hit rate", format_percent(trades.hit_rate, 1)),
        ("Mean duration", DASH if trades.mean_bars is None else f"{trades.mean_bars:,.1f} bars of {result.interval}"),
        ("Traded value, quote asset", format_number(figures.traded, 0)),
        ("Turnover per day, times the equity", format_number(figures.turnover, 2)),
        ("Exposure: positions over the equity", format_percent(figures.exposure, 1)),
        ("Earned per side, before costs", per_side(figures.gross_return)),
        ("Paid per side", per_side(figures.gross_return - figures.net_return)),
    )


def list_figures(result: BacktestResult) -> tuple[tuple[str, str, str], ...]:
    """Return name, value and interval or note of every figure, as text."""
    figures = result.performance
    daily, sharpe, break_even, fall = figures.daily_return, figures.sharpe, figures.break_even_bps, figures.drawdown
    capacity = result.capacity
    rows = [
        ("Net return", format_percent(figures.net_return, signed=True), ""),
        ("Gross return, before costs", format_percent(figures.gross_return, signed=True), ""),
        ("Mean net return per day", format_percent(daily.value if daily else None, 4, signed=True),
         _format_ends(daily, "{:+.4%}")),
        ("Break-even cost per side, bps", format_number(break_even.value if break_even else None, 3),
         _format_ends(break_even, "{:.3f}")),
        ("Sharpe ratio, annual", format_number(sharpe.value if sharpe else None, 2), _format_ends(sharpe, "{:.2f}")),
        ("Sortino ratio, annual", format_number(figures.sortino, 2), ""),
        ("Calmar ratio", DASH if figures.calmar is None else _format_ratio(figures.calmar), ""),
        ("Largest drawdown", format_percent(fall.share if fall else None),
         f"{format_minutes(fall.peak_ms)} to {format_minutes(fall.trough_ms)}" if fall else ""),
        ("Probability of a Sharpe ratio above 0", format_number(figures.probabilistic_sharpe, 3), ""),
        ("Days", f"{figures.days:,}", ""),
        ("Bars without a prediction", f"{result.refused:,}", "refused by the model"),
        ("Blind bars", f"{figures.blind_bars:,}", "with a position, but without a candle"),
    ]  # fmt: skip
    if result.request.capacity:
        note = "equity, in the quote asset, at which nothing is earned any more"
        rows.append(("Capacity", "none" if capacity is None else f"{capacity:,.0f}", note))
    return tuple(rows)


def _format_ratio(value: float) -> str:
    """Return a ratio as text; the annual return of a few very good days is a number that nobody can read."""
    return f"{value:,.2f}" if abs(value) < 10**6 else f"{value:.3g}"


def describe_intervals(result: BacktestResult) -> str:
    """State how the intervals were computed."""
    if result.performance.daily_return is None:
        return "One day has no intervals."
    return (
        "Intervals are from a bootstrap of whole UTC days, all symbols together; Sharpe ratios are from daily returns, "
        "times the square root of 365."
    )


def list_options(result: BacktestResult) -> tuple[tuple[str, str], ...]:
    """Return name and value of each option, as text."""
    request, costs = result.request, result.request.costs
    share = "no limit" if costs.participation is None else f"at most {costs.participation * 100:.4g}% of a bar's volume"
    fill = {"next-open": "as a taker at the next open", "maker": "by a limit order at the close of the decision"}
    rows = [
        ("Policy", f"{request.policy}{', chosen on out-of-fold scores of the training' if request.tuned else ''}"),
        ("Market", {"spot": "spot", "perp": "perpetual future"}[costs.market]),
        ("Fees", f"maker {costs.maker_bps:g} bps, taker {costs.taker_bps:g} bps"),
        ("Fees from", "the command line" if request.fees is None else f"{request.fees} ({request.fees.source})"),
        ("Spread", f"{costs.spread_bps:g} bps"),
        ("Slippage", f"{costs.slippage_bps:g} bps per side"),
        ("Impact factor", f"{costs.impact:g}"),
        ("Funding", request.funding or "none"),
        ("Orders are filled", f"{fill[costs.fill]}, {share}"),
        ("Orders arrive later by", f"{costs.delay_bars} bars"),
        ("Equity at the start", f"{request.equity:,.2f}"),
        ("Bars", f"{format_ms(request.start_ms)} to {format_ms(request.end_ms)}"),
        ("In sample", "yes" if request.in_sample else "no"),
        ("Model", _describe_models(result)),
    ]
    return tuple(rows)


def _describe_models(result: BacktestResult) -> str:
    """State which models scored the bars."""
    request = result.request
    if request.walk_forward_days is None:
        return "that of the version"
    rows = "all earlier rows" if request.train_days is None else f"the {request.train_days} days before"
    if request.search_trials is None:
        found = "the version's hyperparameters"
    else:
        found = f"a search of {request.search_trials} trials before each fit"
    return f"fitted again every {request.walk_forward_days} days on {rows}, with {found}"


def list_steps(result: BacktestResult) -> tuple[tuple[str, str, str, str], ...]:
    """Return time range, rows learned from and hash of each model of a walk-forward backtest, as text."""
    return tuple(
        (format_minutes(step.cut_ms), format_minutes(step.end_ms), f"{step.rows:,}", step.model_sha256)
        for step in result.steps
    )


def list_benchmarks(result: BacktestResult) -> tuple[tuple[str, str, str, str], ...]:
    """Return name, net return, Sharpe ratio and drawdown of the policy, then of each benchmark, as text."""
    figures = result.performance
    own = (figures.net_return, figures.sharpe.value if figures.sharpe else None, figures.drawdown)
    rows = [("this backtest", own[0], own[1], own[2].share if own[2] else 0.0)]
    rows += [(each.name, each.net_return, each.sharpe, each.drawdown) for each in result.benchmarks]
    return tuple(
        (name, format_percent(net, signed=True), format_number(sharpe, 2), format_percent(fall))
        for name, net, sharpe, fall in rows
    )


def list_grid(result: BacktestResult) -> tuple[tuple[str, ...], ...]:
    """Return policy, net return, Sharpe ratio, drawdown, turnover and fees of the best policies of a grid, as text."""
    return tuple(
        (
            str(row.policy),
            format_percent(row.net_return, signed=True),
            format_number(row.sharpe, 2),
            format_percent(row.drawdown),
            format_number(row.turnover, 2),
            format_number(row.fees, 2),
        )
        for row in result.grid[:MAX_GRID_ROWS]
    )


def list_luck(result: BacktestResult) -> tuple[tuple[str, str, str], ...]:
    """Return name, value and meaning of what says how much may be due to luck, as text."""
    luck = result.luck
    if result.grid:
        meaning = (
            f"Probability that the true Sharpe ratio exceeds that of the best of {luck.grid * luck.looks} tries "
            f"without skill ({luck.grid} policies times {luck.looks} looks)"
        )
    else:
        meaning = "Probability that the true Sharpe ratio exceeds zero; without a grid there was nothing to choose from"
    overfitting = "How often the best policy of one half of the days is below the median on the other half"
    if luck.overfitting is None:
        overfitting += "; needs a grid of two policies and 32 days"
    looks = "Backtests that traded a part of these candles, this one included: each makes a lucky result likelier"
    return (
        ("Deflated Sharpe ratio", format_number(luck.deflated_sharpe, 3),
         f"{meaning}. The gate asks for {GATE_SHARPE}."),
        ("Probability of overfitting",
         "not applicable" if luck.overfitting is None else format_number(luck.overfitting, 3),
         f"{overfitting}. The gate allows {GATE_OVERFITTING}."),
        ("Looks", f"{luck.looks:,}", f"{looks}."),
    )  # fmt: skip


def list_limits(result: BacktestResult) -> Iterator[str]:
    """Yield what the simulation does not know, one or two sentences each."""
    request, costs = result.request, result.request.costs
    yield (
        f"It sees candles of {result.interval}: open, high, low, close and volume. It has no order book, and does not "
        "know the way of the price inside a candle."
    )
    if costs.fill == "next-open":
        yield (
            "Orders are filled at the open of the next candle, worse by half the spread and the slippage that were "
            f"assumed ({costs.taker_loss * BPS:g} bps together). An open is the price of one trade: more than its "
            "size may not have been for sale there."
        )
    else:
        yield (
            "A limit order counts as filled at its limit when a later candle trades through it by 1 bp. Nobody knows "
            "its place in the queue, and real orders are filled most readily when the price moves against them."
        )
        yield "The position that is open at the end is closed as a taker."
    late = f"{costs.delay_bars} bars later than that" if costs.delay_bars else "without any delay"
    yield (
        f"Latency: what is decided at a close arrives before the next open, {late}. The time to fetch the candle, to "
        "predict and to send the order is not simulated; `--delay-bars` shows how much depends on it."
    )
    if costs.participation is None:
        yield "Orders of any size are filled at once, also if they are larger than the volume of the candle."
    else:
        yield (
            f"At most {costs.participation * 100:.4g}% of a candle's volume is filled, which nobody knows at its open; "
            "the rest waits for the next candle."
        )
    if costs.impact:
        yield (
            f"Market impact is the square-root law with the factor {costs.impact:g}: a rough estimate, and the price "
            "recovers at once."
        )
    else:
        yield "Market impact is left out: the orders do not move the price, whatever their size."
    if costs.market == "perp":
        yield (
            "There is no margin call inside a candle: the account ends only when its equity at a close is zero or "
            "less. An exchange liquidates earlier."
        )
        yield (
            "Funding is paid at the close before each event, at the rates named above: the mark price of the exchange "
            "is not known."
        )
    else:
        yield "On spot there are no short positions and no borrowing."
    as_of = "" if request.fees is None else f" as of {request.fees.as_of}"
    yield (
        f"The fees are one tier{as_of}, for all times: without discounts for volume or for an exchange's own coin, and "
        "without rebates."
    )
    yield (
        "Survivorship: the symbols are those that somebody chose, knowing which ones still exist. Coins that were "
        "delisted or collapsed may be missing."
    )
    yield (
        "Outages of the exchange, refused orders, smallest sizes and steps of prices are not simulated. Where candles "
        f"are missing, nothing is filled and positions stay ({result.performance.blind_bars:,} such bars here)."
    )
    yield "Idle cash earns nothing; taxes, withdrawals and conversions are left out."
    yield (
        "It is one path of the past, and the intervals know only the days in it. A choice of options that was made "
        "after seeing results on these candles makes them too narrow."
    )


def build_command(result: BacktestResult, tiers: Mapping[str, FeeTier]) -> str:
    """Return the command that runs the backtest again; a file of funding rates is FILE, a grid is left out."""
    request, costs, policy = result.request, result.request.costs, result.request.policy
    words = ["mltrain", "backtest", request.version, "--snapshot", request.snapshot, "--policy", policy.name]
    for name, value in (*policy.parameters.items(), ("side", policy.side)):
        words += [f"--{name.replace('_', '-')}", _to_word(value)]
    words += ["--market", costs.market]
    tier = next((name for name, each in tiers.items() if each == request.fees), None)
    if tier is not None:
        words += ["--fees", tier]
    if tier is None or (tiers[tier].taker_bps, tiers[tier].maker_bps) != (costs.taker_bps, costs.maker_bps):
        words += ["--taker-bps", _to_word(costs.taker_bps), "--maker-bps", _to_word(costs.maker_bps)]
    for name in ("spread_bps", "slippage_bps", "impact"):
        words += [f"--{name.replace('_', '-')}", _to_word(getattr(costs, name))]
    words += ["--participation", "none" if costs.participation is None else _to_word(costs.participation)]
    words += ["--fill", costs.fill, "--delay-bars", str(costs.delay_bars)]
    if request.funding is not None and not request.funding.startswith("snapshot "):
        rate, _, unit = request.funding.partition(" ")
        words += ["--funding", rate if unit == "bps per 8 hours" else "FILE"]
    words += ["--from", format_ms(request.start_ms), "--to", format_ms(request.end_ms)]
    words += ["--equity", _to_word(request.equity), "--seed", str(request.seed)]
    words += ["--in-sample"] if request.in_sample else []
    words += ["--capacity"] if request.capacity else []
    for option, count in (
        ("--walk-forward", request.walk_forward_days),
        ("--train-days", request.train_days),
        ("--search", request.search_trials),
    ):
        words += [] if count is None else [option, str(count)]
    return shlex.join(words)


def _to_word(value: float | str) -> str:
    """Return an option's value as a word of a command, with all its digits."""
    return value if isinstance(value, str) else f"{value:.15g}"


def list_lineage(result: BacktestResult) -> tuple[tuple[str, str], ...]:
    """Return name and value of everything that the result depends on besides the options, as text."""
    request = result.request
    return (
        ("Version", request.version),
        ("SHA-256 of its manifest", request.version_sha256),
        ("Snapshot", request.snapshot),
        ("SHA-256 of its manifest ", request.snapshot_sha256),
        ("Symbols", ", ".join(result.symbols)),
        ("Funding", request.funding or "none"),
        ("Seed of the intervals", str(request.seed)),
        ("mltrain", request.mltrain),
        ("SHA-256 of its source code", request.package_sha256),
        ("SHA-256 of the feature ops", request.ops_sha256),
    )
