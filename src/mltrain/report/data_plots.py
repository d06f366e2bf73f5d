"""Draw the data and the search of a training: coverage, rows, class balance, splits, trials, hyperparameters. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.report.scales import linear_scale, log_scale, time_scale, widen
from mltrain.report.svg import Missing, Plot, Segment, Strip, draw_strips, make_figure
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, format_minutes

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
# Height of a pruned trial's tick, as a share of the height of the plot.
_TICK: Final = 0.04
# 90 % of a standard normal distribution lie between minus and plus this.
_NORMAL_90: Final = 1.645


def draw_coverage(card: ModelCard) -> Shown:
    """Draw where each symbol has candles and gaps, and which part is the holdout."""
    symbols = [(s, span) for s in card.sections("data_quality", "symbols") if (span := _time_span(s)) is not None]
    if not symbols:
        return Missing(_COVERAGE, "the card does not say when the candles start and end.")
    scale = time_scale(min(start for _, (start, _) in symbols), max(end for _, (_, end) in symbols))
    holdout = card.block("holdout")
    start_ms, end_ms = (None, None) if holdout is None else (holdout.time_ms("start"), holdout.time_ms("end"))
    gaps_each = MAX_GAPS // min(len(symbols), MAX_STRIPS)
    rows = []
    for symbol, span in symbols[:MAX_STRIPS]:
        gaps, missing = symbol.number("holes") or 0, symbol.number("missing_candles") or 0
        note = f"{gaps:,.0f} gap{'s' if gaps != 1 else ''}, {missing:,.0f} missing" if gaps else "no gap"
        segments = [Segment(*span, "fill c1", f"{format_minutes(span[0])} to {format_minutes(span[1])}")]
        if start_ms is not None and end_ms is not None:
            segments.append(Segment(start_ms, end_ms, "fill c2", "holdout"))
        segments += _draw_gaps(symbol, count=gaps_each)
        rows.append(Strip(symbol.text("symbol") or "?", note, tuple(segments)))
    hidden_symbols = len(symbols) - len(rows)
    all_missing = sum(int(s.number("missing_candles") or 0) for s, _ in symbols)
    hidden_gaps = max(s.number("holes") or 0 for s, _ in symbols) > gaps_each
    return make_figure(
        "coverage",
        _COVERAGE,
        draw_strips(rows, scale),
        reading="A strip covers the time that has candles. Gaps are cut out and marked, however short they are; no "
        "candle is ever made up."
        + (f" Only the {gaps_each} largest gaps of a symbol are drawn." if hidden_gaps else "")
        + (f" {hidden_symbols} more symbols are in the table below." if hidden_symbols else ""),
        alt=f"{len(symbols)} symbols from {format_minutes(scale.low)} to {format_minutes(scale.high)} UTC; "
        f"{all_missing:,} candles are missing. " + "; ".join(f"{row.name}: {row.note}" for row in rows[:8]),
        legend=(("fill c1", "candles before the holdout"), ("fill c2", "holdout"), ("fill bad", "gap")),
        wide=True,
    )


def _time_span(symbol: Section) -> tuple[int, int] | None:
    """Return the open times of a symbol's first and last candle, ms UTC; None if the card lacks them."""
    first_ms, last_ms = symbol.time_ms("first"), symbol.time_ms("last")
    return None if first_ms is None or last_ms is None or last_ms < first_ms else (first_ms, last_ms)


def _draw_gaps(symbol: Section, *, count: int) -> Iterator[Segment]:
    """Yield the `count` largest gaps of a symbol, from the largest to the smallest."""
    gaps = sorted(symbol.sections("largest_holes"), key=lambda gap: -(gap.number("missing") or 0))
    for gap in gaps[:count]:
        start_ms, end_ms, missing = gap.time_ms("from"), gap.time_ms("to"), gap.number("missing")
        if start_ms is not None and end_ms is not None:
            tip = f"{missing or 0:,.0f} missing from {format_minutes(start_ms)}"
            yield Segment(start_ms, end_ms, "fill bad", tip, mark=True)


def draw_row_counts(card: ModelCard) -> Shown:
    """Draw, for each symbol, the share of candles that became rows, and why the others did not."""
    rows: list[Strip] = []
    for symbol in card.sections("data_quality", "symbols"):
        counts = {key: value for key in _COUNTS if (value := symbol.number(key)) is not None and value >= 0}
        if len(counts) < len(_COUNTS) or len(rows) == MAX_STRIPS:
            continue
        total, start, segments = max(sum(counts.values()), 1.0), 0.0, []
        for key, count in counts.items():
            segments.append(Segment(start, start + count / total, _COUNTS[key][0], f"{count:,.0f}"))
            start += count / total
        tie_share = symbol.number("tie_share")
        ties = "ties unknown" if tie_share is None else f"{tie_share:.1%} ties"
        rows.append(Strip(symbol.text("symbol") or "?", f"{counts['rows']:,.0f} rows, {ties}", tuple(segments)))
    if not rows:
        return Missing(_ROW_COUNTS, "the card does not say how many candles were dropped, and why.")
    return make_figure(
        "fate",
        _ROW_COUNTS,
        draw_strips(rows, linear_scale(0, 1, "share of the candles", percent=True)),
        reading="Each candle is counted once. Ties are candles after which the price did not move: they are easy to "
        "foresee, so counting them as “down” would fake skill.",
        alt="; ".join(f"{row.name}: {row.note}" for row in rows[:12]),
        legend=tuple(_COUNTS.values()),
    )


def draw_class_balance(card: ModelCard) -> Shown:
    """Draw the share of the training rows that rose, and of each symbol's holdout rows."""
    up_rows, down_rows = (card.number("train", "class_balance", key) or 0 for key in ("pos", "neg"))
    # Name, share that rose, and number of rows.
    parts = [("training", up_rows / max(up_rows + down_rows, 1), card.number("train", "rows") or 0)]
    for name, score in card.named_sections("metrics", "per_symbol").items():
        up_share, count = score.number("up_share"), score.number("rows")
        if up_share is not None and count is not None and len(parts) <= MAX_STRIPS:
            parts.append((f"holdout {name}", up_share, count))
    rows = [
        Strip(
            name,
            f"{up_share:.1%} of {count:,.0f}",
            (
                Segment(0, up_share, "fill c1", f"{up_share:.2%} rose"),
                Segment(up_share, 1, "fill c4", f"{1 - up_share:.2%} did not"),
            ),
        )
        for name, up_share, count in parts
    ]
    return make_figure(
        "balance",
        "Class balance",
        draw_strips(rows, linear_scale(0, 1, "share of the rows", percent=True)),
        reading="Share of the rows after which the price was higher. Near one half, guessing is right half the time; "
        "far from it, accuracy flatters: use the log loss.",
        alt="; ".join(f"{name}: {up_share:.1%} of {count:,.0f} rows went up" for name, up_share, count in parts),
        legend=(("fill c1", "rose"), ("fill c4", "did not")),
    )


def draw_splits(card: ModelCard) -> Shown:
    """Draw the blocks of time to scale: the folds of the search, the inner part, and the holdout."""
    blocks = {b.text("name") or "?": b for b in card.sections("splits", "blocks")}
    spans = {}
    for name, block in blocks.items():
        start_ms, end_ms = block.time_ms("start"), block.time_ms("end")
        if start_ms is not None and end_ms is not None and end_ms >= start_ms:
            spans[name] = (start_ms, end_ms)
    if not spans:
        return Missing(_SPLITS, "the card does not say where the time range was cut.")
    scale = time_scale(min(start for start, _ in spans.values()), max(end for _, end in spans.values()))
    folds = [name.removesuffix(" train") for name in spans if name.startswith("fold ") and name.endswith(" train")]
    pairs = [*((fold, f"{fold} train", f"{fold} validation") for fold in folds), ("final", "inner", "holdout")]
    rows = []
    for title, fitted, scored in pairs:
        drawn = [(name, css) for name, css in ((fitted, "fill c1"), (scored, "fill c2")) if name in spans]
        if not drawn:
            continue
        segments = [
            Segment(
                *spans[name],
                css,
                f"{name}: {blocks[name].number('rows') or 0:,.0f} rows, "
                + " to ".join(format_minutes(end) for end in spans[name]),
            )
            for name, css in drawn
        ]
        count, purged = (blocks[drawn[0][0]].number(key) for key in ("rows", "purged_rows"))
        note = "" if count is None else f"{count:,.0f} rows"
        note += "" if purged is None else f", {purged:,.0f} purged"
        if len(drawn) > 1:
            segments.append(Segment(spans[fitted][1], spans[scored][0], "fill bad", note, mark=True))
        rows.append(Strip(title, note, tuple(segments)))
    embargo_ms = card.number("splits", "embargo_ms")
    return make_figure(
        "splits",
        _SPLITS,
        draw_strips(rows, scale),
        reading="Each model is fitted on the blue block and scored on the orange one. Rows whose label would end in "
        "the later block, or less than the embargo before it, are purged: that gap is drawn to scale, and marked "
        "because it is narrow. The holdout was scored once, after all choices were made.",
        alt=f"{len(folds)} walk-forward folds inside the inner part, then the holdout"
        + (f"; embargo {_format_length(embargo_ms)}. " if embargo_ms is not None else ". ")
        + "; ".join(f"{name} {format_minutes(start)} to {format_minutes(end)}" for name, (start, end) in spans.items()),
        legend=(("fill c1", "fitted"), ("fill bad", "purged"), ("fill c2", "scored")),
        wide=True,
    )


def draw_trials(table: pl.DataFrame | None) -> Shown:
    """Draw the loss of every complete trial and the best so far; of a pruned trial, only its number.

    The loss of a pruned trial is a mean over fewer folds and rounds: it would often lie below the best. `table` has one
    row for each trial, in order; None if the version does not keep them.
    """
    if table is None or not table.height:
        return Missing(_TRIALS, "this version keeps no table of trials.")
    number, loss, complete = _read_trials(table)
    if not complete.any():
        return Missing(_TRIALS, "no trial of the search was completed.")
    best_so_far = np.minimum.accumulate(np.where(complete, loss, np.inf))
    has_best, best = np.isfinite(best_so_far), int(np.argmin(np.where(complete, loss, np.inf)))
    least_loss = float(loss[best])
    # A few bad trials must not press all others into one line.
    top = max(float(np.quantile(loss[complete], 0.9)), least_loss * 1.0002)
    y = linear_scale(*widen(least_loss, top, pad=0.12), "out-of-fold log loss, nats")
    plot = Plot(linear_scale(0, max(float(number.max()), 1.0), "trial"), y, inset=0.06)
    shown = _thin_out(number.size, best)
    pruned, drawn = number[shown & ~complete].tolist(), shown & complete
    plot.add_whiskers(pruned, [(y.low, y.low + _TICK * (y.high - y.low))] * len(pruned), "whisker c3")
    tips = [f"trial {n:.0f}: {v:.5f}" for n, v in zip(number[drawn], loss[drawn], strict=True)]
    plot.add_dots(number[drawn].tolist(), loss[drawn].tolist(), "dot c1", tips=tips)
    plot.add_steps(number[has_best].tolist(), best_so_far[has_best].tolist(), "line c2")
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
    return make_figure(
        "trials",
        _TRIALS,
        plot,
        reading=reading,
        alt=f"{table.height} trials, {int((~complete).sum())} of them pruned. The best is trial {number[best]:.0f} "
        f"with a log loss of {least_loss:.5f}" + (f"; the first had {loss[0]:.5f}." if complete[0] else "."),
        legend=(
            ("dot c1", "complete"),
            *((("line c3", "pruned"),) if pruned else ()),
            ("line c2", "best so far"),
        ),
    )


def draw_hyperparameters(table: pl.DataFrame | None, card: ModelCard) -> tuple[Shown, ...]:
    """Draw the complete trials' losses over each hyperparameter, the strongest rank correlation first.

    `table` has one row for each trial; None if the version does not keep them. The card has the chosen values.
    """
    if table is None or not table.height:
        return (Missing(_HYPERPARAMETERS, "this version keeps no table of trials."),)
    _, loss, complete = _read_trials(table)
    count = int(complete.sum())
    if count < MIN_TRIALS:
        return (Missing(_HYPERPARAMETERS, f"{count} complete trials are too few to compare hyperparameters."),)
    correlated = []
    for name in (c for c in table.columns if c not in _TRIAL_COLUMNS and table[c].dtype.is_numeric()):
        values = table[name].cast(float).fill_null(float("nan")).to_numpy()
        if np.unique(values[complete]).size > 1 and np.isfinite(values).all():
            pair = pl.DataFrame({"value": values[complete], "loss": loss[complete]})
            rho = float(pair.select(pl.corr("value", "loss", method="spearman")).item())
            # NaN: all losses are equal.
            correlated.append((name, values, 0.0 if math.isnan(rho) else rho))
    if not correlated:
        return (Missing(_HYPERPARAMETERS, "no hyperparameter took more than one value."),)
    # Without a relation rho is about normal, with standard deviation 1 / sqrt(count - 1).
    chance = _NORMAL_90 / math.sqrt(count - 1)
    best = int(np.argmin(np.where(complete, loss, np.inf)))
    shown = _thin_out(loss.size, best) & complete
    y = linear_scale(*widen(float(loss[complete].min()), float(loss[complete].max())), "log loss")
    figures = []
    for name, values, rho in sorted(correlated, key=lambda item: -abs(item[2])):
        low, high = float(values.min()), float(values.max())
        is_log = card.text("lineage", "config", "search", "space", name, "scale") == "log" and low > 0
        plot = Plot(log_scale(low, high, "log scale") if is_log else linear_scale(low, high, ""), y, 110, inset=0.16)
        chosen = card.number("hyperparameters", name)
        if chosen is not None and low <= chosen <= high:
            plot.add_vertical(chosen, "", "rule c2")
        plot.add_dots(values[shown].tolist(), loss[shown].tolist(), "dot c1", radius=3)
        strength = "stronger than chance" if abs(rho) > chance else "no stronger than chance"
        figures.append(
            make_figure(
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


def _read_trials(table: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return number, log loss (nats; infinite: none) and completeness of each trial, arrays of shape (trials,)."""
    number = table["number"].cast(float, strict=False).fill_null(0).to_numpy()
    loss = table["log_loss"].cast(float, strict=False).fill_null(float("inf")).fill_nan(float("inf")).to_numpy()
    return number, loss, (table["state"].cast(str) == "complete").fill_null(value=False).to_numpy() & np.isfinite(loss)


def _thin_out(count: int, best: int) -> NDArray[np.bool_]:
    """Return a mask of shape (count,) that selects at most MAX_DOTS equally spaced positions, and position `best`."""
    shown = np.zeros(count, dtype=np.bool_)
    shown[np.linspace(0, count - 1, min(count, MAX_DOTS)).astype(np.int64)] = True
    shown[best] = True
    return shown


def _format_length(length_ms: float) -> str:
    """Return a length of time in the largest unit of which it is a whole number, such as "2 hours"."""
    units = {"days": DAY_MS, "hours": HOUR_MS, "minutes": MINUTE_MS}
    unit = next((name for name, unit_ms in units.items() if length_ms and length_ms % unit_ms == 0), "minutes")
    return f"{length_ms / units[unit]:g} {unit}"
