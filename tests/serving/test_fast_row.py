"""The fast single row: the bits of `Booster.predict` and of `Calibrator.apply`, or not used."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest

from mltrain.serving.fast_row import FAST, FastRow, SlowPathWarning, find_mismatch, make_probe_rows, open_fast_row
from mltrain.serving.loaded_model import CalibrationMap
from mltrain.serving.model import model_from_bundle
from mltrain.training.calibration import Calibrator, Knots
from mltrain.training.lightgbm_import import import_lightgbm


@pytest.fixture(scope="module")
def booster(model_text):
    return import_lightgbm().Booster(model_str=model_text)


@pytest.fixture(scope="module")
def fast(booster):
    return FastRow(booster, 5)


class Broken:
    """A booster whose scores are one bit above those of another."""

    def __init__(self, booster):
        # The C API is called with this handle.
        self._handle = booster._handle
        self._booster = booster

    def predict(self, x, **options):
        """Return the scores, each one bit higher."""
        return np.nextafter(self._booster.predict(x, **options), 1)


class TestFastRow:
    """The single-row call: the same bits as `Booster.predict`, from any thread, or not used."""

    def test_every_row_has_the_boosters_bits(self, booster, fast, samples):
        """Training rows and probe rows (thresholds and their neighbours, missing, infinite) have the same bits."""
        assert find_mismatch(fast.score, booster, samples.x) is None
        assert find_mismatch(fast.score, booster, make_probe_rows(booster.model_to_string(), 5)) is None

    def test_the_probes_distinguish_a_threshold_from_its_neighbours(self, booster, model_text):
        """Rows on a threshold and one float32 step away reach different leaves, so a wrong comparison is detected."""
        on, above, below = np.split(make_probe_rows(model_text, 5)[-192:], 3)
        scores = [booster.predict(rows, num_threads=1) for rows in (on, above, below)]

        assert (scores[0] != scores[1]).any()
        assert (scores[0] != scores[2]).any() or (scores[1] != scores[2]).any()

    def test_one_wrong_bit_disables_the_call(self, booster, model_text):
        """If one score differs by one bit, the call is not used, with a warning."""
        with pytest.warns(SlowPathWarning, match="probe rows have another score"):
            found = open_fast_row(Broken(booster), 5, model_text)

        assert found is None

    def test_a_library_without_the_call_is_accepted(self, model_text):
        """If LightGBM keeps its library elsewhere, the call is not used, with a warning."""

        class Elsewhere:
            def predict(self, x, **_):
                return np.zeros(len(x))

        with pytest.warns(SlowPathWarning, match="AttributeError"):
            assert open_fast_row(Elsewhere(), 5, model_text) is None

    def test_a_model_names_its_path(self, bundle):
        """`Model.path` names how single rows are scored."""
        assert model_from_bundle(bundle).path == FAST

    def test_without_the_call_a_model_scores_the_same(self, bundle, samples, monkeypatch):
        """Without the single-row call a model returns the same probability."""
        expected = model_from_bundle(bundle).predict_one(samples.x[0])
        monkeypatch.setattr("mltrain.serving.loaded_model.open_fast_row", lambda *_: None)
        slow = model_from_bundle(bundle)

        assert slow.path == "Booster.predict"
        assert slow.predict_one(samples.x[0]) == expected

    def test_threads_do_not_share_buffers(self, booster, fast, samples):
        """Each of four threads gets the scores of the rows it passed."""
        expected = booster.predict(samples.x[:400], num_threads=1)
        wrong = []

        def score(start):
            for _ in range(5):
                wrong.extend(i for i in range(start, 400, 4) if fast.score(samples.x[i]) != expected[i])

        threads = [threading.Thread(target=score, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []

    def test_a_row_of_another_length_is_refused(self, fast):
        """A row with too few features is an error."""
        with pytest.raises(ValueError, match="broadcast"):
            fast.score(np.zeros(4, np.float32))

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_forked_child_scores_the_same(self, bundle, samples):
        """A model that was loaded before a fork scores the same in parent and child."""
        model = model_from_bundle(bundle)
        expected = [model.predict_one(row) for row in samples.x[:50]], model.predict_proba(samples.x[:50]).tolist()
        child = os.fork()
        if child == 0:
            same = [model.predict_one(row) for row in samples.x[:50]], model.predict_proba(samples.x[:50]).tolist()
            os._exit(0 if same == expected else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [model.predict_one(row) for row in samples.x[:50]] == expected[0]

    def test_memory_stays_flat(self, bundle, samples):
        """After tens of thousands of predictions and hundreds of threads the memory has not grown."""
        model = model_from_bundle(bundle)
        rows = list(samples.x[:100])

        def work(times):
            for _ in range(times):
                for row in rows:
                    model.predict_one(row)

        def burst():
            for _ in range(50):
                thread = threading.Thread(target=work, args=(1,))
                thread.start()
                thread.join()
            work(100)
            gc.collect()
            return resident_kib()

        burst()
        before = burst()
        for _ in range(int(os.environ.get("MLTRAIN_TEST_LONG_BURSTS", "3"))):
            after = burst()

        assert after - before < 1_024


def resident_kib():
    """Return the resident memory of this process, KiB."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        pytest.skip("no /proc here")


class TestCalibration:
    """The binary search for one score gives the bits of `np.interp`."""

    @pytest.mark.parametrize(
        "calibrator",
        [
            Calibrator("none", None),
            Calibrator("sigmoid", Knots((0.1, 0.5, 0.9), (0.2, 0.45, 0.8))),
            Calibrator("isotonic", Knots((0.5,), (0.4,))),
            Calibrator("isotonic", Knots((0.2, 0.3, 0.30000000000000004, 1.0), (0.1, 0.1, 0.9, 0.95))),
        ],
    )
    def test_one_is_as_many(self, calibrator):
        """Scores on knots, next to them, between them and outside of them have the calibrator's bits."""
        rng = np.random.default_rng(0)
        knots = np.array(calibrator.knots.scores) if calibrator.knots else np.array([0.5])
        raw = np.concatenate([rng.random(2_000), knots, np.nextafter(knots, 0), np.nextafter(knots, 1), [0.0, 1.0]])
        calibration = CalibrationMap(calibrator)
        expected = calibrator.apply(raw)

        assert calibration.apply(raw).tobytes() == expected.tobytes()
        assert np.array([calibration.apply_one(value) for value in raw.tolist()]).tobytes() == expected.tobytes()
