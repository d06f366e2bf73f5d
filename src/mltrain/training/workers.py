"""Executors of trials: this process, or a pool of spawned processes with one OpenMP thread each.

Workers are spawned, never forked: LightGBM's threads do not survive a fork. They load the binned rows from a file that
is written once, in milliseconds, and cut out the folds themselves.

Nothing hangs and no process is left behind. Each worker has one pipe, whose other end only this process holds. When
that end closes, because the search is over or because this process ended for any reason, the worker kills itself. When
a worker dies (the kernel kills the largest process when memory runs out), its trial is run again, alone.

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
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from mltrain.errors import MachineError
from mltrain.training.booster import load_binned
from mltrain.training.lightgbm_import import skip_scikit_learn
from mltrain.training.trial import FoldRunner, Proposal, PruningThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from mltrain.training.trial import FoldData, TrialRecord

# The main thread wakes up this often: the kernel may deliver a signal to another thread, and Python handles it then.
_MAX_WAIT_S: Final = 0.2

_Job: TypeAlias = tuple[Proposal, PruningThresholds]


class TrialExecutor(Protocol):
    """Runs trials and returns their results in the order of submission."""

    def submit(self, proposal: Proposal, thresholds: PruningThresholds) -> None:
        """Queue a trial, which prunes itself by these thresholds; each has a higher number than the one before."""

    def next_record(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Return the result of the earliest submitted trial not yet returned; None once the time is up.

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
        """Run the earliest queued trial and return its result; None if no seconds were left before its end."""
        proposal, thresholds = self._jobs.popleft()
        return self._runner.run(proposal, thresholds, should_continue=lambda: left_s() > 0)


class WorkerPool:
    """Runs trials in spawned processes, which `close` ends.

    Args:
        fold_data: Input of every trial.
        binned_path: The file of the binned inner part.
        count: Number of processes, at least 1.
    """

    def __init__(self, fold_data: FoldData, binned_path: Path, *, count: int) -> None:
        self._fold_data, self._binned_path, self._count = fold_data, binned_path, count
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        # Numbers of the trials whose results are still to be returned, in the order of submission.
        self._unreturned: deque[int] = deque()
        self._waiting: deque[_Job] = deque()
        # Trials whose worker died. Each is run again alone: lack of memory may have killed the worker.
        self._retries: deque[_Job] = deque()
        # Deaths of a worker, and results that are not returned yet, by number of the trial.
        self._deaths: Counter[int] = Counter()
        self._records: dict[int, TrialRecord] = {}

    def close(self) -> None:
        """Kill all processes; trials that are running have no result."""
        _end_all(self._idle)
        _end_all(self._busy)

    def submit(self, proposal: Proposal, thresholds: PruningThresholds) -> None:
        """Queue a trial; it starts during the next `next_record` that finds a process free."""
        self._unreturned.append(proposal.number)
        self._waiting.append((proposal, thresholds))

    def next_record(self, *, left_s: Callable[[], float]) -> TrialRecord | None:
        """Wait for the result of the earliest trial not yet returned; None once `left_s` returns 0 or less."""
        while self._unreturned[0] not in self._records:
            timeout_s = min(left_s(), _MAX_WAIT_S)
            if timeout_s <= 0:
                return None
            self._start_trials()
            ready = wait([worker.pipe for worker in self._busy], timeout=timeout_s)
            for worker in [worker for worker in self._busy if worker.pipe in ready]:
                self._busy.remove(worker)
                self._receive(worker)
        return self._records.pop(self._unreturned.popleft())

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
        """Send a trial to an idle process, or to a new one."""
        messages: list[object] = [job]
        while self._idle and not self._idle[-1].process.is_alive():
            # It died while idle.
            self._idle.pop().end()
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker()
            messages.insert(0, (self._fold_data, self._binned_path))
        worker.job = job
        self._busy.append(worker)
        # If the worker has just died, the next wait reports it.
        with suppress(OSError):
            for message in messages:
                worker.pipe.send(message)

    def _receive(self, worker: _Worker) -> None:
        """Store the result of a worker's trial, raise its error, or plan a retry if the worker died.

        Raises:
            MachineError: A worker died for the second time in the same trial.
        """
        proposal, _ = worker.job
        number = proposal.number
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
            self._retries.append(worker.job)
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
        mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _without_main():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
            child_pipe.close()

    def end(self) -> None:
        """Kill the process: LightGBM cannot be interrupted, and there is nothing to clean up."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _end_all(workers: list[_Worker]) -> None:
    """Kill the processes of these workers and empty the list."""
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
    """Run trials in a worker process until its pipe closes.

    The first message is the fold data and the path of the binned rows, each later one a trial; answers are results.
    """
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive_all, args=(pipe, messages), daemon=True).start()
    skip_scikit_learn()
    # OpenMP reads it when LightGBM's library is loaded, which happens below.
    os.environ["OMP_NUM_THREADS"] = "1"
    fold_data, binned_path = messages.get()
    runner = None
    while True:
        proposal, thresholds = messages.get()
        answer: TrialRecord | Exception | None
        try:
            runner = runner or FoldRunner(fold_data, load_binned(binned_path, fold_data.config))
            answer = runner.run(proposal, thresholds)
        except Exception as err:  # noqa: BLE001 (raised again in the parent)
            err.add_note(f"in a worker:\n{traceback.format_exc()}")
            answer = err
        try:
            pipe.send(answer)
        except OSError:
            # The parent has ended: without a word, as when the receiving thread finds out first.
            os.kill(os.getpid(), signal.SIGKILL)


def _receive_all(pipe: Connection, messages: SimpleQueue[Any]) -> None:
    """Queue every message of the pipe, and kill this process when the other end of the pipe closes."""
    try:
        while True:
            messages.put(pipe.recv())
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)
