"""Run all benchmarks and print the table of budgets with the current measurements.

    python -m benchmarks                     all benchmarks at full size (about an hour)
    python -m benchmarks --quick             smaller sizes, a few minutes: tests the scripts, not the budgets
    python -m benchmarks --only startup      one benchmark; can be repeated
    python -m benchmarks --list              list the benchmarks, with the reason if one cannot run here
    python -m benchmarks --results DIR       keep each output, and do not run a benchmark again whose output is there
    python -m benchmarks --write PAGE        write table and machine into a Markdown page, between its two markers

Each benchmark is a script of this folder, run as a separate process; its main figures are read from its output. The
table gives the reason for a figure that could not be measured. Ratios compare alternating runs on one machine. The exit
code is 1 if a budget is exceeded or a benchmark failed, otherwise 0; with --quick only failures count.

Libraries to compare with are in other environments, whose interpreters are given by `--flaml-python` (takes an
hour or two more), `--qlib-python` and `--vectorbt-python`; docs/benchmarks.md says how to make them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mltrain.card.machine import available_cores, cpu_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
COLUMNS = ("what", "budget", "measured", "ratio", "met")
# What docs/benchmarks.md has between these lines is written by --write.
BEGIN, END = "<!-- last run -->", "<!-- end of the last run -->"
# The libraries measured, and by the name of its option those of each other environment.
OURS = ("mltrain-lgbm", "lightgbm", "numpy", "polars", "optuna", "onnxruntime", "treelite", "tl2cgen")
PEERS = {
    "flaml": ("FLAML", "optuna-integration", "lightgbm"),
    "qlib": ("pyqlib", "polars", "pandas"),
    "vectorbt": ("vectorbt", "numba"),
}


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
        name: Its name.
        words: Returns its arguments for the given options, or the reason why it cannot run.
        read: Parses its output into rows; of an empty output, they have the budgets alone.
        script: Name of the script, if it differs from that of the benchmark.
    """

    name: str
    words: Callable[[argparse.Namespace], list[str] | str]
    read: Callable[[str], list[Row]]
    script: str = ""


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
            f"<= {limit} x a bare Typer hello",
            numbers(rf"^mltrain {command} +([\d.]+) ms +([\d.]+) x hello", text),
            lambda ms, ratio, limit=limit: (f"{ms:.0f} ms", f"{ratio:.2f} x", ratio <= limit),
        )
        for command, limit in (
            ("--help", 2),
            ("models", 2),
            ("status", 3),
            ("rollback", 2),
            ("halt", 2),
            ("card validate", 1.5),
        )
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
        speed = Row(what, budget, f"{rate} M cells/s; Alpha158 not run: pass --qlib-python")
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
            "p99 <= 2 ms",
            numbers(r"newest row: p50 ([\d.]+) ms, p99 ([\d.]+) ms", text),
            lambda p50, p99: (f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "", p99 <= 2),
        ),
    ]


def read_search(text: str) -> list[Row]:
    """Read search.py."""
    size = numbers(r": ([\d,]+) rows x \d+ features, (\d+) trials", text)
    what = "search" if size is None else f"{size[1]:.0f} trials, 2 symbols, {size[0]:,.0f} rows"
    losses = numbers(r"^search: .*log loss ([\d.]+)(?:.|\n)*^plain loop: .*log loss ([\d.]+) ", text)

    def compare(wall: float, processors: float) -> tuple[str, str, bool | None]:
        if losses is None:
            return "no losses in its output", f"{wall:.1f} x", None
        ours, plain = losses
        measured = f"log loss {ours:.5f}, plain loop {plain:.5f}; by processor time {processors:.1f} x"
        return measured, f"{wall:.1f} x", wall >= 8 and ours <= plain

    ratios = numbers(r"^ratio ([\d.]+), by processor time ([\d.]+)", text)
    return [judged(what, ">= 8 x the plain loop, log loss no worse", ratios, compare)]


PEER_DATASETS = ("BTCUSDT", "BTCUSDT,ETHUSDT")


def read_search_peers(text: str) -> list[Row]:
    """Read what search.py prints of the other tuners; the mean over the seeds counts."""

    def compare(fold: float, better: float, seeds: float, holdout: float) -> tuple[str, str, bool | None]:
        measured = (
            f"{fold:+.5f} nats out of fold, better with {better:.0f} of {seeds:.0f} seeds; holdout {holdout:+.5f}"
        )
        return measured, "", fold >= 0

    found = r"out of fold ([+-][\d.]+) nats, better with (\d+) of (\d+) seeds .*; holdout ([+-][\d.]+)"
    return [
        judged(
            f"{tuner} minus search, {symbols}",
            "no better log loss at equal wall time",
            numbers(rf"^{symbols}, {tuner} minus search: {found}", text),
            compare,
        )
        for symbols in PEER_DATASETS
        for tuner in ("FLAML", "LightGBMTunerCV")
    ]


def read_backtest(text: str) -> list[Row]:
    """Read backtest.py; without vectorbt there are no ratios."""

    def row(what: str, budget: str, policies: str, judge: Callable[..., bool]) -> Row:
        ours = numbers(rf"^{policies} policies: mltrain ([\d.]+) s, (\d+) MB", text)
        ratios = numbers(rf"^{policies} policies: .*\n.*\n +ratios ([\d.]+), ([\d.]+)", text)

        def compare(seconds: float, megabytes: float) -> tuple[str, str, bool | None]:
            measured = f"{seconds:.1f} s, {megabytes:,.0f} MB"
            if ratios is None:
                return f"{measured}; vectorbt not run: pass --vectorbt-python", "", None
            first, warm = ratios
            return measured, f"{first:.2f} x, warm {warm:.2f} x", judge(first, warm, megabytes)

        return judged(what, budget, ours, compare)

    return [
        row(
            "backtest of one policy, 3 symbols",
            "<= 1/3 of vectorbt with an empty cache",
            "1",
            lambda first, _, __: first <= 1 / 3,
        ),
        row(
            "backtest of a grid",
            "<= vectorbt, warm; 1.5 GB",
            r"\d\d+",
            lambda _, warm, megabytes: warm <= 1 and megabytes <= 1500,
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

    def plain(p50: float, p99: float) -> tuple[str, str, bool | None]:
        return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "", None

    one = "one row, 300 trees x 64 leaves"
    many = re.search(r"^(\d+) symbols at once", text, re.MULTILINE)
    at_once = f"{many[1]} symbols at once" if many else "100 symbols at once"
    return [
        judged(f"{one}: the call", "<= 1/3 of Booster.predict, < onnxruntime", line("the call"), call),
        judged(f"{one}: checked, calibrated", "<= 1/2 of Booster.predict", line("predict_one(array)"), checked),
        judged(
            "candles to probability, one symbol with its leader",
            "p99 <= 4 ms",
            line("candles -> p, a symbol and its leader"),
            below(4),
        ),
        judged("the same by a stream", "p99 <= 2 ms", line("stream.push, a symbol with a leader"), below(2)),
        judged(
            "the same by a stream, recorded in a ledger",
            "p99 <= 2 ms",
            line("stream.push, a symbol with a leader and a ledger"),
            below(2),
        ),
        judged(
            "an append of one row to a ledger",
            "<= 100 us",
            line("ledger, an append"),
            lambda p50, p99: (f"p50 {p50 * 1000:.0f} us, p99 {p99 * 1000:.0f} us", "", p50 <= 0.1),
        ),
        judged(at_once, "<= 60 ms", line(at_once), lambda p50, _: (f"p50 {p50:.0f} ms", "", p50 <= 60)),
        judged("candles and two inputs to probability", "", line("candles, 2 inputs -> p, symbol and leader"), plain),
        judged("the same by a stream", "", line("stream.push, 2 inputs, with a leader"), plain),
    ]


def read_kill_switch(text: str) -> list[Row]:
    """Read killswitch.py."""
    return [
        *(
            judged(
                f"kill switch: what a use of a model costs{suffix}",
                "<= 8 us",
                numbers(rf"^{name}: p50 ([\d.]+) us", text),
                lambda us: (f"{us:.1f} us", "", us <= 8),
            )
            for name, suffix in (("a use", ""), ("a use, armed", ", armed"))
        ),
        judged(
            "kill switch: from the call of a halt to the first refusal",
            "p99 <= 10 ms",
            numbers(r"^halt to first refusal: p50 ([\d.]+) ms, p99 ([\d.]+) ms", text),
            lambda p50, p99: (f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "", p99 <= 10),
        ),
    ]


def read_sentinel(text: str) -> list[Row]:
    """Read sentinel.py."""
    return [
        judged(
            "the sentinel while it watches",
            "<= 1 % of a core, <= 150 MB",
            numbers(r"^watching: ([\d.]+)% of a core, peak memory (\d+) MB", text),
            lambda share, megabytes: (f"{share:.2f} %, {megabytes:.0f} MB", "", share <= 1 and megabytes <= 150),
        ),
        judged(
            "the sentinel at its start",
            "",
            numbers(r"^reading ([\d,]+) rows: ([\d.]+) s of a processor", text),
            lambda rows, seconds: (f"{rows:,.0f} rows of the ledger in {seconds:.1f} s", "", None),
        ),
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


NO_CANDLES = "no folder of candles: pass --candles or set MLTRAIN_TEST_DATA"


def peer_words(given: argparse.Namespace, name: str) -> list[str]:
    """Return the option that passes on the interpreter of another library, if it is given."""
    python = getattr(given, f"{name}_python")
    return [] if python is None else [f"--{name}-python", str(python)]


def features_words(given: argparse.Namespace) -> list[str]:
    return [*(["--rows", "200000", "--runs", "1"] if given.quick else []), *peer_words(given, "qlib")]


def search_words(given: argparse.Namespace) -> list[str] | str:
    if given.candles is None or not given.candles.is_dir():
        return NO_CANDLES
    size = ["--days", "14", "--trials", "6"] if given.quick else ["--trials", "200", "--plain-trials", "10"]
    return ["--candles", str(given.candles), *size]


def search_peers_words(given: argparse.Namespace) -> list[str] | str:
    if given.flaml_python is None:
        return "pass --flaml-python"
    if given.candles is None or not given.candles.is_dir():
        return NO_CANDLES
    size = (
        ["--days", "14", "--trials", "6", "--seeds", "1"]
        if given.quick
        else ["--trials", "200", "--seeds", "1", "2", "3"]
    )
    words = ["--candles", str(given.candles), "--symbols", *PEER_DATASETS, *size, "--only-search"]
    return [*words, "--results", str(given.results / "search-peers.jsonl"), *peer_words(given, "flaml")]


def pruning_words(given: argparse.Namespace) -> list[str] | str:
    if given.candles is None or not given.candles.is_dir():
        return NO_CANDLES
    quick = ["--days", "14", "--trials", "6", "--seeds", "1"] if given.quick else []
    return ["--candles", str(given.candles), *quick]


def backtest_words(given: argparse.Namespace) -> list[str]:
    # With two runs, the second one of vectorbt has a filled cache.
    quick = ["--runs", "2", "--days", "10", "--policies", "10"] if given.quick else []
    return [*quick, *peer_words(given, "vectorbt")]


def serving_words(given: argparse.Namespace) -> list[str]:
    return ["--samples", "300", "--symbols", "20"] if given.quick else []


def snapshot_words(given: argparse.Namespace) -> list[str]:
    return ["--runs", "1", "--days", "10"] if given.quick else []


def markets_words(given: argparse.Namespace) -> list[str]:
    size = ("1", "10", "2") if given.quick else ("2", "14", "8")
    results = str(given.results / f"markets{'-quick' if given.quick else ''}.jsonl")
    return [results, "--markets", size[0], "--days", size[1], "--trials", size[2]]


BENCHMARKS = (
    Benchmark("startup", lambda given: ["--runs", "3" if given.quick else "15"], read_startup),
    Benchmark("snapshot", snapshot_words, read_snapshot),
    Benchmark("features", features_words, read_features),
    Benchmark("search", search_words, read_search),
    Benchmark("search-peers", search_peers_words, read_search_peers, script="search"),
    Benchmark("pruning", pruning_words, read_pruning),
    Benchmark("backtest", backtest_words, read_backtest),
    Benchmark("serving", serving_words, read_serving),
    Benchmark("killswitch", lambda given: ["--rounds", "20"] if given.quick else [], read_kill_switch),
    Benchmark("sentinel", lambda given: ["--days", "1", "--seconds", "3"] if given.quick else [], read_sentinel),
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
    """Run a benchmark, unless its output is kept; return its rows and whether it succeeded.

    If it cannot run or fails, the rows give the reason.
    """
    output = given.results / f"{benchmark.name}{'-quick' if given.quick else ''}.txt"
    if output.exists():
        return benchmark.read(output.read_text("utf-8")), True
    words = benchmark.words(given)
    if isinstance(words, str):
        return [replace(row, measured=f"not run: {words}") for row in benchmark.read("")], True
    began = time.perf_counter()
    print(f"{benchmark.name} ...", end=" ", file=sys.stderr, flush=True)
    script = HERE / f"{benchmark.script or benchmark.name}.py"
    # Programs start as installed ones do: a checkout may lack bytecode, and be forbidden to write it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(given.bytecode)
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    if given.verbose:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Row(benchmark.name, "", f"FAILED with exit code {done.returncode}: {why[:160]}")], False
    output.write_text(done.stdout, "utf-8")
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


def describe_machine(given: argparse.Namespace) -> list[str]:
    """Return lines about the machine and the versions of what was measured."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    lines = [
        f"{cpu_name()}, {available_cores()} cores, {pages / 2**30:.0f} GiB of memory, {system}",
        f"Python {platform.python_version()}, {versions_in(Path(sys.executable), OURS)}",
    ]
    for name, libraries in PEERS.items():
        if (python := getattr(given, f"{name}_python")) is not None:
            lines.append(f"compared: {versions_in(python, libraries)}")
    return lines


def versions_in(python: Path, libraries: Sequence[str]) -> str:
    """Return the names and versions of those of the libraries that an environment has."""
    program = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\nfor name in sys.argv[1:]:\n"
        "    try:\n        print(name, version(name))\n    except PackageNotFoundError:\n        pass"
    )
    done = subprocess.run([python, "-c", program, *libraries], capture_output=True, text=True, check=True)
    return ", ".join(done.stdout.splitlines())


def write_page(page: Path, text: str) -> None:
    """Replace what a page has between the two markers."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page}: expected a line {BEGIN}, and later {END}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


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
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep the outputs here, and continue with them")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="a page with the two markers, docs/benchmarks.md")
    for name, libraries in PEERS.items():
        words_of = " and ".join(libraries[:-1])
        parser.add_argument(f"--{name}-python", type=Path, metavar="PY", help=f"an interpreter with {words_of}")
    return parser.parse_args(words)


def main(options: Sequence[str] | None = None) -> int:
    """Run the selected benchmarks and print the table; return the exit code."""
    given = read_options(options)
    benchmarks = [benchmark for benchmark in BENCHMARKS if given.only is None or benchmark.name in given.only]
    rows: list[Row] = []
    well = True
    with tempfile.TemporaryDirectory() as scratch:
        given.bytecode = Path(scratch) / "bytecode"
        given.results = given.results or Path(scratch)
        given.results.mkdir(parents=True, exist_ok=True)
        if given.list:
            for benchmark in benchmarks:
                words = benchmark.words(given)
                print(f"{benchmark.name:12} {f'cannot run: {words}' if isinstance(words, str) else ' '.join(words)}")
            return 0
        for benchmark in benchmarks:
            found, went_well = run(benchmark, given)
            rows += found
            well = well and went_well
    load = os.getloadavg()[0]
    lines = describe_machine(given)
    lines += [f"load {load:.1f} at the end{'; a busy machine: measure again' if load > 2 else ''}"]
    if given.quick:
        lines += ["quick: smaller sizes than those of the budgets; (yes) and (NO) refer to them"]
    text = table(rows, quick=given.quick)
    print(*lines, text, sep="\n")
    if given.write:
        write_page(given.write, "\n".join([f"{time.strftime('%Y-%m-%d')}:\n", *(f"- {x}" for x in lines), "", text]))
    missed = [row for row in rows if row.met is False]
    return 1 if not well or (missed and not given.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
