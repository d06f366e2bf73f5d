"""The command predict: scores the newest candles, a file, or every candle as it closes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, read_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import DATA, MODEL, OUTPUT, add_command
from mltrain.cli.render import Outcome, number
from mltrain.cli.sources import (
    ArchiveUrl,
    BaseUrl,
    EnvProxy,
    Folder,
    Signal,
    SimSeed,
    SourceName,
    read_rules,
    read_source,
)
from mltrain.cli.tables import table
from mltrain.documents.results import to_plain
from mltrain.errors import UsageError
from mltrain.times import TIME_FORMAT, check_time_ms, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import polars as pl
    from rich.console import RenderableType

    from mltrain.candles.tables import Format
    from mltrain.cli.predict_documents import Prediction
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source
    from mltrain.sources.source_spec import SourceSpec

# Stands for stdin or stdout.
STREAM: Final = "-"
# Features shown of an explanation.
TOP: Final = 5


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


Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Score every candle of a file (.parquet, .csv, .jsonl); - is stdin.",
        rich_help_panel=DATA,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Write the predictions to a file (.parquet, .csv, .jsonl); - is stdout.",
        rich_help_panel=OUTPUT,
    ),
]
InputFormat = Annotated[
    TableFormat | None, typer.Option("--input-format", help="Format of stdin. Default: csv.", rich_help_panel=DATA)
]
OutputFormat = Annotated[
    TableFormat | None, typer.Option("--output-format", help="Format of stdout. Default: csv.", rich_help_panel=OUTPUT)
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Show the contribution of each feature, in log odds.", rich_help_panel=OUTPUT),
]
Watching = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Print one line per candle as it closes, until Ctrl-C; with --json, JSON lines.",
        rich_help_panel=OUTPUT,
    ),
]
FailOn = Annotated[
    FailOnRefused | None,
    typer.Option(
        "--fail-on-refused",
        help="Exit 3 if all rows were refused, if any was, or never. Default: all.",
        rich_help_panel=OUTPUT,
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        help="Current time to assume, such as 2025-10-15T12:00:00Z: later candles are ignored, and older ones may be "
        "stale. Default: the clock of the source; for files, of the machine.",
        rich_help_panel=DATA,
    ),
]
NoGo = Annotated[
    bool,
    typer.Option("--allow-no-go", help="Serve a version that was never promoted.", rich_help_panel=MODEL),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "predict", predict, example="mltrain predict --input candles.parquet --output predictions.csv")


@command(opens_versions=True, takes_mb=SERVING_MB)
def predict(
    session: Session,
    ref: LiveVersionArgument = None,
    source: Annotated[
        SourceName | None,
        typer.Option(
            "--source", help="Source of the candles; by default that of the model's snapshot.", rich_help_panel=DATA
        ),
    ] = None,
    folder: Folder = None,
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
    from mltrain.pipeline.predict import find_refusal, open_followed_model, predict_newest, score_table

    forms = _check_options(session, (input_, input_format), (output, output_format), watch=watch, explain=explain)
    if watch and (as_of is not None or fail_on_refused in {FailOnRefused.ALL, FailOnRefused.ANY}):
        raise UsageError("--watch continues after refused candles: --fail-on-refused and --as-of do not go with it")
    as_of_ms = None if as_of is None else check_time_ms(parse_time(as_of), "--as-of")
    read_ops(ops)
    model, warning = open_followed_model(session.data_dir, ref, allow_no_go=allow_no_go)
    if warning:
        session.progress.warn(warning)
    if input_ is not None:
        if source is not None or folder is not None or (sim_seed, sim_signal) != (None, None):
            raise UsageError("--input replaces the source: --source and its options do not go with it")
        table, note = drop_unclosed(
            _read_input(input_, forms[0]),
            symbols=model.symbols,
            step_ms=interval_ms(model.interval),
            now_ms=session.now_ms,
            where=input_,
        )
        if note:
            session.progress.warn(note)
        rows = score_table(model, table, explain=explain, as_of_ms=as_of_ms)
    else:
        spec = None
        if source is not None or folder is not None or (sim_seed, sim_signal) != (None, None):
            spec = read_source(
                source,
                interval=model.interval,
                folder=folder,
                sim_seed=sim_seed,
                sim_signal=sim_signal,
                base_url=base_url,
                archive_url=archive_url,
            )
        opened = _open(session, model, spec, base_url=base_url, archive_url=archive_url, use_env_proxy=use_env_proxy)
        if watch:
            _watch(session, model, opened)
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
        else _write_output(output, forms[1], rows, session)
    )
    return replace(outcome, failure=failure)


def _check_options(
    session: Session,
    given: tuple[str | None, TableFormat | None],
    wanted: tuple[str | None, TableFormat | None],
    *,
    watch: bool,
    explain: bool,
) -> tuple[Format, Format]:
    """Return the formats of input and output.

    Raises:
        UsageError: Options contradict each other.
    """
    if watch and (given[0] is not None or wanted[0] is not None or explain):
        raise UsageError("--watch prints candles as they close: --input, --output and --explain do not go with it")
    if wanted[0] == STREAM and session.as_json:
        raise UsageError("--json and --output - both want stdout", hint="use --output - --output-format jsonl")
    return _form(*given, "--input-format"), _form(*wanted, "--output-format")


def _form(place: str | None, form: TableFormat | None, option: str) -> Format:
    from mltrain.candles.tables import infer_format

    if form is not None:
        if place is None:
            raise UsageError(f"{option} needs {option.removesuffix('-format')}")
        return form.value
    return "csv" if place in {None, STREAM} else infer_format(Path(str(place)))


def _read_input(place: str, form: Format) -> pl.DataFrame:
    from mltrain.candles.conversion import MAX_TABLE_BYTES, read_candle_table
    from mltrain.storage.descriptors import real_path
    from mltrain.storage.reading import read_file

    if place == STREAM:
        return read_candle_table(sys.stdin.buffer.read(MAX_TABLE_BYTES), form, where="stdin")
    data = read_file(real_path(Path(place)), max_bytes=MAX_TABLE_BYTES, what="the candles")
    return read_candle_table(data, form, where=place)


def _write_output(place: str, form: Format, rows: pl.DataFrame, session: Session) -> Outcome:
    from mltrain.candles.tables import encode_table
    from mltrain.cli.predict_documents import PredictFileDocument
    from mltrain.storage.writing import write_outputs

    data = encode_table(rows, form)
    written = PredictFileDocument(place, rows.height, refused=int(rows["refused"].is_not_null().sum()))
    if place == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return Outcome("predict-file/1", written, list)
    path = Path(place)
    write_outputs(path.parent, {path.name: data})
    text = f"{place}: {written.rows:,} rows, {written.refused:,} of them refused"
    return Outcome("predict-file/1", written, lambda: [] if session.quiet else [text])


def _open(
    session: Session,
    model: Model,
    spec: SourceSpec | None,
    *,
    base_url: str | None,
    archive_url: str | None,
    use_env_proxy: bool,
) -> Source:
    """Open the source that the options name; by default that of the model's snapshot."""
    from mltrain.pipeline.predict import find_model_source
    from mltrain.sources.opening import open_recorded, open_source

    rules = read_rules(use_env_proxy=use_env_proxy)
    if spec is not None:
        return open_source(spec, rules, now_ms=session.now_ms)
    recorded = find_model_source(model, session.data_dir)
    return open_recorded(recorded, rules, base_url=base_url, archive_url=archive_url, now_ms=session.now_ms)


def _watch(session: Session, model: Model, source: Source) -> None:
    """Print each candle's probability as it closes, until a signal ends the process."""
    import time

    from mltrain.pipeline.watch import Watch, watch

    if source.name in {"sim", "archive"}:
        hint = "run `mltrain sim --ticking` and pass --source binance --base-url with its address"
        raise UsageError(
            f"--watch waits for new candles, and the source {source.name} has none",
            hint=hint if source.name == "sim" else "pass --source binance",
        )
    watching = Watch(model, source, session.progress, clock=time.time if source.name == "files" else None)
    watching.start()
    for rows in watch(watching, time.sleep):
        for row in _predictions(rows):
            if session.as_json:
                line = json.dumps({"version": model.version, **to_plain(row)}, allow_nan=False)
            else:
                line = f"{row.ts}  {row.symbol:<12} {number(row.p)}  {row.refused or ''}".rstrip()
            sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _predictions(rows: pl.DataFrame) -> list[Prediction]:
    return [_prediction(**row) for row in rows.to_dicts()]


def _prediction(
    ts: datetime | None,
    symbol: str,
    p: float | None,
    raw: float | None,
    refused: str | None,
    **explanation: float | None,
) -> Prediction:
    """Return the prediction that a row of the library's frame holds."""
    from mltrain.cli.predict_documents import Prediction

    return Prediction(ts.strftime(TIME_FORMAT) if ts else None, symbol, p, raw, refused, explanation)


def _prediction_outcome(version: str, rows: pl.DataFrame, *, explain: bool) -> Outcome:
    from mltrain.cli.predict_documents import PredictDocument
    from mltrain.serving.explanation import PREFIX

    predictions = _predictions(rows)

    def view() -> Iterator[RenderableType]:
        cells = [(p.ts, p.symbol, number(p.p), number(p.raw), p.refused or "") for p in predictions]
        yield table(
            f"Version {version}", ("candle (UTC)", "symbol", "P(up)", "raw score", "refused"), cells, kinds="  rr"
        )
        for p in predictions if explain else ():
            if p.refused is not None:
                continue
            # A row that was not refused has every figure.
            found = {name: value for name, value in p.explanation.items() if value is not None}
            parts = {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
            top = sorted(parts, key=lambda name: -abs(parts[name]))[:TOP]
            rest = found["log_odds"] - found["base"] - sum(parts[name] for name in top)
            contributions = [
                ("base", f"{found['base']:+.4f}"),
                *((name, f"{parts[name]:+.4f}") for name in top),
                ("all others", f"{rest:+.4f}"),
                ("sum", f"{found['log_odds']:+.4f}"),
            ]
            title = f"{p.symbol} at {p.ts}: raw score {number(p.raw)}, calibrated {number(p.p)}"
            yield table(title, ("feature", "log odds"), contributions, kinds=" r")

    return Outcome("predict/1", PredictDocument(version, predictions), view)
