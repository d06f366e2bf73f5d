"""Lineage: the code, the libraries and the machine that made a version of a model."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from mltrain import _version as version_module
from mltrain.card.machine import available_cores, cpu_name
from mltrain.storage.hashing import sha256_bytes

# The distributions whose versions a card lists.
DEPENDENCIES: Final = (
    *("filelock", "jsonschema", "lightgbm", "numpy", "optuna", "polars", "pyarrow", "pyyaml", "scikit-learn", "scipy"),
)
_GIT_HASH_CHARACTERS: Final = 40

#: The folder of this package.
PACKAGE: Final = Path(version_module.__file__).parent


@dataclass(frozen=True, slots=True)
class Lineage:
    """Code, libraries and machine of one run.

    Attributes:
        mltrain: Version of this package.
        package_sha256: One hash over the names and the bytes of this package's .py and .json files.
        dependencies: Distribution name and version, sorted by name.
        python: Version of the interpreter.
        platform: Operating system and architecture.
        cpu: The processor's name, as the system reports it.
        cores: Processors that this process may use.
        git_commit: Commit of the checkout that the package runs from; None for an installed wheel.
    """

    mltrain: str
    package_sha256: str
    dependencies: tuple[tuple[str, str], ...]
    python: str
    platform: str
    cpu: str
    cores: int
    git_commit: str | None


def read_lineage() -> Lineage:
    """Return the code, the libraries and the machine of this process."""
    return Lineage(
        mltrain=version_module.__version__,
        package_sha256=hash_package(PACKAGE),
        dependencies=tuple((name, _installed_version(name)) for name in DEPENDENCIES),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cores=available_cores(),
        git_commit=_git_commit(PACKAGE),
    )


def _installed_version(distribution: str) -> str:
    """Return the version of an installed distribution; "absent" if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def hash_package(package: Path) -> str:
    """Return one SHA-256 over the names and the bytes of the .py and .json files in a package's folder."""
    files = sorted(p for p in package.rglob("*") if p.suffix in {".py", ".json"})
    lines = (f"{sha256_bytes(p.read_bytes())}  {p.relative_to(package).as_posix()}\n" for p in files)
    return sha256_bytes("".join(lines).encode())


def _git_commit(package: Path) -> str | None:
    """Return the commit of the checkout that a package's folder is in, 40 hexadecimal digits; None outside of one."""
    # Read from the files in .git: git may not be installed, and a subprocess is slow.
    git = next((p / ".git" for p in package.parents if (p / ".git").is_dir()), None)
    # An installed package may be in another project's repository (a .venv), whose commit says nothing about it.
    if git is None or package.parent != git.parent / "src":
        return None
    head = _read_text(git / "HEAD")
    if not head.startswith("ref: "):
        return head if len(head) == _GIT_HASH_CHARACTERS else None
    ref = head.removeprefix("ref: ")
    packed = (line.split(" ") for line in _read_text(git / "packed-refs").splitlines())
    return _read_text(git / ref) or next((fields[0] for fields in packed if fields[1:] == [ref]), None)


def _read_text(path: Path) -> str:
    """Return the text of a file without white space at its ends; empty if there is no file."""
    return path.read_text("utf-8", errors="replace").strip() if path.is_file() else ""
