"""Following the pointer to the best version: a look at each use, a swap between two uses, the old one where in doubt.

The look is one `lstat`: a pointer moves by a rename, so a moved one is another file. A new version is loaded aside, by
the thread that noticed first, while the others go on with the old one; it takes its place in one assignment. A version
that fails its checks is not served: the old one goes on, and says so in one warning; the new one is tried again when
the pointer moves again, and now and then, because what failed may have been the machine and not the version. Neither a
torn pointer nor a damaged file ever leaves a service without a model that it had.

A version whose `p` means something else, or that needs other candles, is not served either (see
`mltrain.artifact.meaning`): the caller was written for the one that was loaded. One warning per version says so; a
later version with the same meaning is followed.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import TYPE_CHECKING, Final, TypeAlias

from mltrain.artifact.meaning import Meaning, find_differences
from mltrain.errors import MltrainError
from mltrain.serving.loaded_model import read_served
from mltrain.store.signature import check_signature
from mltrain.store.store import open_path

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.serving.loaded_model import Served

RETRY_S: Final = 30.0  # how long a version that failed is left alone

Mark: TypeAlias = tuple[int, int, int] | None


class SwapFailedWarning(UserWarning):
    """The pointer moved to a version that cannot be served or means something else; the previous one stays in use."""


class Follower:
    """Holds the version to serve, and follows the pointer where there is one.

    May be used from many threads, and in a process that was forked after loading: a lock that another thread held at
    that moment is made anew.
    """

    def __init__(self, served: Served, *, pointer: Path | None, mark: Mark, key: Path | None) -> None:
        self._served = served
        self._pointer = None if pointer is None else os.fspath(pointer)
        self._place = pointer
        self._mark = mark
        self._key = key
        self._retry_s: float | None = None  # on the steady clock; None: nothing failed
        self._refused: set[str] = set()  # versions of another meaning that have been warned about
        self._lock, self._pid = threading.Lock(), os.getpid()

    def current(self) -> Served:
        """Return the version to serve now.

        Warns:
            SwapFailedWarning: The pointer has moved to a version that cannot be served.
        """
        if self._pointer is not None and (look(self._pointer) != self._mark or self._is_due()):
            self._swap()
        return self._served

    def _is_due(self) -> bool:
        return self._retry_s is not None and time.monotonic() >= self._retry_s

    def _swap(self) -> None:
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it; until it is done the old version answers
        try:
            self._follow()
        finally:
            self._lock.release()

    def _follow(self) -> None:
        assert self._place is not None  # noqa: S101 -- `current` has seen to it
        mark = look(self._place)  # before the reading: where the pointer moves meanwhile, the next use sees it
        if mark == self._mark and not self._is_due():
            return
        told = mark == self._mark
        try:
            version = open_path(self._place)
            if version.name != self._served.version:
                if self._key is not None:
                    check_signature(version.folder, version.manifest, key=self._key)
                self._take(read_served(version))
            self._retry_s = None
        except MltrainError as err:
            self._retry_s = time.monotonic() + RETRY_S
            if not told:
                warnings.warn(
                    f"{self._place} leads to what cannot be served, so {self._served.version} goes on: {err.message}",
                    SwapFailedWarning,
                    stacklevel=5,
                )
        finally:
            self._mark = mark

    def _take(self, new: Served) -> None:
        """Serve a version that was read, if it means what the present one means."""
        old = self._served
        meanings = [Meaning.of(s.bundle.feature_set, s.bundle.symbols) for s in (new, old)]
        differences = find_differences(*meanings)
        if not differences:
            self._served = new
        elif new.version not in self._refused:
            self._refused.add(new.version)
            warnings.warn(
                f"{self._place} is now {new.version}, which is no drop-in replacement, so {old.version} stays in use: "
                f"{'; '.join(differences)}. Load the model again to serve it",
                SwapFailedWarning,
                stacklevel=6,
            )


def look(pointer: str | Path) -> Mark:
    """Return what tells a pointer from the one that it was before; None where there is none."""
    try:
        found = os.lstat(pointer)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
