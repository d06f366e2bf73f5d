"""What `train` returns: the documents that it prints, and what a notebook plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mltrain.documents.results import Result

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from mltrain.card.model_card import ModelCard
    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.gates.latency import Percentiles
    from mltrain.gates.outcome import GateOutcome
    from mltrain.gates.rules import SymbolVerdict
    from mltrain.gates.thresholds import LoosenedThreshold
    from mltrain.serving.model import Model
    from mltrain.store.versions import StoredVersion
    from mltrain.training.baselines import Baselines, Comparison
    from mltrain.training.bootstrap import MetricIntervals
    from mltrain.training.economics import Economics
    from mltrain.training.metrics import Metrics


# Columns of a reliability table.
_BINS: Final = ("low", "high", "rows", "mean_p", "up_share")


class TrainResult(Result):
    """The version that a training led to: a new one, or a stored one that the training would only have repeated.

    A notebook that is run twice gets a `TrainedVersion` first and an `ExistingVersion` then. Everything here works for
    both, and reads the files of the version, whose hashes are checked: all raise InputError if one is damaged.

    Attributes:
        version: Name of the version.
        folder: Folder of the version.
        verdict: The verdict of all gates together.
        promoted: Whether this training made it the live version.
    """

    __slots__ = ()

    version: str
    folder: Path
    verdict: Literal["GO", "NO-GO"]
    promoted: bool

    @property
    def card(self) -> dict[str, Any]:
        """The version's Model Card v2, as `Model.card` has it; docs/reference/card.md names its fields."""
        return self.read_card().document

    def read_card(self) -> ModelCard:
        """Return the card with typed accessors."""
        from mltrain.store.listing import read_version_card

        return read_version_card(self._open())

    def model(self, *, allow_no_go: bool = False, ops: str | None = None) -> Model:
        """Load the version's model, as `mltrain.load` does; it does not follow later promotions.

        Args:
            allow_no_go: Accept a version that was never promoted.
            ops: The module of the user ops that it was trained with, if this process has not imported it.

        Raises:
            InputError: The version was never promoted, or is damaged.
            OwnOpsError: The model was trained with user ops that are not imported.
        """
        from mltrain.serving.model import load

        return load(self.folder, allow_no_go=allow_no_go, ops=ops)

    def trials_table(self) -> pl.DataFrame:
        """Return the trials of the search, as `trials.parquet` has them.

        Returns:
            One row for each trial in the order of `number`, with `state` ("complete" or "pruned"), `log_loss` (out of
            fold, nats; that of a pruned trial covers fewer folds or rounds), `rounds`, and a column for each
            hyperparameter.
        """
        from mltrain.report.version_data import read_trials

        table = read_trials(self._open())
        # Every version that this release trains keeps its trials.
        assert table is not None  # noqa: S101
        return table

    def calibration_table(self) -> pl.DataFrame:
        """Return the reliability of the holdout's probabilities before and after calibration.

        Returns:
            One row for each bin, of raw scores first: `calibrated` (whether the probabilities are calibrated ones),
            `low` and `high` (least and greatest probability in the bin), `rows`, `mean_p` (mean probability) and
            `up_share` (share of the rows that went up).
        """
        import polars as pl

        card = self.read_card()
        parts = [
            pl.DataFrame([bin_.document for bin_ in card.sections("calibration", name)]).select(
                pl.lit(calibrated).alias("calibrated"), *_BINS
            )
            for calibrated, name in ((False, "reliability_before"), (True, "reliability"))
        ]
        return pl.concat(parts)

    def feature_importance(self) -> pl.DataFrame:
        """Return how much each feature matters.

        Returns:
            One row for each feature, that of the largest gain first: `name`, `gain` (what its splits gained in the
            served model, LightGBM's total) and `contribution` (mean absolute contribution on the holdout, log odds).
        """
        import polars as pl

        features = [feature.document for feature in self.read_card().sections("feature_importance")]
        types = {"name": pl.String(), "gain": pl.Float64(), "contribution": pl.Float64()}
        return pl.DataFrame(features, types).sort("gain", descending=True, maintain_order=True)

    def _open(self) -> StoredVersion:
        from mltrain.store.versions import open_version_folder

        return open_version_folder(self.folder)


@dataclass(frozen=True, slots=True)
class TrainedVersion(TrainResult):
    """The result of `train`: a new version; its card has the rest.

    Attributes:
        version: Name of the version.
        folder: Folder of the version.
        verdict: The verdict of all gates together; exit code 0 or 4.
        promoted: Whether the version is the live one now.
        held: Why a GO was not promoted automatically.
        model_sha256: SHA-256 of lgbm.pkl.
        snapshot: Id of the snapshot that the version was trained on.
        trials: Number of trials, pruned ones included.
        trials_resumed: Number of trials taken from an interrupted search.
        timed_out: Whether --timeout ended the search.
        best_trial: Number of the trial with the lowest loss.
        rounds: Boosting rounds of that trial.
        calibration: The calibration method: isotonic, sigmoid, beta or none.
        metrics: Metrics on the holdout, calibrated.
        intervals: Confidence intervals of these metrics.
        baselines: The baselines on the same rows.
        comparison: The model against the baselines, paired by row.
        latency_ms: Latency from candles to probability of one symbol, in ms.
        gates: The outcome of each gate.
        symbols: The verdict on each symbol by itself.
        economics: What the predictions would earn before costs, and the cost at which that is nothing.
        loosened: Gates that are looser than the packaged ones.
        looks: How often this holdout was scored before.
        warnings: What is unusual, but did not end the training.
    """

    SCHEMA: ClassVar[str] = "train/1"

    version: str
    folder: Path
    verdict: Literal["GO", "NO-GO"]
    promoted: bool
    held: str | None
    model_sha256: str
    snapshot: str
    trials: int
    trials_resumed: int
    timed_out: bool
    best_trial: int
    rounds: int
    calibration: str
    metrics: Metrics
    intervals: MetricIntervals
    baselines: Baselines
    comparison: Comparison
    latency_ms: Percentiles
    gates: tuple[GateOutcome, ...]
    symbols: tuple[SymbolVerdict, ...]
    economics: Economics
    loosened: tuple[LoosenedThreshold, ...]
    looks: LookCounts
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExistingVersion(TrainResult):
    """The result of `train` where the same version exists already: nothing was trained or promoted.

    Attributes:
        version: Name of the version.
        folder: Folder of the version.
        verdict: The verdict of its gates.
        best: Whether it is the live version.
        promoted: Always false: nothing was promoted now.
        already_there: Always true.
    """

    SCHEMA: ClassVar[str] = "train-already-there/1"

    version: str
    folder: Path
    verdict: Literal["GO", "NO-GO"]
    best: bool
    promoted: bool = False
    already_there: bool = True


@dataclass(frozen=True, slots=True)
class DemoPrediction:
    """The prediction for the newest closed candle of one symbol.

    Attributes:
        symbol: The symbol.
        ts_ms: Open time of the candle, ms UTC since the epoch.
        p: Calibrated probability that the label is up.
    """

    symbol: str
    ts_ms: int
    p: float | None


@dataclass(frozen=True, slots=True)
class DemoResult(Result):
    """The result of `demo`.

    Attributes:
        folder: The data folder of the demo.
        snapshots: Ids of the snapshots, in order.
        trainings: The trainings, each as in `train/1`.
        promoted_by_hand: The second version, if it was GO and held.
        predictions: Predictions of the second version.
        rolled_back_from: The second version.
        rolled_back_to: The first version, which is live now.
        backtest: Name of the backtest of the first version on the second snapshot.
        backtest_verdict: Whether it could be traded at the usual fees, in one sentence.
    """

    SCHEMA: ClassVar[str] = "demo/1"

    folder: Path
    snapshots: tuple[str, ...]
    trainings: list[TrainedVersion]
    promoted_by_hand: str | None
    predictions: list[DemoPrediction]
    rolled_back_from: str
    rolled_back_to: str
    backtest: str
    backtest_verdict: str
