"""The `--json` documents of train and demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mltrain.documents.results import Result

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.gates.latency import Percentiles
    from mltrain.gates.outcome import GateOutcome
    from mltrain.gates.rules import SymbolVerdict
    from mltrain.gates.thresholds import LoosenedThreshold
    from mltrain.training.baselines import Baselines, Comparison
    from mltrain.training.bootstrap import MetricIntervals
    from mltrain.training.economics import Economics
    from mltrain.training.metrics import Metrics


@dataclass(frozen=True, slots=True)
class TrainDocument(Result):
    """The document of `train`; the card has the rest.

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
class AlreadyThereDocument(Result):
    """The document of `train` where the same version exists already.

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
class DemoDocument(Result):
    """The document of `demo`.

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
    trainings: list[TrainDocument]
    promoted_by_hand: str | None
    predictions: list[DemoPrediction]
    rolled_back_from: str
    rolled_back_to: str
    backtest: str
    backtest_verdict: str
