"""Models that read inputs, through the command line: funding rates of a futures market, or a folder of files."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

import mltrain as mt
from support.program import QUICK, call

REGISTRY = """version: 1
label: {kind: direction, horizon: 1, ties: drop}
inputs:
  - {name: funding, file: funding.parquet, column: rate, known_at: ts, max_age: 9h}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: wick, op: upper_shadow}
  - {name: funding, op: input_value, params: {input: funding}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a version that reads funding rates, its candles and its funding as files; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "features.yml").write_text(REGISTRY)
    for words in (
        ["snapshot", "--source", "sim", "--market", "usdm", "--symbols", "BTCUSDT", "--days", "3"],
        ["train", "--features", "features.yml", "--trials", "1", "--config", QUICK],
    ):
        done = call(*words, cwd=folder)
        assert done.code in {0, 4}, done.err
    snapshot = mt.open_snapshot(data_dir=folder / "data")
    snapshot.candles("BTCUSDT").write_parquet(folder / "candles.parquet")
    (folder / "own").mkdir()
    snapshot.funding("BTCUSDT").write_parquet(folder / "own" / "funding.parquet")
    return folder


def test_the_source_of_a_futures_market_gives_the_funding_rates(trained):
    """The newest candle is scored with the rate that was known at its close, without any option."""
    done = call("predict", "--allow-no-go", "--json", cwd=trained)
    model = mt.load(trained / "data" / "models" / done.document["version"], allow_no_go=True, clock=None)
    candles = pl.read_parquet(trained / "candles.parquet")
    table = model.predict_candles(candles, inputs={"funding": pl.read_parquet(trained / "own" / "funding.parquet")})

    assert [row["p"] for row in done.document["predictions"]] == table["p"].to_list() != [None]


def test_a_file_of_candles_needs_the_files_of_the_inputs(trained, tmp_path):
    """With --inputs every candle of a file is scored as in the library; without, the message says what to add."""
    words = ("predict", "--allow-no-go", "--input", trained / "candles.parquet")
    done = call(*words, "--inputs", trained / "own", "--output", tmp_path / "p.parquet", cwd=trained)
    without = call(*words, cwd=trained)
    elsewhere = call(*words, "--inputs", tmp_path, cwd=trained)
    rows = pl.read_parquet(tmp_path / "p.parquet")

    assert done.code == 0, done.err
    assert set(rows["refused"].drop_nulls()) <= {"too-few-bars", "hole", "input-missing"}
    assert rows["p"].drop_nulls().len() > rows.height // 2
    assert without.code == elsewhere.code == 3
    assert "reads the input funding (rate of funding.parquet), and no values were given" in without.err
    assert "--inputs DIR" in without.err
    assert "has no file 'funding.parquet' for the input funding" in elsewhere.err


def test_a_model_with_inputs_is_benchmarked(trained):
    """The simulated candles of `bench` have values of the inputs."""
    done = call("bench", "--samples", "20", "--json", cwd=trained)

    assert done.code in {0, 4}, done.err
    assert done.document["schema"] == "mltrain/bench/1"


def test_a_watch_reads_the_files_of_the_inputs_again(trained, tmp_path):
    """`watch` gives each new candle the values that its folder holds by then."""
    from mltrain.pipeline.predict import read_inputs

    model = mt.load(next((trained / "data" / "models").glob("2*")), allow_no_go=True)
    shutil.copytree(trained / "own", tmp_path / "own")
    before = read_inputs(model, tmp_path / "own", source=None)["funding"]
    later = pl.read_parquet(tmp_path / "own" / "funding.parquet").with_columns(pl.col("ts") + pl.duration(days=9))
    later.write_parquet(tmp_path / "own" / "funding.parquet")
    after = read_inputs(model, tmp_path / "own", source=None)["funding"]

    assert before.rows == after.rows
    assert before.known_range[0] < after.known_range[0]
    assert json.dumps(before.to_frame()["value"].to_list()) == json.dumps(after.to_frame()["value"].to_list())


def test_columns_that_nothing_reads_are_named(trained, tmp_path):
    """A column of a candle file that is no candle's is in a warning of snapshot and predict, not dropped in silence."""
    candles = pl.read_parquet(trained / "candles.parquet").with_columns(funding=0.1, mood=pl.lit("calm"), ignore=0)
    candles.write_csv(tmp_path / "BTCUSDT-1m.csv")
    candles.write_parquet(tmp_path / "one.parquet")
    taken = call("snapshot", "--source", "files", "--from", tmp_path, "--symbols", "BTCUSDT", cwd=tmp_path)
    words = ("predict", "--allow-no-go", "--inputs", trained / "own", "--output", tmp_path / "p.csv")
    scored = call(*words, "--input", tmp_path / "one.parquet", cwd=trained)

    assert taken.code == 0, taken.err
    assert (
        "warning: not read: funding, mood (a registry can declare such columns as `inputs`): BTCUSDT-1m.csv"
        in taken.err
    )
    assert scored.code == 0, scored.err
    assert "warning: not read: funding, mood (a registry can declare such columns as `inputs`)" in scored.err


@pytest.mark.parametrize("option", ["--features", "--inputs"])
def test_a_rebuild_takes_no_inputs(trained, option):
    """A rebuild reads the inputs that the snapshot records; an option that would have no effect is refused."""
    done = call("snapshot", "--rebuild", "latest", option, "features.yml", cwd=trained)

    assert done.code == 2
    assert f"{option} does not go with --rebuild" in done.err
