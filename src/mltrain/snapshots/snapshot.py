"""Open, list, verify, read and compare snapshots on disk. Nothing here writes.

The bytes of a file are hashed before they are parsed, and its rows, columns and types must be those in the manifest.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.candles.candle_file import find_damaged_blocks, read_candles
from mltrain.candles.diff import compare_frames
from mltrain.candles.frame import times_ms
from mltrain.candles.funding import check_funding, read_funding, take_input
from mltrain.candles.input_tables import decode_input
from mltrain.documents.records import to_json
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.names import SNAPSHOT, check_snapshot_id, describe, did_you_mean, join_first, nearest, read_folder, show
from mltrain.snapshots import FOLDER, LATEST
from mltrain.snapshots.snapshot_record import (
    FUNDING_FILE,
    KIND,
    SnapshotRecord,
    SymbolFacts,
    SymbolFundingFacts,
    file_name,
    parse_id,
)
from mltrain.snapshots.stored_inputs import SNAPSHOT_COMMAND, check_table
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.manifest import MANIFEST, FileEntry, read_listed, read_manifest, verify_files
from mltrain.storage.reading import read_file, read_pointer
from mltrain.times import day_name, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from mltrain.candles.candle_file import Block
    from mltrain.candles.diff import FrameDiff
    from mltrain.candles.input_tables import InputSpec, InputTable
    from mltrain.storage.manifest import Manifest

_MAX_NAMED_BLOCKS: Final = 10


@dataclass(frozen=True, slots=True)
class Snapshot(SnapshotRecord):
    """A snapshot in a folder: its record, and access to its candles.

    Attributes:
        path: The folder.
        manifest_sha256: The hash in its manifest, which covers the whole content.
    """

    path: Path
    manifest_sha256: str

    def __repr__(self) -> str:
        """Return one line, which a cell of a notebook can end with; `to_manifest` has everything."""
        return f"<mltrain.Snapshot {self.id} of {self.interval} candles of {join_first(self.symbols, 5)}>"

    @property
    def interval(self) -> str:
        """The interval of its candles, such as "1m"."""
        return self.request.interval

    @property
    def symbols(self) -> tuple[str, ...]:
        """Its symbols, sorted."""
        return self.request.symbols

    def candles(self, symbol: str) -> pl.DataFrame:
        """Read and check the candles of a symbol; the columns are those of CANDLE_SCHEMA.

        Raises:
            InputError: The snapshot has no such symbol, or its manifest or file has changed since it was opened.
        """
        facts = next((f for f in self.facts if f.symbol == symbol), None)
        if facts is None:
            raise InputError(
                f"snapshot {self.id} has no symbol {show(symbol)}", hint=did_you_mean(symbol, self.symbols)
            )
        manifest = _read_manifest_again(self)
        data = read_listed(self.path, manifest, file_name(symbol), max_bytes=_max_bytes(facts.rows))
        where = str(self.path / file_name(symbol))
        frame = read_candles(data, rows=facts.rows, symbol=symbol, interval=self.interval, where=where)
        ts_ms = times_ms(frame)
        if (ts_ms[0], ts_ms[-1]) != (facts.first_ms, facts.last_ms):
            raise InputError(f"{where}: its first and last candle are not those in the manifest")
        return frame

    def funding(self, symbol: str) -> pl.DataFrame:
        """Read the funding events of a symbol, sorted by time; the columns are those of FUNDING_SCHEMA.

        Missing events are gaps in `SymbolFundingFacts.gaps`, and not rates of zero.

        Raises:
            InputError: The snapshot has no funding or no such symbol, or its manifest or file has changed.
        """
        if self.funding_facts is None:
            raise InputError(
                f"snapshot {self.id} has no funding rates",
                hint="take one with `mltrain snapshot --market usdm`, and --source binance, archive or sim",
            )
        facts = self.funding_facts.of_symbol(symbol)
        if facts is None:
            raise InputError(
                f"snapshot {self.id} has no symbol {show(symbol)}", hint=did_you_mean(symbol, self.symbols)
            )
        where = str(self.path / FUNDING_FILE)
        data = read_listed(
            self.path, _read_manifest_again(self), FUNDING_FILE, max_bytes=_max_bytes(self.funding_facts.rows)
        )
        everything = read_funding(data, rows=self.funding_facts.rows, where=where)
        events = everything.filter(everything["symbol"] == symbol)
        checked = check_funding(events, symbol=symbol, where=where)
        ts_ms = times_ms(checked)
        ends = (int(ts_ms[0]), int(ts_ms[-1])) if ts_ms.size else (None, None)
        if not checked.equals(events) or (events.height, *ends) != (facts.events, facts.first_ms, facts.last_ms):
            raise InputError(f"{where}: the events of {symbol} are not those in the manifest")
        return checked

    def stored_input(self, name: str) -> InputTable:
        """Read the values of an input.

        Raises:
            InputError: The snapshot has no such input, or its manifest or file has changed since it was opened.
        """
        facts = next((facts for facts in self.input_facts if facts.name == name), None)
        if facts is None:
            raise InputError(
                f"snapshot {self.id} has no input {show(name)}",
                hint=did_you_mean(name, [facts.name for facts in self.input_facts])
                or f"take it again with `{SNAPSHOT_COMMAND}`",
            )
        data = read_listed(self.path, _read_manifest_again(self), facts.path, max_bytes=_max_bytes(facts.rows))
        return decode_input(data, rows=facts.rows, where=str(self.path / facts.path))

    def input_table(self, spec: InputSpec) -> InputTable:
        """Return the values of an input that a registry declares; without a stored one, `funding.parquet` serves too.

        Raises:
            InputError: The snapshot has no such input, has it of another file or columns, or is damaged.
        """
        facts = next((facts for facts in self.input_facts if facts.name == spec.name), None)
        if facts is not None:
            facts.check_declared(spec, where=f"snapshot {self.id}")
            return self.stored_input(spec.name)
        if spec.file == FUNDING_FILE and self.funding_facts is not None:
            own = {symbol: self.funding(symbol) for symbol in self.symbols}
            return take_input(spec, own, where=f"the {FUNDING_FILE} of snapshot {self.id}")
        raise InputError(
            f"snapshot {self.id} has no input {spec.name} ({spec.column} of {spec.file})",
            hint=f"take it again with `{SNAPSHOT_COMMAND}`; DIR has {spec.file}",
        )


@dataclass(frozen=True, slots=True)
class InputDiff:
    """The difference between two snapshots in one input of one symbol.

    Attributes:
        name: The input's name.
        symbol: The symbol; empty for values for all symbols.
        only: The id of the only snapshot that has such values; empty if both have them.
        diff: The difference from the first to the second, by known-at time; None if only one has such values.
    """

    name: str
    symbol: str
    only: str
    diff: FrameDiff | None


@dataclass(frozen=True, slots=True)
class SymbolDiff:
    """The difference between two snapshots in one symbol.

    Attributes:
        symbol: The symbol.
        only: The id of the only snapshot that has the symbol; empty if both have it.
        diff: The difference from the first to the second; None if only one has the symbol.
        funding: The difference in funding events; None if a snapshot lacks them.
    """

    symbol: str
    only: str
    diff: FrameDiff | None
    funding: FrameDiff | None = None


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot in the list of snapshots, as its manifest describes it.

    Attributes:
        id: The folder's name.
        created_at: When it was written, ISO 8601 in UTC; empty if its manifest cannot be read.
        symbols: Its symbols.
        rows: Number of candles, all symbols together.
        first_ms: Open time of the earliest candle, ms UTC; None if its manifest cannot be read.
        last_ms: Open time of the latest candle, ms UTC; None if its manifest cannot be read.
        latest: Whether `latest` points to it.
        problem: Why its manifest cannot be read; None if it can.
        inputs: Names of the user's own columns that it stores, sorted.
    """

    id: str
    created_at: str
    symbols: tuple[str, ...]
    rows: int
    first_ms: int | None
    last_ms: int | None
    latest: bool
    problem: str | None
    inputs: tuple[str, ...] = ()


def open_snapshot(data_dir: Path | str, ref: str) -> Snapshot:
    """Open a snapshot by reference. Only its manifest is read; a file is checked when its candles are read.

    Args:
        data_dir: The data folder, which contains `snapshots`.
        ref: `latest`, an id, or the path of a folder, with a / in it.

    Raises:
        UsageError: `ref` is not one of these.
        InputError: There is no such snapshot, or its manifest is missing or damaged.
    """
    data_dir = read_folder(data_dir, "data_dir")
    if not isinstance(ref, str):
        raise UsageError(f"ref is {describe(ref)}: expected latest, an id, or a path")
    if "/" in ref:
        path = Path(ref)
        if not _is_folder(path):
            raise InputError(
                f"there is no snapshot at {show(ref)}: no such folder",
                hint="run `mltrain snapshots` for a list",
            )
        return open_folder(real_path(path))
    folder = data_dir / FOLDER
    name = _read_latest(folder) if ref == LATEST else check_snapshot_id(ref)
    if not _is_folder(folder / name):
        known = _list_ids(folder)
        near = nearest(name, known) or known[-3:]
        raise InputError(
            f"{folder / LATEST} points to {name}, which does not exist" if ref == LATEST else f"no {name} in {folder}",
            hint=f"there are {', '.join(near)}" if near else "take one with `mltrain snapshot`",
        )
    return open_named(folder / name)


def open_named(path: Path) -> Snapshot:
    """Open the snapshot in a folder that is named after its id.

    Raises:
        InputError: The folder is a link, or has another name than its snapshot.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link, not a snapshot")
    snapshot = open_folder(path)
    if snapshot.id != path.name:
        raise InputError(f"{path} contains snapshot {snapshot.id}: the folder was renamed or copied")
    return snapshot


def list_snapshots(data_dir: Path | str) -> tuple[SnapshotRow, ...]:
    """List the snapshots in a data folder, oldest cut first; those with a damaged manifest are listed too."""
    folder = read_folder(data_dir, "data_dir") / FOLDER
    try:
        latest = read_pointer(folder / LATEST)
    except InputError:
        latest = None
    return tuple(_read_row(folder / name, latest=name == latest) for name in _list_ids(folder))


def compare_snapshots(before: Snapshot, after: Snapshot) -> tuple[SymbolDiff, ...]:
    """Return how the candles of each symbol that either snapshot has differ, sorted by symbol.

    Raises:
        InputError: The snapshots have different intervals or markets.
    """
    markets = before.source.known_market, after.source.known_market
    if all(markets) and markets[0] != markets[1]:
        raise InputError(
            f"snapshots of different markets cannot be compared: {before.id} is of {markets[0]}, {after.id} of "
            f"{markets[1]}"
        )
    if before.interval != after.interval:
        raise InputError(
            f"snapshots of different intervals cannot be compared: {before.id} has {before.interval} candles, "
            f"{after.id} has {after.interval}"
        )
    diffs = []
    for symbol in sorted({*before.symbols, *after.symbols}):
        owners = [snapshot for snapshot in (before, after) if symbol in snapshot.symbols]
        if len(owners) == 1:
            diffs.append(SymbolDiff(symbol, only=owners[0].id, diff=None))
        else:
            diff = compare_frames(before.candles(symbol), after.candles(symbol))
            has_funding = before.funding_facts is not None and after.funding_facts is not None
            funding = compare_frames(before.funding(symbol), after.funding(symbol)) if has_funding else None
            diffs.append(SymbolDiff(symbol, only="", diff=diff, funding=funding))
    return tuple(diffs)


def compare_inputs(before: Snapshot, after: Snapshot) -> tuple[InputDiff, ...]:
    """Return how the values of each input that either snapshot stores differ, sorted by name and symbol."""
    diffs = []
    for name in sorted({facts.name for snapshot in (before, after) for facts in snapshot.input_facts}):
        parts = [(snapshot.id, _take_inputs(snapshot, name)) for snapshot in (before, after)]
        for symbol in sorted({symbol for _, frames in parts for symbol in frames}):
            owners = [(id_, frames[symbol]) for id_, frames in parts if symbol in frames]
            if len(owners) == 1:
                diffs.append(InputDiff(name, symbol, only=owners[0][0], diff=None))
            else:
                diffs.append(InputDiff(name, symbol, only="", diff=compare_frames(owners[0][1], owners[1][1])))
    return tuple(diffs)


def _take_inputs(snapshot: Snapshot, name: str) -> dict[str, pl.DataFrame]:
    """Return the values of an input by symbol ("" for all), with known-at times as `ts`; none if it is not stored."""
    if name not in {facts.name for facts in snapshot.input_facts}:
        return {}
    frame = snapshot.stored_input(name).to_frame().rename({"known_at": "ts"})
    if "symbol" not in frame.columns:
        return {"": frame}
    return {str(part["symbol"][0]): part.drop("symbol") for part in frame.partition_by("symbol")}


def verify_snapshot(snapshot: Snapshot) -> tuple[str, ...]:
    """Compare a snapshot's files with its manifest: every byte and, if all bytes are right, the facts of each symbol.

    These are rows, first and last candle, gaps, candles without trades, and the content hash.

    Returns:
        Every problem in a sentence; empty if the snapshot is intact.
    """
    try:
        manifest = _read_manifest_again(snapshot)
    except InputError as err:
        return (err.message,)
    problems = verify_files(snapshot.path, manifest)
    if not problems:
        checked = [problem for facts in snapshot.facts for problem in _check_facts(snapshot, facts)]
        return (*checked, *_check_funding_facts(snapshot), *_check_input_facts(snapshot))
    return tuple(problem + _describe_damage(snapshot, problem) for problem in problems)


def _describe_damage(snapshot: Snapshot, problem: str) -> str:
    """Return the end of a sentence of `verify_files` about a file: which of its days are damaged; "" if not known."""
    facts_by_path = {snapshot.path / file_name(facts.symbol): facts for facts in snapshot.facts if facts.blocks}
    path = next((path for path in facts_by_path if problem.removeprefix("the file ").startswith(f"{path} ")), None)
    if path is None:
        return ""
    facts = facts_by_path[path]
    try:
        data = read_file(path, max_bytes=_max_bytes(facts.rows), what="the file")
    except InputError:
        return ""
    blocks = find_damaged_blocks(data, facts.blocks)
    if not blocks:
        return ": the damage is outside the candles, in the file's header or footer"
    return f": damaged are the candles of {join_first([_name_days(block) for block in blocks], _MAX_NAMED_BLOCKS)}"


def _name_days(block: Block) -> str:
    """Return a block's days, such as "2025-10-15" or "2025-10-15 to 2025-10-16"."""
    first, last = day_name(block.from_ms), day_name(block.to_ms - 1)
    return first if first == last else f"{first} to {last}"


def _check_facts(snapshot: Snapshot, facts: SymbolFacts) -> Iterator[str]:
    """Compute the facts about a symbol's file again, and yield each difference from the manifest as a sentence."""
    where = snapshot.path / file_name(facts.symbol)
    try:
        frame = snapshot.candles(facts.symbol)
        data = read_file(where, max_bytes=_max_bytes(facts.rows), what="the file")
    except InputError as err:
        yield err.message
        return
    window, step_ms = snapshot.window, interval_ms(snapshot.interval)
    if times_ms(frame)[0] < window.start_ms or times_ms(frame)[-1] >= window.end_ms:
        yield f"{where}: candles outside {window}"
        return
    recomputed = SymbolFacts.of(
        frame,
        FileEntry(where.name, facts.sha256, facts.bytes),
        symbol=facts.symbol,
        window=window,
        step_ms=step_ms,
        origins=facts.origins,
        blocks=facts.blocks,
        volumes=facts.volumes,
    )
    actual = to_json(recomputed)
    for key, recorded in to_json(facts).items():
        if actual[key] != recorded:
            yield f"{where}: {key} is {actual[key]}, the manifest says {recorded}"
    if find_damaged_blocks(data, facts.blocks):
        yield f"{where}: its days are not where the manifest says"


def _check_funding_facts(snapshot: Snapshot) -> Iterator[str]:
    """Compute the facts about funding events again, and yield each difference from the manifest as a sentence."""
    for facts in snapshot.funding_facts.symbols if snapshot.funding_facts is not None else ():
        where = f"{snapshot.path / FUNDING_FILE}: {facts.symbol}"
        candles = next(file for file in snapshot.facts if file.symbol == facts.symbol)
        try:
            frame = snapshot.funding(facts.symbol)
        except InputError as err:
            yield err.message
            continue
        step_ms = interval_ms(snapshot.interval)
        actual = to_json(SymbolFundingFacts.of(frame, candles, step_ms=step_ms, origins=facts.origins))
        for key, recorded in to_json(facts).items():
            if actual[key] != recorded:
                yield f"{where}: {key} is {actual[key]}, the manifest says {recorded}"


def _check_input_facts(snapshot: Snapshot) -> Iterator[str]:
    """Compute the facts about inputs again, and yield each difference from the manifest as a sentence."""
    for facts in snapshot.input_facts:
        try:
            table = snapshot.stored_input(facts.name)
        except InputError as err:
            yield err.message
            continue
        yield from (f"{snapshot.path / facts.path}: {problem}" for problem in check_table(facts, table))


def _read_manifest_again(snapshot: Snapshot) -> Manifest:
    """Return the manifest of an open snapshot; raise an InputError if it has changed since the snapshot was opened."""
    manifest = read_manifest(snapshot.path, kind=KIND)
    if manifest.self_sha256 != snapshot.manifest_sha256:
        raise InputError(f"{snapshot.path / MANIFEST} has changed since it was opened")
    return manifest


def open_folder(path: Path) -> Snapshot:
    """Open the snapshot in a folder, whatever the folder's name."""
    manifest = read_manifest(path, kind=KIND)
    record = SnapshotRecord.from_manifest(manifest, where=str(path / MANIFEST))
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return Snapshot(**values, path=path, manifest_sha256=manifest.self_sha256)


def _read_row(path: Path, *, latest: bool) -> SnapshotRow:
    """Return the row of the snapshot in a folder; if its manifest cannot be read, a row with the problem."""
    try:
        snapshot = open_named(path)
    except MltrainError as err:
        return SnapshotRow(
            path.name, "", symbols=(), rows=0, first_ms=None, last_ms=None, latest=latest, problem=err.message
        )
    return SnapshotRow(
        id=path.name,
        created_at=snapshot.created_at,
        symbols=snapshot.symbols,
        rows=sum(facts.rows for facts in snapshot.facts),
        first_ms=min(facts.first_ms for facts in snapshot.facts),
        last_ms=max(facts.last_ms for facts in snapshot.facts),
        latest=latest,
        problem=None,
        inputs=tuple(facts.name for facts in snapshot.input_facts),
    )


def _read_latest(folder: Path) -> str:
    """Return the id of the snapshot that `latest` in a folder of snapshots points to."""
    name = read_pointer(folder / LATEST)
    if name is None:
        known = _list_ids(folder)
        hint = f"name one: {', '.join(known[-3:])}" if known else "take one with `mltrain snapshot`"
        raise InputError(f"there is no latest snapshot in {folder}", hint=hint)
    if SNAPSHOT.fullmatch(name) is None:
        raise InputError(
            f"{folder / LATEST} points to {show(name)}, which is not a snapshot", hint="run `mltrain snapshot`"
        )
    return name


def _list_ids(folder: Path) -> list[str]:
    """Return the ids of the snapshots in a folder, oldest cut first; none if there is no such folder."""
    if not _is_folder(folder):
        return []
    with disk_errors(folder, "list"):
        ids = [name for name in os.listdir(folder) if SNAPSHOT.fullmatch(name)]  # noqa: PTH208 -- names, not paths
    return sorted(ids, key=parse_id)


def _is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False if that cannot be found out."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        # ValueError: a NUL in the path.
        return False


def _max_bytes(rows: int) -> int:
    """Return an upper limit, in bytes, for a Parquet file of `rows` candles: uncompressed, with its metadata."""
    return (1 << 20) + 100 * rows
