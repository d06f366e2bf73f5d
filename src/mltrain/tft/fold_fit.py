"""Fit one fold, or the final network: a function of its arguments and of the rows in a folder, for any process.

The rows are files that processes map into memory, so that any number of workers holds them once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.tft.architecture import Architecture
from mltrain.tft.forward import Forward
from mltrain.tft.row_scores import score_rows
from mltrain.tft.sequences import Sequences
from mltrain.tft.variables import Scaler
from mltrain.training.metrics import row_log_loss
from mltrain.training.sample_weights import undo_up_weight
from mltrain.training.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.tft.fit_options import FitOptions

# The arrays of samples, each a file.
_ARRAYS: Final = tuple(field.name for field in fields(Samples) if field.name not in {"symbols", "names"})


@dataclass(frozen=True, slots=True, eq=False)
class FoldJob:
    """A fit to run.

    Attributes:
        folder: The folder that `save_rows` wrote.
        symbols: The symbols of its rows.
        names: The features, in the order of the columns.
        step_ms: Interval of the candles, ms.
        learned: First and last + 1 of the samples to learn from.
        valid: The same of those to score after each epoch; empty: none.
        valid_ties: The same of the ties.
        weights: Weight of each learned sample; None: all are 1.
        up_weight: Weight of a row that went up; its effect is removed from every score.
        window: Bars of a window.
        hidden: Width of the layers.
        heads: Number of attention heads.
        epochs: Number of epochs.
        options: How to fit.
    """

    folder: Path
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    step_ms: int
    learned: slice
    valid: slice
    valid_ties: slice
    weights: NDArray[np.float32] | None
    up_weight: float
    window: int
    hidden: int
    heads: int
    epochs: int
    options: FitOptions


@dataclass(frozen=True, slots=True, eq=False)
class FoldResult:
    """What came of a fit.

    Attributes:
        losses: Mean log loss of the scored samples after each epoch, in nats, shape (epochs,); empty without any.
        scores: Probabilities of up of the scored samples after each epoch, shape (epochs, m).
        tie_scores: The same of the ties.
        scaler: Standardises the features.
        parameters: The parameters after the last epoch.
    """

    losses: NDArray[np.float64]
    scores: NDArray[np.float64]
    tie_scores: NDArray[np.float64]
    scaler: Scaler
    parameters: Mapping[str, NDArray[np.float32]]


def save_rows(folder: Path, parts: Sequence[Samples]) -> None:
    """Write the parts of sequences into a folder, for `run_fold`."""
    for number, rows in enumerate(parts):
        for name in _ARRAYS:
            np.save(folder / f"{number}-{name}.npy", getattr(rows, name))


@lru_cache(maxsize=1)
def _load_sequences(folder: Path, symbols: tuple[str, ...], names: tuple[str, ...], step_ms: int) -> Sequences:
    def load(number: int) -> Samples:
        arrays = {name: np.load(folder / f"{number}-{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return Samples(**arrays, symbols=symbols, names=names)

    count = len(list(folder.glob("*-ts_ms.npy")))
    return Sequences.of([load(number) for number in range(count)], step_ms=step_ms)


def run_fold(job: FoldJob) -> FoldResult:
    """Fit a network and score its validation rows after each epoch.

    Raises:
        InputError: The loss is no longer a number.
    """
    # Imports PyTorch.
    from mltrain.tft.fit import Fit

    sequences = _load_sequences(job.folder, job.symbols, job.names, job.step_ms)
    samples = sequences.parts[0]
    is_learned = sequences.mark(job.learned)
    weights = None
    if job.weights is not None:
        weights = np.zeros(sequences.size, np.float32)
        weights[is_learned] = job.weights
    scaler = Scaler.fit(samples.x, np.arange(job.learned.start, job.learned.stop))
    architecture = Architecture(job.window, len(job.names), len(job.symbols), job.hidden, job.heads)
    fit = Fit(sequences, is_learned, weights=weights, scaler=scaler, architecture=architecture, options=job.options)
    is_scored, labels = sequences.mark(job.valid, job.valid_ties), samples.y[job.valid]
    losses, scores, tie_scores = [], [], []
    for _ in range(job.epochs):
        fit.run_epoch()
        if not labels.size:
            continue
        p = undo_up_weight(score_rows(Forward(architecture, fit.export()), sequences, scaler, is_scored), job.up_weight)
        scores.append(sequences.take(p, 0, job.valid))
        tie_scores.append(sequences.take(p, 1, job.valid_ties))
        losses.append(float(row_log_loss(scores[-1], labels).mean()))
    return FoldResult(np.array(losses), np.array(scores), np.array(tie_scores), scaler, fit.export())
