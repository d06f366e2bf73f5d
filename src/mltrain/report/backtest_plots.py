"""Draw a backtest: equity, drawdown, costs, break-even against the fees of exchanges, daily returns, grid. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.backtesting.overfitting import expected_best_sharpe
from mltrain.backtesting.performance import DAYS_PER_YEAR
from mltrain.candles.frame import times_ms
from mltrain.report.backtest_texts import list_tier_costs, price_cost_bps
from mltrain.report.scales import linear_scale, time_scale, widen
from mltrain.report.svg import DotRow, Missing, Plot, Segment, Strip, draw_dot_rows, draw_strips, make_figure
from mltrain.times import format_minutes
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.backtesting.fee_tiers import FeeTier
    from mltrain.backtesting.result import BacktestResult, GridRow
    from mltrain.report.svg import Shown

# Stretches of time of a curve; of each, the lowest and the highest value are drawn.
STRETCHES: Final = 250
# Fewer days have no shape.
MIN_DAYS: Final = 5
MAX_BINS: Final = 40

NOT_TRADED: Final = "nothing was traded."
_EQUITY: Final = "Equity"
_DRAWDOWN: Final = "Drawdown"
_COSTS: Final = "From gross to net"
_BREAK_EVEN: Final = "Break-even cost per side, and the fees of exchanges"
_DAYS: Final = "Distribution of the daily returns"
_GRID: Final = "Sharpe ratio by policy"
# A bar below this share of the width is marked, so that it is visible.
_NARROW: Final = 0.004
# Colours of the policies of a grid, by their order.
_GRID_COLOURS: Final = ("c1", "c2", "c4", "c3", "bad")


def draw_equity(result: BacktestResult, equity: pl.DataFrame, *, step_ms: int) -> Shown:
    """Draw the return since the start: after costs, before costs, and of equal weights held without costs.

    The table has the columns of `build_equity`, a row for each bar of `step_ms`; without `costs` and `held`, as earlier
    versions stored it, their lines are not drawn.
    """
    start, has_traded = result.request.equity, result.performance.traded > 0
    time_ms = _closes_ms(equity, step_ms)
    net = np.concatenate([[0.0], equity["equity"].to_numpy() / start - 1])
    curves = [("line c1", "after costs", net)]
    reading = f"The start is {start:,.0f} of the quote asset."
    if not has_traded:
        reading = f"Nothing was traded, so the equity stays as it was. {reading}"
    elif "costs" in equity.columns:
        gross = net + np.concatenate([[0.0], np.cumsum(equity["costs"].to_numpy()) / start])
        curves.insert(0, ("line c2", "the same trades before costs", gross))
        reading = f"The distance between the orange and the blue line is what trading has cost so far. {reading}"
    if "held" in equity.columns:
        held = np.concatenate([[0.0], equity["held"].to_numpy()])
        curves.insert(0, ("line c3", "equal weight held, without costs", held))
        reading += (
            " Equal weight is bought at the first close and never sold; the table of benchmarks has it with costs."
        )
    ends = [end for _, _, values in curves for end in (float(values.min()), float(values.max()))]
    plot = Plot(
        time_scale(float(time_ms[0]), float(time_ms[-1])),
        linear_scale(*widen(min(ends), max(ends), pad=0.08), "return since the start", percent=True),
        240,
    )
    plot.add_horizontal(0, "", "rule ideal")
    for css, _, values in curves:
        drawn = thin_out(values)
        plot.add_line(time_ms[drawn].tolist(), values[drawn].tolist(), css)
    performance, judged = result.performance, result.judged
    if performance.ruined_ms is not None:
        plot.add_vertical(performance.ruined_ms, "ruined", "rule bad", label_row=1)
        reading += f" The account was empty at {format_minutes(performance.ruined_ms)}: nothing is traded after that."
    if judged is not None:
        edges = ((judged.start_ms, "holdout starts"), (judged.end_ms + step_ms, "holdout ends"))
        for row, (edge_ms, label) in enumerate(edges):
            if time_ms[0] < edge_ms < time_ms[-1]:
                plot.add_vertical(edge_ms, label, "rule c4", label_row=row)
        reading += (
            f" The bars from {format_minutes(judged.start_ms)} to {format_minutes(judged.end_ms)} are from the "
            "version's holdout: they are no new evidence."
        )
    return make_figure(
        "equity",
        _EQUITY,
        plot,
        reading=reading,
        alt=f"From {format_minutes(result.request.start_ms)} to {format_minutes(result.request.end_ms)} UTC: "
        + "; ".join(f"{name} {values[-1]:+.2%}" for _, name, values in reversed(curves))
        + ".",
        legend=tuple((css, name) for css, name, _ in reversed(curves)),
        wide=True,
    )


def draw_drawdown(result: BacktestResult, equity: pl.DataFrame, *, step_ms: int) -> Shown:
    """Draw how far the equity is below its highest value so far; the arguments are those of `draw_equity`."""
    fall = result.performance.drawdown
    if fall is None:
        return Missing(_DRAWDOWN, "the equity never falls." if result.performance.traded > 0 else NOT_TRADED)
    time_ms = _closes_ms(equity, step_ms)
    curve = np.concatenate([[result.request.equity], equity["equity"].to_numpy()])
    depth = curve / np.maximum.accumulate(curve) - 1
    drawn = thin_out(depth)
    y = linear_scale(-fall.share * 1.08, fall.share * 0.3, "below the highest equity so far", count=3, percent=True)
    plot = Plot(time_scale(float(time_ms[0]), float(time_ms[-1])), y, 140)
    plot.add_area(time_ms[drawn].tolist(), depth[drawn].tolist(), [0.0] * drawn.size, "fill bad soft")
    plot.add_vertical(fall.trough_ms, f"-{fall.share:.2%}", "rule ideal")
    since = f"The largest drawdown, {fall.share:.2%}, lasted from {format_minutes(fall.peak_ms)}"
    since += f" to its lowest point at {format_minutes(fall.trough_ms)}"
    recovery = (
        "the equity has not reached its earlier height again"
        if fall.recovered_ms is None
        else f"its earlier height was reached again at {format_minutes(fall.recovered_ms)}"
    )
    return make_figure(
        "drawdown",
        _DRAWDOWN,
        plot,
        reading=f"{since}; {recovery}. At closes: inside a bar it may have been larger.",
        alt=f"{since}; {recovery}.",
        wide=True,
    )


def draw_costs(result: BacktestResult) -> Shown:
    """Draw the way from the gross to the net return: each cost takes a part, as a share of the equity at the start."""
    performance, start = result.performance, result.request.equity
    if not performance.traded:
        return Missing(_COSTS, NOT_TRADED)
    gross, net = performance.gross_return, performance.net_return
    # Name, note, and where the bar begins and ends.
    steps = [("before costs", f"{gross:+.2%}", 0.0, gross, "fill c1" if gross >= 0 else "fill bad")]
    for cost in performance.costs:
        if cost.amount:
            level = steps[-1][3]
            note = f"{-cost.amount / start:+.2%} ({-(cost.turnover_bps or 0):+.2f} bps)"
            css = "fill c2" if cost.amount > 0 else "fill c4"
            steps.append((cost.name, note, level, level - cost.amount / start, css))
    steps.append(("after costs", f"{net:+.2%}", 0.0, net, "fill c1" if net >= 0 else "fill bad"))
    ends = [end for _, _, *both, _ in steps for end in both]
    narrow = _NARROW * (max(ends) - min(ends))
    rows = [
        Strip(name, note, (Segment(min(a, b), max(a, b), css, mark=abs(b - a) <= narrow),))
        for name, note, a, b, css in steps
    ]
    unused = [cost.name for cost in performance.costs if not cost.amount]
    scale = linear_scale(*widen(min(ends), max(ends)), "share of the equity at the start", percent=True)
    received = any(cost.amount < 0 for cost in performance.costs)
    lost = min(gross, net) < 0
    return make_figure(
        "costs",
        _COSTS,
        draw_strips(rows, scale),
        reading="From top to bottom: what the trades earned before costs, what each cost took from it, and what was "
        "left. Each cost begins where the bar above ends. In brackets: bps of the traded value, so per side."
        + (f" Not charged: {', '.join(unused)}." if unused else ""),
        alt="; ".join(f"{row.name} {row.note}" for row in rows),
        legend=(
            ("fill c1", "earned"),
            *((("fill bad", "lost"),) if lost else ()),
            ("fill c2", "cost"),
            *((("fill c4", "received"),) if received else ()),
        ),
    )


def draw_break_even(result: BacktestResult, tiers: Mapping[str, FeeTier]) -> Shown:
    """Draw the cost per side at which nothing is earned, with its interval, next to what exchanges charge, in bps."""
    performance = result.performance
    break_even = performance.break_even_bps
    if break_even is None:
        return Missing(_BREAK_EVEN, NOT_TRADED if not performance.traded else "one day has no interval.")
    paid_bps = sum(cost.amount for cost in performance.costs if cost.name != "funding") / performance.traded * BPS
    taken_bps = price_cost_bps(result)
    rows = [
        DotRow("break-even", break_even.value, (break_even.low, break_even.high), f"{break_even.value:.2f}"),
        DotRow("paid in this run", paid_bps, None, f"{paid_bps:.2f}"),
        *(DotRow(name, cost, None, f"{cost:.2f}") for name, cost in list_tier_costs(result, tiers)),
    ]
    ends = [0.0, *(end for row in rows for end in (row.value, *(row.interval or ())))]
    scale = linear_scale(*widen(min(ends), max(ends)), "bps per side", count=3)
    reading = "What costs less than the vertical line, so lies to the left of it, would have left a gain."
    if taken_bps:
        reading += f" A taker's cost includes the {taken_bps:.2f} bps of spread, slippage and impact assumed here."
    if result.request.costs.fill == "next-open":
        reading += " A maker's orders would be filled at other times, some never: --fill maker simulates that."
    return make_figure(
        "break-even",
        _BREAK_EVEN,
        draw_dot_rows(rows, scale, reference=break_even.value, other_css="c2"),
        reading=reading,
        alt=f"interval of the break-even cost {break_even.low:.2f} to {break_even.high:.2f} bps; "
        + "; ".join(f"{row.name} {row.note}" for row in rows),
        named_rows=True,
    )


def draw_daily_returns(result: BacktestResult, returns: NDArray[np.float64]) -> Shown:
    """Draw how often which net return occurred; `returns` are those of the days, shape (n,)."""
    if not result.performance.traded:
        return Missing(_DAYS, NOT_TRADED)
    if returns.size < MIN_DAYS or not np.ptp(returns):
        return Missing(_DAYS, f"it needs {MIN_DAYS} days that differ.")
    low, high = min(float(returns.min()), 0.0), max(float(returns.max()), 0.0)
    # The rule of Rice; zero is an edge, so that no bar holds gains and losses.
    step = (high - low) / min(math.ceil(2 * returns.size ** (1 / 3)), MAX_BINS)
    edges = step * np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    counts, _ = np.histogram(np.clip(returns, edges[0], edges[-1]), edges)
    plot = Plot(
        linear_scale(float(edges[0]), float(edges[-1]), "net return of a day", percent=True),
        linear_scale(0, float(counts.max()) * 1.2, "days", count=3),
    )
    bins = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
    losses, gains = ([b for b in bins if (b[1] > step / 2) == gained] for gained in (False, True))
    legend = []
    for css, name, chosen in (("fill c1 soft", "gains", gains), ("fill c2 soft", "losses", losses)):
        legend += [(css, name)] if chosen else []
        tips = [f"{left:+.2%} to {right:+.2%}: {count} days" for left, right, count in chosen]
        plot.add_bars(chosen, css, tips)
    mean, gaining = float(returns.mean()), int((returns > 0).sum())
    plot.add_vertical(mean, f"mean {mean:+.3%}", "rule ideal")
    worst, best = float(returns.min()), float(returns.max())
    return make_figure(
        "days",
        _DAYS,
        plot,
        reading=f"{gaining} of {returns.size} days gained. A few bars far to one side mean that few days decide the "
        "result.",
        alt=f"{returns.size} days, {gaining} of them gained; the worst {worst:+.2%}, the best {best:+.2%}, the mean "
        f"{mean:+.3%}.",
        legend=tuple(legend),
    )


def draw_grid(result: BacktestResult) -> Shown:
    """Draw the Sharpe ratio of each policy of a grid, over the number in which they differ most."""
    known = [(row, row.sharpe) for row in result.grid if row.sharpe is not None]
    if not known:
        return Missing(_GRID, "the daily returns of no policy vary.")
    sharpes = [sharpe for _, sharpe in known]
    by_luck = measure_best_by_luck(result)
    option, xs = _choose_option([row for row, _ in known])
    names = list(dict.fromkeys(row.policy.name for row, _ in known))
    x = linear_scale(*widen(min(xs), max(xs)), option or "policies, the best first")
    ends = (0.0, by_luck, *sharpes)
    y = linear_scale(*widen(min(ends), max(ends), pad=0.1), "annual Sharpe ratio")
    plot = Plot(x, y, inset=0.08)
    plot.add_horizontal(0, "", "axis")
    plot.add_horizontal(by_luck, "best by luck alone", "rule ideal")
    chosen = [ix for ix, (row, _) in enumerate(known) if row.policy == result.request.policy]
    plot.add_dots([xs[ix] for ix in chosen], [sharpes[ix] for ix in chosen], "hollow bad", radius=8)
    for name, css in zip(names, _GRID_COLOURS, strict=False):
        of_name = [ix for ix, (row, _) in enumerate(known) if row.policy.name == name]
        tips = [f"{known[ix][0].policy}: {sharpes[ix]:.2f}" for ix in of_name]
        plot.add_dots([xs[ix] for ix in of_name], [sharpes[ix] for ix in of_name], f"dot {css}", tips=tips)
    tries = result.luck.grid * result.luck.looks
    reading = (
        "A dot is a policy. Neighbours that do equally well are a sign of an effect, a single dot high above the "
        f"others is a sign of luck. The dashed line is the Sharpe ratio to expect of the best of {tries} tries without "
        "skill."
    )
    if flat := len(result.grid) - len(known):
        reading += f" Not drawn, because their returns do not vary: {flat}."
    return make_figure(
        "grid-figure",
        _GRID,
        plot,
        reading=reading,
        alt=f"{len(known)} policies with annual Sharpe ratios from {min(sharpes):.2f} to {max(sharpes):.2f}; the best "
        f"of {tries} tries without skill would have {by_luck:.2f}.",
        legend=(
            *((f"dot {css}", name) for name, css in zip(names, _GRID_COLOURS, strict=False)),
            *((("hollow bad", "the policy of this backtest"),) if chosen else ()),
            ("line ideal", "best by luck alone"),
        ),
        wide=True,
    )


def measure_best_by_luck(result: BacktestResult) -> float:
    """Return the annual Sharpe ratio to expect of the best of all tries without skill; 0 without a grid."""
    daily = [row.sharpe / math.sqrt(DAYS_PER_YEAR) for row in result.grid if row.sharpe is not None]
    variance = float(np.var(daily)) if daily else 0.0
    tries = result.luck.grid * result.luck.looks
    return expected_best_sharpe(variance, tries) * math.sqrt(DAYS_PER_YEAR) if result.grid else 0.0


def _choose_option(rows: Sequence[GridRow]) -> tuple[str, list[float]]:
    """Return the number with most values among policies that all use it, with its values; without one, their ranks."""
    parameters = [row.policy.parameters for row in rows]
    shared = [name for name in parameters[0] if all(name in given for given in parameters)]
    by_count = [(len({given[name] for given in parameters}), name) for name in shared]
    count, option = max(by_count, key=lambda found: found[0])
    if count < 2:
        return "", [float(ix + 1) for ix in range(len(rows))]
    return option.replace("_", "-"), [given[option] for given in parameters]


def thin_out(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions that show a curve, shape (n,): its ends, and the extremes of each of `STRETCHES` parts."""
    if values.size <= 2 * STRETCHES:
        return np.arange(values.size)
    edges = np.linspace(0, values.size, STRETCHES + 1).astype(np.int64)
    kept = [0, values.size - 1]
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[first:end]
        kept += [first + int(part.argmin()), first + int(part.argmax())]
    return np.unique(np.array(kept, np.int64))


def _closes_ms(equity: pl.DataFrame, step_ms: int) -> NDArray[np.int64]:
    """Return the start of the run and the close of each bar, ms UTC, shape (t + 1,)."""
    ts_ms = times_ms(equity)
    return np.concatenate([ts_ms[:1], ts_ms + step_ms])
