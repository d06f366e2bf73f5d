"""The section `tft` of train.yml: the Temporal Fusion Transformer, its fit, and the search of its hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from mltrain.config.search_ranges import FloatRange, IntRange
from mltrain.documents.records import Limits, RecordError, record

if TYPE_CHECKING:
    from collections.abc import Iterator


@record
@dataclass(frozen=True, slots=True)
class TftSpace:
    """The searched hyperparameters.

    Attributes:
        learning_rate: Of AdamW.
        hidden: Width of every layer; a value between the ends is rounded to a multiple of the heads.
        dropout: Share of the values that are dropped in training.
    """

    learning_rate: Annotated[FloatRange, Limits(1e-6, 1)]
    hidden: Annotated[IntRange, Limits(2, 512)]
    dropout: Annotated[FloatRange, Limits(0, 0.9)]

    def items(self) -> Iterator[tuple[str, IntRange | FloatRange]]:
        """Yield the name and range of each hyperparameter, in the order in which a sampler draws them."""
        for name in self.__slots__:
            yield name, getattr(self, name)

    def defaults(self) -> dict[str, float]:
        """Return the value of each hyperparameter in the first trial, by name."""
        return {name: search_range.default for name, search_range in self.items()}


@record
@dataclass(frozen=True, slots=True)
class TftSearchConfig:
    """The search.

    Attributes:
        trials: Number of trials.
        batch: Largest number of trials in flight.
        space: The searched hyperparameters.
    """

    trials: Annotated[int, Limits(1, 10_000)]
    batch: Annotated[int, Limits(1, 256)]
    space: TftSpace


@record
@dataclass(frozen=True, slots=True)
class TftConfig:
    """The section `tft` of train.yml, which `model: tft` uses.

    Attributes:
        window: Consecutive bars that a row reads, its own included.
        heads: Number of attention heads.
        epochs: Most epochs of a fit; the search finds how many are best.
        step_windows: Consecutive windows of a symbol that one step of a fit learns from.
        weight_decay: Of AdamW, times the learning rate.
        largest_gradient: Norm to which a larger gradient is scaled down.
        search: The search.
    """

    window: Annotated[int, Limits(2, 1_000)]
    heads: Annotated[int, Limits(1, 64)]
    epochs: Annotated[int, Limits(1, 1_000)]
    step_windows: Annotated[int, Limits(1, 100_000)]
    weight_decay: Annotated[float, Limits(0, 10)]
    largest_gradient: Annotated[float, Limits(1e-6, 1e6)]
    search: TftSearchConfig

    def __post_init__(self) -> None:
        hidden = self.search.space.hidden
        for name in ("low", "high"):
            if getattr(hidden, name) % self.heads:
                message = f"must be a multiple of heads, {self.heads}; is {getattr(hidden, name)}"
                raise RecordError((("search", "space", "hidden", name), message))

    def round_hidden(self, hidden: float) -> int:
        """Return the width nearest to a searched one that the heads can share."""
        return max(1, round(hidden / self.heads)) * self.heads
