"""Start-up: `mltrain --help`, `models`, `rollback` and `card validate` against a bare Typer hello, as whole processes.

    python benchmarks/startup.py [--runs 15]

The commands alternate, so that load on the machine affects all of them. Prints medians and ratios. The budget is twice
the time of the hello program; of `card validate`, which checks every field against its schema, one and a half times.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        hello = Path(scratch) / "hello.py"
        hello.write_text(HELLO)
        data = Path(scratch) / "data"
        version = prepare(data)
        commands = {
            "typer hello": [sys.executable, str(hello)],
            "typer hello --help": [sys.executable, str(hello), "--help"],
            "mltrain --help": [MLTRAIN, "--help"],
            "mltrain models": [MLTRAIN, "models", "--data-dir", str(data)],
            "mltrain rollback": [MLTRAIN, "rollback", version, "--data-dir", str(data)],
            "mltrain card validate": [MLTRAIN, "card", "validate", "--data-dir", str(data)],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs + 1):
            for name, command in commands.items():
                taken[name].append(seconds(command))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    for name, median in medians.items():
        print(f"{name:22} {median * 1000:7.1f} ms   {median / medians['typer hello']:5.2f} x hello")


if __name__ == "__main__":
    main()
