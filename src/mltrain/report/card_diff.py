"""What differs between two cards, figure by figure, and whether the one model is better on the same rows.

Pure but for `compare_versions`, which reads. Lists whose items have names are compared by name, so that an order is no
difference; what differs between any two runs (seconds, single calls, single bins) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.report.access import items_at, number_at, texts_at, value_at
from mltrain.report.facts import DASH, figure_text, gates, percent_text
from mltrain.report.figure import Missing, figure
from mltrain.report.material import read_holdout
from mltrain.report.page import render
from mltrain.report.score_figures import CURVE_POINTS
from mltrain.report.strips import dot_rows
from mltrain.report.svg import Plot, linear_scale, span, time_scale
from mltrain.store.listing import read_version_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.documents.values import Json
    from mltrain.report.figure import Shown
    from mltrain.report.material import Holdout
    from mltrain.store.versions import StoredVersion
    from mltrain.training.bootstrap import Interval

_RUN_ONLY: Final = frozenset({"seconds", "histogram", "reliability", "reliability_before", "checks", "load_average"})
_NAMES: Final = ("name", "symbol", "path")  # by which the items of a list are told apart
_ORDER: Final = (  # what people ask for first
    *(
        "model_name",
        "created_at",
        "train",
        "data_quality",
        "splits",
        "search",
        "hyperparameters",
        "metrics",
        "baselines",
    ),
    *("intervals", "calibration", "gates", "leakage_checks", "evidence", "latency_ms", "feature_importance", "looks"),
)
_METRICS: Final = {  # title, and whether more is better
    "accuracy": ("Accuracy", True),
    "auc_roc": ("AUC", True),
    "log_loss": ("Log loss", False),
    "calibration_ece": ("ECE", False),
    "brier": ("Brier score", False),
    "f1": ("F1", True),
}
_DRAWN: Final = ("accuracy", "auc_roc", "log_loss", "calibration_ece")


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same in both cards.

    Attributes:
        section: The card's section.
        place: Where in it, names joined by dots; empty for the section itself.
        a: The value in the first card; None where it has none.
        b: The value in the second card; likewise.
        change: b - a, of numbers.
    """

    section: str
    place: str
    a: Json
    b: Json
    change: float | None


@dataclass(frozen=True, slots=True)
class MetricPair:
    """A metric of both cards.

    Attributes:
        name: Its name in the card.
        title: Its name for people.
        a: Of the first; None where it has none.
        b: Of the second.
        change: b - a.
        better: Which of the two is better, "a" or "b"; None where they are equal or one is missing.
    """

    name: str
    title: str
    a: float | None
    b: float | None
    change: float | None
    better: str | None


@dataclass(frozen=True, slots=True)
class CardDiff:
    """Two cards held against each other.

    Attributes:
        a: Name of the first version.
        b: Name of the second.
        verdicts: What the gates said of each; None where a card has no verdict.
        same_holdout: Whether both were scored on the same symbols and time; None where a card does not tell.
        paired: Log loss of the first minus that of the second, row by row on the same rows: above zero the second is
            better. None where the rows are not the same, or not kept.
        metrics: The main figures of both.
        gates: Name of each gate, and what it said of the first and of the second; DASH where it did not judge.
        differences: Everything that differs, section by section.
    """

    a: str
    b: str
    verdicts: tuple[str | None, str | None]
    same_holdout: bool | None
    paired: Interval | None
    metrics: tuple[MetricPair, ...]
    gates: tuple[tuple[str, str, str], ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Two versions that were read, and what differs."""

    diff: CardDiff
    cards: tuple[dict[str, Any], dict[str, Any]]
    holdouts: tuple[Holdout | None, Holdout | None]


def compare_versions(a: StoredVersion, b: StoredVersion) -> Compared:
    """Read two versions and compare their cards and, where both were scored on the same rows, their losses.

    Raises:
        InputError: A card or a table is not the one that was published.
        MachineError: The machine refuses to read.
    """
    cards = read_version_card(a).document, read_version_card(b).document
    holdouts = read_holdout(a, cards[0]), read_holdout(b, cards[1])
    return Compared(compare_cards(*cards, names=(a.name, b.name), paired=_paired(*holdouts)), cards, holdouts)


def compare_cards(
    a: dict[str, Any], b: dict[str, Any], *, names: tuple[str, str], paired: Interval | None = None
) -> CardDiff:
    """Compare two valid cards.

    Args:
        a: The first.
        b: The second.
        names: Of their versions.
        paired: What is known of their losses on the same rows.
    """
    return CardDiff(
        a=names[0],
        b=names[1],
        verdicts=(_verdict(a), _verdict(b)),
        same_holdout=_same_holdout(a, b),
        paired=paired,
        metrics=tuple(_pair(a, b, name) for name in _METRICS if _has(a, name) or _has(b, name)),
        gates=_gate_rows(a, b),
        differences=tuple(_differences(a, b)),
    )


def _verdict(card: dict[str, Any]) -> str | None:
    verdict = value_at(card, "gates", "verdict")
    return verdict if isinstance(verdict, str) else None


def _has(card: dict[str, Any], name: str) -> bool:
    return number_at(card, "metrics", name) is not None


def _pair(a: dict[str, Any], b: dict[str, Any], name: str) -> MetricPair:
    title, more_is_better = _METRICS[name]
    x, y = number_at(a, "metrics", name), number_at(b, "metrics", name)
    if x is None or y is None or x == y:
        return MetricPair(name, title, x, y, None if x is None or y is None else 0.0, None)
    return MetricPair(name, title, x, y, y - x, "b" if (y > x) == more_is_better else "a")


def _same_holdout(a: dict[str, Any], b: dict[str, Any]) -> bool | None:
    found = []
    for card in (a, b):
        block = next((x for x in items_at(card, "splits", "blocks") if x.get("name") == "holdout"), None)
        if block is None:
            return None
        found.append((block.get("start"), block.get("end"), sorted(texts_at(card, "train", "symbols"))))
    return found[0] == found[1]


def _paired(a: Holdout | None, b: Holdout | None) -> Interval | None:
    if a is None or b is None or not np.array_equal(a.ts_ms, b.ts_ms) or not np.array_equal(a.symbol, b.symbol):
        return None
    return a.bootstrap.mean(a.loss - b.loss) if np.array_equal(a.y, b.y) else None


def _gate_rows(a: dict[str, Any], b: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    found = [{gate.name: gate.outcome for gate in gates(card)} for card in (a, b)]
    return tuple((name, found[0].get(name, DASH), found[1].get(name, DASH)) for name in found[0] | found[1])


def _differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    rank = {section: ix for ix, section in enumerate(_ORDER)}
    for section in sorted(a | b, key=lambda name: (rank.get(name, len(rank)), name)):
        left, right = dict(_leaves(a.get(section))), dict(_leaves(b.get(section)))
        for place in left | right:
            x, y = left.get(place), right.get(place)
            # True is 1 in Python and not in a card.
            if x != y or isinstance(x, bool) != isinstance(y, bool):
                p, q = number_at(x), number_at(y)
                yield Difference(section, place, x, y, None if p is None or q is None else q - p)


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (JSON)
    """Yield every plain value of a section with its place; a list of plain values is one text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _RUN_ONLY:
                yield from _leaves(item, (*place, key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for ix, item in enumerate(value):
            name = _item_name(item, ix)
            rest = {k: v for k, v in item.items() if k not in _NAMES or v != name} if isinstance(item, dict) else item
            yield from _leaves(rest, (*place, name))
    elif isinstance(value, list):
        yield ".".join(place), ", ".join(map(str, value))
    else:
        yield ".".join(place), value


def _item_name(item: Any, ix: int) -> str:  # noqa: ANN401 (JSON)
    names = [item[key] for key in _NAMES if isinstance(item.get(key), str)] if isinstance(item, dict) else []
    return names[0] if names else str(ix)


def render_diff(found: Compared) -> bytes:
    """Return the page of a comparison."""
    diff = found.diff
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    for d in diff.differences:
        change = "" if d.change is None else f"{d.change:+.6g}"
        sections.setdefault(d.section, []).append((d.place or d.section, value_text(d.a), value_text(d.b), change))
    return render(
        "diff.html.j2",
        diff=diff,
        metrics=[
            (m.title, figure_text(m.a, 5), figure_text(m.b, 5), DASH if m.change is None else f"{m.change:+.5f}",
             {"a": diff.a, "b": diff.b}.get(m.better or "", DASH))
            for m in diff.metrics
        ],
        paired_line=paired_line(diff),
        figures=[*(_metric_figure(found, name) for name in _DRAWN), _gains(found)],
        sections=sections,
    )  # fmt: skip


def value_text(value: Json) -> str:
    """Return a card's value as text; a dash for none."""
    if value is None:
        return DASH
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def paired_line(diff: CardDiff) -> str:
    """Say in one sentence how far the two can be compared."""
    if diff.paired is not None and diff.paired.low == diff.paired.high == 0:
        return "On the same rows both have the same log loss, row by row."
    if diff.paired is not None:
        better = diff.b if diff.paired.value > 0 else diff.a
        sure = "surely" if diff.paired.low > 0 or diff.paired.high < 0 else "not surely"
        return (
            f"On the same rows {better} has the lower log loss, {sure}: {diff.a} minus {diff.b} is "
            f"{diff.paired.value:+.6f} nats a row, interval {diff.paired.low:+.6f} to {diff.paired.high:+.6f}."
        )
    if diff.same_holdout is False:
        return (
            "They were scored on different holdouts: a difference of figures may be one of markets. "
            "`mltrain evaluate` scores both on the same newer candles."
        )
    return "The rows that they were scored on are not both kept: the figures cannot be paired."


def _metric_figure(found: Compared, name: str) -> Shown:
    title = _METRICS[name][0]
    rows = []
    for label, card in zip((found.diff.a, found.diff.b), found.cards, strict=True):
        value = number_at(card, "metrics", name)
        if value is None:
            return Missing(title, "not both cards have it.")
        low, high = (number_at(card, "intervals", "metrics", name, key) for key in ("low", "high"))
        interval = None if low is None or high is None else (low, high)
        told = percent_text(value) if name == "accuracy" else figure_text(value)
        rows.append((label, value, interval, told))
    ends = [v for _, value, interval, _ in rows for v in (value, *(interval or ()))]
    percent = name == "accuracy"
    return figure(
        f"metric-{name.replace('_', '-')}",
        title,
        dot_rows(
            rows, linear_scale(*span(min(ends), max(ends)), "", count=3, percent=percent), zero=rows[0][1], others="c2"
        ),
        reading=f"The upright line is {found.diff.a}."
        + (" Intervals that overlap do not prove a difference." if all(row[2] for row in rows) else ""),
        alt="; ".join(f"{label} {told}" for label, _, _, told in rows),
    )


def _gains(found: Compared) -> Shown:
    title = "Gain over the base rate, as time passes"
    a, b = found.holdouts
    if a is None or b is None:
        return Missing(title, "not both versions keep their holdout's scores.")
    totals = [np.cumsum(rows.base - rows.loss) for rows in (a, b)]
    ends = [0.0, *(float(v) for total in totals for v in (total.min(), total.max()))]
    times = [int(t) for rows in (a, b) for t in (rows.ts_ms[0], rows.ts_ms[-1])]
    y = linear_scale(*span(min(ends), max(1e-9, *ends), pad=0.1), "nats gained so far")
    plot = Plot(time_scale(min(times), max(times)), y, 200)
    plot.level(0, "base rate", "rule ideal", below=True)
    for rows, total, css in ((a, totals[0], "line c1"), (b, totals[1], "line c2")):
        at = np.unique(np.linspace(0, total.size - 1, CURVE_POINTS).astype(np.int64))
        plot.line(rows.ts_ms[at].tolist(), total[at].tolist(), css)
    return figure(
        "gains",
        title,
        plot,
        reading="Each curve begins where that version's holdout does: only where both run over the same time and "
        "symbols do they tell which is better.",
        alt=f"{found.diff.a} gains {totals[0][-1]:.1f} nats, {found.diff.b} {totals[1][-1]:.1f}.",
        legend=(("line c1", found.diff.a), ("line c2", found.diff.b)),
        wide=True,
    )
