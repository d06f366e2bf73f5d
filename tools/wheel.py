"""Try the built wheel as a user has it, away from the checkout: by pip, by pipx and by uv.

    python -m tools.wheel                 build the wheel and try all three; a tool that is not there is told
    python -m tools.wheel --by pip,pipx   these; one that is not there is an error
    python -m tools.wheel --wheel FILE    a wheel that was built before

Each gets a home of its own, installs the wheel, and goes from nothing to the first prediction in three commands,
without the internet and without a file written by hand. The source tree is not importable from where they run.
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

#: From nothing to a prediction. With the exchange in reach the first one is `mltrain snapshot`.
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
    """Run the three commands in an empty folder and return what `predict` told of its first symbol."""
    printed = ""
    for words in COMMANDS:
        printed = _run([str(program), *words], folder, env)
    predictions = json.loads(printed)["predictions"]
    if not 0 < predictions[0]["p"] < 1:
        raise SystemExit(f"no probability: {predictions}")
    return dict(predictions[0])


def _python() -> str:
    """Return the interpreter below this environment, which knows nothing of it."""
    return str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}"))


def _tool(name: str) -> Path:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return Path(found)


def _run(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(words, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    """Try what the command line names; return the exit code."""
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
                print(f"{by}: not on this machine")
                continue
            installed = time.monotonic()
            told = first_prediction(program, home / "elsewhere", env)
            seconds = f"installed in {installed - begun:.0f} s, three commands in {time.monotonic() - installed:.0f} s"
            print(f"{by}: {wheel.name} {seconds}; {told['symbol']} p={told['p']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
