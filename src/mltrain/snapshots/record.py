"""What a snapshot's manifest says: who asked for which candles, where they came from, what is in each file.

Pure: manifests in, frozen values out, and back. What is read is checked strictly, because everything that opens a
candle file afterwards (its name, its size, its number of rows) rests on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Final, TypeVar

from mltrain.candles.candle_file import Block
from mltrain.candles.frame import (
    OPTIONAL,
    Gap,
    Jump,
    content_sha256,
    find_gaps,
    find_jumps,
    times_ms,
    zero_trade_rows,
    zero_trade_runs,
)
from mltrain.candles.parquet import MAX_ROWS
from mltrain.candles.volumes import BOUNDS, FalseVolume
from mltrain.documents.fields import Fields
from mltrain.documents.values import SHA256, Located
from mltrain.errors import InputError, UsageError
from mltrain.names import SNAPSHOT, SYMBOL, describe, read_symbols, show
from mltrain.sources.source import ORIGIN, Origin
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.manifest import FileEntry, Manifest
from mltrain.times import DAY_MS, INTERVALS_MS, TimeRange, format_ms, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

    from mltrain.documents.values import Json

T = TypeVar("T")

KIND: Final = "snapshot"
MAX_DAYS: Final = 5_000  # thirteen years
MAX_LISTED: Final = 100  # runs and jumps of one symbol: a manifest is read by people, too
JUMP_SHARE: Final = 0.5  # of the close before

_DIGEST: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Request:
    """Which candles are asked for.

    Attributes:
        symbols: Without repetition; kept sorted.
        days: Length of the window, in days before the cut.
        interval: Interval of the candles.
        end_ms: The cut, ms UTC, rounded down to the interval; None: the source's clock.
    """

    symbols: tuple[str, ...]
    days: int
    interval: str = "1m"
    end_ms: int | None = None

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

    symbol: str
    rows: int
    first_ms: int
    last_ms: int
    # In the JSON of `snapshot` the key is the older word.
    gaps: tuple[Gap, ...] = field(metadata={"key": "holes"})
    zero_trade_rows: int
    zero_trade_runs: tuple[Gap, ...]
    jumps: tuple[Jump, ...]
    origins: tuple[Origin, ...]
    blocks: tuple[Block, ...]
    volumes: tuple[FalseVolume, ...]
    sha256: str
    content_sha256: str
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
            zero_trade_runs=zero_trade_runs(frame, step_ms, most=MAX_LISTED),
            jumps=find_jumps(frame, share=JUMP_SHARE, most=MAX_LISTED),
            origins=origins,
            blocks=blocks,
            volumes=volumes,
            symbol=symbol,
            rows=frame.height,
            first_ms=int(ts_ms[0]),
            last_ms=int(ts_ms[-1]),
            gaps=find_gaps(ts_ms, step_ms, start_ms=window.start_ms, end_ms=window.end_ms),
            zero_trade_rows=zero_trade_rows(frame),
            sha256=entry.sha256,
            content_sha256=content_sha256(frame),
            bytes=entry.bytes,
        )

    def to_dict(self) -> dict[str, Json]:
        """Return what the manifest records beside name, size and hash of the file."""
        gaps, quiet = (_spell_runs(runs) for runs in (self.gaps, self.zero_trade_runs))
        return {
            "symbol": self.symbol,
            "rows": self.rows,
            "first": format_ms(self.first_ms),
            "last": format_ms(self.last_ms),
            "gaps": gaps,
            "zero_trade_rows": self.zero_trade_rows,
            "zero_trade_runs": quiet,
            "jumps": [[format_ms(j.ts_ms), j.before, j.after] for j in self.jumps],
            "origins": [[format_ms(o.from_ms), format_ms(o.to_ms), o.origin] for o in self.origins],
            "blocks": [[format_ms(b.from_ms), format_ms(b.to_ms), b.end, b.digest] for b in self.blocks],
            "volumes": [
                [v.what, v.candles, v.traded, None if v.typical is None else list(v.typical), list(v.emptied)]
                for v in self.volumes
            ],
            "content_sha256": self.content_sha256,
        }


def _spell_runs(runs: tuple[Gap, ...]) -> list[Json]:
    return [[format_ms(run.from_ms), format_ms(run.to_ms), run.missing] for run in runs]


@dataclass(frozen=True, slots=True)
class Record:
    """All that a snapshot's manifest says. `read_record(r.to_manifest(), where="") == r`.

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

    id: str
    created_at: str
    source: SourceSpec
    host: str
    request: Request
    tools: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    facts: tuple[SymbolFacts, ...]

    def to_manifest(self) -> Manifest:
        """Return the manifest that says it."""
        end_ms = self.request.end_ms
        head: dict[str, Json] = {
            "id": self.id,
            "created_at": self.created_at,
            "source": self.source.to_dict(),
            "host": self.host,
            "request": {
                "symbols": list(self.request.symbols),
                "days": self.request.days,
                "interval": self.request.interval,
                "end": None if end_ms is None else format_ms(end_ms),
            },
            "tools": dict(self.tools),
            "notes": list(self.notes),
        }
        files = (FileEntry(file_name(f.symbol), f.sha256, f.bytes, f.to_dict()) for f in self.facts)
        return Manifest(KIND, head, tuple(files))

    @property
    def cut_ms(self) -> int:
        """The end of its window, ms UTC: every candle in it closes at this time or before."""
        return parse_id(self.id)[0]

    def is_same(self, other: Record) -> bool:
        """Tell whether both hold the same candles for the same request, whatever wrote them and when."""
        mine, others = ([(f.symbol, f.content_sha256) for f in r.facts] for r in (self, other))
        return self.asks_like(other) and mine == others

    def asks_like(self, other: Record) -> bool:
        """Tell whether both come of the same request to the same source."""
        return self._request() == other._request()

    def _request(self) -> tuple[object, ...]:
        # The end asked for and the simulated clock are left out: the cut, which both led to, is compared.
        return self.cut_ms, replace(self.request, end_ms=None), replace(self.source, end_ms=None), self.host


def read_record(manifest: Manifest, *, where: str) -> Record:
    """Return what a manifest says.

    Raises:
        InputError: A field is missing, unknown or of a wrong form, or two contradict each other; names them all.
    """
    document: dict[str, Json] = {**manifest.head, "files": [dict(entry.facts) for entry in manifest.files]}
    root = Fields(Located(document, where))
    request = _read_request(root.fields("request"))
    source = _read_source(root.fields("source"), request.interval)
    tools = root.fields("tools")
    facts = tuple(_read_facts(item, entry) for item, entry in zip(root.items("files"), manifest.files, strict=True))
    record = Record(
        id=root.text("id", pattern=SNAPSHOT),
        created_at=format_ms(_read_time(root, "created_at")),
        source=source,
        host=root.text("host"),
        request=request,
        tools=tuple((name, tools.text(name)) for name in tools.keys()),  # noqa: SIM118 -- `tools` is no mapping
        notes=tuple(root.texts("notes")),
        facts=facts,
    )
    root.finish()
    problems = _contradictions(record, manifest)
    if problems:
        raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
    return record


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


def _read_request(fields: Fields) -> Request:
    harmless = Request(symbols=("NONE",), days=1)
    symbols = fields.texts("symbols", pattern=SYMBOL)
    days = fields.integer("days", minimum=1, maximum=MAX_DAYS)
    interval = fields.text("interval", choices=tuple(INTERVALS_MS))
    end_ms = None if fields.raw("end") is None else _read_time(fields, "end")
    try:
        request = Request(symbols=tuple(symbols), days=days, interval=interval, end_ms=end_ms)
    except UsageError as err:
        fields.problem(None, err.message)
        return harmless
    if request.symbols != tuple(symbols):
        fields.problem("symbols", "must be sorted and without repetition")
    return request


def _read_source(fields: Fields, interval: str) -> SourceSpec:
    try:
        return SourceSpec.from_fields(fields, interval=interval)
    except UsageError as err:
        fields.problem(None, err.message)
        return SourceSpec(name="sim", interval=interval)


def _read_facts(fields: Fields, entry: FileEntry) -> SymbolFacts:
    return SymbolFacts(
        symbol=fields.text("symbol", pattern=SYMBOL),
        rows=fields.integer("rows", minimum=1, maximum=MAX_ROWS),
        first_ms=_read_time(fields, "first"),
        last_ms=_read_time(fields, "last"),
        gaps=_read_runs(fields, "gaps"),
        zero_trade_rows=fields.integer("zero_trade_rows", minimum=0),
        zero_trade_runs=_read_runs(fields, "zero_trade_runs"),
        jumps=tuple(_read_rows(fields, "jumps", _read_jump)),
        origins=tuple(_read_rows(fields, "origins", _read_origin)),
        blocks=tuple(_read_rows(fields, "blocks", _read_block)),
        # Missing in manifests of earlier versions.
        volumes=tuple(_read_rows(fields, "volumes", _read_volume)) if "volumes" in fields.value else (),
        sha256=entry.sha256,
        content_sha256=fields.text("content_sha256", pattern=SHA256),
        bytes=entry.bytes,
    )


def _read_time(fields: Fields, key: str) -> int:
    try:
        return parse_time(fields.text(key))
    except UsageError as err:
        fields.problem(key, err.message)
        return 0


def _read_runs(fields: Fields, key: str) -> tuple[Gap, ...]:
    return tuple(_read_rows(fields, key, _read_run))


def _read_rows(fields: Fields, key: str, read: Callable[[list[Json]], T | None]) -> Iterator[T]:
    """Yield what the rows of a list say; one that has another form is a violation."""
    rows = fields.raw(key)
    for row in rows if isinstance(rows, list) else [rows]:
        try:
            value = read(row) if isinstance(row, list) else None
        except UsageError as err:
            fields.problem(key, err.message)
            return
        if value is None:
            fields.problem(key, f"{show(str(row))} is no row of it")
            return
        yield value


def _read_run(row: list[Json]) -> Gap | None:
    match row:
        case [str(first), str(last), int(missing)] if not isinstance(missing, bool):
            return Gap(parse_time(first), parse_time(last), missing)
    return None


def _read_jump(row: list[Json]) -> Jump | None:
    match row:
        case [str(ts), float(before), float(after)]:
            return Jump(parse_time(ts), before, after)
    return None


def _read_origin(row: list[Json]) -> Origin | None:
    match row:
        case [str(first), str(last), str(origin)] if ORIGIN.fullmatch(origin):
            return Origin(parse_time(first), parse_time(last), origin)
    return None


def _read_block(row: list[Json]) -> Block | None:
    match row:
        case [str(first), str(last), int(end), str(digest)] if _DIGEST.fullmatch(digest):
            return Block(parse_time(first), parse_time(last), end, digest)
    return None


def _read_volume(row: list[Json]) -> FalseVolume | None:
    match row:
        case [str(what), int(candles), int(traded), typical, list(emptied)]:
            middle = _read_typical(typical)
            names = tuple(name for name in emptied if isinstance(name, str) and name in OPTIONAL)
            sound = what in BOUNDS and 1 <= candles <= traded and len(names) == len(emptied)
            if sound and (typical is None) == (middle is None):
                return FalseVolume(what, candles, traded, middle, names)
    return None


def _read_typical(value: Json) -> tuple[float, float, float] | None:
    match value:
        case [float(found), float(low), float(high)]:
            return found, low, high
    return None


def _contradictions(record: Record, manifest: Manifest) -> list[str]:
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
