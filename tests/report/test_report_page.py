"""The report of a version: reproducible from its files, safe for any content, and explicit about missing parts."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import check_card
from mltrain.errors import InputError
from mltrain.report.index import render_index
from mltrain.report.model_plots import draw_moves, draw_parts, draw_reliability
from mltrain.report.page import MAX_REPORT_BYTES, REPORT_FILE, draft_report
from mltrain.report.texts import describe_economics, format_percent, list_commands, list_limits
from mltrain.report.version_data import Material, read_material
from mltrain.store.listing import read_version_card
from mltrain.store.store import Store
from support.pages import HOSTILE, Page

EXAMPLE = json.loads((Path(__file__).parents[1] / "data" / "example_card.json").read_bytes())
SECTIONS = (
    *("intervals", "baselines", "calibration", "gates", "splits", "evidence", "lineage", "search", "looks"),
    *("data_quality", "metrics", "latency_ms", "feature_importance", "train"),
)
JUNK = st.sampled_from(
    [None, True, -1, 0, 10**400, 1e300, "", HOSTILE, [], {}, [[]], [{}], {"a": {"b": []}}, [None, 1]]
)


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
    return draft_report(Material(ModelCard(card), None, None)).finish(name)


def example(**sections):
    return copy.deepcopy(EXAMPLE) | sections


def test_a_report_can_be_reproduced_from_the_files(version, full_card, stored):
    """Drawn from the stored card and tables, the report has the bytes that the training wrote."""
    assert draft_report(read_material(version, ModelCard(full_card))).finish(version.name) == stored


def test_the_manifest_lists_the_report_and_the_card_does_not(version, full_card):
    """The report's hash is in the manifest; the card, which the report shows, cannot contain it."""
    assert version.manifest.entry(REPORT_FILE) is not None
    assert REPORT_FILE not in {a["path"] for a in full_card["artifacts"]}
    assert version.verify() == ()


def test_the_page_is_self_contained(stored):
    """The page has no scripts and loads nothing; its links stay inside it, and it is small."""
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
    """Every figure has a name, a description and a caption; headings descend step by step."""
    page = Page(stored)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    figures = [a for a in page.all("svg") if a.get("role") == "img"]
    levels = [int(tag[1]) for tag, _ in page.elements if tag in {"h1", "h2", "h3"}]

    assert len(set(ids)) == len(ids)
    # A search of two trials has no figures of hyperparameters.
    assert len(figures) >= 14
    assert all(set(a["aria-labelledby"].split()) <= set(ids) for a in figures)
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(figures)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_page_says_what_the_card_says(version, full_card, stored):
    """The page shows the card's verdict, gates, metrics and hashes, and the version's name."""
    text = Page(stored).text

    assert f"{full_card['gates']['verdict']} All" in text
    assert all(o["reason"] in text and o["target"] in text for o in full_card["gates"]["outcomes"])
    assert format_percent(full_card["metrics"]["accuracy"]) in text
    assert f"{full_card['metrics']['auc_roc']:.4f}" in text
    assert all(a["sha256"] in text for a in full_card["artifacts"])
    assert full_card["lineage"]["registry_sha256"] in text
    assert f"mltrain verify model {version.name} --retrain" in text
    assert all(f["name"][:19] in text for f in full_card["feature_importance"][:10])
    assert full_card["notes"] in text


def test_a_card_with_only_the_required_fields_has_a_page(publish):
    """Each figure that another tool's card does not allow is replaced by the reason."""
    version = publish()
    page = draft_report(read_material(version, read_version_card(version))).finish(version.name)
    text = Page(page).text

    assert "No verdict" in text
    assert text.count("is not shown:") >= 8
    assert "the card does not say where the time range was cut" in text
    assert "The card has no intervals" in text
    assert "54.12%" in text
    assert "nan" not in text.lower()


def test_an_index_without_curves_does_not_explain_them(publish, tmp_path):
    """Notes on curves and links appear only if a version has them."""
    version = publish()
    store = Store(version.folder.parents[1])
    page = render_index(store, folder=tmp_path).decode()
    (version.folder / "model_card.json").write_bytes(b"{}")
    damaged = render_index(store, folder=tmp_path).decode()

    assert "rows not kept" in page
    assert "The last column" not in page
    assert "From the oldest version" in page
    assert "Over time" not in damaged
    assert "From the oldest version" not in damaged


def test_a_card_with_only_the_holdout_block_has_a_page(full_card):
    """Without the block before the holdout there is no purge to draw."""
    blocks = [block for block in full_card["splits"]["blocks"] if block["name"] == "holdout"]
    page = drawn(full_card | {"splits": {"blocks": blocks}}).decode()

    assert 'id="splits-title"' in page


def test_nothing_in_a_card_becomes_markup(full_card):
    """Hostile symbols, notes, names, warnings and evidence are shown as text, never as elements or attributes."""

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
def test_every_valid_card_has_a_page(full_card, section, data):
    """Any value in the sections that the schema leaves open still gives a page."""
    changed = copy.deepcopy(full_card)
    at, key = changed, section
    while isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
        at = at[key]
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    at[key] = data.draw(JUNK)
    if check_card(json.dumps(changed).encode(), where="card").passed:
        Page(drawn(changed))


def test_gaps_are_drawn_where_they_are(full_card):
    """A gap is marked on the strip with its length, and counted in the description."""
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


def test_commands_can_be_pasted_safely(full_card):
    """The snapshot's command requests the same snapshot, and each hostile value stays one quoted word."""
    honest = [shlex.split(line) for line, _ in list_commands(ModelCard(full_card), "2025-10-15")]
    changed = copy.deepcopy(full_card)
    evil = "x; rm -rf ~ $(id)"
    changed["train"]["symbols"] = [evil]
    changed["lineage"]["source"] |= {"name": evil, "signal": evil}
    changed["calibration"]["requested"] = evil
    poisoned = [shlex.split(line) for line, _ in list_commands(ModelCard(changed), "2025-10-15")]

    assert " ".join(honest[3]) == (
        "mltrain snapshot --source sim --days 6 --symbols BTCUSDT,ETHUSDT --end 2025-10-15T12:00:00Z --interval 1m "
        "--sim-seed 0 --sim-signal strong"
    )
    assert [len(words) for words in poisoned] == [len(words) for words in honest]
    assert sum(words.count(evil) for words in poisoned) == 4


def test_a_hundred_symbols_with_a_hundred_gaps_can_be_mailed(full_card):
    """With many symbols, gaps and trials the page stays below its size limit and says what it omits."""
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
    page = draft_report(Material(ModelCard(changed), None, trials)).finish("2025-10-15")

    assert len(page) < MAX_REPORT_BYTES * 0.75
    assert b"Only the 30 largest gaps of a symbol are drawn. 60 more symbols are in the table below." in page


@pytest.mark.parametrize(
    ("sections", "limit"),
    [
        ({"gates": {"verdict": "NO-GO", "outcomes": [{"name": "skill", "outcome": "failed"}]}}, "Not for use at all"),
        ({"lineage": {"source": {"name": "sim"}}}, "Not for any real market"),
        ({"looks": {"earlier": 3}}, "3 in all"),
        ({"splits": {"fitted_on": "all", "blocks": []}}, "fitted without the holdout"),
        ({"gates": {"verdict": "GO", "outcomes": [], "loosened": [{"name": "ece_max", "packaged": 0.1, "used": 0.5}]}},
         "ece max was loosened to 0.5"),
        ({"limits": {"not_in_holdout": ["ETHUSDT"]}}, "Not proven on ETHUSDT: the holdout has no row of this symbol"),
        ({"limits": {"not_in_holdout": ["A", "B"]}}, "Not proven on A, B: the holdout has no row of these symbols"),
        ({"data_quality": {"warnings": ["x is constant"]}}, "Warning in training: x is constant"),
    ],
)  # fmt: skip
def test_every_weakness_in_the_card_is_a_limit(sections, limit):
    """Each weakness in the card is listed among the limits, and only then."""
    assert any(limit in line for line in list_limits(ModelCard(example(**sections))))
    assert not any(limit in line for line in list_limits(ModelCard(example())))


def test_a_changed_table_is_refused(version, tmp_path):
    """A damaged table is an error that names the file."""
    folder = tmp_path / "data" / "models" / version.name
    shutil.copytree(version.folder, folder)
    data = bytearray((folder / "holdout.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "holdout.parquet").write_bytes(data)
    changed = Store(tmp_path / "data").open_version(version.name)

    with pytest.raises(InputError, match=r"holdout\.parquet is not the file that was published"):
        read_material(changed, read_version_card(changed))


def test_the_skill_of_a_symbol_is_that_of_the_gates(version, full_card):
    """Each symbol is compared with its own base rate, so the figure and the table of results agree."""
    card, holdout = ModelCard(full_card), read_material(version, ModelCard(full_card)).holdout
    of_btc = holdout.symbol == "BTCUSDT"
    base_loss = np.where(of_btc, 2 * holdout.base_loss, holdout.base_loss)
    changed = draw_parts(card, replace(holdout, base_loss=base_loss))
    skill = 1 - holdout.loss[of_btc].sum() / base_loss[of_btc].sum()

    for result in full_card["gates"]["symbols"]:
        assert f"{result['symbol']}: {result['log_loss_skill']['value']:+.2%} of" in draw_parts(card, holdout).svg
    assert f"BTCUSDT: {skill:+.2%} of" in changed.svg


@pytest.mark.parametrize(("by_day", "blocks"), [(True, "whole UTC days"), (False, "parts of equal length")])
def test_the_reliability_caption_names_the_blocks_of_its_intervals(version, full_card, by_day, blocks):
    """A holdout of few days is drawn in parts of equal length, and its caption does not claim days."""
    card, holdout = ModelCard(full_card), read_material(version, ModelCard(full_card)).holdout
    shown = draw_reliability(card, replace(holdout, bootstrap=replace(holdout.bootstrap, by_day=by_day)))

    assert f"the lines are intervals over {blocks}" in shown.reading


def economics(high_bps, *, taker_bps=10.0):
    """Return a card with one mean move up to `high_bps`, and a break-even cost of 2 bps (1 to 3)."""
    interval = {"value": 2.0, "low": 1.0, "high": 3.0}
    moves = [{"name": "highest", "rows": 9, "confidence": 0.1, "move_bps": interval | {"high": high_bps}}]
    unknown = {"name": "wild", "rows": 0, "confidence": None, "move_bps": None}
    return ModelCard(
        example(
            economics={
                "open_bps": interval,
                "turnover": 1.0,
                "taker_bps": taker_bps,
                "break_even": interval,
                "break_even_bps": 7.0,
                "by_confidence": moves,
                "by_volatility": [unknown],
            }
        )
    )


def test_moves_are_drawn_over_the_cost_of_a_trade():
    """A cost within three times the moves has a line; a cost further out would press the moves into a corner."""
    near, far = draw_moves(economics(6.7)), draw_moves(economics(6.6))

    assert "marks the cost of two sides at taker fees of 10 bps, 20 bps" in near.reading
    assert "marks no move. The cost of two sides at taker fees of 10 bps, 20 bps, lies far to the right" in far.reading
    assert near.svg.count("<circle") == far.svg.count("<circle") == 1
    assert near.svg.count('class="whisker') == 1
    # In the drawing of a far cost, the line is left of the dot and its whisker.
    line, dot = (float(far.svg.split(mark)[1].split('="')[1].split("%")[0]) for mark in ('"axis" x1', '"dot c1" cx'))
    assert line < dot
    line, end = (float(near.svg.split(mark)[1].split('="')[1].split("%")[0]) for mark in ('"axis" x1', 'c1" x1'))
    assert line > end


def test_a_card_without_moves_says_so():
    """A card of an earlier release has no figure, and its break-even cost in the sentence."""
    old = economics(6.0).document
    for key in ("taker_bps", "break_even", "by_confidence", "by_volatility"):
        del old["economics"][key]

    assert "does not say how far the price moves" in draw_moves(ModelCard(old)).why
    assert "a cost of 7.000 bps per side would leave nothing" in describe_economics(ModelCard(old))


def test_the_economics_say_whether_fees_are_earned():
    """The sentence of the terminal is that of the page."""
    assert describe_economics(economics(6.0)).endswith(
        " sides traded per bar. Not tradable at taker fees of 10 bps per side: it breaks even at 2.00 (1.00 to 3.00)."
    )
    assert describe_economics(economics(6.0, taker_bps=0.5)).endswith(
        ". Breaks even at 2.00 bps per side (1.00 to 3.00), above the taker fees of 0.5."
    )
