"""Score one row through LightGBM's C API, in a quarter of the time of `Booster.predict`.

`LGBM_BoosterPredictForMatSingleRowFastInit` parses the parameters once; `LGBM_BoosterPredictForMatSingleRowFast` then
walks the trees on the calling thread, without OpenMP. A configuration holds buffers, so each thread has its own. The
call passes bare addresses: with a wrong type or size it would return garbage without an error. It is therefore used
only after it has returned the same bits as `Booster.predict` on probe rows: random values, values on the trees'
thresholds and one float32 step above and below, missing and extreme values. If a single probe differs, there is a
warning, and rows are scored by `Booster.predict`.
"""

from __future__ import annotations

import ctypes
import re
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.training.lightgbm_import import import_lightgbm

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

FAST: Final = "single-row fast call"
SLOW: Final = "Booster.predict"

# C_API_DTYPE_FLOAT32 and C_API_PREDICT_NORMAL of LightGBM's c_api.h.
_DTYPE_FLOAT32: Final = 0
_PREDICT_NORMAL: Final = 0
_PARAMETERS: Final = b"num_threads=1"
# Numbers of probe rows with random values, and with values on the trees' thresholds.
_RANDOM_ROWS: Final = 32
_THRESHOLD_ROWS: Final = 64
_SPLITS: Final = re.compile(r"^split_feature=(.*)$", re.MULTILINE)
_THRESHOLDS: Final = re.compile(r"^threshold=(.*)$", re.MULTILINE)


class SlowPathWarning(UserWarning):
    """LightGBM's single-row call, or the formula of a feature, is not used; the message says why."""


class FastRow:
    """Scores single rows of one booster; safe for several threads, each of which gets its own configuration."""

    def __init__(self, booster: Any, feature_count: int) -> None:  # noqa: ANN401 (a lightgbm.Booster)
        """Look up the C functions; raise AttributeError if this LightGBM lacks them, or keeps its library elsewhere."""
        # Kept alive, because `_handle` belongs to it.
        self._booster = booster
        self._feature_count = feature_count
        self._library = import_lightgbm().basic._LIB  # noqa: SLF001 -- the wheel offers the C API by no other name
        self._handle = booster._handle  # noqa: SLF001 -- the same
        for name in ("FastInit", "Fast"):
            getattr(self._library, f"LGBM_BoosterPredictForMatSingleRow{name}")
        self._library.LGBM_FastConfigFree  # noqa: B018 -- looked up, so that a library without it fails here
        self._thread = threading.local()

    def score(self, row: NDArray[np.float32]) -> float:
        """Return the raw score, in (0, 1), of one row of features, shape (f,); raise ValueError at another shape."""
        try:
            call: _ThreadCall = self._thread.call
        except AttributeError:
            call = self._thread.call = _ThreadCall(self._library, self._handle, self._feature_count)
        return call.score(row)


class _ThreadCall:
    """LightGBM's fast-call configuration for one thread, with its input and output buffers."""

    __slots__ = ("__weakref__", "_arguments", "_buffer", "_function", "_result")

    def __init__(self, library: Any, handle: Any, feature_count: int) -> None:  # noqa: ANN401 (ctypes)
        config, length = ctypes.c_void_p(), ctypes.c_int64(0)
        self._buffer = np.zeros(feature_count, np.float32)
        self._result = ctypes.c_double(0.0)
        _check_code(
            library.LGBM_BoosterPredictForMatSingleRowFastInit(
                handle,
                ctypes.c_int(_PREDICT_NORMAL),
                # From the first tree to the last.
                ctypes.c_int(0),
                ctypes.c_int(0),
                ctypes.c_int(_DTYPE_FLOAT32),
                ctypes.c_int32(feature_count),
                ctypes.c_char_p(_PARAMETERS),
                ctypes.byref(config),
            )
        )
        weakref.finalize(self, library.LGBM_FastConfigFree, config)
        self._function = library.LGBM_BoosterPredictForMatSingleRowFast
        address = ctypes.c_void_p(self._buffer.ctypes.data)
        self._arguments = (config, address, ctypes.byref(length), ctypes.byref(self._result))

    def score(self, row: NDArray[np.float32]) -> float:
        """Return the raw score, in (0, 1), of one row of features, shape (f,)."""
        self._buffer[:] = row
        _check_code(self._function(*self._arguments))
        return self._result.value


def _check_code(code: int) -> None:
    """Raise unless a C function returned 0."""
    if code:
        raise RuntimeError(f"LightGBM's single-row call failed with code {code}")


def open_fast_row(booster: Any, feature_count: int, model_text: str) -> FastRow | None:  # noqa: ANN401 (a Booster)
    """Return a booster's single-row call; None if LightGBM lacks it, or if it gives another score on any probe row.

    Warns:
        SlowPathWarning: The result is None; the message says why.
    """
    probes = make_probe_rows(model_text, feature_count)
    try:
        fast = FastRow(booster, feature_count)
        problem = find_mismatch(fast.score, booster, probes)
    except (AttributeError, RuntimeError, ValueError, TypeError, ctypes.ArgumentError) as err:
        problem = f"{type(err).__name__}: {err}"
    if problem is None:
        return fast
    warnings.warn(
        f"rows are scored by Booster.predict, which is slower: cannot use LightGBM's single-row call: {problem}",
        SlowPathWarning,
        stacklevel=2,
    )
    return None


def find_mismatch(
    score: Callable[[NDArray[np.float32]], float],
    booster: Any,  # noqa: ANN401 (a lightgbm.Booster)
    probes: NDArray[np.float32],
) -> str | None:
    """Return how a function's scores of single rows differ from the booster's; None if all have the same bits."""
    expected = np.asarray(booster.predict(probes, num_threads=1))
    scores = np.array([score(row) for row in probes])
    if scores.shape == expected.shape and scores.tobytes() == expected.tobytes():
        return None
    wrong = int((scores.view(np.int64) != expected.view(np.int64)).sum()) if scores.shape == expected.shape else "all"
    return f"{wrong} of {len(probes)} probe rows have another score"


def make_probe_rows(model_text: str, feature_count: int) -> NDArray[np.float32]:
    """Return rows, shape (n, f), of random, missing and extreme values, and of values around a model's thresholds.

    The last three parts, of equal size, are on the thresholds, and one float32 step above and below them.
    """
    rng = np.random.default_rng(0)
    thresholds = _make_threshold_rows(model_text, feature_count)
    scale = np.maximum(np.abs(thresholds).max(axis=0), np.float32(1e-6))
    random = (rng.standard_normal((_RANDOM_ROWS, feature_count)) * scale).astype(np.float32)
    missing = random.copy()
    missing[rng.random(missing.shape) < 0.5] = np.nan
    edges = [0.0, -0.0, np.nan, np.inf, -np.inf, np.finfo(np.float32).max, np.finfo(np.float32).tiny]
    extreme = np.repeat(np.array(edges, np.float32)[:, None], feature_count, axis=1)
    neighbours = [np.nextafter(thresholds, np.float32(limit)) for limit in (np.inf, -np.inf)]
    return np.concatenate([random, missing, extreme, thresholds, *neighbours])


def _make_threshold_rows(model_text: str, feature_count: int) -> NDArray[np.float32]:
    """Return _THRESHOLD_ROWS rows, shape (n, f), of each feature's split thresholds; 0: the feature has no split."""
    split = np.array(" ".join(_SPLITS.findall(model_text)).split(), np.int64)
    threshold = np.array(" ".join(_THRESHOLDS.findall(model_text)).split(), np.float64)
    rows = np.zeros((_THRESHOLD_ROWS, feature_count), np.float32)
    for feature in np.unique(split).tolist():
        values = np.unique(threshold[split == feature])
        rows[:, feature] = np.resize(np.random.default_rng(feature).permutation(values), _THRESHOLD_ROWS)
    return rows
