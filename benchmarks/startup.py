"""Start-up of `mltrain --help`, `models`, `status`, `rollback`, `halt` and `card validate` against a bare Typer hello.

    python benchmarks/startup.py [--runs 15]

The commands alternate, so that load on the machine affects all of them; all modules are compiled before, as they are in
an installed package. Prints medians of the times, and of the ratios within each round. The budget is twice the time of
the hello program, for `card validate` one and a half times, and for `status`, which reads 2,000 answers and computes
their calibration with NumPy, three times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELLO = '''
import typer
app = typer.Typer()

@app.command()
def hello(name: str = "world") -> None:
    """Say hello."""
    typer.echo(f"hello {name}")

app()
'''
MLTRAIN = str(Path(sys.executable).with_name("mltrain"))


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return time.perf_counter() - start


def prepare(folder: Path) -> str:
    """Train one small version in `folder` and return its name."""
    where = ["--data-dir", str(folder)]
    seconds(
        [
            MLTRAIN,
            "snapshot",
            "--source",
            "sim",
            "--sim-signal",
            "strong",
            "--symbols",
            "BTCUSDT",
            "--days",
            "6",
            *where,
        ]
    )
    seconds([MLTRAIN, "train", "--trials", "1", *where])
    return (folder / "models" / "best_lgbm").readlink().name


def answer(data: Path, version: str) -> None:
    """Record as many answers of a version as `status` reads."""
    from mltrain.monitoring.ledger import LEDGER, Ledger, LedgerRow, format_at
    from mltrain.times import MINUTE_MS, format_ms

    # After the promotion, on the grid.
    begin_ms = (time.time_ns() // 1_000_000 // MINUTE_MS + 1) * MINUTE_MS
    rows = [
        LedgerRow(
            at=format_at(begin_ms + (bar + 1) * MINUTE_MS),
            ts=format_ms(begin_ms + bar * MINUTE_MS),
            symbol="BTCUSDT",
            version=version,
            code_sha256="0" * 64,
            p=0.4 + bar % 21 / 100,
            raw=0.5,
            refused=None,
            permit=None,
            high=102.0,
            low=99.0,
            close=100.0 + bar % 2,
            source_at=None,
            latency_ms=3.0,
        )
        for bar in range(2_000)
    ]
    with Ledger(data / LEDGER) as ledger:
        ledger.append(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        # The first round, which does not count, compiles. A checkout may lack bytecode, and be forbidden to write it.
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(scratch) / "bytecode")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        hello = Path(scratch) / "hello.py"
        hello.write_text(HELLO)
        data = Path(scratch) / "data"
        version = prepare(data)
        answer(data, version)
        halted = Path(scratch) / "halted"
        (halted / "models").mkdir(parents=True)
        commands = {
            "typer hello": [sys.executable, str(hello)],
            "typer hello --help": [sys.executable, str(hello), "--help"],
            "mltrain --help": [MLTRAIN, "--help"],
            "mltrain models": [MLTRAIN, "models", "--data-dir", str(data)],
            "mltrain status": [MLTRAIN, "status", "--data-dir", str(data)],
            "mltrain rollback": [MLTRAIN, "rollback", version, "--data-dir", str(data)],
            "mltrain halt": [MLTRAIN, "halt", "--why", "a benchmark", "--data-dir", str(halted)],
            "mltrain card validate": [MLTRAIN, "card", "validate", "--data-dir", str(data)],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs + 1):
            for name, command in commands.items():
                taken[name].append(seconds(command))
    for name, values in taken.items():
        ratio = statistics.median(
            ours / hello for ours, hello in zip(values[1:], taken["typer hello"][1:], strict=True)
        )
        print(f"{name:22} {statistics.median(values[1:]) * 1000:7.1f} ms   {ratio:5.2f} x hello")


if __name__ == "__main__":
    main()
