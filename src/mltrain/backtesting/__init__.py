"""Backtesting: what a stored model would have earned on candles that it has never learned from, after costs."""
