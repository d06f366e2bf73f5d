"""Load a model by a reference."""

from __future__ import annotations

import pytest

import mltrain as mt
from mltrain.errors import InputError, UsageError


@pytest.fixture(scope="module")
def live(trained_dir):
    """Return the name of the live version."""
    return (trained_dir / "models" / "best_lgbm").readlink().name


def test_every_reference_loads_the_model_of_its_path(trained_dir, live):
    """References as the command line takes them, in a data folder; paths as ever."""
    models = trained_dir / "models"
    same = [mt.load(name, data_dir=trained_dir) for name in ("best", "best:lgbm", "latest", live)]
    same += [mt.load(place) for place in (models / "best_lgbm", models / "best_lgbm.pkl", str(models / live), same[0])]

    assert {model.folder for model in same} == {models / live}


def test_best_is_followed_and_a_name_is_not(data_dir, live):
    """A rollback or a promotion takes effect; here the pointer is lost, which only the follower notices."""
    pointer = data_dir / "models" / "best_lgbm"
    followed, fixed = mt.load("best", data_dir=str(data_dir)), mt.load(live, data_dir=data_dir)
    pointer.unlink()

    assert fixed.version == live
    with pytest.warns(Warning, match="best_lgbm"):
        assert followed.version == live


def test_a_path_that_exists_wins(trained_dir, live, tmp_path, monkeypatch):
    """A folder `latest` in the working directory is that folder, as before there were references."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").symlink_to(trained_dir / "models" / live)

    assert mt.load("latest", data_dir=tmp_path / "none").version == live


def test_what_does_not_exist_is_an_error(trained_dir, tmp_path):
    """A slot without a version, a folder without models, a version that is not there, no model at all."""
    with pytest.raises(InputError, match=r"of the slot btc-1m .* was promoted yet"):
        mt.load("best:btc-1m", data_dir=trained_dir)
    with pytest.raises(InputError, match="there is no version"):
        mt.load("latest", data_dir=tmp_path)
    with pytest.raises(InputError, match="there is no version 2020-01-01"):
        mt.load("2020-01-01", data_dir=trained_dir)
    with pytest.raises(UsageError, match="does not lead to a version"):
        mt.load("no-such-thing", data_dir=trained_dir)
