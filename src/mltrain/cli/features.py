"""Commands on features: list them, show one at a time, check a frame, audit a snapshot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_feature, complete_snapshot, complete_symbol
from mltrain.cli.help import add_command, data_option, new_group, output_option
from mltrain.cli.render import FAILED_CHECK, Outcome, format_document, number_text
from mltrain.cli.tables import folding, right, table
from mltrain.errors import LeakageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mltrain.cli.feature_documents import AuditReport, FeaturesAuditDocument, FeaturesShowDocument
    from mltrain.cli.render import View
    from mltrain.features.inspection import FeatureInspection
    from mltrain.features.profile import FeatureProfile, Histogram
    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import FeatureSet, Registry

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
# The newest candles of a lookback that are shown; --json has all.
MAX_INPUTS_SHOWN: Final = 30


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    features = new_group("List features, show one, check a frame, audit a snapshot.")
    add_command(features, "info", features_info, example="mltrain features info --snapshot latest")
    show_example = "mltrain features show rsi_7 --at 2025-10-15T12:00:00Z --symbol BTCUSDT"
    add_command(features, "show", features_show, example=show_example)
    add_command(features, "check", features_check, example="mltrain features check frame.parquet")
    add_command(features, "audit", features_audit, example="mltrain features audit --report audit.json")
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
    from mltrain.cli.feature_documents import FeaturesInfoDocument
    from mltrain.features.registry import describe_features, read_registry, take_features
    from mltrain.features.spec import Registry
    from mltrain.snapshots.snapshot import open_snapshot

    register_ops(ops)
    snapshot = None if ref is None else open_snapshot(session.data_dir, ref)
    registry, warnings = (
        (read_registry(features), ()) if snapshot is None else take_features(features, snapshot.interval)
    )
    for warning in warnings:
        session.progress.warn(warning)
    infos = describe_features(registry)
    data = FeaturesInfoDocument(
        version=registry.version,
        interval=registry.interval,
        label=registry.label,
        lookback_bars=registry.lookback_bars,
        registry_sha256=registry.registry_sha256,
        features=infos,
    )
    if snapshot is None or isinstance(registry, Registry):
        return Outcome(data, lambda: _view_registry(registry, infos))
    from mltrain.features.profile import LEVELS, profile_features
    from mltrain.pipeline.prepare import read_candles

    candles = read_candles(snapshot, session.progress, registry)
    session.progress.stage("features")
    profiles = profile_features(registry, candles)
    data = replace(data, quantile_levels=LEVELS, profiles=profiles)
    return Outcome(data, lambda: _view_profiles(profiles))


def _view_registry(feature_set: FeatureSet | Registry, infos: Sequence[FeatureInfo]) -> View:
    """Show the features and the label of a registry."""
    label, interval = feature_set.label, feature_set.interval or "any interval"
    yield (
        f"{len(infos)} features at {interval}, lookback {feature_set.lookback_bars} bars, "
        f"label {label.kind} over {label.horizon_bars} bar(s), ties {label.ties}"
        + (f", cost {label.cost_bps:g} bps" if label.kind == "threshold" else "")
        + (f", timeout {label.timeout}, barriers {label.describe_barriers()}" if label.kind == "barrier" else "")
    )
    yield f"registry {feature_set.registry_sha256}"
    rows = [
        (i.name, i.op, _parameters_text(i), i.lookback_bars,
         ", ".join([*i.columns, *(f"{i.leader}:{column}" for column in i.leader_columns)]))
        for i in infos
    ]  # fmt: skip
    yield table(None, "feature", "op", *folding("parameters"), *right("lookback bars"), *folding("reads"), rows=rows)


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
    from mltrain.cli.feature_documents import FeaturesShowDocument, ValueAt
    from mltrain.features.input_join import join_inputs
    from mltrain.features.inspection import check_feature_name, inspect_feature
    from mltrain.features.registry import load_registry
    from mltrain.pipeline.prepare import read_inputs
    from mltrain.report.feature_plot import plot_inspection
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.storage.writing import write_outputs
    from mltrain.times import format_ms, interval_ms, parse_time

    at_ms = parse_time(at)
    register_ops(ops)
    snapshot = open_snapshot(session.data_dir, ref)
    feature_set = load_registry(features, interval=snapshot.interval)
    check_feature_name(feature_set, name)
    symbol = _choose_symbol(symbol, snapshot.symbols)
    needed = {symbol, *(s for s in feature_set.leaders if s in snapshot.symbols)}
    candles = {s: snapshot.candles(s) for s in sorted(needed)}
    candles = join_inputs(feature_set, candles, read_inputs(snapshot, feature_set))
    inspection = inspect_feature(feature_set, name, symbol=symbol, candles=candles, ts_ms=at_ms)
    if plot is not None:
        svg = plot_inspection(inspection, step_ms=interval_ms(feature_set.interval))
        write_outputs(plot.parent, {plot.name: svg.encode()})
    data = FeaturesShowDocument(
        snapshot=snapshot.id,
        symbol=symbol,
        time=format_ms(at_ms),
        feature=inspection.info,
        value=_as_json_value(inspection.value),
        value_of_the_lookback_alone=_as_json_value(inspection.from_lookback),
        why_none=inspection.why_none,
        around=[ValueAt(format_ms(ts_ms), _as_json_value(value)) for ts_ms, value in inspection.around],
        inputs=[
            {key: format_ms(int(value.timestamp() * 1000)) if key == "ts" else value for key, value in row.items()}
            for row in inspection.inputs.to_dicts()
        ],
        plot=plot,
    )
    return Outcome(data, lambda: _view_inspection(inspection, data))


def _choose_symbol(symbol: str | None, symbols: Sequence[str]) -> str:
    """Return the given symbol if it is one of a snapshot's symbols; None stands for the only one."""
    if symbol is None and len(symbols) == 1:
        return symbols[0]
    if symbol is None:
        raise UsageError(
            f"the snapshot has several symbols: {', '.join(symbols)}", hint=f"choose one, such as --symbol {symbols[0]}"
        )
    from mltrain.errors import InputError
    from mltrain.names import check_symbol, did_you_mean

    if check_symbol(symbol) not in symbols:
        raise InputError(f"the snapshot has no {symbol}", hint=did_you_mean(symbol, symbols))
    return symbol


def _as_json_value(value: float | None) -> float | str | None:
    """Return a value that JSON can hold: NaN and infinity as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _view_inspection(inspection: FeatureInspection, data: FeaturesShowDocument) -> View:
    """Show one feature at one candle: its value, the values around it, and the candles it was computed from."""
    info = inspection.info
    yield f"{info.name} of {inspection.symbol} at {data.time}: {_value_text(inspection.value)}"
    if inspection.why_none:
        yield f"no value, because {inspection.why_none}"
    yield f"op {info.op} {_parameters_text(info)}: {info.summary}"
    equal = data.value == data.value_of_the_lookback_alone
    yield (
        f"from the {info.lookback_bars} candle(s) of its lookback alone: {_value_text(inspection.from_lookback)} "
        f"({'the same' if equal else 'NOT the same: run `mltrain features audit`'})"
    )
    around = [(">" if row.time == data.time else "", row.time, _value_text(row.value)) for row in data.around]
    yield table("Around it", "", "time (UTC)", *right(info.name), rows=around)
    count, names = len(data.inputs), inspection.inputs.columns
    hidden = f", the newest {MAX_INPUTS_SHOWN}; --json has all" if count > MAX_INPUTS_SHOWN else ""
    # The first column is the open time.
    rows = [[row[name] for name in names] for row in data.inputs[-MAX_INPUTS_SHOWN:]]
    yield table(f"Its {count} candle(s){hidden}", "time (UTC)", *right(*names[1:]), rows=rows)
    if data.plot is not None:
        yield f"plot written to {data.plot}"


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
    from mltrain.cli.feature_documents import FeaturesCheckDocument
    from mltrain.features.registry import FeatureSchemaValidator
    from mltrain.features.schema_validation import read_feature_frame

    register_ops(ops)
    validator = FeatureSchemaValidator(features, interval=interval)
    problems = validator.validate_features(read_feature_frame(frame), strict=False)
    data = FeaturesCheckDocument(frame, sound=not problems, problems=problems)
    lines = [*problems] or [f"{frame}: every feature matches the registry"]
    return Outcome(data, lambda: lines, exit_code=FAILED_CHECK if problems else 0)


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
    from mltrain.cli.feature_documents import AuditReport, FeaturesAuditDocument
    from mltrain.config.loading import load_config
    from mltrain.features.registry import take_features
    from mltrain.guards.evidence import check_guards
    from mltrain.pipeline.prepare import audit_snapshot
    from mltrain.snapshots.snapshot import open_snapshot

    register_ops(ops)
    config = load_config(None, overrides={})
    snapshot = open_snapshot(session.data_dir, ref)
    feature_set, warnings = take_features(features, snapshot.interval)
    for warning in warnings:
        session.progress.warn(warning)
    results = audit_snapshot(snapshot, feature_set, config, progress=session.progress, thorough=thorough)
    data = FeaturesAuditDocument(snapshot.id, thorough, results)
    if report is not None:
        findings = AuditReport(snapshot.id, thorough, results, registry_sha256=feature_set.registry_sha256, ops=ops)
        data = replace(data, report=_write_report(report, findings))
    try:
        check_guards(results)
    except LeakageError as err:
        where = f"; all findings are in {data.report[1]}" if data.report is not None else ""
        raise LeakageError(err.message, hint=f"{err.hint}{where}") from err
    return Outcome(data, lambda: _view_audit(data))


def _view_audit(data: FeaturesAuditDocument) -> View:
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


def _write_report(path: Path, findings: AuditReport) -> tuple[Path, Path]:
    """Write an audit as JSON and as text; return the paths of both files, .json and .txt, in this order."""
    from mltrain.storage.writing import write_outputs

    stem = path if path.suffix not in {".json", ".txt"} else path.with_suffix("")
    json_path, text_path = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".txt")
    text = "".join(f"{line}\n" for line in _report_lines(findings))
    document = format_document(findings)
    write_outputs(path.parent, {json_path.name: document.encode(), text_path.name: text.encode()})
    return json_path, text_path


def _report_lines(findings: AuditReport) -> Iterator[str]:
    """Yield the lines of an audit's text report: for each check, the values compared and the largest deviation."""
    yield f"Leakage audit of snapshot {findings.snapshot}{', thorough' if findings.thorough else ''}"
    yield f"registry {findings.registry_sha256}" + (f", ops of {findings.ops}" if findings.ops else "")
    for result in findings.guards:
        yield ""
        yield f"{result.name}: {'passed' if result.passed else 'FAILED'}, {result.seconds:.1f} s"
        for check in result.checks:
            case = f" ({check.case})" if check.case else ""
            yield f"  {check.name:16} {check.points:>14,} points, worst {check.worst:.3g}{case}"
            yield f"  {'':16} {check.detail}"
        yield from (f"  FAILED {failure}" for failure in result.failures)
        yield from (f"  warning: {warning}" for warning in result.warnings)
