"""The calibrator of a training: by the configured method, or the one of best forward log loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrain.training.calibration import CalibrationChoice, choose_calibrator, fit_calibrator

if TYPE_CHECKING:
    from mltrain.config.train_config import TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.search import OutOfFold


def calibrate(found: OutOfFold, samples: Samples, config: TrainConfig) -> CalibrationChoice:
    """Fit the calibrator on the pooled out-of-fold scores, by the configured method or by forward log loss.

    Raises:
        InputError: A method was named, and the scores are too few for it.
    """
    y = samples.y[found.oof_rows]
    if config.calibration == "auto":
        return choose_calibrator(found.oof_scores, y, found.oof_fold)
    return CalibrationChoice(fit_calibrator(config.calibration, found.oof_scores, y), ())
