"""Draw the data and the search of a training: coverage, rows, class balance, splits, trials, hyperparameters. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.report.scales import linear_scale, log_scale, time_scale, widen
from mltrain.report.svg import Missing, Plot, Segment, Strip, figure, strips
from mltrain.times import MINUTE_MS, format_minutes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.card.model_card import ModelCard, Section
    from mltrain.report.svg import Shown

# Symbols and gaps that are drawn: nobody reads a hundred strips, and a page must be small enough to be mailed.
MAX_STRIPS: Final = 40
MAX_GAPS: Final = 1_200
# Trials that are drawn: more are thinned out evenly, but never the best one.
MAX_DOTS: Final = 400
# Complete trials that a rank correlation needs.
MIN_TRIALS: Final = 5

_COVERAGE: Final = "Coverage"
_ROW_COUNTS: Final = "From candles to rows"
_SPLITS: Final = "Splits, to scale"
_TRIALS: Final = "Trials"
_HYPERPARAMETERS: Final = "Hyperparameters"
_COUNTS: Final = {
    "rows": ("fill c1", "rows"),
    "no_features": ("fill c3", "warm-up of the features"),
    "no_label": ("fill c4", "no label"),
    "ties": ("fill c2", "ties"),
}
_TRIAL_COLUMNS: Final = frozenset({"number", "state", "log_loss", "rounds"})
# Height of the tick of a pruned trial, as a share of the plot's.
_TICK: Final = 0.04
# Quantile of the normal distribution: 90 % lie inside.
_NORMAL_90: Final = 1.645


def draw_coverage(card: ModelCard) -> Shown:
    """Draw where each symbol has candles and gaps, and which part is the holdout."""
    found = [(s, span) for s in card.sections("data_quality", "symbols") if (span := _time_span(s)) is not None]
    if not found:
        return Missing(_COVERAGE, "the card does not say when the candles start and end.")
    scale = time_scale(min(start for _, (start, _) in found), max(end for _, (_, end) in found))
    holdout = card.block("holdout")
    start, end = (None, None) if holdout is None else (holdout.time_ms("start"), holdout.time_ms("end"))
    each = MAX_GAPS // min(len(found), MAX_STRIPS)
    rows = []
    for symbol, span in found[:MAX_STRIPS]:
        gaps, missing = symbol.number("holes") or 0, symbol.number("missing_candles") or 0
        note = f"{gaps:,.0f} gap{'s' if gaps != 1 else ''}, {missing:,.0f} missing" if gaps else "no gap"
        parts = [Segment(*span, "fill c1", f"{format_minutes(span[0])} to {format_minutes(span[1])}")]
        if start is not None and end is not None:
            parts.append(Segment(start, end, "fill c2", "holdout"))
        rows.append(Strip(symbol.text("symbol") or "?", note, (*parts, *_largest_gaps(symbol, count=each))))
    more = len(found) - len(rows)
    missing = sum(int(s.number("missing_candles") or 0) for s, _ in found)
    hidden_gaps = max(s.number("holes") or 0 for s, _ in found) > each
    return figure(
        "coverage",
        _COVERAGE,
        strips(rows, scale),
        reading="A strip covers the time that has candles. Gaps are cut out and marked, however short they are; no "
        "candle is ever made up."
        + (f" Only the {each} largest gaps of a symbol are drawn." if hidden_gaps else "")
        + (f" {more} more symbols are in the table below." if more else ""),
        alt=f"{len(found)} symbols from {format_minutes(scale.low)} to {format_minutes(scale.high)} UTC; "
        f"{missing:,} candles are missing. " + "; ".join(f"{row.name}: {row.note}" for row in rows[:8]),
        legend=(("fill c1", "candles before the holdout"), ("fill c2", "holdout"), ("fill bad", "gap")),
        wide=True,
    )


def _time_span(item: Section) -> tuple[int, int] | None:
    first, last = item.time_ms("first"), item.time_ms("last")
    return None if first is None or last is None or last < first else (first, last)


def _largest_gaps(symbol: Section, *, count: int) -> Iterator[Segment]:
    gaps = sorted(symbol.sections("largest_holes"), key=lambda gap: -(gap.number("missing") or 0))
    for gap in gaps[:count]:
        start, end, missing = gap.time_ms("from"), gap.time_ms("to"), gap.number("missing")
        if start is not None and end is not None:
            tip = f"{missing or 0:,.0f} missing from {format_minutes(start)}"
            yield Segment(start, end, "fill bad", tip, mark=True)


def draw_row_counts(card: ModelCard) -> Shown:
    """Draw, for each symbol, the share of candles that became rows, and why the others did not."""
    rows: list[Strip] = []
    for symbol in card.sections("data_quality", "symbols"):
        counts = {key: value for key in _COUNTS if (value := symbol.number(key)) is not None and value >= 0}
        if len(counts) < len(_COUNTS) or len(rows) == MAX_STRIPS:
            continue
        total, at, parts = max(sum(counts.values()), 1.0), 0.0, []
        for key, count in counts.items():
            parts.append(Segment(at, at + count / total, _COUNTS[key][0], f"{count:,.0f}"))
            at += count / total
        share = symbol.number("tie_share")
        ties = "ties unknown" if share is None else f"{share:.1%} ties"
        rows.append(Strip(symbol.text("symbol") or "?", f"{counts['rows']:,.0f} rows, {ties}", tuple(parts)))
    if not rows:
        return Missing(_ROW_COUNTS, "the card does not say how many candles were dropped, and why.")
    return figure(
        "fate",
        _ROW_COUNTS,
        strips(rows, linear_scale(0, 1, "share of the candles", percent=True)),
        reading="Each candle is counted once. Ties are candles after which the price did not move: they are easy to "
        "foresee, so counting them as “down” would fake skill.",
        alt="; ".join(f"{row.name}: {row.note}" for row in rows[:12]),
        legend=tuple(_COUNTS.values()),
    )


def draw_class_balance(card: ModelCard) -> Shown:
    """Draw the classes of the training rows, and of each symbol's holdout rows."""
    ups, downs = (card.number("train", "class_balance", key) or 0 for key in ("pos", "neg"))
    parts = [("training", ups / max(ups + downs, 1), card.number("train", "rows") or 0)]
    for name, score in card.named_sections("metrics", "per_symbol").items():
        share, count = score.number("up_share"), score.number("rows")
        if share is not None and count is not None and len(parts) <= MAX_STRIPS:
            parts.append((f"holdout {name}", share, count))
    rows = [
        Strip(
            name,
            f"{share:.1%} of {count:,.0f}",
            (
                Segment(0, share, "fill c1", f"{share:.2%} rose"),
                Segment(share, 1, "fill c4", f"{1 - share:.2%} did not"),
            ),
        )
        for name, share, count in parts
    ]
    return figure(
        "balance",
        "Class balance",
        strips(rows, linear_scale(0, 1, "share of the rows", percent=True)),
        reading="Share of the rows after which the price was higher. Near one half, guessing is right half the time; "
        "far from it, accuracy flatters: use the log loss.",
        alt="; ".join(f"{name}: {share:.1%} of {count:,.0f} rows went up" for name, share, count in parts),
        legend=(("fill c1", "rose"), ("fill c4", "did not")),
    )


def draw_splits(card: ModelCard) -> Shown:
    """Draw the blocks of time to scale: the folds of the search, the inner part, and the holdout."""
    blocks = {b.text("name") or "?": b for b in card.sections("splits", "blocks")}
    spans = {name: (b.time_ms("start"), b.time_ms("end")) for name, b in blocks.items()}
    known = {name: (s, e) for name, (s, e) in spans.items() if s is not None and e is not None and e >= s}
    if not known:
        return Missing(_SPLITS, "the card does not say where the time range was cut.")
    scale = time_scale(min(s for s, _ in known.values()), max(e for _, e in known.values()))
    folds = [name.removesuffix(" train") for name in known if name.startswith("fold ") and name.endswith(" train")]
    rows = []
    for title, first, second in [*((f, f"{f} train", f"{f} validation") for f in folds), ("final", "inner", "holdout")]:
        pair = [(name, css) for name, css in ((first, "fill c1"), (second, "fill c2")) if name in known]
        if not pair:
            continue
        parts = [
            Segment(
                *known[name],
                css,
                f"{name}: {blocks[name].number('rows') or 0:,.0f} rows, "
                + " to ".join(format_minutes(t) for t in known[name]),
            )
            for name, css in pair
        ]
        count, purged = (blocks[pair[0][0]].number(key) for key in ("rows", "purged_rows"))
        note = "" if count is None else f"{count:,.0f} rows"
        note += "" if purged is None else f", {purged:,.0f} purged"
        if len(pair) > 1:
            parts.append(Segment(known[first][1], known[second][0], "fill bad", note, mark=True))
        rows.append(Strip(title, note, tuple(parts)))
    embargo = card.number("splits", "embargo_ms")
    return figure(
        "splits",
        _SPLITS,
        strips(rows, scale),
        reading="Each model is fitted on the blue block and scored on the orange one. Rows whose label would end in "
        "the later block, or less than the embargo before it, are purged: that gap is drawn to scale, and marked "
        "because it is narrow. The holdout was scored once, after all choices were made.",
        alt=f"{len(folds)} walk-forward folds inside the inner part, then the holdout"
        + (f"; embargo {embargo / MINUTE_MS:g} minutes. " if embargo is not None else ". ")
        + "; ".join(f"{name} {format_minutes(s)} to {format_minutes(e)}" for name, (s, e) in known.items()),
        legend=(("fill c1", "fitted"), ("fill bad", "purged"), ("fill c2", "scored")),
        wide=True,
    )


def draw_trials(table: pl.DataFrame | None) -> Shown:
    """Draw the loss of every complete trial and the best so far; of a pruned trial, only its number.

    The loss of a pruned trial is a mean over fewer folds and rounds: it would often lie below the best.
    """
    if table is None or not table.height:
        return Missing(_TRIALS, "this version keeps no table of trials.")
    number, loss, complete = _trial_columns(table)
    if not complete.any():
        return Missing(_TRIALS, "no trial of the search was completed.")
    best_so_far = np.minimum.accumulate(np.where(complete, loss, np.inf))
    known, best = np.isfinite(best_so_far), int(np.argmin(np.where(complete, loss, np.inf)))
    least = float(loss[best])
    # A few bad trials must not press all others into one line.
    top = max(float(np.quantile(loss[complete], 0.9)), least * 1.0002)
    y = linear_scale(*widen(least, top, pad=0.12), "out-of-fold log loss, nats")
    plot = Plot(linear_scale(0, max(float(number.max()), 1.0), "trial"), y, inset=0.06)
    shown = _thin_out(number, best)
    pruned, drawn = number[shown & ~complete].tolist(), shown & complete
    plot.whiskers(pruned, [(y.low, y.low + _TICK * (y.high - y.low))] * len(pruned), "whisker c3")
    tips = [f"trial {n:.0f}: {v:.5f}" for n, v in zip(number[drawn], loss[drawn], strict=True)]
    plot.dots(number[drawn].tolist(), loss[drawn].tolist(), "dot c1", tips=tips)
    plot.steps(number[known].tolist(), best_so_far[known].tolist(), "line c2")
    above = int((loss[complete] > y.high).sum())
    reading = (
        "Each dot is one set of hyperparameters, scored on rows that it was not fitted on; lower is better. "
        "The first one is LightGBM's defaults. If the line ends flat, more trials would hardly help"
    )
    reading += f"; {above} worse {'ones lie' if above > 1 else 'one lies'} at the upper edge." if above else "."
    if pruned:
        reading += (
            " A tick on the axis is a pruned trial: it was scored on fewer folds or rounds, so its loss "
            "cannot be compared and is not drawn."
        )
    return figure(
        "trials",
        _TRIALS,
        plot,
        reading=reading,
        alt=f"{table.height} trials, {int((~complete).sum())} of them pruned. The best is trial {number[best]:.0f} "
        f"with a log loss of {least:.5f}" + (f"; the first had {loss[0]:.5f}." if complete[0] else "."),
        legend=(
            ("dot c1", "complete"),
            *((("line c3", "pruned"),) if pruned else ()),
            ("line c2", "best so far"),
        ),
    )


def draw_hyperparameters(table: pl.DataFrame | None, card: ModelCard) -> tuple[Shown, ...]:
    """Draw the trials' losses over each hyperparameter, the strongest rank correlation first."""
    if table is None or not table.height:
        return (Missing(_HYPERPARAMETERS, "this version keeps no table of trials."),)
    _, loss, complete = _trial_columns(table)
    count = int(complete.sum())
    if count < MIN_TRIALS:
        return (Missing(_HYPERPARAMETERS, f"{count} complete trials are too few to compare hyperparameters."),)
    found = []
    for name in (c for c in table.columns if c not in _TRIAL_COLUMNS and table[c].dtype.is_numeric()):
        values = table[name].cast(float).fill_null(float("nan")).to_numpy()
        if np.unique(values[complete]).size > 1 and np.isfinite(values).all():
            pair = pl.DataFrame({"value": values[complete], "loss": loss[complete]})
            rho = float(pair.select(pl.corr("value", "loss", method="spearman")).item())
            # NaN: all losses are equal.
            found.append((name, values, 0.0 if math.isnan(rho) else rho))
    if not found:
        return (Missing(_HYPERPARAMETERS, "no hyperparameter took more than one value."),)
    # Under no relation rho is about normal with this standard deviation.
    chance = _NORMAL_90 / math.sqrt(count - 1)
    best = int(np.argmin(np.where(complete, loss, np.inf)))
    y = linear_scale(*widen(float(loss[complete].min()), float(loss[complete].max())), "log loss")
    figures = []
    for name, values, rho in sorted(found, key=lambda item: -abs(item[2])):
        low, high = float(values.min()), float(values.max())
        is_log = card.text("lineage", "config", "search", "space", name, "scale") == "log" and low > 0
        plot = Plot(log_scale(low, high, "log scale") if is_log else linear_scale(low, high, ""), y, 110, inset=0.16)
        chosen = card.number("hyperparameters", name)
        if chosen is not None and low <= chosen <= high:
            plot.vertical(chosen, "", "rule c2")
        shown = _thin_out(values, best) & complete
        plot.dots(values[shown].tolist(), loss[shown].tolist(), "dot c1", radius=3)
        strength = "stronger than chance" if abs(rho) > chance else "no stronger than chance"
        figures.append(
            figure(
                f"parameter-{''.join(c if c.isalnum() else '-' for c in name)}",
                name,
                plot,
                reading=f"Rank correlation with the loss {rho:+.2f}: {strength}."
                + (f" Chosen: {chosen:.4g}." if chosen is not None else ""),
                alt=f"Losses of {count} complete trials over {name} from {low:.4g} to {high:.4g}; "
                f"rank correlation {rho:+.2f}" + (f"; {chosen:.4g} was chosen." if chosen is not None else "."),
            )
        )
    return tuple(figures)


def _trial_columns(table: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return number, loss (infinite: none) and whether the trial is complete, each of shape (trials,)."""
    number = table["number"].cast(float, strict=False).fill_null(0).to_numpy()
    loss = table["log_loss"].cast(float, strict=False).fill_null(float("inf")).fill_nan(float("inf")).to_numpy()
    return number, loss, (table["state"].cast(str) == "complete").fill_null(value=False).to_numpy() & np.isfinite(loss)


def _thin_out(values: NDArray[np.float64], best: int) -> NDArray[np.bool_]:
    """Select at most MAX_DOTS positions at equal distances, and the best one."""
    shown = np.zeros(values.size, dtype=np.bool_)
    shown[np.linspace(0, values.size - 1, min(values.size, MAX_DOTS)).astype(np.int64)] = True
    shown[best] = True
    return shown
