"""From a snapshot to rows cut into blocks, with the leakage guards: the same way for training, planning and audits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.anomalies import empty_false_volumes
from mltrain.card.training_results import TrainingData
from mltrain.features.computation import check_inputs
from mltrain.features.ops.catalogue import OPS
from mltrain.features.random_features import draw_feature, select_readable_features
from mltrain.guards.evidence import check_guards
from mltrain.guards.feature_audit import TrainingMatrix, feature_audit
from mltrain.guards.future_info import future_info
from mltrain.guards.time_split import BlockArrays, time_split
from mltrain.times import interval_ms
from mltrain.training.label import make_labels
from mltrain.training.samples import build_samples, keep_newest, keep_symbols
from mltrain.training.split import plan_split

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.features.spec import FeatureSet, FeatureSpec
    from mltrain.guards.evidence import GuardResult
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split

# Factor of the points of a thorough audit.
THOROUGH: Final = 10
# Two hours of minutes: a snapshot of a day has many such windows.
_OTHER_OPS_BARS: Final = 120


def read_candles(snapshot: Snapshot, progress: Progress) -> dict[str, pl.DataFrame]:
    """Return every symbol's candles; each file's bytes are hashed before they are parsed.

    A volume that most candles of a symbol contradict becomes null, with a warning (`mltrain.candles.anomalies`).

    Raises:
        InputError: A file is missing or does not match the manifest.
    """
    progress.stage("read candles", total=len(snapshot.symbols))
    candles = {}
    for symbol in snapshot.symbols:
        recorded = next(facts.volumes for facts in snapshot.facts if facts.symbol == symbol)
        # Checked again, because snapshots of earlier versions were not; columns that are already empty add nothing.
        candles[symbol], found = empty_false_volumes(snapshot.candles(symbol))
        for false in dict.fromkeys((*recorded, *found)):
            if false.emptied:
                progress.warn(f"{symbol}: {false}")
        progress.advance(note=symbol)
    return candles


def split_samples(samples: Samples, feature_set: FeatureSet, config: TrainConfig) -> Split:
    """Cut the samples as the configuration says; the embargo is the label's horizon.

    Raises:
        InputError: The samples are too few for the folds.
    """
    return plan_split(
        samples,
        val_ratio=config.val_ratio,
        fold_count=config.folds.count,
        fold_start=config.folds.start,
        embargo_ms=feature_set.label.horizon_bars * interval_ms(feature_set.interval),
    )


def cut_samples(
    samples: Samples, feature_set: FeatureSet, config: TrainConfig, progress: Progress
) -> tuple[Samples, Split]:
    """Cut the samples as `split_samples` does, without the symbols that have no row in the inner part.

    A model has learned nothing about a symbol without a training row, so that symbol is not one of the model's symbols,
    and its rows in the holdout are left out. A leader's candles are still read.

    Args:
        samples: All rows; not to be used afterwards.
        feature_set: The features and the label.
        config: The configuration.
        progress: Receives a warning about symbols that are left out.

    Raises:
        InputError: The samples are too few for the folds.
    """
    asked = samples.symbols
    # Repeated, because removing the rows of a symbol moves the ends of the blocks.
    while True:
        first, last = int(samples.ts_ms[0]), int(samples.ts_ms[-1]) + 1
        trained = _symbols_of(samples, samples.ts_ms < first + (last - first) * (1 - config.val_ratio))
        if trained == set(samples.symbols):
            split = split_samples(samples, feature_set, config)
            # The purge may have removed the last rows of a symbol.
            trained = _symbols_of(samples, split.inner.span)
            if trained == set(samples.symbols):
                break
        samples = keep_symbols(samples, trained)
    left_out = [symbol for symbol in asked if symbol not in samples.symbols]
    if left_out:
        progress.warn(
            f"{', '.join(left_out)}: no training row, so not among the model's symbols; predict will refuse "
            f"{'them' if len(left_out) > 1 else 'it'}"
        )
    return samples, split


def _symbols_of(samples: Samples, rows: slice | NDArray[np.bool_]) -> set[str]:
    return {samples.symbols[ix] for ix in np.unique(samples.symbol_ix[rows]).tolist()}


def audit_candles(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], config: TrainConfig, progress: Progress
) -> GuardResult:
    """Run the guard that needs no samples: no feature and no label reads the future.

    Raises:
        InputError: The candles lack what a feature reads.
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
    )


def audit_samples(
    feature_set: FeatureSet, samples: Samples, split: Split, config: TrainConfig, progress: Progress
) -> list[GuardResult]:
    """Run the guards on the arrays that the learner receives; of the rows of the holdout, only the times are read."""
    progress.stage("guard: time_split")
    pairs = [(split.inner, split.holdout), *((fold.train, fold.valid) for fold in split.folds)]
    pairs += [(a.valid, b.valid) for a, b in zip(split.folds, split.folds[1:], strict=False)]
    ordered = [(_arrays(samples, earlier), _arrays(samples, later)) for earlier, later in pairs]
    checked = time_split(ordered, embargo_ms=split.embargo_ms)
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
    audited = feature_audit(feature_set, matrix, seed=config.seed, auc_warn=limits.auc_warn, auc_fail=limits.auc_fail)
    return [checked, audited]


def _arrays(samples: Samples, block: Block) -> BlockArrays:
    return BlockArrays(block.name, samples.ts_ms[block.span], samples.label_end_ms[block.span])


def prepare(snapshot: Snapshot, feature_set: FeatureSet, config: TrainConfig, progress: Progress) -> TrainingData:
    """Turn a snapshot into rows cut into blocks, and stop at anything that must not be trained on.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks what a feature reads.
        LeakageError: A guard failed.
    """
    candles = keep_newest(read_candles(snapshot, progress), config.max_rows)
    guards = [audit_candles(feature_set, candles, config, progress)]
    check_guards(guards)
    progress.stage("features and labels")
    samples, quality = build_samples(feature_set, candles)
    samples, split = cut_samples(samples, feature_set, config, progress)
    guards += audit_samples(feature_set, samples, split, config, progress)
    check_guards(guards)
    for warning in (text for guard in guards for text in guard.warnings):
        progress.warn(warning)
    return TrainingData(snapshot, feature_set, candles, samples, quality, split, tuple(guards))


def audit_snapshot(
    snapshot: Snapshot, feature_set: FeatureSet, config: TrainConfig, *, progress: Progress, thorough: bool = False
) -> tuple[GuardResult, ...]:
    """Run all three guards as a training on this snapshot would, without training.

    Args:
        snapshot: The candles.
        feature_set: The features and the label.
        config: Seed, folds and limits of the guards.
        progress: Receives every stage.
        thorough: Ten times the points, and a fourth result, `other_ops`: of every op that the registry leaves out, a
            feature with parameters at random, where the snapshot has the columns that it reads.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks what a feature reads.
    """
    if thorough:
        config = replace(config, guards=replace(config.guards, points=THOROUGH * config.guards.points))
    candles = read_candles(snapshot, progress)
    results = [audit_candles(feature_set, candles, config, progress)]
    samples, split = cut_samples(build_samples(feature_set, candles)[0], feature_set, config, progress)
    results += audit_samples(feature_set, samples, split, config, progress)
    others = _other_ops(feature_set, candles, seed=config.seed) if thorough else ()
    if others:
        rest = audit_candles(replace(feature_set, features=others), candles, config, progress)
        results.append(replace(rest, name="other_ops"))
    return tuple(results)


def _other_ops(feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], *, seed: int) -> tuple[FeatureSpec, ...]:
    """Return a feature for each op that the registry does not use, as far as the candles have its columns."""
    rng = np.random.default_rng(seed)
    used = {spec.op for spec in feature_set.features}
    leader = next((name for name in feature_set.leaders if name in candles), min(candles))
    drawn = [
        draw_feature(op, rng, name=op, leader=leader, max_bars=_OTHER_OPS_BARS) for op in sorted(OPS) if op not in used
    ]
    full = [{c.name for c in frame.get_columns() if not c.has_nulls()} for frame in candles.values()]
    return select_readable_features((spec for spec in drawn if spec is not None), set.intersection(*full))
