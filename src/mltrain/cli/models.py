"""Commands on versions: models, promote, rollback, card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mltrain.api.workspace import current_user
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
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text, view_pruned
from mltrain.cli.tables import folding, optional, right, table
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.names import DEFAULT_SLOT
from mltrain.store import REPAIR_HINT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from mltrain.card.model_card import ModelCard
    from mltrain.card.validation import CardCheck
    from mltrain.store.listing import ModelRow
    from mltrain.store.promotion import Move
    from mltrain.store.repair import RepairStep
    from mltrain.store.store import Store

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
    from mltrain.cli.version_documents import ModelsDocument
    from mltrain.store.listing import list_models

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    if html:
        return html_pages.models_page(session, output, show=show)
    html_pages.refuse_without_html(output, show=show)
    store = session.open_store()
    rows = list_models(store)
    for slot in store.promoted_slots():
        try:
            store.in_slot(slot).check_pointer()
        except InputError as err:
            # The list helps to recover.
            session.progress.warn(f"{err.message}; {err.hint}")

    def view() -> Iterator[RenderableType]:
        if not rows:
            yield f"no versions in {session.data_dir}: train one with `mltrain train`"
            return
        yield from _view_models(rows)

    return Outcome(ModelsDocument(rows), view)


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
    store = session.open_store()
    log = store.history()
    others = [slot for slot in store.slots() if slot != store.slot]

    def view() -> Iterator[RenderableType]:
        if not log.entries:
            yield f"nothing has been promoted yet in {session.data_dir}{_in_slot(store.slot)}"
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
    from mltrain.cli.version_documents import RepairDocument
    from mltrain.store.repair import repair_store

    steps = repair_store(session.open_store(), by=current_user(), now_ms=session.now_ms, dry_run=dry_run)
    left = any(step.left for step in steps)

    def view() -> Iterator[RenderableType]:
        yield from (_view_step(step, dry_run=dry_run) for step in steps)
        if not steps:
            yield "nothing to repair: every pointer and every link is in its place"

    return Outcome(RepairDocument(dry_run, steps), view, exit_code=FAILED_CHECK if left else 0)


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
    from mltrain.store.packing import pack_version

    packed = pack_version(session.open_store(), ref, output)

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
    from mltrain.store.packing import unpack_version

    unpacked = unpack_version(session.open_store(), path)

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
    from mltrain.store.version_pruning import prune_versions

    done = prune_versions(session.open_store(), keep=keep, dry_run=dry_run)
    kept = {version.version: version.why for version in done.kept}
    return Outcome(done, lambda: view_pruned(done.removed, kept, dry_run=dry_run))


@command(opens_versions=True)
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
    from mltrain.serving.contract_check import check_same_meaning
    from mltrain.store.promotion import promote_version

    if force and not why:
        raise UsageError("--force needs a reason", hint="add --why TEXT; it is kept in promotions.jsonl")
    register_ops(ops)
    store = session.open_store()
    _check_slot(session, store, ref)
    moved = promote_version(
        store,
        ref,
        force=force,
        why=why or "promoted by hand",
        by=current_user(),
        now_ms=session.now_ms,
        check=None if other_meaning else check_same_meaning,
    )
    _warn_of_other_meaning(session, store, moved)
    return _moved(moved)


@command(opens_versions=True)
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
    from mltrain.cli.version_documents import ModelsDocument
    from mltrain.store.listing import list_models
    from mltrain.store.promotion import roll_back, roll_back_previous

    store = session.open_store()
    if previous and version is not None:
        raise UsageError("give either --previous or a version, not both")
    if previous or version is not None:
        hand: Any = {"why": why, "by": current_user(), "now_ms": session.now_ms}
        if version is not None:
            _check_slot(session, store, version)
        moved = roll_back_previous(store, **hand) if version is None else roll_back(store, version, **hand)
        _warn_of_other_meaning(session, store, moved)
        return _moved(moved)
    store.check_pointer()
    rows = tuple(row for row in list_models(store) if row.promoted and row.slot == store.slot)
    if not rows:
        raise InputError(
            f"no version in {session.data_dir} was ever promoted{_in_slot(store.slot)}",
            hint="`mltrain models` lists the versions",
        )

    def view() -> Iterator[RenderableType]:
        yield from _view_models(rows)
        yield "choose one: mltrain rollback VERSION, or mltrain rollback --previous"

    return Outcome(ModelsDocument(rows), view, exit_code=LISTED, to_stderr=session.as_json)


def _check_slot(session: Session, store: Store, ref: str) -> None:
    """Refuse a version of another slot than the one that the user named."""
    if session.slot is None or ref.startswith("best:"):
        return
    version = store.open_version(ref)
    if version.slot != session.slot:
        raise UsageError(
            f"{version.name} is a version of the slot {version.slot}, not of {session.slot}",
            hint=f"name the slot {version.slot}, or leave --slot and MLTRAIN_SLOT out",
        )


def _warn_of_other_meaning(session: Session, store: Store, moved: Move) -> None:
    """Warn if the pointer has moved to a version that running services refuse."""
    from mltrain.serving.contract_check import find_version_differences

    before, after = moved.from_version, moved.to_version
    if not moved.moved or before is None or before == after:
        return
    try:
        differences = find_version_differences(store.open_version(after), store.open_version(before))
    except MltrainError as err:
        session.progress.warn(f"cannot check whether {after} is a drop-in replacement for {before}: {err.message}")
        return
    if differences:
        session.progress.warn(
            f"{after} is no drop-in replacement for {before}: {'; '.join(differences)}. "
            f"A running service keeps {before} until it reloads the model"
        )


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
    from mltrain.cli.version_documents import CardValidateDocument, CheckedCard

    checks = _check_card_files(paths) if paths else _check_live_card(session)
    passed = all(check.passed for check in checks.values())

    def view() -> Iterator[RenderableType]:
        for path, check in checks.items():
            yield from check.violations
            yield from (f"warning: {text}" for text in check.warnings)
            yield f"{path}: {'valid' if check.passed else f'{len(check.violations)} violation(s)'}"

    cards = [CheckedCard(path, c.passed, c.violations, c.warnings) for path, c in checks.items()]
    return Outcome(CardValidateDocument(passed, cards), view, exit_code=0 if passed else FAILED_CHECK)


def _check_card_files(paths: list[Path]) -> dict[str, CardCheck]:
    """Check card files; one named model_card.json is also checked against the files next to it."""
    from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, check_card
    from mltrain.storage.descriptors import real_path
    from mltrain.storage.reading import read_file
    from mltrain.store.versions import check_stored_card

    checks = {}
    for path in paths:
        # best_lgbm_model_card.json is a link; links on the command line are followed.
        real = real_path(path)
        data = read_file(real, max_bytes=MAX_CARD_BYTES, what="card")
        if real.name == CARD_FILE:
            checks[str(path)] = check_stored_card(data, where=str(path), folder=real.parent)
        else:
            checks[str(path)] = check_card(data, where=str(path))
    return checks


def _check_live_card(session: Session) -> dict[str, CardCheck]:
    """Check the card of the live version: hash, schema, plausibility, and the files next to it."""
    from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, check_card

    version, warning = session.open_store().open_default(None)
    if warning:
        session.progress.warn(warning)
    where = str(version.folder / CARD_FILE)
    return {where: check_card(version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES), where=where, folder=version.folder)}


@command(opens_versions=True)
def card_show(session: Session, ref: LiveVersionArgument = None) -> Outcome:
    """Show the card of a version: its figures as tables, or the whole card with --json."""
    from mltrain.cli.version_documents import CardShowDocument
    from mltrain.store.listing import read_version_card

    version, warning = session.open_store().open_default(ref)
    if warning:
        session.progress.warn(warning)
    card = read_version_card(version)

    def view() -> Iterator[RenderableType]:
        yield from _view_card(version.name, card)

    return Outcome(CardShowDocument(version.name, card.document), view)


def _view_card(name: str, card: ModelCard) -> Iterator[RenderableType]:
    start, end = (minute_text(card.text("train", "range", key) or "") for key in ("start", "end"))
    created = minute_text(card.text("created_at") or "")
    yield f"{card.text('model_name')} {name}, trained {created} UTC on snapshot {card.snapshot_id}"
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

    from mltrain.card.validation import load_schema
    from mltrain.cli.version_documents import CardSchemaDocument

    text = json.dumps(load_schema(), indent=2)
    return Outcome(CardSchemaDocument(load_schema()), lambda: [text])
