"""The grammar of names: what may become a path, and what never does."""

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
def test_sound_names_pass_unchanged(check):
    """A name inside its grammar comes back as it is."""
    for name in CHECKS[check][1]:
        assert check(name) == name


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n)[:30])
def test_hostile_names_are_usage_errors_of_bounded_length(check, name):
    """Traversal, options, look-alike digits, line ends and 10 kB of anything are refused in one printable line."""
    with pytest.raises(UsageError) as caught:
        check(name)

    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 200
    assert caught.value.hint


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_whatever_passes_is_one_plain_path_segment(check):
    """No name that any check lets through can leave a folder, hide in it or look like an option."""
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
    """Whatever a name holds, a message repeats it in at most 45 printable characters."""
    shown = names.show(name)

    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 45


def test_the_nearest_names_come_best_first_whatever_their_case():
    """A typo finds its name; names that look nothing like it are left out."""
    known = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRP"]

    assert names.nearest("btcusd", known)[0] == "BTCUSDT"
    assert "XRP" not in names.nearest("btcusd", known)
    assert names.nearest("x" * 100_000, known) == []


def test_without_a_near_name_few_known_ones_are_listed_and_many_are_not():
    """A short list helps, a long one does not."""
    assert names.did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert names.did_you_mean("zzz", [f"name{i}" for i in range(13)]) is None
    assert names.did_you_mean("zzz", []) is None


def test_a_choice_names_the_words():
    """With the nearest one, where there is one."""
    with pytest.raises(UsageError, match='rows is \'lasst\': expected "last" or "all"') as caught:
        names.check_choice("lasst", "rows", ("last", "all"))

    assert caught.value.hint == "did you mean last?"
    with pytest.raises(UsageError, match="rows is None"):
        names.check_choice(None, "rows", ("last", "all"))


def test_symbols_are_a_list_of_names():
    """Without repetition, in order; a text alone is one of them."""
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
