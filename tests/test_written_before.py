"""Laws of files written by an earlier version: they are read, verified, resumed, and made again to the same bytes.

The data folder in tests/data/v0.1 was written by mltrain 0.1.0; its README says how.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mltrain
from mltrain.card.lineage import read_lineage
from mltrain.errors import MachineError
from mltrain.simulator.server import SimServer
from support.program import call

WRITTEN = Path(__file__).parent / "data" / "v0.1"
SNAPSHOT = "2025-10-15T06-00-00Z"
A, B = "2026-11-29", "2026-11-29.2"
LINKS = {
    "snapshots/latest": SNAPSHOT,
    "models/best_lgbm": B,
    "models/best_lgbm.pkl": "best_lgbm/lgbm.pkl",
    "models/best_lgbm_model_card.json": "best_lgbm/model_card.json",
}
TRAIN = ["train", "--json", "--config", WRITTEN / "train.yml", "--features", WRITTEN / "features.yml"]
LEARNED = ("lgbm.pkl", "trials.parquet", "features.yml")
# Tables of scores: version 0.1.0 left out the candles whose label was dropped as a tie.
SCORED = ("oof.parquet", "holdout.parquet")
CUT_MS = int(dt.datetime(2025, 10, 15, 6, tzinfo=dt.UTC).timestamp()) * 1000
# The port is part of the cache's folder name and metadata.
PORT = 18573


@pytest.fixture
def data_dir(tmp_path):
    """Return a copy of the data folder of version 0.1.0 that a test may change."""
    folder = Path(shutil.copytree(WRITTEN / "data", tmp_path / "data"))
    for link, target in LINKS.items():
        (folder / link).symlink_to(target)
    return folder


def folder_of(version):
    return WRITTEN / "data" / "models" / version


def is_made_here(version):
    """Return whether libraries and machine are those of the version: only then the bytes must be equal."""
    lineage, here = json.loads((folder_of(version) / "model_card.json").read_bytes())["lineage"], read_lineage()
    return (lineage["dependencies"], lineage["platform"], lineage["cpu"]) == (
        dict(here.dependencies),
        here.platform,
        here.cpu,
    )


@contextmanager
def same_bytes_of(version):
    """Allow a difference where other libraries or another processor may round differently."""
    try:
        yield
    except AssertionError:
        if is_made_here(version):
            raise
        pytest.skip("the bytes differ, with other libraries or another processor than those of the version")


def differing(made, version):
    """Return the trained files that differ from those of a version; of tables of scores, the labelled rows count."""
    files = [name for name in LEARNED if (made / name).read_bytes() != (folder_of(version) / name).read_bytes()]
    tables = {name: [pl.read_parquet(folder / name) for folder in (made, folder_of(version))] for name in SCORED}
    assert all(new.height > old.height for new, old in tables.values())
    return files + [name for name, (new, old) in tables.items() if not new.drop_nulls("y").equals(old)]


@pytest.fixture
def exchange():
    """Return the exchange of the snapshot; a parallel run of this test may use its port for a moment."""
    end_s = time.monotonic() + 60
    with ExitStack() as stack:
        while True:
            try:
                server = SimServer(seed=5, signal="strong", clock_ms=CUT_MS, port=PORT)
                stack.enter_context(server)
                break
            except MachineError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.2)
        yield server


@pytest.mark.parametrize("version", [A, B])
def test_a_version_scores_as_it_did(data_dir, version):
    """It loads without a warning, and gives the stored probabilities of its holdout, to the last bit."""
    model = mltrain.load(data_dir / "models" / version, allow_no_go=True, clock=None)
    folder = data_dir / "snapshots" / SNAPSHOT
    candles = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    stored = pl.read_parquet(data_dir / "models" / version / "holdout.parquet")

    every = model.predict_candles(candles, rows="all")
    scored = stored.select("symbol", "ts").join(every, on=["symbol", "ts"], how="left", maintain_order="left")

    assert stored.height > 1000
    np.testing.assert_allclose(scored["p"], stored["p"], rtol=1e-6)
    with same_bytes_of(version):
        assert scored["p"].equals(stored["p"])


def test_the_pointer_leads_to_the_promoted_version(data_dir):
    """The old pointer is followed, and the logs of promotions and looks are read."""
    assert mltrain.load(data_dir / "models" / "best_lgbm.pkl").version == B
    done = call("models", "--json", data_dir=data_dir)
    assert done.code == 0, done.err
    assert [row["version"] for row in done.document["models"] if row["best"]] == [B]


def test_a_snapshot_is_verified(data_dir):
    """Every byte matches the manifest, and the candles have the recorded facts."""
    done = call("verify", "snapshot", data_dir=data_dir)

    assert done.code == 0, done.err


@pytest.mark.parametrize("version", [A, B])
def test_a_version_is_fitted_again_to_the_same_bytes(data_dir, version):
    """`verify model` passes, and `--retrain` makes the same bytes from snapshot and card."""
    verified = call("verify", "model", version, data_dir=data_dir)
    fitted = call("verify", "model", version, "--retrain", data_dir=data_dir)

    assert verified.code == 0, verified.err
    with same_bytes_of(version):
        assert fitted.code == 0, fitted.err


def test_a_study_is_resumed_to_the_same_bytes(data_dir):
    """`--resume` uses the two completed trials of the old search, and makes the old version."""
    shutil.rmtree(data_dir / "models" / A)
    done = call(*TRAIN, "--trials", "3", "--seed", "42", "--resume", "--no-promote", data_dir=data_dir)

    assert done.code in {0, 4}, done.err
    assert (done.document["trials"], done.document["trials_resumed"]) == (3, 2)
    with same_bytes_of(A):
        assert differing(Path(done.document["folder"]), A) == []


def test_a_warm_start_leads_to_the_same_bytes(data_dir):
    """A training that starts from version A makes version B again."""
    shutil.rmtree(data_dir / "models" / B)
    for path in (*data_dir.glob("models/best_lgbm*"), data_dir / "models" / "promotions.jsonl"):
        path.unlink()
    words = ["--trials", "4", "--seed", "7", "--warm-start", A, "--no-promote"]
    done = call(*TRAIN, *words, data_dir=data_dir)

    assert done.code in {0, 4}, done.err
    with same_bytes_of(B):
        assert differing(Path(done.document["folder"]), B) == []


def test_the_cache_spares_the_download(data_dir, exchange):
    """A snapshot of the same range requests no cached candle, and has the bytes of the old one."""
    shutil.rmtree(data_dir / "snapshots")
    words = ["--source", "binance", "--base-url", exchange.base_url, "--symbols", "BTCUSDT,ETHUSDT", "--days", "3"]
    done = call("snapshot", *words, data_dir=data_dir)

    assert done.code == 0, done.err
    assert [record for record in exchange.log if record.path.endswith("/klines")] == []
    for path in (WRITTEN / "data" / "snapshots" / SNAPSHOT).glob("*.parquet"):
        assert (data_dir / "snapshots" / SNAPSHOT / path.name).read_bytes() == path.read_bytes()
