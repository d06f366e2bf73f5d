"""The command evaluate: scores a version on later candles."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, SnapshotOption, read_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, ends, number, time_text
from mltrain.cli.tables import table
from mltrain.errors import NoGoError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mltrain.pipeline.evaluate import Evaluation

MinSkill = Annotated[
    float | None,
    typer.Option(
        "--min-skill",
        metavar="PERCENT",
        help="Exit 4 if the log-loss skill (gain in log loss over the base rate) is lower.",
    ),
]

# Features whose drift is shown; the JSON document has all.
SHOWN = 10


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "evaluate", evaluate, example="mltrain evaluate 2025-10-15 --snapshot latest")


@command(opens_versions=True, takes_mb=LEARNING_MB)
def evaluate(
    session: Session,
    ref: LiveVersionArgument = None,
    snapshot: SnapshotOption = "latest",
    min_skill: MinSkill = None,
    ops: OpsOption = None,
) -> Outcome:
    """Score a version on candles later than its training data: decay, drift, comparison with the live version."""
    from mltrain.pipeline.evaluate import evaluate as run
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.store.store import Store

    if min_skill is not None and not math.isfinite(min_skill):
        raise UsageError(f"--min-skill is {min_skill}: expected a finite number, in percent")
    read_ops(ops)
    store = Store(session.data_dir)
    version, warning = store.open_default(ref)
    if warning:
        session.progress.warn(warning)
    candles = open_snapshot(session.data_dir, snapshot)
    found = run(version, candles, store, now_ms=session.now_ms, progress=session.progress)
    failure = None
    if min_skill is not None and not found.skill_percent >= min_skill:
        failure = NoGoError(
            f"{found.version} has a log-loss skill of {found.skill_percent:.3f} % on these rows: --min-skill requires "
            f"{min_skill:g} %",
            hint="train on newer candles, or return to an earlier version with `mltrain rollback`",
        )
    return Outcome("evaluate/1", found, lambda: view(found), failure=failure)


def view(found: Evaluation) -> Iterator[RenderableType]:
    """Show an evaluation: scores, weeks, drift, champion."""
    scores = found.scores
    yield (
        f"{found.version} on {scores.rows:,} rows of {found.snapshot}, {time_text(found.start_ms)} to "
        f"{time_text(found.end_ms)} UTC; it learned until {time_text(found.learned_until_ms)}"
    )
    rows = [
        (name, number(i.value), ends(i.low, i.high))
        for name in ("accuracy", "auc_roc", "log_loss", "brier", "ece")
        if (i := getattr(scores.intervals, name))
    ]
    yield table("Metrics", ("metric", "value", f"{scores.level:.0%} interval"), rows, kinds=" rr")
    yield f"baseline: accuracy {scores.baselines.accuracy:.4f}, log loss {scores.baselines.base_rate_log_loss:.4f}"
    skill = scores.comparison.log_loss_skill
    yield f"log-loss skill: {100 * skill.value:+.3f} % ({100 * skill.low:+.3f} .. {100 * skill.high:+.3f})"
    if found.own_holdout is not None:
        yield f"{found.own_holdout.rows:,} of the rows are from the version's holdout: no new evidence"
    weeks = [
        (w.name, f"{w.rows:,}", *(number(getattr(w.metrics, m, None)) for m in ("accuracy", "auc_roc", "log_loss")))
        for w in found.weeks
    ]
    yield table("Weeks", ("from", "rows", "accuracy", "auc roc", "log loss"), weeks, kinds=" rrrr")
    moved = sum(d.drifted for d in found.drift)
    drift = [(d.name, number(d.effect), number(d.null_p95), "yes" if d.drifted else "") for d in found.drift[:SHOWN]]
    yield table(f"Drift: {moved} of {len(found.drift)} features", ("feature", "effect", "by chance", "drifted"), drift,
                kinds=" rr ")  # fmt: skip
    yield from _view_champion(found)


def _view_champion(found: Evaluation) -> Iterator[RenderableType]:
    """Compare this version with the champion, on rows that neither was trained on."""
    from mltrain.gates.gate_evidence import NotApplicable, NotEvaluated

    champion = found.champion
    if isinstance(champion, (NotApplicable, NotEvaluated)):
        yield f"champion: {champion.reason}"
        return
    both = champion.side_by_side
    if both is not None:
        pairs = [(f.name, getattr(both.ours, f.name), getattr(both.theirs, f.name)) for f in fields(both.ours)]
        rows = [
            (name, number(a.value), ends(a.low, a.high), number(b.value), ends(b.low, b.high)) for name, a, b in pairs
        ]
        columns = ("metric", found.version, "interval", champion.version, "interval")
        yield table(f"Compared with the champion, on {both.rows:,} rows of {champion.days} days", columns, rows,
                    kinds=" rrrr")  # fmt: skip
    gain = champion.gain
    yield (
        f"champion {champion.version}: its log loss minus this one's is {gain.value:+.5f} "
        f"({gain.low:+.5f} .. {gain.high:+.5f})"
    )
