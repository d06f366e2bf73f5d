"""Write a registry's features of stored candles to a Parquet file, to compare feature sets outside of mltrain.

    python benchmarks/matrix.py CANDLES.parquet OUT.parquet [--features features.yml] [--leader CANDLES.parquet]

CANDLES has one symbol with the columns of a snapshot's files, `ts` in UTC. OUT has `ts`, `y` (whether the next close is
higher, ties counted as "down"; null in the last row) and the features. Features that read a leader are left out without
--leader, and so are features whose columns the candles lack; stderr lists them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import polars as pl

from mltrain.features.computation import compute_features
from mltrain.features.registry import describe_features, load_registry


def main() -> None:
    """Compute the features and write the file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("candles", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--features", type=Path, default=Path("configs/features.yml"))
    arguments.add_argument("--leader", type=Path)
    given = arguments.parse_args()

    candles = pl.read_parquet(given.candles).sort("ts")
    leader = pl.read_parquet(given.leader).sort("ts") if given.leader else None
    registry = load_registry(given.features, interval="1m")
    frames = {"SYMBOL": candles}
    kept = []
    for feature, info in zip(registry.features, describe_features(registry), strict=True):
        usable = set(info.columns) <= set(candles.columns)
        if info.leader is not None:
            usable = usable and leader is not None and set(info.leader_columns) <= set(leader.columns)
            frames[info.leader] = leader
        if usable:
            kept.append(feature)
        else:
            print(f"left out, its columns are missing: {info.name}", file=sys.stderr)
    minutes = int(candles["ts"].diff().min().total_seconds()) // 60
    registry = dataclasses.replace(registry, features=tuple(kept), interval=f"{minutes}m")

    matrix = compute_features(registry, "SYMBOL", frames)
    y = (candles["close"].shift(-1) > candles["close"]).cast(pl.Int8)
    matrix.insert_column(1, y.alias("y")).write_parquet(given.out)
    print(f"{matrix.height:,} rows x {len(kept)} features -> {given.out}")


if __name__ == "__main__":
    main()
