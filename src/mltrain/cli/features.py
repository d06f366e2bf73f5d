"""Commands on features: list, show, check and audit them, write a registry to start from, or their matrix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_feature, complete_snapshot, complete_symbol
from mltrain.cli.config import Config
from mltrain.cli.help import add_command, data_option, new_group, output_option
from mltrain.cli.render import FAILED_CHECK, Outcome, number_text
from mltrain.cli.tables import folding, right, table
from mltrain.times import DAY_MS, SECOND_MS, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.api.features import FeaturesAudit, FeaturesInfo, FeatureValue, JoinedAt
    from mltrain.cli.render import View
    from mltrain.features.profile import FeatureProfile, Histogram
    from mltrain.features.registry import FeatureInfo
    from mltrain.pipeline.export_features import ExportedFeatures

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
# The newest candles of a lookback that are shown; --json has all.
MAX_INPUTS_SHOWN: Final = 30


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    features = new_group("List features, show one, check a frame, audit a snapshot, write a registry or the matrix.")
    add_command(features, "info", features_info, example="mltrain features info --snapshot latest")
    show_example = "mltrain features show rsi_7 --at 2025-10-15T12:00:00Z --symbol BTCUSDT"
    add_command(features, "show", features_show, example=show_example)
    add_command(features, "check", features_check, example="mltrain features check frame.parquet")
    add_command(features, "audit", features_audit, example="mltrain features audit --report audit.json")
    add_command(features, "init", features_init, example="mltrain features init --interval 5m")
    add_command(features, "export", features_export, example="mltrain features export --output matrix.parquet")
    app.add_typer(features, name="features")


@command()
def features_info(
    session: Session,
    features: FeaturesOption = None,
    ref: Annotated[
        str | None,
        data_option(
            "--snapshot",
            metavar="SNAPSHOT",
            help="Also show the distribution of the values on this snapshot: latest, an id, or a path.",
            autocompletion=complete_snapshot,
        ),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """List the features of the registry: op, parameters, lookback, columns; with --snapshot their values, too."""
    from mltrain.api.features import features_info

    register_ops(ops)
    info = features_info(features=features, snapshot=ref, ops=ops, data_dir=session.data_dir, progress=session.progress)
    profiles = info.profiles
    return Outcome(info, lambda: _view_registry(info) if profiles is None else _view_profiles(profiles))


def _view_registry(info: FeaturesInfo) -> View:
    """Show the features and the label of a registry."""
    label, interval = info.label, info.interval or "any interval"
    yield (
        f"{len(info.features)} features at {interval}, lookback {info.lookback_bars} bars, "
        f"label {label.kind} over {label.horizon_bars} bar(s), ties {label.ties}"
        + (f", cost {label.cost_bps:g} bps" if label.kind == "threshold" else "")
        + (f", timeout {label.timeout}, barriers {label.describe_barriers()}" if label.kind == "barrier" else "")
    )
    yield f"registry {info.registry_sha256}"
    rows = [
        (i.name, i.op, _parameters_text(i), i.lookback_bars,
         ", ".join([*i.columns, *(f"{i.leader}:{column}" for column in i.leader_columns)]))
        for i in info.features
    ]  # fmt: skip
    yield table(None, "feature", "op", *folding("parameters"), *right("lookback bars"), *folding("reads"), rows=rows)
    if info.inputs:
        declared = [
            (spec.name, spec.column, spec.file, spec.known_at, spec.timezone or "", format_duration(spec.max_age_ms))
            for spec in info.inputs
        ]
        names = ("input", "column", "file", "known at", "times without zone in")
        yield table("Inputs", *names, *right("max age"), rows=declared)


def _parameters_text(info: FeatureInfo) -> str:
    return " ".join(f"{key}={value}" for key, value in info.params.items())


def _view_profiles(profiles: Sequence[FeatureProfile]) -> View:
    """Show the distribution of each feature's values."""
    rows = []
    for p in profiles:
        q01, _, q25, q50, q75, _, q99 = p.quantiles or [None] * 7
        figures = [None if x is None else f"{x:.4g}" for x in (p.minimum, q01, q25, q50, q75, q99, p.maximum)]
        rows.append((p.name, f"{p.null_share:.2%}", *figures, _histogram_text(p.histogram)))
    yield f"{profiles[0].rows:,} candles; the histogram omits the lowest and the highest 0.5 % of the values"
    figure_columns = right("null", "min", "1%", "25%", "50%", "75%", "99%", "max")
    yield table(None, "feature", *figure_columns, "histogram", rows=rows)
    yield from (f"{p.name}: {p.not_finite:,} values are NaN or infinite" for p in profiles if p.not_finite)


def _histogram_text(histogram: Histogram | None) -> str:
    """Return a histogram as one block character per bin; a bin with any value is visible.

    >>> from mltrain.features.profile import Histogram
    >>> _histogram_text(Histogram(0.0, 1.0, (0, 1, 50, 100)))
    ' ▁▄█'
    """
    if histogram is None:
        return ""
    top = max(histogram.counts)
    return "".join(BLOCKS[math.ceil(count / top * (len(BLOCKS) - 1))] for count in histogram.counts)


@command()
def features_show(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="FEATURE", help="A feature of the registry.", autocompletion=complete_feature)
    ],
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="Open time of the candle, such as 2025-10-15T12:00:00Z.")
    ],
    ref: SnapshotOption = "latest",
    symbol: Annotated[
        str | None,
        data_option(
            "--symbol",
            metavar="SYMBOL",
            help="Required if the snapshot has several symbols.",
            autocompletion=complete_symbol,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot to this file, as SVG.")
    ] = None,
    features: FeaturesOption = None,
    ops: OpsOption = None,
) -> Outcome:
    """Show one feature around a time: its value and the candles it was computed from, or why it has none."""
    from mltrain.api.features import features_show

    register_ops(ops)
    shown = features_show(
        name, at, snapshot=ref, symbol=symbol, plot=plot, features=features, ops=ops, data_dir=session.data_dir
    )
    return Outcome(shown, lambda: _view_value(shown))


def _view_value(data: FeatureValue) -> View:
    """Show one feature at one candle: its value, the values around it, and the candles it was computed from."""
    info = data.feature
    yield f"{info.name} of {data.symbol} at {data.time}: {_value_text(data.value)}"
    if data.why_none:
        yield f"no value, because {data.why_none}"
    yield f"op {info.op} {_parameters_text(info)}: {info.summary}"
    alone = data.value_of_the_lookback_alone
    yield (
        f"from the {info.lookback_bars} candle(s) of its lookback alone: {_value_text(alone)} "
        f"({'the same' if data.value == alone else 'NOT the same: run `mltrain features audit`'})"
    )
    around = [(">" if row.time == data.time else "", row.time, _value_text(row.value)) for row in data.around]
    yield table("Around it", "", "time (UTC)", *right(info.name), rows=around)
    count, names = len(data.inputs), list(data.inputs[0])
    hidden = f", the newest {MAX_INPUTS_SHOWN}; --json has all" if count > MAX_INPUTS_SHOWN else ""
    # The first column is the open time.
    rows = [[row[name] for name in names] for row in data.inputs[-MAX_INPUTS_SHOWN:]]
    yield table(f"Its {count} candle(s){hidden}", "time (UTC)", *right(*names[1:]), rows=rows)
    for name, symbol in dict.fromkeys((row.input, row.symbol) for row in data.joined or ()):
        joined = [
            (">" if row.time == data.time else "", row.time, row.close, _joined_text(row), row.known_at, _age_text(row))
            for row in data.joined or ()
            if (row.input, row.symbol) == (name, symbol)
        ]
        title, age = f"The input {name} of {symbol}", right("age at the close")
        yield table(title, "", "time (UTC)", "close", *right(name), "known at", *age, rows=joined)
    if data.plot is not None:
        yield f"plot written to {data.plot}"


def _joined_text(row: JoinedAt) -> str:
    if row.value is None:
        return "none known" if row.known_at is None else "too old"
    return f"{row.value:.7g}"


def _age_text(row: JoinedAt) -> str | None:
    """Return the age of a value in days, hours, minutes and seconds, such as "1d 00:05:00"."""
    if row.age_ms is None:
        return None
    days, rest_ms = divmod(row.age_ms, DAY_MS)
    minutes, seconds = divmod(rest_ms / SECOND_MS, 60)
    clock = f"{minutes // 60:02.0f}:{minutes % 60:02.0f}:{seconds:02.0f}"
    return f"{days}d {clock}" if days else clock


def _value_text(value: float | str | None) -> str:
    """Return a value with seven digits, which is all that float32 has."""
    return "no value" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


@command()
def features_check(
    session: Session,  # noqa: ARG001 (a frame needs no data folder)
    frame: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Parquet or CSV with one column per feature, and optionally ts and symbol."
        ),
    ],
    features: FeaturesOption = None,
    interval: Annotated[
        str | None,
        data_option("--interval", metavar="INTERVAL", help="Interval of the features, if the registry states none."),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """Check that a frame has exactly the features of the registry: names, order, types, finite values."""
    from mltrain.api.features import features_check

    register_ops(ops)
    checked = features_check(frame, features=features, interval=interval, ops=ops)
    lines = [*checked.problems] or [f"{frame}: every feature matches the registry"]
    return Outcome(checked, lambda: lines, exit_code=0 if checked.sound else FAILED_CHECK)


@command(need_mb=LEARNING_MB)
def features_audit(
    session: Session,
    features: FeaturesOption = None,
    ref: SnapshotOption = "latest",
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Check ten times as many points, and also the ops that the registry does not use."
        ),
    ] = False,
    report: Annotated[
        Path | None,
        output_option(
            "--report", metavar="FILE", help="Write all findings to this file as JSON, and as text next to it."
        ),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """Audit every feature for leakage, on the candles of a snapshot."""
    from mltrain.api.features import features_audit

    register_ops(ops)
    audit = features_audit(
        features=features,
        snapshot=ref,
        thorough=thorough,
        report=report,
        ops=ops,
        data_dir=session.data_dir,
        progress=session.progress,
    )
    return Outcome(audit, lambda: _view_audit(audit))


def _view_audit(data: FeaturesAudit) -> View:
    """Show the guards' checks, warnings and durations."""
    rows = [
        (guard.name, "passed" if guard.passed else "FAILED", check.name, f"{check.points:,}",
         number_text(check.worst, 3), check.case, check.detail)
        for guard in data.guards
        for check in guard.checks
    ]  # fmt: skip
    yield table(
        "Leakage guards", "guard", "outcome", "check", *right("points", "worst"), *folding("of", "detail"), rows=rows
    )
    for guard in data.guards:
        yield from (f"warning: {guard.name}: {warning}" for warning in guard.warnings)
    yield ", ".join(f"{guard.name} took {guard.seconds:.1f} s" for guard in data.guards)
    if data.report is not None:
        yield f"written to {' and '.join(map(str, data.report))}"


@command()
def features_init(
    session: Session,  # noqa: ARG001 (the file may be anywhere)
    interval: Annotated[
        str, data_option("--interval", metavar="INTERVAL", help="Interval of the candles, such as 5m.")
    ],
    output: Annotated[
        Path, output_option("--output", metavar="FILE", help="The file to write; it must not exist.")
    ] = Path("features.yml"),
) -> Outcome:
    """Write a registry of features with comments that fits the candles of an interval, ready to be changed."""
    from mltrain.api.features import features_init

    written = features_init(interval, output=output)
    text = (
        f"{output}: {written.features} features for {interval} candles; "
        f"change it, then: mltrain train --features {output}"
    )
    return Outcome(written, lambda: [text])


@command(need_mb=LEARNING_MB)
def features_export(
    session: Session,
    output: Annotated[Path, output_option("--output", metavar="FILE", help="The Parquet file to write.")],
    features: FeaturesOption = None,
    ref: SnapshotOption = "latest",
    config: Config = None,
    ops: OpsOption = None,
) -> Outcome:
    """Write the feature matrix of a training, with its labels, as Parquet: its rows, in its order, and their hash."""
    from mltrain.api.features import features_export

    register_ops(ops)
    written = features_export(
        output,
        snapshot=ref,
        features=features,
        config=config,
        ops=ops,
        data_dir=session.data_dir,
        progress=session.progress,
    )
    return Outcome(written, lambda: _view_export(written))


def _view_export(written: ExportedFeatures) -> View:
    """Show what was exported."""
    yield (
        f"{written.file}: {written.rows:,} rows of {written.features} features of {', '.join(written.symbols)}, "
        f"snapshot {written.snapshot}"
    )
    yield f"matrix {written.matrix_sha256}"
    yield f"registry {written.registry_sha256}"
    yield f"file {written.sha256}"
