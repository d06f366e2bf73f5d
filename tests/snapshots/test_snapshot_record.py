"""The record in a snapshot's manifest."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.anomalies import BASE, QUOTE, FalseVolume, Jump
from mltrain.candles.candle_file import Block
from mltrain.candles.frame import Gap, find_gaps
from mltrain.errors import InputError, UsageError
from mltrain.names import SNAPSHOT
from mltrain.snapshots.snapshot_record import (
    MAX_DAYS,
    SnapshotRecord,
    SnapshotRequest,
    SymbolFacts,
    file_name,
    parse_id,
    snapshot_id,
)
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source import Origin
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import Manifest
from mltrain.times import DAY_MS, INTERVALS_MS, MINUTE_MS, TimeRange, floor_to_grid, interval_ms

HASH = "0f" * 32


@st.composite
def records(draw):
    """Draw any valid record."""
    interval = draw(st.sampled_from(list(INTERVALS_MS)))
    step_ms = interval_ms(interval)
    cut_ms = floor_to_grid(draw(st.integers((MAX_DAYS + 7) * DAY_MS, 4_000_000_000_000)), step_ms)
    symbols = draw(st.sets(st.from_regex(r"[A-Z0-9]{2,20}", fullmatch=True), min_size=1, max_size=3))
    request = SnapshotRequest(
        symbols=tuple(symbols),
        days=draw(st.integers(-(-step_ms // DAY_MS), 30)),
        interval=interval,
        end_ms=draw(st.none() | st.integers(cut_ms, cut_ms + step_ms - 1)),
    )
    asked = window = request.window(cut_ms)
    if draw(st.booleans()):
        # The range that all symbols cover begins with a candle.
        request = replace(request, align="common")
        first = draw(st.integers(0, (asked.end_ms - asked.start_ms) // step_ms - 1))
        window = TimeRange(asked.start_ms + first * step_ms, asked.end_ms)
    present = [{0} if i == 0 and request.align == "common" else set() for i in range(len(request.symbols))]
    return SnapshotRecord(
        id=snapshot_id(cut_ms, draw(st.integers(1, 20))),
        created_at="2025-10-15T12:20:34Z",
        source=SourceSpec(name="sim", interval=interval, seed=draw(st.integers(0, 9)), signal="weak"),
        host=draw(st.sampled_from(["", "data-api.example"])),
        request=request,
        tools=(("mltrain", "0.1.0"), ("polars", "2.1.0")),
        notes=tuple(draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=2))),
        facts=tuple(
            draw(facts(symbol, window, step_ms, always=always))
            for symbol, always in zip(request.symbols, present, strict=True)
        ),
    )


def facts(symbol, window, step_ms, *, always=frozenset()):
    """Return a strategy of facts that fit the window; the candles at the positions `always` are there."""
    slots = (window.end_ms - window.start_ms) // step_ms

    def build(present, zero):
        import numpy as np

        ts = np.array(sorted(present | always), dtype=np.int64) * step_ms + window.start_ms
        return SymbolFacts(
            symbol=symbol,
            rows=ts.size,
            first_ms=int(ts[0]),
            last_ms=int(ts[-1]),
            gaps=find_gaps(ts, step_ms, start_ms=window.start_ms, end_ms=window.end_ms),
            zero_trade_rows=min(zero, ts.size),
            zero_trade_runs=(Gap(int(ts[0]), int(ts[0]), 1),) * min(zero, 1),
            jumps=(Jump(int(ts[-1]), 1.0, 2.5),) * min(zero, 2),
            origins=(Origin(window.start_ms, window.end_ms, "rest"),) * min(zero, 1),
            blocks=(Block(window.start_ms, window.end_ms, 12000, "0" * 16),) * min(zero, 1),
            volumes=(FalseVolume(BASE, 3, 5, None, ("taker_buy_base",)), FalseVolume(QUOTE, 1, 9, (0.5, 1.0, 2.0), ()))[
                :zero
            ],
            sha256=HASH,
            content_sha256=HASH[::-1],
            bytes=12345,
        )

    return st.builds(build, st.sets(st.integers(0, slots - 1), min_size=1, max_size=20), st.integers(0, 3))


@given(records())
def test_a_record_survives_its_manifest(record):
    """`from_manifest` returns the record that `to_manifest` wrote."""
    data = record.to_manifest().to_bytes()

    assert (
        SnapshotRecord.from_manifest(Manifest.from_bytes(data, kind="snapshot", where="here"), where="here") == record
    )


@given(st.integers(0, 4_000_000_000).map(lambda s: s * 1000), st.integers(1, 999_999))
def test_ids_have_their_grammar_and_sort_by_cut(cut_ms, number):
    """An id consists of the cut and the number."""
    name = snapshot_id(cut_ms, number)

    assert SNAPSHOT.fullmatch(name)
    assert parse_id(name) == (cut_ms, number)


@pytest.fixture
def record():
    """Return the record of two symbols, one with a gap."""
    request = SnapshotRequest(symbols=("ETHUSDT", "BTCUSDT"), days=1)
    whole = SymbolFacts(
        symbol="BTCUSDT",
        rows=1440,
        first_ms=CLOCK_MS - DAY_MS,
        last_ms=CLOCK_MS - MINUTE_MS,
        gaps=(),
        zero_trade_rows=3,
        zero_trade_runs=(Gap(CLOCK_MS - 9 * MINUTE_MS, CLOCK_MS - 7 * MINUTE_MS, 3),),
        jumps=(Jump(CLOCK_MS - 3 * MINUTE_MS, 100.0, 151.0),),
        origins=(Origin(CLOCK_MS - DAY_MS, CLOCK_MS, "rest"),),
        blocks=(Block(CLOCK_MS - DAY_MS, CLOCK_MS, 900, "0123456789abcdef"),),
        volumes=(FalseVolume(QUOTE, 3, 4, (0.5, 1.0, 2.0), ("quote_volume",)),),
        sha256=HASH,
        content_sha256=HASH,
        bytes=999,
    )
    gap = Gap(CLOCK_MS - 10 * MINUTE_MS, CLOCK_MS - 6 * MINUTE_MS, 5)
    return SnapshotRecord(
        id=snapshot_id(CLOCK_MS),
        created_at="2025-10-15T12:20:34Z",
        source=SourceSpec(name="sim"),
        host="",
        request=request,
        tools=(("mltrain", "0.1.0"),),
        notes=(),
        facts=(whole, replace(whole, symbol="ETHUSDT", rows=1435, gaps=(gap,))),
    )


def test_a_manifest_of_an_earlier_version_has_no_volumes(record):
    """It is still read."""
    manifest = record.to_manifest()
    files = [
        replace(entry, facts={key: value for key, value in entry.facts.items() if key != "volumes"})
        for entry in manifest.files
    ]
    found = SnapshotRecord.from_manifest(Manifest("snapshot", manifest.head, tuple(files)), where="here")

    assert [f.volumes for f in found.facts] == [(), ()]


def test_a_manifest_names_the_alignment_only_if_it_is_not_the_default(record):
    """So the manifests of earlier versions, which lack the key, are those of "union"."""
    common = replace(record, request=replace(record.request, align="common"))

    assert "align" not in record.to_manifest().head["request"]
    assert common.to_manifest().head["request"]["align"] == "common"
    assert not record.has_same_request(common)


def test_a_symbol_has_its_share_of_the_window(record):
    """Candles that are missing before the first one, inside, and after the last one are distinguished."""
    minutes = [CLOCK_MS - DAY_MS + m * MINUTE_MS for m in range(1440)]
    edges = (Gap(minutes[0], minutes[99], 100), Gap(minutes[500], minutes[504], 5), Gap(minutes[1400], minutes[-1], 40))
    found = replace(record.facts[0], rows=1295, first_ms=minutes[100], last_ms=minutes[1399], gaps=edges)

    assert (found.missing_before, found.missing_after, found.missing) == (100, 40, 145)
    assert found.share == 1295 / 1440


def test_a_request_sorts_its_symbols():
    """The same symbols in another order are the same request."""
    assert SnapshotRequest(symbols=("ETHUSDT", "BTCUSDT", "ETHUSDT"), days=1) == SnapshotRequest(
        symbols=("BTCUSDT", "ETHUSDT"), days=1
    )


@pytest.mark.parametrize(
    "options",
    [
        {"symbols": ()},
        {"symbols": ("btc",)},
        {"symbols": ("../x",)},
        {"symbols": ("BTC/USDT",)},
        {"symbols": ("٣٤",)},
        {"days": 0},
        {"days": -1},
        {"days": MAX_DAYS + 1},
        {"interval": "2s"},
        {"interval": "3d"},
        {"interval": "1w", "days": 6},
        {"align": "both"},
        {"align": None},
    ],
)
def test_impossible_requests_are_usage_errors(options):
    """They never reach a source or the disk."""
    with pytest.raises(UsageError):
        SnapshotRequest(**{"symbols": ("BTCUSDT",), "days": 1} | options)


def test_the_same_candles_for_the_same_request_are_the_same(record):
    """Time, number, libraries and notes make no difference; everything else does."""
    btc, eth = record.facts
    same = [
        replace(record, id=snapshot_id(CLOCK_MS, 7), created_at="1999-01-01T00:00:00Z", tools=(), notes=("x",)),
        replace(record, request=replace(record.request, end_ms=CLOCK_MS + 5)),
        replace(record, source=replace(record.source, end_ms=CLOCK_MS)),
        replace(record, facts=(replace(btc, sha256="00" * 32, bytes=1), eth)),
    ]
    other = [
        replace(record, id=snapshot_id(CLOCK_MS - MINUTE_MS)),
        replace(record, request=replace(record.request, days=2)),
        replace(record, source=replace(record.source, seed=1)),
        replace(record, host="example.org"),
        replace(record, facts=(replace(btc, content_sha256="00" * 32), eth)),
        replace(record, facts=(btc,)),
    ]

    assert all(record.has_same_candles(r) for r in same)
    assert not any(record.has_same_candles(r) for r in other)


LIES = {
    "days": lambda d: d["request"].update(days=0),
    "days as text": lambda d: d["request"].update(days="1"),
    "interval": lambda d: d["request"].update(interval="2m"),
    "no symbols": lambda d: d["request"].update(symbols=[]),
    "symbols twice": lambda d: d["request"].update(symbols=["BTCUSDT", "BTCUSDT"]),
    "symbols unsorted": lambda d: d["request"].update(symbols=["ETHUSDT", "BTCUSDT"]),
    "another symbol": lambda d: d["request"].update(symbols=["BTCUSDT", "XRPUSDT"]),
    "a path": lambda d: d["request"].update(symbols=["BTCUSDT", "../x"]),
    "unknown key": lambda d: d["request"].update(extra=1),
    "alignment": lambda d: d["request"].update(align="both"),
    "no end": lambda d: d["request"].pop("end"),
    "end": lambda d: d["request"].update(end="soon"),
    "id": lambda d: d.update(id="latest"),
    "id of no day": lambda d: d.update(id="2025-02-31T12-00-00Z"),
    "id off the grid": lambda d: d.update(id="2025-10-15T12-00-30Z"),
    "id elsewhere": lambda d: d.update(id="2025-10-14T12-00-00Z"),
    "created_at": lambda d: d.update(created_at="today"),
    "source": lambda d: d["source"].update(name="binanse"),
    "seed": lambda d: d["source"].update(seed=-1),
    "host": lambda d: d.update(host=7),
    "tools": lambda d: d.update(tools=[]),
    "notes": lambda d: d.update(notes=[1]),
    "further head": lambda d: d.update(more={}),
    "rows": lambda d: d["files"][0].update(rows=1439),
    "no rows": lambda d: d["files"][0].update(rows=0),
    "rows as float": lambda d: d["files"][0].update(rows=1440.0),
    "rows as flag": lambda d: d["files"][0].update(rows=True),
    "billions of rows": lambda d: d["files"][0].update(rows=200_000_000),
    "rows made up for by a gap": lambda d: d["files"][0].update(
        rows=1445, gaps=[["2025-10-15T11:00:00Z", "2025-10-15T11:04:00Z", -5]]
    ),
    "gap's length": lambda d: d["files"][1].update(
        rows=1434, gaps=[["2025-10-15T11:50:00Z", "2025-10-15T11:54:00Z", 6]]
    ),
    "gap": lambda d: d["files"][1].update(gaps=[["2025-10-15T11:50:00Z", 5]]),
    "gaps": lambda d: d["files"][1].update(gaps=None),
    "gap's time": lambda d: d["files"][1].update(gaps=[["x", "2025-10-15T11:54:00Z", 5]]),
    "first": lambda d: d["files"][0].update(first="2025-10-13T12:00:00Z"),
    "last": lambda d: d["files"][0].update(last="2025-10-15T12:00:00Z"),
    "first after last": lambda d: d["files"][0].update(first="2025-10-15T11:59:00Z", last="2025-10-15T11:58:00Z"),
    "zero trades": lambda d: d["files"][0].update(zero_trade_rows=1441),
    "zero runs": lambda d: d["files"][0].update(zero_trade_runs=[["2025-10-15T11:50:00Z", 5]]),
    "zero run's length": lambda d: d["files"][0]["zero_trade_runs"][0].__setitem__(2, 4),
    "zero run as flag": lambda d: d["files"][0].update(
        zero_trade_runs=[["2025-10-15T11:50:00Z", "2025-10-15T11:50:00Z", True]]
    ),
    "jumps": lambda d: d["files"][0].update(jumps=7),
    "jump's time": lambda d: d["files"][0].update(jumps=[["x", 1.0, 2.0]]),
    "jump's price": lambda d: d["files"][0].update(jumps=[["2025-10-15T11:50:00Z", "1", 2.0]]),
    "origins": lambda d: d["files"][0].update(origins=[["2025-10-15T11:50:00Z"]]),
    "origin": lambda d: d["files"][0]["origins"][0].__setitem__(2, "hearsay"),
    "blocks": lambda d: d["files"][0].update(blocks=None),
    "block beyond the file": lambda d: d["files"][0]["blocks"][0].__setitem__(2, 1000),
    "block that ends before it begins": lambda d: d["files"][0]["blocks"][0].__setitem__(2, 4),
    "block twice": lambda d: d["files"][0]["blocks"].append(d["files"][0]["blocks"][0]),
    "blocks that overlap in time": lambda d: d["files"][0]["blocks"].append(
        ["2025-10-15T11:00:00Z", "2025-10-15T13:00:00Z", 950, "0" * 16]
    ),
    "block of no time": lambda d: d["files"][0]["blocks"][0].__setitem__(1, "2025-10-14T12:00:00Z"),
    "volumes": lambda d: d["files"][0].update(volumes={}),
    "volume of another kind": lambda d: d["files"][0]["volumes"][0].__setitem__(0, "volume"),
    "volume false in no candle": lambda d: d["files"][0]["volumes"][0].__setitem__(1, 0),
    "volume false in more candles than traded": lambda d: d["files"][0]["volumes"][0].__setitem__(1, 5),
    "volume's typical value": lambda d: d["files"][0]["volumes"][0].__setitem__(3, [1.0, 2.0]),
    "volume's column": lambda d: d["files"][0]["volumes"][0].__setitem__(4, ["close"]),
    "block's digest": lambda d: d["files"][0]["blocks"][0].__setitem__(3, "xyz"),
    "content hash": lambda d: d["files"][0].update(content_sha256="abc"),
    "file's symbol": lambda d: d["files"][0].update(symbol="ETHUSDT"),
    "swapped files": lambda d: d["files"].reverse(),
    "one file less": lambda d: d["files"].pop(),
    "further fact": lambda d: d["files"][0].update(more=1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_manifest_that_contradicts_itself_is_refused(record, lie):
    """Even with a correct hash, only a valid record is accepted."""
    manifest = record.to_manifest()
    document = deepcopy({**manifest.head, "files": [{"entry": e, **e.facts} for e in manifest.files]})
    lie(document)
    files = tuple(replace(f.pop("entry"), facts=f) for f in document.pop("files"))

    SnapshotRecord.from_manifest(manifest, where="here")
    with pytest.raises(InputError) as err:
        SnapshotRecord.from_manifest(Manifest("snapshot", document, files), where="here")
    assert err.value.message.startswith("here: ")


def test_all_violations_come_in_one_message(record):
    """A user can correct all of them at once."""
    manifest = record.to_manifest()
    head = {**manifest.head, "host": 1, "notes": 2, "surprise": 3}

    with pytest.raises(InputError) as err:
        SnapshotRecord.from_manifest(Manifest("snapshot", head, manifest.files), where="here")
    assert all(word in err.value.message for word in ("host", "notes", "surprise"))


def test_a_file_is_called_after_its_symbol():
    """The name is built from a valid symbol."""
    assert file_name("BTCUSDT") == "BTCUSDT.parquet"
