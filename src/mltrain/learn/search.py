"""The search: which parameters, and how many rounds, by walk-forward folds inside the inner part.

A trial is a pure function of its parameters and of the bounds that earlier batches set; Optuna only proposes. All
parameters of a batch are asked before any of it runs, each by a sampler with a seed of its own, and all results are
told in the order of the trials' numbers: neither the number of workers nor the end of the search changes a trial.

The folds of a trial advance in lockstep and are judged by one curve, the mean of their validation log losses. Its
minimum is the trial's loss, and where it lies is the number of rounds, for all folds, for the out-of-fold scores and
for the final fit. Stopping each fold on its own rows would flatter exactly those rows, on which the calibrator is
then fitted.

A bad trial ends at a rung. Rungs are counted in rounds x learning rate, so that slow and fast learners are compared
when they have come equally far. A trial ends there if its best loss so far is not among the best share of the trials
told before; trials that had ended by themselves count with the loss that they ended with.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.files import atomic_write, disk_edge, read_file, write_new
from mltrain.learn.backend import import_lightgbm
from mltrain.learn.fit import bin_inner, booster_params, subset
from mltrain.learn.metrics import row_log_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna import Trial
    from optuna.distributions import BaseDistribution

    from mltrain.config import Range, SearchConfig, TrainConfig
    from mltrain.learn.samples import Samples
    from mltrain.learn.split import Split
    from mltrain.progress import Progress

STARTUP_TRIALS: Final = 10  # told trials before TPE takes over from chance; Optuna's default
_MAX_JOURNAL_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as told.

    Attributes:
        number: From 0.
        params: What the search chose, by LightGBM's names.
        rounds: Where the mean curve was lowest, from 1.
        loss: The mean curve there, in nats.
        curve_rounds: Rounds that were run.
        rung_losses: The best loss so far at each rung reached; of a complete trial at all rungs.
        state: "complete", or "pruned" where it ended at a rung.
        seconds: What it took; the one figure that differs from run to run.
    """

    number: int
    params: Mapping[str, float]
    rounds: int
    loss: float
    curve_rounds: int
    rung_losses: tuple[float, ...]
    state: Literal["complete", "pruned"]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What the search found.

    Attributes:
        best: The complete trial of least loss; the earlier one of equals.
        trials: All trials, by number.
        oof_scores: Scores of the best trial's folds on their validation rows, after `best.rounds` rounds, shape (m,).
        oof_rows: The samples' row of each score, shape (m,), rising.
        oof_fold: The fold of each score, from 0, shape (m,).
    """

    best: TrialRecord
    trials: tuple[TrialRecord, ...]
    oof_scores: NDArray[np.float64]
    oof_rows: NDArray[np.int64]
    oof_fold: NDArray[np.int8]


def search(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    *,
    journal: Path,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
) -> SearchResult:
    """Search for the parameters and the number of rounds of least walk-forward log loss.

    Args:
        samples: All rows; those of the holdout are not looked at.
        split: Of these rows.
        config: Its `seed`, `booster` and `search` count here.
        journal: Where Optuna's record of the study goes; one that is there is kept as `<name>.old`. The caller holds
            the study's lock.
        progress: Told of every trial.
        clock: Tells seconds; for the records alone.

    Returns:
        The trials, the best of them, and its out-of-fold scores.

    Raises:
        InputError: Every feature is constant in the first fold's training rows.
        MachineError: The journal cannot be written, or LightGBM cannot be loaded.
    """
    plan = config.search
    folds = _bin_folds(samples, split, config)
    told: list[TrialRecord] = []
    progress.stage("search", total=plan.trials)
    with _quiet_optuna():
        study = _Study(journal, plan, seed=config.seed)
        while len(told) < plan.trials:
            # A whole batch is asked, also where fewer trials are left to run: a longer search would ask the same.
            numbers = range(len(told), len(told) + plan.batch)
            asked = [study.ask(number) for number in numbers]
            bounds = rung_bounds(told, plan)
            for trial in asked[: plan.trials - len(told)]:
                record = _run(folds, trial, config, bounds, clock)
                study.tell(trial, record)
                told.append(record)
                progress.advance(1, note=f"best {_best(told).loss:.5f}")
    best = _best(told)
    if best.rounds == plan.max_rounds:
        progress.warn(f"the best trial was still improving after search.max_rounds = {plan.max_rounds} rounds")
    return _with_scores(folds, config, told, best)


def rung_bounds(told: Sequence[TrialRecord], plan: SearchConfig) -> tuple[float, ...]:
    """Return, for each rung, the worst loss with which a trial passes it.

    Args:
        told: The trials of earlier batches; with fewer than a batch of them at a rung, every trial passes.
        plan: Its rungs and batch count here.
    """
    bounds = []
    for k, rung in enumerate(plan.rungs):
        losses = sorted(t.rung_losses[k] for t in told if len(t.rung_losses) > k)
        enough = len(losses) >= plan.batch
        bounds.append(losses[math.ceil(rung.keep * len(losses)) - 1] if enough else math.inf)
    return tuple(bounds)


def _best(told: Sequence[TrialRecord]) -> TrialRecord:
    return min((t for t in told if t.state == "complete"), key=lambda t: (t.loss, t.number))


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """The binned rows of one fold, and what happened on its validation rows."""

    train: Any
    valid: Any
    y: NDArray[np.uint8]
    rows: NDArray[np.int64]


def _bin_folds(samples: Samples, split: Split, config: TrainConfig) -> list[_Fold]:
    inner = bin_inner(samples, split, booster_params(config, {}))
    return [
        _Fold(
            train=subset(inner, split, fold.train),
            valid=subset(inner, split, fold.valid),
            y=samples.y[fold.valid.span],
            rows=np.arange(fold.valid.first_row, fold.valid.stop_row),
        )
        for fold in split.folds
    ]


class _FoldBooster:
    """A booster that grows round by round and scores its validation rows after each."""

    def __init__(self, fold: _Fold, params: Mapping[str, Any]) -> None:
        self._fold = fold
        self._booster = import_lightgbm().Booster(dict(params), fold.train).add_valid(fold.valid, "valid")
        self.scores: NDArray[np.float64] = np.empty(0)

    def advance(self) -> None:
        """Grow one more tree."""
        self._booster.update()

    def loss(self) -> float:
        """Score the validation rows and return their mean log loss."""
        # LightGBM adds each tree to the scores of its validation rows as it grows; an evaluation function is handed
        # those scores, so that no tree is walked twice. With metric "None" nothing else is computed.
        self._booster.eval_valid(self._keep)
        return float(row_log_loss(self.scores, self._fold.y).mean())

    def _keep(self, scores: NDArray[np.float64], _: object) -> tuple[str, float, bool]:
        self.scores = scores
        return "scores", 0.0, False


def _run(
    folds: Sequence[_Fold], trial: Trial, config: TrainConfig, bounds: Sequence[float], clock: Callable[[], float]
) -> TrialRecord:
    """Run one trial to its end, or to the rung that it does not pass."""
    plan, start = config.search, clock()
    params = booster_params(config, trial.params)
    boosters = [_FoldBooster(fold, params) for fold in folds]
    ends = [max(1, round(rung.at / params["learning_rate"])) for rung in plan.rungs]
    loss, rounds, rung_losses, pruned, done = math.inf, 0, [], False, 0
    while not pruned and done < plan.max_rounds and done - rounds < plan.early_stop:
        done += 1
        reached = _advance(boosters)
        if reached < loss:
            loss, rounds = reached, done
        rung_losses += [loss] * ends.count(done)
        pruned = any(a > b for a, b in zip(rung_losses, bounds, strict=False))
    return TrialRecord(
        number=trial.number,
        params=trial.params,
        rounds=rounds,
        loss=loss,
        curve_rounds=done,
        rung_losses=tuple(rung_losses if pruned else rung_losses + [loss] * (len(ends) - len(rung_losses))),
        state="pruned" if pruned else "complete",
        seconds=clock() - start,
    )


def _advance(boosters: Sequence[_FoldBooster]) -> float:
    """Grow every fold by one tree and return the mean of their losses."""
    losses = []
    for booster in boosters:
        booster.advance()
        losses.append(booster.loss())
    return math.fsum(losses) / len(losses)


def _with_scores(
    folds: Sequence[_Fold], config: TrainConfig, told: Sequence[TrialRecord], best: TrialRecord
) -> SearchResult:
    """Grow the best trial's folds once more, to its number of rounds, and keep their scores."""
    params = booster_params(config, best.params)
    scores = []
    for fold in folds:
        booster = _FoldBooster(fold, params)
        for _ in range(best.rounds):
            booster.advance()
        booster.loss()
        scores.append(booster.scores)
    return SearchResult(
        best=best,
        trials=tuple(told),
        oof_scores=np.concatenate(scores),
        oof_rows=np.concatenate([fold.rows for fold in folds]),
        oof_fold=np.repeat(np.arange(len(folds), dtype=np.int8), [fold.rows.size for fold in folds]),
    )


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from telling of every trial, as long as this search lasts."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Study:
    """The search as Optuna keeps it: proposals, and a journal of what became of them."""

    def __init__(self, journal: Path, plan: SearchConfig, *, seed: int) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        class Held(JournalFileOpenLock):
            """No lock: the caller holds the study's, and Optuna's own would make a rerun after a kill wait 30 s."""

            def acquire(self) -> bool:
                return True

            def release(self) -> None:
                pass

        self._journal, self._plan, self._seed = journal, plan, seed
        self._distributions = {r.name: _distribution(r) for r in plan.space}
        with disk_edge(journal, "begin the study"):
            if journal.exists():
                old = journal.with_name(f"{journal.name}.old")
                atomic_write(old, read_file(journal, max_bytes=_MAX_JOURNAL_BYTES, what="study journal"))
                journal.unlink()
            write_new(journal, b"")
            backend = JournalFileBackend(str(journal), lock_obj=Held(str(journal)))
            storage = optuna.storages.JournalStorage(backend)
            self._study = optuna.create_study(storage=storage, study_name=journal.stem, direction="minimize")
            self._study.enqueue_trial({r.name: r.default for r in plan.space})

    def ask(self, number: int) -> Trial:
        """Ask for the parameters of a trial, from a sampler whose seed is of that trial alone."""
        from optuna.samplers import TPESampler

        own_seed = int.from_bytes(hashlib.sha256(f"{self._seed}:{number}".encode()).digest()[:4], "big")
        self._study.sampler = TPESampler(
            seed=own_seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
        )
        with disk_edge(self._journal, "write"):
            return self._study.ask(self._distributions)

    def tell(self, trial: Trial, record: TrialRecord) -> None:
        """Tell of a trial; of a pruned one, its loss at the last rung, by which TPE ranks it."""
        from optuna.trial import TrialState

        with disk_edge(self._journal, "write"):
            if record.state == "complete":
                self._study.tell(trial, record.loss)
            else:
                trial.report(record.loss, step=len(record.rung_losses))
                self._study.tell(trial, state=TrialState.PRUNED)


def _distribution(searched: Range) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if searched.integer:
        return IntDistribution(int(searched.low), int(searched.high), log=searched.log)
    return FloatDistribution(searched.low, searched.high, log=searched.log)
