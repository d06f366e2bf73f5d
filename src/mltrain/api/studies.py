"""`studies` and `studies prune`: the journals of searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mltrain.api.workspace import DATA_DIR, check_path, read_clock
from mltrain.documents.results import Result
from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from mltrain.api.workspace import PathText
    from mltrain.pipeline.study_pruning import PrunedStudies, StudyRow


@dataclass(frozen=True, slots=True)
class StudyList(Result):
    """The result of `studies`.

    Attributes:
        studies: The journals, by name.
    """

    SCHEMA: ClassVar[str] = "studies/1"

    studies: tuple[StudyRow, ...]


def list_studies(*, data_dir: PathText = DATA_DIR) -> StudyList:
    """List the journals of searches in a data folder."""
    from mltrain.pipeline.study_pruning import list_studies

    return StudyList(list_studies(check_path(data_dir, "data_dir")))


def studies_prune(
    *, older_than: int, dry_run: bool = False, data_dir: PathText = DATA_DIR, now_ms: int | None = None
) -> PrunedStudies:
    """Remove old journals of searches, which then cannot be resumed; versions keep the trials that led to them.

    Args:
        older_than: Days without a new trial after which a journal is removed, 1 or more.
        dry_run: Only return what would be removed.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.
    """
    from mltrain.pipeline.study_pruning import prune_studies

    return prune_studies(
        check_path(data_dir, "data_dir"), before_ms=read_clock(now_ms) - older_than * DAY_MS, dry_run=dry_run
    )
