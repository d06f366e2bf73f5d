"""The options that say where candles come from, shared by every command that asks a source."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.sources.http_client import NetworkRules
    from mltrain.sources.source_spec import SourceSpec

BASE_URL_VARIABLE: Final = "MLTRAIN_BASE_URL"
ARCHIVE_URL_VARIABLE: Final = "MLTRAIN_ARCHIVE_URL"
_PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class SourceName(StrEnum):
    """Where candles can come from."""

    BINANCE = "binance"
    ARCHIVE = "archive"
    FILES = "files"
    SIM = "sim"


class SimSignal(StrEnum):
    """How predictable the simulated exchange is."""

    NONE = "none"
    WEAK = "weak"
    STRONG = "strong"


Folder = Annotated[Path | None, typer.Option("--from", help="files: the folder of Parquet, CSV, JSON or zip files.")]
SimSeed = Annotated[int | None, typer.Option("--sim-seed", min=0, help="sim: which simulated market.")]
Signal = Annotated[
    SimSignal | None, typer.Option("--sim-signal", help="sim: how predictable it is (best accuracy 50, 51.4, 60.1 %).")
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", envvar=BASE_URL_VARIABLE, help="binance, archive: address of another REST host."),
]
ArchiveUrl = Annotated[
    str | None,
    typer.Option("--archive-url", envvar=ARCHIVE_URL_VARIABLE, help="archive: address of another archive."),
]
MaxWait = Annotated[
    float,
    typer.Option("--max-wait", min=0, help="Seconds that the exchange may order to wait before that is an error."),
]
Connections = Annotated[int, typer.Option("--connections", min=1, max=64, help="Requests under way at once.")]
EnvProxy = Annotated[
    bool,
    typer.Option(
        "--use-env-proxy", help="Go through the proxy, and trust the certificates, that the environment names."
    ),
]

MAX_WAIT_S: Final = 120.0
CONNECTIONS: Final = 16


def read_source(
    name: SourceName | None,
    *,
    interval: str,
    folder: Path | None,
    sim_seed: int | None,
    sim_signal: SimSignal | None,
    base_url: str | None,
    archive_url: str | None,
    end: str | None = None,
) -> SourceSpec:
    """Return the SourceSpec that the options describe; an option of another source is refused.

    Without a name, the options of a source mean that source, and none of them the exchange.
    """
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.times import parse_time

    if name is None:
        simulated = (sim_seed, sim_signal) != (None, None)
        name = SourceName.FILES if folder is not None else SourceName.SIM if simulated else SourceName.BINANCE
    if name is not SourceName.FILES and folder is not None:
        raise UsageError("--from goes with --source files")
    if name is not SourceName.SIM and (sim_seed, sim_signal) != (None, None):
        raise UsageError("--sim-seed and --sim-signal go with --source sim")
    if name is SourceName.FILES and folder is None:
        raise UsageError("--source files needs the folder to read", hint="add --from DIR")
    # An address in the environment is for the sources that have one, whichever is asked this time.
    if name in {SourceName.FILES, SourceName.SIM}:
        if base_url not in {None, os.environ.get(BASE_URL_VARIABLE)}:
            raise UsageError("--base-url goes with --source binance or archive")
        base_url = None
    if name is not SourceName.ARCHIVE:
        if archive_url not in {None, os.environ.get(ARCHIVE_URL_VARIABLE)}:
            raise UsageError("--archive-url goes with --source archive")
        archive_url = None
    clock_ms = parse_time(end) if end is not None and name is SourceName.SIM else None
    return SourceSpec(
        name=name.value,
        folder=folder,
        seed=sim_seed or 0,
        signal=(sim_signal or SimSignal.NONE).value,
        interval=interval,
        end_ms=clock_ms,
        base_url=base_url or "",
        archive_url=archive_url or "",
    )


def read_rules(
    *, max_wait: float = MAX_WAIT_S, connections: int = CONNECTIONS, use_env_proxy: bool = False
) -> NetworkRules:
    """Return how the network may be used; the environment is read here and nowhere below."""
    from mltrain.sources.http_client import NetworkRules

    proxy = next((os.environ[name] for name in _PROXY_VARIABLES if os.environ.get(name)), None)
    authorities = os.environ.get("SSL_CERT_FILE")
    return NetworkRules(
        connections=connections,
        max_wait_s=max_wait,
        proxy=proxy if use_env_proxy else None,
        proxy_unused=proxy is not None and not use_env_proxy,
        ca_file=Path(authorities) if use_env_proxy and authorities else None,
    )
