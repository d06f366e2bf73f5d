"""The grammar of names: which names may become a path."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mltrain import names
from mltrain.errors import UsageError

CHECKS = {
    names.check_symbol: (names.SYMBOL, ["BTCUSDT", "1INCHUSDT", "BT", "A" * 20]),
    names.check_version: (names.VERSION, ["2025-10-15", "2025-10-15.2", "2025-10-15.999999"]),
    names.check_snapshot_id: (names.SNAPSHOT, ["2025-10-15T12-00-00Z", "2025-10-15T12-00-00Z.2"]),
}
HOSTILE = [
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "BTC/USDT",
    "BTC\\USDT",
    "-rf",
    "--help",
    "%2e%2e",
    "BTCUSDT\n",
    "BTCUSDT\0",
    " BTCUSDT",
    "btcusdt",
    "BTCUSD\uff34",
    "\u0662\u0660\u0662\u0665-10-15",
    "2025-10-15/../x",
    "2025-10-15.",
    "2025-10-15.0",
    "2025-10-15.01",
    "2025-10-15.1000000",
    "2025-10-15\n",
    "2025-10-15T12:00:00Z",
    "A" * 10_000,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_valid_names_pass_unchanged(check):
    """A name inside its grammar is returned unchanged."""
    for name in CHECKS[check][1]:
        assert check(name) == name


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n)[:30])
def test_hostile_names_are_usage_errors_of_bounded_length(check, name):
    """Traversal, options, look-alike digits, line ends and 10 kB texts give one printable line."""
    with pytest.raises(UsageError) as caught:
        check(name)

    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 200
    assert caught.value.hint


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_an_accepted_name_is_one_plain_path_segment(check):
    """No accepted name leaves its folder, is hidden, or looks like an option."""
    pattern = CHECKS[check][0]

    @given(st.from_regex(pattern, fullmatch=True) | st.text(max_size=30))
    @example("2025-10-15\n")
    def law(name):
        try:
            passed = check(name)
        except UsageError:
            return
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", passed)
        assert passed.isascii()
        assert ".." not in passed

    law()


@given(st.text(max_size=200))
def test_show_is_printable_ascii_of_bounded_length(name):
    """Any name is shown in at most 45 printable characters."""
    shown = names.show(name)

    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 45


def test_the_nearest_names_come_best_first_whatever_their_case():
    """A misspelt name finds the right one; dissimilar names are left out."""
    known = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRP"]

    assert names.nearest("btcusd", known)[0] == "BTCUSDT"
    assert "XRP" not in names.nearest("btcusd", known)
    assert names.nearest("x" * 100_000, known) == []


def test_without_a_near_name_few_known_ones_are_listed_and_many_are_not():
    """A short list of known names is shown, a long one is not."""
    assert names.did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert names.did_you_mean("zzz", [f"name{i}" for i in range(13)]) is None
    assert names.did_you_mean("zzz", []) is None


def test_a_choice_names_the_words():
    """The message lists the choices, with the nearest one if there is one."""
    with pytest.raises(UsageError, match='rows is \'lasst\': expected "last" or "all"') as caught:
        names.check_choice("lasst", "rows", ("last", "all"))

    assert caught.value.hint == "did you mean last?"
    with pytest.raises(UsageError, match="rows is None"):
        names.check_choice(None, "rows", ("last", "all"))


def test_symbols_are_a_list_of_names():
    """Duplicates are removed and the order is kept; a single text is one symbol."""
    assert names.read_symbols(["ETHUSDT", "BTCUSDT", "ETHUSDT"]) == ("ETHUSDT", "BTCUSDT")
    assert names.read_symbols("BTCUSDT") == ("BTCUSDT",)
    wrong = {
        "symbols is None": None,
        "symbols is 5": 5,
        "of type dict": {"A": 1},
        "symbols is empty": [],
        "5 is not": [5],
    }
    for message, symbols in wrong.items():
        with pytest.raises(UsageError, match=message):
            names.read_symbols(symbols)
