"""The HTML report of a backtest: its verdict first, then figures, tables, and what the simulation does not know.

Pure, except that the packaged fees of exchanges are read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mltrain.backtesting.fee_tiers import read_fee_tiers
from mltrain.backtesting.performance import daily_equity, daily_returns
from mltrain.backtesting.result_tables import build_equity
from mltrain.report import backtest_plots, backtest_texts
from mltrain.report.page import render
from mltrain.times import DAY_MS, EPOCH, FIRST_MONDAY_MS, WEEK_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.engine import Simulation
    from mltrain.backtesting.result import BacktestResult

# Runs of at most so many days are shown day by day, longer ones month by month.
MAX_DAYS_SHOWN: Final = 100
# How a verdict begins: the page shows these words in large letters.
_VERDICT: Final = re.compile(r"((?:in sample: )?(?:profitable|not proven|not tradable|ruined:)) (.*)")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Shades of the heat map.
_SHADES: Final = 4


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Returns by period of time, as a table.

    Attributes:
        caption: What it shows.
        heads: The name of each column.
        rows: Of each row the name, then text and CSS class of each cell; the last cell is the whole row.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def draft_backtest_report(result: BacktestResult, bars: Bars, simulation: Simulation) -> Callable[[str], bytes]:
    """Draw the figures of a backtest.

    Args:
        result: What was asked, and what was found.
        bars: The bars that were traded.
        simulation: The simulation of the policy.

    Returns:
        A function that takes the backtest's name and returns its HTML page, UTF-8.
    """
    tiers, curve = read_fee_tiers(), build_equity(bars, simulation)
    day_ms, equity = daily_equity(bars, simulation.equity[:, 0])
    returns = daily_returns(equity, result.request.equity)
    in_sample = result.request.in_sample
    word, sentence = split_verdict(f"in sample: {result.verdict}" if in_sample else result.verdict)
    figures = {
        "equity": (
            backtest_plots.draw_equity(result, curve, step_ms=bars.step_ms),
            backtest_plots.draw_drawdown(result, curve, step_ms=bars.step_ms),
        ),
        "costs": (backtest_plots.draw_costs(result), backtest_plots.draw_break_even(result, tiers)),
        "days": (backtest_plots.draw_daily_returns(result, returns),),
        "grid": (backtest_plots.draw_grid(result),) if result.grid else (),
    }

    def finish(name: str) -> bytes:
        return render(
            "backtest.html.j2",
            name=name,
            version=result.request.version,
            symbols=result.symbols,
            in_sample=in_sample,
            word=word,
            sentence=sentence,
            css="go" if word == "Profitable" else "nogo",
            summary_line=backtest_texts.describe_run(result),
            warnings=backtest_texts.list_warnings(result),
            gate_failures=result.failures(),
            tiles=backtest_texts.list_tiles(result),
            figures=figures,
            tier_line=backtest_texts.describe_tiers(result, tiers),
            costs=backtest_texts.list_costs(result),
            heat=build_heat_map(day_ms, returns) if result.performance.traded else None,
            trades=backtest_texts.list_trades(result),
            numbers=backtest_texts.list_figures(result),
            interval_line=backtest_texts.describe_intervals(result),
            options=backtest_texts.list_options(result),
            steps=backtest_texts.list_steps(result),
            benchmarks=backtest_texts.list_benchmarks(result),
            grid=backtest_texts.list_grid(result),
            grid_hidden=max(0, len(result.grid) - backtest_texts.MAX_GRID_ROWS),
            luck=backtest_texts.list_luck(result),
            limits=tuple(backtest_texts.list_limits(result)),
            command=backtest_texts.build_command(result, tiers),
            lineage=backtest_texts.list_lineage(result),
        )

    return finish


def split_verdict(verdict: str) -> tuple[str, str]:
    """Return the first words of a verdict, which are shown in large letters, and the rest of the sentence.

    >>> split_verdict("not tradable at fees of 5 bps taker: it breaks even at 0.30 bps per side")
    ('Not tradable', 'at fees of 5 bps taker: it breaks even at 0.30 bps per side')
    >>> split_verdict("something else")
    ('Something else', '')
    """
    found = _VERDICT.fullmatch(verdict)
    word, sentence = found.groups() if found else (verdict, "")
    return word[:1].upper() + word[1:], sentence


def build_heat_map(day_ms: NDArray[np.int64], returns: NDArray[np.float64]) -> HeatMap:
    """Return the net returns by day of the week, or by month if there are more than MAX_DAYS_SHOWN days.

    Args:
        day_ms: Midnights of the days, ms UTC, shape (n,), rising, without gaps.
        returns: Net return of each day, shape (n,).
    """
    if day_ms.size <= MAX_DAYS_SHOWN:
        weeks = (day_ms - FIRST_MONDAY_MS) // WEEK_MS
        places = [(int(week), int(day)) for week, day in zip(weeks, (day_ms // DAY_MS - 4) % 7, strict=True)]
        names = {week: f"{EPOCH + timedelta(days=7 * week + 4):%d %b}" for week, _ in places}
        return _fill_heat_map("Net return by UTC day, in %", ("Week of", *_WEEKDAYS, "Week"), places, names, returns)
    days = [EPOCH + timedelta(milliseconds=ms) for ms in day_ms.tolist()]
    places = [(day.year, day.month - 1) for day in days]
    names = {year: str(year) for year, _ in places}
    return _fill_heat_map("Net return by UTC month, in %", ("Year", *_MONTHS, "Year"), places, names, returns)


def _fill_heat_map(
    caption: str,
    heads: tuple[str, ...],
    places: Sequence[tuple[int, int]],
    names: Mapping[int, str],
    returns: NDArray[np.float64],
) -> HeatMap:
    """Return a heat map; `places` are row and column of each day, `names` those of the rows."""
    factors: dict[tuple[int, int], float] = {}
    totals = dict.fromkeys(names, 1.0)
    for place, value in zip(places, returns.tolist(), strict=True):
        factors[place] = factors.get(place, 1.0) * (1 + value)
        totals[place[0]] *= 1 + value
    largest = max(abs(factor - 1) for factor in factors.values()) or 1.0
    digits = 2 if largest < 0.1 else 1

    def shown(value: float) -> str:
        return f"{value * 100:+.{digits}f}" if value else "0"

    def cell(factor: float | None) -> tuple[str, str]:
        if factor is None:
            return "", ""
        value = factor - 1
        shade = math.ceil(abs(value) / largest * _SHADES - 1e-9)
        css = f"{'c1' if value > 0 else 'c2'} shade{shade}" if shade else ""
        return shown(value), css

    return HeatMap(
        caption,
        heads,
        tuple(
            (
                name,
                (
                    *(cell(factors.get((row, column))) for column in range(len(heads) - 2)),
                    (shown(totals[row] - 1), "total"),
                ),
            )
            for row, name in names.items()
        ),
    )
