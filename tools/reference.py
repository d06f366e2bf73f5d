"""Make the pages of docs/reference/ from the program itself, or tell which of them are out of date.

python -m tools.reference            write them
python -m tools.reference --check    exit 1 where one differs; nothing is written
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

from tools.pages import ROOT, all_commands, options_of, root_command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

FOLDER: Final = ROOT / "docs" / "reference"
_NOTE: Final = "<!-- Made by `python -m tools.reference`; do not edit. -->\n"
_COMMANDS: Final = """# Commands

Results go to stdout; progress, warnings and errors to stderr. [Exit codes](exit-codes.md) are the same everywhere, and
so are these options and `--help`, which go after the command; `demo` has a data folder of its own, `mltrain-demo`:
"""
_EXIT_CODES: Final = """# Exit codes

One code for one kind of trouble, on every command. The exceptions are those that the library raises; all are in
`mltrain.errors`.
"""
_EXIT_CODES_END: Final = """
`train` and `bench` end with 4 where a gate fails: that is a verdict, and the version or the figures are there.
`evaluate --min-skill` ends with 4 where the version is worse. `card validate`, `verify` and `models history` end with 3
where the check fails, `predict` where its rows were refused (`--fail-on-refused`). With `--json`, stdout holds exactly
one document for 0, 4, 5, for a failed check and for refused rows; for any other error it is empty.
"""
_CONFIGURATION: Final = """# Configuration

Every default stands in `configs/train.yml`, which travels inside the package. A file of your own, named with
`mltrain train --config FILE`, may hold any part of it; options of the command line override both. An unknown key, a
wrong type or a number out of its range is refused by name (exit 3).
"""
_OPS: Final = """# Ops

What a feature can be made of. A registry (`configs/features.yml`, or a file named with `--features`) has `version`,
`interval`, `label` and a list of features, each a `name`, an `op` and its `params`; one that reads another symbol names
it as `leader`. `mltrain features info` tells the lookback of each feature of a registry.

```yaml
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_5, op: log_return, params: {bars: 5}}
  - {name: lead_1, op: leader_lead, params: {bars: 1}, leader: BTCUSDT}
```
"""
_CARD: Final = """\
`mltrain card schema` prints the JSON Schema (draft 2020-12) that this table is made from; `mltrain card validate`
checks it, and the sense besides: pos + neg = rows, p50 ≤ p95 ≤ p99, ranges in order, names unique, and the hashes of
the files beside the card. Fields in **bold** are required where the field around them is there: a card of those alone,
written by another tool, is valid. Unknown fields are a warning. [Reading a card](../how-to/reading-a-card.md) tells
what to look at.
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _code(text: str) -> str:
    return f"`{text}`"


def _record(parameter: Any, command: Any) -> tuple[str, str]:  # noqa: ANN401 (Typer's own classes)
    """Return how a parameter is written, and what its help says."""
    record = parameter.get_help_record(command.context_class(command, info_name="x"))
    words, text = (None, parameter.help or "") if record is None else record
    if parameter.param_type_name == "argument":
        words = parameter.metavar if parameter.required else f"[{parameter.metavar}]"
    return str(words or ", ".join(parameter.opts)), re.sub(r"\s{2,}", " ", text)


def commands_page() -> str:
    """Return the page of all commands and options."""
    common = _common_options()
    some = next(command for words, command in all_commands() if words == ("train",))
    parts = [
        _COMMANDS,
        _table(("common option", "meaning"), _parameters(some, only=common)),
        "Of `mltrain` itself:\n",
        _table(("option", "meaning"), _parameters(root_command())),
        _table(("command", "what it does"), list(_overview())),
    ]
    for words, command in all_commands():
        parts += [f"## mltrain {' '.join(words)}\n", f"{_sentence(command.help)}\n"]
        if rows := _parameters(command, without=common):
            parts.append(_table(("argument or option", "meaning"), rows))
        if command.epilog:
            parts.append(f"Example: `{command.epilog.removeprefix('Example: ')}`\n")
        if hasattr(command, "commands"):
            names = [f"[`{name}`](#mltrain-{'-'.join([*words, name])})" for name in command.commands]
            parts.append(f"Commands of this group: {', '.join(names)}.\n")
    return _NOTE + "\n" + "\n".join(parts)


def _common_options() -> set[str]:
    """Return the options that every command has."""
    return set.intersection(*(options_of(c) for _, c in all_commands() if not hasattr(c, "commands")))


def _parameters(
    command: Any,  # noqa: ANN401 (Typer's own class)
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Return how the parameters of a command are written, and what they mean."""
    command.describe(command.context_class(command, info_name="x"))
    rows = []
    for parameter in command.params:
        hidden = getattr(parameter, "hidden", False) or set(parameter.opts) & set(without)
        if not hidden and (only is None or set(parameter.opts) & set(only)):
            names, text = _record(parameter, command)
            rows.append((_code(names), text))
    return rows


def _overview() -> Iterator[tuple[str, str]]:
    for words, command in all_commands():
        if len(words) == 1:
            yield f"[`mltrain {words[0]}`](#mltrain-{words[0]})", _sentence(command.help)


def _sentence(text: str | None) -> str:
    return re.sub(r"\s+", " ", (text or "").replace("\f", " ")).strip()


def exit_codes_page() -> str:
    """Return the page of the exit codes."""
    from mltrain import errors

    classes = [
        c
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, errors.MltrainError) and c is not errors.MltrainError
    ]
    rows = [("0", "", "done"), ("1", "", "a bug of mltrain: run again with `--debug` and report it")]
    for code in sorted({c.exit_code for c in classes}):
        names = sorted((c for c in classes if c.exit_code == code), key=lambda c: len(c.__mro__))
        told = (inspect.getdoc(names[0]) or "").splitlines()[0].rstrip(".")
        rows.append((str(code), ", ".join(_code(c.__name__) for c in names), told))
    rows += [("129", "", "hung up (SIGHUP)"), ("130", "", "interrupted (Ctrl-C)"), ("143", "", "terminated (SIGTERM)")]
    return f"{_NOTE}\n{_EXIT_CODES}\n" + _table(("code", "exception", "meaning"), rows) + _EXIT_CODES_END


def configuration_page() -> str:
    """Return the page of train.yml's keys and of the variables of the environment."""
    from mltrain.store.signature import REQUIRE_VARIABLE

    text = (ROOT / "configs" / "train.yml").read_text("utf-8")
    variables: dict[str, str] = {}
    for _, command in all_commands():
        for parameter in command.params:
            for name in [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []:
                variables[name] = f"as `{parameter.opts[0]}`"
    variables[REQUIRE_VARIABLE] = "as `--require-signature`; holds for every command and for `mltrain.load`, too"
    rows = [(_code(name), meaning) for name, meaning in sorted(variables.items())]
    return (
        f"{_NOTE}\n{_CONFIGURATION}\n"
        f"```yaml\n{text}```\n\n"
        "The features are declared in a file of their own: [ops](ops.md) tells what may stand in it.\n\n"
        "## Variables of the environment\n\n"
        + _table(("variable", "meaning"), rows)
        + "\n`NO_COLOR` and pipes are honoured. The usual proxy variables count only with `--use-env-proxy`.\n"
    )


def ops_page() -> str:
    """Return the page of the ops, from their own docstrings."""
    from mltrain.features.ops.catalogue import OPS

    parts = [
        f"{_NOTE}\n{_OPS}",
        inspect.cleandoc(_notation()) + "\n",
    ]
    for name in sorted(OPS):
        function = OPS[name]
        params = [_parameter_text(p) for p in inspect.signature(function, eval_str=True).parameters.values()]
        parts += [f"## {name}\n", f"Parameters: {'; '.join(params)}.\n" if params else "No parameters.\n"]
        parts.append(textwrap.dedent(inspect.getdoc(function) or "") + "\n")
    return "\n".join(parts)


def _notation() -> str:
    from mltrain.features.ops import catalogue as ops

    return (ops.__doc__ or "").split("\n", 1)[1]


def _parameter_text(parameter: inspect.Parameter) -> str:
    from mltrain.features.op import Limits

    note = parameter.annotation
    limits = next((m for m in getattr(note, "__metadata__", ()) if isinstance(m, Limits)), None)
    if limits is not None:
        told = f"{limits.minimum} to {limits.maximum:,}"
    elif choices := getattr(note, "__args__", ()):
        told = " or ".join(map(str, choices))
    else:
        told = getattr(note, "__name__", str(note))
    default = "" if parameter.default is inspect.Parameter.empty else f", default {parameter.default}"
    return f"`{parameter.name}` ({told}{default})"


def card_page() -> str:
    """Return the page of the card's fields, from its schema."""
    from mltrain.card.validation import schema

    document = schema()
    rows = [
        (f"**{path}**" if needed else path, kind, told) for path, kind, told, needed in _fields(document, document, "")
    ]
    head = f"{_NOTE}\n# Model Card v2: every field\n\n{_sentence(document['description'])}\n\n{_CARD}\n"
    return head + _table(("field", "type", "meaning"), rows)


def _fields(node: dict[str, Any], document: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, bool]]:
    for name, raw in node.get("properties", {}).items():
        field = {**_resolved(raw, document), **{k: v for k, v in raw.items() if k != "$ref"}}
        path = f"{prefix}{name}"
        yield _code(path), _type_text(field), field.get("description", ""), name in node.get("required", ())
        items = _resolved(field.get("items", {}), document)
        yield from _fields(field, document, f"{path}.")
        yield from _fields(items, document, f"{path}[].")


def _resolved(node: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = document["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _type_text(field: dict[str, Any]) -> str:
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    kind = field.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "minimum" in field and "maximum" in field:
        text += f", {field['minimum']} to {field['maximum']}"
    elif "minimum" in field:
        text += f", {field['minimum']} or more"
    return text


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands_page,
    "exit-codes.md": exit_codes_page,
    "configuration.md": configuration_page,
    "ops.md": ops_page,
    "card.md": card_page,
}


def outdated() -> list[str]:
    """Return the names of the pages that are not what the program says now."""
    there = {name: FOLDER / name for name in PAGES}
    return [n for n, make in PAGES.items() if not there[n].is_file() or there[n].read_text("utf-8") != make()]


def main(words: Sequence[str]) -> int:
    """Write the pages, or check them; return the exit code."""
    if list(words) == ["--check"]:
        old = outdated()
        for name in old:
            print(f"docs/reference/{name} is out of date: run `python -m tools.reference`")
        return 1 if old else 0
    if words:
        print(__doc__)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), "utf-8")
    return 0


if __name__ == "__main__":
    root_command()
    sys.exit(main(sys.argv[1:]))
