"""Promotion and rollback: the only ways to move the pointer.

Every file of the target is hashed first. Then, under the lock: the line in the log, missing links, and last the
pointer, by one rename. A run that is interrupted in between is completed by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mltrain.documents.results import Result
from mltrain.errors import InputError, NoGoError, UsageError
from mltrain.names import check_version, nearest
from mltrain.storage.descriptors import real_path
from mltrain.storage.writing import append_lines, place_pointer, swap_pointer
from mltrain.store.history import Attribution, promotion_line
from mltrain.store.store import MAX_HINTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


@dataclass(frozen=True, slots=True)
class Move(Result):
    """The result of a promotion or a rollback.

    Attributes:
        slot: The slot of both versions.
        moved: False if the version was live already, and nothing was written.
        from_version: The live version before; None if there was none. If the pointer was lost, the version that it
            named last, which may be `to_version` itself.
        to_version: The live version now.
    """

    SCHEMA: ClassVar[str] = "move/1"

    slot: str
    moved: bool
    from_version: str | None
    to_version: str


def promote_version(
    store: Store,
    ref: str,
    *,
    why: str,
    by: str,
    now_ms: int,
    force: bool = False,
    check: Callable[[StoredVersion, StoredVersion], None] | None = None,
) -> Move:
    """Make a version live in its slot, in one atomic step; this also restores a lost pointer.

    Args:
        store: The store of the version.
        ref: As `Store.open_version` takes it.
        why: The reason, for the log.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.
        force: Whether a NO-GO version may be promoted, too.
        check: Called with the version and the live one; raises if the version must not replace it, such as
            `contract_check.check_same_meaning`. Called while nobody else can move the pointer; not called if the live
            version cannot be opened, because there is nothing to compare with.

    Raises:
        NoGoError: The version is NO-GO, and `force` was not given; or `check` refuses it.
        UsageError: `ref` is no reference, or names a version of another folder.
        InputError: There is no such version, or it or the pointer is damaged.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; the pointer has not moved.
    """
    version = store.open_version(ref)
    if real_path(version.folder.parent) != real_path(store.models):
        raise UsageError(f"{version.folder} is not in {store.models}", hint="name its data folder with --data-dir")
    if version.verdict != "GO" and not force:
        raise NoGoError(
            f"{version.name} is NO-GO: a gate failed",
            hint=f"`mltrain card show {version.name}` names it; to promote it anyway, add --force --why TEXT",
        )
    return _move(store.in_slot(version.slot), version.name, Attribution(why, by, now_ms), check)


def roll_back(store: Store, name: str, *, why: str, by: str, now_ms: int) -> Move:
    """Make a version live again that was live before in its slot, in one atomic step.

    Args:
        store: The store of the version.
        name: The version's name.
        why: The reason, for the log.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.

    Raises:
        UsageError: `name` is not a version's name.
        InputError: There is no such version, it was never promoted, or it or the pointer is damaged or lost.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; the pointer has not moved.
    """
    version = store.open_named(check_version(name))
    store = store.in_slot(version.slot)
    store.check_pointer()
    if not version.promoted:
        raise InputError(f"{name} was never promoted", hint=_never_promoted_hint(store, version))
    return _move(store, name, Attribution(why, by, now_ms))


def roll_back_previous(store: Store, *, why: str, by: str, now_ms: int) -> Move:
    """Make the version live again that was live in the slot before the present one.

    Args:
        store: The store.
        why: The reason, for the log.
        by: Who asked, for the log.
        now_ms: Time, ms UTC.

    Raises:
        InputError: The log names none, or `roll_back` refuses it.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; the pointer has not moved.
    """
    history = store.check_pointer()
    previous = history.previous()
    if previous is None:
        when = f"before {history.best}" if history.best else "yet"
        raise InputError(f"no version was live {when}", hint="`mltrain models history` lists every promotion")
    return roll_back(store, previous, why=why, by=by, now_ms=now_ms)


def _never_promoted_hint(store: Store, version: StoredVersion) -> str:
    """Name the promoted versions that may have been meant, and the command that promotes this one."""
    rows = (row.version for row in store.versions())
    promoted = [other.name for other in rows if other and other.promoted and other.slot == store.slot]
    same_day = [name for name in promoted if name.split(".")[0] == version.name.split(".")[0]]
    meant = (same_day or nearest(version.name, promoted) or promoted)[-MAX_HINTED:]
    force = "" if version.verdict == "GO" else " --force --why TEXT"
    commands = [f"`mltrain rollback {name}`" for name in meant] + [f"`mltrain promote {version.name}{force}`"]
    return f"run {' or '.join(commands)}"


def _move(
    store: Store,
    name: str,
    attribution: Attribution,
    check: Callable[[StoredVersion, StoredVersion], None] | None = None,
) -> Move:
    """Move the pointer to a version that may be promoted; every file is hashed before anything moves."""
    pointer = store.pointer
    missing = [link for link in pointer.links if not pointer.has_link(link)]
    # The live version is checked too: asking for it must not succeed if it is damaged.
    _check_files(store, name)
    if store.live_name() == name and not missing:
        return Move(store.slot, moved=False, from_version=name, to_version=name)
    with store.lock("moving the pointer"):
        history = store.history()
        moves = history.best != name
        # A lost pointer counts as still in place: a line that starts there shows that the previous line happened.
        before = history.best or history.lost
        version = store.open_named(name)
        if check is not None and before not in {None, name} and (live := store.read_row(before).version):
            check(version, live)
        if before is None and not history.entries:
            swap_pointer(pointer.staged, name)
        if moves:
            line = promotion_line(
                store.read_promotions(),
                slot=store.slot,
                from_version=before,
                to_version=name,
                verdict=version.verdict,
                card_sha256=version.card_sha256,
                attribution=attribution,
            )
            append_lines(store.promotions_path, [line])
        # The links before the pointer: its move completes everything.
        for link in missing:
            swap_pointer(store.models / link, pointer.links[link])
        if before is None:
            # Lines of interrupted first promotions: one of them is staged already.
            if history.entries:
                swap_pointer(pointer.staged, name)
            place_pointer(pointer.staged, pointer.path)
        elif moves:
            swap_pointer(pointer.path, name)
    return Move(store.slot, moved=moves, from_version=before, to_version=name)


def _check_files(store: Store, name: str) -> None:
    problems = store.open_named(name).verify()
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        hint = f"`mltrain verify model {name}` lists every problem; {store.nearest_hint(name)}"
        raise InputError(f"{name} is damaged: {problems[0]}{more}", hint=hint)
