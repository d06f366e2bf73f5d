"""Compare two cards value by value, and two models on the same rows.

Pure, except for `compare_versions`, which reads files. Lists of named items are compared by name, so their order does
not matter; values that differ between any two runs (seconds, single calls, single bins) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mltrain.card.model_card import Section
from mltrain.documents.results import Result
from mltrain.report.model_plots import plot_gain
from mltrain.report.page import render
from mltrain.report.paired import pair_holdouts
from mltrain.report.scales import linear_scale, widen
from mltrain.report.svg import DotRow, Missing, draw_dot_rows, make_figure
from mltrain.report.texts import DASH, format_number, format_percent, format_value, list_gates
from mltrain.report.version_data import read_holdout
from mltrain.store.listing import read_version_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.card.model_card import ModelCard
    from mltrain.documents.values import Json
    from mltrain.report.paired import PairedScores
    from mltrain.report.svg import Shown
    from mltrain.report.version_data import Holdout
    from mltrain.store.versions import StoredVersion
    from mltrain.training.bootstrap import Interval

# Keys whose values differ between any two runs.
_RUN_ONLY: Final = frozenset({"seconds", "histogram", "reliability", "reliability_before", "checks", "load_average"})
# Keys that identify an item of a list.
_NAMES: Final = ("name", "symbol", "path")
# Sections in the order of interest; all others follow by name.
_SECTIONS: Final = (
    *("model_name", "created_at", "train", "data_quality", "splits", "search", "hyperparameters", "metrics"),
    *("baselines", "intervals", "calibration", "gates", "leakage_checks", "evidence", "latency_ms"),
    *("feature_importance", "looks"),
)
# Title of each metric, and whether a larger value is better.
_METRICS: Final = {
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
    """One value that differs between the cards.

    Attributes:
        section: The card's section.
        place: The path inside the section, joined by dots; empty: the section itself.
        a: The value in the first card; None: missing.
        b: The value in the second card; None: missing.
        change: b - a; None unless both are numbers.
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
        title: Its displayed name.
        a: The first card's value; None: missing.
        b: The second card's value; None: missing.
        change: b - a; None: a value is missing.
        better: The better one, "a" or "b"; None: they are equal, or a value is missing.
    """

    name: str
    title: str
    a: float | None
    b: float | None
    change: float | None
    better: str | None


@dataclass(frozen=True, slots=True)
class CardDiff(Result):
    """The differences between two cards.

    Attributes:
        a: Name of the first version.
        b: Name of the second version.
        verdicts: The verdict of each; None: the card has none.
        same_holdout: Whether both were scored on the same symbols and time range; None: a card does not say.
        paired: Mean difference of the log losses on the same rows, first minus second, nats: above zero
            the second is better. None: the holdouts have hardly any common rows, or their rows are not kept.
        common: The same by symbol and by week, how often both agree, and the log loss of their average.
        metrics: The main metrics of both.
        gates: Name of each gate, and its outcome for the first and the second; an en dash: the card lacks it.
        differences: All values that differ, section by section.
    """

    SCHEMA: ClassVar[str] = "card-diff/1"

    a: str
    b: str
    verdicts: tuple[str | None, str | None]
    same_holdout: bool | None
    paired: Interval | None
    metrics: tuple[MetricPair, ...]
    gates: tuple[tuple[str, str, str], ...]
    differences: tuple[Difference, ...]
    common: PairedScores | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Two versions: their cards, the scored rows of their holdouts (None: not kept), and their differences."""

    diff: CardDiff
    cards: tuple[ModelCard, ModelCard]
    holdouts: tuple[Holdout | None, Holdout | None]


def compare_versions(a: StoredVersion, b: StoredVersion) -> Compared:
    """Read two versions and compare their cards and, where both were scored on the same rows, their losses."""
    cards = read_version_card(a), read_version_card(b)
    holdouts = read_holdout(a, cards[0]), read_holdout(b, cards[1])
    common = None if holdouts[0] is None or holdouts[1] is None else pair_holdouts(holdouts[0], holdouts[1])
    return Compared(compare_cards(*cards, names=(a.name, b.name), common=common), cards, holdouts)


def compare_cards(
    a: ModelCard, b: ModelCard, *, names: tuple[str, str], common: PairedScores | None = None
) -> CardDiff:
    """Compare two valid cards.

    Args:
        a: The first card.
        b: The second card.
        names: The names of their versions.
        common: Their log losses on the rows of both holdouts; None if unknown.
    """
    pairs = []
    for name, (title, more_is_better) in _METRICS.items():
        value_a, value_b = a.number("metrics", name), b.number("metrics", name)
        if value_a is not None and value_b is not None:
            better = None if value_a == value_b else "b" if (value_b > value_a) == more_is_better else "a"
            pairs.append(MetricPair(name, title, a=value_a, b=value_b, change=value_b - value_a, better=better))
        elif value_a is not None or value_b is not None:
            pairs.append(MetricPair(name, title, a=value_a, b=value_b, change=None, better=None))
    outcomes = [{gate.name: gate.outcome for gate in list_gates(card)} for card in (a, b)]
    holdouts = [_holdout_range(card) for card in (a, b)]
    return CardDiff(
        a=names[0],
        b=names[1],
        verdicts=(a.text("gates", "verdict"), b.text("gates", "verdict")),
        same_holdout=None if None in holdouts else holdouts[0] == holdouts[1],
        paired=None if common is None else common.whole.difference,
        metrics=tuple(pairs),
        gates=tuple(
            (gate, outcomes[0].get(gate, DASH), outcomes[1].get(gate, DASH)) for gate in outcomes[0] | outcomes[1]
        ),
        differences=tuple(_find_differences(a, b)),
        common=common,
    )


def _holdout_range(card: ModelCard) -> tuple[Any, Any, list[str]] | None:
    """Return start, end and symbols of the holdout; None if the card does not say."""
    block = card.block("holdout")
    return None if block is None else (block.value("start"), block.value("end"), sorted(card.symbols))


def _find_differences(a: ModelCard, b: ModelCard) -> Iterator[Difference]:
    """Yield each plain value that differs between two cards, by section, the most interesting ones first."""
    rank = {section: ix for ix, section in enumerate(_SECTIONS)}
    for section in sorted(a.document | b.document, key=lambda name: (rank.get(name, len(rank)), name)):
        values_a, values_b = dict(_flatten(a.value(section))), dict(_flatten(b.value(section)))
        for place in values_a | values_b:
            value_a, value_b = values_a.get(place), values_b.get(place)
            # True equals 1 in Python, but not in a card.
            if value_a != value_b or isinstance(value_a, bool) != isinstance(value_b, bool):
                number_a, number_b = (Section({"value": value}).number("value") for value in (value_a, value_b))
                change = None if number_a is None or number_b is None else number_b - number_a
                yield Difference(section, place, a=value_a, b=value_b, change=change)


def _flatten(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (JSON)
    """Yield the path, joined by dots, and the value of every plain value below a place of a card.

    An item of a list is named by its name, symbol or path, else by its index; a list of plain values is one text.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _RUN_ONLY:
                yield from _flatten(item, (*place, key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for ix, item in enumerate(value):
            names = [item[key] for key in _NAMES if isinstance(item.get(key), str)] if isinstance(item, dict) else []
            name = names[0] if names else str(ix)
            rest = {k: v for k, v in item.items() if k not in _NAMES or v != name} if isinstance(item, dict) else item
            yield from _flatten(rest, (*place, name))
    else:
        yield ".".join(place), ", ".join(map(str, value)) if isinstance(value, list) else value


def render_diff(compared: Compared) -> bytes:
    """Return the HTML page of a comparison, UTF-8."""
    diff = compared.diff
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    for d in diff.differences:
        change = "" if d.change is None else f"{d.change:+.6g}"
        sections.setdefault(d.section, []).append((d.place or d.section, format_value(d.a), format_value(d.b), change))
    metrics = []
    for m in diff.metrics:
        change = DASH if m.change is None else f"{m.change:+.5f}"
        better = {"a": diff.a, "b": diff.b}.get(m.better or "", DASH)
        metrics.append((m.title, format_number(m.a, 5), format_number(m.b, 5), change, better))
    return render(
        "diff.html.j2",
        diff=diff,
        metrics=metrics,
        paired_line=describe_paired_loss(diff),
        common=list_common(diff),
        agreement_line=describe_agreement(diff),
        figures=[*(_draw_metric(compared, name) for name in _DRAWN), _draw_gains(compared)],
        sections=sections,
    )


def describe_paired_loss(diff: CardDiff) -> str:
    """State the difference of the log losses on the same rows, or why there is none."""
    if diff.paired is not None and diff.paired.low == diff.paired.high == 0:
        return "On the same rows both have the same log loss, row by row."
    if diff.paired is not None:
        better = diff.b if diff.paired.value > 0 else diff.a
        sure = "surely" if diff.paired.low > 0 or diff.paired.high < 0 else "not surely"
        rows = "" if diff.common is None else f" {diff.common.whole.rows:,}"
        return (
            f"On the same{rows} rows {better} has the lower log loss, {sure}: {diff.a} minus {diff.b} is "
            f"{diff.paired.value:+.6f} nats a row, interval {diff.paired.low:+.6f} to {diff.paired.high:+.6f}."
        )
    if diff.same_holdout is False:
        return (
            "They were scored on different holdouts: a difference may come from the markets. "
            "`mltrain evaluate` scores both on the same newer candles."
        )
    return "The scored rows are not kept for both: there is no paired difference."


def list_common(diff: CardDiff) -> list[tuple[str, str, str, str, str]]:
    """Return a row for each symbol and week of the common rows: name, rows, both log losses, and their difference."""
    if diff.common is None:
        return []
    return [
        (
            each.name,
            f"{each.rows:,}",
            format_number(each.a, 5),
            format_number(each.b, 5),
            DASH
            if each.difference is None
            else f"{each.difference.value:+.5f} ({each.difference.low:+.5f} to {each.difference.high:+.5f})",
        )
        for each in (*diff.common.symbols, *diff.common.weeks)
    ]


def describe_agreement(diff: CardDiff) -> str:
    """State how often both call the same side, and the log loss of their average; empty without common rows."""
    if diff.common is None:
        return ""
    losses = (diff.common.whole.a, diff.common.whole.b)
    return (
        f"They call the same side on {format_percent(diff.common.agreement)} of these rows. The mean of their "
        f"probabilities would have a log loss of {format_number(diff.common.average_log_loss, 5)}, they have "
        f"{format_number(losses[0], 5)} and {format_number(losses[1], 5)}; it is not served."
    )


def _draw_metric(compared: Compared, name: str) -> Shown:
    """Draw one metric of both cards with its intervals; `name` is a key of `_METRICS`."""
    title = _METRICS[name][0]
    rows = []
    for version, card in zip((compared.diff.a, compared.diff.b), compared.cards, strict=True):
        value = card.number("metrics", name)
        if value is None:
            return Missing(title, "a card lacks it.")
        note = format_percent(value) if name == "accuracy" else format_number(value)
        rows.append(DotRow(version, value, card.interval("intervals", "metrics", name), note))
    ends = [end for row in rows for end in (row.value, *(row.interval or ()))]
    scale = linear_scale(*widen(min(ends), max(ends)), "", count=3, percent=name == "accuracy")
    return make_figure(
        f"metric-{name.replace('_', '-')}",
        title,
        draw_dot_rows(rows, scale, reference=rows[0].value, other_css="c2"),
        reading=f"The vertical line is {compared.diff.a}."
        + (" Intervals that overlap do not prove a difference." if all(row.interval for row in rows) else ""),
        alt="; ".join(f"{row.name} {row.note}" for row in rows),
    )


def _draw_gains(compared: Compared) -> Shown:
    """Draw the log loss that each version gained over the base rate during its holdout, in nats."""
    title = "Gain over the base rate, over time"
    a, b = compared.holdouts
    if a is None or b is None:
        return Missing(title, "a version does not keep its holdout's scores.")
    gains = [float((holdout.base_loss - holdout.loss).sum()) for holdout in (a, b)]
    return make_figure(
        "gains",
        title,
        plot_gain([(a, "line c1"), (b, "line c2")]),
        reading="Each curve starts with that version's holdout. The curves can only be compared if both holdouts have "
        "the same time range and symbols.",
        alt=f"{compared.diff.a} gains {gains[0]:.1f} nats, {compared.diff.b} {gains[1]:.1f}.",
        legend=(("line c1", compared.diff.a), ("line c2", compared.diff.b)),
        wide=True,
    )
