"""`SourceSpec`: which source to open, and how; what a snapshot's manifest records to open it again."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.http_client import check_base_url
from mltrain.times import format_ms, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.documents.fields import Fields
    from mltrain.documents.values import Json

SOURCES: Final = ("binance", "archive", "files", "sim")
NETWORKED: Final = ("binance", "archive")
PUBLIC_REST: Final = "https://data-api.binance.vision"
PUBLIC_ARCHIVE: Final = "https://data.binance.vision"
SIGNALS: Final = ("none", "weak", "strong")

# What JSON readers and 64-bit generators both hold.
_MAX_SEED: Final = 2**63 - 1


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
