from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mltrain.config.loading import load_config
from mltrain.errors import MachineError
from mltrain.progress import Silent
from mltrain.training.search import ExecutionOptions, search
from mltrain.training.split import plan_split
from support.processes import workers_of

CONFIG = load_config(
    None,
    overrides={
        "search.trials": 14,
        "search.batch": 3,
        "search.max_rounds": 30,
        "search.early_stop": 10,
        "search.rungs": [
            {"at": 0.3, "keep": 0.2, "most": 9, "folds": 1},
            {"at": 1.0, "keep": 0.2, "most": 9, "folds": 5},
        ],
    },
)


class Killer(Silent):
    """Kills all workers after given numbers of completed trials."""

    def __init__(self, after=()):
        super().__init__()
        self.completed, self.after, self.killed = 0, set(after), 0

    def advance(self, steps=1, *, note="", stage=None):  # noqa: ARG002 (the protocol's signature)
        """Count completed trials, and kill."""
        self.completed += steps
        if self.completed in self.after:
            for pid in workers_of():
                os.kill(pid, signal.SIGKILL)
                self.killed += 1


def run(samples, folder, *, workers, progress=None):
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)
    found = search(
        samples,
        split,
        CONFIG,
        journal=folder / "study.journal",
        execution=ExecutionOptions(workers=workers),
        progress=progress or Silent(),
    )
    assert workers_of() == []
    assert [path.name for path in folder.iterdir()] == ["study.journal"]
    return found


@pytest.fixture(scope="module")
def in_process(samples, tmp_path_factory):
    """Fourteen trials in this process, some of them pruned."""
    found = run(samples, tmp_path_factory.mktemp("alone"), workers=1)
    assert {t.state for t in found.trials} == {"complete", "pruned"}
    return found


def test_the_number_of_workers_changes_no_bit(samples, in_process, tmp_path):
    """Two processes, or more than a batch, give the same records and scores as none."""
    for workers in (2, 5):
        (tmp_path / str(workers)).mkdir()
        found = run(samples, tmp_path / str(workers), workers=workers)

        assert found.trials == in_process.trials
        assert np.array_equal(found.oof.scores, in_process.oof.scores)


def test_trials_whose_worker_dies_are_run_again(samples, in_process, tmp_path):
    """With all workers killed three times, the trials are the same."""
    killer = Killer(after={1, 5, 9})
    found = run(samples, tmp_path, workers=2, progress=killer)

    assert killer.killed >= 3
    assert found.trials == in_process.trials


def test_a_trial_whose_worker_dies_twice_is_named(samples, tmp_path):
    """If every worker is killed at once, the search ends with an error, without a process or a file left behind."""
    over = threading.Event()

    def kill_all():
        while not over.wait(0.05):
            for pid in workers_of():
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(MachineError, match=r"trial \d died twice") as caught:
            run(samples, tmp_path, workers=2)
    finally:
        over.set()
        killer.join()

    assert "--resume" in caught.value.hint
    assert workers_of() == []
    assert [path.name for path in tmp_path.iterdir()] == ["study.journal"]


def test_an_interruption_ends_the_workers(samples, tmp_path):
    """A KeyboardInterrupt, as in a notebook, ends the workers and removes their file."""

    class Interrupting(Silent):
        def advance(self, steps=1, *, note="", stage=None):  # noqa: ARG002 (the protocol's signature)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(samples, tmp_path, workers=2, progress=Interrupting())

    assert workers_of() == []
    assert [path.name for path in tmp_path.iterdir()] == ["study.journal"]


UNGUARDED = """
import pathlib, sys
sys.path.insert(0, {folder!r})
from support.samples import make_samples
from training.test_workers import run

print(len(run(make_samples(), pathlib.Path({study!r}), workers=2).trials))
"""


def test_a_script_without_a_guard_is_run_once(tmp_path):
    """Workers do not run a script again that lacks `if __name__ == "__main__"`."""
    (tmp_path / "study").mkdir()
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(folder=str(Path(__file__).parents[1]), study=str(tmp_path / "study")))
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "14\n", "")
