"""The search: hyperparameters and number of rounds of least walk-forward log loss inside the inner part.

A trial is a pure function of its parameters and of the pruning thresholds; Optuna only proposes parameters. Results are
reported in the order of the trials' numbers, and each result makes room for the next trials, whose thresholds follow
from the results reported until then. The number of trials in flight depends only on how many have completed: two at
first, when there is nothing to compare with, later a whole batch. So neither the number of workers nor an interruption
changes a trial, and no worker waits for the slowest trial of a batch. A search that is stopped after n trials equals a
search for n trials.

Trials are pruned by asynchronous successive halving (ASHA, Li et al. 2020) on learning curves. Rungs are measured in
rounds x learning rate x square root of leaves, so that slow and fast learners are compared at equal progress; the first
rungs use only the first fold, which costs a sixth of all folds. A trial is pruned at a rung if its best loss so far is
not among the best of the earlier trials there; trials that stopped improving before it count with their best loss. A
trial that has passed all rungs ends when it stops improving, sooner if an earlier trial was better.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.config.train_config import LEAST_OF_EARLIER_FILES, study_sha256
from mltrain.errors import UsageError
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.temps import TEMP_SUFFIX, note_temp
from mltrain.training.booster import bin_rows, load_binned, save_binned
from mltrain.training.samples import matrix_sha256, take_rows
from mltrain.training.split import span_within
from mltrain.training.study import STARTUP_TRIALS, completed_when_proposed, open_study
from mltrain.training.trial import FoldData, FoldRunner, PruningThresholds
from mltrain.training.workers import InProcessExecutor, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.config.train_config import SearchConfig, TrainConfig
    from mltrain.progress import Progress
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split
    from mltrain.training.study import Study
    from mltrain.training.trial import TrialRecord
    from mltrain.training.workers import TrialExecutor

# Libraries whose version changes a trial.
_LIBRARIES: Final = ("lightgbm", "optuna", "numpy")


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How to run a search; no option changes a trial's result.

    Attributes:
        workers: Number of processes that run trials, 1 or more; 1: this process runs them.
        resume: Whether to continue an unfinished study.
        timeout_s: Seconds after which the search ends, but not before one trial has completed; None: no limit.
    """

    workers: int
    resume: bool = False
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers; a UsageError names the one that is wrong."""
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}: expected 1 or more")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UsageError(f"timeout is {self.timeout_s} s: expected a number above 0")


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Scores of rows in the validation blocks of all folds, each by the booster fitted on its fold's training rows.

    Attributes:
        scores: Uncalibrated probabilities of "up", shape (m,), in [0, 1].
        rows: Position in their samples of each scored row, shape (m,), increasing.
        fold: Fold of each score, from 0, shape (m,).
    """

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]
    fold: NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The trials of a search and the scores of the best one.

    Attributes:
        best: The complete trial of least loss; of equals, the earlier one.
        trials: All trials, by number.
        resumed: Number of trials that had completed before this run.
        timed_out: Whether the timeout ended the search.
        oof: Out-of-fold scores of the best trial after `best.best_round` rounds.
        tie_oof: The same of the candles whose label was dropped as a tie; `rows` are positions in those.
    """

    best: TrialRecord
    trials: tuple[TrialRecord, ...]
    resumed: int
    timed_out: bool
    oof: OutOfFold
    tie_oof: OutOfFold


def search(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    *,
    journal: Path,
    execution: ExecutionOptions,
    progress: Progress,
    warm_start: Mapping[str, float] | None = None,
    ties: Samples | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Search for the hyperparameters and the number of rounds of least walk-forward log loss.

    Args:
        samples: All rows; those of the holdout are not read.
        split: The split of these rows.
        config: Its `seed`, `booster`, `search` and row weights are used.
        journal: Path of the study's journal. The caller holds the study's lock.
        execution: Workers, resumption and timeout.
        progress: Advances with every trial.
        warm_start: Hyperparameters to try right after LightGBM's defaults.
        ties: Candles without a label, which the best trial's boosters score too; no trial reads them.
        clock: Returns seconds since any fixed time; used for the timeout alone.
    """
    search_config, start_s = config.search, clock()
    fold_data = FoldData.of(samples, split, config)
    first_params = [search_config.space.defaults(), *([] if warm_start is None else [dict(warm_start)])]
    binned_inner = bin_rows(samples, split, config, rows=split.inner.span)
    binned_path = journal.with_name(f".{journal.stem}{TEMP_SUFFIX}")
    with disk_errors(journal, "clean up next to"):
        # Left by a killed run.
        binned_path.unlink(missing_ok=True)
    with quiet_optuna():
        study = open_study(
            journal,
            search_config,
            seed=config.seed,
            identity=_describe_identity(samples, split, config, first_params),
            first_params=first_params,
            resume=execution.resume,
            progress=progress,
        )
        resumed = min(len(study.completed), search_config.trials)

        def left_s() -> float:
            # A search needs one result: the first trial is never cut short.
            if execution.timeout_s is None or not study.completed:
                return math.inf
            return start_s + execution.timeout_s - clock()

        workers = min(execution.workers, search_config.batch, search_config.trials - resumed)
        if workers <= 1:
            runner = FoldRunner(fold_data, binned_inner)
            # The folds hold copies of their rows.
            del binned_inner
            _run_trials(study, search_config, InProcessExecutor(runner), left_s=left_s, progress=progress)
        else:
            note_temp(binned_path)
            try:
                save_binned(binned_inner, binned_path)
                # The workers load the rows from the file: free this copy while they run.
                del binned_inner
                with closing(WorkerPool(fold_data, binned_path, count=workers)) as executor:
                    _run_trials(study, search_config, executor, left_s=left_s, progress=progress)
                runner = FoldRunner(fold_data, load_binned(binned_path, config))
            finally:
                binned_path.unlink(missing_ok=True)
    trials = study.completed[: search_config.trials]
    best = find_best(trials)
    if best.best_round == search_config.max_rounds:
        progress.warn(f"the best trial was still improving after search.max_rounds = {search_config.max_rounds} rounds")
    oof, tie_oof = _score_out_of_fold(runner, split, best.params, best.best_round, ties)
    return SearchResult(
        best=best,
        trials=tuple(trials),
        resumed=resumed,
        timed_out=len(trials) < search_config.trials,
        oof=oof,
        tie_oof=tie_oof,
    )


def _run_trials(
    study: Study,
    search_config: SearchConfig,
    executor: TrialExecutor,
    *,
    left_s: Callable[[], float],
    progress: Progress,
) -> None:
    """Run a study's remaining trials until all have completed or no seconds are left."""
    completed, trials = study.completed, search_config.trials

    def advance(steps: int) -> None:
        progress.advance(steps, note=f"best {find_best(completed[:trials]).loss:.5f}")

    progress.stage("search", total=trials)
    if completed:
        advance(min(len(completed), trials))
    submitted = len(completed)
    while len(completed) < trials and left_s() > 0:
        # The study proposes ahead, also beyond the last trial to run: a longer search would propose the same.
        for proposal in study.proposed[submitted:trials]:
            completed_then = completed[: completed_when_proposed(proposal.number, search_config.batch)]
            executor.submit(proposal, pruning_thresholds(completed_then, search_config))
            submitted += 1
        record = executor.next_record(left_s=left_s)
        if record is None:
            return
        study.report(record)
        advance(1)


def refit_out_of_fold(
    samples: Samples, split: Split, config: TrainConfig, *, params: Mapping[str, float], rounds: int
) -> OutOfFold:
    """Fit all folds with these hyperparameters and rounds; return the scores of their validation rows.

    They have the same bits as those of the search that found the hyperparameters.
    """
    binned_inner = bin_rows(samples, split, config, rows=split.inner.span)
    runner = FoldRunner(FoldData.of(samples, split, config), binned_inner)
    return _score_out_of_fold(runner, split, params, rounds, None)[0]


def _score_out_of_fold(
    runner: FoldRunner, split: Split, params: Mapping[str, float], rounds: int, ties: Samples | None
) -> tuple[OutOfFold, OutOfFold]:
    """Return the scores of the validation rows of all folds, and of the ties in their time ranges."""
    valid_rows = [np.arange(fold.valid.first_row, fold.valid.stop_row) for fold in split.folds]
    tie_spans = [] if ties is None else [span_within(ties, fold.valid) for fold in split.folds]
    scores, tie_scores = runner.score(params, rounds, [] if ties is None else [ties.x[span] for span in tie_spans])
    return (
        _join_folds(scores, valid_rows),
        _join_folds(tie_scores, [np.arange(span.start, span.stop) for span in tie_spans]),
    )


def _join_folds(scores: Sequence[NDArray[np.float64]], rows: Sequence[NDArray[np.int64]]) -> OutOfFold:
    """Return the scores and rows of all folds as one; without any scores, it is empty."""
    return OutOfFold(
        scores=np.concatenate([np.empty(0), *scores]),
        rows=np.concatenate([np.empty(0, np.int64), *rows]),
        fold=np.repeat(np.arange(len(rows), dtype=np.int8), [part.size for part in rows]),
    )


def pruning_thresholds(completed: Sequence[TrialRecord], search_config: SearchConfig) -> PruningThresholds:
    """Return the greatest loss that passes each rung, and the least loss of a complete trial, in nats.

    Args:
        completed: The trials that had completed when the trial to compare was proposed.
        search_config: Of the completed trials at a rung, its best share `keep` passes: no more than `most` trials, but
            never fewer than `least`. A rung that fewer reached prunes nothing.
    """
    max_rung_losses = []
    for k, rung in enumerate(search_config.rungs):
        losses = sorted(t.rung_losses[k] for t in completed if len(t.rung_losses) > k)
        passing = max(rung.least, min(rung.most, math.ceil(rung.keep * len(losses))))
        max_rung_losses.append(losses[passing - 1] if len(losses) >= passing else math.inf)
    best_loss = min((t.loss for t in completed if t.state == "complete"), default=math.inf)
    return PruningThresholds(tuple(max_rung_losses), best_loss)


def find_best(trials: Sequence[TrialRecord]) -> TrialRecord:
    """Return the complete trial of least loss; of equals, the earlier one."""
    return min((t for t in trials if t.state == "complete"), key=lambda t: (t.loss, t.number))


def _describe_identity(
    samples: Samples, split: Split, config: TrainConfig, first_params: Sequence[Mapping[str, float]]
) -> dict[str, str]:
    """Return a text or hash of each thing that the trials of a study depend on, by the name that messages use.

    Journals store these strings: neither the texts nor the `repr` of the split's dataclasses may change.
    """
    return {
        "configuration": f"{study_sha256(config, registry_sha256='', warm_start=None)}-{config.seed}",
        "start": sha256_bytes(repr(first_params).encode()),
        "set of rows": matrix_sha256(take_rows(samples, split.inner.span)),
        "split": sha256_bytes(repr(split.folds).encode()),
        "search method": f"{LEAST_OF_EARLIER_FILES} always pass, {STARTUP_TRIALS} at random",
        **{f"{name} version": version(name) for name in _LIBRARIES},
    }


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's line per trial inside the block."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
