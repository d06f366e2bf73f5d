"""Inputs are files of a snapshot: trimmed to what its candles may know, hashed, compared and rebuilt like candles."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mltrain.candles.input_tables import InputSpec
from mltrain.errors import InputError
from mltrain.progress import Silent
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import compare_inputs, list_snapshots, open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRecord, SnapshotRequest
from mltrain.snapshots.stored_inputs import load_inputs
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import read_manifest
from mltrain.times import DAY_MS, HOUR_MS
from support.program import call

SYMBOLS = ("BTCUSDT", "ETHUSDT")
INTEREST = InputSpec("interest", "interest.csv", "open_interest", "seen", 2 * HOUR_MS)
MOOD = InputSpec("mood", "mood.parquet", "score", "day", 2 * DAY_MS, "UTC")
DAYS = 3


class Warnings(Silent):
    def __init__(self):
        self.texts = []

    def warn(self, message):
        self.texts.append(message)


def write_files(folder, *, until_ms=CLOCK_MS, factor=1.0):
    """Write 30 days of hourly values of two symbols and of one that the snapshot lacks, and of daily ones for all."""
    folder.mkdir(exist_ok=True)
    hours = list(range(CLOCK_MS - 30 * DAY_MS, until_ms + 1, HOUR_MS))
    lines = [f"{s},{ms},{factor * (i % 7)}" for s in ("BTC/USDT", "ETHUSDT", "XRPUSDT") for i, ms in enumerate(hours)]
    (folder / "interest.csv").write_text(
        "\n".join(["symbol,seen,open_interest", *lines, lines[0], f"BTCUSDT,{until_ms + 1},"])
    )
    days = pl.Series(hours[::24]).cast(pl.Datetime("ms")).cast(pl.Date)
    pl.DataFrame({"day": days, "score": pl.arange(days.len(), eager=True)}).write_parquet(folder / "mood.parquet")


def take(data_dir, folder=None, *, specs=(INTEREST, MOOD), market="spot", progress=None):
    spec = SourceSpec("sim", market=market, interval="1h")
    inputs = load_inputs(specs, folder) if folder is not None else ()
    request = SnapshotRequest(SYMBOLS, DAYS, "1h")
    return take_snapshot(
        data_dir, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=progress or Silent(), inputs=inputs
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a data folder with a snapshot, and the folder of its inputs; read-only."""
    here = tmp_path_factory.mktemp("inputs")
    write_files(here / "own")
    return here, take(here / "data", here / "own").snapshot


def test_a_snapshot_keeps_what_its_candles_may_know(shared):
    """All values that became known in its window, the newest before, and no other symbol's."""
    here, snapshot = shared
    facts = {each.name: each for each in snapshot.input_facts}
    window = snapshot.window
    interest, mood = snapshot.input_table(INTEREST), snapshot.input_table(MOOD)

    assert sorted(interest.by_symbol) == list(SYMBOLS)
    for symbol in SYMBOLS:
        known = interest.of(symbol).known_ms
        assert known[0] <= window.start_ms + HOUR_MS < known[1]
        assert known[-1] == window.end_ms
    assert mood.for_all is not None
    assert (facts["interest"].rows, facts["mood"].rows) == (interest.rows, mood.rows) == (2 * DAYS * 24, DAYS + 1)
    assert (facts["interest"].empty, facts["interest"].repeated) == (1, 1)
    assert facts["interest"].symbols == SYMBOLS
    assert facts["mood"].symbols == ()
    assert facts["mood"].unused == 31 - facts["mood"].rows
    assert facts["mood"].folder == here / "own"
    assert verify_snapshot(snapshot) == ()
    assert [row.inputs for row in list_snapshots(here / "data")] == [("interest", "mood")]


def test_the_manifest_holds_the_facts(shared):
    """It is read back as the same record; entries that are not those of an input are refused."""
    _, snapshot = shared
    manifest = read_manifest(snapshot.path, kind="snapshot")
    record = SnapshotRecord.from_manifest(manifest, where="x")
    renamed = [replace(e, path=e.path.replace("-mood", "-food")) for e in manifest.files]

    assert record.to_manifest() == manifest
    assert [entry.path for entry in manifest.files[-2:]] == ["input-interest.parquet", "input-mood.parquet"]
    with pytest.raises(InputError, match="are not those of its inputs"):
        SnapshotRecord.from_manifest(replace(manifest, files=tuple(renamed)), where="x")


def test_a_snapshot_without_inputs_has_its_old_manifest(tmp_path):
    """No key of it speaks of inputs."""
    snapshot = take(tmp_path / "data").snapshot

    assert "input" not in (snapshot.path / "manifest.json").read_text().replace("input_files", "")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(INTEREST, name="interests"), "has no input interests .open_interest of interest.csv."),
        (replace(INTEREST, column="other"), "is open_interest of interest.csv by seen; the features need other of"),
        (replace(INTEREST, known_at="day"), "by seen; the features need open_interest of interest.csv by day"),
        (replace(INTEREST, file="b.csv"), "need open_interest of b.csv"),
        (
            replace(MOOD, timezone="Asia/Tokyo"),
            "by day, UTC; the features need score of .* by day, Asia/Tokyo",
        ),
    ],
)
def test_another_input_than_the_declared_one_is_refused(shared, spec, expected):
    """The message says what is stored and what is needed; another max_age is none."""
    _, snapshot = shared

    with pytest.raises(InputError, match=expected) as caught:
        snapshot.input_table(spec)

    assert "mltrain snapshot --features" in caught.value.hint
    assert snapshot.input_table(replace(INTEREST, max_age_ms=1000)).rows


def test_the_same_inputs_make_the_same_snapshot(tmp_path):
    """Later values of a growing file change nothing; a value that differs makes a new snapshot, with a warning."""
    own, data = tmp_path / "own", tmp_path / "data"
    write_files(own)
    first = take(data, own)
    write_files(own, until_ms=CLOCK_MS + DAY_MS)
    again = take(data, own)
    write_files(own, factor=2.0)
    warnings = Warnings()
    other = take(data, own, progress=warnings)
    without = take(data)
    diffs = {(d.name, d.symbol): d for d in compare_inputs(first.snapshot, other.snapshot)}
    gone = compare_inputs(first.snapshot, without.snapshot)

    assert (first.created, again.created, other.created, without.created) == (True, False, True, True)
    assert again.snapshot.id == first.snapshot.id
    assert f"inputs that differ from those of snapshot {first.snapshot.id}: interest" in warnings.texts
    assert any("the input interest: 1 rows without a value and 1 repeated" in text for text in warnings.texts)
    assert diffs["interest", "ETHUSDT"].diff.changed > 0
    assert diffs["mood", ""].diff.is_empty
    assert {(d.name, d.symbol, d.only) for d in gone} == {
        ("interest", "BTCUSDT", first.snapshot.id),
        ("interest", "ETHUSDT", first.snapshot.id),
        ("mood", "", first.snapshot.id),
    }


def test_a_damaged_input_is_found_and_rebuilt(tmp_path):
    """From the user's file, byte for byte, or it is lost with the reason."""
    own, data = tmp_path / "own", tmp_path / "data"
    write_files(own)
    snapshot = take(data, own).snapshot
    path = snapshot.path / "input-interest.parquet"
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-9] + b"?" + whole[-8:])

    def rebuild():
        found = rebuild_snapshot(snapshot, SimSource(interval="1h"), data_dir=data, progress=Silent())
        return {file.file: (file.outcome, file.detail) for file in found}

    assert any("input-interest.parquet" in problem for problem in verify_snapshot(snapshot))
    write_files(own, factor=2.0)
    assert rebuild()[path.name] == ("lost", f"{own / 'interest.csv'} has other values now")
    assert rebuild()["input-mood.parquet"] == ("sound", "")
    (own / "interest.csv").unlink()
    assert rebuild()[path.name][0] == "lost"
    write_files(own)
    assert rebuild()[path.name] == ("rebuilt", "")
    assert path.read_bytes() == whole
    assert verify_snapshot(open_snapshot(data, "latest")) == ()


def test_funding_of_futures_needs_no_file(tmp_path):
    """An input of funding.parquet is the snapshot's own funding, by its event times."""
    funding = InputSpec("funding", "funding.parquet", "rate", "ts", 9 * HOUR_MS)
    (tmp_path / "own").mkdir()
    assert load_inputs([funding], tmp_path / "own", given=("funding.parquet",)) == ()
    snapshot = take(tmp_path / "data", market="usdm").snapshot

    found = snapshot.input_table(funding)

    for symbol in SYMBOLS:
        assert found.of(symbol).values.tolist() == snapshot.funding(symbol)["rate"].to_list()
    with pytest.raises(InputError, match=r"has rate and mark_price by ts"):
        snapshot.input_table(replace(funding, known_at="published_at"))


def test_files_that_cannot_be_stored_are_refused(tmp_path):
    """A missing file, with the nearest name; and one whose values are all known too late."""
    own = tmp_path / "own"
    write_files(own)
    lines = (own / "interest.csv").read_text().splitlines()
    (own / "interest.csv").write_text("\n".join([lines[0], f"BTCUSDT,{CLOCK_MS + HOUR_MS},1"]))

    with pytest.raises(InputError, match=r"has no file 'interests.csv' for the input interest") as caught:
        load_inputs([replace(INTEREST, file="interests.csv")], own)
    assert caught.value.hint == "did you mean interest.csv? Or name another folder: --inputs DIR"
    with pytest.raises(InputError, match=r"has no value of BTCUSDT, ETHUSDT that is known by then"):
        take(tmp_path / "data", own, specs=[INTEREST])
    assert list_snapshots(tmp_path / "data") == ()


REGISTRY = """version: 1
label: {kind: direction, horizon: 1, ties: drop}
inputs:
  - {name: interest, file: interest.csv, column: open_interest, known_at: seen, max_age: 2h}
features:
  - {name: x, op: input_value, params: {input: interest}}
"""


def test_the_command_stores_the_inputs_of_a_registry(tmp_path):
    """By default from its folder; the views of snapshot, snapshots and diff name them."""
    write_files(tmp_path / "own")
    (tmp_path / "own" / "my.yml").write_text(REGISTRY)
    words = ("snapshot", "--source", "sim", "--symbols", "BTCUSDT,ETHUSDT", "--days", 3, "--interval", "1h")
    stored = (*words, "--features", "own/my.yml")

    taken = call(*stored, cwd=tmp_path)
    document = call(*words, "--features", "own/my.yml", "--inputs", "own", "--json", cwd=tmp_path).document
    assert call(*words, cwd=tmp_path).code == 0
    listed = call("snapshots", cwd=tmp_path)
    ids = [row["id"] for row in call("snapshots", "--json", cwd=tmp_path).document["snapshots"]]
    compared = call("snapshots", "diff", *ids, cwd=tmp_path)
    lonely = call(*words, "--inputs", "own", cwd=tmp_path)
    missing = call(*stored, "--inputs", ".", cwd=tmp_path)

    assert (
        "input interest: 144 values of BTCUSDT, ETHUSDT, known from 2025-10-12 13:00 to 2025-10-15 12:00" in taken.out
    )
    assert "1 rows without a value and 1 repeated rows of interest.csv were dropped" in taken.err
    assert document["created"] is False
    assert [facts["name"] for facts in document["snapshot"]["input_facts"]] == ["interest"]
    assert "interest" in listed.out
    assert f"input interest of BTCUSDT: only in {ids[0]}" in compared.out
    assert (lonely.code, missing.code) == (2, 3)
    assert "--inputs goes with --features" in lonely.err
    assert "has no file 'interest.csv' for the input interest" in missing.err
