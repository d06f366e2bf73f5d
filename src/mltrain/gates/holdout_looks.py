"""Looks: scorings of a holdout's time range, and how many of them make the next one a selection.

Pure. The best of several tries on the same rows looks better than it is. Every other configuration or seed that was
scored on them counts; the routine retraining of one configuration on newer candles is not a selection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.documents.records import record
from mltrain.documents.values import Sha256

if TYPE_CHECKING:
    from collections.abc import Iterable


# How the study of a look begins: a look by `mltrain evaluate` or `mltrain backtest`, and one at the rows on which the
# parameters of a warm start were chosen.
EVALUATION: Final = "evaluate "
BACKTEST: Final = "backtest "
WARM_START: Final = "warm start "

# Two cuts of one configuration within half a day share nearly all rows: that is trying again, not retraining.
NEWER_MS: Final = 43_200_000
_STUDY_END: Final = re.compile(r"-([0-9a-f]{16}-[0-9]+)")


@record
@dataclass(frozen=True, slots=True)
class Look:
    """One scoring of a holdout.

    Attributes:
        start_ms: First open time of its range, UTC ms.
        end_ms: End of its range, UTC ms, excluded.
        when: When it was scored, UTC, such as 2025-10-15T12:00:00Z.
        study: Name of the study that scored it.
        configuration_sha256: Hash of everything except the candles that the study's scores depend on; None if unknown.
    """

    start_ms: int
    end_ms: int
    when: str
    study: str
    configuration_sha256: Sha256 | None = None


@dataclass(frozen=True, slots=True)
class LookCounts:
    """How often the holdout's time range has been scored before.

    Attributes:
        earlier: Earlier scorings whose range overlaps this one's.
        weighted: The same, each weighted by the share of this range that it covered, 0 to 1.
        others: Other configurations or seeds among them, each counted once, by the largest share that it covered.
    """

    earlier: int
    weighted: float
    others: float


def count_looks(
    looks: Iterable[Look], *, start_ms: int, end_ms: int, study: str, configuration_sha256: str
) -> LookCounts:
    """Count the earlier looks at a holdout.

    Looks of the same configuration and seed do not count as others if they are by the same study (its scores are the
    same), by an evaluation or a backtest of a version (nothing was fitted), or by a training whose holdout ends at
    least half a day earlier.

    Args:
        looks: All earlier looks.
        start_ms: First open time of the holdout, UTC ms.
        end_ms: End of the holdout, UTC ms, excluded.
        study: Name of the study that is about to score it.
        configuration_sha256: Hash of everything except the candles that the study's scores depend on.
    """
    shares, others = [], dict[str, float]()
    for look in looks:
        share = max(0, min(end_ms, look.end_ms) - max(start_ms, look.start_ms)) / (end_ms - start_ms)
        if share == 0:
            continue
        shares.append(share)
        if look.configuration_sha256 is not None:
            current_key, key = configuration_sha256, look.configuration_sha256
        elif look.study.startswith((EVALUATION, BACKTEST)):
            # The training of that version has its own line.
            continue
        elif look.study.startswith(WARM_START):
            current_key, key = study, look.study
        else:
            # Lines of earlier releases have no configuration hash; the end of the study's name holds part of it.
            current_key, key = _read_configuration(study), _read_configuration(look.study)
        if current_key == key:
            was_fitted = not look.study.startswith((EVALUATION, BACKTEST, WARM_START)) and look.study != study
            if not was_fitted or end_ms - look.end_ms >= NEWER_MS:
                continue
            key = look.study
        others[key] = max(share, others.get(key, 0.0))
    return LookCounts(earlier=len(shares), weighted=sum(shares), others=sum(others.values()))


def _read_configuration(study: str) -> str:
    """Return configuration hash and seed from the end of a study's name; the whole name if it has none."""
    match = _STUDY_END.search(study)
    return match.group(1) if match and match.end() == len(study) else study
