"""All that a report is made of: a version's card, and the tables that lie beside it, their hashes checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.candles.parquet import ParquetFile
from mltrain.errors import InputError
from mltrain.report.access import items_at, number_at, text_at
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.metrics import row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.store.versions import StoredVersion
    from mltrain.training.bootstrap import Bootstrap

HOLDOUT_FILE: Final = "holdout.parquet"
OOF_FILE: Final = "oof.parquet"
TRIALS_FILE: Final = "trials.parquet"
MAX_TABLE_BYTES: Final = 1 << 30
_COLUMNS: Final = {  # of holdout.parquet, as pyarrow writes their types
    "ts": ("timestamp[ms, tz=UTC]",),
    "symbol": ("string", "large_string", "string_view"),
    "y": ("uint8",),
    "last_move": ("int8",),
    "raw": ("double",),
    "p": ("double",),
}
_DRAWS: Final = 500  # of the intervals that the report itself computes, where the card tells no number
_LEVEL: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """The holdout's rows and what was said of them.

    Attributes:
        ts_ms: Open times, shape (n,), never falling.
        symbol: Symbols, shape (n,).
        y: Labels, shape (n,).
        last_move: Sign of the last move, shape (n,).
        raw: Probabilities before calibration, shape (n,).
        p: Probabilities, shape (n,).
        base: Log loss of each row where the training base rate is said of it, shape (n,).
        loss: Log loss of each row, shape (n,).
        train_up_share: The training base rate.
        bootstrap: Blocks of time and draws, as the card's intervals are made.
        level: Coverage of the intervals.
    """

    ts_ms: NDArray[np.int64]
    symbol: NDArray[np.str_]
    y: NDArray[np.uint8]
    last_move: NDArray[np.int8]
    raw: NDArray[np.float64]
    p: NDArray[np.float64]
    base: NDArray[np.float64]
    loss: NDArray[np.float64]
    train_up_share: float
    bootstrap: Bootstrap
    level: float


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a report is made of.

    Attributes:
        card: The card, valid.
        holdout: The holdout's rows; None where the version keeps none.
        trials: The search's trials; None likewise.
    """

    card: dict[str, Any]
    holdout: Holdout | None
    trials: pl.DataFrame | None


def read_material(version: StoredVersion, card: dict[str, Any]) -> Material:
    """Read the tables of a version, each checked against its manifest.

    Args:
        version: The version.
        card: Its card, valid.

    Raises:
        InputError: A table is not the one that was published, or not one.
        MachineError: The machine refuses to read it.
    """
    return Material(card, read_holdout(version, card), _read_trials(version))


def read_holdout(version: StoredVersion, card: dict[str, Any]) -> Holdout | None:
    """Read the holdout's rows of a version; None where it keeps none.

    Raises:
        InputError: The table is not the one that was published, or not one.
        MachineError: The machine refuses to read it.
    """
    if version.manifest.entry(HOLDOUT_FILE) is None:
        return None
    where = str(version.folder / HOLDOUT_FILE)
    file = ParquetFile(version.read(HOLDOUT_FILE, max_bytes=MAX_TABLE_BYTES), where=where)
    wrong = [name for name, types in _COLUMNS.items() if file.types.get(name) not in types]
    if wrong:
        raise InputError(f"{where}: its column {wrong[0]} is not what mltrain writes")
    return holdout_rows(file.read(list(_COLUMNS)), card, where=where)


def holdout_rows(table: pl.DataFrame, card: dict[str, Any], *, where: str) -> Holdout | None:
    """Take the holdout's rows out of their table; None where the card does not tell the training base rate.

    Args:
        table: As it is stored.
        card: The version's card.
        where: Its name in messages.

    Raises:
        InputError: A value is missing or outside of its range, or the rows are out of order.
    """
    up = number_at(card, "baselines", "train_up_share")
    if up is None or not 0 < up < 1 or table.height == 0:
        return None
    ts_ms, y = times_ms(table), table["y"].to_numpy()
    raw, p = table["raw"].to_numpy(), table["p"].to_numpy()
    moved = table["last_move"].to_numpy()
    sound = (
        not any(table.null_count().row(0))
        and bool((np.diff(ts_ms) >= 0).all() and (y <= 1).all() and (np.abs(moved) <= 1).all())
        and all(bool(((v >= 0) & (v <= 1)).all()) for v in (raw, p))
    )
    if not sound:
        raise InputError(f"{where}: its rows are not a holdout's: a value is missing, out of range or out of order")
    told, draws = number_at(card, "intervals", "level"), number_at(card, "intervals", "draws")
    level = told if told is not None and 0 < told < 1 else _LEVEL
    return Holdout(
        ts_ms=ts_ms,
        symbol=table["symbol"].to_numpy().astype(np.str_),
        y=y,
        last_move=moved,
        raw=raw,
        p=p,
        base=row_log_loss(_base_rates(table["symbol"], card, up), y),
        loss=row_log_loss(p, y),
        train_up_share=up,
        bootstrap=plan_bootstrap(
            ts_ms,
            draws=int(min(max(draws or _DRAWS, 1), 10_000)),
            level=level,
            seed=int(number_at(card, "lineage", "seed") or 0) & 0xFFFFFFFF,
        ),
        level=level,
    )


def _base_rates(symbol: pl.Series, card: dict[str, Any], of_all: float) -> NDArray[np.float64]:
    """Return the training base rate of each row's symbol; that of all where the card of an earlier release has none."""
    rates = {text_at(p, "symbol"): number_at(p, "up_share") for p in items_at(card, "baselines", "priors")}
    found = symbol.replace_strict(
        {name: rate for name, rate in rates.items() if rate is not None}, default=of_all, return_dtype=pl.Float64
    )
    base: NDArray[np.float64] = np.clip(found.to_numpy(), 0, 1)
    return base


def _read_trials(version: StoredVersion) -> pl.DataFrame | None:
    if version.manifest.entry(TRIALS_FILE) is None:
        return None
    where = str(version.folder / TRIALS_FILE)
    file = ParquetFile(version.read(TRIALS_FILE, max_bytes=MAX_TABLE_BYTES), where=where)
    table = file.read(list(file.types))
    if missing := [name for name in ("number", "state", "log_loss", "rounds") if name not in table.columns]:
        raise InputError(f"{where}: has no column {missing[0]}")
    return table
