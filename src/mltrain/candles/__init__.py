"""Exchange to immutable snapshot.

For those who only want candles, a few names are enough; they are loaded when they are first used:

    from mltrain.candles import fetch_candles
    frames = fetch_candles(["BTCUSDT"], start="2025-10-01", end="2025-10-08", data_dir="data")

    fetch_candles    closed candles of a range of time, as Polars frames
    SourceSpec       which source: the exchange, its archive, a folder of files, the simulated exchange
    Request          which candles a snapshot is to hold
    open_source      a source, ready to be asked
    take_snapshot    write a snapshot
    open_snapshot    one that is there: `.symbols`, `.candles(symbol)`, `.facts`
    list_snapshots, verify_snapshot
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mltrain.candles.fetch import fetch_candles
    from mltrain.candles.record import Request
    from mltrain.candles.snapshot import take_snapshot
    from mltrain.candles.source import SourceSpec, open_source
    from mltrain.candles.stored import list_snapshots, open_snapshot, verify_snapshot

__all__ = [
    "Request",
    "SourceSpec",
    "fetch_candles",
    "list_snapshots",
    "open_snapshot",
    "open_source",
    "take_snapshot",
    "verify_snapshot",
]

_HOMES: Final = {
    "Request": "record",
    "SourceSpec": "source",
    "fetch_candles": "fetch",
    "list_snapshots": "stored",
    "open_snapshot": "stored",
    "open_source": "source",
    "take_snapshot": "snapshot",
    "verify_snapshot": "stored",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
