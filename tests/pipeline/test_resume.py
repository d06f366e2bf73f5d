"""The installed `mltrain train`, killed, interrupted and resumed: always the same study."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from support.processes import marked, workers_of
from support.program import MLTRAIN, NEUTRAL, call
from support.workshop import REGISTRY, Workshop

TRIALS = 8
CONFIG = """
search:
  batch: 4
  max_rounds: 60
  early_stop: 10
  rungs: [{at: 1, keep: 0.5, most: 9, folds: 2}]
bench: {samples: 20}
bootstrap: {draws: 300}
guards: {points: 2}
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Return the arguments that train a small study, with few features so that the guards are quick."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "train.yml").write_text(CONFIG)
    (folder / "features.yml").write_bytes(REGISTRY % b"1m")
    files = ["--config", str(folder / "train.yml"), "--features", str(folder / "features.yml")]
    return ["train", "--trials", str(TRIALS), "--seed", "7", "--no-promote", *files]


@pytest.fixture(scope="module")
def snapshot_dir(tmp_path_factory):
    """Return a data folder with one small snapshot; read only."""
    folder = tmp_path_factory.mktemp("snapshot") / "data"
    Workshop(folder).snapshot()
    return folder


@pytest.fixture
def data_dir(snapshot_dir, tmp_path):
    """Return a copy of that folder that a test may change."""
    return shutil.copytree(snapshot_dir, tmp_path / "data", symlinks=True)


@pytest.fixture(scope="module")
def uninterrupted(words, snapshot_dir, tmp_path_factory):
    """Train once, in one process, on one thread."""
    folder = shutil.copytree(snapshot_dir, tmp_path_factory.mktemp("whole") / "data", symlinks=True)
    return made(call(*words, "--json", "--workers", "1", data_dir=folder, env={"OMP_NUM_THREADS": "1"}))


def made(done):
    """Return the bytes of the model and of the trials of a training."""
    assert done.code in {0, 4}, done.err
    folder = done.document["folder"]
    return [(MLTRAIN.parent / folder / name).read_bytes() for name in ("lgbm.pkl", "trials.parquet")]


def start(words, data_dir, **env):
    return subprocess.Popen(
        [MLTRAIN, *words, "--data-dir", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**NEUTRAL, **env},
        start_new_session=True,
    )


def wait_until(run, data_dir, *, reported):
    """Wait until so many trials are in the journal of the running study."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and run.poll() is None:
        for path in (data_dir / "studies").glob("*-7.journal"):
            if path.read_bytes().count(b'"told"') >= reported:
                return
        time.sleep(0.002)
    pytest.fail(f"it ended before {reported} trials were reported: {run.communicate()}")


def test_two_workers_and_two_threads_make_the_same(words, uninterrupted, data_dir):
    """The number of processes and threads changes no byte of model and trials."""
    done = call(*words, "--json", "--workers", "2", data_dir=data_dir, env={"OMP_NUM_THREADS": "2"})

    assert made(done) == uninterrupted


def test_killed_and_resumed_it_is_the_uninterrupted_one(words, uninterrupted, data_dir):
    """Killed with -9 after the first trial, inside both batches and before the last: the same bytes."""
    mark = f"MLTRAIN_TEST_MARK={uuid.uuid4()}"
    for reported in (1, TRIALS // 2, TRIALS // 2 + 2, TRIALS - 1):
        run = start([*words, "--resume", "--workers", "2"], data_dir, **dict([mark.split("=")]))
        wait_until(run, data_dir, reported=reported)
        run.kill()
        run.communicate()
        end_s = time.monotonic() + 10
        while marked(mark) and time.monotonic() < end_s:
            time.sleep(0.01)

        assert marked(mark) == []
    done = call(*words, "--json", "--resume", data_dir=data_dir)

    assert done.document["trials_resumed"] >= TRIALS - 1
    assert made(done) == uninterrupted
    assert [path.name for path in (data_dir / "studies").iterdir() if path.name.startswith(".")] == []


# As a terminal and as a service manager send them; test_cli_contract.py sends all of them to the process alone.
@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupted_training_leaves_only_the_study(words, data_dir, number, to_group):
    """A signal to the group or the process gives its exit code, and leaves no orphan and no temporary file."""
    mark = f"MLTRAIN_TEST_MARK={uuid.uuid4()}"
    before = sorted(str(path) for path in data_dir.rglob("*"))
    run = start([*words, "--trials", "500", "--workers", "2"], data_dir, **dict([mark.split("=")]))
    wait_until(run, data_dir, reported=2)
    os.killpg(run.pid, number) if to_group else run.send_signal(number)
    out, err = run.communicate(timeout=20)

    assert (run.returncode, out, err) == (128 + number, b"", b"")
    assert marked(mark) == []
    made = {str(path) for path in data_dir.rglob("*")} - set(before)
    assert {path.rpartition("/")[2].rpartition(".")[2] for path in made} == {"journal", "lock", "studies", "models"}


def test_a_worker_that_dies_is_replaced(words, uninterrupted, data_dir):
    """One worker killed in the middle does not change the bytes."""
    run = start([*words, "--json", "--workers", "2"], data_dir)
    wait_until(run, data_dir, reported=2)
    os.kill(workers_of(run.pid)[0], signal.SIGKILL)
    out, err = run.communicate(timeout=60)
    (version,) = (data_dir / "models").glob("20*")

    assert run.returncode in {0, 4}, err
    assert out.startswith(b"{")
    assert [(version / name).read_bytes() for name in ("lgbm.pkl", "trials.parquet")] == uninterrupted


def test_a_timeout_trains_with_the_completed_trials(words, data_dir):
    """It still makes a model; the same number of trials without a timeout makes the same one."""
    timed = call(*words, "--json", "--timeout", "0.001", "--workers", "1", data_dir=data_dir)
    count = timed.document["trials"]
    again = call(*words, "--json", "--trials", str(count), data_dir=data_dir)

    assert timed.document["timed_out"]
    assert 1 <= count < TRIALS
    assert made(again) == made(timed)
    assert again.document["model_sha256"] == timed.document["model_sha256"]


def test_nothing_to_resume_is_a_warning(words, data_dir):
    """`--resume` without a study begins one, with a warning."""
    done = call(*words, "--resume", "--trials", "1", data_dir=data_dir)

    assert done.code in {0, 4}
    assert "to resume: a new one begins" in done.err


def test_a_damaged_study_is_one_message(words, data_dir):
    """`--resume` of a changed journal gives exit 3 and a remedy, and changes no file."""
    call(*words, "--trials", "1", data_dir=data_dir)
    (path,) = (data_dir / "studies").glob("*-7.journal")
    damaged = path.read_bytes().replace(b'"rounds":', b'"Rounds":', 1)
    path.write_bytes(damaged)
    done = call(*words, "--resume", data_dir=data_dir)

    assert done.code == 3
    assert "damaged" in done.err
    assert "without --resume" in done.err
    assert path.read_bytes() == damaged


def test_a_dry_run_writes_nothing(words, data_dir):
    """Rows, blocks, memory and minutes are on stdout; there is no study and no model."""
    before = sorted(data_dir.rglob("*"))
    done = call(*words, "--dry-run", "--json", "--max-rows", "3000", data_dir=data_dir)
    plan = done.document

    assert done.code == 0, done.err
    assert plan["schema"] == "mltrain/train-plan/1"
    assert (plan["candles"], plan["trials"]) == (3000, TRIALS)
    assert {"inner", "holdout", "fold 1 train"} < {block["name"] for block in plan["blocks"]}
    assert plan["minutes"] > 0
    assert sorted(data_dir.rglob("*")) == before


def test_warm_start_and_fit_on_all_rows_are_recorded(words, data_dir):
    """With `--warm-start latest --final all`, the card has both."""
    first = call(*words, "--trials", "1", "--json", data_dir=data_dir)
    done = call(*words, "--trials", "2", "--json", "--warm-start", "latest", "--final", "all", data_dir=data_dir)
    card = json.loads((Path(done.document["folder"]) / "model_card.json").read_bytes())

    assert done.code in {0, 4}, done.err
    assert card["search"]["warm_start"]["version"] == first.document["version"]
    assert card["splits"]["fitted_on"] == "all"


def test_an_unknown_warm_start_is_refused_first(words, data_dir):
    """`--warm-start` of a missing version gives exit 3 and trains nothing."""
    done = call(*words, "--warm-start", "2020-01-01", data_dir=data_dir)

    assert (done.code, done.out) == (3, "")
    assert "2020-01-01" in done.err
    assert not (data_dir / "studies").exists()
