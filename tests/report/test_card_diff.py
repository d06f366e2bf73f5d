"""The comparison of two cards, and the index of all versions."""

from __future__ import annotations

import copy
import dataclasses
import html
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.card.model_card import ModelCard
from mltrain.report.card_diff import compare_cards, compare_versions, describe_paired_loss, render_diff
from mltrain.report.index import render_index
from mltrain.report.paired import pair_holdouts
from mltrain.report.version_data import read_holdout
from mltrain.store.listing import read_version_card
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store

NAMES = ("2025-10-14", "2025-10-15")


@pytest.fixture(scope="module")
def version(trained_dir):
    return Store(trained_dir).open_version("best")


@pytest.fixture(scope="module")
def card(version):
    return read_version_card(version).document


def places(value, path=()):
    """Yield the path of every plain value that is compared."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key not in {"seconds", "histogram", "reliability", "reliability_before", "checks", "load_average"}:
            yield from places(item, (*path, key))
    if not isinstance(value, dict | list):
        yield path


def test_a_card_does_not_differ_from_itself(card):
    """A copy whose lists of named items are in another order has no differences."""
    other = copy.deepcopy(card)
    other["feature_importance"].reverse()
    other["artifacts"].reverse()

    assert compare_cards(ModelCard(card), ModelCard(other), names=NAMES).differences == ()
    assert compare_cards(ModelCard(card), ModelCard(other), names=NAMES).same_holdout is True


@settings(max_examples=60)
@given(data=st.data())
def test_every_change_is_found_and_no_other(card, data):
    """Changing any one value gives exactly one difference, in its section, with both values."""
    path = data.draw(st.sampled_from([p for p in places(card) if p[-1] not in {"name", "symbol", "path"}]))
    other = copy.deepcopy(card)
    at = other
    for step in path[:-1]:
        at = at[step]
    before, at[path[-1]] = at[path[-1]], "something else"
    (found,) = compare_cards(ModelCard(card), ModelCard(other), names=NAMES).differences

    assert found.section == path[0]
    assert "something else" in str(found.b)
    assert found.a == before or str(before) in str(found.a)
    assert found.change is None


def test_better_knows_which_way_is_up(card):
    """A higher accuracy and a lower loss are better; equal values are neither."""
    other = copy.deepcopy(card)
    other["metrics"] |= {"accuracy": 0.9, "log_loss": 9.0}
    pairs = {m.name: m for m in compare_cards(ModelCard(card), ModelCard(other), names=NAMES).metrics}

    assert (pairs["accuracy"].better, pairs["log_loss"].better, pairs["f1"].better) == ("b", "a", None)
    assert pairs["accuracy"].change == pytest.approx(0.9 - card["metrics"]["accuracy"])


def test_losses_are_compared_on_the_same_rows(version, card):
    """On the same rows the difference of the losses has an interval; on other rows there is none."""
    found = compare_versions(version, version)
    rows = read_holdout(version, ModelCard(card))
    better = dataclasses.replace(rows, loss=rows.loss - 0.01)
    worse = dataclasses.replace(rows, ts_ms=rows.ts_ms + 60_000)

    assert (found.diff.paired.value, found.diff.paired.low, found.diff.paired.high) == (0, 0, 0)
    common = pair_holdouts(rows, better)
    assert common.whole.difference.low == pytest.approx(0.01)
    assert pair_holdouts(rows, worse) is None
    line = describe_paired_loss(
        dataclasses.replace(found.diff, a="x", b="y", paired=common.whole.difference, common=common)
    )
    assert line.startswith(f"On the same {rows.y.size:,} rows y has the lower log loss, surely")


def test_the_rows_of_both_holdouts_are_compared_by_symbol_and_week(version, card):
    """Of a version that lacks the first rows; the average of two is as good as both where they are the same."""
    rows = read_holdout(version, ModelCard(card))
    later = slice(rows.y.size // 3, None)
    fewer = dataclasses.replace(
        rows, **{name: getattr(rows, name)[later] for name in ("ts_ms", "symbol", "y", "last_move", "p", "loss")}
    )
    common = pair_holdouts(rows, fewer)

    assert common.whole.rows == fewer.y.size
    assert common.whole.a == common.whole.b == pytest.approx(fewer.loss.mean())
    assert (common.agreement, common.average_log_loss) == (1, pytest.approx(fewer.loss.mean()))
    for parts in (common.symbols, common.weeks):
        assert sum(part.rows for part in parts) == fewer.y.size
        assert sum(part.rows * part.a for part in parts) / fewer.y.size == pytest.approx(common.whole.a)
    opposite = dataclasses.replace(fewer, p=1 - fewer.p, loss=fewer.loss + 0.5)
    assert pair_holdouts(rows, opposite).agreement < 0.02
    assert pair_holdouts(rows, opposite).average_log_loss == pytest.approx(np.log(2))


def test_the_page_of_a_comparison_shows_both(version, card):
    """The page shows both names, the main metrics and the figures."""
    page = render_diff(compare_versions(version, version)).decode()

    assert page.count(version.name) > 10
    assert "Nothing: the two cards are the same." in page
    assert f"{card['metrics']['log_loss']:.5f}" in page
    assert len(re.findall(r'role="img"', page)) == 5


def test_the_index_links_to_every_report(version, tmp_path):
    """Links are relative to the page's folder and lead to existing files."""
    store = Store(version.folder.parents[1])
    page = render_index(store, folder=store.data_dir).decode()
    links = [html.unescape(link) for link in re.findall(r'<a href="([^"]+)"', page)]

    assert links == [f"models/{version.name}/report.html"]
    assert (store.data_dir / links[0]).is_file()
    assert "live</span>" in page
    assert len(re.findall(r'role="img"', page)) == 5
    assert "There is no version yet" in render_index(Store(tmp_path), folder=tmp_path).decode()


def test_the_index_has_a_table_and_a_trend_per_slot(data_dir):
    """The figures of one market are not drawn as a trend with those of another."""
    store = Store(data_dir)
    best = store.open_version("best")
    files = {entry.path: best.read(entry.path, max_bytes=1 << 26) for entry in best.manifest.files}
    publish_version(store.in_slot("btc"), files, verdict="GO", date="2025-10-16", now_ms=0)
    page = render_index(store, folder=data_dir).decode()

    assert [title for title in re.findall(r"<h2>([^<]+)</h2>", page) if "Versions" in title] == [
        "Versions in slot btc",
        "Versions in slot lgbm",
    ]
    assert page.count("the only version") == 8
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(set(ids)) == len(ids)


def test_the_index_names_damage(data_dir):
    """A version with a changed card keeps its row, with the problem in place of its metrics."""
    folder = Store(data_dir).open_version("best").folder
    (folder / "model_card.json").write_bytes(b"{}")
    page = render_index(Store(data_dir), folder=data_dir).decode()

    assert folder.name in page
    assert "is not the file that was published" in page


def test_intervals_that_are_not_drawn_are_not_explained(version, card):
    """The note on overlapping intervals appears only with figures that have intervals."""
    found = compare_versions(version, version)
    bare = ModelCard({key: value for key, value in card.items() if key != "intervals"})

    assert "Intervals that overlap" in render_diff(found).decode()
    assert "Intervals that overlap" not in render_diff(dataclasses.replace(found, cards=(bare, bare))).decode()


def test_gains_end_where_the_card_says(version, card):
    """The total gain agrees with the card's log-loss skill, and the mean loss with its log loss."""
    rows = read_holdout(version, ModelCard(card))
    skill = card["baselines"]["log_loss_skill"]["value"]

    assert np.sum(rows.base_loss - rows.loss) / np.sum(rows.base_loss) == pytest.approx(skill)
    assert rows.loss.mean() == pytest.approx(card["metrics"]["log_loss"])
