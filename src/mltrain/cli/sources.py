"""Options for the source of candles, shared by the commands that download."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from mltrain.cli.help import data_option, network_option

BASE_URL_VARIABLE: Final = "MLTRAIN_BASE_URL"
ARCHIVE_URL_VARIABLE: Final = "MLTRAIN_ARCHIVE_URL"


class SimSignal(StrEnum):
    """How predictable the simulated market is."""

    NONE = "none"
    WEAK = "weak"
    STRONG = "strong"


class MarketName(StrEnum):
    """Markets of the exchange."""

    SPOT = "spot"
    USDM = "usdm"


MarketOption = Annotated[
    MarketName | None,
    data_option(
        "--market", help="binance, archive, ccxt, sim: spot, or usdm for USD-M perpetual futures. Default: spot."
    ),
]
#: What `--source` takes; the values are checked by `SourceSpec`.
SOURCE_METAVAR: Final = "binance|archive|files|sim|ccxt:EXCHANGE"

Folder = Annotated[
    Path | None,
    data_option("--from", metavar="DIR", help="files: folder of candle files, searched with the folders in it."),
]
TimeZone = Annotated[
    str | None,
    data_option(
        "--timezone",
        metavar="ZONE",
        help="Zone of times in files that state none, such as Europe/Berlin or +03:00. Default: UTC.",
    ),
]
SimSeed = Annotated[int | None, data_option("--sim-seed", min=0, help="sim: seed of the simulated market.")]
Signal = Annotated[
    SimSignal | None,
    data_option(
        "--sim-signal", help="sim: how predictable the market is; the best possible accuracy is 50, 51.4 or 60.1 %."
    ),
]
BaseUrl = Annotated[
    str | None,
    data_option(
        "--base-url", metavar="URL", envvar=BASE_URL_VARIABLE, help="binance, archive, ccxt: another REST host."
    ),
]
ArchiveUrl = Annotated[
    str | None,
    data_option(
        "--archive-url", metavar="URL", envvar=ARCHIVE_URL_VARIABLE, help="archive: another archive of daily files."
    ),
]
MaxWait = Annotated[
    float,
    network_option(
        "--max-wait",
        metavar="SECONDS",
        min=0,
        help="Longest wait that the exchange may demand before it counts as an error.",
    ),
]
Connections = Annotated[int, network_option("--connections", min=1, max=64, help="Concurrent requests.")]
EnvProxy = Annotated[
    bool, network_option("--use-env-proxy", help="Use the proxy and the certificates that the environment names.")
]


def given_addresses(source: str, base_url: str | None, archive_url: str | None) -> tuple[str | None, str | None]:
    """Return the addresses that the user gave for a source; None for one of the environment that it does not use."""
    if source in {"files", "sim"} and base_url == os.environ.get(BASE_URL_VARIABLE):
        base_url = None
    if source != "archive" and archive_url == os.environ.get(ARCHIVE_URL_VARIABLE):
        archive_url = None
    return base_url, archive_url
