"""Follow the pointer to the live version, and swap the loaded model when it moves.

Each use costs one `lstat`: a pointer moves by a rename, so a moved one is a different file. The thread that notices
first loads the new version while the others go on with the old one; the swap is one assignment. A version that fails
its checks is not taken: the old one stays in use, with one warning. It is tried again when the pointer moves, and every
RETRY_S seconds, because the machine may have failed and not the version. So neither a torn pointer nor a damaged file
takes away a model that a service already had.

A version whose `p` means something else, or that needs other candles, is not taken either (see
`mltrain.artifact.model_contract`), because the caller was written for the version it loaded. There is one warning per
such version; a later version with the same meaning is followed.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import TYPE_CHECKING, Final, TypeAlias

from mltrain.artifact.model_contract import ModelContract, contract_differences
from mltrain.card.model_card import ModelCard
from mltrain.errors import MltrainError
from mltrain.serving.loaded_model import load_version
from mltrain.store.signature import check_signature
from mltrain.store.store import open_path

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.serving.loaded_model import LoadedModel

# Seconds until a version that failed is tried again.
RETRY_S: Final = 30.0

# Inode, modification time and change time, both ns; None: there is no pointer.
PointerState: TypeAlias = tuple[int, int, int] | None


class SwapFailedWarning(UserWarning):
    """The pointer moved to a version that is damaged or means something else; the previous one stays in use."""


class Follower:
    """Holds the loaded model, and replaces it when the pointer to the live version moves.

    Without a pointer the model is never replaced; `state` is the pointer's before the model was loaded. With the path
    of a public key (PEM), `key`, every new version must be signed. Safe for several threads, and for a process that was
    forked after loading: the lock, which another thread may have held at the fork, is then created again.
    """

    def __init__(self, loaded: LoadedModel, *, pointer: Path | None, state: PointerState, key: Path | None) -> None:
        self._loaded = loaded
        self._pointer = pointer
        # `lstat` of a string is faster than of a path.
        self._pointer_text = None if pointer is None else os.fspath(pointer)
        self._state = state
        self._key = key
        # When to load a version again that failed, by the monotonic clock; None: nothing failed.
        self._retry_at_s: float | None = None
        # Versions with another meaning that a warning has already named.
        self._rejected: set[str] = set()
        self._lock, self._pid = threading.Lock(), os.getpid()

    def current(self) -> LoadedModel:
        """Return the model to use now; if the pointer has moved, that of the new version, or warn and keep the old."""
        pointer = self._pointer_text
        if pointer is not None and (pointer_state(pointer) != self._state or self._is_retry_due()):
            if self._pid != os.getpid():
                self._lock, self._pid = threading.Lock(), os.getpid()
            # While another thread is loading, the old model answers.
            if self._lock.acquire(blocking=False):
                try:
                    self._follow()
                finally:
                    self._lock.release()
        return self._loaded

    def _is_retry_due(self) -> bool:
        return self._retry_at_s is not None and time.monotonic() >= self._retry_at_s

    def _follow(self) -> None:
        """Load the version that the pointer leads to, and use it if it is sound and means the same."""
        assert self._pointer is not None  # noqa: S101 -- `current` follows only if there is a pointer
        # Read before the version: if the pointer moves during the load, the next use notices.
        state = pointer_state(self._pointer)
        is_retry = state == self._state
        if is_retry and not self._is_retry_due():
            # Another thread has just followed the pointer.
            return
        try:
            version = open_path(self._pointer)
            if version.name != self._loaded.version:
                if self._key is not None:
                    check_signature(version.folder, version.manifest, key=self._key)
                self._use_if_same_meaning(load_version(version))
            self._retry_at_s = None
        except MltrainError as err:
            self._retry_at_s = time.monotonic() + RETRY_S
            if not is_retry:
                warnings.warn(
                    f"cannot load what {self._pointer} points to, so {self._loaded.version} stays in use: "
                    f"{err.message}",
                    SwapFailedWarning,
                    stacklevel=4,
                )
        finally:
            self._state = state

    def _use_if_same_meaning(self, new: LoadedModel) -> None:
        """Replace the model by a drop-in replacement; warn once about each version that is none."""
        old = self._loaded
        contracts = [
            ModelContract.of(m.bundle.feature_set, m.bundle.symbols, market=ModelCard(dict(m.card)).market)
            for m in (new, old)
        ]
        differences = contract_differences(*contracts)
        if not differences:
            self._loaded = new
        elif new.version not in self._rejected:
            self._rejected.add(new.version)
            warnings.warn(
                f"{self._pointer} is now {new.version}, which is no drop-in replacement, so {old.version} stays in "
                f"use: {'; '.join(differences)}. Load the model again to use the new version",
                SwapFailedWarning,
                stacklevel=5,
            )


def pointer_state(pointer: str | Path) -> PointerState:
    """Return a value that changes whenever the pointer is replaced; None: there is no pointer."""
    try:
        status = os.lstat(pointer)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
