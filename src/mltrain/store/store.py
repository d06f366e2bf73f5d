"""The models folder of a data folder: how it is read, referred to and locked.

    models/<version>/...             a folder of files, manifest.json written last: without it, no version
    models/best_<slot> -> <version>  the pointer of a slot to its live version; one rename moves it
    models/best_lgbm.pkl, models/best_lgbm_model_card.json    links through a pointer, for other tools
    models/promotions.jsonl, models/looks.jsonl               append-only logs, see `history`
    models/.lock                     held while anything in the folder is written

Versions are published by `publishing`, made live by `promotion` and removed by `version_pruning`. The lock is held only
for the moment of writing, so that a rollback never waits for a training. A command that is refused changes nothing.

A slot is a line of succession: promotion, champion, rollback and pruning act within one slot and leave the others
alone. A version belongs to the slot that it was trained for. The slots share the folder, the log and the lock.

A copy of the folder may lose its links. If the log names a live version and there is no pointer, everything that needs
the pointer fails with the command that restores it: the latest version is no substitute for the live one.

Everything read here is untrusted: names must match their grammar, no link leads out of the folder, and files are
hashed before they are used (see `versions`).
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILES
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError, UsageError
from mltrain.gates.holdout_looks import Look
from mltrain.names import DEFAULT_SLOT, VERSION, check_slot, did_you_mean, nearest, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder
from mltrain.storage.locks import FOLDER_WAIT_S, lock_folder
from mltrain.storage.reading import read_file
from mltrain.storage.temps import TEMP_SUFFIX
from mltrain.storage.writing import append_lines
from mltrain.store import REPAIR_HINT
from mltrain.store.history import check_history, look_line, read_looks, read_promotions
from mltrain.store.pointer import Pointer, pointer_at
from mltrain.store.signature import check_signer
from mltrain.store.versions import VersionRow, open_version_folder
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mltrain.store.history import History, PromotionLog
    from mltrain.store.signature import Signer
    from mltrain.store.versions import StoredVersion

PROMOTIONS: Final = "promotions.jsonl"
# Versions that a hint names.
MAX_HINTED: Final = 3
# About forty thousand lines.
_MAX_LOG_BYTES: Final = 1 << 24
_REFERENCES: Final = "write best, best:SLOT, latest, a version such as 2025-10-15, or a path with a / in it"


class Store:
    """The models folder of a data folder; it need not exist for reading.

    Args:
        data_dir: The data folder.
        slot: The slot that `best` and `latest` refer to, and that versions are published in.
        lock_wait_s: How long a writer waits for another one, in seconds.
        signer: Signs what is published; None publishes without a signature.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        slot: str = DEFAULT_SLOT,
        lock_wait_s: float = FOLDER_WAIT_S,
        signer: Signer | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.models = data_dir / "models"
        self.slot = check_slot(slot)
        self.signer = signer
        self._lock_wait_s = lock_wait_s

    @property
    def pointer(self) -> Pointer:
        """The pointer to the live version of the slot."""
        return Pointer(self.models, self.slot)

    @property
    def promotions_path(self) -> Path:
        """The path of the log of promotions."""
        return self.models / PROMOTIONS

    def in_slot(self, slot: str) -> Store:
        """Return this store with another slot.

        Raises:
            UsageError: The name is outside the grammar of slots.
        """
        other = copy.copy(self)
        other.slot = check_slot(slot)
        return other

    def slots(self) -> tuple[str, ...]:
        """Return every slot that has a version, a pointer or a line in the log, sorted; a damaged pointer counts.

        Raises:
            InputError: The log of promotions is not a file.
            MachineError: The machine refuses to read.
        """
        rows = map(self.read_row, self.version_names())
        return tuple(sorted({*self.promoted_slots(), *(row.version.slot for row in rows if row.version)}))

    def promoted_slots(self) -> tuple[str, ...]:
        """Return every slot that has a pointer or a line in the log, sorted; no version is read.

        Raises:
            InputError: The log of promotions is not a file.
            MachineError: The machine refuses to read.
        """
        with disk_errors(self.models, "list"):
            names = os.listdir(self.models) if self.models.is_dir() else []  # noqa: PTH208 (names)
        pointers = (pointer_at(self.models / name) for name in names)
        in_log = {entry.slot for entry in self.promotion_log().entries}
        return tuple(sorted(in_log | {pointer.slot for pointer in pointers if pointer}))

    # -- versions -----------------------------------------------------------------------------------------------

    def version_names(self) -> list[str]:
        """Return the name of everything that is named like a version, sound or not, sorted by name."""
        with disk_errors(self.models, "list"):
            try:
                return sorted(path.name for path in self.models.iterdir() if VERSION.fullmatch(path.name))
            except FileNotFoundError:
                return []

    def versions(self) -> tuple[VersionRow, ...]:
        """List the versions of every slot in the order of publication, damaged ones last; no file is hashed.

        Raises:
            InputError: The log of promotions is not a file.
            MachineError: The machine refuses to read.
        """
        histories: dict[str, History] = {}
        sound, damaged = [], []
        for name in self.version_names():
            row = self.read_row(name)
            if row.version is None:
                # It may have been removed since the names were listed.
                damaged += [row] if os.path.lexists(self.models / name) else []
                continue
            slot = row.version.slot
            if slot not in histories:
                histories[slot] = self._history_of(slot)
            sound.append(replace(row, version=row.version.checked_against(histories[slot])))
        sound.sort(key=_publication_order)
        newest = {row.version.slot: row.name for row in sound if row.version}
        latest = set(newest.values())
        return (*(replace(row, latest=row.name in latest) for row in sound), *damaged)

    def read_row(self, name: str) -> VersionRow:
        """Return a version's row, without regard to promotions; a damaged version is a row with its problem."""
        try:
            version = open_version_folder(self.models / name)
        except InputError as err:
            return VersionRow(name, None, latest=False, problem=err.message)
        return VersionRow(name, version, latest=False, problem=None)

    def open_version(self, ref: str) -> StoredVersion:
        """Open a version.

        Args:
            ref: `best` (the live version), `best:SLOT` (that of another slot), `latest` (the newest version of the
                slot), a version's name, or a path as `open_path` takes it (anything with a "/").

        Raises:
            UsageError: `ref` is none of these.
            InputError: There is no such version, or it is damaged; the hint names the nearest ones.
            MachineError: The machine refuses to read.
        """
        if ref == "best":
            live = self.live_version()
            if live is None:
                raise InputError(
                    f"no version{self._of_slot()} in {self.models} was promoted yet", hint=self._promote_hint()
                )
            return live
        if ref.startswith("best:"):
            return self.in_slot(ref.removeprefix("best:")).open_version("best")
        if ref == "latest":
            return self._open_latest()
        if "/" in ref:
            return open_path(Path(ref))
        if VERSION.fullmatch(ref) is None:
            raise UsageError(f"{show(ref)} is no reference to a version", hint=_REFERENCES)
        return self.open_named(ref)

    def open_named(self, name: str) -> StoredVersion:
        """Open a version by its name, which must match the grammar of version names.

        Raises:
            InputError: There is no such version, or it is damaged; the hint names the nearest ones.
            MachineError: The machine refuses to read.
        """
        try:
            version = open_version_folder(self.models / name)
        except InputError as err:
            raise InputError(err.message, hint=self.nearest_hint(name)) from err
        return version.checked_against(self._history_of(version.slot))

    def open_default(self, ref: str | None = None) -> tuple[StoredVersion, str | None]:
        """Open `ref`; without one the live version, and if nothing was promoted yet, the latest with a warning.

        Returns:
            The version, and the warning.

        Raises:
            UsageError: `ref` is no reference.
            InputError: There is no such version, or it is damaged; or the pointer was lost.
            MachineError: The machine refuses to read.
        """
        if ref is not None:
            return self.open_version(ref), None
        live = self.live_version()
        if live is not None:
            return live, None
        latest = self._open_latest()
        return latest, f"nothing was promoted yet: taking the latest version, {latest.name} ({latest.verdict})"

    def _open_latest(self) -> StoredVersion:
        for row in self.versions():
            if row.latest and row.version is not None and row.version.slot == self.slot:
                return row.version
        raise InputError(f"there is no version{self._of_slot()} in {self.models}", hint=self.nearest_hint(""))

    def _of_slot(self) -> str:
        """Name the slot, for messages; the default slot is not named, as long as there is no other."""
        return "" if self.slot == DEFAULT_SLOT else f" of the slot {self.slot}"

    # -- the pointer and the log of promotions ------------------------------------------------------------------

    def live_version(self) -> StoredVersion | None:
        """Open the live version; None if nothing was promoted yet.

        Raises:
            InputError: The pointer does not name a sound version in its folder, or was lost.
            MachineError: The machine refuses to read.
        """
        name = self.live_name() or self.check_pointer().best
        if name is None:
            return None
        try:
            version = open_version_folder(self.models / name)
        except InputError as err:
            raise InputError(
                f"{self.pointer.path} leads to {name}: {err.message}", hint=self._promote_hint(name)
            ) from err
        if version.slot != self.slot:
            raise InputError(
                f"{self.pointer.path} leads to {name}, a version of the slot {version.slot}", hint=REPAIR_HINT
            )
        return replace(version, live=True, promoted=True)

    def live_name(self) -> str | None:
        """Return the name that the pointer holds; None if there is no pointer.

        Raises:
            InputError: The pointer is not a link to a version's name; the hint is the command that restores it.
            MachineError: The machine refuses to read.
        """
        try:
            return self.pointer.target()
        except InputError as err:
            raise InputError(err.message, hint=REPAIR_HINT) from err

    def read_promotions(self) -> bytes:
        """Return the bytes of the log of promotions; empty if there is none."""
        return _read_log(self.promotions_path)

    def promotion_log(self) -> PromotionLog:
        """Read the promotions in every slot.

        Raises:
            InputError: The log is not a file; damaged lines are problems of the log.
            MachineError: The machine refuses to read.
        """
        return read_promotions(self.read_promotions(), where=str(self.promotions_path))

    def history(self) -> History:
        """Read the promotions and rollbacks in the slot, and check them against its pointer.

        Raises:
            InputError: The pointer or the log is not a link or a file; damaged lines are problems of the History.
            MachineError: The machine refuses to read.
        """
        while True:
            # The pointer before the log: a promotion in between then looks like one that is not complete yet.
            live = self.live_name()
            log = self.promotion_log()
            staged = self.pointer.staged_target()
            # A first promotion in between has written its line and replaced the staged pointer by the real one.
            if live is not None or self.live_name() is None:
                return check_history(log, self.slot, best=live, staged=staged, where=str(self.promotions_path))

    def _history_of(self, slot: str) -> History:
        """Return the history of any slot, for versions that are named or listed; a damaged pointer counts as lost."""
        store = self.in_slot(slot)
        try:
            return store.history()
        except InputError:
            staged = store.pointer.staged_target()
            return check_history(self.promotion_log(), slot, best=None, staged=staged, where=str(self.promotions_path))

    def pointer_of(self, ref: str | None) -> Pointer | None:
        """Return the pointer that a reference follows: None and `best` that of this slot, `best:SLOT` that of another.

        Raises:
            UsageError: The name is outside the grammar of slots.
        """
        if ref in {None, "best"}:
            return self.pointer
        return self.in_slot(ref.removeprefix("best:")).pointer if ref and ref.startswith("best:") else None

    def check_pointer(self) -> History:
        """Check that the pointer exists if the log says so, and return the log.

        Raises:
            InputError: It is damaged or was lost; the hint is the command that restores it.
            MachineError: The machine refuses to read.
        """
        history = self.history()
        if history.best is None and history.lost is not None:
            raise InputError(
                f"the pointer {self.pointer.path} is missing, and {history.lost} was the live version"
                f"{', as far as the log can be read' if len(history.problems) > 1 else ''}: links are easily lost "
                "when a folder is copied",
                hint=REPAIR_HINT,
            )
        if history.best is None and history.problems:
            raise InputError(
                f"there is no pointer {self.pointer.path}, and whether there was one cannot be read: "
                f"{history.problems[0]}",
                hint=self._promote_hint(),
            )
        return history

    def _promote_hint(self, damaged: str | None = None) -> str:
        """Name the newest versions of the slot that may be promoted, or say how to make one."""
        rows = [self.read_row(name) for name in self.version_names() if name != damaged]
        names = [row.name for row in rows if row.version is None or row.version.slot == self.slot][-MAX_HINTED:]
        if names:
            return f"run `mltrain promote VERSION`: {', '.join(names)}"
        others = [slot for slot in self.slots() if slot != self.slot]
        if others and self.slot not in self.slots():
            return did_you_mean(self.slot, others) or f"make one with `mltrain train --slot {self.slot}`"
        option = "" if self.slot == DEFAULT_SLOT else f" --slot {self.slot}"
        return f"make one with `mltrain train{option}`"

    def nearest_hint(self, name: str) -> str:
        """Name versions that may be used in place of `name`, which is missing or damaged."""
        others = [other for other in self.version_names() if other != name]
        if not others:
            return "make one with `mltrain train`"
        return f"the nearest: {', '.join(nearest(name, others, count=MAX_HINTED) or others[-MAX_HINTED:])}"

    # -- looks at holdouts --------------------------------------------------------------------------------------

    def looks(self) -> tuple[Look, ...]:
        """Return every look at a holdout, oldest first.

        Raises:
            InputError: The log cannot be read whole.
            MachineError: The machine refuses to read.
        """
        return read_looks(_read_log(self._looks_path), where=str(self._looks_path))

    def record_look(
        self, *, start_ms: int, end_ms: int, study: str, now_ms: int, configuration_sha256: str | None = None
    ) -> None:
        """Log that a holdout is about to be scored; call it before the score is known.

        Args:
            start_ms: First open time of the holdout's range, ms UTC.
            end_ms: Its end, ms UTC.
            study: The study that scores it.
            now_ms: Time of the look, ms UTC.
            configuration_sha256: Hash of the configuration that is scored; None if it is not known.

        Raises:
            InputError: The pointer or a log is damaged.
            LockedError: The folder is locked for longer than the wait.
            MachineError: The machine refuses.
        """
        self.prepare()
        with self.lock("recording a look at a holdout"):
            look = Look(start_ms, end_ms, format_seconds(now_ms), study, configuration_sha256)
            append_lines(self._looks_path, [look_line(_read_log(self._looks_path), look)])

    @property
    def _looks_path(self) -> Path:
        return self.models / "looks.jsonl"

    # -- writing ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the models folder and check it, so that a long run does not fail at its end.

        Raises:
            UsageError: Versions published here must be signed, and this store does not have the key.
            InputError: The pointer or a log is damaged, or the pointer was lost.
            MachineError: The folder cannot be written into.
        """
        check_signer(self.signer)
        make_folder(self.models)
        self.check_pointer()
        self.looks()

    def sweep(self) -> None:
        """Remove what killed writers left, if there is anything; otherwise nothing is written, not even a lock.

        Raises:
            LockedError: The folder is locked for longer than the wait.
            MachineError: The machine refuses.
        """
        with disk_errors(self.models, "list"):
            left = any(self.models.glob(f".*{TEMP_SUFFIX}"))
        if left:
            with self.lock("removing what a killed writer left"):
                # Taking the lock has removed it.
                pass

    def lock(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the folder's lock, and remove what killed writers left.

        Args:
            purpose: What the holder does, for the message to others that wait.

        Raises:
            LockedError: The folder is locked for longer than the wait.
            MachineError: The machine refuses.
        """
        return lock_folder(self.models, purpose=purpose, wait_s=self._lock_wait_s)


def open_path(path: Path) -> StoredVersion:
    """Open the version that a path leads to.

    Args:
        path: A version's folder, its `lgbm.pkl`, `tft.json` or `model_card.json`, or a pointer or a link of a models
            folder: `best_<slot>`, `best_lgbm.pkl`, `best_lgbm_model_card.json`.

    Raises:
        UsageError: The path names something else.
        InputError: There is no such version, or it is damaged.
        MachineError: The machine refuses to read.
    """
    if "\0" in str(path):
        raise UsageError(f"{show(str(path))} cannot be a path", hint=_REFERENCES)
    files = (*MODEL_FILES, CARD_FILE)
    # pathlib's absolute keeps "..".
    place = Path(os.path.abspath(path))  # noqa: PTH100
    if place.name in files:
        place = place.parent
    if (pointer := pointer_at(place)) is not None:
        if place != pointer.path:
            pointer.has_link(place.name)
        return _store_of(place.parent).in_slot(pointer.slot).open_version("best")
    # Unlike names in the store, a path from the user may be a link.
    folder = real_path(place)
    if folder.name in files:
        folder = folder.parent
    if VERSION.fullmatch(folder.name) is None:
        raise UsageError(f"{show(str(path))} does not lead to a version", hint=_REFERENCES)
    return _store_of(folder.parent).open_named(folder.name)


def _store_of(models: Path) -> Store:
    """Return the store of a models folder, whatever its name."""
    store = Store(models.parent)
    store.models = models
    return store


def _publication_order(row: VersionRow) -> tuple[int, str]:
    return (row.version.serial if row.version else 0, row.name)


def _read_log(path: Path) -> bytes:
    return read_file(path, max_bytes=_MAX_LOG_BYTES, what="the log") if os.path.lexists(path) else b""
