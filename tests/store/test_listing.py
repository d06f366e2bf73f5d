"""The list of versions: fast, with the problem of each damaged one."""

from __future__ import annotations

import json
import shutil

import pytest

from mltrain.errors import InputError
from mltrain.store.listing import list_models, read_version_card
from mltrain.store.store import Store
from support.program import call


@pytest.fixture
def store(data_dir):
    return Store(data_dir)


def test_a_row_shows_the_figures_of_the_card(store):
    """Verdict, symbols and figures come from the version's files."""
    (row,) = list_models(store)
    card = json.loads((store.models / row.version / "model_card.json").read_bytes())

    assert (row.best, row.latest, row.promoted, row.verdict, row.problem) == (True, True, True, "GO", None)
    assert row.symbols == tuple(card["train"]["symbols"])
    assert row.accuracy == card["metrics"]["accuracy"]
    assert row.snapshot == card["train"]["snapshot_id"]


def test_a_damaged_card_is_listed_with_its_problem(store):
    """The other versions are listed as before."""
    (row,) = list_models(store)
    shutil.copytree(store.models / row.version, store.models / "2020-01-01")
    card = store.models / row.version / "model_card.json"
    card.write_bytes(card.read_bytes().replace(b"GO", b"NO", 1))
    rows = {r.version: r for r in list_models(store)}

    assert "model_card.json" in rows[row.version].problem
    assert rows[row.version].accuracy is None
    assert rows["2020-01-01"].problem is not None


def test_a_changed_card_is_refused(store):
    """A card is read only if its hash is right."""
    version = store.live_version()
    card = version.folder / "model_card.json"
    card.write_bytes(card.read_bytes() + b" ")

    with pytest.raises(InputError):
        read_version_card(version)


def test_the_list_loads_nothing_heavy(data_dir):
    """`mltrain models` loads no learner, no frame library and no schema."""
    program = (
        "import sys, mltrain.cli.app as app\n"
        f"sys.argv = ['mltrain', 'models', '--json', '--data-dir', {str(data_dir)!r}]\n"
        "assert app.run() == 0\n"
        "heavy = {'numpy', 'polars', 'pyarrow', 'lightgbm', 'sklearn', 'optuna', 'jsonschema', 'httpx', 'rich'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"
    assert call("models", "--json", data_dir=data_dir).document == json.loads(done.stdout)
