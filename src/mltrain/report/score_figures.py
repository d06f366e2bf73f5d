"""Figures of the holdout's scores: what the model adds, and whether its probabilities mean what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.report.access import items_at, number_at, text_at
from mltrain.report.figure import Missing, figure
from mltrain.report.strips import dot_rows
from mltrain.report.svg import Plot, linear_scale, span, time_scale
from mltrain.times import DAY_MS
from mltrain.training.baselines import rule_calls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.report.figure import Shown
    from mltrain.report.material import Holdout

CURVE_POINTS: Final = 250  # of a curve: finer than the eye
BINS: Final = 40
LEAST_CALLED: Final = 0.01  # share of the rows: precision of fewer is noise
_NO_ROWS: Final = "this version keeps no table of its holdout's scores."
_LOGISTIC: Final = "logistic regression"
_ACCURACY: Final = "What the model adds"
_RELIABILITY: Final = "Reliability"
_GAIN: Final = "Gain over the base rate, as time passes"
_ROC: Final = "ROC"
_PR: Final = "Precision and recall"
_SPREAD: Final = "Distribution of the scores"


def accuracy(card: dict[str, Any]) -> Shown:
    """Draw the accuracy with its interval beside that of what needs no model."""
    own = number_at(card, "metrics", "accuracy")
    low, high = (number_at(card, "intervals", "metrics", "accuracy", k) for k in ("low", "high"))
    others = [
        (_LOGISTIC, number_at(card, "baselines", "logistic", "accuracy")),
        ("contrarian", number_at(card, "baselines", "contrarian")),
        ("persistence", number_at(card, "baselines", "persistence")),
        ("majority", number_at(card, "baselines", "majority")),
        ("a coin", 0.5),
    ]
    known = [(name, value) for name, value in others if value is not None]
    if own is None or len(known) == 1:
        return Missing(_ACCURACY, "the card does not tell what a baseline scores on the same rows.")
    # Cards of earlier releases lack the baseline's accuracy: the best of what needs no model is used instead.
    zero = number_at(card, "baselines", "accuracy")
    zero = max(value for name, value in known if name != _LOGISTIC) if zero is None else zero
    interval = None if low is None or high is None else (low, high)
    ends = [own, zero, *(value for _, value in known), *(interval or ())]
    scale = linear_scale(*span(min(ends), max(ends), pad=0.12), "accuracy on the holdout", count=3, percent=True)
    rows = [("this model", own, interval, f"{own:.2%}"), *((n, v, None, f"{v:.2%}") for n, v in known)]
    level = number_at(card, "intervals", "level")
    return figure(
        "accuracy",
        _ACCURACY,
        dot_rows(rows, scale, zero=zero, others="c3"),
        reading=f"The upright line, at {zero:.2%}, is the baseline: for each symbol the best rule that needs no model. "
        "A model whose whole interval does not lie to the right of it has not shown any skill. The gate judges the "
        "paired difference, which is more certain than the two figures separately.",
        alt="; ".join(f"{name} {note}" for name, _, _, note in rows)
        + (f"; {level or 0.9:.0%} interval of this model {interval[0]:.2%} to {interval[1]:.2%}" if interval else ""),
    )


def reliability(card: dict[str, Any], rows: Holdout | None) -> Shown:
    """Draw how often the price rose where the model said so, before and after calibration."""
    after = _bins(card, "reliability")
    same = text_at(card, "calibration", "method") == "none"
    before = [] if same else _bins(card, "reliability_before")
    if not after:
        return Missing(_RELIABILITY, "the card holds no reliability table.")
    intervals = [] if rows is None else _bin_intervals(after, rows)
    ends = [v for b in (*after, *before) for v in b[2:4]] + [v for i in intervals for v in i]
    # One range for both sides, so that the diagonal is one.
    low, high = span(min(ends), max(ends))
    low, high = max(low, 0.0), min(high, 1.0)
    plot = Plot(
        linear_scale(low, high, "said: mean probability of up"), linear_scale(low, high, "happened: share that rose")
    )
    plot.line([low, high], [low, high], "line ideal")
    plot.dots([b[2] for b in before], [b[3] for b in before], "hollow c2", tips=[_tell_bin(b) for b in before])
    if intervals:
        plot.whiskers([b[2] for b in after], intervals, "whisker c1")
    plot.dots([b[2] for b in after], [b[3] for b in after], "dot c1", radius=4, tips=[_tell_bin(b) for b in after])
    worst = max(after, key=lambda b: abs(b[2] - b[3]))
    counts = [int(b[4]) for b in after]
    return figure(
        "reliability",
        _RELIABILITY,
        plot,
        reading=f"Dots on the diagonal mean that what was said happened as often as it was said. Each stands for "
        f"{min(counts):,} to {max(counts):,} rows"
        + ("; the lines are intervals over whole days: those that cross the diagonal are no sign of a fault."
           if intervals else "."),
        alt=f"{len(after)} bins after calibration, from {after[0][2]:.3f} to {after[-1][2]:.3f}. The largest gap: "
        f"{worst[2]:.3f} was said and {worst[3]:.3f} happened, over {int(worst[4]):,} rows.",
        legend=(
            ("dot c1", "what is served, without calibration" if same else "calibrated"),
            *((("hollow c2", "before calibration"),) if before else ()),
            ("line ideal", "perfect"),
        ),
    )  # fmt: skip


def _bins(card: dict[str, Any], key: str) -> list[tuple[float, float, float, float, float]]:
    names = ("low", "high", "mean_p", "up_share", "rows")
    found = [tuple(number_at(b, name) for name in names) for b in items_at(card, "calibration", key)]
    return [(b[0], b[1], b[2], b[3], b[4]) for b in found if None not in b]  # type: ignore[misc]


def _tell_bin(b: tuple[float, ...]) -> str:
    return f"said {b[2]:.3f}, happened {b[3]:.3f}, {b[4]:,.0f} rows"


def _bin_intervals(bins: list[tuple[float, float, float, float, float]], rows: Holdout) -> list[tuple[float, float]]:
    """Return the interval of each bin's share that rose; none where the bins are not those of these rows."""
    found = []
    for low, high, _, _, count in bins:
        inside = (rows.p >= low) & (rows.p <= high)
        if int(inside.sum()) != int(count):
            return []
        interval = rows.bootstrap.ratio(inside & (rows.y == 1), inside)
        found.append((interval.low, interval.high))
    return found


def roc(rows: Holdout | None, card: dict[str, Any]) -> Shown:
    """Draw the ROC curve, with persistence as the point that it is."""
    if rows is None:
        return Missing(_ROC, _NO_ROWS)
    hits, alarms = _curve(rows)
    plot = Plot(
        linear_scale(0, 1, "share of the falls called up", percent=True),
        linear_scale(0, 1, "share of the rises called up", percent=True),
    )
    plot.line([0, 1], [0, 1], "line ideal")
    shares = hits / max(hits[-1], 1), alarms / max(alarms[-1], 1)
    keep = _few(shares[1])
    plot.line([0.0, *shares[1][keep]], [0.0, *shares[0][keep]], "line c1")
    hit, alarm, _ = _persistence(rows)
    plot.dots([alarm], [hit], "dot c2", radius=5, tips=[f"persistence: {alarm:.1%}, {hit:.1%}"])
    auc, low, high = (
        number_at(card, "metrics", "auc_roc"),
        *(number_at(card, "intervals", "metrics", "auc_roc", k) for k in ("low", "high")),
    )
    told = "" if auc is None else f"AUC {auc:.4f}"
    told += "" if low is None or high is None else f", interval {low:.4f} to {high:.4f}"
    return figure(
        "roc",
        _ROC,
        plot,
        reading=f"The further the curve bends to the upper left, the better rises are told from falls; the diagonal "
        f"is guessing. {told}. The direction of real one-minute candles is seldom told better than 0.56: far more is a "
        "reason to look for a leak.",
        alt=f"{told}. Persistence calls {hit:.1%} of the rises and {alarm:.1%} of the falls.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "guessing")),
    )


def precision_recall(rows: Holdout | None) -> Shown:
    """Draw precision over recall, with the base rate and persistence."""
    if rows is None:
        return Missing(_PR, _NO_ROWS)
    hits, alarms = _curve(rows)
    called = hits + alarms
    enough = called >= max(LEAST_CALLED * rows.y.size, 1)
    recall, precision = (hits / max(hits[-1], 1))[enough], (hits / np.maximum(called, 1))[enough]
    base = float(rows.y.mean())
    hit, _, right = _persistence(rows)
    low, high = span(min(base, right, float(precision.min())), max(base, right, float(precision.max())), pad=0.15)
    plot = Plot(
        linear_scale(0, 1, "recall: share of the rises called", percent=True),
        linear_scale(max(low, 0), min(high, 1), "precision: share of the calls that rose", percent=True),
    )
    plot.level(base, f"base rate {base:.1%}", "rule ideal", below=True)
    keep = _few(recall)
    plot.line(recall[keep].tolist(), precision[keep].tolist(), "line c1")
    plot.dots([hit], [right], "dot c2", radius=5, tips=[f"persistence: recall {hit:.1%}, precision {right:.1%}"])
    return figure(
        "precision-recall",
        _PR,
        plot,
        reading=f"From left to right more rows are called up, the surest first; the curve begins where "
        f"{LEAST_CALLED:.0%} of the rows are called, as of fewer it is noise. Above the dashed line the calls are "
        f"better than the base rate.",
        alt=f"Precision {precision[0]:.1%} for the surest {LEAST_CALLED:.0%} of the rows, falling to the base rate of "
        f"{base:.1%} where all are called. Persistence: recall {hit:.1%}, precision {right:.1%}.",
        legend=(("line c1", "this model"), ("dot c2", "persistence"), ("line ideal", "base rate")),
    )


def _curve(rows: Holdout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how many rises and falls score at least as high as each distinct score, the highest first."""
    order = np.argsort(-rows.p, kind="stable")
    p, up = rows.p[order], rows.y[order] == 1
    last = np.append(np.flatnonzero(np.diff(p)), p.size - 1)
    return np.cumsum(up)[last].astype(np.float64), np.cumsum(~up)[last].astype(np.float64)


def _few(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return positions of points that are about equally far apart, the ends among them."""
    wanted = np.linspace(shares[0], shares[-1], CURVE_POINTS)
    return np.unique(np.clip(np.searchsorted(shares, wanted), 0, shares.size - 1))


def _persistence(rows: Holdout) -> tuple[float, float, float]:
    """Return its recall, the share of the falls that it calls up, and its precision."""
    call = rule_calls(rows.last_move, up_share=rows.train_up_share)["persistence"]
    up = rows.y == 1
    right = float(up[call].mean()) if call.any() else 0.0
    return float(call[up].mean()) if up.any() else 0.0, float(call[~up].mean()) if (~up).any() else 0.0, right


def spread(rows: Holdout | None) -> Shown:
    """Draw how the probabilities are spread, apart for rises and falls."""
    if rows is None:
        return Missing(_SPREAD, _NO_ROWS)
    low, high = (float(v) for v in np.quantile(rows.p, [0.001, 0.999]))
    low, high = min(low, 0.499), max(high, 0.501)
    edges = np.linspace(low, high, BINS + 1)
    clipped = np.clip(rows.p, low, high)
    shares = [np.histogram(clipped[these], edges)[0] / max(these.sum(), 1) for these in (rows.y == 1, rows.y == 0)]
    plot = Plot(
        linear_scale(low, high, "probability of up"),
        linear_scale(0, max(float(s.max()) for s in shares) * 1.08, "share of the rows", count=3, percent=True),
    )
    bars = [(float(a), float(b), float(s)) for a, b, s in zip(edges, edges[1:], shares[0], strict=False)]
    plot.bars(bars, "fill c1 soft")
    plot.steps(edges.tolist(), [*shares[1].tolist(), float(shares[1][-1])], "line c2")
    plot.upright(0.5, "0.5", "rule ideal")
    far = float((np.abs(rows.p - 0.5) > 0.05).mean())
    return figure(
        "spread",
        _SPREAD,
        plot,
        reading="Probabilities far from the middle are what a decision can be built on. Where the two shapes lie upon "
        "each other the model does not tell rises from falls. The outermost 0.1 % are drawn at the ends.",
        alt=f"{rows.p.size:,} probabilities; 99.8 % of them lie from {low:.3f} to {high:.3f}; {far:.1%} are further "
        "than 0.05 from one half.",
        legend=(("fill c1 soft", "rose"), ("line c2", "fell")),
    )


def gain(rows: Holdout | None) -> Shown:
    """Draw what was gained in log loss over the base rate since the holdout began."""
    if rows is None:
        return Missing(_GAIN, _NO_ROWS)
    total = np.cumsum(rows.base - rows.loss)
    at = np.unique(np.linspace(0, total.size - 1, CURVE_POINTS).astype(np.int64))
    y = linear_scale(*span(min(0.0, float(total.min())), max(float(total.max()), 1e-9), pad=0.1), "nats gained so far")
    plot = Plot(time_scale(float(rows.ts_ms[0]), float(rows.ts_ms[-1])), y, 200)
    plot.level(0, "base rate", "rule ideal", below=True)
    plot.area(rows.ts_ms[at].tolist(), [0.0] * at.size, total[at].tolist(), "fill c1 faint")
    plot.line(rows.ts_ms[at].tolist(), total[at].tolist(), "line c1")
    day = rows.ts_ms // DAY_MS
    days, where = np.unique(day, return_inverse=True)
    won = np.bincount(where, weights=rows.base - rows.loss)
    good = int((won > 0).sum())
    return figure(
        "gain",
        _GAIN,
        plot,
        reading="A steady climb is skill on every day; a few jumps on a flat line are luck, or one event. Where it "
        f"falls, the model was worse than saying the base rate. Better on {good} of {days.size} days.",
        alt=f"The holdout gains {total[-1]:.1f} nats over {total.size:,} rows, {total[-1] / total.size:.6f} a row; "
        f"{good} of {days.size} UTC days gain.",
        legend=(("line c1", "this model"), ("line ideal", "base rate")),
        wide=True,
    )
