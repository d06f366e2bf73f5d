"""Three hundred changes to a snapshot's files: each is found by a hash before the bytes are parsed."""

from __future__ import annotations

import random
import shutil

import pytest

from mltrain.candles import candle_file
from mltrain.errors import InputError
from mltrain.progress import Silent
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from support.program import call

MUTATIONS = 300
FILES = ("BTCUSDT.parquet", "ETHUSDT.parquet", "manifest.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a data folder with one snapshot; tests change copies of it."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    spec = SourceSpec(name="sim", signal="weak")
    request = SnapshotRequest(("BTCUSDT", "ETHUSDT"), 2)
    take_snapshot(folder, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent())
    return folder


def flip(data, rng, _):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(data, rng, _):
    return data[: rng.randrange(len(data))]


def splice(data, rng, other):
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    at = rng.randrange(len(other))
    return data[:a] + other[at : at + 1 + b - a] + data[b + 1 :]


def zero(data, rng, _):
    at = rng.randrange(len(data))
    return data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]


def extend(data, rng, _):
    return data + rng.randbytes(1 + rng.randrange(100))


CHANGES = (flip, flip, cut, splice, zero, extend)


def mutate(folder, number):
    """Change one file of a snapshot, or swap two, and return a description; the bytes always change."""
    rng = random.Random(number)  # noqa: S311 -- a failure must come back with its number
    if number % 10 == 9:
        one, other = (folder / name for name in rng.sample(FILES, 2))
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        return f"{number}: swap {one.name} and {other.name}"
    name = FILES[number % 3]
    data = (folder / name).read_bytes()
    other = (folder / FILES[(number + 1) % 3]).read_bytes()
    changed, change = data, flip
    while changed == data:
        change = rng.choice(CHANGES)
        changed = change(data, rng, other)
    (folder / name).write_bytes(changed)
    return f"{number}: {change.__name__} {name}"


def find(data_dir):
    """Return the problems that opening, verifying and reading a snapshot find."""
    try:
        snapshot = open_snapshot(data_dir, "latest")
        problems = list(verify_snapshot(snapshot))
        for symbol in snapshot.symbols:
            snapshot.candles(symbol)
    except InputError as err:
        return [err.message]
    return problems


def test_every_change_is_found_before_it_is_parsed(whole, tmp_path, monkeypatch):
    """Flipped, cut, spliced, zeroed, extended and swapped files are refused, and the Parquet reader sees none."""
    good = {(whole / "snapshots" / "latest" / name).read_bytes() for name in FILES}

    class CheckedParquetFile(candle_file.ParquetFile):
        def __init__(self, data, *, where):
            assert data in good, f"a parser reached {where}"
            super().__init__(data, where=where)

    monkeypatch.setattr(candle_file, "ParquetFile", CheckedParquetFile)
    missed = []
    for number in range(MUTATIONS):
        data_dir = tmp_path / "data"
        shutil.copytree(whole, data_dir, symlinks=True)
        what = mutate(data_dir / "snapshots" / (whole / "snapshots" / "latest").readlink(), number)
        if not find(data_dir):
            missed.append(what)
        shutil.rmtree(data_dir)

    assert missed == []
    assert find(whole) == []


@pytest.mark.parametrize("number", [0, 2, 9])
def test_the_command_finds_every_change(whole, tmp_path, number):
    """`verify snapshot` ends with 3 and names the file, without a traceback."""
    data_dir = tmp_path / "data"
    shutil.copytree(whole, data_dir, symlinks=True)
    what = mutate(data_dir / "snapshots" / (whole / "snapshots" / "latest").readlink(), number)
    done = call("verify", "snapshot", data_dir=data_dir)

    assert done.code == 3, what
    assert any(name in done.out + done.err for name in FILES)
    assert "Traceback" not in done.err
