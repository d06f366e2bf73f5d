"""The rules that a machine can check: the place of a module, its imports, and printing."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import conftest
import mltrain

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mltrain"

# From the ground up: a room imports from itself and from those before it.
ROOMS = (
    "_version",
    "errors",
    "names",
    "times",
    "progress",
    "documents",
    "storage",
    "config",
    "candles",
    "sources",
    "simulator",
    "snapshots",
    "features",
    "ops",
    "training",
    "tft",
    "guards",
    "gates",
    "artifact",
    "card",
    "store",
    "killswitch",
    "serving",
    "backtesting",
    "monitoring",
    "report",
    "pipeline",
    "service",
    "api",
    "cli",
)
SPEAKERS = {"print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write", "typer.echo"}
# What `--help`, `models` and `rollback` load at the start.
LIGHT = (
    "names.py",
    "times.py",
    "documents",
    "storage",
    "config",
    "artifact/__init__.py",
    "gates/holdout_looks.py",
    "card/validation.py",
    "store/store.py",
    "store/pointer.py",
    "store/version_pruning.py",
    "store/promotion.py",
    "store/publishing.py",
    "killswitch",
    "monitoring/status.py",
    "monitoring/status_reader.py",
    "api",
    "cli",
)
LEARNERS = {"lightgbm", "sklearn", "scipy", "optuna", "jsonschema", "httpcore", "httpx", "matplotlib", "jinja2"}
HEAVY = {"numpy", "polars", "pyarrow", *LEARNERS}
# The packages whose `__init__` may hand out names of other modules; the last two for users of an earlier release.
LAZY = {"__init__.py", "candles/__init__.py", "features/ops/__init__.py"}
FEWEST_LINES = 40

MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in MODULES}


def _id(path):
    return path.relative_to(PACKAGE).as_posix()


def dotted_name(path):
    """Return the name by which a file is imported."""
    return ".".join(("mltrain", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


PATHS = {dotted_name(path): path for path in MODULES}


def imported_names(nodes):
    """Yield every dotted name that some nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write mltrain.x, so that the arrows can be read"
            yield from (f"{node.module}.{a.name}" for a in node.names)


def imported_files(path):
    """Return the package's files that one imports: at its top, inside functions, or only for type checking."""
    found = set()
    for name in imported_names(ast.walk(TREES[path])):
        if name.startswith("mltrain."):
            found.add(PATHS.get(name) or PATHS[name.rpartition(".")[0]])
    return found - {path}


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_a_module_imports_from_rooms_below_its_own(path):
    """Every module has a room; an import from a later room is an error, also for types."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in {"__init__", "__main__"}:
        return

    assert room in ROOMS
    assert "mltrain" not in imported_names(ast.walk(TREES[path])), "write mltrain.x: the package itself is above all"
    for other in imported_files(path):
        target = other.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if target == "__init__":
            continue
        assert ROOMS.index(target) <= ROOMS.index(room), f"{_id(path)} imports {_id(other)}"


def test_no_two_files_import_each_other_in_a_circle():
    """A file can be read and moved without its importers."""
    below, waiting = {}, {path: imported_files(path) for path in MODULES if path.name != "__init__.py"}
    while waiting:
        ready = [path for path, others in waiting.items() if not others & waiting.keys()]
        assert ready, f"a circle among {sorted(map(_id, waiting))}"
        for path in ready:
            below[path] = waiting.pop(path)


def test_no_two_files_have_one_name():
    """The name of a file is enough to find it; only commands and their public functions may repeat one."""
    names = Counter(p.name for p in MODULES if p.name != "__init__.py" and p.parent.name not in {"api", "cli"})

    assert [name for name, count in names.items() if count > 1] == []


def test_no_public_name_is_a_room():
    """`mltrain.store` is a package of the library, so no function may have that name; `mltrain.ops` is the module."""
    assert set(mltrain.__all__) & {room for room in ROOMS if room != "_version"} == {"ops"}
    assert set(mltrain.__all__) == set(mltrain.HOME) == set(dir(mltrain))


def test_no_small_file_has_a_single_importer():
    """A few lines that only one file uses belong into that file."""
    users = Counter(other for path in MODULES if path.name[0] != "_" for other in imported_files(path))
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in MODULES if path.name[0] != "_"}

    assert [_id(path) for path, count in lines.items() if count <= FEWEST_LINES and users[path] == 1] == []


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py" and p.parent.name != "cli"], ids=_id)
def test_a_package_reexports_no_names(path):
    """A name is imported from the file that defines it."""
    functions = {node.name for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef)}

    assert _id(path) in LAZY or not functions & {"__getattr__"}
    assert _id(path) in LAZY or not imported_files(path)


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_only_the_command_line_prints_and_exits(path):
    """The library returns values and raises."""
    if path.is_relative_to(PACKAGE / "cli"):
        return
    nodes = list(ast.walk(TREES[path]))
    calls = {ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)}
    raised = {ast.unparse(n.exc) for n in nodes if isinstance(n, ast.Raise) and n.exc}
    modules = {name.split(".")[0] for name in imported_names(nodes)}

    assert not calls & SPEAKERS
    assert not any("SystemExit" in r for r in raised)
    assert not modules & {"rich", "typer"}


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_a_module_keeps_the_start_fast(path):
    """Modules loaded at the start import nothing heavy at their top, and none imports a learner there."""
    nodes = list(ast.walk(TREES[path]))
    types = [n for n in nodes if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    later = {id(node) for block in (*types, *functions) for node in ast.walk(block)}
    top = {name.split(".")[0] for name in imported_names(n for n in nodes if id(n) not in later)}
    light = any(path.is_relative_to(PACKAGE / name) for name in LIGHT)

    assert not top & (HEAVY if light else LEARNERS)


def test_only_one_room_renames_and_one_module_unpickles():
    """Links are followed only in the storage room, too, as they may be circular."""
    text = {_id(p): p.read_text("utf-8") for p in MODULES}
    movers = {name for name, t in text.items() if "os.replace" in t or "os.rename" in t or "os.symlink" in t}
    picklers = {name for name, t in text.items() if "import pickle" in t or "from pickle" in t}
    followers = {name for name, t in text.items() if ".resolve(" in t or "realpath(" in t}

    assert all(name.startswith("storage/") for name in movers | followers)
    assert picklers == {"artifact/plain_pickle.py"}


def test_every_listed_path_exists():
    """A list of files that were moved would check nothing."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    missing = [pattern for pattern in ruff["per-file-ignores"] if not any(ROOT.glob(pattern))]
    missing += [name for name in LIGHT if not (PACKAGE / name).exists()]
    missing += [name for name in conftest.LONG if not (ROOT / name).exists()]
    missing += [name for name in LAZY if not (PACKAGE / name).exists()]

    assert missing == []


MOVED = {
    "mltrain.candles": ("Request", "SourceSpec", "fetch_candles", "list_snapshots", "open_snapshot", "open_source"),
    "mltrain.features.ops": ("Bars", "Lag", "Limits", "Op", "Shape", "Spread", "Window"),
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in MOVED.items() for name in names])
def test_a_name_that_moved_is_still_found_for_one_release(module, name):
    """It gives a DeprecationWarning with the new place, and stands for what it stood for."""
    with pytest.warns(DeprecationWarning, match=r"import \w+ from mltrain") as caught:
        found = getattr(import_module(module), name)
    _, new_name, _, home, *others = str(caught[0].message).replace(",", "").split()

    assert new_name.endswith(name)
    assert hasattr(import_module(home), new_name)
    if others:
        assert found is getattr(import_module(found.__module__), name)
        assert found.__module__ in set(PATHS)
    else:
        assert found is getattr(import_module(home), new_name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_module(module).nothing  # noqa: B018
