"""Halt and resume for real on a scratch copy of the live version, and measure how long each takes."""

from __future__ import annotations

import math
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.documents.results import Result
from mltrain.errors import RefusedError
from mltrain.killswitch.switch import halt, resume
from mltrain.serving.model import open_model
from mltrain.storage.disk_errors import disk_errors
from mltrain.store.store import open_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.serving.model import Model
    from mltrain.store.versions import StoredVersion

# Seconds between two answers: a busy loop would keep the halt itself waiting for the interpreter.
_PAUSE_S: Final = 0.0002
# Seconds after which a change that was not noticed counts as a failure.
_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class DrillTimes:
    """How long something took, over all rounds.

    Attributes:
        p50_ms: The median.
        p99_ms: The 99th percentile, of few rounds the longest time.
        max_ms: The longest time.
    """

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class DrillResult(Result):
    """The result of `halt drill`.

    Attributes:
        version: The version that answered.
        rounds: Number of halts, and of resumes.
        answers: Number of answers that were given.
        refusals: Number of answers that were refused.
        wrong_answers: Answers that began and ended while serving was halted; 0 unless the kill switch is broken.
        halt: From the call of a halt to its end.
        first_refusal: From the call of a halt to the first refusal.
        resume: From the call of a resume to its end.
        first_answer: From the call of a resume to the first answer.
    """

    SCHEMA: ClassVar[str] = "halt-drill/1"

    version: str
    rounds: int
    answers: int
    refusals: int
    wrong_answers: int
    halt: DrillTimes
    first_refusal: DrillTimes
    resume: DrillTimes
    first_answer: DrillTimes


class _Caller:
    """A thread that asks a model for answers until it is closed.

    Attributes:
        answers: Answers given.
        refusals: Answers refused.
        wrong_answers: Answers that began and ended in one period of `halted`.
        halted: Counts the beginnings and ends of halts; odd: a halt has returned, and no resume has begun.
    """

    def __init__(self, model: Model) -> None:
        self.answers = self.refusals = self.wrong_answers = self.halted = 0
        self._model, self._row = model, [0.0] * model.n_features_in_
        self._closed, self._changed = threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            before = self.halted
            try:
                self._model.predict_one(self._row)
            except RefusedError:
                with self._changed:
                    self.refusals += 1
                    self._changed.notify_all()
            else:
                with self._changed:
                    self.answers += 1
                    self.wrong_answers += before % 2 == 1 and self.halted == before
                    self._changed.notify_all()
            time.sleep(_PAUSE_S)

    def wait_for(self, count: Callable[[], int]) -> None:
        """Wait until a counter rises; RuntimeError: it does not."""
        start = count()
        with self._changed:
            if not self._changed.wait_for(lambda: count() > start, timeout=_DEADLINE_S):
                raise RuntimeError(f"nothing changed within {_DEADLINE_S:g} s: the kill switch does not work")

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()


def run_drill(
    version: StoredVersion, *, rounds: int, by: str, now_ms: int, clock: Callable[[], float] = time.perf_counter
) -> DrillResult:
    """Halt and resume a copy of a version, next to its models folder, while a thread asks it for answers.

    Args:
        version: The version.
        rounds: Number of halts, 1 or more.
        by: Who asks, for the log of the copy.
        now_ms: Time, ms UTC, for the log of the copy.
        clock: Returns seconds; measures the times.

    Raises:
        InputError: The version is damaged.
        MachineError: The machine refuses to copy it.
        RuntimeError: A halt or a resume was not noticed.
    """
    data_dir = version.folder.parent.parent
    took: dict[str, list[float]] = {"halt": [], "first_refusal": [], "resume": [], "first_answer": []}
    # On the same disk, because its speed is what counts.
    with disk_errors(data_dir, "copy a version into"), TemporaryDirectory(prefix=".drill.", dir=data_dir) as folder:
        copy = Path(folder) / "models" / version.name
        shutil.copytree(version.folder, copy)
        models, model = copy.parent, open_model(open_path(copy), heed_halts=True)
        caller = _Caller(model)
        try:
            caller.wait_for(lambda: caller.answers)
            for _ in range(rounds):
                start_s = clock()
                halt(models, why="a drill", by=by, now_ms=now_ms)
                took["halt"].append(clock() - start_s)
                caller.halted += 1
                caller.wait_for(lambda: caller.refusals)
                took["first_refusal"].append(clock() - start_s)
                caller.halted += 1
                start_s = clock()
                resume(models, why="a drill", by=by, now_ms=now_ms)
                took["resume"].append(clock() - start_s)
                caller.wait_for(lambda: caller.answers)
                took["first_answer"].append(clock() - start_s)
        finally:
            caller.close()
    return DrillResult(
        version=version.name,
        rounds=rounds,
        answers=caller.answers,
        refusals=caller.refusals,
        wrong_answers=caller.wrong_answers,
        **{name: _summarise(seconds) for name, seconds in took.items()},
    )


def _summarise(seconds: list[float]) -> DrillTimes:
    ordered = sorted(seconds)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return DrillTimes(p50_ms=1000 * ordered[len(ordered) // 2], p99_ms=1000 * p99, max_ms=1000 * ordered[-1])
