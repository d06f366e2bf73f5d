"""Simulate served models, right and wrong ones, and count what the triggers of the kill switch say.

    python tests/chaos/triggers.py [--streams N] [--days N] [--horizon H ...] [--only faults|alarms] [--seed S]

False alarms: streams of 90 days of minutes of a model that is calibrated, or wrong by exactly the tolerance. Faults:
the bars from a planted fault to the trigger. The exit code is 1 where a bound does not hold.

Outcomes of a horizon of h bars are those of one random walk, so they overlap as in the market: the drift of every bar
is known in advance, and the probability that the price is higher after h bars follows from it exactly.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

sys.path[:0] = [str(Path(__file__).parents[1])]

from mltrain.config.loading import load_halt_config
from mltrain.monitoring.martingales import CALIBRATION, MAX_SHARE, SKILL
from mltrain.monitoring.triggers import VersionTriggers
from support.ledger_rows import START_MS, facts, row

BETS = {"calibration": CALIBRATION, "skill": SKILL}
CONFIG = load_halt_config(None).triggers
TOLERANCE = CONFIG.calibration.tolerance
HORIZONS = (1, 5, 30)
BARS_PER_DAY = 1440
# Standard deviation of the probabilities: that of a model with an accuracy of 54 %.
SPREAD = 0.05
# Volatility of a symbol, per minute: 100 % a year.
VOLATILITY = 1 / np.sqrt(365 * BARS_PER_DAY)
BATCH = 20


class Streams(NamedTuple):
    """Streams of bars, shape (streams, bars) each.

    Attributes:
        chance: The chance that the price is higher after the horizon, given what is known at the bar.
        is_up: Whether it is.
        moves: The return of the next bar.
    """

    chance: np.ndarray
    is_up: np.ndarray
    moves: np.ndarray


def simulate(rng, streams, bars, horizon):
    """Return random walks whose drift differs from bar to bar and is known in advance."""
    scale = SPREAD * np.sqrt(2 * np.pi)
    drift = rng.normal(0, scale, (streams, bars + horizon - 1))
    steps = drift + rng.normal(0, 1, drift.shape)

    def over_horizon(values):
        """Return the sum over the horizon that begins at each bar."""
        summed = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
        return summed[:, horizon:] - summed[:, :-horizon]

    chance = ndtr(over_horizon(drift) / np.sqrt(horizon))
    return Streams(chance, over_horizon(steps) > 0, steps[:, :bars] * VOLATILITY)


class Decayed:
    """Exponential means over time, of arrays of shape (streams, bars), with a half-life in bars."""

    def __init__(self, half_life, bars):
        self.rate = 1 - 0.5 ** (1 / half_life)
        # What is left of the value before the first bar.
        self.rest = (1 - self.rate) ** np.arange(1, bars + 1)

    def mean(self, values):
        """Return the mean after each bar, 0 before the first one."""
        return np.cumsum(values / self.rest, axis=1) * (self.rate * self.rest)


def choose(mean, square):
    """Return the share that is chosen after each bar, for the bar one horizon later."""
    return np.clip(mean / square, 0, MAX_SHARE)


def payoffs_of(kind, p, is_up, base=0.5):
    """Yield each payoff of a kind of bets for a single symbol, and the shares chosen for it, (streams, bars) each."""
    half_lives = [Decayed(half_life, p.shape[1]) for half_life in BETS[kind].half_lives]
    if kind == "skill":
        up, down = base / p, (1 - base) / (1 - p)
        payoff = np.where(is_up, up, down) / (1 + TOLERANCE * np.abs(up - down)) - 1
        yield payoff, [choose(each.mean(payoff), each.mean(payoff**2) + each.rest) for each in half_lives]
        return
    residual = is_up - p
    squares = [each.mean(residual**2) for each in half_lives]
    for weighted in (residual, np.sign(p - base) * residual):
        means = [each.mean(weighted) for each in half_lives]
        for sign in (1, -1):
            # Of the payoff (sign x - t) / (1 + t), by the means of x and its square.
            shares = []
            for each, mean, square in zip(half_lives, means, squares, strict=True):
                passed = 1 - each.rest
                second = square - 2 * TOLERANCE * sign * mean + TOLERANCE**2 * passed
                first = (sign * mean - TOLERANCE * passed) / (1 + TOLERANCE)
                shares.append(choose(first, second / (1 + TOLERANCE) ** 2 + each.rest))
            yield (sign * weighted - TOLERANCE) / (1 + TOLERANCE), shares


def sure_wealth(kind, p, is_up, horizon):
    """Return the sure wealth after each bar, shape (streams, bars), as `martingales.Wealth` has it bar by bar."""
    streams, bars = p.shape
    assert bars % horizon == 0, "whole rounds of residues"
    total, begin = np.zeros_like(p), 0.0
    for payoff, chosen in payoffs_of(kind, p, is_up):
        for share, weight in zip([*BETS[kind].shares, *chosen], BETS[kind].weights, strict=True):
            growth = np.ones_like(payoff)
            if isinstance(share, float):
                first = share
                growth += share * payoff
            else:
                first = 0.0
                growth[:, horizon:] += share[:, :-horizon] * payoff[:, horizon:]
            with np.errstate(divide="ignore"):
                np.log(growth, out=growth)
            won = np.cumsum(growth.reshape(streams, -1, horizon), axis=1).reshape(streams, bars)
            np.exp(np.minimum(won, 600, out=won), out=won)
            total += weight * (won * (1 - share) if horizon > 1 else won)
            begin += weight * (1 - first if horizon > 1 else 1)
    # One residue changes at each bar; the others keep their wealth.
    before = np.concatenate([np.full((streams, horizon), begin), total[:, :-horizon]], axis=1)
    return (begin + np.cumsum(total - before, axis=1) / horizon) / BETS[kind].count


def first_bar(is_breach):
    """Return the number of bars until the first breach of each stream; infinite without one."""
    return np.where(is_breach.any(axis=1), is_breach.argmax(axis=1) + 1.0, np.inf)


def find_losses(p, moves):
    """Return whether the paper account of each stream ever loses too much."""
    config = CONFIG.loss
    equity = np.cumprod(1 + config.exposure * np.sign(p - 0.5) * moves, axis=1)
    equity = np.concatenate([np.ones((len(p), 1)), equity], axis=1)
    peak = np.maximum.accumulate(equity, axis=1)
    days = equity[:, 1:].reshape(len(p), -1, BARS_PER_DAY)
    lowest = days.min(axis=2) / equity[:, :-1:BARS_PER_DAY]
    return (1 - equity / peak >= config.from_peak).any(axis=1) | (1 - lowest >= config.per_day).any(axis=1)


def has_run(rng, streams, bars, *, chance, window, least):
    """Return whether any window of each stream's rows has at least so many that happen with a chance."""
    counted = np.cumsum(rng.random((streams, bars)) < chance, axis=1, dtype=np.int32)
    return (counted[:, window:] - counted[:, :-window] >= least).any(axis=1)


def worst_fair(chance, bias):
    """Return the probabilities of a model that is as wrong as the tolerance allows."""
    if bias == "exaggerated":
        return np.clip(chance + TOLERANCE * np.sign(chance - 0.5), TOLERANCE, 1 - TOLERANCE)
    return np.clip(chance - {"none": 0, "too low": TOLERANCE}[bias], TOLERANCE, 1 - TOLERANCE)


def count_false_alarms(seed, streams, days, horizons):
    """Return the number of false alarms by trigger, horizon and bias."""
    alarms = {}
    bars = days * BARS_PER_DAY
    for horizon in horizons:
        for bias in ("none", "too low", "exaggerated"):
            rng = np.random.default_rng([seed, horizon, len(bias)])
            found = dict.fromkeys(("calibration", "skill", "loss"), 0)
            for start in range(0, streams, BATCH):
                walks = simulate(rng, min(BATCH, streams - start), bars, horizon)
                p = worst_fair(walks.chance, bias)
                for kind, settings in (("calibration", CONFIG.calibration), ("skill", CONFIG.skill)):
                    breach = sure_wealth(kind, p, walks.is_up, horizon) >= settings.level
                    found[kind] += int(breach.any(axis=1).sum())
                found["loss"] += int(find_losses(p, walks.moves).sum())
            for name, count in found.items():
                alarms[name, horizon, bias] = count
                show_share(name, count, streams, f"horizon {horizon}, bias {bias}")
    rng = np.random.default_rng([seed, 0])
    refused, latency = CONFIG.refused, CONFIG.latency
    # One answer in a hundred is refused, one in a thousand takes longer than the budget.
    for name, chance, window, least in (
        ("refused", 0.01, refused.window_rows, int(np.ceil(refused.share * refused.window_rows))),
        ("latency", 0.001, latency.window_rows, latency.window_rows // 100 + 1),
    ):
        count = sum(
            int(has_run(rng, min(BATCH, streams - start), bars, chance=chance, window=window, least=least).sum())
            for start in range(0, streams, BATCH)
        )
        alarms[name, 1, "none"] = count
        show_share(name, count, streams, f"a chance of {chance:g} per answer")
    return alarms


def allowed_alarms(streams):
    """Return the largest number of false alarms that a chance of 0.1 % explains: the mean and two deviations."""
    return streams * 0.001 + 2 * np.sqrt(streams * 0.001)


def show_share(name, count, streams, about):
    """Print a share of false alarms."""
    verdict = "ok" if count <= allowed_alarms(streams) else "TOO MANY"
    print(f"false alarms  {name:<12} {about:<32} {count:>4} of {streams:,}  {verdict}", flush=True)


@dataclass(frozen=True)
class Fault:
    """A planted fault of the probabilities.

    Attributes:
        name: What is wrong.
        spoil: Returns the probabilities that are stated, given the true chances and a random generator.
        trigger: The trigger that must find it.
        within: So many bars, in 95 % of the streams, at a horizon of one bar, from the first bar on.
    """

    name: str
    spoil: object
    trigger: str
    within: int


FAULTS = (
    Fault("p inverted", lambda chance, _: 1 - chance, "skill", 1_500),
    Fault("p frozen at 0.57", lambda chance, _: np.full_like(chance, 0.57), "skill", 3_000),
    Fault("wrong symbol", lambda chance, rng: rng.permuted(chance, axis=1), "skill", 6_000),
    Fault("5 points too high", lambda chance, _: np.minimum(chance + 0.05, 0.99), "calibration", 6_000),
    Fault("3 points too high", lambda chance, _: np.minimum(chance + 0.03, 0.99), "calibration", 21_000),
)


def find_delays(seed, fault, *, streams, horizon, good_days, bars):
    """Return the bars from a fault to each of the two triggers of bets, shape (streams,) each."""
    rng = np.random.default_rng([seed, horizon, good_days])
    good = good_days * BARS_PER_DAY
    delays = {"calibration": [], "skill": []}
    for start in range(0, streams, BATCH):
        walks = simulate(rng, min(BATCH, streams - start), good + bars, horizon)
        p = np.concatenate([walks.chance[:, :good], fault.spoil(walks.chance[:, good:], rng)], axis=1)
        for kind, settings in (("calibration", CONFIG.calibration), ("skill", CONFIG.skill)):
            breach = sure_wealth(kind, p, walks.is_up, horizon)[:, good:] >= settings.level
            breach[:, : 0 if good else settings.min_bars - 1] = False
            # The outcome of a bar is known one horizon later.
            delays[kind].append(first_bar(breach) + horizon)
    return {kind: np.concatenate(found) for kind, found in delays.items()}


def count_delays(seed, streams, horizons):
    """Print the delays of every fault, and return the faults that were found too late."""
    late = []
    for fault in FAULTS:
        for horizon in horizons:
            for good_days in (0, 30):
                bars = 60 * BARS_PER_DAY if horizon == 30 else fault.within * (8 if horizon > 1 else 3) // 30 * 30
                found = find_delays(seed, fault, streams=streams, horizon=horizon, good_days=good_days, bars=bars)
                texts = []
                for kind, delays in found.items():
                    middle, high = np.quantile(delays, [0.5, 0.95], method="higher")
                    texts.append(f"{kind} p50 {middle:>7,.0f} p95 {high:>7,.0f}")
                bound = fault.within if horizon == 1 and not good_days else np.inf
                is_late = np.quantile(found[fault.trigger], 0.95, method="higher") > bound
                if is_late:
                    late.append(fault.name)
                about = f"horizon {horizon}, after {good_days} good days"
                print(
                    f"fault  {fault.name:<18} {about:<32} {';  '.join(texts)}  {'LATE' if is_late else 'ok'}",
                    flush=True,
                )
    return late


def run_faults():
    """Plant the faults that need no statistics; return, by fault, the bars or rows until its trigger, and its name."""
    walk = 100 + np.cumsum(np.random.default_rng(1).choice([-0.01, 0.01], 3_000))
    healthy = [row(bar, close=walk[bar]) for bar in range(1_000)]
    faults = {
        "feed frozen": ("stale", []),
        "NaN features": ("refused", [row(bar, refused="not-finite") for bar in range(1_000, 1_100)]),
        "20 ms more": ("latency", [row(bar, latency_ms=22.0, close=walk[bar]) for bar in range(1_000, 1_100)]),
        "exception in serving": ("error", [row(1_000, refused="error")]),
        "two releases": ("code", [row(bar, code_sha256="cd"[bar % 2] * 64) for bar in range(1_000, 1_100)]),
        "one price only": ("calibration", [row(bar, 0.6) for bar in range(1_000, 2_100)]),
        "no price": ("loss", [row(bar, 0.6, close=None, high=None, low=None) for bar in range(1_000, 2_100)]),
        "a trigger fails": ("error", [row(bar, close=0.0) for bar in range(1_000, 1_002)]),
    }
    found = {}
    for name, (trigger, rows) in faults.items():
        triggers = VersionTriggers(facts(), CONFIG)
        triggers.feed(healthy)
        now_ms = START_MS + 1_000 * 60_000
        assert not [each for each in triggers.evaluate(now_ms) if each.fired], name
        for count in range(1, 2_000):
            triggers.feed(rows[count - 1 : count])
            now_ms += 60_000
            fired = {each.trigger for each in triggers.evaluate(now_ms + 10_000) if each.fired}
            if fired:
                found[name] = (count, trigger, fired)
                break
    return found


def main():
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--horizon", type=int, action="append", choices=HORIZONS)
    parser.add_argument("--only", choices=("faults", "alarms"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    horizons = args.horizon or HORIZONS
    failed = []
    if args.only != "alarms":
        for name, (count, trigger, fired) in run_faults().items():
            print(f"fault  {name:<22} {trigger} after {count} bars; fired: {', '.join(sorted(fired))}", flush=True)
            failed += [name] if trigger not in fired else []
        failed += count_delays(args.seed, min(args.streams, 400), horizons)
    if args.only != "faults":
        alarms = count_false_alarms(args.seed, args.streams, args.days, horizons)
        failed += [str(key) for key, count in alarms.items() if count > allowed_alarms(args.streams)]
    print(f"{len(failed)} bounds do not hold: {failed}" if failed else "every bound holds")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
