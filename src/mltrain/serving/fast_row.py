"""One row through LightGBM's C API: a quarter of the time of `Booster.predict`, and the same bits or not at all.

`LGBM_BoosterPredictForMatSingleRowFastInit` parses the parameters once; `LGBM_BoosterPredictForMatSingleRowFast` then
walks the trees on the calling thread, without OpenMP. A configuration holds buffers, so each thread has its own. The
call passes bare addresses: where a type or a size were wrong it would answer with garbage and no error, so it is used
only once it has given, row by row, exactly what `Booster.predict` gives: on plain rows, on rows that lie on the trees'
thresholds and a step of float32 beside them, on missing and on extreme values. Where there is the least doubt it is
left alone, with a warning, and rows go through `Booster.predict`.
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

_DTYPE_FLOAT32: Final = 0  # C_API_DTYPE_FLOAT32
_PREDICT_NORMAL: Final = 0  # C_API_PREDICT_NORMAL
_PARAMETERS: Final = b"num_threads=1"
_PLAIN_ROWS: Final = 32
_THRESHOLD_ROWS: Final = 64
_SPLITS: Final = re.compile(r"^split_feature=(.*)$", re.MULTILINE)
_THRESHOLDS: Final = re.compile(r"^threshold=(.*)$", re.MULTILINE)


class SlowPathWarning(UserWarning):
    """LightGBM's single-row call is not used, and why."""


class FastRow:
    """Scores single rows of one booster; safe to use from many threads, each with a configuration of its own."""

    def __init__(self, booster: Any, features: int) -> None:  # noqa: ANN401 (a lightgbm.Booster)
        """Look for the C functions.

        Args:
            booster: The booster; kept for as long as this lives.
            features: How many features a row has.

        Raises:
            AttributeError: This LightGBM has no such function, or keeps its library elsewhere.
        """
        self._booster = booster
        self._features = features
        self._library = import_lightgbm().basic._LIB  # noqa: SLF001 -- the wheel offers the C API by no other name
        self._handle = booster._handle  # noqa: SLF001 -- likewise
        for name in ("FastInit", "Fast"):
            getattr(self._library, f"LGBM_BoosterPredictForMatSingleRow{name}")
        self._library.LGBM_FastConfigFree  # noqa: B018 -- looked up, so that a library without it fails here
        self._own = threading.local()

    def score(self, row: NDArray[np.float32]) -> float:
        """Return the raw score of one row of float32, shape (f,).

        Raises:
            RuntimeError: LightGBM reports an error.
            ValueError: The row has another length.
        """
        try:
            call: _Call = self._own.call
        except AttributeError:
            call = self._own.call = _Call(self._library, self._handle, self._features)
        return call.score(row)


class _Call:
    """One thread's configuration, with the buffers that it reads and writes."""

    __slots__ = ("__weakref__", "_arguments", "_buffer", "_function", "_result")

    def __init__(self, library: Any, handle: Any, features: int) -> None:  # noqa: ANN401 (ctypes)
        config, length = ctypes.c_void_p(), ctypes.c_int64(0)
        self._buffer = np.zeros(features, np.float32)
        self._result = ctypes.c_double(0.0)
        _check(
            library.LGBM_BoosterPredictForMatSingleRowFastInit(
                handle,
                ctypes.c_int(_PREDICT_NORMAL),
                ctypes.c_int(0),  # from the first tree
                ctypes.c_int(0),  # to the last
                ctypes.c_int(_DTYPE_FLOAT32),
                ctypes.c_int32(features),
                ctypes.c_char_p(_PARAMETERS),
                ctypes.byref(config),
            )
        )
        weakref.finalize(self, library.LGBM_FastConfigFree, config)
        self._function = library.LGBM_BoosterPredictForMatSingleRowFast
        address = ctypes.c_void_p(self._buffer.ctypes.data)
        self._arguments = (config, address, ctypes.byref(length), ctypes.byref(self._result))

    def score(self, row: NDArray[np.float32]) -> float:
        self._buffer[:] = row
        _check(self._function(*self._arguments))
        return self._result.value


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"LightGBM's single-row call failed with code {code}")


def open_fast_row(booster: Any, features: int, model_text: str) -> FastRow | None:  # noqa: ANN401 (a lightgbm.Booster)
    """Return the fast way to score a row, proved on probes; None where it is not there or not exactly the same.

    Args:
        booster: The booster.
        features: How many features a row has.
        model_text: Its text, whose thresholds are probed.

    Warns:
        SlowPathWarning: There is none, and why.
    """
    probes = probe_rows(model_text, features)
    try:
        fast = FastRow(booster, features)
        doubt = find_doubt(fast.score, booster, probes)
    except (AttributeError, RuntimeError, ValueError, TypeError, ctypes.ArgumentError) as err:
        doubt = f"{type(err).__name__}: {err}"
    if doubt is None:
        return fast
    warnings.warn(
        f"rows are scored by Booster.predict, which is slower: LightGBM's single-row call is not usable here: {doubt}",
        SlowPathWarning,
        stacklevel=2,
    )
    return None


def find_doubt(
    score: Callable[[NDArray[np.float32]], float],
    booster: Any,  # noqa: ANN401 (a lightgbm.Booster)
    probes: NDArray[np.float32],
) -> str | None:
    """Return how a way to score one row differs from `Booster.predict`; None where every probe has the same bits."""
    expected = np.asarray(booster.predict(probes, num_threads=1))
    found = np.array([score(row) for row in probes])
    if found.shape == expected.shape and found.tobytes() == expected.tobytes():
        return None
    wrong = int((found.view(np.int64) != expected.view(np.int64)).sum()) if found.shape == expected.shape else "all"
    return f"{wrong} of {len(probes)} probe rows have another score"


def probe_rows(model_text: str, features: int) -> NDArray[np.float32]:
    """Return rows to prove a way of scoring on, shape (n, f): plain, on thresholds and beside them, missing, extreme.

    Args:
        model_text: LightGBM's model text, structure checked.
        features: How many features a row has.
    """
    rng = np.random.default_rng(0)
    on = _threshold_rows(model_text, features)
    spread = np.maximum(np.abs(on).max(axis=0), np.float32(1e-6))
    plain = (rng.standard_normal((_PLAIN_ROWS, features)) * spread).astype(np.float32)
    gapped = plain.copy()
    gapped[rng.random(gapped.shape) < 0.5] = np.nan
    edges = [0.0, -0.0, np.nan, np.inf, -np.inf, np.finfo(np.float32).max, np.finfo(np.float32).tiny]
    extreme = np.repeat(np.array(edges, np.float32)[:, None], features, axis=1)
    infinity = np.float32(np.inf)
    return np.concatenate([plain, gapped, extreme, on, np.nextafter(on, infinity), np.nextafter(on, -infinity)])


def _threshold_rows(model_text: str, features: int) -> NDArray[np.float32]:
    """Return rows each of whose values is a threshold of its feature, 0 where a feature is split nowhere."""
    split = np.array(" ".join(_SPLITS.findall(model_text)).split(), np.int64)
    threshold = np.array(" ".join(_THRESHOLDS.findall(model_text)).split(), np.float64)
    rows = np.zeros((_THRESHOLD_ROWS, features), np.float32)
    for feature in np.unique(split).tolist():
        values = np.unique(threshold[split == feature])
        rows[:, feature] = np.resize(np.random.default_rng(feature).permutation(values), _THRESHOLD_ROWS)
    return rows
