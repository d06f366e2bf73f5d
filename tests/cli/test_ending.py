"""The end of the command line: the exit code is that of the last error."""

import errno
import io
import os
import subprocess
import sys

import pytest

from mltrain.cli.app import call_app
from mltrain.errors import InputError, MachineError
from mltrain.killswitch.switch import read_halts
from support.program import NEUTRAL


def test_an_error_ends_with_its_code_and_one_message(capsys):
    """Also an error raised while another one was handled."""

    def failed():
        try:
            int("x")
        except ValueError as err:
            raise InputError("x.json: is empty") from err

    assert call_app(failed) == InputError.exit_code
    assert "x.json: is empty" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC, errno.EBADF])
def test_a_message_that_cannot_be_written_is_exit_8(number, monkeypatch):
    """Any failure of stderr gives exit code 8 and no traceback."""

    class Refusing(io.StringIO):
        def write(self, _):
            raise OSError(number, os.strerror(number))

    def failed():
        raise MachineError("cannot write the candles")

    monkeypatch.setattr("sys.stderr", Refusing())

    assert call_app(failed) == MachineError.exit_code


def test_a_halt_works_without_a_stream(tmp_path):
    """A watchdog may have closed all three; files must not get their numbers."""
    (tmp_path / "models").mkdir()
    words = ["halt", "--why", "a test", "--data-dir", str(tmp_path)]
    program = 'exec "$0" -m mltrain "$@" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", program, sys.executable, *words], env=NEUTRAL, check=False)
    assert (done.returncode, read_halts(tmp_path / "models").mode) == (0, "halt")
