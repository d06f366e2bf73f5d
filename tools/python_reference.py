"""The page of the public Python names, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

import mltrain
from tools.json_schemas import names_of
from tools.pages import all_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD: Final = """# Python

Everything that the command line does, with the same names and the same results. `import mltrain as mt` imports nothing
heavy: each name below is loaded on first use.

```python
import mltrain as mt

print(mt.__version__)
```

A function is named after its command. It returns a frozen result, whose fields are those of the command's `--json`
document: `result.to_json()` is that document ([all documents](../json.md)). A NO-GO, an unsound snapshot and refused
rows are results; anything else that a command reports as an error is an exception, a subclass of `mt.MltrainError`
([exit codes](exit-codes.md)).

- `data_dir` is the data folder, `data` in the working directory by default, and `slot` the line of live versions.
- `progress` receives stages and warnings. Without it, nothing is shown but Python warnings of the class
  `mt.MltrainWarning`.
- `now_ms` replaces the machine's clock: milliseconds since 1970, UTC.
- Where a snapshot or a version is named (`SnapshotRef`, `VersionRef`), the object itself, its name or its path may be
  passed. `PathText` is a path as text or as `pathlib.Path`.
- Frames may come from Polars, pandas, pyarrow, or anything else with the Arrow stream interface; Polars frames come
  back, and `to_pandas()` is one call away.
"""
# The commands of functions whose name is not the command's.
_MODES: Final = {
    "card_diff_page": "card diff --html",
    "models_page": "models --html",
    "predict_file": "predict --output",
    "snapshot_plan": "snapshot --dry-run",
    "snapshot_rebuild": "snapshot --rebuild",
    "train_plan": "train --dry-run",
    "watch": "predict --watch",
    "backtest": "backtest run",
}
_ALIASES: Final = {
    "SnapshotRef": "str | os.PathLike[str] | Snapshot",
    "VersionRef": "str | os.PathLike[str] | Model | TrainResult",
}
_MAX_LETTERS: Final = 100
_SECTION: Final = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Warns):$", re.MULTILINE)
_ITEM: Final = re.compile(r"^    (?P<name>[*\w.\"]+): ", re.MULTILINE)


def python_page() -> str:
    """Return the page: the functions with their commands, then every name with its docstring."""
    commands = {name: command for name in sorted(mltrain.__all__) if (command := command_of(name))}
    rows = [f"| [`mt.{name}`](#{name}) | `mltrain {command}` |" for name, command in commands.items()]
    parts = ["\n".join([_HEAD, "| function | command |\n|---|---|", *rows, ""])]
    for title, names in _groups(set(commands)):
        parts.append(f"## {title}\n")
        parts += [_describe(name) for name in names]
    return "\n".join(parts)


def command_of(name: str) -> str | None:
    """Return the command that a public function is named after; None for other names.

    >>> command_of("card_validate"), command_of("list_models"), command_of("load")
    ('card validate', 'models', None)
    """
    known = {" ".join(words) for words, _ in all_commands()}
    words = _MODES.get(name) or name.removeprefix("list_").replace("_", " ")
    group = words.removesuffix("s")
    if name.startswith("list_") and f"{group} list" in known:
        words = f"{group} list"
    function = getattr(mltrain, name)
    is_function = inspect.isfunction(function) and function.__module__.startswith("mltrain.api.")
    return words if is_function and (name in _MODES or words in known) else None


def _groups(commands: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the headings of the page with their names."""
    others = set(mltrain.__all__) - commands - {"__version__"}
    classes = {name for name in others if inspect.isclass(getattr(mltrain, name))}
    errors = {name for name in classes if issubclass(getattr(mltrain, name), Exception)}
    yield "Commands as functions", sorted(commands)
    yield "Other functions and modules", sorted(others - classes)
    yield "Classes", sorted(classes - errors)
    yield "Errors and warnings", sorted(errors)


def _describe(name: str) -> str:
    """Return the section of a name: its signature and its docstring; of a class also its public methods."""
    found: Any = getattr(mltrain, name)
    text = f"### {name}\n\n"
    if inspect.ismodule(found):
        return text + _markdown(found) + "\n"
    if inspect.isfunction(found):
        return text + _signature(f"mt.{name}", found) + _markdown(found) + _result(found)
    if not inspect.isclass(found):
        # An alias of types; __doc__ would be that of `typing`.
        return text + f"A type for annotations, what a caller may pass in its place: `{_ALIASES[name]}`.\n\n"
    text += _markdown(found) + "\n"
    if issubclass(found, Exception):
        return text
    for member, value in inspect.getmembers_static(found):
        if member.startswith("_") or not inspect.getdoc(value):
            continue
        if isinstance(value, property):
            text += f"- `{member}`: {_first_line(value)}\n"
        elif inspect.isfunction(value):
            text += f"\n#### {name}.{member}\n\n" + _signature(member, value) + _markdown(value) + "\n"
    return text + "\n"


def _signature(name: str, function: Any) -> str:  # noqa: ANN401 (any function)
    """Return a function's signature as a block of code, with one parameter per line if it is long."""
    signature = inspect.signature(function)
    words: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(_parameter(parameter))
    returns = signature.return_annotation
    end = "" if returns is inspect.Signature.empty else f" -> {_type_name(returns)}"
    line = f"{name}({', '.join(words)}){end}"
    if len(line) > _MAX_LETTERS:
        line = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){end}"
    return f"```text\n{line}\n```\n\n"


def _parameter(parameter: inspect.Parameter) -> str:
    """Return a parameter as it stands in the source, a function as its default by its name."""
    text = parameter.name
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {_type_name(parameter.annotation)}"
    default = parameter.default
    if default is not inspect.Parameter.empty:
        shown = f"{default.__module__}.{default.__name__}" if callable(default) else repr(default)
        text += f" = {shown}"
    return text


def _type_name(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _result(function: Any) -> str:  # noqa: ANN401 (any function)
    """Return a line about the result of a function: its document."""
    found = names_of(function.__module__).get(_type_name(inspect.signature(function).return_annotation))
    if schema := getattr(found, "SCHEMA", None):
        heading = schema.replace("/", "")
        return f"Its fields are those of the document [{schema}](../json.md#{heading}).\n\n"
    return ""


def _markdown(found: Any) -> str:  # noqa: ANN401 (anything with a docstring)
    """Return a docstring in Google's style as Markdown: the items of its sections become lists."""
    text = re.sub(r"(?m)^>>>(?:.|\n)*?(?:\n\n|\Z)", "", inspect.getdoc(found) or "")
    parts = _SECTION.split(text)
    lines = [parts[0].strip(), ""]
    for head, body in zip(parts[1::2], parts[2::2], strict=True):
        lines += [f"**{head}**", ""]
        section, after = _cut_section(body)
        items = list(_ITEM.finditer(section))
        ends = [item.start() for item in items[1:]] + [len(section)]
        if items and head not in {"Returns", "Yields"}:
            for item, end in zip(items, ends, strict=True):
                lines.append(f"- `{item['name']}`: {' '.join(section[item.end() : end].split())}")
        else:
            lines.append(textwrap.dedent(section).strip())
        lines += ["", after.strip(), ""] if after.strip() else [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n\n"


def _cut_section(body: str) -> tuple[str, str]:
    """Return the indented lines of a section, and the text after them."""
    lines = body.strip("\n").split("\n")
    end = next((ix for ix, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def _first_line(value: Any) -> str:  # noqa: ANN401 (a property)
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
