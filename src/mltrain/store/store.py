"""The models folder of a data folder: how it is read, referred to and locked.

    models/<version>/...             a folder of files, manifest.json written last: without it, no version
    models/best_lgbm -> <version>    the pointer to the live version; one rename moves it
    models/best_lgbm.pkl, models/best_lgbm_model_card.json    links through the pointer, for other tools
    models/promotions.jsonl, models/looks.jsonl               append-only logs, see `history`
    models/.lock                     held while anything in the folder is written

Versions are published by `publishing`, made live by `promotion` and removed by `version_pruning`. The lock is held only
for the moment of writing, so that a rollback never waits for a training. A command that is refused changes nothing.

A copy of the folder may lose its links. If the log names a live version and there is no pointer, everything that needs
the pointer fails with the command that restores it: the latest version is no substitute for the live one.

Everything read here is untrusted: names must match their grammar, no link leads out of the folder, and files are
hashed before they are used (see `versions`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILE
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError, UsageError
from mltrain.gates.holdout_looks import Look
from mltrain.names import VERSION, nearest, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder
from mltrain.storage.locks import FOLDER_WAIT_S, lock_folder
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_lines
from mltrain.store.history import look_line, read_history, read_looks
from mltrain.store.pointer import LINKS, POINTER, Pointer
from mltrain.store.signature import check_signer
from mltrain.store.versions import VersionRow, open_version_folder
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mltrain.store.history import History
    from mltrain.store.signature import Signer
    from mltrain.store.versions import StoredVersion

PROMOTIONS: Final = "promotions.jsonl"
# Versions that a hint names.
MAX_HINTED: Final = 3
# About forty thousand lines.
_MAX_LOG_BYTES: Final = 1 << 24
_REFERENCES: Final = "write best, latest, a version such as 2025-10-15, or a path with a / in it"


class Store:
    """The models folder of a data folder; it need not exist for reading.

    Args:
        data_dir: The data folder.
        lock_wait_s: How long a writer waits for another one, in seconds.
        signer: Signs what is published; None publishes without a signature.
    """

    def __init__(self, data_dir: Path, *, lock_wait_s: float = FOLDER_WAIT_S, signer: Signer | None = None) -> None:
        self.data_dir = data_dir
        self.models = data_dir / "models"
        self.signer = signer
        self._lock_wait_s = lock_wait_s

    @property
    def pointer(self) -> Pointer:
        """The pointer to the live version."""
        return Pointer(self.models)

    @property
    def promotions_path(self) -> Path:
        """The path of the log of promotions."""
        return self.models / PROMOTIONS

    # -- versions -----------------------------------------------------------------------------------------------

    def version_names(self) -> list[str]:
        """Return the name of everything that is named like a version, sound or not, sorted by name."""
        with disk_errors(self.models, "list"):
            try:
                return sorted(path.name for path in self.models.iterdir() if VERSION.fullmatch(path.name))
            except FileNotFoundError:
                return []

    def versions(self) -> tuple[VersionRow, ...]:
        """List every version in the order of publication, damaged ones last; no file is hashed.

        Raises:
            InputError: The pointer or the log of promotions is damaged.
            MachineError: The machine refuses to read.
        """
        history = self.history()
        rows = [self.read_row(name, history) for name in self.version_names()]
        # A version may have been removed since the names were listed.
        rows = [row for row in rows if row.version or os.path.lexists(self.models / row.name)]
        sound = sorted((row for row in rows if row.version), key=_publication_order)
        newest = [VersionRow(row.name, row.version, latest=True, problem=None) for row in sound[-1:]]
        return (*sound[:-1], *newest, *(row for row in rows if row.version is None))

    def read_row(self, name: str, history: History) -> VersionRow:
        """Return a version's row; a damaged version is a row with its problem."""
        try:
            version = open_version_folder(self.models / name, live=history.best, history=history)
        except InputError as err:
            return VersionRow(name, None, latest=False, problem=err.message)
        return VersionRow(name, version, latest=False, problem=None)

    def open_version(self, ref: str) -> StoredVersion:
        """Open a version.

        Args:
            ref: `best` (the live version), `latest`, a version's name, or a path as `open_path` takes it (anything
                with a "/").

        Raises:
            UsageError: `ref` is none of these.
            InputError: There is no such version, or it is damaged; the hint names the nearest ones.
            MachineError: The machine refuses to read.
        """
        if ref == "best":
            live = self.live_version()
            if live is None:
                raise InputError(f"no version in {self.models} was promoted yet", hint=self._promote_hint())
            return live
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
        history = self.history()
        try:
            return open_version_folder(self.models / name, live=history.best, history=history)
        except InputError as err:
            raise InputError(err.message, hint=self.nearest_hint(name)) from err

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
            if row.latest and row.version is not None:
                return row.version
        raise InputError(f"there is no version in {self.models}", hint=self.nearest_hint(""))

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
            return open_version_folder(self.models / name, live=name)
        except InputError as err:
            raise InputError(
                f"{self.pointer.path} leads to {name}: {err.message}", hint=self._promote_hint(name)
            ) from err

    def live_name(self) -> str | None:
        """Return the name that the pointer holds; None if there is no pointer.

        Raises:
            InputError: The pointer is not a link to a version's name; the hint says what to remove and to run.
            MachineError: The machine refuses to read.
        """
        try:
            return self.pointer.target()
        except InputError as err:
            history = read_history(self.read_promotions(), best=None, where=str(self.promotions_path))
            remove = ", ".join(map(str, self.pointer.obstacles())) or str(self.pointer.path)
            raise InputError(err.message, hint=f"remove {remove}; then {self.restore_hint(history)}") from err

    def read_promotions(self) -> bytes:
        """Return the bytes of the log of promotions; empty if there is none."""
        return _read_log(self.promotions_path)

    def history(self) -> History:
        """Read the log of promotions and rollbacks.

        Raises:
            InputError: The pointer or the log is not a link or a file; damaged lines are problems of the History.
            MachineError: The machine refuses to read.
        """
        while True:
            # The pointer before the log: a promotion in between then looks like one that is not complete yet.
            live = self.live_name()
            log = self.read_promotions()
            staged = self.pointer.staged_target()
            # A first promotion in between has written its line and replaced the staged pointer by the real one.
            if live is not None or self.live_name() is None:
                return read_history(log, best=live, staged=staged, where=str(self.promotions_path))

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
                hint=self.restore_hint(history),
            )
        if history.best is None and history.problems:
            raise InputError(
                f"there is no pointer {self.pointer.path}, and whether there was one cannot be read: "
                f"{history.problems[0]}",
                hint=self._promote_hint(),
            )
        return history

    def restore_hint(self, history: History) -> str:
        """Return the command that restores a lost pointer, as a hint.

        Raises:
            MachineError: The machine refuses to read.
        """
        if history.lost is None:
            return self._promote_hint()
        entry = next(e for e in reversed(history.entries) if e.to_version == history.lost)
        try:
            version = open_version_folder(self.models / history.lost, live=None)
            problem = None if version.card_sha256 == entry.card_sha256 else "is another version of that name now"
        except InputError as err:
            version, problem = None, f"cannot be opened ({err.message})"
        if version is None or problem:
            if any(name != history.lost for name in self.version_names()):
                return f"{history.lost} {problem}: {self._promote_hint(history.lost)}"
            return f"{history.lost} {problem}: copy it again, or move {self.promotions_path} away to start over"
        force = "" if version.verdict == "GO" else ' --force --why "the pointer was lost"'
        return f"run `mltrain promote {history.lost}{force}`"

    def _promote_hint(self, damaged: str | None = None) -> str:
        names = [name for name in self.version_names() if name != damaged][-MAX_HINTED:]
        return f"run `mltrain promote VERSION`: {', '.join(names)}" if names else "make one with `mltrain train`"

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
        path: A version's folder, its `lgbm.pkl` or `model_card.json`, or the pointer or a link of a models folder:
            `best_lgbm`, `best_lgbm.pkl`, `best_lgbm_model_card.json`.

    Raises:
        UsageError: The path names something else.
        InputError: There is no such version, or it is damaged.
        MachineError: The machine refuses to read.
    """
    if "\0" in str(path):
        raise UsageError(f"{show(str(path))} cannot be a path", hint=_REFERENCES)
    files = (MODEL_FILE, CARD_FILE)
    # pathlib's absolute keeps "..".
    place = Path(os.path.abspath(path))  # noqa: PTH100
    if place.name in files:
        place = place.parent
    if place.name in LINKS:
        Pointer(place.parent).has_link(place.name)
    if place.name == POINTER or place.name in LINKS:
        return _store_of(place.parent).open_version("best")
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
