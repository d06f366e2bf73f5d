"""The house rules that a machine can check: import direction, who may print, who may exit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mltrain"
LAYERS = (
    "_version",
    "errors",
    "names",
    "times",
    "progress",
    "files",
    "documents",
    "config",
    "manifest",
    "candles",
    "features",
    "learn",
    "guards",
    "models",
    "pipeline",
    "cli",
)
SPEAKERS = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write", "typer.echo"}
MODELS_LIGHT = ("models/store", "models/pointer", "models/pruning", "models/card")
LIGHT = ("names", "times", "files", "documents", "config", "manifest", *MODELS_LIGHT, "cli")
HEAVY = {
    "numpy",
    "polars",
    "pyarrow",
    "lightgbm",
    "sklearn",
    "scipy",
    "optuna",
    "jsonschema",
    "httpx",
    "matplotlib",
    "jinja2",
}
LEARNERS = {"lightgbm", "sklearn", "scipy", "optuna", "jsonschema", "httpx", "matplotlib", "jinja2"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _id(path):
    return str(path.relative_to(PACKAGE))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def without_typing_only(tree):
    """Return all nodes but those that only a type checker sees."""
    hidden = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    return [n for n in ast.walk(tree) if id(n) not in hidden]


def imported_names(nodes):
    """Yield every dotted name that a module imports, also inside functions."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write mltrain.x, so that the arrows can be read"
            yield from (f"{node.module}.{a.name}" for a in node.names)


def imported_rooms(tree):
    names = imported_names(without_typing_only(tree))
    return {name.split(".")[1] for name in names if name.startswith("mltrain.")}


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_module_keeps_the_house_rules(path):
    """Every module has a room, imports point down, and only the CLI speaks or exits."""
    tree = ast.parse(path.read_text("utf-8"))
    room = room_of(path)
    if room in {"__init__", "__main__"}:
        return

    assert room in LAYERS
    assert "mltrain" not in imported_names(ast.walk(tree)), "write mltrain.x: the package itself stands above all"
    for other in imported_rooms(tree):
        assert LAYERS.index(other) <= LAYERS.index(room), f"{room} imports {other}"
    if room != "cli":
        calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        raised = {ast.unparse(n.exc) for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc}
        modules = {name.split(".")[0] for name in imported_names(ast.walk(tree))}
        assert not calls & SPEAKERS
        assert not any("SystemExit" in r for r in raised)
        assert not modules & {"rich", "typer"}


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_module_keeps_the_start_fast(path):
    """What `--help`, `models` and `rollback` load imports nothing heavy at its top; nothing imports a learner so."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    top = {name.split(".")[0] for name in imported_names(n for n in without_typing_only(tree) if id(n) not in inside)}
    where = _id(path).removesuffix(".py")
    light = any(where == name or where.startswith(f"{name}/") for name in LIGHT)

    assert not top & (HEAVY if light else LEARNERS)


def test_one_room_alone_renames_and_one_module_alone_unpickles():
    """The disk edge has one door, and so have pickles; links are followed there alone, as one may lead in a circle."""
    text = {_id(p): p.read_text("utf-8") for p in MODULES}
    movers = {name for name, t in text.items() if "os.replace" in t or "os.rename" in t or "os.symlink" in t}
    picklers = {name for name, t in text.items() if "import pickle" in t or "from pickle" in t}
    followers = {name for name, t in text.items() if ".resolve(" in t or "realpath(" in t}

    assert all(name.startswith("files/") for name in movers | followers)
    assert picklers <= {"models/bundle.py"}
