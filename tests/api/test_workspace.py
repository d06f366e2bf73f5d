"""Wrong arguments from Python: each is a UsageError that names the argument."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

import mltrain as mt
from mltrain.api.workspace import check_path, read_number, read_progress, read_time, read_whole
from mltrain.backtesting.fee_tiers import find_fee_tier

FUNCTIONS_OF_A_PATH = {
    "data_dir": lambda path: mt.list_models(data_dir=path),
    "config": lambda path: mt.config_show(config=path),
    "file": mt.features_check,
    "folder": lambda path: mt.snapshot_plan(source="files", folder=path),
    "output": lambda path: mt.features_init("5m", output=path),
    "features": lambda path: mt.features_info(features=path),
}


@pytest.mark.parametrize("argument", FUNCTIONS_OF_A_PATH)
@pytest.mark.parametrize("wrong", [5, b"data", ["data"], np.zeros(2)], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_path_is_a_usage_error(argument, wrong):
    """The message names the argument, not a line of the standard library."""
    with pytest.raises(mt.UsageError, match=rf"^{argument} is .*: expected a path$"):
        FUNCTIONS_OF_A_PATH[argument](wrong)


def test_text_and_paths_are_paths(tmp_path):
    """Both forms name the same file."""
    assert check_path(str(tmp_path), "file") == check_path(tmp_path, "file") == tmp_path


def test_numbers_of_numpy_are_numbers():
    """A cell of a frame is one; whole numbers stay whole, so that a stored request is the same."""
    assert [type(read_number(number, "enter")) for number in (np.float32(0.5), np.int64(3), 2, 0.1)] == [
        float, int, int, float
    ]  # fmt: skip
    assert type(read_whole(np.int64(3), "seed")) is int
    assert read_time(np.int64(1_760_529_600_000), "start") == 1_760_529_600_000


@pytest.mark.parametrize("wrong", ["0.5", None, True, np.bool_(1), [0.5], dt.date(2025, 10, 15)])
def test_what_is_no_number_is_a_usage_error(wrong):
    """A text that looks like a number is none."""
    with pytest.raises(mt.UsageError, match=r"^enter is .*: expected a number$"):
        read_number(wrong, "enter")
    with pytest.raises(mt.UsageError, match=r"^seed is .*: expected a whole number$"):
        read_whole(wrong, "seed")


@pytest.mark.parametrize("fees", [5, ["binance"]])
def test_fees_that_are_no_name_are_a_usage_error(fees):
    """A list cannot be looked up, and is refused like an unknown name."""
    with pytest.raises(mt.UsageError, match="there are no packaged fees"):
        find_fee_tier(fees)


def test_the_bars_without_their_with_block_are_a_usage_error():
    """A context manager of contextlib can be called, as a decorator; the hint shows the `with`."""
    with pytest.raises(mt.UsageError, match="context manager") as err:
        read_progress(mt.rich_progress())

    assert "with mltrain.rich_progress() as progress" in err.value.hint
