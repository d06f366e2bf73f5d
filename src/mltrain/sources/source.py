"""The `Source` protocol, and what a source returns.

A source returns closed candles only, as `check_candles` returns them; gaps are left as they are. The source's own clock
decides which candles are closed. Files have no clock, so the machine's time is passed to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Protocol

from mltrain.candles.checks import check_candles
from mltrain.candles.understood import FileLayout
from mltrain.documents.records import Limits, TimeMs, record
from mltrain.errors import InputError
from mltrain.names import did_you_mean, join_first, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import polars as pl

    from mltrain.progress import Progress
    from mltrain.times import TimeRange

#: Why a candle file was left out that has a symbol which was not asked for; see `InputFiles.left_out`.
OTHER_SYMBOL: Final = "another symbol"
#: How `Origin.origin` is spelled.
ORIGIN: Final = re.compile(r"rest|archive [0-9a-f]{64}")


@record
@dataclass(frozen=True, slots=True)
class Origin:
    """Where a range of candles came from.

    Attributes:
        from_ms: Start of the range, ms UTC.
        to_ms: End of the range, exclusive, ms UTC.
        origin: "rest", or "archive" and the SHA-256 of the day's zip.
    """

    from_ms: TimeMs
    to_ms: TimeMs
    origin: Annotated[str, ORIGIN]


@record
@dataclass(frozen=True, slots=True)
class FileKind:
    """Files that were read in the same way.

    Attributes:
        layout: How they were read.
        files: Their number.
    """

    layout: FileLayout
    files: Annotated[int, Limits(1)]

    def __str__(self) -> str:
        return self.layout.describe(self.files)


@record
@dataclass(frozen=True, slots=True)
class InputFiles:
    """What a source understood of the user's own files.

    Attributes:
        kinds: Each kind of file that was read, the most frequent one first.
        spellings: How names and columns spell a symbol, such as BTC_USDT, by symbol; only where that is not the symbol.
        left_out: Number of files that were not read, by the reason, such as "mark prices".
    """

    kinds: tuple[FileKind, ...]
    spellings: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, Annotated[int, Limits(1)]]

    @property
    def of_other_symbols(self) -> int:
        """Number of candle files of symbols that were not asked for."""
        return self.left_out.get(OTHER_SYMBOL, 0)


def no_input_files() -> None:
    """Return that the source reads no files of the user."""
    return


@dataclass(frozen=True, slots=True)
class SymbolCandles:
    """The candles of one symbol.

    Attributes:
        frame: As `check_candles` returns them.
        origins: Where they came from, by time; empty for a source without several places.
    """

    frame: pl.DataFrame
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class SymbolFunding:
    """The funding events of one symbol.

    Attributes:
        frame: As `check_funding` returns them.
        origins: Where they came from, by time; empty for a source without several places.
    """

    frame: pl.DataFrame
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class FundingDownload:
    """The funding events of a window.

    Attributes:
        symbols: The events of each symbol.
        notes: What the user should know about them.
    """

    symbols: Mapping[str, SymbolFunding]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SymbolTraffic:
    """The traffic of one symbol.

    Attributes:
        symbol: The symbol.
        requests: Number of requests sent, retries included.
        seconds: Time from the first request to the last answer.
        days_cached: Number of days that were in the cache.
        days_fetched: Number of days that were downloaded, wholly or in part.
    """

    symbol: str
    requests: int
    seconds: float
    days_cached: int
    days_fetched: int


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """The traffic of a download.

    Attributes:
        requests: Number of requests sent, retries included.
        bytes: Bytes received.
        seconds: Duration of the download.
        peak_weight: Highest request weight that the exchange reported for a minute.
        weight_limit: Request weight that the exchange allows per minute; 0 if it does not count weight.
        waited_s: Time spent waiting because the exchange ordered it.
        symbols: The traffic of each symbol.
    """

    requests: int
    bytes: int
    seconds: float
    peak_weight: int
    weight_limit: int
    waited_s: float
    symbols: tuple[SymbolTraffic, ...]


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """Candles that are on this machine and ready to be read.

    Attributes:
        where: The host or the source, for messages.
        interval: Interval of the candles.
        read: Returns the rows of a symbol, not checked.
        notes: Returns what the user should know about the candles read so far.
        traffic: None if no network was used.
        input_files: Returns what was understood of the files read so far; None if the source reads no files of the
            user.
    """

    where: str
    interval: str
    read: Callable[[str], SymbolCandles]
    notes: Callable[[], tuple[str, ...]]
    traffic: TrafficReport | None = None
    input_files: Callable[[], InputFiles | None] = no_input_files

    def candles(self, symbol: str) -> SymbolCandles:
        """Read the candles of a symbol and check them with `check_candles`.

        Raises:
            InputError: A row cannot be a candle, or the source's files or cache cannot be read.
        """
        rows = self.read(symbol)
        return replace(rows, frame=check_candles(rows.frame, symbol=symbol, interval=self.interval, where=self.where))


class Source(Protocol):
    """A place that candles of one interval come from.

    Methods that take symbols raise InputError if one is unknown, or its candles are unreadable, damaged or impossible;
    those of a source that uses a network also raise SourceError if the exchange or the network fails.
    """

    @property
    def name(self) -> str:
        """Name of the kind of source, one of SOURCES."""

    @property
    def host(self) -> str:
        """The host that answers; empty if no network is used."""

    @property
    def interval(self) -> str:
        """The interval of the candles."""

    @property
    def market(self) -> str:
        """The market of the candles: "spot" or "usdm"; empty if that is not known, as of files."""

    def clock_ms(self, symbols: tuple[str, ...]) -> int:
        """Return the source's time, ms UTC: no candle that it returns of these symbols closes later."""

    def renew_clock(self) -> None:
        """Make the next `clock_ms` read the clock again; until then, the time of a run stays the same."""

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that the source has, sorted."""

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that the source has these symbols; an InputError suggests similar ones."""

    def extent(self, symbol: str) -> TimeRange:
        """Return the range of open times that the source has of a symbol."""

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window, checked by `check_candles`, sorted; may be empty."""

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Return the closed candles of each symbol that open inside its window; concurrently over a network."""

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about the candles returned so far."""

    def download(
        self, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> AbstractContextManager[DownloadResult]:
        """Bring the candles of a window to this machine; they can be read while the block lasts.

        Args:
            symbols: Symbols that the source has.
            window: Open times.
            data_dir: The folder that holds the `cache` folder.
            refresh: Download cached days again, and compare them.
            progress: Receives the progress of each symbol.

        Raises:
            InputError: A candle is damaged or impossible, or two contradict each other.
            SourceError: The exchange or the network failed; the finished days are kept.
            LockedError: Another mltrain is downloading.
        """

    def funding(self, symbols: tuple[str, ...], window: TimeRange) -> FundingDownload | None:
        """Return the funding events of these symbols in a window, up to the source's time; None: it has none.

        Raises:
            InputError: An event is damaged.
            SourceError: The exchange or the network failed.
        """


class LocalSource(Protocol):
    """Base of the sources that need no network: `download` only reads.

    Attributes:
        interval: The interval of the candles.
        market: As in `Source`.
    """

    interval: str
    market: str

    @property
    def name(self) -> str:
        """Name of the kind of source, one of SOURCES."""

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window."""

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about the candles returned so far, such as duplicates dropped."""

    def input_files(self) -> InputFiles | None:
        """Return what was understood of the files read so far; None if the source reads no files of the user."""
        return None

    def funding(self, symbols: tuple[str, ...], window: TimeRange) -> FundingDownload | None:  # noqa: ARG002
        """Return None: most such sources have no funding rates."""
        return None

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Return the closed candles of each symbol that open inside its window, read one after another."""
        return {symbol: self.candles(symbol, window) for symbol, window in windows.items()}

    @contextmanager
    def download(
        self, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> Iterator[DownloadResult]:
        """Yield a result that reads the candles of a symbol on demand; nothing is downloaded or written."""
        del data_dir, refresh
        progress.stage("read candles", total=len(symbols))

        def read(symbol: str) -> SymbolCandles:
            candles = SymbolCandles(self.candles(symbol, window))
            progress.advance(note=symbol)
            return candles

        yield DownloadResult(f"the source {self.name}", self.interval, read, self.notes, input_files=self.input_files)


def check_known(symbols: Iterable[str], known: tuple[str, ...], where: str) -> None:
    """Check that a source, called `where` in the message, has these symbols.

    Raises:
        InputError: Symbols are not among the known ones; names them all, and suggests similar ones to the first.
    """
    known_set = set(known)
    unknown = [symbol for symbol in symbols if symbol not in known_set]
    if unknown:
        others = len(known) - 5
        more = f" and {others} other{'s' * (others > 1)}" if others > 0 else ""
        hints = [hint for symbol in unknown if (hint := did_you_mean(symbol, known))]
        names = join_first([show(symbol) for symbol in unknown], 5)
        raise InputError(
            f"{where} has no symbol {names}",
            hint=hints[0] if hints else f"it has {', '.join(known[:5])}{more}",
        )
