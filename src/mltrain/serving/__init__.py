"""From a stored version to calibrated probabilities: loading, rows, streams, latency."""
