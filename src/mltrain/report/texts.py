"""State the contents of a card in words and tables: verdict, figures, evidence, limits, lineage, commands.

Pure: a card in, frozen rows of text out; the page escapes them, and words of a command are quoted for a shell. A value
that the card lacks is a dash, or left out.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mltrain.card.model_card import Section
from mltrain.names import join_first
from mltrain.times import LAST_MS, format_minutes
from mltrain.training.bootstrap import Interval
from mltrain.training.economics import describe_break_even

if TYPE_CHECKING:
    from collections.abc import Iterator

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
# Keys of the counts of a symbol's candles, in the order of the table.
_COUNTS: Final = (
    "candles",
    "holes",
    "missing_candles",
    "zero_trade_rows",
    "no_features",
    "no_label",
    "ties",
    "rows",
    "inner_rows",
    "holdout_rows",
)
# Symbols that a sentence or a cell names.
_MAX_NAMED: Final = 20
_NO_STRATEGY: Final = (
    "Not a trading strategy and no advice: spread, slippage and the size of a position are in none of these figures, "
    "fees and the size of a move only in the economic ones, and a better direction than chance can lose money on every "
    "trade."
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


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number with that many digits after the point; None as a dash."""
    return DASH if value is None else f"{value:,.{digits}f}"


def format_percent(share: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a share (1 is all) in percent with that many digits after the point; None as a dash."""
    return DASH if share is None else f"{share * 100:{'+' if signed else ''}.{digits}f}%"


def format_value(value: Any) -> str:  # noqa: ANN401 (JSON)
    """Return any value of a card as text, numbers with six digits; None as a dash."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | int) else DASH if value is None else repr(value)


def _format_interval(interval: tuple[float, float] | None, *, unit: str = "") -> str:
    """Return the ends of an interval as text, multiplied by 100 for a unit ("%" or " pp"); None as empty text."""
    if interval is None:
        return ""
    low, high = interval
    return f"{low * 100:.2f} to {high * 100:.2f}{unit}" if unit else f"{low:.4f} to {high:.4f}"


def describe_training(card: ModelCard) -> str:
    """State the number of training rows, their time range, and when the model was trained."""
    start_ms, end_ms = (card.time_ms("train", "range", key) for key in ("start", "end"))
    created_ms = card.time_ms("created_at")
    parts = [f"{card.number('train', 'rows') or 0:,.0f} rows"]
    if start_ms is not None and end_ms is not None:
        parts.append(f"{format_minutes(start_ms)} to {format_minutes(end_ms)}")
    parts.append(f"trained {card.text('created_at') if created_ms is None else format_minutes(created_ms)} UTC")
    if card.valid_until_ms is not None:
        parts.append(f"valid until {format_minutes(card.valid_until_ms)} UTC")
    return " · ".join(parts)


def list_tiles(card: ModelCard) -> tuple[Tile, ...]:
    """Return the main figures that the card has, from accuracy to latency."""
    margin, skill = (card.number("baselines", key, "value") for key in ("accuracy_margin", "log_loss_skill"))
    ece_by_chance = card.number("calibration", "ece_null_floor", "p95")
    ece_before = card.number("calibration", "before", "calibration_ece")
    ece_notes = [] if ece_before is None else [f"{ece_before:.4f} before"]
    ece_notes += [] if ece_by_chance is None else [f"chance alone up to {ece_by_chance:.4f}"]
    p95_ms, p99_ms = (card.number("latency_ms", key) for key in ("p95", "p99"))
    tiles = (
        Tile(
            "Accuracy",
            format_percent(card.number("metrics", "accuracy")),
            _format_interval(card.interval("intervals", "metrics", "accuracy"), unit="%"),
        ),
        Tile(
            "Above the baseline",
            DASH if margin is None else f"{margin * 100:+.2f} pp",
            _format_interval(card.interval("baselines", "accuracy_margin"), unit=" pp"),
        ),
        Tile(
            "Log-loss skill",
            format_percent(skill, signed=True),
            _format_interval(card.interval("baselines", "log_loss_skill"), unit="%"),
        ),
        Tile(
            "AUC",
            format_number(card.number("metrics", "auc_roc")),
            _format_interval(card.interval("intervals", "metrics", "auc_roc")),
        ),
        Tile("Calibration error", format_number(card.number("metrics", "calibration_ece")), "; ".join(ece_notes)),
        Tile(
            "Latency p95",
            DASH if p95_ms is None else f"{p95_ms:.2f} ms",
            "" if p99_ms is None else f"p99 {p99_ms:.2f} ms",
        ),
    )
    return tuple(tile for tile in tiles if tile.value != DASH)


def list_gates(card: ModelCard) -> tuple[Gate, ...]:
    """Return the gates in the card's order."""
    return tuple(
        Gate(
            name=(gate.text("name") or "?").replace("_", " "),
            outcome=gate.text("outcome") or "unknown",
            target=gate.text("target") or DASH,
            found=gate.text("reason") or format_number(gate.number("value")),
        )
        for gate in card.sections("gates", "outcomes")
    )


def describe_verdict(card: ModelCard) -> str:
    """Explain the verdict in one or two sentences."""
    verdict, gates = card.text("gates", "verdict"), list_gates(card)
    failed = [gate.name for gate in gates if gate.outcome == "failed"]
    skipped = [gate.name for gate in gates if gate.outcome == "not applicable"]
    if verdict is None:
        return "The card holds no verdict: no gate of mltrain has judged this model."
    if failed:
        gates_failed = f"{len(failed)} of {len(gates)} gates failed: {', '.join(failed)}."
        return f"{gates_failed} The version is kept for the record and is not promoted automatically."
    aside = f" ({', '.join(skipped)}: not applicable)" if skipped else ""
    held = [gate for gate in gates if gate.outcome == "held"]
    if held:
        reasons = "; ".join(f"{gate.name}: {gate.found}" for gate in held)
        return f"No gate failed{aside}. It is held, not promoted automatically: {reasons}."
    return f"All {len(gates) - len(skipped)} gates that apply passed{aside}."


def list_symbol_results(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return a row of text per symbol: symbol, rows, baseline, accuracy, margin over it, log-loss skill, verdict."""

    def format_change(symbol: Section, key: str, unit: str) -> str:
        """Return a share of the symbol, multiplied by 100, with its interval."""
        value, interval = symbol.number(key, "value"), symbol.interval(key)
        if value is None:
            return DASH
        ends = "" if interval is None else f" ({interval[0] * 100:.2f} to {interval[1] * 100:.2f})"
        return f"{value * 100:+.2f}{unit}{ends}"

    return tuple(
        (
            s.text("symbol") or "?",
            format_number(s.number("rows"), 0),
            f"{format_percent(s.number('baseline_accuracy'))} ({s.text('baseline') or '?'})",
            format_percent(s.number("accuracy")),
            format_change(s, "margin", " pp"),
            format_change(s, "log_loss_skill", "%"),
            s.text("verdict") or DASH,
        )
        for s in card.sections("gates", "symbols")
    )


def describe_economics(card: ModelCard) -> str | None:
    """State what trading on the predictions would have earned before costs, in bps; None if the card lacks it."""
    economics = card.section("economics")
    gross_bps, interval_bps = economics.number("open_bps", "value"), economics.interval("open_bps")
    turnover, break_even_bps = economics.number("turnover"), economics.number("break_even_bps")
    if gross_bps is None or interval_bps is None or turnover is None:
        return None
    by_day = [(day, economics.number(f"{day}_bps")) for day in ("weekdays", "weekends")]
    days = ", ".join(f"{day} {bps:+.3f}" for day, bps in by_day if bps is not None)
    details = f"{interval_bps[0]:+.3f} to {interval_bps[1]:+.3f}" + (f"; {days}" if days else "")
    line = (
        f"Economic, shown but not judged: {gross_bps:+.3f} bps per bar from the next open ({details}), "
        f"{turnover:.2f} sides traded per bar"
    )
    taker_bps = economics.number("taker_bps")
    if taker_bps is not None:
        value, ends = economics.number("break_even", "value"), economics.interval("break_even")
        break_even = None if value is None or ends is None else Interval(value, *ends)
        sentence = describe_break_even(break_even, taker_bps=taker_bps)
        return f"{line}. {sentence[0].upper()}{sentence[1:]}."
    # A card of an earlier release.
    if break_even_bps is None:
        return f"{line}."
    return f"{line}; a cost of {break_even_bps:.3f} bps per side would leave nothing."


def list_metrics(card: ModelCard) -> tuple[tuple[str, str, str, str], ...]:
    """Return name, value, interval and value before calibration of each metric that the card has, as text."""
    rows = []
    for name, title in _METRICS.items():
        digits = 5 if name in {"log_loss", "brier"} else 4
        value, before = card.number("metrics", name), card.number("calibration", "before", name)
        if value is not None:
            interval = _format_interval(card.interval("intervals", "metrics", name)) or DASH
            rows.append((title, format_number(value, digits), interval, format_number(before, digits)))
    return tuple(rows)


def describe_intervals(card: ModelCard) -> str | None:
    """State how the intervals were computed; None if there are none."""
    blocks, draws, level = (card.number("intervals", key) for key in ("blocks", "draws", "level"))
    if blocks is None or draws is None or level is None:
        return None
    kind = "whole UTC days" if card.flag("intervals", "by_day") else "parts of equal length"
    few = "; with so few blocks the intervals are wide" if blocks <= _FEW_DAYS else ""
    return f"Intervals: {level:.0%}, from {draws:,.0f} draws of {blocks:,.0f} {kind}, all symbols together{few}."


def list_guards(card: ModelCard) -> tuple[Guard, ...]:
    """Return the leakage guards with their evidence."""
    return tuple(
        Guard(
            name=name,
            claim=_GUARDS.get(name, name),
            passed=passed is True,
            checks=tuple(_describe_check(check) for check in card.sections("evidence", name, "checks")),
            warnings=tuple(card.texts("evidence", name, "warnings")),
            failures=tuple(_describe_failure(failure) for failure in card.sections("evidence", name, "failures")),
        )
        for name, passed in card.entries("leakage_checks").items()
    )


def _describe_check(check: Section) -> tuple[str, str, str, str, str]:
    """Return a guard's check as text: name, number of values compared, worst deviation, its place, a description."""
    worst = check.number("worst")
    return (
        (check.text("name") or "?").replace("_", " "),
        format_number(check.number("points"), 0),
        DASH if worst is None else f"{worst:.3g}",
        check.text("case") or DASH,
        check.text("detail") or "",
    )


def _describe_failure(failure: Section) -> str:
    """State a guard's failure: feature, symbol, time, reason, and the expected and the actual value."""
    time_ms = failure.number("time_ms")
    when = "" if time_ms is None or not 0 <= time_ms <= LAST_MS else f" at {format_minutes(time_ms)}"
    feature, symbol, why, expected, got = (
        failure.text(key) or "?" for key in ("feature", "symbol", "why", "expected", "got")
    )
    return f"{feature} of {symbol}{when}: {why}: expected {expected}, got {got}"


def list_candle_counts(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return a row of text per symbol: symbol, numbers of candles, gaps, dropped and used rows, share of ties."""
    return tuple(
        (
            s.text("symbol") or "?",
            *(format_number(s.number(key), 0) for key in _COUNTS),
            format_percent(s.number("tie_share"), 1),
        )
        for s in card.sections("data_quality", "symbols")
    )


def list_blocks(card: ModelCard) -> tuple[tuple[str, ...], ...]:
    """Return a row of text for each block of time: name, start, end, end of the last label, rows, purged rows.

    At its end are the symbols without a row in the block.
    """
    return tuple(
        (
            b.text("name") or "?",
            *(b.text(key) or DASH for key in ("start", "end", "last_label_end")),
            *(format_number(b.number(key), 0) for key in ("rows", "purged_rows")),
            join_first(b.texts("symbols_without_rows"), _MAX_NAMED) or DASH,
        )
        for b in card.sections("splits", "blocks")
    )


def describe_search(card: ModelCard) -> str:
    """State how many trials the search ran, its best trial, and its skill out of fold and on the holdout."""
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


def describe_calibration(card: ModelCard) -> str:
    """State which calibration was chosen, why, and the log loss of each in nats."""
    method = card.text("calibration", "method")
    if method is None:
        return "The card does not say how scores became probabilities."
    losses = card.section("calibration", "forward_log_loss")
    shown = ", ".join(f"{name} {loss:.5f}" for name in losses.document if (loss := losses.number(name)) is not None)
    requested = card.text("calibration", "requested")
    why = {"auto": "chosen by forward log loss on the folds", None: "as the card says"}.get(requested, "as requested")
    chosen = "none: the booster's probabilities are used as they are" if method == "none" else method
    return f"Calibration: {chosen}, {why}{f' ({shown} nats)' if shown else ''}."


def list_hyperparameters(card: ModelCard) -> tuple[tuple[str, str], ...]:
    """Return name and value of each hyperparameter as text, by name."""
    return tuple((name, format_value(value)) for name, value in sorted(card.entries("hyperparameters").items()))


def _describe_scope(card: ModelCard) -> Iterator[str]:
    """Yield for which symbols, candles, horizon and moves the model is meant, and on which symbols it is not proven."""
    symbols, interval = card.texts("train", "symbols"), card.text("train", "interval")
    bars = f" of {interval}" if interval else ""
    listed = ", ".join(symbols[:20]) + (f" and {len(symbols) - 20} more" if len(symbols) > 20 else "")
    yield f"Only for {listed} and candles{bars}: it has never seen any others."
    if absent := card.texts("limits", "not_in_holdout"):
        which, them = ("these symbols", "them") if len(absent) > 1 else ("this symbol", "it")
        named = join_first(absent, _MAX_NAMED)
        yield f"Not proven on {named}: the holdout has no row of {which}, so that no figure here is about {them}."
    horizon_bars = card.number("train", "label", "horizon_bars")
    if horizon_bars is not None:
        yield f"Not for another horizon than {horizon_bars:,.0f} bar{'s' if horizon_bars != 1 else ''} ahead."
    if card.text("train", "label", "kind") == "barrier":
        yield "Its probability is of which barrier is touched first; it does not say whether or when one will be."
    elif card.text("train", "label", "ties") == "drop":
        yield "Its probability is of a rise given that the price moves; it does not say whether it will move."


def list_limits(card: ModelCard) -> tuple[str, ...]:
    """Return what the model must not be used for, and what weakens its figures, in sentences."""
    lines = []
    if card.text("gates", "verdict") == "NO-GO":
        lines.append("Not for use at all: a gate failed. Only `promote --force` with a reason can make it live.")
    if card.text("lineage", "source", "name") == "sim":
        lines.append("Not for any real market: it was trained on simulated candles with a planted signal.")
    lines += _describe_scope(card)
    lines += [_NO_STRATEGY, _NOT_FOREVER]
    if card.text("splits", "fitted_on") == "all":
        lines.append(
            "The figures are those of the model fitted without the holdout; this model was fitted on the holdout too."
        )
    other_looks, earlier_looks = card.number("looks", "others"), card.number("looks", "earlier")
    # Cards of earlier releases count the looks but not the other configurations among them.
    if other_looks is None and earlier_looks:
        lines.append(
            f"The holdout's range had been scored before ({earlier_looks:,.0f} in all): each look inflates the figures."
        )
    if other_looks:
        lines.append(
            f"Other configurations or seeds had been scored on the holdout's range before, {other_looks:.3g} by "
            "overlap: the best of several looks better than it is. The gates are stricter because of it; take a later "
            "snapshot for a fresh holdout."
        )
    lines += [
        f"The gate {(gate.text('name') or '?').replace('_', ' ')} was loosened to {format_value(gate.value('used'))}; "
        f"the default is {format_value(gate.value('packaged'))}."
        for gate in card.sections("gates", "loosened")
    ]
    if card.number("intervals", "blocks") is not None and card.flag("intervals", "by_day") is False:
        lines.append(f"The holdout touches fewer than {_FEW_DAYS} days: a single event can make or break its figures.")
    if not card.entries("intervals"):
        lines.append("The card has no intervals: the uncertainty of its figures is unknown.")
    warnings = card.texts("data_quality", "warnings")
    if card.texts("limits", "not_in_holdout"):
        # The scope above says the same.
        warnings = [warning for warning in warnings if not warning.startswith("no row in the holdout")]
    return (*lines, *(f"Warning in training: {warning}" for warning in warnings))


def list_lineage(card: ModelCard) -> tuple[tuple[str, str], ...]:
    """Return name and value of the code, libraries, machine and hashes that made the model, by name."""
    section = card.section("lineage")
    rows = [
        (name.replace("_", " "), format_value(value))
        for name, value in section.document.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    for key, title in (("source", "source"), ("dependencies", "libraries")):
        entries = section.entries(key).items()
        rows.append((title, ", ".join(f"{name} {format_value(value)}" for name, value in entries)))
    rows.append(("user ops", ", ".join(format_value(value) for value in section.entries("own_ops").values())))
    return tuple(sorted((title, value) for title, value in rows if value))


def list_artifacts(card: ModelCard) -> tuple[tuple[str, str, str], ...]:
    """Return path, size in bytes and SHA-256 of each file that the card names, as text."""
    return tuple(
        (a.text("path") or "?", format_number(a.number("bytes"), 0), a.text("sha256") or "?")
        for a in card.sections("artifacts")
    )


def list_commands(card: ModelCard, name: str) -> tuple[tuple[str, str], ...]:
    """Return shell commands that check, reproduce and use the version `name` with this card, each with its purpose."""
    snapshot = card.text("train", "snapshot_id") or "latest"
    lines = [
        (f"mltrain verify model {name}", "Compare the hash of every file of this version."),
        (f"mltrain verify snapshot {shlex.quote(snapshot)}", "Compare the hashes of the candles it was trained on."),
        (f"mltrain verify model {name} --retrain", "Fit it again from its card and compare byte by byte."),
    ]
    source, days = card.text("lineage", "source", "name"), card.number("lineage", "snapshot_days")
    # The snapshot's id is its end, with dashes for colons.
    day, _, clock = snapshot.partition(".")[0].partition("T")
    end = f"{day}T{clock.replace('-', ':')}"
    interval = card.text("train", "interval") or "1m"
    if source is not None and days is not None and Section({"end": end}).time_ms("end") is not None:
        words = ["mltrain", "snapshot", "--source", source, "--days", f"{days:.0f}"]
        words += ["--symbols", ",".join(card.texts("train", "symbols")), "--end", end, "--interval", interval]
        if (align := card.text("lineage", "snapshot_align")) not in {None, "union"}:
            words += ["--align", str(align)]
        for option, key in (
            ("--from", "folder"),
            ("--sim-seed", "seed"),
            ("--sim-signal", "signal"),
            ("--market", "market"),
        ):
            if (value := card.value("lineage", "source", key)) is not None:
                words += [option, str(value)]
        lines.append((shlex.join(words), "Take the snapshot again, if it is gone."))
    trials, val_ratio = card.number("search", "trials_asked_for"), card.number("lineage", "config", "val_ratio")
    holdout = card.text("lineage", "config", "holdout_from")
    holdout_words = ["--val-ratio", f"{val_ratio:g}"] if val_ratio is not None else ["--holdout-from", f"{holdout}"]
    seed, method = card.number("lineage", "seed"), card.text("calibration", "requested")
    if trials is not None and (val_ratio or holdout) and seed is not None and method is not None:
        words = ["mltrain", "train", "--snapshot", snapshot, "--trials", f"{trials:.0f}", "--seed", f"{seed:.0f}"]
        words += [*holdout_words, "--calibration", method]
        words += ["--features", f"data/models/{name}/features.yml"]
        lines.append((shlex.join(words), "Search again; the card's lineage.config has the settings not named here."))
    lines.append((f"mltrain evaluate {name} --snapshot NEWER", "Score it on candles that did not exist yet."))
    return tuple(lines)
