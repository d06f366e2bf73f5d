from __future__ import annotations

import pytest

from mltrain.config.loading import load_operate_config
from mltrain.documents.records import to_json
from mltrain.errors import InputError


def test_a_file_overrides_key_by_key(tmp_path):
    """Everything else keeps its default, null switches a limit off, and a configuration is read back equal."""
    path = tmp_path / "own.yml"
    path.write_text("training:\n  every_h: null\nledger: {rows: 500}\n", "utf-8")
    config, defaults = load_operate_config(path), load_operate_config(None)

    assert (config.training.every_h, config.training.grace_h) == (None, defaults.training.grace_h)
    assert (config.ledger.rows, config.ledger.required, config.drift) == (500, False, defaults.drift)
    assert load_operate_config(to_json(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("candles: {max_age: 3}", "candles.max_age (line 1): unknown key"),
        ("ledger:\n  rows: 99", "ledger.rows (line 2): must be at least 100, is 99"),
        ("ledger: {rows: null}", "ledger.rows (line 1): must be an integer, is null"),
        ("drift: {max_distance: 1.5}", "drift.max_distance (line 1): must be at most 1, is 1.5"),
        ("live: {required: 1}", "live.required (line 1): must be true or false, is 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(tmp_path, text, message):
    """The message names the path of the key, and its line."""
    path = tmp_path / "own.yml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        load_operate_config(path)

    assert message in caught.value.message
