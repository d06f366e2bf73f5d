"""The version of this package; its only home."""

# The build reads this line by a pattern that knows no annotation but `str`.
__version__ = "0.1.0"
