"""The project's prose is plain, modern English: words and phrases of its former style do not come back."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Archaic or vague; each has a plainer word: "reported" for told, "gap" for hole, "separate" for of its own.
BANNED = (
    "afresh",
    "albeit",
    "and else",
    "anew",
    "are asked",
    "as a rule",
    "at the most",
    "at will",
    "beside",
    "by what",
    "crews?",
    "for ever",
    "for good",
    "held against",
    "hence",
    "holes",
    "is asked",
    "lest",
    "likewise",
    "manners?",
    "meanwhile",
    "mend(?:s|ed|ing)?",
    "naught|nought",
    "nothing of",
    "of (?:its|their|his|her|one's) own",
    "of (?:ours|yours|theirs|mine)",
    "on (?:its|their) way",
    "regrow(?:s|n|ing)?",
    "save for",
    "tells|told|telling",
    "the more so",
    "there(?:by|in|of|to|upon)",
    "twin",
    "upon",
    "where(?:by|in|of|to|upon)",
    "whilst",
    "who(?:m|so)?ever",
)
# A phrase may continue on the next line, behind a comment sign or a quotation sign.
PATTERN = re.compile(r"\b(?:" + "|".join(BANNED).replace(" ", r"\s+(?:(?:#:?|>)\s+)?") + r")\b", re.IGNORECASE)
CODE_SPAN = re.compile(r"`[^`\n]+`")
# A string of one word, also with its quotation marks, is a key, a code or a name: formats keep theirs.
KEY = re.compile(r"\w*(['\"])\"?[\w.-]*\"?\1")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Old files, and this list.
EXEMPT = ("tests/data/", "tests/test_language.py")
PROSE_TOKENS = {"COMMENT", "STRING", "FSTRING_MIDDLE"}

FOLDERS = {
    "src": ("src/mltrain/**/*.py", "src/mltrain/**/*.j2", "src/mltrain/**/*.json"),
    "docs": ("*.md", "docs/**/*.md"),
    "tools": ("tools/*.py", "benchmarks/*.py"),
    "tests": ("tests/**/*.py", "tests/**/*.js", "tests/**/*.yml"),
    "configs": ("configs/*.yml", ".github/**/*.yml", ".github/**/*.md", "deploy/*", ".ci/run"),
}


def blank(match: re.Match[str]) -> str:
    """Return as many line ends as the match has, so that line numbers stay."""
    return "\n" * match[0].count("\n")


def python_prose(source: str) -> str:
    """Return comments and strings of a module, each on its line."""
    lines: list[list[str]] = [[] for _ in range(source.count("\n") + 2)]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] in PROSE_TOKENS and not KEY.fullmatch(token.string):
            for i, line in enumerate(token.string.split("\n")):
                lines[token.start[0] - 1 + i].append(line)
    return "\n".join(" ".join(line) for line in lines)


def findings(name: str, text: str) -> list[str]:
    """Return the banned phrases of a file as `file:line: phrase`."""
    if name.endswith(".py"):
        text = python_prose(text)
    elif name.endswith(".md"):
        text = FENCE.sub(blank, text)
    text = CODE_SPAN.sub("", text)
    return [f"{name}:{text.count(chr(10), 0, m.start()) + 1}: {' '.join(m[0].split())}" for m in PATTERN.finditer(text)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_prose_has_no_banned_word(folder):
    """Docstrings, comments, messages and pages do without the banned words."""
    paths = {path for pattern in FOLDERS[folder] for path in ROOT.glob(pattern) if path.is_file()}
    names = sorted(name for name in (str(path.relative_to(ROOT)) for path in paths) if not name.startswith(EXEMPT))

    found = [hit for name in names for hit in findings(name, (ROOT / name).read_text("utf-8"))]
    assert names
    assert found == [], "\n" + "\n".join(found)


def test_banned_words_are_found():
    """Phrases are found in docstrings, messages and comments, also across lines, with their line numbers."""
    source = '"""Whoever\ncalls."""\n\nx = f"{y} is told"\n# a lock of its\n# own\n'
    assert findings("a.py", source) == ["a.py:1: Whoever", "a.py:4: told", "a.py:5: of its # own"]
    assert findings("a.md", "One\n```\ntold\n```\nas a\nrule\n") == ["a.md:5: as a rule"]


def test_code_is_not_prose():
    """Names, keys and code spans may be anything: they belong to formats and libraries."""
    assert findings("a.py", 'told = study["told"]  # calls `tell` and `told`\n') == []
    assert findings("a.md", "The refusal `hole` and the key `told`.\n") == []
