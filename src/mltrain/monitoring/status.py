"""The state of operation of a data folder, as `mltrain.monitoring.status_reader` finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from mltrain.documents.results import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.killswitch.halts import Armed, Halt
    from mltrain.monitoring.live_quality import OutcomeScores, ScoreDrift
    from mltrain.store.history import Verdict

#: What is wrong: a code for each kind.
ProblemKind: TypeAlias = Literal[
    "unreadable",
    "halted",
    "reduced",
    "sentinel-silent",
    "no-live-version",
    "live-version-old",
    "expired",
    "round-overdue",
    "candles-old",
    "no-answers",
    "answers-old",
    "refused",
    "drift",
    "calibration",
    "events-waiting",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is overdue or wrong.

    Attributes:
        kind: Its code.
        slot: The slot that it concerns; None: the whole folder.
        sentence: All of it; damage of a file may have several lines.
        hint: What to do; None: nothing in particular.
    """

    kind: ProblemKind
    slot: str | None
    sentence: str
    hint: str | None = None

    def describe(self) -> str:
        """Return it on one line; of a message with several lines the first, and the number of the others."""
        slot = "" if self.slot is None else f"{self.slot}: "
        first, *others = self.sentence.splitlines() or [""]
        more = f" (and {len(others)} more)" if others else ""
        text = f"{slot}{first}{more}{'' if self.hint is None else f'; {self.hint}'}"
        return "".join(c if c.isprintable() else " " for c in text)


@dataclass(frozen=True, slots=True)
class LiveAnswers:
    """The answers of a live version since its promotion, as far back as the ledger was read.

    Attributes:
        rows: Number of answers.
        is_complete: Whether these are all since its promotion.
        first_at: When the first of them was given, UTC.
        last_at: When the last of them was given, UTC.
        age_s: Seconds since then.
        last_candle: Open time of the newest candle in them, UTC; None: no answer had a candle.
        refused: Number of answers without a probability, by the reason's code; the most frequent one first.
        refused_share: Share of them among the answers; those that a halt refused do not count. None: there are only
            those.
        missed: Number of candles that were not answered, because nothing ran.
    """

    rows: int
    is_complete: bool
    first_at: str
    last_at: str
    age_s: float
    last_candle: str | None
    refused: Mapping[str, int]
    refused_share: float | None
    missed: int


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """The live version of a slot.

    Attributes:
        version: Its name.
        trained_at: When it was trained, UTC.
        age_s: Seconds since then.
        live_since: When it became live, UTC; None: the log does not say.
        interval: The interval of its candles; None: the card does not say.
        symbols: Its symbols.
        fitted_on: The rows that it was fitted on: those before the holdout ("inner"), or all; None: the card cannot be
            read.
        valid_until: The time until which it may be served by its card, UTC; None: there is no limit.
        comparable_from: The day of which candles are needed to compare a new version with it, UTC, if the latest
            snapshot ends before (without one, if it has not come yet): until then a GO is held. None: they are there.
        answers: Its answers since its promotion; None: the newest rows of the ledger have none.
        drift: Drift of its probabilities since training; None: not known.
        calibration: How often its answers came true; None: not known.
    """

    version: str
    trained_at: str
    age_s: float
    live_since: str | None
    interval: str | None = None
    symbols: tuple[str, ...] = ()
    fitted_on: Literal["inner", "all"] | None = None
    valid_until: str | None = None
    comparable_from: str | None = None
    answers: LiveAnswers | None = None
    drift: ScoreDrift | None = None
    calibration: OutcomeScores | None = None


@dataclass(frozen=True, slots=True)
class LastRound:
    """The newest version of a slot: what the last round of training gave.

    Attributes:
        version: Its name.
        trained_at: When it was trained, UTC.
        verdict: The verdict of the gates.
        held: Why a GO was not promoted automatically; None: it was not held.
        failed: Of a NO-GO, each gate that failed, with what was found.
        is_live: Whether it is live.
    """

    version: str
    trained_at: str
    verdict: Verdict
    held: str | None
    failed: tuple[str, ...]
    is_live: bool


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot.

    Attributes:
        slot: Its name.
        live: Its live version; None: there is none, or it cannot be read.
        last_round: Its newest version; None: it has none.
        next_round: When the next round of training is due, UTC; None: no rounds are expected.
    """

    slot: str
    live: LiveVersion | None
    last_round: LastRound | None
    next_round: str | None


@dataclass(frozen=True, slots=True)
class LatestCandles:
    """The latest snapshot.

    Attributes:
        snapshot: Its id.
        newest: Open time of its newest candle, UTC.
        age_s: Seconds since that candle closed.
    """

    snapshot: str
    newest: str
    age_s: float


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The newest rows of the ledger, of every version.

    Attributes:
        rows: Number of rows that were read, the newest ones.
        last_at: When the newest answer was given, UTC.
        last_version: The version that gave it; empty: it was not published.
        last_candle: Open time of the newest candle in those rows, UTC; None: no answer had a candle.
    """

    rows: int
    last_at: str
    last_version: str
    last_candle: str | None


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """The kill switch.

    Attributes:
        state: "running", "reduced" (answers only for reducing positions) or "halted", for any symbol.
        halts: Every halt in force, oldest first; damage of the files and a silent sentinel are halts, too.
        armed: Since when serving needs the sentinel; None: it does not.
        heartbeat: When the sentinel was last at work by the machine's clock, UTC; None: never, or not readable.
        silence: Why the sentinel counts as silent; None: it is at work, or none has run here.
    """

    state: Literal["running", "reduced", "halted"]
    halts: tuple[Halt, ...]
    armed: Armed | None
    heartbeat: str | None
    silence: str | None


@dataclass(frozen=True, slots=True)
class Status(Result):
    """The result of `status`.

    Attributes:
        when: The time of the status, UTC, such as 2025-10-15T12:00:00Z.
        data_dir: The data folder.
        slots: Each slot, by name.
        candles: The latest snapshot; None: there is none, or it cannot be read.
        ledger: The newest rows of the ledger; None: there are none.
        kill_switch: The kill switch.
        problems: What is overdue or wrong; empty: nothing.
    """

    SCHEMA: ClassVar[str] = "status/1"

    when: str
    data_dir: str
    slots: tuple[SlotStatus, ...]
    candles: LatestCandles | None
    ledger: LedgerState | None
    kill_switch: KillSwitch
    problems: tuple[Problem, ...]
