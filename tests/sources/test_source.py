"""Laws of source specifications, and of every source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.errors import InputError, UsageError
from mltrain.progress import Silent
from mltrain.simulator.server import SimServer
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, GENESIS_MS, LAST_CLOCK_MS, SimSource
from mltrain.sources.source_spec import SIGNALS, SOURCES, SourceSpec
from mltrain.times import DAY_MS, INTERVALS_MS, TimeRange

specs = st.one_of(
    st.builds(
        SourceSpec,
        name=st.just("sim"),
        seed=st.integers(0, 2**63 - 1),
        signal=st.sampled_from(SIGNALS),
        interval=st.sampled_from(list(INTERVALS_MS)),
        end_ms=st.none() | st.integers(GENESIS_MS + 1, LAST_CLOCK_MS),
    ),
    st.builds(
        SourceSpec,
        name=st.sampled_from(["binance", "archive", "ccxt:kraken", "ccxt:okx"]),
        base_url=st.sampled_from(["", "https://api.example.com", "http://127.0.0.1:8000/x/"]),
        interval=st.sampled_from(list(INTERVALS_MS)),
    ),
    st.builds(
        SourceSpec,
        name=st.just("files"),
        folder=st.sampled_from([Path("a/b"), Path("/x y/ü"), Path()]),
        timezone=st.sampled_from([None, "Europe/Berlin", "+03:00"]),
        interval=st.sampled_from(list(INTERVALS_MS)),
    ),
)


@given(specs)
def test_a_specification_survives_its_record(spec):
    """`from_dict` reads the output of `to_dict` and requires exactly its keys; the interval is kept elsewhere."""
    value = spec.to_dict()

    assert replace(SourceSpec.from_dict(value), interval=spec.interval) == spec
    for key in value.keys() - {"clock", "timezone"}:
        with pytest.raises((InputError, UsageError)):
            SourceSpec.from_dict({k: v for k, v in value.items() if k != key})
    for key in (
        {"folder", "seed", "signal", "clock", "base_url", "archive_url", "timezone", "interval"}
        - value.keys()
        - ({"timezone"} if spec.name == "files" else set())
    ):
        with pytest.raises((InputError, UsageError)):
            SourceSpec.from_dict({**value, key: None})


@pytest.mark.parametrize(
    "options",
    [
        {"name": "binanse"},
        {"name": "ccxt"},
        {"name": "ccxt:"},
        {"name": "ccxt:../x"},
        {"name": "ccxt:kraken", "folder": Path("x")},
        {"name": "ccxt:kraken", "archive_url": "https://a.example"},
        {"name": "files"},
        {"name": "sim", "folder": Path("x")},
        {"name": "files", "folder": Path("x"), "end_ms": CLOCK_MS},
        {"name": "sim", "seed": -1},
        {"name": "sim", "seed": 2**63},
        {"name": "sim", "signal": "medium"},
        {"name": "sim", "interval": "7m"},
        {"name": "sim", "timezone": "Europe/Berlin"},
        {"name": "files", "folder": Path("x"), "timezone": "Europe/Berln"},
    ],
)
def test_impossible_specifications_are_usage_errors(options):
    """Unknown names, a folder for a source without one, and a seed that JSON cannot hold."""
    with pytest.raises(UsageError):
        SourceSpec(**options)


def test_all_violations_are_reported_at_once():
    """One message names every invalid field."""
    with pytest.raises(UsageError, match=r"source 'x'.*folder.*seed -1.*signal 'y'"):
        SourceSpec(name="x", folder=Path("z"), seed=-1, signal="y")


def test_a_folder_is_made_absolute():
    """The record of a snapshot does not depend on the working directory."""
    assert SourceSpec(name="files", folder=Path("data")).folder == Path.cwd() / "data"


def test_the_zone_is_recorded_only_where_it_is_given():
    """The manifests of earlier versions keep their bytes."""
    spec = SourceSpec(name="files", folder=Path("/x"))

    assert spec.to_dict() == {"name": "files", "folder": "/x"}
    assert replace(spec, timezone="+03:00").to_dict() == {"name": "files", "folder": "/x", "timezone": "+03:00"}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    """Return each source in turn, with the symbol BTCUSDT."""
    sim = open_source(SourceSpec(name="sim", seed=4))
    match request.param:
        case "sim":
            yield sim
        case "files":
            candles = sim.candles("BTCUSDT", TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS))
            candles.write_parquet(tmp_path / "BTCUSDT.parquet")
            yield open_source(SourceSpec(name="files", folder=tmp_path))
        case name:
            with SimServer(seed=4) as server:
                archive_url = server.archive_url if name == "archive" else ""
                yield open_source(SourceSpec(name=name, base_url=server.base_url, archive_url=archive_url))


def test_every_source_keeps_the_protocol(source, request, tmp_path):
    """Name, host, clock and extent agree; candles are valid, closed and inside the window."""
    source.check_symbols(("BTCUSDT",))
    clock = source.clock_ms(("BTCUSDT",))
    window = TimeRange(clock - DAY_MS, clock + DAY_MS)
    frame = source.candles("BTCUSDT", window)
    closed = TimeRange(clock - DAY_MS, clock)
    asked = {"data_dir": tmp_path / "data", "refresh": False, "progress": Silent()}
    with source.download(("BTCUSDT",), closed, **asked) as downloaded:
        assert downloaded.candles("BTCUSDT").frame.equals(frame)

    assert source.name in request.node.name
    assert source.host == "" or source.host.startswith("127.0.0.1:")
    assert source.interval == "1m"
    assert "BTCUSDT" in source.symbols()
    assert list(source.symbols()) == sorted(source.symbols())
    assert source.extent("BTCUSDT").end_ms == clock
    assert check_candles(frame, symbol="BTCUSDT", interval="1m", where="here").equals(frame)
    assert frame.equals(SimSource(seed=4).candles("BTCUSDT", closed))
    assert source.notes() == ()


def test_every_source_names_the_symbol_it_lacks(source):
    """The error names the nearest symbol that the source has."""
    for ask in (source.extent, lambda s: source.candles(s, TimeRange(0, 1)), lambda s: source.check_symbols((s,))):
        with pytest.raises(InputError) as err:
            ask("BTCUSDX")
        assert "BTCUSDT" in err.value.hint
