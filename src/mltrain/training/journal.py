"""The journal of a study: Optuna's own records, one JSON document per line, written in whole steps.

A step is what must happen together: the study and its first proposals; one trial's result and the next proposals. The
last line of a step holds a hash of the step and of all steps before it, under a key that Optuna ignores, so its own
tools can read the file. Only whole steps are read back. A step torn by a kill or a power cut is cut off; a line changed
afterwards is damage, and an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mltrain.errors import InputError
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_lines, atomic_write, write_new

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

START_OVER: Final = "move the study's journal out of studies/ in the data folder, then run `mltrain train` again"
_MAX_BYTES: Final = 1 << 30
_HASH_KEY: Final = "step_sha256"
_HASH_KEY_JSON: Final = b'"step_sha256":"'


class Journal:
    """A backend of Optuna's journal storage that buffers records until `commit` writes them.

    The caller holds the study's lock: nobody else writes.

    Args:
        path: The file.
        logs: The records in it.
        chain: Hash of its last step; empty for an empty file.
    """

    def __init__(self, path: Path, logs: list[dict[str, Any]], chain: str) -> None:
        self._path, self._logs, self._chain = path, logs, chain
        self._committed = len(logs)

    @classmethod
    def begin(cls, path: Path) -> Journal:
        """Begin an empty journal; an existing file is kept as `<name>.old`.

        Raises:
            InputError: The path is not a regular file.
            MachineError: The file cannot be written.
        """
        if path.exists():
            atomic_write(path.with_name(f"{path.name}.old"), _read(path))
            path.unlink()
        write_new(path, b"")
        return cls(path, [], "")

    @classmethod
    def open(cls, path: Path) -> tuple[Journal, int]:
        """Open a journal and cut off a torn last step; a file without any whole step is left unchanged.

        Returns:
            The journal, and the bytes of the torn step.

        Raises:
            InputError: It is damaged.
            MachineError: The file cannot be read or written.
        """
        data = _read(path)
        logs, chain, end = _whole_steps(data)
        torn = data[end:]
        whole_lines = data[:end].count(b"\n")
        # A line that ends a step follows the last valid step: this is no torn write.
        if any(_HASH_KEY_JSON in line for line in torn.split(b"\n")[:-1]):
            raise InputError(f"the study {path} is damaged after line {whole_lines}", hint=START_OVER)
        if torn and logs:
            atomic_write(path, data[:end])
        return cls(path, logs, chain), len(torn)

    @property
    def empty(self) -> bool:
        """Whether it holds no step yet."""
        return not self._committed

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the records from a position on, buffered ones included."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Buffer records."""
        # Through JSON, so that Optuna gets the same values now and when the file is read back.
        self._logs += [json.loads(json.dumps(log)) for log in logs]

    def commit(self) -> None:
        """Write the buffered records as one step and flush it to the disk.

        Raises:
            MachineError: The file cannot be written; no part of the step is left.
        """
        step = self._logs[self._committed :]
        if step:
            self._chain = _hash(self._chain, step)
            append_lines(self._path, [*map(_line, step[:-1]), _line({**step[-1], _HASH_KEY: self._chain})])
            self._committed = len(self._logs)


def _read(path: Path) -> bytes:
    return read_file(path, max_bytes=_MAX_BYTES, what="the study")


def _line(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"))


def _hash(chain: str, step: list[dict[str, Any]]) -> str:
    return sha256_bytes("\n".join([chain, *map(_line, step)]).encode())


def _whole_steps(data: bytes) -> tuple[list[dict[str, Any]], str, int]:
    """Return the records of all valid steps from the start, the hash of the last one, and the offset of its end."""
    logs: list[dict[str, Any]] = []
    step: list[dict[str, Any]] = []
    chain, end, offset = "", 0, 0
    for line in data.split(b"\n")[:-1]:
        offset += len(line) + 1
        try:
            log = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(log, dict):
            break
        step_hash = log.pop(_HASH_KEY, None)
        step.append(log)
        if step_hash is None:
            continue
        if step_hash != _hash(chain, step):
            break
        logs += step
        step, chain, end = [], step_hash, offset
    return logs, chain, end
