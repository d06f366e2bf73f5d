"""The table of benchmarks: figures are read from the output of the scripts, and missing ones are reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as benchmarks

ROOT = Path(__file__).parents[1]
PRINTED = {
    "startup": """
typer hello              162.0 ms    1.00 x hello
mltrain --help           234.0 ms    1.45 x hello
mltrain models           217.0 ms    1.34 x hello
mltrain status           401.0 ms    2.48 x hello
mltrain rollback         216.0 ms    1.34 x hello
mltrain halt             210.0 ms    1.30 x hello
mltrain card validate    260.0 ms    1.60 x hello
""",
    "snapshot": """
run 1: mltrain 2.71 s, loop 21.40 s, 7.9x, weight 1,560
3 symbols x 90 days: mltrain 2.71 s, loop 21.40 s, ratio 7.9 (budget: at least 6)
weight used in a minute, the loop's included, at most: 1,560
the same an hour later: 4 requests (budget: 6)
limit of 1,000 a minute: 1,700 used at most (budget: 700)
20 symbols x 90 days: peak memory 212 MB (budget: 300)
""",
    "features": """
memory    912 MB at the peak, 432 MB of output: 2.11 x
speed        125000 rows x 54 features   0.400 s   16.9 M cells/s
speed       1000000 rows x 54 features   2.000 s   27.0 M cells/s
latency   241 candles to the newest row: p50 0.81 ms, p99 1.49 ms; as a batch of one row: p50 3.10 ms
alpha158     129600 rows x 158 features   6.826 s   3.0 M cells/s
""",
    "search": """
BTCUSDT,ETHUSDT, seed 42: 172,000 rows x 40 features, 40 trials, 2 workers
search:        61.0 s,  0.656 trials/s,   118.0 s of processors, log loss 0.68911 (as it reports: 0.68905)
plain loop:   542.0 s,  0.074 trials/s,   990.0 s of processors, log loss 0.68920 (as it reports: 0.68890)
ratio 8.9, by processor time 8.4 (budget: at least 8)
""",
    "search-peers": """
BTCUSDT, FLAML minus search: out of fold +0.000274 nats, better with 1 of 3 seeds (+0.000874, -0.000113, +0.000061); \
holdout -0.001334 (-0.002334, -0.000334, -0.001334)
BTCUSDT, LightGBMTunerCV minus search: out of fold +0.001926 nats, better with 0 of 3 seeds (+0.001826, +0.001926, \
+0.002026); holdout +0.001407 (+0.001407, +0.001407, +0.001407)
BTCUSDT,ETHUSDT, FLAML minus search: out of fold -0.000274 nats, better with 3 of 3 seeds (-0.000174, -0.000274, \
-0.000374); holdout +0.000034 (+0.000034, +0.000034, +0.000034)
BTCUSDT,ETHUSDT, LightGBMTunerCV minus search: out of fold +0.000107 nats, better with 1 of 3 seeds (-0.000191, \
+0.000405, +0.000107); holdout +0.000097 (+0.000430, -0.000235, +0.000096)
""",
    "pruning": """
BTCUSDT, 97,975 rows x 54 features, 20 trials
seed 1: log loss 0.682572 (trial 19), without pruning 0.682572 (trial 19): regret +0.000000; cost 0.50 of the rounds, \
0.50 of the time
seed 2: log loss 0.682612 (trial 4), without pruning 0.682572 (trial 7): regret +0.000040; cost 0.40 of the rounds, \
0.41 of the time
mean regret +0.000020 nats over 2 seeds (budget: at most 0.0001), cost 0.45 of the rounds, 0.46 of the time
""",
    "backtest": """
1 policies: mltrain 6.82 s, 187 MB, net -99.000000%
  vectorbt 35.25 s, later 8.07 s, 554 MB, net -99.000000%
  ratios 0.19, 0.85
200 policies: mltrain 20.67 s, 1895 MB, net -99.000000%
  vectorbt 73.33 s, later 60.38 s, 8219 MB, net -99.000000%
  ratios 0.28, 0.34
""",
    "serving": """
one row, 300 trees x 64 leaves x 40 features; path: single-row fast call
onnxruntime: not measured: ModuleNotFoundError: No module named 'onnxruntime'
Booster.predict, 1 thread                  p50    0.1000  p95    0.1200  p99    0.1400  max    0.3000 ms  1.000 of
the call                                   p50    0.0100  p95    0.0120  p99    0.0140  max    0.0300 ms  0.100 of
predict_one(array)                         p50    0.0300  p95    0.0320  p99    0.0340  max    0.0500 ms  0.300 of
candles -> p, a symbol and its leader      p50    3.0000  p95    3.2000  p99    3.5000  max    9.3000 ms  (budget)
stream.push, a symbol with a leader        p50    1.0000  p95    1.2000  p99    2.4000  max    2.3000 ms  (budget)
stream.push, a symbol with a leader and a ledger p50    1.1000  p95    1.2000  p99    1.4000  max    2.3000 ms  (budget)
ledger, an append                          p50    0.0500  p95    0.0600  p99    0.0700  max    0.9000 ms  (budget)
100 symbols at once                        p50   50.0000  p95   99.0000  p99  101.0000  max  103.0000 ms  (budget)
candles, 2 inputs -> p, symbol and leader  p50    7.0000  p95    8.0000  p99    9.0000  max   10.0000 ms
stream.push, 2 inputs, with a leader       p50    1.2000  p95    1.3000  p99    1.4000  max    2.0000 ms
""",
    "killswitch": """
a use: p50 4.9 us, p99 7.1 us
a use, armed: p50 5.3 us, p99 9.4 us
halt to first refusal: p50 2.1 ms, p99 10.4 ms
""",
    "sentinel": """
reading 129,600 rows: 8.4 s of a processor, with the start of the process
watching: 0.20% of a core, peak memory 59 MB
""",
    "guards": """
whole training  210.0 s, 2 x 30 days, 20 trials
the guards cost 12.5% of the rest (budget: 10 % of a training of 200 trials)
""",
    "memory": """
snapshot: 61 s, peak 0.41 GiB
training of 100 symbols x 90 days: 12,960,000 candles x 54 features, 2 workers: 700 s, peak 8.40 GiB, predicted 9.10 GiB
""",
    "markets": """
{
 "none": {
  "right": [
   39,
   40
  ]
 },
 "weak": {
  "right": [
   39,
   40
  ]
 },
 "strong": {
  "right": [
   37,
   40
  ]
 },
 "mixed": {
  "right": [
   38,
   40
  ]
 },
 "bounce": {
  "right": [
   2,
   2
  ]
 }
}
""",
}
MET = {
    "startup": [True, True, True, True, True, False],
    "snapshot": [True, False, True, True],
    "features": [True, True, True],
    "search": [True],
    "search-peers": [True, True, False, True],
    "pruning": [True],
    # The grid is fast enough, and takes too much memory.
    "backtest": [True, False],
    # The budget of the call also needs onnxruntime.
    "serving": [None, True, True, False, True, True, True, None, None],
    "killswitch": [True, True, False],
    "sentinel": [True, None],
    # The budget is of more trials than were run.
    "guards": [None],
    "memory": [False],
    "markets": [True, False, False, True, True],
}
READ = {b.name: b.read for b in benchmarks.BENCHMARKS}


@pytest.mark.parametrize("name", READ)
def test_figures_are_read_and_judged(name):
    """Each budget is met, missed or not known, according to the output of the script."""
    rows = READ[name](PRINTED[name])

    assert [row.met for row in rows] == MET[name]
    assert not any("no such figure" in row.measured for row in rows)


@pytest.mark.parametrize("name", READ)
def test_missing_figures_are_reported(name):
    """Output without the figures gives the same rows, none of them met."""
    rows = READ[name]("something else\n")

    assert len(rows) == len(MET[name])
    assert all(row.met is None for row in rows)


def test_the_row_of_the_search_has_its_size():
    """The table says on how many rows the ratio was measured."""
    assert READ["search"](PRINTED["search"])[0].what == "40 trials, 2 symbols, 172,000 rows"


def test_a_worse_loss_is_no_success_however_fast():
    """The budget of the search is a time at an equal or better loss."""
    worse = PRINTED["search"].replace("log loss 0.68911", "log loss 0.68999")

    assert READ["search"](worse)[0].met is False


def test_the_scripts_print_the_words_that_are_read():
    """Each word that a reader looks for is in its script; a change there must be made here, too."""
    marks = {
        "startup": ["x hello"],
        "snapshot": ["ratio ", "the same an hour later: ", "used at most", "peak memory "],
        "features": ["M cells/s", "of output: ", "to the newest row: p50 "],
        "features_peers": ["alpha158 ", "M cells/s"],
        "search": ["search: ", "plain loop: ", "by processor time ", "log loss ", " minus search: out of fold ",
                   " nats, better with ", " seeds (", "holdout "],
        "search_peers": ['"FLAML"', '"LightGBMTunerCV"'],
        "pruning": ["mean regret ", " nats over ", " of the rounds", " features, "],
        "backtest": [" policies: mltrain ", "  ratios "],
        "serving": ["Booster.predict, 1 thread", '"the call"', "predict_one(array)", "symbols at once",
                    "candles -> p, a symbol and its leader", "stream.push, a symbol with a leader", " and a ledger",
                    "ledger, an append", "onnxruntime",
                    "candles, 2 inputs -> p, symbol and leader", "stream.push, 2 inputs, with a leader"],
        "sentinel": ["reading ", " of a processor", "watching: ", " of a core, peak memory "],
        "guards": ["the guards cost ", "trials"],
        "memory": ["training of ", " symbols x ", " days: ", " workers: ", " peak ", "predicted "],
        "markets": ['"right"', *(f'"{kind}"' for kind, _, _ in benchmarks.MARKETS)],
    }  # fmt: skip
    for name, words in marks.items():
        text = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
        assert [word for word in words if word not in text] == []


def test_a_backtest_without_vectorbt_has_its_own_figures():
    """The ratios are unknown, and the row says why."""
    ours = "\n".join(line for line in PRINTED["backtest"].splitlines() if not line.startswith("  "))
    rows = READ["backtest"](ours)

    assert [row.met for row in rows] == [None, None]
    assert rows[0].measured == "6.8 s, 187 MB; vectorbt not run: pass --vectorbt-python"


@pytest.fixture
def given(tmp_path):
    """Return the options of a run without candles and without other interpreters."""
    options = benchmarks.read_options(["--results", str(tmp_path)])
    options.candles, options.bytecode = None, tmp_path / "bytecode"
    return options


def named(name):
    return next(b for b in benchmarks.BENCHMARKS if b.name == name)


def test_a_benchmark_that_cannot_run_has_its_rows(given):
    """Each row has its budget, and the reason instead of a figure."""
    (search,), well = benchmarks.run(named("search"), given)
    peers, peers_well = benchmarks.run(named("search-peers"), given)

    assert well
    assert peers_well
    assert search.measured == "not run: no folder of candles: pass --candles or set MLTRAIN_TEST_DATA"
    assert search.budget
    assert {row.measured for row in peers} == {"not run: pass --flaml-python"}
    assert all(row.budget and row.met is None for row in peers)


def test_a_failing_script_is_a_row(given):
    """It says so, and the exit code will be 1."""
    (row,), well = benchmarks.run(benchmarks.Benchmark("no-such-script", lambda _: [], lambda _: []), given)

    assert not well
    assert row.measured.startswith("FAILED with exit code 2")


def test_kept_results_are_not_measured_again(given):
    """A benchmark whose output is in the folder is only read."""
    (given.results / "snapshot.txt").write_text(PRINTED["snapshot"])
    rows, well = benchmarks.run(named("snapshot"), given)

    assert well
    assert [row.met for row in rows] == MET["snapshot"]


def test_other_interpreters_are_passed_on():
    """The three options have one form, here and in the scripts."""
    options = benchmarks.read_options(["--flaml-python", "f", "--qlib-python", "q", "--vectorbt-python", "v"])

    for library, name in (("flaml", "search"), ("qlib", "features"), ("vectorbt", "backtest")):
        assert benchmarks.peer_words(options, library) == [f"--{library}-python", library[0]]
        assert f'"--{library}-python"' in (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")


def test_it_is_one_command():
    """`python -m benchmarks` runs from the checkout, and lists every measuring script."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # These are helpers of other scripts.
    helpers = {"__main__", "matrix", "search_peers", "backtest_peers", "features_peers"}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - helpers

    assert {line.split()[0] for line in done.stdout.splitlines()} == scripts | {"search-peers"}


def test_a_page_gets_the_table(given, capsys, tmp_path):
    """Table and machine replace what was between the markers, and nothing else."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{benchmarks.BEGIN}\nold\n{benchmarks.END}\n\nafter\n")
    (given.results / "snapshot.txt").write_text(PRINTED["snapshot"])
    words = ["--only", "snapshot", "--results", str(given.results), "--write", str(page)]

    # A budget is missed.
    assert benchmarks.main(words) == 1
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n\n{benchmarks.BEGIN}\n")
    assert text.endswith(f"\n{benchmarks.END}\n\nafter\n")
    assert "old" not in text
    assert "of memory" in text
    assert capsys.readouterr().out.splitlines()[-1] in text


def test_the_table_is_markdown():
    """All lines have the same columns and width; with --quick a met budget is in brackets."""
    text = benchmarks.table([benchmarks.Row("a", "b", "c", "1 x", met=True)], quick=True)
    lines = text.splitlines()

    assert len({len(line) for line in lines}) == 1
    assert {line.count("|") for line in lines} == {6}
    assert "(yes)" in text
