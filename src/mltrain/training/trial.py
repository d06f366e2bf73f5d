"""A trial: boosters that grow on all folds in lockstep, judged by the mean of their validation losses.

A trial is a function of its parameters, the folds and the pruning thresholds alone, so it is the same in every process.

The minimum of the mean loss curve is the trial's loss, and its position is the number of rounds: for all folds, for the
out-of-fold scores and for the final fit. Early stopping of each fold on its own validation rows would flatter exactly
the rows that the calibrator is fitted on.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.training.booster import GrowingBooster, booster_params, cut_block
from mltrain.training.metrics import row_log_loss
from mltrain.training.sample_weights import compute_row_weights, compute_up_weight, undo_up_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.config.train_config import Rung, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

# LightGBM's default, and the unit of size in which a rung's `at` is measured.
DEFAULT_LEAVES: Final = 31


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to run: its number, from 0, and its hyperparameters by LightGBM's names."""

    number: int
    params: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PruningThresholds:
    """The losses of earlier trials that a trial is compared with, in nats; infinite if there are too few.

    Attributes:
        max_rung_losses: For each rung, the greatest loss that passes.
        best_loss: The least loss of a complete trial: a trial above it ends sooner when it stops improving.
    """

    max_rung_losses: tuple[float, ...]
    best_loss: float


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """The result of one trial.

    Attributes:
        number: Number of the trial, from 0.
        params: Hyperparameters by LightGBM's names.
        best_round: Round of the least mean validation loss, from 1; of a pruned trial, over the folds of its last rung.
        loss: The mean validation loss after that round, in nats.
        rounds_run: Number of rounds that were run.
        rung_losses: The least loss so far at each rung reached, in nats; of a complete trial at all rungs.
        state: "complete", or "pruned" if it ended at a rung.
        wall_s: Wall time in seconds; differs from run to run and does not count when records are compared.
    """

    number: int
    params: Mapping[str, float]
    best_round: int
    loss: float
    rounds_run: int
    rung_losses: tuple[float, ...]
    state: Literal["complete", "pruned"]
    wall_s: float = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class FoldData:
    """The input of every trial except the binned rows; small enough to be sent to another process.

    Attributes:
        config: The configuration.
        split: The blocks.
        labels: Labels of each fold's validation rows, 0 or 1, in row order.
        up_weight: Weight of a row that went up in a fit; its effect is removed from every score.
        names: The features in the order of the columns.
        train_weights: With weights by recency, those of each fold's training rows, in row order, because the newest row
            of each fit counts 1; empty without: then the binned rows have the weights.
    """

    config: TrainConfig
    split: Split
    labels: tuple[NDArray[np.uint8], ...]
    up_weight: float
    names: tuple[str, ...]
    train_weights: tuple[NDArray[np.float32] | None, ...]

    @classmethod
    def of(cls, samples: Samples, split: Split, config: TrainConfig) -> FoldData:
        """Return the input of trials on these folds; the labels are copied out of the samples."""
        labels = tuple(samples.y[fold.valid.span].copy() for fold in split.folds)
        up_weight = compute_up_weight(samples, split, config)
        folds = split.folds if config.recency_half_life_days else ()
        train_weights = tuple(
            compute_row_weights(samples, fold.train.span, config, up_weight=up_weight) for fold in folds
        )
        return cls(config, split, labels, up_weight, samples.names, train_weights)


class FoldRunner:
    """Runs trials on the folds.

    Args:
        fold_data: Configuration, blocks and labels.
        binned_inner: The binned rows before the holdout, a `lightgbm.Dataset`; each fold copies its own.
    """

    def __init__(self, fold_data: FoldData, binned_inner: Any) -> None:  # noqa: ANN401 (LightGBM has no types)
        self._config, self._up_weight, split = fold_data.config, fold_data.up_weight, fold_data.split
        self._names = fold_data.names
        self._folds = [
            (cut_block(binned_inner, split, fold.train), cut_block(binned_inner, split, fold.valid), labels)
            for fold, labels in zip(split.folds, fold_data.labels, strict=True)
        ]
        for (train, _, _), weights in zip(self._folds, fold_data.train_weights, strict=False):
            train.set_weight(weights)

    def run(
        self, proposal: Proposal, thresholds: PruningThresholds, *, should_continue: Callable[[], bool] = lambda: True
    ) -> TrialRecord | None:
        """Run one trial to its end, or to the rung at which it is pruned.

        Args:
            proposal: Number and hyperparameters of the trial.
            thresholds: The losses of earlier trials that it is compared with.
            should_continue: Called before every tree; False abandons the trial.

        Returns:
            Its result; None if it was abandoned.
        """
        search_config, start_s = self._config.search, time.perf_counter()
        params = self._all_params(proposal.params)
        curve = _MeanCurve([self._make_booster(fold, params) for fold in range(len(self._folds))], should_continue)
        rung_losses: list[float] = []
        is_pruned = False
        try:
            for rung, max_loss in zip(search_config.rungs, thresholds.max_rung_losses, strict=True):
                max_rounds = min(rounds_to_reach(rung, params), search_config.max_rounds)
                minimum = curve.find_minimum(rung.folds, max_rounds, patience=search_config.early_stop)
                rung_losses.append(minimum.loss)
                is_pruned = minimum.loss > max_loss
                if is_pruned:
                    break
            else:
                minimum = curve.find_minimum(
                    len(self._folds),
                    search_config.max_rounds,
                    patience=search_config.early_stop,
                    loss_to_beat=thresholds.best_loss,
                    patience_above=min(search_config.settle, search_config.early_stop),
                )
        except _AbandonedError:
            return None
        return TrialRecord(
            number=proposal.number,
            params=proposal.params,
            best_round=minimum.best_round,
            loss=minimum.loss,
            rounds_run=minimum.rounds_read,
            rung_losses=tuple(rung_losses),
            state="pruned" if is_pruned else "complete",
            wall_s=time.perf_counter() - start_s,
        )

    def score(
        self, params: Mapping[str, float], rounds: int, others: Sequence[NDArray[np.float32]] = ()
    ) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Fit each fold for so many rounds; return each fold's probabilities of "up" of its validation rows.

        The second list has those of other rows, which each fold's booster scores too: `others` has a matrix of features
        for each fold, shape (m, f), or is empty.
        """
        fold_scores, other_scores = [], []
        for fold in range(len(self._folds)):
            booster = self._grow_booster(fold, self._all_params(params), rounds)
            booster.score_validation()
            fold_scores.append(booster.scores)
            if others:
                other_scores.append(booster.score_rows(others[fold]))
        return fold_scores, other_scores

    def _all_params(self, params: Mapping[str, float]) -> dict[str, Any]:
        """Return all parameters of a fit with these hyperparameters."""
        return booster_params(self._config, params, names=self._names)

    def _make_booster(self, fold: int, all_params: Mapping[str, Any]) -> _FoldBooster:
        """Return a new booster without trees for a fold, counted from 0."""
        return _FoldBooster(*self._folds[fold], all_params, up_weight=self._up_weight)

    def _grow_booster(self, fold: int, all_params: Mapping[str, Any], rounds: int) -> _FoldBooster:
        """Return a fold's booster after so many rounds, or before the first round that would spoil it."""
        booster = self._make_booster(fold, all_params)
        for done in range(rounds):
            booster.grow_tree()
            if booster.is_spoilt:
                return self._grow_booster(fold, all_params, done)
        return booster


class _FoldBooster(GrowingBooster):
    """The booster of one fold.

    Args:
        train: The training rows, a `lightgbm.Dataset`.
        valid: The validation rows, a `lightgbm.Dataset`; `labels` are theirs, 0 or 1.
        params: All parameters by LightGBM's names.
        up_weight: Weight of a row that went up; its effect is removed from `scores`.

    Attributes:
        scores: Probabilities of "up" of the validation rows at the last call of `score_validation`.
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
        super().__init__(params, train)
        self._labels, self._up_weight = labels, up_weight
        self.booster.add_valid(valid, "valid")

    def score_validation(self) -> float:
        """Set `scores` to the validation rows' probabilities and return their mean log loss, in nats.

        The loss of a spoilt booster is infinite, so that no trial has its best round there.
        """
        # LightGBM updates the scores of its validation rows with each tree and passes them to an evaluation function,
        # so that no tree is walked twice. With metric "None" it computes nothing else.
        self.booster.eval_valid(self._keep_scores)
        if self.is_spoilt:
            return math.inf
        return float(row_log_loss(self.scores, self._labels).mean())

    def score_rows(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities of "up" of rows of features, shape (m, f), that are in no Dataset, shape (m,)."""
        # LightGBM refuses an empty matrix.
        if not x.shape[0]:
            return np.empty(0)
        return undo_up_weight(self.booster.predict(x), self._up_weight)

    def _keep_scores(self, scores: NDArray[np.float64], _: object) -> tuple[str, float, bool]:
        """Keep the scores that LightGBM passes to an evaluation function, and return a dummy result."""
        self.scores = undo_up_weight(scores, self._up_weight)
        return "scores", 0.0, False


def rounds_to_reach(rung: Rung, params: Mapping[str, Any]) -> int:
    """Return after how many boosting rounds, at least 1, a trial with these hyperparameters reaches a rung.

    Progress is rounds x learning rate x the root of (leaves / 31), and the rung lies at `rung.at`. A limit of the depth
    limits the leaves, too.

    >>> from mltrain.config.train_config import Rung
    >>> rounds_to_reach(Rung(at=4, keep=0.3, most=10, folds=1), {"learning_rate": 0.1, "num_leaves": 31})
    40
    """
    leaves: float = min(params["num_leaves"], 2 ** params.get("max_depth", 64))
    rate: float = params["learning_rate"]
    return max(1, round(rung.at / (rate * math.sqrt(leaves / DEFAULT_LEAVES))))


class _AbandonedError(Exception):
    """The result of this trial is no longer needed."""


@dataclass(frozen=True, slots=True)
class _Minimum:
    """The minimum of a loss curve: its round, from 1, its loss in nats, and how many rounds of the curve were read."""

    best_round: int
    loss: float
    rounds_read: int


class _MeanCurve:
    """The mean validation loss over folds after each round; a fold's booster grows only when its loss is read.

    Args:
        boosters: The booster of each fold, without trees.
        should_continue: Called before every tree; False raises `_AbandonedError`.
    """

    def __init__(self, boosters: Sequence[_FoldBooster], should_continue: Callable[[], bool]) -> None:
        self._boosters, self._should_continue = boosters, should_continue
        self._losses: list[list[float]] = [[] for _ in boosters]

    def find_minimum(
        self, folds: int, max_rounds: int, *, patience: int, loss_to_beat: float = math.inf, patience_above: int = 0
    ) -> _Minimum:
        """Read the mean curve of the first folds from its beginning and return its minimum.

        Args:
            folds: Number of folds; all if there are fewer.
            max_rounds: Greatest number of rounds to read.
            patience: Rounds without improvement after which reading ends.
            loss_to_beat: Loss in nats; while the least loss is above it, `patience_above` replaces `patience`.
            patience_above: Rounds without improvement after which reading then ends.
        """
        least_loss, best_round, rounds_read = math.inf, 0, 0
        while rounds_read < max_rounds and rounds_read - best_round < (
            patience if least_loss <= loss_to_beat else patience_above
        ):
            loss = self._mean_loss(folds, rounds_read)
            rounds_read += 1
            if loss < least_loss:
                least_loss, best_round = loss, rounds_read
        return _Minimum(best_round, least_loss, rounds_read)

    def _mean_loss(self, folds: int, index: int) -> float:
        """Return the mean loss of the first folds after round `index` + 1, in nats; all earlier rounds were read."""
        for booster, losses in zip(self._boosters[:folds], self._losses[:folds], strict=True):
            if len(losses) == index:
                if not self._should_continue():
                    raise _AbandonedError
                booster.grow_tree()
                losses.append(booster.score_validation())
        losses_now = [losses[index] for losses in self._losses[:folds]]
        return math.fsum(losses_now) / len(losses_now)
