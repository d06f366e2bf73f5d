"""What the reader of candle files understood of a file: one line for people, and a record for the manifest.

Pure. Two files of one kind have equal records, whatever their notes say, so that a report can count them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from mltrain.documents.records import OMIT_DEFAULT, record
from mltrain.names import show

_PLAIN_NAME = re.compile(r"[\w<>./()-]+", re.ASCII)


@record
@dataclass(frozen=True, slots=True)
class FileLayout:
    """How a candle file was read.

    Attributes:
        file_format: Its format, and how text is separated, such as "feather", "csv", "csv with semicolons", "json".
        time: What its times are: of the open or of the close of a candle.
        unit: The unit of its times: "s", "ms", "us" or "ns", "text", "day-first text" and so on, or "dates".
        zone: The time zone of its times as the file states it, such as "UTC" or "+09:00"; "Europe/Berlin by
            --timezone" if the user did; "" if nobody did, and the times were read as UTC.
        columns: The columns that were read, in the file's order, by the names that the file gives them; for a file
            without names, by the names of CANDLE_SCHEMA.
        named: Whether the file names its columns.
        symbols: The symbols that the file itself names, as written there, such as "BTC/USD"; none in most files.
        emptied: The columns of CANDLE_SCHEMA that were left empty because the file counts contracts, as those of COIN-M
            futures do: it has numbers of coins there.
        notes: What was left out, and what was decided although the file does not state it; not part of its kind.
    """

    file_format: str
    time: Literal["open", "close"]
    unit: str
    zone: str
    columns: tuple[str, ...]
    named: bool = True
    symbols: tuple[str, ...] = ()
    emptied: Annotated[tuple[str, ...], OMIT_DEFAULT] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def describe(self, files: int = 1) -> str:
        """Return one line on what was understood of `files` files of this kind, without the notes.

        >>> FileLayout("feather", "open", "ns", "UTC", ("date", "open", "high", "low", "close", "volume")).describe(5)
        'feather, 5 files, open time, ns UTC, columns date open high low close volume'
        """
        columns = " ".join(name if _PLAIN_NAME.fullmatch(name) else show(name) for name in self.columns)
        parts = [
            self.file_format,
            *([f"{files:,} files"] if files > 1 else []),
            f"{self.time} time",
            f"{self.unit} {self.zone}" if self.zone else f"{self.unit} without a zone, read as UTC",
            f"columns {columns}" if self.named else f"columns by position {columns}",
            *([f"COIN-M volume in contracts: {' and '.join(self.emptied)} left empty"] if self.emptied else []),
        ]
        return ", ".join(parts)
