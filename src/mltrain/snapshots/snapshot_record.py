"""The record of a snapshot in its manifest: the request, the source, and the facts of each file.

Pure: manifests in, frozen values out, and back. Records are checked strictly, because the reader of candle files relies
on the names, sizes and numbers of rows in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, get_args

from mltrain.candles.anomalies import FalseVolume, Jump, count_zero_trade, find_jumps, find_zero_trade_runs
from mltrain.candles.candle_file import FIRST_OFFSET, Block
from mltrain.candles.frame import Gap, content_sha256, find_gaps, times_ms
from mltrain.candles.funding import FundingGap, find_funding_gaps, funding_sha256, usual_interval_ms
from mltrain.candles.parquet import MAX_ROWS
from mltrain.documents.records import (
    OMIT_DEFAULT,
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
from mltrain.names import SNAPSHOT, SYMBOL, check_choice, describe, read_symbols, show
from mltrain.snapshots.stored_inputs import PREFIX, InputFacts
from mltrain.sources.source import InputFiles, Origin
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import FileEntry, Manifest
from mltrain.times import (
    DAY_MS,
    INTERVALS_MS,
    TimeRange,
    ceil_to_grid,
    floor_to_grid,
    format_ms,
    interval_ms,
    parse_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

# How the window fits symbols of which one begins or ends before another; see `SnapshotRequest`.
Align: TypeAlias = Literal["union", "common"]

KIND: Final = "snapshot"
#: Name of the file with the funding events of all symbols.
FUNDING_FILE: Final = "funding.parquet"
# Daily prices of currencies since 1971.
MAX_DAYS: Final = 20_000
# Runs and jumps of one symbol: a manifest should stay readable.
MAX_LISTED: Final = 100
# Share of the previous close by which a close must differ from it to be listed as a jump.
JUMP_SHARE: Final = 0.5


@record
@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """The candles that a snapshot should contain.

    Attributes:
        symbols: Sorted, without repetition.
        days: Length of the window, in days before the cut.
        interval: Interval of the candles, such as "1m".
        end_ms: The cut, ms UTC, rounded down to the interval; None: the source's clock. With "common", the window ends
            earlier if a symbol does.
        align: "union": the window ends where the last symbol ends; "common": it is the part of it that all symbols
            cover, from the latest first candle to the earliest last one.
        start_ms: Open time of the window's first candle, ms UTC, if it is not a whole number of days before the cut:
            that of all candles which a folder has; None: the days decide.
    """

    symbols: tuple[Annotated[str, SYMBOL], ...]
    days: Annotated[int, Limits(1, MAX_DAYS)]
    interval: Annotated[str, OneOf(tuple(INTERVALS_MS)), REQUIRED] = "1m"
    end_ms: Annotated[TimeMs | None, Key("end"), REQUIRED] = None
    # Missing in manifests of earlier versions.
    align: Annotated[Align, OMIT_DEFAULT] = "union"
    start_ms: Annotated[TimeMs | None, Key("start"), OMIT_DEFAULT] = None

    def __post_init__(self) -> None:
        """Check every field, and sort the symbols; raise a UsageError for a wrong value."""
        step_ms = interval_ms(self.interval)
        symbols = tuple(sorted(read_symbols(self.symbols)))
        for name, value, allowed in (
            ("days", self.days, Integral),
            ("end_ms", self.end_ms, Integral | None),
            ("start_ms", self.start_ms, Integral | None),
        ):
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise UsageError(f"{name} is {describe(value)}: expected a whole number")
        if not 1 <= self.days <= MAX_DAYS:
            raise UsageError(f"days is {self.days}: expected 1 to {MAX_DAYS}")
        if self.days * DAY_MS < step_ms:
            raise UsageError(f"{self.days} days are shorter than a candle of {self.interval}")
        if self.days * DAY_MS // step_ms > MAX_ROWS:
            raise UsageError(f"{self.days} days of {self.interval} are more than {MAX_ROWS} candles of a symbol")
        check_choice(self.align, "align", get_args(Align))
        object.__setattr__(self, "symbols", symbols)

    def window(self, cut_ms: int) -> TimeRange:
        """Return the range of open times that end before the cut `cut_ms`, ms UTC, a time on the interval's grid.

        It begins on the grid, too: with 3d or 1w candles up to a candle later than the days say.
        """
        days_before_ms = ceil_to_grid(cut_ms - self.days * DAY_MS, interval_ms(self.interval))
        return TimeRange(days_before_ms if self.start_ms is None else self.start_ms, cut_ms)


@record
@dataclass(frozen=True, slots=True)
class SymbolFacts:
    """The facts about the file with the candles of one symbol in a snapshot.

    Attributes:
        symbol: The symbol.
        rows: Number of candles.
        first_ms: Open time of the first candle, ms UTC.
        last_ms: Open time of the last candle, ms UTC.
        gaps: All gaps in the window, including those at its beginning and end.
        zero_trade_rows: Number of candles without trades.
        zero_trade_runs: The MAX_LISTED longest runs of candles without trades, by time.
        jumps: The first MAX_LISTED moves by more than JUMP_SHARE of the previous close.
        origins: Where the candles came from, by time; empty if the source has only one place.
        blocks: Which bytes of the file hold which UTC days, by time.
        volumes: Volumes that contradict the prices, with the columns that were emptied before the file was written.
        sha256: SHA-256 of the file's bytes.
        content_sha256: SHA-256 of the candles' values; see `mltrain.candles.frame.content_sha256`.
        bytes: Size of the file.
    """

    symbol: Annotated[str, SYMBOL]
    rows: Annotated[int, Limits(1, MAX_ROWS)]
    first_ms: Annotated[TimeMs, Key("first")]
    last_ms: Annotated[TimeMs, Key("last")]
    # The key in the JSON of `snapshot`.
    gaps: tuple[Annotated[Gap, ROW], ...] = field(metadata={"key": "holes"})
    zero_trade_rows: Annotated[int, Limits(0)]
    zero_trade_runs: tuple[Annotated[Gap, ROW], ...]
    jumps: tuple[Annotated[Jump, ROW], ...]
    origins: tuple[Annotated[Origin, ROW], ...]
    blocks: tuple[Annotated[Block, ROW], ...]
    # Missing in manifests of earlier versions.
    volumes: tuple[Annotated[FalseVolume, ROW], ...] = field(default=(), kw_only=True)
    sha256: Sha256
    content_sha256: Sha256
    bytes: int

    @property
    def missing(self) -> int:
        """Number of candles that are missing in the window."""
        return sum(gap.missing for gap in self.gaps)

    @property
    def missing_before(self) -> int:
        """Number of candles that are missing between the beginning of the window and the first candle."""
        return sum(gap.missing for gap in self.gaps if gap.to_ms < self.first_ms)

    @property
    def missing_after(self) -> int:
        """Number of candles that are missing between the last candle and the end of the window."""
        return sum(gap.missing for gap in self.gaps if gap.from_ms > self.last_ms)

    @property
    def share(self) -> float:
        """Share of the window's candles that the symbol has, in (0, 1]."""
        return self.rows / (self.rows + self.missing)

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
        """Return the facts about the file of a symbol, computed from its candles.

        Args:
            frame: The candles, one or more, as `check_candles` returns them, with open times in `window`.
            entry: The file's name, size and hash.
            symbol: The symbol.
            window: The open times that the snapshot covers.
            step_ms: Length of the interval.
            origins: Where the candles came from, by time.
            blocks: Which bytes of the file hold which UTC days.
            volumes: Volumes that contradict the prices.
        """
        ts_ms = times_ms(frame)
        return cls(
            zero_trade_runs=find_zero_trade_runs(frame, step_ms, max_runs=MAX_LISTED),
            jumps=find_jumps(frame, min_share=JUMP_SHARE, max_jumps=MAX_LISTED),
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
        """Return the manifest's entry for the file, which holds all these facts."""
        facts = to_json(self)
        del facts["sha256"], facts["bytes"]
        return FileEntry(file_name(self.symbol), self.sha256, self.bytes, facts)


@record
@dataclass(frozen=True, slots=True)
class SymbolFundingFacts:
    """The facts about the funding events of one symbol in a snapshot.

    Attributes:
        symbol: The symbol.
        events: Number of events; 0 only if the symbol's candles cover less than 8 hours.
        first_ms: Time of the first event, ms UTC; None without one.
        last_ms: Time of the last event, ms UTC; None without one.
        interval_ms: The most frequent interval between two events, in whole hours as ms; None with fewer than two.
        gaps: Times without an event that was due, between the symbol's first and last candle.
        origins: Where the events came from, by time; empty if the source has only one place.
        content_sha256: SHA-256 of the events' values.
    """

    symbol: Annotated[str, SYMBOL]
    events: Annotated[int, Limits(0, MAX_ROWS)]
    first_ms: Annotated[TimeMs | None, Key("first")]
    last_ms: Annotated[TimeMs | None, Key("last")]
    interval_ms: Annotated[int, Limits(0)] | None
    gaps: tuple[Annotated[FundingGap, ROW], ...]
    origins: tuple[Annotated[Origin, ROW], ...]
    content_sha256: Sha256

    @classmethod
    def of(
        cls, frame: pl.DataFrame, candles: SymbolFacts, *, step_ms: int, origins: tuple[Origin, ...]
    ) -> SymbolFundingFacts:
        """Return the facts about a symbol's events, as `check_funding` returns them.

        Args:
            frame: The events.
            candles: The facts about the symbol's candles, which say when events were due.
            step_ms: Length of a candle.
            origins: Where the events came from.
        """
        ts_ms = times_ms(frame)
        due = ts_ms[(ts_ms >= candles.first_ms) & (ts_ms < candles.last_ms + step_ms)]
        return cls(
            symbol=candles.symbol,
            events=frame.height,
            first_ms=int(ts_ms[0]) if ts_ms.size else None,
            last_ms=int(ts_ms[-1]) if ts_ms.size else None,
            interval_ms=usual_interval_ms(ts_ms),
            gaps=find_funding_gaps(due, start_ms=candles.first_ms, end_ms=candles.last_ms + step_ms),
            origins=origins,
            content_sha256=funding_sha256(frame),
        )


@record
@dataclass(frozen=True, slots=True)
class FundingFacts:
    """The facts about the file with the funding events of all symbols of a snapshot.

    Attributes:
        symbols: The facts about the events of each symbol, sorted by symbol.
        rows: Number of events, all symbols together.
        sha256: SHA-256 of the file's bytes.
        bytes: Size of the file.
    """

    symbols: tuple[SymbolFundingFacts, ...]
    rows: Annotated[int, Limits(0, MAX_ROWS)]
    sha256: Sha256
    bytes: int

    def to_entry(self) -> FileEntry:
        """Return the manifest's entry for the file, which holds all these facts."""
        facts = to_json(self)
        del facts["sha256"], facts["bytes"]
        return FileEntry(FUNDING_FILE, self.sha256, self.bytes, facts)

    def of_symbol(self, symbol: str) -> SymbolFundingFacts | None:
        """Return the facts about the events of one symbol; None if there are none."""
        return next((facts for facts in self.symbols if facts.symbol == symbol), None)


def _as_pairs(tools: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(tools.items())


@record
@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """The content of a snapshot's manifest. `SnapshotRecord.from_manifest(r.to_manifest(), where="") == r`.

    Attributes:
        id: The cut, with a number if several snapshots have it, such as 2025-10-15T12-00-00Z.2.
        created_at: When it was written, ISO 8601 in UTC.
        source: How to open the source again.
        host: The host that answered; empty without network.
        request: The request.
        tools: Names and versions of mltrain and the libraries that wrote it.
        notes: Notes of the source, such as duplicates dropped.
        facts: The facts about each file, sorted by symbol.
        input_files: What was understood of the user's own files; None for any other source.
        funding_facts: The facts about the file of funding events; None without one: spot, and files.
        input_facts: The facts about the file of each input, the user's own columns, sorted by name.
    """

    id: Annotated[str, SNAPSHOT]
    created_at: Annotated[str, Encoded(TimeMs, format_ms, parse_time)]
    source: Annotated[SourceSpec, Encoded(Annotated[Json, RAW], SourceSpec.from_dict, SourceSpec.to_dict)]
    host: str
    request: SnapshotRequest
    tools: Annotated[tuple[tuple[str, str], ...], Encoded(Mapping[str, str], _as_pairs, dict)]
    notes: tuple[str, ...]
    facts: Annotated[tuple[SymbolFacts, ...], Key("files")]
    # Missing in manifests of earlier versions.
    input_files: Annotated[InputFiles | None, OMIT_DEFAULT] = field(default=None, kw_only=True)
    funding_facts: Annotated[FundingFacts | None, Key("funding"), OMIT_DEFAULT] = field(default=None, kw_only=True)
    input_facts: Annotated[tuple[InputFacts, ...], Key("inputs"), OMIT_DEFAULT] = field(default=(), kw_only=True)

    def to_manifest(self) -> Manifest:
        """Return the manifest that holds this record."""
        head = to_json(self)
        del head["files"]
        head.pop("funding", None)
        head.pop("inputs", None)
        funding = () if self.funding_facts is None else (self.funding_facts.to_entry(),)
        inputs = (facts.to_entry() for facts in self.input_facts)
        return Manifest(KIND, head, (*(facts.to_entry() for facts in self.facts), *funding, *inputs))

    @classmethod
    def from_manifest(cls, manifest: Manifest, *, where: str) -> SnapshotRecord:
        """Return the record in a manifest; `where` is the manifest's name in messages.

        Raises:
            InputError: Fields are missing, unknown, wrong or contradict each other; names every violation.
        """
        described: dict[str, Json] = {
            entry.path: {**entry.facts, "sha256": entry.sha256, "bytes": entry.bytes} for entry in manifest.files
        }
        others: dict[str, Json] = {"funding": described.pop(FUNDING_FILE)} if FUNDING_FILE in described else {}
        input_paths = [path for path in described if path.startswith(PREFIX)]
        if input_paths:
            others["inputs"] = [described.pop(path) for path in input_paths]
        record = read_record(Located({**manifest.head, "files": [*described.values()], **others}, where), cls)
        problems = _find_contradictions(record, manifest)
        if input_paths != sorted(facts.path for facts in record.input_facts):
            problems.append(f"files: {', '.join(input_paths)} are not those of its inputs, sorted")
        if record.funding_facts is not None:
            problems += _find_funding_contradictions(record.funding_facts, record)
        if "funding" in manifest.head:
            problems.append(f"funding: belongs to the entry of {FUNDING_FILE}")
        if "inputs" in manifest.head:
            problems.append("inputs: belong to the entries of their files")
        if manifest.head["request"] != to_json(record.request):
            problems.append("request: its symbols must be sorted and without repetition, and its end be written in UTC")
        if problems:
            raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
        return replace(record, source=replace(record.source, interval=record.request.interval))

    @property
    def cut_ms(self) -> int:
        """The end of the snapshot's window, ms UTC: all its candles close at this time or before."""
        return parse_id(self.id)[0]

    @property
    def window(self) -> TimeRange:
        """The open times that the snapshot covers: those of the request or, with "common", those of all symbols."""
        asked = self.request.window(self.cut_ms)
        if self.request.align == "union":
            return asked
        # The range that all symbols cover begins with a candle of the symbol that begins last.
        first_ms = min((facts.first_ms for facts in self.facts), default=asked.start_ms)
        return TimeRange(max(asked.start_ms, first_ms), asked.end_ms)

    def has_same_candles(self, other: SnapshotRecord) -> bool:
        """Return whether the other snapshot has the same candles, funding and inputs, by the same request."""
        return self.has_same_request(other) and self._content_hashes() == other._content_hashes()

    def _content_hashes(self) -> list[tuple[str, str]]:
        """Return name and content hash of the candles, then of the funding events, of each symbol, then of inputs."""
        hashes = [(facts.symbol, facts.content_sha256) for facts in self.facts]
        funding = self.funding_facts.symbols if self.funding_facts is not None else ()
        hashes += [(facts.symbol, facts.content_sha256) for facts in funding]
        return hashes + [facts.identity for facts in self.input_facts]

    def has_same_request(self, other: SnapshotRecord) -> bool:
        """Return whether the other snapshot was taken by the same request to the same source, with the same cut."""
        return (
            # The cut is compared instead of the requested end and the simulated clock that led to it.
            self.cut_ms == other.cut_ms
            and self.host == other.host
            and replace(self.request, end_ms=None) == replace(other.request, end_ms=None)
            and replace(self.source, end_ms=None) == replace(other.source, end_ms=None)
        )


def file_name(symbol: str) -> str:
    """Return the name of a symbol's file in a snapshot."""
    return f"{symbol}.parquet"


def snapshot_id(cut_ms: int, number: int = 1) -> str:
    """Return the id of the `number`-th snapshot, from 1, that ends at the cut `cut_ms`, ms UTC.

    >>> snapshot_id(1_760_529_600_000, 2)
    '2025-10-15T12-00-00Z.2'
    """
    name = format_ms(cut_ms).replace(":", "-")
    return name if number == 1 else f"{name}.{number}"


def parse_id(name: str) -> tuple[int, int]:
    """Return the cut, ms UTC, and the number in a snapshot's id `name`, which matches the pattern SNAPSHOT.

    Ids sorted by these are in the order of time. The cut is 0 for a day that does not exist.

    >>> parse_id("2025-10-15T12-00-00Z.2")
    (1760529600000, 2)
    """
    stamp, _, number = name.partition(".")
    day, _, clock = stamp.partition("T")
    try:
        return parse_time(f"{day}T{clock.replace('-', ':')}"), int(number or 1)
    except UsageError:
        return 0, int(number or 1)


def _find_contradictions(record: SnapshotRecord, manifest: Manifest) -> list[str]:
    """Return in a sentence each contradiction between the fields of a record, or between it and its manifest."""
    request, step_ms = record.request, interval_ms(record.request.interval)
    cut_ms = record.cut_ms
    problems = []
    is_cut = cut_ms > 0 and cut_ms == floor_to_grid(cut_ms, step_ms)
    if not is_cut or not 0 <= request.window(cut_ms).start_ms < cut_ms:
        problems.append(f"id: {show(record.id)} is not a cut of {request.interval} candles")
    names = [e.path for e in manifest.files if e.path != FUNDING_FILE and not e.path.startswith(PREFIX)]
    if names != [file_name(symbol) for symbol in request.symbols]:
        problems.append(f"files: expected those of {', '.join(request.symbols)}, got {', '.join(names)}")
    window = record.window
    for name, facts in zip(names, record.facts, strict=True):
        expected_rows = (window.end_ms - window.start_ms) // step_ms
        if name != file_name(facts.symbol):
            problems.append(f"{name}: holds the candles of {facts.symbol}")
        if not window.start_ms <= facts.first_ms <= facts.last_ms < window.end_ms:
            problems.append(f"{name}: first and last are not inside {window}")
        if facts.rows + facts.missing != expected_rows:
            problems.append(f"{name}: expected rows and gaps to be the {expected_rows} candles of its window together")
        runs = (*facts.gaps, *facts.zero_trade_runs)
        if any(run.missing < 1 or run.missing != (run.to_ms - run.from_ms) // step_ms + 1 for run in runs):
            problems.append(f"{name}: the length of a gap or run does not match its ends")
        if not _are_consecutive(facts.blocks, facts.bytes):
            problems.append(f"{name}: its blocks are not consecutive or lie outside the file")
        if facts.zero_trade_rows > facts.rows:
            problems.append(f"{name}: more rows without a trade than rows")
    return problems


def _find_funding_contradictions(funding: FundingFacts, record: SnapshotRecord) -> Iterator[str]:
    """Yield in a sentence each contradiction between the facts about funding and the record."""
    symbols = tuple(facts.symbol for facts in funding.symbols)
    if symbols != record.request.symbols:
        yield f"{FUNDING_FILE}: expected the symbols {', '.join(record.request.symbols)}, got {', '.join(symbols)}"
    if funding.rows != sum(facts.events for facts in funding.symbols):
        yield f"{FUNDING_FILE}: its rows are not the events of its symbols together"
    window = record.window
    for facts in funding.symbols:
        if (facts.events == 0) != (facts.first_ms is None) or (facts.first_ms is None) != (facts.last_ms is None):
            yield f"{FUNDING_FILE}: {facts.symbol}: first and last do not fit the number of events"
        times = [time_ms for time_ms in (facts.first_ms, facts.last_ms) if time_ms is not None]
        if times != sorted(times) or not all(window.start_ms <= time_ms < window.end_ms for time_ms in times):
            yield f"{FUNDING_FILE}: {facts.symbol}: first and last are not inside {window}"


def _are_consecutive(blocks: tuple[Block, ...], file_bytes: int) -> bool:
    """Return whether blocks are in order of time, and in order of position inside a file of `file_bytes` bytes."""
    bounds_ms = [time_ms for block in blocks for time_ms in (block.from_ms, block.to_ms)]
    offsets = [FIRST_OFFSET, *(block.end for block in blocks)]
    return (
        bounds_ms == sorted(bounds_ms)
        and all(block.from_ms < block.to_ms for block in blocks)
        and all(begin < end for begin, end in pairwise(offsets))
        and offsets[-1] <= max(file_bytes, FIRST_OFFSET)
    )
