"""The command serve: answers predictions over HTTP."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from mltrain.api.serve import BIND, MAX_BODY_MB, QUEUE, THREADS, TIMEOUT_S
from mltrain.api.sources import choose_source
from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, data_option, limit_option, network_option, output_option
from mltrain.cli.predict import Inputs, NoGo, PredictSource, StrictAge
from mltrain.cli.render import Outcome, show_outcome
from mltrain.cli.signals import SIGNAL_CODE, noting_signals
from mltrain.cli.sources import (
    ArchiveUrl,
    BaseUrl,
    EnvProxy,
    Folder,
    MarketOption,
    Signal,
    SimSeed,
    TimeZone,
    given_addresses,
)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "serve", serve, example="mltrain serve --bind 127.0.0.1:8000")


@command(opens_versions=True, need_mb=SERVING_MB)
def serve(
    session: Session,
    ref: LiveVersionArgument = None,
    bind: Annotated[
        str,
        network_option(
            "--bind",
            metavar="ADDRESS:PORT",
            help="Where to listen; port 0 is any free one. An address other than loopback needs --token-file.",
        ),
    ] = BIND,
    token_file: Annotated[
        Path | None,
        network_option(
            "--token-file",
            metavar="FILE",
            help="Answer only to clients that send the token in this file; other users must not be able to read it.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        data_option(
            "--watch",
            help="Keep the newest candles of the source at hand, so that requests may name symbols instead of sending "
            "candles.",
        ),
    ] = False,
    source: PredictSource = None,
    market: MarketOption = None,
    folder: Folder = None,
    timezone: TimeZone = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    use_env_proxy: EnvProxy = False,
    inputs: Inputs = None,
    ledger: Annotated[
        bool,
        output_option(
            "--ledger",
            help="Record every row, given or refused, in the data folder's ledger before it is answered; with --watch "
            "also that of each candle as it closes.",
        ),
    ] = False,
    allow_no_go: NoGo = False,
    strict_age: StrictAge = False,
    ops: OpsOption = None,
    max_body_mb: Annotated[
        float, limit_option("--max-body-mb", min=0.001, max=1024, help="Largest body of a request, in MB.")
    ] = MAX_BODY_MB,
    timeout_s: Annotated[
        float,
        limit_option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            max=3600,
            help="Time that a client may take to send a body, and that its answer may take.",
        ),
    ] = TIMEOUT_S,
    threads: Annotated[
        int, limit_option("--threads", min=1, max=64, help="Requests that are scored at the same time.")
    ] = THREADS,
    queue: Annotated[
        int,
        limit_option(
            "--queue", min=0, max=10_000, help="Requests that may wait besides; one more is answered with 503 at once."
        ),
    ] = QUEUE,
    dashboard: Annotated[
        bool,
        output_option(
            "--dashboard/--no-dashboard",
            help="Also show a page, and the reports of versions, to a browser on this machine.",
        ),
    ] = True,
) -> Outcome | None:
    """Answer predictions over HTTP until Ctrl-C or SIGTERM, with health checks and metrics; needs the extra `serve`."""
    from mltrain.api.serve import serve

    if any(option is not None for option in (source, folder, sim_seed, sim_signal)):
        source = choose_source(source, folder=folder, sim_seed=sim_seed, sim_signal=sim_signal)
        base_url, archive_url = given_addresses(source, base_url, archive_url)
    register_ops(ops)
    with (
        serve(
            ref,
            bind=bind,
            token_file=token_file,
            watch=watch,
            source=source,
            market=None if market is None else market.value,
            folder=folder,
            timezone=timezone,
            sim_seed=sim_seed,
            sim_signal=None if sim_signal is None else sim_signal.value,
            base_url=base_url,
            archive_url=archive_url,
            use_env_proxy=use_env_proxy,
            inputs=inputs,
            ledger=ledger,
            allow_no_go=allow_no_go,
            strict_age=strict_age,
            max_body_mb=max_body_mb,
            timeout_s=timeout_s,
            threads=threads,
            queue=queue,
            dashboard=dashboard,
            data_dir=session.data_dir,
            slot=session.slot,
            progress=session.progress,
        ) as service,
        noting_signals() as first,
    ):
        # What has been loaded stays: without this, each full garbage collection holds up all answers for 100 ms.
        gc.collect()
        gc.freeze()
        show_outcome(Outcome(service.result, lambda: [service.url]), as_json=session.as_json)
        service.wait(first.has_come)
    # The requests in progress have ended.
    raise typer.Exit(SIGNAL_CODE + (first.number or 0))
