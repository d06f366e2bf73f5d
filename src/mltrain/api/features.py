"""`features info`, `show`, `check`, `audit`, `init` and `export`, and the table of a training's features and labels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from mltrain.api.references import read_snapshot
from mltrain.api.workspace import DATA_DIR, check_path, read_progress, read_time
from mltrain.documents.results import OPTIONAL, Result, format_document
from mltrain.errors import InputError, LeakageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from mltrain.api.references import SnapshotRef
    from mltrain.api.workspace import PathText, ProgressLike, Time
    from mltrain.candles.input_tables import InputSpec
    from mltrain.features.label_spec import LabelSpec
    from mltrain.features.profile import FeatureProfile
    from mltrain.features.registry import FeatureInfo
    from mltrain.features.spec import FeatureSet, Registry
    from mltrain.guards.evidence import GuardResult
    from mltrain.pipeline.export_features import ExportedFeatures

    RegistrySource: TypeAlias = PathText | Mapping[str, Any] | Registry | FeatureSet


@dataclass(frozen=True, slots=True)
class FeaturesInfo(Result):
    """The result of `features info`.

    Attributes:
        version: Version of the registry's format.
        interval: Interval of the candles; null: any.
        label: What the model predicts.
        lookback_bars: Candles that the newest row needs.
        registry_sha256: SHA-256 of the registry.
        features: The features, in the order of the columns.
        quantile_levels: Levels of the quantiles in `profiles`.
        profiles: Distribution of each feature's values.
        inputs: The user's own columns that features read.
    """

    SCHEMA: ClassVar[str] = "features-info/1"

    version: int
    interval: str | None
    label: LabelSpec
    lookback_bars: int
    registry_sha256: str
    features: tuple[FeatureInfo, ...]
    quantile_levels: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)
    profiles: tuple[FeatureProfile, ...] | None = field(default=None, metadata=OPTIONAL)
    inputs: tuple[InputSpec, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class ValueAt:
    """The value of a feature at one candle.

    Attributes:
        time: Open time of the candle, UTC.
        value: The value; NaN and infinity are texts.
    """

    time: str
    value: float | str | None


@dataclass(frozen=True, slots=True)
class JoinedAt:
    """The value of an input that one candle knows, and since when it was known.

    Attributes:
        input: The input.
        symbol: The symbol whose value it is.
        time: Open time of the candle, UTC.
        close: Its close, UTC; what was known later does not count.
        value: The value; null if none was known at the close, or only one older than `max_age`.
        known_at: Since when the newest value known at the close was known, UTC, also if it was too old.
        age_ms: Time from `known_at` to the close, in ms.
    """

    input: str
    symbol: str
    time: str
    close: str
    value: float | None
    known_at: str | None
    age_ms: int | None


@dataclass(frozen=True, slots=True)
class FeatureValue(Result):
    """The result of `features show`.

    Attributes:
        snapshot: Id of the snapshot.
        symbol: Symbol of the candles.
        time: Open time of the candle, UTC.
        feature: The feature.
        value: Its value there; NaN and infinity are texts.
        value_of_the_lookback_alone: The value computed from the candles in its lookback only.
        why_none: Why there is no value.
        around: The values at the candles around it.
        inputs: The candles in its lookback, by column, oldest first.
        plot: The file that --plot wrote.
        joined: The values of each input that it reads at the candles around it, and since when they were known.
    """

    SCHEMA: ClassVar[str] = "features-show/1"

    snapshot: str
    symbol: str
    time: str
    feature: FeatureInfo
    value: float | str | None
    value_of_the_lookback_alone: float | str | None
    why_none: str | None
    around: list[ValueAt]
    inputs: list[Mapping[str, Any]]
    plot: Path | None
    joined: tuple[JoinedAt, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True)
class FeaturesCheck(Result):
    """The result of `features check`.

    Attributes:
        file: The file of the frame.
        sound: Whether the frame matches the registry; exit code 0 or 3.
        problems: What is wrong with it.
    """

    SCHEMA: ClassVar[str] = "features-check/1"

    file: Path
    sound: bool
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class FeaturesAudit(Result):
    """The result of `features audit`.

    Attributes:
        snapshot: Id of the snapshot whose candles were used.
        thorough: Whether --thorough was given.
        guards: The result of each guard, with its checks.
        report: The files that --report wrote.
    """

    SCHEMA: ClassVar[str] = "features-audit/1"

    snapshot: str
    thorough: bool
    guards: tuple[GuardResult, ...]
    report: tuple[Path, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(FeaturesAudit):
    """The document in the file of --report.

    Attributes:
        registry_sha256: SHA-256 of the registry.
        ops: The module of the user's ops.
    """

    registry_sha256: str
    ops: str | None


@dataclass(frozen=True, slots=True)
class FeaturesInit(Result):
    """The result of `features init`.

    Attributes:
        file: Path of the file that was written.
        interval: Interval of the candles that it is for.
        features: Number of its features.
        registry_sha256: SHA-256 of the registry.
    """

    SCHEMA: ClassVar[str] = "features-init/1"

    file: Path
    interval: str
    features: int
    registry_sha256: str


def features_info(
    *,
    features: PathText | None = None,
    snapshot: SnapshotRef | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
) -> FeaturesInfo:
    """Describe the features of a registry: op, parameters, lookback, columns; with a snapshot their values, too.

    Args:
        features: The registry: a file, or the name of a packaged one; None: features.yml.
        snapshot: Also return the distribution of the values on it: "latest", an id, a path, or a snapshot.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**
        data_dir: The data folder.
        progress: Receives stages and warnings.

    Raises:
        InputError: There is no such registry or snapshot, or one does not fit the other.
    """
    from mltrain.features.registry import describe_features, read_registry, take_features

    _import_ops(ops)
    path, shown = _as_path(features, "features"), read_progress(progress)
    if snapshot is None:
        registry = read_registry(path)
        return FeaturesInfo(
            version=registry.version,
            interval=registry.interval,
            label=registry.label,
            lookback_bars=registry.lookback_bars,
            registry_sha256=registry.registry_sha256,
            features=describe_features(registry),
            inputs=registry.inputs or None,
        )
    from mltrain.features.profile import LEVELS, profile_features
    from mltrain.pipeline.prepare import read_candles

    opened = read_snapshot(snapshot, data_dir)
    feature_set, warnings = take_features(path, opened.interval)
    for warning in warnings:
        shown.warn(warning)
    candles = read_candles(opened, shown, feature_set)
    shown.stage("features")
    return FeaturesInfo(
        version=feature_set.version,
        interval=feature_set.interval,
        label=feature_set.label,
        lookback_bars=feature_set.lookback_bars,
        registry_sha256=feature_set.registry_sha256,
        features=describe_features(feature_set),
        quantile_levels=LEVELS,
        profiles=profile_features(feature_set, candles),
        inputs=feature_set.inputs or None,
    )


def features_show(
    name: str,
    at: Time,
    *,
    snapshot: SnapshotRef = "latest",
    symbol: str | None = None,
    plot: PathText | None = None,
    features: PathText | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
) -> FeatureValue:
    """Return one feature around a time: its value and the candles it was computed from, or why it has none.

    Args:
        name: A feature of the registry.
        at: Open time of the candle: text such as "2025-10-15T12:00:00Z", a datetime with a zone, or ms UTC.
        snapshot: "latest", an id, a path, or a snapshot.
        symbol: The symbol; None: the only one of the snapshot.
        plot: Write a plot to this file, as SVG.
        features: The registry: a file, or the name of a packaged one; None: features.yml.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**
        data_dir: The data folder.

    Raises:
        UsageError: `at` is no time, or no symbol was named and the snapshot has several.
        InputError: There is no such feature, symbol or candle.
    """
    from mltrain.features.input_join import join_inputs
    from mltrain.features.inspection import check_feature_name, inspect_feature
    from mltrain.features.registry import load_registry
    from mltrain.pipeline.prepare import read_inputs
    from mltrain.report.feature_plot import plot_inspection
    from mltrain.storage.writing import write_outputs
    from mltrain.times import format_ms, interval_ms

    at_ms = read_time(at, "at")
    _import_ops(ops)
    opened = read_snapshot(snapshot, data_dir)
    feature_set = load_registry(_as_path(features, "features"), interval=opened.interval)
    check_feature_name(feature_set, name)
    symbol = _choose_symbol(symbol, opened.symbols)
    needed = {symbol, *(s for s in feature_set.leaders if s in opened.symbols)}
    candles = {s: opened.candles(s) for s in sorted(needed)}
    inputs = read_inputs(opened, feature_set)
    candles = join_inputs(feature_set, candles, inputs)
    inspection = inspect_feature(feature_set, name, symbol=symbol, candles=candles, ts_ms=at_ms, inputs=inputs)
    path = _as_path(plot, "plot")
    if path is not None:
        svg = plot_inspection(inspection, step_ms=interval_ms(feature_set.interval))
        write_outputs(path.parent, {path.name: svg.encode()})
    return FeatureValue(
        snapshot=opened.id,
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
        plot=path,
        joined=tuple(
            JoinedAt(
                input=joined.input,
                symbol=joined.symbol,
                time=format_ms(joined.ts_ms),
                close=format_ms(joined.close_ms),
                value=joined.value,
                known_at=None if joined.known_ms is None else format_ms(joined.known_ms),
                age_ms=joined.age_ms,
            )
            for joined in inspection.joined
        )
        or None,
    )


def _choose_symbol(symbol: str | None, symbols: Sequence[str]) -> str:
    """Return the given symbol if it is one of a snapshot's symbols; None stands for the only one."""
    from mltrain.names import check_symbol, did_you_mean

    if symbol is None and len(symbols) == 1:
        return symbols[0]
    if symbol is None:
        raise UsageError(
            f"the snapshot has several symbols: {', '.join(symbols)}", hint=f"choose one, such as --symbol {symbols[0]}"
        )
    if check_symbol(symbol) not in symbols:
        raise InputError(f"the snapshot has no {symbol}", hint=did_you_mean(symbol, symbols))
    return symbol


def _as_json_value(value: float | None) -> float | str | None:
    """Return a value that JSON can hold: NaN and infinity as text."""
    return value if value is None or math.isfinite(value) else str(value)


def features_check(
    file: PathText, *, features: PathText | None = None, interval: str | None = None, ops: str | None = None
) -> FeaturesCheck:
    """Check that a file has exactly the features of the registry: names, order, types, finite values.

    `FeatureSchemaValidator` checks a frame in memory.

    Args:
        file: Parquet or CSV with one column per feature, and optionally `ts` and `symbol`.
        features: The registry: a file, or the name of a packaged one; None: features.yml.
        interval: Interval of the features, if the registry states none.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**

    Returns:
        Every problem; a problem is not an error.

    Raises:
        InputError: There is no such file or registry, or it cannot be read.
    """
    from mltrain.features.registry import FeatureSchemaValidator
    from mltrain.features.schema_validation import read_feature_frame

    validator = FeatureSchemaValidator(_as_path(features, "features"), ops=ops, interval=interval)
    path = check_path(file, "file")
    problems = validator.validate_features(read_feature_frame(path), strict=False)
    return FeaturesCheck(path, sound=not problems, problems=problems)


def features_audit(
    *,
    features: RegistrySource | None = None,
    snapshot: SnapshotRef = "latest",
    thorough: bool = False,
    report: PathText | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
) -> FeaturesAudit:
    """Audit every feature for leakage, on the candles of a snapshot.

    Args:
        features: The registry: a file, the name of a packaged one, the content of such a file as a mapping, or the
            `feature_set` of a model; None: features.yml.
        snapshot: "latest", an id, a path, or a snapshot.
        thorough: Check ten times as many points, and also the ops that the registry does not use.
        report: Write all findings to this file as JSON, and as text next to it, also if a guard fails.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**
        data_dir: The data folder.
        progress: Receives stages and warnings.

    Raises:
        LeakageError: A guard failed; the message says which, and where.
        InputError: There is no such registry or snapshot, or one does not fit the other.
    """
    from mltrain.config.loading import load_config
    from mltrain.features.registry import take_features
    from mltrain.guards.evidence import check_guards
    from mltrain.pipeline.prepare import audit_snapshot

    _import_ops(ops)
    shown, config = read_progress(progress), load_config(None, overrides={})
    opened = read_snapshot(snapshot, data_dir)
    feature_set, warnings = take_features(_as_source(features), opened.interval)
    for warning in warnings:
        shown.warn(warning)
    results = audit_snapshot(opened, feature_set, config, progress=shown, thorough=thorough)
    audit = FeaturesAudit(opened.id, thorough, results)
    if report is not None:
        findings = AuditReport(opened.id, thorough, results, registry_sha256=feature_set.registry_sha256, ops=ops)
        audit = replace(audit, report=_write_report(check_path(report, "report"), findings))
    try:
        check_guards(results)
    except LeakageError as err:
        where = f"; all findings are in {audit.report[1]}" if audit.report is not None else ""
        raise LeakageError(err.message, hint=f"{err.hint}{where}") from err
    return audit


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


def feature_table(
    snapshot: SnapshotRef = "latest",
    *,
    registry: RegistrySource | None = None,
    ops: str | None = None,
    symbols: str | Sequence[str] | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
) -> pl.DataFrame:
    """Return the features and the label of every candle of a snapshot, computed as a training computes them.

    `table.drop_nulls()` has exactly the rows that a training cuts into folds and a holdout, in its order. A label is
    known only at its `label_end`: after a cut at some time, also drop the earlier rows that end after it.

    Args:
        snapshot: The candles: "latest", an id, a path, or a snapshot.
        registry: The features and the label: a file, the name of a packaged one, the content of such a file as a
            mapping, or the `feature_set` of a model; None: features.yml.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**
        symbols: Only the rows of these symbols, or of this one; None: of all. Leaders are read in any case.
        data_dir: The data folder.
        progress: Receives stages and warnings.

    Returns:
        One row for each candle, sorted by time, then symbol: `ts` (open time, UTC), `symbol`, each feature (Float32,
        null in the warm-up after the start and after a gap), `label` (UInt8: 1 is up, 0 down; null: not known yet, or
        a tie that the label leaves out) and `label_end` (open time of the candle that decided the label, UTC; null
        where the label is).

    Raises:
        InputError: There is no such registry, snapshot or symbol, or a feature reads a column that the candles lack.
    """
    from mltrain.features.registry import take_features
    from mltrain.names import check_symbol, did_you_mean
    from mltrain.pipeline.prepare import read_candles
    from mltrain.training.samples import tabulate_rows

    _import_ops(ops)
    shown, opened = read_progress(progress), read_snapshot(snapshot, data_dir)
    chosen = opened.symbols if symbols is None else (symbols,) if isinstance(symbols, str) else tuple(symbols)
    for symbol in chosen:
        if check_symbol(symbol) not in opened.symbols:
            raise InputError(f"the snapshot has no {symbol}", hint=did_you_mean(symbol, opened.symbols))
    feature_set, warnings = take_features(_as_source(registry), opened.interval)
    for warning in warnings:
        shown.warn(warning)
    candles = read_candles(opened, shown, feature_set)
    shown.stage("features and labels")
    return tabulate_rows(feature_set, candles, symbols=chosen)


def features_init(interval: str, *, output: PathText = "features.yml") -> FeaturesInit:
    """Write a registry with comments that fits the candles of an interval; it needs no more than OHLCV candles.

    Args:
        interval: Interval of the candles, such as "5m".
        output: The file to write; one that exists is never replaced.

    Raises:
        UsageError: The file exists, or there is no such interval.
        MachineError: The file cannot be written.
    """
    from mltrain.features.registry import load_registry
    from mltrain.features.registry_template import write_template
    from mltrain.storage.writing import atomic_write

    data, path = write_template(interval), check_path(output, "output")
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} already exists", hint=f"to see its features: mltrain features info --features {path}")
    atomic_write(path.absolute(), data)
    feature_set = load_registry(path)
    return FeaturesInit(path, interval, len(feature_set.names), feature_set.registry_sha256)


def features_export(
    output: PathText,
    *,
    snapshot: SnapshotRef = "latest",
    features: RegistrySource | None = None,
    config: PathText | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
) -> ExportedFeatures:
    """Write the rows of a training, its features and labels, as Parquet; the leakage guards are not run.

    `feature_table` returns a table instead, also of the candles that do not become rows.

    Args:
        output: The file to write: `ts`, `symbol`, the features, `label` and `label_end`, by time, then symbol.
        snapshot: "latest", an id, a path, or a snapshot.
        features: The registry: a file, the name of a packaged one, the content of such a file as a mapping, or the
            `feature_set` of a model; None: features.yml.
        config: The train.yml of the training, whose limits decide which rows it uses; None: the packaged one.
        ops: The module of the user ops that the registry names. **Importing it runs its code.**
        data_dir: The data folder.
        progress: Receives stages and warnings.

    Returns:
        What was written, with the hash of the rows that the card of a training on them has.

    Raises:
        InputError: There is no such registry or snapshot, or one does not fit the other.
    """
    from mltrain.config.loading import load_config
    from mltrain.features.registry import take_features
    from mltrain.pipeline.export_features import export_features

    _import_ops(ops)
    shown, loaded = read_progress(progress), load_config(_as_path(config, "config"), overrides={})
    opened = read_snapshot(snapshot, data_dir)
    feature_set, warnings = take_features(_as_source(features), opened.interval)
    for warning in warnings:
        shown.warn(warning)
    return export_features(opened, feature_set, loaded, file=check_path(output, "output"), progress=shown)


def _import_ops(module: str | None) -> None:
    """Import a module of user ops; None: do nothing."""
    from mltrain.features.user_ops import import_user_ops

    if module is not None:
        import_user_ops(module)


def _as_path(path: PathText | None, argument: str) -> Path | None:
    return None if path is None else check_path(path, argument)


def _as_source(source: RegistrySource | None) -> Path | Mapping[str, Any] | Registry | FeatureSet | None:
    return Path(source) if isinstance(source, str | os.PathLike) else source
