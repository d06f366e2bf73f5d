"""Immutable snapshots of candles: take, verify, rebuild, compare."""

from typing import Final

#: The folder of the snapshots in the data folder.
FOLDER: Final = "snapshots"
#: The pointer to the newest one in that folder.
LATEST: Final = "latest"
