"""Predict from a data folder: choose model, source and candles, and decide which refusals count as a failure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import TS_DTYPE
from mltrain.candles.funding import take_input
from mltrain.candles.input_tables import InputTable, KnownValues
from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, check_card
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.input_join import join_inputs
from mltrain.serving.model import check_not_halted, load, open_model
from mltrain.serving.rows import MAX_AGE_BARS, REASONS, STALE, TOO_FEW_BARS, shorten_list
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.snapshots.snapshot_record import FUNDING_FILE
from mltrain.snapshots.stored_inputs import load_inputs
from mltrain.sources.files import FilesSource
from mltrain.sources.markets import USDM
from mltrain.sources.simulated_market import SimSource
from mltrain.times import MINUTE_MS, TimeRange, floor_to_grid, format_ms, interval_ms

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.serving.answers import AnswerLog
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


# What a caller passes as inputs: the folder of their files, or tables by the input's name.
GivenInputs: TypeAlias = "Path | Mapping[str, object] | None"
Inputs: TypeAlias = Mapping[str, object]
FailOn: TypeAlias = Literal["all", "any", "never"]

# More than the lookback of any packaged registry.
BENCH_BARS: Final = 2_000


def open_followed_model(
    store: Store,
    ref: str | None,
    *,
    allow_no_go: bool,
    strict_age: bool = False,
    while_halted: bool = False,
    ledger: AnswerLog | None = None,
) -> tuple[Model, str | None]:
    """Open a version's model, and a warning if the latest was chosen because nothing was promoted yet.

    The model of the live version of a slot follows later promotions. `ref` is best, best:SLOT, latest, a version, or a
    path; None: the live version or, if nothing was promoted, the latest. `allow_no_go` accepts a version that was never
    promoted, and `while_halted` opens it although serving is halted. `strict_age` and `ledger` are as in `load`.
    """
    version, warning = _open_default_version(store, ref, allow_no_go=allow_no_go)
    pointer = store.pointer_of(ref)
    if pointer is not None and pointer.path.is_symlink():
        # Without a clock: the command line reads it itself.
        model = load(pointer.path, strict_age=strict_age, while_halted=while_halted, ledger=ledger, clock=None)
        return model, warning
    model = open_model(version, heed_halts=True, strict_age=strict_age, ledger=ledger)
    if not while_halted:
        check_not_halted(model)
    return model, warning


def _open_default_version(store: Store, ref: str | None, *, allow_no_go: bool) -> tuple[StoredVersion, str | None]:
    """Open a version as `Store.open_default` does; raise InputError if it was never promoted, unless `allow_no_go`."""
    version, warning = store.open_default(ref)
    if not (version.promoted or allow_no_go):
        raise InputError(
            f"{version.name} was never promoted: its verdict is {version.verdict}",
            hint=f"serve it anyway with --allow-no-go, or `mltrain promote {version.name}` first",
        )
    return version, warning


def simulate_bench_candles(model: Model) -> dict[str, pl.DataFrame]:
    """Simulate consecutive candles of the model's symbols and leaders, with its inputs joined, to measure speed.

    Prices and values do not change it.
    """
    market = SimSource()
    step_ms, end_ms = interval_ms(model.interval), market.clock_ms()
    bars = max(BENCH_BARS, 2 * model.lookback_bars)
    # These 1m candles are later than the market's last outage: rows after a gap would be refused instead of scored.
    window = TimeRange(end_ms - bars * MINUTE_MS, end_ms)
    # Moved to the model's interval, of which the market may have too few candles, or gaps.
    last_ms = floor_to_grid(end_ms, step_ms) - step_ms
    ts = pl.int_range(last_ms - (bars - 1) * step_ms, last_ms + 1, step_ms, eager=True).cast(TS_DTYPE).alias("ts")
    needed = sorted({*model.symbols, *model.feature_set.leaders})
    names = market.symbols()
    close_ms = ts.to_physical().to_numpy() + step_ms
    known = InputTable(for_all=KnownValues(close_ms, np.sin(np.arange(bars))))
    candles = {
        symbol: market.candles(names[i % len(names)], window).with_columns(ts) for i, symbol in enumerate(needed)
    }
    return join_inputs(model.feature_set, candles, {spec.name: known for spec in model.feature_set.inputs})


def find_model_source(model: Model, data_dir: Path, *, market: str | None = None) -> SourceSpec:
    """Return the source of the snapshot that the model was trained on.

    Args:
        model: The model.
        data_dir: The data folder, which contains the snapshot.
        market: The market that the user gave; None: that of the model.

    Raises:
        InputError: The snapshot is missing, or one of another market has its id.
        UsageError: A market was given, and the model was trained on files or on another market.
    """
    name = ModelCard(model.card).snapshot_id
    trained_on = choose_market(model, market)
    hint = "name one with --source"
    try:
        source = open_snapshot(data_dir, name).source
    except InputError as err:
        raise InputError(f"the source of {model.version} is unknown: {err.message}", hint=hint) from err
    if source.name == "files" and market is not None:
        raise UsageError(f"--market goes with --source: {model.version} was trained on {source.name}")
    if trained_on not in {None, source.market}:
        raise InputError(
            f"the source of {model.version} is unknown: it was trained on the market {trained_on}, "
            f"and the snapshot {name} is one of {source.market}",
            hint=hint,
        )
    return source


def choose_market(model: Model, given: str | None) -> str | None:
    """Return the market whose candles to score: the one given, or the one that the model was trained on.

    A future and the pair of that name are two instruments with other prices and volumes. None: neither is known, as of
    a model that was trained on files.

    Raises:
        UsageError: The given market is not the one that the model was trained on.
    """
    trained_on = ModelCard(model.card).market
    if not trained_on:
        return given
    if given not in {None, trained_on}:
        raise UsageError(
            f"{model.version} was trained on the market {trained_on}, not on {given}",
            hint=f"omit --market to score candles of {trained_on}, or train a model on {given}",
        )
    return trained_on


def read_inputs(model: Model, given: GivenInputs, *, source: Source | None, window: TimeRange | None = None) -> Inputs:
    """Return the values of the inputs that a model reads, by the input's name.

    Args:
        model: The model.
        given: The folder of their files, or tables as `Model.predict_candles` takes them; None: the source must have
            them.
        source: The source of the candles: its funding events serve an input of `funding.parquet` that is not given.
        window: The open times of the candles, for the funding events.

    Raises:
        InputError: The values of an input were not given, or its file is missing or not as declared.
        SourceError: The source does not answer.
    """
    specs = model.feature_set.inputs
    if isinstance(given, Mapping):
        return given
    funding = [spec for spec in specs if spec.file == FUNDING_FILE and source is not None and source.market == USDM]
    tables: dict[str, object] = {}
    if given is not None:
        loaded = load_inputs(specs, given, given=[spec.file for spec in funding])
        tables |= {each.spec.name: each.read.table for each in loaded}
    funding = [spec for spec in funding if spec.name not in tables]
    if funding and source is not None and window is not None:
        oldest_ms = window.start_ms - max(spec.max_age_ms for spec in funding)
        symbols = tuple(sorted({*model.symbols, *model.feature_set.leaders}))
        events = source.funding(symbols, TimeRange(max(0, oldest_ms), window.end_ms))
        frames = {} if events is None else {symbol: each.frame for symbol, each in events.symbols.items()}
        tables |= {spec.name: take_input(spec, frames, where=f"the source {source.name}") for spec in funding}
    missing = [spec for spec in specs if spec.name not in tables]
    if missing:
        listed = " and ".join(f"{spec.name} ({spec.column} of {spec.file})" for spec in missing)
        raise InputError(
            f"{model.version or 'the model'} reads the input {listed}, and no values were given",
            hint=f"name the folder that holds {missing[0].file} with --inputs DIR",
        )
    return tables


def predict_newest(
    model: Model, source: Source, *, inputs: GivenInputs = None, now_ms: int | None = None, explain: bool = False
) -> pl.DataFrame:
    """Score the newest closed candle of every symbol of the model; only the candles of its lookback are fetched.

    Candles that close later than `now_ms`, ms UTC, are left out, and a newest candle that is too old is refused as
    stale. None: the source's clock; that of files is their last candle, so nothing is ever stale. `inputs` is for
    `read_inputs`.

    Returns:
        One row per symbol: ts, symbol, p, raw, refused; with `explain` also the other columns of `Model.explain`.

    Raises:
        InputError: The source lacks a symbol, its candles are of another interval, or an input has no values.
        SourceError: The source did not answer.
    """
    step_ms = interval_ms(model.feature_set.interval)
    needed = sorted({*model.symbols, *model.feature_set.leaders})
    source.check_symbols(tuple(needed))
    clock_ms = source.clock_ms(model.symbols)
    now_ms = clock_ms if now_ms is None else now_ms
    end_ms = floor_to_grid(min(clock_ms, now_ms), step_ms)
    # A newest candle that is late, but not yet stale, needs its lookback too.
    window = TimeRange(max(0, end_ms - (model.lookback_bars + MAX_AGE_BARS) * step_ms), end_ms)
    windows = dict.fromkeys(needed, window)
    # Files of one symbol may end long before those of another: its row then shows its last candle, refused as stale.
    for symbol in needed if isinstance(source, FilesSource) else ():
        last_ms = source.extent(symbol).end_ms
        if last_ms <= window.start_ms:
            windows[symbol] = TimeRange(max(0, last_ms - (window.end_ms - window.start_ms)), last_ms)
    known = read_inputs(model, inputs, source=source, window=window)
    candles = source.candles_of(windows)
    score = model.explain if explain else model.predict_candles
    return score(candles, inputs=known, now_ms=now_ms)


def find_refusal(
    rows: pl.DataFrame, fail_on: FailOn, *, batch: bool = False, now_ms: int | None = None
) -> RefusedError | None:
    """Return the error with which a prediction fails because of refused rows; None if it succeeds.

    Args:
        rows: The prediction; columns `ts`, `symbol` and `refused` at least.
        fail_on: "all": fail if every row was refused; "any": if one was; "never".
        batch: Whether every candle was requested. "any" then ignores the first candles of a symbol, which have no
            complete lookback, if a later one was scored.
        now_ms: The time at which the candles were judged, ms UTC, for the message; None: not known.
    """
    refused = rows.filter(pl.col("refused").is_not_null())
    if fail_on == "never" or (fail_on == "all" and refused.height < rows.height):
        return None
    if batch and fail_on == "any":
        scored = rows.filter(pl.col("refused").is_null())["symbol"].unique()
        warm_up = (pl.col("refused") == TOO_FEW_BARS) & pl.col("symbol").is_in(scored.implode())
        refused = refused.filter(~warm_up)
    if not refused.height:
        return None
    reasons = [str(reason) for reason in refused["refused"].unique(maintain_order=True)]
    parts = []
    for reason in reasons:
        with_reason = refused.filter(pl.col("refused") == reason)
        symbols = with_reason["symbol"].unique(maintain_order=True).to_list()
        parts.append(f"{reason} ({shorten_list(symbols)}): {REASONS[reason]}")
        newest_ms = with_reason["ts"].dt.timestamp("ms").max()
        if reason == STALE and isinstance(newest_ms, int):
            judged = "" if now_ms is None else f", judged at {format_ms(now_ms)}"
            parts[-1] += f" (the newest is from {format_ms(newest_ms)}{judged})"
    all_refused = refused.height == rows.height
    head = "every row was refused" if all_refused else f"{refused.height:,} of {rows.height:,} rows were refused"
    hint = "`--fail-on-refused never` exits with 0 in any case"
    if STALE in reasons:
        hint = "provide newer candles; for a replay, set the current time with --as-of"
    return RefusedError(f"{head}: {'; '.join(parts)}", reason=reasons[0], hint=hint)


def verify_version(version: StoredVersion) -> tuple[str, ...]:
    """Hash every file of a version, check its card and load its model; return the problems, one sentence each."""
    if problems := version.verify():
        # Parsing changed bytes would add nothing to the hash mismatch.
        return problems
    card_json = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
    problems = check_card(card_json, where=str(version.folder / CARD_FILE), folder=version.folder).violations
    try:
        open_model(version)
    except InputError as err:
        problems = (*problems, err.message)
    return problems


def score_table(
    model: Model, table: pl.DataFrame, *, explain: bool, inputs: GivenInputs = None, as_of_ms: int | None = None
) -> pl.DataFrame:
    """Score every candle of a table, in the order of the table.

    The table needs a column `symbol` if the model knows several symbols. Candles that close later than `as_of_ms`, ms
    UTC, are left out; None: none are. No candle of a table is stale. `inputs` is for `read_inputs`.

    Returns:
        ts, symbol, p, raw, refused; with `explain` also the other columns of `Model.explain`. A symbol that is only a
        leader has no rows.

    Raises:
        InputError: The candles are impossible, or a column, a leader, an input or the symbol is missing.
    """
    if as_of_ms is not None:
        table = table.filter(pl.col("ts").dt.timestamp("ms") <= as_of_ms - interval_ms(model.interval))
    known = read_inputs(model, inputs, source=None)
    score = partial(model.explain if explain else model.predict_candles, inputs=known, rows="all")
    if "symbol" not in table.columns:
        return score(table)
    if table["symbol"].null_count():
        raise InputError("the column symbol must name a symbol in every row")
    row = "row of the table"
    numbered = table.with_row_index(row)
    parts = {str(key[0]): part for key, part in numbered.partition_by("symbol", as_dict=True).items()}
    scored = score({symbol: part.drop(row, "symbol") for symbol, part in parts.items()})
    # The model returns the rows symbol by symbol.
    row_numbers = [parts[symbol][row] for symbol in scored["symbol"].unique(maintain_order=True)]
    return scored.with_columns(pl.concat(row_numbers).alias(row)).sort(row).drop(row) if row_numbers else scored
