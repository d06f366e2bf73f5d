"""Compute the features of Qlib's Alpha158 on given candles, in a separate environment.

    PYTHON benchmarks/features_peers.py CANDLES.parquet

`features.py` writes the candles of one symbol and calls this script. It needs Qlib and Polars; it does not import
mltrain. Qlib reads its own files of 32-bit floats, which are written before the time is taken.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import qlib
from qlib.config import REG_US
from qlib.contrib.data.loader import Alpha158DL
from qlib.data import D

PRICES = {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}


def write_candles(path: Path, folder: Path) -> list[str]:
    """Write a file of candles in Qlib's form; return the times."""
    candles = pl.read_parquet(path).with_columns(vwap=pl.col("quote_volume") / pl.col("volume"))
    times = candles["ts"].dt.strftime("%Y-%m-%d %H:%M:%S").to_list()
    for name in ("calendars", "instruments", "features/x"):
        (folder / name).mkdir(parents=True)
    (folder / "calendars" / "1min.txt").write_text("\n".join(times) + "\n")
    (folder / "instruments" / "all.txt").write_text(f"X\t{times[0]}\t{times[-1]}\n")
    for name in ("open", "high", "low", "close", "volume", "vwap"):
        # The first number is the position of the first row in the calendar.
        values = np.concatenate([[0], candles[name].to_numpy()]).astype("<f4")
        values.tofile(folder / "features" / "x" / f"{name}.1min.bin")
    return times


def main() -> None:
    """Print rows, features and cells per second."""
    with tempfile.TemporaryDirectory() as name:
        times = write_candles(Path(sys.argv[1]), Path(name))
        qlib.init(provider_uri={"1min": name}, region=REG_US, kernels=os.cpu_count(), expression_cache=None,
                  dataset_cache=None)  # fmt: skip
        fields, _ = Alpha158DL.get_feature_config({"kbar": {}, "price": PRICES, "rolling": {}})
        start = time.perf_counter()
        table = D.features(["X"], fields, start_time=times[0], end_time=times[-1], freq="1min")
        seconds = time.perf_counter() - start
    rows, features = table.shape
    print(
        f"alpha158  {rows:9} rows x {features} features {seconds:7.3f} s   {table.size / seconds / 1e6:.1f} M cells/s"
    )


if __name__ == "__main__":
    main()
