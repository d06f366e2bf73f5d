"""The candle table: columns, grid, gaps, checks, and files of candles.

The functions that were here have moved; importing them from here warns, and ends with the next release.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, Final

_MOVED: Final = {
    "Request": "mltrain.snapshots.snapshot_record",
    "SourceSpec": "mltrain.sources.source_spec",
    "fetch_candles": "mltrain.sources.fetch_candles",
    "list_snapshots": "mltrain.snapshots.snapshot",
    "open_snapshot": "mltrain.snapshots.snapshot",
    "open_source": "mltrain.sources.opening",
    "take_snapshot": "mltrain.snapshots.take",
    "verify_snapshot": "mltrain.snapshots.snapshot",
}
# The public functions that do the same; their arguments differ, so that a moved name stands for the earlier function.
_PUBLIC: Final = {
    "fetch_candles": "fetch_candles",
    "list_snapshots": "list_snapshots",
    "open_snapshot": "open_snapshot",
    "take_snapshot": "snapshot",
    "verify_snapshot": "verify_snapshot",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- of any type
    """Return the object that a moved name stands for, with a DeprecationWarning."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new_name = "SnapshotRequest" if name == "Request" else name
    advice = f"import {new_name} from {_MOVED[name]}"
    if name in _PUBLIC:
        advice = f"import {_PUBLIC[name]} from mltrain, which has other arguments"
    warnings.warn(advice, DeprecationWarning, stacklevel=2)
    return getattr(import_module(_MOVED[name]), new_name)
