"""A version can be made again from its card, can be found by its request, and can be the start of a training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mltrain.card.lineage import read_lineage
from mltrain.card.model_card import ModelCard
from mltrain.config.loading import load_config
from mltrain.errors import InputError
from mltrain.pipeline import retrain as versions
from mltrain.pipeline.prepare import read_candles
from mltrain.pipeline.retrain import Retraining, find_same_version, read_warm_start, retrain_version
from mltrain.pipeline.train import train, train_anew
from mltrain.progress import Silent
from mltrain.serving.model import load
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.storage.hashing import sha256_bytes
from mltrain.store.promotion import promote_version
from mltrain.store.signature import open_signer
from mltrain.store.store import Store
from mltrain.training.search import ExecutionOptions
from support.workshop import NOW_MS, Workshop


def card_of(report):
    return json.loads((report.folder / "model_card.json").read_bytes())


def made_again(workshop, report):
    return retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=Silent())


def test_a_version_is_made_again_from_its_card(trained):
    """Without a search or a clock, lgbm.pkl has the same bytes, and no file is written."""
    workshop, report = trained
    before = sorted(workshop.folder.rglob("*"))
    again = made_again(workshop, report)

    assert again.same
    assert again.found_sha256 == report.model_sha256
    assert again.differences == ()
    assert sorted(workshop.folder.rglob("*")) == before


def test_a_version_whose_search_ran_out_of_time_is_made_again(trained):
    """Its card has the number of completed trials and the reason for the end; the model does not depend on them."""
    workshop, first = trained
    options = {"search.trials": 50, "seed": 11}
    report = workshop.train(
        first.training.data.snapshot, promote=False, execution=ExecutionOptions(workers=1, timeout_s=0.001), **options
    )
    search = card_of(report)["search"]

    assert (search["ended_by"], search["trials"], search["trials_asked_for"]) == ("timeout", 1, 50)
    assert made_again(workshop, report).same


class TestSame:
    """A training that would only repeat a version finds it instead."""

    def found(self, workshop, snapshot, **options):
        """Return the name of the same version; None without one."""
        same = find_same_version(workshop.request(snapshot, **options), workshop.store)
        return same and same.name

    def test_the_same_request_finds_its_version(self, trained):
        """Execution options do not matter; no file is written, and no look at a holdout."""
        workshop, report = trained
        snapshot = report.training.data.snapshot
        before = {path: path.stat().st_mtime_ns for path in workshop.folder.rglob("*")}
        execution = ExecutionOptions(workers=2, resume=True, timeout_s=60)
        again = train(workshop.request(snapshot), workshop.store, now_ms=NOW_MS, progress=Silent())

        assert again.name == report.version
        assert self.found(workshop, snapshot) == report.version
        assert self.found(workshop, snapshot, promote=False, execution=execution) == report.version
        assert {path: path.stat().st_mtime_ns for path in workshop.folder.rglob("*")} == before

    def test_what_a_killed_training_left_is_removed(self, trained):
        """It was killed while the version became live, and is not promoted by the training that finds it."""
        workshop, report = trained
        left = workshop.store.models / ".best_lgbm.0a1b2c3d.tmp"
        left.symlink_to(report.version)

        train(workshop.request(report.training.data.snapshot), workshop.store, now_ms=NOW_MS, progress=Silent())
        assert not left.is_symlink()

    @pytest.mark.parametrize(
        "options",
        [
            {"seed": 43},
            {"search.trials": 3},
            {"calibration": "sigmoid"},
            {"gates.ece_max": 0.2},
            {"bench.samples": 11},
        ],
        ids=str,
    )
    def test_any_other_setting_makes_another_version(self, trained, options):
        """Every setting counts, also those that only change the verdict or the metrics."""
        workshop, report = trained

        assert self.found(workshop, report.training.data.snapshot, **options) is None

    def test_other_candles_features_and_parameters_make_another_version(self, trained):
        """A snapshot of one more day, a registry of one feature less, and a warm start count."""
        workshop, report = trained
        snapshot = report.training.data.snapshot
        request = workshop.request(snapshot)
        fewer = replace(request.feature_set, features=request.feature_set.features[:-1])
        warm = read_warm_start(workshop.store.open_version(report.version), request.config.search)

        assert self.found(workshop, workshop.snapshot(days=5)) is None
        assert self.found(workshop, snapshot, warm_start=warm) is None
        assert self.found(workshop, snapshot, final="all") != report.version
        assert find_same_version(replace(request, feature_set=fewer), workshop.store) is None

    def test_other_code_libraries_or_processors_make_another_version(self, trained, monkeypatch):
        """After an upgrade the training is repeated."""
        workshop, report = trained
        lineage = read_lineage()
        for other in (
            replace(lineage, package_sha256="0" * 64),
            replace(lineage, cpu="another"),
            replace(lineage, dependencies=(*lineage.dependencies[:-1], ("scipy", "0"))),
        ):
            monkeypatch.setattr(versions, "read_lineage", lambda other=other: other)
            assert self.found(workshop, report.training.data.snapshot) is None

    @pytest.mark.parametrize("place", ["version", "snapshot"])
    def test_a_damaged_version_or_snapshot_is_not_the_same(self, trained, tmp_path, place):
        """Any damaged file, of the version or of the candles, counts."""
        workshop, report = trained
        copy = Workshop(shutil.copytree(workshop.folder, tmp_path / "data", symlinks=True))
        snapshot = open_snapshot(copy.folder, report.training.data.snapshot.id)
        assert self.found(copy, snapshot) == report.version
        file = snapshot.path / "BTCUSDT.parquet"
        if place == "version":
            file = copy.folder / "models" / report.version / "report.html"
        file.write_bytes(file.read_bytes() + b"x")

        assert self.found(copy, snapshot) is None

    def test_a_search_that_a_timeout_ended_is_never_the_same(self, workshop):
        """It might complete more trials the next time."""
        snapshot = workshop.snapshot()
        options = {"search.trials": 50, "execution": ExecutionOptions(workers=1, timeout_s=0.001), "promote": False}
        workshop.train(snapshot, **options)

        assert self.found(workshop, snapshot, **options) is None

    def test_a_signing_training_needs_the_same_signature(self, workshop, tmp_path):
        """A version without it, or with another one, is trained again."""
        keys = [tmp_path / name for name in ("ours", "theirs")]
        for key in keys:
            private = Ed25519PrivateKey.generate()
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        signers = [open_signer(key, data_dir=workshop.folder) for key in keys]
        snapshot = workshop.snapshot()
        request = workshop.request(snapshot)
        signing = Store(workshop.folder, signer=signers[0])
        report = train_anew(request, signing, now_ms=NOW_MS, progress=Silent())
        names = [find_same_version(request, Store(workshop.folder, signer=s)) for s in (None, *signers)]

        assert [same and same.name for same in names] == [report.version, report.version, None]

    def test_of_several_the_live_version_is_named(self, trained, tmp_path):
        """Without a live one among them, the newest is named."""
        workshop, report = trained
        copy = Workshop(shutil.copytree(workshop.folder, tmp_path / "data", symlinks=True))
        snapshot = open_snapshot(copy.folder, report.training.data.snapshot.id)
        again = copy.train(snapshot, promote=False)
        assert self.found(copy, snapshot) == report.version
        promote_version(copy.store, again.version, why="a test", by="pytest", now_ms=NOW_MS, force=True)

        assert self.found(copy, snapshot) == again.version


def test_one_other_byte_is_another_model():
    """Only equal hashes are the same model; otherwise the other differences are listed, too."""
    assert Retraining("lgbm.pkl", "a" * 64, "a" * 64, ("the ops differ",)).problems == ()
    other = Retraining("lgbm.pkl", "a" * 64, "b" * 64, ("the ops differ",))
    assert not other.same
    assert other.problems[1:] == ("the ops differ",)


def test_a_missing_snapshot_is_named(trained, tmp_path):
    """Without its candles a version cannot be made again."""
    workshop, report = trained
    version = workshop.store.open_version(report.version)
    with pytest.raises(InputError, match=report.training.data.snapshot.id):
        retrain_version(version, tmp_path, progress=Silent())


def test_a_warm_start_is_the_second_trial_and_recorded(trained):
    """Its parameters follow the defaults; card and looks record it, and the study is another one."""
    workshop, first = trained
    version = workshop.store.open_version(first.version)
    tuned = {"search.space.num_leaves.low": 5, "search.space.num_leaves.high": 9, "search.space.num_leaves.default": 7}
    config = load_config(None, overrides=tuned)
    warm = read_warm_start(version, config.search)
    looks = len(workshop.store.looks())
    report = workshop.train(first.training.data.snapshot, promote=False, warm_start=warm, **tuned)

    assert warm.params["num_leaves"] == min(max(card_of(first)["hyperparameters"]["num_leaves"], 5), 9)
    assert dict(report.training.model.search.trials[1].params) == warm.params
    assert card_of(report)["search"]["warm_start"] == {
        "version": first.version,
        "card_sha256": version.card_sha256,
        "params": warm.params,
    }
    assert len(workshop.store.looks()) == looks + 2
    assert card_of(report)["looks"]["earlier"] == looks + 1
    cold = workshop.train(first.training.data.snapshot, promote=False, **tuned)
    assert cold.training.provenance.study != report.training.provenance.study
    assert made_again(workshop, report).same


def test_a_model_of_all_rows_reports_the_metrics_of_the_one_without_the_holdout(trained):
    """`final="all"` has other trees, but the same calibrator and rounds; the card and the champion's rows record it."""
    workshop, first = trained
    report = workshop.train(first.training.data.snapshot, promote=False, final="all")
    ours, theirs = card_of(report), card_of(first)
    split = report.training.data.split

    assert report.model_sha256 != first.model_sha256
    assert ours["metrics"] == theirs["metrics"]
    assert ours["calibration"] == theirs["calibration"]
    assert ours["hyperparameters"] == theirs["hyperparameters"]
    assert (ours["splits"]["fitted_on"], theirs["splits"]["fitted_on"]) == ("all", "inner")
    assert "fitted on all rows" in ours["notes"]
    assert "fitted on all rows" not in theirs["notes"]
    assert ModelCard(theirs).last_label_end_ms() < split.holdout.start_ms
    assert ModelCard(ours).last_label_end_ms() == report.training.data.samples.label_end_ms[split.holdout.span].max()
    assert made_again(workshop, report).same
    served = load(report.folder / "lgbm.pkl", allow_no_go=True).predict_candles(
        read_candles(report.training.data.snapshot, Silent()), rows="all"
    )
    assert np.isfinite(served["p"].drop_nulls().to_numpy()).all()
    assert sha256_bytes((report.folder / "lgbm.pkl").read_bytes()) == report.model_sha256


def test_training_on_the_newest_rows_is_recorded(trained):
    """`max_rows` takes the newest candles; study and card record it, and the model can be made again."""
    workshop, first = trained
    report = workshop.train(first.training.data.snapshot, promote=False, max_rows=4_000)

    assert sum(q.candles for q in report.training.data.quality) == 4_000
    assert report.training.provenance.study != first.training.provenance.study
    assert report.training.data.split.holdout.end_ms == first.training.data.split.holdout.end_ms
    assert made_again(workshop, report).same
