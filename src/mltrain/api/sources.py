"""The source of candles that the arguments of a function describe, and how the network may be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict

from mltrain.api.workspace import check_path
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.api.workspace import PathText
    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.source_spec import SourceSpec

Market: TypeAlias = Literal["spot", "usdm"]
SimSignal: TypeAlias = Literal["none", "weak", "strong"]

DEFAULT_INTERVAL: Final = "1m"
#: The longest wait that an exchange may demand, in seconds.
MAX_WAIT_S: Final = 120.0
#: Concurrent requests.
CONNECTIONS: Final = 16
_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class SourceOptions(TypedDict):
    """The arguments that describe a source, as functions take them; None is an argument that was not given."""

    source: str | None
    market: Market | None
    folder: PathText | None
    timezone: str | None
    sim_seed: int | None
    sim_signal: SimSignal | None


def choose_source(source: str | None, *, folder: PathText | None, sim_seed: int | None, sim_signal: str | None) -> str:
    """Return the name of the source; if none is given, the one that an argument belongs to, or else the exchange."""
    if source is not None:
        return source
    simulated = (sim_seed, sim_signal) != (None, None)
    return "files" if folder is not None else "sim" if simulated else "binance"


def read_source_spec(
    options: SourceOptions,
    *,
    interval: str | None,
    base_url: str | None = None,
    archive_url: str | None = None,
    default_market: str | None = None,
    end_ms: int | None = None,
) -> SourceSpec:
    """Return the source that the arguments of a function describe; None is an argument that was not given.

    Without an interval, that of files is the one that all their names state, and any other DEFAULT_INTERVAL.

    The end of the candles, ms UTC, is the clock of the simulated market, and means nothing for other sources; so does
    the default market for files.

    Raises:
        UsageError: An argument belongs to another source, or the folder is missing; messages name arguments as the
            command line does.
    """
    from mltrain.sources.candle_folder import find_interval
    from mltrain.sources.markets import SPOT
    from mltrain.sources.source_spec import SourceSpec

    folder, timezone, market = options["folder"], options["timezone"], options["market"]
    sim_seed, sim_signal = options["sim_seed"], options["sim_signal"]
    name = choose_source(options["source"], folder=folder, sim_seed=sim_seed, sim_signal=sim_signal)
    is_files = name == "files"
    misplaced = {
        "--from goes with --source files": not is_files and folder is not None,
        "--timezone goes with --source files: the times of other sources are UTC": not is_files
        and timezone is not None,
        "--sim-seed and --sim-signal go with --source sim": name != "sim" and (sim_seed, sim_signal) != (None, None),
        "--market does not go with --source files, which hold the candles of any market": is_files
        and market is not None,
        "--base-url goes with --source binance, archive or ccxt:EXCHANGE": name in {"files", "sim"}
        and base_url is not None,
        "--archive-url goes with --source archive": name != "archive" and archive_url is not None,
    }
    if message := next((message for message, is_given in misplaced.items() if is_given), None):
        raise UsageError(message)
    if is_files and folder is None:
        raise UsageError("--source files needs the folder to read", hint="add --from DIR")
    if interval is None:
        interval = (find_interval(check_path(folder, "folder")) if folder is not None else None) or DEFAULT_INTERVAL
    return SourceSpec(
        name=name,
        folder=None if folder is None else check_path(folder, "folder"),
        seed=sim_seed or 0,
        signal=sim_signal or "none",
        interval=interval,
        end_ms=end_ms if name == "sim" else None,
        base_url=base_url or "",
        archive_url=archive_url or "",
        timezone=timezone,
        market=market or (None if is_files else default_market) or SPOT,
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
