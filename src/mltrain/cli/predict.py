"""The command predict: scores the newest candles, a file, or every candle as it closes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_source
from mltrain.cli.help import add_command, data_option, model_option, output_option
from mltrain.cli.render import Outcome, number_text
from mltrain.cli.sources import (
    SOURCE_METAVAR,
    ArchiveUrl,
    BaseUrl,
    EnvProxy,
    Folder,
    MarketOption,
    Signal,
    SimSeed,
    TimeZone,
    read_network_rules,
    read_source_spec,
)
from mltrain.cli.tables import right, table
from mltrain.documents.results import INLINE, Result, to_plain
from mltrain.errors import UsageError
from mltrain.times import TIME_FORMAT, check_time_ms, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import polars as pl

    from mltrain.candles.tables import Format
    from mltrain.cli.render import View
    from mltrain.cli.tables import Table
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source

# Stands for stdin or stdout.
STREAM: Final = "-"
# The features of an explanation that are shown: those of the largest contribution.
MAX_FEATURES_SHOWN: Final = 5


class FailOnRefused(StrEnum):
    """When refused rows are a failure."""

    ALL = "all"
    ANY = "any"
    NEVER = "never"


class TableFormat(StrEnum):
    """Formats of a table."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    FEATHER = "feather"


Input = Annotated[
    str | None,
    data_option(
        "--input", metavar="FILE", help="Score every candle of a file (.feather, .parquet, .csv, .jsonl); - is stdin."
    ),
]
Output = Annotated[
    str | None,
    output_option(
        "--output",
        metavar="FILE",
        help="Write the predictions to a file (.feather, .parquet, .csv, .jsonl); - is stdout.",
    ),
]
InputFormat = Annotated[TableFormat | None, data_option("--input-format", help="Format of stdin. Default: csv.")]
OutputFormat = Annotated[TableFormat | None, output_option("--output-format", help="Format of stdout. Default: csv.")]
Explain = Annotated[bool, output_option("--explain", help="Show the contribution of each feature, in log odds.")]
Watching = Annotated[
    bool,
    output_option("--watch", help="Print one line per candle as it closes, until Ctrl-C; with --json, JSON lines."),
]
FailOn = Annotated[
    FailOnRefused | None,
    output_option("--fail-on-refused", help="Exit 3 if all rows were refused, if any was, or never. Default: all."),
]
AsOf = Annotated[
    str | None,
    data_option(
        "--as-of",
        metavar="TIME",
        help="Current time to assume, such as 2025-10-15T12:00:00Z: later candles are ignored, and older ones may be "
        "stale. Default: the clock of the source; for files, of the machine.",
    ),
]
NoGo = Annotated[bool, model_option("--allow-no-go", help="Serve a version that was never promoted.")]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one candle.

    Attributes:
        ts: Open time of the candle, UTC.
        symbol: The symbol.
        p: Calibrated probability that the label is up; null where refused.
        raw: Raw score of the booster.
        refused: Why there is no probability.
        explanation: With --explain: `log_odds`, `base`, and `contribution_` with the name of each feature.
    """

    ts: str | None
    symbol: str
    p: float | None
    raw: float | None
    refused: str | None
    explanation: Mapping[str, float | None] = field(default_factory=dict, metadata=INLINE)


@dataclass(frozen=True, slots=True)
class PredictDocument(Result):
    """The document of `predict`.

    Attributes:
        version: Name of the version.
        predictions: One row per candle.
    """

    SCHEMA: ClassVar[str] = "predict/1"

    version: str
    predictions: list[Prediction]


@dataclass(frozen=True, slots=True)
class PredictFileDocument(Result):
    """The document of `predict --output`.

    Attributes:
        output: The file.
        rows: Number of rows.
        refused: Number of rows without a probability.
    """

    SCHEMA: ClassVar[str] = "predict-file/1"

    output: str
    rows: int
    refused: int


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "predict", predict, example="mltrain predict --input candles.parquet --output predictions.csv")


@command(opens_versions=True, need_mb=SERVING_MB)
def predict(
    session: Session,
    ref: LiveVersionArgument = None,
    source: Annotated[
        str | None,
        data_option(
            "--source",
            metavar=SOURCE_METAVAR,
            help="Source of the candles; by default that of the model's snapshot.",
            autocompletion=complete_source,
        ),
    ] = None,
    market: MarketOption = None,
    folder: Folder = None,
    timezone: TimeZone = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    use_env_proxy: EnvProxy = False,
    allow_no_go: NoGo = False,
    input_: Input = None,
    output: Output = None,
    input_format: InputFormat = None,
    output_format: OutputFormat = None,
    explain: Explain = False,
    watch: Watching = False,
    fail_on_refused: FailOn = None,
    as_of: AsOf = None,
    ops: OpsOption = None,
) -> Outcome:
    """Print calibrated probabilities of going up, for the newest closed candle of each symbol or for a file."""
    from mltrain.candles.closed_candles import drop_unclosed
    from mltrain.pipeline.predict import (
        choose_market,
        find_model_source,
        find_refusal,
        open_followed_model,
        predict_newest,
        score_table,
    )
    from mltrain.sources.opening import open_recorded, open_source

    names_source = any(option is not None for option in (source, folder, sim_seed, sim_signal))
    market_name = None if market is None else market.value
    conflicts = {
        "--watch prints candles as they close: --input, --output and --explain do not go with it": watch
        and (input_ is not None or output is not None or explain),
        "--watch continues after refused candles: --fail-on-refused and --as-of do not go with it": watch
        and (as_of is not None or fail_on_refused in {FailOnRefused.ALL, FailOnRefused.ANY}),
        "--timezone goes with --input, or with --source files": timezone is not None
        and input_ is None
        and not names_source,
        "--input replaces the source: --source and its options do not go with it": input_ is not None
        and (names_source or market is not None),
    }
    if conflict := next((message for message, given in conflicts.items() if given), None):
        raise UsageError(conflict)
    if output == STREAM and session.as_json:
        raise UsageError("--json and --output - both want stdout", hint="use --output - --output-format jsonl")
    input_table = _table_format(input_, input_format, option="--input-format")
    output_table = _table_format(output, output_format, option="--output-format")
    as_of_ms = None if as_of is None else check_time_ms(parse_time(as_of), "--as-of")
    register_ops(ops)
    model, warning = open_followed_model(session.open_store(), ref, allow_no_go=allow_no_go)
    if warning:
        session.progress.warn(warning)
    if input_ is not None:
        step_ms = interval_ms(model.interval)
        candles, notes = _read_input(input_, input_table, model, timezone=timezone)
        candles, unclosed = drop_unclosed(
            candles, symbols=model.symbols, step_ms=step_ms, now_ms=session.now_ms, where=input_
        )
        for note in [*(f"{note}: {input_}" for note in notes), *([unclosed] if unclosed else [])]:
            session.progress.warn(note)
        rows = score_table(model, candles, explain=explain, as_of_ms=as_of_ms)
    else:
        rules = read_network_rules(use_env_proxy=use_env_proxy)
        if names_source:
            spec = read_source_spec(
                source,
                interval=model.interval,
                folder=folder,
                sim_seed=sim_seed,
                sim_signal=sim_signal,
                base_url=base_url,
                archive_url=archive_url,
                timezone=timezone,
                market=market_name,
                default_market=choose_market(model, market_name),
            )
            opened = open_source(spec, rules, now_ms=session.now_ms)
        else:
            recorded = find_model_source(model, session.data_dir, market=market_name)
            opened = open_recorded(recorded, rules, base_url=base_url, archive_url=archive_url, now_ms=session.now_ms)
        if watch:
            _print_closing_candles(session, model, opened)
        # The clock of files is their last candle, by which none would ever be stale.
        if as_of_ms is None and opened.name == "files":
            as_of_ms = session.now_ms
        rows = predict_newest(model, opened, now_ms=as_of_ms, explain=explain)
        for note in opened.notes():
            session.progress.warn(note)
    fail_on = FailOnRefused.ALL if fail_on_refused is None else fail_on_refused
    failure = find_refusal(rows, fail_on.value, batch=input_ is not None, now_ms=as_of_ms)
    outcome = (
        _prediction_outcome(model.version, rows, explain=explain)
        if output is None
        else _write_output(output, output_table, rows, session)
    )
    return replace(outcome, failure=failure)


def _table_format(place: str | None, given: TableFormat | None, *, option: str) -> Format:
    """Return the format of an input or output table.

    Args:
        place: The file; "-" for stdin or stdout, None where there is no table.
        given: Value of the option; None: the file's name decides, and a stream is CSV.
        option: "--input-format" or "--output-format", for messages.
    """
    from mltrain.candles.tables import infer_format

    if given is not None:
        if place is None:
            raise UsageError(f"{option} needs {option.removesuffix('-format')}")
        return given.value
    return "csv" if place in {None, STREAM} else infer_format(Path(str(place)))


def _read_input(
    place: str, form: Format, model: Model, *, timezone: str | None
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the candles of a file, or of stdin for "-", and notes on how they were read."""
    from mltrain.candles.conversion import MAX_TABLE_BYTES, read_candle_table
    from mltrain.candles.time_zones import check_time_zone
    from mltrain.storage.descriptors import real_path
    from mltrain.storage.reading import read_file

    zone = None if timezone is None else check_time_zone(timezone)
    if place == STREAM:
        data, where = sys.stdin.buffer.read(MAX_TABLE_BYTES), "stdin"
    else:
        data, where = read_file(real_path(Path(place)), max_bytes=MAX_TABLE_BYTES, what="the candles"), place
    candles, notes = read_candle_table(data, form, where=where, step_ms=interval_ms(model.interval), timezone=zone)
    # A model of one symbol needs no name.
    return _add_symbol(candles, place) if len(model.symbols) > 1 else candles, notes


def _add_symbol(candles: pl.DataFrame, place: str) -> pl.DataFrame:
    """Add to candles without a column `symbol` the one that their file's name states, such as BTC_USDT-1h.feather."""
    import polars as pl

    from mltrain.candles.filenames import read_path

    named = read_path([], Path(place).name)
    if "symbol" in candles.columns or not named.is_pair:
        return candles
    return candles.with_columns(symbol=pl.lit(named.symbol))


def _write_output(place: str, form: Format, rows: pl.DataFrame, session: Session) -> Outcome:
    """Write predictions to a file, or to stdout for "-"."""
    from mltrain.candles.tables import encode_table
    from mltrain.storage.writing import write_outputs

    data = encode_table(rows, form)
    document = PredictFileDocument(place, rows.height, refused=int(rows["refused"].is_not_null().sum()))
    if place == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return Outcome(document, list)
    path = Path(place)
    write_outputs(path.parent, {path.name: data})
    text = f"{place}: {document.rows:,} rows, {document.refused:,} of them refused"
    return Outcome(document, lambda: [] if session.quiet else [text])


def _print_closing_candles(session: Session, model: Model, source: Source) -> None:
    """Print the probability of each candle as it closes, until a signal ends the process."""
    import time

    from mltrain.pipeline.watch import Watch, watch

    if source.name in {"sim", "archive"}:
        hint = "run `mltrain sim --ticking` and pass --source binance --base-url with its address"
        raise UsageError(
            f"--watch waits for new candles, and the source {source.name} has none",
            hint=hint if source.name == "sim" else "pass --source binance",
        )
    watching = Watch(model, source, session.progress, clock=time.time if source.name == "files" else None)
    watching.check_symbols()
    for rows in watch(watching, time.sleep):
        for prediction in _as_predictions(rows):
            if session.as_json:
                line = json.dumps({"version": model.version, **to_plain(prediction)}, allow_nan=False)
            else:
                p, refused = number_text(prediction.p), prediction.refused or ""
                line = f"{prediction.ts}  {prediction.symbol:<12} {p}  {refused}".rstrip()
            sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _as_predictions(rows: pl.DataFrame) -> list[Prediction]:
    """Return the predictions in a frame with `ts`, `symbol`, `p`, `raw`, `refused`, and columns that explain `raw`."""

    def as_prediction(
        ts: datetime | None, symbol: str, p: float | None, raw: float | None, refused: str | None, **more: float | None
    ) -> Prediction:
        return Prediction(ts.strftime(TIME_FORMAT) if ts else None, symbol, p, raw, refused, explanation=more)

    return [as_prediction(**row) for row in rows.to_dicts()]


def _prediction_outcome(version: str, rows: pl.DataFrame, *, explain: bool) -> Outcome:
    """Return the outcome of a prediction whose rows are printed; `explain`: with the contributions of features."""
    predictions = _as_predictions(rows)

    def view() -> View:
        cells = [(p.ts, p.symbol, number_text(p.p), number_text(p.raw), p.refused or "") for p in predictions]
        yield table(f"Version {version}", "candle (UTC)", "symbol", *right("P(up)", "raw score"), "refused", rows=cells)
        if explain:
            yield from (_explanation_table(p) for p in predictions if p.refused is None)

    return Outcome(PredictDocument(version, predictions), view)


def _explanation_table(prediction: Prediction) -> Table:
    """Return the largest contributions of features to a raw score, in log odds, and the sum of all others."""
    from mltrain.serving.explanation import PREFIX

    # A row that was not refused has every figure.
    log_odds = {name: value for name, value in prediction.explanation.items() if value is not None}
    parts = {name.removeprefix(PREFIX): value for name, value in log_odds.items() if name.startswith(PREFIX)}
    largest = sorted(parts.items(), key=lambda part: -abs(part[1]))[:MAX_FEATURES_SHOWN]
    others = log_odds["log_odds"] - log_odds["base"] - sum(value for _, value in largest)
    rows = [("base", log_odds["base"]), *largest, ("all others", others), ("sum", log_odds["log_odds"])]
    title = (
        f"{prediction.symbol} at {prediction.ts}: raw score {number_text(prediction.raw)}, "
        f"calibrated {number_text(prediction.p)}"
    )
    return table(title, "feature", *right("log odds"), rows=[(name, f"{value:+.4f}") for name, value in rows])
