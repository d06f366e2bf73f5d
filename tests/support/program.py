"""The installed `mltrain`, called as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """How one call of the installed `mltrain` ended."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """Return the JSON document on stdout, which matches its committed schema."""
        from jsonschema import validate

        from support.json_documents import closed_schema

        document = json.loads(self.out)
        validate(document, closed_schema(document["schema"].removeprefix("mltrain/")))
        return document


QUICK = Path(__file__).with_name("quick.yml")  # a training whose latency is measured on few samples
MLTRAIN = Path(sys.executable).with_name("mltrain")
NEUTRAL = {k: v for k, v in os.environ.items() if not k.startswith(("MLTRAIN_", "FORCE_COLOR", "GITHUB_", "COLUMNS"))}


def call(*words, data_dir=None, env=None, timeout=120, cwd=None) -> Run:
    """Run the installed `mltrain` as a user would."""
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    done = subprocess.run(
        [MLTRAIN, *map(str, words), *where],
        capture_output=True,
        text=True,
        env={**NEUTRAL, **(env or {})},
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    return Run(done.returncode, done.stdout, done.stderr)
