"""Too little memory is refused before anything is loaded, and a later shortage is never reported as a bug."""

from __future__ import annotations

import errno
import resource
import subprocess

import pytest

from mltrain.cli.address_space import LEARNING_MB, is_shortage
from support.program import MLTRAIN, NEUTRAL

LIMIT_MB = 500


@pytest.mark.parametrize("words", [("train",), ("predict",), ("verify", "model"), ("snapshot", "--source", "sim")])
def test_a_limit_on_addresses_is_exit_8_with_the_need(tmp_path, words):
    """Nothing is loaded or written: under such a limit libraries abort, or exit by themselves."""
    done = limited(*words, "--data-dir", tmp_path / "data")

    assert (done.returncode, done.stdout) == (8, "")
    assert f"limited to {LIMIT_MB} MB, and this command needs " in done.stderr
    assert "ulimit -v" in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_command_without_large_libraries_runs_under_it(tmp_path):
    """`mltrain models` still works on a machine with little memory."""
    done = limited("models", "--data-dir", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")


def limited(*words):
    """Run the installed `mltrain` with a limit on its address space."""
    limit = LIMIT_MB << 20
    assert LIMIT_MB < LEARNING_MB
    return subprocess.run(
        [MLTRAIN, *words],
        capture_output=True,
        text=True,
        env=NEUTRAL,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


@pytest.mark.parametrize(
    ("err", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libscipy_openblas64_.so: failed to map segment from shared object"), True),
        (RuntimeError("OS can't spawn worker thread: Resource temporarily unavailable"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("memory"), False),
    ],
)
def test_a_shortage_is_recognised_by_any_error(err, short):
    """Also as the cause of another error."""
    outer = RuntimeError("it failed")
    outer.__cause__ = err

    assert is_shortage(err) == is_shortage(outer) == short
