"""The check of the model text: LightGBM's own texts pass, damaged ones are refused before LightGBM sees them."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from mltrain.artifact.model_text import check_model_text
from mltrain.errors import InputError
from mltrain.training.lightgbm_import import import_lightgbm

FEATURES = ("ret_1", "rsi_14", "flat", "gap")
LOADER = """
import json, sys
import lightgbm, numpy
rows = numpy.random.default_rng(1).normal(size=(20, 4))
for text in json.load(sys.stdin):
    try:
        lightgbm.Booster(model_str=text).predict(rows, num_threads=1)
    except lightgbm.basic.LightGBMError:
        pass
"""


def train(**params):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(500, len(FEATURES))).astype(np.float32)
    x[:, 2] = 1.0
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=500) > 0
    lightgbm = import_lightgbm()
    fixed = {"objective": "binary", "verbosity": -1, "num_threads": 1, "deterministic": True, "force_col_wise": True}
    data = lightgbm.Dataset(x, y, feature_name=list(FEATURES))
    return lightgbm.train(fixed | {"num_leaves": 6} | params, data, 5).model_to_string()


@pytest.fixture(scope="module")
def text():
    return train()


def check(text):
    return check_model_text(text, where="lgbm.pkl")


def replace_once(text, pattern, replacement):
    changed, count = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
    assert count == 1
    return changed


def test_a_trained_model_passes(text):
    """The text of a trained model passes, and its features are returned in order."""
    assert check(text) == FEATURES


CONSTRAINED = {"monotone_constraints": [1, 0, 0, -1], "interaction_constraints": [[0, 1], [2, 3]]}


@pytest.mark.parametrize("params", [CONSTRAINED, {"boosting": "dart", "drop_rate": 0.9, "skip_drop": 0.0}])
def test_a_model_with_constraints_or_of_dart_passes(params):
    """Its text passes: with constraints, it has one line more in the head, and lists of columns in the parameters."""
    text = train(**params)

    assert check(text) == FEATURES
    assert ("\nmonotone_constraints=1 0 0 -1\n" in text) == (params is CONSTRAINED)
    assert ("\n[interaction_constraints: [0,1],[2,3]]\n" in text) == (params is CONSTRAINED)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"^(monotone_constraints)=1 0 0 -1", r"\1=1 0 0", "head: monotone_constraints is not 4 numbers"),
        (r"^(monotone_constraints)=1 0 0 -1", r"\1=1 0 0 2", "head: monotone_constraints are not all -1, 0 or 1"),
        (r"^(monotone_constraints=.*)\n(feature_infos=.*)", r"\2\n\1", "head: has 'feature_infos' instead of monotone"),
        (r"^\[(interaction_constraints): .*", r"[\1: [0,1],[2,x]]", "the part after the trees"),
        (r"^\[(interaction_constraints): .*", r"[\1: [0,1],[2,[3]]]", "the part after the trees"),
    ],
)
def test_damaged_constraints_are_named(pattern, replacement, message):
    """A wrong line of constraints is refused like any other."""
    with pytest.raises(InputError, match=re.escape(message)):
        check(replace_once(train(**CONSTRAINED), pattern, replacement))


def test_a_tree_of_one_leaf_passes():
    """A model that found no split, one tree of one leaf, is valid."""
    text = train(min_gain_to_split=1e9)

    assert "num_leaves=1\n" in text
    assert check(text) == FEATURES


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"^tree$", "three", "head: begins with 'three'"),
        (r"^version=v4", "version=v3", "head: version"),
        (r"^num_class=1", "num_class=2", "head: num_class"),
        (r"^objective=.*", "objective=regression", "head: objective"),
        (r"^max_feature_idx=3", "max_feature_idx=4", "head: feature_names"),
        (r"^max_feature_idx=3", "max_feature_idx=3 3", "head: max_feature_idx"),
        (r"^feature_names=ret_1 rsi_14", "feature_names=ret_1 ret_1", "head: feature_names"),
        (r"^feature_names=ret_1", "feature_names=RET:1", "head: feature_names"),
        (r"^feature_infos=\S+", "feature_infos=[0:nan]", "head: feature_infos"),
        (r"^feature_infos=\S+ ", "feature_infos=", "head: feature_infos"),
        (r"^tree_sizes=[0-9]+", "tree_sizes=0", "head: tree_sizes"),
        (r"^tree_sizes=[0-9]+", "tree_sizes=17", "tree 0: is not where"),
        (r"^tree_sizes=[0-9]+ ", "tree_sizes=", "tree 0: is not where"),
        (r"^Tree=1$", "Tree=2", "tree 1: is not where"),
        (r"^num_leaves=6", "num_leaves=7", "tree 0: leaf_value"),
        (r"^num_leaves=6", "num_leaves=0", "tree 0: num_leaves"),
        (r"^num_cat=0", "num_cat=1", "tree 0: num_cat"),
        (r"^is_linear=0", "is_linear=1", "tree 0: is_linear"),
        (r"^split_feature=[0-9]", "split_feature=9", "tree 0: split_feature"),
        (r"^split_feature=[0-9]", "split_feature=-1", "tree 0: split_feature|not where"),
        (r"^decision_type=2", "decision_type=1", "tree 0: decision_type"),
        (r"^left_child=[0-9]", "left_child=5", "tree 0: left_child and right_child"),
        (r"^left_child=[0-9]", "left_child=0", "tree 0: left_child and right_child"),
        (r"^leaf_count=[0-9]", "leaf_count=-", "tree 0: leaf_count"),
        (r"^leaf_count=[0-9]", "leaf_count=x", "tree 0: leaf_count"),
        (r"^threshold=-?[0-9]\.[0-9]{4}", "threshold=inf   ", "tree 0: threshold|not where"),
        (r"^leaf_value=-?[0-9]\.[0-9]{3}", "leaf_value=nan ", "tree 0: leaf_value|not where"),
        (r"^shrinkage=1", "shrinkage=x", "tree 0: shrinkage"),
        (r"^end of trees", "end of tries", "the part after the trees"),
        (r"^\[seed: ", "[seed\\\\: ", "the part after the trees"),
        (r"^\[data: ", '[data: "]{', "the part after the trees"),
        (r"^pandas_categorical:null", "pandas_categorical:[[1]]", "the part after the trees"),
        (r"^feature_names=ret_1", "feature_names=r\u00e9t_1", "outside ASCII"),
    ],
)
def test_a_damaged_line_is_named(text, pattern, replacement, message):
    """One wrong line is refused with the file, the tree and the key."""
    with pytest.raises(InputError, match=rf"^lgbm\.pkl: .*(?:{message})") as caught:
        check(replace_once(text, pattern, replacement))

    assert "verify" in caught.value.hint


def test_numbers_too_large_are_refused():
    """A number that overflows a double or 32 bits is refused."""
    sized = train(max_depth=1, num_leaves=2)
    start = sized.index("Tree=0")
    first = sized[start : sized.index("Tree=1")]
    for pattern, huge in (
        (r"^threshold=\S+", "threshold=1e999"),
        (r"^internal_count=\S+", "internal_count=4294967297"),
    ):
        block = replace_once(first, pattern, huge)
        damaged = sized.replace(first, block).replace(f"tree_sizes={len(first)}", f"tree_sizes={len(block)}")

        with pytest.raises(InputError, match=r"tree 0: (threshold is not finite|internal_count does not fit)"):
            check(damaged)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_text_cut_short_is_refused(text, keep):
    """No proper prefix of a model text passes."""
    with pytest.raises(InputError):
        check(text[: int(len(text) * keep)])


def mutate(text, rng):
    at = rng.randrange(len(text))
    kind = rng.randrange(5)
    if kind == 0:
        return text[:at] + rng.choice("0123456789-. =\nxe") + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at + rng.randrange(1, 40) :]
    if kind == 2:
        return text[:at] + text[at : at + rng.randrange(1, 40)] + text[at:]
    if kind == 3:
        return text[:at]
    digits = [i for i in range(text.index("Tree=0"), text.index("end of trees")) if text[i].isdigit()]
    at = rng.choice(digits)
    return text[:at] + rng.choice("0123456789") + text[at + 1 :]


def test_what_passes_never_ends_the_process(text):
    """Of a thousand mutations, those that pass the check are loaded and scored without a crash."""
    rng = random.Random(20251015)  # noqa: S311 -- mutations, not secrets
    passed = []
    for _ in range(1_000):
        damaged = mutate(text, rng)
        try:
            check(damaged)
        except InputError:
            continue
        passed.append(damaged)

    done = subprocess.run(
        [sys.executable, "-c", LOADER],
        input=json.dumps(passed),
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert 20 <= len(passed) <= 500
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("again", [False, True], ids=["trained", "loaded and written again"])
def test_a_tree_of_one_leaf_is_a_tree(again):
    """LightGBM writes trees of one leaf with a weight after training and without one after loading: both pass."""
    text = train(min_data_in_leaf=1_000)
    if again:
        text = import_lightgbm().Booster(model_str=text).model_to_string()

    assert "num_leaves=1\n" in text
    assert check(text) == FEATURES
