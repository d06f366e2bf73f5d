"""The inputs of a snapshot: the user's own columns, read from their files, and stored as known-at times and values.

A snapshot keeps what its candles may know: all values that became known during its window, and the newest one before.
What a file gains later changes nothing, and neither does another `max_age`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.candles.input_tables import LaterTimes, encode_input, input_sha256, read_input
from mltrain.candles.parquet import MAX_ROWS
from mltrain.candles.tables import MAX_FILE_BYTES
from mltrain.documents.records import OMIT_DEFAULT, Encoded, Key, Limits, TimeMs, record, to_json
from mltrain.documents.values import Sha256
from mltrain.errors import InputError
from mltrain.names import FEATURE, SYMBOL, did_you_mean, show
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.manifest import FileEntry
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from mltrain.candles.input_tables import InputRead, InputSpec, InputTable
    from mltrain.times import TimeRange

#: How the names of the files with inputs begin; no symbol has small letters.
PREFIX: Final = "input-"
#: A command that stores inputs, for hints.
SNAPSHOT_COMMAND: Final = "mltrain snapshot --features FILE --inputs DIR"
# Files of a folder that a message suggests from.
_MAX_LISTED: Final = 1_000


@record
@dataclass(frozen=True, slots=True)
class InputFacts:
    """The facts about the file with the values of one input in a snapshot.

    Attributes:
        name: The input's name.
        folder: The folder that the user's file was read from, absolute.
        file: The name of the user's file.
        column: Its column of values.
        known_at: Its column of the times since when they were known.
        timezone: The zone of times that state none; None if none was given.
        rows: Number of values, all symbols together.
        empty: Number of the user's rows without a value.
        repeated: Number of the user's rows that say the same as another one.
        unused: Number of the user's values that the snapshot's candles cannot know, or do not need: of other symbols,
            of later times, and before the newest one that was known at the first close.
        symbols: The symbols that have values, sorted; empty if the values are for all symbols.
        first_ms: The first time since when a value was known, ms UTC.
        last_ms: The last such time, ms UTC.
        sha256: SHA-256 of the file's bytes.
        content_sha256: SHA-256 of the values.
        bytes: Size of the file.
        later: Other columns of times in the user's file that lie after the known-at time in some rows.
    """

    name: Annotated[str, FEATURE]
    folder: Annotated[Path, Encoded(str, Path, str)]
    file: str
    column: str
    known_at: str
    timezone: Annotated[str | None, OMIT_DEFAULT]
    rows: Annotated[int, Limits(1, MAX_ROWS)]
    empty: Annotated[int, Limits(0)]
    repeated: Annotated[int, Limits(0)]
    unused: Annotated[int, Limits(0)]
    symbols: tuple[Annotated[str, SYMBOL], ...]
    first_ms: Annotated[TimeMs, Key("first")]
    last_ms: Annotated[TimeMs, Key("last")]
    sha256: Sha256
    content_sha256: Sha256
    bytes: Annotated[int, Limits(0)]
    later: Annotated[tuple[LaterTimes, ...], OMIT_DEFAULT] = ()

    @property
    def path(self) -> str:
        """The name of its file in the snapshot."""
        return f"{PREFIX}{self.name}.parquet"

    @property
    def identity(self) -> tuple[str, str]:
        """The name and columns of the input, and the hash of its values: two snapshots with these have the same."""
        return f"{PREFIX}{self.name} {self._columns()}", self.content_sha256

    def check_declared(self, spec: InputSpec, *, where: str) -> None:
        """Raise an InputError if a registry declares the input otherwise than it was stored in the snapshot `where`."""
        declared = _describe_columns(spec.file, spec.column, spec.known_at, spec.timezone)
        if self._columns() != declared:
            raise InputError(
                f"the input {self.name} of {where} is {self._columns()}; the features need {declared}",
                hint=f"take the snapshot again with `{SNAPSHOT_COMMAND}`",
            )

    def _columns(self) -> str:
        return _describe_columns(self.file, self.column, self.known_at, self.timezone)

    def to_entry(self) -> FileEntry:
        """Return the manifest's entry for the file, which holds all these facts."""
        facts = to_json(self)
        del facts["sha256"], facts["bytes"]
        return FileEntry(self.path, self.sha256, self.bytes, facts)


def _describe_columns(file: str, column: str, known_at: str, timezone: str | None) -> str:
    zone = f", {timezone}" if timezone is not None else ""
    return f"{column} of {file} by {known_at}{zone}"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedInput:
    """An input that was read from its file, to be stored in a snapshot.

    Attributes:
        spec: Its declaration.
        folder: The folder of its file, absolute.
        read: The values, and what was dropped.
    """

    spec: InputSpec
    folder: Path
    read: InputRead


def load_inputs(specs: Iterable[InputSpec], folder: Path, *, given: Collection[str] = ()) -> tuple[LoadedInput, ...]:
    """Read the files of inputs in a folder.

    Args:
        specs: The declarations.
        folder: The folder.
        given: Names of files that the snapshot itself will have; one of these that is not in the folder is left out.

    Raises:
        InputError: A file is missing, or is not as declared; see `read_input`.
    """
    missing = [spec for spec in specs if spec.file not in given and not (folder / spec.file).exists()]
    if missing:
        other = "name another folder: --inputs DIR"
        there = sorted(path.name for path in folder.iterdir())[:_MAX_LISTED] if folder.is_dir() else []
        listed = ", ".join(f"{show(spec.file)} for the input {spec.name}" for spec in missing)
        raise InputError(
            f"{folder} has no file {listed}",
            hint=f"{guess} Or {other}" if (guess := did_you_mean(missing[0].file, there)) else other,
        )
    loaded = []
    for spec in specs:
        path = folder / spec.file
        if spec.file in given and not path.exists():
            continue
        data = read_file(path, max_bytes=MAX_FILE_BYTES, what="the input")
        loaded.append(LoadedInput(spec, real_path(folder), read_input(spec, data, where=str(path))))
    return tuple(loaded)


def store_input(
    loaded: LoadedInput, *, window: TimeRange, step_ms: int, symbols: Sequence[str]
) -> tuple[bytes, InputFacts]:
    """Return the file of an input for a snapshot, and the facts about it.

    Args:
        loaded: The input.
        window: The open times that the snapshot covers.
        step_ms: Length of the interval.
        symbols: The snapshot's symbols.

    Raises:
        InputError: No value was known by the close of the last candle.
    """
    spec, read = loaded.spec, loaded.read
    where = f"{loaded.folder / spec.file}: the input {spec.name}"
    table = read.table.within(window.start_ms + step_ms, window.end_ms, symbols)
    if not table.rows:
        of = f" of {', '.join(symbols)}" if read.table.for_all is None else ""
        has = "has no value" if read.table.known_range is None else f"has no value{of} that is known by then"
        raise InputError(f"{where} {has}, and the snapshot's candles are of {window}")
    data = encode_input(table)
    first_ms, last_ms = table.known_range or (0, 0)
    return data, InputFacts(
        name=spec.name,
        folder=loaded.folder,
        file=spec.file,
        column=spec.column,
        known_at=spec.known_at,
        timezone=spec.timezone,
        rows=table.rows,
        empty=read.empty,
        repeated=read.repeated,
        unused=read.table.rows - table.rows,
        symbols=tuple(sorted(table.by_symbol)),
        first_ms=first_ms,
        last_ms=last_ms,
        sha256=sha256_bytes(data),
        content_sha256=input_sha256(table),
        bytes=len(data),
        later=read.later,
    )


def check_table(facts: InputFacts, table: InputTable) -> Iterator[str]:
    """Compute the facts about an input's values again, and yield each difference from those in the manifest."""
    actual = {
        "rows": table.rows,
        "symbols": tuple(sorted(table.by_symbol)),
        "first and last known_at": table.known_range,
        "content_sha256": input_sha256(table),
    }
    recorded = (facts.rows, facts.symbols, (facts.first_ms, facts.last_ms), facts.content_sha256)
    for (key, found), expected in zip(actual.items(), recorded, strict=True):
        if found != expected:
            yield f"{key} is {found}, the manifest says {expected}"
