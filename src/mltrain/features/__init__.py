"""Candles to feature matrix."""
