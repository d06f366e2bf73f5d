"""Write the feature matrix of a training to a file: the rows that it fits and scores, in its order, with their hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import polars as pl

from mltrain.candles.frame import TS_DTYPE
from mltrain.documents.results import Result
from mltrain.errors import InputError
from mltrain.pipeline.prepare import cut_samples, read_candles
from mltrain.pipeline.write_version import to_parquet
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.writing import write_outputs
from mltrain.training.samples import build_samples, keep_newest, matrix_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.config.train_config import TrainConfig
    from mltrain.features.spec import FeatureSet
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.training.samples import Samples

_OTHER_COLUMNS: Final = ("ts", "symbol", "label", "label_end")


@dataclass(frozen=True, slots=True)
class ExportedFeatures(Result):
    """The result of `features export`.

    Attributes:
        file: The Parquet file that was written.
        sha256: SHA-256 of that file.
        snapshot: Id of the snapshot.
        registry_sha256: SHA-256 of the registry.
        matrix_sha256: SHA-256 of the rows, as in `lineage.matrix_sha256` of the card of a training on them.
        rows: Number of rows.
        features: Number of features.
        symbols: The symbols that have rows.
    """

    SCHEMA: ClassVar[str] = "features-export/1"

    file: Path
    sha256: str
    snapshot: str
    registry_sha256: str
    matrix_sha256: str
    rows: int
    features: int
    symbols: tuple[str, ...]


def export_features(
    snapshot: Snapshot, feature_set: FeatureSet, config: TrainConfig, *, file: Path, progress: Progress
) -> ExportedFeatures:
    """Write the rows that a training on a snapshot uses as Parquet; the leakage guards are not run.

    Args:
        snapshot: The candles.
        feature_set: The features and the label.
        config: The configuration of the training, whose limits decide which rows and symbols it uses.
        file: The file to write; one that exists is replaced. Its columns are `ts` (open time, UTC), `symbol`, the
            features (Float32), `label` (UInt8) and `label_end` (open time of the candle that decided it, UTC), its rows
            are sorted by time, then symbol.
        progress: Receives stages and warnings.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks a column, a leader or an input that a feature reads; or
            a feature has the name of another column.
        MachineError: The file cannot be written.
    """
    if taken := sorted({*_OTHER_COLUMNS}.intersection(feature_set.names)):
        raise InputError(f"the registry has a feature {taken[0]}: the file has another column of that name")
    candles = keep_newest(read_candles(snapshot, progress, feature_set), config.max_rows)
    progress.stage("features and labels")
    samples, _ = cut_samples(build_samples(feature_set, candles)[0], feature_set, config, progress)
    progress.stage("write")
    data = to_parquet(_build_table(samples))
    write_outputs(file.parent, {file.name: data})
    return ExportedFeatures(
        file=file,
        sha256=sha256_bytes(data),
        snapshot=snapshot.id,
        registry_sha256=feature_set.registry_sha256,
        matrix_sha256=matrix_sha256(samples),
        rows=samples.y.size,
        features=len(samples.names),
        symbols=samples.symbols,
    )


def _build_table(samples: Samples) -> pl.DataFrame:
    """Return the rows as a table, see `export_features`."""
    symbols = pl.Series(samples.symbols, dtype=pl.String)
    return pl.DataFrame(
        [
            pl.Series("ts", samples.ts_ms).cast(TS_DTYPE),
            symbols.gather(samples.symbol_ix).alias("symbol"),
            *(pl.Series(name, samples.x[:, i]) for i, name in enumerate(samples.names)),
            pl.Series("label", samples.y),
            pl.Series("label_end", samples.label_end_ms).cast(TS_DTYPE),
        ]
    )
