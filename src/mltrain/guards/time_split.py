"""time_split: the blocks of rows that the learner gets do not overlap in time, labels included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.guards.evidence import Failure, Findings
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.guards.evidence import GuardResult

_DETAILS: Final[Mapping[str, str]] = {
    "order": "pairs of blocks: the earlier one's last label and the embargo end before the later block begins",
    "labels": "rows whose label ends after the row itself",
}


@dataclass(frozen=True, slots=True, eq=False)
class BlockArrays:
    """The times of the rows of one block, all symbols together.

    Attributes:
        name: The block's name in messages.
        ts_ms: Open time of each row's candle, ms UTC, shape (n,).
        label_end_ms: Open time of the last candle of each row's label, ms UTC, shape (n,).
    """

    name: str
    ts_ms: NDArray[np.int64]
    label_end_ms: NDArray[np.int64]


def time_split(pairs: Sequence[tuple[BlockArrays, BlockArrays]], *, embargo_ms: int) -> GuardResult:
    """Check that no label of an earlier block reaches into a later block.

    For each pair, the first candle of the later block must open more than `embargo_ms` after the last label of the
    earlier block has ended, whatever the order of the rows.

    Args:
        pairs: Every (earlier, later) pair of blocks that must be in order.
        embargo_ms: Additional time between the blocks, 0 or more.

    Returns:
        The evidence; `worst` is always 0, because a pair either passes or fails.
    """
    findings = Findings("time_split")
    if not pairs:
        findings.fail("order", Failure("split", "all", None, "blocks to compare", "none", "nothing was split"))
    for earlier, later in pairs:
        _check_pair(findings, earlier, later, embargo_ms)
    blocks = {id(block): block for pair in pairs for block in pair}
    for block in blocks.values():
        _check_labels(findings, block)
    return findings.result(_DETAILS)


def _check_pair(findings: Findings, earlier: BlockArrays, later: BlockArrays, embargo_ms: int) -> None:
    findings.count("order", 1)
    name = f"{earlier.name} before {later.name}"
    empty = [block.name for block in (earlier, later) if not block.ts_ms.size]
    if empty:
        findings.fail("order", Failure(name, "all", None, "rows", "none", f"{' and '.join(empty)} is empty"))
        return
    last_end, first = int(earlier.label_end_ms.max()), int(later.ts_ms.min())
    if last_end + embargo_ms >= first:
        why = f"{earlier.name} reaches into {later.name}: its last label and {embargo_ms} ms of embargo must end first"
        findings.fail("order", Failure(name, "all", first, f"before {format_ms(first)}", format_ms(last_end), why))


def _check_labels(findings: Findings, block: BlockArrays) -> None:
    findings.count("labels", block.ts_ms.size)
    if block.ts_ms.shape != block.label_end_ms.shape:
        shapes = f"{block.ts_ms.size} times", f"{block.label_end_ms.size} label ends"
        findings.fail("labels", Failure(block.name, "all", None, *shapes, "every row needs both"))
        return
    early = np.flatnonzero(block.label_end_ms <= block.ts_ms)
    if early.size:
        ts_ms, end_ms = int(block.ts_ms[early[0]]), int(block.label_end_ms[early[0]])
        why = f"a label of {block.name} ends before it begins, so that no purge can work"
        findings.fail("labels", Failure(block.name, "all", ts_ms, f"after {format_ms(ts_ms)}", format_ms(end_ms), why))
