"""The command serve: answers predictions over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mltrain.api.serve import BIND, MAX_BODY_MB, QUEUE, THREADS, TIMEOUT_S
from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, limit_option, network_option
from mltrain.cli.predict import NoGo
from mltrain.cli.render import Outcome, show_outcome
from mltrain.cli.signals import SIGNAL_CODE, noting_signals


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
    allow_no_go: NoGo = False,
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
) -> Outcome | None:
    """Answer predictions over HTTP until Ctrl-C or SIGTERM, with health checks and metrics; needs the extra [serve]."""
    from mltrain.api.serve import serve

    register_ops(ops)
    with (
        serve(
            ref,
            bind=bind,
            token_file=token_file,
            allow_no_go=allow_no_go,
            max_body_mb=max_body_mb,
            timeout_s=timeout_s,
            threads=threads,
            queue=queue,
            data_dir=session.data_dir,
            slot=session.slot,
            progress=session.progress,
        ) as service,
        noting_signals() as first,
    ):
        show_outcome(Outcome(service.result, lambda: [service.url]), as_json=session.as_json)
        service.wait(first.has_come)
    # The requests in progress have ended.
    raise typer.Exit(SIGNAL_CODE + (first.number or 0))
