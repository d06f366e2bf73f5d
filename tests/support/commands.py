"""Every command, with the words that let it do its ordinary work on the data folder of the fixture `trained_dir`."""

from __future__ import annotations

import typer

from mltrain.cli.app import load_commands
from support.program import FEW_FEATURES, QUICK


def leaves(command, path=()):
    """Yield the words of every command, also inside groups."""
    children = getattr(command, "commands", {})
    own = not children or getattr(command, "invoke_without_command", False)
    if own and path:
        yield path
    for name, child in children.items():
        yield from leaves(child, (*path, name))


COMMANDS = sorted(leaves(typer.main.get_command(load_commands())))
# What a command needs besides its name to do its ordinary work on a folder with one promoted version.
ARGUMENTS = {
    # These need a stored backtest: they have tests in tests/cli/test_backtest_command.py.
    ("backtest", "diff"): None,
    ("backtest", "show"): None,
    ("backtest", "prune"): ["--keep", "1"],
    ("bench",): ["--samples", "20"],
    ("card", "diff"): ["best", "latest"],
    # Writes to the working directory: has a separate test.
    ("config", "init"): None,
    # Has a separate test: it takes a minute and another folder.
    ("demo",): None,
    # Write a file: compared with their functions, with a small registry.
    ("features", "export"): None,
    ("features", "init"): None,
    # Needs a frame: tested with the features.
    ("features", "check"): None,
    ("features", "audit"): ["--features", FEW_FEATURES],
    ("features", "show"): ["rsi_7", "--at", "2025-10-12T12:00:00Z", "--symbol", "ETHUSDT"],
    # Trains for a while: has tests in tests/cli.
    ("cycle",): None,
    ("halt",): ["--why", "a test"],
    ("halt", "drill"): ["--rounds", "2"],
    ("resume",): ["--why", "a test"],
    ("ledger", "prune"): ["--keep-days", "30"],
    ("promote",): ["best"],
    ("cache", "prune"): ["--all"],
    # These serve until they are stopped: they have separate tests.
    ("serve",): None,
    ("sim",): None,
    ("snapshots", "diff"): ["latest", "latest"],
    ("snapshots", "prune"): ["--keep", "1"],
    ("studies", "prune"): ["--older-than", "90"],
    ("models", "prune"): ["--keep", "1"],
    ("sentinel",): ["--once"],
    # Writes a file: has tests in tests/store.
    ("models", "pack"): None,
    # Needs an archive: has tests in tests/store.
    ("models", "unpack"): None,
    # With neither version nor --previous it is a usage error that lists the versions.
    ("rollback",): None,
    ("snapshot",): ["--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT,ETHUSDT", "--days", "6"],
    ("train",): ["--trials", "1", "--config", QUICK, "--features", FEW_FEATURES],
}
