"""Test the built wheel outside the checkout, installed by pip, pipx and uv.

    python -m tools.wheel                 build the wheel and test all three; skip tools that are not installed
    python -m tools.wheel --by pip,pipx   test these; a missing tool is an error
    python -m tools.wheel --wheel FILE    use an existing wheel

Each one gets a separate home folder, installs the wheel, and runs three commands up to the first prediction, without
the internet and without other input files. The source tree is not importable there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.follow import bare_environment
from tools.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The three commands up to a prediction. With access to the exchange, the first one would be `mltrain snapshot`.
COMMANDS: Final = (
    ("snapshot", "--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT", "--days", "14"),
    ("train", "--trials", "8"),
    ("predict", "--json"),
)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into a folder and return its path."""
    _run([sys.executable, "-m", "build", "-q", "--wheel", "--outdir", str(folder), str(ROOT)], ROOT, os.environ)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(by: str, wheel: Path, home: Path, env: Mapping[str, str]) -> Path:
    """Install the wheel and return the path of the program."""
    if by == "pip":
        _run([_python(), "-m", "venv", str(home / "env")], home, env)
        _run([str(home / "env/bin/pip"), "install", "-q", str(wheel)], home, env)
        return home / "env/bin/mltrain"
    words = {"pipx": ["pipx", "install", "-q"], "uv": ["uv", "tool", "install", "-q", "--python", _python()]}[by]
    words = [str(_tool(words[0])), *words[1:], str(wheel)]
    _run(words, home, env)
    return home / "bin/mltrain"


def first_prediction(program: Path, folder: Path, env: Mapping[str, str]) -> dict[str, object]:
    """Run the three commands in an empty folder and return the first prediction of `predict`."""
    printed = ""
    for words in COMMANDS:
        printed = _run([str(program), *words], folder, env)
    predictions = json.loads(printed)["predictions"]
    if not 0 < predictions[0]["p"] < 1:
        raise SystemExit(f"no probability: {predictions}")
    return dict(predictions[0])


def _python() -> str:
    """Return the base interpreter of this virtual environment."""
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


def _tool(name: str) -> Path:
    installed = Path(sys.executable).with_name(name)
    found = str(installed) if installed.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return Path(found)


def _run(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(words, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    """Test the wheel by each tool of the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--by", help="pip, pipx, uv; comma-separated")
    parser.add_argument("--wheel", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        wheel = given.wheel.resolve() if given.wheel else build_wheel(Path(work, "dist"))
        for by in given.by.split(",") if given.by else ("pip", "pipx", "uv"):
            home = Path(work, by)
            Path(home, "elsewhere").mkdir(parents=True)
            tools = {"PIPX_HOME": f"{home}/pipx", "PIPX_BIN_DIR": f"{home}/bin", "PIPX_DEFAULT_PYTHON": _python()}
            tools |= {"UV_TOOL_DIR": f"{home}/uv", "UV_TOOL_BIN_DIR": f"{home}/bin"}
            env = {**bare_environment(home), **tools}
            begun = time.monotonic()
            try:
                program = install(by, wheel, home, env)
            except FileNotFoundError:
                if given.by:
                    raise
                print(f"{by}: not installed, skipped")
                continue
            installed = time.monotonic()
            prediction = first_prediction(program, home / "elsewhere", env)
            seconds = f"installed in {installed - begun:.0f} s, three commands in {time.monotonic() - installed:.0f} s"
            print(f"{by}: {wheel.name} {seconds}; {prediction['symbol']} p={prediction['p']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
