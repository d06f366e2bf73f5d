"""Draw a model's results: holdout scores, skill by part, importance of features, latency. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.report.scales import linear_scale, log_scale, time_scale, widen
from mltrain.report.svg import DotRow, Missing, Plot, draw_bar_rows, draw_dot_rows, make_figure
from mltrain.times import DAY_MS, WEEK_MS
from mltrain.training.baselines import predict_by_rules
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.metrics import ReliabilityBin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mltrain.card.model_card import ModelCard, Section
    from mltrain.report.svg import Shown
    from mltrain.report.version_data import Holdout
    from mltrain.training.bootstrap import Interval

# Points of a curve: finer than the eye.
CURVE_POINTS: Final = 250
BINS: Final = 40
# The cost of a trade is drawn if it is at most this many times as far out as the moves.
MAX_COST_REACH: Final = 3
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
_MOVES: Final = "Mean move after a prediction"
_LATENCY: Final = "Latency"


def draw_accuracy(card: ModelCard) -> Shown:
    """Draw the model's accuracy on the holdout, with its interval, next to the accuracies of the baselines."""
    accuracy = card.number("metrics", "accuracy")
    baselines = [
        (_LOGISTIC, card.number("baselines", "logistic", "accuracy")),
        ("contrarian", card.number("baselines", "contrarian")),
        ("persistence", card.number("baselines", "persistence")),
        ("majority", card.number("baselines", "majority")),
        ("a coin", 0.5),
    ]
    known = [(name, value) for name, value in baselines if value is not None]
    if accuracy is None or len(known) == 1:
        return Missing(_ACCURACY, "the card does not say how a baseline scores on the same rows.")
    baseline = card.number("baselines", "accuracy")
    if baseline is None:
        # Cards of earlier releases lack the baseline's accuracy: the best rule without a model takes its place.
        baseline = max(value for name, value in known if name != _LOGISTIC)
    interval = card.interval("intervals", "metrics", "accuracy")
    rows = [
        DotRow("this model", accuracy, interval, f"{accuracy:.2%}"),
        *(DotRow(name, value, None, f"{value:.2%}") for name, value in known),
    ]
    ends = [baseline, *(row.value for row in rows), *(interval or ())]
    scale = linear_scale(*widen(min(ends), max(ends), pad=0.12), "accuracy on the holdout", count=3, percent=True)
    level = card.number("intervals", "level") or 0.9
    return make_figure(
        "accuracy",
        _ACCURACY,
        draw_dot_rows(rows, scale, reference=baseline, other_css="c3"),
        reading=f"The vertical line, at {baseline:.2%}, is the baseline: for each symbol the best rule without a "
        "model. Unless the whole interval lies to the right of it, the model has not shown any skill. The gate judges "
        "the paired difference, which is more certain than the two values separately.",
        alt="; ".join(f"{row.name} {row.note}" for row in rows)
        + (f"; {level:.0%} interval of this model {interval[0]:.2%} to {interval[1]:.2%}" if interval else ""),
    )


def plot_gain(curves: Sequence[tuple[Holdout, str]]) -> Plot:
    """Return a plot of the log loss gained over the base rate since the start of each holdout, in nats.

    `curves` are the holdouts, each with the CSS class of its line; the area below a single line is filled.
    """
    totals = [np.cumsum(holdout.base_loss - holdout.loss) for holdout, _ in curves]
    times = [float(ts) for holdout, _ in curves for ts in (holdout.ts_ms[0], holdout.ts_ms[-1])]
    low = min(0.0, *(float(total.min()) for total in totals))
    high = max(1e-9, *(float(total.max()) for total in totals))
    y = linear_scale(*widen(low, high, pad=0.1), "nats gained so far")
    plot = Plot(time_scale(min(times), max(times)), y, 200)
    plot.add_horizontal(0, "base rate", "rule ideal")
    for (holdout, css), total in zip(curves, totals, strict=True):
        drawn = np.unique(np.linspace(0, total.size - 1, CURVE_POINTS).astype(np.int64))
        ts_ms, gained = holdout.ts_ms[drawn].tolist(), total[drawn].tolist()
        if len(curves) == 1:
            plot.add_area(ts_ms, [0.0] * drawn.size, gained, "fill c1 faint")
        plot.add_line(ts_ms, gained, css)
    return plot


def draw_gain(holdout: Holdout | None) -> Shown:
    """Draw the log loss gained over the base rate since the start of the holdout, in nats."""
    if holdout is None:
        return Missing(_GAIN, _NO_ROWS)
    gains = holdout.base_loss - holdout.loss
    days, day = np.unique(holdout.ts_ms // DAY_MS, return_inverse=True)
    better_days = int((np.bincount(day, weights=gains) > 0).sum())
    return make_figure(
        "gain",
        _GAIN,
        plot_gain([(holdout, "line c1")]),
        reading="A steady climb is skill on every day; a few jumps on a flat line are luck, or one event. Where it "
        f"falls, the model was worse than the base rate. Better on {better_days} of {days.size} days.",
        alt=f"The holdout gains {gains.sum():.1f} nats over {gains.size:,} rows, {gains.mean():.6f} a row; "
        f"{better_days} of {days.size} UTC days gain.",
        legend=(("line c1", "this model"), ("line ideal", "base rate")),
        wide=True,
    )


def draw_reliability(card: ModelCard, holdout: Holdout | None) -> Shown:
    """Draw predicted probability against observed frequency, before and after calibration."""
    after = _read_bins(card, "reliability")
    uncalibrated = card.text("calibration", "method") == "none"
    before = [] if uncalibrated else _read_bins(card, "reliability_before")
    if not after:
        return Missing(_RELIABILITY, "the card holds no reliability table.")
    intervals = [] if holdout is None else _measure_bin_intervals(after, holdout)
    ends = [end for b in (*after, *before) for end in (b.mean_p, b.up_share)]
    ends += [end for interval in intervals for end in interval]
    # One range for both sides, so that the diagonal is perfect calibration.
    low, high = widen(min(ends), max(ends))
    low, high = max(low, 0.0), min(high, 1.0)
    plot = Plot(
        linear_scale(low, high, "predicted: mean probability of up"),
        linear_scale(low, high, "observed: share that rose"),
    )
    plot.add_line([low, high], [low, high], "line ideal")
    tips_before, tips_after = (
        [f"predicted {b.mean_p:.3f}, observed {b.up_share:.3f}, {b.rows:,} rows" for b in bins]
        for bins in (before, after)
    )
    plot.add_dots([b.mean_p for b in before], [b.up_share for b in before], "hollow c2", tips=tips_before)
    if intervals:
        plot.add_whiskers([b.mean_p for b in after], intervals, "whisker c1")
    plot.add_dots([b.mean_p for b in after], [b.up_share for b in after], "dot c1", radius=4, tips=tips_after)
    worst = max(after, key=lambda b: abs(b.mean_p - b.up_share))
    counts = [b.rows for b in after]
    reading = (
        "A dot on the diagonal means that the price rose as often as predicted. Each dot stands for "
        f"{min(counts):,} to {max(counts):,} rows"
    )
    if holdout is not None and intervals:
        blocks = "whole UTC days" if holdout.bootstrap.by_day else "parts of equal length"
        reading += f"; the lines are intervals over {blocks}, and one that crosses the diagonal is no sign of an error"
    return make_figure(
        "reliability",
        _RELIABILITY,
        plot,
        reading=f"{reading}.",
        alt=f"{len(after)} bins after calibration, from {after[0].mean_p:.3f} to {after[-1].mean_p:.3f}. The largest "
        f"gap: {worst.mean_p:.3f} was predicted and {worst.up_share:.3f} observed, over {worst.rows:,} rows.",
        legend=(
            ("dot c1", "without calibration, as used" if uncalibrated else "calibrated"),
            *((("hollow c2", "before calibration"),) if before else ()),
            ("line ideal", "perfect"),
        ),
    )


def _read_bins(card: ModelCard, key: str) -> list[ReliabilityBin]:
    """Return the bins of a reliability table in the card, without those that lack a number."""
    bins = []
    for item in card.sections("calibration", key):
        low, high, rows, mean_p, up_share = (item.number(k) for k in ("low", "high", "rows", "mean_p", "up_share"))
        if low is not None and high is not None and rows is not None and mean_p is not None and up_share is not None:
            bins.append(ReliabilityBin(low, high, int(rows), mean_p, up_share))
    return bins


def _measure_bin_intervals(bins: list[ReliabilityBin], holdout: Holdout) -> list[tuple[float, float]]:
    """Return the bootstrap interval of each bin's share that rose; empty if the bins are not those of these rows."""
    intervals = []
    for b in bins:
        inside = (holdout.p >= b.low) & (holdout.p <= b.high)
        if int(inside.sum()) != b.rows:
            return []
        interval = holdout.bootstrap.ratio(inside & (holdout.y == 1), inside)
        intervals.append((interval.low, interval.high))
    return intervals


def draw_spread(holdout: Holdout | None) -> Shown:
    """Draw the distribution of the predicted probabilities, separately for rows that rose and that fell."""
    if holdout is None:
        return Missing(_SPREAD, _NO_ROWS)
    low, high = (float(v) for v in np.quantile(holdout.p, [0.001, 0.999]))
    low, high = min(low, 0.499), max(high, 0.501)
    edges = np.linspace(low, high, BINS + 1)
    clipped = np.clip(holdout.p, low, high)
    rose, fell = (
        np.histogram(clipped[selected], edges)[0] / max(selected.sum(), 1)
        for selected in (holdout.y == 1, holdout.y == 0)
    )
    top = max(float(rose.max()), float(fell.max())) * 1.08
    plot = Plot(
        linear_scale(low, high, "probability of up"), linear_scale(0, top, "share of the rows", count=3, percent=True)
    )
    plot.add_bars(list(zip(edges[:-1].tolist(), edges[1:].tolist(), rose.tolist(), strict=True)), "fill c1 soft")
    plot.add_steps(edges.tolist(), [*fell.tolist(), float(fell[-1])], "line c2")
    plot.add_vertical(0.5, "0.5", "rule ideal")
    far = float((np.abs(holdout.p - 0.5) > 0.05).mean())
    return make_figure(
        "spread",
        _SPREAD,
        plot,
        reading="Decisions can be based on probabilities far from the middle. Where the two shapes coincide, the model "
        "does not separate rises from falls. The outermost 0.1% are drawn at the ends.",
        alt=f"{holdout.p.size:,} probabilities; 99.8% of them lie from {low:.3f} to {high:.3f}; {far:.1%} are further "
        "than 0.05 from one half.",
        legend=(("fill c1 soft", "rose"), ("line c2", "fell")),
    )


def draw_roc(card: ModelCard, holdout: Holdout | None) -> Shown:
    """Draw the ROC curve of the holdout, and the persistence rule as a point."""
    if holdout is None:
        return Missing(_ROC, _NO_ROWS)
    rises, falls = _count_called_up(holdout)
    true_rate, false_rate = rises / max(rises[-1], 1), falls / max(falls[-1], 1)
    plot = Plot(
        linear_scale(0, 1, "share of the falls called up", percent=True),
        linear_scale(0, 1, "share of the rises called up", percent=True),
    )
    plot.add_line([0, 1], [0, 1], "line ideal")
    drawn = _select_spaced(false_rate)
    plot.add_line([0.0, *false_rate[drawn]], [0.0, *true_rate[drawn]], "line c1")
    recall, false_alarms, _ = _score_persistence(holdout)
    tip = f"persistence: {false_alarms:.1%}, {recall:.1%}"
    plot.add_dots([false_alarms], [recall], "dot c2", radius=5, tips=[tip])
    auc, interval = card.number("metrics", "auc_roc"), card.interval("intervals", "metrics", "auc_roc")
    value = "" if auc is None else f"AUC {auc:.4f}"
    value += "" if interval is None else f", interval {interval[0]:.4f} to {interval[1]:.4f}"
    return make_figure(
        "roc",
        _ROC,
        plot,
        reading="The further the curve bends to the upper left, the better it separates rises from falls; the diagonal "
        f"is guessing. {value}. For the direction of real candles an AUC above 0.56 is rare, and a much "
        "higher one is a reason to look for a leak.",
        alt=f"{value}. Persistence calls {recall:.1%} of the rises and {false_alarms:.1%} of the falls.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "guessing")),
    )


def draw_precision_recall(holdout: Holdout | None) -> Shown:
    """Draw precision over recall on the holdout, with the base rate and the persistence rule."""
    if holdout is None:
        return Missing(_PRECISION_RECALL, _NO_ROWS)
    rises, falls = _count_called_up(holdout)
    called = rises + falls
    enough = called >= max(MIN_CALLED * holdout.y.size, 1)
    recall, precision = (rises / max(rises[-1], 1))[enough], (rises / np.maximum(called, 1))[enough]
    base_rate = float(holdout.y.mean())
    rule_recall, _, rule_precision = _score_persistence(holdout)
    ends = (base_rate, rule_precision, float(precision.min()), float(precision.max()))
    low, high = widen(min(ends), max(ends), pad=0.15)
    plot = Plot(
        linear_scale(0, 1, "recall: share of the rises called", percent=True),
        linear_scale(max(low, 0), min(high, 1), "precision: share of the calls that rose", percent=True),
        inset=0.1,
    )
    plot.add_horizontal(base_rate, f"base rate {base_rate:.1%}", "rule ideal")
    drawn = _select_spaced(recall)
    plot.add_line(recall[drawn].tolist(), precision[drawn].tolist(), "line c1")
    tip = f"persistence: recall {rule_recall:.1%}, precision {rule_precision:.1%}"
    plot.add_dots([rule_recall], [rule_precision], "dot c2", radius=5, tips=[tip])
    return make_figure(
        "precision-recall",
        _PRECISION_RECALL,
        plot,
        reading="From left to right more rows are called up, the most probable first. The curve starts where "
        f"{MIN_CALLED:.0%} of the rows are called; the precision of fewer is noise. Above the dashed line the calls "
        "are better than the base rate.",
        alt=f"Precision {precision[0]:.1%} for the most probable {MIN_CALLED:.0%} of the rows, falling to the base "
        f"rate of {base_rate:.1%} where all are called. Persistence: recall {rule_recall:.1%}, precision "
        f"{rule_precision:.1%}.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "base rate")),
    )


def _count_called_up(holdout: Holdout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each distinct probability from the highest down, how many rises and how many falls reach it."""
    order = np.argsort(-holdout.p, kind="stable")
    p, up = holdout.p[order], holdout.y[order] == 1
    last = np.append(np.flatnonzero(np.diff(p)), p.size - 1)
    return np.cumsum(up)[last].astype(np.float64), np.cumsum(~up)[last].astype(np.float64)


def _select_spaced(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions in a non-decreasing array whose values are about equally spaced, both ends included."""
    wanted = np.linspace(shares[0], shares[-1], CURVE_POINTS)
    return np.unique(np.clip(np.searchsorted(shares, wanted), 0, shares.size - 1))


def _score_persistence(holdout: Holdout) -> tuple[float, float, float]:
    """Return three shares of the rule that the last move repeats: recall, falls called up, and precision."""
    called = predict_by_rules(holdout.last_move, up_share=holdout.train_up_share)["persistence"]
    up = holdout.y == 1
    recall, false_alarms = (float(called[rows].mean()) if rows.any() else 0.0 for rows in (up, ~up))
    return recall, false_alarms, float(up[called].mean()) if called.any() else 0.0


def draw_parts(card: ModelCard, holdout: Holdout | None) -> Shown:
    """Draw the log-loss skill (1 - log loss / log loss of the base rate) of each part of the holdout."""
    up_share = card.number("baselines", "train_up_share")
    rows = [] if up_share is None or not 0 < up_share < 1 else list(_measure_skills(card, up_share, holdout))
    if not rows:
        return Missing(_PARTS, "the card holds no scores of parts of the holdout.")
    ends = [0.0, *(end for row in rows for end in (row.value, *(row.interval or ())))]
    scale = linear_scale(*widen(min(ends), max(ends)), "log-loss skill over the base rate", count=3, percent=True)
    return make_figure(
        "parts",
        _PARTS,
        draw_dot_rows(rows, scale, reference=0.0, other_css="c1"),
        reading="To the right of the line the model beats the base rate on that part. Lines are intervals, if the "
        "version keeps its rows; a week has few days, so its interval is wide. Numbers are rows.",
        alt="; ".join(f"{row.name}: {row.value:+.2%} of {row.note} rows" for row in rows[:16]),
        wide=True,
        named_rows=True,
    )


def _measure_skills(card: ModelCard, up_share: float, holdout: Holdout | None) -> Iterator[DotRow]:
    """Yield the log-loss skill and the number of rows of each part of the holdout, the whole of it first.

    `up_share`, the share of the training rows that went up, is the base rate of parts whose rows are not kept.
    """
    value = card.number("baselines", "log_loss_skill", "value")
    if value is not None:
        count = card.number("metrics", "rows")
        interval = card.interval("baselines", "log_loss_skill")
        yield DotRow("all", value, interval, "" if count is None else f"{count:,.0f}")
    symbols = list(card.named_sections("metrics", "per_symbol").items())[:MAX_SYMBOLS]
    weeks = card.sections("metrics", "per_week")
    starts_ms = [start for week in weeks if (start := week.time_ms("name")) is not None]
    # Of long holdouts, a slice is several weeks.
    length_ms = max(WEEK_MS, min((int(b - a) for a, b in pairwise(starts_ms)), default=WEEK_MS))
    since = "week of" if length_ms == WEEK_MS else f"{length_ms // WEEK_MS} weeks from"
    parts: list[tuple[str, Section, NDArray[np.bool_] | None]] = [
        *((name, score, None if holdout is None else holdout.symbol == name) for name, score in symbols),
        *((f"{since} {week.text('name')}", week, _select_weeks(holdout, week, length_ms)) for week in weeks),
        *((f"{score.text('name')} market", score, None) for score in card.sections("metrics", "per_volatility")),
    ]
    for name, score, inside in parts:
        loss = score.number("metrics", "log_loss")
        share, count = score.number("up_share"), score.number("rows")
        if loss is None or share is None or count is None:
            continue
        skill = None if holdout is None or inside is None else _measure_skill(holdout, inside)
        if skill is not None:
            yield DotRow(name, skill.value, (skill.low, skill.high), f"{count:,.0f}")
        else:
            base_loss = -(share * float(np.log(up_share)) + (1 - share) * float(np.log(1 - up_share)))
            yield DotRow(name, 1 - loss / base_loss, None, f"{count:,.0f}")


def _select_weeks(holdout: Holdout | None, week: Section, length_ms: int) -> NDArray[np.bool_] | None:
    """Return which rows of a holdout lie in weeks whose name is the date of a Monday; None if either is unknown."""
    start_ms = week.time_ms("name")
    if holdout is None or start_ms is None:
        return None
    return (holdout.ts_ms >= start_ms) & (holdout.ts_ms < start_ms + length_ms)


def _measure_skill(holdout: Holdout, inside: NDArray[np.bool_]) -> Interval | None:
    """Return the log-loss skill on the rows of a mask, shape (n,); None if they fill fewer than two bootstrap blocks.

    The skill is 1 - log loss / log loss of the symbols' base rates, as in the card.
    """
    ts_ms = holdout.ts_ms[inside]
    if ts_ms.size < 2 or ts_ms[0] == ts_ms[-1]:
        return None
    drawn = holdout.bootstrap
    bootstrap = plan_bootstrap(ts_ms, draws=drawn.draws, level=drawn.level, seed=0, overlap_ms=drawn.overlap_ms)
    return bootstrap.ratio((holdout.base_loss - holdout.loss)[inside], holdout.base_loss[inside])


def draw_moves(card: ModelCard) -> Shown:
    """Draw the mean move in the predicted direction by confidence and by volatility, against the cost of a trade."""
    rows = [
        DotRow(f"{name} {kind}", value, part.interval("move_bps"), f"{value:+.2f}")
        for key, kind in (("by_confidence", "confidence"), ("by_volatility", "market"))
        for part in card.sections("economics", key)
        if (name := part.text("name")) is not None and (value := part.number("move_bps", "value")) is not None
    ]
    taker_bps = card.number("economics", "taker_bps")
    if not rows or taker_bps is None:
        return Missing(_MOVES, "the card does not say how far the price moves after a prediction.")
    ends = [0.0, *(end for row in rows for end in (row.value, *(row.interval or ())))]
    # In and out again.
    cost_bps = 2 * taker_bps
    is_near = cost_bps <= MAX_COST_REACH * max(ends)
    low, high = widen(min(ends), max(*ends, cost_bps) if is_near else max(ends))
    fees = f"two sides at taker fees of {taker_bps:g} bps, {cost_bps:g} bps"
    return make_figure(
        "moves",
        _MOVES,
        draw_dot_rows(
            rows,
            linear_scale(low, high, "bps from the next open to the end of the label", count=3),
            reference=cost_bps if is_near else 0.0,
            other_css="c1",
        ),
        reading=(
            f"The vertical line marks the cost of {fees}: trading such a prediction alone pays only to the right of it."
            if is_near
            else f"The vertical line marks no move. The cost of {fees}, lies far to the right: trading such a "
            "prediction alone would lose."
        )
        + " The fifths by confidence should rise from lowest to highest; the other lines are intervals.",
        alt="; ".join(f"{row.name}: {row.note} bps" for row in rows) + f"; {fees}.",
        wide=True,
        named_rows=True,
    )


def draw_importance(card: ModelCard) -> Shown:
    """Draw each feature's share of the total gain, and of the total contribution to the predictions."""
    features = [
        (f.text("name") or "?", f.number("gain") or 0.0, f.number("contribution") or 0.0)
        for f in card.sections("feature_importance")
    ]
    features.sort(key=lambda feature: -feature[1])
    total_gain = sum(gain for _, gain, _ in features)
    total_contribution = sum(contribution for _, _, contribution in features)
    if not total_gain:
        return Missing(_IMPORTANCE, "the card names no feature that a tree splits on.")
    shares = [
        (name, gain / total_gain, contribution / total_contribution if total_contribution else 0.0)
        for name, gain, contribution in features[:MAX_FEATURES]
    ]
    longest = max(share for _, *both in shares for share in both) or 1.0
    rows: list[tuple[str, list[tuple[float, str]], str]] = []
    for name, gain, contribution in shares:
        bars, note = [(gain / longest, "fill c1")], f"{gain:.1%}"
        if total_contribution:
            bars.append((contribution / longest, "fill c2"))
            note += f" · {contribution:.1%}"
        rows.append((name, bars, note))
    reading = (
        "The gain is how much the splits on a feature lowered the training loss: it favours features with many values, "
        "and does not show causes. "
    )
    reading += (
        "The contribution is how far a feature moves the predictions (mean absolute tree SHAP value, over equally "
        "spaced rows of the holdout). Both are shares of the total."
        if total_contribution
        else "The card does not hold the contributions."
    )
    if hidden := len(features) - len(shares):
        reading += f" The other {hidden} are in the card."
    if unused := sum(gain == 0 for _, gain, _ in features):
        reading += f" {unused} feature{' was' if unused == 1 else 's were'} never used."
    return make_figure(
        "importance",
        _IMPORTANCE,
        draw_bar_rows(rows),
        reading=reading,
        alt="; ".join(f"{name}: {note}" for name, _, note in rows[:10]),
        legend=(
            ("fill c1", "share of the gain"),
            *((("fill c2", "share of the contributions"),) if total_contribution else ()),
        ),
        wide=True,
        named_rows=True,
    )


def draw_latency(card: ModelCard) -> Shown:
    """Draw the histogram of the durations of single predictions, with percentiles and the gate's limit, in ms."""
    bins = [
        (low_ms, high_ms, calls)
        for item in card.sections("latency_ms", "histogram")
        if (low_ms := item.number("from_ms")) is not None
        and (high_ms := item.number("to_ms")) is not None
        and (calls := item.number("calls")) is not None
        and high_ms > low_ms > 0
    ]
    if not bins:
        return Missing(_LATENCY, "the card holds percentiles of the latency, but no histogram.")
    limit_ms = card.number("lineage", "config", "gates", "latency_p95_ms")
    p50, p95, p99 = (card.number("latency_ms", key) or 0.0 for key in ("p50", "p95", "p99"))
    # A limit far to the right would press the bars into a corner.
    shown_limit_ms = limit_ms if limit_ms is not None and limit_ms < 20 * p95 else None
    end_ms = max(bins[-1][1], (shown_limit_ms or 0.0) * 1.2)
    plot = Plot(
        log_scale(bins[0][0], end_ms, "ms from candles to a probability (log scale)"),
        linear_scale(0, max(calls for _, _, calls in bins) * 1.25, "calls", count=3),
    )
    tips = [f"{low_ms:.3f} to {high_ms:.3f} ms: {calls:,.0f} calls" for low_ms, high_ms, calls in bins]
    plot.add_bars(bins, "fill c1 soft", tips)
    for label_row, (value, name) in enumerate(((p50, "p50"), (p95, "p95"), (p99, "p99"))):
        plot.add_vertical(value, f"{name} {value:.2f}", "rule c2", label_row=label_row)
    if shown_limit_ms is not None:
        plot.add_vertical(shown_limit_ms, f"limit {shown_limit_ms:g}", "rule bad", label_row=3)
    samples = card.number("latency_ms", "samples") or 0
    is_hidden = limit_ms is not None and shown_limit_ms is None
    return make_figure(
        "latency",
        _LATENCY,
        plot,
        reading="Features, checks, trees and calibration for one symbol, one call after the other, on the machine "
        "named in the lineage. The gate judges p95: five calls of a hundred take longer."
        + (f" The limit of {limit_ms:g} ms lies far to the right." if is_hidden else ""),
        alt=f"{samples:,.0f} calls: half take at most {p50:.2f} ms, 95% at most {p95:.2f} ms, 99% at most "
        f"{p99:.2f} ms" + (f"; the limit of p95 is {limit_ms:g} ms." if limit_ms is not None else "."),
        legend=(("fill c1 soft", "calls"), ("rule c2", "percentiles")),
    )
