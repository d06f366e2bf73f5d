"""The exception tree: one exit code per fault."""

from __future__ import annotations

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
    """The codes are part of the command line's contract; every class is in this table."""
    ours = {cls for cls in every_subclass(errors.MltrainError) if cls.__module__ == "mltrain.errors"}

    assert {cls: cls.exit_code for cls in ours} == EXIT_CODES


def test_the_docstring_draws_every_class_with_its_code():
    """The tree in the module's docstring equals the class tree."""
    for cls, code in EXIT_CODES.items():
        line = next(line for line in errors.__doc__.splitlines() if line.split()[:1] == [cls.__name__])

        assert code == 1 or str(code) in line.split()


def test_an_error_keeps_its_message_and_its_hint():
    """The command line prints both, on separate lines."""
    plain = errors.InputError("x.json: is empty")
    refused = errors.RefusedError("BTCUSDT: too old", reason="stale", hint="take a snapshot")

    assert (str(plain), plain.message, plain.hint) == ("x.json: is empty", "x.json: is empty", None)
    assert (refused.message, refused.hint, refused.reason) == ("BTCUSDT: too old", "take a snapshot", "stale")
