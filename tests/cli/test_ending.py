"""How the command line ends: the exit code of what came up last."""

import errno
import io
import os
import signal

import pytest

from mltrain.cli.app import guarded
from mltrain.errors import InputError, MachineError, Stopped


@pytest.mark.parametrize("interruption", [Stopped(signal.SIGTERM), KeyboardInterrupt()])
def test_a_signal_that_a_class_body_wrapped_is_still_the_signal(interruption):
    """Python 3.11 makes a RuntimeError of what `__set_name__` raises; later versions pass it on."""

    class Named:
        def __set_name__(self, owner, name):
            raise interruption

    def imported():
        type("Body", (), {"field": Named()})

    with pytest.raises(type(interruption)) as caught:
        guarded(imported)

    assert caught.value is interruption


def test_an_error_while_a_signal_unwinds_does_not_hide_it(capsys):
    """What cleaning up raises is no answer to somebody who asked the process to end."""

    def cleaned_up():
        try:
            raise Stopped(signal.SIGHUP)
        finally:
            raise InputError("x.json: is empty")

    with pytest.raises(Stopped) as caught:
        guarded(cleaned_up)

    assert caught.value.exit_code == 129
    assert capsys.readouterr().err == ""


def test_an_error_without_a_signal_keeps_its_code(capsys):
    """The walk along the causes ends."""

    def failed():
        try:
            int("x")
        except ValueError as err:
            raise InputError("x.json: is empty") from err

    assert guarded(failed) == InputError.exit_code
    assert "x.json: is empty" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC, errno.EBADF])
def test_where_the_message_cannot_be_written_the_code_says_it(number, monkeypatch):
    """Whatever keeps stderr from taking it: no traceback, which could not be written either."""

    class Refusing(io.StringIO):
        def write(self, _):
            raise OSError(number, os.strerror(number))

    def failed():
        raise MachineError("cannot write the candles")

    monkeypatch.setattr("sys.stderr", Refusing())

    assert guarded(failed) == MachineError.exit_code
