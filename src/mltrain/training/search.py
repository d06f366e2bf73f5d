"""The search: which parameters, and how many rounds, by walk-forward folds inside the inner part.

A trial is a pure function of its parameters and of the bar that earlier trials set; Optuna only proposes. All results
are told in the order of the trials' numbers, and each of them makes room for the next trials, whose bar is set by those
told till then. How many are on their way follows from how many were told: two at first, since the first ones have
nothing to be judged by, and soon a whole batch. So neither the number of workers, nor a kill and a resumption, nor the
end of the search changes a trial, and nobody waits for the slowest of a batch. A search that ends early, at any trial,
is the search that was asked for no more trials.

A bad trial is pruned at a rung. Rungs are counted in rounds x learning rate x root of the leaves, so that slow and fast
learners are compared at the same progress; the first ones look at the first fold alone, which costs a sixth of all. A
trial is pruned there if its best loss so far is not among the best of the earlier trials at that rung; trials that
stopped improving earlier count with their best loss. The best `ALWAYS_PASS` always pass: the curves of a few trials do
not show which ones are bad, and a search of twenty would prune nearly all of them. A trial that has passed all rungs
ends when it stops improving, and sooner if an earlier one was better.

Pruning depends on the results of the earlier trials alone, never on how many trials were asked for.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.config.train_config import study_sha256
from mltrain.storage.edge import TEMP_SUFFIX, disk_edge, note_temp, sha256_bytes
from mltrain.training.booster import bin_rows, load_binned, save_binned
from mltrain.training.samples import matrix_sha256, take_rows
from mltrain.training.study import STARTUP_TRIALS, open_study, told_before
from mltrain.training.trial import Bar, Ground, Track
from mltrain.training.workers import Alone, Workers

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
    from mltrain.training.workers import Crew

#: How many trials, counted from the best, pass every rung whatever its `keep` and `most`. Replayed in 400 orders of 19
#: trials on 90 days of BTCUSDT, 4 lower the mean loss that pruning costs from 2e-4 to 7e-6 nats, at .66 instead of .24
#: of the unpruned cost; how soon a trial that has passed all rungs ends (`settle`) makes no difference there.
ALWAYS_PASS: Final = 4
_LIBRARIES: Final = ("lightgbm", "optuna", "numpy")  # whose versions a trial depends on


@dataclass(frozen=True, slots=True)
class Manner:
    """How a search is run: nothing here changes a trial.

    Attributes:
        workers: Processes that run trials; with one, they run in this process.
        resume: Whether a study that was begun goes on.
        timeout_s: Seconds after which no more trials are told, once there is one; None: no limit.
    """

    workers: int
    resume: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What boosters say of rows that they have not learned from.

    Attributes:
        oof_scores: Scores of the folds' validation rows, shape (m,).
        oof_rows: The samples' row of each score, shape (m,), rising.
        oof_fold: The fold of each score, from 0, shape (m,).
    """

    oof_scores: NDArray[np.float64]
    oof_rows: NDArray[np.int64]
    oof_fold: NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult(OutOfFold):
    """What the search found: its out-of-fold scores are the best trial's, after `best.rounds` rounds.

    Attributes:
        best: The complete trial of least loss; the earlier one of equals.
        trials: All trials, by number.
        resumed: How many of them had been told before this run.
        timed_out: Whether the time ended the search.
    """

    best: TrialRecord
    trials: tuple[TrialRecord, ...]
    resumed: int
    timed_out: bool


def search(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    *,
    journal: Path,
    manner: Manner,
    progress: Progress,
    warm_start: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Search for the parameters and the number of rounds of least walk-forward log loss.

    Args:
        samples: All rows; those of the holdout are not looked at.
        split: Of these rows.
        config: Its `seed`, `booster`, `search` and the weights of rows count here.
        journal: Where the study is kept. The caller holds the study's lock.
        manner: How it is run.
        progress: Told of every trial.
        warm_start: Parameters of the space that are tried right after LightGBM's defaults.
        clock: Tells seconds; for the timeout alone.

    Returns:
        The trials, the best of them, and its out-of-fold scores.

    Raises:
        InputError: Every feature is constant in the first fold's training rows, or a study that was to be resumed is
            damaged or of other data.
        MachineError: The journal cannot be written, LightGBM cannot be loaded, or a worker died twice at one trial.
    """
    plan, start = config.search, clock()
    ground = Ground.of(samples, split, config)
    first = [plan.space.defaults(), *([] if warm_start is None else [dict(warm_start)])]
    inner = bin_rows(samples, split, config, rows=split.inner.span)
    with disk_edge(journal, "clean up beside"):
        _binned_path(journal).unlink(missing_ok=True)  # what a killed run has left
    with _quiet_optuna():
        study = open_study(
            journal,
            plan,
            seed=config.seed,
            identity=_identity(samples, split, config, first),
            first=first,
            resume=manner.resume,
            progress=progress,
        )
        resumed = min(len(study.told), plan.trials)

        def left_s() -> float:
            # Without a trial there is nothing to end with; the first one is never cut short.
            return math.inf if manner.timeout_s is None or not study.told else start + manner.timeout_s - clock()

        run = _Run(study, plan, left_s, progress)
        count = min(manner.workers, plan.batch, plan.trials - resumed)
        if count <= 1:
            track = Track.of(ground, inner)
            del inner  # the folds have their own rows
            run.to_the_end(Alone(track))
        else:
            with _saved(inner, journal) as binned:
                del inner  # the workers have their own; this process needs its memory for nothing meanwhile
                with Workers(ground, binned, count=count) as crew:
                    run.to_the_end(crew)
                track = Track.of(ground, load_binned(binned, config))
    told = study.told[: plan.trials]
    best = find_best(told)
    if best.rounds == plan.max_rounds:
        progress.warn(f"the best trial was still improving after search.max_rounds = {plan.max_rounds} rounds")
    oof = _score(track, split, best.params, best.rounds)
    return SearchResult(
        best=best,
        trials=tuple(told),
        resumed=resumed,
        timed_out=len(told) < plan.trials,
        oof_scores=oof.oof_scores,
        oof_rows=oof.oof_rows,
        oof_fold=oof.oof_fold,
    )


def regrow(
    samples: Samples, split: Split, config: TrainConfig, *, params: Mapping[str, float], rounds: int
) -> OutOfFold:
    """Return the out-of-fold scores of parameters after a number of rounds, as the search that found them has them.

    Raises:
        InputError: Every feature is constant in the first fold's training rows.
        MachineError: LightGBM cannot be loaded.
    """
    inner = bin_rows(samples, split, config, rows=split.inner.span)
    return _score(Track.of(Ground.of(samples, split, config), inner), split, params, rounds)


def _score(track: Track, split: Split, params: Mapping[str, float], rounds: int) -> OutOfFold:
    return OutOfFold(
        oof_scores=np.concatenate(track.score(params, rounds)),
        oof_rows=np.concatenate([np.arange(f.valid.first_row, f.valid.stop_row) for f in split.folds]),
        oof_fold=np.repeat(np.arange(len(split.folds), dtype=np.int8), [f.valid.rows for f in split.folds]),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """The trials of a study."""

    study: Study
    plan: SearchConfig
    left_s: Callable[[], float]
    progress: Progress

    def to_the_end(self, crew: Crew) -> None:
        """Run what is left of the trials, until all are told or the time is up."""
        told, plan = self.study.told, self.plan
        self.progress.stage("search", total=plan.trials)
        if told:
            self._advance(min(len(told), plan.trials))
        given = len(told)
        while len(told) < plan.trials and self.left_s() > 0:
            # The study asks ahead, also where fewer trials are left to run: a longer search would ask the same.
            for proposal in self.study.asked[given : plan.trials]:
                crew.give(proposal, set_bar(told[: told_before(proposal.number, plan.batch)], plan))
                given += 1
            record = crew.take(left_s=self.left_s)
            if record is None:
                return
            self.study.tell(record)
            self._advance(1)

    def _advance(self, steps: int) -> None:
        self.progress.advance(steps, note=f"best {find_best(self.study.told[: self.plan.trials]).loss:.5f}")


def set_bar(told: Sequence[TrialRecord], plan: SearchConfig) -> Bar:
    """Return what a trial has to pass.

    Args:
        told: The trials told when it was asked; at a rung that fewer than `ALWAYS_PASS` of them reached, every trial
            passes.
        plan: Its rungs count here.
    """
    bounds = []
    for k, rung in enumerate(plan.rungs):
        losses = sorted(t.rung_losses[k] for t in told if len(t.rung_losses) > k)
        passing = max(ALWAYS_PASS, min(rung.most, math.ceil(rung.keep * len(losses))))
        bounds.append(losses[passing - 1] if len(losses) >= passing else math.inf)
    return Bar(tuple(bounds), min((t.loss for t in told if t.state == "complete"), default=math.inf))


def find_best(told: Sequence[TrialRecord]) -> TrialRecord:
    """Return the complete trial of least loss; the earlier one of equals."""
    return min((t for t in told if t.state == "complete"), key=lambda t: (t.loss, t.number))


def _identity(
    samples: Samples, split: Split, config: TrainConfig, first: Sequence[Mapping[str, float]]
) -> dict[str, str]:
    """Return what the trials depend on, each thing under the name that a message gives it."""
    return {
        "configuration": f"{study_sha256(config, registry_sha256='', warm_start=None)}-{config.seed}",
        "start": sha256_bytes(repr(first).encode()),
        "set of rows": matrix_sha256(take_rows(samples, split.inner.span)),
        "split": sha256_bytes(repr(split.folds).encode()),
        "search method": f"{ALWAYS_PASS} always pass, {STARTUP_TRIALS} at random",
        **{f"{name} version": version(name) for name in _LIBRARIES},
    }


@contextmanager
def _saved(inner: Any, journal: Path) -> Iterator[Path]:  # noqa: ANN401 (LightGBM has no types)
    """Give the file of the binned rows, under a hidden name of the study's own; it vanishes when the block ends."""
    path = _binned_path(journal)
    note_temp(path)
    try:
        save_binned(inner, path)
        del inner
        yield path
    finally:
        path.unlink(missing_ok=True)


def _binned_path(journal: Path) -> Path:
    return journal.with_name(f".{journal.stem}{TEMP_SUFFIX}")


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
