"""Rules for the help of every command."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from mltrain.cli.app import PANELS, load_commands
from support.program import call


def commands(group, words=()):
    """Yield the words of every command and group, with the command."""
    for name, child in getattr(group, "commands", {}).items():
        yield (*words, name), child
        yield from commands(child, (*words, name))


ROOT = typer.main.get_command(load_commands())
ALL = dict(commands(ROOT))


def described(words):
    """Return the parameters of a command as its help shows them."""
    command = ALL[words]
    context = command.context_class(command, info_name=words[-1])
    command.describe(context)
    return command.get_params(context)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_parameter_is_described_in_one_style(words):
    """A sentence with range and default once, a type without brackets, and no type for a flag."""
    for parameter in described(words):
        assert re.fullmatch(r"[\w`.-].*\.", parameter.help, re.DOTALL), parameter.help
        assert parameter.help.count("Default: ") <= 1
        assert "<" not in (parameter.metavar or "")
        assert (parameter.min, parameter.max, parameter.show_default) == (None, None, False)
        if parameter.param_type_name == "option" and parameter.is_flag:
            assert parameter.metavar == ""


@pytest.mark.parametrize("words", [w for w, c in ALL.items() if not hasattr(c, "commands")], ids=" ".join)
def test_every_command_has_an_example_that_parses(words):
    """The example starts with the command, and its arguments are accepted."""
    program, *rest = shlex.split(ALL[words].epilog.removeprefix("Example: "))
    assert program == "mltrain"
    assert tuple(rest[: len(words)]) == words

    ALL[words].make_context(words[-1], rest[len(words) :])


def test_every_command_has_its_panel():
    """`mltrain --help` groups all commands by purpose."""
    out = call("--help").out

    assert {name for names in PANELS.values() for name in names} == set(ROOT.commands)
    assert [out.index(f"─ {panel} ─") for panel in PANELS] == sorted(out.index(f"─ {panel} ─") for panel in PANELS)
    assert "─ Commands ─" not in out


def test_a_number_out_of_its_range_is_a_usage_error():
    """Although the help no longer lets Typer check the range."""
    described(("sim",))
    done = call("sim", "--port", "70000")

    assert done.code == 2
    assert "65535" in done.err
