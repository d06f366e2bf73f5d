"""mltrain: from exchange candles to a calibrated, documented, gated and reversible LightGBM classifier.

The names below are the public library; each is imported on first use, so that `import mltrain` stays cheap.

    import mltrain
    model = mltrain.load("data/models/best_lgbm.pkl")
    table = model.predict_candles({"BTCUSDT": candles})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mltrain._version import __version__ as __version__
    from mltrain.errors import RefusedError as RefusedError
    from mltrain.features.registry import FeatureSchemaValidator as FeatureSchemaValidator
    from mltrain.report.calibration_curve import plot_calibration_curve as plot_calibration_curve
    from mltrain.serving.model import Model as Model
    from mltrain.serving.model import load as load

_HOME: Final = {
    "FeatureSchemaValidator": "mltrain.features.registry",
    "Model": "mltrain.serving.model",
    "RefusedError": "mltrain.errors",
    "__version__": "mltrain._version",
    "load": "mltrain.serving.model",
    "plot_calibration_curve": "mltrain.report.calibration_curve",
}

__all__ = ["FeatureSchemaValidator", "Model", "RefusedError", "__version__", "load", "plot_calibration_curve"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
    """Import the object of a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'mltrain' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names, whether they have been imported or not."""
    return sorted(__all__)
