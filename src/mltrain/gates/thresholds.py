"""Thresholds of a training that are easier to pass than the packaged ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from mltrain.config.train_config import GateConfig, GuardConfig

T = TypeVar("T", "GateConfig", "GuardConfig")

# Thresholds that are easier to pass the smaller they are; all others are easier the larger they are.
# With a smaller `champion_min_days` a version is promoted sooner.
_MINIMA: Final = ("accuracy_margin_pp", "log_loss_skill_percent", "champion_min_days", "break_even_bps", "points")
# Between these base rates accuracy is judged, elsewhere log loss: any other range counts as easier.
_RANGE: Final = ("base_rate_low", "base_rate_high")


@dataclass(frozen=True, slots=True)
class LoosenedThreshold:
    """A threshold that is easier to pass than the packaged one.

    Attributes:
        name: Its name in train.yml, under `gates` or `guards`.
        packaged: The value that mltrain comes with.
        used: The value that this training was judged by.
    """

    name: str
    packaged: float
    used: float


def find_loosened(used: T, packaged: T) -> tuple[LoosenedThreshold, ...]:
    """Return the thresholds of a training's gates or guards that are easier to pass than the packaged ones."""
    thresholds = [
        LoosenedThreshold(name, packaged=getattr(packaged, name), used=getattr(used, name))
        for name in packaged.__dataclass_fields__
    ]
    return tuple(t for t in thresholds if _is_easier(t.name, t.packaged, t.used))


def _is_easier(name: str, packaged: float, used: float) -> bool:
    if name in _RANGE:
        return used != packaged
    return used < packaged if name in _MINIMA else used > packaged
