"""Laws of the day cache: every file is verified before use, and no day is downloaded twice."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError, MachineError
from mltrain.progress import Silent
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot import verify_snapshot
from mltrain.sources.cache_upkeep import CacheRow, Pruned, list_cache, prune_cache
from mltrain.sources.day_cache import CachedDay, SymbolDays, lock_cache
from mltrain.sources.klines import OddRows, add_odd
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.symbol_download import SymbolDownload
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS, INTERVALS_MS, MINUTE_MS, WEEK_MS, TimeRange, parse_time
from support import disk_faults
from support.downloads import TODAY_MS, download, requested_minutes, requested_pages
from support.program import call

DAY = TODAY_MS - DAY_MS
NAME = "2025-10-14"
HOST = "binance@127.0.0.1_9"


def fresh(day_ms=DAY, until_ms=None, *, symbol="BTCUSDT", interval="1m", seed=0, keep=slice(None), **metadata):
    """Return the candles of a day as a download returns them."""
    until_ms = day_ms + DAY_MS if until_ms is None else until_ms
    frame = SimSource(seed=seed, interval=interval).candles(symbol, TimeRange(day_ms, until_ms))[keep]
    metadata = {"origin": "rest", "gaps_rechecked": False, "fetched_ms": CLOCK_MS + 345, **metadata}
    return CachedDay(day_ms=day_ms, until_ms=until_ms, **metadata), frame


def open_days(cache, source=HOST, symbol="BTCUSDT", interval="1m"):
    days = SymbolDays(cache, source, symbol, interval)
    days.open_for_writing()
    return days


@pytest.fixture
def days(tmp_path):
    """Return the empty cache of one symbol."""
    return open_days(tmp_path / "data" / "cache")


@pytest.fixture
def cached(days):
    """Return the cache of one symbol with one whole day."""
    days.write([fresh()])
    return days


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    """Return every path below a folder with its content."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "no file"
        for path in sorted(folder.rglob("*"))
    }


@given(
    interval=st.sampled_from(["1m", "5m", "1h", "12h", "1d"]),
    part=st.floats(0, 1),
    step=st.integers(1, 5),
    gaps_rechecked=st.booleans(),
    origin=st.sampled_from(["rest", f"archive {'ab' * 32}"]),
    fetched_ms=st.integers(0, CLOCK_MS),
)
@settings(max_examples=40)
def test_what_is_found_is_what_was_written(tmp_path_factory, interval, part, step, gaps_rechecked, origin, fetched_ms):
    """Whole days and parts of any length, with and without gaps, and the second of the download are read back."""
    step_ms = INTERVALS_MS[interval]
    until_ms = DAY + max(1, round(part * DAY_MS / step_ms)) * step_ms
    requested, frame = fresh(
        until_ms=until_ms,
        interval=interval,
        keep=slice(None, None, step),
        origin=origin,
        gaps_rechecked=gaps_rechecked,
        fetched_ms=fetched_ms,
    )
    days = open_days(tmp_path_factory.mktemp("cache"), interval=interval)
    (known,) = days.write([(requested, frame)])
    complete = frame.height == (until_ms - DAY) // step_ms

    assert days.find(DAY) == (known, "")
    assert days.read(known).equals(frame)
    assert (known.day_ms, known.until_ms, known.rows) == (DAY, until_ms, frame.height)
    assert (known.origin, known.gaps_rechecked) == (origin, gaps_rechecked or complete)
    assert known.fetched_ms == fetched_ms // 1000 * 1000
    assert known.is_whole == (until_ms == DAY + DAY_MS)
    assert names(days.folder) == [f"{known.name}.json", f"{known.name}.parquet"]


def test_a_day_without_candles_is_only_metadata(days):
    """It is known to be empty, and an earlier Parquet file of it is removed."""
    days.write([fresh()])
    (known,) = days.write([fresh(keep=slice(0, 0))])

    assert days.find(DAY) == (known, "")
    assert days.read(known).is_empty()
    assert dict(days.read(known).schema) == dict(CANDLE_SCHEMA)
    assert names(days.folder) == [f"{NAME}.json"]


def test_a_day_that_was_never_written_is_absent(cached):
    """It is absent, with no message about damage."""
    assert cached.find(DAY - DAY_MS) == (None, "")
    (cached.folder / f"{NAME}.json").unlink()
    assert cached.find(DAY) == (None, "")


def test_metadata_with_a_flipped_byte_is_not_trusted(cached):
    """This holds for each byte of the metadata."""
    metadata_path = cached.folder / f"{NAME}.json"
    good = metadata_path.read_bytes()

    for at in range(len(good)):
        metadata_path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        found, damage = cached.find(DAY)
        assert found is None, at
        assert str(metadata_path) in damage
    metadata_path.write_bytes(good)
    assert cached.find(DAY)[0] is not None


@pytest.mark.parametrize("ending", ["json", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "zero", "splice", "longer", "empty", "flip", "gone"])
def test_damaged_candles_or_metadata_count_as_absent(cached, ending, damage):
    """Any damage at twenty places makes the day absent, and the message names the path."""
    path = cached.folder / f"{NAME}.{ending}"
    good = path.read_bytes()
    rng = np.random.default_rng(7)

    for at, other in rng.integers(1, len(good), (20, 2)).tolist():
        bad = {
            "cut": good[:at],
            "zero": good[:at] + bytes(len(good[at : at + 64])) + good[at + 64 :],
            "splice": good[:at] + good[other:] if at != other else good[:-1],
            "longer": good + good[at:],
            "empty": b"",
            "flip": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
            "gone": None,
        }[damage]
        if bad is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(bad)
        found, message = cached.find(DAY)
        assert found is None or bad == good
        assert (path.name in message) == (damage != "gone" or ending == "parquet")


def put_special(path, thing, target):
    """Put something other than a cache file at a path."""
    match thing:
        case "link":
            path.symlink_to(target)
        case "dangling":
            path.symlink_to(f"{target}-not")
        case "loop":
            path.symlink_to(path.name)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "huge":
            path.touch()
            os.truncate(path, 10 << 30)


@pytest.mark.parametrize("ending", ["json", "parquet"])
@pytest.mark.parametrize("thing", ["link", "dangling", "loop", "fifo", "folder", "huge"])
def test_anything_but_a_regular_file_counts_as_absent(cached, tmp_path, ending, thing):
    """Links are not followed, even to valid files, and pipes and devices are not read."""
    path = cached.folder / f"{NAME}.{ending}"
    path.rename(tmp_path / "good")
    put_special(path, thing, tmp_path / "good")
    found, damage = cached.find(DAY)

    assert found is None
    assert str(path) in damage


@pytest.mark.parametrize("thing", ["link", "fifo", "huge"])
def test_a_day_replaces_anything_but_a_folder(cached, tmp_path, thing):
    """The path itself is replaced; the target of a link is not changed."""
    (tmp_path / "mine").write_bytes(b"mine")
    for ending in ("json", "parquet"):
        path = cached.folder / f"{NAME}.{ending}"
        path.unlink()
        put_special(path, thing, tmp_path / "mine")
    (known,) = cached.write([fresh()])

    assert cached.find(DAY) == (known, "")
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("name", [f"{NAME}.json", f"{NAME}.parquet", f"{NAME}.part.json"])
def test_a_folder_in_the_place_of_a_day_is_refused_first(days, name):
    """It is named before anything is downloaded, and stays."""
    (days.folder / name).mkdir()

    with pytest.raises(InputError, match=f"{name} is a folder") as err:
        days.open_for_writing()
    assert "move it away" in err.value.hint
    assert names(days.folder) == [name]


SWAPS = {
    "files of two days": [(f"{NAME}.parquet", "2025-10-13.parquet")],
    "metadata of two days": [(f"{NAME}.json", "2025-10-13.json")],
    "two days": [(f"{NAME}.parquet", "2025-10-13.parquet"), (f"{NAME}.json", "2025-10-13.json")],
    "candles and metadata": [(f"{NAME}.parquet", f"{NAME}.json")],
}


@pytest.mark.parametrize("swaps", SWAPS.values(), ids=SWAPS)
def test_files_that_changed_places_are_absent(cached, swaps):
    """Each file is valid, but under the name of another day, so both days are absent."""
    cached.write([fresh(DAY - DAY_MS)])
    for one, other in swaps:
        (cached.folder / one).rename(cached.folder / "x")
        (cached.folder / other).rename(cached.folder / one)
        (cached.folder / "x").rename(cached.folder / other)

    assert cached.find(DAY)[0] is None
    assert cached.find(DAY - DAY_MS)[0] is None or swaps == SWAPS["candles and metadata"]


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": "ETHUSDT"},
        {"interval": "5m"},
        {"source": "binance@127.0.0.1_10"},
        {"source": "archive@127.0.0.1_9"},
    ],
)
def test_the_day_of_another_symbol_interval_or_host_is_absent(cached, other):
    """File and metadata copied to the place of another symbol, interval or host: the metadata says whose they are."""
    other_days = open_days(cached.folder.parents[2], **other)
    for ending in ("json", "parquet"):
        shutil.copy(cached.folder / f"{NAME}.{ending}", other_days.folder)
    found, damage = other_days.find(DAY)

    assert found is None
    assert "is not metadata of" in damage


def test_a_part_is_not_a_whole_day_under_its_name(days):
    """A part renamed to a whole day is absent, and so is a whole day renamed to a part."""
    days.write([fresh(until_ms=DAY + DAY_MS // 2)])
    for ending in ("json", "parquet"):
        (days.folder / f"{NAME}.part.{ending}").rename(days.folder / f"{NAME}.{ending}")

    assert days.find(DAY) == (None, f"{days.folder / NAME}.json: is the metadata of {NAME}.part")


def seal(fields):
    """Return the bytes of metadata with a correct hash of themselves."""
    rest = {key: value for key, value in fields.items() if key != "self_sha256"}
    return canonical_json({**rest, "self_sha256": sha256_bytes(canonical_json(rest))})


FORGED = {
    "until beyond the day": {"until": "2025-10-15T00:01:00Z"},
    "until years later": {"until": "9999-12-31T00:00:00Z"},
    "until at its beginning": {"until": "2025-10-14T00:00:00Z"},
    "until before": {"until": "2025-10-13T12:00:00Z"},
    "until off the grid": {"until": "2025-10-14T12:00:30Z"},
    "until no time": {"until": "noon"},
    "not at midnight": {"day": "2025-10-14T01:00:00Z"},
    "another day": {"day": "2025-10-13"},
    "31st of February": {"day": "2025-02-31"},
    "more rows than minutes": {"rows": 1441},
    "fewer than none": {"rows": -1},
    "rows as text": {"rows": "1440"},
    "rows as flag": {"rows": True},
    "rows as number": {"rows": 1440.0},
    "huge rows": {"rows": 2**63 - 1},
    "no rows but a file": {"rows": 0},
    "no hash": {"sha256": ""},
    "upper-case hash": {"sha256": "AB" * 32},
    "no content hash": {"content_sha256": None},
    "origin": {"origin": "hearsay"},
    "requested": {"holes_asked": 1},
    "fetched": {"fetched_at": "yesterday"},
    "a list": {"sha256": ["ab"]},
    "unknown key": {"more": 1},
    "another symbol": {"of": f"{HOST}/ETHUSDT/1m"},
    "a way out": {"of": "../../etc"},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_impossible_metadata_is_absent(cached, change):
    """Impossible values make a day absent, also with a correct hash."""
    path = cached.folder / f"{NAME}.json"
    path.write_bytes(seal({**json.loads(path.read_bytes()), **change}))
    found, damage = cached.find(DAY)

    assert found is None
    assert str(path) in damage


def mangled(fields):
    text = json.dumps(fields, indent=1, sort_keys=True).encode()
    return {
        "NaN": text.replace(b'"rows": 1440', b'"rows": NaN'),
        "infinity": text.replace(b'"rows": 1440', b'"rows": 1e999'),
        "5,000 digits": text.replace(b"1440", b"9" * 3000),
        "twice": text.replace(b'"rows": 1440', b'"rows": 1440,\n "rows": 1440'),
        "key gone": text.replace(b' "rows": 1440,\n', b""),
        "deep": b"[" * 3000,
        "surrogate": text.replace(b'"rest"', b'"\\ud800"'),
        "byte order mark": b"\xef\xbb\xbf" + text,
        "not UTF-8": text.replace(b"rest", b"r\xffst"),
        "5 kB": text + b" " * 5000,
        "a list": b"[]",
        "null": b"null",
        "other form": json.dumps(fields).encode(),
        "crlf": text.replace(b"\n", b"\r\n"),
    }


@pytest.mark.parametrize("kind", mangled({}))
def test_metadata_other_than_strict_json_is_absent(cached, kind):
    """Metadata that is not strict JSON makes a day absent."""
    path = cached.folder / f"{NAME}.json"
    good = path.read_bytes()
    bad = mangled(json.loads(good))[kind]
    assert bad != good
    path.write_bytes(bad)
    found, damage = cached.find(DAY)

    assert found is None
    assert str(path) in damage


def test_a_forged_day_whose_hashes_agree_is_refused_when_it_is_read(cached):
    """A false number of rows, or bytes that are no candles, are refused with the name of the file."""
    metadata_path, file = cached.folder / f"{NAME}.json", cached.folder / f"{NAME}.parquet"
    metadata = json.loads(metadata_path.read_bytes())

    for change, data in (
        ({"rows": metadata["rows"] - 1}, file.read_bytes()),
        ({"sha256": sha256_bytes(b"PAR1 hello PAR1")}, b"PAR1 hello PAR1"),
    ):
        file.write_bytes(data)
        metadata_path.write_bytes(seal({**metadata, **change}))
        found, damage = cached.find(DAY)
        assert found is not None, damage
        with pytest.raises(InputError, match=r"2025-10-14\.parquet"):
            cached.read(found)


def test_a_day_that_changes_after_it_was_found_is_refused(cached):
    """Reading returns the content that was found, or fails."""
    found, _ = cached.find(DAY)
    cached.write([fresh(seed=1)])

    with pytest.raises(InputError, match="is not what was downloaded"):
        cached.read(found)


def test_marking_a_day_changes_only_the_mark(days):
    """The Parquet file is not touched."""
    (known,) = days.write([fresh(keep=slice(5, None))])
    file = days.folder / f"{NAME}.parquet"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    marked = days.mark_rechecked([known])

    assert not known.gaps_rechecked
    assert marked == (replace(known, gaps_rechecked=True),)
    assert days.find(DAY) == (marked[0], "")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_whole_day_takes_the_place_of_its_part(days):
    """The part is removed; a part next to a damaged whole day is used, and the damage is reported."""
    (part,) = days.write([fresh(until_ms=DAY + DAY_MS // 2)])
    kept = {name: (days.folder / name).read_bytes() for name in names(days.folder)}
    days.write([fresh()])

    assert names(days.folder) == [f"{NAME}.json", f"{NAME}.parquet"]
    for name, data in kept.items():
        (days.folder / name).write_bytes(data)
    assert days.find(DAY)[0].is_whole
    (days.folder / f"{NAME}.parquet").write_bytes(b"")
    assert days.find(DAY) == (part, f"{days.folder / NAME}.parquet: is not what was downloaded")


@pytest.mark.parametrize(
    ("source", "symbol"), [("../x", "BTCUSDT"), ("binance", "../x"), ("Binance", "BTCUSDT"), ("binance", "btc")]
)
def test_no_name_leads_out_of_the_cache(tmp_path, source, symbol):
    """A name outside the grammar is a programming error, and makes no folder."""
    with pytest.raises(ValueError, match="do not name a folder of the cache"):
        SymbolDays(tmp_path, source, symbol, "1m")
    assert names(tmp_path) == []


FOREIGN = (
    "notes.txt",
    "2025-10-14.csv",
    "2025-02-31.parquet",
    "x2025-10-14.json",
    "2025-10-14.part.json.bak",
    ".hidden",
)


def add_foreign(cache):
    """Put foreign files at every level of the cache; return the paths that exist then."""
    folder = cache / HOST / "BTCUSDT" / "1m"
    for name in FOREIGN:
        (folder / name).write_bytes(b"mine")
    (folder / "sub").mkdir()
    (folder / "2025-10-01.parquet").symlink_to("notes.txt")
    for foreign in ("UPPER/BTCUSDT/1m", f"{HOST}/btc/1m", f"{HOST}/BTCUSDT/7m"):
        (cache / foreign).mkdir(parents=True)
        (cache / foreign / "2025-10-14.parquet").write_bytes(b"mine")
    (cache / "linked").symlink_to(cache / HOST)
    (cache / "file").write_bytes(b"mine")
    return {path: what for path, what in contents(cache).items() if what != "no file"}


def test_the_list_shows_what_is_cached(tmp_path, cached):
    """Per source, symbol and interval: whole days, their range, all bytes; foreign files are ignored."""
    cached.write([fresh(DAY - 3 * DAY_MS), fresh(TODAY_MS, CLOCK_MS)])
    open_days(tmp_path / "data" / "cache", "archive", "ETHUSDT", "1h").write([fresh(symbol="ETHUSDT", interval="1h")])
    open_days(tmp_path / "data" / "cache", "archive", "SOLUSDT", "1h")
    sizes = {f: sum(p.stat().st_size for p in (tmp_path / "data" / "cache" / f).iterdir()) for f in
             (f"{HOST}/BTCUSDT/1m", "archive/ETHUSDT/1h")}  # fmt: skip
    add_foreign(tmp_path / "data" / "cache")

    assert list_cache(tmp_path / "data") == (
        CacheRow("archive", "ETHUSDT", "1h", 1, NAME, NAME, sizes["archive/ETHUSDT/1h"]),
        CacheRow(HOST, "BTCUSDT", "1m", 2, "2025-10-11", NAME, sizes[f"{HOST}/BTCUSDT/1m"]),
    )
    assert list_cache(tmp_path / "elsewhere") == ()


@pytest.mark.parametrize("before_ms", [None, DAY, DAY - DAY_MS, 0])
def test_pruning_removes_just_the_days_before(tmp_path, days, before_ms):
    """It removes days, parts and leftover temporary files, and no foreign file."""
    all_days = [DAY - 2 * DAY_MS, DAY - DAY_MS, DAY]
    days.write([fresh(day) for day in all_days])
    days.write([fresh(TODAY_MS, CLOCK_MS)])
    cache = tmp_path / "data" / "cache"
    ours = contents(cache)
    foreign = {path: what for path, what in add_foreign(cache).items() if path not in ours}
    (days.folder / ".2025-10-14.parquet.ab12.tmp").write_bytes(b"half")
    gone = [day for day in (*all_days, TODAY_MS) if before_ms is None or day < before_ms]
    of_gone = {path for path in ours for day in gone if stamp(day) in path}
    size = sum(len(ours[path]) for path in of_gone)

    def is_removable(symbol, interval, of_file):
        assert (symbol, interval) in {("BTCUSDT", "1m"), ("ETHUSDT", "1m")}
        assert of_file.end_ms - of_file.start_ms == DAY_MS
        return before_ms is None or of_file.start_ms < before_ms

    everything = {path: data for path, data in contents(cache).items() if not path.endswith(".tmp")}
    assert prune_cache(tmp_path / "data", is_removable, dry_run=True) == Pruned(len(gone), size)
    assert {path: data for path, data in contents(cache).items() if path != ".lock"} == everything
    assert prune_cache(tmp_path / "data", is_removable) == Pruned(len(gone), size)
    for day in (*all_days, TODAY_MS):
        assert (days.find(day)[0] is None) == (day in gone)
    after = contents(cache)
    assert foreign.items() <= after.items()
    assert not [path for path in after if path.endswith(".tmp")]


def any_day(_symbol, _interval, _of_file):
    return True


def stamp(day_ms):
    return str(np.datetime64(day_ms, "ms"))[:10]


def test_pruning_an_absent_cache_writes_nothing(tmp_path):
    """It makes no folder and no lock."""
    assert prune_cache(tmp_path / "data", any_day) == Pruned(0, 0)
    assert names(tmp_path) == []


def test_the_holder_of_the_cache_lock_sweeps_it(tmp_path, cached):
    """The next run removes the temporary files that a killed one left."""
    cache = tmp_path / "data" / "cache"
    for folder in (cache, cached.folder):
        (folder / ".write-test.ab12.tmp").touch()
    with lock_cache(tmp_path / "data", "a test"):
        cached.open_for_writing()

    assert not list(cache.rglob(".*.tmp"))
    assert cached.find(DAY)[0] is not None


def test_while_one_downloads_others_are_refused(tmp_path):
    """A snapshot and a prune give exit 7 with pid and purpose; nothing is requested or removed."""
    data_dir = tmp_path / "data"
    with SimServer() as server, lock_cache(data_dir, "downloading from a test"), ThreadPoolExecutor() as threads:
        before = contents(data_dir / "cache")
        runs = [
            threads.submit(call, "snapshot", "--base-url", server.base_url, "--days", "1", data_dir=data_dir),
            threads.submit(call, "cache", "prune", "--all", data_dir=data_dir),
        ]
        for run in runs:
            assert run.result().code == 7
            assert f"pid {os.getpid()} on " in run.result().err
            assert "downloading from a test" in run.result().err
        assert contents(data_dir / "cache") == before
        assert requested_pages(server.log) == []


def test_two_downloads_at_once_share_the_cache(tmp_path):
    """The second one waits for the first and then finds everything in the cache."""
    with SimServer() as server:
        taken = {}
        threads = [
            threading.Thread(target=lambda i=i: taken.update({i: download(server, tmp_path / "data")})) for i in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        requested = requested_pages(server.log)

    assert len(requested) == len(set(requested))
    assert sorted(t.created for t in taken.values()) == [False, True]


@pytest.fixture
def server():
    """Return an exchange whose clock the test may set."""
    with SimServer(seed=2) as running:
        yield running


def test_a_second_snapshot_requests_no_candle(server, tmp_path):
    """All days are whole or reach as far as requested."""
    first = download(server, tmp_path / "data", ("BTCUSDT", "ETHUSDT"))
    seen = len(server.log)
    again = download(server, tmp_path / "data", ("BTCUSDT", "ETHUSDT"))
    shorter = download(server, tmp_path / "data", ("ETHUSDT",), days=1)

    assert not [record for record in server.log[seen:] if record.path.endswith("/klines")]
    assert not again.created
    assert again.snapshot == first.snapshot
    assert [t.days_cached for t in again.traffic.symbols] == [3, 3]
    assert verify_snapshot(shorter.snapshot) == ()


def test_a_snapshot_from_the_cache_is_the_same_candles(server, tmp_path):
    """Taken at four cuts or at once: the content hash is that of the exchange's candles."""
    for hours in (30, 20, 7, 3):
        download(server, tmp_path / "pieces", days=1, end_ms=CLOCK_MS - hours * 60 * MINUTE_MS)
    pieced = download(server, tmp_path / "pieces").snapshot
    whole = download(server, tmp_path / "whole").snapshot
    truth = SimSource(seed=2).candles("BTCUSDT", TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS))

    assert pieced.candles("BTCUSDT").equals(truth)
    assert [f.sha256 for f in pieced.facts] == [f.sha256 for f in whole.facts]


def damage(folder, how):
    """Damage the cached files of the 14th."""
    file, metadata_path = folder / f"{NAME}.parquet", folder / f"{NAME}.json"
    match how:
        case "flipped":
            data = file.read_bytes()
            file.write_bytes(data[:9000] + bytes([data[9000] ^ 4]) + data[9001:])
        case "cut":
            os.truncate(file, 20_000)
        case "gone":
            file.unlink()
        case "metadata":
            metadata_path.write_bytes(metadata_path.read_bytes().replace(b'"rows": 14', b'"rows": 13'))
        case "another day's":
            shutil.copy(folder / "2025-10-13.parquet", file)
        case "another symbol's":
            for path in (file, metadata_path):
                shutil.copy(folder.parents[1] / "ETHUSDT" / "1m" / path.name, path)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "metadata", "another day's", "another symbol's"])
def test_a_damaged_day_is_reported_and_downloaded_again(server, tmp_path, how):
    """Only that day is downloaded; the snapshot equals an undisturbed one."""
    first = download(server, tmp_path / "data", ("BTCUSDT", "ETHUSDT")).snapshot
    folder = next((tmp_path / "data" / "cache").glob("*/BTCUSDT/1m"))
    damage(folder, how)
    seen, progress = len(server.log), Silent()
    again = download(server, tmp_path / "data", ("BTCUSDT", "ETHUSDT"), progress=progress)

    assert set(requested_minutes(server.log[seen:], "BTCUSDT")) == set(range(DAY, DAY + DAY_MS, MINUTE_MS))
    assert requested_minutes(server.log[seen:], "ETHUSDT") == []
    assert [w for w in progress.warnings if NAME in w and w.endswith("downloaded again")]
    assert again.snapshot == first
    assert open_days(folder.parents[2], folder.parts[-3]).find(DAY)[1] == ""


def test_the_present_day_is_extended_by_what_is_missing(server, tmp_path):
    """Each minute is requested once, however often a snapshot is taken; after midnight the day is whole."""
    folder = tmp_path / "data" / "cache"
    clocks = [CLOCK_MS, CLOCK_MS + 7 * MINUTE_MS + 12_345, CLOCK_MS + 11 * 60 * MINUTE_MS, TODAY_MS + DAY_MS + 5]
    for clock_ms in clocks:
        server.set_clock(clock_ms)
        taken = download(server, tmp_path / "data", days=1)
        assert taken.snapshot.cut_ms == clock_ms // MINUTE_MS * MINUTE_MS
        parts = [path.name for path in folder.rglob("*.part.*")]
        assert sorted(parts) == ["2025-10-15.part.json", "2025-10-15.part.parquet"] * (clock_ms < TODAY_MS + DAY_MS)

    requested = requested_minutes(server.log, "BTCUSDT")
    assert requested == list(range(TODAY_MS - DAY_MS, TODAY_MS + DAY_MS, MINUTE_MS))
    window = TimeRange(TODAY_MS, TODAY_MS + DAY_MS)
    assert taken.snapshot.candles("BTCUSDT").equals(SimSource(seed=2, end_ms=clocks[-1]).candles("BTCUSDT", window))


def test_an_earlier_cut_is_served_from_a_longer_part(server, tmp_path):
    """No candle after the cut is in it, and none is requested."""
    download(server, tmp_path / "data", days=1)
    seen = len(server.log)
    taken = download(server, tmp_path / "data", days=1, end_ms=CLOCK_MS - 90 * MINUTE_MS)
    part = next((tmp_path / "data" / "cache").rglob("*.part.json"))

    assert requested_minutes(server.log[seen:], "BTCUSDT") == []
    assert times_ms(taken.snapshot.candles("BTCUSDT"))[-1] == CLOCK_MS - 91 * MINUTE_MS
    assert json.loads(part.read_bytes())["until"] == "2025-10-15T12:00:00Z"


def test_a_part_of_an_earlier_cut_is_extended_when_its_day_is_over(server, tmp_path):
    """A day that was cut by `--end` on that day is completed, not fetched again."""
    download(server, tmp_path / "data", days=1, end_ms=CLOCK_MS - 60 * MINUTE_MS)
    server.set_clock(CLOCK_MS + 2 * DAY_MS)
    download(server, tmp_path / "data", days=1, end_ms=CLOCK_MS - 30 * MINUTE_MS)
    requested = requested_minutes(server.log, "BTCUSDT")

    assert requested == list(range(TODAY_MS - DAY_MS, TODAY_MS + DAY_MS, MINUTE_MS))
    assert not list((tmp_path / "data" / "cache").rglob("*.part.*"))


def test_a_damaged_part_is_downloaded_again_from_its_midnight(server, tmp_path):
    """Its candles are not joined to new ones."""
    download(server, tmp_path / "data", days=1)
    part = next((tmp_path / "data" / "cache").rglob("*.part.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    server.set_clock(CLOCK_MS + 10 * MINUTE_MS)
    seen, progress = len(server.log), Silent()
    taken = download(server, tmp_path / "data", days=1, progress=progress)

    assert min(requested_minutes(server.log[seen:], "BTCUSDT")) == TODAY_MS
    assert "2025-10-15.part.parquet: is not what was downloaded: downloaded again" in progress.warnings[0]
    assert verify_snapshot(taken.snapshot) == ()


def test_a_refresh_requests_all_and_changes_nothing(server, tmp_path):
    """All days are requested again, and equal candles make the same snapshot."""
    first = download(server, tmp_path / "data")
    before = contents(tmp_path / "data" / "cache")
    seen, progress = len(server.log), Silent()
    again = download(server, tmp_path / "data", refresh=True, progress=progress)

    assert set(requested_minutes(server.log[seen:], "BTCUSDT")) == set(
        range(TODAY_MS - 2 * DAY_MS, CLOCK_MS, MINUTE_MS)
    )
    assert contents(tmp_path / "data" / "cache") == before
    assert again.snapshot == first.snapshot
    assert progress.warnings == list(first.snapshot.notes)


def test_the_cache_of_another_host_is_not_shared(tmp_path):
    """Another port on this machine is another exchange with other candles."""
    with SimServer(seed=2) as one, SimServer(seed=3) as other:
        first = download(one, tmp_path / "data").snapshot
        second = download(other, tmp_path / "data").snapshot
        requested = [requested_minutes(s.log, "BTCUSDT") for s in (one, other)]

    assert requested[0] == requested[1]
    assert second.id == f"{first.id}.2"
    assert not first.candles("BTCUSDT").equals(second.candles("BTCUSDT"))
    assert len({row.source for row in list_cache(tmp_path / "data")}) == 2


def hourly(day_ms, length_ms, seed=1):
    """Return the first hours of a day."""
    frame = SimSource(seed=seed, interval="1h").candles("BTCUSDT", TimeRange(day_ms, day_ms + length_ms))
    return CachedDay(day_ms, day_ms + length_ms, "rest", gaps_rechecked=False, fetched_ms=day_ms), frame


def write_days(folder):
    """Replace a whole day, complete a part, and extend another."""
    with lock_cache(folder, "a test") as cache:
        days = SymbolDays(cache, "sim", "BTCUSDT", "1h")
        days.open_for_writing()
        days.write([hourly(DAY - 2 * DAY_MS, DAY_MS), hourly(DAY - DAY_MS, DAY_MS)])
        days.write([hourly(DAY, DAY_MS // 2)])


PROGRAM = f"""
import sys
from pathlib import Path
from mltrain.sources.day_cache import CachedDay, SymbolDays, lock_cache
from mltrain.sources.simulated_market import SimSource
from mltrain.times import TimeRange

DAY, DAY_MS = {DAY}, {DAY_MS}
{inspect.getsource(hourly)}
{inspect.getsource(write_days)}
write_days(Path(sys.argv[1]))
"""


def write_old(folder):
    """Write the state before: a whole day of other candles, and two parts on the following days."""
    days = open_days(folder / "cache", "sim", interval="1h")
    days.write([hourly(DAY - 2 * DAY_MS, DAY_MS, 9), hourly(DAY - DAY_MS, DAY_MS // 2), hourly(DAY, DAY_MS // 4)])
    (folder / "cache" / ".lock").touch()


def check_states(folder):
    """Each day is as before, as after, or absent; return how many are as after."""
    days = SymbolDays(folder / "cache", "sim", "BTCUSDT", "1h")
    old = [(9, DAY_MS), (1, DAY_MS // 2), (1, DAY_MS // 4)]
    new = [(1, DAY_MS), (1, DAY_MS), (1, DAY_MS // 2)]
    done = 0
    for day_ms, before, after in zip((DAY - 2 * DAY_MS, DAY - DAY_MS, DAY), old, new, strict=True):
        found, _ = days.find(day_ms)
        if found is None:
            continue
        is_state = [days.read(found).equals(hourly(day_ms, length, seed)[1]) for seed, length in (before, after)]
        assert any(is_state), (day_ms, found)
        done += is_state[1]
    return done


@pytest.mark.parametrize("fault", ["KILL", "ENOSPC", "EIO"])
def test_a_fault_at_any_operation_leaves_each_day_old_new_or_absent(fault):
    """Killed, out of space or failing at each write in turn: no day is mixed, and the next run completes."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        write_old(memory / "clean")
        _, operations = disk_faults.run(PROGRAM, memory / "clean")
        assert check_states(memory / "clean") == 3
        stride = int(os.environ.get("MLTRAIN_TEST_STRIDE", "6"))
        chosen = operations[{"KILL": 0, "ENOSPC": 2, "EIO": 4}[fault] % stride :: stride]

        for index, operation in enumerate(chosen):
            folder = memory / f"{index:05d}"
            write_old(folder)
            done = disk_faults.run_failing(PROGRAM, folder, operation, fault)
            assert (done.returncode == 0) <= (check_states(folder) == 3)
            if fault != "KILL":
                assert done.returncode == 0 or "MachineError: cannot " in done.stderr, done.stderr
                # Only a temporary file that could not be removed may stay.
                assert operation.call == "unlink" or not list(folder.rglob(".*.tmp"))
                assert (fault == "ENOSPC" and done.returncode != 0) <= ("bytes free" in done.stderr)

            write_days(folder)
            assert check_states(folder) == 3
            assert not list(folder.rglob(".*.tmp"))
            assert not list(folder.rglob("2025-10-13.part.*"))
    assert len(operations) > 25


def test_every_day_is_synced_before_its_metadata(tmp_path):
    """Files are synced before the rename, the folder after a batch, so no name lacks its bytes after a power cut."""
    disk_faults.need_strace()
    write_old(tmp_path / "clean")
    done, operations = disk_faults.run(PROGRAM, tmp_path / "clean")

    assert done.returncode == 0, done.stderr
    assert sum(operation.call.startswith("rename") for operation in operations) == 6
    assert disk_faults.unsynced_renames(operations) == []


def test_the_cache_can_be_pruned_on_a_full_disk(tmp_path):
    """The text of the lock cannot be written then, and is not needed."""
    disk_faults.need_strace()
    folder = tmp_path / "data"
    write_old(folder)
    program = (
        "import sys; from pathlib import Path; from mltrain.sources.cache_upkeep import prune_cache\n"
        "print(prune_cache(Path(sys.argv[1]), lambda *_: True).days)"
    )
    done, operations = disk_faults.run(program, folder, "-e", "inject=pwrite64:error=ENOSPC")

    assert any("(INJECTED)" in operation.arguments for operation in operations)
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert list_cache(folder) == ()


def test_a_cache_that_cannot_be_written_is_refused_first(tmp_path):
    """A file in its place gives exit 8 before any request."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cache").write_text("a file")
    with SimServer() as server:
        with pytest.raises(MachineError, match=r"cannot make the folder .*cache"):
            download(server, tmp_path / "data")
        requested = requested_pages(server.log)

    assert requested == []


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path):
    """Its target is not written."""
    (tmp_path / "data" / "cache").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "data" / "cache" / ".lock").symlink_to(tmp_path / "mine")

    for attempt in (lambda: prune_cache(tmp_path / "data", any_day), lambda: hold(tmp_path / "data")):
        with pytest.raises(InputError, match="not a regular file"):
            attempt()
    assert (tmp_path / "mine").read_text() == "mine"


def hold(data_dir):
    with lock_cache(data_dir, "a test"):
        pytest.fail("it was held")


@pytest.mark.parametrize(("interval", "days", "candles"), [("3d", 30, 10), ("1w", 70, 10), ("1d", 10, 10)])
def test_long_candles_are_downloaded_once(tmp_path, interval, days, candles):
    """Candles as long as a day or longer are those of the market, and a second snapshot requests none."""
    with SimServer(seed=3) as server:
        words = ["snapshot", "--source", "binance", "--base-url", server.base_url, "--interval", interval]
        words += ["--symbols", "BTCUSDT", "--days", days]
        first = call(*words, data_dir=tmp_path)
        requested = len(server.log)
        second = call(*words, "--refresh", data_dir=tmp_path)
        refreshed = len(server.log)
        third = call(*words, data_dir=tmp_path)
    frame = pl.read_parquet(tmp_path / "snapshots" / "latest" / "BTCUSDT.parquet")
    source = SimSource(seed=3, interval=interval)

    assert (first.code, second.code, third.code) == (0, 0, 0), (first.err, second.err, third.err)
    assert frame.height == candles
    assert frame.equals(source.candles("BTCUSDT", source.extent("BTCUSDT")).tail(candles))
    assert len([record for record in server.log[requested:refreshed] if record.path.endswith("/klines")]) > 0
    assert [record for record in server.log[refreshed:] if record.path.endswith("/klines")] == []


def long_words(server, interval, days, *more):
    words = ["snapshot", "--source", "binance", "--base-url", server.base_url, "--interval", interval]
    return [*words, "--symbols", "BTCUSDT", "--days", days, *more]


@pytest.mark.parametrize(
    ("interval", "days", "files"),
    [
        ("1h", 90, ["2025-07-11_30d", "2025-08-10_30d", "2025-09-09_30d", "2025-10-09_30d.part"]),
        ("1d", 1000, ["2021-04-03_720d", "2023-03-24_720d", "2025-03-13_720d.part"]),
        ("1w", 3000, ["2011-05-30_5040d", "2025-03-17_5040d.part"]),
    ],
)
def test_candles_of_an_hour_or_longer_take_few_files(tmp_path, interval, days, files):
    """A file has 720 of them; the one that is not over is completed later, without what is there."""
    with SimServer(seed=3) as server:
        done = call(*long_words(server, interval, days, "--end", "2025-10-12"), data_dir=tmp_path)
        assert done.code == 0, done.err
        seen = len(server.log)
        later = call(*long_words(server, interval, days), data_dir=tmp_path)
        added = [end - start for _, start, end in requested_pages(server.log[seen:])]
    folder = next((tmp_path / "cache").glob(f"*/BTCUSDT/{interval}"))

    assert later.code == 0, later.err
    assert 0 < sum(added) <= (WEEK_MS if interval == "1w" else 4 * DAY_MS)
    assert sorted(names(folder)) == sorted(f"{name}.{end}" for name in files for end in ("json", "parquet"))
    source = SimSource(seed=3, interval=interval)
    taken = pl.read_parquet(tmp_path / "snapshots" / "latest" / "BTCUSDT.parquet")
    assert taken.equals(source.candles("BTCUSDT", source.extent("BTCUSDT")).tail(taken.height))
    (row,) = list_cache(tmp_path)
    assert (row.days, row.first) == (sum(int(f[11:-1]) for f in files if f.endswith("d")), files[0][:10])
    # A file of several days stays as long as its last day is wanted.
    kept = call("cache", "prune", "--before", files[-1][:10], "--dry-run", data_dir=tmp_path).out
    assert kept.startswith(f"{row.days} days would be removed")
    last_but_one = str(np.datetime64(files[-1][:10]) - 1)
    assert not call("cache", "prune", "--before", last_but_one, "--dry-run", data_dir=tmp_path).out.startswith(
        f"{row.days} days"
    )


def test_an_archive_keeps_each_day_of_long_candles(tmp_path):
    """Each day has a zip, whose hash the manifest names."""
    with SimServer(seed=3) as server:
        words = ["snapshot", "--source", "archive", "--base-url", server.base_url, "--archive-url", server.archive_url]
        done = call(*words, "--interval", "1h", "--symbols", "BTCUSDT", "--days", 3, data_dir=tmp_path)
    folder = next((tmp_path / "cache").glob("archive@*/BTCUSDT/1h"))

    assert done.code == 0, done.err
    assert {name[:10] for name in names(folder)} == {"2025-10-12", "2025-10-13", "2025-10-14", "2025-10-15"}
    assert not [name for name in names(folder) if "_" in name]


def test_days_of_an_earlier_version_are_downloaded_again(tmp_path):
    """It kept each day of 1h candles in a file; these are removed without a warning, and 1m days stay as they are."""
    with SimServer(seed=3) as server:
        cache = tmp_path / "cache"
        source = f"binance@{server.base_url.partition('://')[2].replace(':', '_')}"
        old = SymbolDays(cache, source, "BTCUSDT", "1h")
        old.open_for_writing()
        old.write([hourly(DAY - DAY_MS, DAY_MS, 3), hourly(DAY, DAY_MS // 2, 3)])
        before = names(old.folder)
        done = call(*long_words(server, "1h", 3), data_dir=tmp_path)

    assert len(before) == 4
    assert done.code == 0, done.err
    assert done.err.count("warning") == 0
    assert names(old.folder) == ["2025-10-09_30d.part.json", "2025-10-09_30d.part.parquet"]


def test_odd_rows_of_a_long_file_are_counted_once(tmp_path):
    """They lie in different days of it."""
    days = SymbolDays(tmp_path / "cache", "sim", "BTCUSDT", "1h", unit_days=30)
    days.open_for_writing()
    start_ms = parse_time("2025-09-09")
    download = SymbolDownload(days, TimeRange(start_ms, start_ms + 30 * DAY_MS), host="here", clock_ms=CLOCK_MS)
    download.plan(refresh=False)
    odd = defaultdict(OddRows)
    add_odd(odd, "BTCUSDT", OddRows({start_ms + 1, start_ms + 5 * DAY_MS + 1}, {start_ms + 29 * DAY_MS}))
    add_odd(odd, "BTCUSDT", OddRows({start_ms - 1, start_ms + 30 * DAY_MS}, set()))
    (pending,) = download.pending.values()
    pending.open_requests = 1
    candles = SimSource(seed=3, interval="1h").candles("BTCUSDT", pending.missing)

    download.add_rows(pending, candles, odd)
    download.write(download.finished)

    found, damage = days.find(start_ms)
    assert damage == ""
    assert (found.left_out, found.closed_early, found.days, found.rows) == (2, 1, 30, 720)


@pytest.mark.parametrize("kept_rows", [0, 30, 1000])
def test_days_in_memory_and_days_read_from_the_cache_are_the_same(tmp_path, kept_rows):
    """With room for no day, one of three or all of them."""
    days = SymbolDays(tmp_path / "cache", "sim", "BTCUSDT", "1h")
    window = TimeRange(DAY - 3 * DAY_MS, DAY)
    download = SymbolDownload(days, window, host="here", clock_ms=CLOCK_MS, kept_rows=kept_rows)
    download.plan(refresh=False)
    expected = SimSource(seed=3, interval="1h").candles("BTCUSDT", window)
    for pending in list(download.pending.values()):
        pending.open_requests = 1
        times = expected["ts"].dt.timestamp("ms")
        download.add_rows(pending, expected.filter(times.is_between(pending.day_ms, pending.until_ms - 1)), {})
    download.write(download.finished)
    download.finished.clear()

    assert len(download._kept) == min(kept_rows // 24, 3)
    assert download.read_candles().frame.equals(expected)
