"""The options and the figures of a backtest by name, as text: what is shown, and what two backtests differ in."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from mltrain.times import format_minutes

if TYPE_CHECKING:
    from mltrain.backtesting.result import BacktestResult


def list_options(result: BacktestResult) -> list[tuple[str, str]]:
    """Return name and value of each option of a backtest; every backtest has the same names in the same order."""
    request = result.request
    listed = [(f.name, getattr(request, f.name)) for f in fields(request) if f.name not in {"policy", "costs", "grid"}]
    listed += [(f.name, getattr(request.policy, f.name)) for f in fields(request.policy)]
    listed += [(f.name, getattr(request.costs, f.name)) for f in fields(request.costs)]
    texts = [(name, format_minutes(value) if name.endswith("_ms") else str(value)) for name, value in listed]
    return [*texts, ("grid", f"{len(request.grid)} policies")]


def list_figures(result: BacktestResult) -> list[tuple[str, str, str]]:
    """Return name, value and interval or times of each figure; every backtest has the same names in the same order."""
    figures = result.performance
    daily, sharpe, break_even, fall = figures.daily_return, figures.sharpe, figures.break_even_bps, figures.drawdown
    hit_rate = figures.trades.hit_rate
    return [
        ("net return", format_change(figures.net_return), ""),
        ("gross return", format_change(figures.gross_return), ""),
        ("mean net return a day", "-" if daily is None else f"{daily.value:+.4%}",
         "-" if daily is None else f"{daily.low:+.4%} .. {daily.high:+.4%}"),
        ("break-even cost per side, bps", "-" if break_even is None else f"{break_even.value:.3f}",
         "-" if break_even is None else f"{break_even.low:.3f} .. {break_even.high:.3f}"),
        ("Sharpe ratio", "-" if sharpe is None else f"{sharpe.value:.2f}",
         "-" if sharpe is None else f"{sharpe.low:.2f} .. {sharpe.high:.2f}"),
        ("Sortino ratio", _format(figures.sortino, 2), ""),
        ("Calmar ratio", "-" if figures.calmar is None else f"{figures.calmar:.3g}", ""),
        ("largest drawdown", "-" if fall is None else f"{fall.share:.2%}",
         "" if fall is None else f"{format_minutes(fall.peak_ms)} to {format_minutes(fall.trough_ms)}"),
        ("exposure", f"{figures.exposure:.1%}", ""),
        ("turnover a day", f"{figures.turnover:,.2f}", ""),
        ("trades", f"{figures.trades.number:,}", ""),
        ("hit rate", "-" if hit_rate is None else f"{hit_rate:.1%}", ""),
        ("P(Sharpe ratio > 0)", _format(figures.probabilistic_sharpe, 3), ""),
        ("blind bars", f"{figures.blind_bars:,}", ""),
    ]  # fmt: skip


def format_change(share: float | None) -> str:
    """Return a return, a ratio, as signed percent; None is a dash."""
    return "-" if share is None else f"{share:+.2%}"


def _format(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
