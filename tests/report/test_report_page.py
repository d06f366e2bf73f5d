"""The report of a version: whole from its files, safe whatever they hold, honest about what they do not tell."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.card.validation import check_card
from mltrain.errors import InputError
from mltrain.report.facts import commands, limits, percent_text
from mltrain.report.index import render_index
from mltrain.report.material import Material, read_material
from mltrain.report.page import MAX_REPORT_BYTES, REPORT_FILE, draft_report
from mltrain.store.listing import read_version_card
from mltrain.store.store import Store

EXAMPLE = json.loads((Path(__file__).parents[1] / "data" / "example_card.json").read_bytes())
HOSTILE = "\"'></style><script>alert(1)</script><img src=//x.example onerror=alert(2)>"
VOID = {"meta", "link", "img", "br"}  # of HTML; what SVG has none of ends with "/>"
SECTIONS = (
    *("intervals", "baselines", "calibration", "gates", "splits", "evidence", "lineage", "search", "looks"),
    *("data_quality", "metrics", "latency_ms", "feature_importance", "train"),
)
JUNK = st.sampled_from(
    [None, True, -1, 0, 10**400, 1e300, "", HOSTILE, [], {}, [[]], [{}], {"a": {"b": []}}, [None, 1]]
)


class Page(HTMLParser):
    """Every element of a page, and whether it is closed in order."""

    def __init__(self, data):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(data.decode())
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]


@pytest.fixture(scope="module")
def version(trained_dir):
    return Store(trained_dir).open_version("best")


@pytest.fixture(scope="module")
def stored(version):
    return version.read(REPORT_FILE, max_bytes=2_000_000)


@pytest.fixture(scope="module")
def full_card(version):
    return read_version_card(version).document


def drawn(card, name="2025-10-15"):
    return draft_report(Material(card, None, None)).finish(name)


def example(**sections):
    return copy.deepcopy(EXAMPLE) | sections


def test_a_report_can_be_computed_from_the_files_again(version, full_card, stored):
    """Drawn from the stored card and tables it is the page that the training wrote, to the last byte."""
    assert draft_report(read_material(version, full_card)).finish(version.name) == stored


def test_the_manifest_vouches_for_the_report_and_the_card_does_not(version, full_card):
    """It is one of the version's files; the card, which it shows, cannot name it."""
    assert version.manifest.entry(REPORT_FILE) is not None
    assert REPORT_FILE not in {a["path"] for a in full_card["artifacts"]}
    assert version.verify() == ()


def test_the_page_needs_nothing_else(stored):
    """No script, no address, no file of another: links lead into the page, and it is small."""
    page = Page(stored)
    addresses = [a[key] for _, a in page.elements for key in ("src", "href", "xlink:href", "action") if key in a]
    ids = [a["id"] for _, a in page.elements if "id" in a]

    assert len(stored) < 400_000
    assert not page.all("script", "iframe", "object", "embed", "form", "img")
    assert all(a == "data:," or a.removeprefix("#") in ids for a in addresses)
    assert b"url(" not in stored
    assert b"@import" not in stored
    assert not any(key.startswith("on") for _, a in page.elements for key in a)


def test_the_page_can_be_read_aloud(stored):
    """Every figure has a name, a description and a sentence on how to read it; headings go down step by step."""
    page = Page(stored)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    figures = [a for a in page.all("svg") if a.get("role") == "img"]
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3"}]

    assert len(set(ids)) == len(ids)
    assert len(figures) >= 14  # a search of two trials has no figure of its parameters
    assert all(set(a["aria-labelledby"].split()) <= set(ids) for a in figures)
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(figures)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_page_says_what_the_card_says(version, full_card, stored):
    """Verdict, gates, figures, hashes and the version's own name stand on it as the card has them."""
    text = Page(stored).text

    assert f"{full_card['gates']['verdict']} All" in text
    assert all(o["reason"] in text and o["target"] in text for o in full_card["gates"]["outcomes"])
    assert percent_text(full_card["metrics"]["accuracy"]) in text
    assert f"{full_card['metrics']['auc_roc']:.4f}" in text
    assert all(a["sha256"] in text for a in full_card["artifacts"])
    assert full_card["lineage"]["registry_sha256"] in text
    assert f"mltrain verify model {version.name} --retrain" in text
    assert all(f["name"][:19] in text for f in full_card["feature_importance"][:10])
    assert full_card["notes"] in text


def test_a_card_of_the_required_fields_alone_has_a_page(publish):
    """What another tool's card does not tell is left out, each thing with the reason; nothing is made up."""
    version = publish()
    page = draft_report(read_material(version, read_version_card(version).document)).finish(version.name)
    text = Page(page).text

    assert "No verdict" in text
    assert text.count("is not shown:") >= 8
    assert "the card does not say where the time range was cut" in text
    assert "The card has no intervals" in text
    assert "54.12 %" in text
    assert "nan" not in text.lower()


def test_an_index_without_curves_explains_none(publish, tmp_path):
    """Of a version that keeps no rows and no report nothing says how to read its curve or where its name leads."""
    version = publish()
    store = Store(version.folder.parents[1])
    page = render_index(store, beside=tmp_path).decode()
    (version.folder / "model_card.json").write_bytes(b"{}")
    damaged = render_index(store, beside=tmp_path).decode()

    assert "rows not kept" in page
    assert "The last column" not in page
    assert "From the oldest version" in page
    assert "Over time" not in damaged
    assert "From the oldest version" not in damaged


def test_a_card_that_names_the_holdout_alone_has_a_page(full_card):
    """Without the block before it there is no gap to draw."""
    blocks = [block for block in full_card["splits"]["blocks"] if block["name"] == "holdout"]
    page = drawn(full_card | {"splits": {"blocks": blocks}}).decode()

    assert 'id="splits-title"' in page


def test_nothing_in_a_card_becomes_markup(full_card):
    """Symbols, notes, names, warnings and guards' words of an attacker are text, and no element or attribute."""

    def poison(value):
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return f"{HOSTILE}{value}" if isinstance(value, str) else value

    poisoned = poison(full_card) | {"gates": {**poison(full_card["gates"]), "verdict": "GO"}}
    poisoned["metrics"]["per_symbol"] = {f"{HOSTILE}{k}": v for k, v in full_card["metrics"]["per_symbol"].items()}
    page = Page(drawn(poisoned))

    assert not page.all("script", "img")
    assert page.text.count("alert(1)") > 50
    assert not any("onerror" in a for _, a in page.elements)


@settings(max_examples=30)
@given(
    section=st.sampled_from(SECTIONS),
    data=st.data(),
)
def test_whatever_a_valid_card_holds_there_is_a_page(full_card, section, data):
    """A card that the schema passes never ends a report, whatever stands in what the schema leaves open."""
    changed = copy.deepcopy(full_card)
    at, key = changed, section
    while isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
        at = at[key]
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    at[key] = data.draw(JUNK)
    if check_card(json.dumps(changed).encode(), where="card").passed:
        Page(drawn(changed))


def test_gaps_are_drawn_where_they_are(full_card):
    """A gap is marked on the time line with its length, and told in the description."""
    changed = copy.deepcopy(full_card)
    symbol = changed["data_quality"]["symbols"][0]
    symbol |= {
        "holes": 1,
        "missing_candles": 7,
        "largest_holes": [{"from": symbol["first"], "to": symbol["first"], "missing": 7}],
    }
    page = drawn(changed).decode()

    assert "7 missing from" in page
    assert "1 gap, 7 missing" in page
    assert 'class="mark fill bad" x1="1.000%"' in page


def test_commands_can_be_pasted_whatever_the_card_holds(full_card):
    """The snapshot's command asks for the very snapshot again, and what an attacker wrote stays one quoted word."""
    honest = [shlex.split(line) for line, _ in commands(full_card, "2025-10-15")]
    changed = copy.deepcopy(full_card)
    evil = "x; rm -rf ~ $(id)"
    changed["train"]["symbols"] = [evil]
    changed["lineage"]["source"] |= {"name": evil, "signal": evil}
    changed["calibration"]["requested"] = evil
    poisoned = [shlex.split(line) for line, _ in commands(changed, "2025-10-15")]

    assert " ".join(honest[3]) == (
        "mltrain snapshot --source sim --days 6 --symbols BTCUSDT,ETHUSDT --end 2025-10-15T12:00:00Z --interval 1m "
        "--sim-seed 0 --sim-signal strong"
    )
    assert [len(words) for words in poisoned] == [len(words) for words in honest]
    assert sum(words.count(evil) for words in poisoned) == 4


def test_a_hundred_symbols_with_a_hundred_gaps_can_be_mailed(full_card):
    """However many symbols, gaps and trials there are, the page stays under its size, and says what it leaves out."""
    changed = copy.deepcopy(full_card)
    (symbol, *_), (score, *_) = changed["data_quality"]["symbols"], changed["metrics"]["per_symbol"].values()
    names = [f"COIN{k}USDT" for k in range(100)]
    gaps = [{"from": symbol["first"], "to": symbol["last"], "missing": k + 1} for k in range(100)]
    each = {"holes": 5_000, "missing_candles": 5_050, "largest_holes": gaps}
    changed["data_quality"]["symbols"] = [{**symbol, **each, "symbol": name} for name in names]
    changed["metrics"]["per_symbol"] = {name: {**score, "symbol": name} for name in names}
    rng = np.random.default_rng(0)
    params = {f"parameter_{k}": rng.random(2_000) for k in range(8)}
    trials = pl.DataFrame(
        {"number": range(2_000), "state": "complete", "log_loss": 0.69 - rng.random(2_000) / 100, "rounds": 9, **params}
    )
    page = draft_report(Material(changed, None, trials)).finish("2025-10-15")

    assert len(page) < MAX_REPORT_BYTES * 0.75
    assert b"Only the 30 largest gaps of a symbol are drawn. 60 more symbols are in the table below." in page


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"gates": {"verdict": "NO-GO", "outcomes": [{"name": "skill", "outcome": "failed"}]}}, "Not for use at all"),
        ({"lineage": {"source": {"name": "sim"}}}, "Not for any real market"),
        ({"looks": {"earlier": 3}}, "3 in all"),
        ({"splits": {"fitted_on": "all", "blocks": []}}, "fitted without the holdout"),
        ({"gates": {"verdict": "GO", "outcomes": [], "loosened": [{"name": "ece_max", "packaged": 0.1, "used": 0.5}]}},
         "ece max was loosened to 0.5"),
        ({"data_quality": {"warnings": ["x is constant"]}}, "Warning in training: x is constant"),
    ],
)  # fmt: skip
def test_every_weakness_that_the_card_tells_is_a_limit(sections, told):
    """Each doubt that the card allows stands among the limits, and not without that section."""
    assert any(told in limit for limit in limits(example(**sections)))
    assert not any(told in limit for limit in limits(example()))


def test_a_changed_table_is_refused(version, tmp_path):
    """A holdout that is not the one that was published is an error with its name, never a figure."""
    folder = tmp_path / "data" / "models" / version.name
    shutil.copytree(version.folder, folder)
    data = bytearray((folder / "holdout.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "holdout.parquet").write_bytes(data)
    changed = Store(tmp_path / "data").open_version(version.name)

    with pytest.raises(InputError, match=r"holdout\.parquet is not the file that was published"):
        read_material(changed, read_version_card(changed).document)
