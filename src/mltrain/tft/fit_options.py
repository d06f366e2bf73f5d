"""How a network is fitted; PyTorch is not needed to say it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How a network is fitted.

    Attributes:
        learning_rate: Of AdamW (Loshchilov and Hutter 2019).
        weight_decay: Of AdamW, times the learning rate.
        dropout: Share of the values that are dropped.
        largest_gradient: Norm to which a larger gradient is scaled down.
        step_windows: Consecutive windows of one symbol that a step learns from.
        seed: Random seed.
        fold: Number of the fit, so that no two of them draw the same.
    """

    learning_rate: float
    weight_decay: float
    dropout: float
    largest_gradient: float
    step_windows: int
    seed: int
    fold: int = 0
