"""Laws of `mltrain predict`: newest candles, files in and out, explanations, and watching."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import TS_DTYPE
from mltrain.monitoring.ledger import read_ledger
from mltrain.simulator.server import SimServer
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange
from support.program import MLTRAIN, NEUTRAL, call

SYMBOLS = ("BTCUSDT", "ETHUSDT")
COLUMNS = ["ts", "symbol", "p", "raw", "refused", "permit"]


def hostile_parquet():
    """Return a valid Parquet file of candles with one changed byte that makes Polars abort the process."""
    ts = pl.Series(CLOCK_MS - 300 * 60_000 + 60_000 * np.arange(300)).cast(TS_DTYPE)
    data = io.BytesIO()
    pl.DataFrame({"ts": ts, **dict.fromkeys(("open", "high", "low", "close", "volume"), 10.0)}).write_parquet(data)
    # In the first page's header; it makes the number of its values negative.
    changed = bytearray(data.getvalue())
    changed[14] = 0xFF
    return bytes(changed)


HOSTILE = hostile_parquet()


@pytest.fixture(scope="module")
def table():
    source, window = SimSource(signal="strong"), TimeRange(CLOCK_MS - 300 * 60_000, CLOCK_MS)
    frames = [source.candles(s, window).with_columns(symbol=pl.lit(s)) for s in SYMBOLS]
    # Interleaved by time, as a feed writes them.
    return pl.concat(frames).sort("ts", maintain_order=True)


def write(table, path):
    plain = table.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    match path.suffix:
        case ".parquet":
            table.write_parquet(path)
        case ".csv":
            plain.write_csv(path)
        case _:
            plain.write_ndjson(path)
    return path


def read(path):
    match path.suffix:
        case ".parquet":
            found = pl.read_parquet(path)
            return found.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        case ".csv":
            return pl.read_csv(path, schema_overrides={"refused": pl.String, "p": pl.Float64, "raw": pl.Float64})
    return pl.read_ndjson(path, infer_schema_length=None)


@pytest.fixture(scope="module")
def fresh(table):
    """Return the table's candles moved to the present: the last two of each symbol have not closed."""
    minute_ms = (int(time.time() * 1000) // 60_000 + 2) * 60_000
    shift = pl.duration(milliseconds=minute_ms + 60_000 - CLOCK_MS)
    return table.with_columns((pl.col("ts") + shift).cast(table.schema["ts"]))


def test_candles_of_a_file_that_have_not_closed_are_left_out(trained_dir, fresh, tmp_path):
    """They are reported; the others are scored as without them."""
    source = write(fresh, tmp_path / "in.parquet")
    done = call("predict", "--input", source, "--output", tmp_path / "out.parquet", data_dir=trained_dir)
    known = write(fresh.head(fresh.height - 20), tmp_path / "known.parquet")
    call("predict", "--input", known, "--output", tmp_path / "known_out.parquet", data_dir=trained_dir)
    scored, before = (pl.read_parquet(tmp_path / name) for name in ("out.parquet", "known_out.parquet"))

    assert done.code == 0, done.err
    assert "candles left out, not closed yet by this machine's clock" in done.err
    assert "BTCUSDT from 2" in done.err
    assert "ETHUSDT from 2" in done.err
    assert fresh.height - 20 < scored.height < fresh.height
    assert scored.head(before.height).equals(before)
    assert scored["ts"].max().timestamp() + 60 <= time.time()


def test_a_file_in_local_time_is_refused(trained_dir, fresh, tmp_path):
    """Times hours ahead of the clock give an error by symbol with a remedy; nothing is written."""
    ahead = fresh.with_columns(
        ts=pl.when(pl.col("symbol") == "ETHUSDT").then(pl.col("ts") + pl.duration(hours=2)).otherwise("ts")
    )
    source = write(ahead, tmp_path / "in.csv")
    done = call("predict", "--input", source, "--output", tmp_path / "out.csv", data_dir=trained_dir)

    assert done.code == 3
    assert "in.csv: ETHUSDT: its times are not UTC?" in done.err
    assert not (tmp_path / "out.csv").exists()


def test_times_without_a_zone_are_read_as_in_a_snapshot(trained_dir, table, tmp_path):
    """As UTC, with a warning; or in the zone of --timezone."""
    known = write(table, tmp_path / "known.parquet")
    naive = tmp_path / "in.parquet"
    table.with_columns(pl.col("ts").dt.replace_time_zone(None)).write_parquet(naive)
    local = tmp_path / "local.parquet"
    table.with_columns(pl.col("ts").dt.convert_time_zone("Asia/Tokyo").dt.replace_time_zone(None)).write_parquet(local)
    words = {known: (), naive: (), local: ("--timezone", "Asia/Tokyo")}
    done = {
        path: call("predict", "--input", path, "--output", f"{path}.csv", *more, data_dir=trained_dir)
        for path, more in words.items()
    }

    assert {call.code for call in done.values()} == {0}, done[naive].err
    assert "its times state no zone and were read as UTC" in done[naive].err
    assert "no zone" not in done[known].err + done[local].err
    scored = [read(path.with_name(f"{path.name}.csv")) for path in words]
    assert scored[0].equals(scored[1])
    assert scored[0].equals(scored[2])
    alone = call("predict", "--timezone", "Asia/Tokyo", data_dir=trained_dir)
    assert (alone.code, "--timezone goes with --input, or with --source files" in alone.err) == (2, True)


def test_a_file_may_be_named_after_its_symbol(trained_dir, table, tmp_path):
    """As freqtrade names it; a column wins over the name, and another pair is refused."""
    bitcoin = table.filter(pl.col("symbol") == "BTCUSDT")
    known = write(bitcoin, tmp_path / "ETH_USDT-1m.parquet")
    named = write(bitcoin.drop("symbol"), tmp_path / "BTC_USDT-1m.parquet")
    other = write(bitcoin.drop("symbol"), tmp_path / "XRP_USDT-1m.parquet")
    words = [("predict", "--json", "--input", path) for path in (known, named, other)]
    first, second, third = (call(*each, data_dir=trained_dir) for each in words)

    assert (first.code, second.code, third.code) == (0, 0, 3), second.err
    assert first.document["predictions"] == second.document["predictions"]
    assert "unknown-symbol (XRPUSDT)" in third.err


def test_the_newest_candle_of_files_is_the_newest_closed_one(trained_dir, fresh, tmp_path):
    """The one that is still open is reported and left out."""
    for symbol in SYMBOLS:
        fresh.filter(pl.col("symbol") == symbol).drop("symbol").write_parquet(tmp_path / f"{symbol}.parquet")
    done = call("predict", "--source", "files", "--from", tmp_path, "--json", data_dir=trained_dir)

    assert done.code == 0, done.err
    assert "candles left out, not closed yet by this machine's clock" in done.err
    for row in done.document["predictions"]:
        age_s = time.time() - datetime.fromisoformat(row["ts"]).timestamp()
        assert 60 <= age_s < 300


def test_every_format_gives_the_same_rows(trained_dir, table, tmp_path):
    """Each candle of a file has a row, in the file's order; all formats agree to the last digit."""
    results = []
    for suffix, other in ((".parquet", ".csv"), (".csv", ".jsonl"), (".jsonl", ".parquet")):
        out = tmp_path / f"out{other}"
        done = call("predict", "--input", write(table, tmp_path / f"in{suffix}"), "--output", out, data_dir=trained_dir)
        assert done.code == 0, done.err
        results.append(read(out))

    assert results[0].equals(results[1])
    assert results[0].equals(results[2])
    assert results[0].columns == COLUMNS
    assert results[0]["symbol"].to_list() == table["symbol"].to_list()
    assert results[0].tail(2)["refused"].to_list() == [None, None]
    assert results[0].head(2)["refused"].to_list() == ["too-few-bars"] * 2


def test_a_pipe_is_a_file(trained_dir, table):
    """CSV on stdin gives only JSON lines on stdout, equal to those of the command without a pipe."""
    data = write_csv(table)
    done = subprocess.run(
        [MLTRAIN, "predict", "--input", "-", "--output", "-", "--output-format", "jsonl", "--data-dir", trained_dir],
        input=data, capture_output=True, env=NEUTRAL, check=False,
    )  # fmt: skip
    rows = pl.read_ndjson(io.BytesIO(done.stdout), infer_schema_length=None)
    newest = call("predict", "--json", data_dir=trained_dir).document["predictions"]

    assert (done.returncode, rows.height) == (0, table.height)
    assert rows.tail(2)["p"].to_list() == [row["p"] for row in newest]


def write_csv(table):
    return table.with_columns(pl.col("ts").dt.timestamp("ms")).write_csv().encode()


def test_an_explanation_adds_up(trained_dir, table, tmp_path):
    """Base and contributions sum to the log odds, in the document, the table and the file."""
    row = call("predict", "--explain", "--json", data_dir=trained_dir).document["predictions"][0]
    parts = [value for name, value in row.items() if name.startswith("contribution_")]
    shown = call("predict", "--explain", data_dir=trained_dir)
    out = tmp_path / "out.parquet"
    call("predict", "--explain", "--input", write(table, tmp_path / "in.csv"), "--output", out, data_dir=trained_dir)

    assert abs(sum(parts) + row["base"] - row["log_odds"]) < 1e-9
    assert "log odds" in shown.out
    assert "calibrated" in shown.out
    assert pl.read_parquet(out)["log_odds"].is_not_null().sum() > 0


COUNTED = """
import atexit, sys
opened = []
def note(event, args):
    if event == "open" and str(args[0]).endswith(".pkl"):
        opened.append(args)
sys.addaudithook(note)
atexit.register(lambda: sys.stderr.write(str(len(opened))))
sys.argv = ["mltrain", *sys.argv[1:]]
from mltrain.cli import main
main()
"""


@pytest.mark.parametrize("words", [[], ["best"]], ids=["default", "best"])
def test_the_model_is_read_once(trained_dir, words):
    """A prediction opens the version's lgbm.pkl once."""
    line = [sys.executable, "-c", COUNTED, "predict", *words, "--data-dir", trained_dir]
    done = subprocess.run(line, capture_output=True, text=True, env=NEUTRAL, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "1"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"a,b\n1,2\n", "ts missing"),
        ("x.csv", b"ts,symbol,open\n2025,BTCUSDT,abc\n", "open is 'abc'"),
        ("x.csv", b"ts,symbol\nyesterday,BTCUSDT\n", "ts is 'yesterday'"),
        ("x.csv", b"ts,open,high,low,close,volume\n1760529600000,1,1,1,1,1\n", "name no symbol"),
        ("x.parquet", b"PAR1 no", "not a readable parquet file"),
        ("x.parquet", HOSTILE, "not a readable parquet file"),
        ("x.jsonl", b"{", "not readable JSON lines"),
        ("x.csv", b"", "not a readable CSV file: nothing is in it"),
    ],
)
def test_a_bad_file_is_one_readable_message(trained_dir, tmp_path, name, content, reason):
    """Exit 3 names the file and the column, and nothing is written."""
    path = tmp_path / name
    path.write_bytes(content)
    done = call("predict", "--input", path, "--output", tmp_path / "out.csv", data_dir=trained_dir)

    assert (done.code, done.out) == (3, "")
    assert reason in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--watch", "--explain"],
        ["--watch", "--input", "x.csv"],
        ["--watch"],
        ["--json", "--output", "-"],
        ["--input", "x.txt"],
        ["--input", "x.csv", "--output", "x.zip"],
        ["--input-format", "csv"],
        ["--input", "x.csv", "--source", "sim"],
        ["--as-of", "yesterday"],
        ["--watch", "--as-of", "2025-10-15"],
        ["--watch", "--fail-on-refused", "any"],
        ["--fail-on-refused", "some"],
        ["--ledger"],
    ],
    ids=" ".join,
)
def test_options_that_contradict_are_usage_errors(trained_dir, words):
    """Exit 2 before anything is read; the fixed clock of the source `sim` cannot be watched."""
    assert call("predict", *words, data_dir=trained_dir).code == 2


def test_a_watch_prints_lines_until_it_is_interrupted(data_dir):
    """The newest candle of each symbol is printed at once as JSON lines; Ctrl-C gives 130 without a traceback.

    With a ledger, they are recorded before they are printed.
    """
    with SimServer(signal="strong") as server:
        command = [MLTRAIN, "predict", "--watch", "--ledger", "--json"]
        with subprocess.Popen(
            [*command, "--source", "binance", "--base-url", server.base_url, "--data-dir", data_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=NEUTRAL,
        ) as run:
            lines = [json.loads(run.stdout.readline()) for _ in SYMBOLS]
            os.kill(run.pid, signal.SIGINT)
            out, err = run.communicate(timeout=30)
    newest = call("predict", "--json", data_dir=data_dir).document

    assert (run.returncode, out, err) == (130, "", "")
    assert lines == [{"version": newest["version"], **row} for row in newest["predictions"]]
    recorded = [(r.version, r.ts, r.symbol, r.p, r.raw, r.refused) for r in read_ledger(data_dir / "ledger")]
    assert recorded == [
        tuple(line[key] for key in ("version", "ts", "symbol", "p", "raw", "refused")) for line in lines
    ]


# Two minutes after the last candle has closed.
LATE = ("--as-of", "2025-10-15T12:02:00Z")


def test_only_refused_rows_are_a_failure(trained_dir):
    """Exit 3, the result on stdout and one message on stderr; exit 0 with `--fail-on-refused never`."""
    shown = call("predict", *LATE, "--quiet", data_dir=trained_dir)
    failed = call("predict", *LATE, "--json", "--fail-on-refused", "any", data_dir=trained_dir)
    never = call("predict", *LATE, "--fail-on-refused", "never", data_dir=trained_dir)

    assert (shown.code, failed.code, never.code) == (3, 3, 0)
    assert shown.out == never.out
    assert shown.out.count("stale") == len(SYMBOLS)
    assert [row["refused"] for row in failed.document["predictions"]] == ["stale", "stale"]
    assert failed.err == shown.err
    assert shown.err.startswith("error: every row was refused: stale (BTCUSDT, ETHUSDT)")
    assert "2025-10-15T11:59:00Z, judged at 2025-10-15T12:02:00Z" in shown.err
    assert never.err == ""


def test_files_are_stale_unless_replayed(trained_dir, table, tmp_path):
    """Candles of 2025 are stale today, but not with `--as-of` at their end."""
    folder = tmp_path / "files"
    folder.mkdir()
    for symbol in SYMBOLS:
        table.filter(pl.col("symbol") == symbol).drop("symbol").write_parquet(folder / f"{symbol}-1m.parquet")
    words = ("predict", "--json", "--source", "files", "--from", folder)
    today = call(*words, data_dir=trained_dir)
    replayed = call(*words, "--as-of", "2025-10-15T12:00:00Z", data_dir=trained_dir)
    newest = call("predict", "--json", data_dir=trained_dir)

    assert today.code == 3
    assert {row["refused"] for row in today.document["predictions"]} == {"stale"}
    assert replayed.code == 0, replayed.err
    assert replayed.document == newest.document


def test_a_file_is_a_batch(trained_dir, table, tmp_path):
    """Its rows are never stale; a file without a scorable row is still written, with exit code 3."""
    short, out = table.head(20), tmp_path / "out.csv"
    words = ("predict", "--output", out, "--input")
    failed = call(*words, write(short, tmp_path / "short.csv"), "--json", data_dir=trained_dir)
    written = read(out)
    strict = call(*words, write(table, tmp_path / "in.csv"), "--fail-on-refused", "any", data_dir=trained_dir)
    cut = call(*words, tmp_path / "in.csv", "--as-of", "2025-10-15T11:50:30Z", data_dir=trained_dir)

    assert (failed.code, failed.document["refused"]) == (3, 20)
    assert "too-few-bars" in failed.err
    assert written["symbol"].to_list() == short["symbol"].to_list()
    assert (strict.code, cut.code) == (0, 0), strict.err + cut.err
    assert read(out)["ts"][-1] == "2025-10-15T11:49:00Z"


@pytest.mark.parametrize(
    ("name", "message"), [("rows", "rows' has no suffix"), ("rows.cvs", "'.cvs' is not a format of tables")]
)
def test_a_file_of_no_known_format_is_named(name, message, tmp_path):
    """The message has the file and the known formats; no library is loaded."""
    done = call("predict", "--input", tmp_path / name, data_dir=tmp_path)

    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert name in done.err
    assert ".csv" in done.err
