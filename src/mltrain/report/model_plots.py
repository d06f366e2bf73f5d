"""Draw a model's results: holdout scores, skill by part, importance of features, latency. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.report.scales import linear_scale, log_scale, time_scale, widen
from mltrain.report.svg import Missing, Plot, bar_rows, dot_rows, figure
from mltrain.times import DAY_MS, WEEK_MS
from mltrain.training.baselines import rule_calls
from mltrain.training.bootstrap import plan_bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mltrain.card.model_card import ModelCard, Section
    from mltrain.report.svg import Shown
    from mltrain.report.version_data import Holdout

# Points of a curve: finer than the eye.
CURVE_POINTS: Final = 250
BINS: Final = 40
# Smallest share of the rows called up that is drawn: the precision of fewer rows is noise.
MIN_CALLED: Final = 0.01
MAX_SYMBOLS: Final = 30
MAX_FEATURES: Final = 25

_NO_ROWS: Final = "this version keeps no table of its holdout's scores."
_LOGISTIC: Final = "logistic regression"
_ACCURACY: Final = "What the model adds"
_RELIABILITY: Final = "Reliability"
_GAIN: Final = "Gain over the base rate, over time"
_ROC: Final = "ROC"
_PRECISION_RECALL: Final = "Precision and recall"
_SPREAD: Final = "Distribution of the scores"
_PARTS: Final = "Skill by symbol, week and volatility"
_IMPORTANCE: Final = "Feature importance"
_LATENCY: Final = "Latency"


def draw_accuracy(card: ModelCard) -> Shown:
    """Draw the accuracy with its interval next to the baselines'."""
    accuracy = card.number("metrics", "accuracy")
    others = [
        (_LOGISTIC, card.number("baselines", "logistic", "accuracy")),
        ("contrarian", card.number("baselines", "contrarian")),
        ("persistence", card.number("baselines", "persistence")),
        ("majority", card.number("baselines", "majority")),
        ("a coin", 0.5),
    ]
    known = [(name, value) for name, value in others if value is not None]
    if accuracy is None or len(known) == 1:
        return Missing(_ACCURACY, "the card does not say how a baseline scores on the same rows.")
    # Cards of earlier releases lack the baseline's accuracy: the best rule without a model takes its place.
    zero = card.number("baselines", "accuracy")
    zero = max(value for name, value in known if name != _LOGISTIC) if zero is None else zero
    interval = card.interval("intervals", "metrics", "accuracy")
    ends = [accuracy, zero, *(value for _, value in known), *(interval or ())]
    scale = linear_scale(*widen(min(ends), max(ends), pad=0.12), "accuracy on the holdout", count=3, percent=True)
    rows = [("this model", accuracy, interval, f"{accuracy:.2%}"), *((n, v, None, f"{v:.2%}") for n, v in known)]
    level = card.number("intervals", "level") or 0.9
    return figure(
        "accuracy",
        _ACCURACY,
        dot_rows(rows, scale, zero=zero, others="c3"),
        reading=f"The vertical line, at {zero:.2%}, is the baseline: for each symbol the best rule without a model. "
        "Unless the whole interval lies to the right of it, the model has not shown any skill. The gate judges the "
        "paired difference, which is more certain than the two values separately.",
        alt="; ".join(f"{name} {note}" for name, _, _, note in rows)
        + (f"; {level:.0%} interval of this model {interval[0]:.2%} to {interval[1]:.2%}" if interval else ""),
    )


def plot_gain(curves: Sequence[tuple[Holdout, str]]) -> Plot:
    """Return a plot of the log loss gained over the base rate since the start of each holdout, nats.

    Args:
        curves: Rows of each holdout, and the class of its line; a single one is filled.
    """
    totals = [np.cumsum(rows.base - rows.loss) for rows, _ in curves]
    times = [float(t) for rows, _ in curves for t in (rows.ts_ms[0], rows.ts_ms[-1])]
    low = min(0.0, *(float(total.min()) for total in totals))
    high = max(1e-9, *(float(total.max()) for total in totals))
    y = linear_scale(*widen(low, high, pad=0.1), "nats gained so far")
    plot = Plot(time_scale(min(times), max(times)), y, 200)
    plot.horizontal(0, "base rate", "rule ideal")
    for (rows, css), total in zip(curves, totals, strict=True):
        at = np.unique(np.linspace(0, total.size - 1, CURVE_POINTS).astype(np.int64))
        if len(curves) == 1:
            plot.area(rows.ts_ms[at].tolist(), [0.0] * at.size, total[at].tolist(), "fill c1 faint")
        plot.line(rows.ts_ms[at].tolist(), total[at].tolist(), css)
    return plot


def draw_gain(rows: Holdout | None) -> Shown:
    """Draw the log loss gained over the base rate since the start of the holdout."""
    if rows is None:
        return Missing(_GAIN, _NO_ROWS)
    gains = rows.base - rows.loss
    days, day = np.unique(rows.ts_ms // DAY_MS, return_inverse=True)
    better = int((np.bincount(day, weights=gains) > 0).sum())
    return figure(
        "gain",
        _GAIN,
        plot_gain([(rows, "line c1")]),
        reading="A steady climb is skill on every day; a few jumps on a flat line are luck, or one event. Where it "
        f"falls, the model was worse than the base rate. Better on {better} of {days.size} days.",
        alt=f"The holdout gains {gains.sum():.1f} nats over {gains.size:,} rows, {gains.mean():.6f} a row; "
        f"{better} of {days.size} UTC days gain.",
        legend=(("line c1", "this model"), ("line ideal", "base rate")),
        wide=True,
    )


def draw_reliability(card: ModelCard, rows: Holdout | None) -> Shown:
    """Draw predicted probability against observed frequency, before and after calibration."""
    after = _bins(card, "reliability")
    same = card.text("calibration", "method") == "none"
    before = [] if same else _bins(card, "reliability_before")
    if not after:
        return Missing(_RELIABILITY, "the card holds no reliability table.")
    intervals = [] if rows is None else _bin_intervals(after, rows)
    ends = [v for b in (*after, *before) for v in b[2:4]] + [v for i in intervals for v in i]
    # One range for both sides, so that the diagonal is one.
    low, high = widen(min(ends), max(ends))
    low, high = max(low, 0.0), min(high, 1.0)
    plot = Plot(
        linear_scale(low, high, "predicted: mean probability of up"),
        linear_scale(low, high, "observed: share that rose"),
    )
    plot.line([low, high], [low, high], "line ideal")
    tips_before, tips_after = (
        [f"predicted {b[2]:.3f}, observed {b[3]:.3f}, {b[4]:,.0f} rows" for b in bins] for bins in (before, after)
    )
    plot.dots([b[2] for b in before], [b[3] for b in before], "hollow c2", tips=tips_before)
    if intervals:
        plot.whiskers([b[2] for b in after], intervals, "whisker c1")
    plot.dots([b[2] for b in after], [b[3] for b in after], "dot c1", radius=4, tips=tips_after)
    worst = max(after, key=lambda b: abs(b[2] - b[3]))
    counts = [int(b[4]) for b in after]
    reading = (
        "A dot on the diagonal means that the price rose as often as predicted. Each dot stands for "
        f"{min(counts):,} to {max(counts):,} rows"
    )
    if intervals:
        reading += "; the lines are intervals over whole days, and one that crosses the diagonal is no fault"
    return figure(
        "reliability",
        _RELIABILITY,
        plot,
        reading=f"{reading}.",
        alt=f"{len(after)} bins after calibration, from {after[0][2]:.3f} to {after[-1][2]:.3f}. The largest gap: "
        f"{worst[2]:.3f} was predicted and {worst[3]:.3f} observed, over {int(worst[4]):,} rows.",
        legend=(
            ("dot c1", "without calibration, as used" if same else "calibrated"),
            *((("hollow c2", "before calibration"),) if before else ()),
            ("line ideal", "perfect"),
        ),
    )


def _bins(card: ModelCard, key: str) -> list[tuple[float, float, float, float, float]]:
    """Return low, high, mean probability, share that rose and rows of each complete bin."""
    names = ("low", "high", "mean_p", "up_share", "rows")
    found = [tuple(b.number(name) for name in names) for b in card.sections("calibration", key)]
    return [(b[0], b[1], b[2], b[3], b[4]) for b in found if None not in b]  # type: ignore[misc]


def _bin_intervals(bins: list[tuple[float, float, float, float, float]], rows: Holdout) -> list[tuple[float, float]]:
    """Return the interval of each bin's share that rose; empty if the bins are not those of these rows."""
    found = []
    for low, high, _, _, count in bins:
        inside = (rows.p >= low) & (rows.p <= high)
        if int(inside.sum()) != int(count):
            return []
        interval = rows.bootstrap.ratio(inside & (rows.y == 1), inside)
        found.append((interval.low, interval.high))
    return found


def draw_spread(rows: Holdout | None) -> Shown:
    """Draw the distribution of the probabilities, separately for rises and falls."""
    if rows is None:
        return Missing(_SPREAD, _NO_ROWS)
    low, high = (float(v) for v in np.quantile(rows.p, [0.001, 0.999]))
    low, high = min(low, 0.499), max(high, 0.501)
    edges = np.linspace(low, high, BINS + 1)
    clipped = np.clip(rows.p, low, high)
    rose, fell = (np.histogram(clipped[of], edges)[0] / max(of.sum(), 1) for of in (rows.y == 1, rows.y == 0))
    top = max(float(rose.max()), float(fell.max())) * 1.08
    plot = Plot(
        linear_scale(low, high, "probability of up"), linear_scale(0, top, "share of the rows", count=3, percent=True)
    )
    plot.bars(list(zip(edges[:-1].tolist(), edges[1:].tolist(), rose.tolist(), strict=True)), "fill c1 soft")
    plot.steps(edges.tolist(), [*fell.tolist(), float(fell[-1])], "line c2")
    plot.vertical(0.5, "0.5", "rule ideal")
    far = float((np.abs(rows.p - 0.5) > 0.05).mean())
    return figure(
        "spread",
        _SPREAD,
        plot,
        reading="Decisions can be based on probabilities far from the middle. Where the two shapes coincide, the model "
        "does not separate rises from falls. The outermost 0.1 % are drawn at the ends.",
        alt=f"{rows.p.size:,} probabilities; 99.8 % of them lie from {low:.3f} to {high:.3f}; {far:.1%} are further "
        "than 0.05 from one half.",
        legend=(("fill c1 soft", "rose"), ("line c2", "fell")),
    )


def draw_roc(rows: Holdout | None, card: ModelCard) -> Shown:
    """Draw the ROC curve, and persistence as a point."""
    if rows is None:
        return Missing(_ROC, _NO_ROWS)
    rises, falls = _called_up(rows)
    true_rate, false_rate = rises / max(rises[-1], 1), falls / max(falls[-1], 1)
    plot = Plot(
        linear_scale(0, 1, "share of the falls called up", percent=True),
        linear_scale(0, 1, "share of the rises called up", percent=True),
    )
    plot.line([0, 1], [0, 1], "line ideal")
    keep = _spaced_points(false_rate)
    plot.line([0.0, *false_rate[keep]], [0.0, *true_rate[keep]], "line c1")
    recall, false_alarms, _ = _persistence(rows)
    plot.dots([false_alarms], [recall], "dot c2", radius=5, tips=[f"persistence: {false_alarms:.1%}, {recall:.1%}"])
    auc, interval = card.number("metrics", "auc_roc"), card.interval("intervals", "metrics", "auc_roc")
    value = "" if auc is None else f"AUC {auc:.4f}"
    value += "" if interval is None else f", interval {interval[0]:.4f} to {interval[1]:.4f}"
    return figure(
        "roc",
        _ROC,
        plot,
        reading="The further the curve bends to the upper left, the better it separates rises from falls; the diagonal "
        f"is guessing. {value}. For the direction of real one-minute candles an AUC above 0.56 is rare, and a much "
        "higher one is a reason to look for a leak.",
        alt=f"{value}. Persistence calls {recall:.1%} of the rises and {false_alarms:.1%} of the falls.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "guessing")),
    )


def draw_precision_recall(rows: Holdout | None) -> Shown:
    """Draw precision over recall, with the base rate and persistence."""
    if rows is None:
        return Missing(_PRECISION_RECALL, _NO_ROWS)
    rises, falls = _called_up(rows)
    called = rises + falls
    enough = called >= max(MIN_CALLED * rows.y.size, 1)
    recall, precision = (rises / max(rises[-1], 1))[enough], (rises / np.maximum(called, 1))[enough]
    base = float(rows.y.mean())
    recalled, _, right = _persistence(rows)
    low, high = widen(min(base, right, float(precision.min())), max(base, right, float(precision.max())), pad=0.15)
    plot = Plot(
        linear_scale(0, 1, "recall: share of the rises called", percent=True),
        linear_scale(max(low, 0), min(high, 1), "precision: share of the calls that rose", percent=True),
    )
    plot.horizontal(base, f"base rate {base:.1%}", "rule ideal")
    keep = _spaced_points(recall)
    plot.line(recall[keep].tolist(), precision[keep].tolist(), "line c1")
    tip = f"persistence: recall {recalled:.1%}, precision {right:.1%}"
    plot.dots([recalled], [right], "dot c2", radius=5, tips=[tip])
    return figure(
        "precision-recall",
        _PRECISION_RECALL,
        plot,
        reading="From left to right more rows are called up, the most probable first. The curve starts where "
        f"{MIN_CALLED:.0%} of the rows are called; the precision of fewer is noise. Above the dashed line the calls "
        "are better than the base rate.",
        alt=f"Precision {precision[0]:.1%} for the most probable {MIN_CALLED:.0%} of the rows, falling to the base "
        f"rate of {base:.1%} where all are called. Persistence: recall {recalled:.1%}, precision {right:.1%}.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "base rate")),
    )


def _called_up(rows: Holdout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the rises and the falls that score at least as high as each distinct score, the highest first."""
    order = np.argsort(-rows.p, kind="stable")
    p, up = rows.p[order], rows.y[order] == 1
    last = np.append(np.flatnonzero(np.diff(p)), p.size - 1)
    return np.cumsum(up)[last].astype(np.float64), np.cumsum(~up)[last].astype(np.float64)


def _spaced_points(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions of points at about equal distances, both ends included."""
    wanted = np.linspace(shares[0], shares[-1], CURVE_POINTS)
    return np.unique(np.clip(np.searchsorted(shares, wanted), 0, shares.size - 1))


def _persistence(rows: Holdout) -> tuple[float, float, float]:
    """Return the recall of persistence, the share of the falls that it calls up, and its precision."""
    call = rule_calls(rows.last_move, up_share=rows.train_up_share)["persistence"]
    up = rows.y == 1
    right = float(up[call].mean()) if call.any() else 0.0
    return float(call[up].mean()) if up.any() else 0.0, float(call[~up].mean()) if (~up).any() else 0.0, right


def draw_parts(card: ModelCard, rows: Holdout | None) -> Shown:
    """Draw the log-loss skill of each part of the holdout."""
    up_share = card.number("baselines", "train_up_share")
    found = [] if up_share is None or not 0 < up_share < 1 else list(_skills(card, up_share, rows))
    if not found:
        return Missing(_PARTS, "the card holds no scores of parts of the holdout.")
    ends = [0.0, *(v for _, value, interval, _ in found for v in (value, *(interval or ())))]
    scale = linear_scale(*widen(min(ends), max(ends)), "log-loss skill over the base rate", count=3, percent=True)
    return figure(
        "parts",
        _PARTS,
        dot_rows(found, scale, zero=0.0, others="c1"),
        reading="To the right of the line the model beats the base rate on that part. Lines are intervals, if the "
        "version keeps its rows; a week has few days, so its interval is wide. Numbers are rows.",
        alt="; ".join(f"{name}: {value:+.2%} of {note} rows" for name, value, _, note in found[:16]),
        wide=True,
        rows=True,
    )


def _skills(
    card: ModelCard, up_share: float, rows: Holdout | None
) -> Iterator[tuple[str, float, tuple[float, float] | None, str]]:
    """Yield name, skill, interval and number of rows of each part, the whole holdout first."""
    value = card.number("baselines", "log_loss_skill", "value")
    if value is not None:
        count = card.number("metrics", "rows")
        interval = card.interval("baselines", "log_loss_skill")
        yield "all", value, interval, "" if count is None else f"{count:,.0f}"
    symbols = list(card.named_sections("metrics", "per_symbol").items())[:MAX_SYMBOLS]
    parts: list[tuple[str, Section, NDArray[np.bool_] | None]] = [
        *((name, score, None if rows is None else rows.symbol == name) for name, score in symbols),
        *(
            (f"week of {score.text('name')}", score, None if rows is None else _in_week(rows, score))
            for score in card.sections("metrics", "per_week")
        ),
    ]
    parts += [(f"{score.text('name')} market", score, None) for score in card.sections("metrics", "per_volatility")]
    for name, score, inside in parts:
        loss, share, count = (
            score.number("metrics", "log_loss"), score.number("up_share"), score.number("rows"),
        )  # fmt: skip
        if loss is not None and share is not None and count is not None:
            base = -(share * float(np.log(up_share)) + (1 - share) * float(np.log(1 - up_share)))
            interval = None if rows is None or inside is None else _skill_interval(rows, inside)
            yield name, 1 - loss / base, interval, f"{count:,.0f}"


def _in_week(rows: Holdout, score: Section) -> NDArray[np.bool_] | None:
    """Select the rows of the week whose Monday is the score's name; None if it is not a date."""
    monday = score.text("name")
    if monday is None or len(monday) != len("2025-10-13"):
        return None
    try:
        start = int(np.datetime64(monday, "ms").astype(np.int64))
    except ValueError:
        return None
    return (rows.ts_ms >= start) & (rows.ts_ms < start + WEEK_MS)


def _skill_interval(rows: Holdout, inside: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return the interval of the log-loss skill on some rows; None if they fill fewer than two bootstrap blocks."""
    ts_ms = rows.ts_ms[inside]
    if ts_ms.size < 2 or ts_ms[0] == ts_ms[-1]:
        return None
    bootstrap = plan_bootstrap(ts_ms, draws=len(rows.bootstrap.weights), level=rows.level, seed=0)
    found = bootstrap.ratio((rows.base - rows.loss)[inside], rows.base[inside])
    return found.low, found.high


def draw_importance(card: ModelCard) -> Shown:
    """Draw each feature's share of the gain, and of the contributions to the predictions."""
    features = [
        (f.text("name") or "?", f.number("gain") or 0.0, f.number("contribution"))
        for f in card.sections("feature_importance")
    ]
    features.sort(key=lambda f: -f[1])
    gains, moves = sum(gain for _, gain, _ in features), sum(move or 0.0 for _, _, move in features)
    if not gains:
        return Missing(_IMPORTANCE, "the card names no feature that a tree splits on.")
    shown = [(n, g / gains, (m or 0.0) / moves if moves else None) for n, g, m in features[:MAX_FEATURES]]
    longest = max(v for _, g, m in shown for v in (g, m or 0.0)) or 1.0
    rows: list[tuple[str, list[tuple[float, str]], str]] = []
    for name, gain, move in shown:
        bars = [(gain / longest, "fill c1")] + ([] if move is None else [(move / longest, "fill c2")])
        rows.append((name, bars, f"{gain:.1%}" if move is None else f"{gain:.1%} · {move:.1%}"))
    reading = (
        "The gain is how much the splits on a feature lowered the training loss: it favours features with many values, "
        "and does not show causes. "
    )
    reading += (
        "The contribution is how far a feature moves the predictions (mean absolute tree SHAP value, over equally "
        "spaced rows of the holdout). Both are shares of the total."
        if moves
        else "The card does not hold the contributions."
    )
    if rest := len(features) - len(shown):
        reading += f" The other {rest} are in the card."
    if unused := sum(gain == 0 for _, gain, _ in features):
        reading += f" {unused} features were never used."
    return figure(
        "importance",
        _IMPORTANCE,
        bar_rows(rows),
        reading=reading,
        alt="; ".join(f"{name}: {note}" for name, _, note in rows[:10]),
        legend=(("fill c1", "share of the gain"), *((("fill c2", "share of the contributions"),) if moves else ())),
        wide=True,
        rows=True,
    )


def draw_latency(card: ModelCard) -> Shown:
    """Draw the histogram of the calls' durations, with the percentiles and the limit of the gate, ms."""
    bins = [
        (low, high, calls)
        for item in card.sections("latency_ms", "histogram")
        if (low := item.number("from_ms")) is not None
        and (high := item.number("to_ms")) is not None
        and (calls := item.number("calls")) is not None
        and high > low > 0
    ]
    if not bins:
        return Missing(_LATENCY, "the card holds percentiles of the latency, but no histogram.")
    limit = card.number("lineage", "config", "gates", "latency_p95_ms")
    p50, p95, p99 = (card.number("latency_ms", key) or 0.0 for key in ("p50", "p95", "p99"))
    # A limit far to the right would press the bars into a corner.
    near = limit is not None and limit < 20 * p95
    end = max(bins[-1][1], limit * 1.2 if near and limit is not None else 0.0)
    plot = Plot(
        log_scale(bins[0][0], end, "ms from candles to a probability (log scale)"),
        linear_scale(0, max(calls for _, _, calls in bins) * 1.25, "calls", count=3),
    )
    plot.bars(bins, "fill c1 soft", [f"{low:.3f} to {high:.3f} ms: {calls:,.0f} calls" for low, high, calls in bins])
    for row, (value, name) in enumerate(((p50, "p50"), (p95, "p95"), (p99, "p99"))):
        plot.vertical(value, f"{name} {value:.2f}", "rule c2", row=row)
    if near and limit is not None:
        plot.vertical(limit, f"limit {limit:g}", "rule bad", row=3)
    samples = card.number("latency_ms", "samples") or 0
    return figure(
        "latency",
        _LATENCY,
        plot,
        reading="Features, checks, trees and calibration for one symbol, one call after the other, on the machine "
        "named in the lineage. The gate judges p95: five calls of a hundred take longer."
        + (f" The limit of {limit:g} ms lies far to the right." if limit is not None and not near else ""),
        alt=f"{samples:,.0f} calls: half take at most {p50:.2f} ms, 95 % at most {p95:.2f} ms, 99 % at most "
        f"{p99:.2f} ms" + (f"; the limit of p95 is {limit:g} ms." if limit is not None else "."),
        legend=(("fill c1 soft", "calls"), ("rule c2", "percentiles")),
    )
