"""Commands on versions: models, promote, rollback, card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli import html_pages
from mltrain.cli.arguments import (
    DryRunOption,
    KeepOption,
    LiveVersionArgument,
    OpsOption,
    VersionArgument,
    register_ops,
)
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.completion import complete_version_name
from mltrain.cli.help import add_command, new_group, output_option
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text, time_text, view_pruned
from mltrain.cli.tables import folding, optional, right, table
from mltrain.errors import InputError
from mltrain.names import DEFAULT_SLOT
from mltrain.store import REPAIR_HINT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from mltrain.api.card import CardOfVersion
    from mltrain.store.listing import ModelRow
    from mltrain.store.promotion import Move
    from mltrain.store.repair import RepairStep

# Exit code of a list that is shown because no choice was made: a usage error.
LISTED = 2


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    listing = new_group(
        "List the versions by slot: verdict, metrics, which one is live.",
        listing=models,
        example="mltrain models --html --open",
    )
    add_command(listing, "history", history, example="mltrain models history")
    add_command(listing, "prune", models_prune, example="mltrain models prune --keep 10")
    add_command(listing, "repair", models_repair, example="mltrain models repair --dry-run")
    add_command(listing, "pack", models_pack, example="mltrain models pack best -o model.tar")
    add_command(listing, "unpack", models_unpack, example="mltrain models unpack model.tar")
    app.add_typer(listing, name="models")
    add_command(app, "promote", promote, example="mltrain promote 2025-10-15 --why 'better on October'")
    add_command(app, "rollback", rollback, example="mltrain rollback --previous")
    card = new_group("Validate, show and compare model cards.")
    add_command(card, "validate", card_validate, example="mltrain card validate model_card.json")
    add_command(card, "show", card_show, example="mltrain card show latest")
    add_command(card, "report", html_pages.card_report, example="mltrain card report --open")
    add_command(card, "diff", html_pages.card_diff, example="mltrain card diff best latest")
    add_command(card, "schema", card_schema, example="mltrain card schema")
    app.add_typer(card, name="card")


@command()
def models(
    session: Session,
    ctx: typer.Context,
    html: Annotated[bool, output_option("--html", help="Write the list as an HTML page with curves.")] = False,
    output: html_pages.Output = None,
    show: html_pages.Open = False,
) -> Outcome | None:
    """List the versions by slot: verdict, metrics, which one is live."""
    from mltrain.api.models import list_models

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    if html:
        return html_pages.models_page(session, output, show=show)
    html_pages.refuse_without_html(output, show=show)
    listed = list_models(data_dir=session.data_dir, progress=session.progress)

    def view() -> Iterator[RenderableType]:
        if not listed.models:
            yield f"no versions in {session.data_dir}: train one with `mltrain train`"
            return
        yield from _view_models(listed.models)

    return Outcome(listed, view)


def _view_models(rows: Sequence[ModelRow]) -> Iterator[RenderableType]:
    """Yield a table of the versions for each slot; its title is left out if there is only one slot."""
    from mltrain.store.listing import group_by_slot

    groups = group_by_slot(rows)
    for slot, of_slot in groups:
        title = None if len(groups) == 1 else "slot unknown" if slot is None else f"slot {slot}"
        yield _models_table(title, of_slot)


def _models_table(title: str | None, rows: Sequence[ModelRow]) -> RenderableType:
    cells = [
        (r.version, "*" if r.best else "", "held" if r.held and not r.promoted else r.verdict,
         minute_text(r.created_at), ", ".join(r.symbols),
         *(number_text(value) for value in (r.accuracy, r.auc_roc, r.log_loss, r.calibration_ece)), r.problem or "")
        for r in rows
    ]  # fmt: skip
    metrics = right("accuracy", "AUC", "log loss", "ECE")
    first = ("version", "live", "verdict")
    return table(
        title, *first, *optional("trained (UTC)"), *folding("symbols"), *metrics, *folding("problem"), rows=cells
    )


@command(has_slot=True)
def history(session: Session) -> Outcome:
    """Show every promotion and rollback in a slot, and check the log."""
    from mltrain.api.models import models_history

    log = models_history(data_dir=session.data_dir, slot=session.slot)
    others = [slot for slot in session.open_store().slots() if slot != log.slot]

    def view() -> Iterator[RenderableType]:
        if not log.entries:
            yield f"nothing has been promoted yet in {session.data_dir}{_in_slot(log.slot)}"
        else:
            rows = [
                (e.serial, minute_text(e.when), e.from_version, e.to_version, e.verdict, e.by, e.why,
                 "never happened: the pointer did not move" if not e.happened
                 else "the lost pointer was restored" if e.from_version == e.to_version else "")
                for e in log.entries
            ]  # fmt: skip
            last = folding("by", "why", "")
            yield table(None, *right("serial"), "when (UTC)", *optional("from"), "to", "verdict", *last, rows=rows)
        yield from (*log.problems, *log.notes)
        if log.lost is not None:
            yield REPAIR_HINT
        if others:
            yield f"other slots: {', '.join(others)} (`--slot NAME`)"

    return Outcome(log, view, exit_code=FAILED_CHECK if log.problems else 0)


def _in_slot(slot: str) -> str:
    """Name a slot in a message; the default slot is not named."""
    return "" if slot == DEFAULT_SLOT else f" in the slot {slot}"


@command()
def models_repair(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")] = False,
) -> Outcome:
    """Restore pointers and links that were lost, or became files and folders, when the data folder was copied."""
    from mltrain.api.models import models_repair

    repaired = models_repair(dry_run=dry_run, data_dir=session.data_dir, now_ms=session.now_ms)
    left = any(step.left for step in repaired.steps)

    def view() -> Iterator[RenderableType]:
        yield from (_view_step(step, dry_run=dry_run) for step in repaired.steps)
        if not repaired.steps:
            yield "nothing to repair: every pointer and every link is in its place"

    return Outcome(repaired, view, exit_code=FAILED_CHECK if left else 0)


def _view_step(step: RepairStep, *, dry_run: bool) -> str:
    if step.left:
        return f"left {step.path}, {step.found}: {step.left}"
    return f"{'would restore' if dry_run else 'restored'} {step.path} -> {step.target} (it was {step.found})"


@command(opens_versions=True)
def models_pack(
    session: Session,
    ref: VersionArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive.")],
) -> Outcome:
    """Write a version and the manifest of its snapshot to one file, to carry it to another machine."""
    from mltrain.api.models import models_pack

    packed = models_pack(ref, output, data_dir=session.data_dir, slot=session.slot)

    def view() -> Iterator[RenderableType]:
        yield f"{packed.version} packed into {packed.path}, {packed.bytes / 1e6:.1f} MB"
        yield f"sha256 {packed.sha256}"
        if packed.snapshot is None:
            yield "its snapshot is no longer in the data folder, so the manifest of that is not in the archive"

    return Outcome(packed, view)


@command(opens_versions=True)
def models_unpack(
    session: Session, path: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of `models pack`.")]
) -> Outcome:
    """Add the version in an archive to the data folder; it is not promoted."""
    from mltrain.api.models import models_unpack

    unpacked = models_unpack(path, data_dir=session.data_dir)

    def view() -> Iterator[RenderableType]:
        state = "unpacked" if unpacked.created else "is there already"
        yield f"{unpacked.version} {state}: {unpacked.folder}{_in_slot(unpacked.slot)}"
        if unpacked.snapshot is not None:
            yield f"`mltrain snapshot --rebuild {unpacked.snapshot}` fetches the candles of its snapshot"
        yield f"it is not live; to promote it: `mltrain promote {unpacked.version}`"

    return Outcome(unpacked, view)


@command(has_slot=True)
def models_prune(session: Session, keep: KeepOption, dry_run: DryRunOption = False) -> Outcome:
    """Remove the oldest versions of a slot, except the live one, its predecessor, the latest, and those in use."""
    from mltrain.api.models import models_prune

    done = models_prune(keep=keep, dry_run=dry_run, data_dir=session.data_dir, slot=session.slot)
    kept = {version.version: version.why for version in done.kept}
    return Outcome(done, lambda: view_pruned(done.removed, kept, dry_run=dry_run))


@command(opens_versions=True, notifies=True)
def promote(
    session: Session,
    ref: VersionArgument,
    force: Annotated[bool, typer.Option("--force", help="Promote a NO-GO version; needs --why.")] = False,
    other_meaning: Annotated[
        bool,
        typer.Option(
            "--other-meaning",
            help="Promote even if the label or the interval differs, or if the version needs more columns.",
        ),
    ] = False,
    why: Annotated[str | None, typer.Option("--why", metavar="TEXT", help="Reason, for the log of promotions.")] = None,
    ops: OpsOption = None,
) -> Outcome:
    """Make a GO version the live one of its slot, in one atomic step."""
    from mltrain.api.models import promote

    register_ops(ops)
    moved = promote(
        ref,
        force=force,
        other_meaning=other_meaning,
        why=why,
        ops=ops,
        notify=session.notify,
        data_dir=session.data_dir,
        slot=session.slot,
        progress=session.progress,
        now_ms=session.now_ms,
    )
    return _moved(moved)


@command(opens_versions=True, notifies=True)
def rollback(
    session: Session,
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="A version that was live before.", autocompletion=complete_version_name),
    ] = None,
    previous: Annotated[bool, typer.Option("--previous", help="Return to the previous live version.")] = False,
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="Reason, for the log of promotions.")
    ] = "rolled back by hand",
) -> Outcome:
    """Make an earlier version live again in its slot, in one atomic step."""
    from mltrain.api.models import list_promoted_models, rollback

    if previous or version is not None:
        moved = rollback(
            version,
            previous=previous,
            why=why,
            notify=session.notify,
            data_dir=session.data_dir,
            slot=session.slot,
            progress=session.progress,
            now_ms=session.now_ms,
        )
        return _moved(moved)
    listed = list_promoted_models(data_dir=session.data_dir, slot=session.slot)
    if not listed.models:
        raise InputError(
            f"no version in {session.data_dir} was ever promoted{_in_slot(session.slot or DEFAULT_SLOT)}",
            hint="`mltrain models` lists the versions",
        )

    def view() -> Iterator[RenderableType]:
        yield from _view_models(listed.models)
        yield "choose one: mltrain rollback VERSION, or mltrain rollback --previous"

    return Outcome(listed, view, exit_code=LISTED, to_stderr=session.as_json)


def _moved(moved: Move) -> Outcome:
    before, after = moved.from_version, moved.to_version
    slot = _in_slot(moved.slot)
    text = f"{after} is live now{slot}" + (f", in place of {before}" if before else "")
    if moved.moved and before == after:
        text = f"{after} is live again{slot}: the pointer was missing"
    if not moved.moved:
        text = f"{after} is live already{slot}; nothing was written"
    return Outcome(moved, lambda: [text])


@command(opens_versions=True)
def card_validate(
    session: Session,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="CARD", help="Card files. Default: the card of the live version.")
    ] = None,
) -> Outcome:
    """Check cards against the schema and for plausibility; every violation is listed with its JSON pointer."""
    from mltrain.api.card import card_validate

    checked = card_validate(paths or None, data_dir=session.data_dir, slot=session.slot, progress=session.progress)

    def view() -> Iterator[RenderableType]:
        for card in checked.cards:
            yield from card.violations
            yield from (f"warning: {text}" for text in card.warnings)
            yield f"{card.path}: {'valid' if card.valid else f'{len(card.violations)} violation(s)'}"

    return Outcome(checked, view, exit_code=0 if checked.valid else FAILED_CHECK)


@command(opens_versions=True)
def card_show(session: Session, ref: LiveVersionArgument = None) -> Outcome:
    """Show the card of a version: its figures as tables, or the whole card with --json."""
    from mltrain.api.card import card_show

    shown = card_show(ref, data_dir=session.data_dir, slot=session.slot, progress=session.progress)
    return Outcome(shown, lambda: _view_card(shown))


def _view_card(result: CardOfVersion) -> Iterator[RenderableType]:
    from mltrain.card.model_card import ModelCard

    card = ModelCard(dict(result.card))
    start, end = (minute_text(card.text("train", "range", key) or "") for key in ("start", "end"))
    created = minute_text(card.text("created_at") or "")
    until = "" if card.valid_until_ms is None else f", valid until {time_text(card.valid_until_ms)} UTC"
    yield f"{card.text('model_name')} {result.ref}, trained {created} UTC on snapshot {card.snapshot_id}{until}"
    yield (
        f"{', '.join(card.symbols)}: {card.number('train', 'rows'):,.0f} rows, {start} to {end} UTC, "
        f"{card.train_up_share:.1%} up"
    )
    metrics = card.section("metrics").document
    figures = [(key, number_text(value)) for key, value in metrics.items() if isinstance(value, float)]
    yield table("Holdout", "metric", *right("value"), rows=figures)
    latency = card.section("latency_ms")
    shown = [(key, number_text(latency.number(key), 3)) for key in ("mean", "p50", "p95", "p99")]
    yield table(f"Latency, {latency.number('samples'):,.0f} samples", "ms", *right("value"), rows=shown)
    checks = card.section("leakage_checks").document
    yield table(None, "leakage check", "passed", rows=[(k, "yes" if v else "NO") for k, v in checks.items()])
    top = [(f.text("name"), number_text(f.number("gain"), 1)) for f in card.sections("feature_importance")[:10]]
    yield table("Most useful features", "feature", *right("gain"), rows=top)
    if verdict := card.text("gates", "verdict"):
        gates = [
            ((o.text("name") or "?").replace("_", " "), o.text("outcome"), o.text("reason"))
            for o in card.sections("gates", "outcomes")
        ]
        yield table(f"Gates: {verdict}", "gate", "outcome", *folding("found"), rows=gates)
    yield card.text("notes") or ""


@command()
def card_schema(session: Session) -> Outcome:  # noqa: ARG001 (the schema needs no data)
    """Print the JSON Schema of the card."""
    import json

    from mltrain.api.card import card_schema

    schema = card_schema()
    return Outcome(schema, lambda: [json.dumps(schema.json_schema, indent=2)])
