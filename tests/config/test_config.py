from __future__ import annotations

import copy
import dataclasses
import json
from typing import get_args

import pytest

from mltrain.config.loading import (
    comment_config,
    explain_config,
    load_config,
    load_halt_config,
    load_operate_config,
    packaged_config,
)
from mltrain.config.train_config import Calibration, IntRange, Rung, study_sha256
from mltrain.documents.records import to_json
from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError, UsageError
from mltrain.storage.hashing import sha256_bytes


@pytest.fixture
def write_config(tmp_path):
    """Return a function that writes a user's configuration file."""

    def write(text):
        path = tmp_path / "own.yml"
        path.write_text(text, "utf-8")
        return path

    return write


DEPTHS = "{low: 3, high: 8, scale: linear, default: 8}"
SHARES = "{low: 0.0, high: 0.5, scale: linear, default: 0.1}"


def refused(path, overrides=None):
    with pytest.raises(InputError) as caught:
        load_config(path, overrides=overrides or {})
    return caught.value.message


def test_the_defaults_are_the_documented_ones():
    """The packaged file loads and has the documented defaults."""
    config = load_config(None, overrides={})

    assert (config.seed, config.val_ratio, config.calibration) == (42, 0.2, "auto")
    assert (config.folds.count, config.folds.start) == (5, 0.5)
    assert (config.search.trials, config.search.early_stop) == (200, 50)
    assert (config.bootstrap.level, config.bench.samples) == (0.9, 1_000)
    assert dataclasses.astuple(config.gates) == (2.0, 1.0, 0.4, 0.6, 0.1, 0.02, 80.0, 0.0001, 0.0005, 10, 0.0)
    assert config.economics.taker_bps == 10.0
    assert (config.guards.auc_warn, config.guards.auc_fail) == (0.7, 0.9)


def test_no_default_is_defined_in_the_code():
    """Defaults are only in train.yml; a field that has one is an option that is off in train.yml and in no document."""
    config = load_config(None, overrides={})
    sections = [config, *(getattr(config, f.name) for f in dataclasses.fields(config))]

    for section in filter(dataclasses.is_dataclass, sections):
        written = to_json(section)
        for field in dataclasses.fields(section):
            if field.default is not dataclasses.MISSING:
                assert getattr(section, field.name) == field.default, field.name
                assert field.name not in written
            if field.default_factory is not dataclasses.MISSING:
                assert getattr(section, field.name) == field.default_factory(), field.name
                assert field.name not in written


def test_options_that_are_off_change_no_hash():
    """With the rungs of the release before these options, configuration and study have the hashes of that release."""
    rungs = [(1, 20, 1), (2, 14, 1), (4, 10, 1), (4, 7, 2), (4, 4, 5)]
    keys = ("at", "most", "folds")
    earlier = [{**dict(zip(keys, rung, strict=True)), "keep": 0.5} for rung in rungs]
    config = load_config(None, overrides={"search.rungs": earlier})

    assert (
        sha256_bytes(canonical_json(config.to_json()))
        == "367f7660803549fb0aefaa6da51f9e75efe2ab70af4f53c88dce1a497cce4a7c"
    )
    assert (
        study_sha256(config, registry_sha256="", warm_start=None)
        == "ef1cb368f1201978825d56e3498fb73da626d2d0dcd83ce3610c057d1b4c45ce"
    )


def test_every_default_has_a_comment():
    """Each key of train.yml is explained in the file."""
    lines = packaged_config("train.yml").read_text("utf-8").splitlines()

    lone = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line.strip()
        and not line.lstrip().startswith(("#", "-"))
        and "#" not in line
        and ": {" not in line
        and not line.rstrip().endswith(":")
        and "#" not in before
    ]
    # Its comment is two lines above.
    assert lone == ["  base_rate_high: 0.6"]


def test_a_users_file_overrides_key_by_key(write_config):
    """Omitted keys keep their defaults, also inside mappings; a list is replaced as a whole."""
    path = write_config("val_ratio: 0.3\nsearch:\n  batch: 4\n  rungs: []\n  space:\n    num_leaves: {high: 64}\n")

    config = load_config(path, overrides={})

    packaged = load_config(None, overrides={})
    assert config == dataclasses.replace(
        packaged,
        val_ratio=0.3,
        search=dataclasses.replace(
            packaged.search,
            batch=4,
            rungs=(),
            space=dataclasses.replace(
                packaged.search.space, num_leaves=dataclasses.replace(packaged.search.space.num_leaves, high=64)
            ),
        ),
    )


OLD_SEARCH = """
search:
  trials: 200
  batch: 8
  early_stop: 50
  settle: 10
  max_rounds: 1000
  rungs:
    - {at: 1, keep: 0.5, most: 20, folds: 1}
    - {at: 4, keep: 0.3, most: 2, folds: 5}
"""


def test_the_search_of_an_older_file_is_still_read(write_config):
    """A file or card from before the minimum per rung keeps its keys and values."""
    search = load_config(write_config(OLD_SEARCH), overrides={}).search

    assert (search.trials, search.batch, search.early_stop, search.settle, search.max_rounds) == (200, 8, 50, 10, 1000)
    assert search.rungs == (Rung(1, 0.5, 20, 1), Rung(4, 0.3, 2, 5))
    assert load_config(None, overrides={"search": to_json(search)}).search == search


def test_options_override_the_file(write_config):
    """Dotted keys reach into mappings; other keys keep the values of the file."""
    path = write_config("seed: 7\nsearch: {trials: 9}\n")

    config = load_config(path, overrides={"search.trials": 3, "val_ratio": 0.4})

    assert (config.seed, config.search.trials, config.val_ratio) == (7, 3, 0.4)
    assert config.search.batch == load_config(None, overrides={}).search.batch


def test_all_violations_come_in_one_message_with_their_lines(write_config):
    """Unknown keys with the nearest known one, wrong types and values out of range, each with file and line."""
    path = write_config(
        "sed: 1\nval_ratio: 0.9\ncalibration: isotonik\nsearch:\n  trails: 5\n  batch: many\n"
        "  space:\n    num_leaves: {low: 99, high: 9}\n    max_depht: 3\ngates: {ece_max: -1}\n"
    )

    lines = refused(path).splitlines()

    assert all(line.startswith(f"{path}: ") for line in lines)
    for part in (
        "sed (line 1): unknown key; did you mean seed?",
        "val_ratio (line 2): must be at most 0.5, is 0.9",
        "calibration (line 3): 'isotonik' is unknown; did you mean isotonic?",
        "search.trails (line 5): unknown key; did you mean trials?",
        "search.batch (line 6): must be an integer",
        "search.space.num_leaves.low (line 8): must not be above high, 9; is 99",
        "search.space.max_depht (line 9): unknown key",
        "gates.ece_max (line 10): must be at least 0, is -1",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed: -1", "at least 0"),
        ("seed: 2147483648", "at most 2147483647"),
        ("seed: 1.5", "an integer"),
        ("folds: {count: 1}", "at least 2"),
        ("folds: 5", "must be a mapping, is 5"),
        ("search: {trials: 0}", "at least 1"),
        (
            "search: {rungs: [{at: 2, keep: 0.5, most: 9, folds: 1}, {at: 2, keep: 0.5, most: 9, folds: 1}]}",
            "must rise",
        ),
        ("search: {rungs: [{at: 2, keep: 0, most: 9, folds: 1}]}", "at least 0.05"),
        ("search: {rungs: [{at: 2, most: 9, folds: 1}]}", "search.rungs[0].keep: is missing"),
        ("search: {space: {lambda_l1: {low: 0}}}", "above 0 on a logarithmic scale"),
        ("search: {space: {learning_rate: {default: 0.5}}}", "default (line 1): must lie from low, 0.03, to high, 0.2"),
        ("search: {space: {num_leaves: {low: 2.5}}}", "an integer"),
        ("search: {space: {num_leaves: {scale: cubic}}}", "'cubic' is unknown"),
        ("booster: {max_bin: 256}", "at most 255"),
        ("booster: {boosting: goss}", "'goss' is unknown"),
        ("booster: {max_depth: 65}", "at most 64"),
        ("booster: {linear_tree: true}", "linear_tree (line 1): unknown key"),
        ("booster: {extra_trees: 1}", "must be true or false, is 1"),
        ("booster: {drop_rate: 0.0}", "drop_rate (line 1): has no effect without boosting: dart"),
        ("booster: {uniform_drop: true}", "uniform_drop (line 1): has no effect"),
        ("booster: {monotone_constraints: {rsi_7: 2}}", "monotone_constraints.rsi_7 (line 1): must be at most 1"),
        ("booster: {monotone_constraints: [rsi_7]}", "must be a mapping"),
        ("booster: {monotone_constraints: {a: 0}, monotone_constraints_method: advanced}", "needs monotone_constr"),
        ("booster: {monotone_constraints: {a: 1}, path_smooth: 2}", "path_smooth (line 1): cannot be used with"),
        ("booster: {interaction_constraints: [[a, b], []]}", "interaction_constraints[1] (line 1): must be a list"),
        ("booster: {interaction_constraints: [[a, a]]}", "must be a list of different features"),
        ("booster: {interaction_constraints: [a]}", "interaction_constraints[0] (line 1): must be a list"),
        ("search: {space: {max_depth: {low: 3, high: 8}}}", "search.space.max_depth.scale: is missing"),
        (f"search: {{space: {{max_depth: {DEPTHS}}}}}\nbooster: {{max_depth: 4}}", "is fixed as well, by booster.max_"),
        ("search: {space: {extra_trees: {low: 0, high: 2, scale: linear, default: 0}}}", "at most 1, is 2"),
        (f"search: {{space: {{drop_rate: {SHARES}}}}}", "has no effect without booster.boosting: dart"),
        (
            f"search: {{space: {{drop_rate: {SHARES}}}}}\nbooster: {{boosting: dart, drop_rate: 0.0}}",
            "search.space.drop_rate (line 1): is fixed as well, by booster.drop_rate",
        ),
        (
            f"search: {{space: {{path_smooth: {SHARES}}}}}\nbooster: {{monotone_constraints: {{a: -1}}}}",
            "search.space.path_smooth (line 1): cannot be used with monotone_constraints",
        ),
        ("class_weight: 0", "at least 0.01"),
        ("class_weight: .inf", "not a finite number"),
        ("class_weight: heavy", "'heavy' is unknown"),
        ("class_weight: [1]", "must be a finite number"),
        ("gates: {base_rate_low: 0.7}", "at most 0.5"),
        ("guards: {auc_warn: 0.95}", "must not be above auc_fail, 0.9; is 0.95"),
        ("val_ratio: .nan", "not a finite number"),
        ("val_ratio: null", "val_ratio (line 1): must be a finite number, is null, and there is no holdout_from"),
        ("holdout_from: 20260101", "holdout_from (line 1): must be a text, is 20260101"),
        ("holdout_from: soon", "holdout_from (line 1): 'soon' is not a time"),
        (
            "seed: 1\nval_ratio: 0.2\nholdout_from: 2026-01-01",
            "holdout_from (line 3): is given with val_ratio: give one",
        ),
        ("seed: 1\nseed: 2", "line 2"),
        ("- 1", "must be a mapping"),
    ],
)
def test_invalid_values_are_refused(write_config, text, part):
    """Each is refused with the expected value; none is clipped or ignored."""
    assert part in refused(write_config(text))


def test_a_pinned_parameter_is_allowed(write_config):
    """Equal ends pin a parameter instead of searching it."""
    config = load_config(write_config("search: {space: {num_leaves: {low: 31, high: 31}}}"), overrides={})

    assert config.search.space.num_leaves == IntRange(31, 31, "log", 31)


def test_a_wrong_option_is_a_usage_error():
    """The message names the option, not a file."""
    with pytest.raises(UsageError, match=r"options: val_ratio: must be at most 0\.5, is 3"):
        load_config(None, overrides={"val_ratio": 3})
    with pytest.raises(UsageError, match=r"options: search\.trails: unknown key; did you mean trials\?"):
        load_config(None, overrides={"search.trails": 3})


def test_a_missing_file_is_named(tmp_path):
    """The defaults are not used in its place."""
    assert str(tmp_path / "none.yml") in refused(tmp_path / "none.yml")


def test_an_empty_file_is_no_configuration(write_config):
    """An empty document is not a mapping; a mapping without keys changes nothing."""
    assert "must be a mapping" in refused(write_config(""))
    assert load_config(write_config("{}"), overrides={}) == load_config(None, overrides={})


def test_packaged_files_are_found_by_name():
    """They are in the checkout and in the wheel; an unknown name gets the nearest one."""
    assert packaged_config("train.yml").is_file()
    with pytest.raises(InputError, match=r"trian\.yml") as caught:
        packaged_config("trian.yml")
    assert "train.yml" in caught.value.hint
    with pytest.raises(InputError):
        packaged_config("../pyproject.toml")


def test_configuration_survives_its_own_json(write_config):
    """`load_config` of `to_json` gives an equal configuration."""
    config = load_config(
        write_config("search: {rungs: [{at: 3, keep: 0.2, most: 9, folds: 2}]}\nseed: 9"), overrides={"folds.count": 7}
    )

    assert load_config(write_config(json.dumps(config.to_json())), overrides={}) == config


def variants(value, place=""):
    """Yield every value that differs from this one in a single leaf, with its path."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for where, other in variants(getattr(value, field.name), f"{place}.{field.name}".lstrip(".")):
                changed = copy.copy(value)
                # Around the rules between fields, which not every change of one leaf keeps.
                object.__setattr__(changed, field.name, other)
                yield where, changed
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            for where, other in variants(item, place):
                yield where, (*value[:index], other, *value[index + 1 :])
    elif isinstance(value, bool):
        yield place, not value
    elif value is None or isinstance(value, dict):
        # Options that are off; those that are on are below.
        return
    else:
        yield place, value + "x" if isinstance(value, str) else value + 1


def test_the_study_hash_covers_exactly_what_changes_a_trial():
    """The registry and every value of the configuration are changed, one by one."""
    config = load_config(None, overrides={})
    before = study_sha256(config, registry_sha256="a" * 64, warm_start=None)
    free = ("seed", "calibration", "search.trials", "bootstrap.", "bench.", "gates.", "guards.", "economics.", "tft.")

    assert study_sha256(config, registry_sha256="b" * 64, warm_start=None) != before
    for place, other in variants(config):
        after = study_sha256(other, registry_sha256="a" * 64, warm_start=None)
        assert (after == before) == place.startswith(free), place


def test_the_study_hash_of_a_network_covers_its_own_settings():
    """And none of boosted trees."""
    config = load_config(None, overrides={"model": "tft"})
    before = study_sha256(config, registry_sha256="a" * 64, warm_start=None)
    free = ("search.", "booster.", "tft.search.trials", "seed", "calibration", "bootstrap.", "bench.", "gates.")

    for place, other in variants(config):
        after = study_sha256(other, registry_sha256="a" * 64, warm_start=None)
        assert (after == before) == place.startswith((*free, "guards.", "economics.")), place


DART = "boosting: dart"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"booster: {{{DART}}}", "boosting"),
        (f"booster: {{{DART}, drop_rate: 0.0}}", "drop_rate"),
        (f"booster: {{{DART}, max_drop: 3}}", "max_drop"),
        (f"booster: {{{DART}, skip_drop: 0.25}}", "skip_drop"),
        (f"booster: {{{DART}, uniform_drop: true}}", "uniform_drop"),
        ("booster: {max_depth: 4}", "max_depth"),
        ("holdout_from: 2026-01-01", "holdout_from"),
        ("recency_half_life_days: 30", "recency_half_life_days"),
        ("booster: {min_gain_to_split: 0.5}", "min_gain_to_split"),
        ("booster: {extra_trees: true}", "extra_trees"),
        ("booster: {path_smooth: 3}", "path_smooth"),
        ("booster: {monotone_constraints: {rsi_7: -1}}", "monotone_constraints"),
        ("booster: {monotone_constraints: {a: 1}, monotone_constraints_method: advanced}", "monotone_constraints_met"),
        ("booster: {interaction_constraints: [[a, b], [b, c]]}", "interaction_constraints"),
        (f"search: {{space: {{max_depth: {DEPTHS}}}}}", "max_depth"),
        (f"search: {{space: {{min_gain_to_split: {SHARES}}}}}", "min_gain_to_split"),
        (f"search: {{space: {{path_smooth: {SHARES}}}}}", "path_smooth"),
        ("search: {space: {extra_trees: {low: 0, high: 1, scale: linear, default: 0}}}", "extra_trees"),
        (f"search: {{space: {{drop_rate: {SHARES}, skip_drop: {SHARES}}}}}\nbooster: {{{DART}}}", "skip_drop"),
        (f"search: {{space: {{max_drop: {DEPTHS}}}}}\nbooster: {{{DART}}}", "max_drop"),
    ],
)
def test_an_option_that_is_on_is_recorded_and_changes_the_study(write_config, text, key):
    """Each one is written into the configuration's document, is read back, and gives the study another hash."""
    config = load_config(write_config(text), overrides={})
    document = json.dumps(config.to_json())

    assert f'"{key}' in document
    assert load_config(write_config(document), overrides={}) == config
    hashes = {study_sha256(c, registry_sha256="", warm_start=None) for c in (config, load_config(None, overrides={}))}
    assert len(hashes) == 2


def test_the_later_layer_says_where_the_holdout_begins(write_config):
    """A share in a file or an option replaces a time below it, and a time a share; both in one layer are refused."""
    by_time, by_share = write_config("holdout_from: 2026-01-01"), load_config(None, overrides={"val_ratio": 0.3})
    timed = load_config(by_time, overrides={})

    assert (timed.val_ratio, timed.holdout_from_ms) == (None, 1_767_225_600_000)
    assert timed.to_json()["holdout_from"] == "2026-01-01T00:00:00Z"
    assert load_config(None, overrides=timed.to_json()) == timed
    assert load_config(by_time, overrides={"val_ratio": 0.3}) == by_share
    shown = {s.key: s for s in explain_config(by_time, overrides={})}
    assert (shown["val_ratio"].value, shown["holdout_from"].where) == (None, f"{by_time}, line 1")
    assert load_config(write_config("val_ratio: 0.3"), overrides={"holdout_from": "2026-01-01T00:00Z"}) == timed
    with pytest.raises(UsageError, match="options: holdout_from: is given with val_ratio: give one of the two"):
        load_config(None, overrides={"holdout_from": "2026-01-01", "val_ratio": 0.3})


def test_constraints_name_features_of_the_registry():
    """Names that the registry lacks are refused, each with the nearest name that it has."""
    constraints = {"monotone_constraints": {"rsi_7": 1, "retrun_1": 1}, "interaction_constraints": [["rsi_7", "body"]]}
    booster = load_config(None, overrides={"booster": constraints}).booster

    booster.check_features(["rsi_7", "retrun_1", "body"])
    with pytest.raises(InputError) as caught:
        booster.check_features(["rsi_7", "return_1", "candle"])
    assert caught.value.message.endswith("'body' (known: candle, return_1, rsi_7), 'retrun_1' (did you mean return_1?)")


def test_every_calibration_is_accepted():
    """The five methods are accepted, and no other."""
    for name in get_args(Calibration):
        assert load_config(None, overrides={"calibration": name}).calibration == name


def test_every_setting_has_its_origin(write_config):
    """A default, a line of the file or an option, each with its place; each key of train.yml occurs once."""
    path = write_config("search:\n  trials: 50\n  early_stop: 20\nseed: 7\n")
    settings = {s.key: s for s in explain_config(path, overrides={"seed": 9})}

    assert (settings["search.trials"].value, settings["search.trials"].origin) == (50, "file")
    assert settings["search.trials"].where == f"{path}, line 2"
    assert (settings["seed"].value, settings["seed"].origin, settings["seed"].where) == (9, "option", None)
    assert (settings["val_ratio"].value, settings["val_ratio"].origin) == (0.2, "default")
    assert settings["search.space.num_leaves.high"].value == 128
    assert len(settings) == len(explain_config(None, overrides={}))


def test_an_overridden_mapping_is_explained_key_by_key():
    """Only the keys in it come from the option."""
    origins = {s.key: s.origin for s in explain_config(None, overrides={"folds": {"count": 3}})}

    assert (origins["folds.count"], origins["folds.start"]) == ("option", "default")


@pytest.mark.parametrize(("name", "load"), [("halt", load_halt_config), ("operate", load_operate_config)])
def test_the_other_files_to_start_from_change_nothing_either(write_config, name, load):
    """As written, and with every line in force."""
    for text in (comment_config(f"{name}.yml"), packaged_config(f"{name}.yml").read_text("utf-8")):
        assert load(write_config(text)) == load(None)


def test_a_new_file_changes_nothing_until_edited(write_config):
    """As all lines are comments, it loads as the defaults; uncommented, it is the packaged file."""
    text = comment_config()
    bare = "".join(line.removeprefix("# ") for line in text.splitlines(keepends=True))

    assert load_config(write_config(text), overrides={}) == load_config(None, overrides={})
    assert bare.splitlines()[4:] == packaged_config("train.yml").read_text("utf-8").splitlines()[4:]
    assert load_config(write_config(bare[bare.index("seed:") :]), overrides={}) == load_config(None, overrides={})
