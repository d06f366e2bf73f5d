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
        ts_ms: Open time of each row's candle, UTC ms, in any order, shape (n,).
        label_end_ms: Open time of the last candle of each row's label, UTC ms, shape (n,).
    """

    name: str
    ts_ms: NDArray[np.int64]
    label_end_ms: NDArray[np.int64]


def time_split(pairs: Sequence[tuple[BlockArrays, BlockArrays]], *, embargo_ms: int) -> GuardResult:
    """Check that no label of an earlier block reaches into a later block.

    For each pair, the first candle of the later block must open more than `embargo_ms` after the last label of the
    earlier block has ended.

    Args:
        pairs: Every (earlier, later) pair of blocks that must be in order.
        embargo_ms: Additional time between the blocks, in ms, 0 or more.

    Returns:
        The evidence; `worst` is always 0, because a pair either passes or fails.
    """
    findings = Findings("time_split")
    if not pairs:
        failure = Failure(feature="split", expected="blocks to compare", got="none", why="nothing was split")
        findings.fail("order", failure)
    for earlier, later in pairs:
        _check_pair(findings, earlier, later, embargo_ms)
    blocks = {id(block): block for pair in pairs for block in pair}
    for block in blocks.values():
        _check_labels(findings, block)
    return findings.build_result(_DETAILS)


def _check_pair(findings: Findings, earlier: BlockArrays, later: BlockArrays, embargo_ms: int) -> None:
    """Check that the last label of the earlier block and the embargo end before the later block begins."""
    findings.count("order", 1)
    name = f"{earlier.name} before {later.name}"
    empty = [block.name for block in (earlier, later) if not block.ts_ms.size]
    if empty:
        why = f"{' and '.join(empty)} is empty"
        findings.fail("order", Failure(feature=name, expected="rows", got="none", why=why))
        return
    last_end_ms, begin_ms = int(earlier.label_end_ms.max()), int(later.ts_ms.min())
    if last_end_ms + embargo_ms >= begin_ms:
        expected, got = f"before {format_ms(begin_ms)}", format_ms(last_end_ms)
        why = f"{earlier.name} reaches into {later.name}: its last label and {embargo_ms} ms of embargo must end first"
        findings.fail("order", Failure(feature=name, time_ms=begin_ms, expected=expected, got=got, why=why))


def _check_labels(findings: Findings, block: BlockArrays) -> None:
    """Check that every row of a block has a label, which ends after the row's candle opens."""
    findings.count("labels", block.ts_ms.size)
    if block.ts_ms.shape != block.label_end_ms.shape:
        expected, got = f"{block.ts_ms.size} times", f"{block.label_end_ms.size} label ends"
        findings.fail("labels", Failure(feature=block.name, expected=expected, got=got, why="every row needs both"))
        return
    wrong = np.flatnonzero(block.label_end_ms <= block.ts_ms)
    if wrong.size:
        ts_ms, end_ms = int(block.ts_ms[wrong[0]]), int(block.label_end_ms[wrong[0]])
        expected, got = f"after {format_ms(ts_ms)}", format_ms(end_ms)
        why = f"a label of {block.name} ends before it begins, so that no purge can work"
        findings.fail("labels", Failure(feature=block.name, time_ms=ts_ms, expected=expected, got=got, why=why))
