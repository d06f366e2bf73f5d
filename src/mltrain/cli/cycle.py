"""The command cycle: rounds of snapshot, training and promotion at fixed times."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.api.cycle import AT, EVERY
from mltrain.api.sources import CONNECTIONS, MAX_WAIT_S, choose_source
from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.config import Config, Trials
from mltrain.cli.help import (
    add_command,
    data_option,
    schedule_option,
    upkeep_option,
)
from mltrain.cli.render import Outcome
from mltrain.cli.snapshots import Days, Interval, SnapshotSource, Symbols
from mltrain.cli.sources import (
    ArchiveUrl,
    BaseUrl,
    Connections,
    EnvProxy,
    Folder,
    MarketOption,
    MaxWait,
    Signal,
    SimSeed,
    TimeZone,
    given_addresses,
)
from mltrain.cli.train import FinalOption, FittedRows, Promote, SearchTimeout, Sign, Workers

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.monitoring.rounds import Round


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "cycle", cycle, example="mltrain cycle --every 24h --at 02:00 --days 90 --trials 200")


@command(opens_versions=True, notifies=True, need_mb=LEARNING_MB)
def cycle(
    session: Session,
    every: Annotated[
        str, schedule_option("--every", metavar="TIME", help="Time between two rounds, such as 24h, 6h or 7d.")
    ] = EVERY,
    at: Annotated[
        str,
        schedule_option("--at", metavar="HH:MM", help="Time of day of a round, UTC; counted from 1970-01-01 on."),
    ] = AT,
    once: Annotated[
        bool,
        schedule_option("--once", help="Run one round now and end, for cron: 0, 4 after a NO-GO, or the error's code."),
    ] = False,
    source: SnapshotSource = None,
    market: MarketOption = None,
    symbols: Symbols = None,
    days: Days = None,
    interval: Interval = None,
    folder: Folder = None,
    timezone: TimeZone = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    inputs: Annotated[
        Path | None,
        data_option(
            "--inputs", metavar="DIR", help="Folder of the files with your own columns, which --features names."
        ),
    ] = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    max_wait: MaxWait = MAX_WAIT_S,
    connections: Connections = CONNECTIONS,
    use_env_proxy: EnvProxy = False,
    trials: Trials = None,
    features: FeaturesOption = None,
    config: Config = None,
    workers: Workers = None,
    timeout_s: SearchTimeout = None,
    final: FinalOption = FittedRows.INNER,
    promote: Promote = True,
    ops: OpsOption = None,
    sign: Sign = None,
    keep_versions: Annotated[
        int | None,
        upkeep_option(
            "--keep-versions", min=1, help="Remove older versions than so many, but no live one or its predecessor."
        ),
    ] = None,
    keep_ledger_days: Annotated[
        int | None,
        upkeep_option("--keep-ledger-days", metavar="DAYS", min=1, help="Remove older days of the ledger."),
    ] = None,
    keep_study_days: Annotated[
        int | None,
        upkeep_option("--keep-study-days", metavar="DAYS", min=1, help="Remove older journals of searches."),
    ] = None,
    keep_backtest_days: Annotated[
        int | None,
        upkeep_option("--keep-backtest-days", metavar="DAYS", min=1, help="Remove older backtests."),
    ] = None,
    keep_snapshot_days: Annotated[
        int | None,
        upkeep_option(
            "--keep-snapshot-days", metavar="DAYS", min=1, help="Remove older snapshots that no version needs."
        ),
    ] = None,
) -> Outcome | None:
    """Train at fixed times until a signal: snapshot, training, gates, promotion or hold; each round is explained."""
    from mltrain.api.cycle import cycle

    register_ops(ops)
    name = choose_source(source, folder=folder, sim_seed=sim_seed, sim_signal=sim_signal)
    base_url, archive_url = given_addresses(name, base_url, archive_url)
    rounds = cycle(
        every=every,
        at=at,
        once=once,
        source=name,
        market=None if market is None else market.value,
        symbols=symbols,
        days=days,
        interval=interval,
        folder=folder,
        timezone=timezone,
        sim_seed=sim_seed,
        sim_signal=None if sim_signal is None else sim_signal.value,
        inputs=inputs,
        base_url=base_url,
        archive_url=archive_url,
        max_wait=max_wait,
        connections=connections,
        use_env_proxy=use_env_proxy,
        trials=trials,
        features=features,
        config=config,
        workers=workers,
        timeout_s=timeout_s,
        final=final.value,
        promote=promote,
        ops=ops,
        sign=sign,
        keep_versions=keep_versions,
        keep_ledger_days=keep_ledger_days,
        keep_study_days=keep_study_days,
        keep_backtest_days=keep_backtest_days,
        keep_snapshot_days=keep_snapshot_days,
        notify=session.notify,
        notify_secret_file=session.notify_secret_file,
        data_dir=session.data_dir,
        slot=session.slot,
        progress=session.progress,
    )
    if once:
        # After the gap, if there was one, comes the round.
        *_, made = rounds
        return Outcome(made, lambda: _view(made), exit_code=made.exit_code)
    for made in rounds:
        lines = [json.dumps(made.to_json(), allow_nan=False)] if session.as_json else list(_view(made))
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    return None


def _view(made: Round) -> View:
    """Show what a round gave, and why."""
    yield f"{made.begun or made.due}  {made.outcome:<9} {made.sentence}"
    yield from (f"    {note}" for note in made.notes)
