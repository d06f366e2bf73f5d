"""From feature matrix to calibrated booster: label, split, search, fit, calibration, metrics."""
