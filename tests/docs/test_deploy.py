"""The files for schedulers: the behaviour of a cron line and a unit for each exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tools.pages import problem_of

from support.program import MLTRAIN, NEUTRAL

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def program(tmp_path):
    """Return the environment of a round with a fake mltrain, which exits with $TRAIN."""
    path = tmp_path / "mltrain"
    path.write_text(f"""#!/bin/sh
echo "$*" >> {tmp_path}/calls
echo result
exit $TRAIN
""")
    path.chmod(0o755)
    return {**NEUTRAL, "MLTRAIN": str(path), "TRAIN": "0"}


def begin(words, env):
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize(("code", "mailed"), [(0, False), (4, False), (7, False), (3, True), (6, True), (8, True)])
def test_cron_mails_only_a_failed_round(program, tmp_path, code, mailed):
    """A NO-GO and a round that found another one running only add lines to the log."""
    (line,) = [line for line in (DEPLOY / "crontab").read_text().splitlines() if re.match(r"\d", line)]
    command = re.sub(r"^(\S+ ){5}mltrain ", "", line).replace("/opt/mltrain/bin/mltrain", program["MLTRAIN"])
    log = tmp_path / "train.log"

    done = begin(["bash", "-c", command], {**program, "TRAIN": str(code), "LOG": str(log)})
    assert (done.stdout == "result\n") is mailed
    assert done.stderr == ""
    assert log.read_text() == "result\n"
    (words,) = (tmp_path / "calls").read_text().splitlines()
    assert problem_of(words.split()) is None


def test_systemd_accepts_the_units(tmp_path):
    """`systemd-analyze verify` reports nothing about service and timer."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    units = [path for path in DEPLOY.iterdir() if path.suffix in {".service", ".timer"}]
    for unit in units:
        text = unit.read_text().replace("/opt/mltrain/bin/mltrain ", f"{MLTRAIN} ").replace("/opt/mltrain", str(DEPLOY))
        (tmp_path / unit.name).write_text(text)

    done = begin([analyze, "verify", *(tmp_path / unit.name for unit in units)], NEUTRAL)
    assert [line for line in done.stderr.splitlines() if "mltrain-" in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["mltrain-serve.service", "mltrain-sentinel.service", "mltrain-cycle.service"])
def test_the_command_of_a_unit_is_one(name):
    """Its options exist."""
    (words,) = re.findall(r"^ExecStart=/opt/mltrain/bin/mltrain (.+)$", (DEPLOY / name).read_text(), re.MULTILINE)

    assert problem_of(words.split()) is None


WORKFLOW = yaml.safe_load((DEPLOY.parent / ".github" / "workflows" / "train.yml").read_text("utf-8"))
STEPS = {step["name"]: step for step in WORKFLOW["jobs"]["train"]["steps"] if "name" in step}


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (4, 0), (3, 3), (6, 6), (8, 8)])
def test_the_workflow_takes_a_no_go_for_a_verdict(program, tmp_path, code, ends):
    """GO and NO-GO continue to card and summary; any other exit code stops the run."""
    path = os.pathsep.join([str(tmp_path), program["PATH"]])
    env = {**program, "PATH": path, "TRAIN": str(code), "TRIALS": "20", "GITHUB_OUTPUT": str(tmp_path / "output")}

    done = subprocess.run(["bash", "-e", "-c", STEPS["Train"]["run"]], cwd=tmp_path, env=env, check=False)
    assert done.returncode == ends
    assert (tmp_path / "output").read_text() == f"code={code}\n"
    assert (tmp_path / "train.json").read_text() == "result\n"
    assert (tmp_path / "calls").read_text() == "train --trials 20 --json\n"


@pytest.mark.parametrize(("fail", "ends"), [("false", 0), ("true", 1)])
def test_the_workflow_shows_a_no_go_as_such(fail, ends):
    """It is a warning, and a failure only if requested."""
    done = begin(["bash", "-e", "-c", STEPS["NO-GO"]["run"]], {**NEUTRAL, "FAIL": fail})

    assert done.returncode == ends
    assert done.stdout.startswith("::warning title=NO-GO::")
    assert STEPS["NO-GO"]["if"] == "steps.train.outputs.code == '4'"
