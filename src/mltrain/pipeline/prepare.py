"""Turn a snapshot into rows, cut them into blocks, and run the leakage guards: for training, planning and audits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.anomalies import empty_false_volumes
from mltrain.card.training_results import TrainingData
from mltrain.errors import InputError
from mltrain.features.computation import check_inputs
from mltrain.features.input_join import join_inputs
from mltrain.features.ops.catalogue import OPS
from mltrain.features.random_features import draw_feature, select_readable_features
from mltrain.features.spec import inputs_read
from mltrain.guards.evidence import check_guards
from mltrain.guards.feature_audit import TrainingMatrix, feature_audit
from mltrain.guards.future_info import future_info
from mltrain.guards.time_split import BlockArrays, time_split
from mltrain.names import join_first
from mltrain.times import format_duration, format_ms, interval_ms
from mltrain.training.label import make_labels
from mltrain.training.samples import build_samples, build_samples_and_ties, keep_newest, keep_symbols
from mltrain.training.split import find_absent_symbols, find_holdout_start, plan_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputTable
    from mltrain.config.train_config import TrainConfig
    from mltrain.features.spec import FeatureSet, FeatureSpec
    from mltrain.guards.evidence import GuardResult
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split

# A thorough audit checks this many times the configured number of points.
_THOROUGH_FACTOR: Final = 10
# Longest window of a random feature. Two hours of minutes: a snapshot of a day has many such windows.
_RANDOM_FEATURE_BARS: Final = 120
# Symbols that a warning names.
_MAX_NAMED: Final = 10
# Share of a symbol's candles without a value of an input above which there is a warning.
_WARN_MISSING_VALUES: Final = 0.01


def read_inputs(snapshot: Snapshot, feature_set: FeatureSet) -> dict[str, InputTable]:
    """Return the values of the inputs that features read, by the input's name.

    Raises:
        InputError: The snapshot lacks an input, has it of other columns, or is damaged.
    """
    return {spec.name: snapshot.input_table(spec) for spec in feature_set.inputs}


def read_candles(
    snapshot: Snapshot,
    progress: Progress,
    feature_set: FeatureSet | None = None,
    *,
    inputs: Mapping[str, InputTable] | None = None,
) -> dict[str, pl.DataFrame]:
    """Return the candles of a snapshot by symbol; each file is compared with its hash in the manifest.

    A volume column that contradicts the prices in most candles of a symbol becomes null, with a warning.

    Args:
        snapshot: The snapshot.
        progress: Receives the progress by symbol, and warnings.
        feature_set: The features, whose inputs are joined to the candles as columns; None: candles alone.
        inputs: What `read_inputs` returned for them; None: not read yet.

    Raises:
        InputError: The snapshot is damaged, or lacks an input that the features read.
    """
    # First, because a missing input should not take the time of reading all candles to be found.
    if inputs is None:
        inputs = {} if feature_set is None else read_inputs(snapshot, feature_set)
    progress.stage("read candles", total=len(snapshot.symbols))
    recorded = {entry.symbol: entry.volumes for entry in snapshot.facts}
    candles = {}
    for symbol in snapshot.symbols:
        # Checked again, because snapshots of earlier versions were not; columns that are already empty add nothing.
        candles[symbol], false_volumes = empty_false_volumes(snapshot.candles(symbol))
        for false_volume in dict.fromkeys((*recorded[symbol], *false_volumes)):
            if false_volume.emptied:
                progress.warn(f"{symbol}: {false_volume}")
        progress.advance(note=symbol)
    if feature_set is None or not feature_set.inputs:
        return candles
    joined = join_inputs(feature_set, candles, inputs)
    for warning in _list_missing_values(feature_set, joined):
        progress.warn(warning)
    return joined


def _list_missing_values(feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]) -> Iterator[str]:
    """Yield a warning for each input that has no value at many candles of symbols whose features read it.

    Raises:
        InputError: An input has no value at any candle, so that there would be no row.
    """
    for declared in feature_set.inputs:
        name = declared.name
        readers = [spec for spec in feature_set.features if name in inputs_read(spec, leader=False)]
        led = {spec.leader for spec in feature_set.features if name in inputs_read(spec, leader=True)}
        symbols = [symbol for symbol in candles if readers or symbol in led]
        missing = {symbol: candles[symbol][name].null_count() / max(1, candles[symbol].height) for symbol in symbols}
        why = f"none was known at their close, or only one older than {format_duration(declared.max_age_ms)}"
        if symbols and min(missing.values()) >= 1:
            raise InputError(
                f"the input {name} has no value at any candle of {join_first(symbols, _MAX_NAMED)}: {why}",
                hint="compare its known_at times and max_age with the times of the candles",
            )
        listed = [f"{symbol} ({share:.0%})" for symbol, share in missing.items() if share > _WARN_MISSING_VALUES]
        if listed:
            yield f"candles without a value of the input {name}: {join_first(listed, _MAX_NAMED)}; {why}"


def split_samples(samples: Samples, feature_set: FeatureSet, config: TrainConfig) -> Split:
    """Cut rows into holdout, inner part and walk-forward folds; the embargo is the label's horizon."""
    return plan_split(
        samples,
        val_ratio=config.val_ratio,
        holdout_from_ms=config.holdout_from_ms,
        fold_count=config.folds.count,
        fold_start=config.folds.start,
        embargo_ms=feature_set.label.horizon_bars * interval_ms(feature_set.interval),
        warm_up_ms=(feature_set.lookback_bars - 1) * interval_ms(feature_set.interval),
    )


def cut_samples(
    samples: Samples, feature_set: FeatureSet, config: TrainConfig, progress: Progress
) -> tuple[Samples, Split]:
    """Remove the symbols without a row in the inner part, with a warning, and cut the other rows into blocks.

    There is also a warning if a symbol has no row in the holdout or in a fold. A model has learned nothing about a
    symbol without a training row, so that symbol is not one of the model's symbols, and its rows in the holdout are
    left out. A leader's candles are still read. Do not use `samples` afterwards: the matrix of features may be
    compacted in place.
    """
    given_symbols = samples.symbols
    # Repeated, because removing the rows of a symbol moves the ends of the blocks.
    while True:
        start_ms = find_holdout_start(samples, val_ratio=config.val_ratio, holdout_from_ms=config.holdout_from_ms)
        trained = _find_symbols(samples, samples.ts_ms < start_ms)
        if trained == set(samples.symbols):
            split = split_samples(samples, feature_set, config)
            # The purge may have removed the last rows of a symbol.
            trained = _find_symbols(samples, split.inner.span)
            if trained == set(samples.symbols):
                break
        samples = keep_symbols(samples, trained)
    left_out = [symbol for symbol in given_symbols if symbol not in samples.symbols]
    if left_out:
        progress.warn(
            f"{', '.join(left_out)}: no training row, so not among the model's symbols; predict will refuse "
            f"{'them' if len(left_out) > 1 else 'it'}"
        )
    for warning in _list_absent_symbols(samples, split):
        progress.warn(warning)
    return samples, split


def _list_absent_symbols(samples: Samples, split: Split) -> Iterator[str]:
    """Yield a warning if the holdout lacks a symbol, one if the validation of a fold does, one if its training does."""
    if absent := find_absent_symbols(samples, split.holdout):
        last_ms = {s: samples.ts_ms[samples.symbol_ix == samples.symbols.index(s)][-1] for s in absent}
        listed = [f"{symbol} (last row {format_ms(int(last_ms[symbol]))})" for symbol in absent]
        yield (
            f"no row in the holdout, which begins {format_ms(split.holdout.start_ms)}: "
            f"{join_first(listed, _MAX_NAMED)}; nothing proves the model's skill on "
            f"{'them' if len(absent) > 1 else 'it'}"
        )
    for part, blocks in (
        ("validation", [fold.valid for fold in split.folds]),
        ("training", [fold.train for fold in split.folds]),
    ):
        folds_without: dict[str, list[str]] = {}
        for number, block in enumerate(blocks, 1):
            for symbol in find_absent_symbols(samples, block):
                folds_without.setdefault(symbol, []).append(str(number))
        if folds_without:
            listed = [f"{symbol} ({', '.join(folds_without[symbol])})" for symbol in sorted(folds_without)]
            yield f"folds without a {part} row of a symbol: {join_first(listed, _MAX_NAMED)}"


def _find_symbols(samples: Samples, rows: slice | NDArray[np.bool_]) -> set[str]:
    """Return the symbols of the selected rows; `rows` is a range of positions or a mask, shape (n,)."""
    return {samples.symbols[ix] for ix in np.unique(samples.symbol_ix[rows]).tolist()}


def _warn_of_later_times(snapshot: Snapshot, feature_set: FeatureSet, progress: Progress) -> None:
    """Warn of each input whose file has another column of times after the known-at time."""
    names = {spec.name for spec in feature_set.inputs}
    for facts in snapshot.input_facts:
        for later in facts.later if facts.name in names else ():
            progress.warn(later.describe(facts.name, facts.known_at))


def audit_candles(
    feature_set: FeatureSet,
    candles: Mapping[str, pl.DataFrame],
    config: TrainConfig,
    progress: Progress,
    *,
    inputs: Mapping[str, InputTable],
) -> GuardResult:
    """Run the guard `future_info`: it fails if a feature reads the future, or a label anything beyond its horizon.

    `inputs` are those that were joined to the candles.
    """
    check_inputs(feature_set, candles)
    progress.stage("guard: future_info")
    step_ms = interval_ms(feature_set.interval)
    return future_info(
        feature_set,
        candles,
        labels=lambda frame: make_labels(frame, feature_set.label, step_ms),
        seed=config.seed,
        points=config.guards.points,
        inputs=inputs,
    )


def audit_samples(
    feature_set: FeatureSet, samples: Samples, split: Split, config: TrainConfig, progress: Progress
) -> list[GuardResult]:
    """Run the guards `time_split` and `feature_audit` on training rows; of the holdout, only the times are read."""
    progress.stage("guard: time_split")
    pairs = [(split.inner, split.holdout), *((fold.train, fold.valid) for fold in split.folds)]
    pairs += [(earlier.valid, later.valid) for earlier, later in pairwise(split.folds)]
    time_pairs = [(_take_times(samples, earlier), _take_times(samples, later)) for earlier, later in pairs]
    split_result = time_split(time_pairs, embargo_ms=split.embargo_ms)
    progress.stage("guard: feature_audit")
    inner = split.inner.span
    matrix = TrainingMatrix(
        names=samples.names,
        x=samples.x[inner],
        y=samples.y[inner],
        ts_ms=samples.ts_ms[inner],
        symbol_ix=samples.symbol_ix[inner],
        symbols=samples.symbols,
    )
    limits = config.guards
    return [
        split_result,
        feature_audit(feature_set, matrix, seed=config.seed, auc_warn=limits.auc_warn, auc_fail=limits.auc_fail),
    ]


def _take_times(samples: Samples, block: Block) -> BlockArrays:
    """Return the open times and the label ends of a block's rows."""
    return BlockArrays(name=block.name, ts_ms=samples.ts_ms[block.span], label_end_ms=samples.label_end_ms[block.span])


def prepare(snapshot: Snapshot, feature_set: FeatureSet, config: TrainConfig, progress: Progress) -> TrainingData:
    """Read a snapshot, compute features and labels, cut the rows into blocks, and run the leakage guards.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks a column or a leader that a feature reads.
        LeakageError: A guard failed.
    """
    inputs = read_inputs(snapshot, feature_set)
    candles = keep_newest(read_candles(snapshot, progress, feature_set, inputs=inputs), config.max_rows)
    _warn_of_later_times(snapshot, feature_set, progress)
    guards = [audit_candles(feature_set, candles, config, progress, inputs=inputs)]
    check_guards(guards)
    progress.stage("features and labels")
    samples, ties, quality = build_samples_and_ties(feature_set, candles)
    samples, split = cut_samples(samples, feature_set, config, progress)
    ties = keep_symbols(ties, samples.symbols)
    guards += audit_samples(feature_set, samples, split, config, progress)
    check_guards(guards)
    for guard in guards:
        for warning in guard.warnings:
            progress.warn(warning)
    return TrainingData(snapshot, feature_set, candles, samples, quality, split, tuple(guards), ties)


def audit_snapshot(
    snapshot: Snapshot, feature_set: FeatureSet, config: TrainConfig, *, progress: Progress, thorough: bool = False
) -> tuple[GuardResult, ...]:
    """Run all leakage guards on a snapshot, as a training would, and return their results, failures included.

    With `thorough`, ten times as many points are checked, and there is a result `other_ops`: `future_info` on one
    random feature of each op that the registry does not use, if the snapshot has the columns that the feature reads.
    """
    if thorough:
        config = replace(config, guards=replace(config.guards, points=_THOROUGH_FACTOR * config.guards.points))
    inputs = read_inputs(snapshot, feature_set)
    candles = read_candles(snapshot, progress, feature_set, inputs=inputs)
    _warn_of_later_times(snapshot, feature_set, progress)
    results = [audit_candles(feature_set, candles, config, progress, inputs=inputs)]
    samples, split = cut_samples(build_samples(feature_set, candles)[0], feature_set, config, progress)
    results += audit_samples(feature_set, samples, split, config, progress)
    if thorough and (others := _draw_other_features(feature_set, candles, seed=config.seed)):
        result = audit_candles(replace(feature_set, features=others), candles, config, progress, inputs=inputs)
        results.append(replace(result, name="other_ops"))
    return tuple(results)


def _draw_other_features(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], *, seed: int
) -> tuple[FeatureSpec, ...]:
    """Return a random feature for each op that the registry does not use, if the candles have the columns it reads."""
    rng = np.random.default_rng(seed)
    used = {spec.op for spec in feature_set.features}
    leader = next((name for name in feature_set.leaders if name in candles), min(candles))
    inputs = [spec.name for spec in feature_set.inputs]
    drawn = [
        draw_feature(
            op,
            rng,
            name=op,
            leader=leader,
            max_bars=_RANDOM_FEATURE_BARS,
            interval=feature_set.interval,
            inputs=inputs,
        )
        for op in sorted(OPS)
        if op not in used
    ]
    complete = [
        {c.name for c in frame.get_columns() if not c.has_nulls() or c.name in inputs} for frame in candles.values()
    ]
    return select_readable_features((spec for spec in drawn if spec is not None), set.intersection(*complete))
