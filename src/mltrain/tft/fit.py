"""Fit a network with PyTorch, so that the same input gives the same bytes: one thread, every draw from a seed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from mltrain.errors import InputError
from mltrain.tft.network import Network
from mltrain.tft.row_scores import cut_spans
from mltrain.tft.variables import make_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.tft.architecture import Architecture
    from mltrain.tft.fit_options import FitOptions
    from mltrain.tft.sequences import Sequences
    from mltrain.tft.variables import Scaler

# Names the draws of a seed, so that none is used for two things.
_FIRST_VALUES, _ORDER, _DROPOUT = range(3)
_SEED_BITS: Final = 63


class Fit:
    """A network while it learns, epoch by epoch.

    Args:
        sequences: The bars; features are read of windows that end with a learned row, and labels of learned rows.
        is_learned: Which rows to learn from, shape (n,): they have a label and a window.
        weights: The weight of each row, shape (n,); None: all are 1.
        scaler: Fitted on the learned rows.
        architecture: The sizes of the network.
        options: How to fit.
    """

    def __init__(
        self,
        sequences: Sequences,
        is_learned: NDArray[np.bool_],
        *,
        weights: NDArray[np.float32] | None,
        scaler: Scaler,
        architecture: Architecture,
        options: FitOptions,
    ) -> None:
        self._sequences, self._scaler, self._options = sequences, scaler, options
        self._window = architecture.window
        self._spans = list(sequences.spans(is_learned, architecture.window))
        self._weights = np.where(is_learned, np.float32(1) if weights is None else weights, np.float32(0))
        self._labels = np.concatenate([part.y for part in sequences.parts]).astype(np.float32)
        self._mean_weight = float(self._weights.sum(dtype=np.float64) / np.count_nonzero(is_learned))
        self._network = Network(
            architecture, dropout=options.dropout, generator=_generator(options.seed, options.fold, _FIRST_VALUES)
        )
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, foreach=True
        )
        self._epoch = 0

    def run_epoch(self) -> None:
        """Learn once from each row.

        Raises:
            InputError: The loss is no longer a number.
        """
        self._epoch += 1
        options, network = self._options, self._network
        network.train()
        with _reproducible():
            for step, (ix, first, stop) in enumerate(self._draw_steps()):
                torch.manual_seed(_seed(options.seed, options.fold, _DROPOUT, self._epoch, step))
                bars = self._sequences.bars[ix]
                part = slice(first - self._window + 1, stop)
                variables = make_variables(self._sequences.features(ix, part), bars.ts_ms[part], self._scaler)
                rows = bars.row[first:stop]
                logits = network(torch.from_numpy(variables), ix)
                losses = functional.binary_cross_entropy_with_logits(
                    logits, torch.from_numpy(self._labels[rows]), torch.from_numpy(self._weights[rows]), reduction="sum"
                )
                # By the size of a whole step, so that a shorter one counts less.
                loss = losses / (options.step_windows * self._mean_weight)
                if not torch.isfinite(loss):
                    raise InputError(f"the loss is not a number in epoch {self._epoch}, step {step + 1}")
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), options.largest_gradient)
                self._optimizer.step()

    def _draw_steps(self) -> list[tuple[int, int, int]]:
        """Return the windows of each step of an epoch, in random order, cut at random places."""
        rng = np.random.default_rng((self._options.seed, self._options.fold, _ORDER, self._epoch))
        size = self._options.step_windows
        steps = []
        for ix, first, stop in self._spans:
            # The first step of a span is shorter by chance, so that no epoch has the same steps as another.
            cut = min(stop, first + int(rng.integers(1, size + 1)))
            steps += [(ix, first, cut), *cut_spans(iter([(ix, cut, stop)]), size)]
        return [steps[position] for position in rng.permutation(len(steps))]

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the parameters by name."""
        return self._network.export()


def _seed(*parts: int) -> int:
    """Return a seed of PyTorch that these numbers determine."""
    return int(np.random.default_rng(parts).integers(1 << _SEED_BITS))


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))


@contextmanager
def _reproducible() -> Iterator[None]:
    """Make PyTorch repeat itself to the byte inside the block; its settings and random state are restored."""
    threads, mode = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(mode=mode)
        torch.set_num_threads(threads)
