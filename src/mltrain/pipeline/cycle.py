"""Train again and again: rounds at fixed times, each recorded with the reason for what it gave.

A round that fails, for any reason, never ends the process: the next one is tried at its time. Rounds that could
not begin, because the machine was off or the round before took too long, are missed: the newest one is made up for at
once, and all are recorded and reported.

Nothing has to be unwound at a signal: a round that is killed has no line, so that the next start makes up for it, or
records it as missed. Downloaded days are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mltrain.errors import MltrainError
from mltrain.monitoring.rounds import Round, append_round, as_sentence, describe_gap, read_rounds
from mltrain.times import MINUTE_MS, format_ms, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mltrain.monitoring.events import Kind
    from mltrain.monitoring.rounds import LiveScores, RoundOutcome, Schedule
    from mltrain.progress import Progress

# The wall clock may jump, as when a machine wakes up: it is looked at so often.
_LONGEST_WAIT_S: Final = 30.0
# A round that begins later than this is late, and reported.
_GRACE_MS: Final = 5 * MINUTE_MS
_BUG: Final = 1


@dataclass(slots=True)
class RoundResult:
    """What a round gave so far; the steps of a round fill it in, so that it is known how far a failing one came.

    Attributes:
        outcome: Its outcome.
        sentence: Why.
        exit_code: 0, or 4 after a NO-GO.
        snapshot: Id of the snapshot.
        version: The version that it gave.
        live: How the live version does.
        notes: What else happened, one sentence each.
    """

    outcome: RoundOutcome = "failed"
    sentence: str = ""
    exit_code: int = 0
    snapshot: str | None = None
    version: str | None = None
    live: LiveScores | None = None
    notes: list[str] = field(default_factory=list)


class Cycle:
    """Rounds of training in one slot of a data folder.

    Args:
        data_dir: The data folder, which exists.
        slot: The slot.
        schedule: When rounds are due.
        work: Does one round at a time, ms UTC, and fills in the result.
        report: Queues an event of a missed, late or failed round: its kind and a sentence.
        progress: Receives warnings.
        clock: Returns seconds since 1970, UTC.
    """

    def __init__(
        self,
        data_dir: Path,
        slot: str,
        schedule: Schedule,
        *,
        work: Callable[[int, RoundResult], None],
        report: Callable[[Kind, str, int], None],
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self._data_dir = data_dir
        self._slot = slot
        self._schedule = schedule
        self._work = work
        self._report = report
        self._progress = progress
        self._clock = clock
        # Lines that could not be written yet, as on a full disk.
        self._unwritten: list[Round] = []
        self._has_warned = False
        log = read_rounds(data_dir)
        for problem in log.problems:
            progress.warn(problem)
        self._last_due_ms = log.last_due_ms(slot)

    def run_once(self) -> Iterator[Round]:
        """Yield the gap before the newest round that is due, and that round; if it was run, an unscheduled one."""
        now_ms = self._now_ms()
        due_ms = self._schedule.newest_ms(now_ms)
        last_ms = self._last_due_ms
        if last_ms is not None and due_ms <= last_ms:
            yield self._run_round(None)
            return
        if last_ms is not None:
            yield from self._note_gap(self._schedule.next_ms(last_ms), due_ms)
        yield self._run_round(due_ms)

    def run(self, wait: Callable[[float], None]) -> Iterator[Round]:
        """Run each round at its time, forever, and yield each, and each gap of missed ones.

        Args:
            wait: Waits for at most so many seconds, as `time.sleep` does.
        """
        now_ms = self._now_ms()
        next_ms = self._schedule.next_ms(now_ms if self._last_due_ms is None else self._last_due_ms)
        while True:
            now_ms = self._now_ms()
            if next_ms - now_ms > 2 * self._schedule.every_ms:
                # The clock was set back far.
                next_ms = self._schedule.next_ms(now_ms)
            if now_ms < next_ms:
                self._write()
                wait(min((next_ms - now_ms) / 1000, _LONGEST_WAIT_S))
                continue
            due_ms = self._schedule.newest_ms(now_ms)
            yield from self._note_gap(next_ms, due_ms)
            late_ms = now_ms - due_ms
            if late_ms > _GRACE_MS:
                self._report_late(due_ms, late_ms)
            yield self._run_round(due_ms, late_ms=late_ms)
            next_ms = due_ms + self._schedule.every_ms

    def _report_late(self, due_ms: int, late_ms: int) -> None:
        sentence = f"the round due at {format_ms(due_ms)} begins {late_ms // MINUTE_MS} minutes late"
        self._progress.warn(sentence)
        self._report("round-late", sentence, self._now_ms())

    def _note_gap(self, first_ms: int, due_ms: int) -> Iterator[Round]:
        """Record and yield the rounds from `first_ms` to before `due_ms`, if there are any, as missed."""
        count = max(0, (due_ms - first_ms) // self._schedule.every_ms)
        if not count:
            return
        last_ms = due_ms - self._schedule.every_ms
        sentence = describe_gap(first_ms, last_ms, count)
        gap = Round(self._slot, "missed", sentence, format_ms(last_ms), format_ms(due_ms), None, None, missed=count)
        self._record(gap)
        self._progress.warn(sentence)
        self._report("round-missed", sentence, self._now_ms())
        yield gap

    def _run_round(self, due_ms: int | None, *, late_ms: int = 0) -> Round:
        """Run a round and record it."""
        begun_ms = self._now_ms()
        result = RoundResult()
        try:
            self._work(begun_ms, result)
        except MltrainError as err:
            hint = f"; {err.hint}" if err.hint else ""
            self._fail(result, f"{err.message}{hint}", err.exit_code)
        except BaseException as err:
            # A bug, also a panic of Polars, which is no Exception: the next round may succeed, and the log says why
            # this one did not.
            if not isinstance(err, Exception) and type(err).__module__ != "pyo3_runtime":
                raise
            self._fail(result, f"{type(err).__name__}: {err}", _BUG)
        if late_ms > _GRACE_MS:
            result.notes.append(f"it began {late_ms // MINUTE_MS} minutes late")
        made = Round(
            slot=self._slot,
            outcome=result.outcome,
            sentence=as_sentence(result.sentence),
            due=None if due_ms is None else format_ms(due_ms),
            next_due=format_ms(self._schedule.next_ms(begun_ms if due_ms is None else due_ms)),
            begun=format_seconds(begun_ms),
            ended=format_seconds(self._now_ms()),
            exit_code=result.exit_code,
            snapshot=result.snapshot,
            version=result.version,
            live=result.live,
            notes=tuple(map(as_sentence, result.notes)),
        )
        self._record(made)
        if made.outcome == "failed":
            self._progress.warn(made.sentence)
            self._report("round-failed", made.sentence, self._now_ms())
        return made

    def _fail(self, result: RoundResult, message: str, exit_code: int) -> None:
        if result.sentence:
            # The training has ended, and what it gave counts.
            result.notes.append(f"what follows the training failed (exit code {exit_code}): {message}")
            return
        result.outcome, result.exit_code = "failed", exit_code
        step = "its training" if result.snapshot else "taking the snapshot"
        result.sentence = f"the round failed in {step} (exit code {exit_code}), and the live version stays: {message}"

    def _record(self, made: Round) -> None:
        self._unwritten.append(made)
        if made.due_ms is not None:
            self._last_due_ms = made.due_ms
        self._write()

    def _write(self) -> None:
        """Write the lines that are not in the log yet; what cannot be written now is tried again later."""
        while self._unwritten:
            try:
                append_round(self._data_dir, self._unwritten[0])
            except MltrainError as err:
                if not self._has_warned:
                    self._progress.warn(f"a line of the log of rounds waits: {err.message}")
                self._has_warned = True
                return
            self._has_warned = False
            del self._unwritten[0]

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
