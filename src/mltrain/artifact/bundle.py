"""The model bundle `lgbm.pkl`: everything that turns candles into a probability, as a pickle of plain data.

The file names no global, so `pickle.load` anywhere returns a dict and never runs code. It is written canonically:
equal models are equal bytes, with no time, no version name and no thread count inside. It is read as a file that may
be hostile: only plain data is accepted (`plain_pickle`), the bytes must be their own canonical form, every field is
checked, and so is the structure of the model text, before LightGBM sees it (`model_text`). The SHA-256 of a published
file has been checked before (`mltrain.storage.manifest`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.artifact import MODEL_FILE
from mltrain.artifact.calibrator_document import CalibratorDocument
from mltrain.artifact.model_text import check_model_text
from mltrain.artifact.plain_pickle import read_plain, write_plain
from mltrain.documents.records import OMIT_DEFAULT, RAW, Key, Limits, OneOf, read_record, record, refuse_newer, to_json
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
from mltrain.features.spec import FeatureSet
from mltrain.features.user_ops import UserOps, check_user_ops
from mltrain.names import SYMBOL
from mltrain.storage.hashing import sha256_bytes

if TYPE_CHECKING:
    from mltrain.features.label_spec import LabelSpec
    from mltrain.training.calibration import Calibrator

MAX_BUNDLE_BYTES: Final = 256 << 20
FORMAT: Final = 1

_MANUAL: Final = "or lightgbm.Booster(model_str=data['model_text']), then interpolate between the calibrator's knots"


@record
@dataclass(frozen=True, slots=True)
class _Hashes:
    """The hashes in `lgbm.pkl`: SHA-256 of the registry's JSON form, of the ops, and of the model text."""

    registry: Sha256
    ops: Sha256
    model_text: Sha256


@record
@dataclass(frozen=True, slots=True)
class _Document:
    """The dict in `lgbm.pkl`; the order of the keys is part of the format."""

    notice: Annotated[str, OneOf((_MANUAL,)), Key("plain data: use mltrain.load")]
    format: Annotated[int, Limits(1, FORMAT)]
    model_text: str
    calibrator: CalibratorDocument
    features: Annotated[Json, RAW]
    symbols: tuple[Annotated[str, SYMBOL], ...]
    interval: str
    label: Annotated[Json, RAW]
    hashes: _Hashes
    own_ops: Annotated[UserOps | None, OMIT_DEFAULT] = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A complete model: features, trees and calibrator.

    `Bundle.from_bytes(b.to_bytes(), where="") == b` for every bundle.

    Attributes:
        model_text: LightGBM's model text, normalised.
        calibrator: Maps the booster's score to the probability.
        feature_set: The registry that the model was trained with; its names are the booster's columns.
        symbols: The symbols that the model was trained on, in training order.
        ops_sha256: Identifier of the version of mltrain's ops that it was trained with.
        user_ops: The user's module of ops that it was trained with; None without user ops.

    Raises:
        InputError: The parts are damaged or do not match each other.
    """

    model_text: str
    calibrator: Calibrator
    feature_set: FeatureSet
    symbols: tuple[str, ...]
    ops_sha256: str
    user_ops: UserOps | None = None

    def __post_init__(self) -> None:
        symbols = self.symbols
        if not symbols or len(set(symbols)) != len(symbols) or not all(SYMBOL.fullmatch(s) for s in symbols):
            raise InputError(f"{MODEL_FILE}: its symbols are not one or more different symbols")
        if check_model_text(self.model_text, where=MODEL_FILE) != self.feature_set.names:
            raise InputError(f"{MODEL_FILE}: the trees read other features than its registry lists")

    @property
    def interval(self) -> str:
        """Length of a candle, such as "1m"."""
        return self.feature_set.interval

    @property
    def label(self) -> LabelSpec:
        """The event that the probability is of."""
        return self.feature_set.label

    def to_files(self) -> dict[str, bytes]:
        """Return the files by name; equal models give equal bytes."""
        return {MODEL_FILE: self.to_bytes()}

    def to_bytes(self) -> bytes:
        """Return the bundle as the bytes of `lgbm.pkl`; equal bundles give equal bytes."""
        features = self.feature_set.to_json()
        return write_plain(
            to_json(
                _Document(
                    notice=_MANUAL,
                    format=FORMAT,
                    model_text=self.model_text,
                    calibrator=CalibratorDocument.of(self.calibrator),
                    features=features,
                    symbols=self.symbols,
                    interval=self.interval,
                    label=features["label"],
                    hashes=_Hashes(
                        registry=self.feature_set.registry_sha256,
                        ops=self.ops_sha256,
                        model_text=sha256_bytes(self.model_text.encode()),
                    ),
                    own_ops=self.user_ops,
                )
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Bundle:
        """Return the bundle in the bytes of an `lgbm.pkl`; no code in them is ever run.

        Args:
            data: The bytes of an `lgbm.pkl`; of a published one, the SHA-256 was checked.
            where: The file's name in messages, usually its path.

        Raises:
            InputError: The bytes are not a bundle, or a damaged, hostile or newer one.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise InputError(f"{where}: is too large: {len(data)} bytes, at most {MAX_BUNDLE_BYTES}")
        located = Located(read_plain(data, where=where), where)
        refuse_newer(located, newest=FORMAT)
        document = read_record(located, _Document)
        if write_plain(to_json(document)) != data:
            raise InputError(f"{where}: is not in canonical form: mltrain has not written it")
        if document.own_ops is not None:
            check_user_ops(document.own_ops, where=where)
        feature_set = FeatureSet.from_json(document.features, where=where)
        if (document.interval, document.label) != (feature_set.interval, to_json(feature_set.label)):
            raise InputError(f"{where}: its interval or label is not that of its registry")
        registry_sha256 = sha256_bytes(canonical_json(document.features))
        text_sha256 = sha256_bytes(document.model_text.encode())
        if (document.hashes.registry, document.hashes.model_text) != (registry_sha256, text_sha256):
            raise InputError(f"{where}: its registry or model text does not match its hash")
        return cls(
            model_text=document.model_text,
            calibrator=document.calibrator.to_calibrator(),
            feature_set=feature_set,
            symbols=document.symbols,
            ops_sha256=document.hashes.ops,
            user_ops=document.own_ops,
        )
