"""Signatures: made and required by keys outside the data folder; nothing inside can replace them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mltrain import load
from mltrain.errors import InputError, UsageError
from mltrain.storage.manifest import MANIFEST
from mltrain.store import REQUIRE_VARIABLE
from mltrain.store.promotion import promote_version, roll_back
from mltrain.store.publishing import publish_version
from mltrain.store.signature import SIGNATURE, open_signer
from mltrain.store.store import Store, open_path
from support.program import call

pytest.importorskip("cryptography")

NOON_MS = 1_760_529_600_000
HAND = {"why": "a test", "by": "me@host", "now_ms": NOON_MS}


def make_keys(folder, *names):
    """Make key pairs, as the page on security describes."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    plain = serialization.NoEncryption()
    for name in names:
        key = Ed25519PrivateKey.generate()
        form = serialization.PrivateFormat.PKCS8
        (folder / name).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a folder with keys and three versions: not signed, signed by our key, signed by another key."""
    folder = tmp_path_factory.mktemp("made")
    make_keys(folder, "ours", "theirs")
    data = folder / "data"
    for number, key in enumerate((None, "ours", "theirs"), start=1):
        store = Store(data, signer=None if key is None else open_signer(folder / key, data_dir=data))
        files = {"lgbm.pkl": b"model", "model_card.json": b"{}", "report.html": b"x" * number}
        name = publish_version(store, files, verdict="GO", date=f"2025-10-1{number}", now_ms=NOON_MS).name
        promote_version(store, name, **HAND)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """Return a copy that the test may change."""
    return shutil.copytree(made, tmp_path / "made", symlinks=True)


@pytest.fixture
def store(folder):
    """Return the store of that copy."""
    return Store(folder / "data")


@pytest.fixture
def required(folder, monkeypatch):
    """Require our signature."""
    monkeypatch.setenv(REQUIRE_VARIABLE, str(folder / "ours.pub"))


SIGNED, NOT_SIGNED, OF_ANOTHER = "2025-10-12", "2025-10-11", "2025-10-13"


def test_without_a_requirement_signatures_are_not_checked(store):
    """Each version opens, verifies and can be promoted."""
    for name in (SIGNED, NOT_SIGNED, OF_ANOTHER):
        assert store.open_version(name).verify() == ()
        assert roll_back(store, name, **HAND).to_version == name


@pytest.mark.usefixtures("required")
def test_only_what_our_key_signed_is_opened(store, folder):
    """By name, by path, as the live version, for promotion, for rollback and for loading."""
    assert store.open_version(SIGNED).verify() == ()
    assert roll_back(store, SIGNED, **HAND).moved
    assert store.live_version().name == SIGNED
    for name in (NOT_SIGNED, OF_ANOTHER):
        calls = (
            lambda name=name: store.open_version(name),
            lambda name=name: open_path(folder / "data" / "models" / name),
            lambda name=name: roll_back(store, name, **HAND),
            lambda name=name: promote_version(store, name, **HAND),
            lambda name=name: load(folder / "data" / "models" / name, allow_no_go=True),
        )
        for use in calls:
            with pytest.raises(InputError, match=r"is not signed|is by the key"):
                use()
    assert store.live_version().name == SIGNED


@pytest.mark.usefixtures("required")
def test_the_list_names_versions_that_are_not_signed(store):
    """Signed versions are listed without a problem."""
    problems = {row.name: row.problem for row in store.versions()}

    assert problems[SIGNED] is None
    assert "is not signed" in problems[NOT_SIGNED]
    assert "is by the key" in problems[OF_ANOTHER]


@pytest.mark.usefixtures("required")
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("signature", "Signature"),
        lambda text: text.replace('"ed25519"', '"none"'),
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda _: "{}",
        lambda _: "",
        lambda text: json.dumps({**json.loads(text), "signature": ""}),
        lambda text: json.dumps({**json.loads(text), "signature": "00" * 64}),
        lambda text: json.dumps({**json.loads(text), "signature": "zz" * 64}),
        lambda text: json.dumps({**json.loads(text), "require": False}),
        # The right one, in another spelling.
        lambda text: json.dumps(json.loads(text)),
        lambda text: text.replace(sign := json.loads(text)["signature"], sign.upper()),
        lambda text: text.replace(sign := json.loads(text)["signature"], f"{sign[:64]} {sign[64:]}"),
        lambda text: f"{text}\n",
    ],
)
def test_a_damaged_signature_is_refused(store, folder, change):
    """Any change of the file is refused, even one that keeps the signature's bytes."""
    path = folder / "data" / "models" / SIGNED / SIGNATURE
    path.write_text(change(path.read_text()))

    with pytest.raises(InputError, match="signature"):
        store.open_version(SIGNED)


@pytest.mark.usefixtures("required")
def test_the_signature_of_another_version_is_refused(store, folder):
    """The signed manifest names the version."""
    store = Store(folder / "data", signer=open_signer(folder / "ours", data_dir=folder / "data"))
    other = publish_version(
        store, {"lgbm.pkl": b"model", "model_card.json": b"{}"}, verdict="GO", date="2025-10-12", now_ms=NOON_MS
    )
    shutil.copy(other.folder / SIGNATURE, folder / "data" / "models" / SIGNED)

    with pytest.raises(InputError, match="not the signature of the manifest"):
        store.open_version(SIGNED)


@pytest.mark.usefixtures("required")
def test_a_version_that_could_not_be_opened_is_not_published(store, folder):
    """The run fails at its start, not at its end."""
    with pytest.raises(UsageError, match="signatures are required"):
        store.prepare()
    with pytest.raises(UsageError, match="not the one"):
        Store(folder / "data", signer=open_signer(folder / "theirs", data_dir=folder / "data")).prepare()


def test_keys_in_the_data_are_refused(store, folder, monkeypatch):
    """Anyone who can write there could replace them; links into the data folder are refused, too."""
    for name in ("ours", "ours.pub"):
        shutil.copy(folder / name, folder / "data" / name)
        (folder / f"link-{name}").symlink_to(folder / "data" / name)
    for place in (folder / "data" / "ours", folder / "link-ours"):
        with pytest.raises(UsageError, match="anyone who can write there"):
            open_signer(place, data_dir=folder / "data")
        monkeypatch.setenv(
            REQUIRE_VARIABLE, f"{place}.pub" if place.parent.name == "data" else f"{folder}/link-ours.pub"
        )
        with pytest.raises(UsageError, match="anyone who can write there"):
            store.open_version(SIGNED)


@pytest.mark.parametrize("value", ["", "/nowhere", "/etc/hostname", "/"])
def test_a_requirement_that_names_no_key_refuses_everything(store, monkeypatch, value):
    """An empty variable, a missing file or another file never switches the check off."""
    monkeypatch.setenv(REQUIRE_VARIABLE, value)

    with pytest.raises((InputError, UsageError)):
        store.open_version(SIGNED)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_private_key_is_refused(folder, content):
    """The hint is the command that makes one."""
    (folder / "bad").write_bytes(content)

    with pytest.raises(InputError, match="not a private key") as caught:
        open_signer(folder / "bad", data_dir=folder / "data")
    assert "openssl genpkey" in caught.value.hint


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_makes_the_keys_and_checks_the_signature(folder, tmp_path):
    """As docs/model-format.md describes; mltrain is not needed to check a signature."""
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key"], check=True)
    assert open_signer(tmp_path / "key", data_dir=folder / "data").key_id
    version = folder / "data" / "models" / SIGNED
    (tmp_path / "sig").write_bytes(bytes.fromhex(json.loads((version / SIGNATURE).read_text())["signature"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", folder / "ours.pub", "-rawin"]
    checked = [*command, "-in", version / MANIFEST, "-sigfile", tmp_path / "sig"]

    assert subprocess.run(checked, capture_output=True, check=False).returncode == 0
    (version / MANIFEST).write_bytes(b"{}")
    assert subprocess.run(checked, capture_output=True, check=False).returncode != 0


def test_the_option_and_the_variable_do_the_same(data_dir, tmp_path):
    """Each command refuses a version without a signature; without a requirement each works."""
    make_keys(tmp_path, "ours")
    version = os.readlink(data_dir / "models" / "best_lgbm")  # noqa: PTH115 (its text)
    card = data_dir / "models" / version / "model_card.json"
    commands = (
        *(["verify", "model"], ["predict"], ["rollback", version], ["promote", version], ["card", "show"]),
        *(["bench", "--samples", "10"], ["card", "validate"], ["card", "validate", card]),
    )
    for words in commands:
        by_option = call(*words, "--require-signature", tmp_path / "ours.pub", data_dir=data_dir)
        by_variable = call(*words, data_dir=data_dir, env={REQUIRE_VARIABLE: str(tmp_path / "ours.pub")})

        assert by_option.code == by_variable.code == 3, words
        assert "is not signed" in by_option.err + by_option.out
        # 4: a busy machine was over the latency budget.
        assert call(*words, data_dir=data_dir).code in ({0, 4} if words[0] == "bench" else {0})


def test_without_cryptography_a_requirement_refuses(folder):
    """Without the extra, nothing is accepted unchecked."""
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\nfrom mltrain.store.store import Store\n"
        f"Store(Path({str(folder / 'data')!r})).open_version({SIGNED!r})\n"
    )
    env = {**os.environ, REQUIRE_VARIABLE: str(folder / "ours.pub")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)

    assert "MachineError: signatures need the package `cryptography`" in done.stderr
