"""A trial: boosters that grow on all folds in lockstep, judged by the mean of their validation losses.

Pure but for LightGBM, and the same in every process: a trial is a function of its parameters, the folds and the pruning
thresholds alone.

The minimum of the mean loss curve is the trial's loss, and its position is the number of rounds: for all folds, for the
out-of-fold scores and for the final fit. Early stopping of each fold on its own validation rows would flatter exactly
the rows that the calibrator is fitted on.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from mltrain.training.booster import booster_params, subset
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.metrics import row_log_loss
from mltrain.training.sample_weights import undo_up_weight, up_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mltrain.config.train_config import Rung, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

# LightGBM's default, and the unit of size in which a rung's `at` is measured.
DEFAULT_LEAVES: Final = 31


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to run.

    Attributes:
        number: From 0.
        params: Hyperparameters by LightGBM's names.
    """

    number: int
    params: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PruningThresholds:
    """The losses of earlier trials that a trial is judged by.

    Attributes:
        rung_losses: For each rung, the greatest loss that passes.
        best_loss: The least loss of a complete trial: a trial above it ends sooner when it stops improving.
    """

    rung_losses: tuple[float, ...]
    best_loss: float


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """The result of one trial.

    Attributes:
        number: From 0.
        params: Hyperparameters by LightGBM's names.
        rounds: Round of the least mean validation loss, from 1; of a pruned trial, over the folds of its last rung.
        loss: That loss, in nats.
        curve_rounds: Rounds that were run.
        rung_losses: The least loss so far at each rung reached; of a complete trial at all rungs.
        state: "complete", or "pruned" if it ended at a rung.
        seconds: Wall time; differs from run to run and does not count when records are compared.
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
class FoldData:
    """The input of every trial except the binned rows; small enough to be sent to another process.

    Attributes:
        config: The configuration.
        split: The blocks.
        labels: Labels of each fold's validation rows.
        up_weight: Weight of the positive class in a fit; its effect is removed from every score.
    """

    config: TrainConfig
    split: Split
    labels: tuple[NDArray[np.uint8], ...]
    up_weight: float

    @classmethod
    def of(cls, samples: Samples, split: Split, config: TrainConfig) -> FoldData:
        """Copy it from the samples."""
        labels = tuple(samples.y[fold.valid.span].copy() for fold in split.folds)
        return cls(config, split, labels, up_weight(samples, split, config))


class FoldRunner:
    """Runs trials on the folds.

    Args:
        fold_data: The configuration, blocks and labels.
        inner: The binned inner part, a `lightgbm.Dataset`; each fold copies its rows.
    """

    def __init__(self, fold_data: FoldData, inner: Any) -> None:  # noqa: ANN401 (LightGBM has no types)
        self._config, self._up_weight, split = fold_data.config, fold_data.up_weight, fold_data.split
        self._folds = [
            (subset(inner, split, fold.train), subset(inner, split, fold.valid), labels)
            for fold, labels in zip(split.folds, fold_data.labels, strict=True)
        ]

    def run(
        self,
        proposal: Proposal,
        thresholds: PruningThresholds,
        *,
        should_continue: Callable[[], bool] = lambda: True,
    ) -> TrialRecord | None:
        """Run one trial to its end, or to the rung at which it is pruned.

        Args:
            proposal: The trial.
            thresholds: The losses that it is judged by.
            should_continue: Called before every tree; False abandons the trial.

        Returns:
            Its result; None if it was abandoned.
        """
        search_config, start_s = self._config.search, time.perf_counter()
        curve = _MeanCurve(self._boosters(proposal.params), should_continue)
        minimum = _Minimum(0, math.inf, 0)
        rung_losses: list[float] = []
        pruned = False
        try:
            for rung, max_loss in zip(search_config.rungs, thresholds.rung_losses, strict=True):
                stop = min(rounds_at(rung, proposal.params), search_config.max_rounds)
                minimum = curve.minimum(rung.folds, stop, patience=search_config.early_stop)
                rung_losses.append(minimum.loss)
                pruned = minimum.loss > max_loss
                if pruned:
                    break
            else:
                minimum = curve.minimum(
                    len(self._folds),
                    search_config.max_rounds,
                    patience=search_config.early_stop,
                    best_loss=thresholds.best_loss,
                    patience_above_best=min(search_config.settle, search_config.early_stop),
                )
        except _AbandonedError:
            return None
        return TrialRecord(
            number=proposal.number,
            params=proposal.params,
            rounds=minimum.rounds,
            loss=minimum.loss,
            curve_rounds=minimum.curve_rounds,
            rung_losses=tuple(rung_losses),
            state="pruned" if pruned else "complete",
            seconds=time.perf_counter() - start_s,
        )

    def score(self, params: Mapping[str, float], rounds: int) -> list[NDArray[np.float64]]:
        """Fit each fold for a number of rounds and return the probabilities of its validation rows."""
        scores = []
        for booster in self._boosters(params):
            for _ in range(rounds):
                booster.advance()
            booster.loss()
            scores.append(booster.scores)
        return scores

    def _boosters(self, params: Mapping[str, float]) -> list[_FoldBooster]:
        all_params = booster_params(self._config, params)
        return [_FoldBooster(*fold, all_params, up_weight=self._up_weight) for fold in self._folds]


class _FoldBooster:
    """The booster of one fold, which grows round by round.

    Attributes:
        scores: Probabilities of the validation rows at the last call of `loss`.
    """

    scores: NDArray[np.float64]

    def __init__(
        self,
        train: Any,  # noqa: ANN401 (LightGBM has no types)
        valid: Any,  # noqa: ANN401
        labels: NDArray[np.uint8],
        params: Mapping[str, Any],
        *,
        up_weight: float,
    ) -> None:
        self._labels, self._up_weight = labels, up_weight
        self._booster = import_lightgbm().Booster(dict(params), train).add_valid(valid, "valid")

    def advance(self) -> None:
        """Grow one more tree."""
        self._booster.update()

    def loss(self) -> float:
        """Score the validation rows and return their mean log loss, in nats."""
        # LightGBM updates the scores of its validation rows with each tree and passes them to an evaluation function,
        # so that no tree is walked twice. With metric "None" it computes nothing else.
        self._booster.eval_valid(self._keep)
        return float(row_log_loss(self.scores, self._labels).mean())

    def _keep(self, scores: NDArray[np.float64], _: object) -> tuple[str, float, bool]:
        self.scores = undo_up_weight(scores, self._up_weight)
        return "scores", 0.0, False


def rounds_at(rung: Rung, params: Mapping[str, float]) -> int:
    """Return after how many rounds a trial reaches a rung, at least 1.

    >>> from mltrain.config.train_config import Rung
    >>> rounds_at(Rung(at=4, keep=0.3, most=10, folds=1), {"learning_rate": 0.1, "num_leaves": 31})
    40
    """
    return max(1, round(rung.at / (params["learning_rate"] * math.sqrt(params["num_leaves"] / DEFAULT_LEAVES))))


class _AbandonedError(Exception):
    """The result of this trial is no longer needed."""


@dataclass(frozen=True, slots=True)
class _Minimum:
    """The round of the least mean loss, that loss, and the rounds read of the curve."""

    rounds: int
    loss: float
    curve_rounds: int


class _MeanCurve:
    """The mean validation loss over folds after each round; a fold grows only when its loss is read."""

    def __init__(self, boosters: Sequence[_FoldBooster], should_continue: Callable[[], bool]) -> None:
        self._boosters, self._should_continue = boosters, should_continue
        self._losses: list[list[float]] = [[] for _ in boosters]

    def minimum(
        self,
        folds: int,
        max_rounds: int,
        *,
        patience: int,
        best_loss: float = math.inf,
        patience_above_best: int = 0,
    ) -> _Minimum:
        """Return the minimum of the mean curve of the first folds, read from its beginning.

        Args:
            folds: How many folds; all if there are fewer.
            max_rounds: Rounds to read at most.
            patience: Rounds without improvement after which reading ends.
            best_loss: The loss above which `patience_above_best` replaces `patience`.
            patience_above_best: See `best_loss`.

        Raises:
            _AbandonedError: `should_continue` returned False.
        """
        loss, rounds, done = math.inf, 0, 0
        while done < max_rounds and done - rounds < (patience if loss <= best_loss else patience_above_best):
            mean = self._mean_loss(folds, done)
            done += 1
            if mean < loss:
                loss, rounds = mean, done
        return _Minimum(rounds, loss, done)

    def _mean_loss(self, folds: int, index: int) -> float:
        for booster, losses in zip(self._boosters[:folds], self._losses[:folds], strict=True):
            if len(losses) == index:
                if not self._should_continue():
                    raise _AbandonedError
                booster.advance()
                losses.append(booster.loss())
        losses_now = [losses[index] for losses in self._losses[:folds]]
        return math.fsum(losses_now) / len(losses_now)
