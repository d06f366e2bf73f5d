"""Executors of trials: this process, or a pool of spawned processes with one OpenMP thread each.

Where a trial runs does not change its result. Workers are spawned, never forked: LightGBM's threads do not survive a
fork. They load the binned rows from a file that is written once, in milliseconds, and cut out the folds themselves.

Nothing hangs and no process is left behind. Each worker has one pipe, whose other end only this process holds. When
that end closes, because the search is over or because this process ended for whatever reason, the worker kills itself.
When a worker dies (the kernel kills the largest process when memory runs out), its trial is run again, alone.

`concurrent.futures` is not used: its locks are named semaphores, which outlive a process that a signal ends, and an
interrupt inside its `wait` leaves locks held forever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias

from mltrain.errors import MachineError
from mltrain.training.booster import load_binned
from mltrain.training.lightgbm_import import skip_scikit_learn
from mltrain.training.trial import FoldRunner, Proposal, PruningThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from types import TracebackType

    from mltrain.training.trial import FoldData, TrialRecord

# The kernel may deliver a signal to another thread; Python handles it when the main thread wakes up.
_MAX_WAIT_S: Final = 0.2

_Job: TypeAlias = tuple[Proposal, PruningThresholds]


class TrialExecutor(Protocol):
    """Runs trials and returns their results in the order of submission."""

    def submit(self, proposal: Proposal, thresholds: PruningThresholds) -> None:
        """Add a trial to run; numbers increase."""

    def next_record(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Return the result of the earliest trial not yet returned; None once the time is up.

        Args:
            left_s: Returns the seconds left; infinite without a limit.
        """


class InProcessExecutor:
    """Runs trials one after the other in this process.

    Args:
        runner: The folds to run on.
    """

    def __init__(self, runner: FoldRunner) -> None:
        self._runner = runner
        self._jobs: deque[_Job] = deque()

    def submit(self, proposal: Proposal, thresholds: PruningThresholds) -> None:
        """Queue a trial; it runs when its result is requested."""
        self._jobs.append((proposal, thresholds))

    def next_record(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Run the next trial, see `TrialExecutor`."""
        return self._runner.run(*self._jobs.popleft(), should_continue=lambda: left_s() > 0)


class WorkerPool:
    """Runs trials in spawned processes; a context manager that ends all of them on exit.

    Args:
        fold_data: Input of every trial.
        binned: The file of the binned inner part.
        count: Number of processes, at least 1.
    """

    def __init__(self, fold_data: FoldData, binned: Path, *, count: int) -> None:
        self._fold_data, self._binned, self._count = fold_data, binned, count
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._order: deque[int] = deque()
        self._waiting: deque[_Job] = deque()
        # Trials whose worker died. Each is run again alone: lack of memory may have killed the worker.
        self._retries: deque[_Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._records: dict[int, TrialRecord] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end_all(self._idle)
        _end_all(self._busy)

    def submit(self, proposal: Proposal, thresholds: PruningThresholds) -> None:
        """Queue a trial; it starts during the next `next_record` that finds a process free."""
        self._order.append(proposal.number)
        self._waiting.append((proposal, thresholds))

    def next_record(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Wait for the next trial, see `TrialExecutor`.

        Raises:
            MachineError: The worker of a trial died twice.
        """
        while self._order[0] not in self._records:
            left = left_s()
            if left <= 0:
                return None
            self._start_trials()
            ready = wait([worker.pipe for worker in self._busy], timeout=min(left, _MAX_WAIT_S))
            for worker in [worker for worker in self._busy if worker.pipe in ready]:
                self._busy.remove(worker)
                self._receive(worker)
        return self._records.pop(self._order.popleft())

    def _start_trials(self) -> None:
        """Give each free process a trial; a retry waits until it can run alone."""
        if self._retries:
            if not self._busy:
                _end_all(self._idle)
                self._start(self._retries.popleft())
            return
        while self._waiting and len(self._busy) < self._count:
            self._start(self._waiting.popleft())

    def _start(self, job: _Job) -> None:
        messages: list[object] = [job]
        while self._idle and not self._idle[-1].process.is_alive():
            # It died while idle.
            self._idle.pop().end()
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker()
            messages.insert(0, (self._fold_data, self._binned))
        worker.job = job
        self._busy.append(worker)
        # If the worker has just died, the next wait reports it.
        with suppress(OSError):
            for message in messages:
                worker.pipe.send(message)

    def _receive(self, worker: _Worker) -> None:
        """Store the result of a worker's trial, raise its error, or plan a retry if the worker died."""
        job = worker.job
        number = job[0].number
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError) as err:
            worker.end()
            self._deaths[number] += 1
            if self._deaths[number] > 1:
                raise MachineError(
                    f"the process of trial {number} died twice, most likely for lack of memory",
                    hint="free some memory, or train on fewer rows; then continue with --resume --workers 1",
                ) from err
            self._retries.append(job)
            return
        self._idle.append(worker)
        if isinstance(answer, BaseException):
            raise answer
        self._records[number] = answer


class _Worker:
    """One spawned process, the pipe to it, and the trial it runs."""

    job: _Job

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(child_pipe,), daemon=True)
        # Starting this helper unblocks signals, so it must run before the mask is set.
        resource_tracker.ensure_running()
        # A child inherits the mask: Ctrl-C reaches all processes of a terminal, and only the parent handles it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _without_main():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            child_pipe.close()

    def end(self) -> None:
        """Kill the process: LightGBM cannot be interrupted, and there is nothing to clean up."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script from a process spawned inside the block.

    A spawned process runs that script again to find what was pickled from it, which is nothing here: a script without
    `if __name__ == "__main__"` would start the search again in every worker, endlessly.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(pipe: Connection) -> None:
    """Run trials in a worker until its pipe closes."""
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive_all, args=(pipe, received), daemon=True).start()
    skip_scikit_learn()
    # OpenMP reads it when LightGBM's library is loaded, which happens below.
    os.environ["OMP_NUM_THREADS"] = "1"
    fold_data, binned = received.get()
    runner = None
    while True:
        job: _Job = received.get()
        answer: TrialRecord | Exception | None
        try:
            runner = runner or FoldRunner(fold_data, load_binned(binned, fold_data.config))
            answer = runner.run(*job)
        except Exception as err:  # noqa: BLE001 (raised again in the parent)
            err.add_note(f"in a worker:\n{traceback.format_exc()}")
            answer = err
        pipe.send(answer)


def _receive_all(pipe: Connection, received: SimpleQueue[Any]) -> None:
    """Queue everything that arrives, and kill this process when the other end of the pipe closes."""
    try:
        while True:
            received.put(pipe.recv())
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)
