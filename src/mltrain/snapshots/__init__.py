"""Immutable snapshots of candles: take, verify, rebuild, compare."""
