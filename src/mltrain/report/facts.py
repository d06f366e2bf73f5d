"""What a report says in words and tables: the verdict, the figures, the evidence, and what the model is not for.

Pure: a card in, frozen rows of text out. The page escapes them. Nothing is rounded so far that it could mislead, and
what the card does not tell is a dash, or not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mltrain.report.access import flag_at, items_at, mapping_at, number_at, text_at, texts_at, time_at
from mltrain.times import format_minutes

DASH: Final = "\N{EN DASH}"
_METRICS: Final = {
    "accuracy": "Accuracy",
    "auc_roc": "AUC (ROC)",
    "log_loss": "Log loss, nats",
    "brier": "Brier score",
    "calibration_ece": "Calibration error (ECE)",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
}
_GUARDS: Final = {
    "future_info": "No feature and no label reads the future",
    "time_split": "No label of one block ends in a later one",
    "feature_audit": "The features are the registered ones, and none knows too much",
}
_SIMULATED: Final = "sim"
_NO_STRATEGY: Final = (
    "Not a trading strategy and no advice: fees, spread, slippage and the size of a move are in none of these "
    "figures, and a better direction than chance can lose money on every trade."
)
_NOT_FOR_EVER: Final = (
    "Not for ever: markets change. Score it on newer candles with `mltrain evaluate` before it is relied on, and "
    "train again when it decays."
)
_FEW_DAYS: Final = 10  # of a holdout: below, the intervals are of ten parts of equal length


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that stands out.

    Attributes:
        name: What it is.
        value: The figure.
        note: What to hold it against.
    """

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: its name, what became of it, its rule, and what was found."""

    name: str
    outcome: str
    target: str
    found: str


@dataclass(frozen=True, slots=True)
class Guard:
    """One leakage guard.

    Attributes:
        name: Its name in the card.
        claim: What it proves.
        passed: Whether it passed.
        checks: Name, values compared, worst deviation, where that was, and what was done.
        warnings: What is suspicious.
        failures: What is wrong.
    """

    name: str
    claim: str
    passed: bool
    checks: tuple[tuple[str, str, str, str, str], ...]
    warnings: tuple[str, ...]
    failures: tuple[str, ...]


def figure_text(value: float | None, digits: int = 4) -> str:
    """Return a figure with fixed digits, or a dash."""
    return DASH if value is None else f"{value:,.{digits}f}"


def percent_text(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a share in percent, or a dash."""
    return DASH if value is None else f"{value * 100:{'+' if signed else ''}.{digits}f} %"


def span_line(card: dict[str, Any]) -> str:
    """Say how much was learned from, of which time, and when."""
    start, end = (time_at(card, "train", "range", key) for key in ("start", "end"))
    made = time_at(card, "created_at")
    told = [f"{number_at(card, 'train', 'rows') or 0:,.0f} rows"]
    if start is not None and end is not None:
        told.append(f"{format_minutes(start)} to {format_minutes(end)}")
    told.append(f"trained {text_at(card, 'created_at') if made is None else format_minutes(made)} UTC")
    return " · ".join(told)


def tiles(card: dict[str, Any]) -> tuple[Tile, ...]:
    """Return the figures that decide, each with what it is to be held against."""
    interval = _interval_text
    margin = mapping_at(card, "baselines", "accuracy_margin")
    skill = mapping_at(card, "baselines", "log_loss_skill")
    gap = number_at(margin, "value")
    floor = number_at(card, "calibration", "ece_null_floor", "p95")
    before = number_at(card, "calibration", "before", "calibration_ece")
    found = [
        Tile("Accuracy", percent_text(number_at(card, "metrics", "accuracy")),
             interval(card, "accuracy", percent=True)),
        Tile("above the baseline", DASH if gap is None else f"{gap * 100:+.2f} pp",
             _range_text(number_at(margin, "low"), number_at(margin, "high"), scale=100, digits=2, unit=" pp")),
        Tile("Log-loss skill", percent_text(number_at(skill, "value"), signed=True),
             _range_text(number_at(skill, "low"), number_at(skill, "high"), scale=100, digits=2, unit=" %")),
        Tile("AUC", figure_text(number_at(card, "metrics", "auc_roc")), interval(card, "auc_roc")),
        Tile("Calibration error", figure_text(number_at(card, "metrics", "calibration_ece")),
             "; ".join([*([f"{before:.4f} before"] if before is not None else []),
                        *([f"chance alone up to {floor:.4f}"] if floor is not None else [])])),
        Tile("Latency p95", f"{figure_text(number_at(card, 'latency_ms', 'p95'), 2)} ms",
             f"p99 {figure_text(number_at(card, 'latency_ms', 'p99'), 2)} ms"),
    ]  # fmt: skip
    return tuple(tile for tile in found if tile.value != DASH)


def _interval_text(card: dict[str, Any], name: str, *, percent: bool = False) -> str:
    low, high = (number_at(card, "intervals", "metrics", name, key) for key in ("low", "high"))
    return _range_text(low, high, scale=100 if percent else 1, digits=2 if percent else 4, unit=" %" if percent else "")


def _range_text(low: float | None, high: float | None, *, scale: float = 1, digits: int = 4, unit: str = "") -> str:
    return "" if low is None or high is None else f"{low * scale:.{digits}f} to {high * scale:.{digits}f}{unit}"


def gates(card: dict[str, Any]) -> tuple[Gate, ...]:
    """Return the gates in their order."""
    return tuple(
        Gate(
            str(gate.get("name")).replace("_", " "),
            text_at(gate, "outcome") or "unknown",
            text_at(gate, "target") or DASH,
            text_at(gate, "reason") or figure_text(number_at(gate, "value")),
        )
        for gate in items_at(card, "gates", "outcomes")
    )


def symbols(card: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the result of each symbol alone, one row each."""
    return tuple(
        (
            text_at(s, "symbol") or "?",
            figure_text(number_at(s, "rows"), 0),
            f"{percent_text(number_at(s, 'baseline_accuracy'))} ({text_at(s, 'baseline') or '?'})",
            percent_text(number_at(s, "accuracy")),
            _pp_text(mapping_at(s, "margin")),
            _pp_text(mapping_at(s, "log_loss_skill"), unit="%"),
            text_at(s, "verdict") or DASH,
        )
        for s in items_at(card, "gates", "symbols")
    )


def _pp_text(interval: dict[str, Any], *, unit: str = "pp") -> str:
    value = number_at(interval, "value")
    if value is None:
        return DASH
    ends = _range_text(number_at(interval, "low"), number_at(interval, "high"), scale=100, digits=2)
    return f"{value * 100:+.2f} {unit}{f' ({ends})' if ends else ''}"


def economics(card: dict[str, Any]) -> str | None:
    """Return the line on what the calls would have earned before costs; None where the card lacks it."""
    found = mapping_at(card, "economics")
    gross, low, high = (number_at(found, "open_bps", key) for key in ("value", "low", "high"))
    turnover = number_at(found, "turnover")
    if gross is None or low is None or high is None or turnover is None:
        return None
    break_even = number_at(found, "break_even_bps")
    parts = [
        f"{day} {value:+.3f}"
        for day, value in (
            ("weekdays", number_at(found, "weekdays_bps")),
            ("weekends", number_at(found, "weekends_bps")),
        )
        if value is not None
    ]
    told = f"Economic, shown but not judged: {gross:+.3f} bps per bar from the next open ({low:+.3f} to {high:+.3f}"
    told += f"; {', '.join(parts)})" if parts else ")"
    told += f", {turnover:.2f} sides traded per bar"
    return told + ("." if break_even is None else f", so that a cost of {break_even:.3f} bps per side leaves nothing.")


def verdict_line(card: dict[str, Any]) -> str:
    """Say in one sentence what the verdict rests on."""
    verdict, outcomes = text_at(card, "gates", "verdict"), gates(card)
    failed = [gate.name for gate in outcomes if gate.outcome == "failed"]
    skipped = [gate.name for gate in outcomes if gate.outcome == "not applicable"]
    if verdict is None:
        return "The card holds no verdict: no gate of mltrain has judged this model."
    if failed:
        gates_failed = f"{len(failed)} of {len(outcomes)} gates failed: {', '.join(failed)}."
        return f"{gates_failed} It is kept for the record and is not promoted by itself."
    aside = f" ({', '.join(skipped)}: not applicable)" if skipped else ""
    held = [gate for gate in outcomes if gate.outcome == "held"]
    if held:
        reasons = "; ".join(f"{gate.name}: {gate.found}" for gate in held)
        return f"No gate failed{aside}. It is held, not promoted automatically: {reasons}."
    return f"All {len(outcomes) - len(skipped)} gates that apply passed{aside}."


def metrics(card: dict[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """Return name, figure, interval and the figure before calibration of each metric that the card has."""
    return tuple(
        (
            title,
            figure_text(number_at(card, "metrics", name), 5 if "loss" in name or "brier" in name else 4),
            _interval_text(card, name) or DASH,
            figure_text(number_at(card, "calibration", "before", name), 5 if "loss" in name or "brier" in name else 4),
        )
        for name, title in _METRICS.items()
        if number_at(card, "metrics", name) is not None
    )


def interval_line(card: dict[str, Any]) -> str | None:
    """Say how the intervals were made; None where there are none."""
    blocks, draws = number_at(card, "intervals", "blocks"), number_at(card, "intervals", "draws")
    level = number_at(card, "intervals", "level")
    if blocks is None or draws is None or level is None:
        return None
    kind = "whole UTC days" if flag_at(card, "intervals", "by_day") else "parts of equal length"
    few = "; so few blocks make wide intervals" if blocks <= _FEW_DAYS else ""
    return f"Intervals: {level:.0%}, by {draws:,.0f} draws of {blocks:,.0f} {kind}, all symbols together{few}."


def guards(card: dict[str, Any]) -> tuple[Guard, ...]:
    """Return the leakage guards with their evidence."""
    return tuple(
        Guard(
            name=name,
            claim=_GUARDS.get(name, name),
            passed=passed is True,
            checks=tuple(_check(check) for check in items_at(card, "evidence", name, "checks")),
            warnings=tuple(texts_at(card, "evidence", name, "warnings")),
            failures=tuple(_failure(failure) for failure in items_at(card, "evidence", name, "failures")),
        )
        for name, passed in mapping_at(card, "leakage_checks").items()
    )


def _check(check: dict[str, Any]) -> tuple[str, str, str, str, str]:
    worst = number_at(check, "worst")
    return (
        (text_at(check, "name") or "?").replace("_", " "),
        figure_text(number_at(check, "points"), 0),
        DASH if worst is None else f"{worst:.3g}",
        text_at(check, "case") or DASH,
        text_at(check, "detail") or "",
    )


def _failure(failure: dict[str, Any]) -> str:
    time_ms = number_at(failure, "time_ms")
    when = "" if time_ms is None or not 0 <= time_ms < 1e14 else f" at {format_minutes(time_ms)}"
    told = {key: text_at(failure, key) or "?" for key in ("feature", "symbol", "why", "expected", "got")}
    return f"{told['feature']} of {told['symbol']}{when}: {told['why']}: expected {told['expected']}, got {told['got']}"


def quality(card: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return what became of each symbol's candles, one row each."""
    keys = ("candles", "holes", "missing_candles", "zero_trade_rows", "no_features", "no_label", "ties", "rows")
    return tuple(
        (
            text_at(s, "symbol") or "?",
            *(figure_text(number_at(s, key), 0) for key in keys),
            percent_text(number_at(s, "tie_share"), 1),
        )
        for s in items_at(card, "data_quality", "symbols")
    )


def blocks(card: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the blocks of time, one row each."""
    return tuple(
        (
            text_at(b, "name") or "?",
            text_at(b, "start") or DASH,
            text_at(b, "end") or DASH,
            text_at(b, "last_label_end") or DASH,
            figure_text(number_at(b, "rows"), 0),
            figure_text(number_at(b, "purged_rows"), 0),
        )
        for b in items_at(card, "splits", "blocks")
    )


def search_line(card: dict[str, Any]) -> str:
    """Say how the search went."""
    trials, pruned = number_at(card, "search", "trials"), number_at(card, "search", "pruned")
    if trials is None:
        return "The card does not tell how the hyperparameters were found."
    best, loss = number_at(card, "search", "best", "number"), number_at(card, "search", "best", "log_loss")
    told = f"{trials:,.0f} trials, {pruned or 0:,.0f} of them pruned"
    if best is not None and loss is not None:
        told += f"; trial {best:.0f} is the best with {loss:.5f} nats out of fold"
    if text_at(card, "search", "ended_by") == "timeout":
        told += f"; the time ended it, {number_at(card, 'search', 'trials_asked_for') or 0:,.0f} were asked for"
    optimism = mapping_at(card, "search", "selection_optimism")
    oof, held = number_at(optimism, "out_of_fold_skill"), number_at(optimism, "holdout_skill")
    if oof is not None and held is not None:
        told += (
            f". Before calibration its skill was {oof:+.2%} out of fold and {held:+.2%} on the holdout: "
            "a large drop is the optimism of having chosen"
        )
    return f"{told}."


def calibration_line(card: dict[str, Any]) -> str:
    """Say which calibration was taken, and what the others came to."""
    method = text_at(card, "calibration", "method")
    if method is None:
        return "The card does not tell how scores became probabilities."
    asked = text_at(card, "calibration", "requested")
    losses = mapping_at(card, "calibration", "forward_log_loss")
    told = ", ".join(f"{name} {number_at(losses, name):.5f}" for name in losses if number_at(losses, name) is not None)
    how = {"auto": "chosen by forward log loss on the folds", None: "as the card says"}.get(
        asked, "as it was asked for"
    )
    taken = "none: the booster's own probabilities are served" if method == "none" else method
    return f"Calibration: {taken}, {how}{f' ({told} nats)' if told else ''}."


def hyperparameters(card: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the hyperparameters, by name."""
    return tuple((name, plain_text(value)) for name, value in sorted(mapping_at(card, "hyperparameters").items()))


def plain_text(value: Any) -> str:  # noqa: ANN401 (JSON)
    """Return a plain value of a card as text; a dash for none."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | int) else DASH if value is None else repr(value)


def limits(card: dict[str, Any]) -> tuple[str, ...]:
    """Return what the model must not be used for, and what weakens its figures; each follows from the card."""
    symbols, interval = texts_at(card, "train", "symbols"), text_at(card, "train", "interval")
    label = mapping_at(card, "train", "label")
    horizon = number_at(label, "horizon_bars")
    found = []
    if text_at(card, "gates", "verdict") == "NO-GO":
        found.append("Not for use at all: a gate failed. Only `promote --force` with a reason can serve it.")
    if text_at(card, "lineage", "source", "name") == _SIMULATED:
        found.append("Not for any real market: it learned from simulated candles, whose signal was put there.")
    bars = f" of {interval}" if interval else ""
    listed = ", ".join(symbols[:20]) + (f" and {len(symbols) - 20} more" if len(symbols) > 20 else "")
    found.append(f"Not for other symbols than {listed}, and not for other candles than those{bars}: it has never "
                 "seen any.")  # fmt: skip
    if horizon is not None:
        found.append(f"Not for another horizon than {horizon:,.0f} bar{'s' if horizon != 1 else ''} ahead.")
    if text_at(label, "ties") == "drop":
        found.append(
            "Its probability is that of a rise given that the price moves at all: it says nothing of whether it will."
        )
    found += [
        _NO_STRATEGY,
        _NOT_FOR_EVER,
        *_doubts(card),
    ]
    return tuple(found)


def _doubts(card: dict[str, Any]) -> list[str]:
    """Return what weakens the figures themselves."""
    found = []
    if text_at(card, "splits", "fitted_on") == "all":
        found.append("The figures are those of its twin: the served model was fitted on the holdout, too.")
    looks, earlier = number_at(card, "looks", "others"), number_at(card, "looks", "earlier")
    if looks is None and earlier:  # a card of an earlier release
        found.append(
            f"The holdout's range had been scored before ({earlier:,.0f} in all): each look inflates the figures."
        )
    if looks:
        found.append(
            f"Other configurations or seeds had been scored on the holdout's range before, {looks:.3g} by overlap: the "
            "best of several looks better than it is. The gates are stricter because of it; take a later snapshot for "
            "a fresh holdout."
        )
    found += [
        f"The gate {str(gate.get('name')).replace('_', ' ')} was loosened to {plain_text(gate.get('used'))}; mltrain "
        f"comes with {plain_text(gate.get('packaged'))}."
        for gate in items_at(card, "gates", "loosened")
    ]
    if number_at(card, "intervals", "blocks") is not None and flag_at(card, "intervals", "by_day") is False:
        found.append(f"The holdout touches fewer than {_FEW_DAYS} days: a single event can make or break its figures.")
    if not mapping_at(card, "intervals"):
        found.append("The card tells no intervals: nobody knows how sure its figures are.")
    return found + [f"Warned of in training: {warning}" for warning in texts_at(card, "data_quality", "warnings")]
