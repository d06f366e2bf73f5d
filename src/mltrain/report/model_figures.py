"""Figures of the model itself: which features it leans on, and how long an answer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mltrain.report.access import items_at, number_at, text_at
from mltrain.report.figure import Missing, figure
from mltrain.report.strips import bar_rows
from mltrain.report.svg import Plot, linear_scale, log_scale

if TYPE_CHECKING:
    from mltrain.report.figure import Shown

MAX_FEATURES: Final = 25
_IMPORTANCE: Final = "What the model leans on"
_LATENCY: Final = "Latency"


def importance(card: dict[str, Any]) -> Shown:
    """Draw each feature's share of the gain, and of what moves the predictions."""
    features = sorted(
        ((text_at(f, "name") or "?", number_at(f, "gain") or 0.0, number_at(f, "contribution"))
         for f in items_at(card, "feature_importance")),
        key=lambda f: -f[1],
    )  # fmt: skip
    gains, moves = sum(gain for _, gain, _ in features), sum(move or 0.0 for _, _, move in features)
    if not gains:
        return Missing(_IMPORTANCE, "the card names no feature that a tree has split on.")
    shown = [(n, g / gains, (m or 0.0) / moves if moves else None) for n, g, m in features[:MAX_FEATURES]]
    longest = max(v for _, g, m in shown for v in (g, m or 0.0)) or 1.0
    rows = [
        (name, ((g / longest, "fill c1"), *(() if m is None else ((m / longest, "fill c2"),))),
         f"{g:.1%}" if m is None else f"{g:.1%} · {m:.1%}")
        for name, g, m in shown
    ]  # fmt: skip
    rest = len(features) - len(shown)
    unused = sum(gain == 0 for _, gain, _ in features)
    told = f" The other {rest} are in the card." if rest else ""
    return figure(
        "importance",
        _IMPORTANCE,
        bar_rows(rows),
        reading="Gain tells how much the splits on a feature lowered the training loss: it favours features with many "
        "values, and says nothing of cause. "
        + ("The contribution tells how far a feature moves the predictions (mean of its tree SHAP values, without "
           "their sign, over rows of the holdout at equal distances). Both are shares of the whole." if moves else
           "The card does not tell the contributions.")
        + told
        + (f" {unused} features were never used." if unused else ""),
        alt="; ".join(f"{name}: {note}" for name, _, note in rows[:10]),
        legend=(("fill c1", "share of the gain"), *((("fill c2", "share of the contributions"),) if moves else ())),
        wide=True,
        rows=True,
    )  # fmt: skip


def latency(card: dict[str, Any]) -> Shown:
    """Draw how long the calls took, with the percentiles and the budget."""
    bins = [
        (a, b, n)
        for item in items_at(card, "latency_ms", "histogram")
        if (a := number_at(item, "from_ms")) is not None
        and (b := number_at(item, "to_ms")) is not None
        and (n := number_at(item, "calls")) is not None
        and b > a > 0
    ]
    if not bins:
        return Missing(_LATENCY, "the card tells percentiles of the latency, and not how the single calls are spread.")
    budget = number_at(card, "lineage", "config", "gates", "latency_p95_ms")
    p50, p95, p99 = (number_at(card, "latency_ms", key) or 0.0 for key in ("p50", "p95", "p99"))
    # The budget belongs on the figure only where it is near: far away it would press the bars into a corner.
    near = budget is not None and budget < 20 * p95
    high = max(bins[-1][1], budget * 1.2 if near and budget is not None else 0.0)
    plot = Plot(
        log_scale(bins[0][0], high, "ms from candles to a probability (log scale)"),
        linear_scale(0, max(n for _, _, n in bins) * 1.25, "calls", count=3),
    )
    plot.bars(bins, "fill c1 soft", [f"{a:.3f} to {b:.3f} ms: {n:,.0f} calls" for a, b, n in bins])
    for row, (value, name) in enumerate(((p50, "p50"), (p95, "p95"), (p99, "p99"))):
        plot.upright(value, f"{name} {value:.2f}", "rule c2", row=row)
    if near and budget is not None:
        plot.upright(budget, f"budget {budget:g}", "rule bad", row=3)
    samples = number_at(card, "latency_ms", "samples") or 0
    return figure(
        "latency",
        _LATENCY,
        plot,
        reading="Features, checks, trees and calibration of one symbol, one call after the other, on the machine that "
        "the lineage names. The gate judges p95: of a hundred calls five take longer."
        + (f" The budget of {budget:g} ms lies far to the right." if budget is not None and not near else ""),
        alt=f"{samples:,.0f} calls: half take at most {p50:.2f} ms, 95 % at most {p95:.2f} ms, 99 % at most "
        f"{p99:.2f} ms" + (f"; the budget of p95 is {budget:g} ms." if budget is not None else "."),
        legend=(("fill c1 soft", "calls"), ("rule c2", "percentiles")),
    )
