"""Where candles come from: the protocol of a source, and the one function that opens one by name.

A source hands out closed candles only, as `check_candles` returns them, with its holes left as holes. It has a clock of
its own: how old a candle is, is judged by that and never by the machine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.candles.frame import format_ms, interval_ms, parse_time
from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    import polars as pl

    from mltrain.documents import Fields, Json

SOURCES: Final = ("files", "sim")
SIGNALS: Final = ("none", "weak", "strong")

_MAX_SEED: Final = 2**63 - 1  # what JSON readers and 64-bit generators both hold


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of open times, [start_ms, end_ms), ms UTC."""

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        return f"{format_ms(self.start_ms)} to {format_ms(self.end_ms)}"


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

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that it has, sorted."""

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

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know about the candles handed out so far, such as duplicates dropped."""


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
    """

    name: str
    folder: Path | None = None
    seed: int = 0
    signal: str = "none"
    interval: str = "1m"
    end_ms: int | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: A field is outside its range; names all that are.
        """
        interval_ms(self.interval)
        problems = []
        if self.name not in SOURCES:
            problems.append(f"source {show(self.name)}: {did_you_mean(self.name, SOURCES)}")
        if (self.folder is None) == (self.name == "files"):
            problems.append("the source files needs the folder to read (--from DIR), and no other source takes one")
        if self.end_ms is not None and self.name == "files":
            problems.append("the clock of the source files is its last candle: no other can be set")
        if not 0 <= self.seed <= _MAX_SEED:
            problems.append(f"seed {self.seed}: must be 0 to {_MAX_SEED}")
        if self.signal not in SIGNALS:
            problems.append(f"signal {show(self.signal)}: {did_you_mean(self.signal, SIGNALS)}")
        if problems:
            raise UsageError("; ".join(problems))
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder).absolute())

    def to_dict(self) -> dict[str, Json]:
        """Return what a manifest keeps of it; the interval stands beside it in the request."""
        if self.folder is not None:
            return {"name": self.name, "folder": str(self.folder)}
        clock = None if self.end_ms is None else format_ms(self.end_ms)
        return {"name": self.name, "seed": self.seed, "signal": self.signal, "clock": clock}

    @classmethod
    def from_fields(cls, fields: Fields, *, interval: str) -> SourceSpec:
        """Read what `to_dict` wrote; violations are collected by `fields`.

        Raises:
            UsageError: A value is outside its range.
        """
        name = fields.text("name", choices=SOURCES)
        if name == "files":
            return cls(name=name, interval=interval, folder=Path(fields.text("folder")))
        clock = fields.raw("clock", default=None)
        return cls(
            name=name,
            interval=interval,
            seed=fields.integer("seed", minimum=0, maximum=_MAX_SEED),
            signal=fields.text("signal", choices=SIGNALS),
            end_ms=None if clock is None else parse_time(fields.text("clock")),
        )


def open_source(spec: SourceSpec) -> Source:
    """Open the source that `spec` describes; nothing is read yet.

    Raises:
        InputError: The folder of `files` is not there, is no folder, or holds no candle file.
    """
    if spec.folder is not None:
        from mltrain.candles.local import FilesSource

        return FilesSource(spec.folder, spec.interval)
    from mltrain.candles.sim import SimSource

    return SimSource(interval=spec.interval, seed=spec.seed, signal=spec.signal, end_ms=spec.end_ms)
