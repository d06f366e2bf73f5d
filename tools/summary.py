"""Format a training's verdict as Markdown, for the summary of a CI job.

python -m tools.summary train.json            from the document that `mltrain train --json` printed
python -m tools.summary --card train.json     print the path of its card
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SIGNS: Final = {"passed": "✅ passed", "failed": "❌ failed", "held": "✋ held", "not applicable": "not applicable"}
_METRICS: Final = ("accuracy", "auc_roc", "log_loss", "brier", "ece")


def verdict_page(training: Mapping[str, Any]) -> str:
    """Return the verdict, the gates and the metrics of a `train/1` document as Markdown.

    For a `train-already-there/1` document, return only the version that it names.
    """
    if training.get("already_there"):
        return f"## {training['verdict']}: version {training['version']} is already there\n\nNothing was trained.\n"
    promoted = "promoted: it is live now" if training["promoted"] else "not promoted"
    lines = [f"## {training['verdict']}: version {training['version']}, {promoted}", ""]
    lines += [f"Held for a person to decide: {_plain(training['held'])}", ""] if training["held"] else []
    lines += ["| gate | outcome | value | margin | found |", "|---|---|---:|---:|---|"]
    for gate in training["gates"]:
        cells = (
            gate["name"].replace("_", " "),
            _SIGNS[gate["outcome"]],
            _number(gate["value"]),
            _number(gate["margin"]),
        )
        lines.append(f"| {' | '.join(cells)} | {_plain(gate['reason'])} |")
    lines += ["", "| holdout | value | interval |", "|---|---:|---:|"]
    for name in _METRICS:
        interval = training["intervals"][name]
        lines.append(f"| {name} | {_number(interval['value'])} | {interval['low']:.4f} .. {interval['high']:.4f} |")
    lines += ["", f"{training['trials']} trials on {training['snapshot']}, calibration {training['calibration']}"]
    lines += [f"model SHA-256 `{training['model_sha256']}`", *(f"\n> {_plain(text)}" for text in training["warnings"])]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _plain(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def main(words: Sequence[str]) -> int:
    """Print the summary or the card's path; return the exit code."""
    if not words or len(words) > 2 or words[:-1] not in ([], ["--card"]):
        print(__doc__, file=sys.stderr)
        return 2
    training = json.loads(Path(words[-1]).read_text("utf-8"))
    print(Path(training["folder"], "model_card.json") if "--card" in words else verdict_page(training))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
