"""The figure of the holdout in parts: whether the skill is everywhere, or lives on one symbol, one week, one market."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.report.access import items_at, mapping_at, number_at, text_at
from mltrain.report.figure import Missing, figure
from mltrain.report.strips import dot_rows
from mltrain.report.svg import linear_scale, span
from mltrain.times import WEEK_MS
from mltrain.training.bootstrap import plan_bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.report.figure import Shown
    from mltrain.report.material import Holdout

MAX_SYMBOLS: Final = 30
_PARTS: Final = "Skill by symbol, week and volatility"


def parts(card: dict[str, Any], rows: Holdout | None) -> Shown:
    """Draw the log-loss skill of each part of the holdout."""
    up = number_at(card, "baselines", "train_up_share")
    found = [] if up is None or not 0 < up < 1 else list(_parts(card, up, rows))
    if not found:
        return Missing(_PARTS, "the card does not tell scores of parts of the holdout.")
    ends = [0.0, *(v for _, value, interval, _ in found for v in (value, *(interval or ())))]
    scale = linear_scale(*span(min(ends), max(ends)), "log-loss skill over the base rate", count=3, percent=True)
    return figure(
        "parts",
        _PARTS,
        dot_rows(found, scale, zero=0.0, others="c1"),
        reading="To the right of the line the model beats the base rate on that part. Lines are intervals, where the "
        "stored rows allow them; a week has few days, so its interval is wide. Numbers are rows.",
        alt="; ".join(f"{name}: {value:+.2%} of {note} rows" for name, value, _, note in found[:16]),
        wide=True,
        rows=True,
    )


def _parts(
    card: dict[str, Any], up: float, rows: Holdout | None
) -> Iterator[tuple[str, float, tuple[float, float] | None, str]]:
    whole = mapping_at(card, "baselines", "log_loss_skill")
    value, low, high = (number_at(whole, key) for key in ("value", "low", "high"))
    if value is not None:
        held = number_at(card, "metrics", "rows")
        yield "all", value, None if low is None or high is None else (low, high), "" if held is None else f"{held:,.0f}"
    for name, score in list(mapping_at(card, "metrics", "per_symbol").items())[:MAX_SYMBOLS]:
        yield from _part(name, score, up, _interval(rows, None if rows is None else rows.symbol == name))
    for score in items_at(card, "metrics", "per_week"):
        yield from _part(f"week of {score.get('name')}", score, up, _interval(rows, _week(rows, score)))
    for score in items_at(card, "metrics", "per_volatility"):
        yield from _part(f"{score.get('name')} market", score, up, None)


def _part(
    name: str,
    score: Any,  # noqa: ANN401 (JSON)
    up: float,
    interval: tuple[float, float] | None,
) -> Iterator[tuple[str, float, tuple[float, float] | None, str]]:
    loss, share, rows = (
        number_at(score, "metrics", "log_loss"), number_at(score, "up_share"), number_at(score, "rows"),
    )  # fmt: skip
    if loss is not None and share is not None and rows is not None:
        base = -(share * float(np.log(up)) + (1 - share) * float(np.log(1 - up)))
        yield name, 1 - loss / base, interval, f"{rows:,.0f}"


def _week(rows: Holdout | None, score: dict[str, Any]) -> NDArray[np.bool_] | None:
    monday = text_at(score, "name")
    if rows is None or monday is None or len(monday) != len("2025-10-13"):
        return None
    try:
        start = int(np.datetime64(monday, "ms").astype(np.int64))
    except ValueError:
        return None
    return (rows.ts_ms >= start) & (rows.ts_ms < start + WEEK_MS)


def _interval(rows: Holdout | None, these: NDArray[np.bool_] | None) -> tuple[float, float] | None:
    """Return the interval of the log-loss skill on some rows; None where they fill fewer than two blocks."""
    if rows is None or these is None or int(these.sum()) < 2 or rows.ts_ms[these][0] == rows.ts_ms[these][-1]:
        return None
    drawn = plan_bootstrap(rows.ts_ms[these], draws=len(rows.bootstrap.weights), level=rows.level, seed=0)
    found = drawn.ratio((rows.base - rows.loss)[these], rows.base[these])
    return found.low, found.high
