"""Rules for every command: exit codes, one JSON document, no traceback, pipes and signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import pytest
from tools.json_schemas import DOCUMENTS

from support.commands import ARGUMENTS, COMMANDS
from support.program import FEW_FEATURES, MLTRAIN, NEUTRAL, QUICK, call, run_warm

# The same output for less work.
READ_BY_NOBODY = {
    ("train",): [*ARGUMENTS["train",], "--dry-run"],
}
WORKING = [c for c in COMMANDS if ARGUMENTS.get(c, []) is not None]
WITHOUT_DATA = {
    *(
        ("card", "schema"),
        ("config", "show"),
        ("config", "init"),
        ("cycle",),
        ("demo",),
        ("sim",),
        ("snapshot",),
        ("features", "info"),
        ("features", "check"),
        ("features", "init"),
    ),
    *(("cache", "info"), ("cache", "prune"), ("snapshots", "prune"), ("backtest", "prune")),
    *(("models", "prune"), ("models", "repair"), ("models", "unpack"), ("studies",), ("studies", "prune")),
    *(("ledger",), ("ledger", "prune")),
}
NO_TRACEBACK = "Traceback (most recent call last)"


def _id(words):
    return " ".join(words)


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=_id)
def test_help_explains_every_command(words):
    """`--help` gives exit 0, the purpose of the command and its options."""
    done = call(*words, "--help")

    assert done.code == 0
    assert "Usage:" in done.out
    assert "--help" in done.out
    assert done.err == ""


@pytest.mark.parametrize("words", COMMANDS, ids=_id)
def test_a_wrong_option_is_a_usage_error(words):
    """An unknown option gives exit 2, and output on stderr only."""
    done = call(*words, "--no-such-option")

    assert done.code == 2
    assert done.out == ""
    assert "--no-such-option" in done.err


@pytest.mark.parametrize("words", [c for c in COMMANDS if c not in WITHOUT_DATA], ids=_id)
def test_missing_data_is_one_message(words, tmp_path):
    """Without a data folder a command gives exit 3 (a listing: an empty list), and creates no file."""
    arguments = {
        ("backtest", "diff"): ["latest", "latest"],
        ("card", "diff"): ["best", "latest"],
        ("features", "export"): ["--output", tmp_path / "matrix.parquet"],
        ("features", "show"): ["rsi_7", "--at", "2025-10-12"],
        ("halt",): ["--why", "a test"],
        ("resume",): ["--why", "a test"],
        ("models", "pack"): ["best", "--output", tmp_path / "model.tar"],
        ("promote",): ["2025-10-15"],
        ("rollback",): ["2025-10-15"],
        ("snapshots", "diff"): ["latest", "latest"],
        ("train",): ["--trials", "1"],
    }
    done = call(*words, *arguments.get(words, []), data_dir=tmp_path / "none")

    listing = words in {("models",), ("snapshots",), ("models", "history"), ("backtest", "list")}
    assert done.code == (0 if listing else 3), done.err
    assert NO_TRACEBACK not in done.err
    assert not (tmp_path / "none").exists()
    if not listing:
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert "hint: " in done.err


@pytest.mark.parametrize("words", WORKING, ids=_id)
def test_json_is_exactly_one_document(words, data_dir):
    """With --json stdout is one document that matches its schema, and stderr has only warnings."""
    done = call(*words, *ARGUMENTS.get(words, []), "--json", data_dir=data_dir)

    assert done.code in {0, 4}, done.err
    name = done.document["schema"].removeprefix("mltrain/")
    assert " ".join(words) in DOCUMENTS[name].commands
    assert all(line.startswith("warning: ") for line in done.err.splitlines())


@pytest.mark.parametrize("words", WORKING, ids=_id)
def test_a_closed_pipe_is_no_error(words, data_dir):
    """`mltrain ... | head -1` gives exit 0 and an empty stderr."""
    arguments = READ_BY_NOBODY.get(words, ARGUMENTS.get(words, []))
    nobody, out = os.pipe()
    os.close(nobody)
    with os.fdopen(out, "wb") as pipe, tempfile.TemporaryFile("w+") as err:
        code = run_warm([*words, *arguments, "--quiet", "--data-dir", data_dir], out=pipe.fileno(), err=err.fileno())
        err.seek(0)

        assert (code, err.read()) == (0, "")


def test_a_closed_pipe_is_no_error_at_exit(data_dir):
    """The last flush of Python prints no error either."""
    words = [MLTRAIN, "models", "--data-dir", data_dir]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NEUTRAL) as run:
        run.stdout.close()

        assert (run.wait(60), run.stderr.read()) == (0, b"")


ENDINGS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]


# Sooner, Python itself is starting; the longest is in the search, whose signals have one handler: few features are
# soon prepared.
@pytest.mark.parametrize(
    ("number", "code", "delay_s"),
    [(*ending, delay_s) for ending in ENDINGS for delay_s in (0.1, 0.3, 1.0)] + [(*ENDINGS[0], 2.5)],
)
def test_a_signal_ends_a_training(number, code, delay_s, data_dir):
    """At any moment SIGTERM, SIGHUP and SIGINT give the documented code, no traceback, and no leftover files."""
    before = _tree(data_dir)
    options = ["--trials", "500", "--seed", "7", "--config", QUICK, "--features", FEW_FEATURES, "--data-dir", data_dir]
    run = subprocess.Popen([MLTRAIN, "train", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NEUTRAL)
    time.sleep(delay_s)
    run.send_signal(number)
    out, err = run.communicate(timeout=20)

    if run.returncode == -number or err.startswith(b"Fatal Python error: init"):
        pytest.skip("the signal came before Python had started: the kernel ended it")
    assert run.returncode == code, err
    assert out == b""
    assert NO_TRACEBACK.encode() not in err
    assert _tree(data_dir) == before


LOSING = {
    "a library's own except": "try:\n    send()\nexcept BaseException:\n    pass\n",
    "a weak reference's callback": "thing = {0}.copy()\nkept = weakref.ref(thing, lambda _: send())\ndel thing\n",
    "compiled code": "ctypes.CFUNCTYPE(None)(send)()\n",
    "an event loop's callback": "async def main():\n    asyncio.get_running_loop().call_soon(send)\n"
    "    await asyncio.sleep(60)\nasyncio.run(main())\n",
    "a flush that waits for its reader": "threading.Timer(0.2, os.kill, [os.getpid(), number]).start()\n"
    "print('x' * 1_000_000)\n",
}


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("where", LOSING)
def test_a_signal_is_not_lost(number, code, where):
    """The process ends with the code, even where Python would discard an exception of a handler."""
    script = f"""
import asyncio, ctypes, os, sys, threading, time, weakref
import mltrain.cli, mltrain.cli.app

number = {int(number)}

def send():
    os.kill(os.getpid(), number)
    time.sleep(0.01)

def run():
    exec({LOSING[where]!r}, globals())
    return 0

mltrain.cli.app.run = run
mltrain.cli.main()
"""
    words, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env=NEUTRAL, text=True) as run:
        assert run.wait(30) == code
        assert run.stderr.read() == ""


def test_a_library_leaves_signals_alone():
    """Only the command line installs handlers, so a notebook gets its KeyboardInterrupt."""
    script = "import signal, mltrain, mltrain.cli.app\nprint(signal.getsignal(2) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=NEUTRAL, check=False, text=True)

    assert done.stdout == "True\n"


def test_an_ignored_signal_stays_ignored():
    """Under nohup, closing the terminal does not end a training."""
    run = subprocess.Popen(
        [MLTRAIN, "sim"],
        stdout=subprocess.PIPE,
        env=NEUTRAL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # noqa: PLW1509 (no thread runs here)
    )
    run.stdout.readline()
    run.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGTERM)

    assert run.wait(20) == 143
    run.stdout.close()


@pytest.mark.parametrize("bars", [True, False])
def test_a_terminal_gets_its_cursor_back(bars):
    """Progress bars hide the cursor and restore it; without bars no control character is written."""
    script = f"""
import os, sys
import mltrain.cli, mltrain.cli.app
from mltrain.cli.progress import open_progress

def run():
    with open_progress(shown={bars}, warn=True) as progress:
        progress.stage("candles")
        os.kill(os.getpid(), 15)

mltrain.cli.app.run = run
mltrain.cli.main()
"""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", script], stderr=theirs, env={**NEUTRAL, "TERM": "xterm-256color"}, close_fds=True
    )
    os.close(theirs)
    code = run.wait(20)
    # Linux answers EIO where the other end of a terminal is closed and nothing is left to read.
    with suppress(OSError):
        written = b""
        while part := os.read(ours, 4096):
            written += part
    os.close(ours)

    assert code == 143
    assert (b"\x1b[?25l" in written) == bars
    assert written.count(b"\x1b[?25h") == bars


def _tree(folder):
    """Return every path except locks and studies, with the size of files."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name != ".lock" and not name.startswith("studies"):
            seen[name] = str(path.readlink()) if path.is_symlink() else path.stat().st_size if path.is_file() else None
    return seen


def test_results_that_cannot_be_written_are_exit_8(data_dir):
    """A full disk under stdout gives exit 8, not 0."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        run = subprocess.run(
            [MLTRAIN, "models", "--data-dir", data_dir],
            stdout=full,
            stderr=subprocess.PIPE,
            env=NEUTRAL,
            check=False,
            text=True,
        )

    assert run.returncode == 8
    assert "cannot write the results" in run.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["rollback", "1999-01-01"], ["no-such-command"]])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_under_either_stream_is_never_a_bug(words, stream, tmp_path):
    """Output that cannot be written gives exit 8; without output to that stream the exit code is unchanged."""
    run = {}
    for name in ("/dev/full", "/dev/null"):
        with open(name, "w") as sink:  # noqa: PTH123 (a device)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: sink}
            run[name] = subprocess.run([MLTRAIN, *words], **pipes, env=NEUTRAL, cwd=tmp_path, check=False, text=True)
    written = (stream == "stdout") == (words[0] in ("--version", "--help"))

    assert run["/dev/full"].returncode == (8 if written else run["/dev/null"].returncode)
    assert "Traceback" not in (run["/dev/full"].stderr or "")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "GITHUB_ACTIONS"])
def test_a_pipe_is_never_coloured(variable, data_dir):
    """Variables that make Rich colour a pipe have no effect, as scripts read it."""
    for words in (["--help"], ["models"], ["models", "--no-such-option"]):
        done = call(*words, data_dir=None if words == ["--help"] else data_dir, env={variable: "1"})

        assert "\x1b" not in done.out + done.err


def test_a_missing_openmp_is_one_line(data_dir, tmp_path):
    """A damaged libgomp ends with 8 and the command that repairs it."""
    (tmp_path / "libgomp.so.1").write_bytes(b"")
    done = call("bench", "--samples", "10", data_dir=data_dir, env={"LD_LIBRARY_PATH": str(tmp_path)})

    assert done.code == 8
    assert "libgomp" in done.err
    assert NO_TRACEBACK not in done.err


def test_version_is_printed():
    """`--version` prints the name and the version."""
    done = call("--version")

    assert done.code == 0
    assert done.out.startswith("mltrain ")
