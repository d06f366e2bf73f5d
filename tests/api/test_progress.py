"""Progress for callers from Python: a function, Rich's bars, and what an interrupt leaves behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mltrain as mt
from support.program import FEW_FEATURES, NEUTRAL, QUICK

MARKET = {"source": "sim", "sim_signal": "strong", "symbols": "BTCUSDT,ETHUSDT", "days": 1}


def interrupt_at(stage, done):
    """Return a progress function that is interrupted as by Ctrl-C at a step of a stage."""

    def progress(name, steps, _total, _note):
        if name == stage and steps == done:
            raise KeyboardInterrupt

    return progress


def files(folder):
    """Return the path and content of every file, but for locks and the journals of studies."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.name != ".lock"}
    return {
        str(name): path.read_bytes() if path.is_file() else None
        for name, path in found.items()
        if name.parts[0] != "studies"
    }


def test_a_function_receives_every_step(tmp_path):
    """Each stage begins with 0 of its steps, and its last step is the total."""
    calls = []
    taken = mt.snapshot(**MARKET, data_dir=tmp_path, progress=lambda *call: calls.append(call))
    of_stage = {stage: [call[1:3] for call in calls if call[0] == stage] for stage, *_ in calls}

    assert taken.created
    assert of_stage
    for steps in of_stage.values():
        assert steps[0][0] == 0
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("progress", [5, "bars", [print]])
def test_what_is_neither_an_object_nor_a_function_is_a_usage_error(progress, tmp_path):
    """The message names the argument, and nothing is written."""
    with pytest.raises(mt.UsageError, match="progress is "):
        mt.snapshot(**MARKET, data_dir=tmp_path, progress=progress)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_interrupted_snapshot_leaves_nothing_behind(done, tmp_path):
    """Ctrl-C at any step leaves no snapshot and no temporary file, and the same call then succeeds."""
    first = mt.snapshot(**MARKET, data_dir=tmp_path)
    before = files(tmp_path)
    other = {**MARKET, "sim_seed": 1}
    stages = []
    mt.snapshot(**other, data_dir=tmp_path / "elsewhere", progress=lambda *call: stages.append(call))
    stage = next(name for name, _, total, _ in stages if total == 2)
    with pytest.raises(KeyboardInterrupt):
        mt.snapshot(**other, data_dir=tmp_path, progress=interrupt_at(stage, done))

    after = {name: data for name, data in files(tmp_path).items() if not name.startswith("elsewhere")}
    assert after == before
    assert mt.open_snapshot(data_dir=tmp_path).id == first.id
    assert mt.snapshot(**other, data_dir=tmp_path).created


def test_an_interrupted_training_is_resumed(data_dir):
    """Ctrl-C after a trial leaves no version, only the journal of the search, which `resume` continues."""
    before = files(data_dir)
    options = {"trials": 2, "seed": 7, "config": QUICK, "features": FEW_FEATURES, "workers": 1, "data_dir": data_dir}
    with pytest.raises(KeyboardInterrupt):
        mt.train(**options, progress=interrupt_at("search", 1))
    after = files(data_dir)
    trained = mt.train(**options, resume=True)

    assert after == before
    assert list((data_dir / "studies").iterdir())
    assert trained.trials_resumed >= 1
    assert trained.trials == 2


def test_rich_bars_end_with_their_block():
    """Bars and warnings are written to stderr, also where the block is interrupted."""
    script = """
import mltrain as mt
for interrupted in (False, True):
    try:
        with mt.rich_progress() as progress:
            progress.stage("candles", total=2)
            progress.advance(2 - interrupted, note="BTCUSDT")
            progress.warn("look at this")
            if interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=NEUTRAL, check=True, text=True)

    assert done.stdout == ""
    assert done.stderr.count("warning: look at this") == 2
    assert "2/2" in done.stderr
    assert "1/2" in done.stderr
