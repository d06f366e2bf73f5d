"""Executors of trials, and of other jobs: this process, or spawned processes with one OpenMP thread each.

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
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from mltrain.errors import MachineError
from mltrain.training.booster import load_binned
from mltrain.training.lightgbm_import import skip_scikit_learn
from mltrain.training.trial import FoldRunner, Proposal, PruningThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from mltrain.training.trial import FoldData, TrialRecord

# The main thread wakes up this often: the kernel may deliver a signal to another thread, and Python handles it then.
_MAX_WAIT_S: Final = 0.2

_Job: TypeAlias = tuple[Proposal, PruningThresholds]
J = TypeVar("J")
R = TypeVar("R")


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
            worker = _Worker(_run_trials)
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


def map_in_processes(function: Callable[[J], R], jobs: Sequence[J], *, count: int) -> Iterator[R]:
    """Yield the results of a function for each job, in order, computed by `count` processes; one job: in this process.

    Args:
        function: A function of a module, so that a process can import it.
        jobs: Its arguments; like the results, they can be pickled.
        count: Number of processes, at least 1.

    Raises:
        MachineError: A process died.
    """
    if min(count, len(jobs)) <= 1:
        yield from map(function, jobs)
        return
    results: dict[int, R] = {}
    busy: dict[int, _Worker] = {}
    idle: list[_Worker] = []
    waiting = deque(range(len(jobs)))
    try:
        for number in range(len(jobs)):
            while number not in results:
                while waiting and len(busy) < count:
                    worker = idle.pop() if idle else _Worker(_call)
                    busy[waiting[0]] = worker
                    with suppress(OSError):
                        worker.pipe.send((function, jobs[waiting.popleft()]))
                ready = wait([worker.pipe for worker in busy.values()], timeout=_MAX_WAIT_S)
                for finished in [n for n, worker in busy.items() if worker.pipe in ready]:
                    idle.append(busy.pop(finished))
                    try:
                        answer = idle[-1].pipe.recv()
                    except (EOFError, OSError) as err:
                        raise MachineError(
                            "a worker process died, most likely for lack of memory", hint="use --workers 1"
                        ) from err
                    if isinstance(answer, BaseException):
                        raise answer
                    results[finished] = answer
            yield results.pop(number)
    finally:
        _end_all(idle)
        _end_all(list(busy.values()))


class _Worker:
    """One spawned process, the pipe to it, and the trial it runs; `target` is the function that the process runs."""

    job: _Job

    def __init__(self, target: Callable[[Connection], None]) -> None:
        context = get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process: BaseProcess = context.Process(target=target, args=(child_pipe,), daemon=True)
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


def _run_trials(pipe: Connection) -> None:
    """Run trials in a worker process until its pipe closes.

    The first message is the fold data and the path of the binned rows, each later one a trial; answers are results.
    """
    messages = _start_receiving(pipe)
    fold_data, binned_path = messages.get()
    runner: FoldRunner | None = None

    def run(proposal: Proposal, thresholds: PruningThresholds) -> TrialRecord | None:
        nonlocal runner
        runner = runner or FoldRunner(fold_data, load_binned(binned_path, fold_data.config))
        return runner.run(proposal, thresholds)

    while True:
        _answer(pipe, run, *messages.get())


def _call(pipe: Connection) -> None:
    """Call functions in a worker process until its pipe closes: each message is a function and its argument."""
    messages = _start_receiving(pipe)
    while True:
        _answer(pipe, *messages.get())


def _start_receiving(pipe: Connection) -> SimpleQueue[Any]:
    """Prepare a worker process, and return the queue of the messages that arrive in its pipe."""
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive_all, args=(pipe, messages), daemon=True).start()
    skip_scikit_learn()
    # OpenMP reads it when LightGBM's library is loaded, which happens later.
    os.environ["OMP_NUM_THREADS"] = "1"
    return messages


def _answer(pipe: Connection, function: Callable[..., object], *arguments: object) -> None:
    """Send a function's result, or the exception that it raised, to the parent."""
    answer: object
    try:
        answer = function(*arguments)
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
