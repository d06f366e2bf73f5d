"""Matrix to calibrated booster."""
