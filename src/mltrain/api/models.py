"""`models`, `promote` and `rollback`: the versions of a data folder, and which of them is live."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mltrain.api.notify import check_notify, note_event
from mltrain.api.references import is_version_reference, version_text
from mltrain.api.workspace import DATA_DIR, check_path, current_user, open_store, read_clock, read_progress
from mltrain.documents.results import Result
from mltrain.errors import InputError, MltrainError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.progress import Progress
    from mltrain.serving.answers import AnswerLog
    from mltrain.serving.model import Model
    from mltrain.store.history import History
    from mltrain.store.listing import ModelRow
    from mltrain.store.packing import PackedVersion, UnpackedVersion
    from mltrain.store.promotion import Move
    from mltrain.store.repair import RepairStep
    from mltrain.store.store import Store
    from mltrain.store.version_pruning import PrunedVersions

# The reason in the log if none was given.
_PROMOTED: Final = "promoted by hand"


@dataclass(frozen=True, slots=True)
class ModelList(Result):
    """The result of `models`, and of `rollback` without a version.

    Attributes:
        models: The versions, oldest first, damaged ones last.
    """

    SCHEMA: ClassVar[str] = "models/1"

    models: tuple[ModelRow, ...]


@dataclass(frozen=True, slots=True)
class RepairResult(Result):
    """The result of `models repair`.

    Attributes:
        dry_run: Whether nothing was written.
        steps: Every pointer and link that was not as it should be; empty if all were.
    """

    SCHEMA: ClassVar[str] = "models-repair/1"

    dry_run: bool
    steps: tuple[RepairStep, ...]


def load(
    path: VersionRef,
    *,
    allow_no_go: bool = False,
    ops: str | None = None,
    require_signature: PathText | None = None,
    allow_reduce: bool = False,
    strict_age: bool = False,
    while_halted: bool = False,
    ledger: AnswerLog | None = None,
    clock: Callable[[], float] | None = time.time,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
) -> Model:
    """Load the live version's model, and follow later promotions; or load the model of one version.

    Args:
        path: "best" (the live version, which is followed from then on), "best:SLOT", "latest", a version's name, or the
            result of a training; or a path, also as text: `data/models/best_lgbm.pkl` or the pointer `best_<slot>` of
            any slot, which is followed; a version's folder; or the `lgbm.pkl` in it. A text with a "/", and one that
            names something in the working directory, is a path.
        allow_no_go: Accept a version that was never promoted.
        ops: The module of user ops that the model was trained with, as in an import statement. **Importing it runs its
            code**; only this argument imports it.
        require_signature: Path of a public key (PEM): accept only versions that it has signed, now and after each
            promotion. The variable MLTRAIN_REQUIRE_SIGNATURE does the same for the whole process.
        allow_reduce: Also return bare numbers while serving is restricted to reducing positions; the caller then asks
            `Model.permit`.
        strict_age: Refuse answers after the time that the version's card has as `valid_until`; otherwise there is a
            warning. The time is that of `clock`, or the `now_ms` of a call.
        while_halted: Load the model although serving is halted: its answers are refused until it is resumed.
        ledger: Records each answer and each refusal of `predict_candles` for the newest candles, of `predict_one`, and
            of a stream, before it is given: a `mltrain.Ledger`. None: nothing is recorded.
        clock: Returns seconds since 1970, UTC. In calls for the newest candle without `now_ms`, candles that close
            later are left out, and a newest candle that is too old is refused as stale. None: every candle counts as
            closed and none as stale, as in a replay.
        data_dir: The data folder of a version that is not named by a path.
        slot: The slot of "best" and "latest"; None: "lgbm".

    Returns:
        The model; each of its files has the hash in its version's manifest.

    Raises:
        UsageError: An argument has the wrong type, or `path` does not name a model.
        InputError: There is no such version, it is damaged, or it was never promoted; or the module of ops fails.
        OwnOpsError: The model was trained with user ops that `ops` does not name, or whose source has changed.
        RefusedError: Serving is halted for every symbol of the model (halted), and `while_halted` was not given.
        MachineError: LightGBM's system library is missing, or the disk cannot be read.

    Warns:
        OtherCodeWarning: The model was trained with another version of the feature ops.
        ExpiredWarning: Later, at an answer after the card's `valid_until`.
        SlowPathWarning: LightGBM's single-row call, or the formula of a feature, is not exact here, and is not used.
    """
    from mltrain.serving.model import load

    place: Any = getattr(path, "folder", path)
    if isinstance(path, str) and is_version_reference(path) and not os.path.lexists(path) and "/" not in path:
        store = open_store(data_dir, slot)
        # Also says what is wrong if nothing was promoted, or if the pointer was lost.
        version, pointer = store.open_version(path), store.pointer_of(path)
        place = version.folder if pointer is None else pointer.path
    return load(
        place,
        allow_no_go=allow_no_go,
        ops=ops,
        require_signature=require_signature,
        allow_reduce=allow_reduce,
        strict_age=strict_age,
        while_halted=while_halted,
        ledger=ledger,
        clock=clock,
    )


def list_models(*, data_dir: PathText = DATA_DIR, progress: ProgressLike | None = None) -> ModelList:
    """List the versions of every slot: verdict, metrics, which one is live.

    Args:
        data_dir: The data folder.
        progress: Receives a warning for each pointer that is lost or damaged; the list helps to restore it.

    Raises:
        InputError: The log of promotions is not a file.
    """
    from mltrain.store.listing import list_models

    store, shown = open_store(data_dir, None), read_progress(progress)
    rows = list_models(store)
    for slot in store.promoted_slots():
        try:
            store.in_slot(slot).check_pointer()
        except InputError as err:
            shown.warn(f"{err.message}; {err.hint}")
    return ModelList(rows)


def list_promoted_models(*, data_dir: PathText = DATA_DIR, slot: str | None = None) -> ModelList:
    """List the versions of a slot that are or were live.

    Args:
        data_dir: The data folder.
        slot: The slot; None: "lgbm".

    Raises:
        InputError: The pointer of the slot is lost or damaged.
    """
    from mltrain.store.listing import list_models

    store = open_store(data_dir, slot)
    store.check_pointer()
    return ModelList(tuple(row for row in list_models(store) if row.promoted and row.slot == store.slot))


def models_history(*, data_dir: PathText = DATA_DIR, slot: str | None = None) -> History:
    """Return every promotion and rollback in a slot, and check the log; damage is among the result's problems.

    Args:
        data_dir: The data folder.
        slot: The slot; None: "lgbm".

    Raises:
        InputError: The pointer is not a link, or the log not a file.
    """
    return open_store(data_dir, slot).history()


def models_prune(
    *, keep: int, dry_run: bool = False, data_dir: PathText = DATA_DIR, slot: str | None = None
) -> PrunedVersions:
    """Remove the oldest versions of a slot, except the live one, its predecessor, the latest, and those in use.

    Args:
        keep: How many of the newest to keep, 0 or more.
        dry_run: Only return what would be removed.
        data_dir: The data folder.
        slot: The slot; None: "lgbm".

    Raises:
        InputError: The pointer or a log is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.store.version_pruning import prune_versions

    return prune_versions(open_store(data_dir, slot), keep=keep, dry_run=dry_run)


def models_repair(
    *, dry_run: bool = False, by: str | None = None, data_dir: PathText = DATA_DIR, now_ms: int | None = None
) -> RepairResult:
    """Restore pointers and links that were lost, or became files and folders, when the data folder was copied.

    Args:
        dry_run: Only return what would be done.
        by: Who asked, for the log of promotions; None: user@host.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        Every step; one with a reason in `left` could not be done.

    Raises:
        InputError: A log is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.store.repair import repair_store

    store = open_store(data_dir, None)
    steps = repair_store(store, by=by or current_user(), now_ms=read_clock(now_ms), dry_run=dry_run)
    return RepairResult(dry_run, steps)


def models_pack(
    version: VersionRef, output: PathText, *, data_dir: PathText = DATA_DIR, slot: str | None = None
) -> PackedVersion:
    """Write a version and the manifest of its snapshot to one file, to carry it to another machine.

    Args:
        version: Its name, "best", "best:SLOT", "latest", a path, or a loaded model.
        output: The archive; an existing file is replaced.
        data_dir: The data folder.
        slot: The slot of "best" and "latest"; None: "lgbm".

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    from mltrain.store.packing import pack_version

    return pack_version(open_store(data_dir, slot), version_text(version), check_path(output, "output"))


def models_unpack(path: PathText, *, data_dir: PathText = DATA_DIR) -> UnpackedVersion:
    """Add the version in an archive to a data folder; it is not promoted.

    Args:
        path: An archive that `models_pack` wrote.
        data_dir: The data folder.

    Raises:
        InputError: The archive is damaged, or another version of that name is or was there; nothing is left.
        LockedError: A folder is locked for longer than the wait.
    """
    from mltrain.store.packing import unpack_version

    return unpack_version(open_store(data_dir, None), check_path(path, "path"))


def promote(
    version: VersionRef,
    *,
    force: bool = False,
    other_meaning: bool = False,
    why: str | None = None,
    ops: str | None = None,
    by: str | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> Move:
    """Make a GO version the live one of its slot, in one atomic step.

    Args:
        version: Its name, "latest", a path, a loaded model, or the result of a training.
        force: Promote a NO-GO version, too; needs `why`.
        other_meaning: Promote even if the label or the interval differs, or if the version needs more columns.
        why: The reason, for the log of promotions.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        by: Who promotes it, for the log; None: user@host.
        notify: Queue an event for this address, https or http to this machine, which `notify`, a sentinel or a cycle
            delivers; None: none.
        data_dir: The data folder.
        slot: The slot that the version must have; None: any, and that of "latest" is "lgbm".
        progress: Receives a warning if running services will refuse the version.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        NoGoError: The version is NO-GO, or no drop-in replacement for the live one; the options above allow both.
        UsageError: `force` without `why`; or the version is of another slot or data folder.
        InputError: There is no such version, or it or the pointer is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.features.user_ops import import_user_ops
    from mltrain.serving.contract_check import check_same_meaning
    from mltrain.store.promotion import promote_version

    check_notify(notify)
    if force and not why:
        raise UsageError("--force needs a reason", hint="add --why TEXT; it is kept in promotions.jsonl")
    if ops is not None:
        import_user_ops(ops)
    store, ref = open_store(data_dir, slot), version_text(version)
    asked_by, time_ms = by or current_user(), read_clock(now_ms)
    _check_slot(store, ref, slot)
    moved = promote_version(
        store,
        ref,
        force=force,
        why=why or _PROMOTED,
        by=asked_by,
        now_ms=time_ms,
        check=None if other_meaning else check_same_meaning,
    )
    _warn_of_other_meaning(store, moved, read_progress(progress))
    _warn_of_halt(store, read_progress(progress))
    _note_move(
        "promotion",
        moved,
        store,
        notify=notify,
        why=why or _PROMOTED,
        by=asked_by,
        now_ms=time_ms,
        progress=read_progress(progress),
    )
    return moved


def rollback(
    version: str | None = None,
    *,
    previous: bool = False,
    why: str = "rolled back by hand",
    by: str | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> Move:
    """Make an earlier version live again in its slot, in one atomic step.

    Args:
        version: The name of a version that was live before.
        previous: Return to the version that was live before the present one; without `version`.
        why: The reason, for the log of promotions.
        by: Who asked, for the log; None: user@host.
        notify: Queue an event for this address, https or http to this machine, which `notify`, a sentinel or a cycle
            delivers; None: none.
        data_dir: The data folder.
        slot: The slot; None: that of the version, or "lgbm" with `previous`.
        progress: Receives a warning if running services will refuse the version.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: Both or neither of `version` and `previous` were given; or the version is of another slot.
        InputError: There is no such version, it was never promoted, or it or the pointer is damaged.
        LockedError: The folder is locked for longer than the wait.
    """
    from mltrain.store.promotion import roll_back, roll_back_previous

    check_notify(notify)
    if previous and version is not None:
        raise UsageError("give either --previous or a version, not both")
    store, asked_by, time_ms = open_store(data_dir, slot), by or current_user(), read_clock(now_ms)
    if version is not None:
        _check_slot(store, version, slot)
        moved = roll_back(store, version, why=why, by=asked_by, now_ms=time_ms)
    elif previous:
        moved = roll_back_previous(store, why=why, by=asked_by, now_ms=time_ms)
    else:
        raise UsageError("no version to roll back to", hint="name one, or set previous=True")
    _warn_of_other_meaning(store, moved, read_progress(progress))
    _warn_of_halt(store, read_progress(progress))
    _note_move(
        "rollback", moved, store, notify=notify, why=why, by=asked_by, now_ms=time_ms, progress=read_progress(progress)
    )
    return moved


def _note_move(
    kind: Literal["promotion", "rollback"],
    moved: Move,
    store: Store,
    *,
    notify: str | None,
    why: str,
    by: str,
    now_ms: int,
    progress: Progress,
) -> None:
    """Queue an event of a move of the pointer, if there is an address for it."""
    if not moved.moved:
        return
    before = moved.from_version
    warnings = note_event(
        kind,
        f"{moved.to_version} is live in the slot {moved.slot}{f' in place of {before}' if before else ''}: {why}",
        notify=notify,
        by=by,
        data_dir=store.data_dir,
        now_ms=now_ms,
        slot=moved.slot,
        version=moved.to_version,
        details={"from": before, "why": why},
    )
    for warning in warnings:
        progress.warn(warning)


def _warn_of_halt(store: Store, progress: Progress) -> None:
    """Say that serving is halted, which no move of the pointer changes."""
    from mltrain.killswitch.gate import HaltGate

    strictest = HaltGate(store.models).state().strictest_of(None)
    if strictest is not None:
        progress.warn(f"{strictest.describe()}; that stays so until `mltrain resume`")


def _check_slot(store: Store, ref: str, slot: str | None) -> None:
    """Refuse a version of another slot than the one that the caller named; None: none was named."""
    if slot is None or ref.startswith("best:"):
        return
    version = store.open_version(ref)
    if version.slot != slot:
        raise UsageError(
            f"{version.name} is a version of the slot {version.slot}, not of {slot}",
            hint=f"name the slot {version.slot}, or leave --slot and MLTRAIN_SLOT out",
        )


def _warn_of_other_meaning(store: Store, moved: Move, progress: Progress) -> None:
    """Warn if the pointer has moved to a version that running services refuse."""
    from mltrain.serving.contract_check import find_version_differences

    before, after = moved.from_version, moved.to_version
    if not moved.moved or before is None or before == after:
        return
    try:
        differences = find_version_differences(store.open_version(after), store.open_version(before))
    except MltrainError as err:
        progress.warn(f"cannot check whether {after} is a drop-in replacement for {before}: {err.message}")
        return
    if differences:
        progress.warn(
            f"{after} is no drop-in replacement for {before}: {'; '.join(differences)}. "
            f"A running service keeps {before} until it reloads the model"
        )
