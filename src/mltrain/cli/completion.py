"""Shell completion of versions, snapshots, symbols and features.

It only lists the names of folders and files, and imports nothing heavy. A folder that cannot be read completes nothing.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import typer

from mltrain.names import SLOT, SNAPSHOT, SYMBOL, VERSION

_FEATURE: Final = re.compile(r"\bname: *([a-z][a-z0-9_]*)")
_DEFAULT_SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def _data_dir(ctx: typer.Context) -> Path:
    """Return the data folder that the unfinished command line or the environment names."""
    given = str(ctx.params.get("data_dir") or os.environ.get("MLTRAIN_DATA_DIR") or "data")
    return Path(os.path.expanduser(given))  # noqa: PTH111 (pathlib's raises without a home)


def _list_names(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names in a folder that match, last first: of snapshots and versions, that is the newest first."""
    with suppress(OSError):
        return sorted((name for name in os.listdir(folder) if pattern.fullmatch(name)), reverse=True)  # noqa: PTH208 (names)
    return []


def _keep_matching(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def complete_version(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete best, latest, the versions, newest first, and best:SLOT."""
    names = _list_names(_data_dir(ctx) / "models", VERSION)
    bests = [f"best:{slot}" for slot in complete_slot(ctx, "")]
    return _keep_matching(["best", "latest", *names, *bests], incomplete)


def complete_slot(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the slots that have a live version."""
    pointers = _list_names(_data_dir(ctx) / "models", re.compile(f"best_{SLOT.pattern}"))
    return _keep_matching(sorted(name.removeprefix("best_") for name in pointers), incomplete)


def complete_version_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the names of versions, newest first."""
    return _keep_matching(_list_names(_data_dir(ctx) / "models", VERSION), incomplete)


def complete_snapshot(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete latest and the snapshots, newest first."""
    return _keep_matching(["latest", *_list_names(_data_dir(ctx) / "snapshots", SNAPSHOT)], incomplete)


def _list_symbols(ctx: typer.Context) -> list[str]:
    """Return the symbols of the latest snapshot; without one, the default symbols of `snapshot`."""
    stems = []
    with suppress(OSError):
        stems = [Path(name).stem for name in os.listdir(_data_dir(ctx) / "snapshots" / "latest")]  # noqa: PTH208
    return sorted(stem for stem in stems if SYMBOL.fullmatch(stem)) or list(_DEFAULT_SYMBOLS)


def complete_source(incomplete: str) -> list[str]:
    """Complete the name of a source; not the exchanges of ccxt, whose import takes most of a second."""
    return _keep_matching(["binance", "archive", "files", "sim", "ccxt:"], incomplete)


def complete_symbol(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a symbol."""
    return _keep_matching(_list_symbols(ctx), incomplete)


def complete_symbols(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the last symbol of a comma-separated list."""
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{symbol}" for symbol in _keep_matching(_list_symbols(ctx), last) if symbol not in given]


def complete_feature(ctx: typer.Context, incomplete: str) -> list[str]:  # noqa: ARG001 (Typer's signature)
    """Complete a feature of the packaged registry."""
    from mltrain.config.loading import packaged_config

    names: list[str] = []
    with suppress(OSError):
        names = _FEATURE.findall(packaged_config("features.yml").read_text("utf-8"))
    return _keep_matching(names, incomplete)
