"""The version of this package; its only home."""

from typing import Final

__version__: Final = "0.1.0"
