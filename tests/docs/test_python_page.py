"""The page of the public Python names: complete, and each docstring describes what the signature has."""

from __future__ import annotations

import inspect
import re

import pytest
from tools.pages import ROOT, all_commands
from tools.python_reference import command_of

import mltrain as mt

PAGE = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
NAMES = sorted(set(mt.__all__) - {"__version__"})


def public_functions():
    """Yield the public functions, and the public methods of the public classes, with their names."""
    for name in NAMES:
        found = getattr(mt, name)
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found) and not issubclass(found, Exception):
            for member, value in inspect.getmembers_static(found, inspect.isfunction):
                if not member.startswith("_"):
                    yield f"{name}.{member}", value


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_section(name):
    """The page explains each public name."""
    section = re.search(rf"^### {name}\n\n(.+?)(?=^### |^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)

    assert section is not None
    assert len(section[1].split()) > 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name):
    """Each parameter is described, or the docstring says where its like is; everything has a type."""
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    text = inspect.getdoc(function) or ""
    described = set(re.findall(r"^    (\w+): |`(\w+)`", text, re.MULTILINE))
    described = {name for pair in described for name in pair}
    elsewhere = re.search(r"(?:arguments|options).{0,40}(?:are|as in|those of)", text, re.IGNORECASE | re.DOTALL)

    assert text
    assert all(p.annotation is not p.empty for p in parameters)
    assert signature.return_annotation is not inspect.Signature.empty
    # One line of prose says enough about one parameter.
    if len(parameters) > 1 and elsewhere is None:
        assert [p.name for p in parameters if p.name not in described] == []


def test_every_command_is_in_the_table():
    """Each command, also of a group, has its function."""
    named = {command.partition(" --")[0] for name in NAMES if (command := command_of(name))}
    leaves = {" ".join(w) for w, c in all_commands() if not hasattr(c, "commands") or c.invoke_without_command}

    assert leaves - named == set()
