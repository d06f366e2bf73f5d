"""A damaged snapshot is rebuilt byte for byte, or the reason why not is given."""

from __future__ import annotations

import os
import shutil

import pytest

from mltrain.candles import candle_file
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange, format_ms
from support.downloads import download, requested_pages, spec_of
from support.program import call

SYMBOLS = ("BTCUSDT", "ETHUSDT")
YESTERDAY_MS = CLOCK_MS // DAY_MS * DAY_MS - DAY_MS


@pytest.fixture
def served(tmp_path):
    """Return a server, a data folder with a snapshot of it, the snapshot's folder, and the bytes of its files."""
    with SimServer() as server:
        folder = download(server, tmp_path / "data", SYMBOLS, days=3).snapshot.path
        yield server, tmp_path / "data", folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def rebuild(server, data_dir):
    snapshot = open_snapshot(data_dir, "latest")
    return rebuild_snapshot(snapshot, open_source(spec_of(server)), data_dir=data_dir, progress=Silent())


def damage(path, at=50_000):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("harm", [damage, remove, cut])
@pytest.mark.parametrize("cached", [True, False], ids=["from the cache", "from the exchange"])
def test_a_damaged_file_is_rebuilt_byte_for_byte(served, harm, cached):
    """Without a request for candles if they are cached; intact files are not touched."""
    server, data_dir, folder, files = served
    harm(folder / "BTCUSDT.parquet")
    if not cached:
        shutil.rmtree(data_dir / "cache")
    before, untouched = len(server.log), (folder / "ETHUSDT.parquet").stat().st_ino
    outcomes = {f.file: f.outcome for f in rebuild(server, data_dir)}

    assert outcomes == {"BTCUSDT.parquet": "rebuilt", "ETHUSDT.parquet": "sound"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert (folder / "ETHUSDT.parquet").stat().st_ino == untouched
    assert bool(requested_pages(server.log[before:])) != cached
    assert verify_snapshot(open_snapshot(data_dir, "latest")) == ()


@pytest.mark.parametrize("name", ["files", "sim"])
def test_every_source_can_rebuild(tmp_path, name):
    """Also a folder of files and the simulated exchange."""
    market = SimSource(signal="weak")
    candles = market.candles("BTCUSDT", TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS))
    (tmp_path / "mine").mkdir()
    candles.write_parquet(tmp_path / "mine" / "BTCUSDT.parquet")
    spec = SourceSpec(name, folder=tmp_path / "mine") if name == "files" else SourceSpec(name, signal="weak")
    taken = take_snapshot(
        tmp_path / "data", open_source(spec), spec, SnapshotRequest(("BTCUSDT",), 2), now_ms=CLOCK_MS, progress=Silent()
    )
    damage(taken.snapshot.path / "BTCUSDT.parquet")
    (done,) = rebuild_snapshot(taken.snapshot, open_source(spec), data_dir=tmp_path / "data", progress=Silent())

    assert done.outcome == "rebuilt"
    assert verify_snapshot(taken.snapshot) == ()


def test_a_restated_candle_is_named_by_its_day(tmp_path):
    """If the source has other candles now, the day is named and nothing is written."""
    restated = Fault("restate", endpoint="klines", at_ms=YESTERDAY_MS + 7 * 3_600_000, symbol="BTCUSDT", times=0)
    with SimServer() as server:
        folder = download(server, tmp_path / "data", SYMBOLS, days=3).snapshot.path
        port = int(server.base_url.rpartition(":")[2])
    damage(folder / "BTCUSDT.parquet", at=1000)
    harmed = (folder / "BTCUSDT.parquet").read_bytes()
    shutil.rmtree(tmp_path / "data" / "cache")
    with SimServer(port=port, faults=[restated]) as other:
        lost, sound = rebuild(other, tmp_path / "data")

    assert (lost.outcome, sound.outcome) == ("lost", "sound")
    assert f"the days {format_ms(YESTERDAY_MS)[:10]} differ" in lost.detail
    assert (folder / "BTCUSDT.parquet").read_bytes() == harmed


def test_another_compression_is_named(served, monkeypatch):
    """The same candles in other bytes cannot replace the file; the message names pyarrow's versions."""
    server, data_dir, folder, _ = served
    damage(folder / "BTCUSDT.parquet")
    options = candle_file.parquet_options()
    monkeypatch.setattr(candle_file, "parquet_options", lambda: options | {"compression_level": 9})
    lost, sound = rebuild(server, data_dir)

    assert lost.outcome == "lost"
    assert "the candles are the same, but pyarrow" in lost.detail
    assert sound.outcome == "sound"
    assert "could not be made again" in sound.detail


def test_files_of_a_killed_rebuild_are_removed(served):
    """A temporary file in a snapshot would be one that its manifest does not list."""
    server, data_dir, folder, files = served
    damage(folder / "BTCUSDT.parquet")
    (folder / ".BTCUSDT.parquet.ab12.tmp").write_bytes(b"half")
    rebuild(server, data_dir)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert verify_snapshot(open_snapshot(data_dir, "latest")) == ()


@pytest.mark.parametrize("thing", ["link", "fifo"])
def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(served, tmp_path, thing):
    """The target of a link is not changed."""
    server, data_dir, folder, files = served
    (tmp_path / "mine").write_bytes(b"mine")
    (folder / "BTCUSDT.parquet").unlink()
    if thing == "link":
        (folder / "BTCUSDT.parquet").symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(folder / "BTCUSDT.parquet")
    rebuild(server, data_dir)

    assert not (folder / "BTCUSDT.parquet").is_symlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_file_that_cannot_be_written_is_exit_8(served):
    """A folder in its place is named and stays, and no temporary file is left."""
    _, data_dir, folder, _ = served
    (folder / "BTCUSDT.parquet").unlink()
    (folder / "BTCUSDT.parquet").mkdir()
    done = call("snapshot", "--rebuild", "latest", data_dir=data_dir)

    assert done.code == 8
    assert f"cannot write {folder / 'BTCUSDT.parquet'}: Is a directory" in " ".join(done.err.split())
    assert (folder / "BTCUSDT.parquet").is_dir()
    assert list(data_dir.rglob("*.tmp")) == []


def test_a_damaged_day_of_the_cache_is_downloaded_again_with_a_warning(served):
    """Cached files are verified like any other."""
    server, data_dir, folder, files = served
    damage(next(data_dir.glob("cache/*/BTCUSDT/1m/2025-10-14.parquet")), at=9000)
    (folder / "BTCUSDT.parquet").unlink()
    progress = Silent()
    snapshot = open_snapshot(data_dir, "latest")
    rebuild_snapshot(snapshot, open_source(spec_of(server)), data_dir=data_dir, progress=progress)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert any("2025-10-14.parquet" in w and "downloaded again" in w for w in progress.warnings)


def test_no_lock_is_left_next_to_a_copy_elsewhere(served, tmp_path):
    """Only snapshots in the data folder are locked; a copy elsewhere gets no additional file."""
    server, data_dir, folder, files = served
    copy = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, copy)
    damage(copy / "BTCUSDT.parquet")
    rebuild_snapshot(
        open_snapshot(data_dir, str(copy)), open_source(spec_of(server)), data_dir=data_dir, progress=Silent()
    )

    assert {path.name: path.read_bytes() for path in copy.iterdir()} == files
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert (folder.parent / ".lock").exists()


def test_the_command_rebuilds_and_refuses(served):
    """Exit 0 with intact files; a damaged manifest cannot be rebuilt from: exit 3."""
    server, data_dir, folder, files = served
    damage(folder / "ETHUSDT.parquet")
    verified = call("verify", "snapshot", data_dir=data_dir)
    done = call("snapshot", "--rebuild", "latest", "--json", data_dir=data_dir)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    damage(folder / "manifest.json", at=100)
    refused = call("snapshot", "--rebuild", "latest", data_dir=data_dir)

    assert verified.code == 3
    assert f"mltrain snapshot --rebuild {folder.name}" in verified.out
    assert "damaged are the candles of 2025-10-1" in verified.out
    assert done.code == 0, done.err
    assert [f["outcome"] for f in done.document["files"]] == ["sound", "rebuilt"]
    assert (refused.code, refused.out) == (3, "")
    assert "manifest.json" in refused.err
    assert server.log


def test_a_recorded_host_is_not_contacted_unasked():
    """Another host than the exchange's is contacted only if the user names it, never because a file does."""
    from mltrain.errors import InputError
    from mltrain.sources.opening import open_recorded

    spec = SourceSpec("archive", base_url="https://api.example.com", archive_url="https://files.example.com")
    with pytest.raises(InputError, match=r"api\.example\.com") as caught:
        open_recorded(spec)
    assert "--base-url https://api.example.com" in caught.value.hint
    with pytest.raises(InputError, match=r"files\.example\.com"):
        open_recorded(spec, base_url="https://api.example.com")
    opened = open_recorded(spec, base_url="https://api.example.com", archive_url="https://data.binance.vision")

    assert opened.base_url == "https://api.example.com"
