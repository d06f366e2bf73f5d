"""Where versions live: published once and never changed, one pointer that says which is best, logs that only grow.

    models/<version>/...             a folder of files, manifest.json last: without it, no version
    models/best_lgbm -> <version>    the one pointer; one rename moves it
    models/best_lgbm.pkl, models/best_lgbm_model_card.json    links through the pointer, for other tools
    models/promotions.jsonl, models/looks.jsonl               see `history`

A copy of the folder may lose its links. If the log names a best version and there is no pointer, everything that needs
the pointer fails with the command that restores it: the latest version is no substitute for the best one.

Whatever a reader finds here is untrusted: names are held against their grammar, nothing is followed out of the folder,
files are hashed before they are used (see `versions`). Everything is written under `models/.lock`, held for the
moment of writing only, so that a rollback never waits for a training. A command that is refused changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILE
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError, MachineError, NoGoError, UsageError
from mltrain.gates.looks import Look
from mltrain.names import VERSION, check_version, nearest, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder, staged_folder
from mltrain.storage.locks import FOLDER_WAIT_S, lock_folder
from mltrain.storage.manifest import MANIFEST, read_manifest, verify_files
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_line, place_pointer, swap_pointer, write_new
from mltrain.store.history import Note, look_line, promotion_line, read_history, read_looks
from mltrain.store.pointer import BEST, LINKS, STAGED, best_name, has_link, staged_name, strays
from mltrain.store.pruning import PrunedVersions, remove_old
from mltrain.store.signature import SIGNATURE, check_signer
from mltrain.store.versions import VersionRow, describe_version, open_folder
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from mltrain.store.history import History, Verdict
    from mltrain.store.signature import Signer
    from mltrain.store.versions import StoredVersion

_FILES: Final = (MODEL_FILE, CARD_FILE)  # a path to a version may end with one of them

PROMOTIONS: Final = "promotions.jsonl"
MAX_NUMBER: Final = 1_000_000  # of a day's versions: the grammar has six digits
_MAX_LOG_BYTES: Final = 1 << 24  # some forty thousand lines
_REFERENCES: Final = "write best, latest, a version such as 2025-10-15, or a path with a / in it"
_SHOWN: Final = 3  # versions that a refusal names


@dataclass(frozen=True, slots=True)
class Move:
    """What became of the pointer.

    Attributes:
        moved: False where it stood there already, and nothing was written.
        from_version: The best version before; None where there was none. If the pointer was lost, the version that it
            named last, which may be `to_version` itself.
        to_version: The best version now.
    """

    moved: bool
    from_version: str | None
    to_version: str


class Store:
    """The models folder of a data folder; it need not exist for reading.

    Args:
        data_dir: The data folder.
        lock_wait_s: How long a writer waits for another one, in seconds.
        signer: Signs what is published; None: it is not signed.
    """

    def __init__(self, data_dir: Path, *, lock_wait_s: float = FOLDER_WAIT_S, signer: Signer | None = None) -> None:
        self.data_dir = data_dir
        self.models = data_dir / "models"
        self._lock_wait_s = lock_wait_s
        self.signer = signer

    # -- reading ------------------------------------------------------------------------------------------------

    def versions(self) -> tuple[VersionRow, ...]:
        """List every version in the order of publication, damaged ones last; no file is hashed.

        Raises:
            InputError: The pointer or the log of promotions is not one.
            MachineError: The machine refuses to read.
        """
        history = self.history()
        rows = [self._row(name, history) for name in self._names()]
        rows = [row for row in rows if row.version or os.path.lexists(self.models / row.name)]  # removed meanwhile
        sound = sorted((row for row in rows if row.version), key=_publication)
        newest = [VersionRow(row.name, row.version, latest=True, problem=None) for row in sound[-1:]]
        return (*sound[:-1], *newest, *(row for row in rows if row.version is None))

    def open_version(self, ref: str) -> StoredVersion:
        """Open a version.

        Args:
            ref: `best`, `latest`, a version's name, or a path as `open_path` takes it (anything with a "/").

        Raises:
            UsageError: `ref` is none of these.
            InputError: There is no such version, or it is damaged; the hint names the nearest ones.
            MachineError: The machine refuses to read.
        """
        if ref == "best":
            best = self.best()
            if best is None:
                raise InputError(f"no version in {self.models} was promoted yet", hint=self._promote_hint())
            return best
        if ref == "latest":
            return self._latest()
        if "/" in ref:
            return open_path(Path(ref))
        if VERSION.fullmatch(ref) is None:
            raise UsageError(f"{show(ref)} is no reference to a version", hint=_REFERENCES)
        return self._open_named(ref)

    def open_default(self, ref: str | None = None) -> tuple[StoredVersion, str | None]:
        """Open `ref`; without one the best version, and where nothing was promoted the latest, with a warning.

        Returns:
            The version, and what the user should know about the choice.

        Raises:
            UsageError: `ref` is no reference.
            InputError: There is no such version, or it is damaged; or the pointer was lost.
            MachineError: The machine refuses to read.
        """
        if ref is not None:
            return self.open_version(ref), None
        best = self.best()
        if best is not None:
            return best, None
        latest = self._latest()
        return latest, f"nothing was promoted yet: taking the latest version, {latest.name} ({latest.verdict})"

    def best(self) -> StoredVersion | None:
        """Open the version that the pointer names; None where nothing was promoted yet.

        Raises:
            InputError: The pointer does not name a sound version in its folder, or was lost.
            MachineError: The machine refuses to read.
        """
        name = self._best_name() or self.check_pointer().best
        if name is None:
            return None
        try:
            return open_folder(self.models / name, best=name)
        except InputError as err:
            raise InputError(
                f"{self.models / BEST} leads to {name}: {err.message}", hint=self._promote_hint(name)
            ) from err

    def history(self) -> History:
        """Read the log of promotions and rollbacks.

        Raises:
            InputError: The pointer or the log is not one; damaged lines are problems of the History instead.
            MachineError: The machine refuses to read.
        """
        while True:
            best = self._best_name()  # before the log: a promotion in between then looks like one that is not done yet
            log = _read_log(self._promotions)
            staged = staged_name(self.models)
            # A first promotion in between has written its line and replaced the staged pointer by the real one.
            if best is not None or self._best_name() is None:
                return read_history(log, best=best, staged=staged, where=str(self._promotions))

    def check_pointer(self) -> History:
        """Check that the pointer exists if the log says so, and return the log.

        Raises:
            InputError: It is not one, or it was lost; the hint is the command that restores it.
            MachineError: The machine refuses to read.
        """
        history = self.history()
        if history.best is None and history.lost is not None:
            raise InputError(
                f"the pointer {self.models / BEST} is missing, and {history.lost} was the best version"
                f"{', as far as the log can be read' if len(history.problems) > 1 else ''}: links are easily lost "
                "when a folder is copied",
                hint=self.restore_hint(history),
            )
        if history.best is None and history.problems:
            raise InputError(
                f"there is no pointer {self.models / BEST}, and whether there was one cannot be read: "
                f"{history.problems[0]}",
                hint=self._promote_hint(),
            )
        return history

    def restore_hint(self, history: History) -> str:
        """Return the command that restores a lost pointer, as a hint.

        Args:
            history: The log.

        Raises:
            MachineError: The machine refuses to read.
        """
        if history.lost is None:
            return self._promote_hint()
        entry = next(e for e in reversed(history.entries) if e.to_version == history.lost)
        try:
            version = open_folder(self.models / history.lost, best=None)
            problem = None if version.card_sha256 == entry.card_sha256 else "is another version of that name now"
        except InputError as err:
            version, problem = None, f"cannot be opened ({err.message})"
        if version is None or problem:
            others = any(name != history.lost for name in self._names())
            anew = f"copy it again, or move {self._promotions} away to start over"
            return f"{history.lost} {problem}: {self._promote_hint(history.lost) if others else anew}"
        force = "" if version.verdict == "GO" else ' --force --why "the pointer was lost"'
        return f"run `mltrain promote {history.lost}{force}`"

    def looks(self) -> tuple[Look, ...]:
        """Return every look at a holdout, oldest first.

        Raises:
            InputError: The log cannot be read whole.
            MachineError: The machine refuses to read.
        """
        return read_looks(_read_log(self._looks), where=str(self._looks))

    # -- writing ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the models folder and try it, so that a long run does not fail at its end.

        Raises:
            UsageError: What is published here must be signed, and this store has not got the key.
            InputError: The pointer or a log is not one, or the pointer was lost.
            MachineError: It cannot be written into.
        """
        check_signer(self.signer)
        make_folder(self.models)
        self.check_pointer()
        self.looks()

    def publish_version(
        self,
        files: Mapping[str, bytes],
        *,
        verdict: Verdict,
        date: str,
        now_ms: int,
        named: Callable[[str], Mapping[str, bytes]] = lambda _: {},
    ) -> StoredVersion:
        """Publish a version: it appears whole, or not at all, and is never changed.

        Args:
            files: Its files by bare name; `lgbm.pkl` and `model_card.json` among them.
            verdict: What the gates said.
            date: The UTC date of training, such as 2025-10-15; a second version that day gets the suffix `.2`.
            now_ms: When it was trained, ms UTC.
            named: Given the version's name, makes the files that tell it; the folder is held meanwhile.

        Raises:
            InputError: A file's name is not one that a version can hold, or the pointer or the log is not one.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses; nothing is left.
        """
        self.prepare()
        if SIGNATURE in files:
            raise ValueError(f"{SIGNATURE} is not one of the files that are signed")
        with self._locked("publishing a version"):
            name, serial = self._next(date)
            files = {**files, **named(name)}
            manifest = describe_version(files, name=name, serial=serial, verdict=verdict, now_ms=now_ms)
            with staged_folder(self.models / name) as staged:
                for path, data in files.items():
                    write_new(staged / path, data)
                if self.signer is not None:
                    write_new(staged / SIGNATURE, self.signer.sign(manifest))
                write_new(staged / MANIFEST, manifest.to_bytes())
                if verify_files(staged, read_manifest(staged, kind="version"), beside=(SIGNATURE,)):
                    raise MachineError(f"what was written to {staged} does not read back")
        return self._open_named(name)

    def promote(
        self,
        ref: str,
        *,
        why: str,
        by: str,
        now_ms: int,
        force: bool = False,
        check: Callable[[StoredVersion, StoredVersion], None] | None = None,
    ) -> Move:
        """Make a version the best one, in one atomic step; this also restores a lost pointer.

        Args:
            ref: As `open_version` takes it.
            why: The reason, for the log.
            by: Who asked, for the log.
            now_ms: When, ms UTC.
            force: Whether a NO-GO version may be promoted, too.
            check: Called with the version and the present best one; raises if the version must not replace it, such as
                `replacement.check_same_meaning`. Called while nobody else can move the pointer; not called if the
                best version cannot be opened, because there is nothing to compare with.

        Raises:
            NoGoError: The version is NO-GO, and `force` was not given; or `check` refuses it.
            UsageError: `ref` is no reference, or names a version of another folder.
            InputError: There is no such version, or it or the pointer is damaged.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses; the pointer stands where it stood.
        """
        version = self._check_promotable(ref, force=force)
        return self._move(version.name, Note(why, by, now_ms), check)

    def rollback(self, name: str, *, why: str, by: str, now_ms: int) -> Move:
        """Make a version that was the best one before the best one again, in one atomic step.

        Args:
            name: The version's name.
            why: The reason, for the log.
            by: Who asked, for the log.
            now_ms: When, ms UTC.

        Raises:
            UsageError: `name` is not a version's name.
            InputError: There is no such version, it was never promoted, or it or the pointer is damaged or lost.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses; the pointer stands where it stood.
        """
        check_version(name)
        self.check_pointer()
        version = self._open_named(name)
        if not version.promoted:
            raise InputError(f"{name} was never promoted", hint=self._never_promoted_hint(version))
        return self._move(name, Note(why, by, now_ms))

    def rollback_previous(self, *, why: str, by: str, now_ms: int) -> Move:
        """Make the version that was best before the present one the best one again.

        Args:
            why: The reason, for the log.
            by: Who asked, for the log.
            now_ms: When, ms UTC.

        Raises:
            InputError: The log tells of none, or `rollback` refuses it.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses; the pointer stands where it stood.
        """
        history = self.check_pointer()
        previous = history.previous()
        if previous is None:
            now = f"before {history.best}" if history.best else "yet"
            raise InputError(f"no version was the best one {now}", hint="`mltrain models history` shows what was")
        return self.rollback(previous, why=why, by=by, now_ms=now_ms)

    def prune(self, *, keep: int) -> PrunedVersions:
        """Remove all but the `keep` newest versions; the logs stay as they are.

        Never removed are the best version, the one that `rollback --previous` would go back to, the latest (its serial
        must not be given twice), one that a running mltrain is reading, and what cannot be read as a version.

        Raises:
            InputError: The pointer or the log of promotions is not one, or the pointer was lost.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses.
        """
        if not self.models.is_dir():
            return PrunedVersions((), ())
        with self._locked("removing old versions"):
            return remove_old(self.models, self.versions(), self.check_pointer(), keep=keep)

    def record_look(
        self, *, start_ms: int, end_ms: int, study: str, now_ms: int, configuration_sha256: str | None = None
    ) -> None:
        """Write down that a holdout is about to be scored; call it before the score is known.

        Args:
            start_ms: First open time of the holdout's range, ms UTC.
            end_ms: Its end, ms UTC.
            study: By which study.
            now_ms: When, ms UTC.
            configuration_sha256: Hash of the configuration that is scored; None where it is not known.

        Raises:
            InputError: The pointer or a log is not one.
            LockedError: The folder is held for longer than the wait.
            MachineError: The machine refuses.
        """
        self.prepare()
        with self._locked("recording a look at a holdout"):
            look = Look(start_ms, end_ms, format_seconds(now_ms), study, configuration_sha256)
            append_line(self._looks, look_line(_read_log(self._looks), look))

    # -- inside -------------------------------------------------------------------------------------------------

    @classmethod
    def _of_models(cls, models: Path) -> Store:
        store = cls(models.parent)
        store.models = models
        return store

    @property
    def _promotions(self) -> Path:
        return self.models / PROMOTIONS

    @property
    def _looks(self) -> Path:
        return self.models / "looks.jsonl"

    def _locked(self, purpose: str) -> AbstractContextManager[None]:
        return lock_folder(self.models, purpose=purpose, wait_s=self._lock_wait_s)

    def _names(self) -> list[str]:
        """Return everything that is called like a version, whatever it is, in the order of names."""
        with disk_errors(self.models, "list"):
            try:
                return sorted(path.name for path in self.models.iterdir() if VERSION.fullmatch(path.name))
            except FileNotFoundError:
                return []

    def _best_name(self) -> str | None:
        try:
            return best_name(self.models)
        except InputError as err:
            history = read_history(_read_log(self._promotions), best=None, where=str(self._promotions))
            remove = ", ".join(map(str, strays(self.models))) or str(self.models / BEST)
            raise InputError(err.message, hint=f"remove {remove}; then {self.restore_hint(history)}") from err

    def _open_named(self, name: str) -> StoredVersion:
        history = self.history()
        try:
            return open_folder(self.models / name, best=history.best, history=history)
        except InputError as err:
            raise InputError(err.message, hint=self._nearest_hint(name)) from err

    def _row(self, name: str, history: History) -> VersionRow:
        try:
            version = open_folder(self.models / name, best=history.best, history=history)
        except InputError as err:
            return VersionRow(name, None, latest=False, problem=err.message)
        return VersionRow(name, version, latest=False, problem=None)

    def _latest(self) -> StoredVersion:
        for row in self.versions():
            if row.latest and row.version is not None:
                return row.version
        raise InputError(f"there is no version in {self.models}", hint=self._nearest_hint(""))

    def _promote_hint(self, damaged: str | None = None) -> str:
        names = [name for name in self._names() if name != damaged][-_SHOWN:]
        return f"run `mltrain promote VERSION`: {', '.join(names)}" if names else "make one with `mltrain train`"

    def _nearest_hint(self, name: str) -> str:
        """Name other versions than the one that was asked for: that one is not there, or damaged."""
        known = [other for other in self._names() if other != name]
        if not known:
            return "make one with `mltrain train`"
        return f"the nearest: {', '.join(nearest(name, known, count=_SHOWN) or known[-_SHOWN:])}"

    def _never_promoted_hint(self, version: StoredVersion) -> str:
        """Name the promoted versions that may have been meant, and the command that promotes this one."""
        promoted = [row.name for row in self.versions() if row.version and row.version.promoted]
        same_day = [name for name in promoted if name.split(".")[0] == version.name.split(".")[0]]
        meant = (same_day or nearest(version.name, promoted) or promoted)[-_SHOWN:]
        force = "" if version.verdict == "GO" else " --force --why TEXT"
        ways = [f"`mltrain rollback {name}`" for name in meant] + [f"`mltrain promote {version.name}{force}`"]
        return f"run {' or '.join(ways)}"

    def _next(self, date: str) -> tuple[str, int]:
        """Return the next name of a day and the next serial; the caller holds the lock."""
        rows = self.versions()
        history = self.history()
        # A name that was ever promoted is never given again, or a pointer or a line of the log could mean the new one.
        taken = {row.name for row in rows} | {entry.to_version for entry in history.entries} | {history.best}
        # The number after the highest, as lower ones may have been those of versions that were removed.
        numbers = [int(name[len(date) + 1 :] or 1) for name in taken if name and name.partition(".")[0] == date]
        after = max(numbers, default=0) + 1
        names = (date if number == 1 else f"{date}.{number}" for number in chain(range(after, MAX_NUMBER), count(1)))
        name = next(name for name in names if name not in taken)
        serials = [row.version.serial for row in rows if row.version]
        # Damaged versions count, too: theirs cannot be read and must not be given twice.
        return check_version(name), max([*serials, len(rows)], default=0) + 1

    def _check_promotable(self, ref: str, *, force: bool) -> StoredVersion:
        version = self.open_version(ref)
        if real_path(version.folder.parent) != real_path(self.models):
            raise UsageError(f"{version.folder} is not in {self.models}", hint="name its data folder with --data-dir")
        if version.verdict != "GO" and not force:
            raise NoGoError(
                f"{version.name} is NO-GO: a gate failed",
                hint=f"`mltrain card show {version.name}` tells which; promote it all the same with --force --why TEXT",
            )
        return version

    def _move(self, name: str, note: Note, check: Callable[[StoredVersion, StoredVersion], None] | None = None) -> Move:
        """Move the pointer to a version whose right to it was checked; every file is hashed before anything moves."""
        self._best_name()  # first: its error names everything that must be removed
        missing = [link for link in LINKS if not has_link(self.models / link)]
        self._check_whole(name)  # also of the best one: nobody who asks for it is told that all is well if it is not
        if self._best_name() == name and not missing:
            return Move(moved=False, from_version=name, to_version=name)
        with self._locked("moving the best pointer"):
            history = self.history()
            moves = history.best != name
            # A lost pointer counts as still in place: a line that starts there shows that the previous line happened.
            before = history.best or history.lost
            version = self._open_named(name)
            if check is not None and before not in {None, name} and (served := self._row(before, history).version):
                check(version, served)
            if before is None and not history.entries:
                swap_pointer(self.models / STAGED, name)
            if moves:
                line = promotion_line(
                    _read_log(self._promotions),
                    from_version=before,
                    to_version=name,
                    verdict=version.verdict,
                    card_sha256=version.card_sha256,
                    note=note,
                )
                append_line(self._promotions, line)
            for link in missing:  # before the pointer moves: its move completes everything
                swap_pointer(self.models / link, LINKS[link])
            if before is None:
                if history.entries:  # lines of promotions that were cut off: one of them is staged already
                    swap_pointer(self.models / STAGED, name)
                place_pointer(self.models / STAGED, self.models / BEST)
            elif moves:
                swap_pointer(self.models / BEST, name)
        return Move(moved=moves, from_version=before, to_version=name)

    def _check_whole(self, name: str) -> None:
        problems = self._open_named(name).verify()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            hint = f"`mltrain verify model {name}` tells all; {self._nearest_hint(name)}"
            raise InputError(f"{name} is damaged: {problems[0]}{more}", hint=hint)


def open_path(path: Path) -> StoredVersion:
    """Open the version that a path leads to.

    Args:
        path: A version's folder, its `lgbm.pkl` or `model_card.json`, or one of the links of a models folder:
            `best_lgbm`, `best_lgbm.pkl`, `best_lgbm_model_card.json`.

    Raises:
        UsageError: The path names something else.
        InputError: There is no such version, or it is damaged.
        MachineError: The machine refuses to read.
    """
    if "\0" in str(path):
        raise UsageError(f"{show(str(path))} cannot be a path", hint=_REFERENCES)
    place = Path(os.path.abspath(path))  # noqa: PTH100 (pathlib's absolute keeps "..")
    if place.name in _FILES:
        place = place.parent
    if place.name in LINKS:
        has_link(place)
    if place.name == BEST or place.name in LINKS:
        return Store._of_models(place.parent).open_version("best")  # noqa: SLF001 (this module's own)
    folder = real_path(place)  # a path that the user named may be a link of the user's
    if folder.name in _FILES:
        folder = folder.parent
    if VERSION.fullmatch(folder.name) is None:
        raise UsageError(f"{show(str(path))} does not lead to a version", hint=_REFERENCES)
    return Store._of_models(folder.parent).open_version(folder.name)  # noqa: SLF001 (as above)


def _publication(row: VersionRow) -> tuple[int, str]:
    return (row.version.serial if row.version else 0, row.name)


def _read_log(path: Path) -> bytes:
    return read_file(path, max_bytes=_MAX_LOG_BYTES, what="the log") if os.path.lexists(path) else b""
