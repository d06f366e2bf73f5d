"""Read the tables of a version that its report shows, their hashes checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.candles.parquet import ParquetFile
from mltrain.errors import InputError
from mltrain.features.op import MAX_BARS
from mltrain.times import INTERVALS_MS
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.metrics import row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.card.model_card import ModelCard
    from mltrain.store.versions import StoredVersion
    from mltrain.training.bootstrap import Bootstrap

HOLDOUT_FILE: Final = "holdout.parquet"
OOF_FILE: Final = "oof.parquet"
TRIALS_FILE: Final = "trials.parquet"
MAX_TABLE_BYTES: Final = 1 << 30
# Columns of holdout.parquet, with the types (by pyarrow's names) that they may have.
_COLUMNS: Final = {
    "ts": ("timestamp[ms, tz=UTC]",),
    "symbol": ("string", "large_string", "string_view"),
    "y": ("uint8",),
    "last_move": ("int8",),
    "raw": ("double",),
    "p": ("double",),
}
# Number of bootstrap draws and coverage of the intervals that the report computes, if the card has none.
_DRAWS: Final = 500
_LEVEL: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """The scored rows of a version's holdout.

    Attributes:
        ts_ms: Open times, ms UTC, shape (n,), non-decreasing; the other arrays have the same order and shape.
        symbol: Symbols.
        y: Labels: 1 if the price went up, else 0.
        last_move: Sign of the last price move: -1, 0 or 1.
        p: Probabilities of "up", in [0, 1].
        base_loss: Log loss of each row under its symbol's training base rate, nats.
        loss: Log loss of each row under `p`, nats.
        train_up_share: Share of all training rows that went up, inside (0, 1).
        bootstrap: Blocks of time and draws from them, for intervals as in the card.
    """

    ts_ms: NDArray[np.int64]
    symbol: NDArray[np.str_]
    y: NDArray[np.uint8]
    last_move: NDArray[np.int8]
    p: NDArray[np.float64]
    base_loss: NDArray[np.float64]
    loss: NDArray[np.float64]
    train_up_share: float
    bootstrap: Bootstrap


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The inputs of a version's report.

    Attributes:
        card: The valid card.
        holdout: The scored rows of the holdout; None: the version does not keep them.
        trials: One row for each trial of the search; None: the version does not keep them.
    """

    card: ModelCard
    holdout: Holdout | None
    trials: pl.DataFrame | None


def read_material(version: StoredVersion, card: ModelCard) -> Material:
    """Read the tables of a version with this valid card, each checked against the version's manifest.

    Raises:
        InputError: A table is damaged, or not what mltrain writes.
    """
    return Material(card, read_holdout(version, card), read_trials(version))


def read_trials(version: StoredVersion) -> pl.DataFrame | None:
    """Read one row for each trial of a version's search; None if it does not keep them.

    Raises:
        InputError: The table is damaged, or not what mltrain writes.
    """
    if version.manifest.entry(TRIALS_FILE) is None:
        return None
    where = str(version.folder / TRIALS_FILE)
    file = ParquetFile(version.read(TRIALS_FILE, max_bytes=MAX_TABLE_BYTES), where=where)
    trials = file.read(list(file.types))
    if missing := [name for name in ("number", "state", "log_loss", "rounds") if name not in trials.columns]:
        raise InputError(f"{where}: has no column {missing[0]}")
    return trials


def read_holdout(version: StoredVersion, card: ModelCard) -> Holdout | None:
    """Read the scored rows of a version's holdout; None if it does not keep them.

    Raises:
        InputError: The table is damaged, or not what mltrain writes.
    """
    if version.manifest.entry(HOLDOUT_FILE) is None:
        return None
    where = str(version.folder / HOLDOUT_FILE)
    file = ParquetFile(version.read(HOLDOUT_FILE, max_bytes=MAX_TABLE_BYTES), where=where)
    if wrong := [name for name, types in _COLUMNS.items() if file.types.get(name) not in types]:
        expected, got = " or ".join(_COLUMNS[wrong[0]]), file.types.get(wrong[0], "no such column")
        raise InputError(f"{where}: column {wrong[0]}: expected {expected}, got {got}")
    return parse_holdout(file.read(list(_COLUMNS)), card, where=where)


def parse_holdout(table: pl.DataFrame, card: ModelCard, *, where: str) -> Holdout | None:
    """Return the labelled rows of a holdout; None without rows, or if the card lacks the training base rate.

    `table` is a `holdout.parquet`, and `where` its name in messages; the card has the base rates and how to draw
    intervals.

    Raises:
        InputError: A value is missing or out of range, or the rows are out of order.
    """
    # Candles whose label was dropped as a tie are in the table without one, and in no figure drawn from it.
    table = table.filter(pl.col("y").is_not_null())
    train_up_share = card.number("baselines", "train_up_share")
    if train_up_share is None or not 0 < train_up_share < 1 or table.height == 0:
        return None
    ts_ms, y = times_ms(table), table["y"].to_numpy()
    raw, p = table["raw"].to_numpy(), table["p"].to_numpy()
    last_move = table["last_move"].to_numpy()
    valid = (
        not any(table.null_count().row(0))
        and bool((np.diff(ts_ms) >= 0).all() and (y <= 1).all() and (np.abs(last_move) <= 1).all())
        and all(bool(((values >= 0) & (values <= 1)).all()) for values in (raw, p))
    )
    if not valid:
        raise InputError(f"{where}: its rows are not a holdout's: a value is missing, out of range or out of order")
    level, draws = card.number("intervals", "level"), card.number("intervals", "draws")
    # Cards of earlier releases have no base rates by symbol.
    priors = {prior.text("symbol"): prior.number("up_share") for prior in card.sections("baselines", "priors")}
    known = {name: rate for name, rate in priors.items() if rate is not None}
    base_rates = table["symbol"].replace_strict(known, default=train_up_share, return_dtype=pl.Float64)
    return Holdout(
        ts_ms=ts_ms,
        symbol=table["symbol"].to_numpy().astype(np.str_),
        y=y,
        last_move=last_move,
        p=p,
        base_loss=row_log_loss(np.clip(base_rates.to_numpy(), 0, 1), y),
        loss=row_log_loss(p, y),
        train_up_share=train_up_share,
        bootstrap=plan_bootstrap(
            ts_ms,
            draws=int(min(max(draws or _DRAWS, 1), 10_000)),
            level=level if level is not None and 0 < level < 1 else _LEVEL,
            seed=int(card.number("lineage", "seed") or 0) & 0xFFFFFFFF,
            overlap_ms=_find_label_overlap(card),
        ),
    )


def _find_label_overlap(card: ModelCard) -> int:
    """Return for how long the labels of neighbouring rows overlap by a card, in ms; 0 if it does not say."""
    horizon_bars, interval = card.number("train", "label", "horizon_bars"), card.text("train", "interval")
    if horizon_bars is None or not 1 <= horizon_bars <= MAX_BARS or interval is None or interval not in INTERVALS_MS:
        return 0
    return (int(horizon_bars) - 1) * INTERVALS_MS[interval]
