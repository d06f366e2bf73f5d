from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import card_bytes, check_card, load_schema, read_card
from mltrain.errors import InputError
from mltrain.storage.manifest import Manifest, describe_file
from mltrain.store.versions import check_stored_card

EXAMPLE = Path(__file__).parents[1] / "data" / "example_card.json"
REQUIRED = [
    "/version",
    "/model_name",
    "/created_at",
    "/train",
    "/train/snapshot_id",
    "/train/range",
    "/train/range/start",
    "/train/range/end",
    "/train/rows",
    "/train/class_balance",
    "/train/class_balance/pos",
    "/train/class_balance/neg",
    "/train/symbols",
    "/metrics",
    "/metrics/accuracy",
    "/metrics/f1",
    "/metrics/precision",
    "/metrics/recall",
    "/metrics/auc_roc",
    "/metrics/calibration_ece",
    "/latency_ms",
    "/latency_ms/mean",
    "/latency_ms/p50",
    "/latency_ms/p95",
    "/latency_ms/p99",
    "/latency_ms/samples",
    "/leakage_checks",
    "/leakage_checks/future_info",
    "/leakage_checks/time_split",
    "/leakage_checks/feature_audit",
    "/feature_importance",
    "/feature_importance/0/name",
    "/feature_importance/0/gain",
    "/hyperparameters",
    "/notes",
]
SHA = hashlib.sha256(b"trees").hexdigest()
MORE = {
    "intervals": {"level": 0.9, "draws": 1000, "metrics": {"accuracy": {"value": 0.54, "low": 0.53, "high": 0.55}}},
    "baselines": {"majority": 0.501, "persistence": 0.49, "better": "majority"},
    "calibration": {"method": "isotonic", "before": {"ece": 0.02}, "after": {"ece": 0.01}, "reliability": []},
    "gates": {"verdict": "NO-GO", "outcomes": [{"name": "skill", "outcome": "failed"}]},
    "splits": {"blocks": [{"name": "inner", "start": "2025-07-17", "end": "2025-09-27T11:58:00Z", "rows": 5}]},
    "evidence": {"future_info": {"points": 400}},
    "lineage": {"registry_sha256": SHA, "git_commit": None, "seed": 42},
    "artifacts": [{"path": "lgbm.pkl", "sha256": SHA, "bytes": 5}],
    "search": {"trials": 10, "pruned": 4},
    "looks": [{"study": "a"}],
    "data_quality": {"BTCUSDT": {"holes": 0}},
}
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def example(**sections):
    return json.loads(EXAMPLE.read_bytes()) | copy.deepcopy(sections)


def steps_of(pointer):
    return [int(step) if step.isdigit() else step for step in pointer.split("/")[1:]]


def replaced(card, pointer, value):
    *parents, last = steps_of(pointer)
    at = card
    for step in parents:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return card


def places(value, prefix=""):
    yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, f"{prefix}/{key}")


def check(card, folder=None):
    return check_card(json.dumps(card).encode(), where="card", folder=folder)


def test_the_schema_is_a_valid_schema():
    """The schema itself is valid draft 2020-12."""
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(load_schema())


def test_a_card_of_the_required_fields_alone_is_valid():
    """A minimal card of another tool passes without a warning."""
    found = check_card(EXAMPLE.read_bytes(), where="card", folder=EXAMPLE.parent)

    assert (found.violations, found.warnings) == ((), ())


def test_a_card_with_every_section_is_valid():
    """The added sections are known: no violation and no warning."""
    found = check(example(**MORE))

    assert found.passed
    assert found.warnings == ()


@pytest.mark.parametrize("pointer", REQUIRED)
def test_a_missing_required_field_is_named(pointer):
    """A card without one of the required fields is invalid, and the violation has its JSON pointer."""
    assert check(replaced(example(), pointer, ...)).violations == (f"card: {pointer}: is missing",)


def test_the_required_fields_are_exactly_these():
    """The schema requires no other field of a card that has no added section."""
    one = example(feature_importance=[{"name": "a", "gain": 1.0}], hyperparameters={})
    inner = {p for p in places(one) if p and not p.startswith("/train/symbols/") and p != "/feature_importance/0"}

    assert inner == set(REQUIRED)


@pytest.mark.parametrize(
    ("pointer", "value", "message"),
    [
        ("/version", "1", 'must be "2"'),
        ("/version", 2, 'must be "2"'),
        ("/model_name", "", "of length 1"),
        ("/created_at", "yesterday afternoon", "is not a time"),
        ("/created_at", 1760529600, "must be text"),
        ("/valid_until", "next summer", "is not a time"),
        ("/train/rows", 0, "must be 1 or above"),
        ("/train/rows", 1.5, "must be a whole number"),
        ("/train/rows", True, "must be a whole number"),
        ("/train/symbols", [], "of length 1"),
        ("/train/symbols", "BTCUSDT", "must be a list"),
        ("/train/class_balance/neg", -1, "must be 0 or above"),
        ("/metrics/accuracy", 1.0001, "must be 1 or below"),
        ("/metrics/auc_roc", None, "must be a number, is null"),
        ("/latency_ms/p50", -0.1, "must be 0 or above"),
        ("/latency_ms/samples", 0, "must be 1 or above"),
        ("/leakage_checks/future_info", "yes", "must be true or false"),
        ("/feature_importance", {"rsi": 1}, "must be a list"),
        ("/feature_importance/1/gain", "8", "must be a number"),
        ("/hyperparameters", [], "must be a mapping"),
        ("/notes", ["a"], "must be text, is a list of 1"),
        ("/gates/verdict", "MAYBE", 'must be "GO" or "NO-GO"'),
        ("/gates/outcomes/0/outcome", "skipped", "not applicable"),
        ("/lineage/registry_sha256", "abc", "must be of the form"),
        ("/artifacts/0/path", "../lgbm.pkl", "must be of the form"),
        ("/intervals/metrics/accuracy", {"value": 1}, "is missing"),
    ],
)
def test_a_value_that_the_schema_refuses_is_named(pointer, value, message):
    """A violation has the JSON pointer of the wrong value, and what the value must be."""
    violations = check(replaced(example(**MORE), pointer, value)).violations

    assert all(line.startswith(f"card: {pointer}") for line in violations)
    assert any(message in line for line in violations)


@pytest.mark.parametrize(
    ("pointer", "value", "message"),
    [
        ("/train/class_balance/pos", 1, "/train/class_balance: pos + neg is 1 + 155175"),
        ("/train/range/end", "2025-07-17T11:59:59Z", "/train/range: ends at"),
        ("/train/range/end", "2025-07-17T14:00:00+02:01", "/train/range: ends at"),
        ("/train/range/start", "17 July 2025", "/train/range/start: '17 July 2025' is not a time"),
        ("/train/symbols", ["BTCUSDT", "ETHUSDT", "BTCUSDT"], "/train/symbols/2: 'BTCUSDT' appears twice"),
        ("/latency_ms/p50", 5.3, "/latency_ms/p50: 5.3 is more than p95, 5.2"),
        ("/latency_ms/p99", 5.1, "/latency_ms/p95: 5.2 is more than p99, 5.1"),
        ("/latency_ms/max", 7.7, "/latency_ms/p99: 7.8 is more than max, 7.7"),
        ("/feature_importance/1/name", "log_return_1", "/feature_importance/1/name: 'log_return_1' appears twice"),
        ("/intervals/metrics/accuracy/low", 0.6, "/intervals/metrics/accuracy: low 0.6 is more than high"),
        ("/gates/verdict", "GO", "/gates/verdict: is GO, and 'skill' failed"),
        ("/gates/outcomes", [], "/gates/verdict: is NO-GO, and no gate failed"),
        ("/splits/blocks/0/start", "2025-09-28", "/splits/blocks/0: ends at"),
        ("/search/pruned", 11, "/search/pruned: 11 is more than trials, 10"),
        ("/artifacts/0/path", "lgbm.pkl\n", "/artifacts/0/path: 'lgbm.pkl\\n' is not a bare file name"),
    ],
)
def test_contradictions_are_violations(pointer, value, message):
    """Sums, orders and names that contradict each other are violations with their place."""
    assert any(message in line for line in check(replaced(example(**MORE), pointer, value)).violations)


def test_all_violations_are_reported_at_once():
    """Violations of the schema and of consistency rules, in different sections, are in one result."""
    card = replaced(replaced(replaced(example(), "/notes", 1), "/latency_ms/p50", 99), "/train/rows", 7)

    assert [line.split(": ")[1] for line in check(card).violations] == [
        "/notes",
        "/train/class_balance",
        "/latency_ms/p50",
    ]


def test_consistency_is_checked_next_to_what_the_schema_refuses():
    """In a section with a wrong value, only the rules that read that value are left out."""
    card = example()
    card["train"] |= {"rows": -1, "symbols": ["A", "A"], "range": {"start": "2025-02-01", "end": "2025-01-01"}}
    card["latency_ms"] |= {"p50": 9, "p95": 8, "p99": "?"}

    assert [line.split(": ")[1] for line in check(card).violations] == [
        "/latency_ms/p99",
        "/train/rows",
        "/train/range",
        "/train/symbols/1",
        "/latency_ms/p50",
    ]


@pytest.mark.parametrize(
    ("pointer", "message"),
    [
        ("/metrcs", "unknown key, did you mean metrics"),
        ("/train/x~/y", "unknown key"),
        ("/latency_ms/p999", "unknown key"),
    ],
)
def test_an_unknown_key_is_a_warning(pointer, message):
    """A card with a key that the schema does not know is valid; the warning has the nearest known key."""
    section, key = pointer.rsplit("/", 1) if pointer.count("/") == 2 else ("", pointer[1:])
    card = example()
    (card[section[1:]] if section else card)[key] = 1
    found = check(card)

    assert found.passed
    assert len(found.warnings) == 1
    assert message in found.warnings[0]


def test_open_sections_never_warn():
    """Hyperparameters and the sections that are left open may hold any key."""
    card = example(**MORE, hyperparameters={"min_child_samples": 5})
    for section in ("baselines", "lineage", "data_quality", "evidence", "search"):
        card[section] |= {"something_new": {}}

    assert check(card).warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version": NaN}',
        b'{"version": "2", "version": "2"}',
        b"\xef\xbb\xbf{}",
        b'{"notes": "\\ud800"}',
        b"[" * 5_000 + b"]" * 5_000,
        b'{"train": {"rows": 1e999}}',
    ],
)
def test_bytes_that_are_not_a_card_are_a_violation(text):
    """Bytes that are not strict JSON, or not a mapping, fail the check without an exception."""
    found = check_card(text, where="card")

    assert not found.passed
    assert all(line.startswith("card: ") for line in found.violations)


@settings(max_examples=150)
@given(data=st.data())
def test_any_value_anywhere_can_be_checked(data):
    """For any value in any field the check returns lines of readable length that a terminal can show."""
    card = example(**MORE)
    pointer = data.draw(st.sampled_from([p for p in places(card) if p]))
    found = check(replaced(card, pointer, data.draw(JSON_VALUES)))

    assert all(len(line) < 400 for line in found.violations)
    assert all(line.isprintable() for line in found.violations + found.warnings)


class TestArtifacts:
    """The files next to a card must be those that it names."""

    @pytest.fixture
    def folder(self, tmp_path):
        """Return a folder with the file that the card names."""
        (tmp_path / "lgbm.pkl").write_bytes(b"trees")
        return tmp_path

    def test_the_right_file_passes(self, folder):
        """Name, size and hash agree."""
        assert check(example(**MORE), folder).passed

    def test_without_a_folder_nothing_is_opened(self):
        """A card alone can be checked."""
        assert check(example(**MORE)).passed

    @pytest.mark.parametrize("content", [b"treez", b"tree", b"trees!"])
    def test_a_changed_file_is_reported(self, folder, content):
        """Another byte, a byte less and a byte more are found."""
        (folder / "lgbm.pkl").write_bytes(content)

        (line,) = check(example(**MORE), folder).violations
        assert line.startswith("card: /artifacts/0")

    def test_a_changed_file_is_reported_next_to_other_violations(self, folder):
        """A violation elsewhere does not hide a damaged file."""
        (folder / "lgbm.pkl").write_bytes(b"trees!")

        lines = check(replaced(example(**MORE), "/notes", 1), folder).violations
        assert [line.split(": ")[1].partition("/sha")[0] for line in lines] == ["/notes", "/artifacts/0"]

    def test_a_missing_file_is_reported(self, folder):
        """A file that is not there is a violation."""
        (folder / "lgbm.pkl").unlink()

        assert "does not exist" in check(example(**MORE), folder).violations[0]

    def test_a_link_is_not_followed(self, folder):
        """A symbolic link in place of the file is refused, even if it leads to the right file."""
        (folder / "lgbm.pkl").rename(folder / "elsewhere")
        (folder / "lgbm.pkl").symlink_to("elsewhere")

        assert "symbolic link" in check(example(**MORE), folder).violations[0]

    def test_a_valid_card_that_is_not_the_published_one_is_reported(self, folder):
        """Next to a version's manifest, a card must be the one whose hash the manifest has."""
        data = json.dumps(example(**MORE)).encode()
        manifest = Manifest("version", {}, (describe_file("model_card.json", data),))
        (folder / "manifest.json").write_bytes(manifest.to_bytes())
        changed = json.dumps(example(**MORE, notes="better than it was")).encode()
        (line,) = check_stored_card(changed, where="card", folder=folder).violations

        assert check_stored_card(data, where="card", folder=folder).violations == ()
        assert "changed after it was published" in line

    def test_a_path_out_of_the_folder_is_never_opened(self, folder):
        """A path with a slash is refused by its form."""
        card = replaced(example(**MORE), "/artifacts/0/path", "/etc/passwd")

        assert "of the form" in check(card, folder).violations[0]

    def test_two_names_that_differ_in_case_are_one(self, folder):
        """On many file systems they would be the same file."""
        renamed = MORE["artifacts"][0] | {"path": "LGBM.pkl"}
        card = example(**MORE | {"artifacts": [*MORE["artifacts"], renamed]})

        assert "appears twice" in check(card, folder).violations[0]


@settings(max_examples=50)
@given(
    notes=st.text(max_size=20),
    hyperparameters=st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4),
    data_quality=st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4),
)
def test_a_written_card_is_read_back(notes, hyperparameters, data_quality):
    """`read_card(card_bytes(card)) == card`, and equal cards are equal bytes for any order of their keys."""
    card = example(**MORE, notes=notes, hyperparameters=hyperparameters) | {"data_quality": data_quality}
    data = card_bytes(ModelCard(card))

    assert read_card(data, where="card").document == card
    assert card_bytes(ModelCard(dict(reversed(card.items())))) == data


def test_reading_an_invalid_card_names_what_is_wrong():
    """The message has the first violation and the number of the others."""
    with pytest.raises(InputError, match=r"card: /notes: .* \(and 1 more\)"):
        read_card(json.dumps(example(notes=1, version="9")).encode(), where="card")


def test_an_invalid_card_is_never_written():
    """Writing one would be a bug, so it raises."""
    with pytest.raises(ValueError, match="/metrics/accuracy"):
        card_bytes(ModelCard(replaced(example(), "/metrics/accuracy", 2.0)))
