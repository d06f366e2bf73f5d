"""State a card's facts in words and tables: verdict, figures, evidence, limits, lineage, commands.

Pure: a card in, frozen rows of text out; the page escapes them, and words of a command are quoted for a shell. A value
that the card lacks is a dash, or left out.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mltrain.card.model_card import Section
from mltrain.times import format_minutes

if TYPE_CHECKING:
    from mltrain.card.model_card import ModelCard

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
_COUNTS: Final = ("candles", "holes", "missing_candles", "zero_trade_rows", "no_features", "no_label", "ties", "rows")
_NO_STRATEGY: Final = (
    "Not a trading strategy and no advice: fees, spread, slippage and the size of a move are in none of these "
    "figures, and a better direction than chance can lose money on every trade."
)
_NOT_FOREVER: Final = (
    "Not forever: markets change. Score it on newer candles with `mltrain evaluate` before relying on it, and train "
    "again when it decays."
)
# A holdout of fewer days has intervals over ten parts of equal length instead of days.
_FEW_DAYS: Final = 10


@dataclass(frozen=True, slots=True)
class Tile:
    """A main figure: its name, its value, and a note to compare it with."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate: its name, its outcome, its rule, and the value or reason."""

    name: str
    outcome: str
    target: str
    found: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A leakage guard.

    Attributes:
        name: Its name in the card.
        claim: What it proves.
        passed: Whether it passed.
        checks: Name, number of values compared, worst deviation, its place, and a description, each as text.
        warnings: Suspicious findings.
        failures: Failed checks.
    """

    name: str
    claim: str
    passed: bool
    checks: tuple[tuple[str, str, str, str, str], ...]
    warnings: tuple[str, ...]
    failures: tuple[str, ...]


def figure_text(value: float | None, digits: int = 4) -> str:
    """Return a number with fixed digits, or a dash."""
    return DASH if value is None else f"{value:,.{digits}f}"


def percent_text(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a share in percent, or a dash."""
    return DASH if value is None else f"{value * 100:{'+' if signed else ''}.{digits}f} %"


def plain_text(value: Any) -> str:  # noqa: ANN401 (JSON)
    """Return a plain value of a card as text, or a dash."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | int) else DASH if value is None else repr(value)


def _range_text(interval: tuple[float, float] | None, *, unit: str = "") -> str:
    """Return an interval as text, as a share of 100 if it has a unit; empty if there is none."""
    if interval is None:
        return ""
    low, high = interval
    return f"{low * 100:.2f} to {high * 100:.2f} {unit}" if unit else f"{low:.4f} to {high:.4f}"


def _metric_range(card: ModelCard, name: str, *, unit: str = "") -> str:
    return _range_text(card.interval("intervals", "metrics", name), unit=unit)


def summary_line(card: ModelCard) -> str:
    """State the number of training rows, their time range, and when the model was trained."""
    start, end = (card.time_ms("train", "range", key) for key in ("start", "end"))
    created = card.time_ms("created_at")
    parts = [f"{card.number('train', 'rows') or 0:,.0f} rows"]
    if start is not None and end is not None:
        parts.append(f"{format_minutes(start)} to {format_minutes(end)}")
    parts.append(f"trained {card.text('created_at') if created is None else format_minutes(created)} UTC")
    return " · ".join(parts)


def tiles(card: ModelCard) -> tuple[Tile, ...]:
    """Return the main figures that the card has."""
    margin, skill = (card.number("baselines", key, "value") for key in ("accuracy_margin", "log_loss_skill"))
    floor = card.number("calibration", "ece_null_floor", "p95")
    before = card.number("calibration", "before", "calibration_ece")
    ece_notes = [] if before is None else [f"{before:.4f} before"]
    ece_notes += [] if floor is None else [f"chance alone up to {floor:.4f}"]
    p95, p99 = (card.number("latency_ms", key) for key in ("p95", "p99"))
    found = (
        Tile(
            "Accuracy",
            percent_text(card.number("metrics", "accuracy")),
            _metric_range(card, "accuracy", unit="%"),
        ),
        Tile(
            "above the baseline",
            DASH if margin is None else f"{margin * 100:+.2f} pp",
            _range_text(card.interval("baselines", "accuracy_margin"), unit="pp"),
        ),
        Tile(
            "Log-loss skill",
            percent_text(skill, signed=True),
            _range_text(card.interval("baselines", "log_loss_skill"), unit="%"),
        ),
        Tile("AUC", figure_text(card.number("metrics", "auc_roc")), _metric_range(card, "auc_roc")),
        Tile("Calibration error", figure_text(card.number("metrics", "calibration_ece")), "; ".join(ece_notes)),
        Tile("Latency p95", DASH if p95 is None else f"{p95:.2f} ms", "" if p99 is None else f"p99 {p99:.2f} ms"),
    )
    return tuple(tile for tile in found if tile.value != DASH)


def gates(card: ModelCard) -> tuple[Gate, ...]:
    """Return the gates in the card's order."""
    return tuple(
        Gate(
            (gate.text("name") or "?").replace("_", " "),
            gate.text("outcome") or "unknown",
            gate.text("target") or DASH,
            gate.text("reason") or figure_text(gate.number("value")),
        )
        for gate in card.sections("gates", "outcomes")
    )


def verdict_line(card: ModelCard) -> str:
    """Explain the verdict in one or two sentences."""
    verdict, outcomes = card.text("gates", "verdict"), gates(card)
    failed = [gate.name for gate in outcomes if gate.outcome == "failed"]
    skipped = [gate.name for gate in outcomes if gate.outcome == "not applicable"]
    if verdict is None:
        return "The card holds no verdict: no gate of mltrain has judged this model."
    if failed:
        gates_failed = f"{len(failed)} of {len(outcomes)} gates failed: {', '.join(failed)}."
        return f"{gates_failed} The version is kept for the record and is not promoted automatically."
    aside = f" ({', '.join(skipped)}: not applicable)" if skipped else ""
    held = [gate for gate in outcomes if gate.outcome == "held"]
    if held:
        reasons = "; ".join(f"{gate.name}: {gate.found}" for gate in held)
        return f"No gate failed{aside}. It is held, not promoted automatically: {reasons}."
    return f"All {len(outcomes) - len(skipped)} gates that apply passed{aside}."


def symbol_results(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return the result of each symbol, one row each."""

    def change(symbol: Section, key: str, unit: str) -> str:
        value, interval = symbol.number(key, "value"), symbol.interval(key)
        if value is None:
            return DASH
        ends = "" if interval is None else f" ({interval[0] * 100:.2f} to {interval[1] * 100:.2f})"
        return f"{value * 100:+.2f} {unit}{ends}"

    return tuple(
        (
            s.text("symbol") or "?",
            figure_text(s.number("rows"), 0),
            f"{percent_text(s.number('baseline_accuracy'))} ({s.text('baseline') or '?'})",
            percent_text(s.number("accuracy")),
            change(s, "margin", "pp"),
            change(s, "log_loss_skill", "%"),
            s.text("verdict") or DASH,
        )
        for s in card.sections("gates", "symbols")
    )


def economics_line(card: ModelCard) -> str | None:
    """State what the calls would have earned before costs; None if the card lacks it."""
    found = card.section("economics")
    gross, interval, turnover = (
        found.number("open_bps", "value"),
        found.interval("open_bps"),
        found.number("turnover"),
    )
    if gross is None or interval is None or turnover is None:
        return None
    parts = [f"{interval[0]:+.3f} to {interval[1]:+.3f}"]
    days = [f"{day} {value:+.3f}" for day in ("weekdays", "weekends")
            if (value := found.number(f"{day}_bps")) is not None]  # fmt: skip
    parts += [", ".join(days)] if days else []
    line = f"Economic, shown but not judged: {gross:+.3f} bps per bar from the next open ({'; '.join(parts)})"
    line += f", {turnover:.2f} sides traded per bar"
    break_even = found.number("break_even_bps")
    return line + ("." if break_even is None else f"; a cost of {break_even:.3f} bps per side would leave nothing.")


def metrics(card: ModelCard) -> tuple[tuple[str, str, str, str], ...]:
    """Return name, value, interval and value before calibration of each metric that the card has."""
    rows = []
    for name, title in _METRICS.items():
        digits = 5 if name in {"log_loss", "brier"} else 4
        value, before = card.number("metrics", name), card.number("calibration", "before", name)
        if value is not None:
            interval = _metric_range(card, name) or DASH
            rows.append((title, figure_text(value, digits), interval, figure_text(before, digits)))
    return tuple(rows)


def interval_line(card: ModelCard) -> str | None:
    """State how the intervals were computed; None if there are none."""
    blocks, draws, level = (card.number("intervals", key) for key in ("blocks", "draws", "level"))
    if blocks is None or draws is None or level is None:
        return None
    kind = "whole UTC days" if card.flag("intervals", "by_day") else "parts of equal length"
    few = "; with so few blocks the intervals are wide" if blocks <= _FEW_DAYS else ""
    return f"Intervals: {level:.0%}, from {draws:,.0f} draws of {blocks:,.0f} {kind}, all symbols together{few}."


def guards(card: ModelCard) -> tuple[Guard, ...]:
    """Return the leakage guards with their evidence."""
    return tuple(
        Guard(
            name=name,
            claim=_GUARDS.get(name, name),
            passed=passed is True,
            checks=tuple(_check(check) for check in card.sections("evidence", name, "checks")),
            warnings=tuple(card.texts("evidence", name, "warnings")),
            failures=tuple(_failure(failure) for failure in card.sections("evidence", name, "failures")),
        )
        for name, passed in card.entries("leakage_checks").items()
    )


def _check(check: Section) -> tuple[str, str, str, str, str]:
    worst = check.number("worst")
    return (
        (check.text("name") or "?").replace("_", " "),
        figure_text(check.number("points"), 0),
        DASH if worst is None else f"{worst:.3g}",
        check.text("case") or DASH,
        check.text("detail") or "",
    )


def _failure(failure: Section) -> str:
    time_ms = failure.number("time_ms")
    when = "" if time_ms is None or not 0 <= time_ms < 1e14 else f" at {format_minutes(time_ms)}"
    feature, symbol, why, expected, got = (
        failure.text(key) or "?" for key in ("feature", "symbol", "why", "expected", "got")
    )
    return f"{feature} of {symbol}{when}: {why}: expected {expected}, got {got}"


def candle_counts(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return how each symbol's candles were used, one row each."""
    return tuple(
        (
            s.text("symbol") or "?",
            *(figure_text(s.number(key), 0) for key in _COUNTS),
            percent_text(s.number("tie_share"), 1),
        )
        for s in card.sections("data_quality", "symbols")
    )


def blocks(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return the blocks of time, one row each."""
    return tuple(
        (
            b.text("name") or "?",
            *(b.text(key) or DASH for key in ("start", "end", "last_label_end")),
            *(figure_text(b.number(key), 0) for key in ("rows", "purged_rows")),
        )
        for b in card.sections("splits", "blocks")
    )


def search_line(card: ModelCard) -> str:
    """Summarise the search."""
    trials, pruned = card.number("search", "trials"), card.number("search", "pruned")
    if trials is None:
        return "The card does not say how the hyperparameters were found."
    best, loss = card.number("search", "best", "number"), card.number("search", "best", "log_loss")
    line = f"{trials:,.0f} trials, {pruned or 0:,.0f} of them pruned"
    if best is not None and loss is not None:
        line += f"; trial {best:.0f} is the best with {loss:.5f} nats out of fold"
    if card.text("search", "ended_by") == "timeout":
        line += f"; stopped by the time limit, of {card.number('search', 'trials_asked_for') or 0:,.0f} requested"
    oof, holdout = (card.number("search", "selection_optimism", key) for key in ("out_of_fold_skill", "holdout_skill"))
    if oof is not None and holdout is not None:
        line += (
            f". Before calibration its skill was {oof:+.2%} out of fold and {holdout:+.2%} on the holdout: "
            "a large drop is the optimism of selection"
        )
    return f"{line}."


def calibration_line(card: ModelCard) -> str:
    """State which calibration was chosen, why, and the log loss of each."""
    method = card.text("calibration", "method")
    if method is None:
        return "The card does not say how scores became probabilities."
    losses = card.section("calibration", "forward_log_loss")
    shown = ", ".join(f"{name} {loss:.5f}" for name in losses.document if (loss := losses.number(name)) is not None)
    requested = card.text("calibration", "requested")
    why = {"auto": "chosen by forward log loss on the folds", None: "as the card says"}.get(requested, "as requested")
    chosen = "none: the booster's probabilities are used as they are" if method == "none" else method
    return f"Calibration: {chosen}, {why}{f' ({shown} nats)' if shown else ''}."


def hyperparameters(card: ModelCard) -> tuple[tuple[str, str], ...]:
    """Return the hyperparameters, by name."""
    return tuple((name, plain_text(value)) for name, value in sorted(card.entries("hyperparameters").items()))


def limits(card: ModelCard) -> tuple[str, ...]:
    """Return what the model must not be used for, and what weakens its figures."""
    symbols, interval = card.texts("train", "symbols"), card.text("train", "interval")
    horizon = card.number("train", "label", "horizon_bars")
    found = []
    if card.text("gates", "verdict") == "NO-GO":
        found.append("Not for use at all: a gate failed. Only `promote --force` with a reason can make it live.")
    if card.text("lineage", "source", "name") == "sim":
        found.append("Not for any real market: it was trained on simulated candles with a planted signal.")
    bars = f" of {interval}" if interval else ""
    listed = ", ".join(symbols[:20]) + (f" and {len(symbols) - 20} more" if len(symbols) > 20 else "")
    found.append(f"Only for {listed} and candles{bars}: it has never seen any others.")
    if horizon is not None:
        found.append(f"Not for another horizon than {horizon:,.0f} bar{'s' if horizon != 1 else ''} ahead.")
    if card.text("train", "label", "ties") == "drop":
        found.append("Its probability is of a rise given that the price moves; it does not say whether it will move.")
    found += [_NO_STRATEGY, _NOT_FOREVER]
    if card.text("splits", "fitted_on") == "all":
        found.append(
            "The figures are those of the model fitted without the holdout; this model was fitted on the holdout too."
        )
    looks, earlier = card.number("looks", "others"), card.number("looks", "earlier")
    # Cards of earlier releases count the looks but not the other configurations among them.
    if looks is None and earlier:
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
        f"The gate {(gate.text('name') or '?').replace('_', ' ')} was loosened to {plain_text(gate.value('used'))}; "
        f"the default is {plain_text(gate.value('packaged'))}."
        for gate in card.sections("gates", "loosened")
    ]
    if card.number("intervals", "blocks") is not None and card.flag("intervals", "by_day") is False:
        found.append(f"The holdout touches fewer than {_FEW_DAYS} days: a single event can make or break its figures.")
    if not card.entries("intervals"):
        found.append("The card has no intervals: the uncertainty of its figures is unknown.")
    return (*found, *(f"Warning in training: {warning}" for warning in card.texts("data_quality", "warnings")))


def lineage(card: ModelCard) -> tuple[tuple[str, str], ...]:
    """Return code, libraries, machine and hashes that made the model, by name."""
    found = card.section("lineage")
    rows = [
        (name.replace("_", " "), plain_text(value))
        for name, value in found.document.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    for key, title in (("source", "source"), ("dependencies", "libraries")):
        rows.append((title, ", ".join(f"{name} {plain_text(value)}" for name, value in found.entries(key).items())))
    rows.append(("user ops", ", ".join(plain_text(value) for value in found.entries("own_ops").values())))
    return tuple(sorted((title, value) for title, value in rows if value))


def artifacts(card: ModelCard) -> tuple[tuple[str, str, str], ...]:
    """Return path, size in bytes and SHA-256 of each file that the card names."""
    return tuple(
        (a.text("path") or "?", figure_text(a.number("bytes"), 0), a.text("sha256") or "?")
        for a in card.sections("artifacts")
    )


def commands(card: ModelCard, name: str) -> tuple[tuple[str, str], ...]:
    """Return the commands that check, reproduce and use the version, each with what it does."""
    snapshot = card.text("train", "snapshot_id") or "latest"
    found = [
        (f"mltrain verify model {name}", "Compare the hash of every file of this version."),
        (f"mltrain verify snapshot {shlex.quote(snapshot)}", "Compare the hashes of the candles it was trained on."),
        (f"mltrain verify model {name} --retrain", "Fit it again from its card and compare byte by byte."),
    ]
    source, days = card.text("lineage", "source", "name"), card.number("lineage", "snapshot_days")
    day, _, clock = snapshot.partition(".")[0].partition("T")
    end = f"{day}T{clock.replace('-', ':')}"
    interval = card.text("train", "interval") or "1m"
    if source is not None and days is not None and Section({"end": end}).time_ms("end") is not None:
        words = ["mltrain", "snapshot", "--source", source, "--days", f"{days:.0f}"]
        words += ["--symbols", ",".join(card.texts("train", "symbols")), "--end", end, "--interval", interval]
        for option, key in (("--from", "folder"), ("--sim-seed", "seed"), ("--sim-signal", "signal")):
            if (value := card.value("lineage", "source", key)) is not None:
                words += [option, str(value)]
        found.append((shlex.join(words), "Take the snapshot again, if it is gone."))
    trials, ratio = card.number("search", "trials_asked_for"), card.number("lineage", "config", "val_ratio")
    seed, method = card.number("lineage", "seed"), card.text("calibration", "requested")
    if trials is not None and ratio is not None and seed is not None and method is not None:
        words = ["mltrain", "train", "--snapshot", snapshot, "--trials", f"{trials:.0f}", "--seed", f"{seed:.0f}"]
        words += ["--val-ratio", f"{ratio:g}", "--calibration", method]
        words += ["--features", f"data/models/{name}/features.yml"]
        found.append((shlex.join(words), "Search again; the card's lineage.config has the settings not named here."))
    found.append((f"mltrain evaluate {name} --snapshot NEWER", "Score it on candles that did not exist yet."))
    return tuple(found)
