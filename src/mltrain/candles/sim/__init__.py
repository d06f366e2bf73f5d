"""The simulated exchange: its market, and the same market as a server on the loopback with scripted faults."""

from mltrain.candles.sim.market import CLOCK_MS, GENESIS_MS, LAST_CLOCK_MS, STRENGTH, TIE_SHARE, SimSource

__all__ = ["CLOCK_MS", "GENESIS_MS", "LAST_CLOCK_MS", "STRENGTH", "TIE_SHARE", "SimSource"]
