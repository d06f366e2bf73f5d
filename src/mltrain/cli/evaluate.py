"""The command evaluate: scores a version on later candles."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, interval_text, number_text, time_text
from mltrain.cli.tables import right, table
from mltrain.errors import NoGoError, UsageError

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.pipeline.evaluate import Evaluation

MinSkill = Annotated[
    float | None,
    typer.Option(
        "--min-skill",
        metavar="PERCENT",
        help="Exit 4 if the log-loss skill (gain in log loss over the base rate) is lower.",
    ),
]

# The JSON document has all features.
MAX_FEATURES_SHOWN: Final = 10


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "evaluate", evaluate, example="mltrain evaluate 2025-10-15 --snapshot latest")


@command(opens_versions=True, need_mb=LEARNING_MB)
def evaluate(
    session: Session,
    ref: LiveVersionArgument = None,
    snapshot: SnapshotOption = "latest",
    min_skill: MinSkill = None,
    ops: OpsOption = None,
) -> Outcome:
    """Score a version on candles later than its training data: decay, drift, comparison with the live version."""
    from mltrain.api.evaluate import evaluate

    if min_skill is not None and not math.isfinite(min_skill):
        raise UsageError(f"--min-skill is {min_skill}: expected a finite number, in percent")
    register_ops(ops)
    evaluation = evaluate(
        ref,
        snapshot,
        data_dir=session.data_dir,
        slot=session.slot,
        now_ms=session.now_ms,
        progress=session.progress,
    )
    failure = None
    if min_skill is not None and not evaluation.skill_percent >= min_skill:
        failure = NoGoError(
            f"{evaluation.version} has a log-loss skill of {evaluation.skill_percent:.3f} % on these rows: "
            f"--min-skill requires {min_skill:g} %",
            hint="train on newer candles, or return to an earlier version with `mltrain rollback`",
        )
    return Outcome(evaluation, lambda: view_evaluation(evaluation), failure=failure)


def view_evaluation(evaluation: Evaluation) -> View:
    """Show an evaluation: metrics, metrics by week, drift of the features, comparison with the champion."""
    scores = evaluation.scores
    yield (
        f"{evaluation.version} on {scores.rows:,} rows of {evaluation.snapshot}, {time_text(evaluation.start_ms)} to "
        f"{time_text(evaluation.end_ms)} UTC; it learned until {time_text(evaluation.learned_until_ms)}"
    )
    metrics = [
        (name, number_text(i.value), interval_text(i.low, i.high))
        for name in ("accuracy", "auc_roc", "log_loss", "brier", "ece")
        if (i := getattr(scores.intervals, name))
    ]
    yield table("Metrics", "metric", *right("value", f"{scores.level:.0%} interval"), rows=metrics)
    yield f"baseline: accuracy {scores.baselines.accuracy:.4f}, log loss {scores.baselines.base_rate_log_loss:.4f}"
    skill = scores.comparison.log_loss_skill
    yield f"log-loss skill: {100 * skill.value:+.3f} % ({100 * skill.low:+.3f} .. {100 * skill.high:+.3f})"
    if evaluation.own_holdout is not None:
        yield f"{evaluation.own_holdout.rows:,} of the rows are from the version's holdout: no new evidence"
    weeks = [
        (
            w.name,
            f"{w.rows:,}",
            *(number_text(getattr(w.metrics, m, None)) for m in ("accuracy", "auc_roc", "log_loss")),
        )
        for w in evaluation.weeks
    ]
    yield table("Weeks", "from", *right("rows", "accuracy", "auc roc", "log loss"), rows=weeks)
    drift = [
        (d.name, number_text(d.effect), number_text(d.null_p95), "yes" if d.drifted else "")
        for d in evaluation.drift[:MAX_FEATURES_SHOWN]
    ]
    title = f"Drift: {sum(d.drifted for d in evaluation.drift)} of {len(evaluation.drift)} features"
    yield table(title, "feature", *right("effect", "by chance"), "drifted", rows=drift)
    yield from _view_champion(evaluation)


def _view_champion(evaluation: Evaluation) -> View:
    """Compare the evaluated version with the champion, on rows that neither was trained on."""
    from mltrain.gates.gate_evidence import NotApplicable, NotEvaluated

    champion = evaluation.champion
    if isinstance(champion, (NotApplicable, NotEvaluated)):
        yield f"champion: {champion.reason}"
        return
    both = champion.side_by_side
    if both is not None:
        pairs = [(f.name, getattr(both.ours, f.name), getattr(both.theirs, f.name)) for f in fields(both.ours)]
        rows = [
            (name, number_text(ours.value), interval_text(ours.low, ours.high),
             number_text(theirs.value), interval_text(theirs.low, theirs.high))
            for name, ours, theirs in pairs
        ]  # fmt: skip
        yield table(
            f"Compared with the champion, on {both.rows:,} rows of {champion.days} days",
            "metric",
            *right(evaluation.version, "interval", champion.version, "interval"),
            rows=rows,
        )
    gain = champion.gain
    yield (
        f"champion {champion.version}: its log loss minus this one's is {gain.value:+.5f} "
        f"({gain.low:+.5f} .. {gain.high:+.5f})"
    )
