"""The page on the model format: its reader is run as printed and compared with mltrain's own."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import mltrain

PAGE = (Path(__file__).parents[2] / "docs" / "model-format.md").read_text("utf-8")
(READER,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def reader():
    """Return the reader of the page."""
    names = {}
    exec(READER, names)  # noqa: S102 (our own page)
    return names["read_model"]


def version_of(data_dir):
    """Return the folder of the only version."""
    return data_dir / "models" / (data_dir / "models" / "best_lgbm").readlink()


def test_the_reader_gives_the_same_probabilities(data_dir):
    """For a trained version, the probabilities are bit-identical to `mltrain.load`'s."""
    model = mltrain.load(version_of(data_dir))
    rows = np.random.default_rng(0).standard_normal((500, model.n_features_in_), np.float32)

    assert reader()(version_of(data_dir))(rows).tobytes() == model.predict_proba(rows)[:, 1].tobytes()


def test_the_reader_refuses_another_file(data_dir):
    """A file that differs from the published one is refused by its hash."""
    with (version_of(data_dir) / "lgbm.pkl").open("ab") as file:
        file.write(b"x")

    with pytest.raises(AssertionError, match="not the published file"):
        reader()(version_of(data_dir))


def test_the_reader_has_ten_lines_and_needs_no_mltrain():
    """The page promises ten lines without mltrain."""
    body = [line for line in READER.splitlines() if line.strip() and not line.startswith("import")]

    assert len(body) <= 10
    assert not re.search(r"(import|from) mltrain", READER)


def test_the_page_lists_every_key_of_the_file(data_dir):
    """Every key of the file has a row in the page's table."""
    document = pickle.loads((version_of(data_dir) / "lgbm.pkl").read_bytes())

    assert document.keys() >= {"format", "hashes"}
    for key in document:
        assert re.search(rf"^\|.*`{re.escape(key)}`", PAGE, re.MULTILINE), key
