"""Read the Markdown pages: links, code blocks, and calls of mltrain in them.

A comment directly before a block has marks, separated by commas:

    <!-- needs the internet -->     the tests do not run the block; the same for docker, systemd or a package
    <!-- exit 4 -->                 the block ends with that exit code
    <!-- prints -->                 a text block: the previous block printed these lines; … matches anything
    <!-- instead: --trials 2 -->    the tests append these options to each line, to save time

`<!-- page: trained -->` names the folder in which the blocks of a page start; see FOLDERS in tests/docs/test_pages.py.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]

_FENCE: Final = re.compile(
    r"^(?:<!-- (?P<marks>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_PAGE_MARK: Final = re.compile(r"<!-- page: (.*?) -->")
_LINK: Final = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_HEADING: Final = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_BREAKS: Final = frozenset({"|", "||", "&", "&&", ";", "(", ")", ";;", "{", "}", "then", "do", "else", "if", "!"})


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Path of the page.
        line: Line number of the first line of code.
        language: The language given after the fence.
        body: The code.
        marks: The marks of the comment before it.
    """

    page: Path
    line: int
    language: str
    body: str
    marks: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the tests run this block."""
        return self.language in {"sh", "python"} and not any(mark.startswith("needs ") for mark in self.marks)

    @property
    def exit_code(self) -> int:
        """The expected exit code."""
        return next((int(mark.removeprefix("exit ")) for mark in self.marks if mark.startswith("exit ")), 0)

    @property
    def more_words(self) -> str:
        """The options that the tests append to each line."""
        return next((mark.removeprefix("instead: ") for mark in self.marks if mark.startswith("instead: ")), "")

    @property
    def where(self) -> str:
        """Path and line, for messages."""
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


def all_pages() -> list[Path]:
    """Return every Markdown page of the repository, sorted."""
    folders = [ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / ".github").rglob("*.md")]
    return sorted(page for folder in folders for page in folder)


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        marks = tuple(mark.strip() for mark in (match["marks"] or "").split(", ") if mark.strip())
        line = text.count("\n", 0, match.start("body")) + 1
        blocks.append(Block(page, line, match["language"], match["body"], marks))
    return blocks


def page_mark(page: Path) -> str | None:
    """Return the `page:` mark of a page; None if it has none."""
    found = _PAGE_MARK.search(page.read_text("utf-8"))
    return None if found is None else found[1]


def prose_of(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, in GitHub's form."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose_of(page)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(anchor if anchor not in found else f"{anchor}-1")
    return found


def dead_links(page: Path) -> list[str]:
    """Return the links of a page to files or headings that do not exist in the repository."""
    dead = []
    for match in _LINK.finditer(prose_of(page)):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = page.parent / target if target else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors_of(there)):
            dead.append(match["target"])
    return dead


@lru_cache(maxsize=1)
def root_command() -> Any:  # noqa: ANN401 (a class of Typer)
    """Return the root command of mltrain."""
    import typer

    from mltrain.cli.app import load_commands

    return typer.main.get_command(load_commands())


def all_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the name parts and the command of every command and group, in the order of the help."""

    def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
        for name, child in getattr(command, "commands", {}).items():
            yield (*words, name), child
            yield from walk((*words, name), child)

    return walk((), root_command())


def options_of(command: Any) -> set[str]:  # noqa: ANN401
    """Return all option names of a command."""
    names = {o for p in command.params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)}
    return names | {"--help", "-h"}


def calls_in(script: str) -> list[list[str]]:
    """Return the arguments of every call of mltrain in a shell script, without redirections."""
    calls = []
    text = re.sub(r"\\\n", " ", script)
    text = re.sub(r"<<-?'?(\w+)'?.*?\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in _logical_lines(re.sub(r"\$\{\{.*?\}\}", "X", text)):
        for part in _split(_words(line)):
            words = part
            while words and (_ASSIGNMENT.match(words[0]) or words[0] in {"exec", "time", "env", "sudo", "nohup"}):
                words = words[1:]
            if words and Path(words[0].lstrip("$(")).name == "mltrain":
                calls.append(list(_without_redirections(words[1:])))
    return calls


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _logical_lines(text: str) -> Iterator[str]:
    """Yield the logical lines of a script: a quoted string may span several lines."""
    held = ""
    for line in text.splitlines():
        held += line
        try:
            _words(held)
        except ValueError:
            # A quotation is still open.
            held += "\n"
        else:
            yield held
            held = ""


def _split(words: Iterable[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in _BREAKS:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _without_redirections(words: Sequence[str]) -> Iterator[str]:
    skip = False
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        if skip or set(word) <= set("<>&"):
            skip = not skip
        elif not (word in {"1", "2"} and following.startswith(">")):
            yield word


def problem_of(words: Sequence[str], *, loosely: bool = False) -> str | None:
    """Return what is wrong with a call of mltrain; None if it parses.

    Args:
        words: The arguments after `mltrain`.
        loosely: Check only the names of commands and options: prose may omit values and arguments.
    """
    loosely = loosely or any("$" in word for word in words)
    command, rest = root_command(), list(words)
    path = "mltrain"
    while hasattr(command, "commands"):
        # A group may have a command that runs where none is named.
        rest = command.add_default(rest) if hasattr(command, "add_default") else rest
        if not rest or rest[0].startswith("-"):
            break
        if rest[0] not in command.commands:
            return None if loosely and not re.match(r"[a-z]", rest[0]) else f"{path} has no command {rest[0]!r}"
        path, command = f"{path} {rest[0]}", command.commands[rest[0]]
        del rest[0]
    for word in rest:
        if word.startswith("-") and word != "-" and word.partition("=")[0] not in options_of(command) | _ROOT_ALONE:
            return f"{path} has no option {word}"
    if loosely or {"--help", "-h", "--version"} & set(rest):
        return None
    try:
        command.make_context(path, rest)
    except Exception as err:  # noqa: BLE001 (a usage error; its class is in a private module of Typer)
        return f"{path}: {getattr(err, 'message', None) or err}"
    return None


_ROOT_ALONE: Final = frozenset({"--version"})


def spans_of(page: Path) -> list[str]:
    """Return the code spans of a page's prose."""
    return [re.sub(r"\s+", " ", span) for span in _SPAN.findall(prose_of(page))]
