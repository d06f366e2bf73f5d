"""Who runs the trials: this process, or as many spawned ones as asked for, each with one OpenMP thread.

Which of them runs a trial changes nothing about it. Workers are spawned, never forked: LightGBM's threads do not
survive a fork. They load the binned rows from a file that is written once, in milliseconds, and cut the folds out of
it themselves.

Nothing here hangs and nothing is left behind. Each worker has one pipe, whose other end only this process holds. When
it closes, because the search is over or because this process ended in whatever way, the worker kills itself at once.
When a worker dies (the kernel ends the largest process when memory runs out), its trial is run once more when nothing
else runs.

There is no executor of the standard library in this: its locks are named semaphores, which outlive a process that ends
at a signal, and an interruption in the midst of its `wait` leaves locks taken for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from mltrain.errors import MachineError
from mltrain.training.booster import load_binned
from mltrain.training.lightgbm_import import own_process
from mltrain.training.trial import Track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from types import TracebackType

    from mltrain.training.trial import Bar, Ground, Proposal, TrialRecord

# The kernel may hand a signal to another thread; Python acts on it when the main thread wakes up.
_LONGEST_WAIT_S: Final = 0.2


class Crew(Protocol):
    """Whoever runs trials."""

    def give(self, proposal: Proposal, bar: Bar) -> None:
        """Have a trial run; numbers rise."""

    def take(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Return what became of the first trial that was given and not taken yet; None where the time is up.

        Args:
            left_s: Tells the seconds that are left; infinite where time does not matter.
        """


class Alone:
    """Runs trials one after the other in this process.

    Args:
        track: The folds.
    """

    def __init__(self, track: Track) -> None:
        self._track = track
        self._given: deque[tuple[Proposal, Bar]] = deque()

    def give(self, proposal: Proposal, bar: Bar) -> None:
        """Note a trial; it is run when it is taken."""
        self._given.append((proposal, bar))

    def take(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Run a trial as `Crew` says."""
        proposal, bar = self._given.popleft()
        return self._track.run(proposal, bar, keep_on=lambda: left_s() > 0)


class Workers:
    """Runs trials in spawned processes; a context manager, at whose end no process is left.

    Args:
        ground: What the trials run on.
        binned: The file of the binned inner part.
        count: How many processes, at least 1.
    """

    def __init__(self, ground: Ground, binned: Path, *, count: int) -> None:
        self._ground, self._binned, self._count = ground, binned, count
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._untaken: deque[int] = deque()
        self._waiting: deque[_Job] = deque()
        # Trials whose worker died: each runs alone, for what killed the worker may be the lack of memory.
        self._suspects: deque[_Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._records: dict[int, TrialRecord] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end_all(self._idle)
        _end_all(self._busy)

    def give(self, proposal: Proposal, bar: Bar) -> None:
        """Have a trial run, as soon as a process is free when one is taken."""
        self._untaken.append(proposal.number)
        self._waiting.append(_Job(proposal, bar))

    def take(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Return what became of a trial as `Crew` says.

        Raises:
            MachineError: The process that ran a trial died twice.
        """
        while self._untaken[0] not in self._records:
            left = left_s()
            if left <= 0:
                return None
            self._start_trials()
            ready = wait([worker.pipe for worker in self._busy], timeout=min(left, _LONGEST_WAIT_S))
            for worker in [worker for worker in self._busy if worker.pipe in ready]:
                self._busy.remove(worker)
                self._receive(worker)
        return self._records.pop(self._untaken.popleft())

    def _start_trials(self) -> None:
        """Give every free process a trial; while there are suspects, one of them, and nothing else."""
        if self._suspects:
            if not self._busy:
                _end_all(self._idle)
                self._start(self._suspects.popleft())
            return
        while self._waiting and len(self._busy) < self._count:
            self._start(self._waiting.popleft())

    def _start(self, job: _Job) -> None:
        messages: list[object] = [job]
        while self._idle and not self._idle[-1].process.is_alive():
            # It died while it had nothing to do.
            self._idle.pop().end()
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker()
            messages.insert(0, (self._ground, self._binned))
        worker.job = job
        self._busy.append(worker)
        # Where the worker has just died, the next wait finds that out.
        with suppress(OSError):
            for message in messages:
                worker.pipe.send(message)

    def _receive(self, worker: _Worker) -> None:
        """Take what a worker sent: a record, an error, or that it has died.

        Raises:
            MachineError: The trial's process died for the second time.
        """
        job = worker.job
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError) as err:
            worker.end()
            number = job.proposal.number
            self._deaths[number] += 1
            if self._deaths[number] > 1:
                raise MachineError(
                    f"trial {number} was run twice, and twice its process died, most likely for lack of memory",
                    hint="free some memory, or train on fewer rows; then continue with --resume --workers 1",
                ) from err
            self._suspects.append(job)
            return
        self._idle.append(worker)
        if isinstance(answer, BaseException):
            raise answer
        self._records[job.proposal.number] = answer


@dataclass(frozen=True, slots=True)
class _Job:
    proposal: Proposal
    bar: Bar


class _Worker:
    """One spawned process that runs the trials sent through its pipe."""

    job: _Job

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_run_trials, args=(theirs,), daemon=True)
        # The first start of a process starts this helper, which unblocks the signals: so it comes first.
        resource_tracker.ensure_running()
        # The process inherits the mask: Ctrl-C reaches the whole group of a terminal, and is for the parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _without_main():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def end(self) -> None:
        """End the process, whatever it is doing: LightGBM cannot be interrupted, and there is nothing to clean up."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script from a process that is spawned inside the block.

    It would run that script again, to find what was pickled from there, which is nothing here: a script without
    `if __name__ == "__main__"` would begin the search anew in every worker, and never end.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run_trials(pipe: Connection) -> None:
    """Run trials in a worker until its pipe closes."""
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive_all, args=(pipe, received), daemon=True).start()
    own_process()
    # Read when LightGBM's library is loaded, which is next.
    os.environ["OMP_NUM_THREADS"] = "1"
    ground, binned = received.get()
    track = None
    while True:
        job: _Job = received.get()
        answer: TrialRecord | Exception | None
        try:
            track = track or Track.of(ground, load_binned(binned, ground.config))
            answer = track.run(job.proposal, job.bar)
        except Exception as err:  # noqa: BLE001 (raised again in the parent)
            err.add_note(f"in a worker:\n{traceback.format_exc()}")
            answer = err
        pipe.send(answer)


def _receive_all(pipe: Connection, received: SimpleQueue[Any]) -> None:
    """Pass on what comes through a pipe, and end this process when the other end of the pipe closes."""
    try:
        while True:
            received.put(pipe.recv())
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)
