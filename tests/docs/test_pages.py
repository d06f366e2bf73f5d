"""The pages: no dead link, no unknown or missing command or option, and every block of code runs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from tools.follow import follow, untrue_lines
from tools.pages import (
    ROOT,
    all_commands,
    all_pages,
    blocks_of,
    calls_in,
    dead_links,
    options_of,
    page_mark,
    problem_of,
    prose_of,
    root_command,
    spans_of,
)
from tools.reference import outdated

from support.program import NEUTRAL, warm_shell

PAGES = all_pages()
REFERENCE = ROOT / "docs" / "reference"
# Pages whose blocks other tests run, each in its own way.
ELSEWHERE = {
    "README.md": "tests/docs/test_docs.py",
    "docs/snapshots.md": "tests/docs/test_docs.py",
    "docs/serving.md": "tests/docs/test_docs.py",
    "docs/notebook.md": "tests/docs/test_notebook.py",
    "docs/own-ops.md": "tests/cli/test_own_ops_command.py",
    "docs/model-format.md": "tests/artifact/test_model_format.py",
}
# What the blocks of a page begin with, by its `page` mark. `real candles` is for tools/follow.py and its own test.
FOLDERS = {"trained", "empty", "real candles"}
GENERATED = "docs/json.md"
# Options of podman, of the chaos run and of the benchmarks.
OTHER_OPTIONS = {"--cpus", "--figure", "--quick", "--results", "--write"}


def name_of(page):
    return str(page.relative_to(ROOT))


def every(pages):
    return pytest.mark.parametrize("page", pages, ids=name_of)


@every(PAGES)
def test_no_link_is_dead(page):
    """Every link into the repository leads to an existing file and heading."""
    assert dead_links(page) == []


@every(PAGES)
def test_every_call_in_a_block_parses(page):
    """Each call of mltrain in a block has valid commands, options and values."""
    calls = [(b.where, call) for b in blocks_of(page) if b.language in {"sh", "", "yaml"} for call in calls_in(b.body)]

    problems = [(where, problem) for where, call in calls if (problem := problem_of(call))]
    assert problems == []


@every(PAGES)
def test_every_call_in_the_prose_is_one(page):
    """Commands and options named in the prose exist."""
    spans = [span for span in spans_of(page) if span.startswith("mltrain ") and not span.startswith("mltrain {")]
    problems = [problem for span in spans if (problem := problem_of(shlex.split(span)[1:], loosely=True))]
    known = {option for _, command in all_commands() for option in options_of(command)} | options_of(root_command())
    named = {span.partition(" ")[0].partition("=")[0] for span in spans_of(page) if re.match(r"--[a-z]", span)}

    assert problems == []
    assert named - known - OTHER_OPTIONS == set()


def test_every_command_is_in_a_page_written_by_hand():
    """Each command, also of a group, is named in a page other than the generated reference."""
    written = [page for page in PAGES if page.parent != REFERENCE and name_of(page) != GENERATED]
    text = "\n".join(block.body for page in written for block in blocks_of(page))
    spans = " ".join(span for page in written for span in spans_of(page))

    missing = [" ".join(w) for w, _ in all_commands() if f"{' '.join(w)}" not in text and f"{' '.join(w)}" not in spans]
    assert missing == []


def test_the_reference_is_up_to_date():
    """The generated reference equals the output of its script."""
    assert outdated() == [], "run `python -m tools.reference`"


def test_every_option_is_in_the_reference():
    """The options are looked up in the app, not in the script that makes the page."""
    text = (REFERENCE / "commands.md").read_text("utf-8")
    sections = dict(re.findall(r"^## mltrain (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    leaves = [command for _, command in all_commands() if not hasattr(command, "commands")]
    common = set.intersection(*map(options_of, leaves))
    missing = [
        (words, option)
        for words, command in all_commands()
        for option in options_of(command) - common
        if option not in sections[" ".join(words)]
    ]

    assert len(sections) == len(list(all_commands()))
    assert missing == []
    assert [option for option in common if option not in text.partition("## ")[0]] == []


def test_every_page_is_listed():
    """The list of pages leads to all of them."""
    docs = ROOT / "docs"
    lists = [docs / "README.md", docs / "adr" / "README.md"]
    listed = {
        (page.parent / target).resolve()
        for page in lists
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
    }

    assert [name_of(p) for p in PAGES if p.is_relative_to(docs) and p not in listed | {lists[0]}] == []


@every(PAGES)
def test_every_block_is_run_or_says_why_not(page):
    """A page with code says what its blocks begin with, or another test runs it."""
    runs = [block for block in blocks_of(page) if block.runs]

    assert not runs or name_of(page) in ELSEWHERE or page.parent == REFERENCE or page_mark(page) in FOLDERS


def pages_of(mark):
    return [page for page in PAGES if page_mark(page) == mark and any(block.runs for block in blocks_of(page))]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Return the variables and descriptors of a reader's shell: `mltrain`, and no MLTRAIN_ setting."""
    variables, inherited = warm_shell(tmp_path_factory.mktemp("bin"))
    return {**NEUTRAL, **variables, "COLUMNS": "120", "REPOSITORY": str(ROOT)}, inherited


def walk(page, folder, shell):
    """Run a page's blocks and return the problems."""
    variables, inherited = shell
    blocks = [block for block in blocks_of(page) if block.runs]
    env = {**variables, "HOME": str(folder)}
    ran = follow(blocks, folder, env=env, timeout_s=180, quick=True, inherited=inherited)
    failed = [(r.block.where, r.output) for r in ran if not r.passed]
    return failed, [r.block.where for r in ran] == [b.where for b in blocks], untrue_lines(page, ran)


@every(pages_of("trained"))
def test_a_page_on_a_trained_folder_works(page, data_dir, shell):
    """Its blocks end as the page says, in order, in a folder with a snapshot and a promoted version."""
    failed, whole, untrue = walk(page, data_dir.parent, shell)

    assert failed == []
    assert whole
    assert untrue == []


@every(pages_of("empty"))
def test_a_page_from_nothing_works(page, tmp_path, shell):
    """Its blocks end as the page says, in order, in an empty folder."""
    failed, whole, untrue = walk(page, tmp_path, shell)

    assert failed == []
    assert whole
    assert untrue == []


WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=name_of)
def test_a_workflow_is_sound(file):
    """It is YAML, its calls of mltrain parse, its actions are pinned by commit, and it may not write by default."""
    document = yaml.safe_load(file.read_text("utf-8"))
    jobs = document.get("jobs", {}).values()
    steps = [step for job in jobs for step in job["steps"]]
    problems = [p for step in steps for call in calls_in(step.get("run", "")) if (p := problem_of(call))]

    assert problems == []
    assert [s["uses"] for s in steps if "uses" in s and not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", s["uses"])] == []
    assert not jobs or document["permissions"] == {"contents": "read"}


DEPLOY = sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file())


@pytest.mark.parametrize("file", DEPLOY, ids=name_of)
def test_calls_in_deployment_files_parse(file):
    """Calls of mltrain in the unit files, the crontab, the job and the Containerfile are valid."""
    script = re.sub(r"^ExecStart=|^(?:[\d*/,-]+ ){5}(?:\w+ )?", "", file.read_text("utf-8"), flags=re.MULTILINE)

    problems = [problem for call in calls_in(script) if (problem := problem_of(call))]
    assert problems == []


def test_no_page_installs_another_projects_package():
    """The name belongs to another project on the package index."""
    for page in PAGES:
        text = " ".join([prose_of(page), *(block.body for block in blocks_of(page))])
        assert not re.search(r"(?:pip|pipx|uv tool|uv pip) install (?:-\S+ )*['\"]?mltrain(?![/\w-])", text), page
    assert shutil.which("mltrain", path=str(Path(sys.executable).parent))
