"""Who runs the trials: this process, or as many spawned ones as asked for, each with one OpenMP thread.

Which of them runs a trial changes nothing about it. Workers are spawned, never forked: LightGBM's threads do not
survive a fork. They load the binned rows from a file that is written once, in milliseconds, and cut the folds out of
it themselves.

Nothing here hangs and nothing is left behind. A worker reads a pipe whose other end this process alone holds: when
that closes, because the search is over, was interrupted, or because this process was killed, the worker ends at once.
A worker that dies (the kernel ends the largest process when memory runs out) breaks its pool; the trials that were
running then are run once more, one at a time, each in a pool where nothing else competes with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol, Self

from mltrain.errors import MachineError
from mltrain.learn.backend import own_process
from mltrain.learn.fit import load_binned
from mltrain.learn.trial import Track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import FrameType, TracebackType

    from mltrain.learn.trial import Bar, Ground, Proposal, TrialRecord

_LONGEST_WAIT_S: Final = 0.2  # a signal is answered after it at the latest


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
        self._pool: _Pool | None = None
        self._jobs = _Jobs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def give(self, proposal: Proposal, bar: Bar) -> None:
        """Have a trial run, as soon as a process is free when one is taken."""
        self._jobs.untaken.append(proposal.number)
        self._jobs.waiting.append(_Job(proposal, bar))

    def take(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Return what became of a trial as `Crew` says.

        Raises:
            MachineError: The process that ran a trial died twice.
        """
        jobs = self._jobs
        while jobs.untaken[0] not in jobs.records:
            if left_s() <= 0:
                return None
            self._work(left_s)
        return jobs.records.pop(jobs.untaken.popleft())

    def _work(self, left_s: Callable[[], float]) -> None:
        """Keep every process busy until one trial has ended, or the time."""
        jobs = self._jobs
        alone = bool(jobs.suspects)
        try:
            pool = self._open(1 if alone else self._count)
            queue = jobs.suspects if alone else jobs.waiting
            while queue and len(jobs.running) < pool.count:
                job = queue.popleft()
                jobs.running[_NEVER_RUN] = job  # where the pool is broken already, this one was its first victim
                future = pool.submit(job)
                jobs.running[future] = jobs.running.pop(_NEVER_RUN)
            done: set[Future[TrialRecord]] = set()
            while not done and (left := left_s()) > 0:
                with _undisturbed():
                    done = wait(jobs.running, timeout=min(left, _LONGEST_WAIT_S), return_when=FIRST_COMPLETED).done
            for future in sorted(done, key=lambda f: f.exception() is not None):  # what is done stays done
                record = future.result()
                jobs.records[record.number] = record
                del jobs.running[future]
        except BrokenProcessPool as err:
            self._close()
            self._suspect(err)

    def _suspect(self, err: BrokenProcessPool) -> None:
        """Have the trials that were running when a process died run again, each by itself."""
        jobs = self._jobs
        victims = sorted(jobs.running.values(), key=lambda job: job.proposal.number)
        jobs.running.clear()
        jobs.deaths.update(job.proposal.number for job in victims)
        for job in victims:
            number = job.proposal.number
            if jobs.deaths[number] > 1:
                raise MachineError(
                    f"trial {number} was run twice, and twice its process died, as a rule because memory ran out",
                    hint="free some memory, or train on fewer rows; then go on with --resume --workers 1",
                ) from err
        jobs.suspects.extend(victims)

    def _open(self, count: int) -> _Pool:
        if self._pool is not None and self._pool.count != count:
            self._close()
        if self._pool is None:
            self._pool = _Pool(self._ground, self._binned, count)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off what a signal does to the main thread until the block has ended.

    `wait` takes the locks of all its futures, one by one: an exception raised in between would leave some of them
    taken, and the executor's own thread would wait for them for ever.
    """
    noted: list[tuple[int, FrameType | None]] = []
    before: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda signum, frame: noted.append((signum, frame)))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    for noticed, frame in noted[:1]:
        before[noticed](noticed, frame)


@contextmanager
def _without_main() -> Iterator[None]:
    """Let a process that is spawned meanwhile do without the caller's script.

    It would else run that script again, for what was pickled from there, which is nothing here: a script without
    `if __name__ == "__main__"` would begin the search anew in every worker, and never end.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


#: Stands for the future of a trial that is being handed over.
_NEVER_RUN: Future[TrialRecord] = Future()


@dataclass(frozen=True, slots=True)
class _Job:
    proposal: Proposal
    bar: Bar


@dataclass(slots=True)
class _Jobs:
    """How far the trials have come that were given and not taken yet; the lowest numbers first."""

    untaken: deque[int] = field(default_factory=deque)
    waiting: deque[_Job] = field(default_factory=deque)
    running: dict[Future[TrialRecord], _Job] = field(default_factory=dict)
    suspects: deque[_Job] = field(default_factory=deque)
    deaths: Counter[int] = field(default_factory=Counter)
    records: dict[int, TrialRecord] = field(default_factory=dict)


class _Pool:
    """Some spawned processes that end when this object is closed or its process does."""

    def __init__(self, ground: Ground, binned: Path, count: int) -> None:
        context = get_context("spawn")
        self.count = count
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            count, mp_context=context, initializer=_begin, initargs=(self._theirs, binned, ground)
        )

    def submit(self, job: _Job) -> Future[TrialRecord]:
        # A process is spawned here. It inherits the mask: Ctrl-C reaches a terminal's whole group, and is for the
        # parent alone, which ends its workers itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _undisturbed(), _without_main():
                return self._executor.submit(_run, job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        with _undisturbed():
            self._ours.close()  # they end at once, whatever they are doing
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._theirs.close()


_tracks: list[Track] = []  # a worker's own folds: one


def _begin(parent: Connection, binned: Path, ground: Ground) -> None:
    """Prepare a worker."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    own_process()
    os.environ["OMP_NUM_THREADS"] = "1"  # read when LightGBM's library is loaded, which is next
    _tracks.append(Track.of(ground, load_binned(binned, ground.config)))


def _end_with(parent: Connection) -> None:
    """End this process when the other end of the pipe closes."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)  # LightGBM cannot be interrupted, and there is nothing to clean up


def _run(job: _Job) -> TrialRecord:
    record = _tracks[0].run(job.proposal, job.bar)
    if record is None:
        raise RuntimeError("nobody told this trial to stop")
    return record
