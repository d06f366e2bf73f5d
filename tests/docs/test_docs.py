"""The pages are right: every block runs, and the README lists all commands and no other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer

from mltrain.cli.app import load_commands
from mltrain.simulator.server import SimServer
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange
from support.program import QUICK, call

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SNAPSHOTS = (ROOT / "docs" / "snapshots.md").read_text("utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Lines that are not run here: the two set-up lines (CI runs them), and what needs the internet.
NOT_RUN = ("python3 -m venv .venv ", "python3 -m venv .venv-test ", "pipx install .")


# A reader has more time than the tests: the last option counts.
QUICKER = {"train": ["--trials", "2", "--config", QUICK], "bench": ["--samples", "50"]}


def shell_lines(page):
    blocks = [body for language, body in BLOCK.findall(page) if language == "sh"]
    return [line for body in blocks for line in body.splitlines() if line and not line.startswith(NOT_RUN)]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Run the README's shell lines in order, in a folder of candles; return the folder."""
    here = tmp_path_factory.mktemp("reader")
    made = call("snapshot", "--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT", "--days", "6",
                data_dir=here / "sim")  # fmt: skip
    assert made.code == 0, made.err
    (here / "candles").mkdir()
    shutil.copy(here / "sim" / "snapshots" / "latest" / "BTCUSDT.parquet", here / "candles")
    results = []
    with SimServer(signal="strong") as server:
        for line in shell_lines(README):
            words = shlex.split(line)
            assert words[0] == "mltrain", line
            # The same with the source and the days of a test.
            if line == "mltrain snapshot --days 90":
                words[-1] = "6"
            env = {"MLTRAIN_BASE_URL": server.base_url}
            results.append((line, call(*words[1:], *QUICKER.get(words[1], ()), cwd=here, timeout=300, env=env)))
    return here, results


def test_every_shell_line_of_the_readme_works(walked):
    """Each line ends with 0, in the order of the page."""
    _, results = walked

    failed = [(line, done.code, done.err) for line, done in results if done.code != 0]
    assert failed == []
    assert len(results) >= 9


def test_the_python_block_works(walked):
    """The library example runs on the model made by the lines before it."""
    here, _ = walked
    (source,) = [body for language, body in BLOCK.findall(README) if language == "python"]
    frame = pl.read_parquet(here / "candles" / "BTCUSDT.parquet").with_columns(symbol=pl.lit("BTCUSDT"))
    frame.write_parquet(here / "candles.parquet")
    program = f"import polars as pl\ncandles = pl.read_parquet('candles.parquet')\n{source}\nprint(table.columns)"

    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['ts', 'symbol', 'p', 'raw', 'refused', 'permit']"


def test_the_page_on_snapshots_works(tmp_path):
    """Its shell lines end with 0, in order, on a served exchange; its Python runs on their results."""
    with SimServer() as server:
        env = {"MLTRAIN_BASE_URL": server.base_url}
        runs = [(line, call(*shlex.split(line)[1:], cwd=tmp_path, env=env)) for line in shell_lines(SNAPSHOTS)]
    blocks = [body for language, body in BLOCK.findall(SNAPSHOTS) if language == "python"]
    program = "\n".join([*blocks, "print(frames['BTCUSDT'].height, candles.height)"])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert [(line, run.err) for line, run in runs if run.code != 0] == []
    assert len(runs) >= 9
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "720"


SERVING_PRELUDE = f"""
import time
time.time = lambda: {CLOCK_MS / 1000}  # the machine's clock, by which `load` judges
import polars as pl
table = pl.read_parquet("candles.parquet")
candles = {{key[0]: part.drop("symbol") for key, part in table.partition_by("symbol", as_dict=True).items()}}
history = {{symbol: frame.head(-1) for symbol, frame in candles.items()}}
feed = [(symbol, frame.row(-1, named=True)) for symbol, frame in candles.items()]
"""


def test_the_page_on_serving_works(data_dir):
    """Its shell lines end with 0 on a trained folder, except for the endless watch; so does its Python."""
    here, source = data_dir.parent, SimSource(signal="strong")
    window = TimeRange(CLOCK_MS - 300 * 60_000, CLOCK_MS)
    frames = [source.candles(s, window).with_columns(symbol=pl.lit(s)) for s in ("BTCUSDT", "ETHUSDT")]
    pl.concat(frames).write_parquet(here / "candles.parquet")
    pl.concat(frames).with_columns(pl.col("ts").dt.timestamp("ms")).write_csv(here / "candles.csv")
    lines = [line for line in shell_lines(SERVING) if "--watch" not in line]
    runs = [(line, call(*shlex.split(line)[1:], cwd=here)) for line in lines]
    body = "\n".join(body for language, body in BLOCK.findall(SERVING) if language == "python")
    last = (
        "print(answer({'features': [0.0] * model.n_features_in_}), 0 < p < 1, every.height, why.height, newest.height)"
    )
    program = f"{SERVING_PRELUDE}{body}\n{last}"
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=False)

    assert [(line, run.err) for line, run in runs if run.code != 0] == []
    assert len(runs) >= 5
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True 600 2 2\n")


def test_the_readme_names_every_command():
    """The table has each top-level command and no other."""
    commands = set(typer.main.get_command(load_commands()).commands)
    rows = set(re.findall(r"^\| .*?\|", README, re.MULTILINE))
    named = {word for row in rows for word in re.findall(r"`mltrain (\w+)", row)}

    assert named == commands


def test_set_up_lines_are_single_lines():
    """The demo and the tests are one line each, and no line installs another project's package."""
    for marker in ("<!-- demo line -->", "<!-- test line -->"):
        body = README.split(marker)[1].split("```sh\n")[1].split("```")[0]
        assert body.count("\n") == 1

    assert "pip install mltrain" not in README
    assert "pipx install mltrain" not in README
