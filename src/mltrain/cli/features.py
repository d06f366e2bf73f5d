"""Commands on features: list them, show one at a time, check a frame, audit a snapshot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, SnapshotOption, read_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_feature, complete_snapshot, complete_symbol
from mltrain.cli.help import DATA, OUTPUT, add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, document, number
from mltrain.cli.tables import table
from mltrain.errors import LeakageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from mltrain.cli.feature_documents import AuditReport, FeaturesAuditDocument, FeaturesShowDocument
    from mltrain.features.inspection import FeatureInspection
    from mltrain.features.profile import FeatureProfile, Histogram
    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import GuardResult

BLOCKS = " ▁▂▃▄▅▆▇█"
# The newest candles of a lookback that are shown; --json has all.
INPUTS_SHOWN = 30


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    features = new_group("List features, show one, check a frame, audit a snapshot.")
    add_command(features, "info", features_info, example="mltrain features info --snapshot latest")
    add_command(
        features,
        "show",
        features_show,
        example="mltrain features show rsi_7 --at 2025-10-15T12:00:00Z --symbol BTCUSDT",
    )
    add_command(features, "check", features_check, example="mltrain features check frame.parquet")
    add_command(features, "audit", features_audit, example="mltrain features audit --report audit.json")
    app.add_typer(features, name="features")


@command()
def features_info(
    session: Session,
    features: FeaturesOption = None,
    ref: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="SNAPSHOT",
            help="Also show the distribution of the values on this snapshot: latest, an id, or a path.",
            autocompletion=complete_snapshot,
            rich_help_panel=DATA,
        ),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """List the features of the registry: op, parameters, lookback, columns; with --snapshot their values, too."""
    from mltrain.cli.feature_documents import FeaturesInfoDocument
    from mltrain.features.registry import describe_features, load_registry

    read_ops(ops)
    chosen = load_registry(features)
    infos = describe_features(chosen)
    data = FeaturesInfoDocument(
        version=chosen.version,
        interval=chosen.interval,
        label=chosen.label,
        lookback_bars=chosen.lookback_bars,
        registry_sha256=chosen.registry_sha256,
        features=infos,
    )
    if ref is None:
        return Outcome("features-info/1", data, lambda: _view_registry(chosen, infos))
    from mltrain.features.profile import LEVELS, profile_features
    from mltrain.pipeline.prepare import read_candles
    from mltrain.snapshots.snapshot import open_snapshot

    candles = read_candles(open_snapshot(session.data_dir, ref), session.progress)
    session.progress.stage("features")
    profiles = profile_features(chosen, candles)
    data = replace(data, quantile_levels=LEVELS, profiles=profiles)
    return Outcome("features-info/1", data, lambda: _view_profiles(profiles))


def _view_registry(chosen: FeatureSet, infos: Sequence[FeatureInfo]) -> Iterator[RenderableType]:
    label = chosen.label
    yield (
        f"{len(infos)} features at {chosen.interval}, lookback {chosen.lookback_bars} bars, "
        f"label {label.kind} over {label.horizon_bars} bar(s), ties {label.ties}"
        + (f", cost {label.cost_bps:g} bps" if label.kind == "threshold" else "")
    )
    yield f"registry {chosen.registry_sha256}"
    rows = [(i.name, i.op, _parameters(i), i.lookback_bars, ", ".join(_reads(i))) for i in infos]
    yield table(None, ("feature", "op", "parameters", "lookback bars", "reads"), rows, kinds="  frf")


def _parameters(info: FeatureInfo) -> str:
    return " ".join(f"{key}={value}" for key, value in info.params.items())


def _reads(info: FeatureInfo) -> list[str]:
    return [*info.columns, *(f"{info.leader}:{name}" for name in info.leader_columns)]


def _view_profiles(profiles: Sequence[FeatureProfile]) -> Iterator[RenderableType]:
    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    rows = []
    for p in profiles:
        q01, _, q25, q50, q75, _, q99 = p.quantiles or [None] * 7
        figures = [figure(value) for value in (p.minimum, q01, q25, q50, q75, q99, p.maximum)]
        rows.append((p.name, f"{p.null_share:.2%}", *figures, _bars(p.histogram)))
    yield f"{profiles[0].rows:,} candles; the histogram omits the lowest and the highest 0.5 % of the values"
    columns = ("feature", "null", "min", "1%", "25%", "50%", "75%", "99%", "max", "histogram")
    yield table(None, columns, rows, kinds=" rrrrrrrr")
    yield from (f"{p.name}: {p.not_finite:,} values are NaN or infinite" for p in profiles if p.not_finite)


def _bars(histogram: Histogram | None) -> str:
    """Return a histogram as block characters; a bin with any value is visible.

    >>> from mltrain.features.profile import Histogram
    >>> _bars(Histogram(0.0, 1.0, (0, 1, 50, 100)))
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
        typer.Option(
            "--symbol",
            metavar="SYMBOL",
            help="Required if the snapshot has several symbols.",
            autocompletion=complete_symbol,
            rich_help_panel=DATA,
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
    from mltrain.features.inspection import check_feature_name, inspect_feature
    from mltrain.features.registry import load_registry
    from mltrain.report.feature_plot import plot_inspection
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.storage.writing import write_outputs
    from mltrain.times import format_ms, interval_ms, parse_time

    at_ms = parse_time(at)
    read_ops(ops)
    chosen = load_registry(features)
    check_feature_name(chosen, name)
    snap = open_snapshot(session.data_dir, ref)
    whose = _one_symbol(symbol, snap.symbols)
    wanted = {whose, *(s for s in chosen.leaders if s in snap.symbols)}
    candles = {s: snap.candles(s) for s in sorted(wanted)}
    look = inspect_feature(chosen, name, symbol=whose, candles=candles, ts_ms=at_ms)
    if plot is not None:
        write_outputs(plot.parent, {plot.name: plot_inspection(look, step_ms=interval_ms(chosen.interval)).encode()})
    data = FeaturesShowDocument(
        snapshot=snap.id,
        symbol=whose,
        time=format_ms(at_ms),
        feature=look.info,
        value=_figure(look.value),
        value_of_the_lookback_alone=_figure(look.from_lookback),
        why_none=look.why_none,
        around=[ValueAt(format_ms(ts), _figure(value)) for ts, value in look.around],
        inputs=[
            {key: format_ms(int(value.timestamp() * 1000)) if key == "ts" else value for key, value in row.items()}
            for row in look.inputs.to_dicts()
        ],
        plot=plot,
    )
    return Outcome("features-show/1", data, lambda: _view_look(look, data))


def _one_symbol(symbol: str | None, there: Sequence[str]) -> str:
    if symbol is None and len(there) == 1:
        return there[0]
    if symbol is None:
        raise UsageError(
            f"the snapshot has several symbols: {', '.join(there)}", hint=f"choose one, such as --symbol {there[0]}"
        )
    from mltrain.errors import InputError
    from mltrain.names import check_symbol, did_you_mean

    if check_symbol(symbol) not in there:
        raise InputError(f"the snapshot has no {symbol}", hint=did_you_mean(symbol, there))
    return symbol


def _figure(value: float | None) -> float | str | None:
    """Return a value that JSON can hold: NaN and infinity as text."""
    return value if value is None or math.isfinite(value) else str(value)


def _view_look(look: FeatureInspection, data: FeaturesShowDocument) -> Iterator[RenderableType]:
    info = look.info
    yield f"{info.name} of {look.symbol} at {data.time}: {_value_text(look.value)}"
    if look.why_none:
        yield f"no value, because {look.why_none}"
    yield f"op {info.op} {_parameters(info)}: {info.summary}"
    alike = data.value == data.value_of_the_lookback_alone
    same = "the same" if alike else "NOT the same: run `mltrain features audit`"
    yield f"from the {info.lookback_bars} candle(s) of its lookback alone: {_value_text(look.from_lookback)} ({same})"
    marks = [(">" if row.time == data.time else "", row.time, _value_text(row.value)) for row in data.around]
    yield table("Around it", ("", "time (UTC)", info.name), marks, kinds="  r")
    inputs = data.inputs
    hidden = len(inputs) - INPUTS_SHOWN
    title = f"Its {len(inputs)} candle(s)" + (f", the newest {INPUTS_SHOWN}; --json has all" if hidden > 0 else "")
    columns = list(look.inputs.columns)
    rows = [[row[c] if row[c] is None else str(row[c]) for c in columns] for row in inputs[-INPUTS_SHOWN:]]
    headers = ["time (UTC)" if column == "ts" else column for column in columns]
    yield table(title, headers, rows, kinds=" " + "r" * (len(columns) - 1))
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
    ops: OpsOption = None,
) -> Outcome:
    """Check that a frame has exactly the features of the registry: names, order, types, finite values."""
    from mltrain.cli.feature_documents import FeaturesCheckDocument
    from mltrain.features.registry import FeatureSchemaValidator
    from mltrain.features.schema_validation import read_feature_frame

    read_ops(ops)
    problems = FeatureSchemaValidator(features).validate_features(read_feature_frame(frame), strict=False)

    def view() -> Iterable[RenderableType]:
        return [*problems] if problems else [f"{frame}: every feature matches the registry"]

    data = FeaturesCheckDocument(frame, sound=not problems, problems=problems)
    return Outcome("features-check/1", data, view, exit_code=FAILED_CHECK if problems else 0)


@command(takes_mb=LEARNING_MB)
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
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write all findings to this file as JSON, and as text next to it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """Audit every feature for leakage, on the candles of a snapshot."""
    from mltrain.cli.feature_documents import AuditReport, FeaturesAuditDocument
    from mltrain.config.loading import load_config
    from mltrain.features.registry import load_registry
    from mltrain.guards.evidence import check_guards
    from mltrain.pipeline.prepare import audit_snapshot
    from mltrain.snapshots.snapshot import open_snapshot

    read_ops(ops)
    config = load_config(None, overrides={})
    snap = open_snapshot(session.data_dir, ref)
    chosen = load_registry(features)
    results = audit_snapshot(snap, chosen, config, progress=session.progress, thorough=thorough)
    data = FeaturesAuditDocument(snap.id, thorough, results)
    if report is not None:
        findings = AuditReport(snap.id, thorough, results, registry_sha256=chosen.registry_sha256, ops=ops)
        data = replace(data, report=_write_report(report, findings))
    try:
        check_guards(results)
    except LeakageError as err:
        where = f"; all findings are in {data.report[1]}" if data.report is not None else ""
        raise LeakageError(err.message, hint=f"{err.hint}{where}") from err
    return Outcome("features-audit/1", data, lambda: _view_audit(data))


def _view_audit(data: FeaturesAuditDocument) -> Iterator[RenderableType]:
    yield view_guards(data.guards)
    for guard in data.guards:
        yield from (f"warning: {guard.name}: {warning}" for warning in guard.warnings)
    yield ", ".join(f"{guard.name} took {guard.seconds:.1f} s" for guard in data.guards)
    if data.report is not None:
        yield f"written to {' and '.join(map(str, data.report))}"


def view_guards(results: Sequence[GuardResult]) -> RenderableType:
    """Return a table of the guards' checks."""
    rows = [
        (
            r.name,
            "passed" if r.passed else "FAILED",
            c.name,
            f"{c.points:,}",
            number(c.worst, 3),
            c.case,
            c.detail,
        )
        for r in results
        for c in r.checks
    ]
    return table(
        "Leakage guards", ("guard", "outcome", "check", "points", "worst", "of", "detail"), rows, kinds="   rrff"
    )  # fmt: skip


def _write_report(path: Path, findings: AuditReport) -> tuple[Path, Path]:
    """Write a report as JSON and as text; return both names."""
    from mltrain.storage.writing import write_outputs

    stem = path if path.suffix not in {".json", ".txt"} else path.with_suffix("")
    names = (stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".txt"))
    texts = (document("features-audit/1", findings), "\n".join(_report_lines(findings)) + "\n")
    write_outputs(path.parent, {name.name: text.encode() for name, text in zip(names, texts, strict=True)})
    return names


def _report_lines(findings: AuditReport) -> Iterator[str]:
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
