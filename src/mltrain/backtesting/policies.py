"""Policies: from probabilities to target weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np

from mltrain.documents.records import record
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars

PolicyName: TypeAlias = Literal["cost-aware", "threshold", "hysteresis", "sign", "kelly"]
Side: TypeAlias = Literal["long", "both"]

POLICIES: Final = get_args(PolicyName)
#: Policies that need the model to predict a direction: they read a probability as an expected move.
NEED_DIRECTION: Final = ("sign", "cost-aware", "kelly")
#: Policies that need what is measured on the training rows.
NEED_MOVES: Final = ("cost-aware", "kelly")
# A refused prediction leaves the position as it is for so many candles in a row.
_HELD_REFUSALS: Final = 3


@record
@dataclass(frozen=True, slots=True)
class Policy:
    """How probabilities become positions.

    Attributes:
        name: "sign": long above one half, short below. "threshold": in only beyond `enter`. "hysteresis": in at
            `enter`, out when p crosses 1 - `exit` from its side. "cost-aware": as sign, but a position changes only
            when the expected gain over the usual time until the next change pays for the change. "kelly": in
            proportion to the expected move.
        enter: Probability of the predicted side from which a position is opened, in [0.5, 1].
        exit: Probability of the other side from which hysteresis closes it, in [0.5, `enter`].
        kelly_fraction: Share of the Kelly weight, in (0, 1].
        max_weight: Largest weight, above 0: 1 is all of the symbol's share of the equity.
        side: "long": no short positions; "both".
    """

    name: PolicyName = "cost-aware"
    enter: float = 0.53
    exit: float = 0.505
    kelly_fraction: float = 0.25
    max_weight: float = 1.0
    side: Side = "long"

    def __post_init__(self) -> None:
        """Check every field; a UsageError names all that are wrong."""
        problems = []
        if self.name not in POLICIES:
            problems.append(f"policy is {self.name}: expected one of {', '.join(POLICIES)}")
        if self.side not in get_args(Side):
            problems.append(f"side is {self.side}: expected one of {', '.join(get_args(Side))}")
        if not 0.5 <= self.enter <= 1:
            problems.append(f"enter is {self.enter}: expected a probability from 0.5 to 1")
        # Only hysteresis reads it, but every policy records it.
        limit = self.enter if self.name == "hysteresis" else 1.0
        if not 0.5 <= self.exit <= limit:
            problems.append(f"exit is {self.exit}: expected a probability from 0.5 to {limit:g}")
        if not 0 < self.kelly_fraction <= 1:
            problems.append(f"kelly-fraction is {self.kelly_fraction}: expected a share above 0, at most 1")
        if not 0 < self.max_weight < float("inf"):
            problems.append(f"max-weight is {self.max_weight}: expected a number above 0")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers that this policy uses, by name: `sign` has an `enter`, but does not use it."""
        return {name: getattr(self, name) for name in (*_PARAMETERS[self.name], "max_weight")}

    def __str__(self) -> str:
        given = [f"{name.replace('_', '-')} {value:g}" for name, value in self.parameters.items()]
        return ", ".join([self.name, *given, self.side])


# Parameters of each policy besides the largest weight and the side.
_PARAMETERS: Final[Mapping[PolicyName, tuple[str, ...]]] = {
    "sign": (),
    "threshold": ("enter",),
    "hysteresis": ("enter", "exit"),
    "cost-aware": (),
    "kelly": ("kelly_fraction",),
}


@dataclass(frozen=True, slots=True)
class MoveStatistics:
    """What is known of one symbol's moves from the rows that the model was trained on.

    Attributes:
        mean_move: Mean absolute move over the label's horizon, as a ratio; NaN if unknown.
        variance: Variance of that move, as a squared ratio; NaN if unknown.
        run_bars: Mean number of bars for which sign(p - 1/2) stays the same; NaN if unknown.
        horizon_bars: The label's horizon.
    """

    mean_move: float
    variance: float
    run_bars: float
    horizon_bars: int


def find_answered(bars: Bars) -> NDArray[np.bool_]:
    """Return at which closes a policy decides, shape (t, s).

    That is wherever there is a probability or, after three refused candles in a row, another refused one. Nothing is
    decided at a symbol's last close: no order of it could be filled.
    """
    answered = bars.exists & (~np.isnan(bars.p) | (_count_refusals(bars) > _HELD_REFUSALS))
    answered[bars.last, np.arange(len(bars.symbols))] = False
    return answered


def _count_refusals(bars: Bars) -> NDArray[np.int64]:
    """Return how many refused candles in a row each bar ends, shape (t, s); gaps do not count, a probability resets."""
    total = np.cumsum(bars.refused, axis=0)
    at_answer = np.where(bars.exists & ~np.isnan(bars.p), total, 0)
    return np.where(bars.refused, total - np.maximum.accumulate(at_answer, axis=0), 0)


def target_weights(
    bars: Bars,
    policies: Sequence[Policy],
    *,
    statistics: Sequence[MoveStatistics] | None,
    cost: float,
) -> NDArray[np.float64]:
    """Return the target weights of k policies after each close; between two decisions a weight stays the same.

    Args:
        bars: t bars of s symbols.
        policies: The policies.
        statistics: For each symbol, in order; None if no policy needs them.
        cost: What a taker loses per side, as a share of the value traded.

    Returns:
        Shape (t, k, s): a share of the symbol's part of the equity, negative if short.
    """
    targets = np.empty((bars.ts_ms.size, len(policies), len(bars.symbols)))
    for ix, policy in enumerate(policies):
        targets[:, ix, :] = _target(bars, policy, statistics, cost)
    return targets


def _target(
    bars: Bars,
    policy: Policy,
    statistics: Sequence[MoveStatistics] | None,
    cost: float,
) -> NDArray[np.float64]:
    """Return the target weights of one policy, shape (t, s)."""
    answered = find_answered(bars)
    goes_flat = answered & np.isnan(bars.p)
    p = np.where(answered, bars.p, np.nan)
    with np.errstate(invalid="ignore"):
        match policy.name:
            case "sign":
                weight, decides = np.sign(p - 0.5), answered
            case "threshold":
                weight, decides = (p > policy.enter).astype(np.float64) - (p < 1 - policy.enter), answered
            case "hysteresis":
                weight, decides = _hysteresis(p, policy, goes_flat), answered
            case "cost-aware" | "kelly":
                assert statistics is not None  # noqa: S101 -- the caller measures them for these policies
                edge = (2 * p - 1) * np.array([each.mean_move for each in statistics])
                if policy.name == "kelly":
                    variance = np.array([each.variance for each in statistics])
                    kelly = policy.kelly_fraction * edge / np.where(variance > 0, variance, np.inf)
                    weight, decides = np.clip(np.nan_to_num(kelly), -policy.max_weight, policy.max_weight), answered
                else:
                    horizons = np.array([each.run_bars / each.horizon_bars for each in statistics])
                    weight, decides = np.sign(p - 0.5), goes_flat | (np.abs(edge) * horizons > cost)
    weight = np.where(goes_flat | np.isnan(weight), 0.0, weight)
    if policy.name != "kelly":
        weight = weight * policy.max_weight
    if policy.side == "long":
        weight = np.maximum(weight, 0.0)
    return _hold(weight, decides)


def _hysteresis(p: NDArray[np.float64], policy: Policy, goes_flat: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 if long, -1 if short, 0 if flat after each close, shape (t, s).

    A position lasts from a close beyond `enter` to the first beyond `exit` on the other side, or a refusal that goes
    flat: it is open as long as the former came last.
    """
    enters_long = (p >= policy.enter) & (p > 0.5)
    enters_short = (p <= 1 - policy.enter) & (p < 0.5)
    long_at, short_at = _last_bar(enters_long), _last_bar(enters_short)
    below, above = _last_bar((p < 1 - policy.exit) | goes_flat), _last_bar((p > policy.exit) | goes_flat)
    is_long = long_at > np.maximum(short_at, below)
    is_short = short_at > np.maximum(long_at, above)
    return is_long.astype(np.float64) - is_short


def _last_bar(is_event: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the last bar up to each at which there was an event, shape (t, s); -1 before the first."""
    rows = np.arange(is_event.shape[0])[:, None]
    return np.maximum.accumulate(np.where(is_event, rows, -1), axis=0)


def _hold(weight: NDArray[np.float64], decides: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each weight, shape (t, s), where something is decided, else the last decided one, and 0 before it."""
    row = _last_bar(decides)
    return np.where(row < 0, 0.0, np.take_along_axis(weight, np.maximum(row, 0), axis=0))
