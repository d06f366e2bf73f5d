"""What a report says of where a version comes from: hashes and names, and the commands that make it again.

Pure: a card in, rows of text out. The page escapes them; what goes into a command is quoted for a shell.
"""

from __future__ import annotations

import shlex
from typing import Any

from mltrain.report.access import items_at, mapping_at, number_at, text_at, texts_at, time_at, value_at
from mltrain.report.facts import figure_text, plain_text


def lineage(card: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what made the model, by name; hashes whole."""
    told = mapping_at(card, "lineage")
    plain = [
        (name.replace("_", " "), plain_text(value))
        for name, value in told.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    source = ", ".join(f"{key} {plain_text(value)}" for key, value in mapping_at(told, "source").items())
    own = ", ".join(plain_text(value) for value in mapping_at(told, "own_ops").values())
    libraries = ", ".join(f"{key} {plain_text(value)}" for key, value in mapping_at(told, "dependencies").items())
    more = [("source", source), ("own ops", own), ("libraries", libraries)]
    return tuple(sorted([*plain, *((name, value) for name, value in more if value)]))


def artifacts(card: dict[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return path, size and hash of every file that the card names."""
    return tuple(
        (text_at(a, "path") or "?", figure_text(number_at(a, "bytes"), 0), text_at(a, "sha256") or "?")
        for a in items_at(card, "artifacts")
    )


def commands(card: dict[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """Return the commands that check, reproduce and use the version, each with what it does."""
    snapshot = text_at(card, "train", "snapshot_id") or "latest"
    found = [
        (f"mltrain verify model {name}", "Hash every file of this version again."),
        (f"mltrain verify snapshot {shlex.quote(snapshot)}", "Hash the candles that it learned from again."),
        (f"mltrain verify model {name} --retrain", "Fit it again from its card and compare, to the last byte."),
    ]
    if again := _snapshot_command(card, snapshot):
        found.append((again, "Take the candles once more, where the snapshot is gone."))
    if train := _train_command(card, name, snapshot):
        found.append((train, "Search again; settings that are not named are in the card's lineage.config."))
    found.append((f"mltrain evaluate {name} --snapshot NEWER", "Score it on candles that did not exist yet."))
    return tuple(found)


def _snapshot_command(card: dict[str, Any], snapshot: str) -> str | None:
    source, days = text_at(card, "lineage", "source", "name"), number_at(card, "lineage", "snapshot_days")
    day, _, clock = snapshot.partition(".")[0].partition("T")
    if source is None or days is None or time_at({"t": f"{day}T{clock.replace('-', ':')}"}, "t") is None:
        return None
    words = ["mltrain", "snapshot", "--source", source, "--days", f"{days:.0f}"]
    words += ["--symbols", ",".join(texts_at(card, "train", "symbols")), "--end", f"{day}T{clock.replace('-', ':')}"]
    words += ["--interval", text_at(card, "train", "interval") or "1m"]
    for option, key in (("--from", "folder"), ("--sim-seed", "seed"), ("--sim-signal", "signal")):
        if (value := value_at(card, "lineage", "source", key)) is not None:
            words += [option, str(value)]
    return shlex.join(words)


def _train_command(card: dict[str, Any], name: str, snapshot: str) -> str | None:
    config = mapping_at(card, "lineage", "config")
    trials, ratio = number_at(card, "search", "trials_asked_for"), number_at(config, "val_ratio")
    seed, method = number_at(card, "lineage", "seed"), text_at(card, "calibration", "requested")
    if trials is None or ratio is None or seed is None or method is None:
        return None
    words = ["mltrain", "train", "--snapshot", snapshot, "--trials", f"{trials:.0f}", "--seed", f"{seed:.0f}"]
    words += ["--val-ratio", f"{ratio:g}", "--calibration", method, "--features", f"data/models/{name}/features.yml"]
    return shlex.join(words)
