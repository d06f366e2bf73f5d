"""Windows of symbols that begin late or end early."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, UsageError
from mltrain.progress import Silent
from mltrain.simulator.server import SimServer
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source import DownloadResult, Origin, SymbolCandles
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange
from support.downloads import spec_of
from support.program import call

DAY = 1440
# Minutes after CLOCK_MS of each symbol's candles in three days.
MINUTES = {"BTCUSDT": range(3 * DAY), "ETHUSDT": range(2 * DAY - 30), "SOLUSDT": range(DAY - 100, 3 * DAY)}


@pytest.fixture
def folder(tmp_path, make_candles):
    """Return a folder with a symbol that has all candles, one that ends early, and one that begins late."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for symbol, minutes in MINUTES.items():
        make_candles(minutes).write_parquet(folder / f"{symbol}.parquet")
    return folder


def at(minute):
    return CLOCK_MS + minute * MINUTE_MS


def test_union_ends_where_the_last_symbol_ends(take, folder):
    """Each symbol has its range in the window, which is reported and is no error."""
    progress = Silent()
    snapshot = take(MINUTES, days=3, folder=folder, progress=progress).snapshot

    assert snapshot.window == TimeRange(at(0), at(3 * DAY))
    assert [(f.first_ms, f.last_ms) for f in snapshot.facts] == [(at(m[0]), at(m[-1])) for m in MINUTES.values()]
    assert [f.share for f in snapshot.facts] == [len(m) / (3 * DAY) for m in MINUTES.values()]
    assert progress.warnings == [
        "symbols that begin later than the window, 2025-10-15T12:00:00Z: SOLUSDT (2025-10-16T10:20:00Z)",
        (
            "symbols that end earlier than the window, 2025-10-18T12:00:00Z: ETHUSDT (2025-10-17T11:30:00Z); "
            "--align common takes the range that all symbols cover"
        ),
    ]
    assert verify_snapshot(snapshot) == ()


def test_common_is_the_range_that_all_symbols_cover(take, folder, tmp_path):
    """From the latest first candle to the earliest last one; the snapshot is read, verified and found again."""
    progress = Silent()
    snapshot = take(MINUTES, days=3, folder=folder, align="common", progress=progress).snapshot
    again = take(MINUTES, days=3, folder=folder, align="common")

    assert snapshot.window == TimeRange(at(DAY - 100), at(2 * DAY - 30))
    assert snapshot.id == "2025-10-17T11-30-00Z"
    assert [(f.rows, f.missing, f.share) for f in snapshot.facts] == [(DAY + 70, 0, 1.0)] * 3
    assert progress.warnings == []
    for symbol in MINUTES:
        assert times_ms(snapshot.candles(symbol)).tolist() == [at(m) for m in range(DAY - 100, 2 * DAY - 30)]
    assert verify_snapshot(snapshot) == ()
    assert open_snapshot(tmp_path / "data", "latest") == snapshot
    assert (again.created, again.snapshot.id) == (False, snapshot.id)


def test_common_counts_the_days_from_the_earliest_end(take, folder):
    """The common range is a day of every symbol, though one ended long before the others."""
    snapshot = take(MINUTES, days=1, folder=folder, align="common").snapshot

    assert snapshot.window == TimeRange(at(DAY - 30), at(2 * DAY - 30))
    with pytest.raises(InputError, match=r"no candles of ETHUSDT .* to 2025-10-17T11:30:00Z") as refused:
        take(MINUTES, days=1, folder=folder, end_ms=at(3 * DAY))
    assert "--align common" in refused.value.hint


@pytest.mark.parametrize(("end", "stop"), [(2 * DAY - 99, 2 * DAY - 99), (3 * DAY, 2 * DAY - 30)])
def test_a_requested_end_is_the_latest_that_common_has(take, folder, end, stop):
    """The range ends at the requested end or at that of a symbol, whichever is earlier."""
    snapshot = take(MINUTES, days=3, folder=folder, align="common", end_ms=at(end)).snapshot

    assert snapshot.window.end_ms == at(stop)
    assert verify_snapshot(snapshot) == ()


def test_an_end_after_the_source_s_clock_is_refused(take, folder):
    """It is refused as without an alignment."""
    with pytest.raises(UsageError, match="is later than the clock of the source files"):
        take(MINUTES, days=3, folder=folder, align="common", end_ms=at(3 * DAY + 1))


@pytest.mark.parametrize("align", ["union", "common"])
def test_max_missing_counts_what_the_window_lacks(take, folder, align):
    """A window of all symbols lacks candles of those that begin late; the common range lacks none."""
    if align == "union":
        with pytest.raises(InputError, match=r"ETHUSDT: 1,470 of 4,320 candles are missing") as refused:
            take(MINUTES, days=3, folder=folder, max_missing=0.05)
        assert "--align common" in refused.value.hint
    else:
        assert take(MINUTES, days=3, folder=folder, align=align, max_missing=0.0).created


def test_symbols_that_share_no_time_have_no_common_range(take, folder, tree, make_candles):
    """The error names the two and their times, and nothing is written."""
    make_candles(range(100)).write_parquet(folder / "ETHUSDT.parquet")
    take(("BTCUSDT",), days=3, folder=folder)
    before = tree()

    with pytest.raises(InputError, match="SOLUSDT"):
        take(MINUTES, days=1, folder=folder, align="common")
    assert tree() == before


def serve(frames, end_ms, *, origins=()):
    """Return a network source of these frames, which does not know a symbol's end before the download."""
    return SimpleNamespace(
        name="binance",
        host="exchange.example",
        interval="1m",
        market="spot",
        clock_ms=lambda _: end_ms,
        check_symbols=lambda _: None,
        extent=lambda _: pytest.fail("asks the network for the end of a symbol"),
        download=lambda *_, **__: nullcontext(
            DownloadResult("exchange.example", "1m", lambda s: SymbolCandles(frames[s], origins), lambda: ())
        ),
    )


def take_served(data_dir, frames, end_ms, *, days=1, origins=()):
    request = SnapshotRequest(tuple(frames), days, align="common")
    source = serve(frames, end_ms, origins=origins)
    spec = SourceSpec(name="binance")
    return take_snapshot(data_dir, source, spec, request, now_ms=end_ms, progress=Silent()).snapshot


def test_a_symbol_that_the_exchange_has_delisted_ends_the_common_range(tmp_path, make_candles):
    """The end is known only after the download; the recorded origins are cut, too."""
    origins = (Origin(at(0), at(600), "archive " + "0" * 64), Origin(at(600), at(DAY), "rest"))
    frames = {"BTCUSDT": make_candles(range(DAY)), "LUNAUSDT": make_candles(range(20, 500))}
    snapshot = take_served(tmp_path, frames, at(DAY), origins=origins)

    assert snapshot.window == TimeRange(at(20), at(500))
    assert [f.origins for f in snapshot.facts] == [(Origin(at(20), at(500), "archive " + "0" * 64),)] * 2
    assert verify_snapshot(snapshot) == ()


def test_a_symbol_may_have_no_candle_in_the_common_range(tmp_path, make_candles):
    """If all its candles lie around the range, it is refused by name."""
    frames = {
        "BTCUSDT": make_candles([*range(100), *range(900, 1000)]),
        "ETHUSDT": make_candles(range(200, 300)),
    }

    with pytest.raises(InputError, match="BTCUSDT has no candle from"):
        take_served(tmp_path, frames, at(1000))
    assert not (tmp_path / "snapshots" / "latest").is_symlink()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 60), min_size=1), min_size=1, max_size=3))
def test_common_has_every_candle_between_the_ends_and_no_other(tmp_path_factory, make_candles, present):
    """This holds for any candles of the symbols."""
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")[: len(present)]
    first, last = max(map(min, present)), min(map(max, present))
    inside = [sorted(m for m in minutes if first <= m <= last) for minutes in present]
    frames = {symbol: make_candles(sorted(minutes)) for symbol, minutes in zip(symbols, present, strict=True)}
    folder = tmp_path_factory.mktemp("drawn")
    if not all(inside):
        with pytest.raises(InputError):
            take_served(folder, frames, at(61))
        return
    snapshot = take_served(folder, frames, at(61))

    assert snapshot.window == TimeRange(at(first), at(last + 1))
    assert [times_ms(snapshot.candles(s)).tolist() for s in symbols] == [[at(m) for m in kept] for kept in inside]
    assert verify_snapshot(snapshot) == ()


def test_a_common_snapshot_is_rebuilt_byte_for_byte(take, folder, tmp_path):
    """Its window is that of its manifest, not the requested days."""
    snapshot = take(MINUTES, days=3, folder=folder, align="common").snapshot
    files = {path.name: path.read_bytes() for path in snapshot.path.glob("*.parquet")}
    for name in files:
        (snapshot.path / name).unlink()
    spec = SourceSpec("files", folder=folder)
    rebuilt = rebuild_snapshot(snapshot, open_source(spec), data_dir=tmp_path / "data", progress=Silent())

    assert {f.outcome for f in rebuilt} == {"rebuilt"}
    assert {path.name: path.read_bytes() for path in snapshot.path.glob("*.parquet")} == files


def test_the_exchange_gives_the_same_window_to_both(tmp_path):
    """Without late or early symbols, the alignment changes no byte of the candles."""
    with SimServer() as server:
        taken = {}
        for align in ("union", "common"):
            request = SnapshotRequest(("BTCUSDT", "ETHUSDT"), 1, align=align)
            spec = spec_of(server)
            data_dir = tmp_path / align
            source = open_source(spec)
            taken[align] = take_snapshot(data_dir, source, spec, request, now_ms=CLOCK_MS, progress=Silent()).snapshot
    union, common = taken["union"], taken["common"]

    assert common.window == union.window == TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS)
    assert [f.sha256 for f in common.facts] == [f.sha256 for f in union.facts]


def test_the_command_shows_first_last_and_share(folder, tmp_path):
    """Both the table and the document have them."""
    words = ["--source", "files", "--from", folder, "--days", "3", "--symbols", ",".join(MINUTES)]
    done = call("snapshot", "--json", *words, data_dir=tmp_path / "data")
    shown = call("snapshot", *words, data_dir=tmp_path / "data")

    assert done.code == 0, done.err
    document = done.document
    assert document["window"] == {"start_ms": at(0), "end_ms": at(3 * DAY)}
    assert document["coverage"] == [
        {"symbol": symbol, "first_ms": at(m[0]), "last_ms": at(m[-1]), "share": len(m) / (3 * DAY)}
        for symbol, m in MINUTES.items()
    ]
    rows = {line.split()[0]: line.split() for line in shown.out.splitlines() if line.startswith(tuple(MINUTES))}
    assert {symbol: row[6] for symbol, row in rows.items()} == {
        "BTCUSDT": "100.0%",
        "ETHUSDT": "66.0%",
        "SOLUSDT": "69.0%",
    }
    assert "ETHUSDT (2025-10-17T11:30:00Z)" in shown.err


def test_the_command_takes_the_common_range(folder, tmp_path):
    """`--align common` is in the manifest, and `verify snapshot` uses it."""
    words = ["--source", "files", "--from", folder, "--days", "3", "--symbols", ",".join(MINUTES), "--align", "common"]
    done = call("snapshot", "--json", *words, data_dir=tmp_path / "data")
    verified = call("verify", "snapshot", data_dir=tmp_path / "data")
    shutil.rmtree(folder)

    assert done.code == verified.code == 0, done.err + verified.err
    assert done.document["snapshot"]["request"]["align"] == "common"
    assert done.document["window"] == {"start_ms": at(DAY - 100), "end_ms": at(2 * DAY - 30)}


@pytest.mark.parametrize(
    ("words", "symbols", "left_out"),
    [
        (("--days", "1"), ["BTCUSDT", "SOLUSDT"], "ETHUSDT (2025-10-15T12:00:00Z to 2025-10-17T11:30:00Z)"),
        (("--end", "2025-10-16T10:00:00Z"), ["BTCUSDT", "ETHUSDT"], "SOLUSDT (2025-10-16T10:20:00Z to"),
        (("--days", "2"), list(MINUTES), None),
    ],
)
def test_a_symbol_of_the_folder_without_candles_in_the_window_is_left_out(folder, tmp_path, words, symbols, left_out):
    """Its range is said; it is an error only if the symbol was named."""
    done = call("snapshot", "--json", "--source", "files", "--from", folder, *words, data_dir=tmp_path / "data")
    named = ("--symbols", ",".join(MINUTES))
    asked = call("snapshot", "--source", "files", "--from", folder, *words, *named, data_dir=tmp_path / "data")

    assert done.code == 0, done.err
    assert [c["symbol"] for c in done.document["coverage"]] == symbols
    assert ("symbols left out" in done.err) == (left_out is not None)
    assert left_out is None or left_out in done.err
    assert asked.code == (0 if left_out is None else 3)
