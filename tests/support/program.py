"""The installed `mltrain`, called as by a user."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.warm import MLTRAIN, WarmServer


@dataclass(frozen=True)
class Run:
    """The end of one call of the installed `mltrain`."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """Return the JSON document on stdout, after validating it against its committed schema."""
        from jsonschema import validate

        from support.json_documents import closed_schema

        document = json.loads(self.out)
        validate(document, closed_schema(document["schema"].removeprefix("mltrain/")))
        return document


# The configuration of a training that measures latency on few samples.
QUICK = Path(__file__).with_name("quick.yml")
# A registry of four features, for tests that are about something else.
FEW_FEATURES = QUICK.with_name("few_features.yml")
NEUTRAL = {k: v for k, v in os.environ.items() if not k.startswith(("MLTRAIN_", "FORCE_COLOR", "GITHUB_", "COLUMNS"))}
# Read before `mltrain` begins, by Python, the loader of libraries and the libraries.
READ_BEFORE = ("PYTHON", "LD_", "OMP_")


def call(*words, data_dir=None, env=None, timeout=120, cwd=None) -> Run:
    """Run the installed `mltrain`, where possible in a fork that saves the time of a start."""
    if sys.platform != "linux" or any(name.startswith(READ_BEFORE) for name in env or ()):
        return call_cold(*words, data_dir=data_dir, env=env, timeout=timeout, cwd=cwd)
    words = list(map(str, _with_folder(words, data_dir)))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = run_warm(words, out=out.fileno(), err=err.fileno(), env=env, timeout=timeout, cwd=cwd)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return Run(code, *texts)


def call_cold(*words, data_dir=None, env=None, timeout=120, cwd=None) -> Run:
    """Run the installed `mltrain`, start included."""
    done = subprocess.run(
        [MLTRAIN, *map(str, _with_folder(words, data_dir))],
        capture_output=True,
        text=True,
        env={**NEUTRAL, **(env or {})},
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def run_warm(words, *, out, err, env=None, timeout=120, cwd=None):
    """Run `mltrain` with descriptors for stdout and stderr in a fork of the warm server; return its exit code."""
    with warm_server().start(words, out=out, err=err, env=env or {}, cwd=cwd or Path.cwd()) as report:
        pid = int(report.readline())
        if not select.select([report], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(words, timeout)
        return int(report.readline())


def warm_shell(folder):
    """Return what a shell needs to run `mltrain` in forks: variables, and descriptors that it must inherit.

    Args:
        folder: An empty folder for the command.
    """
    command = folder / "mltrain"
    program = Path(__file__).with_name("warm_command.py")
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{program}" "{MLTRAIN}" "$@"\n')
    command.chmod(0o755)
    server = warm_server().fileno()
    path = os.pathsep.join([str(folder), str(MLTRAIN.parent), os.environ["PATH"]])
    return {"PATH": path, "WARM_SERVER": str(server)}, (server,)


@cache
def warm_server():
    """Return the server of this process."""
    return WarmServer(NEUTRAL)


def _with_folder(words, data_dir):
    return words if data_dir is None else (*words, "--data-dir", data_dir)
