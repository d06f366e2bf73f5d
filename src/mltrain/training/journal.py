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


class Journal:
    """A backend of Optuna's journal storage that buffers records until `commit` writes them as one step.

    The caller holds the study's lock: nobody else writes.

    Args:
        path: The file.
        logs: The records in the file.
        last_hash: Hash that its last step ends with; "" for an empty file.
    """

    def __init__(self, path: Path, logs: list[dict[str, Any]], last_hash: str) -> None:
        self._path, self._logs, self._last_hash = path, logs, last_hash
        self._committed = len(logs)

    @classmethod
    def begin(cls, path: Path) -> Journal:
        """Create an empty journal; an existing file is kept as `<name>.old`."""
        if path.exists():
            atomic_write(path.with_name(f"{path.name}.old"), _read(path))
            path.unlink()
        write_new(path, b"")
        return cls(path, [], "")

    @classmethod
    def open(cls, path: Path) -> tuple[Journal, int]:
        """Open a journal and cut off a torn last step; a file without any whole step is left unchanged.

        Returns:
            The journal, and the size of the torn step in bytes.

        Raises:
            InputError: The file is damaged: a line was changed after it was written.
        """
        data = _read(path)
        logs, last_hash, stop = _parse_whole_steps(data)
        whole, torn = data[:stop], data[stop:]
        # A line that ends a step follows the last valid step: this is no torn write.
        if any(f'"{_HASH_KEY}":"'.encode() in line for line in torn.split(b"\n")[:-1]):
            whole_lines = whole.count(b"\n")
            raise InputError(f"the study {path} is damaged after line {whole_lines}", hint=START_OVER)
        if torn and logs:
            atomic_write(path, whole)
        return cls(path, logs, last_hash), len(torn)

    @property
    def empty(self) -> bool:
        """Whether no step has been written yet."""
        return not self._committed

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the records from a position on, buffered ones included (Optuna's interface)."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Buffer records until `commit` (Optuna's interface)."""
        # Through JSON, so that Optuna gets the same values now and when the file is read back.
        self._logs += [json.loads(json.dumps(log)) for log in logs]

    def commit(self) -> None:
        """Write the buffered records as one step, whole or not at all, and flush it to the disk."""
        step = self._logs[self._committed :]
        if step:
            self._last_hash = _hash_step(self._last_hash, step)
            last_line = _to_line({**step[-1], _HASH_KEY: self._last_hash})
            append_lines(self._path, [*map(_to_line, step[:-1]), last_line])
            self._committed = len(self._logs)


def _read(path: Path) -> bytes:
    return read_file(path, max_bytes=_MAX_BYTES, what="the study")


def _to_line(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"))


def _hash_step(previous_hash: str, step: list[dict[str, Any]]) -> str:
    """Return the SHA-256 (hexadecimal) of a step's records and of all steps before, whose hash is given."""
    return sha256_bytes("\n".join([previous_hash, *map(_to_line, step)]).encode())


def _parse_whole_steps(data: bytes) -> tuple[list[dict[str, Any]], str, int]:
    """Return the records of all valid steps from the start, the hash of the last one, and the offset after it."""
    logs: list[dict[str, Any]] = []
    step: list[dict[str, Any]] = []
    last_hash, stop, offset = "", 0, 0
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
        if step_hash != _hash_step(last_hash, step):
            break
        logs += step
        step, last_hash, stop = [], step_hash, offset
    return logs, last_hash, stop
