"""Tests of a served model that may be read after every bar: bets against its probabilities, and what they have won.

A bet stakes a share of its wealth on a payoff whose mean is at most 0 as long as the model is right, and that is never
below -1. So the wealth, 1 at the start, is a nonnegative supermartingale, and by Ville's inequality (Ville 1939, Etude
critique de la notion de collectif) it ever reaches 1000 with a probability of at most 1/1000, however long one watches.
See Waudby-Smith and Ramdas 2024 (Estimating means of bounded random variables by betting, JRSS B 86, 1-27) for such
bets on bounded variables, and Ramdas, Grünwald, Vovk and Shafer 2023 (Game-theoretic statistics and safe anytime-valid
inference, Statistical Science 38) for the principle. The mean of several wealths is as good as each.

"Right" allows for a tolerance: the chance of an outcome 1 may differ from the probability by up to `tolerance` at every
row. Symbols of one bar may depend on each other, so a bet is on their mean and never on their product.

A share that is always staked loses in good times: after a month of a good model on minutes its wealth is 1e-20, and a
fault that comes then would have to win that back. So other bets choose their share: the mean of the last payoffs
divided by their mean square, which wins most if it goes on like that, and nothing while the bets lose. (Waudby-Smith
and Ramdas call it aGRAPA; here the means forget exponentially.) A share may depend on everything known when it is
staked.

Outcomes of a horizon of h bars overlap: that of a bar is still open when the next one is answered. Each residue of the
bar's number modulo h therefore has separate wealth, and the mean counts. Read in between, every residue has one open
bet, of which the prices so far may give a hint, so that the mean itself is no supermartingale (Henzi and Ziegel 2022,
Valid sequential inference on probability forecast performance, Biometrika 109, corrected in 109, 1181). The inequality
holds again if every open bet counts as lost: that is `sure_wealth`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.monitoring.outcomes import Outcome

#: Largest share that is chosen from the last payoffs.
MAX_SHARE: Final = 0.5
# Keeps a mean of squares that has decayed to 0 from being divided by.
_SMALLEST_SQUARE: Final = 1e-12
# A probability of 0 or 1 would end every bet with the first surprise.
_SMALLEST_P: Final = 1e-6


class Payoffs(Protocol):
    """Returns the payoffs of the bets on one bar, each -1 or more, whose means are at most 0 if the model is right."""

    def __call__(self, outcomes: Sequence[Outcome], *, answered: int, tolerance: float) -> NDArray[np.float64]:
        """Return them; see `calibration_payoffs`."""


class Wealth:
    """What the bets of one kind have won.

    Args:
        bets: The kind of bets.
        horizon_bars: Bars until an outcome is known.
    """

    def __init__(self, bets: Bets, horizon_bars: int) -> None:
        self._horizon_bars = horizon_bars
        self._rates = 1 - 0.5 ** (1 / np.array(bets.half_lives, np.float64))
        # Of the last payoffs, by payoff and half-life. The square begins at the largest one of calibration.
        self._mean = np.zeros((bets.count, self._rates.size))
        self._square = np.ones_like(self._mean)
        # By residue, payoff and bet; in logarithms, because wealth outgrows the largest float in some thousand bars.
        self._shares = np.zeros((horizon_bars, bets.count, len(bets.shares) + self._rates.size))
        self._shares[:, :, : len(bets.shares)] = bets.shares
        self._log_wealth = np.zeros_like(self._shares) + np.log(bets.weights) - math.log(bets.count * horizon_bars)
        self._sure = np.array([self._log_sure_wealth(residue) for residue in range(horizon_bars)])

    def bet(self, bar: int, payoffs: NDArray[np.float64]) -> None:
        """Add the payoffs of a bar, shape (count,), -1 or more each; after a NaN the wealth is NaN.

        Bars come in order. The shares staked on the bar were chosen when the bar one horizon earlier was settled.
        """
        residue = bar % self._horizon_bars
        paid = payoffs[:, np.newaxis]
        with np.errstate(divide="ignore"):
            self._log_wealth[residue] += np.log1p(self._shares[residue] * paid)
        self._mean += self._rates * (paid - self._mean)
        self._square += self._rates * (paid**2 - self._square)
        chosen = np.clip(self._mean / np.maximum(self._square, _SMALLEST_SQUARE), 0, MAX_SHARE)
        self._shares[residue, :, self._shares.shape[2] - self._rates.size :] = chosen
        self._sure[residue] = self._log_sure_wealth(residue)

    def _log_sure_wealth(self, residue: int) -> float:
        """Return the logarithm of the wealth of a residue if its open bets are lost."""
        if self._horizon_bars == 1:
            return _log_sum(self._log_wealth[residue])
        with np.errstate(divide="ignore"):
            return _log_sum(self._log_wealth[residue] + np.log1p(-self._shares[residue]))

    @property
    def wealth(self) -> float:
        """The wealth of all bets and residues together: 1 at the start, infinite if no float can hold it."""
        return _exp(_log_sum(self._log_wealth))

    @property
    def sure_wealth(self) -> float:
        """The same if every bet whose outcome is open is lost; with a horizon of one bar there is none."""
        return _exp(_log_sum(self._sure))


def _log_sum(logs: NDArray[np.float64]) -> float:
    """Return the logarithm of the sum of numbers that are given as logarithms."""
    largest = float(logs.max())
    # NaN as well.
    if not math.isfinite(largest):
        return largest
    return largest + math.log(float(np.exp(logs - largest).sum()))


def _exp(log: float) -> float:
    """Return e^log, infinite instead of an error where it is too large."""
    try:
        return math.exp(log)
    except OverflowError:
        return math.inf


def calibration_payoffs(outcomes: Sequence[Outcome], *, answered: int, tolerance: float) -> NDArray[np.float64]:
    """Return the payoffs of one bar's bets that the probabilities are biased, shape (4,), each -1 or more.

    With residuals y - p and weights g, the payoff is (mean of s g(p) (y - p) - tolerance) / (1 + tolerance), for both
    signs s and two weights: g = 1 finds probabilities that are too high or too low, and g = sign(p - base) finds those
    that are too far from the base rate, not far enough, or on the wrong side of it.

    Args:
        outcomes: The symbols whose outcome is known, in any order.
        answered: Number of symbols that had a probability at this bar, known when the bets are made. The mean is over
            them: a mean over `outcomes` alone would let the outcomes choose its weights.
        tolerance: Largest difference of the chance of an outcome and its probability, 0 or more.
    """
    residuals = [outcome.y - outcome.p for outcome in outcomes]
    # `fsum`, so that the order of the symbols changes no bit.
    biased = math.fsum(residuals)
    distant = math.fsum(
        _sign(outcome.p - outcome.base) * residual for outcome, residual in zip(outcomes, residuals, strict=True)
    )
    allowed = tolerance * len(residuals)
    sums = (biased - allowed, -biased - allowed, distant - allowed, -distant - allowed)
    return np.array(sums) / (answered * (1 + tolerance))


def skill_payoffs(outcomes: Sequence[Outcome], *, answered: int, tolerance: float) -> NDArray[np.float64]:
    """Return the payoff of one bar's bet that the base rate knows as much as the model, shape (1,), -1 or more.

    The payoff is the mean of L - 1 with the likelihood ratio L = base(y) / p(y), the probability of the outcome by the
    base rate over that by the model. Its mean is 0 if p is right; L is divided by its largest mean within the
    tolerance, 1 + tolerance |base / p - (1 - base) / (1 - p)|. Otherwise a model that exaggerates by one point, and is
    better than the base rate all the same, would be halted: with small shares, 75 % of the simulated ones were.

    Args:
        outcomes: As for `calibration_payoffs`.
        answered: As for `calibration_payoffs`.
        tolerance: As for `calibration_payoffs`.
    """
    gains = []
    for outcome in outcomes:
        # Keeps NaN.
        p = min(max(outcome.p, _SMALLEST_P), 1 - _SMALLEST_P)
        if_up, if_down = outcome.base / p, (1 - outcome.base) / (1 - p)
        ratio = (if_up if outcome.y else if_down) / (1 + tolerance * abs(if_up - if_down))
        gains.append(ratio - 1)
    return np.array([math.fsum(gains) / answered])


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


@dataclass(frozen=True, slots=True)
class Bets:
    """A kind of bets: each payoff is bet on with every fixed share, and with one chosen share per half-life.

    Attributes:
        claim: What they bet on, after "bets that".
        payoffs: Returns the payoffs of a bar, shape (count,).
        count: The number of payoffs.
        shares: The fixed shares. They find a model that is wrong from the start.
        weights: Part of the stake of each fixed share, then of each half-life; together 1.
        half_lives: Half-lives, in bars, of the means from which shares are chosen.
    """

    claim: str
    payoffs: Payoffs
    count: int
    shares: tuple[float, ...]
    weights: tuple[float, ...]
    half_lives: tuple[float, ...] = (1_000.0, 4_000.0)


# The best share is the excess of the error over the tolerance, divided by the variance of an outcome, 0.25, and less if
# late detections are to be rare: 0.06 suits an error of 3 points, 0.12 one of 5, and 0.4 gross faults and many symbols.
# An error of 3 points, the slowest one to find, has most of the stake: 95 % are found within 21,000 bars.
CALIBRATION: Final = Bets(
    "the probabilities are wrong", calibration_payoffs, 4, (0.06, 0.12, 0.4), (0.6, 0.15, 0.05, 0.1, 0.1)
)
# A share of 1 is the plain likelihood ratio.
SKILL: Final = Bets(
    "the base rate predicts better than the model", skill_payoffs, 1, (0.25, 0.5, 1.0), (0.2, 0.2, 0.2, 0.2, 0.2)
)
