"""The commands for settings, called as a user does."""

from __future__ import annotations

import typer

from mltrain.api.config import OPTIONS
from mltrain.cli.app import load_commands
from support.program import call


def test_each_setting_names_its_origin(tmp_path):
    """Values of file, option and environment are listed with their place, as `train` would use them."""
    (tmp_path / "my.yml").write_text("seed: 3\nsearch: {trials: 50}\n")
    done = call("config", "show", "--config", "my.yml", "--seed", "7", "--json", cwd=tmp_path,
                env={"MLTRAIN_DATA_DIR": "elsewhere", "MLTRAIN_BASE_URL": "http://127.0.0.1:1"})  # fmt: skip
    settings = {s["key"]: (s["value"], s["origin"], s["where"]) for s in done.document["settings"]}

    assert settings["seed"] == (7, "option", "--seed")
    assert settings["search.trials"] == (50, "file", "my.yml, line 2")
    assert settings["data_dir"] == ("elsewhere", "environment", "MLTRAIN_DATA_DIR")
    assert settings["base_url"] == ("http://127.0.0.1:1", "environment", "MLTRAIN_BASE_URL")
    assert settings["log_format"] == ("text", "default", None)


def test_init_writes_once(tmp_path):
    """The file is a valid --config, and is never overwritten."""
    made = call("config", "init", cwd=tmp_path)
    shown = call("config", "show", "--config", "train.yml", cwd=tmp_path)
    again = call("config", "init", cwd=tmp_path)

    assert (made.code, shown.code, again.code) == (0, 0, 2), made.err + shown.err
    assert "all settings are the defaults" in shown.out
    assert "mltrain config show --config train.yml" in again.err


def test_the_help_names_the_defaults_of_the_packaged_file():
    """Each option of train.yml shows the default of `config show`; the help texts contain no numbers."""
    values = {s["key"]: s["value"] for s in call("config", "show", "--json").document["settings"]}
    command = typer.main.get_command(load_commands("train")).commands["train"]
    context = command.context_class(command, info_name="train")
    command.describe(context)
    command.describe(context)
    texts = {option.opts[0]: option.help for option in command.params}

    # The one that has no default.
    assert OPTIONS.keys() - values == {"holdout_from"}
    for key, name in OPTIONS.items():
        # Without a default, or with another one for another model.
        if values.get(key) is None or key.startswith("tft."):
            continue
        assert texts[name].endswith(f" Default: {values[key]}.")
        assert texts[name].count("Default: ") == 1
    assert "Default: 200." in " ".join(call("train", "--help", env={"COLUMNS": "200"}).out.split())
