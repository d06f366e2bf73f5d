"""`predict`: probabilities for the newest candles, for a file, or for every candle as it closes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, TypeAlias

from mltrain.api.references import version_text
from mltrain.api.sources import read_network_rules, read_source_spec
from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_clock, read_progress, read_time
from mltrain.documents.results import HIDDEN, INLINE, Result
from mltrain.errors import UsageError
from mltrain.names import describe
from mltrain.times import TIME_FORMAT, interval_ms

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl

    from mltrain.api.references import VersionRef
    from mltrain.api.sources import Market, SimSignal, SourceOptions
    from mltrain.api.workspace import PathText, ProgressLike, Time
    from mltrain.candles.tables import Format
    from mltrain.progress import Progress
    from mltrain.serving.answers import AnswerLog
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source

#: A file, or a binary stream such as `sys.stdin.buffer`.
FileOrStream: TypeAlias = "PathText | BinaryIO"

# Stands for a stream where a document names a file.
STREAM: Final = "-"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one candle.

    Attributes:
        ts: Open time of the candle, UTC.
        symbol: The symbol.
        p: Calibrated probability that the label is up; null where refused.
        raw: Raw score of the booster.
        refused: Why there is no probability.
        permit: "reduce": to be used only to reduce positions; null: without restriction.
        explanation: With --explain: `log_odds`, `base`, and `contribution_` with the name of each feature.
    """

    ts: str | None
    symbol: str
    p: float | None
    raw: float | None
    refused: str | None
    permit: str | None
    explanation: Mapping[str, float | None] = field(default_factory=dict, metadata=INLINE)


@dataclass(frozen=True, slots=True)
class WatchedPrediction:
    """The prediction for a candle that has just closed.

    Attributes:
        version: Name of the version that made it; another one after a promotion.
        ts: Open time of the candle, UTC.
        symbol: The symbol.
        p: Calibrated probability that the label is up; None where refused.
        raw: Raw score of the booster.
        refused: Why there is no probability.
        permit: "reduce": to be used only to reduce positions; None: without restriction.
    """

    version: str
    ts: str | None
    symbol: str
    p: float | None
    raw: float | None
    refused: str | None
    permit: str | None


@dataclass(frozen=True, slots=True)
class PredictResult(Result):
    """The result of `predict`.

    Attributes:
        version: Name of the version.
        predictions: One row per candle.
        frame: The same as a Polars frame: `ts` (UTC), `symbol`, `p`, `raw`, `refused`, `permit`, and what explains
            `raw`.
        judged_at_ms: The time at which candles were closed or stale, ms UTC; None: that of the source, or no time.
    """

    SCHEMA: ClassVar[str] = "predict/1"

    version: str
    predictions: list[Prediction]
    frame: pl.DataFrame = field(metadata=HIDDEN, compare=False, repr=False)
    judged_at_ms: int | None = field(metadata=HIDDEN)


@dataclass(frozen=True, slots=True)
class PredictFileResult(Result):
    """The result of `predict --output`.

    Attributes:
        output: The file.
        rows: Number of rows.
        refused: Number of rows without a probability.
        frame: The rows, as in `PredictResult`.
        judged_at_ms: As in `PredictResult`.
    """

    SCHEMA: ClassVar[str] = "predict-file/1"

    output: str
    rows: int
    refused: int
    frame: pl.DataFrame = field(metadata=HIDDEN, compare=False, repr=False)
    judged_at_ms: int | None = field(metadata=HIDDEN)


def predict(
    version: VersionRef | None = None,
    *,
    source: str | None = None,
    market: Market | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    use_env_proxy: bool = False,
    input: FileOrStream | None = None,  # noqa: A002 (the command's name)
    input_format: Format | None = None,
    inputs: PathText | Mapping[str, object] | None = None,
    explain: bool = False,
    as_of: Time | None = None,
    allow_no_go: bool = False,
    strict_age: bool = False,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> PredictResult:
    """Return calibrated probabilities of going up, for the newest closed candle of each symbol or for a file.

    Candles that are in memory already go to `Model.predict_candles`.

    Args:
        version: Its name, "latest", "best", "best:SLOT", a path, or a loaded model; None: the live version or, with a
            warning, the latest if nothing was promoted yet.
        source: Source of the candles, as in `snapshot`; None: that of the model's snapshot.
        market: As in `snapshot`; None: that of the model.
        folder: As in `snapshot`.
        timezone: As in `snapshot`; also for `input`.
        sim_seed: As in `snapshot`.
        sim_signal: As in `snapshot`.
        base_url: As in `snapshot`.
        archive_url: As in `snapshot`.
        use_env_proxy: As in `snapshot`.
        input: Score every candle of a file (.feather, .parquet, .csv, .jsonl) or of a binary stream.
        input_format: Format of `input`; None: by the file's name; that of a stream is CSV.
        inputs: The values of the inputs that the model reads: the folder of their files, or tables by the input's name,
            as `Model.predict_candles` takes them. None: none; funding rates come from the source of a futures market.
        explain: Add the contribution of each feature, in log odds.
        as_of: Current time to assume: later candles are ignored, and older ones may be stale. None: the clock of the
            source; for files, `now_ms`.
        allow_no_go: Accept a version that was never promoted.
        strict_age: Refuse the newest candles after the time that the card has as `valid_until`; otherwise there is a
            warning.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        progress: Receives warnings.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        One row per candle; a row that must not be scored is refused with a reason.

    Raises:
        UsageError: Arguments contradict each other.
        InputError: There is no such version, it was never promoted, or candles are missing or impossible.
        SourceError: The exchange or the network failed.
    """
    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    model, rows, judged_at_ms = _score(
        version,
        options,
        base_url=base_url,
        archive_url=archive_url,
        use_env_proxy=use_env_proxy,
        input_=input,
        input_format=input_format,
        inputs=inputs,
        explain=explain,
        as_of=as_of,
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        ops=ops,
        data_dir=data_dir,
        slot=slot,
        progress=read_progress(progress),
        now_ms=read_clock(now_ms),
    )
    return PredictResult(model.version, _as_predictions(rows), rows, judged_at_ms)


def predict_file(
    output: FileOrStream,
    version: VersionRef | None = None,
    *,
    output_format: Format | None = None,
    source: str | None = None,
    market: Market | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    use_env_proxy: bool = False,
    input: FileOrStream | None = None,  # noqa: A002 (the command's name)
    input_format: Format | None = None,
    inputs: PathText | Mapping[str, object] | None = None,
    explain: bool = False,
    as_of: Time | None = None,
    allow_no_go: bool = False,
    strict_age: bool = False,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> PredictFileResult:
    """Write what `predict` returns to a file.

    Args:
        output: The file (.feather, .parquet, .csv, .jsonl) or a binary stream.
        version: As in `predict`.
        output_format: Format of `output`; None: by the file's name; that of a stream is CSV.
        source: As in `predict`.
        market: As in `predict`.
        folder: As in `predict`.
        timezone: As in `predict`.
        sim_seed: As in `predict`.
        sim_signal: As in `predict`.
        base_url: As in `predict`.
        archive_url: As in `predict`.
        use_env_proxy: As in `predict`.
        input: As in `predict`.
        input_format: As in `predict`.
        inputs: As in `predict`.
        explain: As in `predict`.
        as_of: As in `predict`.
        allow_no_go: As in `predict`.
        strict_age: As in `predict`.
        ops: As in `predict`.
        data_dir: The data folder.
        slot: As in `predict`.
        progress: Receives warnings.
        now_ms: As in `predict`.

    Raises:
        UsageError: As in `predict`, or the format is unknown.
        InputError: As in `predict`, or the output is not a regular file.
        SourceError: As in `predict`.
        MachineError: The output cannot be written.
    """
    from mltrain.candles.tables import encode_table
    from mltrain.storage.writing import write_outputs

    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    form = _read_format(output, "output", output_format)
    _, rows, judged_at_ms = _score(
        version,
        options,
        base_url=base_url,
        archive_url=archive_url,
        use_env_proxy=use_env_proxy,
        input_=input,
        input_format=input_format,
        inputs=inputs,
        explain=explain,
        as_of=as_of,
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        ops=ops,
        data_dir=data_dir,
        slot=slot,
        progress=read_progress(progress),
        now_ms=read_clock(now_ms),
    )
    data = encode_table(rows, form)
    path = _as_path(output, "output")
    if path is None:
        output.write(data)  # type: ignore[union-attr]
        output.flush()  # type: ignore[union-attr]
    else:
        write_outputs(path.parent, {path.name: data})
    refused = int(rows["refused"].is_not_null().sum())
    place = STREAM if path is None else os.fspath(output)  # type: ignore[arg-type]
    return PredictFileResult(place, rows.height, refused, rows, judged_at_ms)


def watch(
    version: VersionRef | None = None,
    *,
    source: str | None = None,
    market: Market | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    use_env_proxy: bool = False,
    inputs: PathText | Mapping[str, object] | None = None,
    allow_no_go: bool = False,
    strict_age: bool = False,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    ledger: bool = False,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[WatchedPrediction]:
    """Return an iterator that gives the prediction for each candle as it closes, through faults of the network.

    Args:
        version: As in `predict`; the live version follows promotions.
        source: As in `predict`.
        market: As in `predict`.
        folder: As in `predict`.
        timezone: As in `snapshot`.
        sim_seed: As in `predict`.
        sim_signal: As in `predict`.
        base_url: As in `predict`.
        archive_url: As in `predict`.
        use_env_proxy: As in `predict`.
        inputs: As in `predict`; the files of a folder are read again for new candles.
        allow_no_go: As in `predict`.
        strict_age: As in `predict`.
        ops: As in `predict`.
        data_dir: The data folder.
        slot: As in `predict`.
        ledger: Record each prediction in the folder `ledger` of the data folder before it is given.
        progress: Receives a warning for each fault of the source, which is polled again after a pause.
        now_ms: The time of the call, ms UTC; None: the machine's clock.
        wait: Called with the seconds to wait until the next request.

    Returns:
        An iterator without an end.

    Raises:
        UsageError: Arguments contradict each other, or the source has no new candles.
        InputError: There is no such version, it was never promoted, or the source lacks a symbol; or the ledger's
            newest rows were changed.
        SourceError: The source does not answer the first request.
        MachineError: The ledger cannot be written: what cannot be recorded is not given, and the iterator ends.
        LockedError: Another process held the lock of the ledger for too long.
    """
    import mltrain.pipeline.watch as watching
    from mltrain.monitoring.ledger import LEDGER, Ledger

    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    shown = read_progress(progress)
    # A watch that is started again while serving is halted waits for the end of the halt, as a running one does.
    model = open_predicting_model(
        version,
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        ops=ops,
        data_dir=data_dir,
        slot=slot,
        progress=shown,
        while_halted=True,
    )
    opened = open_growing_source(
        model,
        options,
        base_url=base_url,
        archive_url=archive_url,
        use_env_proxy=use_env_proxy,
        data_dir=data_dir,
        now_ms=read_clock(now_ms),
    )
    # The clock of files is their last candle, by which none would ever be stale.
    clock = time.time if opened.name == "files" else None
    opened_ledger = Ledger(check_path(data_dir, "data_dir") / LEDGER) if ledger else None
    watched = watching.Watch(model, opened, shown, inputs=as_given(inputs), clock=clock, ledger=opened_ledger)
    # Here, so that a wrong argument is an error of the call and not of the first step.
    watched.check_symbols()

    def follow() -> Iterator[WatchedPrediction]:
        with opened_ledger or nullcontext():
            for rows in watching.watch(watched, wait):
                for row in rows.to_dicts():
                    row["ts"] = row["ts"].strftime(TIME_FORMAT)
                    yield WatchedPrediction(**row)

    return follow()


def _score(
    version: VersionRef | None,
    options: SourceOptions,
    *,
    base_url: str | None,
    archive_url: str | None,
    use_env_proxy: bool,
    input_: FileOrStream | None,
    input_format: Format | None,
    inputs: PathText | Mapping[str, object] | None,
    explain: bool,
    as_of: Time | None,
    allow_no_go: bool,
    strict_age: bool,
    ops: str | None,
    data_dir: PathText,
    slot: str | None,
    progress: Progress,
    now_ms: int,
) -> tuple[Model, pl.DataFrame, int | None]:
    """Return the model, its rows for a file or for the newest candles of a source, and the time at which it judged."""
    from mltrain.candles.closed_candles import drop_unclosed
    from mltrain.pipeline.predict import predict_newest, score_table

    has_source, timezone = names_source(options), options["timezone"]
    if input_ is not None and (has_source or options["market"] is not None):
        raise UsageError("--input replaces the source: --source and its options do not go with it")
    if input_ is None and input_format is not None:
        raise UsageError("--input-format needs --input")
    form = None if input_ is None else _read_format(input_, "input", input_format)
    judged_at_ms = None if as_of is None else read_time(as_of, "as_of")
    model = open_predicting_model(
        version,
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        ops=ops,
        data_dir=data_dir,
        slot=slot,
        progress=progress,
    )
    if input_ is not None and form is not None:
        candles, where, notes = _read_input(input_, form, model, timezone=timezone)
        candles, unclosed = drop_unclosed(
            candles, symbols=model.symbols, step_ms=interval_ms(model.interval), now_ms=now_ms, where=where
        )
        for note in [*(f"{note}: {where}" for note in notes), *([unclosed] if unclosed else [])]:
            progress.warn(note)
        rows = score_table(model, candles, inputs=as_given(inputs), explain=explain, as_of_ms=judged_at_ms)
        return model, rows, judged_at_ms
    opened = _open_source(
        model,
        options,
        base_url=base_url,
        archive_url=archive_url,
        use_env_proxy=use_env_proxy,
        data_dir=data_dir,
        now_ms=now_ms,
    )
    # The clock of files is their last candle, by which none would ever be stale.
    if judged_at_ms is None and opened.name == "files":
        judged_at_ms = now_ms
    rows = predict_newest(model, opened, inputs=as_given(inputs), now_ms=judged_at_ms, explain=explain)
    for note in opened.notes():
        progress.warn(note)
    return model, rows, judged_at_ms


def open_predicting_model(
    version: VersionRef | None,
    *,
    allow_no_go: bool,
    strict_age: bool,
    ops: str | None,
    data_dir: PathText,
    slot: str | None,
    progress: Progress,
    while_halted: bool = False,
    ledger: AnswerLog | None = None,
) -> Model:
    """Return the model that a caller named or passed; the live version follows promotions."""
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.predict import open_followed_model
    from mltrain.serving.model import Model

    if ops is not None:
        import_user_ops(ops)
    if isinstance(version, Model):
        if ledger is not None:
            raise UsageError(
                "a loaded model records its answers if it was loaded so", hint="pass mltrain.load(..., ledger=...)"
            )
        return version
    store = open_store(data_dir, slot)
    model, warning = open_followed_model(
        store,
        None if version is None else version_text(version),
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        while_halted=while_halted,
        ledger=ledger,
    )
    if warning:
        progress.warn(warning)
    return model


def _open_source(
    model: Model,
    options: SourceOptions,
    *,
    base_url: str | None,
    archive_url: str | None,
    use_env_proxy: bool,
    data_dir: PathText,
    now_ms: int,
) -> Source:
    """Open the source that the arguments describe; without any, that of the snapshot of a model."""
    from mltrain.pipeline.predict import choose_market, find_model_source
    from mltrain.sources.opening import open_recorded, open_source

    rules, market = read_network_rules(use_env_proxy=use_env_proxy), options["market"]
    if not names_source(options):
        if options["timezone"] is not None:
            raise UsageError("--timezone goes with --input, or with --source files")
        recorded = find_model_source(model, check_path(data_dir, "data_dir"), market=market)
        return open_recorded(recorded, rules, base_url=base_url, archive_url=archive_url, now_ms=now_ms)
    spec = read_source_spec(
        options,
        interval=model.interval,
        base_url=base_url,
        archive_url=archive_url,
        default_market=choose_market(model, market),
    )
    return open_source(spec, rules, now_ms=now_ms)


def open_growing_source(
    model: Model,
    options: SourceOptions,
    *,
    base_url: str | None,
    archive_url: str | None,
    use_env_proxy: bool,
    data_dir: PathText,
    now_ms: int,
) -> Source:
    """Open the source that the arguments describe, as for `predict`; a UsageError if it never has new candles."""
    opened = _open_source(
        model,
        options,
        base_url=base_url,
        archive_url=archive_url,
        use_env_proxy=use_env_proxy,
        data_dir=data_dir,
        now_ms=now_ms,
    )
    if opened.name in {"sim", "archive"}:
        hint = "run `mltrain sim --ticking` and pass --source binance --base-url with its address"
        raise UsageError(
            f"--watch waits for new candles, and the source {opened.name} has none",
            hint=hint if opened.name == "sim" else "pass --source binance",
        )
    return opened


def names_source(options: SourceOptions) -> bool:
    """Return whether the arguments name a source; without one it is that of the model's snapshot."""
    given = (options["source"], options["folder"], options["sim_seed"], options["sim_signal"])
    return any(option is not None for option in given)


def as_given(inputs: PathText | Mapping[str, object] | None) -> Path | Mapping[str, object] | None:
    """Return the folder of inputs as a path, and anything else as it is."""
    if inputs is None or isinstance(inputs, Mapping):
        return inputs
    if isinstance(inputs, str | os.PathLike):
        return check_path(inputs, "inputs")
    raise UsageError(
        f"inputs is {describe(inputs)}: expected a folder, or a mapping of the input's name to a table",
        hint='such as inputs={"funding": table}',
    )


def _as_path(place: FileOrStream, argument: str) -> Path | None:
    """Return the path of a file; None for a stream."""
    return None if hasattr(place, "read") or hasattr(place, "write") else check_path(place, argument)


def _read_format(place: FileOrStream, argument: str, given: Format | None) -> Format:
    """Return the format of a table: the given one, or that of the file's name; that of a stream is CSV."""
    from mltrain.candles.tables import FORMATS, infer_format
    from mltrain.names import check_choice

    if given is not None:
        check_choice(given, "format", tuple(dict.fromkeys(FORMATS.values())))
        return given
    path = _as_path(place, argument)
    return "csv" if path is None else infer_format(path)


def _read_input(
    place: FileOrStream, form: Format, model: Model, *, timezone: str | None
) -> tuple[pl.DataFrame, str, tuple[str, ...]]:
    """Return the candles of a file or stream, its name in messages, and notes on how they were read."""
    from mltrain.candles.conversion import MAX_TABLE_BYTES, read_candle_table
    from mltrain.candles.time_zones import check_time_zone
    from mltrain.storage.descriptors import real_path
    from mltrain.storage.reading import read_file

    zone = None if timezone is None else check_time_zone(timezone)
    path = _as_path(place, "input")
    if path is None:
        data: bytes = place.read(MAX_TABLE_BYTES)  # type: ignore[union-attr]
        where = str(getattr(place, "name", "the stream")).strip("<>")
    else:
        data, where = read_file(real_path(path), max_bytes=MAX_TABLE_BYTES, what="the candles"), str(path)
    candles, notes = read_candle_table(data, form, where=where, step_ms=interval_ms(model.interval), timezone=zone)
    # A model of one symbol needs no name.
    if path is not None and len(model.symbols) > 1:
        candles = _add_symbol(candles, path)
    return candles, where, notes


def _add_symbol(candles: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Add to candles without a column `symbol` the one that their file's name states, such as BTC_USDT-1h.feather."""
    import polars as pl

    from mltrain.candles.filenames import read_path

    named = read_path([], path.name)
    if "symbol" in candles.columns or not named.is_pair:
        return candles
    return candles.with_columns(symbol=pl.lit(named.symbol))


def _as_predictions(rows: pl.DataFrame) -> list[Prediction]:
    """Return the predictions in a frame of `predict_candles`, which may have columns that explain `raw`, too."""

    def as_prediction(row: dict[str, Any]) -> Prediction:
        ts: dt.datetime | None = row.pop("ts")
        known = {name: row.pop(name) for name in ("symbol", "p", "raw", "refused", "permit")}
        return Prediction(ts.strftime(TIME_FORMAT) if ts else None, **known, explanation=row)

    return [as_prediction(row) for row in rows.to_dicts()]
