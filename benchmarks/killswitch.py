"""The kill switch: what it costs each use of a model, and how soon a halt is obeyed.

    python benchmarks/killswitch.py [--rounds 300]

A use is the whole check of an answer, at its beginning and its end. A halt is measured by `mltrain halt drill` on a
trained version: from its call to the first refusal of a thread that asks for answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from startup import MLTRAIN, prepare

from mltrain.killswitch.gate import HaltGate
from mltrain.killswitch.heartbeat import beat
from mltrain.killswitch.switch import arm, halt, resume

SAID = {"by": "benchmark", "now_ms": 1_760_529_600_000}
USES, BATCHES = 1_000, 200


def measure_use(models: Path) -> list[float]:
    """Return the microseconds of one use, the mean of each of many batches."""
    gate = HaltGate(models)
    taken = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        for _ in range(USES):
            gate.finish(gate.begin(None, allow_reduce=False), None, allow_reduce=False)
        taken.append((time.perf_counter() - start) / USES * 1e6)
    return taken


def show(name: str, taken: list[float]) -> None:
    """Print the median and the 99th percentile of microseconds."""
    print(f"{name}: p50 {statistics.median(taken):.1f} us, p99 {statistics.quantiles(taken, n=100)[98]:.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        prepare(data)
        halt(data / "models", why="so that there are files", **SAID)
        resume(data / "models", why="so that there are files", **SAID)
        show("a use", measure_use(data / "models"))
        beat(data / "models", when="2025-10-15T12:00:00Z")
        arm(data / "models", timeout_s=3600, **SAID)
        show("a use, armed", measure_use(data / "models"))
        words = [MLTRAIN, "halt", "drill", "--rounds", str(rounds), "--json", "--data-dir", str(data)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=sys.stderr, check=True)
        refusal = json.loads(done.stdout)["first_refusal"]
        print(f"halt to first refusal: p50 {refusal['p50_ms']:.1f} ms, p99 {refusal['p99_ms']:.1f} ms")


if __name__ == "__main__":
    main()
