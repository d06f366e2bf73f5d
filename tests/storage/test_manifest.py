"""Manifests: files are read exactly as published, and any other file is named."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    describe_file,
    read_listed,
    read_manifest,
    verify_files,
)

CONTENT = {"lgbm.pkl": b"model" * 50, "model_card.json": b"{}\n", "report.html": b""}
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True).filter(lambda n: n.casefold() != MANIFEST)
FACTS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
        lambda k: k not in {"path", "sha256", "bytes"}
    ),
    st.integers(-9, 9) | st.booleans() | st.none() | st.lists(st.text("ab", max_size=3), max_size=2),
    max_size=3,
)
ENTRIES = st.builds(
    FileEntry, NAMES, st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0, 2**62), FACTS
)
MANIFESTS = st.builds(
    Manifest,
    st.sampled_from(["snapshot", "version"]),
    FACTS.filter(lambda facts: not facts.keys() & {"format", "kind", "self_sha256", "files"}),
    st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.path.casefold()).map(tuple),
)


@pytest.fixture
def folder(tmp_path):
    """Return a published version's folder."""
    folder = tmp_path / "2025-10-15"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    manifest = Manifest("version", {"serial": 1}, tuple(describe_file(n, d) for n, d in CONTENT.items()))
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return folder


def forge(folder, change):
    """Change the manifest's document as an attacker would, and recompute its hash."""
    document = json.loads((folder / MANIFEST).read_bytes())
    del document["self_sha256"]
    change(document)
    document["self_sha256"] = sha256_bytes(canonical_json(document))
    (folder / MANIFEST).write_bytes(canonical_json(document))


@given(MANIFESTS)
def test_a_manifest_comes_back_as_it_was(manifest):
    """`from_bytes(m.to_bytes()) == m`, and the self-hash is that of the bytes without it."""
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data, kind=manifest.kind, where="x")

    assert again == manifest
    assert again.self_sha256 == json.loads(data)["self_sha256"]


@given(MANIFESTS, st.data())
def test_any_changed_byte_is_found(manifest, data):
    """Every single changed, added or lost byte of a manifest is detected."""
    good = manifest.to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
    mutants = [good[:at] + bytes([byte]) + good[at + 1 :], good[:at] + good[at + 1 :], good[:at], good + bytes([byte])]
    mutants.append(good[:at] + b" " + good[at:])

    for mutant in mutants:
        if mutant != good:
            with pytest.raises(InputError):
                Manifest.from_bytes(mutant, kind=manifest.kind, where="x")


@pytest.mark.parametrize(
    ("head", "facts"), [({"files": 1}, {}), ({"format": 1}, {}), ({"self_sha256": ""}, {}), ({}, {"path": "x"})]
)
def test_a_reserved_key_is_a_programming_error(head, facts):
    """One of the two values would be lost silently."""
    manifest = Manifest("version", head, (describe_file("a", b"", facts),))

    with pytest.raises(ValueError, match="itself uses the key"):
        manifest.to_bytes()


FORGERIES = {
    "traversal": lambda d: d["files"][0].update(path="../x"),
    "absolute": lambda d: d["files"][0].update(path="/etc/passwd"),
    "backslash": lambda d: d["files"][0].update(path="..\\x"),
    "subfolder": lambda d: d["files"][0].update(path="a/b"),
    "NUL": lambda d: d["files"][0].update(path="a\0b"),
    "newline": lambda d: d["files"][0].update(path="a\n"),
    "dots": lambda d: d["files"][0].update(path=".."),
    "hidden": lambda d: d["files"][0].update(path=".x"),
    "empty name": lambda d: d["files"][0].update(path=""),
    "long name": lambda d: d["files"][0].update(path="a" * 101),
    "unicode name": lambda d: d["files"][0].update(path="m\u00f6del"),
    "option": lambda d: d["files"][0].update(path="-rf"),
    "number as name": lambda d: d["files"][0].update(path=1),
    "twice": lambda d: d["files"].append(dict(d["files"][0])),
    "other case": lambda d: d["files"].append({**d["files"][0], "path": "LGBM.pkl"}),
    "itself": lambda d: d["files"][0].update(path="manifest.json"),
    "itself in capitals": lambda d: d["files"][0].update(path="Manifest.JSON"),
    "no name": lambda d: d["files"][0].pop("path"),
    "no hash": lambda d: d["files"][0].pop("sha256"),
    "short hash": lambda d: d["files"][0].update(sha256="ab"),
    "capital hash": lambda d: d["files"][0].update(sha256="A" * 64),
    "no size": lambda d: d["files"][0].pop("bytes"),
    "negative size": lambda d: d["files"][0].update(bytes=-1),
    "size as text": lambda d: d["files"][0].update(bytes="1"),
    "size as truth": lambda d: d["files"][0].update(bytes=True),
    "files as mapping": lambda d: d.update(files={}),
    "file as text": lambda d: d["files"].append("x"),
    "no files": lambda d: d.pop("files"),
    "no format": lambda d: d.pop("format"),
    "old format": lambda d: d.update(format=0),
    "newer format": lambda d: d.update(format=2),
    "format as text": lambda d: d.update(format="1"),
    "other kind": lambda d: d.update(kind="snapshot"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_manifest_with_a_recomputed_hash_is_refused(folder, case):
    """A document that mltrain never writes is an error that names the file, although every hash agrees."""
    forge(folder, FORGERIES[case])

    with pytest.raises(InputError) as caught:
        read_manifest(folder, kind="version")

    assert caught.value.message.startswith(str(folder / MANIFEST))


def test_a_newer_format_says_upgrade(folder):
    """The manifest is intact, but this mltrain is too old."""
    forge(folder, FORGERIES["newer format"])

    with pytest.raises(InputError, match="written by a newer mltrain") as caught:
        read_manifest(folder, kind="version")
    assert caught.value.hint == "upgrade mltrain"


def test_a_manifest_in_another_form_is_refused(folder):
    """The same document with other whitespace has other bytes than the published one."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes())))

    with pytest.raises(InputError, match="does not match its own hash"):
        read_manifest(folder, kind="version")


def test_without_a_manifest_a_folder_is_not_complete(folder, tmp_path):
    """The manifest is the commit record; a link or a FIFO in its place does not count."""
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="not a complete version"):
        read_manifest(folder, kind="version")
    with pytest.raises(InputError, match="not a complete snapshot"):
        read_manifest(tmp_path / "nothing", kind="snapshot")

    (folder / MANIFEST).symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="symbolic link"):
        read_manifest(folder, kind="version")
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(InputError, match="not a regular file"):
        read_manifest(folder, kind="version")


def test_a_huge_manifest_is_refused_by_its_size(folder):
    """It is refused before it is read."""
    os.truncate(folder / MANIFEST, 10 << 30)

    with pytest.raises(InputError, match="too large"):
        read_manifest(folder, kind="version")


def test_listed_files_are_read_as_published(folder):
    """The bytes come back, and the folder has no problems."""
    manifest = read_manifest(folder, kind="version")

    assert {name: read_listed(folder, manifest, name, max_bytes=1_000) for name in CONTENT} == CONTENT
    assert verify_files(folder, manifest) == ()


def test_a_changed_file_is_refused_with_both_hashes_and_the_command(folder):
    """One flipped bit is enough; the message has the found and the published hash."""
    changed = bytes([CONTENT["lgbm.pkl"][0] ^ 1]) + CONTENT["lgbm.pkl"][1:]
    manifest = read_manifest(folder, kind="version")
    (folder / "lgbm.pkl").write_bytes(changed)

    with pytest.raises(InputError) as caught:
        read_listed(folder, manifest, "lgbm.pkl", max_bytes=1_000)

    assert str(folder / "lgbm.pkl") in caught.value.message
    assert sha256_bytes(changed) in caught.value.message
    assert sha256_bytes(CONTENT["lgbm.pkl"]) in caught.value.message
    assert "mltrain verify model 2025-10-15" in caught.value.hint


@pytest.mark.parametrize("name", ["lgbm", "manifest.json", "../x", "/etc/passwd", ""])
def test_a_file_that_is_not_listed_is_not_read(folder, name):
    """Names come from the manifest only."""
    manifest = read_manifest(folder, kind="version")

    with pytest.raises(InputError, match="does not list"):
        read_listed(folder, manifest, name, max_bytes=1_000)


def test_a_file_above_its_cap_is_not_read(folder):
    """Not even if the manifest agrees with its size."""
    manifest = read_manifest(folder, kind="version")

    with pytest.raises(InputError, match="too large"):
        read_listed(folder, manifest, "lgbm.pkl", max_bytes=249)


def test_verify_names_every_problem(folder):
    """Changed, shorter, longer, missing, not regular and extra files, each in one sentence."""
    names = ["a-changed", "b-shorter", "c-longer", "d-missing", "e-link", "f-fifo", "g-sound"]
    manifest = Manifest("version", {}, tuple(describe_file(name, b"1234") for name in names))
    for path in folder.iterdir():
        path.unlink()
    for name, data in zip(names, [b"1235", b"123", b"12345", None, None, None, b"1234"], strict=True):
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "e-link").symlink_to("g-sound")
    os.mkfifo(folder / "f-fifo")
    (folder / "h-extra").touch()
    (folder / ".hidden.tmp").mkdir()
    problems = verify_files(folder, manifest)

    assert [name for problem in problems for name in (*names, "h-extra", ".hidden.tmp") if f"{name}" in problem] == [
        *("a-changed", "b-shorter", "c-longer", "d-missing", "e-link", "f-fifo", ".hidden.tmp", "h-extra")
    ]
    assert len(problems) == 8
