"""The search: hyperparameters and number of epochs of least walk-forward log loss inside the inner part.

As for boosters (`mltrain.training.search`), a trial is a function of its parameters, Optuna only proposes them, and
the journal stores the results, so that neither workers nor interruptions change anything. The folds of all trials in
flight are the jobs. The minimum of the mean loss curve is the trial's loss, and its position is the number of epochs:
for all folds, for the out-of-fold scores and for the final fit.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.config.train_config import study_sha256
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.temps import new_temp_path
from mltrain.tft.fit_options import FitOptions
from mltrain.tft.fold_fit import FoldJob, run_fold, save_rows
from mltrain.training.sample_weights import compute_row_weights, compute_up_weight
from mltrain.training.samples import matrix_sha256, take_rows
from mltrain.training.search import OutOfFold, SearchResult, find_best, quiet_optuna
from mltrain.training.split import span_within
from mltrain.training.study import open_study
from mltrain.training.trial import TrialRecord
from mltrain.training.workers import map_in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.progress import Progress
    from mltrain.tft.fold_fit import FoldResult
    from mltrain.training.samples import Samples
    from mltrain.training.search import ExecutionOptions
    from mltrain.training.split import Split
    from mltrain.training.trial import Proposal

# Libraries whose version changes a trial.
_LIBRARIES: Final = ("torch", "optuna", "numpy")
_NONE: Final = slice(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class FittedNetwork:
    """A network fitted for a number of epochs.

    Attributes:
        result: Its scaler and parameters.
        hidden: Width of its layers.
    """

    result: FoldResult
    hidden: int


class NetworkSearch:
    """Runs trials of networks on rows that are saved once, for this process or for workers.

    Args:
        samples: All rows, each with a window; those of the holdout are not read.
        ties: The candles whose label was dropped as a tie, with a window, which are scored.
        short: The bars without a window, which are read as parts of windows.
        split: The split of the samples.
        config: Its seed, its row weights and its network are used.
        folder: An empty folder for the rows.
        step_ms: Interval of the candles, ms.
        workers: Number of processes, 1 or more; 1: this process.
    """

    def __init__(
        self,
        samples: Samples,
        ties: Samples,
        short: Sequence[Samples],
        split: Split,
        config: TrainConfig,
        *,
        folder: Path,
        step_ms: int,
        workers: int,
    ) -> None:
        self._samples, self._ties, self._split = samples, ties, split
        self._config, self._tft = config, config.tft
        self._folder, self._step_ms, self._workers = folder, step_ms, workers
        self._up_weight = compute_up_weight(samples, split, config)
        save_rows(folder, [samples, ties, *short])

    def run_trials(self, proposals: Sequence[Proposal]) -> Iterator[tuple[TrialRecord, list[FoldResult]]]:
        """Yield the result of each trial, and those of its folds."""
        start_s, folds = time.perf_counter(), len(self._split.folds)
        jobs = [
            self.fold_job(proposal.params, fold, self._tft.epochs) for proposal in proposals for fold in range(folds)
        ]
        results = map_in_processes(run_fold, jobs, count=self._workers)
        for proposal in proposals:
            found = [next(results) for _ in range(folds)]
            mean = np.array([math.fsum(losses) / folds for losses in zip(*(x.losses for x in found), strict=True)])
            best = int(np.argmin(mean))
            record = TrialRecord(
                number=proposal.number,
                params=proposal.params,
                best_round=best + 1,
                loss=float(mean[best]),
                rounds_run=self._tft.epochs,
                rung_losses=(),
                state="complete",
                wall_s=time.perf_counter() - start_s,
            )
            yield record, found

    def refit(self, params: Mapping[str, float], epochs: int) -> list[FoldResult]:
        """Return the folds of a trial with these hyperparameters, fitted for so many epochs."""
        jobs = [self.fold_job(params, fold, epochs) for fold in range(len(self._split.folds))]
        return list(map_in_processes(run_fold, jobs, count=self._workers))

    def fit_final(self, params: Mapping[str, float], epochs: int, *, on_all: bool = False) -> FittedNetwork:
        """Fit one network on the inner part, or on every row, without a validation set."""
        learned = slice(0, self._samples.y.size) if on_all else self._split.inner.span
        # A number that no fold has.
        job = self._make_job(params, learned, number=len(self._split.folds), epochs=epochs)
        return FittedNetwork(run_fold(job), job.hidden)

    def join_scores(self, found: Sequence[FoldResult], epochs: int) -> tuple[OutOfFold, OutOfFold]:
        """Return the out-of-fold scores after so many epochs of the samples, and of the ties."""
        folds = self._split.folds
        return (
            _join([fold.valid.span for fold in folds], [x.scores[epochs - 1] for x in found]),
            _join([span_within(self._ties, fold.valid) for fold in folds], [x.tie_scores[epochs - 1] for x in found]),
        )

    def fold_job(self, params: Mapping[str, float], fold: int, epochs: int) -> FoldJob:
        """Return the fit of a fold, counted from 0, with these hyperparameters."""
        blocks = self._split.folds[fold]
        ties = span_within(self._ties, blocks.valid)
        return self._make_job(
            params, blocks.train.span, number=fold, epochs=epochs, valid=blocks.valid.span, valid_ties=ties
        )

    def _make_job(
        self,
        params: Mapping[str, float],
        learned: slice,
        *,
        number: int,
        epochs: int,
        valid: slice = _NONE,
        valid_ties: slice = _NONE,
    ) -> FoldJob:
        tft, samples = self._tft, self._samples
        return FoldJob(
            folder=self._folder,
            symbols=samples.symbols,
            names=samples.names,
            step_ms=self._step_ms,
            learned=learned,
            valid=valid,
            valid_ties=valid_ties,
            weights=compute_row_weights(samples, learned, self._config, up_weight=self._up_weight),
            up_weight=self._up_weight,
            window=tft.window,
            hidden=tft.round_hidden(params["hidden"]),
            heads=tft.heads,
            epochs=epochs,
            options=make_options(self._config, params, fold=number),
        )


def make_options(config: TrainConfig, params: Mapping[str, float], *, fold: int) -> FitOptions:
    """Return how a network with these hyperparameters is fitted; `fold` is a number that no other fit has."""
    tft = config.tft
    return FitOptions(
        learning_rate=params["learning_rate"],
        weight_decay=tft.weight_decay,
        dropout=params["dropout"],
        largest_gradient=tft.largest_gradient,
        step_windows=tft.step_windows,
        seed=config.seed,
        fold=fold,
    )


def search_networks(
    search: NetworkSearch,
    *,
    identity: Mapping[str, str],
    config: TrainConfig,
    journal: Path,
    execution: ExecutionOptions,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Search for the hyperparameters and the number of epochs of least walk-forward log loss.

    Args:
        search: Runs the trials.
        identity: What the trials depend on, as `describe_identity` returns it.
        config: The configuration that `search` was given.
        journal: Path of the study's journal. The caller holds the study's lock.
        execution: Resumption and timeout; the workers are those of `search`.
        progress: Advances with every trial.
        clock: Returns seconds since any fixed time; used for the timeout alone.
    """
    tft = config.tft
    start_s, space = clock(), tft.search.space
    first_params = [space.defaults()]
    found: dict[int, list[FoldResult]] = {}
    with quiet_optuna():
        study = open_study(
            journal,
            tft.search,
            seed=config.seed,
            identity=identity,
            first_params=first_params,
            resume=execution.resume,
            progress=progress,
        )
        resumed = min(len(study.completed), tft.search.trials)
        progress.stage("search", total=tft.search.trials)
        progress.advance(resumed)
        while len(study.completed) < tft.search.trials:
            if execution.timeout_s is not None and study.completed and clock() - start_s >= execution.timeout_s:
                break
            for record, folds in search.run_trials(study.proposed[len(study.completed) : tft.search.trials]):
                study.report(record)
                found[record.number] = folds
                best = find_best(study.completed)
                # Only those of the best trial are needed later.
                found = {best.number: found[best.number]} if best.number in found else {}
                progress.advance(1, note=f"best {best.loss:.5f}")
    trials = tuple(study.completed[: tft.search.trials])
    best = find_best(trials)
    if best.best_round == tft.epochs:
        progress.warn(f"the best trial was still improving after epochs = {tft.epochs}")
    oof, tie_oof = search.join_scores(
        found.get(best.number) or search.refit(best.params, best.best_round), best.best_round
    )
    return SearchResult(
        best=best,
        trials=trials,
        resumed=resumed,
        timed_out=len(trials) < tft.search.trials,
        oof=oof,
        tie_oof=tie_oof,
    )


@contextmanager
def rows_folder(journal: Path) -> Iterator[Path]:
    """Give a folder next to a journal for the rows of a search; it is removed in the end."""
    folder = new_temp_path(journal)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _join(spans: Sequence[slice], scores: Sequence[NDArray[np.float64]]) -> OutOfFold:
    """Return the scores and rows of all folds as one."""
    return OutOfFold(
        scores=np.concatenate(scores),
        rows=np.concatenate([np.arange(span.start, span.stop) for span in spans]),
        fold=np.repeat(np.arange(len(spans), dtype=np.int8), [part.size for part in scores]),
    )


def describe_identity(samples: Samples, ties: Samples, split: Split, config: TrainConfig) -> dict[str, str]:
    """Return a text or hash of each thing that the trials of a study depend on, by the name that messages use."""
    return {
        "configuration": f"{study_sha256(config, registry_sha256='', warm_start=None)}-{config.seed}",
        "set of rows": matrix_sha256(take_rows(samples, split.inner.span)),
        "set of ties": matrix_sha256(take_rows(ties, span_within(ties, split.inner))),
        "split": sha256_bytes(repr(split.folds).encode()),
        **{f"{name} version": version(name) for name in _LIBRARIES},
    }
