"""The journal of a study: Optuna's own records, one JSON document a line, written in whole steps.

A step is what happens at once: the study begun and its first trials asked; a trial told and the next one asked. Its
last line holds the hash of the step and of all before it, under a key that Optuna ignores: its own tools read the file
as any journal of theirs. What is read back are whole steps and nothing else. A step that a kill or a power cut has torn
never happened, and is cut off; a line that was changed afterwards is damage, and said to be.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mltrain.errors import InputError
from mltrain.storage.edge import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_lines, atomic_write, write_new

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ANEW: Final = "move its journal out of studies/ in the data folder, then `mltrain train` begins it anew"
_MAX_BYTES: Final = 1 << 30
_MARK: Final = "step_sha256"
_MARKED: Final = b'"step_sha256":"'


class Journal:
    """A backend of Optuna's journal storage that keeps what it is given until `commit` writes it down.

    The caller holds the study's lock: nobody else writes.

    Args:
        path: The file.
        logs: What stands in it.
        chain: Hash of its last step; empty for an empty file.
    """

    def __init__(self, path: Path, logs: list[dict[str, Any]], chain: str) -> None:
        self._path, self._logs, self._chain = path, logs, chain
        self._written = len(logs)

    @classmethod
    def begin(cls, path: Path) -> Journal:
        """Begin an empty one; one that is there is kept as `<name>.old`.

        Raises:
            InputError: Something else than a file has its name.
            MachineError: The machine refuses.
        """
        if path.exists():
            atomic_write(path.with_name(f"{path.name}.old"), _read(path))
            path.unlink()
        write_new(path, b"")
        return cls(path, [], "")

    @classmethod
    def open(cls, path: Path) -> tuple[Journal, int]:
        """Open one that is there and cut off what is no whole step; without any, the file is left as it is.

        Returns:
            The journal, and how many bytes were cut off or, without a whole step, passed over.

        Raises:
            InputError: It is damaged.
            MachineError: The machine refuses.
        """
        data = _read(path)
        logs, chain, end = _whole_steps(data)
        rest = data[end:]
        if any(_MARKED in line for line in rest.split(b"\n")[:-1]):
            line = data[:end].count(b"\n") + 1
            raise InputError(f"the study {path} is damaged behind line {line - 1}", hint=ANEW)
        if rest and logs:
            atomic_write(path, data[:end])
        return cls(path, logs, chain), len(rest)

    @property
    def empty(self) -> bool:
        """Whether it holds no step yet."""
        return not self._written

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the records from one on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Take records."""
        # As they will be read back: what Optuna makes of them must not depend on where they come from.
        self._logs += [json.loads(json.dumps(log)) for log in logs]

    def commit(self) -> None:
        """Write what was taken since the last commit as one step, down to the disk.

        Raises:
            MachineError: The machine refuses; no part of the step is left.
        """
        step = self._logs[self._written :]
        if step:
            self._chain = _hash(self._chain, step)
            append_lines(self._path, [*map(_line, step[:-1]), _line({**step[-1], _MARK: self._chain})])
            self._written = len(self._logs)


def _read(path: Path) -> bytes:
    return read_file(path, max_bytes=_MAX_BYTES, what="the study")


def _line(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"))


def _hash(chain: str, step: list[dict[str, Any]]) -> str:
    return sha256_bytes("\n".join([chain, *map(_line, step)]).encode())


def _whole_steps(data: bytes) -> tuple[list[dict[str, Any]], str, int]:
    """Return the records of the whole steps from the start on, the hash of the last one, and where it ends."""
    logs: list[dict[str, Any]] = []
    step: list[dict[str, Any]] = []
    chain, end, at = "", 0, 0
    for line in data.split(b"\n")[:-1]:
        at += len(line) + 1
        try:
            log = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(log, dict):
            break
        mark = log.pop(_MARK, None)
        step.append(log)
        if mark is None:
            continue
        if mark != _hash(chain, step):
            break
        logs += step
        step, chain, end = [], mark, at
    return logs, chain, end
