"""User ops on the command line: the page is right, and a leak stops a training before any trial."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mltrain.features.formula import NumpyExpr
from support.program import NEUTRAL, QUICK, call

PAGE = (Path(__file__).parents[2] / "docs" / "own-ops.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OPS, FAST, TOMORROW, LOAD = (body for language, body in BLOCKS if language == "python")
(REGISTRY,) = (body for language, body in BLOCKS if language == "yaml")
SUSPECT = "version: 1\ninterval: 1m\nlabel: {kind: direction, horizon: 1, ties: drop}\nfeatures:\n"
KIT = Path(__file__).parents[1] / "support" / "leaks.py"


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Run the lines of the page; return the folder and the end of each line."""
    here = tmp_path_factory.mktemp("reader")
    (here / "my_ops.py").write_text(OPS)
    (here / "my-features.yml").write_text(REGISTRY)
    (body,) = (body for language, body in BLOCKS if language == "sh")
    results = []
    for line in body.splitlines():
        words = shlex.split(line)[1:]
        words += ["--config", str(QUICK)] if words[0] == "train" else []
        results.append((line, call(*words, cwd=here)))
    return here, results


@pytest.fixture
def folder(walked, tmp_path):
    """Return a copy of that folder that a test may change."""
    return Path(shutil.copytree(walked[0], tmp_path / "here", symlinks=True))


def test_every_line_of_the_page_works(walked):
    """Snapshot, info, audit, train and predict with the page's own module and registry."""
    failed = [(line, done.code, done.err) for line, done in walked[1] if done.code != 0]

    assert failed == []
    assert "body_drift" in walked[1][1][1].out


def test_the_fast_op_of_the_page_has_a_formula():
    """The first one, with Polars' own rolling mean, has none."""
    fast, first = {}, {}
    exec(FAST, fast)  # noqa: S102 -- code of our own page
    exec(OPS, first)  # noqa: S102

    assert isinstance(fast["OPS"]["body_drift"](bars=15).expr, NumpyExpr)
    assert not isinstance(first["OPS"]["body_drift"](bars=15).expr, NumpyExpr)


def load(here, source):
    program = f"{source}\nprint(model.version)"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=here, capture_output=True, text=True, env=NEUTRAL, check=False
    )


def test_the_library_needs_the_ops_argument(walked):
    """`mltrain.load` succeeds with `ops` and fails without."""
    named, unnamed = load(walked[0], LOAD), load(walked[0], LOAD.replace(', ops="my_ops"', ""))

    assert named.returncode == 0, named.stderr
    assert "OwnOpsError" in unnamed.stderr
    assert "trained with the ops of my_ops" in unnamed.stderr


def test_model_and_card_name_the_module(walked):
    """They have its name and hash; the pickle is still plain data."""
    card = json.loads((walked[0] / "data" / "models" / "best_lgbm_model_card.json").read_bytes())

    assert card["lineage"]["own_ops"]["module"] == "my_ops"
    assert len(card["lineage"]["own_ops"]["sha256"]) == 64
    assert call("card", "validate", cwd=walked[0]).code == 0


@pytest.mark.parametrize("words", [["predict"], ["bench", "--samples", "10"], ["verify", "model"]], ids=" ".join)
def test_a_version_refuses_without_its_ops_and_with_others(words, folder):
    """Exit 3 names the missing option, or both hashes once the source has changed."""
    with_ops = call(*words, "--ops", "my_ops", cwd=folder)
    without = call(*words, cwd=folder)
    (folder / "my_ops.py").write_text(OPS + "# changed\n")
    changed = call(*words, "--ops", "my_ops", cwd=folder)

    assert with_ops.code == 0, with_ops.err
    assert (without.code, changed.code) == (3, 3)
    assert "trained with the ops of my_ops" in without.out + without.err
    assert "another source of my_ops" in changed.out + changed.err


def test_a_champion_with_lost_ops_is_no_obstacle(folder):
    """A training without those ops succeeds; its version is held, and the gate gives the reason."""
    done = call("train", "--features", "features-ohlcv.yml", "--trials", "1", "--config", QUICK, "--json", cwd=folder)

    (gate,) = [gate for gate in done.document["gates"] if gate["name"] == "champion"]
    assert gate["outcome"] == "held"
    assert "trained with the ops of my_ops" in gate["reason"]


def leaky(folder, source, op):
    (folder / "leaky.py").write_text(source)
    registry = folder / "leaky.yml"
    registry.write_text(
        f"{SUSPECT}  - {{name: return_5, op: log_return, params: {{bars: 5}}}}\n  - {{name: suspect, op: {op}}}\n"
    )
    return ["--ops", "leaky", "--features", "leaky.yml"]


def test_the_pages_leak_stops_a_training_before_any_trial(folder):
    """Exit 5 with feature, symbol, time and values; there is no journal and no version."""
    before = sorted(folder.rglob("*.journal")), sorted((folder / "data" / "models").iterdir())
    source = f"import polars as pl\nfrom mltrain.ops import Window\n{TOMORROW}\nOPS = {{'tomorrow': tomorrow}}"
    done = call("train", *leaky(folder, source, "tomorrow"), "--trials", "1", cwd=folder)

    assert done.code == 5
    assert re.search(r"suspect of BTCUSDT at 2025-\S+Z: .*: expected \S+, got \S+", done.err)
    assert (sorted(folder.rglob("*.journal")), sorted((folder / "data" / "models").iterdir())) == before


@pytest.mark.parametrize("op", ["centred_mean", "next_close_now_and_then", "random"])
def test_every_test_leak_is_found_by_the_audit_command(op, folder):
    """The audit gives exit 5 and a document that names the feature, and still writes a report."""
    words = leaky(folder, KIT.read_text("utf-8"), op)
    done = call("features", "audit", *words, "--json", "--report", "audit.json", cwd=folder)

    assert done.code == 5
    assert "suspect of ETHUSDT at" in done.document["error"]["message"]
    assert "audit.txt" in done.document["error"]["hint"]
    report = json.loads((folder / "audit.json").read_bytes())
    assert any(failure["feature"] == "suspect" for guard in report["guards"] for failure in guard["failures"])
    assert "FAILED suspect of" in (folder / "audit.txt").read_text("utf-8")


def test_output_of_a_module_does_not_spoil_the_document(folder):
    """Text that the module prints goes to stderr."""
    (folder / "my_ops.py").write_text(OPS + 'print("hello from the module")\n')
    done = call("features", "info", "--ops", "my_ops", "--features", "my-features.yml", "--json", cwd=folder)

    assert done.document["features"][2]["op"] == "body_drift"
    assert "hello" in done.err


def test_the_folder_cannot_shadow_installed_packages(folder):
    """The working directory is searched after the installed packages."""
    (folder / "json.py").write_text("raise SystemExit('shadowed')\n")
    (folder / "polars.py").write_text("raise SystemExit('shadowed')\n")
    done = call("features", "info", "--ops", "my_ops", "--features", "my-features.yml", cwd=folder)

    assert done.code == 0, done.err
