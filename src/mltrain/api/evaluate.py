"""`evaluate`: the scores of a version on later candles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrain.api.references import read_snapshot, read_version
from mltrain.api.workspace import DATA_DIR, open_store, read_clock, read_progress

if TYPE_CHECKING:
    from mltrain.api.references import SnapshotRef, VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.pipeline.evaluate import Evaluation


def evaluate(
    version: VersionRef | None = None,
    snapshot: SnapshotRef = "latest",
    *,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    now_ms: int | None = None,
    progress: ProgressLike | None = None,
) -> Evaluation:
    """Score a version on candles later than its training data: decay, drift, comparison with the live version.

    The look at these candles is logged before they are scored, because later trainings must count it.

    Args:
        version: Its name, "latest", "best", "best:SLOT", a path, the model itself, or the result of its training; None:
            the live version or, with a warning, the latest if nothing was promoted yet.
        snapshot: The candles: "latest", an id, a path, or a snapshot.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        now_ms: The time, ms UTC, for the log of looks; None: the machine's clock.
        progress: Receives stages and warnings.

    Returns:
        The scores; `skill_percent` is what `mltrain evaluate --min-skill` compares.

    Raises:
        UsageError: `version` or `snapshot` is none of these.
        InputError: The snapshot lacks a symbol or later candles, is of another interval or market, or is damaged; or
            there is no such version.
        OwnOpsError: The version was trained with user ops that are not imported.
        LockedError: The store is locked for longer than the wait.
    """
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.evaluate import evaluate

    shown, store = read_progress(progress), open_store(data_dir, slot)
    if ops is not None:
        import_user_ops(ops)
    opened = read_version(version, store, shown)
    return evaluate(opened, read_snapshot(snapshot, data_dir), store, now_ms=read_clock(now_ms), progress=shown)
