"""A trial: boosters that grow on all folds in lockstep, judged by the mean of their validation losses.

Pure but for LightGBM, and the same in whatever process it runs: a trial is a function of its parameters, of the folds
and of the bounds of its rungs, and of nothing else.

The minimum of the mean curve is the trial's loss, and where it lies is the number of rounds, for all folds, for the
out-of-fold scores and for the final fit. Stopping each fold on its own rows would flatter exactly those rows, on which
the calibrator is then fitted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mltrain.learn.backend import import_lightgbm
from mltrain.learn.fit import booster_params, subset
from mltrain.learn.metrics import row_log_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.config import TrainConfig
    from mltrain.learn.samples import Samples
    from mltrain.learn.split import Split


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
    """

    config: TrainConfig
    split: Split
    labels: tuple[NDArray[np.uint8], ...]

    @classmethod
    def of(cls, samples: Samples, split: Split, config: TrainConfig) -> Ground:
        """Take what is needed from the samples."""
        return cls(config, split, tuple(samples.y[fold.valid.span].copy() for fold in split.folds))


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """The binned rows of one fold, and what happened on its validation rows."""

    train: Any
    valid: Any
    y: NDArray[np.uint8]


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
                Fold(subset(inner, split, fold.train), subset(inner, split, fold.valid), y)
                for fold, y in zip(split.folds, ground.labels, strict=True)
            ),
        )

    def run(
        self, proposal: Proposal, bounds: Sequence[float], *, keep_on: Callable[[], bool] = lambda: True
    ) -> TrialRecord | None:
        """Run one trial to its end, or to the rung that it does not pass.

        Args:
            proposal: The trial.
            bounds: For each rung, the worst loss with which it passes.
            keep_on: Asked before every round; where it says no, the trial is given up.

        Returns:
            What became of it; None where it was given up.
        """
        plan, start = self.config.search, time.perf_counter()
        boosters = self._boosters(proposal.params)
        ends = [max(1, round(rung.at / proposal.params["learning_rate"])) for rung in plan.rungs]
        loss, rounds, rung_losses, pruned, done = math.inf, 0, [], False, 0
        while not pruned and done < plan.max_rounds and done - rounds < plan.early_stop:
            if not keep_on():
                return None
            done += 1
            reached = _advance(boosters)
            if reached < loss:
                loss, rounds = reached, done
            rung_losses += [loss] * ends.count(done)
            pruned = any(a > b for a, b in zip(rung_losses, bounds, strict=False))
        return TrialRecord(
            number=proposal.number,
            params=proposal.params,
            rounds=rounds,
            loss=loss,
            curve_rounds=done,
            rung_losses=tuple(rung_losses if pruned else rung_losses + [loss] * (len(ends) - len(rung_losses))),
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
        self.scores = scores
        return "scores", 0.0, False


def _advance(boosters: Sequence[_FoldBooster]) -> float:
    """Grow every fold by one tree and return the mean of their losses."""
    losses = []
    for booster in boosters:
        booster.advance()
        losses.append(booster.loss())
    return math.fsum(losses) / len(losses)
