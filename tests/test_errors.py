"""The exception tree: one exit code per fault, and signals that nothing swallows."""

from __future__ import annotations

import signal

import polars as pl
import pytest

from mltrain import errors

EXIT_CODES = {
    errors.MltrainError: 1,
    errors.UsageError: 2,
    errors.InputError: 3,
    errors.RefusedError: 3,
    errors.OwnOpsError: 3,
    errors.NoGoError: 4,
    errors.LeakageError: 5,
    errors.SourceError: 6,
    errors.LockedError: 7,
    errors.MachineError: 8,
}


def every_subclass(cls):
    return {cls}.union(*(every_subclass(sub) for sub in cls.__subclasses__()))


def test_every_error_has_its_exit_code():
    """The codes are part of the command line's contract; a class that is not in this table has none."""
    ours = {cls for cls in every_subclass(errors.MltrainError) if cls.__module__ == "mltrain.errors"}

    assert {cls: cls.exit_code for cls in ours} == EXIT_CODES


def test_the_docstring_draws_every_class_with_its_code():
    """The tree in the module's docstring is the tree."""
    for cls, code in EXIT_CODES.items():
        line = next(line for line in errors.__doc__.splitlines() if line.split()[:1] == [cls.__name__])

        assert code == 1 or str(code) in line.split()


def test_an_error_keeps_its_message_and_its_hint():
    """The command line prints both, each on its own line."""
    plain = errors.InputError("x.json: is empty")
    refused = errors.RefusedError("BTCUSDT: too old", reason="stale", hint="take a snapshot")

    assert (str(plain), plain.message, plain.hint) == ("x.json: is empty", "x.json: is empty", None)
    assert (refused.message, refused.hint, refused.reason) == ("BTCUSDT: too old", "take a snapshot", "stale")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_passes_through_polars(signum):
    """Polars makes what interrupts a query anew of its type and its text: it must still be the same signal."""

    def interrupted(_):
        raise errors.Stopped(signum)

    with pytest.raises(errors.Stopped) as caught:
        pl.DataFrame({"a": [1]}).lazy().map_batches(interrupted).collect()
    with pytest.raises(errors.Stopped) as eager:
        pl.DataFrame({"a": [1]}).select(pl.col("a").map_batches(interrupted, return_dtype=pl.Int64))

    assert caught.value.exit_code == eager.value.exit_code == 128 + signum
    assert errors.Stopped("anything else").exit_code == 143


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_is_no_exception_that_error_handling_could_swallow(signum, code):
    """`except Exception` lets it through, and the exit code is the shell's."""
    stopped = errors.Stopped(signum)

    again = type(stopped)(*stopped.args)  # as a library that passes it on may make it anew

    assert not isinstance(stopped, Exception)
    assert stopped.exit_code == again.exit_code == code
    assert str(stopped) == f"stopped by signal {int(signum)}"
