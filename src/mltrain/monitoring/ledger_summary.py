"""What a ledger holds: how many answers of which version and symbol, what was refused and why, the newest rows."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mltrain.documents.results import Result
from mltrain.errors import InputError
from mltrain.monitoring.ledger import LedgerRow, list_days, read_ledger

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class AnsweredSymbol:
    """The answers for one symbol.

    Attributes:
        symbol: The symbol; None: features were scored, not candles.
        rows: Number of answers.
        refused: Number of those without a probability.
        missed: Number of candles that were not answered, because nothing ran.
        last_ts: Open time of the newest candle in them, UTC; None: no answer had a candle.
    """

    symbol: str | None
    rows: int
    refused: int
    missed: int
    last_ts: str | None


@dataclass(frozen=True, slots=True)
class AnsweringCode:
    """The answers of one version by one state of the code.

    Attributes:
        version: The version.
        code_sha256: Hash of the mltrain package and of the user ops that ran. If a version has several, processes with
            different code have answered.
        rows: Number of answers.
        first_at: When the first was given, UTC.
        last_at: When the last was given, UTC.
    """

    version: str
    code_sha256: str
    rows: int
    first_at: str
    last_at: str


@dataclass(frozen=True, slots=True)
class LedgerSummary(Result):
    """What a ledger holds.

    Attributes:
        path: The folder.
        days: Number of files, one for each UTC day with answers.
        rows: Number of answers that were asked for.
        first_at: When the first of them was given, UTC; None: there is none.
        last_at: When the last of them was given, UTC.
        refused: Number of answers without a probability, by the reason's code; the most frequent one first.
        symbols: The answers by symbol, in the order of their names.
        versions: The answers by version and code, in the order of their first answer.
        latency_p50_ms: Median latency, from the candles to the answer; None: none was measured.
        latency_p99_ms: The latency that one in a hundred answers exceeds.
        newest: The newest answers, oldest first.
        problem: Damage of the ledger; what comes after it was not read. None: the chain of lines is whole.
    """

    SCHEMA: ClassVar[str] = "ledger/1"

    path: str
    days: int
    rows: int
    first_at: str | None
    last_at: str | None
    refused: Mapping[str, int]
    symbols: tuple[AnsweredSymbol, ...]
    versions: tuple[AnsweringCode, ...]
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    newest: tuple[LedgerRow, ...]
    problem: str | None


def summarise_ledger(
    folder: Path, *, since_ms: int | None = None, symbols: Collection[str] | None = None, newest: int = 10
) -> LedgerSummary:
    """Read a ledger, and check every line that is read.

    Args:
        folder: The folder of the ledger; it need not exist.
        since_ms: Only answers from this time on, ms UTC; None: all. Files of earlier days are not read.
        symbols: Only answers for these symbols; None: all.
        newest: How many of the newest answers to return.

    Raises:
        MachineError: A file cannot be read.
    """
    total, missed, last_ts = Counter[str | None](), Counter[str | None](), dict[str | None, str | None]()
    refused_symbols, reasons = Counter[str | None](), Counter[str]()
    codes = dict[tuple[str, str], tuple[int, str, str]]()
    latencies, tail = array("d"), deque[LedgerRow](maxlen=newest)
    first_at = last_at = problem = None
    try:
        for row in read_ledger(folder, since_ms=since_ms):
            if symbols is not None and row.symbol not in symbols:
                continue
            first_at, last_at = first_at or row.at, row.at
            total[row.symbol] += 1
            missed[row.symbol] += row.missed
            last_ts[row.symbol] = max(filter(None, (last_ts.get(row.symbol), row.ts)), default=None)
            if row.refused is not None:
                refused_symbols[row.symbol] += 1
                reasons[row.refused] += 1
            rows, first, _ = codes.get((row.version, row.code_sha256), (0, row.at, ""))
            codes[row.version, row.code_sha256] = (rows + 1, first, row.at)
            if row.latency_ms is not None:
                latencies.append(row.latency_ms)
            tail.append(row)
    except InputError as err:
        problem = err.message
    ordered = sorted(latencies)
    return LedgerSummary(
        path=str(folder),
        days=len(list_days(folder)),
        rows=sum(total.values()),
        first_at=first_at,
        last_at=last_at,
        refused=dict(reasons.most_common()),
        symbols=tuple(
            AnsweredSymbol(name, total[name], refused_symbols[name], missed[name], last_ts[name])
            for name in sorted(total, key=lambda name: name or "")
        ),
        versions=tuple(AnsweringCode(*key, rows, first, last) for key, (rows, first, last) in codes.items()),
        latency_p50_ms=ordered[len(ordered) // 2] if ordered else None,
        latency_p99_ms=ordered[len(ordered) * 99 // 100] if ordered else None,
        newest=tuple(tail),
        problem=problem,
    )
