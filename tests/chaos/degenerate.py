"""Candles that cannot be learned from, or are unsound: each is refused by name, or gives a finite card."""

from __future__ import annotations

import json
import re

import kit
import numpy as np
import polars as pl

MINUTES = 3 * 1440
# 2025-08-01T00:00:00Z
START_MS = 1_754_006_400_000
NAMED = re.compile(r"[A-Z]+USDT|fold \d|inner|holdout|feature \w+|no feature")
TRAIN = (*kit.TRAIN, "--features", "features-ohlcv.yml", "--no-promote")


def walk(rng, rows=MINUTES):
    """Return the closes of a market that can be learned from: its moves tend to reverse."""
    moves = rng.normal(0, 1e-3, rows)
    moves[1:] -= 0.3 * moves[:-1]
    return 100 * np.exp(np.cumsum(moves))


def candles(close, *, first=0, volume=None, **columns):
    """Return candles with these closes, one per minute; the given columns replace the derived ones."""
    rows = len(close)
    opened = np.concatenate([close[:1], close[:-1]])
    table = {
        "ts": pl.Series(START_MS + 60_000 * (first + np.arange(rows))).cast(pl.Datetime("ms", "UTC")),
        "open": opened,
        "high": np.maximum(opened, close),
        "low": np.minimum(opened, close),
        "close": close,
        "volume": 1 + np.arange(rows) % 7.0 if volume is None else volume,
        **columns,
    }
    return pl.DataFrame(table)


def turning(rng, rows=MINUTES):
    """Return moves with random signs."""
    return rng.normal(0, 1e-3, rows)


def one_way(rng, start, stop):
    """Return closes that only rise in one part of the time."""
    moves = turning(rng)
    part = slice(int(start * MINUTES), int(stop * MINUTES))
    moves[part] = np.abs(moves[part]) + 1e-6
    return candles(100 * np.exp(np.cumsum(moves)))


def spoiled(rng, column, value):
    """Return candles with one changed value."""
    table = candles(walk(rng))
    at = pl.int_range(pl.len()) == MINUTES // 2
    return table.with_columns(pl.when(at).then(value).otherwise(pl.col(column)).alias(column))


def gapped(rng):
    """Return candles without every thirtieth: no feature has a complete lookback."""
    return candles(walk(rng)).filter(pl.int_range(pl.len()) % 30 != 0)


#: By name: what makes the candles of each symbol, and the exit codes that are right.
SETS = {
    "only rises": (lambda r: {"AUSDT": one_way(r, 0, 1)}, {3}),
    "only falls": (lambda r: {"AUSDT": candles(100 * np.exp(-np.cumsum(np.abs(turning(r)) + 1e-6)))}, {3}),
    "the inner part only rises": (lambda r: {"AUSDT": one_way(r, 0, 0.8)}, {3}),
    "the holdout only rises": (lambda r: {"AUSDT": one_way(r, 0.79, 1)}, {3}),
    "a validation block only rises": (lambda r: {"AUSDT": one_way(r, 0.39, 0.66)}, {3}),
    "a price that never moves": (lambda _: {"AUSDT": candles(np.full(MINUTES, 100.0))}, {3}),
    "nearly all ties": (lambda r: {"AUSDT": candles(100 + (r.random(MINUTES) < 0.01).cumsum() * 0.01)}, {3}),
    "no volume at all": (lambda r: {"AUSDT": candles(walk(r), volume=np.zeros(MINUTES))}, {0, 3, 4}),
    "a volume that never changes": (lambda r: {"AUSDT": candles(walk(r), volume=np.ones(MINUTES))}, {0, 3, 4}),
    "huge prices": (lambda r: {"AUSDT": candles(walk(r) * 1e300)}, {0, 3, 4}),
    "tiny prices": (lambda r: {"AUSDT": candles(walk(r) * 1e-300)}, {0, 3, 4}),
    "huge volumes": (lambda r: {"AUSDT": candles(walk(r), volume=np.full(MINUTES, 1e308))}, {0, 3, 4}),
    "an infinite price": (lambda r: {"AUSDT": spoiled(r, "high", np.inf)}, {3}),
    "a price that is no number": (lambda r: {"AUSDT": spoiled(r, "close", np.nan)}, {3}),
    "a negative price": (lambda r: {"AUSDT": spoiled(r, "low", -1.0)}, {3}),
    "a high below the low": (lambda r: {"AUSDT": spoiled(r, "high", 1.0)}, {3}),
    "no rows": (lambda r: {"AUSDT": candles(walk(r)).head(0)}, {3}),
    "one row": (lambda r: {"AUSDT": candles(walk(r)).head(1)}, {3}),
    "two hours": (lambda r: {"AUSDT": candles(walk(r)).head(120)}, {3}),
    "gaps everywhere": (lambda r: {"AUSDT": gapped(r)}, {3}),
    "times that do not meet": (
        lambda r: {"AUSDT": candles(walk(r)), "BUSDT": candles(walk(r), first=2 * MINUTES)},
        {0, 3, 4},
    ),
    "a second symbol of one row": (lambda r: {"AUSDT": candles(walk(r)), "BUSDT": candles(walk(r)).tail(1)}, {0, 3, 4}),
    "forty symbols": (
        lambda r: {f"{chr(65 + i // 26)}{chr(65 + i % 26)}USDT": candles(walk(r, 1500)) for i in range(40)},
        {0, 4},
    ),
}
QUICK = ("the holdout only rises", "huge prices")


def sets(plan):
    """Take a snapshot and train on each: a refusal gives its reason, and a card has no NaN."""
    tally = kit.Tally("degenerate")
    names = [name for name in SETS if name in QUICK or not plan.quick]
    if plan.only is not None:
        names = [names[plan.only]]
    tally.add(kit.run_in_forks(lambda name: _attempt(plan, name), names))
    return tally


def _attempt(plan, name):
    make, right = SETS[name]
    folder, files = plan.work / name.replace(" ", "-"), plan.work / f"{name} files"
    files.mkdir()
    rng = np.random.default_rng(plan.seed)
    tables = make(rng)
    for symbol, table in tables.items():
        table.write_parquet(files / f"{symbol}.parquet")
    words = ("--source", "files", "--from", files, "--symbols", ",".join(tables), "--days", 12)
    # Cold: this process has run Polars, whose threads would be missing in a fork of it.
    ended = kit.cold("snapshot", *words, data_dir=folder, timeout=60)
    if ended.code == 0:
        ended = kit.cold(*TRAIN, data_dir=folder, timeout=120)
    problem = kit.unclean(ended, sorted(right))
    if problem is None and ended.code == 3 and not NAMED.search(ended.err):
        problem = f"names no symbol, column or block: {ended.err.strip()[-200:]}"
    return problem or _find_nan(folder)


def _find_nan(folder):
    """Return the first JSON file with a NaN or an infinity."""

    def refuse(word):
        raise ValueError(word)

    for path in sorted(folder.rglob("*.json*")):
        if path.is_file():
            for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                try:
                    json.loads(line, parse_constant=refuse)
                except ValueError as err:
                    return f"{path.name}: {err}"
    return None
