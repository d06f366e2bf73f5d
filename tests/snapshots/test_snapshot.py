"""Snapshots are read by any reference, and changed bytes are never parsed."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mltrain.candles.frame import CANDLE_SCHEMA, content_sha256
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.snapshots.snapshot import list_snapshots, open_snapshot, verify_snapshot
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.manifest import Manifest, read_manifest
from mltrain.times import MINUTE_MS

ID = "2025-10-15T12-00-00Z"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the data folder of one snapshot of two symbols; tests must not change it."""
    from mltrain.progress import Silent
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import take_snapshot
    from mltrain.sources.opening import open_source
    from mltrain.sources.source_spec import SourceSpec

    data_dir = tmp_path_factory.mktemp("sound") / "data"
    spec = SourceSpec(name="sim", seed=1)
    request = SnapshotRequest(symbols=("BTCUSDT", "ETHUSDT"), days=1)
    take_snapshot(data_dir, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent())
    return data_dir


@pytest.fixture
def data_dir(sound, tmp_path):
    """Return a copy of that folder, which a test may damage."""
    return shutil.copytree(sound, tmp_path / "data", symlinks=True)


@pytest.fixture
def folder(data_dir):
    """Return the snapshot's folder in that copy."""
    return data_dir / "snapshots" / ID


def test_every_reference_leads_to_the_same_snapshot(data_dir, folder, monkeypatch):
    """`latest`, the id, and paths of the folder or the pointer."""
    monkeypatch.chdir(data_dir)
    refs = ["latest", ID, str(folder), f"{folder}/", "./snapshots/latest", f"snapshots/{ID}"]
    opened = [open_snapshot(data_dir, ref) for ref in refs]

    assert {s.manifest_sha256 for s in opened} == {opened[0].manifest_sha256}
    assert {s.path.resolve() for s in opened} == {folder}
    assert opened[0].manifest_sha256 == read_manifest(folder, kind="snapshot").self_sha256


@pytest.mark.parametrize(
    "ref",
    ["", "best", "lastest", "..", ".", "2025-10-15", f"{ID}.0", f"{ID}.01", f"{ID}\n", "2025-10-15T12:00:00Z",
     "٢٠٢٥-10-15T12-00-00Z", "-rf", "%2e%2e", f"{ID}\x00", "x" * 10_000],
)  # fmt: skip
def test_references_outside_the_grammar_are_usage_errors(sound, ref):
    """No path is built from them."""
    with pytest.raises(UsageError) as err:
        open_snapshot(sound, ref)

    assert len(err.value.message) < 200


@pytest.mark.parametrize("ref", ["2025-10-14T12-00-00Z", f"{ID}.2", "2199-12-31T23-59-00Z"])
def test_unknown_ids_list_the_nearest(sound, ref):
    """The message names the request, the hint the nearest ids."""
    with pytest.raises(InputError, match=f"no {ref} in ") as err:
        open_snapshot(sound, ref)

    assert ID in err.value.hint


@pytest.mark.parametrize("ref", ["/nowhere/at/all", "../../etc", "x/\x00", "/etc/passwd", "a/" + "b" * 5_000, "/"])
def test_paths_that_hold_no_snapshot_are_input_errors(sound, ref):
    """Missing, a file, impossible, or a folder without a manifest."""
    with pytest.raises(InputError):
        open_snapshot(sound, ref)


def test_without_snapshots_the_hint_is_how_to_take_one(tmp_path):
    """Without a folder or a pointer, the hint is the command that takes one."""
    with pytest.raises(InputError, match="no latest snapshot") as err:
        open_snapshot(tmp_path, "latest")
    assert "mltrain snapshot" in err.value.hint
    with pytest.raises(InputError) as err:
        open_snapshot(tmp_path, ID)
    assert "mltrain snapshot" in err.value.hint
    assert list_snapshots(tmp_path) == ()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "no latest snapshot"),
        ("2025-01-01T00-00-00Z", "points to 2025-01-01T00-00-00Z, which does not exist"),
        ("elsewhere", "points to 'elsewhere', which is not a snapshot"),
        ("latest", "points to 'latest', which is not a snapshot"),
        ("../snapshots/" + ID, "is not a name in its folder"),
        ("/etc", "is not a name in its folder"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_named(data_dir, target, message):
    """A missing, dangling, circular or outside target is never followed."""
    link = data_dir / "snapshots" / "latest"
    link.unlink()
    if target is not None:
        link.symlink_to(target)

    with pytest.raises(InputError, match=message):
        open_snapshot(data_dir, "latest")
    assert [row.latest for row in list_snapshots(data_dir)] == [False]


def test_a_renamed_copied_or_linked_folder_is_refused_by_id(data_dir, folder):
    """A copy under another name can be opened only by its path."""
    for name in (f"{ID}.2", f"{ID}.3"):
        copy = folder.with_name(name)
        shutil.copytree(folder, copy) if name.endswith("2") else copy.symlink_to(ID)
        with pytest.raises(InputError, match=r"renamed or copied|symbolic link"):
            open_snapshot(data_dir, name)

    assert open_snapshot(data_dir, str(folder.with_name(f"{ID}.2"))).id == ID
    assert [row.problem is None for row in list_snapshots(data_dir)] == [True, False, False]


def test_the_list_is_sorted_by_cut_and_number(data_dir, folder):
    """Ten comes after two, and other files are ignored."""
    for name in (f"{ID}.10", f"{ID}.2", "2024-10-15T12-00-00Z", "notes", ".x.tmp", "2025-10-15"):
        shutil.copytree(folder, folder.with_name(name))
    (folder.with_name("2023-10-15T12-00-00Z")).mkdir()
    rows = list_snapshots(data_dir)

    assert [r.id for r in rows] == ["2023-10-15T12-00-00Z", "2024-10-15T12-00-00Z", ID, f"{ID}.2", f"{ID}.10"]
    assert [r.latest for r in rows] == [False, False, True, False, False]
    assert "no manifest.json" in rows[0].problem
    good = rows[2]
    snapshot = open_snapshot(data_dir, ID)
    assert (good.symbols, good.rows) == (snapshot.symbols, sum(f.rows for f in snapshot.facts))
    assert (good.first_ms, good.last_ms) == (CLOCK_MS - 1440 * MINUTE_MS, CLOCK_MS - MINUTE_MS)


def test_an_unknown_symbol_lists_those_there(sound):
    """The hint names the nearest symbol."""
    with pytest.raises(InputError, match="no symbol 'ETHUSD'") as err:
        open_snapshot(sound, "latest").candles("ETHUSD")

    assert "ETHUSDT" in err.value.hint


def damage_bytes(data, kind, n):
    """Return the data with typical damage of disks, copies and editors."""
    rng = np.random.default_rng(n)
    at = int(rng.integers(len(data)))
    match kind:
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "zero":
            return data[:at] + bytes(len(data[at : at + 64])) + data[at + 64 :]
        case "splice":
            return data[:at] + data[int(rng.integers(len(data))) :]
        case "append":
            return data + b"\n" * (at % 5 + 1)
    raise ValueError(kind)


KINDS = [(kind, n) for kind in ("flip", "cut", "zero", "splice", "append") for n in range(8)]


@pytest.mark.parametrize(("kind", "n"), KINDS)
def test_a_changed_candle_file_is_found_by_its_hash(folder, data_dir, kind, n):
    """Before parsing: the message names the file and both hashes, and the other symbol can still be read."""
    file = folder / "BTCUSDT.parquet"
    good = file.read_bytes()
    bad = damage_bytes(good, kind, n)
    if bad == good:
        pytest.skip("this damage changed nothing")
    file.write_bytes(bad)
    snapshot = open_snapshot(data_dir, "latest")

    with pytest.raises(InputError) as err:
        snapshot.candles("BTCUSDT")
    assert all(text in err.value.message for text in (str(file), sha256_bytes(bad), sha256_bytes(good)))
    assert f"mltrain verify snapshot {ID}" in err.value.hint
    assert snapshot.candles("ETHUSDT").height > 0
    (problem,) = verify_snapshot(snapshot)
    assert str(file) in problem


@pytest.mark.parametrize(("kind", "n"), KINDS)
def test_a_changed_manifest_is_found(folder, data_dir, kind, n):
    """The snapshot does not open, and one that was opened before returns no more candles."""
    opened = open_snapshot(data_dir, "latest")
    file = folder / "manifest.json"
    good = file.read_bytes()
    bad = damage_bytes(good, kind, n)
    if bad == good:
        pytest.skip("this damage changed nothing")
    file.write_bytes(bad)

    for attempt in (lambda: open_snapshot(data_dir, ID), lambda: opened.candles("BTCUSDT")):
        with pytest.raises(InputError, match=r"manifest\.json"):
            attempt()
    assert len(verify_snapshot(opened)) == 1
    assert list_snapshots(data_dir)[0].problem


def test_swapped_files_are_found(folder, data_dir):
    """Each file is intact but not the one in the manifest."""
    (folder / "BTCUSDT.parquet").rename(folder / "x")
    (folder / "ETHUSDT.parquet").rename(folder / "BTCUSDT.parquet")
    (folder / "x").rename(folder / "ETHUSDT.parquet")
    snapshot = open_snapshot(data_dir, "latest")

    for symbol in snapshot.symbols:
        with pytest.raises(InputError, match="is not the file that was published"):
            snapshot.candles(symbol)
    assert len(verify_snapshot(snapshot)) == 2


@pytest.mark.parametrize("thing", ["missing", "folder", "fifo", "link to itself elsewhere", "huge"])
def test_other_things_than_a_file_of_its_size_are_refused_at_once(folder, data_dir, tmp_path, thing):
    """Nothing blocks, no link is followed, and nothing is read without limit."""
    file = folder / "BTCUSDT.parquet"
    file.rename(tmp_path / "real.parquet")
    match thing:
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "link to itself elsewhere":
            file.symlink_to(tmp_path / "real.parquet")
        case "huge":
            with file.open("wb") as out:
                out.truncate(10 << 30)
    snapshot = open_snapshot(data_dir, "latest")

    with pytest.raises(InputError, match=r"BTCUSDT\.parquet"):
        snapshot.candles("BTCUSDT")
    assert len(verify_snapshot(snapshot)) == 1


def test_unlisted_files_are_found(folder, data_dir):
    """An additional file or folder is a problem."""
    (folder / "SOLUSDT.parquet").write_bytes(b"x")
    (folder / ".hidden").mkdir()

    problems = verify_snapshot(open_snapshot(data_dir, "latest"))
    assert len(problems) == 2
    assert "SOLUSDT.parquet" in problems[1]


@pytest.mark.parametrize("longer", [1, 5000])
def test_damage_is_named_by_its_days(folder, data_dir, longer):
    """Also in a file that has become longer."""
    file = folder / "BTCUSDT.parquet"
    good = file.read_bytes()
    last = open_snapshot(data_dir, "latest").facts[0].blocks[-1]
    problems = {}
    for name, bad in {
        "flip": good[: last.end - 1] + bytes([good[last.end - 1] ^ 1]) + good[last.end :],
        "put in": good[: last.end - 1] + bytes(longer) + good[last.end - 1 :],
        "behind": good + bytes(longer),
    }.items():
        file.write_bytes(bad)
        (problems[name],) = verify_snapshot(open_snapshot(data_dir, "latest"))

    assert problems["flip"].endswith(": damaged are the candles of 2025-10-15")
    assert problems["put in"].endswith(": damaged are the candles of 2025-10-15")
    assert problems["behind"].endswith("the damage is outside the candles, in the file's header or footer")


def test_a_damaged_file_without_blocks_is_found(folder, data_dir):
    """Without blocks, the damaged days are unknown."""
    forge(folder, (folder / "BTCUSDT.parquet").read_bytes())
    (folder / "BTCUSDT.parquet").write_bytes(b"PAR1 no candles")

    (problem,) = verify_snapshot(open_snapshot(data_dir, "latest"))
    assert "the manifest says" in problem
    assert "damaged are" not in problem


def test_blocks_that_do_not_match_an_intact_file_are_found(folder, data_dir):
    """Otherwise, later damage would be attributed to the wrong days."""
    blocks = [["2025-10-14T00:00:00Z", "2025-10-16T00:00:00Z", 900, "0" * 16]]
    forge(folder, (folder / "BTCUSDT.parquet").read_bytes(), blocks=blocks)

    (problem,) = verify_snapshot(open_snapshot(data_dir, "latest"))
    assert "its days are not where the manifest says" in problem


def forge(folder, data, **facts):
    """Replace BTCUSDT's file by other bytes, with a manifest that agrees with them."""
    manifest = read_manifest(folder, kind="snapshot")
    entry = manifest.files[0]
    forged = replace(entry, sha256=sha256_bytes(data), bytes=len(data), facts={**entry.facts, "blocks": [], **facts})
    (folder / entry.path).write_bytes(data)
    (folder / "manifest.json").write_bytes(
        Manifest("snapshot", manifest.head, (forged, *manifest.files[1:])).to_bytes()
    )


def arrow_bytes(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def frame_bytes(frame):
    return arrow_bytes(frame.to_arrow())


FORGERIES = {
    "not parquet": lambda _: b"PAR1 hello PAR1",
    "one row less": lambda f: frame_bytes(f[:-1]),
    "one row twice": lambda f: frame_bytes(pl.concat([f[:-1], f[-2:-1]])),
    "unsorted": lambda f: frame_bytes(pl.concat([f[:5], f[5:10].reverse(), f[10:]])),
    "another day": lambda f: frame_bytes(f.with_columns(pl.col("ts") - pl.duration(days=1))),
    "NaN": lambda f: frame_bytes(f.with_columns(close=pl.lit(float("nan")))),
    "negative": lambda f: frame_bytes(f.with_columns(-pl.col("volume"))),
    "high below low": lambda f: frame_bytes(f.with_columns(high="low", low="high")),
    "text": lambda f: frame_bytes(f.with_columns(pl.col("close").cast(pl.String))),
    "float32": lambda f: frame_bytes(f.with_columns(pl.col("close").cast(pl.Float32))),
    "no zone": lambda f: frame_bytes(f.with_columns(pl.col("ts").dt.replace_time_zone(None))),
    "no column": lambda f: frame_bytes(f.drop("trades")),
    "further column": lambda f: frame_bytes(f.with_columns(x=1)),
    "other order": lambda f: frame_bytes(f.select("open", pl.exclude("open"))),
    "nested": lambda f: frame_bytes(f.with_columns(pl.concat_list("close").alias("close"))),
    "a bomb": lambda _: arrow_bytes(
        pa.table({n: np.zeros(3_000_000, "i8" if n == "trades" else "f8") for n in CANDLE_SCHEMA})
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_file_with_a_matching_manifest_is_refused(folder, data_dir, forgery):
    """Even if all hashes agree, rows, columns, types, times and values are checked."""
    frame = open_snapshot(data_dir, "latest").candles("BTCUSDT")
    forge(folder, forgery(frame))
    snapshot = open_snapshot(data_dir, "latest")

    with pytest.raises(InputError, match=r"BTCUSDT\.parquet"):
        snapshot.candles("BTCUSDT")
    assert len(verify_snapshot(snapshot)) == 1


@pytest.mark.parametrize("rows", [200_000_000, 1_500, 0, -1])
def test_a_manifest_that_promises_impossible_rows_does_not_open(folder, data_dir, rows):
    """A window of a day has 1,440 minutes: no memory is allocated for more."""
    frame = open_snapshot(data_dir, "latest").candles("BTCUSDT")
    forge(folder, frame_bytes(frame), rows=rows)

    with pytest.raises(InputError, match="rows"):
        open_snapshot(data_dir, "latest")


@pytest.mark.parametrize(
    ("key", "lie"),
    [
        ("zero_trade_rows", 77),
        ("content_sha256", "ab" * 32),
        ("gaps", [["2025-10-15T01:00:00Z", "2025-10-15T01:00:00Z", 1]]),
    ],
)
def test_wrong_facts_about_an_intact_file_are_found(folder, data_dir, key, lie):
    """`verify` computes the facts again and names the differences."""
    frame = open_snapshot(data_dir, "latest").candles("BTCUSDT")
    if key == "gaps":
        kept = frame.filter(pl.col("ts").dt.timestamp("ms") != CLOCK_MS - 90 * MINUTE_MS)
        data, rows = frame_bytes(kept), kept.height
        missing = {"rows": rows, "content_sha256": content_sha256(kept)}
    else:
        data, missing = frame_bytes(frame), {}
    forge(folder, data, **{**missing, key: lie})

    problems = verify_snapshot(open_snapshot(data_dir, "latest"))
    assert len(problems) >= 1
    assert any(f"{key} is" in problem for problem in problems)


def test_an_intact_snapshot_has_no_problem(sound):
    """Also after it has been read."""
    before = {p: p.stat().st_mtime_ns for p in sound.rglob("*")}
    snapshot = open_snapshot(sound, "latest")

    assert verify_snapshot(snapshot) == ()
    assert [content_sha256(snapshot.candles(f.symbol)) for f in snapshot.facts] == [
        f.content_sha256 for f in snapshot.facts
    ]
    assert {p: p.stat().st_mtime_ns for p in sound.rglob("*")} == before


def test_a_manifest_of_a_later_format_is_named_as_such(folder, data_dir):
    """The message does not call it damaged."""
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"format": 1', b'"format": 2'))

    with pytest.raises(MltrainError, match="newer mltrain"):
        open_snapshot(data_dir, "latest")
