"""Signatures prove that the holder of a key made a version, and not only that its files match its manifest.

Hashes inside a folder detect accidents, not an attacker who can write there. `signature.json` holds an Ed25519
signature over the bytes of `manifest.json`, which lists every other file of the version with its hash. The manifest
does not list the signature, and the signature names nothing but the key. Keys are stored outside the data folder:
nothing in the data can supply a key, or switch the check off. If `MLTRAIN_REQUIRE_SIGNATURE` names a public key,
`versions.open_version_folder` requires its signature, and every use of a version opens it there: load, predict, bench,
verify, promote, roll back, and the comparison with the champion.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from mltrain.documents.records import Limits, read_record, record, to_json
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Located, Sha256
from mltrain.errors import InputError, MachineError, UsageError
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from mltrain.storage.manifest import Manifest

SIGNATURE: Final = "signature.json"

_FORMAT: Final = 1
# Stricter than bytes.fromhex, which accepts upper case and spaces.
_HEX: Final = re.compile(r"[0-9a-f]{128}")
# Of a key file and of a signature.json.
MAX_SIGNATURE_BYTES: Final = 1 << 14
_NEW_KEY: Final = "make one with `openssl genpkey -algorithm ed25519 -out FILE`"
_PUBLIC_KEY: Final = "make it with `openssl pkey -in KEYFILE -pubout -out FILE`"


@record
@dataclass(frozen=True, slots=True)
class _Signature:
    """The content of a `signature.json`."""

    format: Annotated[int, Limits(_FORMAT, _FORMAT)]
    algorithm: Literal["ed25519"]
    key_id: Sha256
    signature: Annotated[str, _HEX]


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs versions with a private key.

    Attributes:
        key_id: SHA-256 of the public key's 32 bytes.
        key: The private key, an `Ed25519PrivateKey`.
    """

    key_id: str
    key: Any

    def sign(self, manifest: Manifest) -> bytes:
        """Return the bytes of `signature.json` for a version's manifest."""
        signature = self.key.sign(manifest.to_bytes()).hex()
        return canonical_json(to_json(_Signature(_FORMAT, "ed25519", self.key_id, signature)))


def open_signer(path: Path, *, data_dir: Path) -> Signer:
    """Return the signer of a private key.

    Args:
        path: A PEM file with an Ed25519 private key, not encrypted, outside the data folder.
        data_dir: The data folder.

    Raises:
        UsageError: The file is in the data folder.
        InputError: It is not an Ed25519 private key in PEM form.
        MachineError: `cryptography` is not installed, or the machine refuses to read.
    """
    _check_outside(path, data_dir, "the private key")
    data = read_file(real_path(path), max_bytes=MAX_SIGNATURE_BYTES, what="the private key")
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(data, password=None)
    # TypeError: the key is encrypted.
    except (ValueError, TypeError) as err:
        raise InputError(f"{path} is not a private key in PEM form, without a password", hint=_NEW_KEY) from err
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path} is a key of another kind than Ed25519", hint=_NEW_KEY)
    return Signer(_key_id(key.public_key()), key)


def check_signer(signer: Signer | None) -> None:
    """Raise if a version published here could not be opened here.

    Raises:
        UsageError: A signature is required, and there is no signer, or it has another key.
        InputError: The required public key is not an Ed25519 public key.
    """
    required = _required_key()
    if required is None:
        return
    if signer is None:
        raise UsageError("signatures are required here: a version without one could not be opened", hint="add --sign")
    if signer.key_id != _key_id(required):
        raise UsageError("the key to sign with is not the one whose signature is required here")


def check_signature(folder: Path, manifest: Manifest, *, key: Path | None = None) -> None:
    """Raise unless the required key has signed a version; if no signature is required, do nothing.

    Args:
        folder: The version's folder.
        manifest: Its manifest, as read and checked.
        key: File of the public key; None takes the one that the environment requires, if any.

    Raises:
        UsageError: The required public key is in the data folder.
        InputError: There is no signature, or it is damaged, by another key, or of another manifest.
        MachineError: `cryptography` is not installed, or the machine refuses to read.
    """
    required = _required_key(folder, key)
    if required is None:
        return
    path = folder / SIGNATURE
    hint = "a signature is required here; nothing without the right one is used"
    if not os.path.lexists(path):
        raise InputError(f"{folder} is not signed", hint=hint)
    data = read_file(path, max_bytes=MAX_SIGNATURE_BYTES, what="the signature")
    found = _read_signature(data, str(path))
    if found.key_id != _key_id(required):
        raise InputError(
            f"{path}: is by the key {found.key_id[:16]}, not by the required {_key_id(required)[:16]}", hint=hint
        )
    from cryptography.exceptions import InvalidSignature

    try:
        required.verify(bytes.fromhex(found.signature), manifest.to_bytes())
    except InvalidSignature as err:
        raise InputError(f"{path}: is not the signature of the manifest in the same folder", hint=hint) from err


def is_required() -> bool:
    """Return whether the environment requires a signature."""
    return REQUIRE_VARIABLE in os.environ


def _read_signature(data: bytes, where: str) -> _Signature:
    signature = read_record(Located(parse_json(data, where=where, max_bytes=MAX_SIGNATURE_BYTES), where), _Signature)
    # A signature has one spelling, so that any change of the file is detected.
    if data != canonical_json(to_json(signature)):
        raise InputError(f"{where}: is not in canonical form: mltrain has not written it")
    return signature


def _required_key(folder: Path | None = None, key: Path | None = None) -> Any:  # noqa: ANN401 (a key of `cryptography`)
    """Return the public key whose signature is required, an `Ed25519PublicKey`; None if no signature is required."""
    named = os.environ.get(REQUIRE_VARIABLE) if key is None else str(key)
    if named is None:
        return None
    # A variable that a script forgot to fill must not switch the check off.
    if not named:
        raise UsageError(f"{REQUIRE_VARIABLE} is set and empty", hint="name a public key, or unset it")
    path = Path(named)
    if folder is not None:
        models = folder.parent
        _check_outside(path, models.parent if models.name == "models" else models, "the public key")
    data = read_file(real_path(path), max_bytes=MAX_SIGNATURE_BYTES, what="the public key")
    serialization, ed25519 = _cryptography()
    try:
        loaded = serialization.load_pem_public_key(data)
    except ValueError as err:
        raise InputError(f"{path} is not a public key in PEM form", hint=_PUBLIC_KEY) from err
    if not isinstance(loaded, ed25519.Ed25519PublicKey):
        raise InputError(f"{path} is a key of another kind than Ed25519", hint=_PUBLIC_KEY)
    return loaded


def _check_outside(path: Path, folder: Path, what: str) -> None:
    if real_path(path).is_relative_to(real_path(folder)):
        raise UsageError(
            f"{what} {path} is in {folder}: anyone who can write there could replace it",
            hint="keep keys outside the data folder",
        )


def _key_id(key: Any) -> str:  # noqa: ANN401 (a key of `cryptography`)
    raw: bytes = key.public_bytes_raw()
    return sha256_bytes(raw)


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as err:
        raise MachineError(
            "signatures need the package `cryptography`", hint="install it, or mltrain with its extra [sign]"
        ) from err
    return serialization, ed25519
