"""mltrain: from exchange candles to a calibrated, documented, gated and reversible LightGBM classifier.

The names below are the public library; each is imported on first use, so that `import mltrain` stays cheap. A function
is named after the command that does the same, and `to_json()` of its result is what that command prints with `--json`.

    import mltrain as mt
    model = mt.load("data/models/best_lgbm.pkl")
    table = model.predict_candles({"BTCUSDT": candles})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mltrain import ops as ops
    from mltrain._version import __version__ as __version__
    from mltrain.api.backtest import BacktestReport as BacktestReport
    from mltrain.api.backtest import backtest as backtest
    from mltrain.api.backtest import backtest_diff as backtest_diff
    from mltrain.api.backtest import backtest_prune as backtest_prune
    from mltrain.api.backtest import backtest_show as backtest_show
    from mltrain.api.backtest import list_backtests as list_backtests
    from mltrain.api.bench import bench as bench
    from mltrain.api.card import card_schema as card_schema
    from mltrain.api.card import card_show as card_show
    from mltrain.api.card import card_validate as card_validate
    from mltrain.api.config import config_init as config_init
    from mltrain.api.config import config_show as config_show
    from mltrain.api.cycle import cycle as cycle
    from mltrain.api.evaluate import evaluate as evaluate
    from mltrain.api.features import feature_table as feature_table
    from mltrain.api.features import features_audit as features_audit
    from mltrain.api.features import features_check as features_check
    from mltrain.api.features import features_export as features_export
    from mltrain.api.features import features_info as features_info
    from mltrain.api.features import features_init as features_init
    from mltrain.api.features import features_show as features_show
    from mltrain.api.halts import halt as halt
    from mltrain.api.halts import halt_arm as halt_arm
    from mltrain.api.halts import halt_disarm as halt_disarm
    from mltrain.api.halts import halt_drill as halt_drill
    from mltrain.api.halts import halt_history as halt_history
    from mltrain.api.halts import halt_status as halt_status
    from mltrain.api.halts import resume as resume
    from mltrain.api.html_pages import card_diff as card_diff
    from mltrain.api.html_pages import card_diff_page as card_diff_page
    from mltrain.api.html_pages import card_report as card_report
    from mltrain.api.html_pages import models_page as models_page
    from mltrain.api.ledger import ledger as ledger
    from mltrain.api.ledger import ledger_prune as ledger_prune
    from mltrain.api.models import list_models as list_models
    from mltrain.api.models import load as load
    from mltrain.api.models import models_history as models_history
    from mltrain.api.models import models_pack as models_pack
    from mltrain.api.models import models_prune as models_prune
    from mltrain.api.models import models_repair as models_repair
    from mltrain.api.models import models_unpack as models_unpack
    from mltrain.api.models import promote as promote
    from mltrain.api.models import rollback as rollback
    from mltrain.api.notify import notify as notify
    from mltrain.api.plots import plot_calibration as plot_calibration
    from mltrain.api.plots import plot_equity as plot_equity
    from mltrain.api.plots import plot_feature_importance as plot_feature_importance
    from mltrain.api.plots import plot_trials as plot_trials
    from mltrain.api.predict import PredictFileResult as PredictFileResult
    from mltrain.api.predict import Prediction as Prediction
    from mltrain.api.predict import PredictResult as PredictResult
    from mltrain.api.predict import WatchedPrediction as WatchedPrediction
    from mltrain.api.predict import predict as predict
    from mltrain.api.predict import predict_file as predict_file
    from mltrain.api.predict import watch as watch
    from mltrain.api.references import SnapshotRef as SnapshotRef
    from mltrain.api.references import VersionRef as VersionRef
    from mltrain.api.sentinel import run_sentinel as run_sentinel
    from mltrain.api.sentinel import sentinel as sentinel
    from mltrain.api.serve import RunningService as RunningService
    from mltrain.api.serve import ServeResult as ServeResult
    from mltrain.api.serve import serve as serve
    from mltrain.api.sim import RunningExchange as RunningExchange
    from mltrain.api.sim import SimResult as SimResult
    from mltrain.api.sim import sim as sim
    from mltrain.api.snapshots import CacheInfo as CacheInfo
    from mltrain.api.snapshots import RebuildResult as RebuildResult
    from mltrain.api.snapshots import SnapshotDiff as SnapshotDiff
    from mltrain.api.snapshots import SnapshotList as SnapshotList
    from mltrain.api.snapshots import SnapshotResult as SnapshotResult
    from mltrain.api.snapshots import cache_info as cache_info
    from mltrain.api.snapshots import cache_prune as cache_prune
    from mltrain.api.snapshots import fetch_candles as fetch_candles
    from mltrain.api.snapshots import list_snapshots as list_snapshots
    from mltrain.api.snapshots import open_snapshot as open_snapshot
    from mltrain.api.snapshots import snapshot as snapshot
    from mltrain.api.snapshots import snapshot_plan as snapshot_plan
    from mltrain.api.snapshots import snapshot_rebuild as snapshot_rebuild
    from mltrain.api.snapshots import snapshots_diff as snapshots_diff
    from mltrain.api.snapshots import snapshots_prune as snapshots_prune
    from mltrain.api.status import status as status
    from mltrain.api.studies import list_studies as list_studies
    from mltrain.api.studies import studies_prune as studies_prune
    from mltrain.api.train import demo as demo
    from mltrain.api.train import train as train
    from mltrain.api.train import train_plan as train_plan
    from mltrain.api.train_result import ExistingVersion as ExistingVersion
    from mltrain.api.train_result import TrainedVersion as TrainedVersion
    from mltrain.api.train_result import TrainResult as TrainResult
    from mltrain.api.verify import verify_model as verify_model
    from mltrain.api.verify import verify_snapshot as verify_snapshot
    from mltrain.api.workspace import MltrainWarning as MltrainWarning
    from mltrain.cli.progress import rich_progress as rich_progress
    from mltrain.errors import InputError as InputError
    from mltrain.errors import LeakageError as LeakageError
    from mltrain.errors import LockedError as LockedError
    from mltrain.errors import MachineError as MachineError
    from mltrain.errors import MltrainError as MltrainError
    from mltrain.errors import NoGoError as NoGoError
    from mltrain.errors import OwnOpsError as OwnOpsError
    from mltrain.errors import RefusedError as RefusedError
    from mltrain.errors import SourceError as SourceError
    from mltrain.errors import UsageError as UsageError
    from mltrain.features.registry import FeatureSchemaValidator as FeatureSchemaValidator
    from mltrain.monitoring.ledger import Ledger as Ledger
    from mltrain.monitoring.ledger import LedgerRow as LedgerRow
    from mltrain.monitoring.ledger import read_ledger as read_ledger
    from mltrain.progress import Progress as Progress
    from mltrain.report.calibration_curve import plot_calibration_curve as plot_calibration_curve
    from mltrain.report.chart import Chart as Chart
    from mltrain.serving.model import Model as Model
    from mltrain.serving.stream import Stream as Stream
    from mltrain.snapshots.snapshot import Snapshot as Snapshot

#: The module of each public name.
HOME: Final = {
    "BacktestReport": "mltrain.api.backtest",
    "CacheInfo": "mltrain.api.snapshots",
    "Chart": "mltrain.report.chart",
    "ExistingVersion": "mltrain.api.train_result",
    "FeatureSchemaValidator": "mltrain.features.registry",
    "InputError": "mltrain.errors",
    "LeakageError": "mltrain.errors",
    "Ledger": "mltrain.monitoring.ledger",
    "LedgerRow": "mltrain.monitoring.ledger",
    "LockedError": "mltrain.errors",
    "MachineError": "mltrain.errors",
    "MltrainError": "mltrain.errors",
    "MltrainWarning": "mltrain.api.workspace",
    "Model": "mltrain.serving.model",
    "NoGoError": "mltrain.errors",
    "OwnOpsError": "mltrain.errors",
    "PredictFileResult": "mltrain.api.predict",
    "PredictResult": "mltrain.api.predict",
    "Prediction": "mltrain.api.predict",
    "Progress": "mltrain.progress",
    "RebuildResult": "mltrain.api.snapshots",
    "RefusedError": "mltrain.errors",
    "RunningExchange": "mltrain.api.sim",
    "RunningService": "mltrain.api.serve",
    "ServeResult": "mltrain.api.serve",
    "SimResult": "mltrain.api.sim",
    "Snapshot": "mltrain.snapshots.snapshot",
    "SnapshotDiff": "mltrain.api.snapshots",
    "SnapshotList": "mltrain.api.snapshots",
    "SnapshotRef": "mltrain.api.references",
    "SnapshotResult": "mltrain.api.snapshots",
    "SourceError": "mltrain.errors",
    "Stream": "mltrain.serving.stream",
    "TrainResult": "mltrain.api.train_result",
    "TrainedVersion": "mltrain.api.train_result",
    "UsageError": "mltrain.errors",
    "VersionRef": "mltrain.api.references",
    "WatchedPrediction": "mltrain.api.predict",
    "__version__": "mltrain._version",
    "backtest": "mltrain.api.backtest",
    "backtest_diff": "mltrain.api.backtest",
    "backtest_prune": "mltrain.api.backtest",
    "backtest_show": "mltrain.api.backtest",
    "bench": "mltrain.api.bench",
    "cache_info": "mltrain.api.snapshots",
    "cache_prune": "mltrain.api.snapshots",
    "card_diff": "mltrain.api.html_pages",
    "card_diff_page": "mltrain.api.html_pages",
    "card_report": "mltrain.api.html_pages",
    "card_schema": "mltrain.api.card",
    "card_show": "mltrain.api.card",
    "card_validate": "mltrain.api.card",
    "config_init": "mltrain.api.config",
    "config_show": "mltrain.api.config",
    "cycle": "mltrain.api.cycle",
    "demo": "mltrain.api.train",
    "evaluate": "mltrain.api.evaluate",
    "feature_table": "mltrain.api.features",
    "features_audit": "mltrain.api.features",
    "features_check": "mltrain.api.features",
    "features_export": "mltrain.api.features",
    "features_info": "mltrain.api.features",
    "features_init": "mltrain.api.features",
    "features_show": "mltrain.api.features",
    "fetch_candles": "mltrain.api.snapshots",
    "halt": "mltrain.api.halts",
    "halt_arm": "mltrain.api.halts",
    "halt_disarm": "mltrain.api.halts",
    "halt_drill": "mltrain.api.halts",
    "halt_history": "mltrain.api.halts",
    "halt_status": "mltrain.api.halts",
    "ledger": "mltrain.api.ledger",
    "ledger_prune": "mltrain.api.ledger",
    "list_backtests": "mltrain.api.backtest",
    "list_models": "mltrain.api.models",
    "list_snapshots": "mltrain.api.snapshots",
    "list_studies": "mltrain.api.studies",
    "load": "mltrain.api.models",
    "models_history": "mltrain.api.models",
    "models_pack": "mltrain.api.models",
    "models_page": "mltrain.api.html_pages",
    "models_prune": "mltrain.api.models",
    "models_repair": "mltrain.api.models",
    "models_unpack": "mltrain.api.models",
    "notify": "mltrain.api.notify",
    "open_snapshot": "mltrain.api.snapshots",
    "ops": "mltrain.ops",
    "plot_calibration": "mltrain.api.plots",
    "plot_calibration_curve": "mltrain.report.calibration_curve",
    "plot_equity": "mltrain.api.plots",
    "plot_feature_importance": "mltrain.api.plots",
    "plot_trials": "mltrain.api.plots",
    "predict": "mltrain.api.predict",
    "predict_file": "mltrain.api.predict",
    "promote": "mltrain.api.models",
    "read_ledger": "mltrain.monitoring.ledger",
    "resume": "mltrain.api.halts",
    "rich_progress": "mltrain.cli.progress",
    "rollback": "mltrain.api.models",
    "run_sentinel": "mltrain.api.sentinel",
    "sentinel": "mltrain.api.sentinel",
    "serve": "mltrain.api.serve",
    "sim": "mltrain.api.sim",
    "snapshot": "mltrain.api.snapshots",
    "snapshot_plan": "mltrain.api.snapshots",
    "snapshot_rebuild": "mltrain.api.snapshots",
    "snapshots_diff": "mltrain.api.snapshots",
    "snapshots_prune": "mltrain.api.snapshots",
    "status": "mltrain.api.status",
    "studies_prune": "mltrain.api.studies",
    "train": "mltrain.api.train",
    "train_plan": "mltrain.api.train",
    "verify_model": "mltrain.api.verify",
    "verify_snapshot": "mltrain.api.verify",
    "watch": "mltrain.api.predict",
}

__all__ = [
    "BacktestReport",
    "CacheInfo",
    "Chart",
    "ExistingVersion",
    "FeatureSchemaValidator",
    "InputError",
    "LeakageError",
    "Ledger",
    "LedgerRow",
    "LockedError",
    "MachineError",
    "MltrainError",
    "MltrainWarning",
    "Model",
    "NoGoError",
    "OwnOpsError",
    "PredictFileResult",
    "PredictResult",
    "Prediction",
    "Progress",
    "RebuildResult",
    "RefusedError",
    "RunningExchange",
    "RunningService",
    "ServeResult",
    "SimResult",
    "Snapshot",
    "SnapshotDiff",
    "SnapshotList",
    "SnapshotRef",
    "SnapshotResult",
    "SourceError",
    "Stream",
    "TrainResult",
    "TrainedVersion",
    "UsageError",
    "VersionRef",
    "WatchedPrediction",
    "__version__",
    "backtest",
    "backtest_diff",
    "backtest_prune",
    "backtest_show",
    "bench",
    "cache_info",
    "cache_prune",
    "card_diff",
    "card_diff_page",
    "card_report",
    "card_schema",
    "card_show",
    "card_validate",
    "config_init",
    "config_show",
    "cycle",
    "demo",
    "evaluate",
    "feature_table",
    "features_audit",
    "features_check",
    "features_export",
    "features_info",
    "features_init",
    "features_show",
    "fetch_candles",
    "halt",
    "halt_arm",
    "halt_disarm",
    "halt_drill",
    "halt_history",
    "halt_status",
    "ledger",
    "ledger_prune",
    "list_backtests",
    "list_models",
    "list_snapshots",
    "list_studies",
    "load",
    "models_history",
    "models_pack",
    "models_page",
    "models_prune",
    "models_repair",
    "models_unpack",
    "notify",
    "open_snapshot",
    "ops",
    "plot_calibration",
    "plot_calibration_curve",
    "plot_equity",
    "plot_feature_importance",
    "plot_trials",
    "predict",
    "predict_file",
    "promote",
    "read_ledger",
    "resume",
    "rich_progress",
    "rollback",
    "run_sentinel",
    "sentinel",
    "serve",
    "sim",
    "snapshot",
    "snapshot_plan",
    "snapshot_rebuild",
    "snapshots_diff",
    "snapshots_prune",
    "status",
    "studies_prune",
    "train",
    "train_plan",
    "verify_model",
    "verify_snapshot",
    "watch",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Import the object of a public name on first use."""
    if name not in HOME:
        raise AttributeError(f"module 'mltrain' has no attribute {name!r}")
    module = import_module(HOME[name])
    return module if module.__name__ == f"mltrain.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    """Return the public names, whether they have been imported or not."""
    return sorted(__all__)
