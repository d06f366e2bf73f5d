"""Options for the source of candles, shared by the commands that download."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.cli.help import data_option, network_option
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.source_spec import SourceSpec

BASE_URL_VARIABLE: Final = "MLTRAIN_BASE_URL"
ARCHIVE_URL_VARIABLE: Final = "MLTRAIN_ARCHIVE_URL"
_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


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

DEFAULT_INTERVAL: Final = "1m"
MAX_WAIT_S: Final = 120.0
CONNECTIONS: Final = 16


def read_source_spec(
    name: str | None,
    *,
    interval: str | None,
    folder: Path | None,
    sim_seed: int | None,
    sim_signal: SimSignal | None,
    base_url: str | None,
    archive_url: str | None,
    timezone: str | None = None,
    market: str | None = None,
    default_market: str | None = None,
    end: str | None = None,
) -> SourceSpec:
    """Return the source that the options of a command describe; None is an option that was not given.

    Without an interval, that of files is the one that all their names state, and any other DEFAULT_INTERVAL.

    Without a name (--source), an option that only one source has selects that source; the default is the exchange.
    The end of the candles is the clock of the simulated market, and means nothing for other sources; so does the
    default market for files.

    Raises:
        UsageError: An option belongs to another source, or --from is missing.
    """
    from mltrain.sources.candle_folder import find_interval
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.times import parse_time

    if name is None:
        simulated = (sim_seed, sim_signal) != (None, None)
        name = "files" if folder is not None else "sim" if simulated else "binance"
    is_files = name == "files"
    misplaced = {
        "--from goes with --source files": not is_files and folder is not None,
        "--timezone goes with --source files: the times of other sources are UTC": not is_files
        and timezone is not None,
        "--sim-seed and --sim-signal go with --source sim": name != "sim" and (sim_seed, sim_signal) != (None, None),
        "--market does not go with --source files, which hold the candles of any market": is_files
        and market is not None,
    }
    if message := next((message for message, is_given in misplaced.items() if is_given), None):
        raise UsageError(message)
    if is_files and folder is None:
        raise UsageError("--source files needs the folder to read", hint="add --from DIR")
    # An address in the environment is meant for the sources that use one; the others ignore it.
    if name in {"files", "sim"}:
        if base_url not in {None, os.environ.get(BASE_URL_VARIABLE)}:
            raise UsageError("--base-url goes with --source binance, archive or ccxt:EXCHANGE")
        base_url = None
    if name != "archive":
        if archive_url not in {None, os.environ.get(ARCHIVE_URL_VARIABLE)}:
            raise UsageError("--archive-url goes with --source archive")
        archive_url = None
    if interval is None:
        interval = (find_interval(folder) if folder is not None else None) or DEFAULT_INTERVAL
    clock_ms = parse_time(end) if end is not None and name == "sim" else None
    return SourceSpec(
        name=name,
        folder=folder,
        seed=sim_seed or 0,
        signal=(sim_signal or SimSignal.NONE).value,
        interval=interval,
        end_ms=clock_ms,
        base_url=base_url or "",
        archive_url=archive_url or "",
        timezone=timezone,
        market=market or (None if is_files else default_market) or MarketName.SPOT.value,
    )


def read_network_rules(
    *, max_wait_s: float = MAX_WAIT_S, connections: int = CONNECTIONS, use_env_proxy: bool = False
) -> NetworkRules:
    """Return the rules for network access. Only this function reads the proxy variables of the environment."""
    from mltrain.sources.network_rules import NetworkRules

    proxy = next((os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)), None)
    authorities = os.environ.get("SSL_CERT_FILE")
    return NetworkRules(
        connections=connections,
        max_wait_s=max_wait_s,
        proxy=proxy if use_env_proxy else None,
        proxy_unused=proxy is not None and not use_env_proxy,
        ca_file=Path(authorities) if use_env_proxy and authorities else None,
    )
