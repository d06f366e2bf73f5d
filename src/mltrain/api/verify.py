"""`verify snapshot` and `verify model`: check every byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mltrain.api.references import read_snapshot, read_version
from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_progress
from mltrain.documents.results import Result

if TYPE_CHECKING:
    from mltrain.api.references import SnapshotRef, VersionRef
    from mltrain.api.workspace import PathText, ProgressLike


@dataclass(frozen=True, slots=True)
class VerifyResult(Result):
    """The result of `verify`.

    Attributes:
        kind: What was checked.
        name: Id of the snapshot, or name of the version.
        sound: Whether nothing is wrong; exit code 0 or 3.
        problems: What is wrong, one line each.
    """

    SCHEMA: ClassVar[str] = "verify/1"

    kind: Literal["snapshot", "model"]
    name: str
    sound: bool
    problems: tuple[str, ...]


def verify_snapshot(snapshot: SnapshotRef = "latest", *, data_dir: PathText = DATA_DIR) -> VerifyResult:
    """Hash every file of a snapshot and check its candles.

    Args:
        snapshot: "latest", an id, a path, or the snapshot itself.
        data_dir: The data folder.

    Raises:
        InputError: There is no such snapshot.
    """
    from mltrain.snapshots.snapshot import verify_snapshot

    opened = read_snapshot(snapshot, data_dir)
    problems = verify_snapshot(opened)
    return VerifyResult("snapshot", opened.id, sound=not problems, problems=problems)


def verify_model(
    version: VersionRef | None = None,
    *,
    retrain: bool = False,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> VerifyResult:
    """Hash every file of a version, then check its card and its model.

    Args:
        version: Its name, "latest", "best", "best:SLOT", a path, or the model itself; None: the live version or, with
            a warning, the latest if nothing was promoted yet.
        retrain: Also fit it again from its snapshot and card, and compare the bytes.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        progress: Receives stages and warnings.

    Raises:
        InputError: There is no such version.
    """
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.predict import verify_version
    from mltrain.pipeline.retrain import retrain_version

    shown = read_progress(progress)
    if ops is not None:
        import_user_ops(ops)
    opened = read_version(version, open_store(data_dir, slot), shown)
    problems = verify_version(opened)
    if retrain and not problems:
        problems = retrain_version(opened, check_path(data_dir, "data_dir"), progress=shown).problems
    return VerifyResult("model", opened.name, sound=not problems, problems=problems)
