"""Features at random: an op with parameters drawn from the ranges that it declares, for audits and tests of all ops."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mltrain.features.op import Limits
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import FeatureSpec, build_window, columns_read

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from mltrain.features.spec import Param

_ATTEMPTS: Final = 40  # where two parameters have to be in order, half of the draws are
_ANY: Final = Limits(1, 20)  # of a number whose op declares no range


def random_feature(op: str, rng: np.random.Generator, *, name: str, leader: str, most_bars: int) -> FeatureSpec | None:
    """Return a feature of an op with parameters drawn at random; None where no draw fits together.

    Args:
        op: Key of OPS.
        rng: Makes the draws.
        name: The feature's name.
        leader: The leader, where the op reads one.
        most_bars: No parameter is above it, unless the op's least value is.
    """
    hints = typing.get_type_hints(OPS[op], include_extras=True)
    for _ in range(_ATTEMPTS):
        params = {key: _draw(hints[key], rng, most_bars) for key in inspect.signature(OPS[op]).parameters}
        try:
            build_window(OPS[op], tuple(params.items()))
        except ValueError:  # the op's word on arguments that do not go together
            continue
        plain = FeatureSpec(name, op, params)
        return FeatureSpec(name, op, params, leader) if columns_read(plain, leader=True) else plain
    return None


def readable_features(specs: Iterable[FeatureSpec], columns: Iterable[str]) -> tuple[FeatureSpec, ...]:
    """Return the features that read none but these candle columns, of a leader's candles neither."""
    have = set(columns)
    return tuple(
        spec for spec in specs if {*columns_read(spec, leader=False), *columns_read(spec, leader=True)} <= have
    )


def _draw(hint: Any, rng: np.random.Generator, most: int) -> Param:  # noqa: ANN401 (any annotation that an op may have)
    if typing.get_origin(hint) is Literal:
        choices: tuple[str, ...] = typing.get_args(hint)
        return choices[int(rng.integers(len(choices)))]
    kind, limits = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, _ANY)
    low, high = (limits.minimum, limits.maximum) if isinstance(limits, Limits) else (_ANY.minimum, _ANY.maximum)
    number = int(rng.integers(low, max(low, min(high, most)) + 1))
    return float(number) if kind is float else number
