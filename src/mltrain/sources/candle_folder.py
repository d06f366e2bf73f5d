"""Find the candle files in a folder and the folders in it, and sort out which symbol, interval and market each one has.

Known layouts are a flat folder, `SYMBOL/INTERVAL/*`, the tree of Binance's archive (`data/spot/daily/klines/...`,
`data/futures/um/...`) and freqtrade's `user_data/data/EXCHANGE[/futures]`. Only names are looked at, no contents.
Nothing outside the folder is ever listed: links to folders are not followed, and links to files only inside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mltrain.candles.filenames import is_numbered, read_path
from mltrain.candles.layouts import SUFFIXES
from mltrain.errors import InputError
from mltrain.names import join_first, show, show_path
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.manifest import MANIFEST
from mltrain.times import INTERVALS_MS

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.candles.filenames import NamedCandles

# The archive's tree in freqtrade's would have 11. Deeper folders are left out.
MAX_DEPTH: Final = 16
# Ten years of daily files of 50 symbols.
MAX_ENTRIES: Final = 200_000

# Formats of candle files that are not read: such files are counted, where any other file is ignored.
_UNREADABLE: Final = {
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), "HDF5"),
    **dict.fromkeys((".xlsx", ".xls"), "Excel"),
    **dict.fromkeys((".pkl", ".pickle"), "pickle"),
    **dict.fromkeys((".db", ".sqlite"), "SQLite"),
    **dict.fromkeys((".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst"), "a packed file"),
}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that may have candles.

    Attributes:
        path: The file.
        folders: The folders from the user's folder to the file, outermost first.
        named: What its name and folders say.
    """

    path: Path
    folders: tuple[str, ...]
    named: NamedCandles

    @property
    def place(self) -> str:
        """The path from the user's folder, for messages."""
        return show_path("/".join((*self.folders, self.path.name)))


@dataclass(slots=True)
class FolderListing:
    """The candle files in a folder.

    Attributes:
        folder: The folder.
        files: The candle files, sorted by path.
        left_out: Files that are not read, by the reason, such as "mark prices": the symbol in the name, and the path
            from the folder.
        ignored: The paths of all other files, for the message that there is no candle file.
    """

    folder: Path
    files: list[FoundFile] = field(default_factory=list)
    left_out: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str, symbol: str | None = None) -> None:
        """Count a file as not read."""
        self.left_out.setdefault(reason, []).append((symbol, name))


def list_candle_files(folder: Path) -> FolderListing:
    """List the candle files in a folder and the folders in it.

    Raises:
        InputError: The folder is missing, is not a folder, has too many entries, or has no candle file.
    """
    with disk_errors(folder, "list"):
        if not folder.is_dir():
            what = "is a file: name the folder that it is in" if folder.exists() else "is not there"
            raise InputError(f"the folder of candle files {folder} {what}")
        listing = FolderListing(folder)
        _walk(listing)
    if not listing.files:
        raise _no_candle_file(listing)
    listing.files = _reread_numbered(sorted(listing.files, key=lambda file: file.path), real_path(folder).parts[1:])
    return listing


def find_interval(folder: Path) -> str | None:
    """Return the interval that the names of all candle files in a folder state; None if they state none, or several.

    Raises:
        InputError: As `list_candle_files`.
    """
    stated = {file.named.interval for file in list_candle_files(folder).files}
    interval = stated.pop() if len(stated) == 1 else None
    return interval if interval in INTERVALS_MS else None


def _reread_numbered(files: list[FoundFile], above: tuple[str, ...]) -> list[FoundFile]:
    """Read the names that end in a number again, knowing the other files of their symbol; see `parse_interval`."""
    names: dict[str | None, list[str]] = {}
    for file in files:
        if is_numbered(file.path.name):
            names.setdefault(file.named.symbol, []).append(file.path.name)
    return [
        replace(file, named=read_path(file.folders, file.path.name, above=above, siblings=names[file.named.symbol]))
        if is_numbered(file.path.name)
        else file
        for file in files
    ]


def _walk(listing: FolderListing) -> None:
    """Add what is in the folder and the folders in it to a listing."""
    root = real_path(listing.folder)
    above = root.parts[1:]
    entries = 0
    waiting: list[tuple[Path, tuple[str, ...]]] = [(listing.folder, ())]
    while waiting:
        current, folders = waiting.pop()
        with disk_errors(current, "list"), os.scandir(current) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
        entries += len(found)
        if entries > MAX_ENTRIES:
            raise InputError(
                f"{listing.folder} has more than {MAX_ENTRIES:,} files and folders",
                hint=f"name a folder inside it, such as --from {listing.folder / (folders or (found[0].name,))[0]}",
            )
        # A snapshot or a version: mltrain's data folder may lie in the user's folder.
        if folders and any(entry.name == MANIFEST for entry in found):
            listing.leave_out("in a folder that mltrain wrote", show_path("/".join(folders)))
            continue
        for entry in found:
            place = show_path("/".join((*folders, entry.name)))
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir(follow_symlinks=False):
                if len(folders) < MAX_DEPTH:
                    waiting.append((current / entry.name, (*folders, entry.name)))
                else:
                    listing.leave_out(f"in folders deeper than {MAX_DEPTH} levels", place)
            else:
                _add_file(listing, entry, current / entry.name, folders, root=root, above=above)


def _add_file(
    listing: FolderListing,
    entry: os.DirEntry[str],
    path: Path,
    folders: tuple[str, ...],
    *,
    root: Path,
    above: tuple[str, ...],
) -> None:
    """Add a file, or a link to one, to a listing."""
    place = show_path("/".join((*folders, entry.name)))
    lowered = entry.name.lower()
    named = read_path(folders, entry.name, above=above)
    if not lowered.endswith(SUFFIXES):
        unreadable = next((form for suffix, form in _UNREADABLE.items() if lowered.endswith(suffix)), None)
        if unreadable is not None and not named.other_data:
            listing.leave_out(f"{unreadable}, which is not read", place, named.symbol)
        listing.ignored.append(place)
    elif entry.is_symlink() and not real_path(path).is_relative_to(root):
        listing.leave_out("a link out of the folder", place, named.symbol)
    elif not entry.is_file():
        listing.ignored.append(place)
    elif named.other_data:
        listing.leave_out(named.other_data, place, named.symbol)
    else:
        listing.files.append(FoundFile(path, folders, named))


def _no_candle_file(listing: FolderListing) -> InputError:
    """Return the error for a folder without candle files."""
    hint = f"candle files end in {', '.join(SUFFIXES)}: name them after their symbol, like BTCUSDT-1m-2025-01-01.csv"
    if listing.left_out:
        contents = "; ".join(describe_left_out(listing.left_out))
        if any("which is not read" in reason for reason in listing.left_out):
            hint = f"save the candles in one of the formats that are read: {', '.join(SUFFIXES)}"
    elif listing.ignored:
        contents = f"there are {', '.join(show(name) for name in listing.ignored[:5])}"
    else:
        contents = "it is empty"
    return InputError(f"{listing.folder} holds no candle file: {contents}", hint=hint)


def describe_left_out(left_out: dict[str, list[tuple[str | None, str]]]) -> list[str]:
    """Return a text such as "2 files left out (mark prices): a, b" for each reason."""
    return [
        f"{len(files):,} file{'s' * (len(files) > 1)} left out ({reason}): {join_first([name for _, name in files], 3)}"
        for reason, files in sorted(left_out.items())
    ]


@dataclass(frozen=True, slots=True)
class SymbolFiles:
    """The files of one symbol, sorted by path.

    Attributes:
        files: Files whose name or folder states the source's interval or none.
        others: Files of other intervals.
    """

    files: list[FoundFile]
    others: list[FoundFile]


def group_by_symbol(files: list[FoundFile], interval: str) -> dict[str, SymbolFiles]:
    """Group files by their symbol, and those of a symbol by whether they have candles of the interval."""
    grouped: dict[str, SymbolFiles] = {}
    for file in files:
        if file.named.symbol is not None:
            of_symbol = grouped.setdefault(file.named.symbol, SymbolFiles([], []))
            (of_symbol.files if file.named.interval in {None, interval} else of_symbol.others).append(file)
    return grouped


def choose_market(symbol: str, files: list[FoundFile], folder: Path) -> list[FoundFile]:
    """Return the files of a symbol, all of one market: spot and futures, or two exchanges, are never joined.

    Files in the user's folder itself are preferred to those of another market in a folder below it: freqtrade keeps
    `binance/BTC_USDT-1h.feather` and `binance/futures/BTC_USDT_USDT-1h-futures.feather`.

    Raises:
        InputError: The files are of more than one market.
    """
    if _is_one_market(files):
        return files
    nearest = [file for file in files if not file.folders]
    if nearest and _is_one_market(nearest):
        return nearest
    first = files[0]
    second = next(file for file in files if not _is_one_market([first, file]))
    places = [folder.joinpath(*file.folders) for file in (first, second)]
    hint = f"name the folder of one of them, such as --from {places[0] if places[0] != folder else places[1]}"
    if places[0] == places[1]:
        hint = "keep the files of one market in a folder"
    raise InputError(
        f"{folder} has {symbol} of two markets: {first.place} ({first.named.market or 'no market named'}) and "
        f"{second.place} ({second.named.market or 'no market named'})",
        hint=hint,
    )


def _is_one_market(files: list[FoundFile]) -> bool:
    """Return whether files may be of one market: a name without an exchange contradicts none in the same folder."""
    futures = {file.named.futures for file in files}
    exchanges = {file.named.exchange for file in files} - {""}
    named = {file.folders for file in files if file.named.exchange}
    unnamed = {file.folders for file in files if not file.named.exchange}
    return len(futures) < 2 and len(exchanges) < 2 and not (exchanges and unnamed - named)
