"""The command predict: scores the newest candles, a file, or every candle as it closes."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.api.predict import STREAM, PredictFileResult
from mltrain.api.sources import choose_source
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
    given_addresses,
)
from mltrain.cli.tables import right, table
from mltrain.documents.results import to_plain
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.api.predict import Prediction, PredictResult, WatchedPrediction
    from mltrain.api.sources import SourceOptions
    from mltrain.cli.render import View
    from mltrain.cli.tables import Table

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


PredictSource = Annotated[
    str | None,
    data_option(
        "--source",
        metavar=SOURCE_METAVAR,
        help="Source of the candles; by default that of the model's snapshot.",
        autocompletion=complete_source,
    ),
]
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
Inputs = Annotated[
    Path | None,
    data_option(
        "--inputs",
        metavar="DIR",
        help="Folder of the files with the model's inputs, named as in its registry; --watch reads them again for new "
        "candles.",
    ),
]
Explain = Annotated[bool, output_option("--explain", help="Show the contribution of each feature, in log odds.")]
Watching = Annotated[
    bool,
    output_option("--watch", help="Print one line per candle as it closes, until Ctrl-C; with --json, JSON lines."),
]
Recording = Annotated[
    bool,
    output_option("--ledger", help="With --watch: record each line in the folder ledger of the data folder first."),
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
StrictAge = Annotated[
    bool, model_option("--strict-age", help="Refuse instead of warning after the card's valid_until.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "predict", predict, example="mltrain predict --input candles.parquet --output predictions.csv")


@command(opens_versions=True, need_mb=SERVING_MB)
def predict(
    session: Session,
    ref: LiveVersionArgument = None,
    source: PredictSource = None,
    market: MarketOption = None,
    folder: Folder = None,
    timezone: TimeZone = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    use_env_proxy: EnvProxy = False,
    allow_no_go: NoGo = False,
    strict_age: StrictAge = False,
    input_: Input = None,
    output: Output = None,
    input_format: InputFormat = None,
    output_format: OutputFormat = None,
    inputs: Inputs = None,
    explain: Explain = False,
    watching: Watching = False,
    ledger: Recording = False,
    fail_on_refused: FailOn = None,
    as_of: AsOf = None,
    ops: OpsOption = None,
) -> Outcome | None:
    """Print calibrated probabilities of going up, for the newest closed candle of each symbol or for a file."""
    from mltrain.api.predict import predict, predict_file, watch
    from mltrain.pipeline.predict import find_refusal

    conflicts = {
        "--watch prints candles as they close: --input, --output and --explain do not go with it": watching
        and (input_ is not None or output is not None or explain),
        "--watch continues after refused candles: --fail-on-refused and --as-of do not go with it": watching
        and (as_of is not None or fail_on_refused in {FailOnRefused.ALL, FailOnRefused.ANY}),
        "--ledger goes with --watch": ledger and not watching,
        "--output-format needs --output": output_format is not None and output is None,
    }
    if conflict := next((message for message, given in conflicts.items() if given), None):
        raise UsageError(conflict)
    if output == STREAM and session.as_json:
        raise UsageError("--json and --output - both want stdout", hint="use --output - --output-format jsonl")
    if any(option is not None for option in (source, folder, sim_seed, sim_signal)):
        source = choose_source(source, folder=folder, sim_seed=sim_seed, sim_signal=sim_signal)
        base_url, archive_url = given_addresses(source, base_url, archive_url)
    register_ops(ops)
    options: SourceOptions = {
        "source": source,
        "market": None if market is None else market.value,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": None if sim_signal is None else sim_signal.value,
    }
    if watching:
        predictions = watch(
            ref,
            **options,
            base_url=base_url,
            archive_url=archive_url,
            use_env_proxy=use_env_proxy,
            inputs=inputs,
            allow_no_go=allow_no_go,
            strict_age=strict_age,
            data_dir=session.data_dir,
            slot=session.slot,
            ledger=ledger,
            progress=session.progress,
            now_ms=session.now_ms,
        )
        _print_closing_candles(predictions, session)
        return None
    candles = sys.stdin.buffer if input_ == STREAM else input_
    result: PredictResult | PredictFileResult
    if output is None:
        result = predict(
            ref,
            **options,
            base_url=base_url,
            archive_url=archive_url,
            use_env_proxy=use_env_proxy,
            inputs=inputs,
            input=candles,
            input_format=None if input_format is None else input_format.value,
            explain=explain,
            as_of=as_of,
            allow_no_go=allow_no_go,
            strict_age=strict_age,
            data_dir=session.data_dir,
            slot=session.slot,
            progress=session.progress,
            now_ms=session.now_ms,
        )
    else:
        result = predict_file(
            sys.stdout.buffer if output == STREAM else output,
            ref,
            output_format=None if output_format is None else output_format.value,
            **options,
            base_url=base_url,
            archive_url=archive_url,
            use_env_proxy=use_env_proxy,
            inputs=inputs,
            input=candles,
            input_format=None if input_format is None else input_format.value,
            explain=explain,
            as_of=as_of,
            allow_no_go=allow_no_go,
            strict_age=strict_age,
            data_dir=session.data_dir,
            slot=session.slot,
            progress=session.progress,
            now_ms=session.now_ms,
        )
    fail_on = FailOnRefused.ALL if fail_on_refused is None else fail_on_refused
    failure = find_refusal(result.frame, fail_on.value, batch=input_ is not None, now_ms=result.judged_at_ms)
    quiet = session.quiet or output == STREAM
    return Outcome(result, lambda: _view_result(result, explain=explain, quiet=quiet), failure=failure)


def _print_closing_candles(predictions: Iterator[WatchedPrediction], session: Session) -> None:
    """Print each prediction as its candle closes, until a signal ends the process."""
    for prediction in predictions:
        if session.as_json:
            line = json.dumps(to_plain(prediction), allow_nan=False)
        else:
            p, note = number_text(prediction.p), prediction.refused or prediction.permit or ""
            line = f"{prediction.ts}  {prediction.symbol:<12} {p}  {note}".rstrip()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _view_result(result: PredictResult | PredictFileResult, *, explain: bool, quiet: bool) -> View:
    """Show the predictions, with `explain` also the contributions of features; or the file that has them."""
    if isinstance(result, PredictFileResult):
        if not quiet:
            yield f"{result.output}: {result.rows:,} rows, {result.refused:,} of them refused"
        return
    is_restricted = any(p.permit for p in result.predictions)
    cells = [
        (p.ts, p.symbol, number_text(p.p), number_text(p.raw), p.refused or "", *([p.permit or ""] * is_restricted))
        for p in result.predictions
    ]
    permit = ["permit"] * is_restricted
    scores = right("P(up)", "raw score")
    yield table(f"Version {result.version}", "candle (UTC)", "symbol", *scores, "refused", *permit, rows=cells)
    if explain:
        yield from (_explanation_table(p) for p in result.predictions if p.refused is None)


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
