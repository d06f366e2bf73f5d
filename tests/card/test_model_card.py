"""Accessors of the typed card: what is missing or has another type is None or empty, never an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.card.model_card import ModelCard, Section
from mltrain.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
PATHS = st.lists(st.text(max_size=3) | st.integers(0, 3), min_size=1, max_size=4)


@given(document=st.dictionaries(st.text(max_size=3), JSON, max_size=4), path=PATHS)
def test_any_path_into_any_document_gives_a_value_or_nothing(document, path):
    """Every accessor returns its type, or None or empty."""
    section = Section(document)
    number, text, flag = section.number(*path), section.text(*path), section.flag(*path)

    assert number is None or isinstance(number, float)
    assert text is None or isinstance(text, str)
    assert flag is None or isinstance(flag, bool)
    assert section.time_ms(*path) is None or text is not None
    assert all(isinstance(item, str) for item in section.texts(*path))
    assert isinstance(section.section(*path).document, dict)
    assert all(isinstance(item, Section) for item in section.sections(*path))


def test_values_are_found_by_path():
    """A path goes through mappings by key and through lists by index."""
    section = Section({"a": [{"b": 2, "c": "2025-10-15T12:00:00Z", "d": True}, 1, "x"]})

    assert (section.number("a", 0, "b"), section.number("a", 1), section.number("a", 0, "d")) == (2.0, 1.0, None)
    assert (section.flag("a", 0, "d"), section.texts("a")) == (True, ["x"])
    assert section.time_ms("a", 0, "c") == 1_760_529_600_000
    assert [item.number("b") for item in section.sections("a")] == [2.0]


BLOCKS = [
    {"name": "inner", "last_label_end": "2025-10-15T12:00:00Z"},
    {"name": "holdout", "last_label_end": "2025-10-16T12:00:00Z"},
]


@pytest.mark.parametrize(("fitted_on", "end_ms"), [("inner", 1_760_529_600_000), ("all", 1_760_616_000_000)])
def test_the_last_label_is_that_of_the_rows_that_were_fitted(fitted_on, end_ms):
    """A version that was fitted on every row has seen the labels of the holdout too."""
    card = ModelCard({"splits": {"fitted_on": fitted_on, "blocks": BLOCKS}})

    assert card.last_label_end_ms() == end_ms


@pytest.mark.parametrize("splits", [{}, {"blocks": BLOCKS[1:]}, {"blocks": [{"name": "inner", "last_label_end": "x"}]}])
def test_a_card_that_does_not_say_which_labels_it_saw_is_refused(splits):
    """Without the end of the last label, no row is known to be later."""
    with pytest.raises(InputError, match="which labels"):
        ModelCard({"splits": splits}).last_label_end_ms()


@pytest.mark.parametrize(("given_hash", "expected"), [("a" * 64, "a" * 64), ("A" * 64, None), (7, None)])
def test_a_configuration_hash_is_taken_only_in_its_form(given_hash, expected):
    """64 lower-case hexadecimal digits."""
    assert ModelCard({"lineage": {"configuration_sha256": given_hash}}).configuration_sha256 == expected
