"""Figures of the candles: what was there, what became of it, and how it was cut into blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mltrain.report.access import items_at, mapping_at, number_at, text_at, time_at
from mltrain.report.figure import Missing, figure
from mltrain.report.strips import Segment, Strip, strips
from mltrain.report.svg import linear_scale, time_scale
from mltrain.times import MINUTE_MS, format_minutes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.report.figure import Shown

MAX_STRIPS: Final = 40  # symbols that are drawn: of a hundred nobody reads the strips
MAX_MARKS: Final = 1_200  # gaps that are drawn, the largest of each symbol: a page can be mailed
_COVERAGE: Final = "Coverage"
_FATE: Final = "What became of the candles"
_SPLITS: Final = "Splits, to scale"
_KEPT: Final = ("rows", "no_features", "no_label", "ties")


def coverage(card: dict[str, Any]) -> Shown:
    """Draw where each symbol has candles and where it has gaps, and what of that is the holdout."""
    symbols = [s for s in items_at(card, "data_quality", "symbols") if _range(s) is not None]
    if not symbols:
        return Missing(_COVERAGE, "the card does not tell where the candles begin and end.")
    ranges = [r for s in symbols if (r := _range(s)) is not None]
    scale = time_scale(min(r[0] for r in ranges), max(r[1] for r in ranges))
    holdout = next((b for b in items_at(card, "splits", "blocks") if b.get("name") == "holdout"), {})
    start, end = time_at(holdout, "start"), time_at(holdout, "end")
    each = MAX_MARKS // min(len(symbols), MAX_STRIPS)
    rows = [
        Strip(
            text_at(s, "symbol") or "?",
            _gaps_note(s),
            (
                Segment(*r, "fill c1", f"{format_minutes(r[0])} to {format_minutes(r[1])}"),
                *([] if start is None or end is None else [Segment(start, end, "fill c2", "holdout")]),
                *_gaps(s, most=each),
            ),
        )
        for s, r in zip(symbols[:MAX_STRIPS], ranges, strict=False)
    ]
    more = len(symbols) - len(rows)
    missing = sum(int(number_at(s, "missing_candles") or 0) for s in symbols)
    return figure(
        "coverage",
        _COVERAGE,
        strips(rows, scale),
        reading="A strip is the time that has candles; a gap is cut out of it and marked, however short it is. No "
        "candle is ever made up for one."
        + (f" Of many gaps the {each} largest of a symbol are drawn." if _most_gaps(symbols) > each else "")
        + (f" {more} more symbols are in the table below." if more else ""),
        alt=f"{len(symbols)} symbols from {format_minutes(scale.low)} to {format_minutes(scale.high)} UTC; "
        f"{missing:,} candles are missing. " + "; ".join(f"{row.name}: {row.note}" for row in rows[:8]),
        legend=(("fill c1", "candles to learn from"), ("fill c2", "holdout"), ("fill bad", "gap")),
        wide=True,
    )


def _range(symbol: dict[str, Any]) -> tuple[int, int] | None:
    first, last = time_at(symbol, "first"), time_at(symbol, "last")
    return None if first is None or last is None or last < first else (first, last)


def _gaps(symbol: dict[str, Any], *, most: int) -> Iterator[Segment]:
    """Yield the largest gaps of a symbol, the largest first."""
    gaps = sorted(items_at(symbol, "largest_holes"), key=lambda gap: -(number_at(gap, "missing") or 0))
    for gap in gaps[:most]:
        start, end, missing = time_at(gap, "from"), time_at(gap, "to"), number_at(gap, "missing")
        if start is not None and end is not None:
            yield Segment(
                start, end, "fill bad", f"{missing or 0:,.0f} missing from {format_minutes(start)}", mark=True
            )


def _most_gaps(symbols: list[dict[str, Any]]) -> float:
    return max(number_at(s, "holes") or 0 for s in symbols)


def _gaps_note(symbol: dict[str, Any]) -> str:
    gaps, missing = number_at(symbol, "holes") or 0, number_at(symbol, "missing_candles") or 0
    if not gaps:
        return "no gap"
    return f"{gaps:,.0f} gap{'s' if gaps != 1 else ''}, {missing:,.0f} missing"


def fate(card: dict[str, Any]) -> Shown:
    """Draw, for each symbol, which share of its candles became rows, and why the others did not."""
    symbols = [s for s in items_at(card, "data_quality", "symbols") if _counts(s) is not None]
    if not symbols:
        return Missing(_FATE, "the card does not tell how many candles were dropped, and why.")
    rows, told = [], []
    for s in symbols[:MAX_STRIPS]:
        counts = _counts(s) or {}
        whole, at, parts = max(sum(counts.values()), 1.0), 0.0, []
        for key, css in zip(_KEPT, ("fill c1", "fill c3", "fill c4", "fill c2"), strict=True):
            parts.append(Segment(at, at + counts[key] / whole, css, f"{counts[key]:,.0f}"))
            at += counts[key] / whole
        share = number_at(s, "tie_share")
        ties = "no known ties" if share is None else f"{share:.1%} ties"
        rows.append(Strip(text_at(s, "symbol") or "?", f"{counts['rows']:,.0f} rows, {ties}", tuple(parts)))
        told.append(f"{rows[-1].name}: {rows[-1].note}")
    return figure(
        "fate",
        _FATE,
        strips(rows, linear_scale(0, 1, "share of the candles", percent=True)),
        reading="Each candle is counted once. Ties are candles after which the price did not move: they can be "
        "foreseen, so counting them as “down” would fake skill.",
        alt="; ".join(told[:12]),
        legend=(
            ("fill c1", "rows"),
            ("fill c3", "warm-up of the features"),
            ("fill c4", "no label"),
            ("fill c2", "ties"),
        ),
    )


def _counts(symbol: dict[str, Any]) -> dict[str, float] | None:
    found = {key: number_at(symbol, key) for key in _KEPT}
    return {key: value for key, value in found.items() if value is not None and value >= 0} if all(
        value is not None and value >= 0 for value in found.values()
    ) else None  # fmt: skip


def balance(card: dict[str, Any]) -> Shown:
    """Draw the classes of the rows that were learned from, and of each part of the holdout."""
    counts = mapping_at(card, "train", "class_balance")
    up = (number_at(counts, "pos") or 0) / max((number_at(counts, "pos") or 0) + (number_at(counts, "neg") or 0), 1)
    parts = [("learned from", up, number_at(card, "train", "rows") or 0)]
    for name, score in mapping_at(card, "metrics", "per_symbol").items():
        share, count = number_at(score, "up_share"), number_at(score, "rows")
        if share is not None and count is not None and len(parts) <= MAX_STRIPS:
            parts.append((f"holdout {name}", share, count))
    drawn = [
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
        strips(drawn, linear_scale(0, 1, "share of the rows", percent=True)),
        reading="Share of the rows after which the price was higher. Near one half a coin is right half the time; "
        "far from it accuracy flatters, and the log loss is judged instead.",
        alt="; ".join(f"{name}: {share:.1%} of {count:,.0f} rows went up" for name, share, count in parts),
        legend=(("fill c1", "rose"), ("fill c4", "did not")),
    )


def splits(card: dict[str, Any]) -> Shown:
    """Draw the blocks of time to scale: the folds of the search, the inner part, and the holdout."""
    blocks = {str(b.get("name")): b for b in items_at(card, "splits", "blocks")}
    spans = {name: (time_at(b, "start"), time_at(b, "end")) for name, b in blocks.items()}
    known = {name: (s, e) for name, (s, e) in spans.items() if s is not None and e is not None and e >= s}
    if not known:
        return Missing(_SPLITS, "the card does not tell how the time was cut.")
    scale = time_scale(min(s for s, _ in known.values()), max(e for _, e in known.values()))
    rows = []
    folds = [name.removesuffix(" train") for name in known if name.startswith("fold ") and name.endswith(" train")]
    for title, first, second in [*((f, f"{f} train", f"{f} validation") for f in folds), ("final", "inner", "holdout")]:
        pair = [(name, css) for name, css in ((first, "fill c1"), (second, "fill c2")) if name in known]
        if pair:
            drawn = [_block(blocks, known, *p) for p in pair]
            if len(pair) > 1:
                gap = known[first][1], known[second][0]
                drawn.append(Segment(*gap, "fill bad", _purge_note(blocks, first), mark=True))
            rows.append(Strip(title, _purge_note(blocks, pair[0][0]), tuple(drawn)))
    embargo = number_at(card, "splits", "embargo_ms")
    return figure(
        "splits",
        _SPLITS,
        strips(rows, scale),
        reading="Each row learns from the blue block and is scored on the orange one. Rows whose label would end in "
        "the later block, or less than the embargo before it, are purged: the gap is drawn to scale, and marked "
        "because it is thin. The holdout was scored once, after everything was chosen.",
        alt=f"{len(folds)} walk-forward folds inside the inner part, then the holdout"
        + (f"; embargo {embargo / MINUTE_MS:g} minutes. " if embargo is not None else ". ")
        + "; ".join(f"{name} {format_minutes(s)} to {format_minutes(e)}" for name, (s, e) in known.items()),
        legend=(("fill c1", "learned from"), ("fill bad", "purged"), ("fill c2", "scored")),
        wide=True,
    )


def _block(blocks: dict[str, Any], known: dict[str, tuple[int, int]], name: str, css: str) -> Segment:
    start, end = known[name]
    rows = number_at(blocks[name], "rows") or 0
    return Segment(start, end, css, f"{name}: {rows:,.0f} rows, {format_minutes(start)} to {format_minutes(end)}")


def _purge_note(blocks: dict[str, Any], name: str) -> str:
    rows, purged = number_at(blocks[name], "rows"), number_at(blocks[name], "purged_rows")
    told = "" if rows is None else f"{rows:,.0f} rows"
    return told if purged is None else f"{told}, {purged:,.0f} purged"
