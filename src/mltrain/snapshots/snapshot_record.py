"""What a snapshot's manifest says: who asked for which candles, where they came from, what is in each file.

Pure: manifests in, frozen values out, and back. What is read is checked strictly, because everything that opens a
candle file afterwards (its name, its size, its number of rows) rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.candles.anomalies import FalseVolume, Jump, count_zero_trade, find_jumps, find_zero_trade_runs
from mltrain.candles.candle_file import Block
from mltrain.candles.frame import Gap, content_sha256, find_gaps, times_ms
from mltrain.candles.parquet import MAX_ROWS
from mltrain.documents.records import (
    RAW,
    REQUIRED,
    ROW,
    Encoded,
    Key,
    Limits,
    OneOf,
    TimeMs,
    read_record,
    record,
    to_json,
)
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError, UsageError
from mltrain.names import SNAPSHOT, SYMBOL, describe, read_symbols, show
from mltrain.sources.source import Origin
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import FileEntry, Manifest
from mltrain.times import DAY_MS, INTERVALS_MS, TimeRange, format_ms, interval_ms, parse_time

if TYPE_CHECKING:
    import polars as pl

KIND: Final = "snapshot"
MAX_DAYS: Final = 5_000  # thirteen years
MAX_LISTED: Final = 100  # runs and jumps of one symbol: a manifest is read by people, too
JUMP_SHARE: Final = 0.5  # of the close before


@record
@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Which candles are asked for.

    Attributes:
        symbols: Without repetition; kept sorted.
        days: Length of the window, in days before the cut.
        interval: Interval of the candles.
        end_ms: The cut, ms UTC, rounded down to the interval; None: the source's clock.
    """

    symbols: tuple[Annotated[str, SYMBOL], ...]
    days: Annotated[int, Limits(1, MAX_DAYS)]
    interval: Annotated[str, OneOf(tuple(INTERVALS_MS)), REQUIRED] = "1m"
    end_ms: Annotated[TimeMs | None, Key("end"), REQUIRED] = None

    def __post_init__(self) -> None:
        """Check every field and sort the symbols.

        Raises:
            UsageError: No symbols, one outside the grammar, an unknown interval, or days outside 1 to MAX_DAYS.
        """
        step_ms = interval_ms(self.interval)
        symbols = tuple(sorted(read_symbols(self.symbols)))
        for name, value in (("days", self.days), ("end_ms", self.end_ms)):
            if not isinstance(value, Integral | None) or isinstance(value, bool) or (name == "days" and value is None):
                raise UsageError(f"{name} is {describe(value)}: expected a whole number")
        if not 1 <= self.days <= MAX_DAYS:
            raise UsageError(f"{self.days} days: must be 1 to {MAX_DAYS}")
        if self.days * DAY_MS // step_ms > MAX_ROWS:
            raise UsageError(f"{self.days} days of {self.interval} are more than {MAX_ROWS} candles of a symbol")
        object.__setattr__(self, "symbols", symbols)

    def window(self, cut_ms: int) -> TimeRange:
        """Return the open times that the request covers when it is cut at `cut_ms`, on the grid."""
        return TimeRange(cut_ms - self.days * DAY_MS, cut_ms)


@record
@dataclass(frozen=True, slots=True)
class SymbolFacts:
    """What one file of a snapshot holds.

    Attributes:
        symbol: Whose candles.
        rows: How many.
        first_ms: Open time of the first, ms UTC.
        last_ms: Open time of the last, ms UTC.
        gaps: Every run of missing candles of the window, those at its beginning and end included.
        zero_trade_rows: Candles in which nothing was traded.
        zero_trade_runs: The longest runs of such candles, MAX_LISTED at the most, by time.
        jumps: The first MAX_LISTED moves of more than JUMP_SHARE from one close to the next.
        origins: Where its candles came from, by time; empty where the source has but one place.
        blocks: Where each day lies in the file.
        volumes: Volumes that contradict the prices, and which columns were left empty because of it before the file was
            written.
        sha256: Of the file's bytes.
        content_sha256: Of the candles themselves, whatever wrote the file.
        bytes: Size of the file.
    """

    symbol: Annotated[str, SYMBOL]
    rows: Annotated[int, Limits(1, MAX_ROWS)]
    first_ms: Annotated[TimeMs, Key("first")]
    last_ms: Annotated[TimeMs, Key("last")]
    # In the JSON of `snapshot` the key is the older word.
    gaps: tuple[Annotated[Gap, ROW], ...] = field(metadata={"key": "holes"})
    zero_trade_rows: Annotated[int, Limits(0)]
    zero_trade_runs: tuple[Annotated[Gap, ROW], ...]
    jumps: tuple[Annotated[Jump, ROW], ...]
    origins: tuple[Annotated[Origin, ROW], ...]
    blocks: tuple[Annotated[Block, ROW], ...]
    # Manifests of earlier versions do not have it.
    volumes: tuple[Annotated[FalseVolume, ROW], ...] = field(default=(), kw_only=True)
    sha256: Sha256
    content_sha256: Sha256
    bytes: int

    @property
    def missing(self) -> int:
        """How many candles of the window are missing."""
        return sum(gap.missing for gap in self.gaps)

    @classmethod
    def of(
        cls,
        frame: pl.DataFrame,
        entry: FileEntry,
        *,
        symbol: str,
        window: TimeRange,
        step_ms: int,
        origins: tuple[Origin, ...] = (),
        blocks: tuple[Block, ...] = (),
        volumes: tuple[FalseVolume, ...] = (),
    ) -> SymbolFacts:
        """Count a frame of at least one candle, all inside the window, that is kept in the file `entry`."""
        ts_ms = times_ms(frame)
        return cls(
            zero_trade_runs=find_zero_trade_runs(frame, step_ms, most=MAX_LISTED),
            jumps=find_jumps(frame, share=JUMP_SHARE, most=MAX_LISTED),
            origins=origins,
            blocks=blocks,
            volumes=volumes,
            symbol=symbol,
            rows=frame.height,
            first_ms=int(ts_ms[0]),
            last_ms=int(ts_ms[-1]),
            gaps=find_gaps(ts_ms, step_ms, start_ms=window.start_ms, end_ms=window.end_ms),
            zero_trade_rows=count_zero_trade(frame),
            sha256=entry.sha256,
            content_sha256=content_sha256(frame),
            bytes=entry.bytes,
        )

    def to_entry(self) -> FileEntry:
        """Return the manifest's entry of the file."""
        facts = to_json(self)
        del facts["sha256"], facts["bytes"]
        return FileEntry(file_name(self.symbol), self.sha256, self.bytes, facts)


def _items(tools: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(tools.items())


@record
@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """All that a snapshot's manifest says. `SnapshotRecord.from_manifest(r.to_manifest(), where="") == r`.

    Attributes:
        id: The cut, and a number where there are several: 2025-10-15T12-00-00Z.2.
        created_at: When it was written, ISO 8601 in UTC.
        source: How to open the source again.
        host: The host that answered; empty where no network was asked.
        request: What was asked for.
        tools: Versions of what wrote it, by name.
        notes: What the source had to tell, such as duplicates dropped.
        facts: What is in each file, by symbol in order.
    """

    id: Annotated[str, SNAPSHOT]
    created_at: Annotated[str, Encoded(TimeMs, format_ms, parse_time)]
    source: Annotated[SourceSpec, Encoded(Annotated[Json, RAW], SourceSpec.from_dict, SourceSpec.to_dict)]
    host: str
    request: SnapshotRequest
    tools: Annotated[tuple[tuple[str, str], ...], Encoded(Mapping[str, str], _items, dict)]
    notes: tuple[str, ...]
    facts: Annotated[tuple[SymbolFacts, ...], Key("files")]

    def to_manifest(self) -> Manifest:
        """Return the manifest that says it."""
        head = to_json(self)
        del head["files"]
        return Manifest(KIND, head, tuple(facts.to_entry() for facts in self.facts))

    @classmethod
    def from_manifest(cls, manifest: Manifest, *, where: str) -> SnapshotRecord:
        """Return what a manifest says.

        Raises:
            InputError: A field is missing, unknown or of a wrong form, or two contradict each other; names them all.
        """
        files: list[Json] = [{**entry.facts, "sha256": entry.sha256, "bytes": entry.bytes} for entry in manifest.files]
        record = read_record(Located({**manifest.head, "files": files}, where), cls)
        problems = _contradictions(record, manifest)
        if manifest.head["request"] != to_json(record.request):
            problems.append("request: its symbols must be sorted and without repetition, and its end be written in UTC")
        if problems:
            raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
        return replace(record, source=replace(record.source, interval=record.request.interval))

    @property
    def cut_ms(self) -> int:
        """The end of its window, ms UTC: every candle in it closes at this time or before."""
        return parse_id(self.id)[0]

    def is_same(self, other: SnapshotRecord) -> bool:
        """Tell whether both hold the same candles for the same request, whatever wrote them and when."""
        mine, others = ([(f.symbol, f.content_sha256) for f in r.facts] for r in (self, other))
        return self.asks_like(other) and mine == others

    def asks_like(self, other: SnapshotRecord) -> bool:
        """Tell whether both come of the same request to the same source."""
        return self._request() == other._request()

    def _request(self) -> tuple[object, ...]:
        # The end asked for and the simulated clock are left out: the cut, which both led to, is compared.
        return self.cut_ms, replace(self.request, end_ms=None), replace(self.source, end_ms=None), self.host


def file_name(symbol: str) -> str:
    """Return the name of a symbol's file in a snapshot."""
    return f"{symbol}.parquet"


def snapshot_id(cut_ms: int, number: int = 1) -> str:
    """Return the id of the `number`-th snapshot at a cut.

    >>> snapshot_id(1_760_529_600_000, 2)
    '2025-10-15T12-00-00Z.2'
    """
    name = format_ms(cut_ms).replace(":", "-")
    return name if number == 1 else f"{name}.{number}"


def parse_id(snapshot: str) -> tuple[int, int]:
    """Return cut (ms UTC) and number of an id that has the grammar; sorts ids by time.

    >>> parse_id("2025-10-15T12-00-00Z.2")
    (1760529600000, 2)
    """
    stamp, _, number = snapshot.partition(".")
    day, _, clock = stamp.partition("T")
    try:
        return parse_time(f"{day}T{clock.replace('-', ':')}"), int(number or 1)
    except UsageError:  # the grammar allows a 31st of February
        return 0, int(number or 1)


def _contradictions(record: SnapshotRecord, manifest: Manifest) -> list[str]:
    """List what cannot be true together."""
    request, step_ms = record.request, interval_ms(record.request.interval)
    cut_ms = record.cut_ms
    problems = []
    if cut_ms == 0 or cut_ms % step_ms or cut_ms < request.days * DAY_MS:
        problems.append(f"id: {show(record.id)} is no cut of {request.interval} candles")
    names = [entry.path for entry in manifest.files]
    if names != [file_name(symbol) for symbol in request.symbols]:
        problems.append(f"files: must be those of {', '.join(request.symbols)}, are {', '.join(names)}")
    window = request.window(cut_ms)
    for name, facts in zip(names, record.facts, strict=True):
        expected = (window.end_ms - window.start_ms) // step_ms
        if name != file_name(facts.symbol):
            problems.append(f"{name}: holds the candles of {facts.symbol}")
        if not window.start_ms <= facts.first_ms <= facts.last_ms < window.end_ms:
            problems.append(f"{name}: first and last are not inside {window}")
        if facts.rows + sum(gap.missing for gap in facts.gaps) != expected:
            problems.append(f"{name}: rows and gaps together are not the {expected} candles of its window")
        runs = (*facts.gaps, *facts.zero_trade_runs)
        if any(run.missing < 1 or run.missing != (run.to_ms - run.from_ms) // step_ms + 1 for run in runs):
            problems.append(f"{name}: a gap or a run is not as long as it says")
        if not _are_blocks(facts.blocks, facts.bytes):
            problems.append(f"{name}: its blocks do not follow one another inside the file")
        if facts.zero_trade_rows > facts.rows:
            problems.append(f"{name}: more rows without a trade than rows")
    return problems


def _are_blocks(blocks: tuple[Block, ...], size: int) -> bool:
    """Tell whether blocks can lie one after another, in time and in a file of so many bytes."""
    bounds_ms = [time_ms for block in blocks for time_ms in (block.from_ms, block.to_ms)]
    ends = [4, *(block.end for block in blocks)]
    return (
        bounds_ms == sorted(bounds_ms)
        and all(block.from_ms < block.to_ms for block in blocks)
        and all(a < b for a, b in pairwise(ends))
        and ends[-1] <= max(size, 4)
    )
