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

import math
import os
import signal
import threading
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final, Protocol, Self

from mltrain.errors import MachineError
from mltrain.learn.fit import load_binned
from mltrain.learn.trial import Track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import FrameType, TracebackType

    from mltrain.learn.trial import Ground, Proposal, TrialRecord

_LONGEST_WAIT_S: Final = 0.2  # a signal is answered after it at the latest


class Crew(Protocol):
    """Whoever runs trials."""

    def run(
        self, proposals: Sequence[Proposal], bounds: Sequence[float], *, left_s: Callable[[], float]
    ) -> Iterator[TrialRecord]:
        """Run trials and yield their records in the order given; where the time is up, the others are given up.

        Args:
            proposals: The trials.
            bounds: For each rung, the worst loss with which a trial passes.
            left_s: Tells the seconds that are left; infinite where time does not matter.
        """


class Alone:
    """Runs trials one after the other in this process.

    Args:
        track: The folds.
    """

    def __init__(self, track: Track) -> None:
        self._track = track

    def run(
        self, proposals: Sequence[Proposal], bounds: Sequence[float], *, left_s: Callable[[], float]
    ) -> Iterator[TrialRecord]:
        """Run trials as `Crew` says."""
        for proposal in proposals:
            record = self._track.run(proposal, bounds, keep_on=lambda: left_s() > 0)
            if record is None:
                return
            yield record


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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(
        self, proposals: Sequence[Proposal], bounds: Sequence[float], *, left_s: Callable[[], float]
    ) -> Iterator[TrialRecord]:
        """Run trials as `Crew` says.

        Raises:
            MachineError: The process that ran a trial died twice.
        """
        batch = _Batch(proposals, bounds)
        for proposal in proposals:
            while proposal.number not in batch.records:
                if left_s() <= 0:
                    return
                self._work(batch, left_s)
            yield batch.records[proposal.number]

    def _work(self, batch: _Batch, left_s: Callable[[], float]) -> None:
        """Keep every process busy until one trial has ended, or the time."""
        alone = bool(batch.suspects)
        try:
            pool = self._open(1 if alone else self._count)
            queue = batch.suspects if alone else batch.waiting
            while queue and len(batch.running) < pool.count:
                proposal = queue.pop()
                batch.running[_NEVER_RUN] = proposal  # where the pool is broken already, this one was its first victim
                future = pool.submit(proposal, bounds=batch.bounds)
                batch.running[future] = batch.running.pop(_NEVER_RUN)
            done: set[Future[TrialRecord]] = set()
            while not done and (left := left_s()) > 0:
                with _undisturbed():
                    done = wait(batch.running, timeout=min(left, _LONGEST_WAIT_S), return_when=FIRST_COMPLETED).done
            for future in sorted(done, key=lambda f: f.exception() is not None):  # what is done stays done
                record = future.result()
                batch.records[record.number] = record
                del batch.running[future]
        except BrokenProcessPool as err:
            self._close()
            self._suspect(batch, err)

    def _suspect(self, batch: _Batch, err: BrokenProcessPool) -> None:
        """Have the trials that were running when a process died run again, each by itself."""
        victims = sorted(batch.running.values(), key=lambda proposal: -proposal.number)
        batch.running.clear()
        batch.deaths.update(proposal.number for proposal in victims)
        for proposal in victims:
            if batch.deaths[proposal.number] > 1:
                raise MachineError(
                    f"trial {proposal.number} was run twice, and twice its process died, "
                    "as a rule because memory ran out",
                    hint="free some memory, or train on fewer rows; then go on with --resume --workers 1",
                ) from err
        batch.suspects += victims

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


#: Stands for the future of a trial that is being handed over.
_NEVER_RUN: Future[TrialRecord] = Future()


class _Batch:
    """How far the trials of one batch have come."""

    def __init__(self, proposals: Sequence[Proposal], bounds: Sequence[float]) -> None:
        self.bounds = bounds
        # The longest first, so that no process runs one alone when all others are done; popped from the end.
        self.waiting = sorted(proposals, key=_expected_cost)
        self.running: dict[Future[TrialRecord], Proposal] = {}
        self.suspects: list[Proposal] = []
        self.deaths: Counter[int] = Counter()
        self.records: dict[int, TrialRecord] = {}


def _expected_cost(proposal: Proposal) -> tuple[float, int]:
    """Return what a trial may cost, in no unit: rounds go with 1 / learning rate, a round with the tree's depth."""
    params = proposal.params
    depth = math.log2(params["num_leaves"])
    return depth * params["feature_fraction"] / params["learning_rate"], -proposal.number


class _Pool:
    """Some spawned processes that end when this object is closed or its process does."""

    def __init__(self, ground: Ground, binned: Path, count: int) -> None:
        context = get_context("spawn")
        self.count = count
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            count, mp_context=context, initializer=_begin, initargs=(self._theirs, binned, ground)
        )

    def submit(self, proposal: Proposal, *, bounds: Sequence[float]) -> Future[TrialRecord]:
        # A process is spawned here. It inherits the mask: Ctrl-C reaches a terminal's whole group, and is for the
        # parent alone, which ends its workers itself.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _undisturbed():
                return self._executor.submit(_run, proposal, tuple(bounds))
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
    os.environ["OMP_NUM_THREADS"] = "1"  # read when LightGBM's library is loaded, which is next
    _tracks.append(Track.of(ground, load_binned(binned, ground.config)))


def _end_with(parent: Connection) -> None:
    """End this process when the other end of the pipe closes."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)  # LightGBM cannot be interrupted, and there is nothing to clean up


def _run(proposal: Proposal, bounds: tuple[float, ...]) -> TrialRecord:
    record = _tracks[0].run(proposal, bounds)
    if record is None:
        raise RuntimeError("nobody told this trial to stop")
    return record
