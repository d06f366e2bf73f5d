"""A trial: boosters that grow on all folds in lockstep, judged by the mean of their validation losses.

Pure but for LightGBM, and the same in whatever process it runs: a trial is a function of its parameters, of the folds
and of the bar that earlier trials have set, and of nothing else.

The minimum of the mean curve is the trial's loss, and where it lies is the number of rounds, for all folds, for the
out-of-fold scores and for the final fit. Stopping each fold on its own rows would flatter exactly those rows, on which
the calibrator is then fitted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.training.booster import booster_params, subset
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.metrics import row_log_loss
from mltrain.training.weights import undo_up_weight, up_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.config.train_config import Rung, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

DEFAULT_LEAVES: Final = 31  # LightGBM's own; the trees that a rung's `at` counts in


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial that is to be run.

    Attributes:
        number: From 0.
        params: What the search chose, by LightGBM's names.
    """

    number: int
    params: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """What earlier trials ask of one.

    Attributes:
        rungs: For each rung, the worst loss with which it passes.
        best: The least loss of a complete one: a trial above it that gains no more cannot become the best.
    """

    rungs: tuple[float, ...]
    best: float


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as told.

    Attributes:
        number: From 0.
        params: What the search chose, by LightGBM's names.
        rounds: Where the mean curve was lowest, from 1; of a pruned trial, the curve of its last rung's folds.
        loss: The mean curve there, in nats.
        curve_rounds: Rounds that were run.
        rung_losses: The best loss so far at each rung reached; of a complete trial at all rungs.
        state: "complete", or "pruned" where it ended at a rung.
        seconds: What it took; the one figure that differs from run to run, and no part of what makes records equal.
    """

    number: int
    params: Mapping[str, float]
    rounds: int
    loss: float
    curve_rounds: int
    rung_losses: tuple[float, ...]
    state: Literal["complete", "pruned"]
    seconds: float = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What every trial runs on, but for the binned rows themselves; small enough to be sent to another process.

    Attributes:
        config: The configuration.
        split: The blocks.
        labels: Labels of each fold's validation rows.
        up: What a row that went up counts in a fit; taken out of every score.
    """

    config: TrainConfig
    split: Split
    labels: tuple[NDArray[np.uint8], ...]
    up: float

    @classmethod
    def of(cls, samples: Samples, split: Split, config: TrainConfig) -> Ground:
        """Take what is needed from the samples."""
        labels = tuple(samples.y[fold.valid.span].copy() for fold in split.folds)
        return cls(config, split, labels, up_weight(samples, split, config))


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """The binned rows of one fold, and what happened on its validation rows."""

    train: Any
    valid: Any
    y: NDArray[np.uint8]
    up: float


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The folds, ready to be run on.

    Attributes:
        config: The configuration.
        folds: In the order of time.
    """

    config: TrainConfig
    folds: tuple[Fold, ...]

    @classmethod
    def of(cls, ground: Ground, inner: Any) -> Track:  # noqa: ANN401 (LightGBM has no types)
        """Cut the folds out of the binned inner part."""
        split = ground.split
        return cls(
            ground.config,
            tuple(
                Fold(subset(inner, split, fold.train), subset(inner, split, fold.valid), y, ground.up)
                for fold, y in zip(split.folds, ground.labels, strict=True)
            ),
        )

    def run(self, proposal: Proposal, bar: Bar, *, keep_on: Callable[[], bool] = lambda: True) -> TrialRecord | None:
        """Run one trial to its end, or to the rung that it does not pass.

        Args:
            proposal: The trial.
            bar: What it has to pass.
            keep_on: Asked before every tree; where it says no, the trial is given up.

        Returns:
            What became of it; None where it was given up.
        """
        plan, start = self.config.search, time.perf_counter()
        curves = _Curves(self._boosters(proposal.params), keep_on)
        reached = _Reached(0, math.inf, 0)
        rung_losses: list[float] = []
        try:
            for rung, bound in zip(plan.rungs, bar.rungs, strict=True):
                until = min(rounds_at(rung, proposal.params), plan.max_rounds)
                reached = curves.walk(rung.folds, until, patience=plan.early_stop)
                rung_losses.append(reached.loss)
                if reached.loss > bound:
                    break
            else:
                patience, settle = plan.early_stop, min(plan.settle, plan.early_stop)
                reached = curves.walk(len(self.folds), plan.max_rounds, patience=patience, settle=settle, best=bar.best)
        except _GivenUpError:
            return None
        pruned = len(rung_losses) > 0 and rung_losses[-1] > bar.rungs[len(rung_losses) - 1]
        return TrialRecord(
            number=proposal.number,
            params=proposal.params,
            rounds=reached.rounds,
            loss=reached.loss,
            curve_rounds=reached.done,
            rung_losses=tuple(rung_losses),
            state="pruned" if pruned else "complete",
            seconds=time.perf_counter() - start,
        )

    def score(self, params: Mapping[str, float], rounds: int) -> list[NDArray[np.float64]]:
        """Grow each fold to a number of rounds and return the scores of its validation rows."""
        scores = []
        for booster in self._boosters(params):
            for _ in range(rounds):
                booster.advance()
            booster.loss()
            scores.append(booster.scores)
        return scores

    def _boosters(self, params: Mapping[str, float]) -> list[_FoldBooster]:
        whole = booster_params(self.config, params)
        return [_FoldBooster(fold, whole) for fold in self.folds]


class _FoldBooster:
    """A booster that grows round by round and scores its validation rows after each."""

    def __init__(self, fold: Fold, params: Mapping[str, Any]) -> None:
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
        self.scores = undo_up_weight(scores, self._fold.up)
        return "scores", 0.0, False


def rounds_at(rung: Rung, params: Mapping[str, float]) -> int:
    """Return after how many rounds a trial reaches a rung, at least 1.

    >>> from mltrain.config.train_config import Rung
    >>> rounds_at(Rung(at=4, keep=0.3, most=10, folds=1), {"learning_rate": 0.1, "num_leaves": 31})
    40
    """
    return max(1, round(rung.at / (params["learning_rate"] * math.sqrt(params["num_leaves"] / DEFAULT_LEAVES))))


class _GivenUpError(Exception):
    """Nobody waits for this trial any more."""


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far a walk has come: the round of the least mean loss, that loss, and the last round."""

    rounds: int
    loss: float
    done: int


class _Curves:
    """The losses of all folds after each round; a fold grows only where its loss is asked for."""

    def __init__(self, boosters: Sequence[_FoldBooster], keep_on: Callable[[], bool]) -> None:
        self._boosters, self._keep_on = boosters, keep_on
        self._losses: list[list[float]] = [[] for _ in boosters]

    def walk(
        self, folds: int, until: int, *, patience: int, settle: int | None = None, best: float = math.inf
    ) -> _Reached:
        """Walk along the mean curve of the first folds, from its beginning.

        Args:
            folds: How many; all of them where there are fewer.
            until: Rounds at most.
            patience: Rounds without gain after which it ends.
            settle: The same where the loss is above `best`; None: `patience`, too.
            best: See `settle`.
        """
        loss, rounds, done = math.inf, 0, 0
        while done < until and done - rounds < (patience if settle is None or loss <= best else settle):
            mean = self._mean(folds, done)
            done += 1
            if mean < loss:
                loss, rounds = mean, done
        return _Reached(rounds, loss, done)

    def _mean(self, folds: int, index: int) -> float:
        for booster, losses in zip(self._boosters[:folds], self._losses[:folds], strict=True):
            if len(losses) == index:
                if not self._keep_on():
                    raise _GivenUpError
                booster.advance()
                losses.append(booster.loss())
        at = [losses[index] for losses in self._losses[:folds]]
        return math.fsum(at) / len(at)
