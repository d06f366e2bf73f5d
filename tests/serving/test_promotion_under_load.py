"""Promotions while four threads predict: no error, no mixture, the new version within a second.

Short here; MLTRAIN_TEST_PROMOTION_S=60 makes it long.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
from dataclasses import replace

import pytest

from mltrain.serving.live_model import SwapFailedWarning
from mltrain.serving.model import load, open_model
from mltrain.training.calibration import Calibrator, Knots

SECONDS = float(os.environ.get("MLTRAIN_TEST_PROMOTION_S", "3"))


@pytest.fixture
def two(publish, promote, bundle):
    """Return two versions whose probabilities never coincide."""
    other = Calibrator("sigmoid", Knots((0.1, 0.9), (0.81, 0.99)))
    versions = publish(), publish(model=replace(bundle, calibrator=other))
    promote(versions[0])
    return versions


class Callers:
    """Four threads that predict in every way until they are stopped."""

    def __init__(self, model, candles, samples, expected):
        self.errors, self.seen, self.calls = [], [], 0
        self._stop = threading.Event()
        self._work = (model, candles, samples, expected)
        self._threads = [threading.Thread(target=self._run, args=(k,)) for k in range(4)]

    def _run(self, kind):
        model, candles, samples, expected = self._work
        stream = model.stream()
        stream.warm_up(candles)
        ways = [
            lambda: model.predict_one(samples.x[0]),
            lambda: tuple(model.predict_candles(candles)["p"]),
            lambda: stream.predict("BTCUSDT"),
            lambda: tuple(model.predict_proba(samples.x[:3])[:, 1].tolist()),
        ]
        while not self._stop.is_set():
            try:
                answer = ways[kind]()
                # Raises for a mixture of versions.
                number = expected[kind].index(answer)
            except Exception as err:  # noqa: BLE001 (any error fails the test)
                self.errors.append(repr(err))
                return
            self.calls += 1
            self.seen.append((time.monotonic(), number))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def answers(version, candles, samples):
    model = open_model(version)
    stream = model.stream()
    stream.warm_up(candles)
    return (
        model.predict_one(samples.x[0]),
        tuple(model.predict_candles(candles)["p"]),
        stream.predict("BTCUSDT"),
        tuple(model.predict_proba(samples.x[:3])[:, 1].tolist()),
    )


def test_promotions_under_load(store, two, promote, candles, samples):
    """Every answer is that of one version; each promotion is served by all threads within a second."""
    expected = list(zip(*(answers(version, candles, samples) for version in two), strict=True))
    model = load(store.models / "best_lgbm.pkl", clock=None)
    moves = []
    with Callers(model, candles, samples, expected) as callers:
        end = time.monotonic() + SECONDS
        number = 0
        while time.monotonic() < end:
            number = 1 - number
            # The pointer moves some time during a promotion.
            start = time.monotonic()
            promote(two[number])
            moves.append((start, time.monotonic(), number))
            time.sleep(1.5)
        moves.append((time.monotonic(), 0.0, 2))

    assert callers.errors == []
    assert callers.calls > 100
    for (_, moved, number), (after, _, _) in itertools.pairwise(moves):
        assert {n for at, n in callers.seen if moved + 1.0 < at < after} == {number}
    assert {n for _, n in callers.seen} == {0, 1}


def test_a_damaged_version_under_load(store, two, candles, samples):
    """The old version is still served in every thread, with one warning in total."""
    expected = [(answer,) for answer in answers(two[0], candles, samples)]
    model = load(store.models / "best_lgbm.pkl", clock=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Callers(model, candles, samples, expected) as callers:
            (two[1].folder / "lgbm.pkl").rename(two[1].folder / "aside")
            (store.models / "next").symlink_to(two[1].name)
            (store.models / "next").replace(store.models / "best_lgbm")
            time.sleep(min(SECONDS, 1.5))

    assert callers.errors == []
    assert callers.calls > 50
    assert [w.category for w in caught] == [SwapFailedWarning]
    assert model.version == two[0].name
