"""What a backtest was asked, and what it found: the records of `request.json` and `result.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.fee_tiers import FeeTier
from mltrain.backtesting.performance import Performance
from mltrain.backtesting.policies import Policy
from mltrain.documents.records import Limits, TimeMs, record
from mltrain.documents.values import Sha256
from mltrain.training.label_rules import BPS

#: A backtest's name: that of the version, the UTC date, and a number from the second one of a day on.
BACKTEST: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[0-9]{1,6})?-[0-9]{4}-[0-9]{2}-[0-9]{2}(?:\.[0-9]{1,6})?")
# What `--gate` asks for.
GATE_SHARPE: Final = 0.95
GATE_OVERFITTING: Final = 0.5


@record
@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """Everything that the result depends on.

    Attributes:
        version: Name of the version.
        version_sha256: Hash of its manifest.
        snapshot: Id of the snapshot.
        snapshot_sha256: Hash of its manifest.
        start_ms: Open time of the first bar, ms UTC.
        end_ms: End of the open times, ms UTC, excluded.
        in_sample: Whether rows that the version learned from may be traded.
        policy: The policy.
        tuned: Whether `enter` and `exit` were chosen on out-of-fold scores.
        costs: The costs.
        fees: The fee tier that `costs` has its fees from; None if they were given.
        funding: Where the funding rates come from: "snapshot", a number of bps per 8 hours, or a file and its hash;
            None without funding.
        equity: Cash at the start, in the quote asset.
        seed: Random seed of the intervals.
        grid: The policies that were compared, besides `policy`.
        capacity: Whether the capacity was searched for.
        walk_forward_days: After how many days a model was fitted again; None: the version's model was used throughout.
        train_days: Days before each fit that it learned from; None: all.
        search_trials: Trials of the search before each fit; None: the version's hyperparameters.
        mltrain: Version of mltrain.
        package_sha256: Hash of mltrain's source code.
        ops_sha256: Identifies the feature ops.
    """

    version: str
    version_sha256: Sha256
    snapshot: str
    snapshot_sha256: Sha256
    start_ms: TimeMs
    end_ms: TimeMs
    in_sample: bool
    policy: Policy
    tuned: bool
    costs: Costs
    fees: FeeTier | None
    funding: str | None
    equity: float
    seed: int
    grid: tuple[Policy, ...]
    capacity: bool
    walk_forward_days: int | None
    train_days: int | None
    search_trials: int | None
    mltrain: str
    package_sha256: Sha256
    ops_sha256: Sha256


@record
@dataclass(frozen=True, slots=True)
class Benchmark:
    """What holding would have earned on the same bars with the same costs.

    Attributes:
        name: "equal weight", or "hold" and a symbol.
        net_return: Of the whole time, as a ratio.
        sharpe: Annual Sharpe ratio of daily returns; None if they do not vary.
        drawdown: Largest drawdown, as a share of the peak.
    """

    name: str
    net_return: float
    sharpe: float | None
    drawdown: float


@record
@dataclass(frozen=True, slots=True)
class GridRow:
    """One policy of a grid.

    Attributes:
        policy: The policy.
        net_return: Of the whole time, as a ratio.
        sharpe: Annual Sharpe ratio of daily returns; None if they do not vary.
        drawdown: Largest drawdown at the ends of days, as a share of the peak.
        turnover: Value traded per day, as a multiple of the mean equity.
        fees: In the quote asset.
    """

    policy: Policy
    net_return: float
    sharpe: float | None
    drawdown: float
    turnover: float
    fees: float


@record
@dataclass(frozen=True, slots=True)
class Luck:
    """How much of the result may be due to choosing among several.

    Attributes:
        grid: Number of policies that were compared, at least 1.
        looks: Backtests of these candles up to now, this one included.
        deflated_sharpe: Probability that the true Sharpe ratio exceeds that of the best of `grid` times `looks` tries
            without skill; without a grid, that it exceeds zero; None if the returns do not vary.
        overfitting: Probability of backtest overfitting; None without a grid or with fewer than 32 days.
    """

    grid: Annotated[int, Limits(1)]
    looks: Annotated[int, Limits(1)]
    deflated_sharpe: float | None
    overfitting: float | None


@record
@dataclass(frozen=True, slots=True)
class JudgedRows:
    """The traded bars that lie in the version's own holdout, which its gates have judged.

    Attributes:
        bars: Number of bars, over all symbols.
        start_ms: First open time of the holdout, ms UTC.
        end_ms: Last open time of the holdout, ms UTC.
    """

    bars: int
    start_ms: TimeMs
    end_ms: TimeMs


@record
@dataclass(frozen=True, slots=True)
class WalkForwardStep:
    """One model of a walk-forward backtest.

    Attributes:
        cut_ms: First open time that it scored, ms UTC.
        end_ms: End of the open times that it scored, ms UTC, excluded.
        rows: Number of rows that it learned from.
        model_sha256: Hash of the model's bytes, as of a version's lgbm.pkl.
    """

    cut_ms: TimeMs
    end_ms: TimeMs
    rows: int
    model_sha256: Sha256


@record
@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What a backtest found.

    Attributes:
        request: What was asked.
        symbols: The symbols.
        interval: Interval of the candles.
        bars: Number of candles, over all symbols.
        refused: Candles that the model refused to score.
        learned_until_ms: End of the version's last training label, ms UTC.
        judged: The bars in the version's holdout; None if there are none.
        performance: The figures of the policy.
        benchmarks: Equal weight, then each symbol.
        luck: How much may be due to choosing.
        grid: The policies of the grid, best Sharpe ratio first.
        steps: The models of a walk-forward backtest, in order.
        capacity: Equity, in the quote asset, at which the mean net daily return is zero; None if not searched for, or
            if it is not positive at any size.
    """

    request: BacktestRequest
    symbols: tuple[str, ...]
    interval: str
    bars: int
    refused: int
    learned_until_ms: TimeMs
    judged: JudgedRows | None
    performance: Performance
    benchmarks: tuple[Benchmark, ...]
    luck: Luck
    grid: tuple[GridRow, ...]
    steps: tuple[WalkForwardStep, ...]
    capacity: float | None

    @property
    def verdict(self) -> str:
        """One sentence that says whether this could be traded at these costs."""
        performance, costs = self.performance, self.request.costs
        paid = f"{costs.taker_bps:g} bps taker" if costs.fill == "next-open" else f"{costs.maker_bps:g} bps maker"
        if performance.ruined_ms is not None:
            return f"ruined: the account was empty before the end, at fees of {paid}"
        if not performance.traded:
            reason = "no probability reached what the policy asks for"
            if self.request.policy.name == "cost-aware":
                reason = f"no expected gain exceeds the cost of {costs.taker_cost * BPS:g} bps per side"
            return f"not tradable at fees of {paid}: {reason}, so nothing was traded"
        break_even, mean = performance.break_even_bps, performance.daily_return
        if break_even is None or mean is None:
            return f"not proven at fees of {paid}: a result within one day has no interval"
        limit = f"it breaks even at {break_even.value:.2f} bps per side"
        if mean.value <= 0:
            return f"not tradable at fees of {paid}: {limit}"
        if mean.low <= 0:
            return f"not proven at fees of {paid}: the interval of the daily return includes zero; {limit}"
        return f"profitable after fees of {paid}; {limit}"

    def failures(self) -> tuple[str, ...]:
        """Return why `--gate` refuses the result, one sentence each; empty if it does not."""
        problems = []
        mean, sharpe, overfitting = self.performance.daily_return, self.luck.deflated_sharpe, self.luck.overfitting
        if mean is None or not mean.low > 0:
            low = "unknown" if mean is None else f"{mean.low:.4%}"
            problems.append(f"the lower end of the mean net daily return is {low}: it must be above 0")
        if sharpe is None or not sharpe >= GATE_SHARPE:
            found = "unknown" if sharpe is None else f"{sharpe:.3f}"
            problems.append(f"the deflated Sharpe ratio is {found}: it must be at least {GATE_SHARPE}")
        if overfitting is not None and overfitting > GATE_OVERFITTING:
            problems.append(
                f"the probability of overfitting is {overfitting:.2f}: it must be at most {GATE_OVERFITTING}"
            )
        return tuple(problems)


@record
@dataclass(frozen=True, slots=True)
class StoredHead:
    """The head of a backtest's manifest.

    Attributes:
        backtest: Its name.
        created_at: When it was run, UTC.
        version: The version that was traded.
        result_sha256: Hash of its result.json.
    """

    backtest: Annotated[str, BACKTEST]
    created_at: str
    version: str
    result_sha256: Sha256
