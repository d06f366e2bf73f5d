"""The cost of a training is estimated before it starts; a machine with too little memory is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mltrain.errors import MachineError
from mltrain.pipeline.plan import _predict_peak, fit_memory, plan_training
from mltrain.progress import Silent
from mltrain.training.search import ExecutionOptions


@pytest.fixture
def request_of(trained):
    """Return the request of the trained version."""
    workshop, report = trained
    return workshop.request(report.training.data.snapshot, execution=ExecutionOptions(workers=3))


def test_the_plan_is_what_the_training_does(trained, request_of):
    """Rows and blocks equal those of the training; no file is written."""
    workshop, report = trained
    before = sorted(workshop.folder.rglob("*"))
    plan = plan_training(request_of, progress=Silent())

    assert plan.blocks == report.training.data.split.blocks()
    assert plan.rows == report.training.data.samples.y.size
    assert plan.minutes > 0
    assert sorted(workshop.folder.rglob("*")) == before


def test_fewer_workers_where_memory_is_short(request_of):
    """As many as fit, with a warning; with enough or unknown memory the request is unchanged."""
    for size in (None, 1 << 50):
        assert fit_memory(request_of, available_bytes=size, progress=Silent()) == request_of
    sizes = [_predict_peak(request_of, workers=workers) for workers in (1, 2, 3)]
    for workers, size in enumerate(sizes, start=1):
        progress = Silent()
        fitted = fit_memory(request_of, available_bytes=size, progress=progress)

        assert fitted == replace(request_of, execution=ExecutionOptions(workers=workers))
        assert len(progress.warnings) == (workers < 3)


def test_too_little_memory_is_refused_with_the_way_out(request_of):
    """Before any file is read; the message has the need, the available memory, and a number of rows that fits."""
    with pytest.raises(MachineError, match=r"0\.1 GiB are available") as caught:
        fit_memory(request_of, available_bytes=100 << 20, progress=Silent())

    assert "--max-rows" in caught.value.hint
