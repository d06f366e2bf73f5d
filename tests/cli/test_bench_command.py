"""Laws of `mltrain bench`: its report, the budget, two versions side by side."""

from __future__ import annotations

import pytest

from support.program import call


def test_the_report_is_complete(trained_dir):
    """The document and the text have percentiles, first call, memory, the path of one row, and the machine."""
    document = call("bench", "--samples", "20", "--json", data_dir=trained_dir).document
    report, shown = document["report"], call("bench", "--samples", "20", data_dir=trained_dir)

    assert report["path"] == "single-row fast call"
    assert report["first_ms"] > 0
    assert report["load_ms"] > 0
    assert report["cores"] >= 1
    assert sum(b["calls"] for b in document["latency"]["histogram"]) == 20
    assert {"p50", "p95", "p99", "max"} <= set(document["latency"]["candles"])
    for word in ("first call ms", "memory MB", "single-row fast call", "━", "within the budget", "load"):
        assert word in shown.out


@pytest.mark.parametrize(("budget", "code", "word"), [("1000", 0, "within"), ("0.001", 4, "OVER")])
def test_the_budget_decides_the_exit_code(trained_dir, budget, code, word):
    """The exit code is 4 if p95 is above the budget."""
    done = call("bench", "--samples", "10", "--budget-ms", budget, data_dir=trained_dir)

    assert done.code == code, done.err
    assert word in done.out


def test_two_versions_are_compared(trained_dir):
    """The second one is measured in the same way; a version that does not exist gives exit 3."""
    document = call("bench", "--samples", "10", "--compare", "latest", "--json", data_dir=trained_dir).document
    missing = call("bench", "--samples", "10", "--compare", "2001-01-01", data_dir=trained_dir)

    assert document["compared"][0]["version"] == document["version"]
    assert missing.code == 3
