"""Run all benchmarks and print the table of budgets with the current measurements.

    python -m benchmarks                     all benchmarks at full size (about an hour)
    python -m benchmarks --quick             smaller sizes, a few minutes: tests the scripts, not the budgets
    python -m benchmarks --only startup      one benchmark; can be repeated
    python -m benchmarks --list              list the benchmarks, with the reason if one cannot run here

Each benchmark is a script of this folder, run as a separate process; its main figures are read from its output. The
table gives the reason for a figure that could not be measured. Ratios compare alternating runs on one machine. The exit
code is 1 if a budget is exceeded or a benchmark failed, otherwise 0; with --quick only failures count.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
COLUMNS = ("what", "budget", "measured", "ratio", "met")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: What was measured, with its sizes.
        budget: The limit; empty if there is none.
        measured: The figure, or the reason why it is unknown.
        ratio: The figure relative to the compared program or the budget; empty if there is none.
        met: Whether the budget is met; None if unknown.
    """

    what: str
    budget: str
    measured: str
    ratio: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark script.

    Attributes:
        name: Name of the script.
        words: Returns its arguments for the given options, or the reason why it cannot run.
        read: Parses its output into rows.
    """

    name: str
    words: Callable[[argparse.Namespace], list[str] | str]
    read: Callable[[str], list[Row]]


def numbers(pattern: str, text: str) -> list[float] | None:
    """Return the groups of the first match as numbers; None if nothing matches."""
    found = re.search(pattern, text, re.MULTILINE)
    return None if found is None else [float(group.replace(",", "")) for group in found.groups()]


def judged(
    what: str, budget: str, found: list[float] | None, judge: Callable[..., tuple[str, str, bool | None]]
) -> Row:
    """Return the row of a figure; if it was not found, the row says so."""
    if found is None:
        return Row(what, budget, "no such figure in its output")
    measured, ratio, met = judge(*found)
    return Row(what, budget, measured, ratio, met)


def read_startup(text: str) -> list[Row]:
    """Read startup.py."""
    return [
        judged(
            f"mltrain {command}",
            "<= 2 x a bare Typer hello",
            numbers(rf"^mltrain {command} +([\d.]+) ms +([\d.]+) x hello", text),
            lambda ms, ratio: (f"{ms:.0f} ms", f"{ratio:.2f} x", ratio <= 2),
        )
        for command in ("--help", "models", "rollback", "card validate")
    ]


def read_snapshot(text: str) -> list[Row]:
    """Read snapshot.py."""
    size = re.search(r"^(3 symbols x \d+ days)", text, re.MULTILINE)
    what = size[1] if size else "3 symbols"
    return [
        judged(
            f"{what} over REST at 50 ms, whole process",
            ">= 6 x a sequential loop",
            numbers(r"mltrain ([\d.]+) s, loop ([\d.]+) s, ratio ([\d.]+)", text),
            lambda ours, loop, ratio: (f"{ours:.1f} s, the loop {loop:.1f} s", f"{ratio:.1f} x", ratio >= 6),
        ),
        judged(
            "weight, where the limit is 1,000 a minute",
            "<= 70 % of it",
            numbers(r"1,000 a minute: ([\d,]+) used", text),
            lambda weight: (f"{weight:,.0f}", f"{weight / 1000:.0%}", weight <= 700),
        ),
        judged(
            "the same snapshot an hour later",
            "<= 6 requests",
            numbers(r"hour later: (\d+) requests", text),
            lambda requests: (f"{requests:.0f} requests", "", requests <= 6),
        ),
        judged(
            "peak memory of 20 symbols",
            "<= 300 MB",
            numbers(r"peak memory (\d+) MB", text),
            lambda megabytes: (f"{megabytes:,.0f} MB", "", megabytes <= 300),
        ),
    ]


def read_features(text: str) -> list[Row]:
    """Read features.py."""
    speeds = re.findall(r"^speed +(\d+) rows x (\d+) features.* ([\d.]+) M cells/s", text, re.MULTILINE)
    rows, features, rate = speeds[-1] if speeds else ("0", "0", "0")
    what, budget = f"features, {int(rows):,} rows x {features}", ">= 8 x Qlib's Alpha158"
    peer = numbers(r"^alpha158.* ([\d.]+) M cells/s", text)
    if peer is None:
        speed = Row(what, budget, f"{rate} M cells/s; Alpha158 not run: needs --alpha158 SCRIPT and Qlib")
    else:
        ratio = float(rate) / peer[0]
        speed = Row(what, budget, f"{rate} M cells/s, Alpha158 {peer[0]} M", f"{ratio:.1f} x", ratio >= 8)
    return [
        speed,
        judged(
            "memory of the same",
            "<= 3 x the output",
            numbers(r"^memory +(\d+) MB at the peak, \d+ MB of output: ([\d.]+) x", text),
            lambda megabytes, ratio: (f"{megabytes:,.0f} MB", f"{ratio:.2f} x", ratio <= 3),
        ),
        judged(
            "features of the newest row, one symbol",
            "p99 <= 10 ms",
            numbers(r"newest row: p50 ([\d.]+) ms, p99 ([\d.]+) ms", text),
            lambda p50, p99: (f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "", p99 <= 10),
        ),
    ]


def read_search(text: str) -> list[Row]:
    """Read search.py."""
    size = numbers(r"^([\d,]+) rows x \d+ features, (\d+) trials", text)
    what = "search" if size is None else f"{size[1]:.0f} trials, 2 symbols, {size[0]:,.0f} rows"
    losses = numbers(r"^search: .*log loss ([\d.]+)(?:.|\n)*^plain loop: .*log loss ([\d.]+) ", text)

    def compare(wall: float, processors: float) -> tuple[str, str, bool | None]:
        if losses is None:
            return "no losses in its output", f"{wall:.1f} x", None
        ours, plain = losses
        measured = f"log loss {ours:.5f}, plain loop {plain:.5f}; by processor time {processors:.1f} x"
        return measured, f"{wall:.1f} x", wall >= 5 and ours <= plain

    ratios = numbers(r"^ratio ([\d.]+), by processor time ([\d.]+)", text)
    return [judged(what, ">= 5 x the plain loop, log loss no worse", ratios, compare)]


def read_backtest(text: str) -> list[Row]:
    """Read backtest.py; without vectorbt there are no ratios."""
    peers = r".*\n.*\n +ratios ([\d.]+), ([\d.]+)"
    return [
        judged(
            "backtest of one policy, 3 symbols",
            "<= 1/3 of vectorbt with an empty cache",
            numbers(rf"^1 policies: mltrain ([\d.]+) s{peers}", text),
            lambda seconds, first, _: (f"{seconds:.1f} s", f"{first:.2f} x", first <= 1 / 3),
        ),
        judged(
            "backtest of a grid",
            "<= vectorbt, warm; 1.5 GB",
            numbers(rf"^\d\d+ policies: mltrain ([\d.]+) s, (\d+) MB{peers}", text),
            lambda seconds, megabytes, _, warm: (
                f"{seconds:.1f} s, {megabytes:,.0f} MB",
                f"{warm:.2f} x",
                warm <= 1 and megabytes <= 1500,
            ),
        ),
    ]


def read_pruning(text: str) -> list[Row]:
    """Read pruning.py."""
    size = numbers(r"features, (\d+) trials$", text)
    return [
        judged(
            f"regret of pruning{'' if size is None else f', {size[0]:.0f} trials of BTCUSDT'}",
            "<= 0.0001 nats out of fold",
            numbers(r"^mean regret ([+-][\d.]+) nats over (\d+) seeds .* cost ([\d.]+) of the rounds", text),
            lambda regret, seeds, cost: (
                f"{regret:+.6f} over {seeds:.0f} seeds",
                f"{cost:.2f} x the rounds",
                regret <= 0.0001,
            ),
        )
    ]


def read_serving(text: str) -> list[Row]:
    """Read serving.py."""

    def line(name: str) -> list[float] | None:
        return numbers(rf"^{re.escape(name)} +p50 +([\d.]+) +p95 +[\d.]+ +p99 +([\d.]+)", text)

    booster, onnx = line("Booster.predict, 1 thread"), line("onnxruntime")
    base = booster[0] if booster else float("nan")
    missing = "" if onnx else "; onnxruntime not measured (not installed?)"

    def call(p50: float, _: float) -> tuple[str, str, bool | None]:
        third = p50 / base <= 1 / 3
        peer = f", onnxruntime {onnx[0] * 1000:.0f} us" if onnx else missing
        return (
            f"{p50 * 1000:.1f} us{peer}",
            f"{p50 / base:.3f} x",
            (third and p50 < onnx[0]) if onnx else None if third else False,
        )

    def checked(p50: float, _: float) -> tuple[str, str, bool | None]:
        return f"{p50 * 1000:.1f} us", f"{p50 / base:.3f} x", p50 / base <= 1 / 2

    def below(limit: float) -> Callable[[float, float], tuple[str, str, bool | None]]:
        return lambda p50, p99: (f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "", p99 <= limit)

    one = "one row, 300 trees x 64 leaves"
    many = re.search(r"^(\d+) symbols at once", text, re.MULTILINE)
    at_once = f"{many[1]} symbols at once" if many else "100 symbols at once"
    return [
        judged(f"{one}: the call", "<= 1/3 of Booster.predict, < onnxruntime", line("the call"), call),
        judged(f"{one}: checked, calibrated", "<= 1/2 of Booster.predict", line("predict_one(array)"), checked),
        judged(
            "candles to probability, one symbol",
            "p99 <= 10 ms",
            line("candles -> p, a symbol and its leader"),
            below(10),
        ),
        judged("the same by a stream", "p99 <= 5 ms", line("stream.push, a symbol with a leader"), below(5)),
        judged(at_once, "<= 150 ms", line(at_once), lambda p50, _: (f"p50 {p50:.0f} ms", "", p50 <= 150)),
    ]


def read_guards(text: str) -> list[Row]:
    """Read `guards.py cost`."""
    what = re.search(r"(\d+ x \d+ days, \d+ trials)", text)
    of_it = f", {what[1]}" if what else ""
    found = numbers(r"guards cost ([\d.]+)% of the rest", text)
    # The budget applies to 200 trials: with fewer, the guards' share is larger.
    whole = what is not None and int(re.findall(r"\d+", what[1])[-1]) >= 200
    return [
        judged(
            f"leakage guards{of_it}",
            "<= 10 % of a training of 200 trials",
            found,
            lambda share: (f"{share:.1f} % of the rest", "", share <= 10 if whole else None),
        )
    ]


def read_memory(text: str) -> list[Row]:
    """Read memory.py."""
    what = re.search(r"^training of (\d+ symbols x \d+ days): ([\d,]+) candles", text, re.MULTILINE)
    return [
        judged(
            "training" if what is None else f"{what[1]}, {what[2]} candles, trained",
            "peak memory <= 8 GiB",
            numbers(r"(\d+) workers: .* peak ([\d.]+) GiB, predicted ([\d.]+) GiB", text),
            lambda workers, peak, predicted: (
                f"{peak:.2f} GiB with {workers:.0f} workers, predicted {predicted:.2f}",
                "",
                peak <= 8,
            ),
        )
    ]


MARKETS = (
    ("none", "NO-GO", 40),
    ("weak", "not promoted", 0),
    ("strong", "GO", 20),
    ("mixed", "NO-GO that names the noise", 20),
    ("bounce", "not promoted", 0),
)


def read_markets(text: str) -> list[Row]:
    """Read markets.py: per kind, one market in 40 (or 20) may end wrong, or none."""
    rows = []
    for kind, what, spare in MARKETS:
        found = numbers(rf'"{kind}": {{\s*"right": \[\s*(\d+),\s*(\d+)\s*\]', text)

        def share(right: float, whole: float, spare: int = spare) -> tuple[str, str, bool | None]:
            allowed = whole // spare if spare else 0
            return f"{right:.0f} of {whole:.0f}", "", right >= whole - allowed if whole else None

        budget = f"all but 1 in {spare}" if spare else "all"
        rows.append(judged(f"simulated markets, {kind}: {what}", budget, found, share))
    return rows


def features_words(given: argparse.Namespace) -> list[str]:
    words = ["--rows", "200000", "--runs", "1"] if given.quick else []
    if given.alpha158:
        words += ["--alpha158", str(given.alpha158), "--alpha158-python", given.alpha158_python]
    return words


def search_words(given: argparse.Namespace) -> list[str] | str:
    if given.candles is None or not given.candles.is_dir():
        return "no folder of candles: pass --candles or set MLTRAIN_TEST_DATA"
    return [
        "--candles",
        str(given.candles),
        *(["--days", "14", "--trials", "6"] if given.quick else ["--trials", "200", "--plain-trials", "10"]),
    ]


def pruning_words(given: argparse.Namespace) -> list[str] | str:
    if given.candles is None or not given.candles.is_dir():
        return "no folder of candles: pass --candles or set MLTRAIN_TEST_DATA"
    quick = ["--days", "14", "--trials", "6", "--seeds", "1"] if given.quick else []
    return ["--candles", str(given.candles), *quick]


def serving_words(given: argparse.Namespace) -> list[str]:
    return ["--samples", "300", "--symbols", "20"] if given.quick else []


def snapshot_words(given: argparse.Namespace) -> list[str]:
    return ["--runs", "1", "--days", "10"] if given.quick else []


def markets_words(given: argparse.Namespace) -> list[str]:
    size = ("1", "10", "2") if given.quick else ("2", "14", "8")
    results = str(Path(given.scratch) / "markets.jsonl")
    return [results, "--markets", size[0], "--days", size[1], "--trials", size[2]]


BENCHMARKS = (
    Benchmark("startup", lambda given: ["--runs", "3" if given.quick else "15"], read_startup),
    Benchmark("snapshot", snapshot_words, read_snapshot),
    Benchmark("features", features_words, read_features),
    Benchmark("search", search_words, read_search),
    Benchmark("pruning", pruning_words, read_pruning),
    Benchmark(
        "backtest",
        lambda given: ["--runs", "1", "--days", "10", "--policies", "10"] if given.quick else [],
        read_backtest,
    ),
    Benchmark("serving", serving_words, read_serving),
    Benchmark(
        "guards",
        lambda given: ["cost", *(["--days", "7", "--trials", "2"] if given.quick else ["--trials", "200"])],
        read_guards,
    ),
    Benchmark(
        "memory",
        lambda given: ["--workers", "1", *(["--symbols", "5", "--days", "20"] if given.quick else [])],
        read_memory,
    ),
    Benchmark("markets", markets_words, read_markets),
)


def run(benchmark: Benchmark, given: argparse.Namespace) -> tuple[list[Row], bool]:
    """Run a benchmark; return its rows and whether it succeeded. If not, its row gives the reason."""
    words = benchmark.words(given)
    if isinstance(words, str):
        return [Row(benchmark.name, "", f"not run: {words}")], True
    began = time.perf_counter()
    print(f"{benchmark.name} ...", end=" ", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, str(HERE / f"{benchmark.name}.py"), *words], capture_output=True, text=True, check=False
    )
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    if given.verbose:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Row(benchmark.name, "", f"FAILED with exit code {done.returncode}: {why[:160]}")], False
    return benchmark.read(done.stdout), True


def table(rows: Sequence[Row], *, quick: bool) -> str:
    """Return the rows as an aligned Markdown table."""
    words = {True: "yes", False: "NO", None: "-"}
    cells = [COLUMNS, *((r.what, r.budget, r.measured, r.ratio, _met(words[r.met], quick=quick)) for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _met(word: str, *, quick: bool) -> str:
    return f"({word})" if quick and word != "-" else word


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    data = os.environ.get("MLTRAIN_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument(
        "--only", action="append", choices=[benchmark.name for benchmark in BENCHMARKS], help="only this benchmark"
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and run none")
    parser.add_argument("--verbose", action="store_true", help="show the output of each benchmark")
    parser.add_argument("--candles", type=Path, default=Path(data) / "spot_1m" if data else None)
    parser.add_argument("--alpha158", type=Path, help="a script that runs Alpha158: see features.py")
    parser.add_argument("--alpha158-python", default=sys.executable, help="where Qlib is installed")
    return parser.parse_args(words)


def main(options: Sequence[str] | None = None) -> int:
    """Run the selected benchmarks and print the table; return the exit code."""
    given = read_options(options)
    benchmarks = [benchmark for benchmark in BENCHMARKS if given.only is None or benchmark.name in given.only]
    rows: list[Row] = []
    well = True
    with tempfile.TemporaryDirectory() as given.scratch:
        if given.list:
            for benchmark in benchmarks:
                words = benchmark.words(given)
                print(f"{benchmark.name:10} {f'cannot run: {words}' if isinstance(words, str) else ' '.join(words)}")
            return 0
        for benchmark in benchmarks:
            found, went_well = run(benchmark, given)
            rows += found
            well = well and went_well
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the end{'; a busy machine: measure again' if load > 2 else ''}")
    if given.quick:
        print("quick: smaller sizes than those of the budgets; (yes) and (NO) refer to them")
    print(table(rows, quick=given.quick))
    missed = [row for row in rows if row.met is False]
    return 1 if not well or (missed and not given.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
