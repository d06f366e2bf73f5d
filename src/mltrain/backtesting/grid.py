"""Grids: many policies on the same bars, to see how much depends on the choice, and to choose on training rows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.backtesting.engine import simulate
from mltrain.backtesting.performance import annual_sharpe, daily_equity, daily_returns
from mltrain.backtesting.policies import Policy, find_answered, target_weights
from mltrain.backtesting.result import GridRow
from mltrain.documents.records import read_arguments
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.policies import MoveStatistics
    from mltrain.documents.values import Json

MAX_POLICIES: Final = 1_000
# Target weights that are held in memory at once: 512 MB.
_MAX_TARGETS: Final = 64 << 20
# The values that `tune` tries.
_ENTERS: Final = tuple(round(0.5 + 0.005 * i, 3) for i in range(1, 21))
_EXITS: Final = (0.5, 0.505, 0.51, 0.52)


def read_grid(data: bytes, policy: Policy, *, where: str) -> tuple[Policy, ...]:
    """Read a grid file, the YAML of what `expand_grid` takes, called `where` in messages.

    Raises:
        InputError: The file is not YAML, has an unknown key, or gives no policy or more than MAX_POLICIES.
    """
    return expand_grid(parse_yaml(data, where=where).value, policy, where=where)


def expand_grid(values: Json, policy: Policy, *, where: str) -> tuple[Policy, ...]:
    """Return the policies of a grid: for each option the list of values to try; other options are those of `policy`.

    Combinations that are no policy, such as an `enter` below `exit`, are left out.

    Raises:
        InputError: The grid, called `where` in messages, has an unknown key, or gives no policy or more than
            MAX_POLICIES.
    """
    if not isinstance(values, dict) or not all(isinstance(each, list) and each for each in values.values()):
        raise InputError(f"{where}: expected lists of values by option, such as `enter: [0.52, 0.53]`")
    names = ["name" if key == "policy" else key.replace("-", "_") for key in values]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: gives an option twice, by both of its names")
    # Not `np.prod`, which is 0 for 2**64 policies.
    count = math.prod(len(each) for each in values.values() if isinstance(each, list))
    if count > MAX_POLICIES:
        raise InputError(f"{where}: gives {count:,} policies, at most {MAX_POLICIES:,} are compared")
    # The text of a policy has only the options that it uses: `sign` is the same for every `enter`.
    policies: dict[str, Policy] = {}
    problem = ""
    for chosen in product(*(each for each in values.values() if isinstance(each, list))):
        try:
            given = read_arguments(dict(zip(names, chosen, strict=True)), Policy)
        except InputError as err:
            raise InputError(f"{where}: {err.message}") from err
        try:
            tried = replace(policy, **{name: given[name] for name in names})
        except UsageError as err:
            problem = err.message
        else:
            policies.setdefault(str(tried), tried)
    if not policies:
        raise InputError(f"{where}: gives no policy: {problem}")
    return tuple(policies.values())


def compare_policies(
    bars: Bars,
    policies: Sequence[Policy],
    costs: Costs,
    *,
    start: float,
    statistics: Sequence[MoveStatistics] | None,
    funding: Mapping[str, NDArray[np.float64]] | None,
) -> tuple[tuple[GridRow, ...], NDArray[np.float64]]:
    """Simulate many policies.

    Returns:
        A row for each policy, in order; and their daily net returns, shape (days, policies).
    """
    rows: list[GridRow] = []
    returns: list[NDArray[np.float64]] = []
    answered = find_answered(bars)
    step = max(1, _MAX_TARGETS // bars.open.size)
    for first in range(0, len(policies), step):
        part = policies[first : first + step]
        targets = target_weights(bars, part, statistics=statistics, cost=costs.taker_cost)
        simulation = simulate(bars, targets, costs, equity=start, answered=answered, funding=funding)
        _, equity = daily_equity(bars, simulation.equity)
        returns.append(daily_returns(equity, start))
        sharpes = annual_sharpe(returns[-1])
        curve = np.concatenate([np.full((1, len(part)), start), equity])
        falls = 1 - curve / np.maximum.accumulate(curve, axis=0)
        for ix, policy in enumerate(part):
            mean_equity = float(np.maximum(equity[:, ix], 0).mean())
            rows.append(
                GridRow(
                    policy=policy,
                    net_return=float(equity[-1, ix]) / start - 1,
                    sharpe=None if np.isnan(sharpes[ix]) else float(sharpes[ix]),
                    drawdown=float(falls[:, ix].max()),
                    turnover=float(simulation.traded[ix].sum()) / equity.shape[0] / mean_equity if mean_equity else 0.0,
                    fees=float(simulation.fees[ix].sum()),
                )
            )
    return tuple(rows), np.concatenate(returns, axis=1)


def tune(
    bars: Bars, policy: Policy, costs: Costs, *, start: float, funding: Mapping[str, NDArray[np.float64]] | None
) -> Policy:
    """Return the policy with the `enter` and `exit` of the highest Sharpe ratio on bars with out-of-fold scores.

    If no choice earns anything, the one that trades least is returned: the highest `enter`.
    """
    exits = _EXITS if policy.name == "hysteresis" else (policy.exit,)
    tried = [replace(policy, enter=e, exit=min(x, e)) for e in _ENTERS for x in exits if x <= e]
    rows, _ = compare_policies(bars, tried, costs, start=start, statistics=None, funding=funding)
    best = max(rows, key=lambda row: (row.sharpe if row.sharpe is not None else 0.0, row.policy.enter))
    return best.policy
