"""Taking snapshots."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, MachineError, SourceError, UsageError
from mltrain.progress import Silent
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, GENESIS_MS, SimSource
from mltrain.sources.source import DownloadResult, SymbolCandles
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.locks import hold_lock
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange, format_ms

ID = "2025-10-15T12-00-00Z"


def test_a_snapshot_holds_exactly_the_closed_candles_of_its_window(take, tmp_path):
    """They are those of the source; the id is the cut; `latest` points to the snapshot."""
    taken = take(days=2)
    snapshot = taken.snapshot
    window = TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS)

    assert taken.created
    assert snapshot.id == ID
    assert snapshot.path == tmp_path / "data" / "snapshots" / ID
    assert snapshot.symbols == ("BTCUSDT", "ETHUSDT")
    assert snapshot.interval == "1m"
    assert snapshot.cut_ms == CLOCK_MS
    assert snapshot.created_at == "2025-10-15T12:20:34Z"
    assert (tmp_path / "data" / "snapshots" / "latest").readlink() == Path(ID)
    for symbol in snapshot.symbols:
        assert snapshot.candles(symbol).equals(SimSource(signal="weak").candles(symbol, window))
    assert open_source(snapshot.source) == SimSource(signal="weak")
    assert verify_snapshot(snapshot) == ()


@pytest.mark.parametrize(
    ("end_ms", "cut_ms"), [(CLOCK_MS - 1, CLOCK_MS - MINUTE_MS), (CLOCK_MS - 61_000, CLOCK_MS - 120_000)]
)
def test_the_cut_is_the_end_rounded_down(take, end_ms, cut_ms):
    """No candle closes after the requested end."""
    snapshot = take(end_ms=end_ms).snapshot

    assert snapshot.cut_ms == cut_ms
    assert snapshot.id == format_ms(cut_ms).replace(":", "-")
    assert times_ms(snapshot.candles("BTCUSDT"))[-1] + MINUTE_MS == cut_ms
    assert snapshot.facts[0].rows + sum(h.missing for h in snapshot.facts[0].gaps) == 1440


def test_the_same_request_writes_nothing_again(take, tree):
    """The same request and candles: the existing snapshot is not touched, and `latest` moves back to it."""
    first = take()
    before = tree()
    second = take(("ETHUSDT", "BTCUSDT"), end_ms=CLOCK_MS + 0)
    take(("SOLUSDT",))
    third = take()

    assert (first.created, second.created, third.created) == (True, False, False)
    assert second.snapshot == third.snapshot == first.snapshot
    after = tree()
    assert {k: v for k, v in after.items() if not k.startswith(f"snapshots/{ID}.2")} == before
    assert after["snapshots/latest"] == f"-> {ID}"


def test_other_candles_at_the_same_cut_are_another_snapshot(take, tree):
    """Other symbols, days or source: `.2`, `.3`; existing snapshots never change."""
    take()
    before = tree()
    names = [take(("SOLUSDT",)).snapshot.id, take(days=2).snapshot.id, take(("SOLUSDT",)).snapshot.id]

    assert names == [f"{ID}.2", f"{ID}.3", f"{ID}.2"]
    assert before.items() - {("snapshots/latest", f"-> {ID}")} <= tree().items()


def test_restated_candles_are_another_snapshot(take, tmp_path, make_candles):
    """If a source changes its past, the new candles become a second snapshot."""
    folder = tmp_path / "mine"
    folder.mkdir()
    make_candles(range(1500)).write_parquet(folder / "BTCUSDT.parquet")
    first = take(("BTCUSDT",), folder=folder).snapshot
    old = first.candles("BTCUSDT")
    make_candles(range(1500), volume=[9.0] * 1500).write_parquet(folder / "BTCUSDT.parquet")
    second = take(("BTCUSDT",), folder=folder)

    assert second.created
    assert second.snapshot.id == f"{first.id}.2"
    assert first.candles("BTCUSDT").equals(old)
    assert second.snapshot.candles("BTCUSDT")["volume"].unique().to_list() == [9.0]


@pytest.mark.parametrize("damage", ["flip", "remove", "manifest", "rename"])
def test_a_damaged_snapshot_is_not_taken_for_already_there(take, tmp_path, damage):
    """It stays, with a warning, and an intact one is written next to it."""
    path = take().snapshot.path
    if damage == "flip":
        file = path / "ETHUSDT.parquet"
        file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    elif damage == "remove":
        (path / "BTCUSDT.parquet").unlink()
    elif damage == "manifest":
        (path / "manifest.json").unlink()
    else:
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    progress = Silent()
    again = take(progress=progress)

    assert again.created
    assert again.snapshot.id == f"{ID}.2"
    assert verify_snapshot(again.snapshot) == ()
    assert [w for w in progress.warnings if f"snapshot {ID} is damaged" in w]
    assert open_snapshot(tmp_path / "data", "latest").id == f"{ID}.2"


def test_gaps_and_duplicates_are_recorded(take, tmp_path, make_candles):
    """Gaps at the beginning, in the middle and at the end are listed; dropped duplicates are noted, with a warning.

    A symbol that begins late and ends early lacks no candles: its first and last time are said.
    """
    folder = tmp_path / "mine"
    folder.mkdir()
    day = [m for m in range(1440) if not 700 <= m < 730 and m != 900]
    last = make_candles([1439])
    pl.concat([make_candles(day[5:-1]), last, last]).write_csv(folder / "BTCUSDT.csv")
    make_candles(range(100, 1400), trades=[0, *[1] * 1299]).write_csv(folder / "ETHUSDT.csv")
    progress = Silent()
    snapshot = take(folder=folder, progress=progress).snapshot

    def minutes(facts):
        return [((h.from_ms - CLOCK_MS) // MINUTE_MS, (h.to_ms - CLOCK_MS) // MINUTE_MS, h.missing) for h in facts.gaps]

    btc, eth = snapshot.facts
    assert minutes(btc) == [(0, 4, 5), (700, 729, 30), (900, 900, 1)]
    assert minutes(eth) == [(0, 99, 100), (1400, 1439, 40)]
    assert (btc.zero_trade_rows, eth.zero_trade_rows) == (0, 1)
    assert snapshot.notes == ("BTCUSDT: 1 exact duplicate row dropped",)
    assert progress.warnings == [
        *snapshot.notes,
        "symbols that begin later than the window, 2025-10-15T12:00:00Z: ETHUSDT (2025-10-15T13:40:00Z)",
        (
            "symbols that end earlier than the window, 2025-10-16T12:00:00Z: ETHUSDT (2025-10-16T11:20:00Z); "
            "--align common takes the range that all symbols cover"
        ),
    ]
    assert verify_snapshot(snapshot) == ()


def test_columns_that_the_source_lacks_stay_null(take, tmp_path, make_candles):
    """They are null in the file and when it is read."""
    folder = tmp_path / "mine"
    folder.mkdir()
    make_candles(range(1440)).write_csv(folder / "BTCUSDT.csv")
    frame = take(("BTCUSDT",), folder=folder).snapshot.candles("BTCUSDT")

    assert (
        frame.select("quote_volume", "trades", "taker_buy_base", "taker_buy_quote").null_count().row(0) == (1440,) * 4
    )


@pytest.mark.parametrize("interval", ["5m", "1h", "1d"])
def test_every_interval_is_cut_on_its_own_grid(take, interval):
    """The cut of hourly candles is a full hour, of daily candles midnight."""
    snapshot = take(("BTCUSDT",), interval=interval, days=3, end_ms=CLOCK_MS - 1).snapshot

    assert (
        snapshot.cut_ms
        == {"5m": CLOCK_MS - 300_000, "1h": CLOCK_MS - 3_600_000, "1d": CLOCK_MS - DAY_MS // 2}[interval]
    )
    assert snapshot.candles("BTCUSDT").height == snapshot.facts[0].rows
    assert verify_snapshot(snapshot) == ()


REFUSED = {
    "unknown symbol": ({"symbols": ("BTCUSDX",)}, InputError, "has no symbol 'BTCUSDX'"),
    "end in the future": ({"end_ms": CLOCK_MS + 1}, UsageError, "is later than the clock of the source sim"),
    "before history": (
        {"end_ms": GENESIS_MS},
        InputError,
        "it has those from 2024-01-01T00:00:00Z to 2025-10-15T12:00:00Z",
    ),
    "before 1970": ({"end_ms": 0}, UsageError, "begin before 1970"),
}


@pytest.mark.parametrize(("options", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refused_snapshot_changes_nothing(take, tree, options, error, message):
    """The message says what is wrong; there is no snapshot, no temporary file, no moved pointer."""
    take()
    before = tree()

    with pytest.raises(error, match=message):
        take(**options)
    assert tree() == before


@pytest.mark.parametrize("options", [{"symbols": ("BTCUSDX",)}, {"end_ms": CLOCK_MS + 1}])
def test_a_wrong_request_makes_no_folder(take, tmp_path, options):
    """A typing error leaves nothing behind."""
    with pytest.raises((InputError, UsageError)):
        take(**options)

    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("stage", ["read candles", "BTCUSDT", "ETHUSDT"])
def test_an_interrupted_run_leaves_nothing(take, tree, stage):
    """After Ctrl-C at any step the state is as before, and the next run completes."""

    class Interrupted(Silent):
        def stage(self, name, **_):
            if name == stage:
                raise KeyboardInterrupt

        def advance(self, *_, note=""):
            if note == stage:
                raise KeyboardInterrupt

    take(("SOLUSDT",))
    before = tree()
    with pytest.raises(KeyboardInterrupt):
        take(progress=Interrupted())

    assert tree() == before
    assert take().created


def take_from(answer, tmp_path):
    """Take a snapshot of a source that always returns the same frame."""
    source = SimpleNamespace(
        name="liar",
        host="example.org",
        interval="1m",
        market="spot",
        clock_ms=lambda _: CLOCK_MS,
        check_symbols=lambda _: None,
        extent=lambda _: TimeRange(0, CLOCK_MS),
        download=lambda *_, **__: nullcontext(
            DownloadResult("the source liar", "1m", lambda _: SymbolCandles(answer), lambda: ())
        ),
    )
    request = SnapshotRequest(symbols=("BTCUSDT",), days=1)
    return take_snapshot(tmp_path / "data", source, SourceSpec(name="sim"), request, now_ms=CLOCK_MS, progress=Silent())


def test_wrong_answers_of_a_source_are_refused(tmp_path, make_candles):
    """Candles outside the window, impossible ones and unsorted ones are never written."""
    good = make_candles(range(-100, 0))
    assert take_from(good, tmp_path).snapshot.host == "example.org"
    before = sorted((tmp_path / "data" / "snapshots").iterdir())

    lies = [
        (make_candles(range(-100, 1)), SourceError, "outside"),
        (make_candles(range(-1441, 0)), SourceError, "outside"),
        (good.reverse(), InputError, "not after the row before"),
        (good.with_columns(low=pl.lit(-1.0)), InputError, "a price must be"),
        (good.clear(), InputError, "has no candles"),
    ]
    for answer, error, message in lies:
        with pytest.raises(error, match=message):
            take_from(answer, tmp_path)
    assert sorted((tmp_path / "data" / "snapshots").iterdir()) == before


def test_another_thing_than_a_pointer_is_not_replaced(take, tmp_path):
    """A file or folder called `latest` is named, and nothing is written."""
    folder = tmp_path / "data" / "snapshots"
    folder.mkdir(parents=True)
    (folder / "latest").write_text("mine")

    with pytest.raises(InputError, match="latest is not a symbolic link"):
        take()
    assert (folder / "latest").read_text() == "mine"
    assert not (folder / ID).exists()


def test_files_of_a_killed_run_are_removed(take, tmp_path):
    """The next run removes the files of a killed one and never uses them."""
    left = tmp_path / "data" / "snapshots" / f".{ID}.deadbeef.tmp"
    left.mkdir(parents=True)
    (left / "BTCUSDT.parquet").write_bytes(b"half")

    assert take().created
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_refused_first(take, tmp_path):
    """Before anything is downloaded."""
    (tmp_path / "data").write_text("a file")
    progress = Silent()
    progress.stage = lambda *_, **__: pytest.fail("fetched before looking")

    with pytest.raises(MachineError, match="data"):
        take(progress=progress)


def test_a_run_waits_for_the_lock(take, tmp_path):
    """Publishing is quick, so a second run waits for the first."""
    folder = tmp_path / "data" / "snapshots"
    folder.mkdir(parents=True)
    held, done = threading.Event(), threading.Event()

    def hold():
        with hold_lock(folder / ".lock", wait_s=1, purpose="a test"):
            held.set()
            time.sleep(0.3)
            done.set()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert take().created
    assert done.is_set()
    holder.join()


def test_concurrent_runs_are_independent(take, tmp_path):
    """Four runs at the same cut: each gets an intact snapshot, and equal ones share it."""
    asked = [("BTCUSDT",), ("ETHUSDT",), ("BTCUSDT",), ("SOLUSDT",)]
    taken = {}
    threads = [threading.Thread(target=lambda i=i, s=s: taken.update({i: take(s)})) for i, s in enumerate(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert taken[0].snapshot.id == taken[2].snapshot.id
    assert sorted({t.snapshot.id for t in taken.values()}) == [ID, f"{ID}.2", f"{ID}.3"]
    assert sum(t.created for t in taken.values()) == 3
    assert all(verify_snapshot(t.snapshot) == () for t in taken.values())
    assert open_snapshot(tmp_path / "data", "latest").id in {t.snapshot.id for t in taken.values()}
