"""Random features: an op with parameters drawn from the ranges it declares, for audits and tests of every op."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mltrain.features.op import InputName, Interval, Limits
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import FeatureSpec, build_window, columns_read, reads_leader, takes_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from mltrain.features.spec import Param

# An op that needs two parameters in order rejects half of the draws.
_ATTEMPTS: Final = 40
# The range of a number for which the op declares none.
_DEFAULT_LIMITS: Final = Limits(1, 20)


def draw_feature(
    op: str,
    rng: np.random.Generator,
    *,
    name: str,
    leader: str,
    max_bars: int,
    interval: str,
    inputs: Sequence[str] = (),
) -> FeatureSpec | None:
    """Return a feature of an op (a key of `OPS`) with random parameters; None if no draw satisfies the op.

    `leader` is a symbol, used if the op reads one; `max_bars` limits every number among the parameters, unless the
    op's minimum is larger; `interval` is that of the candles; `inputs` are the names of inputs to choose from, without
    which an op on inputs has no draw.
    """
    hints = typing.get_type_hints(OPS[op], include_extras=True)
    keys = list(inspect.signature(OPS[op]).parameters)
    if not inputs and InputName in [hints[key] for key in keys]:
        return None
    for _ in range(_ATTEMPTS):
        params = {
            key: interval if hints[key] == Interval else _draw_value(hints[key], rng, max_bars, inputs) for key in keys
        }
        try:
            window = build_window(OPS[op], tuple(params.items()))
        # Ops raise ValueError for parameters that contradict each other.
        except ValueError:
            continue
        # Numbers of longer candles, which `max_bars` does not limit.
        if takes_interval(OPS[op]) and window.lookback_bars > 2 * max_bars:
            continue
        return FeatureSpec(name, op, params, leader if reads_leader(OPS[op], params) else None)
    return None


# Any: an op's parameter may have any annotation.
def _draw_value(hint: Any, rng: np.random.Generator, maximum: int, inputs: Sequence[str]) -> Param:  # noqa: ANN401
    """Draw an input, a choice of a Literal, or a number within the limits of an annotation and up to `maximum`."""
    if hint == InputName:
        return inputs[int(rng.integers(len(inputs)))]
    if typing.get_origin(hint) is Literal:
        choices: tuple[str, ...] = typing.get_args(hint)
        return choices[int(rng.integers(len(choices)))]
    kind, limits = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, None)
    if not isinstance(limits, Limits):
        limits = _DEFAULT_LIMITS
    minimum = int(limits.minimum)
    number = int(rng.integers(minimum, max(minimum, int(min(limits.maximum, maximum))) + 1))
    return float(number) if kind is float else number


def select_readable_features(specs: Iterable[FeatureSpec], columns: Iterable[str]) -> tuple[FeatureSpec, ...]:
    """Return the features that read only these candle columns of their symbol and of their leader."""
    available = set(columns)
    return tuple(s for s in specs if {*columns_read(s, leader=False), *columns_read(s, leader=True)} <= available)
