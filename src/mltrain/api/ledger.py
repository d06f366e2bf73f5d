"""`ledger` and `ledger prune`: the answers that were recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mltrain.api.workspace import DATA_DIR, check_path, read_clock, read_time, read_whole
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.api.workspace import PathText, Time
    from mltrain.monitoring.ledger import PrunedLedger
    from mltrain.monitoring.ledger_summary import LedgerSummary

DEFAULT_NEWEST: Final = 10


def ledger(
    *,
    since: Time | None = None,
    symbols: str | Sequence[str] | None = None,
    newest: int = DEFAULT_NEWEST,
    data_dir: PathText = DATA_DIR,
) -> LedgerSummary:
    """Return what the ledger of a data folder holds, and whether any line of it was changed.

    `read_ledger` gives the rows themselves.

    Args:
        since: Only answers from this time on, and only the files of their days are checked; None: all.
        symbols: Only answers for these, such as ["BTCUSDT", "ETHUSDT"]; None: all.
        newest: How many of the newest answers to return, 0 or more.
        data_dir: The data folder.

    Raises:
        UsageError: An argument has the wrong type, or `newest` is below 0.
        MachineError: The ledger cannot be read.
    """
    from mltrain.monitoring.ledger import LEDGER
    from mltrain.monitoring.ledger_summary import summarise_ledger
    from mltrain.names import read_symbols

    given = symbols.split(",") if isinstance(symbols, str) else symbols
    if read_whole(newest, "newest") < 0:
        raise UsageError(f"newest is {newest}: expected 0 or more")
    return summarise_ledger(
        check_path(data_dir, "data_dir") / LEDGER,
        since_ms=None if since is None else read_time(since, "since"),
        symbols=None if given is None else read_symbols(given),
        newest=newest,
    )


def ledger_prune(
    *, keep_days: int, dry_run: bool = False, data_dir: PathText = DATA_DIR, now_ms: int | None = None
) -> PrunedLedger:
    """Remove the oldest days of the ledger; the newest one always stays, and what is left can still be checked.

    Args:
        keep_days: How many UTC days to keep, today included; 1 or more.
        dry_run: Only return what would be removed.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: `keep_days` is not a whole number, or below 1.
        MachineError: A file cannot be removed.
        LockedError: Another process holds the lock of the ledger.
    """
    from mltrain.monitoring.ledger import LEDGER, prune_ledger

    if read_whole(keep_days, "keep_days") < 1:
        raise UsageError(f"keep_days is {keep_days}: expected 1 or more")
    folder = check_path(data_dir, "data_dir") / LEDGER
    return prune_ledger(folder, keep_days=keep_days, now_ms=read_clock(now_ms), dry_run=dry_run)
