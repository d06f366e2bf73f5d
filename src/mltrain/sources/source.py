"""The protocol of a source, what it returns, and `SourceSpec`, which describes one.

A source hands out closed candles only, as `check_candles` returns them, with its gaps left as gaps. The source's own
clock decides what has closed; files have none, so the machine's clock is passed to them.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.http_client import check_base_url
from mltrain.times import format_ms, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import polars as pl

    from mltrain.documents.fields import Fields
    from mltrain.documents.values import Json
    from mltrain.progress import Progress

PUBLIC_REST: Final = "https://data-api.binance.vision"
SOURCES: Final = ("binance", "archive", "files", "sim")
PUBLIC_ARCHIVE: Final = "https://data.binance.vision"
ORIGIN: Final = re.compile(r"rest|archive [0-9a-f]{64}")  # where a day came from
SIGNALS: Final = ("none", "weak", "strong")

NETWORKED: Final = ("binance", "archive")
_MAX_SEED: Final = 2**63 - 1  # what JSON readers and 64-bit generators both hold


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of open times, [start_ms, end_ms), ms UTC."""

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        return f"{format_ms(self.start_ms)} to {format_ms(self.end_ms)}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a range of candles came from.

    Attributes:
        from_ms: Its beginning, ms UTC.
        to_ms: Its end, which is not part of it, ms UTC.
        origin: "rest", or "archive" and the SHA-256 of the day's zip.
    """

    from_ms: int
    to_ms: int
    origin: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """The candles of one symbol.

    Attributes:
        frame: As `check_candles` returns them.
        origins: Where they came from, by time; empty where the source has but one place.
    """

    frame: pl.DataFrame
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class SymbolTraffic:
    """What it took to get one symbol.

    Attributes:
        symbol: Which.
        requests: Sent for it, retries included.
        seconds: From its first request to its last candle.
        days_cached: Days that were there already.
        days_fetched: Days that were downloaded, wholly or in part.
    """

    symbol: str
    requests: int
    seconds: float
    days_cached: int
    days_fetched: int


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """What a download took.

    Attributes:
        requests: Sent in all, retries included.
        bytes: Received.
        seconds: From beginning to end.
        peak_weight: The most of the exchange's weight that was used in a minute.
        weight_limit: What it allows.
        waited_s: How long it ordered to wait.
        symbols: What each took.
    """

    requests: int
    bytes: int
    seconds: float
    peak_weight: int
    weight_limit: int
    waited_s: float
    symbols: tuple[SymbolTraffic, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Candles that are at hand.

    Attributes:
        candles: Returns those of a symbol.
        notes: Returns what the user should know about the candles handed out so far.
        traffic: What it took; None where no network was asked.
    """

    candles: Callable[[str], Fetched]
    notes: Callable[[], tuple[str, ...]]
    traffic: TrafficReport | None = None


class Source(Protocol):
    """Something that gives candles of one interval."""

    @property
    def name(self) -> str:
        """What `open_source` calls it."""

    @property
    def host(self) -> str:
        """The host that answered; empty where no network was asked."""

    @property
    def interval(self) -> str:
        """The interval of its candles."""

    def clock_ms(self, symbols: tuple[str, ...]) -> int:
        """Return the source's own time: no candle of these symbols that it gives closes later.

        Raises:
            InputError: A symbol is unknown there, or its candles cannot be read.
        """

    def renew_clock(self) -> None:
        """Have the next `clock_ms` tell what the clock shows then; one run of a command otherwise has one time."""

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that it has, sorted."""

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Refuse symbols that it does not have.

        Raises:
            InputError: One is unknown; says which ones are meant, perhaps.
        """

    def extent(self, symbol: str) -> Window:
        """Return the range of open times that it has of a symbol.

        Raises:
            InputError: The symbol is unknown there, or its candles cannot be read.
        """

    def candles(self, symbol: str, window: Window) -> pl.DataFrame:
        """Return the closed candles that open inside the window, as `check_candles` does; perhaps none.

        Raises:
            InputError: The symbol is unknown there, or a candle is damaged or impossible.
        """

    def candles_of(self, windows: Mapping[str, Window]) -> dict[str, pl.DataFrame]:
        """Return what `candles` gives, of many symbols, each with its window; over a network all at the same time."""

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about the candles handed out so far."""

    def gather(
        self, symbols: tuple[str, ...], window: Window, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> AbstractContextManager[Gathered]:
        """Get the candles of a window to hand; they can be read while the block lasts.

        Args:
            symbols: Whose candles; all known to the source.
            window: Their open times.
            data_dir: Where the cache of downloads is or will be.
            refresh: Whether what the cache has is downloaded again, and compared.
            progress: Told of each symbol.

        Raises:
            InputError: A candle is damaged or impossible.
            SourceError: The exchange or the network failed.
            LockedError: Another mltrain is downloading.
            MachineError: The machine refuses.
        """


@contextmanager
def hand_out(source: LocalSource, symbols: tuple[str, ...], window: Window, progress: Progress) -> Iterator[Gathered]:
    """Give the candles of a source that needs no download, as `Source.gather` does."""
    progress.stage("read candles", total=len(symbols))

    def candles(symbol: str) -> Fetched:
        fetched = Fetched(source.candles(symbol, window))
        progress.advance(note=symbol)
        return fetched

    yield Gathered(candles, source.notes)


class LocalSource(Protocol):
    """What needs no download: asking for one symbol after the other loses nothing."""

    def candles_of(self, windows: Mapping[str, Window]) -> dict[str, pl.DataFrame]:
        """Return the closed candles of many symbols, as `Source.candles_of`."""
        return {symbol: self.candles(symbol, window) for symbol, window in windows.items()}

    def candles(self, symbol: str, window: Window) -> pl.DataFrame:
        """Return the closed candles that open inside the window."""

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about the candles handed out so far, such as duplicates dropped."""


def refuse_unknown(symbols: Iterable[str], known: tuple[str, ...], where: str) -> None:
    """Refuse symbols that are not among the known ones.

    Raises:
        InputError: One is not; says which ones are meant, perhaps.
    """
    have = set(known)
    for symbol in symbols:
        if symbol not in have:
            few = f"it has {', '.join(known[:5])}" + (f" and {len(known) - 5} others" if len(known) > 5 else "")
            raise InputError(f"{where} has no symbol {show(symbol)}", hint=did_you_mean(symbol, known) or few)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Which source, and how to open it: all that is needed to ask it again. `from_fields` reads what `to_dict` gave.

    Attributes:
        name: One of SOURCES.
        folder: Of `files`: where they are, made absolute.
        seed: Of `sim`: which market, 0 to 2**63 - 1.
        signal: Of `sim`: how predictable, one of SIGNALS.
        interval: Interval of the candles.
        end_ms: Of `sim`: what its clock shows; None: its fixed time.
        base_url: Of `binance` and `archive`: address of the exchange's REST host; "" for the public one.
        archive_url: Of `archive`: address of the archive; "" for the public one.
    """

    name: str
    folder: Path | None = None
    seed: int = 0
    signal: str = "none"
    interval: str = "1m"
    end_ms: int | None = None
    base_url: str = ""
    archive_url: str = ""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: A field is outside its range; names all that are.
        """
        interval_ms(self.interval)
        if problems := list(self._problems()):
            raise UsageError("; ".join(problems))
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder).absolute())
        if self.name in NETWORKED:
            object.__setattr__(self, "base_url", check_base_url(self.base_url or PUBLIC_REST))
        if self.name == "archive":
            object.__setattr__(self, "archive_url", check_base_url(self.archive_url or PUBLIC_ARCHIVE))

    def _problems(self) -> Iterator[str]:
        if self.name not in SOURCES:
            yield f"source {show(self.name)}: {did_you_mean(self.name, SOURCES)}"
        if (self.folder is None) == (self.name == "files"):
            yield "the source files needs the folder to read (--from DIR), and no other source takes one"
        if self.end_ms is not None and self.name != "sim":
            yield f"the clock of the source {self.name} is its own: no other can be set"
        if not isinstance(self.seed, Integral) or not 0 <= self.seed <= _MAX_SEED:
            yield f"seed {self.seed}: must be 0 to {_MAX_SEED}"
        if self.signal not in SIGNALS:
            yield f"signal {show(self.signal)}: {did_you_mean(self.signal, SIGNALS)}"
        if (self.base_url and self.name not in NETWORKED) or (self.archive_url and self.name != "archive"):
            yield f"the source {self.name} takes no such address"

    def to_dict(self) -> dict[str, Json]:
        """Return what a manifest keeps of it; the interval stands beside it in the request."""
        match self.name:
            case "files":
                return {"name": self.name, "folder": str(self.folder)}
            case "binance":
                return {"name": self.name, "base_url": self.base_url}
            case "archive":
                return {"name": self.name, "base_url": self.base_url, "archive_url": self.archive_url}
        clock = None if self.end_ms is None else format_ms(self.end_ms)
        return {"name": self.name, "seed": self.seed, "signal": self.signal, "clock": clock}

    @classmethod
    def from_fields(cls, fields: Fields, *, interval: str) -> SourceSpec:
        """Read what `to_dict` wrote; violations are collected by `fields`.

        Raises:
            UsageError: A value is outside its range.
        """
        name = fields.text("name", choices=SOURCES)
        match name:
            case "files":
                return cls(name=name, interval=interval, folder=Path(fields.text("folder")))
            case "binance":
                return cls(name=name, interval=interval, base_url=fields.text("base_url"))
            case "archive":
                base_url, archive_url = fields.text("base_url"), fields.text("archive_url")
                return cls(name=name, interval=interval, base_url=base_url, archive_url=archive_url)
        clock = fields.raw("clock", default=None)
        return cls(
            name=name,
            interval=interval,
            seed=fields.integer("seed", minimum=0, maximum=_MAX_SEED),
            signal=fields.text("signal", choices=SIGNALS),
            end_ms=None if clock is None else parse_time(fields.text("clock")),
        )
